"""Training losses: `build(name, num_classes, class_weights, **options)`; the names are the keys of `LOSSES`.

A loss is a sum of named terms. Each kind of term is a subclass of `Term`, and `LOSSES` lists the terms of every loss.
For example, "maxent+mbls" consists of the focal term, the MaxEnt term and the MbLS term; it is the calibrated loss of
FER-C (arXiv 2312.11542, eq. 14). A loss takes logits and targets and gives the mean over the batch:
`.terms(logits, target)` returns its terms by name, and calling it returns their sum.

Notation: N images, K classes; z logits; p = softmax(z); y the target distribution; w the class weights; t the class
with the largest y; x = (0, 1, ..., K-1) the class index read as a number; E = sum_k p_k x_k.

Pure mathematics: no device code, nothing is read or written.
"""
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy  # loads its parts on use: most runs need no solver
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional as F

MULTIPLIERS = ("ferc", "constant", "aaai", "gibbs")  # of `MaxEnt`; the first is that of FER-C


def build(name: str, num_classes: int, class_weights: ArrayLike | None = None, **chosen: Any) -> "Loss":
    """A loss, ready to be moved to the device of the logits.

    name: a key of `LOSSES`. class_weights: (K,) positive and finite, or None for 1; they multiply the
    likelihood terms (cross-entropy, the focal terms, and the term that Poly-1 adds) class by class, and the batch mean
    still divides by the number of images (not by the sum of weights).
    chosen: its options by name, for instance `gamma`, `multiplier`, `margin`; `options(name)` lists them.
    Raises ValueError on an unknown name or option, or an invalid value.
    """
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}")
    loss = Loss(num_classes, class_weights)
    values = {**LOSSES[name].fixed, **chosen}
    for term in LOSSES[name].terms:
        own = {option: values[option] for option in options_of_term(term) if option in values}
        loss.parts.append(term(num_classes, **own))
    return loss


def options(name: str) -> tuple[str, ...]:
    """Names of the options that `build(name, ...)` takes. Raises ValueError on an unknown loss."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    names = []
    for term in LOSSES[name].terms:
        names += [option for option in options_of_term(term) if option not in LOSSES[name].fixed]
    return tuple(names)


def options_of_term(term: type["Term"]) -> list[str]:
    """Names of the options of a kind of term: the parameters of its class after the number of classes."""
    return list(inspect.signature(term).parameters)[1:]


def class_weights(labels: ArrayLike | torch.Tensor, num_classes: int, rule: str = "balanced") -> torch.Tensor | None:
    """Weights (K,) float32 from the labels trained on, or None for the rule "none".

    labels: integers (N,) in 0..K-1, tensor or array. rule, with n_k images of class k: "balanced" N / (K n_k), so that
    the average image weighs 1; "released" max(n) / n_k, as in the FER-C release.
    Raises ValueError on an unknown rule, a label out of range, or a class without images.
    """
    if rule not in ("balanced", "released", "none"):
        raise ValueError(f"unknown rule {rule!r} for class weights; known: balanced, released, none")
    if rule == "none":
        return None
    values = labels.cpu() if isinstance(labels, torch.Tensor) else torch.from_numpy(np.array(labels))
    if len(values) and not 0 <= values.min() <= values.max() < num_classes:
        raise ValueError(f"labels run from {values.min()} to {values.max()}, not within 0..{num_classes - 1}")
    count = torch.bincount(values, minlength=num_classes).double()
    empty = (count == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"no image of class {', '.join(map(str, empty))}: class weights need one of every class")
    whole = count.max() if rule == "released" else count.mean()
    return (whole / count).float()


# --- the loss, and what a term is ---


class Loss(nn.Module):
    """A sum of terms, `parts`. It checks logits, targets and class weights, and computes in float32, or in float64 for
    float64 logits."""

    def __init__(self, num_classes: int, class_weights: ArrayLike | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a loss needs at least 2 classes, not {num_classes}")
        weights = torch.ones(num_classes) if class_weights is None else torch.as_tensor(class_weights).float()
        if weights.shape != (num_classes,) or not weights.isfinite().all() or not (weights > 0).all():
            raise ValueError(f"class weights must be {num_classes} positive finite numbers, not {weights.tolist()}")
        self.num_classes = num_classes
        self.parts = nn.ModuleList()
        self.register_buffer("class_weights", weights.clone(), persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum of `terms`, a scalar."""
        return sum(self.terms(logits, target).values())

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms by name, scalars, in float32 (float64 for float64 logits), under autocast too.

        logits: (N, K), any floating type, any finite value. target: class indices (N,) of an integer type, or
        distributions (N, K) of a floating type. Raises ValueError where the shapes do not fit.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or not len(logits):
            raise ValueError(f"logits must be (N, {self.num_classes}) with N > 0, not {tuple(logits.shape)}")
        has_indices = not target.is_floating_point()
        expected = logits.shape[:1] if has_indices else logits.shape
        if target.shape != expected:
            raise ValueError(
                f"target {tuple(target.shape)} of {target.dtype} does not fit logits {tuple(logits.shape)}: "
                "give class indices (N,) or distributions (N, K)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            y = F.one_hot(target.long(), self.num_classes) if has_indices else target
            y = y.to(logits.dtype)
            # Autograd adds up the gradients of the logits in the reverse order of computation, and the last bits of a
            # sum depend on its order. So the order of computation is fixed, whatever the order of `parts`.
            in_order = sorted(self.parts, key=lambda part: part.order_of_computation)
            computed = {part: part(logits, y, self.class_weights) for part in in_order}
            values: dict[str, torch.Tensor] = {}
            for part in self.parts:
                values.update(computed[part])
            return values


class Term(nn.Module):
    """A kind of term, built as `Kind(num_classes, **options)`. `forward` gives its values by name.

    order_of_computation: the terms of a loss with 1 are computed first, then those with 2 (cross-entropy and the focal
    terms), then those with 3 (MbLS). Another order would change the last bits of gradients."""

    order_of_computation = 1

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """{name: scalar}, means over the batch. logits: float32 or float64 (N, K). y: target distributions (N, K) of
        the same type. weights: float32 (K,), of the classes; only the likelihood terms use them."""
        raise NotImplementedError


# --- likelihood terms ---


def weighted_mean(per_class: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """mean_i sum_k w_k y_ik per_class_ik, a scalar. per_class, y: (N, K). weights: (K,)."""
    return (weights * y * per_class).sum(1).mean()


class CrossEntropy(Term):
    """Cross-entropy: -sum_k w_k y_k log p_k."""

    order_of_computation = 2

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"ce": weighted_mean(-logits.log_softmax(1), y, weights)}


class Focal(Term):
    """Focal loss (arXiv 1708.02002, eq. 4): -sum_k w_k (1 - p_k)^gamma y_k log p_k."""

    order_of_computation = 2

    def __init__(self, num_classes: int, gamma: float = 1.0) -> None:
        super().__init__(num_classes)
        self.gamma = _checked_gamma(gamma)

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        log_p = logits.log_softmax(1)
        rest = -torch.expm1(log_p)  # 1 - p without cancellation
        factor = rest.clamp_min(1e-12) ** self.gamma  # for gamma < 1 the slope at p = 1 is infinite
        return {"focal": weighted_mean(-factor * log_p, y, weights)}


class InverseFocal(Term):
    """Inverse focal loss (Wang, Feng & Zhang, NeurIPS 2021): -sum_k w_k (1 + p_k)^gamma y_k log p_k."""

    order_of_computation = 2

    def __init__(self, num_classes: int, gamma: float = 1.0) -> None:
        super().__init__(num_classes)
        self.gamma = _checked_gamma(gamma)

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        log_p = logits.log_softmax(1)
        return {"invfocal": weighted_mean(-((1 + log_p.exp()) ** self.gamma) * log_p, y, weights)}


def _checked_gamma(gamma: float) -> float:
    if gamma < 0:
        raise ValueError(f"gamma must not be negative: {gamma}")
    return gamma


class Poly(Term):
    """The term that Poly-1 (arXiv 2204.12511) adds to cross-entropy: w_t epsilon (1 - p_t); with soft targets its mean
    over y. The FER-C release has K - p_t here: it adds K - 1, which has no gradient, and leaves out w_t."""

    def __init__(self, num_classes: int, epsilon: float = 1.0) -> None:
        super().__init__(num_classes)
        self.epsilon = epsilon

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        rest = -torch.expm1(logits.log_softmax(1))
        return {"poly": weighted_mean(self.epsilon * rest, y, weights)}


# --- maximum entropy ---


class MaxEnt(Term):
    """The term that the maximum-entropy loss adds to the focal term: lambda |E - mu|, where
    `multiplier` chooses one of four lambdas.

    "ferc": FER-C, arXiv 2312.11542, eq. 12, in closed form. mu = (K-1)/2, d = mu - E, V = sum_k p_k (x_k - E)^2,
        lambda = clamp(d / V, 0, 1): the penalty is 0 for d <= 0, d^2 / V for 0 < d < V, d for d >= V.
        It is one-sided (it acts only where the mean class index is too low) and, the class index being read as a
        number, it depends on the order of the classes: another order of the same classes is another loss.
    "constant": `constant_multiplier`; mu = (K-1)/2, two-sided.
    "aaai": `aaai_multipliers`, the released code of MaxEnt loss (arXiv 2310.17159): one lambda per class, times
        |E - mu| + |E - y.x|, a global and a local constraint. Negative lambdas, which reward the violation, are kept.
    "gibbs": `gibbs_multiplier`; mu is the mean of the prior. A uniform prior makes lambda 0, which is the focal loss.
    The last three read the class index as a number too; they are solved in float64, once, at construction.
    """

    goal: torch.Tensor
    lam: torch.Tensor | None

    def __init__(self, num_classes: int, multiplier: str = "ferc", detach_multiplier: bool = True,
                 prior: ArrayLike | None = None, constraint: str = "mean") -> None:
        """detach_multiplier: treat lambda of "ferc" as a constant, as in the paper; False lets gradients through, as in
        the FER-C release. prior: (K,) class frequencies for "aaai" and "gibbs", None for uniform. constraint, for
        "aaai": the moments that are constrained, as in `moments`.

        Raises ValueError on an unknown multiplier or constraint, an invalid prior (see `_checked_prior`), or an option
        that the multiplier does not use.
        """
        super().__init__(num_classes)
        _check_maxent_options(multiplier, prior, constraint)
        frequencies = _checked_prior(prior, num_classes)
        solved = solved_multiplier(multiplier, frequencies.numpy(), constraint)
        self.multiplier = multiplier
        self.detach_multiplier = detach_multiplier
        self.constraint = constraint
        self.register_buffer("goal", moments(frequencies[None], constraint).float(), persistent=False)
        self.register_buffer("lam", None if solved is None else torch.as_tensor(solved).float(), persistent=False)

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"maxent": self.penalty(logits.softmax(1), y).mean()}

    def penalty(self, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """lambda times the deviation, (N,), from probabilities and target distributions (N, K)."""
        moment = moments(p, self.constraint)
        deviation = (moment - self.goal).abs()
        if self.multiplier == "ferc":
            lam = self.closed_form(p)
        elif self.multiplier == "aaai":
            deviation = deviation + (moment - moments(y, self.constraint)).abs()
            lam = self.lam[y.argmax(1)]
        else:
            lam = self.lam
        return (lam * deviation).sum(1)

    def closed_form(self, p: torch.Tensor) -> torch.Tensor:
        """lambda of "ferc", (N, 1), from probabilities (N, K)."""
        mean, variance = moments(p, "both").split(1, dim=1)
        # The clamp keeps a saturated p, V = 0, from 0/0; the FER-C release loses V to cancellation there.
        lam = ((self.goal - mean) / variance.clamp_min(1e-12)).clamp(0, 1)
        return lam.detach() if self.detach_multiplier else lam


def _check_maxent_options(multiplier: str, prior: ArrayLike | None, constraint: str) -> None:
    if multiplier not in MULTIPLIERS:
        raise ValueError(f"unknown multiplier {multiplier!r}; known: {', '.join(MULTIPLIERS)}")
    if constraint not in ("mean", "variance", "both"):
        raise ValueError(f"unknown constraint {constraint!r}; known: mean, variance, both")
    if constraint != "mean" and multiplier != "aaai":
        raise ValueError(f"the multiplier {multiplier} has the constraint mean only, not {constraint}")
    if prior is not None and multiplier not in ("aaai", "gibbs"):
        raise ValueError(f"the multiplier {multiplier} always takes the uniform prior")


def solved_multiplier(multiplier: str, prior: np.ndarray, constraint: str) -> np.ndarray | float | None:
    """The multiplier that does not depend on the image, in float64: a number, or one or two for each class, (K, 1) or
    (K, 2). None for "ferc", which has one for every image. prior: float64 (K,)."""
    if multiplier == "constant":
        return constant_multiplier(len(prior))
    if multiplier == "aaai":
        return aaai_multipliers(prior, constraint)
    if multiplier == "gibbs":
        return gibbs_multiplier(prior)
    return None


def moments(p: torch.Tensor, constraint: str) -> torch.Tensor:
    """Moments of the class index under distributions p (N, K): "mean" (N, 1), "variance" the second raw moment (N, 1),
    "both" mean and central variance (N, 2)."""
    x = torch.arange(p.shape[1], dtype=p.dtype, device=p.device)
    if constraint == "variance":
        return (p * x**2).sum(1, keepdim=True)
    mean = (p * x).sum(1, keepdim=True)
    if constraint == "mean":
        return mean
    return torch.cat([mean, (p * (x - mean) ** 2).sum(1, keepdim=True)], dim=1)


def constant_multiplier(num_classes: int) -> float:
    """|lambda| with sum_k x_k exp(-lambda x_k) = e (K-1)/2, in float64."""
    return abs(_exponential_root(np.arange(num_classes, dtype=float), math.e * (num_classes - 1) / 2))


def gibbs_multiplier(prior: np.ndarray) -> float:
    """|lambda| of the Gibbs distribution p_k ~ exp(-lambda x_k) that has the mean of the prior (K,), in float64.

    The absolute value, since a negative weight on |E - mu| would reward the violation.
    """
    x = np.arange(len(prior), dtype=float)
    return abs(scipy.optimize.brentq(lambda lam: scipy.special.softmax(-lam * x) @ x - prior @ x, -50, 50, xtol=1e-14))


def aaai_multipliers(prior: np.ndarray, constraint: str) -> np.ndarray:
    """The multipliers of arXiv 2310.17159 as its code solves them: float64 (K, 1), or (K, 2) for "both".

    Class i aims half way between the moments of the prior and its own, and the normaliser is held at e:
    sum_k f_k exp(-lambda f_k) = e (mu + f_i) / 2 with f = x ("mean") or x^2 ("variance"), mu = sum_k prior_k f_k.
    "both": m_i = (mu + i) / 2, c = (x - m_i)^2, v_i half of sum_k prior_k (x_k - m_k)^2 + (i - m_i)^2; solve
    sum_k x_k q_k = e m_i and sum_k c_k q_k = e v_i with q = exp(-lambda_1 x - lambda_2 c). (The m_k in v_i is that
    of the release of MaxEnt loss; m_i must have been meant.) Raises ValueError where "both" has no solution.
    """
    x = np.arange(len(prior), dtype=float)
    if constraint != "both":
        f = x if constraint == "mean" else x**2
        return np.array([[_exponential_root(f, math.e * (prior @ f + own) / 2)] for own in f])

    middle = (prior @ x + x) / 2
    spread = (prior @ (x - middle) ** 2 + (x - middle) ** 2) / 2

    def residual(lam: Sequence[float], m: float, v: float) -> tuple[float, float]:
        c = (x - m) ** 2
        q = np.exp(-lam[0] * x - lam[1] * c)
        return x @ q - math.e * m, c @ q - math.e * v

    goals = zip(middle, spread, strict=True)
    solutions = [scipy.optimize.root(residual, (0.0, 0.0), args=goal, tol=1e-12) for goal in goals]
    if not all(solution.success for solution in solutions):
        raise ValueError(f"no multipliers for both constraints under the prior {prior.tolist()}")
    return np.array([solution.x for solution in solutions])


def _exponential_root(f: np.ndarray, goal: float) -> float:
    """lambda with sum_k f_k exp(-lambda f_k) = goal. f: (K,), not negative, such as 0, 1, ..., K-1.

    The left side is decreasing in lambda on [-1, 50]: it is at least e max(f) at -1 and nearly 0 at 50. So for a
    positive goal of at most e max(f) there is exactly one root.
    """
    return scipy.optimize.brentq(lambda lam: f @ np.exp(-lam * f) - goal, -1, 50, xtol=1e-14)


def _checked_prior(prior: ArrayLike | None, num_classes: int) -> torch.Tensor:
    """The prior, float64 (K,), with the sum 1; uniform for None. Raises ValueError unless it is (K,), positive, and
    its sum is 1 within 1e-4."""
    if prior is None:
        return torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)
    values = torch.as_tensor(prior).double().cpu()
    if values.shape != (num_classes,) or not (values > 0).all() or not abs(values.sum() - 1) < 1e-4:
        raise ValueError(f"a prior is {num_classes} positive class frequencies that sum to 1, not {values.tolist()}")
    return values / values.sum()


# --- margins ---


class Margin(nn.Module):
    """The margin of MbLS (arXiv 2111.15430): weight * mean_i sum_k relu(max_j z_ij - z_ik - margin), logits z (N, K).

    The defaults are those of the FER-C release; Liu et al. use margin 10, weight 0.1 and reduction "mean" (over
    classes).
    Raises ValueError on a negative margin or weight, or another reduction.
    """

    def __init__(self, margin: float = 8.0, weight: float = 1.0, reduction: str = "sum") -> None:
        super().__init__()
        if margin < 0 or weight < 0:
            raise ValueError(f"margin and weight must not be negative: {margin}, {weight}")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"unknown reduction {reduction!r} over classes; known: sum, mean")
        self.margin = margin
        self.weight = weight
        self.reduction = reduction

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """A scalar. logits: (N, K)."""
        excess = F.relu(logits.amax(1, keepdim=True) - logits - self.margin)
        per_image = excess.sum(1) if self.reduction == "sum" else excess.mean(1)
        return self.weight * per_image.mean()


class MbLS(Term):
    """Margin-based label smoothing; its options are those of `Margin`."""

    order_of_computation = 3

    def __init__(self, num_classes: int, margin: float = 8.0, weight: float = 1.0, reduction: str = "sum") -> None:
        super().__init__(num_classes)
        self.margin = Margin(margin, weight, reduction)

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mbls": self.margin(logits)}


# --- accuracy versus uncertainty ---


class AvUC(Term):
    """beta * AvUC, accuracy versus uncertainty calibration (arXiv 2012.07923).

    An image is accurate if the prediction is the argmax of its own target. (The FER-C release compares the predictions
    of the whole batch with the target of its first image, by mistake.) The gradient is finite but not bounded: clip it,
    or take large batches.
    """

    def __init__(self, num_classes: int, beta: float = 3.0) -> None:
        super().__init__(num_classes)
        self.beta = beta

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        p = logits.softmax(1)
        entropy = _entropy(logits)
        confidence, predicted = p.max(1)
        accurate = predicted == y.argmax(1)
        right = torch.where(accurate, confidence, 1 - confidence)
        certain = right * (1 - entropy.tanh())
        uncertain = right * entropy.tanh()
        return {"avuc": self.beta * _avu(entropy, accurate, certain, uncertain)}


class SoftAvUC(Term):
    """beta * Soft-AvUC (arXiv 2108.00106): a soft step on entropy / log K, at 0.1 with temperature 0.01, takes the
    place of the confidence in AvUC.

    The term is called "avuc", as that of `AvUC`: the column of metrics.csv is train_avuc for both losses.
    """

    def __init__(self, num_classes: int, beta: float = 1.0) -> None:
        super().__init__(num_classes)
        self.beta = beta

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        entropy = _entropy(logits)
        accurate = logits.argmax(1) == y.argmax(1)
        relative = (entropy / math.log(self.num_classes)).clamp(1e-6, 1 - 1e-6)  # the logits of 0 and 1 are infinite
        doubt = torch.sigmoid((relative.logit() - math.log(0.1 / 0.9)) / 0.01)
        certain = (1 - doubt) * (1 - entropy.tanh())
        uncertain = doubt * entropy.tanh()
        return {"avuc": self.beta * _avu(entropy, accurate, certain, uncertain)}


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,), of the softmax of logits (N, K)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def _avu(entropy: torch.Tensor, accurate: torch.Tensor, certain: torch.Tensor,
         uncertain: torch.Tensor) -> torch.Tensor:
    """-log of the area under AvU over 21 thresholds between the least and the greatest entropy of the batch, a scalar.

    AvU is the fraction of images that are accurate and certain, or inaccurate and uncertain; an image counts with the
    weight `certain` where its entropy is at most the threshold, else with `uncertain`. All arguments are (N,).
    """
    steps = torch.linspace(0, 1, 21, dtype=entropy.dtype, device=entropy.device)
    thresholds = torch.lerp(entropy.min(), entropy.max(), steps)
    is_certain = entropy <= thresholds[:, None]
    weight = torch.where(is_certain, certain, uncertain)
    good = (weight * (is_certain == accurate)).sum(1)
    return -torch.log(torch.trapezoid(good / (weight.sum(1) + 1e-10), steps) + 1e-10)


# --- pairs of classes ---


class PairwiseConstraints(Term):
    """Pairwise constraints of CPC (Cheng & Vasconcelos, CVPR 2022): two terms.

    bdc = -1/(K-1) sum_{k != t} log sigmoid(z_t - z_k): compares the true class with every other class;
    bec = -1/((K-1)(K-2)) sum_{j, k != t} log sigmoid(z_j - z_k) / 2: keeps the logits of the other classes
        close to each other.
    Raises ValueError for fewer than 3 classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        if num_classes < 3:
            raise ValueError("cpc compares the classes other than the true one with each other, so it needs at least "
                             "3 classes")

    def forward(self, logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        count = self.num_classes
        true = F.one_hot(y.argmax(1), count).to(logits.dtype)
        other = 1 - true
        pairs = -F.logsigmoid(logits[:, :, None] - logits[:, None, :])
        bdc = torch.einsum("nj,nk,njk->n", true, other, pairs) / (count - 1)
        bec = torch.einsum("nj,nk,njk->n", other, other, pairs) / (2 * (count - 1) * (count - 2))
        return {"bdc": bdc.mean(), "bec": bec.mean()}


# --- the losses by name ---


@dataclass(frozen=True)
class Composition:
    """What a loss consists of."""

    terms: tuple[type[Term], ...]
    """its kinds of terms, in the order in which they are added"""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """options that the loss's name states: option -> value"""


# `training.options.CONSTANTS` lists the same losses, for the files that do not import torch. A test compares them.
LOSSES = {
    "ce": Composition((CrossEntropy,)),
    "focal": Composition((Focal,)),
    "maxent": Composition((Focal, MaxEnt)),
    "mbls": Composition((CrossEntropy, MbLS)),
    "maxent+mbls": Composition((Focal, MaxEnt, MbLS)),
    "invfocal": Composition((InverseFocal,)),
    "poly": Composition((CrossEntropy, Poly)),
    "avuc": Composition((CrossEntropy, AvUC)),
    "soft-avuc": Composition((Focal, SoftAvUC)),
    "cpc": Composition((CrossEntropy, PairwiseConstraints)),
    # MaxEnt with another multiplier is another loss: it has a name of its own in folders of runs and in tables.
    "maxent-constant": Composition((Focal, MaxEnt), {"multiplier": "constant"}),
    "maxent-constant+mbls": Composition((Focal, MaxEnt, MbLS), {"multiplier": "constant"}),
    "maxent-aaai": Composition((Focal, MaxEnt), {"multiplier": "aaai"}),
    "maxent-aaai+mbls": Composition((Focal, MaxEnt, MbLS), {"multiplier": "aaai"}),
    "maxent-gibbs": Composition((Focal, MaxEnt), {"multiplier": "gibbs"}),
    "maxent-gibbs+mbls": Composition((Focal, MaxEnt, MbLS), {"multiplier": "gibbs"}),
}


# --- attention maps ---


def attention_maps(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Class attention maps (CAM; Zhou et al., CVPR 2016, arXiv:1512.04150), (N, K, H, W): at every place the product of
    the features with the weights of each class. Their mean over the places is the logit without its bias.

    features: (N, D, H, W), the maps that are averaged before the classifier. weight: (K, D), of the classifier. The
    weights count as constants: the gradient reaches the features only, as in the code of Erasing Attention Consistency
    (Zhang et al., ECCV 2022, arXiv:2207.10299).
    """
    return torch.einsum("nchw,kc->nkhw", features, weight.detach())


def attention_consistency(maps: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """The mean squared difference between the attention maps of images and those of their mirror images, mirrored back
    (Zhang et al., ECCV 2022). maps, mirrored: (N, K, H, W), in float32 from here on."""
    return (maps.float() - mirrored.float().flip(-1)).square().mean()
