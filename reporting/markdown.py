"""The grids of tables.py in Markdown, aligned so that they can be read as they are."""
import re

from reporting.notes import plain
from reporting.printing import printed_sections
from reporting.tables import Grid

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def escape(text: str) -> str:
    """Text of others as one cell of a Markdown table."""
    return re.sub(r"([\\|<`*])", r"\\\1", plain(text))


def mark(text: str, best: bool, fewer: int | None) -> str:
    """An entry with its marks: bold for the best, a raised number of seeds where these are fewer."""
    marked = f"**{text}**" if best else text
    return marked + ("" if fewer is None else str(fewer).translate(RAISED))


def render(grid: Grid) -> str:
    """Title, what the numbers stand for, and the table."""
    heads = headings(grid)
    body = []
    for heading, lines in printed_sections(grid, mark):
        for number, (title, texts) in enumerate(lines):
            first = escape(heading) if number == 0 else ""
            body.append([first, escape(title), *texts])
    widths = [max(map(len, column)) for column in zip(*heads, *body, strict=True)]
    dashes = ["-" * max(width, 3) for width in widths]
    table = "\n".join(table_line(line, widths) for line in [heads[0], dashes, *heads[1:], *body])
    first, *others = grid.captions
    captions = "\n".join([escape(first), "", *(f"- {escape(text)}" for text in others)])
    text = f"# {escape(grid.title)}\n\n{captions}\n\n{table}\n"
    for note, note_mark in grid.footnotes.items():
        text += f"\n-{note_mark} {escape(note)}"
    return f"{text}\n" if grid.footnotes else text


def headings(grid: Grid) -> list[list[str]]:
    """The lines above the numbers, one for each level of headings. A heading of several columns stands over the first
    of them; the last level is repeated over every column."""
    levels = list(zip(*grid.columns, strict=True))
    lines = []
    for number, level in enumerate(levels):
        texts = []
        for column, text in enumerate(level):
            repeats = number < len(levels) - 1 and column > 0 and text == level[column - 1]
            texts.append("" if repeats else escape(text))
        lines.append(["", "", *texts])
    return lines


def table_line(texts: list[str], widths: list[int]) -> str:
    cells = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
    return f"| {' | '.join(cells)} |"
