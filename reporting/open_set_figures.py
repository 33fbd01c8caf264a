"""Figures of open-set runs: histograms of open scores by group, and ROC curves.

`draw_all` draws one figure for each run with the lowest seed of its open classes, and each pool. Used by
reporting/open_set.py through reporting/report.py.
"""
from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import open_set
from reporting.notes import READ_ERRORS, Note
from reporting.open_set import LABELS, OpenSetSection, OpenSetRun
from reporting.style import FORMATS, OKABE_ITO, STYLE, label, lay_out, save
from training.open_set.files import DETECTORS, TRAINED, column_of
from training.open_set.scores import PoolScores, read_pool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "open-set"  # in the folder of figures
MOST_BINS = 30
IMAGES_IN_A_BIN = 12  # on average, at least
GROUPS = {"closed": OKABE_ITO[0], "open-test": OKABE_ITO[1], "open-train": OKABE_ITO[4]}  # group -> colour
ON_THE_PAGE = 24  # figures at most: each is a tenth of a megabyte


def draw_all(section: OpenSetSection, folder: Path) -> None:
    """Draw the figures into `folder`/open-set, and list their PNG files in the section. Figures of runs that are gone
    are removed."""
    import matplotlib.style

    place = folder / FOLDER
    drawn = set()
    for run, pool in first_seeds(section.runs):
        name = name_of(run, pool)
        try:
            with matplotlib.style.context(["default", STYLE]):
                save(figure_of(run, pool, read_pool(run.folder, pool)), place / name, FORMATS)
        except READ_ERRORS as error:
            section.notes.append(Note(str(run.folder), f"no figure of the pool {pool}", str(error)))
            continue
        drawn.add(name)
        section.figures.append(place / f"{name}.png")
    for path in place.glob("open-*.*"):
        if path.suffix[1:] in FORMATS and path.stem not in drawn:
            path.unlink()


def first_seeds(runs: Sequence[OpenSetRun]) -> list[tuple[OpenSetRun, str]]:
    """(run, pool): for every setup, set of open classes and pool the run with the lowest seed; `runs` are sorted."""
    first: dict[tuple, tuple[OpenSetRun, str]] = {}
    for run in runs:
        for pool in dict.fromkeys(run.scores["pool"]):
            first.setdefault((run.setup, run.opened, pool), (run, pool))
    return list(first.values())


def name_of(run: OpenSetRun, pool: str) -> str:
    """The name of a figure's files: readable words, and a hash of what else tells runs apart."""
    digest = hashlib.sha256(repr((run.setup, run.opened, pool)).encode()).hexdigest()[:8]
    words = "".join(c if c.isalnum() and c.isascii() else "-" for c in f"{run.setup.dataset}-{run.opened}-{pool}")
    return f"open-{words[:80]}-{digest}"


def figure_of(run: OpenSetRun, pool: str, scores: PoolScores) -> Figure:
    """A line for each way of scoring: ROC curves of all detectors, then histograms of the trained detector and of two
    baselines."""
    scorings = scores.scorings()
    title = f"{run.setup.dataset}, loss {run.setup.loss}; open: {run.opened}; pool {pool}; seed {run.seed}"
    figure, axes = lay_out(label(title, 110), [(0.35, 1.3)] * len(scorings), [(0.65, 1.35), *[(0.3, 1.35)] * 3],
                           bottom=0.4)
    for scoring, panels in zip(scorings, axes, strict=True):
        draw_roc(panels[0], scores, scoring)
        for panel, detector in zip(panels[1:], (TRAINED, "maximum_softmax", "nearest_neighbours"), strict=True):
            draw_histogram(panel, scores, detector, scoring)
        panels[0].set_ylabel(f"{scoring}\nclosed accepted")
    axes[-1][0].set_xlabel("open accepted")
    for panel in axes[-1][1:]:
        panel.set_xlabel("open score (rank)")
    axes[0][0].legend(fontsize=4.5, loc="lower right")
    axes[0][1].legend(fontsize=5)
    return figure


def draw_roc(panel: Axes, scores: PoolScores, scoring: str) -> None:
    """ROC curves with closed as the positive class; with halves, of the first half."""
    rows = np.ones(len(scores.images), bool)
    if scoring == "inductive":
        rows = (scores.images["half"] == "a").to_numpy()
    for number, detector in enumerate(DETECTORS):
        values = scores.images[column_of(detector, scoring)].to_numpy(float)
        x, y = open_set.roc_points(values[rows], scores.is_open[rows])
        panel.plot(x, y, color=OKABE_ITO[number], linewidth=1.2 if detector == TRAINED else 0.6, label=LABELS[detector])
    panel.plot([0, 1], [0, 1], color="0.7", linewidth=0.4)
    panel.set_title("ROC" if scoring != "inductive" else "ROC, half a")


def draw_histogram(panel: Axes, scores: PoolScores, detector: str, scoring: str) -> None:
    """The density of ranks of open scores by group. Ranks, 0 to 1, since the scores of a detector may differ by orders
    of magnitude; with halves, the ranks in each half."""
    values = scores.images[column_of(detector, scoring)].to_numpy(float)
    half = scores.images["half"].to_numpy() if scoring == "inductive" else np.full(len(values), "")
    ranks = np.empty(len(values))
    for name in np.unique(half):
        rows = np.flatnonzero(half == name)
        ranks[rows[np.argsort(values[rows], kind="stable")]] = (np.arange(len(rows)) + 0.5) / len(rows)
    groups = scores.images["group"].to_numpy()
    bins = max(4, min(MOST_BINS, len(values) // IMAGES_IN_A_BIN))
    for group, colour in GROUPS.items():
        chosen = ranks[groups == group]
        if len(chosen):
            panel.hist(chosen, bins, range=(0, 1), density=True, histtype="step", color=colour, label=group)
    panel.set_title(LABELS[detector])
    panel.set_yticks([])


def as_data(files: Sequence[Path]) -> dict[str, str]:
    """{name of a figure: the PNG file as a data URI}, of the first figures."""
    return {path.stem: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
            for path in files[:ON_THE_PAGE]}
