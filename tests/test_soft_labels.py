"""Soft labels: the worked cases of the definition, then properties."""
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

import soft_labels
from datasets.drawn.faces import CLASS_COVARIANCES, CLASS_MEANS, image_labels, true_posterior
from soft_labels import GMM, difference, fit_gmm, fuse, soften, visibility
from cases import mostly_slow

MEANS = np.array([[0.0, 0.0], [0.7, 0.2], [-0.5, 0.6]])
COVARIANCES = np.array([[[0.02, 0.0], [0.0, 0.03]], [[0.03, 0.01], [0.01, 0.02]], [[0.02, -0.005], [-0.005, 0.04]]])
MIXTURE = GMM(np.array([0.5, 0.3, 0.2]), MEANS, COVARIANCES)


def draw(count=4000):
    rng = np.random.default_rng(0)
    labels = rng.choice(3, count, p=MIXTURE.weights)
    return np.array([rng.multivariate_normal(MEANS[k], COVARIANCES[k]) for k in labels]), labels


def test_posterior_is_bayes_rule():
    va = np.random.default_rng(1).uniform(-1, 1, (50, 2))
    parts = zip(MIXTURE.weights, MEANS, COVARIANCES, strict=True)
    joint = np.stack([weight * multivariate_normal(mean, covariance).pdf(va) for weight, mean, covariance in parts], 1)
    np.testing.assert_allclose(MIXTURE.posterior(va), joint / joint.sum(1, keepdims=True), rtol=1e-10)


def test_far_away_points_are_finite():
    posterior = MIXTURE.posterior([[1e6, -1e6], [-50, 80]])  # every density underflows to 0 here
    assert np.isfinite(posterior).all()
    np.testing.assert_allclose(posterior.sum(1), 1)


def test_fit_keeps_points_within_one_deviation_of_both():
    va, labels = draw()
    gmm = fit_gmm(va, labels, 3)
    for k in range(3):
        points = va[labels == k]
        core = [p for p in points if all(abs(p[d] - points[:, d].mean()) < points[:, d].std() for d in (0, 1))]
        centred = core - np.mean(core, 0)
        np.testing.assert_allclose(gmm.means[k], np.mean(core, 0))
        np.testing.assert_allclose(gmm.covariances[k], centred.T @ centred / len(core))  # biased
        assert gmm.weights[k] == np.mean(labels == k)
    # A Gaussian cut at one standard deviation keeps .29 of its variance.
    np.testing.assert_allclose(gmm.covariances[0].diagonal() / COVARIANCES[0].diagonal(), 0.291, atol=0.03)


def truncated(covariance):
    """Covariance of a centred normal kept within one standard deviation on both axes: float64 (2, 2), by Gauss-Legendre
    quadrature of order 64 over that rectangle. The mean stays: density and rectangle are symmetric about it."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    points = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2) * np.sqrt(covariance.diagonal())
    mass = np.outer(weights, weights).ravel() * multivariate_normal(cov=covariance).pdf(points)
    return np.einsum("n,ni,nj->ij", mass, points, points) / mass.sum()


def demo_points(split, count):
    """(valence, arousal) and labels of the first demo images, never clipped, without drawing them."""
    _, labels, points = zip(*(image_labels(0, split, i) for i in range(count)), strict=True)
    return np.array(points), np.array(labels)


def test_truncation_is_the_known_one():
    factor = 1 - 2 * norm.pdf(1) / (2 * norm.cdf(1) - 1)  # of one normal: .2911
    assert factor == pytest.approx(0.2911, abs=5e-5)
    np.testing.assert_allclose(truncated(np.diag([0.04, 0.01])), np.diag([0.04, 0.01]) * factor, atol=1e-12)
    rng, covariance = np.random.default_rng(0), CLASS_COVARIANCES[1]
    points = rng.multivariate_normal((0, 0), covariance, 400_000)
    core = points[(np.abs(points) < np.sqrt(covariance.diagonal())).all(1)]
    np.testing.assert_allclose(truncated(covariance), np.cov(core.T), rtol=0.02)


@pytest.mark.parametrize("count, limit", mostly_slow([(448, 0.02), (16_000, 0.005)], fast=[0]))
def test_posterior_on_demo_data_is_that_of_the_truncated_population(count, limit):
    """Some of the demo's training points, and many, give a posterior on 80 test points that is close to the
    one under the true means and the truncated true covariances. How far both are from the true posterior follows from
    the one-standard-deviation rule of the release: reported, not bounded."""
    population = GMM(np.full(8, 1 / 8), CLASS_MEANS, np.stack([truncated(c) for c in CLASS_COVARIANCES]))
    fitted, (va, _) = fit_gmm(*demo_points("train", count), 8), demo_points("test", 80)
    posterior = fitted.posterior(va)
    to_true = np.abs(posterior - true_posterior(va)).mean()
    distance = np.abs(posterior - population.posterior(va)).mean()
    print(f"{count} points: {distance:.4f} to the truncated population's posterior, {to_true:.4f} to the true one")
    assert distance < limit


def test_fit_leaves_out_unknown_points():
    va, labels = draw(600)
    with_gaps = np.vstack([va, [[np.nan, 0.1], [0.2, np.nan]]])
    assert fit_gmm(with_gaps, np.append(labels, [0, 1]), 3).to_json() == fit_gmm(va, labels, 3).to_json()


@pytest.mark.parametrize("points, message", [
    ([[0, 0], [0.1, 0.2]], "class 1 has 2 images"),
    ([[-1, -1], [1, 1], [-1, 1], [1, -1]], "class 1 has 0 images within"),
    ([[x, 2 * x] for x in np.linspace(-1, 1, 9)], "class 1: .*singular"),
])
def test_fit_names_the_class_it_cannot_fit(points, message):
    va, labels = draw(300)
    va, labels = va[labels == 0], labels[labels == 0]
    with pytest.raises(ValueError, match=message):
        fit_gmm(np.vstack([va, points]), np.append(labels, [1] * len(points)), 2)


def test_json_round_trip_is_exact():
    copy = GMM.from_json(MIXTURE.to_json())
    for name in ("weights", "means", "covariances"):
        assert (getattr(copy, name) == getattr(MIXTURE, name)).all()
    for text in ("", "[]", "{}", json.dumps({"weights": [1], "means": [[0, 0, 0]], "covariances": [[[1]]]})):
        with pytest.raises(ValueError, match="not the parameters"):
            GMM.from_json(text)


def test_take_is_the_mixture_without_the_others():
    va = np.random.default_rng(2).uniform(-1, 1, (20, 2))
    expected = MIXTURE.posterior(va)[:, [2, 0]]
    np.testing.assert_allclose(MIXTURE.take([2, 0]).posterior(va), expected / expected.sum(1, keepdims=True), rtol=1e-9)


def test_fuse_is_eq_7():
    posterior = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    np.testing.assert_allclose(fuse([0, 2], posterior, 0.5), [[0.6, 0.15, 0.25], [0.3, 0.15, 0.55]])
    np.testing.assert_allclose(fuse([0, 2], posterior, 1), [[1, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="beta"):
        fuse([0, 2], posterior, 1.5)


def test_soften_of_a_one_hot_label_is_softaugs_curve():
    v = np.array([0, 0.25, 0.5, 1])
    for k in (1, 2, 3):
        soft = soften(np.tile([0.0, 1, 0, 0], (4, 1)), v, k)
        np.testing.assert_allclose(soft[:, 1], 1 - (1 - 0.25) * (1 - v) ** k)
    np.testing.assert_allclose(soft[0], 0.25)
    np.testing.assert_allclose(soft[-1], [0, 1, 0, 0])


@given(st.integers(2, 8), st.floats(0, 0.99), st.floats(0.5, 4), st.integers(0, 10**6))
def test_soften_keeps_sums_and_the_likeliest_class(classes, hidden, exponent, seed):
    label = np.random.default_rng(seed).dirichlet(np.ones(classes), 3)
    soft = soften(label, np.full((17, 3), 1 - hidden), exponent)
    assert soft.shape == (17, 3, classes)
    np.testing.assert_allclose(soft.sum(-1), 1)
    assert (soft.argmax(-1) == label.argmax(-1)).all()


def test_visibility_is_clipped():
    np.testing.assert_allclose(visibility([[0, 0.1], [0.2, 0.5]], 0.2), [[1, 0.5], [0, 0]])
    with pytest.raises(ValueError, match="worst"):
        visibility([0.1], 0.0)


def test_differences_of_known_images():
    clean = np.full((32, 32, 3), 100, np.uint8)
    brighter = np.full((32, 32, 3), 151, np.uint8)  # 51 levels: .2
    assert difference(clean, brighter, "l2") == pytest.approx(0.2)
    assert difference(clean, brighter, "mse") == pytest.approx(0.04)
    assert difference(clean, brighter, "psnr") == pytest.approx(1 - 13.9794 / 48.1308, abs=1e-5)
    assert difference(clean, clean + np.uint8(1), "psnr") == pytest.approx(0, abs=1e-12)
    # -51 is 205 in 8 bits, and 205^2 = 42025 = 164 * 256 + 41
    assert difference(clean, brighter, "l2-uint8") == 41
    with pytest.raises(ValueError, match="known: l2"):
        difference(clean, brighter, "linf")


def test_wrapped_difference_is_not_monotone():
    clean = np.full((8, 8, 3), 100, np.uint8)
    assert difference(clean, clean + np.uint8(16), "l2-uint8") == 0 < difference(clean, clean + np.uint8(1), "l2-uint8")


@pytest.mark.parametrize("measure", soft_labels.MEASURES)
def test_equal_images_do_not_differ(measure):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert difference(image, image.copy(), measure) == pytest.approx(0, abs=1e-12)
    noisy = np.clip(image + np.random.default_rng(1).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    assert difference(image, noisy, measure) > 0


def test_ssim_agrees_with_the_definition_on_constants():
    # For two constant images SSIM is (2ab + C1) / (a^2 + b^2 + C1), C1 = (.01 * 255)^2.
    a, b, c1 = 100.0, 151.0, 2.55**2
    clean, other = (np.full((32, 32, 3), value, np.uint8) for value in (a, b))
    assert difference(clean, other, "ssim") == pytest.approx(1 - (2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)


BROKEN = [
    (lambda parts: parts["covariances"].__setitem__(1, [[0, 0], [0, 0]]), "class Happy has a singular covariance"),
    (lambda parts: parts["covariances"].__setitem__(1, [[1, 2], [2, 4]]), "class Happy has a singular covariance"),
    (lambda parts: parts["covariances"].__setitem__(0, [[-1, 0], [0, -1]]), "class Sad has a covariance .* positive"),
    (lambda parts: parts["covariances"].__setitem__(0, [[1, 2], [2, 1]]), "class Sad has a covariance .* positive"),
    (lambda parts: parts["covariances"].__setitem__(0, [[1, .5], [0, 1]]), "class Sad .* not symmetric"),
    (lambda parts: parts["covariances"][2][0].__setitem__(0, float("inf")), "class Fear has a covariance .* finite"),
    (lambda parts: parts["weights"].__setitem__(2, -1), "class Fear has the weight -1"),
    (lambda parts: parts["weights"].__setitem__(2, 0), "class Fear has the weight 0"),
    (lambda parts: parts["weights"].__setitem__(0, float("nan")), "class Sad has the weight nan"),
    (lambda parts: parts["weights"].__setitem__(0, 0.9), "its weights sum to 1.4, not to 1"),
    (lambda parts: parts["means"][1].__setitem__(0, float("nan")), "class Happy has a mean that is not finite"),
    (lambda parts: parts.update(weights=[]), "shapes"), (lambda parts: parts.update(weights=1), "shapes"),
    (lambda parts: parts.pop("means"), "means"),
]


@pytest.mark.parametrize("change, reason", BROKEN)
def test_mixtures_that_are_no_distributions_are_named(change, reason):
    parts = json.loads(MIXTURE.to_json()) | {"classes": ["Sad", "Happy", "Fear"]}
    change(parts)
    with pytest.raises(ValueError, match="not the parameters of a mixture: .*" + reason):
        GMM.from_json(json.dumps(parts))
    with pytest.raises(ValueError, match="class 1 has" if "Happy" in reason else "."):
        GMM.from_json(json.dumps(parts | {"classes": None}))


def test_json_that_is_no_json_is_a_value_error():
    for text in (b"\xff\xfe\x00", "[" * 100_000, '{"weights": 1e999, "means": 1, "covariances": 2}',
                 '{"weights": {}, "means": [], "covariances": []}',
                 '{"weights": [[1], 2], "means": 1, "covariances": 1}'):
        with pytest.raises(ValueError, match="not the parameters"):
            GMM.from_json(text)


def test_values_that_are_not_finite_are_refused():
    """NaN would pass through every one of them into labels."""
    label, nan = np.full((2, 4), 0.25), float("nan")
    calls = {
        "valence and arousal": lambda: MIXTURE.posterior([[nan, 0]]),
        "distribution: a value": lambda: fuse([0, 1], np.full((2, 4), nan)),
        "no distribution": lambda: fuse([0, 1], label * 2),
        "beta": lambda: fuse([0, 1], label, nan), "label is no class": lambda: fuse([0, 4], label),
        "no class": lambda: fuse([0, -1], label), "infinite": lambda: fit_gmm([[np.inf, 0]], [0], 1),
        "labels go from 0 to 0": lambda: fit_gmm([[0, 0]], [3], 1), "difference": lambda: visibility([nan], 0.2),
        "not inf": lambda: visibility([0.1], np.inf), "not nan": lambda: visibility([0.1], nan),
        "label: ": lambda: soften(label * nan, [1, 1]), "label: a row": lambda: soften(label - 0.5, [1, 1]),
        "visibility: ": lambda: soften(label, [nan, 1]), "between 0 and 1": lambda: soften(label, [1.1, 1]),
        "exponent": lambda: soften(label, [1, 1], np.inf),
        "positive number, not nan": lambda: soften(label, [1, 1], nan),
        "positive number, not -1": lambda: soften(label, [0.5, 1], -1),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_check_distributions():
    soft_labels.check_distributions(np.full((3, 2, 4), 0.25, np.float32), "x")
    for wrong in (np.full((2, 4), 0.3), np.array([[1.5, -0.5]]), np.array([[np.nan, 1]])):
        with pytest.raises(ValueError, match="soft labels of snow 3"):
            soft_labels.check_distributions(wrong, "soft labels of snow 3")
