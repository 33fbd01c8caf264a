"""Figures of open-set runs: histograms of open scores by group, and ROC curves.

`draw_all` draws one figure for each run with the lowest seed of its open classes, and each pool.
"""
from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import open_set
from datasets.open_classes import GROUPS
from reporting.figures import hash_of, is_current, read_index
from reporting.notes import READ_ERRORS, Note
from reporting.open_set import OpenSetSection
from reporting.open_set_grids import LABELS
from reporting.open_set_runs import ScoredRun
from reporting.style import FORMATS, OKABE_ITO, STYLE, label, lay_out, save
from support.files import write_text
from training.open_set.files import DETECTORS, TRAINED, column_of, scores_file
from training.open_set.scores import PoolScores, read_pool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "open-set"  # in the folder of figures
MOST_BINS = 30
IMAGES_IN_A_BIN = 12  # on average, at least
COLOURS = dict(zip(GROUPS, (OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[4]), strict=True))  # of the groups of images
DRAWN = "drawn.json"  # in this folder: what each file was drawn from
ON_THE_PAGE = 24  # figures at most: each is a tenth of a megabyte


def draw_all(section: OpenSetSection, folder: Path, is_asked: bool = True) -> None:
    """Draw the figures into `folder`/open-set, and list their PNG files in the section. Those that are up to date are
    kept, and the others are drawn if figures are asked for. Figures of runs that are gone or have other scores now are
    removed."""
    import matplotlib.style

    place = folder / FOLDER
    index = read_index(place, DRAWN)
    kept: dict[str, dict[str, str]] = {}
    for run, pool in first_seeds(section.runs) if is_asked or index else ():
        name = name_of(run, pool)
        files = [f"{name}.{kind}" for kind in FORMATS]
        try:
            drawn_from = fingerprint(run, pool)
            if not is_current(place, files, index, drawn_from):
                if not is_asked:
                    continue
                with matplotlib.style.context(["default", STYLE]):
                    save(figure_of(run, pool, read_pool(run.folder, pool)), place / name, FORMATS)
        except READ_ERRORS as error:
            section.notes.append(Note(str(run.folder), f"no figure of the pool {pool}", str(error)))
            continue
        kept |= {file: {"drawn_from": drawn_from, "sha256": hash_of(place / file)} for file in files}
        section.figures.append(place / f"{name}.png")
    for path in place.glob("open-*.*"):
        if path.suffix[1:] in FORMATS and path.name not in kept:
            path.unlink()
    if kept:
        write_text(place / DRAWN, json.dumps(kept, indent=1))
    else:
        (place / DRAWN).unlink(missing_ok=True)


def fingerprint(run: ScoredRun, pool: str) -> str:
    """A hash of what a figure is drawn from: the open scores of a pool, the code, the version of the library. Raises
    OSError where the scores cannot be read."""
    code = [hash_of(Path(__file__).with_name(name)) for name in (Path(__file__).name, "style.py")]
    words = [hash_of(scores_file(run.folder, pool)), title_of(run, pool), *code,
             importlib.metadata.version("matplotlib")]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def title_of(run: ScoredRun, pool: str) -> str:
    """The title of a figure."""
    setup = run.setup
    return f"{setup.dataset}, loss {setup.loss}; open: {run.open_classes}; pool {pool}; seed {run.seed}"


def first_seeds(runs: Sequence[ScoredRun]) -> list[tuple[ScoredRun, str]]:
    """(run, pool): for every setup, set of open classes and pool the run with the lowest seed; `runs` are sorted."""
    first: dict[tuple, tuple[ScoredRun, str]] = {}
    for run in runs:
        for pool in dict.fromkeys(run.scores["pool"]):
            first.setdefault((run.setup, run.open_classes, pool), (run, pool))
    return list(first.values())


def name_of(run: ScoredRun, pool: str) -> str:
    """The name of a figure's files: readable words, and a hash of what else tells runs apart."""
    digest = hashlib.sha256(repr((run.setup, run.open_classes, pool)).encode()).hexdigest()[:8]
    words = "".join(c if c.isalnum() and c.isascii() else "-" for c in f"{run.setup.dataset}-{run.open_classes}-{pool}")
    return f"open-{words[:80]}-{digest}"


def figure_of(run: ScoredRun, pool: str, scores: PoolScores) -> Figure:
    """A line for each way of scoring: ROC curves of all detectors, then histograms of the trained detector and of two
    baselines."""
    scorings = scores.scorings()
    figure, axes = lay_out(label(title_of(run, pool), 110), [(0.35, 1.3)] * len(scorings),
                           [(0.65, 1.35), *[(0.3, 1.35)] * 3], bottom=0.4)
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
    half, rows = next(iter(scores.rows_by_half(scoring, np.ones(len(scores.images), bool)).items()))
    for number, detector in enumerate(DETECTORS):
        values = scores.images[column_of(detector, scoring)].to_numpy(float)
        x, y = open_set.roc_points(values[rows], scores.is_open[rows])
        panel.plot(x, y, color=OKABE_ITO[number], linewidth=1.2 if detector == TRAINED else 0.6, label=LABELS[detector])
    panel.plot([0, 1], [0, 1], color="0.7", linewidth=0.4)
    panel.set_title(f"ROC, half {half}" if half else "ROC")


def draw_histogram(panel: Axes, scores: PoolScores, detector: str, scoring: str) -> None:
    """The density of ranks of open scores by group. Ranks, 0 to 1, since the scores of a detector may differ by orders
    of magnitude; with halves, the ranks in each half."""
    values = scores.images[column_of(detector, scoring)].to_numpy(float)
    ranks = np.empty(len(values))  # (N,)
    for mask in scores.rows_by_half(scoring, np.ones(len(values), bool)).values():
        rows = np.flatnonzero(mask)
        ranks[rows[np.argsort(values[rows], kind="stable")]] = (np.arange(len(rows)) + 0.5) / len(rows)
    groups = scores.images["group"].to_numpy()
    bins = max(4, min(MOST_BINS, len(values) // IMAGES_IN_A_BIN))
    for group, colour in COLOURS.items():
        chosen = ranks[groups == group]
        if len(chosen):
            panel.hist(chosen, bins, range=(0, 1), density=True, histtype="step", color=colour, label=group)
    panel.set_title(LABELS[detector])
    panel.set_yticks([])


def as_data(files: Sequence[Path]) -> dict[str, str]:
    """{name of a figure: the PNG file as a data URI}, of the first figures."""
    return {path.stem: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
            for path in files[:ON_THE_PAGE]}
