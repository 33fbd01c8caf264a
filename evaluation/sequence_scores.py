"""Scores of a model on one set of perturbation sequences, computed from stored logits.

A sequence is an image in all frames of a perturbation (perturbations.py). Each frame is compared with a reference: with
the frame that lies as many frames before it as the set's difficulty says, or, for noise, with the first frame, which is
clean (ImageNet-P, Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261). The rows of scores.csv, whose severity is
empty:

  clean             of the clean images, the scores that sets of corruptions have for theirs, against hard labels
  <perturbation>    the scores in `SEQUENCE_METRICS`
  mean              the mean over the perturbations that have the score; of flip_probability_se, distinct_predictions
                    and n see below

  accuracy, nll, ece         of all frames, against the hard labels
  flip_probability           fraction of frames whose prediction is another one than that of the reference
  flip_probability_se        its bootstrap standard error over the images of the set, or over its identities
                             (error_bootstrap.py); of `mean` that of the mean
  top2_distance              how far the ranking of the classes moves among its first two places. With --top-k 3 there
                             is also top3_distance, and so on
  total_variation            how far the probabilities move
  total_variation_unflipped  the same, over frames without a flip: a model may change its confidence and not its mind.
                             Missing where every frame has a flip; `mean` is then over the other perturbations
  confidence_change          how far the confidence in the reference's prediction moves
  distinct_predictions       number of different classes among the predictions; of `mean` among those of the whole set,
                             clean images included. 1: a constant model, whose stability means nothing
  n                          number of images that are scored, each of which has one sequence; of `mean` too

There are rows of two methods: `softmax` takes the logits as they are; `temperature` divides them by one temperature,
which validation.py has fitted on the validation split of the model's data set. That of a model of which no validation
logits are known is missing, and the notes say why. The row (clean, temperature) holds the temperature.
Nothing here imports torch.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import metrics
from building.built_set import BuiltSet
from evaluation.class_matching import ClassMatch
from evaluation.error_bootstrap import RESAMPLES, clusters_of_frame, draw_weights, resampled_means
from evaluation.predictions import all_cells
from evaluation.scores import (
    METHOD, REMOVED_METRICS, CellPredictions, ScoredImages, count_ties, note_on_ties, notes_on_classes, rows_of_scores,
    scored_images, summary_of_pool,
)
from perturbations import is_noise
from support.errors import UserError

TEMPERATURE = "temperature"  # the second method, and the metric of its row `clean`
METHODS = (METHOD, TEMPERATURE)
TOP = 2  # every set of sequences has the distance of the first two places of the ranking of classes
STABILITY_METRICS = ("flip_probability", "flip_probability_se", "top2_distance", "total_variation",
                     "total_variation_unflipped", "confidence_change", "distinct_predictions")
SEQUENCE_METRICS = ("accuracy", "nll", "ece", *STABILITY_METRICS, "n")  # of a perturbation and of the mean
METRIC_OF_TOP_K = re.compile(r"top([1-9]\d{0,2})_distance")  # its number is read by `top_k_of_metric`


@dataclass(frozen=True)
class Temperature:
    """The temperature of a model, or why there is none."""

    value: float | None
    reason: str = ""
    """for the notes of scores.csv, where there is none"""

    @property
    def notes(self) -> list[str]:
        """What the notes of scores.csv say."""
        return [] if self.value is not None else [f"no temperature: {self.reason}"]


@dataclass(frozen=True)
class PerturbationScores:
    """The scores of one perturbation, and what those of several are made of."""

    values: dict[str, float]
    """{metric: value}"""
    flips: np.ndarray
    """float64 (N,): the fraction of frames with a flip, of each sequence"""
    classes: np.ndarray
    """int64, ascending: the classes among the predictions"""


def score_sequences(built: BuiltSet, folder: Path, limit: int | None, precision: str = "32",
                    notes: Sequence[str] = (), nll_batch: int = metrics.RELEASED_BATCH,
                    classes: ClassMatch | None = None, temperature: Temperature | None = None,
                    top_k: int | None = None) -> list[dict[str, Any]]:
    """The rows of scores.csv for one set of sequences, each a dict of `scores.COLUMNS`.

    temperature: of the model; None: it is not asked for. top_k: places of a ranking for a further distance; None: only
    `TOP`. The other arguments and the errors are those of `scores.score`; besides, UserError where there are fewer
    classes than `top_k`."""
    images = scored_images(built, limit, classes)
    check_top_k(top_k, built, images.classes)
    divisors = {METHOD: 1.0}
    if temperature is not None and temperature.value is not None:
        divisors[TEMPERATURE] = temperature.value
    scored: dict[str, list[tuple[str, int | str, dict[str, float]]]] = {method: [] for method in divisors}
    by_perturbation: dict[str, list[PerturbationScores]] = {method: [] for method in divisors}

    clean = images.read(folder, None)
    ties = count_ties(clean.logits)
    for method, divisor in divisors.items():
        values = summary_of_pool([divided(clean, images, divisor)], images, nll_batch)
        if method == TEMPERATURE:
            values[TEMPERATURE] = divisor
        scored[method].append(("clean", "", values))
    resamples = Resamples(images)
    for name in built.corruptions:
        frames = [images.read(folder, cell) for cell in built.cells if cell[0] == name]
        ties += sum(count_ties(frame.logits) for frame in frames)
        for method, divisor in divisors.items():
            scores = scores_of_perturbation([divided(frame, images, divisor) for frame in frames], images, name,
                                            resamples, top_ks_of_rankings(top_k))
            by_perturbation[method].append(scores)
            scored[method].append((name, "", scores.values))
    for method, values_of_method in by_perturbation.items():
        scored[method].append(("mean", "", mean_of_perturbations(values_of_method, clean, resamples)))

    ties_note = note_on_ties(ties / (len(images.labels) * len(all_cells(built))))
    own_notes = temperature.notes if temperature is not None else []
    note = "; ".join([*notes, *notes_on_classes(images, scored[METHOD]), *ties_note, *own_notes])
    return [row for method, values in scored.items() for row in rows_of_scores(built, values, precision, note, method)]


def check_top_k(top_k: int | None, built: BuiltSet, classes: ClassMatch) -> None:
    """Raises UserError where --top-k names more places than there are classes. classes: how model and set match."""
    if top_k is not None and built.has_sequences and top_k > classes.shared:
        raise UserError(f"--top-k {top_k}: of {built.folder} only {classes.shared} classes are ranked")


def top_ks_of_rankings(top_k: int | None) -> tuple[int, ...]:
    """For how many first places of a ranking there is a distance, ascending. top_k: of --top-k; None: not given."""
    return tuple(sorted({TOP, top_k or TOP}))


def distance_metric(top_k: int) -> str:
    """The name of the distance between the first `top_k` places of two rankings, in the column `metric`."""
    return f"top{top_k}_distance"


def top_k_of_metric(metric: str) -> int | None:
    """How many places of a ranking a metric looks at; None where it is no such distance."""
    match = METRIC_OF_TOP_K.fullmatch(metric)
    return None if match is None else int(match[1])


class Resamples:
    """The resamples of the scored images, the same for all perturbations and models."""

    cluster_of_image: np.ndarray
    """int64 (N,): which cluster each scored image is of (error_bootstrap.py)"""
    weights: np.ndarray
    """float64 (RESAMPLES + 1, clusters): how often each resample holds each cluster; the first is the set as it is"""

    def __init__(self, images: ScoredImages) -> None:
        frame = images.built.frame
        _, cluster_of_image = clusters_of_frame(frame, len(frame))
        version = images.built.manifest["set_version"]
        self.cluster_of_image = cluster_of_image[images.rows]
        self.weights = draw_weights(int(cluster_of_image.max()) + 1, RESAMPLES, version)
        self.known: dict[bytes, float] = {}  # a temperature leaves flips as they are, so most are asked for twice

    def standard_error(self, values: np.ndarray) -> float:
        """The bootstrap standard error of the mean of values, float64 (N,), one for each scored image; 0 where there is
        only one image."""
        key = values.tobytes()
        if key not in self.known:
            means = resampled_means(values[:, None], self.cluster_of_image, self.weights)[1:, 0]
            means = means[np.isfinite(means)]  # a resample may have none of the images
            self.known[key] = float(means.std(ddof=1)) if len(means) > 1 else 0.0
        return self.known[key]


def divided(cell: CellPredictions, images: ScoredImages, temperature: float) -> CellPredictions:
    """The predictions of logits that are divided by a temperature. What the model believed in classes that the set
    lacks stays as it is."""
    if temperature == 1:
        return cell
    logits = cell.logits.astype(np.float64) / temperature
    return cell._replace(logits=logits, probabilities=images.probabilities(logits))


def scores_of_perturbation(frames: Sequence[CellPredictions], images: ScoredImages, name: str,
                           resamples: Resamples, top_ks: Sequence[int]) -> PerturbationScores:
    """The scores of a perturbation. frames: in their order. top_ks: of `top_ks_of_rankings`."""
    logits = np.stack([frame.logits for frame in frames], axis=1)
    probs = np.stack([frame.probabilities for frame in frames], axis=1)
    values = scores_of_frames(probs, logits, images)
    stability, flips, classes = stability_of(probs, logits, name, images.built.made_with["difficulty"], top_ks)
    values |= stability
    values["flip_probability_se"] = resamples.standard_error(flips)
    if images.classes.removed:
        mass, first = np.mean([frame.removed for frame in frames], axis=0)
        values |= dict(zip(REMOVED_METRICS, (float(mass), float(first)), strict=True))
    return PerturbationScores(in_order(values | {"n": len(images.labels)}), flips, classes)


def in_order(values: dict[str, float]) -> dict[str, float]:
    """The same scores in the order of `SEQUENCE_METRICS`: in the place of `top2_distance` all distances by their number
    of places, and the scores of removed classes last."""
    distances = sorted(filter(top_k_of_metric, values), key=lambda metric: top_k_of_metric(metric) or 0)
    names: list[str] = []
    for metric in (*SEQUENCE_METRICS, *REMOVED_METRICS):
        names += distances if metric == distance_metric(TOP) else [metric]
    return {name: values[name] for name in names if name in values}


def scores_of_frames(probs: np.ndarray, logits: np.ndarray, images: ScoredImages) -> dict[str, float]:
    """Accuracy, NLL and ECE of all frames against hard labels; no NLL where the model gives a class probability 0.
    probs: float64 (N, frames, K). logits: (N, frames, shared)."""
    labels = np.repeat(images.labels, probs.shape[1])
    rows = probs.reshape(-1, probs.shape[-1])
    correct = (rows.argmax(1) == labels).astype(np.float64)
    values = {"accuracy": float(correct.mean())}
    if not images.classes.keeps_missing:
        log_p = metrics.log_softmax(logits.reshape(-1, logits.shape[-1]))
        values["nll"] = -float(log_p[np.arange(len(labels)), labels].mean())
    return values | {"ece": float(metrics.ece(rows.max(1), correct))}


def stability_of(probs: np.ndarray, logits: np.ndarray, name: str, difficulty: int,
                 top_ks: Sequence[int] = (TOP,)) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """How stable predictions are over the frames of a perturbation: ({metric: value}, flips of each sequence, float64
    (N,), the classes among the predictions).

    logits: (N, frames, shared classes), whose ranking is that of probs. The other arguments are those of
    `decisions_by_sequence`. Raises UserError where there are too few frames to compare."""
    try:
        by_sequence = decisions_by_sequence(probs.argmax(-1), logits, name, difficulty, top_ks)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    by_sequence |= moves_by_sequence(probs, name, difficulty)
    classes = np.unique(probs.argmax(-1))
    known = {metric: values[~np.isnan(values)] for metric, values in by_sequence.items()}
    values = {metric: float(numbers.mean()) for metric, numbers in known.items() if len(numbers)}
    return values | {"distinct_predictions": len(classes)}, by_sequence["flip_probability"], classes


def decisions_by_sequence(predictions: np.ndarray, logits: np.ndarray, name: str, difficulty: int,
                          top_ks: Sequence[int] = (TOP,)) -> dict[str, np.ndarray]:
    """How often every sequence of a perturbation changes its prediction, and how far its ranking moves, {metric:
    float64 (N,)}; a temperature changes neither.

    predictions: int (N, frames). logits: (N, frames, classes). name: of the perturbation. difficulty: of the set.
    top_ks: for how many first places of the ranking there is a distance; where there are fewer classes, it looks at
    all. Raises ValueError where there are too few frames to compare."""
    against_first = is_noise(name)
    values = {"flip_probability": metrics.flips(predictions, against_first, difficulty)}
    for top_k in top_ks:
        values[distance_metric(top_k)] = metrics.topk_distances(
            logits, min(top_k, logits.shape[-1]), against_first, difficulty)
    return values


def moves_by_sequence(probs: np.ndarray, name: str, difficulty: int) -> dict[str, np.ndarray]:
    """How far the probabilities of every sequence of a perturbation move, {metric: float64 (N,)}.
    `total_variation_unflipped` is NaN where every frame has a flip. probs: float64 (N, frames, K). The other arguments
    and the errors are those of `decisions_by_sequence`."""
    against_first = is_noise(name)
    return {
        "total_variation": metrics.total_variations(probs, against_first, difficulty),
        "total_variation_unflipped": metrics.total_variations(probs, against_first, difficulty, unflipped_only=True),
        "confidence_change": metrics.confidence_changes(probs, against_first, difficulty),
    }


def mean_of_perturbations(scores: Sequence[PerturbationScores], clean: CellPredictions,
                          resamples: Resamples) -> dict[str, float]:
    """The row `mean`. clean: the predictions of the clean images."""
    names = dict.fromkeys(name for perturbation in scores for name in perturbation.values)
    means = {name: float(np.mean([perturbation.values[name] for perturbation in scores if name in perturbation.values]))
             for name in names}
    means["flip_probability_se"] = resamples.standard_error(
        np.mean([perturbation.flips for perturbation in scores], axis=0))
    classes = [perturbation.classes for perturbation in scores]
    means["distinct_predictions"] = len(np.unique(np.concatenate([clean.probabilities.argmax(1), *classes])))
    return means | {"n": len(clean.logits)}
