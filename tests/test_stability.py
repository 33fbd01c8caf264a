"""The stability metrics against worked examples, slow loops, and their bounds."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import rankdata

import metrics

SEQUENCES = np.array([[3, 3, 3, 5, 5, 3], [0, 0, 0, 0, 0, 0], [1, 2, 1, 2, 1, 2], [6, 6, 4, 4, 4, 4]])
LOGITS = np.array([[[5, 4, 3, 2, 1, 0, -1], [4, 5, 3, 2, 1, 0, -1], [4, 5, 3, 2, 1, -1, 0], [-1, 0, 1, 2, 3, 4, 5]]])


def close(expected):
    return pytest.approx(expected, abs=1e-6)


def random_probs(sequences=4, frames=9, num_classes=7, seed=0):
    rng = np.random.default_rng(seed)
    drift = .5 * rng.normal(size=(sequences, frames, num_classes)).cumsum(1)
    logits = 2 * rng.normal(size=(sequences, 1, num_classes)) + drift
    return metrics.softmax(logits.reshape(-1, num_classes)).reshape(logits.shape)


# --- known answers ---


def test_flip_probability_known_answers():
    assert metrics.flips(SEQUENCES) == close([.4, 0, 1, .2])
    assert metrics.flips(SEQUENCES).mean() == close(.4)
    assert metrics.flips(SEQUENCES, against_first=True) == close([.4, 0, .6, .8])
    assert metrics.flips(SEQUENCES, against_first=True).mean() == close(.45)
    assert metrics.flips(SEQUENCES, difficulty=2) == close([.75, 0, 0, .5])
    assert metrics.flips(SEQUENCES, difficulty=2).mean() == close(.3125)
    assert metrics.flips(SEQUENCES, difficulty=3).mean() == close(.583333)
    assert metrics.flips(SEQUENCES, True, difficulty=3).mean() == close(.45)  # stronger noise, the same comparison
    mivia = np.array([[0] * 10 + [1] * 20, [3] * 30, [0, 1] * 15])
    assert metrics.flips(mivia, against_first=True).mean() == close(.402298851)
    assert metrics.flips(mivia).mean() == close(.344827586)


@pytest.mark.parametrize(("k", "consecutive", "noise"), [
    (5, 5, 5.666667), (3, 2.666667, 3.333333), (2, 1.666667, 2.333333), (1, .666667, 1)])
def test_topk_distance_known_answers(k, consecutive, noise):
    assert metrics.topk_distances(LOGITS, k) == close([consecutive])
    assert metrics.topk_distances(LOGITS, k, against_first=True) == close([noise])
    if k == 2:
        assert metrics.topk_distances(LOGITS) == close([consecutive])  # the default


def test_zipf_distance_known_answers():
    assert metrics.zipf_distances(LOGITS) == close([.676764928])
    assert metrics.zipf_distances(LOGITS, against_first=True) == close([.926764928])
    swap, reversal = LOGITS[:, [0, 1]], LOGITS[:, [0, 3]]
    assert metrics.topk_distances(swap, 5) == close([2]) and metrics.zipf_distances(swap) == close([.75])
    assert metrics.topk_distances(reversal, 5) == close([13])
    assert metrics.zipf_distances(reversal) == close([1.272925170])


def test_ties_rank_by_the_index_of_the_class():
    equal = np.array([[[1, 1, 0], [1, 1, 0], [0, 1, 1]]])  # ranks 123, 123, 312
    assert metrics.topk_distances(equal, 1) == close([.5]) and metrics.zipf_distances(equal[:, :2]) == close([0])
    first_of_equals_stays = np.array([[[1, 1, 0], [1, 0, 0]]])  # 123, 123
    assert metrics.topk_distances(first_of_equals_stays, 1) == close([0])


def test_flip_rate_known_answers():
    values, baseline = [.1, .04, .02], [.2, .05, .1]
    assert metrics.flip_rates(values, baseline) == close([.5, .8, .2])
    assert metrics.mean_flip_rate(values, baseline) == close(.5)


def test_total_variation_and_confidence_change_known_answers():
    probs = np.array([[[.6, .3, .1], [.5, .4, .1], [.2, .7, .1]]])
    assert metrics.total_variations(probs) == close([(.1 + .3) / 2])
    assert metrics.total_variations(probs, against_first=True) == close([(.1 + .4) / 2])
    assert metrics.total_variations(probs, difficulty=2) == close([.4])
    assert metrics.total_variations(probs, unflipped_only=True) == close([.1])
    three = np.array([[[.5, .3, .2], [.4, .25, .35]]])
    assert metrics.total_variations(three) == close([.15])
    assert metrics.confidence_changes(three) == close([.1])
    other_choice = np.array([[[.6, .3, .1], [.1, .5, .4]]])
    assert metrics.confidence_changes(other_choice) == close([.5])  # of the reference's first choice, not the frame's
    assert metrics.confidence_changes(probs) == close([(.1 + .3) / 2])
    assert metrics.confidence_changes(probs, against_first=True, unflipped_only=True) == close([.1])
    flipped = np.array([[[.9, .1], [.1, .9]], [[.9, .1], [.8, .2]]])
    assert metrics.total_variations(flipped, unflipped_only=True) == pytest.approx([np.nan, .1], nan_ok=True)


def test_a_rate_is_undefined_where_the_baseline_says_too_little():
    baseline, errors = [.2, .05, .1, 0], [.05, .03, .05, 0]
    undefined = metrics.undefined_rates(baseline, errors)
    assert undefined.tolist() == [False, True, False, True]  # .1 is twice .05, not below it
    rates = metrics.flip_rates([.1, .04, .02, .01], baseline, undefined)
    assert rates == pytest.approx([.5, np.nan, .2, np.nan], nan_ok=True)
    assert metrics.mean_flip_rate([.1, .04, .02, .01], baseline, undefined) == close(.35)
    assert np.isnan(metrics.mean_flip_rate([.1], [0]))
    assert np.isnan(metrics.mean_flip_rate([.1], [.1], np.array([True])))


# --- slow loops ---


@pytest.mark.parametrize("against_first", [False, True])
@pytest.mark.parametrize("difficulty", [1, 2, 4])
def test_distances_against_loops(against_first, difficulty):
    """As the published code reads a sequence: every d-th frame, from each offset below d."""
    probs, step = random_probs(), 1 if against_first else difficulty
    flips, top3, zipf = [], [], []
    for sequence in probs:
        ranks = [rankdata(-frame, method="ordinal") for frame in sequence]
        found = []
        for offset in range(step):
            reference = offset
            for frame in range(offset + step, len(sequence), step):
                sigma = ranks[frame][np.argsort(ranks[reference])]
                found.append((sequence[frame].argmax() != sequence[reference].argmax(),
                              sum(abs(min(i - 1, 3) - min(sigma[i - 1] - 1, 3)) for i in range(1, 4)),
                              sum(abs(1 / i - 1 / sigma[i - 1]) / i for i in range(1, 8))))
                reference = reference if against_first else frame
        for values, column in zip((flips, top3, zipf), np.mean(found, axis=0), strict=True):
            values.append(column)
    assert metrics.flips(probs.argmax(-1), against_first, difficulty) == close(flips)
    assert metrics.topk_distances(probs, 3, against_first, difficulty) == close(top3)
    assert metrics.zipf_distances(probs, against_first, difficulty) == close(zipf)


# --- properties ---


def all_of(probs, **options):
    """Every metric of a sequence, {name: values (sequences,)}."""
    return {"flips": metrics.flips(probs.argmax(-1), **options), "topk": metrics.topk_distances(probs, **options),
            "zipf": metrics.zipf_distances(probs, **options), "variation": metrics.total_variations(probs, **options),
            "confidence": metrics.confidence_changes(probs, **options)}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(4, 12), st.integers(2, 8), st.integers(0, 1000), st.booleans(), st.integers(1, 3))
def test_bounds_and_permutations(sequences, frames, num_classes, seed, against_first, difficulty):
    probs = random_probs(sequences, frames, num_classes, seed)
    options = {"against_first": against_first, "difficulty": difficulty}
    values = all_of(probs, **options)
    for name in ("flips", "variation", "confidence"):
        assert ((values[name] >= 0) & (values[name] <= 1 + 1e-12)).all()
    assert (values["confidence"] <= values["variation"] + 1e-12).all()
    assert (values["topk"] >= 0).all() and (values["zipf"] >= 0).all()
    assert ((values["flips"] > 0) <= (values["topk"] > 0)).all()  # another first class is another ranking
    rng = np.random.default_rng(seed)
    renamed = all_of(probs[..., rng.permutation(num_classes)], **options)  # no two probabilities are equal
    order = rng.permutation(sequences)
    reordered = all_of(probs[order], **options)
    for name, value in values.items():
        assert renamed[name] == close(value) and reordered[name] == close(value[order])


@pytest.mark.parametrize("against_first", [False, True])
def test_a_constant_sequence_is_stable(against_first):
    constant = np.repeat(random_probs(frames=1), 6, axis=1)
    for value in all_of(constant, against_first=against_first).values():
        assert (value == 0).all()


def test_unflipped_frames_tell_a_change_of_mind_from_one_of_confidence():
    probs = random_probs(20, 30, 7, 3)
    everything, unflipped = metrics.total_variations(probs), metrics.total_variations(probs, unflipped_only=True)
    never_flips = metrics.flips(probs.argmax(-1)) == 0
    assert never_flips.any() and not never_flips.all()
    assert unflipped[never_flips] == close(everything[never_flips])
    assert (unflipped[~never_flips] != everything[~never_flips]).all()


# --- refused ---


def test_refuses_meaningless_arguments():
    probs = random_probs()
    for wrong in (np.zeros(4, int), np.zeros((0, 4), int), np.zeros((2, 1), int)):
        with pytest.raises(ValueError, match="sequence|too few"):
            metrics.flips(wrong)
    with pytest.raises(ValueError, match="integers"):
        metrics.flips([[.5, .5]])
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="difficulty"):
            metrics.flips(SEQUENCES, difficulty=wrong)
    with pytest.raises(ValueError, match="too few to compare those 6 apart"):
        metrics.flips(SEQUENCES, difficulty=6)
    for k in (0, 8, True, 1.):
        with pytest.raises(ValueError, match="k must be"):
            metrics.topk_distances(probs, k)
    for wrong in (probs * 2, probs - 1, np.where(probs > .5, np.nan, probs), probs[0]):
        with pytest.raises(ValueError):
            metrics.total_variations(wrong)
    with pytest.raises(ValueError, match="NaN"):
        metrics.zipf_distances(np.full((1, 2, 3), np.nan))
    for arguments in (([.1], [.1, .2]), ([-.1], [.1]), ([.1], [-.1]), ([.1], [.1], [0]), ([.1], [.1], [True, False])):
        with pytest.raises(ValueError):
            metrics.flip_rates(*arguments)
    for arguments in (([.1], [.1, .2]), ([.1], [-.1])):
        with pytest.raises(ValueError):
            metrics.undefined_rates(*arguments)
