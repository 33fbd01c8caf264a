"""Training losses: `build(name, num_classes, class_weights, **options)`, names in `LOSSES`.

Every loss takes logits and returns the mean over the batch; `.terms(logits, target)` names its parts, calling it adds
them up. The calibrated objective of FER-C (arXiv 2312.11542, eq. 14) is `build("maxent+mbls", num_classes)`.

p = softmax(logits), y the target distribution, w the class weights, x = (0, 1, ..., K-1) the class index read as a
number, E = sum_k p_k x_k.
"""
import functools
import inspect
import math

import numpy as np
import scipy  # loads its parts on use: most runs need no solver
import torch
from torch import nn
from torch.nn import functional as F

MULTIPLIERS = ("ferc", "constant", "aaai", "gibbs")  # of `MaxEnt`; the first is the published one


def build(name, num_classes, class_weights=None, **chosen):
    """One loss, ready to be moved to the device of the logits.

    name: a key of `LOSSES`. class_weights: (K,) positive and finite, or None for 1; they multiply the cross-entropy or
    focal term class by class, and the batch mean still divides by the number of samples (not by the sum of weights).
    chosen: its options by name, for instance `gamma`, `multiplier`, `margin`; `options(name)` lists them.
    Raises ValueError on an unknown name or option, or a value that makes no sense.
    """
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}")
    return LOSSES[name](num_classes, class_weights, **chosen)


def options(name):
    """Names of the options that `build(name, ...)` takes. Raises ValueError on an unknown loss."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    bound = getattr(LOSSES[name], "keywords", ())
    known = [option for option in inspect.signature(LOSSES[name]).parameters if option not in bound]
    return tuple(known[2:])  # after num_classes and class_weights


def class_weights(labels, num_classes, rule="balanced"):
    """Weights (K,) float32 from the labels trained on, or None for the rule "none".

    labels: integers (N,) in 0..K-1, tensor or array. rule, with n_k images of class k: "balanced" N / (K n_k), so that
    the average sample weighs 1; "released" max(n) / n_k, as in the release of FER-C.
    Raises ValueError on an unknown rule, a label out of range, or a class without images.
    """
    if rule not in ("balanced", "released", "none"):
        raise ValueError(f"unknown rule {rule!r} for class weights; known: balanced, released, none")
    if rule == "none":
        return None
    labels = labels.cpu() if torch.is_tensor(labels) else torch.from_numpy(np.array(labels))
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, not within 0..{num_classes - 1}")
    count = torch.bincount(labels, minlength=num_classes).double()
    empty = (count == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"no image of class {', '.join(map(str, empty))}: class weights need one of every class")
    whole = count.max() if rule == "released" else count.mean()
    return (whole / count).float()


class Loss(nn.Module):
    """What all losses share: checks, float32 and the weighted mean. A subclass gives `compute(logits, y)`."""

    def __init__(self, num_classes, class_weights=None):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a loss needs at least 2 classes, not {num_classes}")
        weights = torch.ones(num_classes) if class_weights is None else torch.as_tensor(class_weights).float()
        if weights.shape != (num_classes,) or not weights.isfinite().all() or not (weights > 0).all():
            raise ValueError(f"class weights must be {num_classes} positive finite numbers, not {weights.tolist()}")
        self.num_classes = num_classes
        self.register_buffer("class_weights", weights.clone(), persistent=False)

    def forward(self, logits, target):
        """The sum of `terms`, a scalar."""
        return sum(self.terms(logits, target).values())

    def terms(self, logits, target):
        """The parts of the loss by name, scalars, in float32 (float64 for float64 logits), under autocast too.

        logits: (N, K), any floating type, any finite value. target: class indices (N,) of an integer type, or
        distributions (N, K) of a floating type. Raises ValueError where the shapes do not fit.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or not len(logits):
            raise ValueError(f"logits must be (N, {self.num_classes}) with N > 0, not {tuple(logits.shape)}")
        hard = not target.is_floating_point()
        if target.shape != (logits.shape[:1] if hard else logits.shape):
            raise ValueError(
                f"target {tuple(target.shape)} of {target.dtype} does not fit logits {tuple(logits.shape)}: "
                "give class indices (N,) or distributions (N, K)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            y = F.one_hot(target.long(), self.num_classes) if hard else target
            return self.compute(logits, y.to(logits.dtype))

    def compute(self, logits, y):
        """{name: scalar} from float32 or float64 logits and target distributions (N, K)."""
        raise NotImplementedError

    def weighted_mean(self, per_class, y):
        """mean_i sum_k w_k y_ik per_class_ik."""
        return (self.class_weights * y * per_class).sum(1).mean()


class CE(Loss):
    """Cross-entropy: -sum_k w_k y_k log p_k."""

    def compute(self, logits, y):
        return {"ce": self.weighted_mean(-logits.log_softmax(1), y)}


class Focal(Loss):
    """Focal loss (arXiv 1708.02002, eq. 4): -sum_k w_k (1 - p_k)^gamma y_k log p_k."""

    def __init__(self, num_classes, class_weights=None, gamma=1.0):
        super().__init__(num_classes, class_weights)
        if gamma < 0:
            raise ValueError(f"gamma must not be negative: {gamma}")
        self.gamma = gamma

    def compute(self, logits, y):
        log_p = logits.log_softmax(1)
        rest = -torch.expm1(log_p)  # 1 - p without cancellation
        factor = rest.clamp_min(1e-12) ** self.gamma  # for gamma < 1 the slope at p = 1 is infinite
        return {"focal": self.weighted_mean(-factor * log_p, y)}


class InvFocal(Focal):
    """Inverse focal loss (Wang, Feng & Zhang, NeurIPS 2021): -sum_k w_k (1 + p_k)^gamma y_k log p_k."""

    def compute(self, logits, y):
        log_p = logits.log_softmax(1)
        return {"invfocal": self.weighted_mean(-((1 + log_p.exp()) ** self.gamma) * log_p, y)}


class Poly(CE):
    """Poly-1 (arXiv 2204.12511): w_t (-log p_t + epsilon (1 - p_t)); soft targets take the mean over y.

    The release differs by the constant K - 1 and leaves the weight off the second term.
    """

    def __init__(self, num_classes, class_weights=None, epsilon=1.0):
        super().__init__(num_classes, class_weights)
        self.epsilon = epsilon

    def compute(self, logits, y):
        rest = -torch.expm1(logits.log_softmax(1))
        return super().compute(logits, y) | {"poly": self.weighted_mean(self.epsilon * rest, y)}


class MaxEnt(Focal):
    """Maximum-entropy loss: focal + lambda |E - mu|, in four readings of the multiplier lambda.

    "ferc": FER-C, arXiv 2312.11542, eq. 12, in closed form. mu = (K-1)/2, d = mu - E, V = sum_k p_k (x_k - E)^2,
        lambda = clamp(d / V, 0, 1): the penalty is 0 for d <= 0, d^2 / V for 0 < d < V, d for d >= V.
        It is one-sided (it acts only where the mean class index is too low) and, the class index being read as a
        number, it depends on the order of the classes: another order of the same classes is another loss.
    "constant": mu = (K-1)/2, two-sided; |lambda| with sum_k x_k exp(-lambda x_k) = e mu.
    "aaai": the released code of MaxEnt loss (arXiv 2310.17159). One lambda per class, from the class frequencies
        `prior`, times |E - mu| + |E - y.x|, a global and a local constraint. `constraint` picks the moments: "mean";
        "variance", which is a raw second moment; "both", mean and central variance. Some lambdas are negative and
        reward the violation; they are kept as released.
    "gibbs": |lambda| with p_k ~ exp(-lambda x_k) having the mean mu of `prior`. A uniform prior makes lambda 0, which
        is the focal loss.
    The last three read the class index as a number too; they are solved in float64, once, at construction.

    detach_multiplier: treat lambda of "ferc" as a constant (the method); False lets gradients through (the release).
    prior: (K,) class frequencies for "aaai" and "gibbs", None for uniform. Class weights do not reach the penalty.
    Raises ValueError on an unknown word, a prior that is none, or an option that the multiplier does not use.
    """

    def __init__(
        self,
        num_classes,
        class_weights=None,
        gamma=1.0,
        multiplier="ferc",
        detach_multiplier=True,
        prior=None,
        constraint="mean",
    ):
        super().__init__(num_classes, class_weights, gamma)
        if multiplier not in MULTIPLIERS:
            raise ValueError(f"unknown multiplier {multiplier!r}; known: {', '.join(MULTIPLIERS)}")
        if constraint not in ("mean", "variance", "both"):
            raise ValueError(f"unknown constraint {constraint!r}; known: mean, variance, both")
        if constraint != "mean" and multiplier != "aaai":
            raise ValueError(f"the multiplier {multiplier} has the constraint mean only, not {constraint}")
        if prior is not None and multiplier not in ("aaai", "gibbs"):
            raise ValueError(f"the multiplier {multiplier} always takes the uniform prior")
        prior = _checked_prior(prior, num_classes)
        if multiplier == "constant":
            lam = constant_multiplier(num_classes)
        elif multiplier == "aaai":
            lam = aaai_multipliers(prior.numpy(), constraint)
        elif multiplier == "gibbs":
            lam = gibbs_multiplier(prior.numpy())
        else:
            lam = None  # "ferc" has one for every sample

        self.multiplier = multiplier
        self.detach_multiplier = detach_multiplier
        self.constraint = constraint
        self.register_buffer("goal", moments(prior[None], constraint).float(), persistent=False)
        self.register_buffer("lam", None if lam is None else torch.as_tensor(lam).float(), persistent=False)

    def compute(self, logits, y):
        penalty = self.penalty(logits.softmax(1), y)
        return super().compute(logits, y) | {"maxent": penalty.mean()}

    def penalty(self, p, y):
        """lambda times the deviation, (N,), from probabilities and target distributions (N, K)."""
        moment = moments(p, self.constraint)
        deviation = (moment - self.goal).abs()
        if self.multiplier == "ferc":
            mean, variance = moments(p, "both").split(1, dim=1)
            # The clamp keeps a saturated p, V = 0, from 0/0; the release loses V to cancellation there.
            lam = ((self.goal - mean) / variance.clamp_min(1e-12)).clamp(0, 1)
            lam = lam.detach() if self.detach_multiplier else lam
        elif self.multiplier == "aaai":
            deviation = deviation + (moment - moments(y, self.constraint)).abs()
            lam = self.lam[y.argmax(1)]
        else:
            lam = self.lam
        return (lam * deviation).sum(1)


def moments(p, constraint):
    """Moments of the class index under distributions p (N, K): "mean" (N, 1), "variance" the second raw moment (N, 1),
    "both" mean and central variance (N, 2)."""
    x = torch.arange(p.shape[1], dtype=p.dtype, device=p.device)
    if constraint == "variance":
        return (p * x**2).sum(1, keepdim=True)
    mean = (p * x).sum(1, keepdim=True)
    if constraint == "mean":
        return mean
    return torch.cat([mean, (p * (x - mean) ** 2).sum(1, keepdim=True)], dim=1)


def constant_multiplier(num_classes):
    """|lambda| with sum_k x_k exp(-lambda x_k) = e (K-1)/2, in float64."""
    return abs(_exponential_root(np.arange(num_classes, dtype=float), math.e * (num_classes - 1) / 2))


def gibbs_multiplier(prior):
    """|lambda| of the Gibbs distribution p_k ~ exp(-lambda x_k) that has the mean of the prior (K,), in float64.

    The absolute value, since a negative weight on |E - mu| would reward the violation.
    """
    x = np.arange(len(prior), dtype=float)
    return abs(scipy.optimize.brentq(lambda lam: scipy.special.softmax(-lam * x) @ x - prior @ x, -50, 50, xtol=1e-14))


def aaai_multipliers(prior, constraint):
    """The multipliers of arXiv 2310.17159 as its code solves them: float64 (K, 1), or (K, 2) for "both".

    Class i aims half way between the moments of the prior and its own, and the normaliser is held at e:
    sum_k f_k exp(-lambda f_k) = e (mu + f_i) / 2 with f = x ("mean") or x^2 ("variance"), mu = sum_k prior_k f_k.
    "both": m_i = (mu + i) / 2, c = (x - m_i)^2, v_i half of sum_k prior_k (x_k - m_k)^2 + (i - m_i)^2; solve
    sum_k x_k q_k = e m_i and sum_k c_k q_k = e v_i with q = exp(-lambda_1 x - lambda_2 c). (The m_k in v_i is the
    release's; m_i must have been meant.) Raises ValueError where "both" has no solution.
    """
    x = np.arange(len(prior), dtype=float)
    if constraint != "both":
        f = x if constraint == "mean" else x**2
        return np.array([[_exponential_root(f, math.e * (prior @ f + own) / 2)] for own in f])

    middle = (prior @ x + x) / 2
    spread = (prior @ (x - middle) ** 2 + (x - middle) ** 2) / 2

    def residual(lam, m, v):
        c = (x - m) ** 2
        q = np.exp(-lam[0] * x - lam[1] * c)
        return x @ q - math.e * m, c @ q - math.e * v

    goals = zip(middle, spread, strict=True)
    found = [scipy.optimize.root(residual, (0.0, 0.0), args=goal, tol=1e-12) for goal in goals]
    if not all(one.success for one in found):
        raise ValueError(f"no multipliers for both constraints under the prior {prior.tolist()}")
    return np.array([one.x for one in found])


def _exponential_root(f, goal):
    """lambda with sum_k f_k exp(-lambda f_k) = goal: the left side falls from beyond e max(f) at -1 to nothing."""
    return scipy.optimize.brentq(lambda lam: f @ np.exp(-lam * f) - goal, -1, 50, xtol=1e-14)


def _checked_prior(prior, num_classes):
    if prior is None:
        return torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)
    prior = torch.as_tensor(prior).double().cpu()
    if prior.shape != (num_classes,) or not (prior > 0).all() or not abs(prior.sum() - 1) < 1e-4:
        raise ValueError(f"a prior is {num_classes} positive class frequencies that sum to 1, not {prior.tolist()}")
    return prior / prior.sum()


class Margin(nn.Module):
    """The margin of MbLS (arXiv 2111.15430): weight * mean_i sum_k relu(max_j z_ij - z_ik - margin), logits z (N, K).

    The defaults are FER-C's; the official form is margin 10, weight 0.1, reduction "mean" (over classes).
    Raises ValueError on a negative margin or weight, or another reduction.
    """

    def __init__(self, margin=8.0, weight=1.0, reduction="sum"):
        super().__init__()
        if margin < 0 or weight < 0:
            raise ValueError(f"margin and weight must not be negative: {margin}, {weight}")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"unknown reduction {reduction!r} over classes; known: sum, mean")
        self.margin = margin
        self.weight = weight
        self.reduction = reduction

    def forward(self, logits):
        excess = F.relu(logits.amax(1, keepdim=True) - logits - self.margin)
        per_sample = excess.sum(1) if self.reduction == "sum" else excess.mean(1)
        return self.weight * per_sample.mean()


class MBLS(CE):
    """Cross-entropy with the margin of MbLS; options as in `Margin`."""

    def __init__(self, num_classes, class_weights=None, margin=8.0, weight=1.0, reduction="sum"):
        super().__init__(num_classes, class_weights)
        self.mbls = Margin(margin, weight, reduction)

    def compute(self, logits, y):
        return super().compute(logits, y) | {"mbls": self.mbls(logits)}


class MaxEntMBLS(MaxEnt):
    """FER-C's calibrated objective (arXiv 2312.11542, eq. 14); options as in `MaxEnt` and `Margin`."""

    def __init__(
        self,
        num_classes,
        class_weights=None,
        gamma=1.0,
        multiplier="ferc",
        detach_multiplier=True,
        prior=None,
        constraint="mean",
        margin=8.0,
        weight=1.0,
        reduction="sum",
    ):
        super().__init__(num_classes, class_weights, gamma, multiplier, detach_multiplier, prior, constraint)
        self.mbls = Margin(margin, weight, reduction)

    def compute(self, logits, y):
        return super().compute(logits, y) | {"mbls": self.mbls(logits)}


class AvUC(CE):
    """Cross-entropy + beta * AvUC, accuracy versus uncertainty calibration (arXiv 2012.07923).

    Accurate means that the prediction is the argmax of the sample's own target (the release, by a slip, compares the
    whole batch with its first sample). The gradient is finite but not bounded: clip it, or take large batches.
    """

    def __init__(self, num_classes, class_weights=None, beta=3.0):
        super().__init__(num_classes, class_weights)
        self.beta = beta

    def compute(self, logits, y):
        p = logits.softmax(1)
        entropy = _entropy(logits)
        confidence, predicted = p.max(1)
        accurate = predicted == y.argmax(1)
        right = torch.where(accurate, confidence, 1 - confidence)
        certain, uncertain = right * (1 - entropy.tanh()), right * entropy.tanh()
        return super().compute(logits, y) | {"avuc": self.beta * _avu(entropy, accurate, certain, uncertain)}


class SoftAvUC(Focal):
    """Focal + beta * Soft-AvUC (arXiv 2108.00106): a soft step on entropy / log K, at 0.1 with temperature 0.01, takes
    the place of the confidence in AvUC."""

    def __init__(self, num_classes, class_weights=None, gamma=1.0, beta=1.0):
        super().__init__(num_classes, class_weights, gamma)
        self.beta = beta

    def compute(self, logits, y):
        entropy = _entropy(logits)
        accurate = logits.argmax(1) == y.argmax(1)
        share = (entropy / math.log(self.num_classes)).clamp(1e-6, 1 - 1e-6)  # the logits of 0 and 1 are infinite
        doubt = torch.sigmoid((share.logit() - math.log(0.1 / 0.9)) / 0.01)
        certain, uncertain = (1 - doubt) * (1 - entropy.tanh()), doubt * entropy.tanh()
        return super().compute(logits, y) | {"avuc": self.beta * _avu(entropy, accurate, certain, uncertain)}


def _entropy(logits):
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def _avu(entropy, accurate, certain, uncertain):
    """-log of the area under AvU over 21 thresholds between the least and the greatest entropy of the batch.

    AvU is the share of the accurate-and-certain and the inaccurate-and-uncertain; a sample counts with the weight
    `certain` where its entropy is at most the threshold, else with `uncertain`. All arguments are (N,).
    """
    steps = torch.linspace(0, 1, 21, dtype=entropy.dtype, device=entropy.device)
    thresholds = torch.lerp(entropy.min(), entropy.max(), steps)
    is_certain = entropy <= thresholds[:, None]
    weight = torch.where(is_certain, certain, uncertain)
    good = (weight * (is_certain == accurate)).sum(1)
    return -torch.log(torch.trapezoid(good / (weight.sum(1) + 1e-10), steps) + 1e-10)


class CPC(CE):
    """Cross-entropy + pairwise constraints (Cheng & Vasconcelos, CVPR 2022) on logits v, t the argmax of the target.

    bdc = -1/(K-1) sum_{k != t} log sigmoid(v_t - v_k): the true class against every other;
    bec = -1/((K-1)(K-2)) sum_{j, k != t} log sigmoid(v_j - v_k) / 2: the others stay level.
    Raises ValueError for fewer than 3 classes.
    """

    def __init__(self, num_classes, class_weights=None):
        super().__init__(num_classes, class_weights)
        if num_classes < 3:
            raise ValueError("cpc compares the wrong classes with each other: it needs at least 3 classes")

    def compute(self, logits, y):
        true = F.one_hot(y.argmax(1), self.num_classes).to(logits.dtype)
        other = 1 - true
        pairs = -F.logsigmoid(logits[:, :, None] - logits[:, None, :])
        bdc = torch.einsum("nj,nk,njk->n", true, other, pairs) / (self.num_classes - 1)
        bec = torch.einsum("nj,nk,njk->n", other, other, pairs) / (2 * (self.num_classes - 1) * (self.num_classes - 2))
        return super().compute(logits, y) | {"bdc": bdc.mean(), "bec": bec.mean()}


LOSSES = {
    "ce": CE,
    "focal": Focal,
    "maxent": MaxEnt,
    "mbls": MBLS,
    "maxent+mbls": MaxEntMBLS,
    "invfocal": InvFocal,
    "poly": Poly,
    "avuc": AvUC,
    "soft-avuc": SoftAvUC,
    "cpc": CPC,
} | {  # MaxEnt with another multiplier is another loss, filed and tabled under its own name
    f"maxent-{word}{more}": functools.partial(loss, multiplier=word)
    for word in MULTIPLIERS[1:]
    for more, loss in (("", MaxEnt), ("+mbls", MaxEntMBLS))
}
