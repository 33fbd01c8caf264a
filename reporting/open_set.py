"""The section of a report about open-set runs (train_openset.py): tables, differences, corrupted images, the page.

`read_open_set(folder)` reads the runs, and `write_section` writes what it finds:

  open_set.md, open_set.tex    the tables; also in the terminal
  open_set.csv                 every metric of every run: each seed by itself, fractions in full precision
  open_set_differences.csv     AUROC of the trained detector minus that of each baseline, with bootstrap intervals

The runs are read in open_set_runs.py, compared in open_set_bootstrap.py and arranged in open_set_grids.py.
"""
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting import latex, markdown, terminal
from reporting.csv_tables import write_frame
from reporting.notes import Note, plain
from reporting.open_set_bootstrap import compare
from reporting.open_set_grids import LABELS, NAME, PERCENT, arrange
from reporting.open_set_runs import ScoredRun, Setup, by_setup, one_class_lines, read_scored_runs, scores_of
from reporting.printing import spell_entry
from reporting.tables import Grid
from support.files import write_text
from training.open_set.files import DETECTORS, INDUCTIVE
from training.open_set.scores import ALL

CSV_FILES = (f"{NAME}.csv", f"{NAME}_differences.csv")
LEGEND = f"""Open-set runs: numbers in percent. AUROC: probability that an open image has a higher open score than a
closed one. FPR@TPR95: open images that are accepted where {PERCENT} of the closed ones are; (ood_metrics): as that
package interpolates it. AUPR: area under the precision-recall curve; its positive class is named, and its prevalence is
what a score without information gives. OSCR: area under the curve of closed images that are accepted and right over
open images that are accepted. trained: the detector that was trained with pseudo labels; the others are computed from
the closed model alone. transductive: trained on the images that it scores; inductive: on the other half of them (mean
over both halves)."""


@dataclass
class OpenSetSection:
    """What a report says about open-set runs."""

    runs: list[ScoredRun] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    terminal_grids: list[Grid] = field(default_factory=list)
    """those of the grids that a terminal shows"""
    figures: list[Path] = field(default_factory=list)
    """PNG files"""


def read_open_set(folder: Path) -> OpenSetSection:
    """The open-set runs in a folder, with what could not be read. Links are not followed."""
    runs, notes = read_scored_runs(folder)
    return OpenSetSection(runs, notes)


# ---- files

def write_section(section: OpenSetSection, folder: Path, resamples: int) -> None:
    """Write the files of the section into a report's folder, and fill in its grids. Files of an earlier report are
    removed where there is no open-set run any more."""
    markdown_file, latex_file = folder / f"{NAME}.md", folder / f"{NAME}.tex"
    scores_file, differences_file = (folder / name for name in CSV_FILES)
    if not section.runs:
        for path in (markdown_file, latex_file, scores_file, differences_file):
            path.unlink(missing_ok=True)
        return
    differences, notes = compare(section.runs, resamples)
    grids = arrange(section.runs, differences)
    section.grids, section.terminal_grids = grids.all, grids.terminal
    section.notes += notes + grids.notes
    legend = " ".join(LEGEND.split())
    texts = [f"- {note}" for note in section.notes]
    missing = ["", "Missing:", "", *texts] if texts else []
    write_text(markdown_file, "\n".join([*map(markdown.render, section.grids), legend, *missing, ""]))
    write_text(latex_file, "\n".join(latex.render(grid, number) for number, grid in enumerate(section.grids)))
    lines: list[dict[str, Any]] = []
    for run in section.runs:
        lines += run.scores.assign(**run.setup._asdict(), open=run.open_classes, seed=run.seed).to_dict("records")
    write_frame(scores_file, lines, [*Setup._fields, "open", "seed", *section.runs[0].scores.columns])
    rows = [difference.setup._asdict() | {"open": difference.open_classes} | vars(difference)
            for difference in differences]
    columns = [*Setup._fields, "open", "pool", "scoring", "group", "baseline", "seeds", "value", "low", "high"]
    write_frame(differences_file, rows, columns)


def terminal_lines(section: OpenSetSection, colour: bool) -> list[str]:
    """The tables of the section for a terminal; the files have more metrics, and those of single groups of images."""
    lines: list[str] = []
    for grid in section.terminal_grids:
        lines += [*terminal.render(grid, colour), ""]
    return lines + (terminal.wrap(" ".join(LEGEND.split())) + [""] if lines else [])


def brief_lines(section: OpenSetSection, folder: Path) -> list[str]:
    """A line for each setup and pool with the inductive AUROC of every detector, and where the tables are. Means over
    seeds, then over the one-class lines."""
    lines: list[str] = []
    for setup, of_setup in by_setup(section.runs).items():
        scores = scores_of(run for of_line in of_setup.values() for run in of_line)
        chosen = scores[(scores["set"] == "") & (scores["group"] == ALL) & (scores["scoring"] == INDUCTIVE)
                        & (scores["metric"] == "auroc")]
        for pool, rows in chosen.groupby("pool", sort=False):
            names = one_class_lines(dict.fromkeys(rows["open_classes"]))
            rows = rows[rows["open_classes"].isin(names)]
            means = rows.groupby(["detector", "open_classes"])["value"].mean().groupby("detector").mean()
            texts = [f"{LABELS[name]} {100 * means[name]:.1f}" for name in DETECTORS if name in means]
            lines += terminal.wrap(f"open-set, {setup.dataset}, loss {setup.loss}, pool {pool}: inductive AUROC, mean "
                                   f"of {len(names)} sets of open classes: {', '.join(texts)}")
    return [*lines, f"open-set tables: {plain(folder / NAME)}.md"] if lines else []


# ---- the page

def page_section(section: OpenSetSection, images: Mapping[str, str]) -> str:
    """The section of the page as HTML, "" without open-set runs. images: {title: data URI of a figure}. Every text is
    escaped."""
    if not section.grids:
        return ""
    parts = ['<section id="open-set" aria-labelledby="open-set-title">',
             '  <h2 id="open-set-title">Open-set</h2>',
             f'  <p class="note">{html.escape(" ".join(LEGEND.split()))}</p>']
    for title, uri in images.items():
        parts.append(f'  <figure><img src="{html.escape(uri)}" alt="{html.escape(title)}" style="max-width:100%">'
                     f'<figcaption class="note">{html.escape(title)}</figcaption></figure>')
    for grid in section.grids:
        parts.append(f"  <details><summary>{html.escape(plain(grid.title))}</summary>")
        parts += [f'  <p class="note">{html.escape(plain(text))}</p>' for text in grid.captions]
        parts += ['  <div class="scroll" tabindex="0" role="region"><table>', page_row("th", ["", *(
            " ".join(column) for column in grid.columns)])]
        for of_grid in grid.sections:
            for line in of_grid.lines:
                texts = [spell_entry(entry) for entry in line.entries]
                parts.append(page_row("td", [line.title.strip(), *texts], [entry.best for entry in line.entries]))
        parts.append("  </table></div></details>")
    return "\n".join([*parts, "</section>"])


def page_row(kind: str, texts: Sequence[str], best: Sequence[bool] = ()) -> str:
    """A row of a table. kind: th or td. best: whether each text but the first is marked."""
    cells = []
    for number, text in enumerate(texts):
        escaped = html.escape(plain(text))
        is_best = number > 0 and number <= len(best) and best[number - 1]
        cells.append(f"<{kind}>{f'<b>{escaped}</b>' if is_best else escaped}</{kind}>")
    return f"    <tr>{''.join(cells)}</tr>"
