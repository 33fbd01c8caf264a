"""The figures of report.py: what they show against scores, predictions and sets read again; their looks; surveys."""
import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import multivariate_normal
from sklearn.metrics import confusion_matrix, f1_score, recall_score
from sealing import reseal
from test_report import texts_of

import metrics
import report
import reporting.report
from building.built_set import open_built_set
from corruptions import CORRUPTIONS
from corruptions import CELLS
from evaluation.scores import FIRST_RELEASE_COLUMNS
from reporting import catalogue, figures, pictures, plots, predictions, series, style
from reporting.square_numbers import SquareNumbers
from reporting.rows import COMPARED_LOSSES, Row
from reporting.runs import read_runs
from reporting.scores import DOMAINS, blocks_of, in_block, scores_as_table
from reporting.survey import read_survey, surveyed
from support.errors import UserError

LONG = "an_algorithm_with_a_long_$name$"
SET_FIGURES = {"figure1_severities", "figure2_gallery", "figure3_pipeline", "figure4_visibility", "figure7_measures",
               "figure8_labels"}
REAL = {name: vars(pictures)[name] for name in ("draw_severities", "draw_pipeline", "draw_visibility", "draw_survey")}
PLOTS = {"reliability", "severity", "figure5_kse_f1", "figure6_nll", "heatmap_ece", "heatmap_macro_f1",
         "classes_baseline", "classes_an_algorithm_with_a_long_-name-"}


@pytest.fixture(autouse=True)
def look():
    with matplotlib.style.context(["default", style.STYLE]):
        yield


def add_run(runs, built, script, loss, seed, without=()):
    """A run on a built set with drawn logits; cells of `without` are not in its scores.csv."""
    folder = runs / f"{len(list(runs.glob('*')))}"
    out, data = folder / "predictions" / built.name, open_built_set(built)
    rng = np.random.default_rng([seed, len(loss)])
    labels, rows, version = data.frame["expression"].to_numpy(), [], data.manifest["set_version"]
    every = []
    for cell in (None, *CELLS):
        path = out / "clean.npy" if cell is None else out / cell[0] / f"{cell[1]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        logits = (3 * np.eye(8)[labels] + 2 * rng.normal(size=(len(labels), 8))).astype(np.float32)
        np.save(path, logits)
        soft = None if cell is None else data.soft_labels_of(*cell)
        values = metrics.summary(metrics.softmax(logits), labels, soft) | {"n": len(labels)}
        every += [values] if cell else []
        if cell not in without:
            rows += [(*(cell or ("clean", "")), name, value) for name, value in values.items()]
    rows += [("mean", "", *item) for item in pd.DataFrame(every).mean().items()]
    pd.DataFrame([(built.name, version, "softmax", *row) for row in rows], columns=FIRST_RELEASE_COLUMNS).to_csv(
        folder / "scores.csv", index=False)
    np.save(out / "labels.npy", labels)
    (out / "set.json").write_text(json.dumps({"set_version": version, "classes": data.classes, "limit": None,
                                              "folder": str(built), "demo": True}))
    (folder / "args.json").write_text(json.dumps({
        "script": script, "dataset": "demo", "loss": loss, "seed": seed, "noise": 0.0, "protocol": "paper",
        "image_size": 32, "epochs": 0, "runs": "runs"}))
    return folder


@pytest.fixture(scope="module")
def runs(built, tmp_path_factory):
    """baseline: ce with two seeds, calibrated with one; another algorithm without calibration, a cell missing."""
    runs = tmp_path_factory.mktemp("figures") / "runs"
    for seed in (0, 1):
        add_run(runs, built, "baseline", "ce", seed)
    add_run(runs, built, "baseline", "maxent+mbls", 0)
    add_run(runs, built, LONG, "ce", 0, without=[("snow", 3)])
    return runs


@pytest.fixture(scope="module")
def read(runs):
    """(scores of the only block, block, what its predictions show)"""
    found = read_runs(runs)[0]
    scores = scores_as_table(found)
    (block,) = blocks_of(scores)
    return in_block(scores, block), block, predictions.summarise_predictions(block, found, scores)


@pytest.fixture
def copy(runs, built, tmp_path, monkeypatch):
    """A copy of the runs, their set beside it, to be changed, and the names of the figures that would be saved."""
    shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("report"))
    shutil.copytree(built, tmp_path / "Demo-C", copy_function=os.link)
    for path in (tmp_path / "runs").glob("*/predictions/*/set.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": str(tmp_path / "Demo-C")}))
    for module in (catalogue, pictures):
        for name in vars(module):
            if name.startswith("draw_"):
                monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(predictions.metrics, "ece_floor", lambda *_, **__: 0.1)
    saved = set()
    monkeypatch.setattr(figures, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # it shares `saved`
    monkeypatch.setattr(figures, "save", lambda figure, stem, formats: saved.add(stem.name))
    return tmp_path, saved


def run_report(runs, **options):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert report.main(report.Args(runs, **options)) == 0
    return out.getvalue()


def of_another(dataset):
    """`open_built_set`, as if the sets were built from another data set than the demo."""
    def open_other(folder):
        built = open_built_set(folder)
        return dataclasses.replace(
            built, manifest=built.manifest | {"made_with": built.made_with | {"dataset": dataset}})
    return open_other


def by_hand(folder, metric):
    """{(corruption, severity): value} of a scores.csv, read without pandas."""
    with open(folder / "scores.csv", newline="") as file:
        return {(row["corruption"], row["severity"]): float(row["value"]) for row in csv.DictReader(file)
                if row["metric"] == metric}


# ---- known answers

def test_recall_and_f1_of_a_small_confusion():
    counts = np.array([[[3, 1, 0], [2, 2, 0], [0, 0, 0]]] * 6)  # the third class: no image, never predicted
    recall, f1 = plots.recall_and_f1(counts)
    np.testing.assert_allclose(recall[0], [3 / 4, 2 / 4, np.nan])
    np.testing.assert_allclose(f1[0], [6 / 9, 4 / 7, np.nan])


def test_names_of_classes_are_cut_and_stay_apart():
    assert style.short_class_names(["Neutral", "Happy"]) == ["Neu", "Hap"]
    assert style.short_class_names(["Happily", "Happens"]) == ["1 Ha", "2 Ha"]
    assert style.short_class_names(["$a", "b\nc"]) == [r"\$a", "b c"]
    assert style.axis_of_metric("ece") == ("ECE, %", 100) and style.axis_of_metric("nll") == ("NLL, nats", 1)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["ce", "maxent+mbls", "focal", "a", "b"])), unique=True,
                min_size=1))
def test_pages_hold_every_row_once_and_are_not_too_large(pairs):
    rows = [Row(f"x{name}", loss, 0.0) for name, loss in pairs]
    pages = catalogue.pages_of(rows)
    assert sorted(row for page in pages for row in page) == sorted(rows)
    for page in pages:
        assert page and len({row.algorithm for row in page}) <= 5 and len({row.loss for row in page}) <= 3


# ---- numbers against an independent reading

def test_confusions_are_scikit_learns(runs, built, read):
    (folder,) = [path.parent for path in runs.glob("*/args.json") if "maxent" in path.read_text()]
    labels = pd.read_csv(built / "labels.csv")["expression"].to_numpy()
    guesses = [[np.load(folder / "predictions/Demo-C/clean.npy").argmax(1)]]
    guesses += [[np.load(folder / f"predictions/Demo-C/{name}/{severity}.npy").argmax(1) for name in CORRUPTIONS]
                for severity in range(1, 6)]
    counts = read[2].confusions[Row("baseline", "maxent+mbls", 0.0)]
    recall, f1 = plots.recall_and_f1(counts)
    for severity, some in enumerate(guesses):
        true, said = np.tile(labels, len(some)), np.concatenate(some)
        np.testing.assert_array_equal(counts[severity], confusion_matrix(true, said, labels=range(8)))
        common = {"labels": range(8), "average": None, "zero_division": np.nan}
        np.testing.assert_allclose(recall[severity], recall_score(true, said, **common))
        np.testing.assert_allclose(f1[severity], f1_score(true, said, **common))
    both = read[2].confusions[Row("baseline", "ce", 0.0)]
    assert both.sum() == 2 * counts.sum() == 2 * 86 * 16  # seeds are added


def numbers_of(panel):
    """The texts in the squares of a heat map, in the order in which they are written."""
    written = [artist for artist in panel.artists if isinstance(artist, SquareNumbers)]
    return [number.text for artist in written for number in artist.numbers]


def test_heat_maps_show_scores_csv(runs, read):
    tables = series.by_cell(read[0], "ece")
    folders = [path.parent for path in sorted(runs.glob("*/args.json"))]
    by_file = [by_hand(folder, "ece") for folder in folders]
    mean = {cell: (by_file[0][cell] + by_file[1][cell]) / 2 for cell in by_file[0]}
    for c, name in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            cell = name, f"{severity}.0" if (name, f"{severity}.0") in mean else str(severity)
            assert tables[Row("baseline", "ce", 0.0)][c, severity - 1] == pytest.approx(mean[cell])
            missing = (name, severity) == ("snow", 3)
            assert np.isnan(tables[Row(LONG, "ce", 0.0)][c, severity - 1]) == missing
    figure = plots.draw_heat(tables, "ece", "title")
    panel = figure.axes[0]
    numbers = numbers_of(panel)
    cells = tables[Row("baseline", "ce", 0.0)]
    assert numbers[:85] == [f"{100 * value:.0f}" for value in cells.ravel()]
    assert numbers[85:] == [f"{100 * value:.0f}" for value in cells.mean(axis=0)]  # the last row
    assert panel.get_title() == "baseline\nuncalibrated"
    assert numbers_of(figure.axes[1]).count("—") == 2  # the missing cell, and its mean
    assert [text.get_text() for text in figure.axes[3].texts] == ["—"]  # the missing run


def test_a_cell_that_one_seed_lacks_is_missing(read):
    scores = read[0]
    less = scores[~((scores["seed"] == 1) & (scores["corruption"] == "contrast") & (scores["severity"] == 2))]
    table = series.by_cell(less, "kse")[Row("baseline", "ce", 0.0)]
    assert np.argwhere(np.isnan(table)).tolist() == [[list(CORRUPTIONS).index("contrast"), 1]]


def test_kse_over_f1_has_every_cell_and_their_mean(runs, read):
    wanted = catalogue.of_scores(*read[::2], "title", ["ece"])
    draw, data = wanted["figure5_kse_f1"]
    figure = draw(*data)
    points, large = figure.axes[0].get_lines()[-2:]  # calibrated: one run
    folder = sorted(runs.iterdir())[2]
    f1, kse = (by_hand(folder, metric) for metric in ("macro_f1", "kse"))
    cells = [(f1[key], kse[key]) for key in f1 if key[0] in CORRUPTIONS]
    drawn, wanted = (sorted(np.round(values, 6).tolist()) for values in (points.get_xydata(), 100 * np.array(cells)))
    np.testing.assert_allclose(drawn, wanted)  # rounded, since last digits would change the order
    np.testing.assert_allclose(np.ravel(large.get_data()), 100 * np.mean(cells, axis=0))
    assert len(figure.axes[1].get_lines()) == 1  # 84 cells: no mean


@pytest.mark.slow
def test_nll_bars_are_means_over_seeds(runs, read):
    figure = plots.draw_nll(catalogue.of_scores(*read[::2], "title", ["ece"])["figure6_nll"].data[0], "title")
    nll = [by_hand(folder, "nll") for folder in sorted(runs.iterdir())]
    for panel, key in zip(figure.axes, ("clean", "mean"), strict=True):
        wanted = [np.mean([nll[0][key, ""], nll[1][key, ""]]), nll[2][key, ""]]
        wanted += [nll[3][key, ""]] if key == "clean" else []  # of 84 cells there is no mean
        assert [bar.get_width() for bar in panel.patches] == pytest.approx(wanted)
        np.testing.assert_allclose(panel.get_lines()[0].get_xdata(), [nll[0][key, ""], nll[1][key, ""]])


def test_bins_are_counted_cell_by_cell_in_little_memory(tmp_path):
    n, rng = 2000, np.random.default_rng(0)
    for name, severity in CELLS:
        (tmp_path / name).mkdir(exist_ok=True)
        np.save(tmp_path / name / f"{severity}.npy", rng.normal(size=(n, 8)).astype(np.float32))
    labels, soft = rng.integers(0, 8, n), np.full((17, 5, n, 8), 1 / 8, np.float32)
    tracemalloc.start()
    bins = predictions.read_bins(tmp_path, labels, soft)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bins[0].sum() == 85 * n and bins[2].sum() == pytest.approx(85 * n / 8)
    assert peak < 85 * n * 8 * 8 / 8  # an eighth of what all cells take in float64


# ---- pictures

def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def test_pipeline_shows_the_steps_of_the_label(built):
    data = open_built_set(built)
    i = pictures.choose_image(data)
    figure = pictures.draw_pipeline(data, "title", i, ("contrast", 4))
    bars = figure.axes[5:]
    row, gmm = data.frame.iloc[i], json.loads((built / "gmm.json").read_text())
    given = np.eye(8)[row["expression"]]
    density = [w * multivariate_normal(m, c).pdf([row["valence"], row["arousal"]])
               for w, m, c in zip(*(gmm[key] for key in ("weights", "means", "covariances")), strict=True)]
    posterior = np.array(density) / sum(density)
    visible = np.load(built / "visibility.npy")[list(CORRUPTIONS).index("contrast"), :, i]
    softened = (given + posterior) / 2
    softened = softened + (1 - visible[3]) ** 2 * (1 / 8 - softened)
    for axes, values in zip(bars, (given, posterior, (given + posterior) / 2, visible, softened), strict=True):
        np.testing.assert_allclose(heights(axes), values, atol=1e-6)
    assert f"v = {visible[3]:.2f}" in bars[3].get_title()
    (marker,) = [line for line in figure.axes[4].get_lines() if len(line.get_xdata()) == 1]
    assert marker.get_xydata()[0] == pytest.approx([visible[3], (1 - visible[3]) ** 2])


def test_pipeline_of_a_set_without_a_mixture(built, tmp_path):
    shutil.copytree(built, tmp_path / "x", copy_function=os.link)
    (tmp_path / "x/gmm.json").unlink()
    reseal(tmp_path / "x")
    figure = pictures.draw_pipeline(open_built_set(tmp_path / "x"), "title", 3, ("contrast", 4))
    titles = [axes.get_title() for axes in figure.axes]
    assert "2 GMM posterior" not in titles and "3 before softening" in titles


@pytest.mark.parametrize("image", [None, "test-00003"])
def test_pictures_and_labels_are_those_of_the_set(built, image):
    data = open_built_set(built)
    i = pictures.choose_image(data, image)
    assert i == (3 if image else np.argmax(metrics.entropy(data.labels_before_softening)))
    figure = pictures.draw_severities(data, "title", i, "spatter")
    for severity in range(6):
        folder = f"images/spatter/{severity}" if severity else "clean"
        picture, bars = figure.axes[severity], figure.axes[6 + severity]
        with Image.open(built / folder / f"{data.frame['id'][i]}.png") as file:
            np.testing.assert_array_equal(picture.get_images()[0].get_array(), np.asarray(file))
        target = data.labels_before_softening[i]
        if severity:
            target = data.soft_labels[list(CORRUPTIONS).index("spatter"), severity - 1, i]
        np.testing.assert_allclose(heights(bars), target)
    with pytest.raises(UserError, match="no image 'x'"):
        pictures.choose_image(data, "x")


def test_labels_by_the_sets_own_measure_are_the_sets_own(built, monkeypatch):
    data = open_built_set(built)  # 16 images: D_worst was estimated on all of them
    monkeypatch.setattr(pictures, "SAMPLE", 16)
    of_cell = pictures.label_by(data, 5, "l2")
    for cell in CELLS[::7]:
        np.testing.assert_allclose(of_cell(cell), data.soft_labels_of(*cell)[5], atol=1e-6)
    monkeypatch.setattr(pictures, "SAMPLE", 1)
    assert of_cell(CELLS[4]).tolist() != pictures.label_by(data, 5, "ssim")(CELLS[4]).tolist()


def test_visibility_figure_is_the_sets_table(built):
    figure = pictures.draw_visibility(open_built_set(built), "title")
    table = pd.read_csv(built / "visibility_mean.csv", index_col=0)
    for severity, line in enumerate(figure.axes[0].get_lines(), 1):
        np.testing.assert_allclose(line.get_xdata(), table[str(severity)], atol=1e-6)
    curve = next(line for line in figure.axes[1].get_lines() if line.get_label() == "k = 2 (this set)")
    x, y = curve.get_data()
    assert (y[0], y[-1]) == pytest.approx((1 / 8, 1)) and y[50] == pytest.approx(1 - 7 / 8 * (1 - x[50]) ** 2)


# ---- looks

def check_texts(figure, free_ticks=False):
    """Nothing is cut off or too small, and no two texts of a kind in one panel lie over each other."""
    if free_ticks:
        figure.draw_without_rendering()
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():  # matplotlib keeps some beyond the end, which it does not draw
                tick.label1.set_visible(tick.label1.get_visible() and low - 1e-9 <= tick.get_loc() <= high + 1e-9)
    boxes = texts_of(figure)
    assert figure.get_figwidth() == pytest.approx(3.3) or figure.get_figwidth() == pytest.approx(6.9)
    titles = [axes.title for axes in figure.axes]
    ticks = [axis.get_ticklabels() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    legends = [legend.get_texts() for legend in figure.legends]
    for group in (titles, *ticks, *legends):
        some = [boxes[text].padded(-1) for text in group if text in boxes]
        for k, box in enumerate(some):
            assert not any(box.overlaps(other) for other in some[:k]), [text.get_text() for text in group]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
def test_plots_hold_any_number_of_algorithms_with_long_names(count):
    rng = np.random.default_rng(0)
    keys = [(f"{i}_{LONG}_{i}", loss) for i in range(count) for loss in COMPARED_LOSSES]
    title = "A name of thirty characters..., N = 123456\ndemo data: shows function, not findings"
    check_texts(plots.draw_kse({key: rng.random((2, 85)) for key in keys[1:]}, title), free_ticks=True)
    nll = {(*key, domain): 3 * rng.random(2) for key in keys for domain in DOMAINS}
    check_texts(plots.draw_nll(nll, title), free_ticks=True)
    (*_, rows) = catalogue.pages_of([Row(*key, 0.0) for key in keys])
    check_texts(plots.draw_heat({row: rng.random((17, 5)) for row in rows}, "macro_f1", title), free_ticks=True)


@pytest.mark.parametrize("classes", [["Happily_$surprised$ and more"] * 8, ["Neutral", "Sad"]])
def test_confusions_hold_classes_with_long_names(classes):
    classes = [f"{name}{k}" for k, name in enumerate(classes)]
    counts = np.random.default_rng(0).integers(0, 9, (6, len(classes), len(classes)))
    counts[:, 1] = 0  # a class without an image
    check_texts(plots.draw_classes({"ce": counts, "focal": counts}, classes, "x: y\nz\nzz"))


FEW = ("figure1_severities", "figure3_pipeline", "figure4_visibility")


@pytest.mark.slow
@pytest.mark.parametrize("names", [FEW, SET_FIGURES - set(FEW)])
def test_pictures_hold_classes_with_long_names(built, names):
    data = open_built_set(built)
    data = dataclasses.replace(data, manifest=data.manifest | {
        "classes": [f"Happily_$surprised$ {k}" for k in range(8)]})
    without_images, photographs = catalogue.of_set(
        data, "Name, N = 16\ndemo data", catalogue.FigureOptions())
    for draw, values in ((without_images | photographs)[name] for name in sorted(names)):
        check_texts(draw(*values), draw is pictures.draw_visibility)


# ---- surveys

HEADER = "id,corruption,severity," + ",".join(
    ["Happy", "Neutral", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt"])


def write_survey(path, *rows, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_survey_by_name_of_class_and_as_shares(built, tmp_path):
    file = write_survey(tmp_path / "s.csv", "test-00003,contrast,5,3,1,0,0,0,0,0,0", "",
                        "test-00001, snow ,1,0,0,0,0,0,0,0,2.5")
    data = open_built_set(built)
    (first, second) = surveyed(read_survey(file), data)
    assert first[:3] == (3, "contrast", 5) and second[:3] == (1, "snow", 1)
    assert first[3].tolist() == [0.25, 0.75, 0, 0, 0, 0, 0, 0] and second[3].tolist() == [0] * 7 + [1]
    figure = pictures.draw_survey(data, "title", read_survey(file))
    check_texts(figure)
    proposed = [data.soft_labels_of("contrast", 5)[3], data.soft_labels_of("snow", 1)[1]]
    assert heights(figure.axes[4]) == pytest.approx([*proposed[0], *first[3]])
    away = np.mean([np.abs(p - s).sum() / 2 for p, s in zip(proposed, (first[3], second[3]), strict=True)])
    assert f"2 surveyed ones, 2 shown; total variation distance {away:.2f} on average" in figure.get_suptitle()


@pytest.mark.parametrize("rows, message", [
    (["a,contrast,5,1,0,0,0,0,0,0"], "line 2: 10 fields under 11 columns"),
    (["a,fog,5,1,0,0,0,0,0,0,0"], "line 2: no form of an image: fog, 5; known: gaussian_noise"),
    (["a,snow,6,1,0,0,0,0,0,0,0"], "line 2: no form of an image: snow, 6"),
    (["a,snow,5,x,0,0,0,0,0,0,0"], "line 2: votes: could not convert"),
    (["a,snow,5,-1,2,0,0,0,0,0,0"], "line 2: votes have to be numbers from 0 on"),
    (["a,snow,5,nan,0,0,0,0,0,0,0"], "line 2: votes have to be numbers from 0 on"),
    (["a,snow,5,0,0,0,0,0,0,0,0"], "not all of them 0"),
    (["a,snow,5,1,0,0,0,0,0,0,0"] * 2, "line 3: a, snow, 5 appears twice"),
    ([], "line 1: no row below the header"),
    (["\"a"], "unexpected end of data"),
])
def test_a_wrong_survey_is_told_with_its_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=f"--survey .*{message}"):
        read_survey(write_survey(tmp_path / "s.csv", *rows))


@pytest.mark.parametrize("header", ["id,corruption,Happy,Sad", "id,corruption,severity,Happy", "", HEADER + ",Happy",
                                    "id,corruption,severity,Happy,"])
def test_a_wrong_header_of_a_survey(tmp_path, header):
    with pytest.raises(UserError, match="the header has to name id, corruption, severity and every class once"):
        read_survey(write_survey(tmp_path / "s.csv", header=header))


def test_a_survey_that_is_no_text_or_of_another_set(built, tmp_path):
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "s.csv", tmp_path / "none.csv"):
        with pytest.raises(UserError, match=f"--survey {path}: "):
            read_survey(path)
    row = "other,contrast,5,3,1,0,0,0,0,0,0"
    with pytest.raises(UserError, match="has no image 'other' .1 such rows"):
        surveyed(read_survey(write_survey(tmp_path / "s.csv", row)), open_built_set(built))
    file = write_survey(tmp_path / "s.csv", row, header=HEADER.replace("Happy", "Joy"))
    with pytest.raises(UserError, match="has the classes Joy, Neutral"):
        surveyed(read_survey(file), open_built_set(built))


@given(st.lists(st.integers(0, 50), min_size=8, max_size=8).filter(any))
def test_shares_of_any_votes(tmp_path_factory, votes):
    file = write_survey(tmp_path_factory.mktemp("s") / "s.csv", "a,snow,5," + ",".join(map(str, votes)))
    (label,) = read_survey(file).labels.values()
    np.testing.assert_allclose(label, np.array(votes) / sum(votes))


# ---- the whole report

@pytest.mark.slow
def test_every_figure_of_the_demo_is_written(runs):
    old = runs / "report/figures" / "demo_Demo-C_gone.png"
    text = run_report(runs, heatmap=("kse",))
    stems = {path.name for path in (runs / "report/figures").glob("*_n16/*") if path.suffix != ".json"}
    wanted = SET_FIGURES | PLOTS - {"heatmap_ece", "heatmap_macro_f1"} | {"heatmap_kse"}
    assert stems == {f"{name}.{kind}" for name in wanted for kind in ("png", "svg", "pdf")}
    assert "not drawn" not in text and not old.exists()
    for path in (runs / "report/figures").glob("*/*.png"):
        with Image.open(path) as image:
            assert image.size[0] in (990, 2070) and image.info["dpi"][0] == pytest.approx(300, abs=1)
            assert not {"Software", "Date", "Creation Time"} & set(image.info)
    for path in (runs / "report/figures").glob("*/*.svg"):
        text = path.read_text(encoding="utf-8")
        assert text.rstrip().endswith("</svg>") and "<dc:date>" not in text and "Matplotlib" not in text


@pytest.mark.slow
def test_pictures_have_the_same_bytes_again(built, tmp_path):
    data = open_built_set(built)
    for name in ("one", "two"):
        figure = pictures.draw_pipeline(data, "title", 3, ("contrast", 4))
        style.save(figure, tmp_path / name, ["png", "svg", "pdf"])
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


@pytest.mark.slow
def test_images_of_others_are_not_shown_unasked(copy, monkeypatch):
    folder, saved = copy
    monkeypatch.setattr(figures, "open_built_set", of_another("rafdb"))
    text = run_report(folder / "runs")
    assert saved == PLOTS | {"figure4_visibility"}
    (line,) = [line for line in text.splitlines() if "not drawn" in line]
    assert all(name in line for name in SET_FIGURES - {"figure4_visibility"}) and "--with-images" in line
    run_report(folder / "runs", with_images=True)
    assert saved == PLOTS | SET_FIGURES


@pytest.mark.slow
def test_a_set_without_images_makes_them(copy):
    folder, saved = copy
    wanted = open_built_set(folder / "Demo-C").pixels(2, "spatter", 4)
    shutil.rmtree(folder / "Demo-C/images")
    np.testing.assert_array_equal(open_built_set(folder / "Demo-C").pixels(2, "spatter", 4), wanted)
    assert "not drawn" not in run_report(folder / "runs") and saved == PLOTS | SET_FIGURES


@pytest.mark.slow
def test_a_set_that_lies_elsewhere(copy):
    folder, saved = copy
    (folder / "Demo-C").rename(folder / "moved")
    text = run_report(folder / "runs")
    assert f"not drawn: {', '.join(catalogue.OF_SET)}: " in text and saved == PLOTS
    assert "no reliability diagram of the corrupted images" in text and "--set DIR" in text
    text = run_report(folder / "runs", set=(folder / "none", folder / "moved"))
    assert saved == PLOTS | SET_FIGURES and "not drawn" not in text and "no reliability" not in text
    reseal(folder / "moved", lambda manifest: manifest.update(set_version="other"))
    assert "not drawn: figure1" in run_report(folder / "runs", set=(folder / "moved",))


@pytest.mark.slow
def test_what_fails_is_named_and_the_rest_goes_on(copy, monkeypatch):
    folder, saved = copy
    for name, draw in REAL.items():
        monkeypatch.setattr(pictures, name, draw)
    survey = write_survey(folder / "s.csv", "other,contrast,5,3,1,0,0,0,0,0,0")
    version = open_built_set(folder / "Demo-C").manifest["set_version"]
    old = folder / "runs/report/figures" / f"demo_Demo-C_{version[:8]}"
    old = old.with_name(f"{old.name}_paper_32px_n16") / "classes_gone.png"
    old.parent.mkdir(parents=True)
    old.touch()
    text = run_report(folder / "runs", survey=survey)
    assert "not drawn: figure8_labels: --survey" in text and "no image 'other'" in text
    assert saved == PLOTS | SET_FIGURES - {"figure8_labels"}
    assert not old.exists()  # of an algorithm whose runs are gone


@pytest.mark.slow
def test_of_a_damaged_set_nothing_is_drawn(copy):
    folder, saved = copy
    (folder / "Demo-C/visibility.npy").unlink()
    text = run_report(folder / "runs")
    assert f"not drawn: {', '.join(catalogue.OF_SET)}: " in text and "visibility.npy" in text
    assert saved == PLOTS


@pytest.mark.slow
def test_the_readme_shows_some(copy, monkeypatch):
    folder, saved = copy
    monkeypatch.setattr(figures, "save", lambda figure, stem, formats: saved.add((stem, *formats)))
    monkeypatch.setattr(reporting.report, "README_FIGURES", folder / "figures")
    run_report(folder / "runs", readme_figures=True)
    assert saved == {(folder / "figures" / f"demo_{name}", "png") for name in catalogue.README_FIGURES}
    readme = Path(report.__file__).with_name("README.md").read_text()
    assert all(f"(figures/demo_{name}.png)" in readme for name in catalogue.README_FIGURES)


@pytest.mark.parametrize("options, message", [
    (dict(corruption="fog"), "--corruption fog: known are gaussian_noise"),
    (dict(heatmap=("ece", "eec")), "--heatmap eec: no run has such scores; the runs have accuracy"),
])
def test_wrong_options_end_at_once(runs, options, message):
    with pytest.raises(UserError, match=message):
        report.main(report.Args(runs, **options))
