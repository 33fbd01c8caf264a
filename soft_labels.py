"""Soft labels: how ambiguous a face is, and how much more so once corrupted. Pure functions in float64, no I/O.

The steps of FER-C (arXiv:2312.11542): a Gaussian mixture over valence and arousal gives the neighbouring expressions
(eqs. 5, 6), `fuse` mixes it with the given label (eq. 7), `difference` and `visibility` say what a corruption hides
(eq. 9), `soften` spreads that much of the label evenly (eqs. 8, 10, 11; the curve is SoftAug's, arXiv:2211.04625).
"""
import json
from dataclasses import dataclass

import cv2
import numpy as np

MEASURES = ("l2", "mse", "ssim", "psnr", "l2-uint8")
ONE_GREY_LEVEL = 20 * np.log10(255)  # dB: the PSNR of images that differ by one grey level everywhere


@dataclass(frozen=True)
class GMM:
    """One Gaussian per class in (valence, arousal): weights (K,), means (K, 2), covariances (K, 2, 2), float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def posterior(self, va):
        """P(class | valence, arousal) (eq. 6). va: (N, 2) -> float64 (N, K), rows sum to 1 however far the point is."""
        va = np.asarray(va, np.float64)
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
    def from_json(cls, text):
        """The inverse of `to_json`, exact to the last bit. Raises ValueError when the text is something else."""
        try:
            parts = json.loads(text)
            gmm = cls(*(np.array(parts[name], np.float64) for name in ("weights", "means", "covariances")))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the parameters of a mixture: {error}") from None
        count = len(gmm.weights)
        if gmm.means.shape != (count, 2) or gmm.covariances.shape != (count, 2, 2):
            raise ValueError("not the parameters of a mixture: the shapes do not fit")
        return gmm


def fit_gmm(va, labels, num_classes):
    """The mixture of the training set (eq. 5, constants as in the FER-C release).

    va: (N, 2) valence and arousal, NaN rows are left out; labels: int (N,). Per class: weight N_k / N; mean and biased
    covariance over the points whose valence and arousal both lie strictly within one standard deviation of the class
    mean. Returns a `GMM`. Raises ValueError naming a class with fewer than three such points or a singular covariance.
    """
    va, labels = np.asarray(va, np.float64), np.asarray(labels)
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


def fuse(labels, posterior, beta=0.5):
    """beta * one-hot + (1 - beta) * posterior (eq. 7). labels: int (N,); posterior: (N, K); beta: a number or (N,).
    Returns float64 (N, K). Raises ValueError unless beta is a share."""
    posterior, beta = np.asarray(posterior, np.float64), np.reshape(np.asarray(beta, np.float64), (-1, 1))
    if not ((beta >= 0) & (beta <= 1)).all():
        raise ValueError(f"beta is a share between 0 and 1, not {beta.squeeze()}")
    return beta * np.eye(posterior.shape[1])[np.asarray(labels)] + (1 - beta) * posterior


def difference(clean, corrupted, measure="l2"):
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


def visibility(difference, worst):
    """What is left to see: clip(1 - difference / worst, 0, 1) (eq. 9). `worst`: the largest mean difference of the 85
    cells. Any shape in, float64 of the same shape out."""
    if not worst > 0:
        raise ValueError(f"the worst difference has to be positive, not {worst}")
    return np.clip(1 - np.asarray(difference, np.float64) / worst, 0, 1)


def soften(label, visibility, exponent=2):
    """Spread what cannot be seen evenly over the classes (eqs. 10, 11): (1 - w) label + w / K, w = (1 - visibility)^k.

    label: (N, K), rows sum to 1; visibility: (..., N) in [0, 1]; exponent k. Returns float64 (..., N, K): the label
    itself at visibility 1, uniform at 0; the most likely class never changes in between.
    """
    label = np.asarray(label, np.float64)
    hidden = (1 - np.asarray(visibility, np.float64))[..., None] ** exponent
    return (1 - hidden) * label + hidden / label.shape[1]
