"""The tables of a report in a terminal: at most 80 columns wide, the best numbers marked; the files hold everything.

A grid (tables.py) that is wider is printed in parts: one set at a time, and where that is too wide as well, one loss at
a time. `brief_table` is the shortest form: one line for every algorithm, with cross-entropy and with the calibrated
loss.
"""
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from evaluation.summary import DEMO
from metrics import METRICS
from reporting.markdown import RAISED
from reporting.notes import plain
from reporting.printing import printed_sections
from reporting.rows import COMPARED_LOSSES, Block, join_names, rank, variants
from reporting.scores import Key, Statistic
from reporting.tables import Grid

WIDTH = 80  # characters of a line
TITLE_WIDTH = 26  # characters of a line's heading at most
GAP = 2  # characters between two columns
BELOW = "    "  # begins the headings of published values and differences, which stand below a line
BEST, RESET = "\x1b[1;32m", "\x1b[0m"  # bold green; as before
LEGEND = ("Percent, NLL in nats; mean ± standard deviation over seeds (a raised number: that many seeds, where "
          "there are fewer). {best}: best of its column, or a bootstrap interval that leaves 0 out. —: missing.")


class Part(NamedTuple):
    """The lines of a grid as texts, and which of its columns are printed together."""

    columns: list[int]
    headings: list[tuple[str, ...]]
    """of all columns of the grid, the widest heading first"""
    lines: list[tuple[str, list[str]]]
    """(heading, texts of all columns); a heading of a section has no texts"""


def render(grid: Grid, colour: bool) -> list[str]:
    """The lines of a grid: its title, a sentence on it, and its parts. colour: mark the best numbers by colour and not
    by a star."""
    lines: list[tuple[str, list[str]]] = []
    for heading, printed_lines in printed_sections(grid, mark_with_colour if colour else mark_with_star):
        lines.append((plain(heading), []))
        for title, texts in printed_lines:
            indent = BELOW if title.startswith(" ") else "  "
            lines.append((indent + plain(title), texts))
    whole = Part(list(range(len(grid.columns))), grid.columns, lines)
    printed = [plain(grid.title), *wrap(grid.captions[0])]
    for part in split(whole, 0):
        printed += ["", *part_lines(part)]
    for text, note_mark in grid.footnotes.items():
        printed += wrap(f"{note_mark.strip()} {text}")
    return printed


def mark_with_star(text: str, best: bool, fewer: int | None) -> str:
    return f"{text}{'*' if best else ''}{raised(fewer)}"


def mark_with_colour(text: str, best: bool, fewer: int | None) -> str:
    return f"{BEST}{text}{RESET}{raised(fewer)}" if best else f"{text}{raised(fewer)}"


def raised(number: int | None) -> str:
    return "" if number is None else str(number).translate(RAISED)


def legend(colour: bool) -> list[str]:
    """What the marks of the tables mean."""
    return wrap(LEGEND.format(best="Green" if colour else "*"))


def wrap(text: str, width: int = WIDTH) -> list[str]:
    """A text in lines of at most `width` characters, broken between words; a longer word has a line of its own."""
    lines: list[str] = []
    for word in plain(text).split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


# --- the parts of a wide grid ---


def split(part: Part, level: int) -> list[Part]:
    """A part in parts that fit into a line: whole where it fits, else by the headings of the first level, and those by
    the next level where they do not fit either; at last as many columns together as fit."""
    if total_width(part) <= WIDTH:
        return [part]
    if level == len(part.headings[0]):
        return split_by_width(part)
    groups: dict[str, list[int]] = {}
    for column in part.columns:
        groups.setdefault(part.headings[column][level], []).append(column)
    parts = []
    for columns in groups.values():
        parts += split(part._replace(columns=columns), level + 1)
    return parts


def split_by_width(part: Part) -> list[Part]:
    """A part in parts of as many columns as fit into a line, at least one."""
    parts = [part._replace(columns=part.columns[:1])]
    for column in part.columns[1:]:
        wider = part._replace(columns=[*parts[-1].columns, column])
        if total_width(wider) <= WIDTH:
            parts[-1] = wider
        else:
            parts.append(part._replace(columns=[column]))
    return parts


def total_width(part: Part) -> int:
    """Characters of a line of this part, with headings of lines cut to `TITLE_WIDTH`."""
    return min(longest_title(part), TITLE_WIDTH) + sum(column_widths(part).values())


def longest_title(part: Part) -> int:
    return max(len(title) for title, texts in part.lines if texts)


def column_widths(part: Part) -> dict[int, int]:
    """{column: its characters, the gap before it included}, wide enough for its numbers and for all headings but those
    of the first level, which may be cut."""
    widths = {}
    for column in part.columns:
        texts = [part.headings[column][-1], *(texts[column] for _, texts in part.lines if texts)]
        widths[column] = GAP + max(map(visible_length, texts))
    for level in range(1, len(part.headings[0]) - 1):
        for heading, columns in heading_groups(part, level):
            lacking = GAP + len(heading) - sum(widths[column] for column in columns)
            widths[columns[-1]] += max(lacking, 0)
    return widths


def heading_groups(part: Part, level: int) -> list[tuple[str, list[int]]]:
    """(heading, its columns) of a level: neighbours with the same headings down to this level have one together."""
    groups: list[tuple[str, list[int]]] = []
    previous = None
    for column in part.columns:
        headings = part.headings[column][:level + 1]
        if headings != previous:
            groups.append((headings[-1], []))
        groups[-1][1].append(column)
        previous = headings
    return groups


def visible_length(text: str) -> int:
    """Characters that a terminal shows of a text: colours take no room."""
    return len(re.sub("\x1b\\[[0-9;]*m", "", text))


def part_lines(part: Part) -> list[str]:
    """The printed lines of one part: its headings, then its numbers."""
    widths = column_widths(part)
    room = max(WIDTH - sum(widths.values()), min(longest_title(part), TITLE_WIDTH))
    width = min(longest_title(part), room)
    levels = len(part.headings[0])
    lines = [" " * width + heading_line(part, widths, level) for level in range(levels - 1)]
    last = "".join(part.headings[column][-1].rjust(widths[column]) for column in part.columns)
    lines.append(" " * width + last)
    for title, texts in part.lines:
        if not texts:
            lines.append(shorten(title, WIDTH))
            continue
        if title.startswith(BELOW) and all(texts[column] == "—" for column in part.columns):
            continue  # no published values for this part
        numbers = [" " * (widths[column] - visible_length(texts[column])) + texts[column] for column in part.columns]
        lines.append(shorten(title, width).ljust(width) + "".join(numbers))
    return [line.rstrip() for line in lines]


def heading_line(part: Part, widths: Mapping[int, int], level: int) -> str:
    """The headings of a level, each over the columns that it belongs to and cut to their width."""
    line = ""
    for heading, columns in heading_groups(part, level):
        room = sum(widths[column] for column in columns) - GAP
        line += " " * GAP + shorten(heading, room).ljust(room)
    return line


def shorten(text: str, width: int) -> str:
    """A text of at most `width` characters: of a longer one the middle is left out, since what separates two names
    stands at their end."""
    if len(text) <= width:
        return text
    tail = 2 * (width - 2) // 3
    return f"{text[:width - 2 - tail]}..{text[len(text) - tail:]}"


# --- in brief ---

BRIEF_COLUMNS = (("clean", "macro_f1"), ("clean", "ece"), ("corrupted", "macro_f1"), ("corrupted", "ece"))
BRIEF_WIDTH = 14  # characters of a column of the brief table


def brief_table(numbers: Mapping[Key, Statistic], blocks: Iterable[Block], is_demo: bool, most: int) -> list[str]:
    """At most `most` lines of at most `WIDTH` characters: the scores of every algorithm, trained
    with cross-entropy and with the calibrated loss.

    numbers: of `scores.by_key`. Runs with label noise are left out; a last line says how many lines had no room."""
    rows: list[tuple[Block, str, list[str]]] = []  # block, algorithm, texts
    for block in blocks:
        rows += [(block, name, texts) for name, texts in brief_rows(numbers, block)]
    if not rows:
        return ["No evaluated run yet."]
    is_one_block = len({block for block, _, _ in rows}) == 1
    if is_one_block:
        title, names = plain(rows[0][0].set), [name for _, name, _ in rows]
    else:
        title, names = "several sets", [join_names(name, plain(block.set)) for block, name, _ in rows]
    meaning = ": %, CE -> calibrated" + (f"; {DEMO}" if is_demo else "")
    room = WIDTH - len(BRIEF_COLUMNS) * BRIEF_WIDTH
    width = min(max(map(len, [*names, "algorithm"])), room)
    headings = [f"{domain} {METRICS[metric].label}" for domain, metric in BRIEF_COLUMNS]
    lines = [shorten(title, WIDTH - len(meaning)) + meaning, brief_line("algorithm", headings, width)]
    shown = len(rows) if len(lines) + len(rows) <= most else most - len(lines) - 1
    for name, (_, _, texts) in list(zip(names, rows, strict=True))[:shown]:
        lines.append(brief_line(name, texts, width))
    if shown < len(rows):
        lines.append(f"and {len(rows) - shown} more lines, in the tables")
    return lines


def brief_rows(numbers: Mapping[Key, Statistic], block: Block) -> list[tuple[str, list[str]]]:
    """(algorithm, texts such as "71.3 -> 72.0") of a block, in the order of the tables."""
    rows = {key.row for key in numbers if key.block == block}
    members = variants(row for row in rows if row.loss in COMPARED_LOSSES and not row.noise)
    printed = []
    for variant in sorted(members, key=rank):
        texts = []
        for domain, metric in BRIEF_COLUMNS:
            values = []
            for loss in COMPARED_LOSSES:
                row = members[variant].get(loss)
                number = None if row is None else numbers.get(Key(block, row, domain, metric))
                values.append("-" if number is None else f"{100 * number.mean:.1f}")
            texts.append(" -> ".join(values))
        printed.append((plain(variant.variant_name), texts))
    return printed


def brief_line(name: str, texts: Iterable[str], width: int) -> str:
    return shorten(name, width).ljust(width) + "".join(text.rjust(BRIEF_WIDTH) for text in texts)
