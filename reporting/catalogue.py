"""Which figures a block has, and what each is drawn from.

`of_scores` lists the figures of scores and predictions, `of_set` those of the built set. Both return {name:
FigurePlan}. A `FigurePlan` can be drawn in another process; `figures.py` draws those that are asked for and not up to
date.
"""
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from building.built_set import BuiltSet
from reporting import pictures
from reporting.cells import corruptions_of_scores
from reporting.plots import (
    PANELS_PER_LINE, algorithm_names_of, draw_classes, draw_heat, draw_kse, draw_nll, draw_reliability, draw_severity,
    loss_names_of)
from reporting.predictions import PredictionSummary
from reporting.rows import COMPARED_LOSSES, named_pairs, rank, Row
from reporting.scores import DOMAINS
from reporting.sequence_plots import draw_flips
from reporting.series import by_cell, by_seed, by_severity
from reporting.style import label
from reporting.survey import Survey

LOSSES_PER_PAGE = 3  # lines of panels on a page of heat maps or confusions
HEATMAPS = ("ece", "macro_f1")  # metrics of the heat maps where --heatmap is not given
README_FIGURES = ("reliability", "severity", "figure3_pipeline", "heatmap_ece")
OF_SET = ("figure1_severities", "figure2_gallery", "figure3_pipeline", "figure4_visibility", "figure7_measures",
          "figure8_labels")  # figures that need the built set
PIPELINE_SEVERITY = 3  # of figure 3


class FigurePlan(NamedTuple):
    """A figure to draw: `draw(*data)` returns it. It cannot be drawn where the first entry of `data` is empty."""

    draw: Callable[..., Any]
    data: tuple

    @property
    def name_of_function(self) -> str:
        return self.draw.__name__


class FigureOptions(NamedTuple):
    """Which figures a user asked for, and what they show: options of reporting/options.py after the checks, with the
    survey read."""

    figures: str = "all"
    """figures to draw, as `figures.is_asked` reads it"""
    heatmap: tuple[str, ...] = HEATMAPS
    """metrics to draw by cell"""
    with_images: bool = False
    """whether images of sets other than the demo may be shown"""
    image: str | None = None
    """id of the image of figures 1, 2, 3 and 7; None: the one with the most ambiguous label"""
    corruption: str = "contrast"
    """of figures 1 and 3"""
    survey: Survey | None = None
    """surveyed labels for figure 8"""


# --- figures of scores and predictions ---


def of_scores(scores: pd.DataFrame, summary: PredictionSummary, title: str, heat_metrics: Iterable[str],
              ) -> dict[str, FigurePlan]:
    """The figures that need no built set, {name: plan}.

    scores: of one block, as `scores.scores_as_table` gives them; title: what they are of; heat_metrics: metrics to draw
    by cell."""
    paired = scores[(scores["noise"] == 0) & scores["loss"].isin(COMPARED_LOSSES)]
    of_set = corruptions_of_scores(scores)
    plans = {
        "reliability": FigurePlan(draw_reliability, (summary.bins, title, of_set)),
        "severity": FigurePlan(draw_severity, (by_severity(scores), title, of_set)),
        "figure5_kse_f1": FigurePlan(draw_kse, (f1_and_kse(paired), title, clean_f1_and_kse(paired), of_set)),
        "figure6_nll": FigurePlan(draw_nll, (nll_by_domain(paired), title)),
    }
    for metric in heat_metrics:
        plans |= heat_maps(scores, metric, title)
    return plans | class_figures(summary, title, plans)


def f1_and_kse(scores: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Macro-F1 and KSE of the cells that have both: {(name of a variant, loss): float (2, cells)}."""
    f1 = by_cell(scores, "macro_f1")
    kse = by_cell(scores, "kse")
    pairs = {}
    for key, row in named_pairs(f1).items():
        if row in kse:
            pair = np.stack([f1[row].ravel(), kse[row].ravel()])
            complete = np.isfinite(pair).all(axis=0)
            if complete.any():
                pairs[key] = pair[:, complete]
    return pairs


def clean_f1_and_kse(scores: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """Macro-F1 and KSE on the clean images, means over seeds: {(name of a variant, loss): (F1, KSE)}."""
    f1 = clean_means(scores, "macro_f1")
    kse = clean_means(scores, "kse")
    return {key: (f1[row], kse[row]) for key, row in named_pairs(f1).items() if row in kse}


def clean_means(scores: pd.DataFrame, metric: str) -> dict[Row, float]:
    """A metric on the clean images, {row: mean over its seeds}."""
    return {row: float(values.mean()) for (row, domain), values in by_seed(scores, metric).items() if domain == "clean"}


def nll_by_domain(scores: pd.DataFrame) -> dict[tuple[str, str, str], np.ndarray]:
    """NLL by seed, {(name of a variant, loss, domain): float (seeds,)}."""
    values = by_seed(scores, "nll")
    named = {}
    for (name, loss), row in named_pairs(row for row, _ in values).items():
        for domain in DOMAINS:
            if (row, domain) in values:
                named[name, loss, domain] = values[row, domain]
    return named


def heat_maps(scores: pd.DataFrame, metric: str, title: str) -> dict[str, FigurePlan]:
    """Heat maps of a metric: one for every rate of label noise, in pages."""
    tables = {row: table for row, table in by_cell(scores, metric).items() if np.isfinite(table).any()}
    clean = clean_means(scores, metric)
    plans = {}
    for noise in sorted({row.noise for row in tables}) or [0.0]:
        pages = pages_of([row for row in tables if row.noise == noise])
        for number, rows in enumerate(pages, 1):
            name = f"heatmap_{file_part(metric)}{noise_suffix(noise)}{page_suffix(number, pages)}"
            tables_of_page = {row: tables[row] for row in rows}
            clean_of_page = {row: clean[row] for row in rows if row in clean}
            plans[name] = FigurePlan(draw_heat, (tables_of_page, metric, title + spoken_noise(noise), clean_of_page,
                                                 corruptions_of_scores(scores)))
    return plans


def class_figures(summary: PredictionSummary, title: str, taken: Iterable[str] = ()) -> dict[str, FigurePlan]:
    """Confusions: a figure for every algorithm and rate of label noise, in pages. taken: names that others have."""
    taken = set(taken)
    plans: dict[str, FigurePlan] = {}
    for name, noise in sorted({(row.name, row.noise) for row in summary.confusions}):
        file = f"classes_{file_part(name)}{noise_suffix(noise)}"
        while file in taken:  # two names that differ only in what a file name cannot hold
            file += "_"
        taken.add(file)
        rows = [row for row in summary.confusions if (row.name, row.noise) == (name, noise)]
        pages = pages_of(sorted(rows, key=rank))
        for number, rows_of_page in enumerate(pages, 1):
            confusions = {row.loss_name: summary.confusions[row] for row in rows_of_page}
            plans[file + page_suffix(number, pages)] = FigurePlan(
                draw_classes, (confusions, summary.classes, f"{label(name, 40)}: {title}{spoken_noise(noise)}",
                               summary.corruptions))
    return plans


def pages_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in parts that fit on a page: at most `PANELS_PER_LINE` algorithms and `LOSSES_PER_PAGE` losses each."""
    names = algorithm_names_of(rows)
    losses = loss_names_of(rows)
    pages = []
    for first_loss in range(0, len(losses), LOSSES_PER_PAGE):
        losses_of_page = losses[first_loss:first_loss + LOSSES_PER_PAGE]
        for first_name in range(0, len(names), PANELS_PER_LINE):
            names_of_page = names[first_name:first_name + PANELS_PER_LINE]
            page = [row for row in rows if row.name in names_of_page and row.loss_name in losses_of_page]
            if page:
                pages.append(page)
    return pages or [[]]


def file_part(name: str) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:40]


def noise_suffix(noise: float) -> str:
    return f"_noise{100 * noise:g}" if noise else ""


def page_suffix(number: int, pages: Sequence) -> str:
    return f"_{number}" if len(pages) > 1 else ""


def spoken_noise(noise: float) -> str:
    """A line of a title that says the rate of label noise; nothing where there is none."""
    return f"\n{100 * noise:g} % label noise in training" if noise else ""


def of_sequences(curves: Mapping[tuple[str, str], Mapping[str, np.ndarray]], title: str) -> dict[str, FigurePlan]:
    """The figures of a set of perturbation sequences, {name: plan}. curves: of `stored_sequences.BlockSequences`."""
    return {"flips": FigurePlan(draw_flips, (curves, title))}


# --- figures of the built set ---


def of_set(built: BuiltSet, title: str, options: FigureOptions) -> tuple[dict[str, FigurePlan], dict[str, FigurePlan]]:
    """The figures of a built set, {name: plan}: those that show none of its images, and those that show some."""
    image = pictures.choose_image(built, options.image)
    plots = {"figure4_visibility": FigurePlan(pictures.draw_visibility, (built, title))}
    cell = (options.corruption, PIPELINE_SEVERITY)
    with_images = {
        "figure1_severities": FigurePlan(pictures.draw_severities, (built, title, image, options.corruption)),
        "figure2_gallery": FigurePlan(pictures.draw_gallery, (built, title, image)),
        "figure3_pipeline": FigurePlan(pictures.draw_pipeline, (built, title, image, cell)),
        "figure7_measures": FigurePlan(pictures.draw_measures, (built, title, image)),
        "figure8_labels": FigurePlan(pictures.draw_survey, (built, title, options.survey)),
    }
    return plots, with_images
