"""Reports of perturbation sequences: tables, differences, figure and page against numbers worked out again."""
import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import make_fer_p
import metrics
import report
import reporting.report
from building.built_set import open_built_set
from evaluation.cards import Card, Extras, ModelOfCard, SetOfCard, make_card, write_card
from evaluation.class_matching import same_classes
from evaluation.model_facts import ModelFacts
from evaluation.predictions import made_from, predictions_file, write_array, write_origin
from evaluation.sequence_scores import TEMPERATURE, Temperature, score_sequences
from perturbations import is_noise
from reporting import sequence_plots, stability, stored_sequences
from reporting.candidates import Candidate, Group
from reporting.runs import read_runs, read_scores
from reporting.scores import RAW, blocks_of, sequences_as_table
from reporting.sequence_bootstrap import replicates, resample_block
from reporting.sequence_models import MEAN, SequenceBaseline, SequenceModel, models_of_runs, rate_of
from reporting.stored_sequences import MEASURED, flips_by_distance, open_sequences, read_block, temperatures_of
from support.errors import UserError
from support.files import write_rows
from support.random_streams import keyed_rng
from cases import mostly_slow
from conftest import OPTIONS, SIZE
from test_figures import check_texts, look  # noqa: F401 (look is a fixture)
from test_page import Page, browser, elements  # noqa: F401 (browser is a fixture)
from test_report import NoFigures

NAMES = ("gaussian_noise", "brightness", "translate")
BASELINE = "baseline-ce-0"


@pytest.fixture(scope="module")
def demo(demo_root, tmp_path_factory):
    """A set of sequences of 16 images, without frames on disk."""
    out = tmp_path_factory.mktemp("sequences") / "Demo-P"
    make_fer_p.main(make_fer_p.Args(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, workers=1, out=out,
                                    perturbations=NAMES, images=False))
    return open_built_set(out)


def make_run(runs, demo, script, loss, seed, temperature=1.5, constant=False, **others):
    """A run as training and evaluation leave it, with logits drawn here. Returns its folder."""
    folder = runs / f"{script}-{loss}-{seed}"
    folder.mkdir(parents=True)
    settings = {"script": script, "dataset": "demo", "loss": loss, "seed": seed, "noise": 0.0, "protocol": "paper",
                "image_size": SIZE, "epochs": 1, "runs": "runs"} | others
    (folder / "args.json").write_text(json.dumps(settings))
    (folder / "metrics.csv").write_text("epoch\n0\n")
    out = folder / "predictions" / demo.folder.name
    weights = f"{len(script)}{len(loss)}{seed}".ljust(64, "0")
    origin = made_from(demo, None, weights, "32-true", same_classes(len(demo.classes)))
    write_origin(out, origin | {"verified": True, "digests": {}}, demo)
    labels = demo.frame["expression"].to_numpy(np.int64)
    write_array(out / "labels.npy", labels)
    truth = np.eye(len(demo.classes))[labels]
    start = 2 * truth + keyed_rng(script, loss, seed).normal(size=truth.shape)
    for cell in (None, *demo.cells):
        rng = keyed_rng(script, loss, seed, *(cell or ()))
        drift = keyed_rng(script, cell and cell[0]).normal(size=truth.shape) * (cell[1] / 20 if cell else 0)
        logits = (1.5 if loss == "ce" else 0.7) * (start + drift + 0.4 * rng.normal(size=truth.shape))
        logits[:, 0] += 100 * constant
        path = predictions_file(out, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, logits.astype(np.float32))
    of_model = None if temperature is None else Temperature(temperature)
    write_rows(folder / "scores.csv", score_sequences(demo, out, None, temperature=of_model))
    return folder


def run_report(runs, **options):
    """What it prints; with `html` also the data of the page. Figures are not drawn."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(reporting.report, "Drawing", NoSequenceFigures)
        patch.setenv("FERC_DATA", "no data")
        assert report.main(report.Args(runs, **{"resamples": 50} | options)) == 0
    return out.getvalue()


class NoSequenceFigures(NoFigures):
    """Stands in for `figures.Drawing`."""

    def begin_sequences(self, *_):
        pass


def page_data(path):
    return json.loads(elements(path.read_text(encoding="utf-8"))["data"])


@pytest.fixture(scope="module")
def example(demo, tmp_path_factory):
    """Two losses with two seeds, and a constant model: (folder of runs, what the report prints, data of the page)."""
    runs = tmp_path_factory.mktemp("stability") / "runs"
    for loss, temperature in (("ce", 1.9), ("maxent+mbls", 0.8)):
        for seed in (0, 1):
            make_run(runs, demo, "baseline", loss, seed, temperature)
    make_run(runs, demo, "SCN", "ce", 0, constant=True)
    page = runs.parent / "page.html"
    text = run_report(runs, html=page, baseline=runs / BASELINE, resamples=200)
    return runs, text, page_data(page)


@pytest.fixture
def copy(example, tmp_path):
    """Two runs of the example, to damage."""
    for name in (BASELINE, "baseline-maxent+mbls-0"):
        shutil.copytree(example[0] / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def rows_of(folder):
    """{(method, place, metric): value} of a run's scores.csv"""
    with (folder / "scores.csv").open() as file:
        return {(row["method"], row["corruption"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def csv_of(runs, name):
    with (runs / "report" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def change_scores(folder, change):
    """Let scores.csv of a run hold the rows that `change` makes of each row, or none."""
    path = folder / "scores.csv"
    with path.open() as file:
        rows = [row for row in map(change, csv.DictReader(file)) if row is not None]
    path.unlink()
    write_rows(path, rows)


# ---- flips by distance

def test_flips_by_distance_of_a_small_sequence():
    predictions = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])
    assert flips_by_distance(predictions, False) == pytest.approx([1 / 6, 2 / 4, 1 / 2])
    assert flips_by_distance(predictions, True) == pytest.approx([0, 1 / 2, 1 / 2])


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.integers(0, 3)))
def test_flips_by_distance_are_flip_probabilities(predictions):
    """At distance d the flip probability with difficulty d; against the first frame their mean is that of noise."""
    curve = flips_by_distance(predictions, False)
    for distance, value in enumerate(curve, 1):
        assert value == pytest.approx(metrics.flips(predictions, difficulty=distance).mean())
    first = flips_by_distance(predictions, True)
    assert first.mean() == pytest.approx(metrics.flips(predictions, against_first=True).mean())


# ---- values of sequences and their bootstrap

@pytest.fixture(scope="module")
def stored(example):
    """(runs, their scores, their block, what its predictions show)"""
    runs, _ = read_runs(example[0])
    sequences = sequences_as_table(runs)
    (block,) = blocks_of(sequences)
    return runs, sequences, block, read_block(block, runs, sequences, (), set())


def test_the_set_as_it_is_has_the_scores_of_scores_csv(stored):
    """The first row of the resamples: of every perturbation, and of the mean over them."""
    runs, sequences, block, predictions = stored
    resampled = resample_block(block, predictions, runs, 3)
    assert len(resampled.values) == len(runs) and not resampled.notes
    for index, values in resampled.values.items():
        expected = rows_of(runs[index].folder)
        assert resampled.perturbations[index] == NAMES
        for place, of_place in zip((*NAMES, MEAN), (*values[0], metrics.mean_of_known(values, 1)[0]), strict=True):
            for (method, metric), value in zip(MEASURED, of_place, strict=True):
                assert value == pytest.approx(expected[method, place, metric], abs=1e-9), (place, method, metric)


def test_resamples_against_repeating_images(stored):
    """By hand: the sequences of the drawn images, each as often as it was drawn."""
    runs, sequences, block, _ = stored
    of_run = open_sequences(runs[0], block, 1.9)
    clusters = np.arange(block.n)
    weights = np.stack([np.ones(block.n), keyed_rng("drawn").multinomial(block.n, np.full(block.n, 1 / block.n))])
    values = replicates(of_run, clusters, weights)
    drawn = np.repeat(clusters, weights[1].astype(int))
    for place, name in enumerate(NAMES):
        logits, noise = of_run.logits(name)[drawn], {"against_first": is_noise(name)}
        probs = metrics.softmax(logits.reshape(-1, 8) / 1.9).reshape(logits.shape)
        by_hand = {(RAW, "flip_probability"): metrics.flips(logits.argmax(-1), **noise).mean(),
                   (RAW, "accuracy"): (logits.argmax(-1) == of_run.labels[drawn][:, None]).mean(),
                   (TEMPERATURE, "total_variation"): metrics.total_variations(probs, **noise).mean(),
                   (TEMPERATURE, "total_variation_unflipped"): np.nanmean(
                       metrics.total_variations(probs, **noise, unflipped_only=True))}
        for column, expected in by_hand.items():
            assert values[1, place, MEASURED.index(column)] == pytest.approx(expected), (name, column)


def test_a_sequence_whose_frames_all_flip_is_left_out_of_its_mean():
    values = np.array([[[0.5, np.nan], [0.1, np.nan]], [[np.nan, 1.0], [0.3, 3.0]]])
    assert metrics.mean_of_known(values, 1) == pytest.approx(np.array([[0.3, np.nan], [0.3, 2.0]]), nan_ok=True)


@pytest.mark.slow
def test_equal_models_differ_by_nothing_at_all(demo, tmp_path):
    made = make_run(tmp_path / "runs", demo, "baseline", "ce", 0)
    twin = make_run(tmp_path / "runs", demo, "baseline", "maxent+mbls", 0)
    for name in ("predictions", "scores.csv"):
        shutil.rmtree(twin / name) if (twin / name).is_dir() else (twin / name).unlink()
    shutil.copytree(made / "predictions", twin / "predictions")
    shutil.copy(made / "scores.csv", twin / "scores.csv")
    run_report(tmp_path / "runs")
    lines = csv_of(tmp_path / "runs", "flicker")
    assert len(lines) == len(MEASURED)
    for line in lines:
        assert float(line["difference"]) == float(line["low"]) == float(line["high"]) == 0


# ---- flip rates

def model_of(*flips, name="m"):
    """A model with a seed and these flip probabilities."""
    candidate = Candidate(name, "run", Group("a" * 64, 16, "32"), "Demo-P", {})
    names = NAMES[:len(flips)]
    values = {(RAW, place, "flip_probability"): np.array([value]) for place, value in zip(names, flips, strict=True)}
    return SequenceModel(candidate, names, values, (0,))


def test_flip_rates_and_their_mean():
    baseline = SequenceBaseline("base", "weights 0", NAMES, np.array([0.2, 0.5, 0.1]), np.array([0.01, 0.01, 0.01]))
    model = model_of(0.1, 0.5, 0.2)
    assert [rate_of(model, baseline, name).mean for name in NAMES] == pytest.approx([0.5, 1.0, 2.0])
    assert rate_of(model, baseline, MEAN).mean == pytest.approx(3.5 / 3)


def test_a_rate_is_undefined_for_every_model_where_the_baseline_flips_too_rarely():
    """Below twice the standard error, and at 0."""
    baseline = SequenceBaseline("base", "weights 0", NAMES, np.array([0.2, 0.019, 0.0]), np.array([0.1, 0.01, 0.0]))
    for flips in ((0.1, 0.5, 0.2), (0.4, 0.0, 0.0)):
        model = model_of(*flips)
        assert [rate_of(model, baseline, name) for name in NAMES[1:]] == [None, None]
        assert rate_of(model, baseline, MEAN).mean == pytest.approx(flips[0] / 0.2)
    (_, undefined) = stability.sentences_on_baseline(baseline, "")
    assert undefined == ("mFR is over 1 of 3 perturbations for every model: the baseline's flip probability is 0, or "
                         "below twice its standard error, in brightness, translate.")
    unknown = SequenceBaseline("base", "weights 0", NAMES, np.array([0.2, 0.019, 0.0]), None)
    assert rate_of(model_of(0.1, 0.038, 0.2), unknown, MEAN).mean == pytest.approx((0.5 + 2) / 2)
    assert "standard errors of the baseline are not known" in stability.sentences_on_baseline(unknown, "")[-1]
    nothing = SequenceBaseline("base", "weights 0", NAMES, np.zeros(3), np.zeros(3))
    assert rate_of(model_of(0.1, 0.1, 0.1), nothing, MEAN) is None
    assert rate_of(model_of(0.1, 0.1), baseline, MEAN) is None  # other perturbations


# ---- the tables

def test_every_number_of_the_means(example):
    runs, text, _ = example
    lines = {(line["model"], line["method"], line["perturbation"], line["metric"]): line
             for name in ("stability", "perturbations") for line in csv_of(runs, name)}
    of_seeds = [rows_of(runs / f"baseline-ce-{seed}") for seed in (0, 1)]
    for key in of_seeds[0]:
        values = [of_seed[key] for of_seed in of_seeds]
        line = lines["baseline, CE", *key]
        assert float(line["mean"]) == pytest.approx(np.mean(values), abs=1e-12)
        assert float(line["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert [float(value) for value in line["by_seed"].split()] == pytest.approx(values, rel=1e-5)
    flips = [of_seed[RAW, MEAN, "flip_probability"] for of_seed in of_seeds]
    accuracies = [of_seed[RAW, MEAN, "accuracy"] for of_seed in of_seeds]
    shown = [f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}" for values in (accuracies, flips)]
    assert f"baseline, CE {shown[0]} {shown[1]}" in " ".join(text.replace("*", "").split())
    line = lines["baseline, CE", RAW, MEAN, "flip_probability"]
    assert float(line["low"]) <= float(line["mean"]) + 0.05 and float(line["high"]) >= float(line["mean"]) - 0.05


def test_rates_are_those_of_the_baseline(example):
    runs, text, _ = example
    base, other = rows_of(runs / BASELINE), rows_of(runs / "baseline-ce-1")
    lines = {(line["model"], line["perturbation"]): line for name in ("stability", "perturbations")
             for line in csv_of(runs, name) if line["metric"] == "flip_rate"}
    rates = [other[RAW, name, "flip_probability"] / base[RAW, name, "flip_probability"] for name in NAMES]
    for name, rate in zip(NAMES, rates, strict=True):
        assert float(lines["baseline, CE", name]["mean"]) == pytest.approx((1 + rate) / 2)
    line = lines["baseline, CE", MEAN]
    assert float(line["mean"]) == pytest.approx(np.mean([1, np.mean(rates)]))
    assert line["baseline"] == "baseline, CE, seed 0" and line["baseline_digest"].startswith("weights ")
    assert f"The baseline is baseline, CE, seed 0 ({line['baseline_digest']})." in " ".join(text.split())
    assert "mFR" in (runs / "report" / "stability.md").read_text()


def test_a_constant_model_stands_apart_and_is_never_the_best(example):
    runs, _, data = example
    (grid_text,) = [(runs / "report" / "stability.md").read_text()]
    line = next(line for line in grid_text.splitlines() if "SCN, CE" in line)
    assert line.startswith("| apart, constant: predicts one class only | SCN, CE") and "**" not in line
    assert any("**" in line for line in grid_text.splitlines() if "baseline" in line)
    assert "SCN" not in (runs / "report" / "flicker.md").read_text()
    assert "Constant models are left out" in (runs / "report" / "perturbations.md").read_text()
    (one,) = data["sequences"]
    assert [line["model"] for line in one["lines"] if line["constant"]] == ["SCN, CE"]


@pytest.mark.slow
def test_one_constant_seed_puts_a_row_apart_and_its_pair_out_of_the_differences(copy, demo, example):
    shutil.copytree(example[0] / "baseline-maxent+mbls-1", copy / "baseline-maxent+mbls-1")
    make_run(copy, demo, "baseline", "ce", 1, constant=True)
    text = " ".join(run_report(copy).split())
    assert ("baseline, CE: 1 of 2 seeds predicts one class everywhere (seed 1); the numbers are means over all seeds."
            in text)
    assert "baseline, seed 1: not among the differences in stability, because a model predicts one class only" in text
    assert {line["seeds"] for line in csv_of(copy, "flicker")} == {"0"}


def test_differences_are_calibrated_minus_uncalibrated(example):
    runs, text, _ = example
    lines = {(line["method"], line["metric"]): line for line in csv_of(runs, "flicker")}
    assert list(lines) == list(MEASURED)
    for (method, metric), line in lines.items():
        means = [np.mean([rows_of(runs / f"baseline-{loss}-{seed}")[method, MEAN, metric] for seed in (0, 1)])
                 for loss in ("ce", "maxent+mbls")]
        assert float(line["uncalibrated"]) == pytest.approx(means[0])
        assert float(line["difference"]) == pytest.approx(means[1] - means[0])
        assert float(line["low"]) <= float(line["high"]) and line["seeds"] == "0 1" and line["cluster"] == "identity"
    raw, after = lines[RAW, "total_variation"], lines[TEMPERATURE, "total_variation"]
    assert float(raw["difference"]) < float(after["difference"])  # low confidence alone lowers it
    assert "Does calibrated training flicker less? Demo-P" in text


def test_without_a_temperature_there_is_a_dash_and_a_sentence(demo, tmp_path):
    make_run(tmp_path / "runs", demo, "baseline", "ce", 0, temperature=None)
    text = run_report(tmp_path / "runs")
    assert "No temperature is known of baseline, CE." in " ".join(text.split())
    assert "There is no baseline on these images" in " ".join(text.split()) and "mFR" not in text.split("Percent,")[0]
    assert not {line["method"] for line in csv_of(tmp_path / "runs", "stability")} - {RAW}
    of_model = next(iter(models_of_runs(sequences_as_table(read_runs(tmp_path / "runs")[0]))))
    assert stability.entry_of(None, "accuracy").digits == 1 and of_model.seeds == (0,)


def test_a_terminal_has_80_columns(example):
    assert max(map(len, example[1].split("Missing:")[0].splitlines())) <= 80


def test_in_brief_at_most_ten_lines(copy, example):
    shutil.copytree(example[0] / "SCN-ce-0", copy / "SCN-ce-0")
    lines = run_report(copy, brief=True).splitlines()
    assert len(lines) <= 10 and max(map(len, lines[:-3])) <= 80
    assert "SCN, CE" in " ".join(lines) and "constant" in " ".join(lines)


def test_latex_and_markdown_of_every_table(example):
    report_folder = example[0] / "report"
    for name in stability.TABLES:
        assert f"\\label{{tab:{name}}}" in (report_folder / f"{name}.tex").read_text()
        assert "TV: total variation distance" in " ".join((report_folder / f"{name}.md").read_text().split())
    assert "\\input{flicker}" in (report_folder / "all.tex").read_text()
    assert not (report_folder / "table1.md").exists() and not (report_folder / "ranking.md").exists()


def test_tables_of_runs_that_are_gone_are_removed(copy):
    run_report(copy)
    for folder in copy.glob("baseline*"):
        change_scores(folder, lambda row: row if row["corruption"] == "clean" else None)
    run_report(copy)
    assert not list((copy / "report").glob("stability*")) and not list((copy / "report").glob("flicker*"))


# ---- baselines and cards

def card_of_rows(demo, folder, name):
    """A card with the scores of a run's scores.csv."""
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    facts = ModelFacts("timm", "timm:x", None, None, "logits", {}, {"overlap": "none"})
    model = ModelOfCard(name, demo.classes, "f" * 64, facts)
    return make_card(model, SetOfCard(demo, len(demo.frame), demo.classes), rows, Extras())


@pytest.mark.slow
def test_a_card_is_a_model_and_a_baseline_as_a_run_is(copy, demo, tmp_path):
    (tmp_path / "cards").mkdir()
    file = tmp_path / "cards" / "mine.json"
    write_card(file, card_of_rows(demo, copy / BASELINE, "my model"))
    by_card = run_report(copy, cards=(tmp_path / "cards",), baseline=file)
    lines = {(line["model"], line["method"], line["perturbation"], line["metric"]): line
             for line in csv_of(copy, "stability") + csv_of(copy, "perturbations")}
    assert "The baseline is my model (weights ffffffffffffffff)." in " ".join(by_card.split())
    for (model, *key), line in lines.items():
        if model == "my model" and key[-1] != "n":
            assert float(line["mean"]) == pytest.approx(float(lines["baseline, CE", *key]["mean"]), rel=1e-6)
    rates = {model: float(line["mean"]) for (model, *_, metric), line in lines.items() if metric == "flip_rate"}
    run_report(copy, baseline=copy / BASELINE)
    of_run = {line["model"]: float(line["mean"]) for line in csv_of(copy, "perturbations")
              if line["metric"] == "flip_rate"}
    assert rates["my model"] == pytest.approx(1)
    assert rates["baseline, MaxEnt+MbLS"] == pytest.approx(of_run["baseline, MaxEnt+MbLS"], rel=1e-6)


def test_the_card_of_a_run_of_the_report_is_not_listed_twice(copy, demo, tmp_path):
    (tmp_path / "cards").mkdir()
    card = card_of_rows(demo, copy / BASELINE, "the same")
    info = json.loads((copy / BASELINE / "predictions" / "Demo-P" / "set.json").read_text())
    data = card.data | {"model": card.data["model"] | {"kind": "run", "weights_sha256": info["weights"]}}
    write_card(tmp_path / "cards" / "a.json", Card(data))
    text = run_report(copy, cards=(tmp_path / "cards",))
    assert "the same" not in text.split("Missing:")[0] and "which is listed as a run" in text


def test_weights_in_a_damaged_set_json_may_be_anything(copy):
    """Before, a list ended in TypeError."""
    path = copy / BASELINE / "predictions" / "Demo-P" / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": [1, {}]}))
    assert "baseline, CE" in run_report(copy)


def test_a_baseline_without_sequences_is_named(copy, example, tmp_path):
    with pytest.raises(UserError, match="neither a card nor the folder"):
        run_report(copy, baseline=tmp_path)
    change_scores(copy / BASELINE, lambda row: row if row["corruption"] == "clean" else None)
    text = run_report(copy, baseline=copy / BASELINE)
    assert f"--baseline {copy / BASELINE}: no model of this report was scored on the same images" in text


@pytest.mark.parametrize("k", [3])
def test_a_column_for_other_numbers_of_places(copy, demo, k):
    """Behind top-2, before mFR; the other run has none."""
    folder = copy / BASELINE
    out = folder / "predictions" / "Demo-P"
    (folder / "scores.csv").unlink()
    write_rows(folder / "scores.csv", score_sequences(demo, out, None, temperature=Temperature(1.9), top_k=k))
    run_report(copy, html=copy.parent / "page.html", baseline=folder)
    text = (copy / "report" / "stability.md").read_text()
    heads = [cell.strip() for cell in next(line for line in text.splitlines() if "| acc." in line).split("|")]
    assert heads[3:8] == ["acc.", "flips", "top-2", f"top-{k}", "mFR"]
    cells = {line.split("|")[2].strip(): [cell.strip() for cell in line.split("|")] for line in text.splitlines()
             if "| baseline, " in line}
    value = rows_of(folder)[RAW, MEAN, f"top{k}_distance"]
    assert cells["baseline, CE"][6] == f"{value:.2f}" and cells["baseline, MaxEnt+MbLS"][6] == "—"
    (line,) = [line for line in csv_of(copy, "stability") if line["metric"] == f"top{k}_distance"
               and line["perturbation"] == MEAN and line["method"] == RAW]
    assert float(line["mean"]) == pytest.approx(value)
    (one,) = page_data(copy.parent / "page.html")["sequences"]
    assert [measure["label"] for measure in one["measures"]][2:4] == ["top-2", f"top-{k}"]


def test_the_legend_speaks_of_sequences_only(example):
    for name in ("stability.md", "perturbations.md", "flicker.md", "tables.md", "all.tex"):
        text = (example[0] / "report" / name).read_text()
        assert "Stability: over sequences of frames" in text and "over seeds; bold" in text.replace("\n", " ")
        assert "85 cells" not in text and "reliability diagrams" not in text and "[all_cells" not in text


# ---- what is missing, damaged or hostile

@pytest.mark.parametrize("is_lost, words, lost_means", [
    (lambda row: row["corruption"] == "translate",
     "has means of other perturbations than are there: accuracy, nll, ece, flip_probability,",
     {"ece", "top2_distance"}),
    (lambda row: (row["corruption"], row["metric"]) == ("translate", "flip_probability"),
     "lacks scores of single perturbations: flip_probability", {"flip_probability"}),
    (lambda row: (row["corruption"], row["metric"]) == (MEAN, "top2_distance"), "lacks means: top2_distance", set()),
    (lambda row: (row["corruption"], row["metric"]) == ("translate", "total_variation_unflipped"), "", set()),
])
def test_lost_perturbations_and_means_are_named(copy, demo, is_lost, words, lost_means):
    """A mean that is not over the perturbations that are there is left out; before, nothing was said."""
    if not words:  # a perturbation whose frames all flip has none, and the mean is over the others
        rows = rows_of(copy / BASELINE)
        others = {method: [rows[method, name, "total_variation_unflipped"] for name in NAMES if name != "translate"]
                  for method in (RAW, TEMPERATURE)}
        change_scores(copy / BASELINE, lambda row: row | (
            {"value": repr(float(np.mean(others[row["method"]])))}
            if (row["corruption"], row["metric"]) == (MEAN, "total_variation_unflipped") else {}))
    change_scores(copy / BASELINE, lambda row: None if is_lost(row) else row)
    scores, problems = read_scores(copy / BASELINE / "scores.csv")
    assert [words in problem and "Demo-P" in problem for problem in problems] == ([True] if words else [])
    means = set(scores.loc[scores["corruption"] == MEAN, "metric"])
    assert not means & lost_means and "distinct_predictions" in means and "n" in means


def test_a_baseline_whose_scores_lack_a_perturbation_has_no_intervals(copy, example):
    """Its predictions have all of them. Before, this ended in IndexError."""
    shutil.copytree(example[0] / "SCN-ce-0", copy / "SCN-ce-0")
    change_scores(copy / BASELINE, lambda row: None if row["corruption"] == "translate" else row)
    for folder in (copy / "baseline-maxent+mbls-0", copy / "SCN-ce-0"):
        change_scores(folder, lambda row: None if row["corruption"] == "translate" else row)
    text = run_report(copy, baseline=copy / BASELINE)
    rates = [line for line in csv_of(copy, "stability") if line["metric"] == "flip_rate"]
    assert rates and all(line["low"] == "" for line in rates)
    assert "The baseline is baseline, CE, seed 0" in " ".join(text.split())


def damage_values(copy):
    change_scores(copy / BASELINE, lambda row: row | (
        {"value": "-0.5"} if (row["corruption"], row["metric"]) == ("translate", "flip_probability") else {}))


def damage_names(copy):
    change_scores(copy / BASELINE, lambda row: row | (
        {"corruption": "../../x"} if row["corruption"] == "translate" else {}))


def damage_sequences(copy):
    path = copy / BASELINE / "predictions" / "Demo-P" / "set.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"sequences": {"frames": {"../x": 9}, "difficulty": 1}}))


def damage_corruptions(copy):
    path = copy / BASELINE / "predictions" / "Demo-P" / "set.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"sequences": {"frames": {"glass_blur": 9}, "difficulty": 1}}))


def damage_kind(copy):
    path = copy / BASELINE / "predictions" / "Demo-P" / "set.json"
    info = json.loads(path.read_text())
    del info["sequences"]
    path.write_text(json.dumps(info))


def damage_logits(copy):
    np.save(copy / BASELINE / "predictions" / "Demo-P" / "translate" / "3.npy", np.zeros((3, 2), np.float32))


def lose_frame(copy):
    (copy / BASELINE / "predictions" / "Demo-P" / "translate" / "3.npy").unlink()


def lose_predictions(copy):
    shutil.rmtree(copy / BASELINE / "predictions")


def lose_set(copy):
    for path in copy.rglob("set.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": "/nowhere"}))


@pytest.mark.parametrize("damage, words", mostly_slow([
    (damage_values, "2 rows of its scores.csv hold no usable score"),
    (damage_names, "rows of its scores.csv hold no usable score"),
    (damage_sequences, "is damaged (its entry `sequences` does not name perturbations of one preset)"),
    (damage_corruptions, "is damaged (its entry `sequences` does not name perturbations of one preset)"),
    (damage_kind, "it names no perturbations"),
    (damage_logits, "its shape is (3, 2), not (16, 8)"), (lose_frame, "predictions on Demo-P"),
    (lose_predictions, "predictions on Demo-P"), (lose_set, "no intervals of sequences"),
], fast=(2, 5)))
def test_what_is_damaged_is_named_and_the_rest_goes_on(copy, damage, words):
    damage(copy)
    text = run_report(copy, html=copy.parent / "page.html", baseline=copy / "baseline-maxent+mbls-0")
    assert words in text.split("Missing:")[1], text.split("Missing:")[1]
    assert "baseline, MaxEnt+MbLS" in text and "baseline, CE" in text
    (one,) = page_data(copy.parent / "page.html")["sequences"]
    assert len(one["lines"]) == 2


def test_copies_of_a_set_with_other_files_are_noted(stored, monkeypatch):
    runs, sequences, block, predictions = stored
    assert not predictions.notes
    read_info = stored_sequences.open_predictions

    def other_content(run, block):
        folder, info, labels = read_info(run, block)
        return folder, info | {"content": ("a" if run is runs[0] else "b") * 64}, labels

    monkeypatch.setattr(stored_sequences, "open_predictions", other_content)
    (note,) = read_block(block, runs, sequences, (), set()).notes
    others = len(runs) - 1
    assert f"(content aaaaaaaa: 1 run; bbbbbbbb: {others} runs)" in str(note)


# ---- the figure

def test_curves_are_those_of_the_stored_predictions(stored):
    runs, _, block, predictions = stored
    assert set(predictions.curves) == {("baseline", "ce"), ("baseline", "maxent+mbls"), ("SCN", "ce")}
    for name in NAMES:
        curves = predictions.curves["baseline", "ce"][name]
        for seed, curve in enumerate(curves):
            folder = next(run.folder for run in runs if run.folder.name == f"baseline-ce-{seed}")
            frames = sorted((folder / "predictions" / "Demo-P" / name).glob("*.npy"), key=lambda path: int(path.stem))
            predicted = np.stack([np.load(path).argmax(1) for path in frames], 1)
            assert curve == pytest.approx(flips_by_distance(predicted, is_noise(name)))
    constant = {index for index, run in enumerate(runs) if run.row.algorithm == "SCN"}
    without = read_block(block, runs, stored[1], (), constant)
    assert ("SCN", "ce") not in without.curves and len(without.stored) == len(runs)
    assert set(temperatures_of(stored[1], block).values()) == {1.9, 0.8, 1.5}


@pytest.mark.parametrize("count", mostly_slow([1, 7], fast=(0,)))
def test_the_figure_holds_any_number_of_algorithms_with_long_names(count):
    rng = np.random.default_rng(count)
    names = ["p_" + name for name in ("gaussian_noise", "shot_noise", "gaussian_blur", "motion_blur", "spatter",
                                      "brightness", "translate", "rotate", "scale", "shear")]
    curves = {(f"{'a_long_name' * 3}, setting {number}", loss): {name: rng.random((3, 29)) for name in names}
              for number in range(count) for loss in ("ce", "maxent+mbls")}
    check_texts(sequence_plots.draw_flips(curves, "Demo-P, N = 16\na\nb"), free_ticks=True)
    one = sequence_plots.draw_flips({("a", "ce"): {"p_scale": rng.random((1, 1))}}, "t")
    assert len(one.axes) == 1


def test_the_figure_draws_means_and_bands(stored):
    curves = stored[3].curves
    figure = sequence_plots.draw_flips(curves, "t")
    panel = next(axes for axes in figure.axes if axes.get_title() == "gaussian noise *")
    drawn = [line.get_ydata() for line in panel.get_lines()]
    expected = [100 * curves[key]["gaussian_noise"].mean(0) for key in sorted(curves)]
    assert all(one == pytest.approx(other) for one, other in zip(drawn, expected, strict=True))
    assert len(panel.collections) == 2  # bands of the two rows with two seeds


@pytest.mark.slow
def test_the_figure_is_written_and_drawn_again_only_when_needed(copy):
    with contextlib.redirect_stdout(io.StringIO()):
        report.main(report.Args(copy, resamples=0))
        (first,) = (copy / "report" / "figures").glob("*/flips.png")
        written = first.stat().st_mtime_ns
        report.main(report.Args(copy, resamples=0))
    assert first.stat().st_mtime_ns == written and first.with_suffix(".pdf").is_file()


# ---- the page

def test_the_page_has_the_numbers_of_the_tables(example):
    runs, _, data = example
    (one,) = data["sequences"]
    assert one["set"] == "Demo-P" and one["demo"] and one["perturbations"] == [MEAN, *NAMES] and one["has_rates"]
    assert data["blocks"] == [] and data["rankings"] == []
    lines = {line["model"]: line for line in one["lines"]}
    of_csv = {(line["model"], line["method"], line["perturbation"], line["metric"]): line
              for name in ("stability", "perturbations") for line in csv_of(runs, name)}
    for model, line in lines.items():
        for place, values in line["values"].items():
            for key, pair in values.items():
                measure = next((measure for measure in one["measures"] if measure["key"] == key), None)
                method = measure["method"] if measure else RAW
                metric = key.removesuffix(f"_{method}") if measure and measure["by_temperature"] else key
                assert pair[0] == pytest.approx(float(of_csv[model, method, place, metric]["mean"]))
    (difference,) = one["differences"]
    flicker = next(line for line in csv_of(runs, "flicker") if line["metric"] == "flip_probability")
    assert difference["numbers"]["flip_probability"] == pytest.approx(
        [float(flicker[name]) for name in ("difference", "low", "high")])
    assert {"stability.csv", "perturbations.csv", "flicker.csv"} <= set(data["tables"])


def test_hostile_names_are_only_text(demo, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    make_run(tmp_path / "runs", demo, "SCN", "ce", 0)
    path = tmp_path / "runs" / "SCN-ce-0" / "args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"script": name}))
    run_report(tmp_path / "runs", html=tmp_path / "page.html")
    assert name not in (tmp_path / "page.html").read_text()
    (one,) = page_data(tmp_path / "page.html")["sequences"]
    assert one["lines"][0]["model"].startswith(name)
    assert "<img" not in (tmp_path / "runs" / "report" / "stability.tex").read_text()


def test_the_page_of_sequences_has_no_empty_sections(browser, example, copy):  # noqa: F811
    """Before, it began with an empty ranking, an empty table of scores and 'No evaluated run yet.'"""
    page = Page(browser, example[0].parent / "page.html")
    assert page.run("return [...document.querySelectorAll('main > section')].map(x => x.id)") == [
        "stability", "runs", "downloads", "missing"]
    assert page.texts("nav a") == ["Stability", "Runs", "Downloads", "Missing"]
    assert page.run("return document.querySelector('a.skip').getAttribute('href')") == "#stability"
    assert page.texts("a.skip") == ["Skip to the section Stability"] and "scores.csv" not in page.texts("#files button")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    for run in copy.iterdir():  # nothing is scored: the sections say so
        (run / "scores.csv").unlink()
    run_report(copy, html=copy.parent / "page.html")
    page = Page(browser, copy.parent / "page.html")
    assert page.texts("#ranking-table") == ["Nothing to rank yet."] and page.texts("a.skip") == ["Skip to the ranking"]


@pytest.mark.slow
def test_the_section_by_choosing_and_searching(browser, example):  # noqa: F811
    page = Page(browser, example[0].parent / "page.html")
    rows, best = "#sequence-table .tabulator-row:not(.tabulator-group)", "#sequence-table strong.best"
    page.wait(lambda: len(page.texts(rows)) == 3)  # a row averages two seeds
    of_raw = page.texts(best)
    assert of_raw and page.texts("#sequence-count") == ["3 of 3 models"]
    page.choose("Probabilities", "after a temperature")
    page.wait(lambda: page.texts(best) != of_raw)
    page.choose("Perturbation", "translate")
    flips = np.mean([rows_of(example[0] / f"baseline-ce-{seed}")[RAW, "translate", "flip_probability"]
                     for seed in (0, 1)])
    page.wait(lambda: f"{100 * flips:.1f} ± " in page.texts(rows)[0])
    assert "calibrated training flicker" in page.find("#flicker").text
    search = page.find("#sequence-choices input")
    search.send_keys("scn")
    page.wait(lambda: page.texts("#sequence-count") == ["1 of 3 models"])
    assert page.texts("#summary") == ["5 runs · Demo-P (demo)"]
    page.check_quiet()
