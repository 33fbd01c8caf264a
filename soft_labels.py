"""Soft labels: how ambiguous a face is, and how much more ambiguous a corruption makes it.

Pure functions in float64, without files, in the order of their use. K is the number of classes, N of images.

  fit_gmm       a Gaussian mixture over valence and arousal, one Gaussian for each class      FER-C eq. 5
  GMM.posterior P(class | valence, arousal) of every image                                    eq. 6
  fuse          the given label and a distribution (the posterior), mixed                     eq. 7
  difference    how far a corrupted image is from the clean one
  visibility    how much of an image a corruption leaves visible, from the difference         eq. 9
  soften        the fused label, a part of it spread evenly over the classes                  eqs. 8, 10, 11

FER-C: arXiv:2312.11542. The softening curve is SoftAug's (arXiv:2211.04625).
"""
import json
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LARGEST = {"l2": 1, "mse": 1, "ssim": 2, "psnr": 1, "l2-uint8": 255}  # {measure: no difference is larger}
MEASURES = tuple(LARGEST)
TOLERANCE = 1e-4  # how far the sum of a distribution may be from 1: fractions of annotators are published rounded
ONE_GREY_LEVEL = 20 * np.log10(255)  # the PSNR of images that differ by one grey level everywhere (dB)


@dataclass(frozen=True)
class GMM:
    """A Gaussian mixture over (valence, arousal), one Gaussian for each of K classes (eq. 5)."""

    weights: np.ndarray  # float64 (K,), positive, sum 1
    means: np.ndarray  # float64 (K, 2)
    covariances: np.ndarray  # float64 (K, 2, 2), positive definite

    def posterior(self, va: np.ndarray) -> np.ndarray:
        """P(class | valence, arousal) (eq. 6), float64 (N, K).

        va: float (N, 2), valence and arousal. The sums are taken of logarithms, so that rows sum to 1 also for points
        that are far from all classes. Raises ValueError where a valence or an arousal is not a finite number.
        """
        va = np.asarray(va, np.float64)
        _require_finite(va, "valence and arousal")
        offset = va[:, None, :] - self.means
        solved = np.linalg.solve(self.covariances, offset[..., None])[..., 0]
        log_joint = (np.log(self.weights) - 0.5 * np.linalg.slogdet(self.covariances)[1]
                     - 0.5 * (offset * solved).sum(-1))
        joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
        return joint / joint.sum(1, keepdims=True)

    def take(self, classes: Sequence[int]) -> "GMM":
        """The mixture of these classes (indices) in this order, its weights divided by their sum."""
        weights = self.weights[classes]
        return GMM(weights / weights.sum(), self.means[classes], self.covariances[classes])

    def to_json(self) -> str:
        """The parameters as JSON text; `from_json` reads it."""
        return json.dumps({"weights": self.weights.tolist(), "means": self.means.tolist(),
                           "covariances": self.covariances.tolist()}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "GMM":
        """The inverse of `to_json`, exact to the last bit. Raises ValueError where the text is something else or no
        mixture (see `check`); its message names classes as the list `classes` in the text does, if there is one."""
        try:
            values = json.loads(text)
            gmm = cls(np.array(values["weights"], np.float64), np.array(values["means"], np.float64),
                      np.array(values["covariances"], np.float64))
        except KeyError as error:
            raise ValueError(f"not the parameters of a mixture: {error} is missing") from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"not the parameters of a mixture: {error}") from None
        names = values.get("classes")
        if not isinstance(names, list) or len(names) != gmm.weights.size:
            names = None
        gmm.check(names)
        return gmm

    def check(self, classes: Sequence[str] | None = None) -> None:
        """Raises ValueError unless this is a mixture: positive weights that sum to 1, finite means, symmetric positive
        definite covariances. classes: names of the classes for the message, which has numbers without them."""
        count = self.weights.size
        shapes = (self.weights.shape, self.means.shape, self.covariances.shape)
        if count == 0 or shapes != ((count,), (count, 2), (count, 2, 2)):
            raise ValueError("not the parameters of a mixture: the shapes do not fit")
        for k in range(count):
            fault = _fault_of_gaussian(self.weights[k], self.means[k], self.covariances[k])
            if fault:
                name = k if classes is None else classes[k]
                raise ValueError(f"not the parameters of a mixture: class {name} has {fault}")
        total = self.weights.sum()
        if abs(total - 1) > TOLERANCE:
            raise ValueError(f"not the parameters of a mixture: its weights sum to {total:.6g}, not to 1")


def _fault_of_gaussian(weight: float, mean: np.ndarray, covariance: np.ndarray) -> str | None:
    """What is wrong with a Gaussian of a mixture, as words that follow "class k has"; None if nothing is. mean: (2,);
    covariance: (2, 2)."""
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


def check_distributions(values: np.ndarray, name: str) -> None:
    """Raises ValueError unless every row of `values`, float (..., K), is a distribution: finite, nowhere negative, and
    with the sum 1 within `TOLERANCE`. name: of the values, for the message."""
    _require_finite(values, name)
    if not values.size:
        return
    largest_error = np.abs(values.sum(-1, dtype=np.float64) - 1).max()
    if values.min() < 0 or largest_error > TOLERANCE:
        raise ValueError(f"{name}: a row is no distribution (a negative value, or a sum that is not 1)")


def _require_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: a value is not a finite number")


def fit_gmm(va: np.ndarray, labels: np.ndarray, num_classes: int) -> GMM:
    """The mixture of a training set (eq. 5; details as in the FER-C release).

    va: float (N, 2), valence and arousal; rows with NaN are left out. labels: int (N,), 0 to num_classes - 1.
    The weight of class k is N_k / N. Its mean and its biased covariance are taken over the points whose valence and
    arousal both lie strictly within one standard deviation of the mean of the class. Raises ValueError naming a class
    that has fewer than three such points or a singular covariance; also where a value is infinite or a label is out
    of range.
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


def _require_classes(labels: np.ndarray, num_classes: int) -> None:
    if labels.size and not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"a label is no class: labels go from 0 to {num_classes - 1}")


def fuse(labels: np.ndarray, distribution: np.ndarray, beta: float | np.ndarray = 0.5) -> np.ndarray:
    """The fused label, beta * one-hot(label) + (1 - beta) * distribution (eq. 7), float64 (N, K).

    labels: int (N,), 0 to K - 1; distribution: float (N, K), rows sum to 1, in FER-C the posterior of the mixture;
    beta: the weight of the given label, a number or float (N,). Raises ValueError where an argument is not as
    described. (Training computes the same in float32 for every batch: `training.run.Training.target`.)
    """
    labels = np.asarray(labels)
    distribution = np.asarray(distribution, np.float64)
    weight = np.reshape(np.asarray(beta, np.float64), (-1, 1))
    if not ((weight >= 0) & (weight <= 1)).all():
        raise ValueError(f"beta is a fraction between 0 and 1, not {weight.squeeze()}")
    check_distributions(distribution, "distribution")
    num_classes = distribution.shape[1]
    _require_classes(labels, num_classes)
    one_hot = np.eye(num_classes)[labels]
    return weight * one_hot + (1 - weight) * distribution


def difference(clean: np.ndarray, corrupted: np.ndarray, measure: str = "l2") -> float:
    """The difference of a corrupted image to the clean one: 0 for equal images, at most `LARGEST[measure]`.

    clean, corrupted: uint8 (H, W, 3), RGB. measure:
      l2        root of the mean squared difference of values in [0, 1] (the definition in the text of FER-C)
      mse       mean squared difference of values in [0, 1]
      ssim      1 - SSIM of the grey images (FER-C, appendix A.3)
      psnr      1 - PSNR / 48.13 dB, clipped to [0, 1]; 48.13 dB is the PSNR of a difference of one grey level
      l2-uint8  mean of the squared differences in 8-bit arithmetic, which wraps at 256, as in the published labels
    Raises ValueError where there is no such measure.
    """
    if measure == "l2-uint8":
        change = clean - corrupted
        return float((change * change).mean(dtype=np.float64))
    if measure == "ssim":
        from skimage.metrics import structural_similarity  # slow to import

        return float(1 - structural_similarity(_grey(clean), _grey(corrupted), data_range=255))
    # The sum of squares is a whole number, so OpenCV's is exact once it is rounded. It is a hundred times faster than
    # float64 arrays.
    mse = round(cv2.norm(clean, corrupted, cv2.NORM_L2SQR)) / clean.size / 255**2
    if measure == "l2":
        return float(np.sqrt(mse))
    if measure == "mse":
        return float(mse)
    if measure == "psnr":
        if mse == 0:
            return 0.0
        return float(np.clip(1 + 10 * np.log10(mse) / ONE_GREY_LEVEL, 0, 1))  # PSNR is -10 log10(mse)
    raise ValueError(f"unknown measure {measure!r}; known: {', '.join(MEASURES)}")


def _grey(image: np.ndarray) -> np.ndarray:
    """The luma of an RGB image (ITU-R BT.601), float64 (H, W)."""
    return image @ np.array([0.299, 0.587, 0.114])


def visibility(difference: np.ndarray, worst: float) -> np.ndarray:
    """How much of an image a corruption leaves visible: clip(1 - difference / worst, 0, 1) (eq. 9).

    difference: float of any shape; the result is float64 of the same shape. worst: D_worst, one number
    for a set: the largest of the mean differences of all corruptions at all severities. Raises ValueError unless
    `worst` is positive and all numbers are finite.
    """
    if not (np.isfinite(worst) and worst > 0):
        raise ValueError(f"the worst difference has to be a positive number, not {worst}")
    difference = np.asarray(difference, np.float64)
    _require_finite(difference, "difference")
    return np.clip(1 - difference / worst, 0, 1)


def soften(label: np.ndarray, visibility: np.ndarray, exponent: float = 2) -> np.ndarray:
    """The soft label, (1 - w) * label + w / K with w = (1 - visibility) ** exponent (eqs. 8, 10, 11).

    A part w of the label is spread evenly over the K classes: nothing at visibility 1, all of it at visibility 0, where
    the soft label is uniform. In between the most likely class stays the same. For a one-hot label, the true class
    gets SoftAug's 1 - (1 - 1/K) * (1 - visibility) ** exponent.

    label: float (N, K), rows are distributions; visibility: float (..., N), in [0, 1]; exponent: a positive number.
    Returns float64 (..., N, K). Raises ValueError where an argument is not as described.
    """
    label = np.asarray(label, np.float64)
    visibility = np.asarray(visibility, np.float64)
    check_distributions(label, "label")
    if not ((visibility >= 0) & (visibility <= 1)).all():
        raise ValueError("visibility: a value is not between 0 and 1")
    if not (np.isfinite(exponent) and exponent > 0):
        raise ValueError(f"the exponent has to be a positive number, not {exponent}")
    spread = (1 - visibility)[..., None] ** exponent
    return (1 - spread) * label + spread / label.shape[1]
