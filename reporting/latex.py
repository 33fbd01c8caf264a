"""The grids of tables.py in LaTeX: a file for each name of a table, to be included in a paper, and a document (all.tex)
that includes them all."""
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from reporting.notes import plain
from reporting.printing import printed_sections
from reporting.tables import Grid
from support.files import write_text

SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
           "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
           ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedblright{}", "`": r"\`{}",
           "[": "{[}", "]": "{]}", "±": r"$\pm$", "−": "$-$"}
# In place of a number, of the tables that the paper does not have.
LETTERS = {"calibration": "B", "ranking": "R", "ranks": "S", "errors": "M", "stability": "P", "perturbations": "Q",
           "flicker": "F"}
PACKAGES = ("booktabs", "graphicx")
ALL = r"""\documentclass[a4paper,landscape]{article}
\usepackage[margin=15mm]{geometry}
\usepackage{%s}
\begin{document}
%s

%s
\end{document}
"""


def escape(text: str) -> str:
    """Text of others in LaTeX. A character for which pdflatex may have no letter appears as its number, [U+4E2D]."""
    characters = []
    for character in plain(text):
        has_letter = character.isascii() or character in SPECIAL or character == "—"
        characters.append(character if has_letter else f"[U+{ord(character):04X}]")
    special = "|".join(map(re.escape, SPECIAL))
    text = re.sub(special, lambda match: SPECIAL[match.group()], "".join(characters))
    text = re.sub("-(?=-)", "-{}", text)  # LaTeX would print two hyphens as a dash
    return text.replace("—", "---")


def mark(text: str, best: bool, fewer: int | None) -> str:
    """An entry with its marks: underlined for the best, a raised number of seeds where these are fewer."""
    marked = rf"\underline{{{escape(text)}}}" if best else escape(text)
    return marked if fewer is None else rf"{marked}\textsuperscript{{{fewer}}}"


def render(grid: Grid, number: int) -> str:
    """A table environment, made smaller where it is wider than the page. number: position among the grids of the same
    name, which tells their labels apart."""
    width = len(grid.columns)
    lines = heading_lines(grid)
    for heading, printed_lines in printed_sections(grid, mark):
        lines += [r"\midrule", rf"\multicolumn{{{width + 1}}}{{l}}{{\emph{{{escape(heading)}}}}} \\"]
        for title, cells in printed_lines:
            indent = r"\quad\small " if title.startswith(" ") else ""
            lines.append(table_line([indent + escape(title.strip()), *cells]))
    name = re.sub(r"^Table \d+: ", "", grid.title)  # LaTeX counts on its own
    caption = escape(" ".join([f"{name}.", *grid.captions]))
    suffix = "" if number == 0 else f"-{number + 1}"
    footnotes = [rf"\par\small{escape(note_mark)} {escape(text)}" for text, note_mark in grid.footnotes.items()]
    return "\n".join([
        f"% needs \\usepackage{{{','.join(PACKAGES)}}}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{grid.name}{suffix}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * width}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        *footnotes,
        r"\end{table}",
        ""])


def heading_lines(grid: Grid) -> list[str]:
    """The lines above the numbers, one for each level of headings, with a rule below every heading of several columns;
    the last level stands over every column."""
    lines = []
    levels = len(grid.columns[0])
    for level in range(levels):
        is_last = level == levels - 1
        spans = heading_spans(grid.columns, level, is_last)
        headings = [rf"\multicolumn{{{end - start}}}{{c}}{{{escape(grid.columns[start][level])}}}"
                    for start, end in spans]
        lines.append(table_line(["", *headings]))
        if not is_last:
            lines.append(" ".join(rf"\cmidrule(lr){{{start + 2}-{end + 1}}}" for start, end in spans))
    return lines


def heading_spans(columns: list[tuple[str, ...]], level: int, is_last: bool) -> list[tuple[int, int]]:
    """(first column, column behind the last) of every heading of a level. Neighbours with the same headings down to
    this level have one together, except on the last level."""
    starts = [0]
    for column in range(1, len(columns)):
        if is_last or columns[column][:level + 1] != columns[column - 1][:level + 1]:
            starts.append(column)
    return list(zip(starts, [*starts[1:], len(columns)], strict=True))


def table_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def write(folder: Path, grids: Mapping[str, list[Grid]], legend: Iterable[str]) -> None:
    """Write NAME.tex for each name of `grids`, {name: its grids}, and all.tex, which begins with the legend, in
    paragraphs, and numbers the tables as the paper does."""
    for name, of_name in grids.items():
        write_text(folder / f"{name}.tex", "\n".join(render(grid, number) for number, grid in enumerate(of_name)))
    inputs = []
    for name in grids:
        number = re.sub(r"[^0-9]", "", name) or LETTERS[name]
        inputs.append(rf"\renewcommand{{\thetable}}{{{number}}}\input{{{name}}}")
    text = "\n\n".join(map(escape, legend))
    write_text(folder / "all.tex", ALL % (",".join(PACKAGES), text, "\n\\clearpage\n".join(inputs)))
