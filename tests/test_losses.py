"""The losses against examples that were worked out from their formulas."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

import losses
from training.options import ARGUMENTS, CONSTANTS, LossOptions
from cases import mostly_slow

Z4 = torch.tensor([[2, 0.5, -1, 0], [-1, 3, 12, 0.5], [0.2, 0.1, 0, -0.1]])
T4 = torch.tensor([0, 1, 3])
W4 = torch.tensor([1.0, 2, 4, 8])
SOFT4 = torch.tensor([[0.7, 0.2, 0.05, 0.05], [0.1, 0.6, 0.2, 0.1], [0.25] * 4])
Z8 = torch.tensor([[3, 1, 0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 0, 0, 2, 1], [1, 0.8, 0.6, 0.4, 0.2, 0.1, 0, 0]])
T8 = torch.tensor([0, 6, 2])
SKEWED = [0.5, 0.25, 0.15, 0.1]

# Every loss, with every option that changes its formula. (Under a uniform prior "gibbs" is the focal loss.)
VARIANTS = [(name, {"prior": SKEWED} if "gibbs" in name else {}) for name in losses.LOSSES] + [
    ("focal", {"gamma": 0.0}),
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 2.0}),
    ("maxent", {"detach_multiplier": False}),
    ("maxent", {"multiplier": "aaai", "prior": SKEWED, "constraint": "variance"}),
    ("maxent", {"multiplier": "aaai", "prior": SKEWED, "constraint": "both"}),
    ("mbls", {"margin": 1.0, "weight": 0.1, "reduction": "mean"}),
]


def value(name, logits=Z4, target=T4, weights=None, **options):
    return losses.build(name, logits.shape[1], weights, **options)(logits, target).item()


def close(expected):
    return pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "name, options, plain, weighted, soft",
    [
        ("ce", {}, 3.628340, 10.227635, 3.378340),
        ("focal", {"gamma": 0}, 3.628340, 10.227635, 3.378340),
        ("focal", {}, 3.436985, 9.266253, 3.181193),
        ("focal", {"gamma": 2}, 3.326683, 8.550506, None),
        ("invfocal", {}, 3.819695, 11.189018, None),
        ("invfocal", {"gamma": 2}, 4.092105, 12.396037, None),
        ("maxent", {"gamma": 0}, 3.960033, 10.559328, None),
        ("maxent", {}, 3.768678, 9.597945, 3.512886),
        ("maxent", {"detach_multiplier": False}, 3.768678, 9.597945, 3.512886),
        ("maxent", {"gamma": 2}, 3.658376, 8.882199, None),
        ("maxent", {"multiplier": "constant"}, 3.527540, None, None),
        ("maxent", {"multiplier": "gibbs"}, 3.436985, 9.266253, 3.181193),
        ("maxent", {"multiplier": "aaai"}, 3.804643, None, None),
        ("maxent", {"multiplier": "aaai", "constraint": "variance"}, 3.730883, None, None),
        ("maxent", {"multiplier": "aaai", "constraint": "both"}, 5.205522, None, None),
        ("maxent", {"multiplier": "aaai", "prior": SKEWED}, 3.982843, None, None),
        ("maxent", {"multiplier": "aaai", "prior": SKEWED, "constraint": "variance"}, 3.988718, None, None),
        ("maxent", {"multiplier": "aaai", "prior": SKEWED, "constraint": "both"}, 4.413653, None, None),
        ("mbls", {}, 3.628340 + 3.166667, 10.227635 + 3.166667, None),
        ("mbls", {"margin": 10, "weight": 0.1, "reduction": "mean"}, 3.665840, None, None),
        ("mbls", {"margin": 8, "weight": 0.1, "reduction": "mean"}, 3.628340 + 0.079167, None, None),
        ("maxent+mbls", {}, 6.935345, None, None),
        ("maxent+mbls", {"multiplier": "constant"}, 6.694206, None, None),
        ("poly", {}, 4.320320, None, None),  # 7.320320 of the release less K - 1
        ("poly", {"epsilon": 0}, 3.628340, 10.227635, 3.378340),
        ("avuc", {}, 4.634721, None, None),
        ("soft-avuc", {}, 4.412400, None, None),
        ("cpc", {}, 3.628340 + 1.318998 + 1.160904, 10.227635 + 1.318998 + 1.160904, None),
    ],
)
def test_four_classes(name, options, plain, weighted, soft):
    assert value(name, **options) == close(plain)
    if weighted is not None:
        assert value(name, weights=W4, **options) == pytest.approx(weighted, abs=1e-5)
    if soft is not None:
        assert value(name, target=SOFT4, **options) == close(soft)


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("ce", {}, 1.016682),
        ("focal", {}, 0.723849),
        ("maxent", {"gamma": 0}, 1.782392),
        ("maxent", {}, 1.489559),
        ("maxent", {"gamma": 2}, 1.322220),
        ("maxent", {"multiplier": "aaai"}, 1.483544),
        ("maxent", {"multiplier": "aaai", "constraint": "variance"}, 1.507909),
        ("maxent", {"multiplier": "aaai", "constraint": "both"}, 2.703532),
        ("mbls", {"margin": 2}, 1.016682 + 2.333333),
        ("mbls", {"margin": 2, "reduction": "mean"}, 1.016682 + 0.291667),
    ],
)
def test_eight_classes(name, options, expected):
    assert value(name, Z8, T8, **options) == close(expected)


def test_terms_are_named_and_add_up():
    parts = {
        "ce": {"ce"},
        "focal": {"focal"},
        "maxent": {"focal", "maxent"},
        "mbls": {"ce", "mbls"},
        "maxent+mbls": {"focal", "maxent", "mbls"},
        "invfocal": {"invfocal"},
        "poly": {"ce", "poly"},
        "avuc": {"ce", "avuc"},
        "soft-avuc": {"focal", "avuc"},
        "cpc": {"ce", "bdc", "bec"},
    }
    for multiplier in losses.MULTIPLIERS[1:]:
        parts |= {name.replace("maxent", f"maxent-{multiplier}"): parts[name] for name in ("maxent", "maxent+mbls")}
    assert set(parts) == set(losses.LOSSES)
    for name in parts:
        loss = losses.build(name, 4)
        terms = loss.terms(Z4, T4)
        assert set(terms) == parts[name]
        assert all(term.shape == () for term in terms.values())
        assert sum(terms.values()) == loss(Z4, T4)


def test_single_terms():
    assert losses.build("avuc", 4, beta=1).terms(Z4, T4)["avuc"].item() == close(-math.log(0.715009))
    assert losses.build("soft-avuc", 4).terms(Z4, T4)["avuc"].item() == close(-math.log(0.377036))
    cpc = losses.build("cpc", 4).terms(Z4, T4)
    assert cpc["bdc"].item() == close(1.318998) and cpc["bec"].item() == close(1.160904)
    focal = [[0.342350, 9.000135, 1.542536], [0.099247, 8.999025, 1.212682], [0.028772, 8.997914, 0.953365]]
    for gamma, expected in enumerate(focal):
        loss = losses.build("focal", 4, gamma=gamma)
        assert [loss(z[None], t[None]).item() for z, t in zip(Z4, T4, strict=True)] == close(expected)
    margin = losses.Margin()
    assert [margin(z[None]).item() for z in Z4] == close([0, 9.5, 0])
    assert losses.Margin(10, 1, "mean")(Z4).item() == close(0.375)
    assert losses.Margin(8, 1, "mean")(Z4).item() == close(0.791667)


def test_poly_weights_both_terms_and_takes_soft_targets():
    p = Z4.softmax(1)
    per_class = W4 * (1 - p - p.log())
    assert value("poly", weights=W4) == close(per_class[range(3), T4].mean().item())
    assert value("poly", weights=W4, target=SOFT4) == close((SOFT4 * per_class).sum(1).mean().item())


# --- maximum entropy


def test_penalty_per_sample():
    y4, y8 = F.one_hot(T4, 4).float(), F.one_hot(T8, 8).float()
    assert losses.MaxEnt(4).penalty(Z4.softmax(1), y4).tolist() == close([0.982543, 0, 0.012535])
    assert losses.MaxEnt(8).penalty(Z8.softmax(1), y8).tolist() == close([2.166845, 0, 0.130285])


@pytest.mark.parametrize("detach, last", [(False, [0.025982, 0.007540, -0.009221, -0.024301]),
                                          (True, [0.013308, 0.003286, -0.004949, -0.011646])])
def test_gradient_of_the_penalty(detach, last):
    logits = Z4.clone().requires_grad_()
    losses.build("maxent", 4, detach_multiplier=detach).terms(logits, T4)["maxent"].backward()
    rows = torch.tensor([[0.122482, -0.025485, -0.017471, -0.079525], [0] * 4, last])
    torch.testing.assert_close(logits.grad, rows, atol=1e-6, rtol=0)


def test_gradient_of_the_released_objective():
    logits = Z4.clone().requires_grad_()
    losses.build("maxent+mbls", 4, detach_multiplier=False)(logits, T4).backward()
    rows = [
        [0.070976, 0.002665, -0.011190, -0.062451],
        [-0.333333, -0.666955, 1.333617, -0.333330],
        [0.133362, 0.104701, 0.078694, -0.316758],
    ]
    torch.testing.assert_close(logits.grad, torch.tensor(rows), atol=1e-6, rtol=0)


finite_logits = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=9)


@settings(deadline=None, max_examples=200)
@given(finite_logits)
def test_penalty_is_the_closed_form(logits):
    logits = torch.tensor([logits], dtype=torch.float64)
    p = logits.softmax(1)[0].numpy()
    x = np.arange(len(p))
    gap = (len(p) - 1) / 2 - p @ x
    variance = max(p @ (x - p @ x) ** 2, 1e-12)
    expected = 0 if gap <= 0 else gap**2 / variance if gap < variance else gap
    loss = losses.build("maxent", len(p))
    assert loss.terms(logits, torch.tensor([0]))["maxent"].item() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(finite_logits)
def test_gibbs_with_a_uniform_prior_is_the_focal_loss(logits):
    logits = torch.tensor([logits])
    target = torch.tensor([1])
    gibbs = losses.build("maxent", logits.shape[1], multiplier="gibbs").terms(logits, target)
    assert abs(gibbs["maxent"].item()) < 1e-12  # 0 but for the rounding of a uniform softmax
    assert gibbs["focal"] == losses.build("focal", logits.shape[1])(logits, target)


@pytest.mark.parametrize(
    "num_classes, hot, height, penalty",
    [(8, 0, 120, 3.5), (8, 7, 120, 0), (8, 3, 20, 0.5), (7, 3, 120, 0), (7, 3, 30, 0), (8, 3, 1e4, 0.5)],
)
@pytest.mark.parametrize("detach", [True, False])
def test_saturated_predictions(num_classes, hot, height, penalty, detach):
    logits = torch.zeros(2, num_classes)
    logits[0, hot] = height
    logits[1, 1] = 2
    logits.requires_grad_()
    loss = losses.MaxEnt(num_classes, detach_multiplier=detach)
    per_sample = loss.penalty(logits.softmax(1), F.one_hot(torch.tensor([hot, 0]), num_classes).float())
    assert per_sample[0].item() == pytest.approx(penalty, abs=1e-5)
    per_sample.sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().max() < 1e-5
    assert logits.grad[1].abs().max() > 0


def test_constant_multiplier():
    expected = {4: 0.169041, 6: 0.227454, 7: 0.233026, 8: 0.233292}
    assert {k: losses.constant_multiplier(k) for k in expected} == close(expected)
    low, high = torch.tensor([[3.0, 0, 0, 0]]), torch.tensor([[0.0, 0, 0, 3]])
    target = torch.tensor([1])
    loss = losses.build("maxent", 4, multiplier="constant")
    below, above = (loss.terms(logits, target)["maxent"].item() for logits in (low, high))
    assert below == close(above) and below > 0.2  # two-sided


@pytest.mark.parametrize(
    "prior, constraint, expected",
    [
        ([1 / 8] * 8, "mean", [[0.409623, 0.342475, 0.291616, 0.250914, 0.217111, 0.188281, 0.163193, 0.141018]]),
        ([1 / 8] * 8, "variance", [[0.067776, 0.064929, 0.057581, 0.048110, 0.038365, 0.029240, 0.021014, 0.013690]]),
        (
            [1 / 8] * 8,
            "both",
            [
                [0.230824, 0.049213, -0.034157, -0.075213, -0.066664, -0.024455, 0.021595, 0.047774],
                [0.120797, 0.323604, 0.525894, 0.718563, 0.720588, 0.528883, 0.330149, 0.198468],
            ],
        ),
        ([1 / 7] * 7, "mean", [[0.429891, 0.344725, 0.282167, 0.233026, 0.192711, 0.158621, 0.129144]]),
        ([1 / 6] * 6, "mean", [[0.451913, 0.339309, 0.259780, 0.198684, 0.149268, 0.107884]]),
        ([1 / 4] * 4, "mean", [[0.493436, 0.251493, 0.100716, -0.008208]]),
        ([1 / 4] * 4, "variance", [[0.172359, 0.128137, 0.046565, -0.027246]]),
        (
            [1 / 4] * 4,
            "both",
            [[-0.194247, -0.979041, -0.426763, -0.179066], [0.830612, 4.182293, 2.328717, 0.889937]],
        ),
        (SKEWED, "mean", [[0.785757, 0.391996, 0.192052, 0.059062]]),
        (SKEWED, "variance", [[0.316440, 0.218219, 0.087801, -0.006080]]),
        (
            [0.26, 0.47, 0.09, 0.05, 0.02, 0.01, 0.09, 0.01],
            "mean",
            [[0.664235, 0.501850, 0.406496, 0.340183, 0.289820, 0.249445, 0.215873, 0.187212]],
        ),
    ],
)
def test_aaai_multipliers(prior, constraint, expected):
    np.testing.assert_allclose(losses.aaai_multipliers(np.array(prior), constraint).T, expected, atol=1e-6)


def test_gibbs_multiplier():
    assert losses.gibbs_multiplier(np.array(SKEWED)) == close(0.565736)
    assert losses.gibbs_multiplier(np.array([0.26, 0.47, 0.09, 0.05, 0.02, 0.01, 0.09, 0.01])) == close(0.448296)
    assert losses.gibbs_multiplier(np.array(SKEWED[::-1])) == close(0.565736)  # negative without the absolute value
    p = Z4.softmax(1)
    penalty = 0.565736 * (p @ torch.arange(4.0) - 0.85).abs().mean()
    loss = losses.build("maxent", 4, multiplier="gibbs", prior=torch.tensor(SKEWED))
    assert loss.terms(Z4, T4)["maxent"].item() == close(penalty.item())


@pytest.mark.parametrize("name, options", VARIANTS)
def test_order_of_the_classes(name, options):
    """Only maximum entropy reads the class index as a number, so only it sees the order of the classes."""
    order = torch.tensor([2, 0, 3, 1])
    renamed = {**options, "prior": [options["prior"][k] for k in order]} if "prior" in options else options
    same = value(name, Z4[:, order], order.argsort()[T4], W4[order], **renamed)
    ordered = name.startswith("maxent")
    assert (same == pytest.approx(value(name, weights=W4, **options), abs=1e-5)) is not ordered


# --- all losses


@pytest.mark.parametrize("name, options", VARIANTS)
def test_one_hot_targets_are_hard_targets(name, options):
    hard = value(name, weights=W4, **options)
    assert hard == value(name, target=F.one_hot(T4, 4).float(), weights=W4, **options)
    assert hard == value(name, target=T4.int(), weights=W4, **options)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_weights_reach_the_likelihood_only(name, options):
    plain = losses.build(name, 4, **options).terms(Z4, T4)
    double = losses.build(name, 4, [2, 2, 2, 2], **options).terms(Z4, T4)
    for term in plain:
        factor = 2 if term in ("ce", "focal", "invfocal", "poly") else 1
        assert double[term].item() == pytest.approx(factor * plain[term].item(), rel=1e-6)


def test_weighted_mean_divides_by_the_batch():
    assert value("ce", weights=W4) == close(F.cross_entropy(Z4, T4, weight=W4, reduction="none").mean().item())
    assert F.cross_entropy(Z4, T4, weight=W4).item() == close(2.789355)  # what torch's own mean would give


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("soft", [False, True])
def test_gradient_by_finite_differences(name, options, soft):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    logits.data[0, 0] += 15  # beyond the margin
    target = torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(1) if soft else torch.arange(6) % 4
    if "maxent" in name and options.get("multiplier", "ferc") == "ferc":
        options = {**options, "detach_multiplier": False}  # a constant in the backward pass is none in a difference
    loss = losses.build(name, 4, W4, **options)
    assert torch.autograd.gradcheck(loss, (logits, target), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_every_term_has_a_gradient(name, options):
    logits = torch.tensor([[6.0, 1, 0, -3], [0.5, 2, 0, 1], [0.3, 0.1, 0, -0.1], [-2, 0, 9, 0]]).requires_grad_()
    for term, part in losses.build(name, 4, **options).terms(logits, torch.tensor([1, 1, 3, 2])).items():
        (gradient,) = torch.autograd.grad(part, logits, retain_graph=True)
        assert gradient.abs().max() > 1e-4, term


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("dtype", mostly_slow([torch.float32, torch.float16, torch.bfloat16], fast=[1]))
def test_finite_at_any_gap(name, options, dtype):
    generator = torch.Generator().manual_seed(0)
    loss = losses.build(name, 4, W4, **options)
    for gap in (0, 1, 5, 9, 14, 17, 18, 24, 30, 50, 88, 89, 103, 120, 150, 200, 1e4):
        for noise in (0, 1):
            logits = noise * torch.randn(5, 4, generator=generator)
            logits[range(4), range(4)] += gap  # the fifth row stays level
            logits = logits.to(dtype).requires_grad_()
            for target in (torch.tensor([0, 0, 2, 1, 3]), SOFT4[[0, 0, 1, 2, 1]]):
                terms = loss.terms(logits, target)
                assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values()), gap
                (gradient,) = torch.autograd.grad(sum(terms.values()), logits)
                assert gradient.isfinite().all(), gap


def test_wrong_and_saturated_still_learns():
    logits = torch.tensor([[0.0, 30]], requires_grad=True)  # the release clamps p at 1e-8: gradient 0
    losses.build("ce", 2)(logits, torch.tensor([0])).backward()
    assert logits.grad.tolist() == [[-1, 1]]


@pytest.mark.parametrize("name, options", VARIANTS)
def test_autocast_changes_nothing(name, options):
    loss = losses.build(name, 4, W4, **options)
    plain = loss(Z4.bfloat16().float(), T4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = (Z4 @ torch.eye(4)).requires_grad_()
        assert logits.dtype == torch.bfloat16
        cast = loss(logits, T4)
    assert cast.dtype == torch.float32 and cast == plain
    cast.backward()
    assert logits.grad.isfinite().all()


# --- building


def test_a_multiplier_names_a_loss():
    for word in losses.MULTIPLIERS[1:]:
        for name in ("maxent", "maxent+mbls"):
            assert value(name.replace("maxent", f"maxent-{word}")) == value(name, multiplier=word) != value(name)


def test_losses_have_no_state():
    for name in losses.LOSSES:
        loss = losses.build(name, 4, W4)
        assert not list(loss.parameters()) and not loss.state_dict()


def test_weights_are_a_copy():
    weights = torch.ones(4)
    loss = losses.build("ce", 4, weights)
    weights *= 2
    assert loss(Z4, T4).item() == close(3.628340)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cross", {}, "unknown loss 'cross'; known: ce, focal"),
        ("ce", {"class_weights": [1, 2, 3]}, "4 positive finite numbers"),
        ("ce", {"class_weights": [1, 2, 3, math.inf]}, "4 positive finite numbers"),
        ("ce", {"class_weights": [1, 2, 3, 0]}, "4 positive finite numbers"),
        ("focal", {"gamma": -1}, "gamma"),
        ("maxent", {"multiplier": "newton"}, "known: ferc, constant, aaai, gibbs"),
        ("maxent", {"multiplier": "aaai", "constraint": "median"}, "known: mean, variance, both"),
        ("maxent", {"constraint": "both"}, "ferc has the constraint mean only"),
        ("maxent", {"prior": SKEWED}, "ferc always takes the uniform prior"),
        ("maxent", {"multiplier": "gibbs", "prior": [0.5, 0.5]}, "4 positive class frequencies"),
        ("maxent", {"multiplier": "gibbs", "prior": [1, 0, 0, 0]}, "4 positive class frequencies"),
        ("maxent", {"multiplier": "aaai", "prior": [1, 2, 3, 4]}, "sum to 1"),
        ("mbls", {"margin": -1}, "margin and weight"),
        ("maxent+mbls", {"reduction": "max"}, "known: sum, mean"),
    ],
)
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        losses.build(name, 4, **options)


def test_options():
    assert losses.options("ce") == ()
    assert losses.options("invfocal") == ("gamma",)
    assert losses.options("mbls") == ("margin", "weight", "reduction")
    maxent = ("gamma", "multiplier", "detach_multiplier", "prior", "constraint")
    assert losses.options("maxent+mbls") == (*maxent, "margin", "weight", "reduction")
    assert losses.options("maxent-aaai") == ("gamma", "detach_multiplier", "prior", "constraint")
    with pytest.raises(ValueError, match="unknown loss 'cross'"):
        losses.options("cross")
    with pytest.raises(ValueError, match="maxent-aaai has no option multiplier"):
        losses.build("maxent-aaai", 4, multiplier="gibbs")
    with pytest.raises(ValueError, match="ce has no option gamma; its options: none"):
        losses.build("ce", 4, gamma=2)
    with pytest.raises(ValueError, match="focal has no option gama; its options: gamma"):
        losses.build("focal", 4, gama=2)


def test_the_table_of_constants_is_that_of_the_losses():
    """The losses in their order, with all their options but those that no command line has."""
    assert list(CONSTANTS) == list(losses.LOSSES)
    for name, constants in CONSTANTS.items():
        arguments = {ARGUMENTS.get(constant, constant) for constant in constants}
        assert len(arguments) == len(constants)
        assert arguments == set(losses.options(name)) - {"epsilon", "beta"}
    assert set().union(*CONSTANTS.values()) == set(vars(LossOptions()))
    assert ARGUMENTS.keys() <= vars(LossOptions()).keys()
    assert LossOptions(mbls_weight=.1).arguments("mbls", None) == {"margin": 8.0, "weight": .1, "reduction": "sum"}
    assert LossOptions(maxent_prior="data").arguments("maxent-aaai", [1.0])["prior"] == [1.0]
    assert LossOptions().arguments("maxent-aaai", [1.0])["prior"] is None


def test_too_few_classes():
    with pytest.raises(ValueError, match="at least 2"):
        losses.build("ce", 1)
    with pytest.raises(ValueError, match="at least 3"):
        losses.build("cpc", 2)


@pytest.mark.parametrize(
    "logits, target",
    [
        (torch.zeros(3, 5), T4),
        (torch.zeros(4), T4),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
        (Z4, T4[:2]),
        (Z4, T4[:, None]),
        (Z4, T4.float()),
        (Z4, F.one_hot(T4, 4)),
    ],
)
def test_shapes_that_do_not_fit(logits, target):
    with pytest.raises(ValueError, match="logits"):
        losses.build("ce", 4)(logits, target)


def test_class_weights():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    assert losses.class_weights(labels, 3, "released").tolist() == [1, 2, 6]
    assert losses.class_weights(labels, 3).tolist() == close([10 / 18, 10 / 9, 10 / 3])
    assert losses.class_weights(labels.numpy(), 3).dtype == torch.float32
    assert losses.class_weights(labels, 3)[labels].mean().item() == close(1)
    assert losses.class_weights(labels, 5, "none") is None


@pytest.mark.parametrize(
    "labels, num_classes, rule, message",
    [
        ([0, 0, 1, 2], 4, "released", "no image of class 3"),
        ([0, 2], 5, "balanced", "no image of class 1, 3, 4"),
        ([], 2, "balanced", "no image of class 0, 1"),
        ([0, 3], 3, "balanced", "from 0 to 3"),
        ([-1, 1], 3, "balanced", "from -1 to 1"),
        ([0, 1], 2, "sqrt", "known: balanced, released, none"),
    ],
)
def test_class_weights_that_cannot_be(labels, num_classes, rule, message):
    with pytest.raises(ValueError, match=message):
        losses.class_weights(torch.tensor(labels, dtype=torch.int64), num_classes, rule)
