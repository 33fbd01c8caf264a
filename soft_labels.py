"""Soft labels: how ambiguous a face is, and how much more so once corrupted. Pure functions in float64, no I/O.

The steps of FER-C (arXiv:2312.11542): a Gaussian mixture over valence and arousal gives the neighbouring expressions
(eqs. 5, 6), `fuse` mixes it with the given label (eq. 7), `difference` and `visibility` say what a corruption hides
(eq. 9), `soften` spreads that much of the label evenly (eqs. 8, 10, 11; the curve is SoftAug's, arXiv:2211.04625).
"""
import json
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LARGEST = {"l2": 1, "mse": 1, "ssim": 2, "psnr": 1, "l2-uint8": 255}  # measure -> what no difference exceeds
MEASURES = tuple(LARGEST)
TOLERANCE = 1e-4  # how far the sum of a distribution may be from 1: annotators' shares come rounded
ONE_GREY_LEVEL = 20 * np.log10(255)  # dB: the PSNR of images that differ by one grey level everywhere


@dataclass(frozen=True)
class GMM:
    """One Gaussian per class in (valence, arousal): weights (K,), means (K, 2), covariances (K, 2, 2), float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def posterior(self, va: np.ndarray) -> np.ndarray:
        """P(class | valence, arousal) (eq. 6). va: (N, 2) -> float64 (N, K), rows sum to 1 however far the point is.
        Raises ValueError where a valence or an arousal is no finite number."""
        va = np.asarray(va, np.float64)
        _require_finite(va, "valence and arousal")
        offset = va[:, None, :] - self.means
        solved = np.linalg.solve(self.covariances, offset[..., None])[..., 0]
        log_joint = (np.log(self.weights) - 0.5 * np.linalg.slogdet(self.covariances)[1]
                     - 0.5 * (offset * solved).sum(-1))
        joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
        return joint / joint.sum(1, keepdims=True)

    def take(self, classes):
        """The mixture of some classes (indices, in the order wanted), weights renormalised."""
        weights = self.weights[classes]
        return GMM(weights / weights.sum(), self.means[classes], self.covariances[classes])

    def to_json(self):
        return json.dumps({"weights": self.weights.tolist(), "means": self.means.tolist(),
                           "covariances": self.covariances.tolist()}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "GMM":
        """The inverse of `to_json`, exact to the last bit. Classes are named as the text's `classes` names them. Raises
        ValueError when the text is something else or no distribution (see `check`)."""
        try:
            parts = json.loads(text)
            gmm = cls(*(np.array(parts[name], np.float64) for name in ("weights", "means", "covariances")))
        except KeyError as error:
            raise ValueError(f"not the parameters of a mixture: {error} is missing") from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"not the parameters of a mixture: {error}") from None
        names = parts.get("classes")
        gmm.check(names if isinstance(names, list) and len(names) == gmm.weights.size else None)
        return gmm

    def check(self, classes: Sequence[str] | None = None) -> None:
        """Raises ValueError unless this is a distribution: positive weights that sum to 1, finite means, symmetric
        positive definite covariances. The message names the class, by `classes` where they are given."""
        count = self.weights.size
        if (count == 0 or self.weights.shape != (count,) or self.means.shape != (count, 2)
                or self.covariances.shape != (count, 2, 2)):
            raise ValueError("not the parameters of a mixture: the shapes do not fit")
        for k in range(count):
            reason = _mixture_fault(self.weights[k], self.means[k], self.covariances[k])
            if reason:
                name = f"class {k}" if classes is None else f"class {classes[k]}"
                raise ValueError(f"not the parameters of a mixture: {name} has {reason}")
        total = self.weights.sum()
        if abs(total - 1) > TOLERANCE:
            raise ValueError(f"not the parameters of a mixture: its weights sum to {total:.6g}, not to 1")


def _mixture_fault(weight, mean, covariance):
    """Why a weight (), a mean (2,) and a covariance (2, 2) are no Gaussian of a mixture, in words; None if they are."""
    if not (np.isfinite(weight) and weight > 0):
        return f"the weight {weight:g}, which has to be a positive number"
    if not np.isfinite(mean).all():
        return "a mean that is not finite"
    if not np.isfinite(covariance).all():
        return "a covariance that is not finite"
    if not np.isclose(covariance[0, 1], covariance[1, 0]):
        return "a covariance that is not symmetric"
    smallest, largest = np.linalg.eigvalsh(covariance)
    if abs(smallest) <= 1e-12 * abs(largest):
        return "a singular covariance"
    if smallest < 0:
        return "a covariance that is not positive definite"
    return None


def check_distributions(values: np.ndarray, what: str) -> None:
    """Raises ValueError, naming `what`, unless every row of `values` (..., K) is a distribution: finite, nowhere
    negative, sum 1 within `TOLERANCE`."""
    _require_finite(values, what)
    if values.size and (values.min() < 0 or np.abs(values.sum(-1, dtype=np.float64) - 1).max() > TOLERANCE):
        raise ValueError(f"{what}: a row is no distribution (a negative value, or a sum that is not 1)")


def _require_finite(values, what):
    if not np.isfinite(values).all():
        raise ValueError(f"{what}: a value is not a finite number")


def fit_gmm(va: np.ndarray, labels: np.ndarray, num_classes: int) -> GMM:
    """The mixture of the training set (eq. 5, constants as in the FER-C release).

    va: (N, 2) valence and arousal, NaN rows are left out; labels: int (N,). Per class: weight N_k / N; mean and biased
    covariance over the points whose valence and arousal both lie strictly within one standard deviation of the class
    mean. Returns a `GMM`. Raises ValueError naming a class with fewer than three such points or a singular covariance,
    and where a value is infinite or a label is no class.
    """
    va, labels = np.asarray(va, np.float64), np.asarray(labels)
    if np.isinf(va).any():
        raise ValueError("valence and arousal: a value is infinite")
    _require_classes(labels, num_classes)
    known = np.isfinite(va).all(1)
    va, labels = va[known], labels[known]
    weights, means, covariances = [], [], []
    for k in range(num_classes):
        points = va[labels == k]
        if len(points) < 3:
            raise ValueError(f"class {k} has {len(points)} images with valence and arousal; the mixture needs 3")
        core = points[(np.abs(points - points.mean(0)) < points.std(0)).all(1)]
        if len(core) < 3:
            raise ValueError(f"class {k} has {len(core)} images within one standard deviation; the mixture needs 3")
        covariance = np.cov(core.T, bias=True)
        if np.linalg.matrix_rank(covariance) < 2:
            raise ValueError(f"class {k}: its valence and arousal lie on a line (singular covariance)")
        weights.append(len(points) / len(va))
        means.append(core.mean(0))
        covariances.append(covariance)
    return GMM(np.array(weights), np.array(means), np.array(covariances))


def _require_classes(labels, num_classes):
    if labels.size and not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"a label is no class: labels go from 0 to {num_classes - 1}")


def fuse(labels: np.ndarray, posterior: np.ndarray, beta: float | np.ndarray = 0.5) -> np.ndarray:
    """beta * one-hot + (1 - beta) * posterior (eq. 7). labels: int (N,); posterior: (N, K), rows sum to 1; beta: a
    number or (N,). Returns float64 (N, K). Raises ValueError unless beta is a fraction, the posterior's rows are
    distributions and every label is a class."""
    posterior, beta = np.asarray(posterior, np.float64), np.reshape(np.asarray(beta, np.float64), (-1, 1))
    labels = np.asarray(labels)
    if not ((beta >= 0) & (beta <= 1)).all():
        raise ValueError(f"beta is a fraction between 0 and 1, not {beta.squeeze()}")
    check_distributions(posterior, "posterior")
    _require_classes(labels, posterior.shape[1])
    return beta * np.eye(posterior.shape[1])[labels] + (1 - beta) * posterior


def difference(clean: np.ndarray, corrupted: np.ndarray, measure: str = "l2") -> float:
    """How far a corrupted image is from its clean form: 0 for equal images, larger is worse.

    Both uint8 (H, W, 3). `l2`: root mean squared difference of values in [0, 1] (the text of FER-C); `mse`: its square;
    `ssim`: 1 - SSIM on grey images (appendix A.3); `psnr`: 1 - PSNR / 48.13 dB (that of one grey level), in [0, 1];
    `l2-uint8`: mean of squares taken in 8-bit arithmetic that wraps at 256, as in the published labels.
    """
    if measure == "l2-uint8":
        change = clean - corrupted
        return float((change * change).mean(dtype=np.float64))
    if measure == "ssim":
        from skimage.metrics import structural_similarity  # slow to import

        return float(1 - structural_similarity(_grey(clean), _grey(corrupted), data_range=255))
    # the sum of squares is a whole number: rounded, OpenCV's is exact, a hundred times faster than float64 arrays
    mse = round(cv2.norm(clean, corrupted, cv2.NORM_L2SQR)) / clean.size / 255**2
    if measure == "l2":
        return float(np.sqrt(mse))
    if measure == "mse":
        return float(mse)
    if measure == "psnr":
        return float(np.clip(1 + 10 * np.log10(mse) / ONE_GREY_LEVEL, 0, 1)) if mse else 0.0
    raise ValueError(f"unknown measure {measure!r}; known: {', '.join(MEASURES)}")


def _grey(image):
    return image @ np.array([0.299, 0.587, 0.114])


def visibility(difference: np.ndarray, worst: float) -> np.ndarray:
    """What is left to see: clip(1 - difference / worst, 0, 1) (eq. 9). `worst`: the largest mean difference of the 85
    cells. Any shape in, float64 of the same shape out. Raises ValueError unless `worst` is positive and all are
    finite."""
    if not (np.isfinite(worst) and worst > 0):
        raise ValueError(f"the worst difference has to be a positive number, not {worst}")
    difference = np.asarray(difference, np.float64)
    _require_finite(difference, "difference")
    return np.clip(1 - difference / worst, 0, 1)


def soften(label: np.ndarray, visibility: np.ndarray, exponent: float = 2) -> np.ndarray:
    """Spread what cannot be seen evenly over the classes (eqs. 10, 11): (1 - w) label + w / K, w = (1 - visibility)^k.

    label: (N, K), rows sum to 1; visibility: (..., N) in [0, 1]; exponent k > 0. Returns float64 (..., N, K): the
    label itself at visibility 1, uniform at 0; the most likely class never changes in between. Raises ValueError where
    one of them is not what it has to be.
    """
    label, visibility = np.asarray(label, np.float64), np.asarray(visibility, np.float64)
    check_distributions(label, "label")
    if not ((visibility >= 0) & (visibility <= 1)).all():
        raise ValueError("visibility: a value is not between 0 and 1")
    if not (np.isfinite(exponent) and exponent > 0):
        raise ValueError(f"the exponent has to be a positive number, not {exponent}")
    hidden = (1 - visibility)[..., None] ** exponent
    return (1 - hidden) * label + hidden / label.shape[1]
