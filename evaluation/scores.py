"""Scores of a model on one built set, computed from stored logits.

Given the folder of predictions and the set, `score` reads the logits of all cells and returns the rows of scores.csv
for this set. The names of columns and rows of scores.csv are defined here. Nothing here imports torch.

A cell is a corruption at a severity (corruptions.py), written (name, severity); None stands for the clean images.
Accuracy and macro-F1 always use hard labels, and so do the scores whose names end in `_hard`. All other scores use hard
labels for the clean images and soft labels for the corrupted ones. The corrupted cells, 85 in FER-C, are summarised in
four ways (`SUMMARIES`). ECE and other scores of many images are no means over images, so the first three differ:

  mean                  the mean of the scores of all cells
  pooled_by_severity    the mean over the 5 severities of the scores of all images at one severity
  pooled                the scores of all images of all cells together
  mean_without_brightness_contrast_snow
                        the mean of the scores of the cells of the other corruptions, 70 in FER-C. The soft labels of
                        these three contradict what a model can still see (docs/method.md), so rankings are shown
                        without them too. `is_contradicted` says which corruptions of other sets are meant. The name
                        is the same for all sets, also for one that has no snow: files and cards hold it

A model that is no run may lack classes of the set, and the set may lack classes of the model (class_matching.py). Then
`ScoredImages` says which images and classes are scored. Where the model has further classes, two more metrics say how
much it believed in them: `removed_mass` is their mean probability, `removed_first` the fraction of images for which one
of them came first.
"""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import metrics
from building.built_set import BuiltSet
from corruptions import SEVERITIES
from evaluation.class_matching import (
    ClassMatch, listed, removed_mass, restricted_targets, same_classes, with_missing_classes,
)
from evaluation.predictions import Cell, all_cells, predictions_file, read_array
from support.errors import UserError
from support.run_folder import METHOD

FIRST_RELEASE_COLUMNS = ("set", "set_version", "method", "corruption", "severity", "metric", "value")
LATER_COLUMNS = ("precision", "notes")  # missing in scores.csv of the project's first release
COLUMNS = (*FIRST_RELEASE_COLUMNS, *LATER_COLUMNS)
CONTRADICTED_WORDS = ("brightness", "contrast", "snow")  # in names of corruptions whose labels contradict what is seen
MEAN_WITHOUT = f"mean_without_{'_'.join(CONTRADICTED_WORDS)}"
SUMMARIES = ("mean", "pooled_by_severity", "pooled", MEAN_WITHOUT)  # in the column `corruption`, with an empty severity
MANY_TIES = 0.001  # fraction of predictions with tied classes from which on the notes mention it
REMOVED_METRICS = ("removed_mass", "removed_first")  # only of models with classes that the set lacks
LIKELIHOODS = ("nll", "nll_hard", "nll_released", "kl")  # undefined where the model gives a class probability 0


def is_contradicted(corruption: str) -> bool:
    """Whether the soft labels of a corruption contradict what can still be seen.

    It was measured for the three corruptions that `CONTRADICTED_WORDS` names. Brightness minus and contrast plus of
    preset mivia are the same operations in the other direction: they too change every pixel, so that the distance from
    which the labels are computed is as large. Its mixtures hold one of these operations. All of them count, and all
    have one of the three words in their names."""
    return not set(corruption.split("_")).isdisjoint(CONTRADICTED_WORDS)


def score_places(metric: str) -> dict[str, tuple[str, str]]:
    """Where scores.csv has the means of a metric: {"clean", "soft", "hard" or "without": (corruption, name of the
    metric)}. "soft", "hard" and "without" are variants of image_scores.py. Accuracy is by the hard label everywhere."""
    by_hard_labels = metric if metric == "accuracy" else f"{metric}_hard"
    return {"clean": ("clean", metric), "soft": ("mean", metric), "hard": ("mean", by_hard_labels),
            "without": (MEAN_WITHOUT, metric)}


class CellPredictions(NamedTuple):
    """The predictions for the scored images of a cell, and what they are compared with. N: scored images."""

    logits: np.ndarray
    """float32 (N, shared), of the classes that model and set share; float64 where a temperature has divided them"""
    probabilities: np.ndarray
    """float64 (N, K), over the scored classes"""
    soft_labels: np.ndarray | None
    """float64 (N, K), distributions over the scored classes; None for the clean images, which have hard labels"""
    removed: tuple[float, float] | None = None
    """as `class_matching.removed_mass` gives it; None where the model has no further classes"""


@dataclass(frozen=True)
class ScoredImages:
    """The images of a set that a model is scored on, and their labels. `scored_images` makes it."""

    built: BuiltSet
    classes: ClassMatch
    stored: int
    """the number of images with stored logits: all of the set, or the first ones"""
    rows: np.ndarray
    """int64 (N,): which of these images are scored, in the set's order"""
    labels: np.ndarray
    """int64 (N,): hard labels, as indices of the scored classes"""
    without_class: int
    """the number of images left out because the model does not know their class"""
    without_mass: int
    """the number of images left out because a soft label gives the known classes no probability"""

    def read(self, folder: Path, cell: Cell) -> CellPredictions:
        """The predictions of a cell. folder: of the set's predictions. Raises DamagedFile where they are missing or
        damaged."""
        logits = read_array(predictions_file(folder, cell), (self.stored, self.classes.stored))
        return self.compared(logits, cell)

    def compared(self, logits: np.ndarray, cell: Cell) -> CellPredictions:
        """The predictions that the logits of a cell are. logits: float (stored images, stored classes)."""
        logits = logits[self.rows]
        removed = None
        if self.classes.removed:
            removed = removed_mass(metrics.softmax(logits), self.classes.shared)
        shared = np.ascontiguousarray(logits[:, :self.classes.shared])
        targets = None if cell is None else self.targets(cell)[0]
        return CellPredictions(shared, self.probabilities(shared), targets, removed)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The probabilities of the scored classes, float64 (N, K). logits: (N, shared), of the shared classes."""
        probabilities = metrics.softmax(logits)
        if self.classes.keeps_missing:
            return with_missing_classes(probabilities, self.classes.known, len(self.built.classes))
        return probabilities

    def targets(self, cell: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """The soft labels of a corrupted cell, float64 (N, K), and bool (N,): which of them can be compared with."""
        soft_labels = np.asarray(self.built.soft_labels_of(*cell)[:self.stored][self.rows], np.float64)
        if self.classes.keeps_missing or not self.classes.missing:
            return soft_labels, np.ones(len(soft_labels), bool)
        return restricted_targets(soft_labels, self.classes.known)


def scored_images(built: BuiltSet, limit: int | None = None, classes: ClassMatch | None = None) -> ScoredImages:
    """The images of a set that a model is scored on.

    limit: only the first images of the set, this many; None: all. classes: how its classes are matched; None: it has
    those of the set, in their order. Raises UserError where no image is left."""
    classes = classes or same_classes(len(built.classes))
    labels = built.frame["expression"].to_numpy(np.int64)[:limit]
    everything = np.arange(len(labels))
    if classes.keeps_missing or not classes.missing:
        return ScoredImages(built, classes, len(labels), everything, labels, 0, 0)
    position = classes.positions(len(built.classes))
    of_known_class = position[labels] >= 0
    rows = everything[of_known_class]
    images = ScoredImages(built, classes, len(labels), rows, position[labels[rows]], int((~of_known_class).sum()), 0)
    # The same images count in every cell, so that cells can be compared.
    has_mass = np.ones(len(rows), bool)
    for cell in () if built.has_sequences else built.cells:  # sequences are scored against hard labels
        has_mass &= images.targets(cell)[1]
    rows = rows[has_mass]
    if not len(rows):
        raise UserError(f"{built.folder}: none of its {len(labels)} images has a class that the model knows "
                        f"({listed(classes.scored_classes(built.classes))})")
    return ScoredImages(built, classes, len(labels), rows, position[labels[rows]], images.without_class,
                        int((~has_mass).sum()))


def score(built: BuiltSet, folder: Path, limit: int | None, precision: str = "32", notes: Sequence[str] = (),
          nll_batch: int = metrics.RELEASED_BATCH, classes: ClassMatch | None = None) -> list[dict[str, Any]]:
    """The rows of scores.csv for one set, each a dict of `COLUMNS`: clean, all cells, and the four summaries.

    folder: of the set's predictions. limit: only the first images of the set, this many; None: all. precision: "32" or
    "bf16", as it was used for the predictions. notes: what a reader of the scores has to know. nll_batch: images in a
    batch of `metrics.nll_released`. classes: how the model's classes are matched; None: it has those of the set. Raises
    DamagedFile where logits are missing or damaged, and UserError where no image is left to be scored."""
    images = scored_images(built, limit, classes)
    clean = images.read(folder, None)
    ties = count_ties(clean.logits)
    # (corruption, severity, {metric: value}) of the clean images, of the cells, and of the `SUMMARIES`
    scored: list[tuple[str, int | str, dict[str, float]]] = [("clean", "", summary_of_pool([clean], images, nll_batch))]

    pools: dict[int, list[CellPredictions]] = {severity: [] for severity in SEVERITIES}
    for name, severity in built.cells:
        cell = images.read(folder, (name, severity))
        ties += count_ties(cell.logits)
        pools[severity].append(cell)
        scored.append((name, severity, summary_of_pool([cell], images, nll_batch)))
    of_cells = [values for _, severity, values in scored if severity]
    of_other_cells = [values for name, severity, values in scored if severity and not is_contradicted(name)]
    of_severities = [summary_of_pool(pool, images, nll_batch) for pool in pools.values()]
    of_all = summary_of_pool([cell for pool in pools.values() for cell in pool], images, nll_batch)
    scored.append(("mean", "", mean_of(of_cells)))
    scored.append(("pooled_by_severity", "", mean_of(of_severities)))
    scored.append(("pooled", "", of_all))
    scored.append((MEAN_WITHOUT, "", mean_of(of_other_cells)))

    ties_note = note_on_ties(ties / (len(images.labels) * len(all_cells(built))))
    note = "; ".join([*notes, *notes_on_classes(images, scored), *ties_note])
    return rows_of_scores(built, scored, precision, note)


def rows_of_scores(built: BuiltSet, scored: Iterable[tuple[str, int | str, dict[str, float]]], precision: str,
                   note: str, method: str = METHOD) -> list[dict[str, Any]]:
    """The rows of scores.csv. scored: (corruption, severity, {metric: value}). precision, note, method: of all rows."""
    rows = []
    for corruption, severity_or_none, values in scored:
        for metric, value in values.items():
            if not np.isfinite(value):  # metrics.summary refuses everything that could lead to this
                raise AssertionError(f"{corruption} {severity_or_none} {metric} is {value}, which is no score")
            rows.append({
                "set": built.folder.resolve().name, "set_version": built.manifest["set_version"], "method": method,
                "corruption": corruption, "severity": severity_or_none, "metric": metric, "value": value,
                "precision": precision, "notes": note})
    return rows


def notes_on_classes(images: ScoredImages, scored: Iterable[tuple[str, int | str, dict[str, float]]]) -> list[str]:
    """What a reader has to know about classes that the model or the set lacks. scored: as in `rows_of_scores`."""
    classes = images.classes
    notes = []
    if classes.missing and classes.keeps_missing:
        notes.append(f"NLL undefined: the model does not know {listed(classes.missing)}")
    elif classes.missing:
        text = f"the model does not know {listed(classes.missing)}: {images.without_class} images left out"
        if images.without_mass:
            text += f", and {images.without_mass} whose soft label has no other class"
        notes.append(text)
    if classes.removed:
        values = {place: scores for place, severity, scores in scored if severity == ""}
        clean, changed = values["clean"], values["mean"]
        changed_images = "frames" if images.built.has_sequences else "corrupted images"
        notes.append(f"the set lacks {listed(classes.removed)}: removed, with a mean probability of "
                     f"{100 * clean['removed_mass']:.1f} % on clean and {100 * changed['removed_mass']:.1f} % on "
                     f"{changed_images}, the first choice for {100 * clean['removed_first']:.1f} % and "
                     f"{100 * changed['removed_first']:.1f} %")
    return [note.replace(";", ",") for note in notes]  # "; " separates notes; a class may have any name


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


def summary_of_pool(pool: Sequence[CellPredictions], images: ScoredImages, nll_batch: int) -> dict[str, float]:
    """All scores of the predictions of several cells together, or of the clean images, {metric: value}; "n" is the
    number of images of a cell."""
    logits = np.concatenate([cell.logits for cell in pool])
    probabilities = np.concatenate([cell.probabilities for cell in pool])
    soft_labels = None
    if all(cell.soft_labels is not None for cell in pool):
        soft_labels = np.concatenate([cell.soft_labels for cell in pool])
    labels = np.tile(images.labels, len(pool))
    # Probabilities with zeros are not the softmax of the logits; what depends on their logarithm is left out.
    logits_or_none = None if images.classes.keeps_missing else logits
    scores = metrics.summary(probabilities, labels, soft_labels, logits_or_none, released_batch=nll_batch)
    scores |= metrics.hard_scores(probabilities, labels, logits_or_none)
    if images.classes.keeps_missing:
        scores = {name: value for name, value in scores.items() if name not in LIKELIHOODS}
    if images.classes.removed:
        mass, first = np.mean([cell.removed for cell in pool], axis=0)
        scores |= dict(zip(REMOVED_METRICS, (float(mass), float(first)), strict=True))
    return scores | {"n": len(images.labels)}


def mean_of(summaries: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of every metric over several summaries."""
    means = pd.DataFrame(list(summaries)).mean()
    return {str(metric): float(value) for metric, value in means.items()}


def summary_values(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """{(corruption, metric): value} of the rows of `METHOD` that are not of a single corrupted cell: clean, the
    summaries, and perturbations. corruption: as the column holds it, for example "clean" or one of `SUMMARIES`."""
    return {(row["corruption"], row["metric"]): row["value"] for row in rows
            if row["severity"] == "" and row["method"] == METHOD}
