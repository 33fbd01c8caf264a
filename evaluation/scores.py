"""Scores of a run on one built set, computed from stored logits.

Given the folder of predictions and the set, `score` reads the logits of all cells and returns the rows of scores.csv
for this set. Used by scoring.py; the names of columns and rows are used by scores_file.py and reporting/ too.
Nothing here imports torch.

A cell is a corruption at a severity (corruptions.py), written (name, severity); None stands for the clean images.
Accuracy and macro-F1 always use hard labels. All other scores use hard labels for the clean images and soft labels for
the corrupted ones. The 85 corrupted cells are summarised in three ways, which differ because ECE and other scores are
not linear (`SUMMARIES`):

  mean                  the mean of the scores of the 85 cells
  pooled_by_severity    the mean over the 5 severities of the scores of all images at one severity
  pooled                the scores of all images of the 85 cells together
"""
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import metrics
from building.built_set import BuiltSet
from corruptions import CELLS, SEVERITIES
from evaluation.predictions import ALL_CELLS, predictions_file, read_array

METHOD = "softmax"  # how probabilities are computed from logits; post-hoc calibration would add rows of its own
FIRST_RELEASE_COLUMNS = ("set", "set_version", "method", "corruption", "severity", "metric", "value")
LATER_COLUMNS = ("precision", "notes")  # missing in scores.csv of the project's first release
COLUMNS = (*FIRST_RELEASE_COLUMNS, *LATER_COLUMNS)
SUMMARIES = ("mean", "pooled_by_severity", "pooled")  # in the column `corruption`, with an empty severity
MANY_TIES = 0.001  # fraction of predictions with tied classes from which on the notes mention it


class CellPredictions(NamedTuple):
    """The predictions for the images of a cell, and what they are compared with."""

    logits: np.ndarray
    """float32 (N, K)"""
    probabilities: np.ndarray
    """float64 (N, K)"""
    soft_labels: np.ndarray
    """float64 (N, K), distributions"""


def score(built: BuiltSet, folder: Path, limit: int | None, precision: str = "32", notes: Sequence[str] = (),
          nll_batch: int = metrics.RELEASED_BATCH) -> list[dict[str, Any]]:
    """The rows of scores.csv for one set, each a dict of `COLUMNS`: clean, 85 cells, and the three summaries.

    folder: of the set's predictions. limit: only the first images of the set, this many; None: all. precision: "32" or
    "bf16", as it was used for the predictions. notes: what a reader of the scores has to know. nll_batch: images in a
    batch of `metrics.nll_released`. Raises DamagedFile where logits are missing or damaged."""
    labels = built.frame["expression"].to_numpy(np.int64)[:limit]
    shape = (len(labels), len(built.classes))

    logits = read_array(predictions_file(folder, None), shape)
    ties = count_ties(logits)
    clean = metrics.summary(metrics.softmax(logits), labels, logits=logits, released_batch=nll_batch)
    # (corruption, severity, {metric: value}) of the clean images, of the 85 cells, and of the three `SUMMARIES`
    scored: list[tuple[str, int | str, dict[str, float]]] = [("clean", "", clean | {"n": len(labels)})]

    pools: dict[int, list[CellPredictions]] = {severity: [] for severity in SEVERITIES}
    for name, severity in CELLS:
        cell = read_cell(built, folder, (name, severity), shape)
        ties += count_ties(cell.logits)
        pools[severity].append(cell)
        scored.append((name, severity, summary_of_pool([cell], labels, nll_batch)))
    of_cells = [values for _, severity, values in scored if severity]
    of_severities = [summary_of_pool(pool, labels, nll_batch) for pool in pools.values()]
    of_all = summary_of_pool([cell for pool in pools.values() for cell in pool], labels, nll_batch)
    scored.append(("mean", "", mean_of(of_cells)))
    scored.append(("pooled_by_severity", "", mean_of(of_severities)))
    scored.append(("pooled", "", of_all))

    note = "; ".join([*notes, *note_on_ties(ties / (len(labels) * len(ALL_CELLS)))])
    rows = []
    for corruption, severity_or_none, values in scored:
        for metric, value in values.items():
            if not np.isfinite(value):  # metrics.summary refuses everything that could lead to this
                raise AssertionError(f"{corruption} {severity_or_none} {metric} is {value}, which is no score")
            rows.append({
                "set": built.folder.resolve().name, "set_version": built.manifest["set_version"], "method": METHOD,
                "corruption": corruption, "severity": severity_or_none, "metric": metric, "value": value,
                "precision": precision, "notes": note})
    return rows


def read_cell(built: BuiltSet, folder: Path, cell: tuple[str, int], shape: tuple[int, int]) -> CellPredictions:
    """The predictions of a corrupted cell with their soft labels. shape: (N, K), for the first N images."""
    logits = read_array(predictions_file(folder, cell), shape)
    soft_labels = np.asarray(built.soft_labels_of(*cell)[:shape[0]], np.float64)
    return CellPredictions(logits, metrics.softmax(logits), soft_labels)


def count_ties(logits: np.ndarray) -> int:
    """The number of images for which several classes have the highest logit; logits: (N, K)."""
    is_highest = logits == logits.max(1, keepdims=True)
    return int((is_highest.sum(1) > 1).sum())


def note_on_ties(fraction: float) -> list[str]:
    """A note for scores.csv where this fraction of predictions has tied classes, none where it is small.

    Where several classes have the highest logit, argmax takes the first of them in the set's order of classes: that
    class counts as the prediction."""
    if fraction < MANY_TIES:
        return []
    return [f"{100 * fraction:.1f} % of predictions tie, the class listed first counts"]


def summary_of_pool(pool: Sequence[CellPredictions], labels: np.ndarray, nll_batch: int) -> dict[str, float]:
    """`metrics.summary` of all predictions of several cells, and "n", the number of images. labels: int64 (N,), of
    every cell."""
    logits = np.concatenate([cell.logits for cell in pool])
    probabilities = np.concatenate([cell.probabilities for cell in pool])
    soft_labels = np.concatenate([cell.soft_labels for cell in pool])
    scores = metrics.summary(probabilities, np.tile(labels, len(pool)), soft_labels, logits,
                             released_batch=nll_batch)
    return scores | {"n": len(labels)}


def mean_of(summaries: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of every metric over several summaries."""
    means = pd.DataFrame(list(summaries)).mean()
    return {str(metric): float(value) for metric, value in means.items()}


def summary_values(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """{(corruption, metric): value} of the rows that are not of a single corrupted cell: clean and the three summaries.
    corruption: as the column holds it, "clean" or one of `SUMMARIES`."""
    return {(row["corruption"], row["metric"]): row["value"] for row in rows if row["severity"] == ""}
