"""Open-set recognition without I/O, against worked examples and pytorch-ood."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import losses
import open_set
from open_set import ClosedModel

# Closed and open acceptance scores (higher: closed) -> AUROC, FPR95 by steps, FPR95 of ood_metrics.
WORKED_EXAMPLES = {
    "plain": ([.9, .8, .7, .6, .55, .3], [.65, .5, .4, .2], 19 / 24, .75, None),
    "ties": ([.9, .8, .7, .6, .5], [.7, .5, .3, .1], .85, .5, .4375),
    "divisible by 20": ([k / 20 + .5 for k in range(20)], [.5, .52, .53, .54, .2, .1, .9, .3], .925, .125, .5),
    "example of ood_metrics": ([.9], [.1, .3, .6, 1.3], .75, .25, None),
}


def scores_and_flags(closed, opened):
    """Open scores are acceptance scores with the sign changed."""
    return -np.array([*closed, *opened]), np.array([False] * len(closed) + [True] * len(opened))


@pytest.mark.parametrize("name", WORKED_EXAMPLES)
def test_separation_known_answers(name):
    closed, opened, auroc, step, package = WORKED_EXAMPLES[name]
    scores, is_open = scores_and_flags(closed, opened)
    assert open_set.auroc(scores, is_open) == pytest.approx(auroc, abs=1e-6)
    assert open_set.fpr_at_tpr(scores, is_open) == pytest.approx(step, abs=1e-6)
    if package is not None:
        assert open_set.fpr_of_ood_metrics(scores, is_open) == pytest.approx(package, abs=1e-6)


def test_area_under_precision_and_recall_known_answer():
    scores, is_open = scores_and_flags(*WORKED_EXAMPLES["plain"][:2])
    assert open_set.aupr(scores, is_open, "closed") == pytest.approx(.872917, abs=1e-6)


def test_cross_entropies_known_answer():
    logits = [[2, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 3], [0, 2, 0]]
    scores = open_set.cross_entropies(logits, [0, 1, 2, 2, 0])
    np.testing.assert_allclose(scores, [.239545, .551445, 1.098612, .094923, 2.239545], atol=1e-6)
    is_open = np.array([False, False, True, False, True])
    assert open_set.auroc(scores, is_open) == 1 and open_set.fpr_at_tpr(scores, is_open) == 0


def test_oscr_known_answer():
    """Four closed images, one of them wrong, and two open ones; the second closed one ties with an open one."""
    scores = np.array([.1, .2, .3, .5, .2, .4])
    is_open = np.array([False, False, False, False, True, True])
    is_correct = np.array([True, True, False, True, False, True])  # the last is open: its class does not count
    x, y = open_set.oscr_points(scores, is_open, is_correct)
    np.testing.assert_allclose(x, [0, 0, .5, .5, 1, 1])
    np.testing.assert_allclose(y, [0, .25, .5, .5, .5, .75])
    assert open_set.oscr(scores, is_open, is_correct) == pytest.approx(.5 * (.25 + .5) / 2 + .25)


def test_thresholds_known_answers():
    assert open_set.acceptance_threshold(np.arange(20.)) == 18  # 19 of 20 are 95 %
    assert open_set.acceptance_threshold(np.arange(21.)) == 19  # 19 of 21 are fewer
    assert open_set.acceptance_threshold([3, 1]) == 3
    scores, is_open = np.array([1., 2, 3, 4]), np.array([False, True, False, True])
    assert open_set.acceptance(scores, is_open, 2) == {"closed_accepted": .5, "open_accepted": .5}


groups = st.integers(0, 2**32 - 1).map(np.random.default_rng).map(lambda rng: (
    rng.integers(0, 12, rng.integers(1, 40)) / 4., rng.integers(0, 12, rng.integers(1, 40)) / 4. + .5, rng))


@given(groups)
@settings(deadline=None, max_examples=30)
def test_separation_by_counting(drawn):
    """Every metric again, from its definition over all thresholds."""
    closed, opened, rng = drawn
    scores, is_open = np.append(closed, opened), np.arange(len(closed) + len(opened)) >= len(closed)
    is_correct = rng.random(len(scores)) < .7
    values = open_set.separation(scores, is_open, is_correct)
    above = (opened[:, None] > closed).mean() + (opened[:, None] == closed).mean() / 2
    assert values["auroc"] == pytest.approx(above)
    thresholds = np.unique(scores)
    accepting = [(opened <= t).mean() for t in thresholds if (closed <= t).mean() >= .95]
    assert values["fpr95"] == pytest.approx(min(accepting))
    x = [0, *((opened <= t).mean() for t in thresholds)]
    y = [0, *((is_correct[:len(closed)] & (closed <= t)).mean() for t in thresholds)]
    assert values["oscr"] == pytest.approx(np.trapezoid(y, x))
    assert values["oscr"] <= values["closed_accuracy"] + 1e-12
    assert values["prevalence_open"] == len(opened) / len(scores)
    assert values.keys() <= {metric.name for metric in open_set.METRICS}
    threshold = open_set.acceptance_threshold(closed)
    accepted = open_set.acceptance(scores, is_open, threshold)
    assert accepted["closed_accepted"] >= .95 and accepted["open_accepted"] == pytest.approx(values["fpr95"])


@pytest.mark.slow
@given(groups)
@settings(deadline=None, max_examples=60)
def test_curves_are_those_of_scikit_learn(drawn):
    """FPR of ood_metrics is defined by the curve of scikit-learn."""
    from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
    closed, opened, _ = drawn
    scores, is_open = np.append(closed, opened), np.arange(len(closed) + len(opened)) >= len(closed)
    assert open_set.auroc(scores, is_open) == pytest.approx(roc_auc_score(is_open, scores))
    false_rate, true_rate, _ = roc_curve(~is_open, -scores)
    assert open_set.fpr_of_ood_metrics(scores, is_open) == pytest.approx(np.interp(.95, true_rate, false_rate))
    for positive, flags, sign in (("closed", ~is_open, -1), ("open", is_open, 1)):
        precision, recall, _ = precision_recall_curve(flags, sign * scores)
        assert open_set.aupr(scores, is_open, positive) == pytest.approx(auc(recall, precision))


@given(groups)
@settings(deadline=None, max_examples=20)
def test_metrics_do_not_depend_on_the_order_or_on_the_scale(drawn):
    closed, opened, rng = drawn
    scores, is_open = np.append(closed, opened), np.arange(len(closed) + len(opened)) >= len(closed)
    is_correct = rng.random(len(scores)) < .7
    order = rng.permutation(len(scores))
    one = open_set.separation(scores, is_open, is_correct)
    other = open_set.separation(np.exp(scores[order]), is_open[order], is_correct[order])
    assert one == pytest.approx(other)


@pytest.mark.parametrize("scores, is_open", [
    ([1., 2], [True, True]), ([1., 2], [False, False]), ([np.nan, 2], [True, False]), ([np.inf, 2], [True, False]),
    ([[1.], [2]], [True, False]), ([1., 2], [1, 0]), ([1.], [True, False])])
def test_unusable_scores_are_refused(scores, is_open):
    with pytest.raises(ValueError):
        open_set.separation(np.array(scores), np.array(is_open), np.ones(len(is_open), bool))


# ---- baselines

@pytest.fixture(scope="module")
def model():
    """300 closed training images of four classes in 16 dimensions, and 80 images to score."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 300)
    means = 3 * rng.normal(size=(4, 16))
    features = means[labels] + rng.normal(size=(300, 16))
    scored = np.concatenate([means[rng.integers(0, 4, 40)] + rng.normal(size=(40, 16)), 3 * rng.normal(size=(40, 16))])
    return features, labels, ClosedModel(scored @ means.T / 3, scored)


def test_baselines_known_answers():
    """By hand: probabilities (.5, .25, .25), and features on a circle."""
    logits = np.log([[.5, .25, .25]]) + 2
    one = ClosedModel(logits, np.zeros((1, 2)))
    assert open_set.maximum_softmax(one) == pytest.approx(np.log(2))
    assert open_set.maximum_logit(one) == pytest.approx(np.log(2) - 2)
    assert open_set.energy(one) == pytest.approx(-2)
    assert open_set.entropy(one) == pytest.approx(1.5 * np.log(2))
    features = np.array([[1., 0], [-1, 0], [0, 2], [0, 4], [2, 3], [-2, 3]])
    fitted = open_set.FittedBaselines(features, np.array([0, 0, 1, 1, 1, 1]), neighbours=2)
    scored = ClosedModel(np.zeros((2, 2)), np.array([[0., 0], [3, 3]]))
    # means (0, 0) and (0, 3); shared covariance diag((1+1+4+4)/6, (1+1)/6)
    np.testing.assert_allclose(fitted.mahalanobis(scored), [0, 9 / (10 / 6)], rtol=1e-12)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    second = np.sort(np.linalg.norm(unit - np.sqrt([.5, .5]), axis=1))[1]
    np.testing.assert_allclose(fitted.nearest_neighbours(scored), [1, second])


def test_baselines_are_those_of_pytorch_ood(model):
    detectors = pytest.importorskip("pytorch_ood.detector", reason="the cross-check needs pytorch-ood")
    features, labels, scored = model
    ours = open_set.FittedBaselines(features, labels, neighbours=10).scores(scored)
    logits, z = torch.tensor(scored.logits), torch.tensor(scored.features)
    theirs = {
        "maximum_softmax": detectors.MaxSoftmax.score(logits).numpy(),
        "maximum_logit": detectors.MaxLogit.score(logits).numpy(),
        "energy": detectors.EnergyBased.score(logits, t=1.0).numpy(),
        "entropy": detectors.Entropy.score(logits).numpy(),
        "mahalanobis": detectors.Mahalanobis(None).fit_features(
            torch.tensor(features).float(), torch.tensor(labels)).predict_features(z.float()).numpy(),
        "nearest_neighbours": detectors.KNN(None, k=10).fit_features(
            torch.tensor(features), torch.tensor(labels)).predict_features(z).numpy(),
    }
    assert ours.keys() == theirs.keys() == open_set.BASELINES.keys()
    for name in ("maximum_logit", "energy", "entropy", "nearest_neighbours"):
        tolerance = 1e-4 if name == "entropy" else 1e-6  # pytorch-ood adds a constant within the logarithm
        np.testing.assert_allclose(ours[name], theirs[name], atol=tolerance, err_msg=name)
    np.testing.assert_allclose(np.exp(-ours["maximum_softmax"]), -theirs["maximum_softmax"], atol=1e-6)
    # pytorch-ood does not divide the covariance by the number of images, and halves the distance.
    np.testing.assert_allclose(ours["mahalanobis"], 2 * len(features) * theirs["mahalanobis"], rtol=1e-3)


def test_metrics_are_those_of_pytorch_ood(model):
    theirs = pytest.importorskip("pytorch_ood.metrics", reason="the cross-check needs pytorch-ood")
    scored = open_set.maximum_logit(model[2])
    is_open = np.arange(80) >= 40
    measured = theirs.OODMetrics()
    measured.update(torch.tensor(scored).float(), torch.where(torch.tensor(is_open), -1, 0))
    values = measured.compute()
    ours = open_set.separation(scored, is_open, np.ones(80, bool))
    assert ours["auroc"] == pytest.approx(float(values["AUROC"]), abs=1e-4)


# ---- attention

def test_attention_maps_known_answer():
    features = torch.arange(8.).view(1, 2, 2, 2)
    weight = torch.tensor([[1., -1], [.5, 2]], requires_grad=True)
    maps = losses.attention_maps(features.requires_grad_(), weight)
    assert maps[0, 0].tolist() == [[-4, -4], [-4, -4]] and maps[0, 1].tolist() == [[8, 10.5], [13, 15.5]]
    torch.testing.assert_close(maps.mean((2, 3)), features.mean((2, 3)) @ weight.T)
    maps.sum().backward()
    assert weight.grad is None and features.grad is not None


def test_attention_consistency_known_answer():
    one, mirrored = torch.tensor([[0., 1, 2], [3, 4, 5]]), torch.tensor([[2., 1, 0], [5, 4, 4]])
    assert losses.attention_consistency(one[None, None], mirrored[None, None]).item() == pytest.approx(1 / 6)
    assert losses.attention_consistency(one[None, None], one.flip(-1)[None, None]) == 0


# ---- rules of training

def test_cyclical_rate_known_answers():
    rates = [open_set.cyclical_rate(epoch, 6, 3, 1e-4, 1e-6) for epoch in range(6)]
    assert rates == pytest.approx([1e-4, 5.05e-5] * 3)
    assert open_set.cyclical_rate(9, 10, 1, 1., 0.) == pytest.approx((1 + np.cos(.9 * np.pi)) / 2)
    with pytest.raises(ValueError, match="7 epochs"):
        open_set.cyclical_rate(0, 7, 3, 1., 0.)


def test_left_out_fraction_known_answers():
    fractions = [open_set.left_out_fraction(epoch, 3, .3) for epoch in range(5)]
    assert fractions == pytest.approx([.1, .2, .3, .3, .3])


def test_kept_images_known_answer():
    losses_of_images, classes = [.1, .9, .5, .2, 7], [0, 0, 0, 1, 2]
    assert open_set.kept_images(losses_of_images, classes, .34).tolist() == [True, False, True, True, True]
    assert open_set.kept_images(losses_of_images, classes, 0).all()
    assert open_set.kept_images(losses_of_images, classes, 1).tolist() == [True, False, False, True, True]


def test_kept_by_mixture_separates_two_heaps():
    rng = np.random.default_rng(1)
    values = np.append(rng.normal(.2, .05, 60), rng.normal(3, .3, 25))
    keep = open_set.kept_by_mixture(values, np.zeros(85, int))
    assert keep[:60].all() and not keep[60:].any()
    assert open_set.kept_by_mixture(np.ones(5), np.arange(5)).all()
    assert open_set.kept_by_mixture([0., 0, 0, 9], [0, 0, 0, 1]).all()  # the only image of its class


# ---- bootstrap

def test_weighted_aurocs_by_repetition():
    """Weights against images that are repeated as often, with ties."""
    rng = np.random.default_rng(2)
    scores, is_open = rng.integers(0, 6, 30) / 3, rng.random(30) < .4
    weights = open_set.resampling_weights(is_open, [np.random.default_rng(number) for number in range(20)])
    assert (weights[:, is_open].sum(1) == is_open.sum()).all() and (weights.sum(1) == 30).all()
    expected = [open_set.auroc(np.repeat(scores, row), np.repeat(is_open, row)) for row in weights]
    np.testing.assert_allclose(open_set.weighted_aurocs(scores, is_open, weights), expected)
    ones = np.ones((1, 30), np.int64)
    assert open_set.weighted_aurocs(scores, is_open, ones)[0] == pytest.approx(open_set.auroc(scores, is_open))
