"""Classes by name, and scores where model and set do not have the same classes: known answers and properties."""
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import metrics
from corruptions import CELLS, CORRUPTIONS
from datasets.split import EXPRESSIONS, expression_name
from evaluation import scores
from evaluation.class_matching import (
    ClassMatch, match_classes, removed_mass, restricted_targets, same_classes, with_missing_classes,
)
from evaluation.predictions import predictions_file, write_array
from evaluation.scores import MEAN_WITHOUT, SUMMARIES, scored_images
from support.errors import UserError

SET = ("Neutral", "Happy", "Sad", "Surprise")


def match(model, classes=SET, rule="drop"):
    return match_classes("net", model, "Demo-C", classes, rule)


# ---- names

def test_synonyms_of_public_models():
    fer = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]  # PyPI's fer
    emotiefflib = ["Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise"]
    jaffe = ["AN", "DI", "FE", "HA", "NE", "SA", "SU"]
    deepface = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    transformers = ["sad", "disgust", "angry", "neutral", "fear", "surprise", "happy"]
    six = {"anger", "disgust", "fear", "happy", "sad", "surprise", "neutral"}
    for names in (fer, emotiefflib, jaffe, deepface, transformers):
        assert {expression_name(name) for name in names} - {"contempt"} == six
    assert {expression_name(name) for name in ("Neutrality", "neutral", "NE", "no_expression")} == {"neutral"}
    assert expression_name("calm") == "calm"  # RAVDESS has it beside neutral
    assert all(name == name.lower() and EXPRESSIONS[value] == value for name, value in EXPRESSIONS.items())


def test_a_match_by_hand():
    same = match(["surprised", "sadness", "happiness", "neutrality"])
    assert same == ClassMatch([3, 2, 1, 0], [0, 1, 2, 3], [], []) and same.is_complete
    both = match(["contempt", "happy", "neutral", "anger"])
    assert both == ClassMatch([2, 1, 0, 3], [0, 1], ["contempt", "anger"], ["Sad", "Surprise"])
    assert both.stored == 4 and both.shared == 2
    assert both.stored_classes(SET) == ["Neutral", "Happy", "contempt", "anger"]
    assert both.scored_classes(SET) == ["Neutral", "Happy"]
    kept = match(["happy", "neutral"], rule="keep")
    assert kept.keeps_missing and kept.scored_classes(SET) == list(SET)
    assert not match(list(SET), rule="keep").keeps_missing  # nothing is missing
    assert same_classes(4) == match(list(SET))


@pytest.mark.parametrize("model, words", [
    (["happy", "contempt"], "share 1 classes, and 2 are needed: the model has happy, contempt; the set has Neutral, "
                            "Happy, Sad, Surprise. --classes names"),
    (["a", "b"], "share 0 classes"),
    (["happy", "Happiness", "sad"], "net has two classes of one meaning: happy, Happiness, sad")])
def test_what_cannot_be_matched_is_said_with_both_lists(model, words):
    with pytest.raises(UserError) as caught:
        match(model)
    assert words in str(caught.value)


def test_names_of_classes_cannot_break_a_message():
    with pytest.raises(UserError) as caught:
        match(["\x1b[2J" + "x" * 500, *map(str, range(40))])
    text = str(caught.value)
    assert "\x1b" not in text and "and 29 more" in text and len(text) < 600


# ---- numbers

def test_targets_restricted_by_hand():
    targets = [[.1, .2, .3, .4], [0, .5, 0, .5], [.5, 0, .5, 0]]
    stacked, has_mass = restricted_targets(np.array([[[.2, .3, .5], [0, 0, 1.]]]), [0, 1])
    assert stacked.tolist() == [[[.4, .6], [.5, .5]]] and has_mass.tolist() == [[True, False]]
    kept, has_mass = restricted_targets(np.array(targets), [1, 3])
    np.testing.assert_allclose(kept, [[1 / 3, 2 / 3], [.5, .5], [.5, .5]])
    assert has_mass.tolist() == [True, True, False]


def test_removed_mass_by_hand():
    probabilities = np.array([[.6, .1, .3], [.2, .2, .6]])
    assert removed_mass(probabilities, 2) == (pytest.approx(.45), .5)
    assert with_missing_classes(np.array([[.4, .6]]), [2, 0], 3).tolist() == [[.6, 0, .4]]


# ---- scores of a set

def fake_set(count=24, classes=4, seed=0, folder=None):
    """A set without files: labels, soft labels, classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    soft = .7 * np.eye(classes)[labels] + .3 * rng.dirichlet(np.ones(classes), (17, 5, count))
    soft = (soft / soft.sum(-1, keepdims=True)).astype(np.float32)

    def soft_labels_of(name, severity):
        return soft[list(CORRUPTIONS).index(name), severity - 1]

    frame = {"expression": SimpleNamespace(to_numpy=lambda dtype: labels.astype(dtype))}
    return SimpleNamespace(frame=frame, classes=SET[:classes], soft_labels_of=soft_labels_of, soft=soft, labels=labels,
                           manifest={"set_version": "v"}, folder=folder, cells=CELLS, has_sequences=False)


def write_logits(folder, classes, outputs, count=24, seed=1):
    """Random logits of a model with so many outputs, stored as `classes` orders them: {cell: all outputs}."""
    rng = np.random.default_rng(seed)
    whole = {}
    for cell in (None, *CELLS):
        whole[cell] = rng.normal(size=(count, outputs)).astype(np.float32) * 2
        write_array(predictions_file(folder, cell), np.ascontiguousarray(whole[cell][:, classes.order]))
    return whole


def values(rows):
    return {(row["corruption"], str(row["severity"]), row["metric"]): row["value"] for row in rows}


def test_a_removed_class_and_a_missing_one_by_hand(tmp_path):
    """Every number of a cell, from the formulas."""
    built = fake_set(folder=tmp_path / "Demo-C")
    classes = match(["contempt", "sad", "neutral", "happy"])  # lacks Surprise, has contempt
    whole = write_logits(tmp_path, classes, 4)
    rows = scores.score(built, tmp_path, None, classes=classes)
    got = values(rows)
    kept = built.labels != 3
    for cell, key in ((None, ("clean", "")), (("snow", 2), ("snow", "2"))):
        probs = metrics.softmax(whole[cell][kept])
        shared = probs[:, [2, 3, 1]]  # neutral, happy, sad
        assert got[*key, "removed_mass"] == pytest.approx(1 - shared.sum(1).mean())
        assert got[*key, "removed_first"] == (probs.argmax(1) == 0).mean()
        shared = shared / shared.sum(1, keepdims=True)
        assert got[*key, "accuracy"] == (shared.argmax(1) == built.labels[kept]).mean()
        target = np.eye(3)[built.labels[kept]]
        assert got[*key, "nll_hard"] == pytest.approx(-(target * np.log(shared)).sum(1).mean(), rel=1e-5)
        if cell:
            target = np.asarray(built.soft_labels_of(*cell), float)[kept][:, :3]
            target = target / target.sum(1, keepdims=True)
        assert got[*key, "nll"] == pytest.approx(-(target * np.log(shared)).sum(1).mean(), rel=1e-5)
        assert got[*key, "brier"] == pytest.approx(((target - shared) ** 2).sum(1).mean(), rel=1e-5)
        assert got[*key, "n"] == 18
    (note,) = {row["notes"] for row in rows}
    assert note.startswith("the model does not know Surprise: 6 images left out; the set lacks contempt: removed, ")


def test_missing_classes_can_be_kept(tmp_path):
    built = fake_set(folder=tmp_path / "Demo-C")
    classes = match(["sad", "neutral", "happy"], rule="keep")
    whole = write_logits(tmp_path, classes, 3)
    rows = scores.score(built, tmp_path, None, classes=classes)
    got = values(rows)
    probs = metrics.softmax(whole["contrast", 4][:, [1, 2, 0]])
    probs = np.concatenate([probs, np.zeros((24, 1))], 1)
    target = np.asarray(built.soft_labels_of("contrast", 4), float)
    assert got["contrast", "4", "brier"] == pytest.approx(((target - probs) ** 2).sum(1).mean(), rel=1e-5)
    assert got["contrast", "4", "accuracy"] == (probs.argmax(1) == built.labels).mean() and got["clean", "", "n"] == 24
    assert got["contrast", "4", "ece"] == pytest.approx(metrics.summary(probs, built.labels, target)["ece"])
    assert not {metric for _, _, metric in got} & {"nll", "nll_hard", "nll_released", "kl"}
    assert {row["notes"] for row in rows} == {"NLL undefined: the model does not know Surprise"}


def test_images_without_mass_on_known_classes_are_left_out_of_all_cells(tmp_path):
    built = fake_set(folder=tmp_path / "Demo-C")
    built.soft[2, 1, 4] = [0, 0, 0, 1]  # image 4, whose class is Neutral
    images = scored_images(built, None, match(["sad", "neutral", "happy"]))
    assert 4 not in images.rows and len(images.rows) == 17
    assert (images.without_class, images.without_mass) == (6, 1)
    kept = scored_images(built, None, match(["sad", "neutral", "happy"], rule="keep"))
    assert len(kept.rows) == 24 and kept.without_class == 0


def test_no_image_left_is_said(tmp_path):
    built = fake_set(count=2, folder=tmp_path / "Demo-C")  # Neutral and Happy
    with pytest.raises(UserError, match=r"none of its 2 images has a class that the model knows \(Sad, Surprise\)"):
        scored_images(built, None, match(["sad", "surprise"]))


@settings(max_examples=3, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 100))
def test_the_order_of_a_models_classes_changes_no_score(tmp_path_factory, order, seed):
    names = ["neutral", "happy", "sad", "surprise", "contempt"]
    built = fake_set(folder=tmp_path_factory.mktemp("set") / "Demo-C")
    first, second = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    one = match(names)
    whole = write_logits(first, one, 5, seed=seed)
    other = match([names[k] for k in order])
    for cell, logits in whole.items():
        write_array(predictions_file(second, cell), np.ascontiguousarray(logits[:, order][:, other.order]))
    assert scores.score(built, first, None, classes=one) == scores.score(built, second, None, classes=other)


def test_a_removed_class_without_probability_changes_nothing(tmp_path):
    built = fake_set(folder=tmp_path / "Demo-C")
    one, other = match(list(SET)), match([*SET, "contempt"])
    whole = write_logits(tmp_path / "a", one, 4)
    for cell, logits in whole.items():
        write_array(predictions_file(tmp_path / "b", cell),
                    np.concatenate([logits, np.full((24, 1), -1e4, np.float32)], 1))
    before, after = (values(scores.score(built, tmp_path / name, None, classes=classes))
                     for name, classes in (("a", one), ("b", other)))
    assert {key: after[key] for key in before} == before
    assert {after[key] for key in after.keys() - before.keys()} == {0.0}


# ---- rows that every model has

def test_hard_scores_and_the_mean_of_70_cells(tmp_path):
    built = fake_set(folder=tmp_path / "Demo-C")
    write_logits(tmp_path, same_classes(4), 4)
    rows = scores.score(built, tmp_path, None)
    got = values(rows)
    for metric in ("ece", "nll", "brier"):
        assert got["clean", "", f"{metric}_hard"] == got["clean", "", metric]
        assert got["snow", "3", f"{metric}_hard"] != got["snow", "3", metric]
    assert [row["corruption"] for row in rows if row["metric"] == "ece"][-4:] == list(SUMMARIES)
    for metric in {metric for _, _, metric in got}:
        cells = [got[name, str(severity), metric] for name, severity in CELLS
                 if name not in ("brightness", "contrast", "snow")]
        assert len(cells) == 70 and got[MEAN_WITHOUT, "", metric] == pytest.approx(np.mean(cells), abs=1e-12)
    # pooled: all 85 cells as one
    pooled = metrics.hard_scores(
        np.concatenate([metrics.softmax(np.load(predictions_file(tmp_path, cell))) for cell in CELLS]),
        np.tile(built.labels, 85))
    assert got["pooled", "", "ece_hard"] == pytest.approx(pooled["ece_hard"])
