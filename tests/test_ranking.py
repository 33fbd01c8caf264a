"""Rankings of runs and cards: who is ranked with whom and why not, references, stability, mCE; in tables, files and on
the page."""
import contextlib
import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
import report
import reporting.report
from building.built_set import open_built_set
from corruptions import CELLS, CORRUPTIONS
from evaluation.cards import Card, CheckOfCard, Extras, card_file, read_card, write_card
from evaluation.error_bootstrap import draw_weights, extras_of_predictions
from evaluation.image_scores import HARD, SOFT, VOTES, WITHOUT, ImageScores
from reporting import corruption_errors, rank_stability, ranking, references
from reporting.candidates import CLEAN, Candidate, Group, candidate_of_card, candidates_of_runs, name_apart
from reporting.card_files import find_cards
from reporting.comparison import Comparison, page_data
from reporting.bootstrap import interval_of
from reporting.corruption_errors import Baseline, errors_of_model
from reporting.csv_tables import write_frame
from reporting.rank_stability import kendall_tau, rank_intervals
from reporting.runs import read_runs
from reporting.scores import blocks_of, scores_as_table
from reporting.stored_images import SetImages
from support.errors import UserError
from support.files import write_rows
from evaluation.scores import score
from cases import copy_runs
from test_cards import Alarm, card_of
from test_report import NoFigures
from test_page import Page, browser, elements, make_run  # noqa: F401 (browser is a fixture)

VERSION, OTHER = "a" * 64, "b" * 64
MAIN = Group(VERSION, 16, "32")


def candidate(name, nll, group=MAIN, kind="run", **others):
    """A candidate whose scores all follow its NLL."""
    scores = {(variant, metric): value for variant in (SOFT, HARD, VOTES, WITHOUT, CLEAN)
              for metric, value in (("nll", nll), ("brier", nll / 4), ("accuracy", 1 - nll / 4), ("ece", nll / 10))}
    return Candidate(name, kind, group, "Demo-C", scores, np.full((17, 5), nll / 4), **others)


def rank(candidates, metric="nll", of_references=None):
    (one,) = ranking.make_rankings(candidates, of_references or {}, {}, metric, [])
    return one


def lines(one):
    """[(heading of the section, rank, name)] of a ranking."""
    return [(section.heading, section.ranks.get(each), one.names[each])
            for section in one.sections for each in section.candidates]


# ---- who is ranked with whom

def test_runs_and_cards_are_ranked_together_and_references_have_no_rank():
    uniform = candidate("reference: uniform", 2.0, kind="reference")
    one = rank([candidate("b", 1.5), candidate("a", 1.0, kind="card"), candidate("c", 1.5), candidate("d", 3.0)],
               of_references={MAIN: [uniform]})
    assert lines(one) == [("ranked by NLL", 1, "a"), ("ranked by NLL", 2, "b"), ("ranked by NLL", 2, "c"),
                          ("ranked by NLL", None, "reference: uniform"), ("ranked by NLL", 4, "d")]
    assert "(uniform) has NLL 2.000 nats, the best model (a) 1.000 nats; that is 1.000 nats better" in one.sentences[1]
    by_accuracy = rank([candidate("b", 1.5), candidate("a", 1.0)], "accuracy")
    assert lines(by_accuracy) == [("ranked by accuracy", 1, "a"), ("ranked by accuracy", 2, "b")]


@pytest.mark.parametrize("changes, heading", [
    ({"overlap": "unknown"}, "apart, no rank: overlap with the test images unknown"),
    ({"overlap": "all"}, "apart, no rank: trained on the test images"),
    ({"group": MAIN._replace(set_version=OTHER)}, "apart: another set version (bbbbbbbb); ranked among themselves"),
    ({"group": MAIN._replace(precision="bf16")}, "apart: scored in bf16; ranked among themselves"),
    ({"group": MAIN._replace(images=9)}, "apart: scored on 9 images; ranked among themselves"),
    ({"group": MAIN._replace(missing=("contempt",), rule="drop", images=14)},
     "apart: scored on other classes (without contempt); ranked among themselves"),
    ({"group": MAIN._replace(missing=("contempt",), rule="keep")},
     "apart, no rank: knows other classes (without contempt); NLL undefined: it has no class contempt"),
])
def test_what_stands_apart_says_why(changes, heading):
    one = rank([candidate("a", 2.0), candidate("b", 2.1), candidate("other", 1.0, **changes)])
    assert one.sections[0].heading == "ranked by NLL" and len(one.sections[0].candidates) == 2
    assert one.sections[1].heading == heading and one.sections[1].candidates[0].name == "other"
    assert len(ranking.arrange([one])[0].sections) == 2


def test_references_stand_once_where_nobody_is_ranked():
    uniform = candidate("reference: uniform", 2.0, kind="reference")
    one = rank([candidate("a", 1.0, overlap="all"), candidate("b", 3.0, overlap="unknown")],
               of_references={MAIN: [uniform]})
    names = [name for _, _, name in lines(one)]
    assert len(one.sections) == 2 and not one.ranked(MAIN)
    assert sorted(names) == ["a", "b", "reference: uniform"]
    assert "reference: uniform" in [one.names[each] for each in one.sections[0].candidates]


def test_a_group_is_called_by_its_own_reason():
    """Not by that of its first section, and the page names the groups where there are several."""
    other = MAIN._replace(precision="bf16")
    candidates = [candidate("a", 2.0), candidate("b", 2.1), candidate("c", 1, overlap="all"),
                  candidate("d", 1.0, other, overlap="all"), candidate("e", 1.0, other, overlap="unknown")]
    one = rank(candidates)
    assert one.heading_of(MAIN) == "main group" and one.heading_of(other) == "apart: scored in bf16"
    unranked = rank([candidate("a", 2.0, overlap="all"), candidate("b", 2.1, overlap="some")])
    groups = [corruption_errors.compare_errors(each, group, None, {}, None, 0)
              for each in (one, unranked) for group in each.groups]
    first, second = corruption_errors.arrange(groups)
    assert [section.heading for section in first.sections] == ["main group", "apart: scored in bf16"]
    assert [section.heading for section in second.sections] == ["main group"]
    two = rank([candidate("a", 2.0), candidate("b", 2.1), candidate("d", 1.0, other), candidate("e", 1.1, other)])
    stabilities = [rank_stability.stability_of(two, group, {}, None, 0) for group in two.groups]
    (data,) = page_data(Comparison([two], stabilities))
    assert {sentence.split(":")[0] for sentence in data["stability"]} == {"main group", "apart"}


@pytest.mark.slow
def test_an_alarm_that_names_its_option_is_printed_once(scored_card):
    alarm = {"subject": "colour", "text": "wrong colours, add\n --input colour=bgr", "option": "--input colour=bgr"}
    data = scored_card.data | {"check": {"images": 9, "alarms": [alarm]}}
    assert candidate_of_card(Card(data)).alarms == ("wrong colours, add --input colour=bgr",)


def test_what_others_wrote_is_no_formula_in_any_csv_file(tmp_path):
    write_frame(tmp_path / "a.csv", [{"missing_classes": "=HYPERLINK(1)", "number": -1.5, "name": "a\nb"}],
                ["missing_classes", "number", "name"])
    assert (tmp_path / "a.csv").read_text() == "missing_classes,number,name\n'=HYPERLINK(1),-1.5,a b\n"


class RunWithData:
    """As runs.Run."""

    def __init__(self, *data):
        self.args = {"data": list(data)}


@pytest.mark.parametrize("made_with, overlap", [
    ({"dataset": "demo", "options": {"seed": "1", "train": "9"}}, "none"),
    ({"dataset": "demo", "options": {"seed": "2"}}, "unknown"),  # other faces
    ({"dataset": "ferplus", "options": {"seed": "1"}}, "unknown"), ({}, "unknown")])
def test_a_run_is_ranked_only_where_its_training_images_are_known(copy, made_with, overlap):
    read, _ = read_runs(copy)
    scores = scores_as_table(read)
    versions = {block.set_version for block in blocks_of(scores)}
    runs = [RunWithData("seed=1", "classes=8")] * len(read)
    of_runs = candidates_of_runs(scores, {}, runs, dict.fromkeys(versions, made_with))
    assert {each.overlap for each in of_runs} == {overlap}


def test_without_the_set_runs_have_no_rank(copy):
    for path in copy.rglob("set.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": "/nowhere"}))
    text, data = make_report(copy)
    assert "Runs have no rank here" in " ".join(text.split()) and "--set DIR" in text
    (one,) = data["rankings"]
    assert all(line["rank"] is None for line in one["lines"] if line["kind"] == "run")


def test_linked_folders_of_models_are_not_searched(copy, example):
    whole, _ = find_cards(copy, [])
    shutil.copytree(copy / "models", copy.parent / "elsewhere")
    shutil.rmtree(copy / "models" / "mymodel-0")
    (copy / "models" / "link-0").symlink_to(copy.parent / "elsewhere" / "mymodel-0")
    assert len(whole) == 1 and find_cards(copy, [])[0] == []


def test_a_score_that_is_not_defined_gives_no_rank():
    broken = candidate("broken", 1.0)
    del broken.scores[SOFT, "nll"]
    one = rank([candidate("a", 2.0), broken])
    assert lines(one)[1] == ("apart, no rank: NLL undefined", None, "broken")
    assert lines(rank([candidate("a", 2.0), broken], "brier"))[0] == ("ranked by Brier score", 1, "broken")


def test_names_are_told_apart():
    twins = [candidate("a", 1.0), candidate("a", 2.0), candidate("a", 3.0)]
    assert list(name_apart(twins).values()) == ["a", "a [2]", "a [3]"]


def test_the_note_on_orders_names_what_moves():
    first, second = candidate("a", 1.0), candidate("b", 2.0)
    second.scores[HARD, "ece"] = .01
    one = rank([first, second])
    (note,) = [text for text in one.sentences if text.startswith("By ECE against hard")]
    assert note == ("By ECE against hard labels, 2 of 2 models have another place than by ECE against soft labels; the "
                    "best is b.")
    assert not [text for text in rank([candidate("a", 1.0), candidate("b", 2.0)]).sentences if "By ECE" in text]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(.1, 3), st.sampled_from(["none", "unknown", "some"]),
                          st.sampled_from([MAIN, MAIN._replace(precision="bf16"), MAIN._replace(images=3)])),
                min_size=1, max_size=8))
def test_everybody_stands_in_a_ranking_once_and_only_like_with_like(drawn):
    candidates = [candidate(f"m{number}", nll, group, overlap=overlap)
                  for number, (nll, overlap, group) in enumerate(drawn)]
    one = rank(candidates)
    placed = [each for section in one.sections for each in section.candidates]
    assert sorted(map(id, placed)) == sorted(map(id, candidates))
    for section in one.sections:
        assert len({each.group for each in section.candidates}) == 1
        ranked = [each for each in section.candidates if each in section.ranks]
        assert all(each.overlap == "none" for each in ranked)
        assert [section.ranks[each] for each in ranked] == sorted(section.ranks.values())
        assert [each.scores[SOFT, "nll"] for each in ranked] == sorted(each.scores[SOFT, "nll"] for each in ranked)


# ---- references

@pytest.fixture(scope="module")
def demo(built):
    return open_built_set(built)


@pytest.fixture(scope="module")
def images_of_demo(built, demo):
    from reporting.stored_images import open_set_images
    return open_set_images(built, demo.manifest["set_version"])


class RunWithCounts:
    """As runs.Run."""

    def __init__(self, classes, training, validation):
        self.args = {"dataset": "demo", "classes": classes, "train_class_counts": training,
                     "val_class_counts": validation}


def test_references_are_scored_as_models_are(demo, images_of_demo):
    count = len(demo.classes)
    training, validation = [40] + [10] * (count - 1), [6] + [2] * (count - 1)
    run = RunWithCounts(list(demo.classes[::-1]), training[::-1], validation[::-1])  # another order of classes
    group = Group(demo.manifest["set_version"], len(demo.frame), "32")
    pairs, sentences = references.references_of_group(group, images_of_demo, [run])
    assert sentences == [] and [one.name for one, _ in pairs] == [
        "reference: uniform", "reference: training prior", "reference: majority class"]
    confidence = 6 / sum(validation)
    expected = {"reference: uniform": np.full(count, 1 / count),
                "reference: training prior": np.array(training) / sum(training),
                "reference: majority class": np.array([confidence] + [(1 - confidence) / (count - 1)] * (count - 1))}
    labels = demo.frame["expression"].to_numpy(np.int64)
    for one, _ in pairs:
        probs = np.tile(expected[one.name], (len(labels), 1))
        summaries = [metrics.summary(probs, labels, demo.soft_labels_of(*cell), np.log(probs)) for cell in CELLS]
        for metric in ("nll", "brier", "ece", "accuracy"):
            assert one.scores[SOFT, metric] == pytest.approx(np.mean([each[metric] for each in summaries]))
        assert one.errors.mean() == pytest.approx(1 - one.scores[SOFT, "accuracy"])
    assert pairs[0][0].scores[SOFT, "nll"] == pytest.approx(np.log(count))


def test_references_on_some_classes(demo, images_of_demo):
    from datasets.split import expression_name
    left_out = expression_name(demo.classes[-1])
    labels = demo.frame["expression"].to_numpy()
    images = int((labels != len(demo.classes) - 1).sum())
    group = Group(demo.manifest["set_version"], images, "32", (left_out,), "drop")
    (uniform, scores), *_ = references.references_of_group(group, images_of_demo, [])[0]
    assert len(scores.kept) == images and uniform.scores[SOFT, "nll"] == pytest.approx(np.log(len(demo.classes) - 1))


def test_references_that_are_not_available_are_named(demo, images_of_demo, monkeypatch, tmp_path):
    group = Group(demo.manifest["set_version"], len(demo.frame), "32")
    pairs, (sentence,) = references.references_of_group(group, images_of_demo, [])
    assert [one.name for one, _ in pairs] == ["reference: uniform"]
    assert sentence.startswith("References training prior and majority class: not available (no run of the demo")
    monkeypatch.setenv("FERC_DATA", str(tmp_path))
    other = replace(images_of_demo, made_with={"dataset": "ferplus"})
    assert f"{tmp_path / 'ferplus'} is not there" in references.references_of_group(group, other, [])[1][0]


@pytest.mark.parametrize("counts", [None, [1], [1.5] * 8, [True] * 8, [-1] * 8, "x"])
def test_damaged_class_counts_are_not_used(demo, counts):
    good = [1] * len(demo.classes)
    assert references.recorded_counts(RunWithCounts(list(demo.classes), good, good)) is not None
    assert references.recorded_counts(RunWithCounts(list(demo.classes), good, counts)) is None


# ---- stability

def image_scores_of(nll):
    """The scores of images with these values of NLL; nothing else is asked for."""
    nll = np.asarray(nll, float)
    return ImageScores(np.arange(len(nll)), np.zeros((86, len(nll)), bool), {}, {(SOFT, "nll"): nll}, {},
                       np.zeros((85, len(nll)), np.int8), {})


def set_of(count):
    return SetImages(None, VERSION, (), {}, np.zeros((17, 5, count, 2), np.float32), None, np.zeros(count, np.int64),
                     "image", np.arange(count))


def test_rank_intervals_are_those_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    values = {name: rng.normal(mean, 1, 60) for name, mean in (("a", 1), ("b", 1.1), ("c", 5))}
    candidates = {name: candidate(name, float(nll.mean())) for name, nll in values.items()}
    images = {candidates[name]: [image_scores_of(nll)] for name, nll in values.items()}
    intervals = rank_intervals("nll", images, set_of(60), 500)
    weights = draw_weights(60, 500, VERSION)[1:]
    ranks = []
    for weight in weights:
        means = [np.repeat(nll, weight.astype(int)).mean() for nll in values.values()]
        ranks.append([1 + sum(other < mean for other in means) for mean in means])
    for (name, one), column in zip(candidates.items(), np.array(ranks).T, strict=True):
        assert intervals[one] == (np.sort(column)[12], np.sort(column)[487]), name
    assert intervals[candidates["c"]] == (3, 3) and intervals[candidates["a"]] == (1, 2)


def test_models_that_predict_the_same_have_the_same_rank():
    nll = np.random.default_rng(0).normal(size=30)
    one, other = candidate("a", 1.0), candidate("b", 1.0)
    images = {one: [image_scores_of(nll)], other: [image_scores_of(nll)]}
    assert set(rank_intervals("nll", images, set_of(30), 100).values()) == {(1, 1)}


def test_seeds_are_averaged_before_they_are_ranked():
    one, other = candidate("a", 1.0), candidate("b", 1.0)
    images = {one: [image_scores_of([0.] * 20), image_scores_of([2.] * 20)], other: [image_scores_of([1.1] * 20)]}
    intervals = rank_intervals("nll", images, set_of(20), 50)
    assert intervals[one] == (1, 1) and intervals[other] == (2, 2)


def test_taus_and_ranks_under_other_labels():
    candidates = [candidate(f"m{number}", 1 + number) for number in range(4)]
    for number, one in enumerate(candidates):
        one.scores[HARD, "nll"] = 9 - number  # the reverse
    del candidates[0].scores[VOTES, "nll"]
    stability = rank_stability.stability_of(rank(candidates), MAIN, {}, None, 100)
    assert stability.taus[SOFT, HARD] == -1 and stability.taus[SOFT, WITHOUT] == 1
    assert VOTES not in stability.ranks and stability.left_out == {VOTES: [candidates[0]]}
    text = " ".join(rank_stability.sentences_of(stability, ""))
    assert "soft labels and hard labels −1.00" in text and "no order by votes: not known of m0" in text
    assert "no intervals: they need" in text
    assert np.isnan(kendall_tau([1, 1], [1, 2]))
    assert rank_stability.stability_of(rank(candidates[:1]), MAIN, {}, None, 100) is None


# ---- mCE

def baseline_of(errors, clean, se=0.0):
    of_all = {name: {"error": se, "increase": se} for name in CORRUPTIONS}
    return Baseline("base", "weights 0", errors, clean, of_all)


def test_a_corruption_is_undefined_for_every_model_where_the_baseline_makes_too_few_errors():
    errors = np.full((17, 5), .4)
    errors[0] = .21  # of clean .2: an increase of .05 in all
    errors[1] = .01  # sums to .05
    baseline = baseline_of(errors, .2, se=.03)
    assert baseline.defined.tolist() == [True, False, *[True] * 15]  # .05 is less than twice .03
    assert baseline.defined_relative.tolist() == [False, False, *[True] * 15]
    model = errors_of_model(candidate("m", 1.0), baseline, None, None)
    assert np.isnan(model.ce[1]) and np.isnan(model.relative_ce[:2]).all()
    assert model.mean_ce == pytest.approx((.25 / .21 + 15 * .25 / .4) / 16)
    one = candidate("base", 1.0)
    one = replace(one, errors=errors, scores=one.scores | {(CLEAN, "accuracy"): .8})
    own = errors_of_model(one, baseline, None, None)
    assert own.mean_ce == pytest.approx(1) and own.mean_relative_ce == pytest.approx(1)


def test_without_a_baseline_there_are_two_numbers():
    one = rank([candidate("m", 1.0)])
    model = errors_of_model(one.members(MAIN)[0], None, None, None)
    assert model.mean_error == pytest.approx(.25) and model.self_relative == pytest.approx(1)
    assert np.isnan(model.mean_ce) and np.isnan(model.ce).all()
    group = corruption_errors.ErrorsOfGroup(one, MAIN, None, [model])
    (grid,) = corruption_errors.arrange([group])
    assert [column[1] for column in grid.columns] == ["mean error", "self-relative"]


def test_intervals_of_mce():
    assert interval_of(np.ones((100, 3))) == (1, 1)
    assert interval_of(np.ones((100, 0))) is None and interval_of(np.full((100, 2), np.nan)) is None
    low, high = interval_of(np.arange(101.)[:, None])
    assert (low, high) == (2.5, 97.5)


# ---- the whole report

def make_card(runs, demo, name, overlap="none", extras=None, **others):
    """The folder of a model that is no run, with predictions and card, as scoring leaves it."""
    folder = runs / "models" / f"{name}-0"
    run = make_run(folder.parent, demo, name, "onnx", 0)
    run.rename(folder)
    (folder / "args.json").unlink()
    (folder / "metrics.csv").unlink()
    (folder / "model.json").write_text("{}")
    out = folder / "predictions" / demo.folder.name
    origin = json.loads((out / "set.json").read_text())
    (out / "set.json").write_text(json.dumps(origin | {"weights": "cd" * 32}))
    rows = score(demo, out, None)
    errors, variants = extras_of_predictions(demo, out)
    extras = extras or Extras(None, None, errors, variants)
    card = card_of(demo, rows, name, overlap, "cd" * 32, extras, **others)
    write_card(card_file(folder / "cards", demo.folder.name, "32"), card)
    return folder


@pytest.fixture(scope="module")
def example(demo, tmp_path_factory):
    """(folder of runs, printed text, data of the page): two runs, a model beside its card, and cards of others."""
    root = tmp_path_factory.mktemp("ranking")
    runs, others = root / "runs", root / "others"
    for loss in ("ce", "maxent+mbls"):
        make_run(runs, demo, "baseline", loss, 0)
    make_card(runs, demo, "mymodel")
    shutil.move(make_card(runs, demo, "unknown", "unknown"), root / "moved")
    rows = score(demo, root / "moved" / "predictions" / demo.folder.name, None)
    write_rows(root / "rows.csv", rows)
    evil = "<script>alert(1)</script> & \\evil{} | `x`"
    cards = {"evil.json": card_of(demo, rows, evil, extras=Extras(CheckOfCard(9, [Alarm()]))),
             "formula.json": card_of(demo, rows, "=HYPERLINK(1)", changed={"input": "colour=bgr"}),
             "apart.json": card_of(demo, rows, "no statement", "unknown")}
    for name, card in cards.items():
        write_card(others / name, card)
    version = json.loads((others / "apart.json").read_text())
    version["set"]["set_version"] = OTHER
    version["model"]["name"] = "older"
    (others / "version.json").write_text(json.dumps(version))
    (others / "broken.json").write_text("{")
    (others / "hostile.json").write_text(json.dumps({"format": 1, "model": {"name": "\x1b[31m" * 99}}))
    text, data = make_report(runs, cards=(others,), baseline=runs / "baseline-ce-0.0-0")
    return runs, text, data


@pytest.fixture
def scored_card(example):
    """The card of the model `mymodel`."""
    (file,) = example[0].glob("models/mymodel-0/cards/*.json")
    return read_card(file)


@pytest.fixture
def copy(example, tmp_path):
    """The runs and models of the example, to report on again."""
    copy_runs(example[0], tmp_path / "runs")
    return tmp_path / "runs"


def make_report(runs, **options):
    """(what is printed, data of the page)"""
    page = runs.parent / "page.html"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(reporting.report, "Drawing", NoFigures)
        patch.setattr(metrics, "ece_floor", lambda *_, **__: 0.1)
        assert report.main(report.Args(runs, html=page, **{"resamples": 50} | options)) == 0
    return out.getvalue(), json.loads(elements(page.read_text(encoding="utf-8"))["data"])


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_runs_and_cards_are_in_one_list(example):
    rows = read_csv(example[0] / "report" / "ranking.csv")
    ranked = [row for row in rows if row["section"] == "ranked by NLL" and row["rank"]]
    assert {row["model"] for row in ranked} == {
        "baseline, CE", "baseline, MaxEnt+MbLS", "mymodel", "<script>alert(1)</script> & \\evil{} | `x`",
        "'=HYPERLINK(1)"}  # a spreadsheet computes nothing
    assert [float(row["nll"]) for row in ranked] == sorted(float(row["nll"]) for row in ranked)
    assert [row["model"] for row in rows if row["kind"] == "reference"] == ["reference: uniform"]
    sections = {row["model"]: row["section"] for row in rows if not row["rank"]}
    assert sections["no statement"] == "apart, no rank: overlap with the test images unknown"
    assert {row["section"] for row in rows if row["set_version"] == OTHER} == {
        "apart, no rank: another set version (bbbbbbbb); overlap with the test images unknown"}
    of_run = next(row for row in rows if row["model"] == "baseline, CE")
    scores = read_csv(example[0] / "baseline-ce-0.0-0" / "scores.csv")
    value = {(row["corruption"], row["metric"]): float(row["value"]) for row in scores if not row["severity"]}
    assert float(of_run["nll"]) == pytest.approx(value["mean", "nll"])
    assert float(of_run["nll_clean"]) == pytest.approx(value["clean", "nll"])
    assert of_run["ece_hard"] and of_run["ece_without"]


def test_copies_of_a_set_with_other_files_are_noted(copy, example):
    """Their set version is the same; only the hash of all files tells them apart."""
    assert "copies of the set" not in example[1]
    (file,) = copy.glob("models/mymodel-0/cards/*.json")
    card = json.loads(file.read_text())
    before, card["set"]["content"] = card["set"]["content"], "f" * 64
    file.unlink()  # a link to the card of the example
    file.write_text(json.dumps(card))
    text, _ = make_report(copy)
    assert "The models were scored on copies of the set whose files differ" in text
    assert f"{before[:8]}: 2 models" in text and "ffffffff: 1 model)" in text


def test_alarms_changed_options_and_broken_cards_are_said(example):
    text = " ".join(example[1].split())
    assert "ALARM: accuracy .41 as read, .62 with the colours in the order BGR --input colour=bgr" in text
    assert "=HYPERLINK(1): input changed by its user: colour=bgr" in text
    assert "broken.json is damaged" in text and "hostile.json is no card of this project" in text
    assert "\x1b" not in example[1] and max(map(len, tables(example[1]))) <= 80
    assert "References training prior and majority class: not available" in text


def tables(printed):
    """The printed lines above the paths and the notes, which are not wrapped."""
    return printed.split("Missing:")[0].splitlines()


def test_files_hold_what_others_wrote_as_text(example):
    folder = example[0] / "report"
    markdown, latex = (folder / "ranking.md").read_text(), (folder / "ranking.tex").read_text()
    assert "\\<script>alert(1)\\</script> & \\\\evil{} \\| \\`x\\`" in markdown
    assert r"\textbackslash{}evil\{\} \textbar{}" in latex and "<script>" not in latex
    page = (example[0].parent / "page.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert r"\input{ranking}" in (folder / "all.tex").read_text()


def test_ranks_and_errors_are_written(example):
    ranks = {row["model"]: row for row in read_csv(example[0] / "report" / "ranks.csv")}
    assert ranks["mymodel"]["low"] and ranks["baseline, CE"]["low"]
    assert not ranks["'=HYPERLINK(1)"]["low"]  # known by its card alone
    text = " ".join(example[1].split())
    assert "none for" in text and "known by card or scores alone" in text
    errors = read_csv(example[0] / "report" / "errors.csv")
    means = {row["model"]: row for row in errors if row["corruption"] == "mean" and row["set_version"] != OTHER}
    assert float(means["baseline, CE"]["ce"]) == pytest.approx(1)
    assert float(means["baseline, CE"]["ce_low"]) == pytest.approx(1) == float(means["baseline, CE"]["ce_high"])
    assert means["mymodel"]["ce_low"] and not means["no statement"]["ce_low"]
    assert {row["baseline"] for row in means.values()} == {"baseline, CE, seed 0"}
    assert {row["baseline_digest"] for row in means.values()} == {"weights weights"}  # what the made-up set.json says
    assert len(errors) == 19 * len({(row["model"], row["set_version"]) for row in errors})


@pytest.mark.slow
def test_a_card_as_baseline_gives_the_same_errors(copy, tmp_path):
    runs = copy
    card = next((runs / "models").glob("mymodel-0/cards/*.json"))
    text, _ = make_report(runs, baseline=card)
    assert "the baseline is mymodel (weights cdcdcdcdcdcdcdcd)" in " ".join(text.split())
    by_card = read_csv(runs / "report" / "errors.csv")
    make_report(runs, baseline=card.parent.parent)
    assert read_csv(runs / "report" / "errors.csv") == by_card
    shutil.copy(card, tmp_path / "alone.json")
    make_report(runs, baseline=tmp_path / "alone.json")  # its predictions lie beside its twin
    assert read_csv(runs / "report" / "errors.csv") == by_card


@pytest.mark.slow
def test_the_card_of_a_run_of_the_report_is_not_ranked_twice(copy, demo, tmp_path):
    run = copy / "baseline-ce-0.0-0"
    path = run / "predictions" / demo.folder.name / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "ef" * 32}))
    card = card_of(demo, score(demo, path.parent, None), "twin", weights="ef" * 32)
    for kind, lines_of_twin in (("run", 0), ("onnx", 1)):
        card.data["model"]["kind"] = kind
        write_card(tmp_path / "cards" / "twin.json", card)
        text, data = make_report(copy, cards=(tmp_path / "cards",), resamples=0)
        (one,) = data["rankings"]
        assert sum(line["model"] == "twin" for line in one["lines"]) == lines_of_twin
        assert ("twin.json is the card of a run of this report" in text) == (not lines_of_twin)


def test_errors_for_people(copy, tmp_path):
    for baseline in (tmp_path, tmp_path / "none", tmp_path / "none.json"):
        with pytest.raises(UserError, match="--baseline .*neither a card nor the folder"):
            make_report(copy, baseline=baseline)
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises(UserError, match="damaged.json is no card"):
        make_report(copy, baseline=tmp_path / "damaged.json")
    with pytest.raises(UserError, match="--cards .*it is no folder"):
        make_report(copy, cards=(tmp_path / "damaged.json",))
    with pytest.raises(UserError, match="--rank-by kse: known are nll, brier, accuracy, ece"):
        make_report(copy, rank_by="kse")
    assert not (copy / "report").exists()
    (tmp_path / "args.json").write_text("{}")
    with pytest.raises(UserError, match="not below the folder of the report"):
        make_report(copy, baseline=tmp_path)


@pytest.mark.slow
def test_a_baseline_of_other_images_is_said(copy, example):
    text, _ = make_report(copy, baseline=example[0].parent / "others" / "version.json")
    assert "version.json: no model of this report was scored on the same images" in text
    assert not any(row["ce"] for row in read_csv(copy / "report" / "errors.csv"))


def test_cards_alone_are_a_report(example, tmp_path):
    text, data = make_report(tmp_path / "runs", cards=(example[0].parent / "others",))
    assert "Ranking on Demo-C" in text and data["runs"] == [] and len(data["rankings"]) == 1
    assert "References uniform, training prior, majority class: not available" in " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["ece", "accuracy"])
def test_other_scores_rank(copy, metric):
    _, data = make_report(copy, rank_by=metric)
    (one,) = data["rankings"]
    ranked = [line for line in one["lines"] if line["rank"] and line["section"] == 0]
    values = [line[metric] for line in ranked]
    assert values == sorted(values, reverse=metric == "accuracy")
    assert all(line["interval"] for line in ranked if line["kind"] == "run")


def test_the_page_has_every_line(example):
    (one,) = example[2]["rankings"]
    rows = read_csv(example[0] / "report" / "ranking.csv")
    assert [line["model"] for line in one["lines"]] == [row["model"].removeprefix("'") for row in rows]
    alarmed = next(line for line in one["lines"] if line["alarms"])
    assert "ALARM" in alarmed["notes"]
    assert one["stability"] and any("the baseline is" in text for text in one["stability"])


# ---- in the browser

@pytest.fixture
def opened(browser, example):  # noqa: F811
    view = Page(browser, example[0].parent / "page.html")
    yield view
    view.check_quiet()


def models(view):
    return view.run("""return [...document.querySelectorAll('#ranking-table .tabulator-row [tabulator-field="model"]')]
                       .filter(x => x.offsetParent).map(x => x.textContent)""")


def test_the_ranking_sorts_searches_and_marks(opened, example):
    (one,) = example[2]["rankings"]
    texts = [f"{line['rank'] or '–'}{line['model']}{' alarm' if line['alarms'] else ''}" for line in one["lines"]]
    assert models(opened) == texts
    headings = opened.texts("#ranking-table .tabulator-group")
    assert headings == one["sections"]
    opened.find("#ranking-table .tabulator-col[tabulator-field=brier]").click()
    first = [line for line in one["lines"] if line["section"] == 0]
    shown = opened.texts('#ranking-table .tabulator-row [tabulator-field="brier"]')[:len(first)]
    assert shown == sorted((f"{100 * line['brier']:.1f}" for line in first), key=float)
    best = opened.texts("#ranking-table .best")
    assert f"{min(line['nll'] for line in first if line['kind'] != 'reference'):.3f}" in best
    search = opened.find("#ranking-choices input")
    search.send_keys("mymodel")
    opened.wait(lambda: len(models(opened)) == 1)
    assert opened.texts("#ranking-count") == [f"1 of {len(one['lines'])} lines"]


@pytest.mark.slow
def test_the_ranking_on_a_phone(opened):
    opened.look(390, 844)
    assert opened.run("return document.documentElement.scrollWidth") <= 390
    right = opened.run("""return ["model", "nll"].map(field => document.querySelector(
        `#ranking-table .tabulator-row [tabulator-field="${field}"]`).getBoundingClientRect().right)""")
    assert right[0] < right[1] <= 390
    opened.run("document.querySelector('.stability').open = true")
    assert opened.run("return document.documentElement.scrollWidth") <= 390
