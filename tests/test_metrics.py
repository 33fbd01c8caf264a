"""The metrics against a worked example, slow loops, torchmetrics and scikit-learn."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import f1_score, log_loss

import metrics

P = np.array(
    [
        [0.90, 0.05, 0.03, 0.02],
        [0.10, 0.72, 0.08, 0.10],
        [0.25, 0.25, 0.05, 0.45],
        [0.40, 0.35, 0.15, 0.10],
        [0.02, 0.03, 0.94, 0.01],
        [0.05, 0.15, 0.57, 0.23],
        [0.61, 0.19, 0.11, 0.09],
        [0.07, 0.83, 0.06, 0.04],
        [0.30, 0.28, 0.22, 0.20],
        [0.01, 0.01, 0.01, 0.97],
    ]
)
LABELS = np.array([0, 1, 0, 0, 2, 3, 1, 1, 2, 3])
S = np.array(
    [
        [0.80, 0.10, 0.05, 0.05],
        [0.05, 0.85, 0.05, 0.05],
        [0.60, 0.10, 0.10, 0.20],
        [0.45, 0.35, 0.10, 0.10],
        [0.10, 0.10, 0.70, 0.10],
        [0.05, 0.15, 0.30, 0.50],
        [0.30, 0.50, 0.10, 0.10],
        [0.10, 0.75, 0.10, 0.05],
        [0.10, 0.20, 0.60, 0.10],
        [0.02, 0.03, 0.05, 0.90],
    ]
)
C = P.max(1)
PREDICTION = P.argmax(1)
CORRECT = PREDICTION == LABELS
ONE_HOT = np.eye(4)[LABELS]
SOFT = metrics.expected_correctness(S, PREDICTION)
SOFT_RELEASED = metrics.max_rule_correctness(S, PREDICTION)


def close(expected):
    return pytest.approx(expected, abs=1e-6)


def random_case(n, num_classes, seed=0):
    """Probabilities, labels and soft labels that have something to do with each other."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, num_classes))
    soft = metrics.softmax(logits + rng.normal(size=logits.shape))
    return metrics.softmax(logits), soft.argmax(1), soft


# --- the worked example


def test_summary_with_hard_labels():
    assert metrics.summary(P, LABELS) == close(
        {
            "accuracy": 0.6,
            "macro_f1": 0.592857,
            "nll": 0.765965,
            "brier": 0.431680,
            "ece": 0.317,
            "mce": 0.61,
            "adaece": 0.317,
            "cece": 0.21,
            "cece_sum": 0.84,
            "kse": 0.133,
            "nll_released": 0.765965,  # ten samples are one batch
            "macro_f1_released": 0.592857,
            "ece_released": 0.317,
            "adaece_released": 0.287,
            "kse_released": 0.133,
        }
    )


def test_soft_labels():
    scores = metrics.summary(P, LABELS, S)
    expected = {
        "accuracy": 0.6,
        "macro_f1": 0.592857,
        "nll": 1.082398,
        "ece": 0.17,
        "adaece": 0.17,
        "cece": 0.1,
        "cece_sum": 0.4,
        "kse": 0.134,
        "ece_released": 0.1,
        "adaece_released": 0.09,
        "kse_released": 0.044,
        "brier": np.mean(np.sum((S - P) ** 2, 1)),
        "kl": np.mean(np.sum(S * np.log(S / P), 1)),
    }
    assert {name: scores[name] for name in expected} == close(expected)


def test_hard_scores_beside_soft_labels():
    """The worked example's numbers against hard labels, whatever the soft labels are."""
    hard = metrics.hard_scores(P, LABELS)
    assert hard == close({"ece_hard": 0.317, "nll_hard": 0.765965, "brier_hard": 0.431680})
    of_clean = metrics.summary(P, LABELS)
    assert hard == {f"{name}_hard": of_clean[name] for name in ("ece", "nll", "brier")}
    logits = np.log(P)
    assert metrics.hard_scores(P, LABELS, logits) == close(hard)
    with pytest.raises(ValueError, match="probs are not the softmax of logits"):
        metrics.hard_scores(P, LABELS, 2 * logits)


def test_soft_accuracy():
    assert SOFT.tolist() == [0.8, 0.85, 0.2, 0.45, 0.7, 0.3, 0.3, 0.75, 0.1, 0.9]
    assert SOFT_RELEASED.tolist() == close([0.8, 0.85, 0.4, 0.45, 0.7, 0.5, 0.5, 0.75, 0.4, 0.9])
    assert SOFT.mean() == close(0.535) and SOFT_RELEASED.mean() == close(0.625)
    np.testing.assert_array_equal(metrics.expected_correctness(ONE_HOT, PREDICTION), CORRECT)
    np.testing.assert_array_equal(metrics.max_rule_correctness(ONE_HOT, PREDICTION), CORRECT)


def test_other_numbers_of_bins():
    assert metrics.ece(C, CORRECT, bins=10) == close(0.317)
    assert metrics.adaece(C, CORRECT, bins=5) == close(0.197)
    assert metrics.adaece(C, CORRECT, bins=5, open_first=True) == close(0.197)
    assert metrics.adaece(C, SOFT, bins=5) == close(0.144)
    assert metrics.adaece(C, SOFT_RELEASED, bins=5, open_first=True) == close(0.064)


def test_released_likelihood():
    assert metrics.nll_released(P, ONE_HOT, batch=4) == close(0.767020)
    assert metrics.nll_released(P, S, batch=4) == close(1.063026)
    sure = np.eye(4)[(LABELS + 1) % 4]
    assert metrics.nll_released(sure, ONE_HOT) == close(13.815511)
    probs, labels, _ = random_case(600, 4)
    rows = -np.log(probs[range(600), labels])
    expected = (rows[:256].mean() + rows[256:512].mean() + rows[512:].mean()) / 3
    assert metrics.summary(probs, labels)["nll_released"] == close(expected)


def test_f1_of_a_class_that_never_occurs():
    five = np.pad(P, ((0, 0), (0, 1)))
    scores = metrics.summary(five, LABELS)
    assert scores["macro_f1"] == close(0.474286)
    assert scores["macro_f1_released"] == close(0.592857)


# --- edges


@pytest.mark.parametrize(
    "confidence, correct, expected",
    [
        ([0, 0.5], [1, 0], 0.75),  # KeyError in the release, like the next
        ([1.0000001192], [1], 0),
        ([1, 0.5], [1, 0], 0.25),
        ([0.5] * 4, [1, 1, 0, 0], 0),
    ],
)
def test_ece_at_the_ends(confidence, correct, expected):
    assert metrics.ece(confidence, correct) == close(expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bin_edges(dtype):
    for edge, index in [(0, 0), (0.2, 2), (0.4, 5), (0.6, 8), (0.8, 11), (1, 14), (1.0000001192, 14)]:
        assert metrics.bin_of(np.array([edge], dtype), 15).tolist() == [index]
        above = np.array([edge + 1e-4], dtype)
        assert metrics.bin_of(above, 15).tolist() == [min(index + (edge > 0), 14)]
    probs = np.array([[0.2] * 5], dtype)
    assert metrics.reliability(probs, [0])[0].nonzero()[0].tolist() == [2]


def test_float32_input_counts_as_float64():
    probs, labels, soft = random_case(5000, 7)
    single = metrics.summary(probs.astype(np.float32), labels, soft.astype(np.float32))
    assert single == pytest.approx(metrics.summary(probs, labels, soft), abs=1e-6)


def test_adaece_with_equal_confidences():
    assert metrics.adaece([0.7] * 4, [1, 1, 0, 0]) == close(0.2)
    assert metrics.adaece([0.7] * 4, [1, 1, 0, 0], open_first=True) == 0
    assert metrics.adaece([0.7], [0]) == close(0.7)
    assert metrics.adaece([0.7], [0], open_first=True) == 0


@pytest.mark.parametrize("correct, released", [([1, 1, 0, 0], 0.2), ([0, 0, 1, 1], 0.35), ([1, 0, 1, 0], 0.2)])
def test_kse_with_ties(correct, released):
    assert metrics.kse([0.7] * 4, correct) == close(0.2)
    assert metrics.kse([0.7] * 4, correct, inside_ties=True) == close(released)


def test_classwise_ece_counts_probability_zero():
    scores = metrics.summary([[1, 0], [0, 1]], [1, 0])
    assert scores["cece"] == close(1) and scores["cece_sum"] == close(2)


def test_soft_accuracy_of_a_wrong_prediction():
    probs, soft = [[0.3, 0.5, 0.2]], [[0.4, 0.35, 0.25]]
    scores = metrics.summary(probs, [0], soft)
    assert scores["ece"] == close(0.15) and scores["ece_released"] == close(0.1)


def test_perfect_predictions():
    labels = np.arange(40) % 8
    sure = np.eye(8)[labels]
    scores = metrics.summary(sure, labels, sure, logits=np.where(sure > 0, 1e3, -1e3))
    assert {name for name, value in scores.items() if value == 1} == {"accuracy", "macro_f1", "macro_f1_released"}
    assert sum(scores.values()) == 3


def test_likelihood_from_logits():
    logits = np.array([[0.0, 1000], [5, 5]], np.float32)
    probs = metrics.softmax(logits)
    assert metrics.summary(probs, [0, 1], logits=logits)["nll"] == close((1000 + np.log(2)) / 2)
    assert metrics.summary(probs, [0, 1])["nll"] == close((-np.log(1e-12) + np.log(2)) / 2)


def test_softmax():
    probs = metrics.softmax(np.array([[1e4, 0, -1e4], [1, 1, 1]], np.float32))
    np.testing.assert_allclose(probs, [[1, 0, 0], [1 / 3] * 3])
    assert probs.dtype == np.float64
    logits = np.random.default_rng(0).normal(size=(9, 5))
    np.testing.assert_allclose(metrics.softmax(logits), np.exp(logits) / np.exp(logits).sum(1, keepdims=True))


def test_entropy():
    assert metrics.entropy(np.array([[1.0, 0], [0.5, 0.5]])).tolist() == close([0, np.log(2)])


# --- other people's code


@pytest.mark.parametrize("seed", range(3))
def test_torchmetrics(seed):
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, labels, _ = random_case(2000, 6, seed)
    scores = metrics.summary(probs, labels)
    for name, norm in (("ece", "l1"), ("mce", "max")):
        theirs = multiclass_calibration_error(torch.tensor(probs), torch.tensor(labels), 6, n_bins=15, norm=norm)
        assert scores[name] == pytest.approx(theirs.item(), abs=1e-5)  # theirs sums in float32


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn(seed):
    probs, labels, _ = random_case(60, 8, seed)
    labels[labels == 3] = 4  # class 3 is predicted, but never right
    probs[:, 7], probs[:, 6] = 0, probs[:, 6] + probs[:, 7]
    labels[labels == 7] = 6  # class 7 does not occur at all
    scores = metrics.summary(probs, labels)
    prediction = probs.argmax(1)
    every = f1_score(labels, prediction, average="macro", labels=range(8), zero_division=0)
    assert scores["macro_f1"] == pytest.approx(every)
    assert scores["macro_f1_released"] == pytest.approx(f1_score(labels, prediction, average="macro", zero_division=0))
    assert scores["nll"] == pytest.approx(log_loss(labels, probs, labels=range(8)))


# --- slow loops and properties


def slow_ece(confidence, accuracy, bins=15):
    total = 0
    for b in range(bins):
        low, high = b / bins + 1e-7, (b + 1) / bins + 1e-7
        inside = [i for i, c in enumerate(confidence) if (low < c or b == 0) and (c <= high or b == bins - 1)]
        total += abs(sum(accuracy[i] - confidence[i] for i in inside))
    return total / len(confidence)


def slow_adaece(confidence, accuracy, open_first, bins=15):
    n = len(confidence)
    edges = np.interp(np.linspace(0, n, bins + 1), np.arange(n), np.sort(confidence))
    total = 0
    for b, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        closed = b == 0 and not open_first
        inside = [i for i, c in enumerate(confidence) if (low < c or (closed and c == low)) and c <= high]
        total += abs(sum(accuracy[i] - confidence[i] for i in inside))
    return total / n


def slow_kse(confidence, accuracy):
    def drift(limit):
        return sum(c - a for c, a in zip(confidence, accuracy, strict=True) if c <= limit)

    return max(abs(drift(limit)) for limit in confidence) / len(confidence)


eighths = st.integers(0, 8).map(lambda i: i / 8)  # many ties
shares = st.one_of(st.floats(0, 1), st.floats(0, 1, width=32), st.integers(0, 15).map(lambda i: i / 15), eighths)
pairs = st.lists(st.tuples(shares, st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))), min_size=1, max_size=50)


@settings(deadline=None, max_examples=300)
@given(pairs)
def test_slow_loops(pairs):
    confidence, accuracy = np.array(pairs).T
    assert metrics.ece(confidence, accuracy) == pytest.approx(slow_ece(confidence, accuracy), abs=1e-12)
    assert metrics.kse(confidence, accuracy) == pytest.approx(slow_kse(confidence, accuracy), abs=1e-12)
    for open_first in (False, True):
        expected = slow_adaece(confidence, accuracy, open_first)
        assert metrics.adaece(confidence, accuracy, open_first=open_first) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_order_of_the_samples_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    for score in (metrics.ece, metrics.mce, metrics.adaece, metrics.kse):
        assert score(*np.array(shuffled).T) == pytest.approx(score(*np.array(pairs).T), abs=1e-12)


@settings(deadline=None)
@given(pairs)
def test_ranges(pairs):
    confidence, accuracy = np.array(pairs).T
    one_bin = abs(accuracy.mean() - confidence.mean())
    assert metrics.ece(confidence, accuracy, bins=1) == pytest.approx(one_bin, abs=1e-12)
    assert metrics.adaece(confidence, accuracy, bins=1) == pytest.approx(one_bin, abs=1e-12)
    ece = metrics.ece(confidence, accuracy)
    assert one_bin - 1e-12 <= ece <= metrics.mce(confidence, accuracy) + 1e-12 <= 1 + 2e-12
    assert one_bin - 1e-12 <= metrics.kse(confidence, accuracy) <= metrics.kse(confidence, accuracy, True) <= 1


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 10**6))
def test_summary_holds_together(n, num_classes, seed):
    probs, labels, soft = random_case(n, num_classes, seed)
    scores = metrics.summary(probs, labels, soft)
    for name, value in scores.items():
        top = {"brier": 2, "cece_sum": num_classes, "nll": np.inf, "nll_released": np.inf, "kl": np.inf}.get(name, 1)
        assert 0 <= value <= top, name
    slow = [slow_ece(probs[:, k], soft[:, k]) for k in range(num_classes)]
    np.testing.assert_allclose(metrics.classwise_ece(probs, soft), slow, atol=1e-12)
    one_hot = metrics.summary(probs, labels, np.eye(num_classes)[labels])
    assert one_hot.pop("kl") == one_hot["nll"]
    assert one_hot == metrics.summary(probs, labels)
    order = np.random.default_rng(seed).permutation(n)
    assert metrics.summary(probs[order], labels[order], soft[order]) == pytest.approx(scores, abs=1e-12)


def test_summary_equals_its_parts():
    probs, labels, soft = random_case(500, 5)
    confidence, prediction = probs.max(1), probs.argmax(1)
    scores = metrics.summary(probs, labels, soft, logits=np.log(probs))
    accuracy = metrics.expected_correctness(soft, prediction)
    released = metrics.max_rule_correctness(soft, prediction)
    assert scores["ece"] == pytest.approx(metrics.ece(confidence, accuracy))
    assert scores["mce"] == pytest.approx(metrics.mce(confidence, accuracy))
    assert scores["adaece"] == pytest.approx(metrics.adaece(confidence, accuracy))
    assert scores["kse"] == pytest.approx(metrics.kse(confidence, accuracy))
    assert scores["kse_released"] == pytest.approx(metrics.kse(confidence, released, inside_ties=True))
    assert all(type(value) is float for value in scores.values())


def test_reliability():
    count, confidence, accuracy = metrics.reliability(P, LABELS, S)
    assert count.tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 2]
    assert np.isnan(confidence[count == 0]).all() and np.isnan(accuracy[count == 0]).all()
    assert confidence[14] == close(0.955) and accuracy[14] == close(0.8)
    gap = np.nansum(count * np.abs(confidence - accuracy)) / len(P)
    assert gap == close(metrics.summary(P, LABELS, S)["ece"])
    assert len(metrics.reliability(P, LABELS, bins=10)[0]) == 10


def test_ece_floor():
    confidences = np.random.default_rng(0).uniform(1 / 8, 1, 4000)
    for n, floor in [(100, 0.115), (200, 0.083), (1500, 0.030), (3370, 0.019)]:
        assert metrics.ece_floor(confidences, n) == pytest.approx(floor, rel=0.15)
    np.random.seed(1)
    first = metrics.ece_floor(confidences, 100, repeats=5)
    np.random.seed(2)
    assert metrics.ece_floor(confidences, 100, repeats=5) == first
    assert metrics.ece_floor(confidences, 100, repeats=5, seed=1) != first
    assert metrics.ece_floor([1.0], 50, repeats=3) == 0


# --- refusals


def changed(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros((0, 4)), []), "N > 0"),
        ((P[0], LABELS), r"probs must be \(N, K\)"),
        ((P[:, :1], LABELS), "K > 1"),
        ((changed(P, (0, 0), np.nan), LABELS), "NaN or infinity in 1 of 10 rows"),
        ((changed(P, 0, [1.5, -0.5, 0, 0]), LABELS), "run from -0.5 to 1.5"),
        ((changed(P, (0, 0), 0.5), LABELS), "one is off by 0.4"),
        ((P, LABELS[:3]), "labels must be 10 integers"),
        ((P, LABELS.astype(float)), "float64"),
        ((P, LABELS + 1), "from 1 to 4, not within 0..3"),
        ((P, LABELS - 1), "from -1 to 2"),
        ((P, LABELS, S[:5]), "soft_labels"),
        ((P, LABELS, 2 * S), "soft_labels must lie in 0..1"),
    ],
)
def test_bad_input(arguments, message):
    for function in (metrics.summary, metrics.reliability):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


@pytest.mark.parametrize(
    "logits, message",
    [
        (np.log(P)[:5], "like probs"),
        (changed(np.log(P), (0, 0), np.inf), "finite"),
        (2 * np.log(P), "not the softmax"),
    ],
)
def test_bad_logits(logits, message):
    with pytest.raises(ValueError, match=message):
        metrics.summary(P, LABELS, logits=logits)


def test_empty_or_odd_pairs():
    for score in (metrics.ece, metrics.mce, metrics.adaece, metrics.kse):
        with pytest.raises(ValueError, match="N > 0"):
            score([], [])
        with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
            score([0.5, 0.5], [1])
    with pytest.raises(ValueError, match="ece_floor"):
        metrics.ece_floor([], 10)
    with pytest.raises(ValueError, match="ece_floor"):
        metrics.ece_floor([0.5], 0)


def test_rounding_is_forgiven():
    assert metrics.summary([[1.0000001192, 0], [0.5, 0.4995]], [0, 0])["accuracy"] == 1


def test_torch_is_not_imported():
    code = "import sys, metrics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(metrics.__file__).parent)


# ---- what is no number

@pytest.mark.parametrize("broken", [np.nan, np.inf, -0.5, 1.5])
@pytest.mark.parametrize("name", ["ece", "mce", "adaece", "kse"])
def test_nothing_is_measured_from_what_is_no_probability(name, broken):
    """NaN was cast to an integer and counted in a bin."""
    for confidence, accuracy in (([broken, 0.5], [1, 0]), ([0.5, 0.5], [1, broken])):
        with pytest.raises(ValueError, match="hold NaN or infinity in 1 of 2 rows|must lie in 0..1"):
            getattr(metrics, name)(confidence, accuracy)


@pytest.mark.parametrize("values", [[[np.nan, 1.0]], [[np.inf, 1.0]], [[1j, 1.0]], [["a", "b"]], [1.0, 2.0], [[]]])
def test_softmax_takes_finite_rows_only(values):
    for function in (metrics.softmax, metrics.log_softmax):
        with pytest.raises(ValueError, match="logits"):
            function(values)


def test_helpers_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match=r"labels must be \(N,\) with N > 0, within 0..3"):
        metrics.macro_f1(np.array([0, 4]), np.array([0, 4]), 4)
    with pytest.raises(ValueError, match="prediction"):
        metrics.macro_f1(np.array([0, 3]), np.array([0, -1]), 4)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        metrics.ece([0.5], [1], bins=0)
    with pytest.raises(ValueError, match="probs hold NaN"):
        metrics.classwise_ece(np.full((2, 4), np.nan), S[:2])
    with pytest.raises(ValueError, match="confidences hold NaN"):
        metrics.ece_floor([0.5, np.nan], 10)
    with pytest.raises(ValueError, match="probs must be real numbers"):
        metrics.summary(P.astype(complex), LABELS)


def test_batches_of_the_release():
    """The value by hand in batches of 4; 256 where nothing is said; what is no number of images is refused."""
    assert metrics.summary(P, LABELS, released_batch=4)["nll_released"] == close(0.767020)
    assert metrics.summary(P, LABELS, S, released_batch=4)["nll_released"] == close(1.063026)
    assert metrics.summary(P, LABELS)["nll_released"] == metrics.summary(P, LABELS, released_batch=256)["nll_released"]
    for batch in (0, -1, 2.5, True, "4"):
        with pytest.raises(ValueError, match="a batch holds a whole number of images"):
            metrics.summary(P, LABELS, released_batch=batch)


def test_every_number_of_summary_is_in_the_table():
    """METRICS names exactly what `summary` and `hard_scores` give, and no two have the same label."""
    assert metrics.METRICS.keys() == metrics.summary(P, LABELS, S).keys() | metrics.hard_scores(P, LABELS).keys()
    assert all(name == metric.name for name, metric in metrics.METRICS.items())
    assert len({metric.label for metric in metrics.METRICS.values()}) == len(metrics.METRICS)
    assert {name for name, metric in metrics.METRICS.items() if not metric.percent} == {
        "nll", "nll_hard", "nll_released", "kl"}
    assert {name for name, metric in metrics.METRICS.items() if metric.higher_is_better} == {
        "accuracy", "macro_f1", "macro_f1_released"}


# ---- errors relative to a baseline's: worked answers

MODEL_ERRORS = np.array([[.20, .25, .30, .40, .50], [.16, .18, .22, .30, .34], [.15, .15, .16, .17, .17]])
BASELINE_ERRORS = np.array([[.30, .35, .45, .55, .60], [.22, .26, .32, .42, .53], [.20, .21, .22, .23, .24]])


def test_corruption_error_known_answers():
    ce = metrics.corruption_error(MODEL_ERRORS, BASELINE_ERRORS)
    assert 100 * ce == pytest.approx([73.333333, 68.571429, 72.727273], abs=1e-6)
    assert 100 * ce.mean() == pytest.approx(71.544012, abs=1e-6)
    assert 100 * MODEL_ERRORS.mean() == pytest.approx(24.333333, abs=1e-6)
    relative = metrics.relative_corruption_error(MODEL_ERRORS, .14, BASELINE_ERRORS, .19)
    assert 100 * relative == pytest.approx([73.076923, 62.5, 66.666667], abs=1e-6)
    assert 100 * relative.mean() == pytest.approx(67.414530, abs=1e-6)
    own = metrics.self_relative_error(MODEL_ERRORS, .14)
    assert 100 * own == pytest.approx([235.714286, 171.428571, 114.285714], abs=1e-6)


def test_corruption_error_is_not_defined_without_errors_of_the_baseline():
    unhurt = np.array([[.19] * 5, [.1] * 5, [.3] * 5])
    relative = metrics.relative_corruption_error(MODEL_ERRORS, .14, unhurt, .19)
    assert np.isnan(relative[:2]).all() and relative[2] == pytest.approx((.80 - 5 * .14) / (1.5 - 5 * .19))
    assert np.isnan(metrics.corruption_error(MODEL_ERRORS, np.zeros((3, 5)))).all()
    assert np.isnan(metrics.self_relative_error(MODEL_ERRORS, 0)).all()


def test_corruption_error_of_resamples_is_that_of_each():
    rng = np.random.default_rng(0)
    errors, baseline = rng.random((4, 3, 5)), rng.random((4, 3, 5))
    clean, baseline_clean = rng.random(4) / 4, rng.random(4) / 4
    each = [metrics.relative_corruption_error(*numbers) for numbers in zip(errors, clean, baseline, baseline_clean,
                                                                            strict=True)]
    together = metrics.relative_corruption_error(errors, clean, baseline, baseline_clean)
    np.testing.assert_allclose(together, each)
