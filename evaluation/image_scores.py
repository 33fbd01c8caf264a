"""Scores of single images, from the stored logits of a model: against soft labels, hard labels and votes.

scores.csv holds means over images. Three things need more: the bootstrap of error_bootstrap.py resamples images; a
report compares rankings by different labels; and a card holds the scores against votes. `image_scores` reads the logits
of all cells once and keeps a few numbers for each image. Nothing here imports torch.

A *variant* is a choice of labels and cells for the mean over the corrupted cells:

  soft      soft labels, all cells: what scores.csv calls `mean`
  hard      hard labels, all cells
  votes     the labels before softening, all cells. They are the annotators' votes for FER+; no variant where every
            label is one class
  without   soft labels, the cells (70 in FER-C) without brightness, contrast and snow (docs/method.md says why)
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import metrics
from corruptions import CORRUPTIONS, SEVERITIES
from evaluation.class_matching import restricted_targets, with_missing_classes
from evaluation.scores import is_contradicted

SOFT, HARD, VOTES, WITHOUT = "soft", "hard", "votes", "without"
VARIANTS = (SOFT, HARD, VOTES, WITHOUT)
MEASURES = ("nll", "brier", "accuracy")  # those that are means over images
Reader = Callable[[tuple[str, int] | None], np.ndarray]
"""a cell, None for the clean images -> its logits, float (N, classes of the model)"""


@dataclass(frozen=True)
class Labels:
    """The labels of a set of N images and K classes."""

    hard: np.ndarray
    """int64 (N,)"""
    soft: np.ndarray
    """float (C, 5, N, K) of C corruptions, 17 in FER-C; may be mapped from disk"""
    votes: np.ndarray | None
    """float (N, K), before softening; None where every label is one class, or where they are not known"""


@dataclass(frozen=True)
class ImageScores:
    """Numbers for each of the M images that a model is scored on."""

    kept: np.ndarray
    """int64 (M,): their positions in the set; all of them but where a model lacks a class"""
    errors: np.ndarray
    """bool (1 + 5 C, M): whether the prediction is wrong, by the hard label; the clean images first"""
    clean: dict[str, float]
    """{measure: its mean on the clean images, by hard labels}: those of `MEASURES`, and ece"""
    means: dict[tuple[str, str], np.ndarray]
    """{(variant, measure): float64 (M,)}: the mean over the variant's cells; measures as in `MEASURES`. Accuracy is by
    the hard label, as in scores.csv; only of `votes` it is the label's probability of the prediction. NLL is infinite
    where a class of the label has probability 0"""
    ece: dict[str, float]
    """{variant: the mean of ECE over its cells}"""
    bins: np.ndarray
    """int8 (5 C, M): the bin of ECE that holds the image's confidence"""
    gaps: dict[str, np.ndarray]
    """{variant: float32 (5 C, M)}: correctness minus confidence; `without` has those of `soft`"""

    def mean(self, variant: str, measure: str) -> float | None:
        """A mean over images, or `ece`; None where the variant is not there."""
        if measure == "ece":
            return self.ece.get(variant)
        values = self.means.get((variant, measure))
        return None if values is None else float(values.mean())


def votes_of(labels: np.ndarray) -> np.ndarray | None:
    """Labels before softening, float (N, K), as the variant `votes` needs them: None where every label is one class."""
    return None if (labels.max(1) > 1 - 1e-6).all() else labels


def image_scores(read: Reader, labels: Labels, known: Sequence[int] | None = None,
                 keeps_missing: bool = False, corruptions: Sequence[str] = tuple(CORRUPTIONS)) -> ImageScores:
    """The scores of a model's images. read: gives the logits of a cell.

    known: indices of the set's classes that the first columns of the logits stand for, as class_matching.ClassMatch has
    them; None: all, in the set's order. keeps_missing: score the images of other classes too, with probability 0 for
    their class. corruptions: those of the set, in its order.
    Raises ValueError where logits and labels do not fit, and whatever `read` raises."""
    count = labels.soft.shape[-1]
    order = list(range(count)) if known is None else list(known)
    complete = len(order) == count
    kept = np.arange(len(labels.hard))
    if not complete and not keeps_missing:
        has_mass = [restricted_targets(of_corruption, order)[1].all(0) for of_corruption in labels.soft]
        kept = kept[np.isin(labels.hard, order) & np.all(has_mass, axis=0)]
    if not len(kept):
        raise ValueError("no image is of a class that the model knows")
    are_all_scored = complete or keeps_missing
    columns = list(range(count)) if are_all_scored else order
    hard = np.searchsorted(columns, labels.hard[kept])  # `columns` ascend
    targets = {HARD: np.eye(len(columns))[hard]}
    if labels.votes is not None:
        votes = labels.votes[kept]
        targets[VOTES] = votes if are_all_scored else restricted_targets(votes, columns)[0]
    if len(corruptions) != len(labels.soft):
        raise ValueError(f"soft labels of {len(labels.soft)} corruptions for a set of {len(corruptions)}")
    width = count if keeps_missing and not complete else len(order)
    collector = _Collector(read, order, width, kept, hard, targets, len(corruptions))
    collector.add_clean(len(labels.hard))
    for place, name in enumerate(corruptions):
        soft = np.asarray(labels.soft[place], np.float64)[:, kept]
        collector.add_corruption(place, name, soft if are_all_scored else restricted_targets(soft, columns)[0])
    return collector.result()


class _Collector:
    """Adds up the cells of one model, a corruption at a time."""

    def __init__(self, read: Reader, order: list[int], width: int, kept: np.ndarray, hard: np.ndarray,
                 targets: dict[str, np.ndarray], corruptions: int) -> None:
        """order: classes of the logits' first columns. width: classes that are scored. kept: int64 (M,). hard: int64
        (M,), as indices of the scored classes. targets: {variant: (M, width)} of the variants that do not depend on the
        cell. corruptions: how many there are."""
        self.read, self.order, self.width, self.kept, self.hard = read, order, width, kept, hard
        self.targets = targets
        self.clean: dict[str, float] = {}
        count = len(kept)
        variants = [SOFT, *targets, WITHOUT]
        self.errors = np.zeros((1 + corruptions * len(SEVERITIES), count), bool)
        self.sums = {(variant, measure): np.zeros(count) for variant in variants for measure in MEASURES}
        self.ece: dict[str, list[float]] = {variant: [] for variant in variants}
        self.bins = np.zeros((len(self.errors) - 1, count), np.int8)
        self.gaps = {variant: np.zeros(self.bins.shape, np.float32) for variant in (SOFT, *targets)}

    def logits(self, cell: tuple[str, int] | None, images: int | None = None) -> np.ndarray:
        """The logits of the kept images, float64 (M, shared classes). images: number of images that the file has to
        hold; None: any."""
        logits = np.asarray(self.read(cell), np.float64)
        if logits.ndim != 2 or logits.shape[1] < len(self.order) or len(logits) <= self.kept.max(initial=-1):
            raise ValueError(f"logits of shape {logits.shape} do not fit {len(self.kept)} images of "
                             f"{len(self.order)} classes")
        if images is not None and len(logits) != images:
            raise ValueError(f"logits of {len(logits)} images for a set of {images}")
        return logits[self.kept, :len(self.order)]

    def add_clean(self, images: int) -> None:
        """Add the clean images. images: of the set."""
        log_p = self.log_softmax(self.logits(None, images))
        of_measure, confidence, correct, prediction = measures(log_p, self.targets[HARD])
        self.errors[0] = prediction != self.hard
        self.clean = {measure: float(values.mean()) for measure, values in of_measure.items()}
        self.clean["ece"] = float(metrics.ece(confidence, correct))

    def log_softmax(self, logits: np.ndarray) -> np.ndarray:
        """Log probabilities (..., width) of logits (..., shared classes); minus infinity for other classes."""
        log_p = metrics.log_softmax(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)
        if self.width == len(self.order):
            return log_p
        return with_missing_classes(log_p, self.order, self.width, -np.inf)

    def add_corruption(self, place: int, name: str, soft: np.ndarray) -> None:
        """Add the five severities of a corruption. soft: float64 (5, M, width)."""
        log_p = self.log_softmax(np.stack([self.logits((name, severity)) for severity in SEVERITIES]))
        first = place * len(SEVERITIES)
        cells = slice(first, first + len(SEVERITIES))
        for variant, target in {SOFT: soft, **self.targets}.items():
            of_measure, confidence, correct, prediction = measures(log_p, np.broadcast_to(target, log_p.shape))
            if variant == SOFT:  # these two are the same for every variant
                self.errors[1 + first:1 + first + len(SEVERITIES)] = prediction != self.hard
                self.bins[cells] = metrics.bin_of(confidence, metrics.BINS)
            if variant != VOTES:
                of_measure["accuracy"] = prediction == self.hard
            self.gaps[variant][cells] = correct - confidence
            eces = [metrics.ece(*pair) for pair in zip(confidence, correct, strict=True)]
            self.add_up(variant, of_measure, eces)
            if variant == SOFT and not is_contradicted(name):
                self.add_up(WITHOUT, of_measure, eces)

    def add_up(self, variant: str, of_measure: Mapping[str, np.ndarray], eces: Sequence[float]) -> None:
        """Add five cells to the sums of a variant. of_measure: {measure: (5, M)}. eces: of the five cells."""
        for measure, values in of_measure.items():
            self.sums[variant, measure] += values.sum(0)
        self.ece[variant] += eces

    def result(self) -> ImageScores:
        """The numbers of all cells that were added."""
        cells = {variant: len(values) for variant, values in self.ece.items()}
        means = {key: total / cells[key[0]] for key, total in self.sums.items()}
        ece = {variant: float(np.mean(values)) for variant, values in self.ece.items()}
        return ImageScores(self.kept, self.errors, self.clean, means, ece, self.bins, self.gaps)


def measures(log_p: np.ndarray, target: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """({measure: its value for each prediction}, confidence, correctness, predicted class), arrays (...).

    log_p: log probabilities (..., K), minus infinity for a class without probability. target: labels (..., K)."""
    probs = np.exp(log_p)
    prediction, confidence = probs.argmax(-1), probs.max(-1)
    impossible = np.isneginf(log_p)
    loss = -(target * np.where(impossible, 0, log_p)).sum(-1)
    loss[(impossible & (target > 0)).any(-1)] = np.inf
    correct = np.take_along_axis(target, prediction[..., None], -1)[..., 0]
    of_measure = {"nll": loss, "brier": ((target - probs) ** 2).sum(-1), "accuracy": correct}
    return of_measure, confidence, correct, prediction
