"""The report's section about open-set runs, on runs whose scores are made up and known."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest

import open_set
import report
from reporting import open_set as section_of_report, open_set_bootstrap, open_set_figures, open_set_grids
from reporting.options import ReportOptions
from support import run_folder
from support.errors import DamagedFile, UserError
from training.open_set import files, scores

CLASSES = ("neutral", "happy", "surprise", "fear")


def make_run(runs, opened="surprise", seed=0, dataset="rafdb", loss="ce", pools=("test",), better=1.0, cells=False):
    """A run of 40 closed and 12 open test images (and 20 open training images in the pool paper); the trained detector
    is shifted by `better`, the baselines by a half."""
    folder = runs / dataset / "openset" / loss / f"open-{opened}" / "noise0" / f"seed{seed}"
    rng = np.random.default_rng([seed, len(opened)])
    (folder / "open_scores").mkdir(parents=True)
    args = {"dataset": dataset, "script": "openset", "protocol": "paper", "image_size": 224, "loss": loss, "noise": 0.0,
            "seed": seed, "open": opened, "differs": {}, "recipe": {}, "contents": {}, "epochs": 1,
            "classes": list(CLASSES[:3])}
    (folder / "args.json").write_text(json.dumps(args))
    for pool in pools:
        groups = np.repeat(["closed", "open-test", "open-train"], [40, 12, 20 if pool != "test" else 0])
        is_open = groups != "closed"
        count = len(groups)
        images = {"split": np.where(groups == "open-train", "train", "test"), "id": [f"i{n:03d}" for n in range(count)],
                  "expression": np.where(is_open, opened, np.array(CLASSES)[np.arange(count) % 2]), "group": groups,
                  "is_open": is_open.astype(int), "half": np.array(["a", "b"])[np.arange(count) // 2 % 2],
                  "predicted": ["neutral"] * count, "pseudo": ["neutral"] * count, "votes": [""] * count}
        for column in ("trained_transductive", "trained_inductive"):
            images[column] = rng.normal(size=count) + better * is_open
        for name in open_set.BASELINES:
            images[name] = rng.normal(size=count) + 0.5 * is_open
        validation = {"id": [f"v{n}" for n in range(20)]}
        for name in ("trained_transductive", "trained_inductive_a", "trained_inductive_b", *open_set.BASELINES):
            validation[name] = rng.normal(size=20)
        files.write_scores(files.scores_file(folder, pool), images)
        files.write_scores(files.validation_file(folder, pool), validation)
    if cells:
        place = files.cells_folder(folder, "test", "RAF-DB-C")
        names = [["clean", 0], ["contrast", 1], ["contrast", 5], ["snow", 2]]
        for name, severity in names:
            cell = rng.normal(size=(52, len(files.CELL_COLUMNS)))
            cell[:, -1] = 0
            files.write_array(files.cell_file(place, name, severity), cell)
        files.write_set_facts(place, {"set_version": "ab" * 32, "images": 52, "cells": names,
                                      "closed_classes": ["neutral", "happy", "fear"]})
    scores.write_open_scores(folder, "")
    return folder


def section(runs, resamples=0):
    read = section_of_report.read_open_set(runs)
    (runs / "report").mkdir(exist_ok=True)
    section_of_report.write_section(read, runs / "report", resamples)
    return read


def grid_of(read, title):
    (grid,) = [grid for grid in read.grids if grid.title == title]
    return grid


def test_lines_of_a_table(tmp_path):
    """A line for each open class, the mean over its seeds, each seed, and the mean of the one-class lines."""
    folders = [make_run(tmp_path, "surprise", seed) for seed in (0, 1)]
    folders += [make_run(tmp_path, "fear"), make_run(tmp_path, "fear+surprise")]
    read = section(tmp_path)
    grid = grid_of(read, "Open-set: AUROC, pool test, inductive, images: all")
    lines = {line.title: line.entries for line in grid.sections[0].lines}
    assert list(lines) == ["fear", "surprise", "  seed 0", "  seed 1", "fear+surprise", open_set_grids.MEAN]
    values = []
    for folder in folders:
        table = scores.read_open_scores(folder)
        chosen = table[(table["scoring"] == "inductive") & (table["metric"] == "auroc") & (table["group"] == "all")]
        values.append(chosen.set_index("detector")["value"])
    for column, detector in enumerate(files.DETECTORS):
        of_seeds = [100 * values[0][detector], 100 * values[1][detector]]
        assert lines["surprise"][column].value == pytest.approx(np.mean(of_seeds))
        assert lines["surprise"][column].sd == pytest.approx(np.std(of_seeds, ddof=1))
        assert [lines[f"  seed {seed}"][column].value for seed in (0, 1)] == pytest.approx(of_seeds)
        mean = (np.mean(of_seeds) + 100 * values[2][detector]) / 2
        assert lines[open_set_grids.MEAN][column].value == pytest.approx(mean)
    assert lines["fear"][-1].value == pytest.approx(50)  # accuracy: every closed image is called neutral
    written = pd.read_csv(tmp_path / "report/open_set.csv")
    assert len(written) == sum(len(scores.read_open_scores(folder)) for folder in folders)
    assert {"open", "seed", "dataset", "loss", "metric", "value"} <= set(written)


@pytest.mark.slow
def test_published_numbers_stand_below(tmp_path):
    for opened in ("surprise", "fear"):
        make_run(tmp_path, opened, pools=("test", "paper"))
    read = section(tmp_path)
    grid = grid_of(read, "Open-set: AUROC, pool paper, transductive, images: all")
    lines = {line.title: line.entries for line in grid.sections[0].lines}
    assert lines["surprise"][0].published == pytest.approx(91.8) and lines["fear"][0].published == pytest.approx(90.7)
    assert lines["surprise"][2].published == pytest.approx(51.7)  # maximum logit: their baseline
    assert lines[open_set_grids.MEAN][0].published == pytest.approx((91.8 + 90.7) / 2)
    assert any("could not be validated" in caption for caption in grid.captions)
    inductive = grid_of(read, "Open-set: AUROC, pool paper, inductive, images: all")
    assert all(np.isnan(entry.published) for entry in inductive.entries)
    assert "could not be validated" in (tmp_path / "report/open_set.md").read_text()


@pytest.mark.parametrize("dataset, metric, method, mean", [  # the means of the paper's table, in thousandths
    ("rafdb", "auroc", "Ours", .909), ("rafdb", "auroc", "Baseline", .497), ("rafdb", "fpr95", "Ours", .547),
    ("rafdb", "fpr95", "PROSER", .811), ("ferplus", "auroc", "Ours", .882), ("ferplus", "auroc", "DIAS", .709)])
def test_published_means(dataset, metric, method, mean):
    values = open_set_grids.read_published()[dataset, metric]
    assert round(np.mean([value for (_, name), value in values.items() if name == method]), 3) == mean


@pytest.mark.slow
def test_differences_and_their_intervals(tmp_path):
    folders = [make_run(tmp_path, seed=seed, better=2.5) for seed in (0, 1)]
    read = section(tmp_path, resamples=200)
    table = pd.read_csv(tmp_path / "report/open_set_differences.csv")
    assert len(table) == 2 * len(open_set.BASELINES) and (table["seeds"] == 2).all()
    assert set(table["open"]) == {"surprise"} and set(table["group"]) == {"all"}
    images = [files.read_scores(files.scores_file(folder, "test")) for folder in folders]
    is_open = (images[0]["is_open"] == "1").to_numpy()
    gaps = [open_set.auroc(one["trained_transductive"].to_numpy(), is_open)
            - open_set.auroc(one["energy"].to_numpy(), is_open) for one in images]
    row = table[(table["scoring"] == "transductive") & (table["baseline"] == "energy")].iloc[0]
    assert row["value"] == pytest.approx(np.mean(gaps)) and row["low"] < row["value"] < row["high"] and row["low"] > 0
    grid = grid_of(read, "Open-set: trained detector against baselines, pool test, transductive")
    assert any(entry.best for entry in grid.entries)
    before = (tmp_path / "report/open_set_differences.csv").read_bytes()
    section(tmp_path, resamples=200)
    assert (tmp_path / "report/open_set_differences.csv").read_bytes() == before  # the bootstrap is keyed


def test_differences_of_groups(tmp_path):
    """The pool paper against open test images and against the other open images, too: together they are confounded.
    The size of a block of resamples does not matter."""
    folder = make_run(tmp_path, pools=("paper",))
    read = section(tmp_path, resamples=20)
    path = tmp_path / "report/open_set_differences.csv"
    table = pd.read_csv(path)
    assert set(table["group"]) == {"all", "open-test", "open-train"}
    images = files.read_scores(files.scores_file(folder, "paper"))
    rows = images["group"].isin(["closed", "open-train"]).to_numpy()
    is_open = (images["is_open"] == "1").to_numpy()[rows]
    gap = open_set.auroc(images["trained_transductive"].to_numpy()[rows], is_open) - open_set.auroc(
        images["energy"].to_numpy()[rows], is_open)
    row = table[(table["group"] == "open-train") & (table["scoring"] == "transductive")
                & (table["baseline"] == "energy")].iloc[0]
    assert row["value"] == pytest.approx(gap) and row["low"] <= row["value"] <= row["high"]
    assert grid_of(read, "Open-set: trained detector against baselines, pool paper, inductive, against open-test "
                         "images")
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_set_bootstrap, "LARGEST_BLOCK", 200)
        section(tmp_path, resamples=20)
    assert path.read_bytes() == before


def test_memory_of_the_bootstrap_is_bounded(tmp_path):
    """It does not grow with the number of resamples, and a table with more images than any data set is refused."""
    stored = scores.read_pool(make_run(tmp_path), "test")
    largest = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_set_bootstrap, "LARGEST_BLOCK", 10 * 52)
        weights = open_set.resampling_weights
        patch.setattr(open_set, "resampling_weights",
                      lambda *given: largest.append(weights(*given)) or largest[-1])
        open_set_bootstrap.resampled_aurocs([stored], "transductive", [np.ones(52, bool)], 35)
        patch.setattr(scores, "MOST_IMAGES", 51)
        with pytest.raises(DamagedFile, match="has 52 images; no pool has more than 51"):
            scores.read_pool(tmp_path / "rafdb/openset/ce/open-surprise/noise0/seed0", "test")
    assert [len(drawn) for drawn in largest] == [10, 10, 10, 5]


@pytest.mark.slow
def test_seeds_with_other_images_are_not_compared(tmp_path):
    folder = make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1)
    path = files.scores_file(folder, "test")
    path.write_text(path.read_text().replace("i001", "other"))
    read = section(tmp_path, resamples=10)
    assert any("other images" in str(note) for note in read.notes)


def test_corrupted_images(tmp_path):
    folder = make_run(tmp_path, cells=True)
    read = section(tmp_path)
    grid = grid_of(read, "Open-set under corruption: AUROC, RAF-DB-C")
    lines = {line.title: line.entries for line in grid.sections[0].lines}
    assert list(lines) == ["clean", "snow", "contrast", "mean"]
    table = scores.read_open_scores(folder)
    table = table[(table["metric"] == "auroc") & (table["detector"] == "trained")]
    contrast = table[table["corruption"] == "contrast"]
    assert len(contrast) == 2 and lines["contrast"][0].value == pytest.approx(100 * contrast["value"].mean())
    assert grid_of(read, "Open-set under corruption: open accepted, RAF-DB-C")


def test_every_one_class_line_counts_the_same_under_corruption(tmp_path, capsys):
    """Two seeds of one class weigh as one of another, and a pair does not count."""
    folders = {("surprise", seed): make_run(tmp_path, "surprise", seed, cells=True) for seed in (0, 1)}
    folders |= {(name, 0): make_run(tmp_path, name, cells=True) for name in ("fear", "fear+surprise")}
    read = section(tmp_path)

    def auroc(key, corruption):
        table = scores.read_open_scores(folders[key])
        chosen = table[(table["metric"] == "auroc") & (table["detector"] == "energy")]
        return chosen[chosen["corruption"] == corruption]["value"].mean()

    grid = grid_of(read, "Open-set under corruption: AUROC, RAF-DB-C")
    lines = {line.title: line.entries[files.DETECTORS.index("energy")].value for line in grid.sections[0].lines}
    for name in ("clean", "contrast", "mean"):
        of_surprise = np.mean([auroc(("surprise", seed), name) for seed in (0, 1)])
        assert lines[name] == pytest.approx(100 * np.mean([of_surprise, auroc(("fear", 0), name)]))
    assert "fear, surprise; runs: 3" in " ".join(grid.captions)
    text = " ".join(section_of_report.brief_lines(read, tmp_path))
    of_lines = [section_value(folders[key]) for key in (("surprise", 0), ("surprise", 1), ("fear", 0))]
    expected = 100 * np.mean([np.mean(of_lines[:2]), of_lines[2]])
    assert "mean of 2 sets" in text and f"trained {expected:.1f}" in text


def section_value(folder):
    table = scores.read_open_scores(folder)
    chosen = table[(table["metric"] == "auroc") & (table["detector"] == "trained") & (table["scoring"] == "inductive")]
    return chosen[(chosen["set"] == "") & (chosen["group"] == "all")]["value"].item()


def test_all_metrics_have_tables_with_the_numbers_of_images(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, "fear", pools=("test", "paper"))
    read = section(tmp_path)
    for label in ("AUROC", "FPR@TPR95", "FPR@TPR95 (ood_metrics)", "AUPR, closed positive", "AUPR, open positive",
                  "OSCR"):
        grid = grid_of(read, f"Open-set: {label}, pool test, transductive, images: all")
        assert "40 closed and 12 open images" in grid.captions[0]  # which the terminal shows
    of_open = grid_of(read, "Open-set: AUPR, open positive, pool test, transductive, images: all").captions[0]
    of_closed = grid_of(read, "Open-set: AUPR, closed positive, pool test, transductive, images: all").captions[0]
    assert "(prevalence of open ones 23.1 %)" in of_open and "(prevalence of closed ones 76.9 %)" in of_closed
    paper = grid_of(read, "Open-set: AUROC, pool paper, transductive, images: all").captions[0]
    assert paper.endswith(". 40 closed and 32 open images.")
    against = grid_of(read, "Open-set: AUROC, pool paper, inductive, against open-train images").captions[0]
    assert against.endswith(". 40 closed and 20 open images.")
    printed = "\n".join(section_of_report.terminal_lines(read, False))
    assert "OSCR, pool test" in printed and "against open-train" not in printed and "AUPR, open positive" not in printed


def test_numbers_of_images_of_many_lines():
    rows = [{"open_classes": f"c{n}", "detector": "trained", "metric": metric, "value": value} for n in range(12)
            for metric, value in (("n_closed", 1000 - n), ("n_open", n + 1), ("prevalence_open", .5))]
    text = open_set_grids.images_text(pd.DataFrame(rows), "auroc")
    assert text == "989 to 1,000 closed and 1 to 12 open images; of each line: open_set.csv."
    few = open_set_grids.images_text(pd.DataFrame(rows[:6]), "auroc")
    assert few == "c0: 1,000 closed and 1 open images; c1: 999 closed and 2 open images."


@pytest.mark.slow
def test_calibrated_minus_uncalibrated_training(tmp_path):
    """By open class over the seeds that both have, on clean and on corrupted images; settings have to be equal."""
    by_loss = {loss: [make_run(tmp_path, "surprise", seed, loss=loss, better=1 + 2 * (loss != "ce"), cells=True)
                      for seed in seeds] for loss, seeds in (("ce", (0, 1, 2)), ("maxent+mbls", (0, 1)))}
    make_run(tmp_path, "fear", loss="ce", cells=True)
    make_run(tmp_path, "fear", loss="maxent+mbls", cells=True)
    read = section(tmp_path)
    grid = grid_of(read, "Open-set: calibrated training minus ce, AUROC")
    sections = {part.heading: {line.title: line.entries for line in part.lines} for part in grid.sections}
    assert list(sections) == ["clean, pool test, transductive", "clean, pool test, inductive",
                              "RAF-DB-C, mean over its cells"]
    lines = sections["clean, pool test, inductive"]
    assert list(lines) == ["fear", "surprise", open_set_grids.MEAN]
    gaps = [100 * (section_value(by_loss["maxent+mbls"][seed]) - section_value(by_loss["ce"][seed]))
            for seed in (0, 1)]
    assert lines["surprise"][0].value == pytest.approx(np.mean(gaps)) and lines["surprise"][0].seeds == 2
    assert lines["surprise"][0].sd == pytest.approx(np.std(gaps, ddof=1))
    assert grid in read.terminal_grids and "calibrated training minus ce" in (
        tmp_path / "report/open_set.md").read_text()
    for args in tmp_path.rglob("args.json"):
        precision = "bf16-mixed" if "ce" in args.parts else "32-true"
        change_args(args.parent, recipe={"precision": precision}, precision=precision)
    read = section(tmp_path)
    assert not any("minus ce" in grid.title for grid in read.grids)
    assert any("they differ in precision" in str(note) for note in read.notes)


@pytest.mark.slow
def test_figures_and_page(tmp_path):
    make_run(tmp_path, pools=("test", "paper"))
    read = section(tmp_path)
    open_set_figures.draw_all(read, tmp_path / "report/figures")
    written = sorted((tmp_path / "report/figures/open-set").iterdir())
    assert len(written) == 7 and {path.suffix for path in written} == {".png", ".svg", ".pdf", ".json"}
    first = {path.name: path.read_bytes() for path in written}
    page = section_of_report.page_section(read, open_set_figures.as_data(read.figures))
    assert page.count("data:image/png;base64,") == 2 and "<b>" in page
    again = section(tmp_path)
    open_set_figures.draw_all(again, tmp_path / "report/figures")
    assert {path.name: path.read_bytes() for path in written} == first


@pytest.mark.slow
def test_figures_that_are_not_asked_for_are_shown_while_they_are_up_to_date(tmp_path, monkeypatch):
    folder = make_run(tmp_path)
    page = tmp_path / "report.html"

    def pictures(figures):
        report.main(ReportOptions(tmp_path, html=page, resamples=0, figures=figures))
        return page.read_text().count("data:image/png;base64,")

    assert pictures("none") == 0 and pictures("open-set") == 1
    drawn = []
    monkeypatch.setattr(open_set_figures, "save", lambda *given: drawn.append(given))
    assert pictures("reliability") == 1 and pictures("all") == 1 and not drawn
    path = files.scores_file(folder, "test")
    path.write_text(path.read_text().replace(",a,", ",b,", 1))
    assert pictures("paper") == 0 and not list((tmp_path / "report/figures/open-set").glob("*.png"))
    html = page.read_text()
    assert "open_set.csv" in html and "open_set_differences.csv" in html


@pytest.mark.slow
def test_a_report_of_open_set_runs_alone(tmp_path, capsys):
    make_run(tmp_path)
    report.main(ReportOptions(tmp_path, html=tmp_path / "report.html", resamples=20))
    printed = capsys.readouterr().out
    assert "Open-set: AUROC, pool test, inductive" in printed
    html = (tmp_path / "report.html").read_text()
    assert 'id="open-set"' in html and 'href="#open-set"' in html
    report.main(ReportOptions(tmp_path, brief=True, figures="none", resamples=0))
    printed = capsys.readouterr().out
    assert "inductive AUROC" in printed and "open_set.md" in printed and "No evaluated run" not in printed
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no run in"):
        report.main(ReportOptions(tmp_path / "none"))


def test_hostile_runs(tmp_path):
    """Names of others are escaped, and damaged files are named and left out."""
    folder = make_run(tmp_path)
    args = json.loads((folder / "args.json").read_text())
    hostile = args | {"open": "<script>alert(1)</script>", "differs": {"x": "\x1b[31m$\\input{x}"}}
    (folder / "args.json").write_text(json.dumps(hostile))
    page = section_of_report.page_section(section(tmp_path), {})
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    text = (tmp_path / "report/open_set.tex").read_text()
    assert "\\input{x}" not in text and "\x1b" not in text
    for damage in ("", "pool\nx\n", (folder / "open_scores.csv").read_text().replace("auroc", "<b>", 1),
                   (folder / "open_scores.csv").read_text().replace("0.", "nan", 1)):
        (folder / "open_scores.csv").write_text(damage)
        read = section_of_report.read_open_set(tmp_path)
        assert not read.runs and len(read.notes) == 1
    (folder / "args.json").write_text(json.dumps(args | {"open": 3}))
    assert section_of_report.read_open_set(tmp_path).notes
    (folder / "args.json").write_text("{")
    assert not section_of_report.read_open_set(tmp_path).runs


@pytest.mark.slow
def test_old_files_are_removed(tmp_path):
    make_run(tmp_path)
    section(tmp_path)
    assert len(list((tmp_path / "report").glob("open_set*"))) == 4
    empty = section_of_report.OpenSetSection()
    section_of_report.write_section(empty, tmp_path / "report", 0)
    assert not list((tmp_path / "report").glob("open_set*")) and section_of_report.page_section(empty, {}) == ""


@pytest.mark.parametrize("change", [
    {"cells": [["../../../../../outside", 1]]}, {"cells": [["contrast", 9]]}, {"cells": [["contrast", True]]},
    {"cells": ["contrast"]}, {"closed_classes": ["neutral"]}, {"closed_classes": None}, {"set_version": None}])
def test_a_hostile_description_of_cells_is_refused(tmp_path, change):
    """set.json names files and classes: nothing outside the folder is read, and no class that does not exist."""
    folder = make_run(tmp_path, cells=True)
    place = files.cells_folder(folder, "test", "RAF-DB-C")
    cell = np.ones((52, len(files.CELL_COLUMNS)))  # the class 1, which a list of one class lacks
    files.write_array(files.cell_file(place, "snow", 2), cell)
    files.write_array(tmp_path / "outside-1.npy", cell)
    files.write_set_facts(place, files.read_set_facts(place) | change)
    with pytest.raises(DamagedFile, match="RAF-DB-C"):
        scores.write_open_scores(folder, "")


@pytest.mark.parametrize("column, value", [("is_open", "yes"), ("half", "c"), ("group", "x"), ("votes", "2"),
                                           ("is_open", None), ("half", None), ("energy", None)])
def test_open_scores_with_a_wrong_or_missing_column_are_refused(tmp_path, column, value):
    path = files.scores_file(make_run(tmp_path), "test")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    table.to_csv(path, index=False)
    with pytest.raises(DamagedFile, match=column):
        scores.read_pool(path.parents[1], "test")


def change_args(folder, **changes):
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | changes))


@pytest.mark.parametrize("changes", [
    {"recipe": {"precision": "bf16-mixed"}, "precision": "bf16-mixed"}, {"data_sha256": "b" * 64}])
def test_runs_of_other_precision_or_data_are_no_seeds_of_one_line(tmp_path, changes):
    usual = {"recipe": {"precision": "32-true"}, "precision": "32-true", "data_sha256": "a" * 64}
    folders = [make_run(tmp_path, seed=seed) for seed in (0, 1, 2)]
    for folder in folders:
        change_args(folder, **usual)
    change_args(folders[2], **changes)
    change_args(make_run(tmp_path, "fear"), **usual | {"data_sha256": "c" * 64})  # trained on other classes
    read = section_of_report.read_open_set(tmp_path)
    setup_of_seed = {run.seed: run.setup for run in read.runs if run.open_classes == "surprise"}
    assert setup_of_seed[0] == setup_of_seed[1] != setup_of_seed[2]


def test_a_copy_of_a_run_is_left_out(tmp_path):
    folder = make_run(tmp_path, seed=0)
    shutil.copytree(folder, folder.with_name("seed0-copy"))
    read = section_of_report.read_open_set(tmp_path)
    assert [run.folder for run in read.runs] == [folder] and "the seed of" in str(read.notes[0])


def test_versions_of_a_set_have_tables_of_their_own(tmp_path):
    folders = [make_run(tmp_path, seed=seed, cells=True) for seed in (0, 1)]
    place = files.cells_folder(folders[1], "test", "RAF-DB-C")
    files.write_set_facts(place, files.read_set_facts(place) | {"set_version": "cd" * 32})
    scores.write_open_scores(folders[1], "")
    read = section(tmp_path)
    for version in ("abababab", "cdcdcdcd"):
        assert grid_of(read, f"Open-set under corruption: AUROC, RAF-DB-C {version}")


@pytest.mark.slow
def test_published_numbers_stand_below_the_pool_paper_only_and_without_a_difference(tmp_path):
    for opened in ("surprise", "fear"):
        make_run(tmp_path, opened, pools=("test", "paper", "paper-random"))
    read = section(tmp_path)
    with_published = [grid.title for grid in read.grids if not all(np.isnan(entry.published) for entry in grid.entries)]
    assert with_published and all("pool paper, transductive, images: all" in title for title in with_published)
    text = (tmp_path / "report/open_set.md").read_text()
    assert "| published" in text.replace("&nbsp;", "").replace("  ", " ") and "difference |" not in text


def test_fresh_leaves_files_of_the_user_in_the_folders_of_a_run(tmp_path):
    folder = make_run(tmp_path, cells=True)
    mine = folder / "open_scores/test/mine.txt"
    mine.write_text("stays")
    run_folder.clear(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == [mine]
