"""Open-set recognition without I/O: how well a score separates known classes from unknown ones, and scores to compare.

Words. The classes of the task are closed (known: trained on) or open (unknown: never trained on); so are their images.
An open score is a number for each image, the higher the more likely the image is open. An image is accepted (taken for
closed) where its open score is at most the threshold; the class of an accepted image is the closed model's. A detector
is any rule that gives open scores: a model that was trained for it, or one of `BASELINES`.

`separation` gives the metrics of a detector, and `METRICS` says how they are printed. `BASELINES` are computed from the
logits and features of the closed model alone. `kept_images` and `cyclical_rate` are rules of the training of detectors.

Curves are computed here, because scikit-learn takes a hundred times as long for a few hundred images, and a built set
has 85 cells besides its clean images; the tests compare both. scikit-learn fits the baselines and the mixture. It is
imported when it is needed: the import changes the filters of Python's warnings, and takes a second. Pure mathematics
without torch.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import metrics

TPR = 0.95  # fraction of closed images that are accepted, for FPR@TPR95 and for thresholds of validation images
NEIGHBOURS = 50  # k of `nearest_neighbours` (Sun et al., ICML 2022: 50 on CIFAR-10)


# ---- how well open scores separate

class CheckedScores(NamedTuple):
    """Open scores that fit together."""

    scores: np.ndarray
    """float64 (N,)"""
    is_open: np.ndarray
    """bool (N,)"""


def check(scores: ArrayLike, is_open: ArrayLike) -> CheckedScores:
    """Open scores and flags as arrays. Raises ValueError where they do not fit, a score is not finite, or all images
    are of one kind."""
    scores, flags = np.asarray(scores), np.asarray(is_open)
    if scores.dtype.kind not in "biuf" or scores.ndim != 1 or flags.shape != scores.shape or flags.dtype != bool:
        raise ValueError(f"open scores and flags must be (N,) numbers and bool, not {scores.shape} of {scores.dtype} "
                         f"and {flags.shape} of {flags.dtype}")
    if not np.isfinite(scores).all():
        raise ValueError(f"open scores hold NaN or infinity in {(~np.isfinite(scores)).sum()} of {len(scores)} images")
    if flags.all() or not flags.any():
        raise ValueError(f"open scores need closed and open images, not {(~flags).sum()} and {flags.sum()}")
    return CheckedScores(scores.astype(np.float64), flags)


class Accepted(NamedTuple):
    """How many images are accepted at every threshold, from none to all; the thresholds are the distinct scores."""

    closed: np.ndarray
    """int64 (T,), closed images"""
    open: np.ndarray
    """int64 (T,), open images"""


def accepted_images(scores: np.ndarray, is_open: np.ndarray, counted: np.ndarray | None = None) -> Accepted:
    """The accepted images at every threshold. scores, is_open: as `check` gives them. counted: bool (N,), the closed
    images that count; None: all."""
    order = np.argsort(scores, kind="stable")
    is_last_of_equals = np.append(np.diff(scores[order]) > 0, True)
    closed = ~is_open if counted is None else ~is_open & counted
    return Accepted(*(np.append(0, np.cumsum(flags[order])[is_last_of_equals]) for flags in (closed, is_open)))


def auroc(scores: ArrayLike, is_open: ArrayLike) -> float:
    """Area under the ROC curve: the probability that an open image has a higher open score than a closed one; equal
    scores count one half. scores: (N,). is_open: bool (N,). Raises ValueError as `check` does."""
    false_rate, true_rate = roc_points(scores, is_open)
    return float(np.trapezoid(true_rate, false_rate))


def roc_points(scores: ArrayLike, is_open: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(false, true positive rates), both (T,), of the ROC curve with closed as the positive class: at every threshold
    the fraction of open and of closed images that are accepted, from none to all. Errors as in `check`."""
    accepted = accepted_images(*check(scores, is_open))
    return accepted.open / accepted.open[-1], accepted.closed / accepted.closed[-1]


def fpr_at_tpr(scores: ArrayLike, is_open: ArrayLike, tpr: float = TPR) -> float:
    """The smallest fraction of open images that are accepted at a threshold that accepts at least `tpr` of the closed
    images. No interpolation between thresholds. Errors as in `check`."""
    false_rate, true_rate = roc_points(scores, is_open)
    return float(false_rate[true_rate >= tpr - 1e-12].min())


def fpr_of_ood_metrics(scores: ArrayLike, is_open: ArrayLike, tpr: float = TPR) -> float:
    """FPR@TPR as the package ood_metrics computes it, for comparison with published numbers: the ROC curve,
    interpolated linearly at `tpr`.

    It differs from `fpr_at_tpr` where closed and open images have equal scores, and where exactly `tpr` of the closed
    images can be accepted: the interpolation then takes the last point of the curve there. Errors as in `check`.
    """
    false_rate, true_rate = roc_points(scores, is_open)
    return float(np.interp(tpr, true_rate, false_rate))


def aupr(scores: ArrayLike, is_open: ArrayLike, positive: str) -> float:
    """Area under the precision-recall curve by the trapezoid rule, from precision 1 at recall 0 on. positive: "closed"
    or "open", the class whose recall is meant. A score without information gives about the fraction of positive images.
    Errors as in `check`."""
    if positive not in ("closed", "open"):
        raise ValueError(f"the positive class is closed or open, not {positive!r}")
    scores, is_open = check(scores, is_open)
    if positive == "closed":
        right, wrong = accepted_images(scores, is_open)
    else:
        right, wrong = accepted_images(-scores, ~is_open)
    precision = np.append(1, right[1:] / (right[1:] + wrong[1:]))
    return float(np.trapezoid(precision, right / right[-1]))


def oscr_points(scores: ArrayLike, is_open: ArrayLike, is_correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The OSCR curve (open-set classification rate; Dhamija et al., NeurIPS 2018, arXiv:1811.04110), (x, y), both (T,).

    Over all thresholds, from nothing accepted to everything accepted: x is the fraction of open images that are
    accepted, y the fraction of closed images that are accepted and given their class.
    is_correct: bool (N,), whether the closed model's class is the image's; ignored for open images.
    Raises ValueError as `check` does.
    """
    scores, is_open = check(scores, is_open)
    is_correct = np.asarray(is_correct)
    if is_correct.shape != is_open.shape or is_correct.dtype != bool:
        raise ValueError(f"is_correct must be bool {is_open.shape}, not {is_correct.dtype} {is_correct.shape}")
    accepted = accepted_images(scores, is_open, is_correct)
    return accepted.open / is_open.sum(), accepted.closed / (~is_open).sum()


def oscr(scores: ArrayLike, is_open: ArrayLike, is_correct: ArrayLike) -> float:
    """The area under the OSCR curve by the trapezoid rule: at most the closed model's accuracy. Arguments and errors as
    for `oscr_points`."""
    x, y = oscr_points(scores, is_open, is_correct)
    return float(np.trapezoid(y, x))


def acceptance_threshold(closed_scores: ArrayLike, fraction: float = TPR) -> float:
    """The lowest threshold that accepts at least this fraction of closed images, for example of validation images.

    closed_scores: (N,), open scores of closed images. Raises ValueError where there are none or one is not finite."""
    values = np.sort(np.asarray(closed_scores, np.float64))
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or not 0 < fraction <= 1:
        raise ValueError("a threshold needs finite open scores of closed images, and a fraction above 0")
    return float(values[int(np.ceil(fraction * len(values) - 1e-9)) - 1])


def separation(scores: ArrayLike, is_open: ArrayLike, is_correct: ArrayLike) -> dict[str, float]:
    """All metrics of a detector's open scores, {name: float}, as `METRICS` lists them without those of a threshold.

    scores: (N,). is_open: bool (N,). is_correct: bool (N,), whether the closed model's class is the image's; ignored
    for open images. Raises ValueError as `check` does.
    """
    scores, is_open = check(scores, is_open)
    is_correct = np.asarray(is_correct)
    return {
        "auroc": auroc(scores, is_open),
        "fpr95": fpr_at_tpr(scores, is_open),
        "fpr95_ood_metrics": fpr_of_ood_metrics(scores, is_open),
        "aupr_closed": aupr(scores, is_open, "closed"),
        "aupr_open": aupr(scores, is_open, "open"),
        "oscr": oscr(scores, is_open, is_correct),
        "closed_accuracy": float(is_correct[~is_open].mean()),
        "prevalence_open": float(is_open.mean()),
        "n_closed": float((~is_open).sum()),
        "n_open": float(is_open.sum()),
    }


def acceptance(scores: ArrayLike, is_open: ArrayLike, threshold: float) -> dict[str, float]:
    """The fractions of closed and of open images that a threshold accepts, {"closed_accepted", "open_accepted"}.
    Arguments and errors as for `check`."""
    scores, is_open = check(scores, is_open)
    is_accepted = scores <= threshold
    return {"closed_accepted": float(is_accepted[~is_open].mean()), "open_accepted": float(is_accepted[is_open].mean())}


@dataclass(frozen=True)
class Metric:
    """How a metric of a detector is printed."""

    name: str
    """key in what `separation` and `acceptance` give, and in the column `metric` of open_scores.csv"""
    label: str
    higher_is_better: bool | None
    """None for numbers that only describe the images"""


METRICS = (
    Metric("auroc", "AUROC", True),
    Metric("fpr95", "FPR@TPR95", False),
    Metric("fpr95_ood_metrics", "FPR@TPR95 (ood_metrics)", False),
    Metric("aupr_closed", "AUPR, closed positive", True),
    Metric("aupr_open", "AUPR, open positive", True),
    Metric("oscr", "OSCR", True),
    Metric("closed_accuracy", "closed accuracy", True),
    Metric("closed_accepted", "closed accepted", True),
    Metric("open_accepted", "open accepted", False),
    Metric("prevalence_open", "fraction of open images", None),
    Metric("n_closed", "closed images", None),
    Metric("n_open", "open images", None),
)


# ---- detectors that need no training of their own

class ClosedModel(NamedTuple):
    """What the closed model computes for N images."""

    logits: np.ndarray
    """float (N, C) of the C closed classes"""
    features: np.ndarray
    """float (N, D), the input of the classifier"""


def maximum_softmax(model: ClosedModel) -> np.ndarray:
    """-log of the highest probability (Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136). The logarithm keeps apart
    what rounds to probability 1; the order is the same."""
    return -metrics.log_softmax(model.logits).max(1)


def maximum_logit(model: ClosedModel) -> np.ndarray:
    """Minus the highest logit (Hendrycks et al., ICML 2022, arXiv:1911.11132)."""
    return -np.asarray(model.logits, np.float64).max(1)


def energy(model: ClosedModel) -> np.ndarray:
    """-log sum exp of the logits, at temperature 1 (Liu et al., NeurIPS 2020, arXiv:2010.03759)."""
    logits = np.asarray(model.logits, np.float64)
    top = logits.max(1)
    return -(top + np.log(np.exp(logits - top[:, None]).sum(1)))


def entropy(model: ClosedModel) -> np.ndarray:
    """The entropy of the probabilities (nats)."""
    return metrics.entropy(metrics.softmax(model.logits))


class FittedBaselines:
    """The baselines that need the features of closed training images.

    Mahalanobis (Lee et al., NeurIPS 2018, arXiv:1807.03888): the least squared distance to the mean of a class, under
    the covariance that all classes share. Where there are fewer images than features, the covariance has no inverse and
    the pseudo-inverse takes its place: what lies outside the span of the training features then does not count.
    Nearest neighbours (Sun et al., ICML 2022, arXiv:2204.06507): the distance to the k-th nearest training feature, all
    features divided by their length.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS) -> None:
        """features: float (N, D) of closed training images. labels: int (N,), any number for
        each class. neighbours: k; one larger than N counts as N. Raises ValueError where they do not fit or are
        empty."""
        from sklearn.covariance import EmpiricalCovariance
        from sklearn.neighbors import NearestNeighbors

        features, labels = np.asarray(features, np.float64), np.asarray(labels)
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features) or neighbours < 1:
            raise ValueError(f"features (N, D) and labels (N,) with N > 0 are needed, and k of at least 1; not "
                             f"{features.shape}, {labels.shape} and {neighbours}")
        classes, index = np.unique(labels, return_inverse=True)
        self.means = np.stack([features[labels == name].mean(0) for name in classes])
        self.covariance = EmpiricalCovariance(assume_centered=True).fit(features - self.means[index])
        self.neighbours = min(neighbours, len(features))
        self.nearest = NearestNeighbors(n_neighbors=self.neighbours, algorithm="brute").fit(unit_length(features))

    def mahalanobis(self, model: ClosedModel) -> np.ndarray:
        """Open scores (N,)."""
        features = np.asarray(model.features, np.float64)
        return np.stack([self.covariance.mahalanobis(features - mean) for mean in self.means]).min(0)

    def nearest_neighbours(self, model: ClosedModel) -> np.ndarray:
        """Open scores (N,)."""
        return self.nearest.kneighbors(unit_length(np.asarray(model.features, np.float64)))[0][:, -1]

    def scores(self, model: ClosedModel) -> dict[str, np.ndarray]:
        """Open scores of every baseline, {name: float64 (N,)}, in the order of `BASELINES`."""
        fitted: Mapping[str, Callable[[ClosedModel], np.ndarray]] = {
            "mahalanobis": self.mahalanobis, "nearest_neighbours": self.nearest_neighbours}
        return {name: (rule or fitted[name])(model) for name, rule in BASELINES.items()}


def unit_length(features: np.ndarray) -> np.ndarray:
    """Features (N, D) divided by their Euclidean length; zeros stay zeros."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


# Name of a baseline -> its rule; None: `FittedBaselines` has it.
BASELINES: dict[str, Callable[[ClosedModel], np.ndarray] | None] = {
    "maximum_softmax": maximum_softmax, "maximum_logit": maximum_logit, "energy": energy, "entropy": entropy,
    "mahalanobis": None, "nearest_neighbours": None}


# ---- rules of the training of detectors

def cross_entropies(logits: ArrayLike, classes: ArrayLike) -> np.ndarray:
    """-log p of a class for every image, float64 (N,). logits: (N, C). classes: int (N,)."""
    classes = np.asarray(classes)
    return -metrics.log_softmax(logits)[np.arange(len(classes)), classes]


def cyclical_rate(epoch: int, epochs: int, cycles: int, high: float, low: float) -> float:
    """The learning rate of an epoch (from 0): in each of the `cycles` equal parts of the training it falls from `high`
    along half a cosine towards `low` (Huang et al., Snapshot Ensembles, ICLR 2017, arXiv:1704.00109, eq. 2). Raises
    ValueError where the epochs cannot be divided into so many cycles."""
    if cycles < 1 or epochs % cycles:
        raise ValueError(f"{epochs} epochs cannot be divided into {cycles} cycles")
    length = epochs // cycles
    return low + (high - low) / 2 * (1 + math.cos(math.pi * (epoch % length) / length))


def left_out_fraction(epoch: int, ramp: int, rho: float) -> float:
    """The fraction of images that an epoch leaves out of training: it rises in equal steps over `ramp` epochs to `rho`.
    epoch: counted from 0, the first one in which images are left out."""
    return rho * min(1.0, (epoch + 1) / max(1, ramp))


def kept_images(losses: ArrayLike, classes: ArrayLike, left_out: float) -> np.ndarray:
    """Which images are trained on, bool (N,): in every pseudo class those with the smallest losses, so that classes
    keep their proportions. One image of a class at least is kept.

    losses: (N,). classes: int (N,), the pseudo labels. left_out: fraction of each class, 0..1; rounded down to images.
    """
    losses, classes = np.asarray(losses, np.float64), np.asarray(classes)
    keep = np.zeros(len(losses), bool)
    for name in np.unique(classes):
        rows = np.flatnonzero(classes == name)
        count = max(1, len(rows) - int(left_out * len(rows) + 1e-9))
        keep[rows[np.argsort(losses[rows], kind="stable")[:count]]] = True
    return keep


def kept_by_mixture(losses: ArrayLike, classes: ArrayLike) -> np.ndarray:
    """Which images are trained on, bool (N,): those that a mixture of two Gaussians, fitted to the losses, counts to
    the component with the smaller mean (as DivideMix does; Li et al., ICLR 2020, arXiv:2002.07394). The image of a
    class with the smallest loss is always kept. Arguments as for `kept_images`. The fit begins with means at both ends
    of the range of losses, so equal losses give equal results."""
    from sklearn.mixture import GaussianMixture

    losses, classes = np.asarray(losses, np.float64), np.asarray(classes)
    keep = kept_images(losses, classes, 1.0)
    extent = np.ptp(losses)
    if extent == 0:
        return np.ones(len(losses), bool)
    scaled = ((losses - losses.min()) / extent)[:, None]
    mixture = GaussianMixture(2, means_init=[[0.0], [1.0]], weights_init=[0.5, 0.5], precisions_init=[[[100.0]]] * 2,
                              reg_covar=5e-4, random_state=0).fit(scaled)
    clean = int(mixture.means_[:, 0].argmin())
    return keep | (mixture.predict_proba(scaled)[:, clean] > 0.5)


# ---- how sure a difference between two detectors is

def resampling_weights(strata: ArrayLike, rngs: Sequence[np.random.Generator]) -> np.ndarray:
    """How often each image is drawn, int64 (R, N): from every stratum as many images as it has, with replacement.

    strata: (N,), the stratum of each image, for example its class and half. rngs: of each of R resamples. Each has a
    generator of its own, so that resamples can be drawn in blocks, as many at once as there is memory for."""
    strata = np.asarray(strata)
    weights = np.zeros((len(rngs), len(strata)), np.int64)
    for name in np.unique(strata):
        rows = np.flatnonzero(strata == name)
        chance = np.full(len(rows), 1 / len(rows))
        for number, rng in enumerate(rngs):
            weights[number, rows] = rng.multinomial(len(rows), chance)
    return weights


def weighted_aurocs(scores: ArrayLike, is_open: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """`auroc` with every image counted as often as its weight, float64 (R,). weights: (R, N), not negative, with a
    closed and an open image in every row. Errors as in `check`."""
    scores, is_open = check(scores, is_open)
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))
    ordered = weights[:, order]
    of_closed = np.add.reduceat(np.where(is_open[order], 0, ordered), starts, axis=1).astype(np.float64)
    of_open = np.add.reduceat(np.where(is_open[order], ordered, 0), starts, axis=1).astype(np.float64)
    below = np.cumsum(of_closed, 1) - of_closed
    return (of_open * (below + of_closed / 2)).sum(1) / (of_open.sum(1) * of_closed.sum(1))
