"""The numbers of a grid as text, the same in Markdown, LaTeX and the terminal."""
from collections.abc import Callable
from math import isnan

from reporting.tables import Entry, Grid, GridLine

Mark = Callable[[str, bool, int | None], str]  # (text, whether it is the best, number of seeds if fewer) -> text


def spell_number(value: float, digits: int, sign: bool = False) -> str:
    """A number as printed, with a true minus and no negative zero; — for NaN. sign: also print a plus."""
    if isnan(value):
        return "—"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def spell_entry(entry: Entry) -> str:
    """An entry's number with its interval or standard deviation."""
    sign = entry.interval is not None if entry.signed is None else entry.signed
    if entry.interval is not None:
        low, high = (spell_number(end, entry.digits, sign) for end in entry.interval)
        return f"{spell_number(entry.value, entry.digits, sign)} [{low}, {high}]"
    text = spell_number(entry.value, entry.digits, sign)
    return text if isnan(entry.sd) else f"{text} ± {entry.sd:.{entry.digits}f}"


def printed_sections(grid: Grid, mark: Mark) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """The sections of a grid with every line that is printed: [(heading, [(heading of the line, texts)])].

    mark: puts a format's own marks on a text. Published values and the differences to them stand below a line that has
    any."""
    footnotes = grid.footnotes
    sections = []
    for section in grid.sections:
        lines = []
        for line in section.lines:
            texts = []
            for entry in line.entries:
                fewer = entry.seeds if 0 < entry.seeds < grid.seeds else None
                texts.append(mark(spell_entry(entry), entry.best, fewer) + footnotes.get(entry.notes, ""))
            lines.append((line.title, texts))
            if not all(isnan(entry.published) for entry in line.entries):
                printed = published_lines(line, mark)
                lines += printed[:1] if grid.published_is_unsure else printed
        sections.append((section.heading, lines))
    return sections


def published_lines(line: GridLine, mark: Mark) -> list[tuple[str, list[str]]]:
    """What is printed below a line: the paper's values, and how far the line's own values are above them."""
    values, differences = [], []
    for entry in line.entries:
        difference = entry.value - entry.published
        values.append(mark(spell_number(entry.published, entry.digits), False, None))
        differences.append(mark(spell_number(difference, entry.digits, sign=True), False, None))
    return [("  published", values), ("  difference", differences)]
