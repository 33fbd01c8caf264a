"""Reports of sets with other corruptions than FER-C's: preset mivia, which has 18."""
import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest

import make_fer_c
import metrics
import report
import reporting.report
from building.built_set import open_built_set
from corruptions import CORRUPTIONS, MIVIA, cells_of
from reporting import captions, cells, ranking
from reporting.catalogue import FigureOptions, of_set
from reporting.plots import draw_heat
from reporting.predictions import ece_floors, summarise_predictions
from reporting.rows import Row
from reporting.runs import read_runs
from reporting.scores import blocks_of, scores_as_table
from reporting.series import by_cell, by_severity
from support.errors import UserError
from test_figures import check_texts, look  # noqa: F401 (look is a fixture)
from test_page import Page, browser, elements, make_run  # noqa: F401 (browser is a fixture)
from test_report import NoFigures

FER_C, NAMES = tuple(CORRUPTIONS), tuple(MIVIA)


@pytest.fixture(scope="module")
def mivia(build_args, tmp_path_factory):
    """A set of a few images with the 18 corruptions."""
    out = tmp_path_factory.mktemp("mivia") / "Demo-M"
    make_fer_c.main(build_args(out=out, limit=6, corruptions="mivia", images=False))
    return open_built_set(out)


@pytest.fixture(scope="module")
def example(mivia, tmp_path_factory):
    """(folder of runs, what the report prints, data of the page)"""
    runs = tmp_path_factory.mktemp("reported") / "runs"
    for loss in ("ce", "maxent+mbls"):
        make_run(runs, mivia, "baseline", loss, 0)
    page = runs.parent / "page.html"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(reporting.report, "Drawing", NoFigures)
        patch.setattr(metrics, "ece_floor", lambda *_, **__: 0.1)  # which takes long
        report.main(report.Args(runs, resamples=20, html=page, baseline=next(runs.glob("*ce*")), published=True))
    return runs, out.getvalue(), json.loads(elements(page.read_text(encoding="utf-8"))["data"])


# ---- words

def test_texts_on_sets_of_fer_c_stay_as_they_are():
    for suites in ({FER_C}, set()):
        text = cells.for_sets(f"{captions.LEGEND} {ranking.LEGEND}", suites)
        assert "mean over the 85 cells (17 corruptions at 5 severities), accuracy" in text and "[" not in text
        assert "in the 70 cells without brightness,\ncontrast and snow, whose soft labels" in text


def test_a_set_without_contradicted_corruptions_has_all_cells():
    assert cells.words_left_out(["fog", "pixelate"]) == "" and cells.words_left_out(["snow"]) == "snow"
    assert cells.left_in_words({("fog", "pixelate")}) == "the 10 cells (2 corruptions at 5 severities)"


def test_texts_on_other_sets_have_their_numbers():
    text = " ".join(cells.for_sets(f"{captions.LEGEND} {ranking.LEGEND}", {NAMES}).split())
    assert "mean over the 90 cells (18 corruptions at 5 severities)" in text
    assert "in the 45 cells without brightness and contrast, whose soft labels" in text
    both = " ".join(cells.for_sets(f"{captions.LEGEND} {ranking.LEGEND}", {NAMES, FER_C}).split())
    assert "mean over all cells (each corruption at 5 severities)" in both
    assert "in the cells without brightness, contrast and snow, whose" in both
    for number in ("85", "17", "70"):
        assert number not in text and number not in both


@pytest.mark.parametrize("names, expected", [
    ((), FER_C), (("clean", "mean"), FER_C), (("fog", "contrast"), FER_C), (("contrast_plus",), NAMES),
    (("contrast_plus", "snow"), FER_C), (MIVIA, NAMES)])
def test_names_tell_the_corruptions_of_a_set(names, expected):
    assert cells.corruptions_of_names(names) == expected


@pytest.mark.parametrize("manifest, expected", [
    ({}, FER_C), ({"made_with": []}, FER_C), ({"made_with": {"preset": ["mivia"]}}, FER_C),
    ({"made_with": {"preset": "mivia"}}, NAMES), ({"made_with": {"preset": "imagenet-c"}}, FER_C)])
def test_a_manifest_tells_the_corruptions_of_a_set(manifest, expected):
    assert cells.corruptions_of_manifest(manifest) == expected


# ---- tables and files

def test_tables_are_means_over_the_cells_of_the_set(example):
    runs, text, _ = example
    words = " ".join(text.split())
    assert "Mean over the 90 cells, soft labels" in words and "45 cells" in words and "17 corruptions" not in words
    assert "85 cells" not in (runs / "report" / "tables.md").read_text()
    with open(runs / "report" / "errors.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["model"] == "baseline, CE"]
    assert [line["corruption"] for line in lines] == [*NAMES, "mean", "self-relative"]
    assert all(float(line["ce"]) == 1 for line in lines if line["ce"])  # the baseline itself
    with open(next(runs.glob("*ce*")) / "scores.csv") as file:
        scores = [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]
    of_cells = [float(row["value"]) for row in scores if row["severity"]]
    assert len(of_cells) == 90
    assert float(lines[-2]["error"]) == pytest.approx(1 - np.mean(of_cells))


def test_nothing_is_missing_or_damaged_because_there_are_18(example):
    missing = example[1].split("Missing:")[-1] if "Missing:" in example[1] else ""
    assert "scored" not in missing and "damaged" not in missing and "unusable" not in missing


def test_the_papers_numbers_are_not_those_of_other_corruptions(example):
    from reporting.published import reason_without_values
    runs, _ = read_runs(example[0])
    (block,) = blocks_of(scores_as_table(runs))
    block = block._replace(dataset="rafdb", image_size=224)
    assert reason_without_values(block, runs, NAMES) == "its values are for the 17 corruptions of the paper"
    assert "classes" in reason_without_values(block, runs, FER_C)


def test_a_set_of_other_corruptions_than_its_scores_is_named(example, tmp_path):
    copy = shutil.copytree(example[0], tmp_path / "runs", ignore=shutil.ignore_patterns("report"))
    for path in copy.rglob("set.json"):
        info = json.loads(path.read_text())
        del info["corruptions"]
        path.write_text(json.dumps(info))
    runs, _ = read_runs(copy)
    scores = scores_as_table(runs)
    (block,) = blocks_of(scores)
    notes = summarise_predictions(block, runs, scores).notes
    assert "predictions of other corruptions than the scores" in str(notes[0])


# ---- figures

def test_numbers_of_figures_are_of_the_sets_corruptions(example):
    runs, _ = read_runs(example[0])
    scores = scores_as_table(runs)
    tables = by_cell(scores, "ece")
    table = tables[Row("baseline", "ce", 0.0)]
    assert table.shape == (18, 5) and not np.isnan(table).any()
    with open(next(example[0].glob("*ce*")) / "scores.csv") as file:
        rows = {(row["corruption"], row["severity"]): float(row["value"]) for row in csv.DictReader(file)
                if row["metric"] == "ece"}
    assert [rows[name, str(severity)] for name, severity in cells_of(NAMES)] == pytest.approx(table.ravel().tolist())
    curve = by_severity(scores)["baseline", "ce"]["ece"]
    assert curve[0, 1:] == pytest.approx(table.mean(0))
    figure = draw_heat(tables, "ece", "Demo-M, N = 6", {}, NAMES)
    check_texts(figure)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == 19 and labels[-1] == "mean" and "pixelate c. b. minus" in labels


@pytest.mark.slow
def test_pictures_of_the_set(mivia):
    plots, with_images = of_set(mivia, "Demo-M", FigureOptions())
    for plan in plots.values():
        check_texts(plan.draw(*plan.data))
    gallery = with_images["figure2_gallery"]
    figure = gallery.draw(*gallery.data)
    assert len([axes for axes in figure.axes if axes.images]) == 19
    absent = of_set(mivia, "Demo-M", FigureOptions(corruption="snow"))[1]["figure1_severities"]
    with pytest.raises(UserError, match="has no snow; --corruption takes gaussian_blur"):
        absent.draw(*absent.data)


def test_floors_have_cells_that_the_set_has(example):
    folder = next(example[0].glob("*ce*")) / "predictions" / "Demo-M"
    floors = ece_floors(folder, 6, NAMES)
    assert set(floors) == {"clean", "corrupted"} and 0 < floors["corrupted"] < 1


# ---- the page

def test_the_page_has_the_sets_corruptions(example):
    data = example[2]
    (block,) = data["blocks"]
    assert block["corruptions"] == list(NAMES) and data["corruptions"] == list(FER_C)
    assert len(block["places"]) == 1 + 90 + 4 and block["places"][1] == ["gaussian_blur", 1]
    assert all(len(values) == 95 for entry in data["scores"] for values in entry["values"].values())
    assert [len(pictures) for pictures in block["explorer"]["pictures"]] == [91] * len(block["explorer"]["ids"])
    (one,) = data["rankings"]
    assert one["left"] == [45, "brightness and contrast"]


@pytest.mark.slow
def test_the_explorer_walks_through_18_corruptions(browser, example):  # noqa: F811
    page = Page(browser, example[0].parent / "page.html")
    assert page.texts("#all-cells") == ["the 90 cells, 18 corruptions at 5 severities"]
    assert page.texts("#pooled-cells") == ["all 90 cells"]
    assert page.texts("#left-cells") == ["45 cells: without brightness and contrast"]
    assert len(page.texts("#grid tbody tr")) == 1 + 18 and len(page.texts("#grid button")) == 91
    assert page.texts("#place") == ["Gaussian blur, severity 3"]
    assert "ECE 45 cells" in " ".join(page.texts("#ranking-table .tabulator-col-title"))
    page.check_quiet()
