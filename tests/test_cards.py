"""Result cards: what they hold is what was scored, nothing else can be read as one, and what is known of single images
agrees with scores.csv."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
from building.built_set import open_built_set
from corruptions import CELLS, CORRUPTIONS, PRESETS, corruptions_of
from evaluation import cards
from evaluation.cards import (
    CheckOfCard, Extras, ModelOfCard, RemovedClasses, SetOfCard, card_of_run, make_card, read_card,
    write_card)
from evaluation.error_bootstrap import (
    clusters_of_frame, draw_weights, extras_of_predictions, resampled_errors, resampled_means, standard_errors)
from evaluation.image_scores import HARD, SOFT, VOTES, WITHOUT, Labels, image_scores, votes_of
from evaluation.input_format import InputFormat
from evaluation.model_facts import KINDS, ModelFacts
from evaluation.predictions import predictions_file, read_array
from evaluation.scores import CONTRADICTED_WORDS, MEAN_WITHOUT, score
from evaluation.sequence_scores import STABILITY_METRICS, TEMPERATURE
from evaluation.scoring_options import CardOptions
from evaluation.trained_run import TrainedRun
from reporting.card_files import find_cards
from perturbations import PERTURBATIONS
from support.errors import DamagedFile, UserError
from support.files import read_json
from support.random_streams import keyed_rng
from test_page import make_run

ROOT = Path(cards.__file__).parent.parent
WEIGHTS = "ab" * 32


class Alarm:
    """As input_check.Alarm."""

    subject = "colour"
    text = "accuracy .41 as read, .62 with the colours in the order BGR"
    option = "--input colour=bgr"


def card_of(built, rows, name="a model", overlap="none", weights=WEIGHTS, extras=None, scored=None, rule="drop",
            changed=None, images=None, **stated):
    """A card of these rows of scores.csv; built: the set, opened."""
    facts = ModelFacts("onnx", f"{name}.onnx", 1000, InputFormat(64, "grey", "-1..1"), "logits", changed or {},
                       {"overlap": overlap} | stated)
    model = ModelOfCard(name, list(built.classes), weights, facts)
    set_ = SetOfCard(built, images or len(built.frame), scored or list(built.classes), rule)
    return make_card(model, set_, rows, extras or Extras())


@pytest.fixture(scope="module")
def scored(built, tmp_path_factory):
    """(the demo set, folder of a run's predictions, rows of its scores.csv)"""
    demo = open_built_set(built)
    run = make_run(tmp_path_factory.mktemp("cards"), demo, "baseline", "ce", 0)
    folder = run / "predictions" / demo.folder.name
    return demo, folder, score(demo, folder, None)


@pytest.fixture(scope="module")
def whole(scored):
    """A card with every entry filled."""
    demo, folder, rows = scored
    errors, variants = extras_of_predictions(demo, folder)
    extras = Extras(CheckOfCard(300, [Alarm()]), RemovedClasses(["Bored"], .1, .05), errors, variants)
    return card_of(demo, rows, extras=extras, changed={"input": "colour=grey"}, training_data="FER2013", licence="MIT",
                   link="https://example.org/m?a=1")


# ---- what a card holds

def test_a_card_holds_the_scores_and_comes_back_equal(scored, whole, tmp_path):
    demo, _, rows = scored
    write_card(tmp_path / "x" / "card.json", whole)
    card = read_card(tmp_path / "x" / "card.json")
    assert card.data == whole.data and card.name == "a model"
    text = (tmp_path / "x" / "card.json").read_text()
    assert len(text) < 60_000 and json.loads(text) == whole.data
    for row in rows:
        if row["metric"] == "n":
            continue
        if row["severity"] == "":
            stored = card.score(row["corruption"], row["metric"])
        else:
            stored = card.cells(row["metric"])[row["corruption"], row["severity"]]
        assert stored == pytest.approx(row["value"], rel=1e-8, abs=1e-12)
    assert card.data["set"]["set_version"] == demo.manifest["set_version"] and card.data["set"]["demo"] is True
    assert card.data["model"]["input"]["colour"] == "grey" and card.data["set"]["missing_classes"] is None
    assert card.data["check"]["alarms"][0]["option"] == "--input colour=bgr"


def test_the_schema_knows_all_corruptions_metrics_and_fields():
    schema = cards.validator().schema
    cards.validator().check_schema(schema)
    assert set(schema["$defs"]["corruptionName"]["enum"]) == {
        name for preset in PRESETS for name in corruptions_of(preset)}
    assert set(schema["$defs"]["metricName"]["enum"]) == {
        *metrics.METRICS, "ece_hard", "nll_hard", "brier_hard", *STABILITY_METRICS, TEMPERATURE}
    assert set(schema["$defs"]["perturbationName"]["enum"]) == {name for names in PERTURBATIONS.values()
                                                                for name in names}
    assert MEAN_WITHOUT in schema["properties"]["scores"]["properties"]["places"]["properties"]
    model = schema["properties"]["model"]["properties"]
    assert set(model["kind"]["enum"]) == set(KINDS) - {"reference"}
    assert set(model["input"]["anyOf"][1]["required"]) == set(InputFormat().as_dict())


def test_every_card_of_the_repository_is_valid():
    files = cards.card_files(ROOT / "cards")
    for file in files:
        read_card(file)
    others = {path.name for path in (ROOT / "cards").iterdir()} - {file.name for file in files}
    assert others == {"README.md"}, f"{len(files)} cards are valid; what are these?"


def test_a_class_that_the_model_lacks_is_said(scored):
    demo, _, rows = scored
    card = card_of(demo, rows, scored=list(demo.classes[:-1]), images=3)
    assert card.data["set"]["missing_classes"] == "drop" and card.data["set"]["images_scored"] == 3
    with pytest.raises(UserError, match="no card can be made of a model: set/scored_classes"):
        card_of(demo, rows, scored=list(demo.classes[::-1]))


def test_a_score_that_is_not_defined_is_left_out(scored):
    demo, _, rows = scored
    card = card_of(demo, [row for row in rows if row["metric"] != "nll"])
    assert card.score("mean", "nll") is None and card.cells("nll") == {}
    one_cell_less = [row for row in rows if (row["metric"], row["corruption"], row["severity"]) != ("ece", "snow", 3)]
    assert card_of(demo, one_cell_less).cells("ece") == {}


def test_the_card_of_a_run(scored, tmp_path):
    demo, _, rows = scored
    args = {"script": "baseline", "loss": "ce", "noise": 0.2, "seed": 3, "differs": {"epochs": 9}}
    folder = tmp_path / "demo/baseline/ce/noise20/seed3"
    run = TrainedRun(folder, "demo", "paper", 32, list(demo.classes), {}, 256, args)
    set_ = SetOfCard(demo, len(demo.frame), list(demo.classes))
    model = card_of_run(run, WEIGHTS, 5, set_, rows, Extras()).data["model"]
    assert model["name"] == "baseline, ce, noise 20 %, epochs 9, seed 3"
    assert (model["overlap"], model["training_data"]) == ("none", "Demo")
    assert model["source"] == "demo/baseline/ce/noise20/seed3"  # no folder above the runs
    moved = TrainedRun(tmp_path / "home/alice/my run", "demo", "paper", 32, list(demo.classes), {}, 256, args)
    assert card_of_run(moved, WEIGHTS, 5, set_, rows, Extras()).data["model"]["source"] == "my run"
    other = TrainedRun(tmp_path, "ferplus", "paper", 32, list(demo.classes), {}, 256, args)
    assert card_of_run(other, WEIGHTS, 5, set_, rows, Extras()).data["model"]["overlap"] == "unknown"
    stated = card_of_run(run, WEIGHTS, 5, set_, rows, Extras(), {"overlap": "some", "licence": "MIT"}).data["model"]
    assert (stated["overlap"], stated["licence"]) == ("some", "MIT")


@pytest.mark.parametrize("dataset, data, of_set, overlap", [
    ("affwild", None, {}, "none"), ("affwild", ["frames=10"], {"write_split": "x.csv"}, "none"),
    ("affwild", ["split_seed=1"], {"split_seed": 1}, "none"), ("affwild", ["split_seed=1"], {}, "unknown"),
    ("affwild", [], {"split_file": "mine.csv"}, "unknown"), ("rafdb", ["parts=ml"], {"parts": "basic"}, "unknown"),
    ("rafdb", ["classes=7"], {}, "none"), ("folders", [], {}, "unknown"), ("demo", "seed=1", {"seed": "1"}, "unknown"),
    ("demo", [1], {}, "unknown"), ("demo", [], [], "none")])
def test_overlap_of_a_run_follows_from_data_set_and_splits(dataset, data, of_set, overlap):
    assert cards.overlap_of_run(dataset, data, {"dataset": dataset, "options": of_set}) == overlap
    assert cards.overlap_of_run(dataset, data, {"dataset": "ferplus", "options": of_set}) == "unknown"
    assert cards.overlap_of_run(dataset, data, {}) == "unknown"
def test_a_file_that_is_no_card_is_not_overwritten(whole, tmp_path):
    path = tmp_path / "manifest.json"
    cards.refuse_other_file(path)
    write_card(path, whole)
    cards.refuse_other_file(path)
    path.write_text('{"set_version": 1}')
    with pytest.raises(UserError, match="this file is there and is no card, so it is not overwritten"):
        cards.refuse_other_file(path)


def test_a_place_where_no_card_can_be_written_is_refused_before_scoring(tmp_path, monkeypatch):
    cards.refuse_other_file(tmp_path / "new" / "folder" / "card.json")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "card.json", tmp_path / "file" / "deeper" / "card.json"):
        with pytest.raises(UserError, match=f"{tmp_path / 'file'} is no folder$"):
            cards.refuse_other_file(path)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=f"{tmp_path / 'link'} is no folder$"):
        cards.refuse_other_file(tmp_path / "link" / "card.json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--card card.json: this user may not write into {tmp_path}; give another"):
        cards.refuse_other_file(Path("card.json"))



@pytest.mark.parametrize("options, words", [
    ({"link": "javascript:alert(1)"}, "--link: an address"), ({"link": "https://a b"}, "--link: an address"),
    ({"licence": "x" * 301}, "--licence: 1 to 300"), ({"training_data": "a\nb"}, "--training-data: 1 to 300"),
    ({"card": Path("card.txt")}, "ends in .json")])
def test_statements_that_no_card_can_hold(options, words):
    with pytest.raises(UserError, match=words):
        CardOptions(**options).statements()


def test_only_what_was_stated_is_a_statement():
    assert CardOptions().statements() == {}
    assert CardOptions(overlap="none", link="https://x.org/a").statements() == {
        "overlap": "none", "link": "https://x.org/a"}


# ---- cards of others

def set_entry(data, path, value):
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@pytest.mark.parametrize("path, value, words", [
    (("format",), 2, "its format is 2, not 1"), (("project",), "X", "project"), (("more",), 1, "more"),
    (("model", "name"), "", "model/name"), (("model", "name"), "x" * 301, "model/name"),
    (("model", "name"), "a\x1b[31m", "model/name"), (("model", "name"), "\ud800", "model/name"),
    (("model", "link"), "javascript:alert(1)", "model/link"), (("model", "overlap"), "maybe", "model/overlap"),
    (("model", "kind"), "reference", "model/kind"), (("set", "dataset"), "../..", "set/dataset"),
    (("scores", "places", "mean", "ece"), 1.5, "scores/places/mean/ece"),
    (("scores", "places", "mean", "nll"), 1e300, "scores/places/mean/nll"),
    (("scores", "places", "mean", "new"), .5, "scores/places/mean"),
    (("scores", "cells", "ece", "snow"), [0, 0], "scores/cells/ece/snow"),
    (("standard_errors", "snow", "error"), -1, "standard_errors/snow/error"), (("notes",), ["x"] * 51, "notes"),
    (("set", "set_version"), "ab" * 32 + "\n", "set/set_version"), (("model", "name"), "a\n", "newline"),
    (("model", "link"), "https://x.org/a\n", "newline"), (("changed",), {"input\n": "x"}, "newline"),
    (("set", "images_scored"), 10**6, "images_scored is more"),
    (("set", "missing_classes"), "drop", "missing_classes")])
def test_what_is_no_card_is_named(whole, tmp_path, path, value, words):
    data = json.loads(json.dumps(whole.data))
    set_entry(data, path, value)
    (tmp_path / "card.json").write_text(json.dumps(data))
    with pytest.raises(DamagedFile) as refused:
        read_card(tmp_path / "card.json")
    message = str(refused.value)
    assert str(tmp_path / "card.json") in message and words in message and message.isprintable() and len(message) < 600


def test_files_that_are_no_cards_are_refused_at_once(tmp_path):
    (tmp_path / "large.json").write_text(" " * (cards.LARGEST_CARD + 1))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "nan.json").write_text('{"format": NaN}')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for path in tmp_path.iterdir():
        with pytest.raises(DamagedFile, match=path.name):
            read_card(path)
    with pytest.raises(DamagedFile, match="none.json"):
        read_card(tmp_path / "none.json")


def test_links_that_lead_out_of_the_folder_are_not_read(tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("{}")
    (tmp_path / "in" / "b.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "in" / ".c.json").write_text("{}")
    assert [path.name for path in cards.card_files(tmp_path / "in")] == ["a.json"]
    assert [path.name for path in cards.links_that_lead_out(tmp_path / "in")] == ["b.json"]


def test_links_among_the_cards_are_named(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "passwords.json").symlink_to("/etc/passwd")
    ranked, notes = find_cards(tmp_path / "runs", [tmp_path / "in"])
    assert not ranked and [str(note) for note in notes] == [
        f"{tmp_path}/in/passwords.json is a link that leads out of its folder: this card is left out"]
    with pytest.raises(UserError, match="passwords.json: it is no folder. It takes a folder that holds cards"):
        find_cards(tmp_path / "runs", [tmp_path / "in" / "passwords.json"])


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                                  max_size=3), max_leaves=5)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(value=values, data=st.data())
def test_a_mutated_card_is_read_whole_or_refused(whole, value, data, tmp_path_factory):
    card = json.loads(json.dumps(whole.data))
    inner, path = card, []
    while isinstance(inner, dict) and inner and len(path) < 3:
        path.append(data.draw(st.sampled_from(sorted(inner))))
        inner = inner[path[-1]]
    set_entry(card, path, value)
    file = tmp_path_factory.getbasetemp() / "mutated.json"
    file.write_text(json.dumps(card))
    try:
        assert read_card(file).data == card
    except UserError as error:
        assert str(error).isprintable()


# ---- scores of single images

def test_image_scores_are_those_of_scores_csv(scored):
    demo, folder, rows = scored
    votes = votes_of(demo.labels_before_softening)
    hard = demo.frame["expression"].to_numpy(np.int64)
    labels = Labels(hard, demo.soft_labels, votes)
    scores = image_scores(lambda cell: read_array(predictions_file(folder, cell)), labels)
    value = {(row["corruption"], row["severity"], row["metric"]): row["value"] for row in rows}
    for metric in ("nll", "brier", "accuracy", "ece"):
        assert scores.mean(SOFT, metric) == pytest.approx(value["mean", "", metric])
        assert scores.clean[metric] == pytest.approx(value["clean", "", metric])
        others = [value[name, severity, metric] for name, severity in CELLS if name not in CONTRADICTED_WORDS]
        assert len(others) == 70 and scores.mean(WITHOUT, metric) == pytest.approx(np.mean(others))
    accuracies = [value["clean", "", "accuracy"], *(value[*cell, "accuracy"] for cell in CELLS)]
    assert 1 - scores.errors.mean(1) == pytest.approx(accuracies)
    for variant, target in ((HARD, np.eye(len(demo.classes))[hard]), (VOTES, votes)):
        summaries = []
        for cell in CELLS:
            logits = read_array(predictions_file(folder, cell))
            summaries.append(metrics.summary(metrics.softmax(logits), hard, target, logits))
        for metric in ("nll", "brier", "ece"):
            assert scores.mean(variant, metric) == pytest.approx(np.mean([one[metric] for one in summaries]))
    sizes = np.arange(85)[:, None] * metrics.BINS + scores.bins
    gaps = np.bincount(sizes.ravel(), scores.gaps[SOFT].ravel(), 85 * metrics.BINS).reshape(85, -1)
    assert np.abs(gaps).sum(1).mean() / len(hard) == pytest.approx(scores.mean(SOFT, "ece"), rel=1e-5)


def test_image_scores_on_some_classes():
    rng = keyed_rng("image scores on some classes")
    hard = rng.integers(0, 4, 30)
    soft = rng.dirichlet(np.ones(4), (17, 5, 30)).astype(np.float32)
    logits = rng.normal(size=(30, 3))  # of classes 0 and 2, and of one that the set lacks
    kept = np.flatnonzero(np.isin(hard, [0, 2]))
    scores = image_scores(lambda _: logits, Labels(hard, soft, None), [0, 2])
    assert scores.kept.tolist() == kept.tolist()
    target = soft[:, :, kept][..., [0, 2]].astype(float)
    target /= target.sum(-1, keepdims=True)
    log_p = metrics.log_softmax(logits[kept, :2])
    assert scores.mean(SOFT, "nll") == pytest.approx(-(target * log_p).sum(-1).mean())
    predicted = np.array([0, 2])[log_p.argmax(1)]
    assert scores.mean(SOFT, "accuracy") == pytest.approx((predicted == hard[kept]).mean())

    whole = image_scores(lambda _: logits, Labels(hard, soft, None), [0, 2], keeps_missing=True)
    assert len(whole.kept) == 30 and whole.mean(SOFT, "nll") == np.inf
    predicted = np.array([0, 2])[logits[:, :2].argmax(1)]
    assert whole.mean(SOFT, "accuracy") == pytest.approx((predicted == hard).mean())
    probs = np.zeros((30, 4))
    probs[:, [0, 2]] = metrics.softmax(logits[:, :2])
    assert whole.mean(SOFT, "brier") == pytest.approx(((soft - probs) ** 2).sum(-1).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="no image is of a class"):
        image_scores(lambda _: logits, Labels(np.full(30, 1), soft, None), [0, 2])
    with pytest.raises(ValueError, match="logits of"):
        image_scores(lambda _: logits[:20], Labels(hard, soft, None), [0, 2])


def test_votes_are_a_variant_where_they_are_no_single_classes():
    assert votes_of(np.eye(3)) is None and votes_of(np.array([[.9, .1], [1, 0.]])) is not None


# ---- the bootstrap of errors

def test_standard_errors_of_independent_images_are_those_of_the_formula():
    """Of n errors that are 1 with probability p: sqrt(p (1 - p) / n); five equal severities make it five times that."""
    n, p = 400, 0.3
    errors = np.zeros((86, n), bool)
    errors[1:, :int(p * n)] = True
    weights = draw_weights(n, 1000, "a version")
    found_errors = standard_errors(*resampled_errors(errors, np.arange(n), weights))
    assert set(found_errors) == set(CORRUPTIONS)
    expected = 5 * np.sqrt(p * (1 - p) / n)
    for of_corruption in found_errors.values():
        assert of_corruption["error"] == pytest.approx(expected, rel=.08)
        assert of_corruption["increase"] == pytest.approx(expected, rel=.08)  # the clean error is 0


def test_increase_takes_clean_and_corrupted_images_together():
    errors = np.tile(keyed_rng("increase").random(50) < .4, (86, 1))
    of_corruption = standard_errors(*resampled_errors(errors, np.arange(50), draw_weights(50, 200, "v")))["snow"]
    assert of_corruption["error"] > .1 and of_corruption["increase"] == pytest.approx(0, abs=1e-12)


def test_resampled_means_by_cluster():
    values = np.array([[1.], [2.], [6.]])
    weights = np.array([[1., 1], [2, 0], [0, 2]])
    assert resampled_means(values, np.array([0, 1, 0]), weights)[:, 0].tolist() == [3, 3.5, 2]
    assert np.isnan(resampled_means(values, np.array([0, 0, 0]), np.array([[0., 2]]))).all()


def test_clusters_are_identities_where_all_are_known(scored):
    frame = scored[0].frame
    assert clusters_of_frame(frame, len(frame))[0] == "identity"
    assert clusters_of_frame(frame.assign(identity=None), 5)[1].tolist() == [0, 1, 2, 3, 4]


def test_extras_of_predictions_need_whole_files(scored, tmp_path):
    demo, folder, _ = scored
    errors, variants = extras_of_predictions(demo, folder)
    assert set(errors) == set(CORRUPTIONS) and set(variants) == {HARD, VOTES}
    with pytest.raises(DamagedFile, match="clean.npy"):
        extras_of_predictions(demo, tmp_path)


def test_class_counts_are_facts_of_a_run():
    from training.data import class_counts
    assert class_counts(np.array([0, 2, 2]), 4) == [1, 0, 2, 0]


def test_read_json_of_the_schema_is_strict(tmp_path):
    assert read_json(cards.SCHEMA)["additionalProperties"] is False
