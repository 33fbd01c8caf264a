"""Accuracy and calibration from probabilities: `summary` gives the scores, `reliability` what a diagram shows.

Words: probs (N, K) are probabilities of N images and K classes, whose rows sum to 1. The prediction of an image is the
class with the highest probability (the first of equal ones), its confidence is that probability. The target is the
label as a distribution over the classes, one-hot or soft. The correctness of an image is target[prediction], the
probability that its prediction is right. (The score `accuracy` always takes the hard label instead.)

Everything is computed in float64. Scores are fractions in 0..1 (`brier`, `brier_hard` and `cece_sum`: in 0..2);
likelihoods and `kl` are in nats. Names that end in `_released` repeat what the release of FER-C (arXiv 2312.11542)
computes, for comparison with published numbers.

On corrupted images `summary` compares with soft labels, and `hard_scores` compares the same predictions with hard ones.

`METRICS` says how each score is printed: tables, figures and the page of a report take headings and units from it.
After it come the temperature that makes logits fit labels, errors relative to a baseline's, and the stability of
predictions over a sequence of images.

Pure mathematics without torch.
"""
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

BINS = 15
EDGE_SLACK = 1e-7  # float32 keeps 0.2 as 0.200000003: what lies this little above an edge belongs to the bin below
LARGEST_SCORE = 1e6  # reports and cards take no score, no number of nats and no temperature that is larger
RELEASED_BATCH = 256  # the FER-C release averages means over batches of this size, for most algorithms


def summary(probs: ArrayLike, labels: ArrayLike, soft_labels: ArrayLike | None = None,
            logits: ArrayLike | None = None, *, released_batch: int = RELEASED_BATCH) -> dict[str, float]:
    """The scores of one set of predictions, {name: float}.

    probs: (N, K) probabilities. labels: (N,) integers in 0..K-1. soft_labels: (N, K) distributions; accuracy and F1
    still use `labels`, all other scores use `soft_labels`, and `kl` (soft NLL minus the entropy of the soft labels) is
    added. logits: (N, K), of which `probs` is the softmax; with them `nll` is exact, without them probabilities are
    clamped at 1e-12.
    released_batch: images in a batch of `nll_released`: the batch size of the algorithm's release.
    Raises ValueError on empty input, shapes that do not fit, NaN, labels out of range, rows that are not distributions,
    or logits that are not those of `probs`.
    """
    probs, labels, target = _checked(probs, labels, soft_labels)
    prediction = probs.argmax(1)
    log_p = np.log(np.maximum(probs, 1e-12)) if logits is None else _checked_log_softmax(logits, probs)
    classwise = classwise_ece(probs, target)

    # adaece and kse each begin with a stable sort of the confidences, and are called twice. Sorting sorted values takes
    # almost no time, so the images are put in the order of their confidence here, once.
    order = np.argsort(probs.max(1), kind="stable")
    confidence = probs.max(1)[order]
    correctness = expected_correctness(target, prediction)[order]
    released = max_rule_correctness(target, prediction)[order]

    scores = {
        "accuracy": (prediction == labels).mean(),
        "macro_f1": macro_f1(labels, prediction, probs.shape[1]),
        "nll": -(target * log_p).sum(1).mean(),
        "brier": ((target - probs) ** 2).sum(1).mean(),
        "ece": ece(confidence, correctness),
        "mce": mce(confidence, correctness),
        "adaece": adaece(confidence, correctness),
        "cece": classwise.mean(),
        "cece_sum": classwise.sum(),
        "kse": kse(confidence, correctness),
        "nll_released": nll_released(probs, target, released_batch),
        "macro_f1_released": macro_f1(labels, prediction, probs.shape[1], occurring_only=True),
        "ece_released": ece(confidence, released),
        "adaece_released": adaece(confidence, released, open_first=True),
        "kse_released": kse(confidence, released, inside_ties=True),
    }
    if soft_labels is not None:
        scores["kl"] = scores["nll"] - entropy(target).mean()
    return {name: float(value) for name, value in scores.items()}


def hard_scores(probs: ArrayLike, labels: ArrayLike, logits: ArrayLike | None = None) -> dict[str, float]:
    """ECE, NLL and Brier score against hard labels, {name: float}; `summary` of corrupted images takes soft ones.

    The names end in `_hard`, so that they stand beside those of `summary`; on clean images both are equal. Arguments
    and errors as in `summary`."""
    probs, labels, target = _checked(probs, labels, None)
    log_p = np.log(np.maximum(probs, 1e-12)) if logits is None else _checked_log_softmax(logits, probs)
    # In the order of `summary`, so that equal numbers are equal in their last digit.
    order = np.argsort(probs.max(1), kind="stable")
    scores = {
        "ece_hard": ece(probs.max(1)[order], expected_correctness(target, probs.argmax(1))[order]),
        "nll_hard": -(target * log_p).sum(1).mean(),
        "brier_hard": ((target - probs) ** 2).sum(1).mean(),
    }
    return {name: float(value) for name, value in scores.items()}


def softmax(logits: ArrayLike) -> np.ndarray:
    """Probabilities (N, K) float64 from logits (N, K). Raises ValueError as `log_softmax` does."""
    return np.exp(log_softmax(logits))


def log_softmax(logits: ArrayLike) -> np.ndarray:
    """Log probabilities (N, K) float64 from logits (N, K), finite. Raises ValueError where these are not (N, K) or not
    finite."""
    logits = _numbers("logits", logits)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"logits must be (N, K) with K > 0, not {logits.shape}")
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def entropy(target: np.ndarray) -> np.ndarray:
    """Entropy (N,) in nats of distributions (N, K)."""
    return -(target * np.log(np.where(target > 0, target, 1))).sum(1)


def expected_correctness(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The target's probability of the predicted class, (N,). target: (N, K). prediction: integers (N,)."""
    return target[np.arange(len(target)), prediction]


def max_rule_correctness(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The correctness that the FER-C release computes, (N,): max(target) where the prediction is the class with the
    largest target, else 1 - max(target).

    With more than two classes it overstates the correctness of wrong predictions. For one-hot targets it equals
    `expected_correctness`. target: (N, K). prediction: integers (N,).
    """
    top = target.max(1)
    return np.where(prediction == target.argmax(1), top, 1 - top)


def macro_f1(labels: np.ndarray, prediction: np.ndarray, num_classes: int, occurring_only: bool = False) -> float:
    """Mean F1 over all classes. A class that is never labelled nor predicted counts 0; `occurring_only` leaves it out.

    labels, prediction: integers (N,) in 0..num_classes-1. Raises ValueError where they are empty or out of range."""
    for name, classes in (("labels", labels), ("prediction", prediction)):
        if not len(classes) or classes.min() < 0 or classes.max() >= num_classes:
            raise ValueError(f"{name} must be (N,) with N > 0, within 0..{num_classes - 1}")
    hits = np.bincount(labels[labels == prediction], minlength=num_classes)
    either = np.bincount(labels, minlength=num_classes) + np.bincount(prediction, minlength=num_classes)
    f1 = 2 * hits / np.maximum(either, 1)
    return f1[either > 0].mean() if occurring_only else f1.mean()


def nll_released(probs: np.ndarray, target: np.ndarray, batch: int = RELEASED_BATCH) -> float:
    """Negative log likelihood (nats) as the FER-C release computes it: probabilities are clamped at 1e-6, and the
    result is the unweighted mean of the means over batches, which hold the images in the order given.

    probs, target: (N, K); batch: images in a batch. Raises ValueError unless `batch` is a whole number of at least 1.
    """
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise ValueError(f"a batch holds a whole number of images, at least 1, not {batch}")
    per_sample = -(target * np.log(np.maximum(probs, 1e-6))).sum(1)
    return np.mean([per_sample[start : start + batch].mean() for start in range(0, len(per_sample), batch)])


def ece(confidence: ArrayLike, correctness: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error (arXiv 1706.04599, eq. 3): sum_b n_b/N |accuracy_b - confidence_b| over bins
    (b/bins, (b+1)/bins], the first closed at 0. accuracy_b is the mean correctness of the images in bin b.

    confidence, correctness: (N,) in 0..1. Raises ValueError where they do not fit or are NaN.
    """
    confidence, correctness = _checked_pair(confidence, correctness)
    gap = np.bincount(bin_of(confidence, bins), correctness - confidence, bins)
    return np.abs(gap).sum() / len(confidence)


def mce(confidence: ArrayLike, correctness: ArrayLike, bins: int = BINS) -> float:
    """Maximum calibration error (arXiv 1706.04599, eq. 5): the largest |accuracy_b - confidence_b| of `ece`'s bins."""
    confidence, correctness = _checked_pair(confidence, correctness)
    index = bin_of(confidence, bins)
    gap = np.bincount(index, correctness - confidence, bins)
    return np.max(np.abs(gap) / np.maximum(np.bincount(index, minlength=bins), 1))  # an empty bin has gap 0


def adaece(confidence: ArrayLike, correctness: ArrayLike, bins: int = BINS, open_first: bool = False) -> float:
    """Adaptive ECE (arXiv 2002.09437): bins with equally many samples, edges interpolated in the sorted confidences.

    Bins are (low, high], the first closed; `open_first` drops the least confident samples, as the FER-C
    release does.
    """
    confidence, correctness = _checked_pair(confidence, correctness)
    n = len(confidence)
    edges = np.interp(np.linspace(0, n, bins + 1), np.arange(n), np.sort(confidence, kind="stable"))
    gap = correctness - confidence
    if open_first:
        gap = np.where(confidence > edges[0], gap, 0)
    return np.abs(np.bincount(np.searchsorted(edges[1:-1], confidence), gap, bins)).sum() / n


def classwise_ece(probs: ArrayLike, target: ArrayLike, bins: int = BINS) -> np.ndarray:
    """ECE of every class against the rest, (K,) (arXiv 1910.12656): bins as in `ece`. probs, target: (N, K)."""
    probs, target = _numbers("probs", probs), _numbers("target", target)
    n, num_classes = probs.shape
    index = bin_of(probs, bins) + bins * np.arange(num_classes)
    gap = np.bincount(index.ravel(), (target - probs).ravel(), num_classes * bins)
    return np.abs(gap).reshape(num_classes, bins).sum(1) / n


def kse(confidence: ArrayLike, correctness: ArrayLike, inside_ties: bool = False) -> float:
    """Kolmogorov-Smirnov error (arXiv 2006.12800): max |cumulated confidence - cumulated correctness| / N, where the
    images are in the order of their confidence.

    The maximum is taken after the last of equal confidences, so that the order of the input does not matter. With
    `inside_ties` it is taken after every sample, in the order given among equals, as in the FER-C release.
    """
    confidence, correctness = _checked_pair(confidence, correctness)
    order = np.argsort(confidence, kind="stable")
    confidence, correctness = confidence[order], correctness[order]
    difference = np.abs(np.cumsum(confidence - correctness))
    if not inside_ties:
        is_last_of_equals = np.append(np.diff(confidence) > 0, True)
        difference = difference[is_last_of_equals]
    return difference.max() / len(confidence)


def reliability(probs: ArrayLike, labels: ArrayLike, soft_labels: ArrayLike | None = None,
                bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a reliability diagram shows of `ece`'s bins: (count, mean confidence, mean correctness), arrays (bins,), the
    means NaN in empty bins. Arguments and errors as in `summary`."""
    probs, _, target = _checked(probs, labels, soft_labels)
    confidence = probs.max(1)
    index = bin_of(confidence, bins)
    count = np.bincount(index, minlength=bins)
    size = np.where(count > 0, count, np.nan)
    correctness = expected_correctness(target, probs.argmax(1))
    return count, np.bincount(index, confidence, bins) / size, np.bincount(index, correctness, bins) / size


def ece_floor(confidences: ArrayLike, n: int, repeats: int = 200, seed: int = 0) -> float:
    """The ECE that a perfectly calibrated model would have on n samples. It is above 0, because the mean accuracy of a
    bin with few samples differs from their mean confidence by chance.

    It is the mean over `repeats` simulations. Each draws n of the `confidences` (with replacement), and for each of
    them whether the prediction is right, with the confidence as its probability.

    The generator is keyed by (seed, n); equal arguments give equal values. Raises ValueError on empty input.
    """
    confidences = _numbers("confidences", confidences)
    if confidences.ndim != 1 or not len(confidences) or n < 1 or repeats < 1:
        raise ValueError("ece_floor needs confidences (N,) with N > 0, n > 0 and repeats > 0")
    rng = np.random.default_rng((seed, n))
    scores = []
    for _ in range(repeats):
        confidence = rng.choice(confidences, n)
        scores.append(ece(confidence, rng.random(n) < confidence))
    return float(np.mean(scores))


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Index of the bin (b/bins, (b+1)/bins] that holds each confidence, int64 of the shape of `confidence`; 0 and
    rounding beyond 1 fall in the outer bins. confidence: float, of any shape, finite: NaN has no bin. Raises ValueError
    where bins is below 1."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    return np.clip(np.ceil((confidence - EDGE_SLACK) * bins).astype(np.int64) - 1, 0, bins - 1)


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    """`values` in float64. Raises ValueError unless they are real and finite numbers. name: of the values, for the
    message."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, not {values.dtype}")
    if not np.isfinite(values).all():
        broken = (~np.isfinite(values)).reshape(len(values), -1).any(1).sum() if values.ndim else 1
        raise ValueError(f"{name} hold NaN or infinity in {broken} of {len(values) if values.ndim else 1} rows")
    return values.astype(np.float64, copy=False)


def _checked_pair(confidence: ArrayLike, correctness: ArrayLike,
                  tolerance: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (N,). Raises ValueError where they do not fit, or lie outside 0..1 by more than `tolerance`."""
    confidence, correctness = _numbers("confidence", confidence), _numbers("correctness", correctness)
    if confidence.ndim != 1 or confidence.shape != correctness.shape or not len(confidence):
        raise ValueError(
            f"confidence and correctness must be (N,) with N > 0, not {confidence.shape} and {correctness.shape}"
        )
    for name, values in (("confidence", confidence), ("correctness", correctness)):
        if values.min() < -tolerance or values.max() > 1 + tolerance:
            raise ValueError(f"{name} must lie in 0..1, but runs from {values.min():.6g} to {values.max():.6g}")
    return confidence, correctness


def _checked(probs: ArrayLike, labels: ArrayLike,
             soft_labels: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probs float64 (N, K), labels int (N,), target float64 (N, K)). Raises ValueError as `summary` does."""
    probs, labels = _checked_rows("probs", probs), np.asarray(labels)
    n, num_classes = probs.shape
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be {n} integers, not {labels.shape} of {labels.dtype}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, not within 0..{num_classes - 1}")
    if soft_labels is None:
        return probs, labels, np.eye(num_classes)[labels]
    target = _checked_rows("soft_labels", soft_labels)
    if target.shape != probs.shape:
        raise ValueError(f"soft_labels {target.shape} do not fit probs {probs.shape}")
    return probs, labels, target


def _checked_rows(name: str, rows: ArrayLike, tolerance: float = 1e-3) -> np.ndarray:
    """Distributions, float64 (N, K). Raises ValueError where a row is not a distribution: a value lies outside 0..1, or
    the sum differs from 1, by more than `tolerance`. name: of the rows, for the message."""
    rows = np.asarray(rows)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
        raise ValueError(f"{name} must be (N, K) with N > 0 and K > 1, not {rows.shape}")
    rows = _numbers(name, rows)
    if rows.min() < -tolerance or rows.max() > 1 + tolerance:
        raise ValueError(f"{name} must lie in 0..1, but run from {rows.min():.6g} to {rows.max():.6g}")
    off = np.abs(rows.sum(1) - 1).max()
    if off > tolerance:
        raise ValueError(f"{name}: every row must sum to 1, but one is off by {off:.6g}")
    return rows


def _checked_log_softmax(logits: ArrayLike, probs: np.ndarray, tolerance: float = 1e-3) -> np.ndarray:
    """Log probabilities, float64 (N, K). Raises ValueError where `probs` are not the softmax of `logits`."""
    logits = np.asarray(logits)
    if logits.shape != probs.shape or not np.isfinite(logits).all():
        raise ValueError(f"logits must be finite and {probs.shape} like probs, not {logits.shape}")
    log_p = log_softmax(logits)
    if np.abs(np.exp(log_p) - probs).max() > tolerance:
        raise ValueError("probs are not the softmax of logits")
    return log_p


@dataclass(frozen=True)
class Metric:
    """How tables and figures print one of the numbers that `summary` and `hard_scores` give."""

    name: str
    """key in the dictionary that one of these returns, and name in the column `metric` of scores.csv"""
    label: str
    """heading in tables and name of an axis in figures"""
    percent: bool
    """True: a fraction, printed in percent. False: printed in nats"""
    higher_is_better: bool
    """True: the best model has the highest value. False: it has the lowest"""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", percent=True, higher_is_better=True),
        Metric("macro_f1", "F1", percent=True, higher_is_better=True),
        Metric("nll", "NLL", percent=False, higher_is_better=False),
        Metric("brier", "Brier score", percent=True, higher_is_better=False),
        Metric("ece", "ECE", percent=True, higher_is_better=False),
        Metric("mce", "MCE", percent=True, higher_is_better=False),
        Metric("adaece", "AdaECE", percent=True, higher_is_better=False),
        Metric("cece", "CECE", percent=True, higher_is_better=False),
        Metric("cece_sum", "CECE sum", percent=True, higher_is_better=False),
        Metric("kse", "KSE", percent=True, higher_is_better=False),
        Metric("kl", "KL", percent=False, higher_is_better=False),
        Metric("ece_hard", "ECE (hard labels)", percent=True, higher_is_better=False),
        Metric("nll_hard", "NLL (hard labels)", percent=False, higher_is_better=False),
        Metric("brier_hard", "Brier score (hard labels)", percent=True, higher_is_better=False),
        Metric("nll_released", "NLL (released)", percent=False, higher_is_better=False),
        Metric("macro_f1_released", "F1 (released)", percent=True, higher_is_better=True),
        Metric("ece_released", "ECE (released)", percent=True, higher_is_better=False),
        Metric("adaece_released", "AdaECE (released)", percent=True, higher_is_better=False),
        Metric("kse_released", "KSE (released)", percent=True, higher_is_better=False),
    )
}


# ---- one temperature for all logits

class NoTemperature(ValueError):
    """No temperature fits logits and labels best. The text is the reason."""


WIDEST_LOG_SCALE = 12.0  # the scaled logits may be e^12 times as large, or as small, as logits of spread 1


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T > 0 that makes softmax(logits / T) fit the labels best: that of the lowest NLL (Guo et al.
    2017, arXiv 1706.04599, section 4.2).

    With b = 1 / T the NLL is convex, so there is one minimum, where its derivative, the mean over images of
    sum_k p_k z_k - z_label, is 0. Logits that are all multiplied by a > 0 have the temperature a T.

    logits: (N, K). labels: integers (N,) in 0..K-1. Raises ValueError where they do not fit, and NoTemperature where
    the NLL has no minimum, or has it at a T above `LARGEST_SCORE`. There is none where the NLL falls for ever as T goes
    to 0, as it does if every label has the highest logit, or for ever as T grows, as it does if logits tell nothing of
    the labels."""
    logits, labels = _numbers("logits", logits), np.asarray(labels)
    if logits.ndim != 2 or not logits.size or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"logits must be (N, K) and labels integers (N,), not {logits.shape} and {labels.dtype} "
                         f"{labels.shape}")
    if not ((labels >= 0) & (labels < logits.shape[1])).all():
        raise ValueError("labels must be in 0..K-1")
    from scipy.optimize import brentq  # it takes a quarter of a second, for which a training need not wait

    centred = logits - logits.mean(1, keepdims=True)
    spread = np.sqrt((centred ** 2).mean())
    if not spread > 0:
        raise NoTemperature("the NLL is the same at every temperature: all logits of an image are equal")
    scaled = centred / spread
    of_label = scaled[np.arange(len(labels)), labels]

    def slope(log_b: float) -> float:
        return float(((softmax(np.exp(log_b) * scaled) * scaled).sum(1) - of_label).mean())

    if slope(-WIDEST_LOG_SCALE) >= 0:
        raise NoTemperature("the logits tell nothing of the labels")
    if slope(WIDEST_LOG_SCALE) <= 0:
        raise NoTemperature("every label has the highest logit")
    temperature = float(spread / np.exp(brentq(slope, -WIDEST_LOG_SCALE, WIDEST_LOG_SCALE, xtol=1e-12)))
    if temperature > LARGEST_SCORE:
        raise NoTemperature(f"the best one, {temperature:.1e}, is above {LARGEST_SCORE:.0e}")
    return temperature


# ---- errors relative to a baseline's (docs/method.md: mCE)

LEAST_STANDARD_ERRORS = 2  # of a baseline's value, that it has to reach for a ratio to it; reports say "twice"


def corruption_error(errors: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """CE of every corruption, (..., C): the sum of the errors over severities, divided by the baseline's (Hendrycks and
    Dietterich 2019, arXiv:1903.12261). 1 is as good as the baseline. mCE is the mean over corruptions.

    errors: (..., C, S), 1 - accuracy. baseline: (..., C, S), of the baseline. NaN where the baseline makes no error."""
    return _ratio(np.asarray(errors, np.float64).sum(-1), np.asarray(baseline, np.float64).sum(-1))


def relative_corruption_error(errors: ArrayLike, clean: ArrayLike, baseline: ArrayLike,
                              baseline_clean: ArrayLike) -> np.ndarray:
    """Relative CE of every corruption, (..., C): as `corruption_error`, of what the corruption adds to the error on
    clean images. Source as there.

    clean, baseline_clean: (...), 1 - accuracy on clean images. NaN where the corruption does not hurt the baseline."""
    added = (np.asarray(errors, np.float64) - np.asarray(clean, np.float64)[..., None, None]).sum(-1)
    added_to_baseline = (np.asarray(baseline, np.float64) - np.asarray(baseline_clean, np.float64)[..., None, None])
    return _ratio(added, added_to_baseline.sum(-1))


def self_relative_error(errors: ArrayLike, clean: ArrayLike) -> np.ndarray:
    """The mean error of every corruption divided by the model's own error on clean images, (..., C). It needs no
    baseline. Arguments as in `relative_corruption_error`. NaN where the model makes no error on clean images."""
    return _ratio(np.asarray(errors, np.float64).mean(-1), np.asarray(clean, np.float64)[..., None])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where `below` is not above 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


# ---- stability of predictions over a sequence (perturbations.py)

# predictions: integers (sequences, frames), the predicted classes. probs: (sequences, frames, K). Each frame is
# compared with a reference frame: with `against_first` the first frame (for noise, whose first frame is clean), else
# the frame `difficulty` places before it. `difficulty` has no effect with `against_first`: there it is the strength of
# the noise. What is compared is averaged over the frames of a sequence first, so that every sequence counts the same,
# and the functions give a value for each sequence; their mean is the value of a model, and a bootstrap draws from them.


def flips(predictions: ArrayLike, against_first: bool = False, difficulty: int = 1) -> np.ndarray:
    """The fraction of a sequence's frames whose predicted class differs from that of the reference frame, (sequences,).

    ImageNet-P (arXiv 1903.12261) and its code. With `difficulty` d the n frames are read as d sequences of every d-th
    frame, and the mean is taken over all n - d comparisons. The mean over all sequences is the flip probability (FP).
    Raises ValueError where predictions are not integers (sequences, frames) or there is nothing to compare.
    """
    predictions = np.asarray(predictions)
    if predictions.dtype.kind not in "iu":
        raise ValueError(f"predictions must be integers, not {predictions.dtype}")
    reference, frame = _compared_frames(predictions, 2, against_first, difficulty)
    return (predictions[:, frame] != predictions[:, reference]).mean(1)


def topk_distances(scores: ArrayLike, k: int = 2, against_first: bool = False, difficulty: int = 1) -> np.ndarray:
    """How far the ranking of the classes moves among its first k places, (sequences,): the mean over a sequence's
    frames of

        sum over i = 1..k of |min(i - 1, k) - min(rank_i - 1, k)|

    where rank_i is the rank in the frame of the class that has rank i in the reference frame. ImageNet-P takes k = 5 of
    1000 classes (T5D); with seven or eight classes that is nearly the whole list, so that 2 is the default here.

    scores: (sequences, frames, K), logits or probabilities; of equal ones the class with the smaller index ranks first.
    Raises ValueError where scores do not fit or k is not in 1..K.
    """
    ranks = _moved_ranks(scores, against_first, difficulty)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= ranks.shape[-1]:
        raise ValueError(f"k must be a whole number from 1 to the number of classes, {ranks.shape[-1]}, not {k!r}")
    return np.abs(np.minimum(np.arange(k), k) - np.minimum(ranks[..., :k], k)).sum(-1).mean(1)


def zipf_distances(scores: ArrayLike, against_first: bool = False, difficulty: int = 1) -> np.ndarray:
    """How far the ranking of the classes moves, its first places counting most, (sequences,): the mean over a
    sequence's frames of the sum over i = 1..K of |1 / i - 1 / rank_i| / i. Source, arguments and errors as for
    `topk_distances`. No table shows it; it is here for comparison with ImageNet-P."""
    ranks = _moved_ranks(scores, against_first, difficulty)
    weights = 1 / np.arange(1, ranks.shape[-1] + 1)
    return (np.abs(weights - weights[ranks]) * weights).sum(-1).mean(1)


def total_variations(probs: ArrayLike, against_first: bool = False, difficulty: int = 1,
                     unflipped_only: bool = False) -> np.ndarray:
    """How far the probabilities move, (sequences,): the mean over a sequence's frames of the total variation distance
    1/2 sum_k |p_k - r_k| between the frame's probabilities p and those of the reference frame, r; 0..1.

    unflipped_only: over frames whose predicted class is that of the reference frame, so that a model that only changes
    its confidence can be told from one that changes its mind; NaN for a sequence without such frames.
    Raises ValueError where probs are not (sequences, frames, K) distributions or there is nothing to compare.
    """
    probs, reference, frame = _compared_probs(probs, against_first, difficulty)
    distance = np.abs(probs[:, frame] - probs[:, reference]).sum(-1) / 2
    return _mean_of_frames(distance, probs, reference, frame, unflipped_only)


def confidence_changes(probs: ArrayLike, against_first: bool = False, difficulty: int = 1,
                       unflipped_only: bool = False) -> np.ndarray:
    """How far the confidence in the reference frame's prediction moves, (sequences,): the mean over a sequence's frames
    of |p_c - r_c|, where c is the (first) class with the highest probability in the reference frame; 0..1. It is at
    most the total variation. Arguments, NaN and errors as for `total_variations`."""
    probs, reference, frame = _compared_probs(probs, against_first, difficulty)
    choice = probs[:, reference].argmax(-1)[..., None]
    change = np.take_along_axis(np.abs(probs[:, frame] - probs[:, reference]), choice, -1)[..., 0]
    return _mean_of_frames(change, probs, reference, frame, unflipped_only)


def undefined_rates(baseline: ArrayLike, standard_errors: ArrayLike) -> np.ndarray:
    """Which perturbations have no flip rate, bool (P,), the same for every model: those whose value of the baseline is
    not above 0, or below `LEAST_STANDARD_ERRORS` times its standard error, so that a ratio would say more about chance
    than about a model.

    baseline: (P,), the baseline's flip probabilities or distances; standard_errors: (P,), of a bootstrap over
    images or identities. Raises ValueError where they do not fit, or a standard error is negative."""
    baseline, errors = _numbers("baseline", baseline), _numbers("standard errors", standard_errors)
    if baseline.ndim != 1 or baseline.shape != errors.shape:
        raise ValueError(f"baseline and standard errors must be (P,), not {baseline.shape} and {errors.shape}")
    if (errors < 0).any():
        raise ValueError("standard errors must not be negative")
    return (baseline <= 0) | (baseline < LEAST_STANDARD_ERRORS * errors)


def flip_rates(values: ArrayLike, baseline: ArrayLike, undefined: ArrayLike | None = None) -> np.ndarray:
    """The flip rate of every perturbation, (P,): the model's value divided by the baseline's; 1 is as unstable as the
    baseline (FR of ImageNet-P, without its factor of 100). Distances are divided in the same way (T5D).

    values, baseline: (P,), not negative, flip probabilities or distances in the same order of perturbations. undefined:
    bool (P,), of `undefined_rates`. NaN where the rate is undefined or the baseline's value is 0.
    Raises ValueError where arguments do not fit or are negative."""
    values, baseline = _numbers("values", values), _numbers("baseline", baseline)
    if values.ndim != 1 or values.shape != baseline.shape:
        raise ValueError(f"values and baseline must be (P,), not {values.shape} and {baseline.shape}")
    if (values < 0).any() or (baseline < 0).any():
        raise ValueError("flip probabilities and distances must not be negative")
    is_defined = baseline > 0
    if undefined is not None:
        undefined = np.asarray(undefined)
        if undefined.dtype != bool or undefined.shape != values.shape:
            raise ValueError(f"undefined must be bool {values.shape}, not {undefined.dtype} {undefined.shape}")
        is_defined &= ~undefined
    return np.divide(values, baseline, out=np.full(values.shape, np.nan), where=is_defined)


def mean_flip_rate(values: ArrayLike, baseline: ArrayLike, undefined: ArrayLike | None = None) -> float:
    """The mean of `flip_rates` over the perturbations that have one (mFR of ImageNet-P, without its factor of 100); NaN
    where none has. How many are missing has to be reported with it. Arguments and errors as there."""
    return float(mean_of_defined(flip_rates(values, baseline, undefined)))


def mean_of_defined(rates: np.ndarray) -> np.ndarray:
    """The mean of flip rates, float64 (P, ...), over the perturbations that have one, (...); NaN where none has. A rate
    is undefined for every model, so that a perturbation with a NaN is left out for all."""
    is_defined = ~np.isnan(rates.reshape(len(rates), -1)).any(1)
    return rates[is_defined].mean(0) if is_defined.any() else np.full(rates.shape[1:], np.nan)


def _compared_frames(values: np.ndarray, dimensions: int, against_first: bool,
                     difficulty: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of reference frames and of the frames compared with them, both (comparisons,). Raises ValueError
    where `values` do not have this number of dimensions or there is nothing to compare."""
    if values.ndim != dimensions or not len(values):
        shape = "(sequences, frames)" if dimensions == 2 else "(sequences, frames, K)"
        raise ValueError(f"predictions over sequences must be {shape} with one sequence at least, not {values.shape}")
    if isinstance(difficulty, bool) or not isinstance(difficulty, int | np.integer) or difficulty < 1:
        raise ValueError(f"difficulty must be a whole number, at least 1, not {difficulty!r}")
    frames = values.shape[1]
    step = 1 if against_first else difficulty
    if frames <= step:
        raise ValueError(f"{frames} frames are too few to compare those {step} apart")
    frame = np.arange(step, frames)
    return (np.zeros_like(frame) if against_first else frame - step), frame


def _moved_ranks(scores: ArrayLike, against_first: bool, difficulty: int) -> np.ndarray:
    """For every comparison, the ranks (from 0) in the frame of the classes in the order of the reference frame, int
    (sequences, comparisons, K)."""
    scores = _numbers("scores", scores)
    reference, frame = _compared_frames(scores, 3, against_first, difficulty)
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranks = np.argsort(order, axis=-1, kind="stable")
    return np.take_along_axis(ranks[:, frame], order[:, reference], -1)


def _compared_probs(probs: ArrayLike, against_first: bool,
                    difficulty: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probs float64 (sequences, frames, K), indices of reference frames, of frames). Raises ValueError as
    `total_variations` does."""
    probs = np.asarray(probs)
    reference, frame = _compared_frames(probs, 3, against_first, difficulty)
    return _checked_rows("probs", probs.reshape(-1, probs.shape[-1])).reshape(probs.shape), reference, frame


def _mean_of_frames(values: np.ndarray, probs: np.ndarray, reference: np.ndarray, frame: np.ndarray,
                    unflipped_only: bool) -> np.ndarray:
    """The mean of values (sequences, comparisons) over comparisons, (sequences,); with `unflipped_only` over those
    without a flip, NaN where there are none."""
    if not unflipped_only:
        return values.mean(1)
    prediction = probs.argmax(-1)
    is_counted = prediction[:, frame] == prediction[:, reference]
    return mean_of_known(np.where(is_counted, values, np.nan), 1)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of values along an axis over those that are not NaN; NaN where all are."""
    is_known = ~np.isnan(values)
    count = is_known.sum(axis)
    total = np.where(is_known, values, 0).sum(axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
