"""The grids of tables.py in LaTeX: a table to include for each, and a document that holds them all."""
import re

import cli
from reporting.runs import plain
from reporting.tables import lines_of

SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
           "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
           ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedblright{}", "`": r"\`{}",
           "[": "{[}", "]": "{]}", "±": r"$\pm$", "−": "$-$"}
NEEDS = ("booktabs", "graphicx")
ALL = r"""\documentclass[a4paper,landscape]{article}
\usepackage[margin=15mm]{geometry}
\usepackage{%s}
\begin{document}
%s

%s
\end{document}
"""


def escape(text):
    """Text of others in LaTeX; what pdflatex may have no letter for appears as its number, [U+4E2D]."""
    text = "".join(c if c.isascii() or c in SPECIAL or c == "—" else f"[U+{ord(c):04X}]" for c in plain(text))
    text = re.sub("|".join(map(re.escape, SPECIAL)), lambda found: SPECIAL[found.group()], text)
    return re.sub("-(?=-)", "-{}", text).replace("—", "---")  # two hyphens are no dash


def mark(text, best, fewer):
    text = rf"\underline{{{escape(text)}}}" if best else escape(text)
    return text + (rf"\textsuperscript{{{fewer}}}" if fewer else "")


def render(grid, number):
    """A table environment, made smaller where it is wider than the page. number: tells labels of one table apart."""
    name = re.sub(r"^Table \d+: ", "", grid.title)  # LaTeX counts on its own
    width, levels = len(grid.columns), list(zip(*grid.columns, strict=True))
    lines = []
    for i, level in enumerate(levels):
        starts = [j for j in range(width) if i == len(levels) - 1 or j == 0
                  or grid.columns[j][:i + 1] != grid.columns[j - 1][:i + 1]]
        spans = list(zip(starts, [*starts[1:], width], strict=True))
        lines.append(" & ".join(["", *(rf"\multicolumn{{{end - start}}}{{c}}{{{escape(level[start])}}}"
                                       for start, end in spans)]) + r" \\")
        if i < len(levels) - 1:
            lines.append(" ".join(rf"\cmidrule(lr){{{start + 2}-{end + 1}}}" for start, end in spans))
    for heading, rows in lines_of(grid, mark):
        lines += [r"\midrule", rf"\multicolumn{{{width + 1}}}{{l}}{{\emph{{{escape(heading)}}}}} \\"]
        for title, cells in rows:
            indent = r"\quad\small " if title.startswith(" ") else ""
            lines.append(" & ".join([indent + escape(title.strip()), *cells]) + r" \\")
    return "\n".join([
        f"% needs \\usepackage{{{','.join(NEEDS)}}}", r"\begin{table}", r"\centering",
        rf"\caption{{{escape(' '.join([f'{name}.', *grid.about]))}}}",
        rf"\label{{tab:{grid.name}{'' if number == 0 else f'-{number + 1}'}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * width}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}}",
        *(rf"\par\small{escape(mark)} {escape(text)}" for text, mark in grid.footnotes.items()),
        r"\end{table}", ""])


def write(folder, grids, notes):
    """NAME.tex for each name of `grids`, {name: its grids}, and all.tex, which the notes open and which counts as
    the paper does."""
    for name, some in grids.items():
        cli.write_text(folder / f"{name}.tex", "\n".join(render(grid, number) for number, grid in enumerate(some)))
    tables = "\n\\clearpage\n".join(
        rf"\renewcommand{{\thetable}}{{{re.sub(r'[^0-9]', '', name) or 'B'}}}\input{{{name}}}" for name in grids)
    text = "\n\n".join(map(escape, notes))
    cli.write_text(folder / "all.tex", ALL % (",".join(NEEDS), text, tables))
