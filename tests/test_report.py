"""report.py against numbers worked out again from the prediction files, on a small folder of made-up runs."""
import contextlib
import csv
import io
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import f1_score

import metrics
import report
import reporting.predictions
from cli import UserError
from corruptions import CORRUPTIONS
from reporting import figures
from reporting.predictions import by_severity, examine, read_bins
from reporting.runs import COLUMNS, DOMAINS, LOSSES, blocks_of, read_args, read_runs, tidy
from reporting.tables import DEMO

K, N = 4, 40
ROOT = Path(report.__file__).parent


def make_set(folder, version):
    """A built set as far as report.py reads it. -> (folder, version, labels, soft labels)"""
    rng = np.random.default_rng(len(version))
    labels = rng.integers(0, K, N)
    weight = rng.random((17, 5, N, 1)) * 0.8
    soft = ((1 - weight) * np.eye(K)[labels] + weight / K).astype(np.float32)
    folder.mkdir(parents=True)
    np.save(folder / "soft_labels.npy", soft)
    (folder / "manifest.json").write_text(json.dumps({"set_version": version}))
    return folder, version, labels, soft


def make_run(runs, built, script, loss, seed, dataset="ferplus", noise=0.0, evaluated=True, **others):
    """A run as training and evaluation leave it; its folder's name says nothing."""
    folder = runs / f"run{len(list(runs.glob('run*'))):02d}"
    folder.mkdir(parents=True)
    args = {"script": script, "dataset": dataset, "loss": loss, "seed": seed, "noise": noise, "protocol": "paper",
            "image_size": 64, "epochs": 3, "runs": "runs"} | others
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "metrics.csv").write_text("epoch\n0\n1\n2\n")
    if evaluated:
        evaluate(folder, built, np.random.default_rng([seed, len(script), len(loss)]), 4 if loss == "ce" else 2)
    return folder


def evaluate(folder, built, rng, sharpness):
    set_folder, version, labels, soft = built
    out, lines, all_probs = folder / "predictions" / set_folder.name, [], []

    def score(corruption, severity, target):
        logits = (sharpness * (np.eye(K)[labels] + 0.5 * rng.normal(size=(N, K)))).astype(np.float32)
        path = out / corruption / f"{severity}.npy" if severity else out / "clean.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, logits)
        probs = metrics.softmax(logits)
        all_probs.append(probs)
        for metric, value in {**metrics.summary(probs, labels, target), "n": N}.items():
            lines.append((set_folder.name, version, "softmax", corruption, severity, metric, value))

    score("clean", "", None)
    for c, corruption in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            score(corruption, severity, soft[c, severity - 1])
    scores = pd.DataFrame(lines, columns=COLUMNS)
    means = scores[scores["corruption"] != "clean"].groupby("metric")["value"].mean()
    pooled = metrics.summary(np.concatenate(all_probs[1:]), np.tile(labels, 85), soft.reshape(-1, K))
    for name, values in (("mean", means), ("pooled", pooled)):
        more = [(set_folder.name, version, "softmax", name, "", metric, value) for metric, value in values.items()]
        scores = pd.concat([scores, pd.DataFrame(more, columns=COLUMNS)])
    scores.to_csv(folder / "scores.csv", index=False)
    np.save(out / "labels.npy", labels)
    (out / "set.json").write_text(json.dumps({"set_version": version, "classes": list("abcd"), "limit": None,
                                              "folder": str(set_folder), "demo": set_folder.name == "Demo-C"}))


def run_report(runs, **options):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert report.main(report.Args(runs, **options)) == 0
    return out.getvalue()


def table_rows(text, title):
    """The rows of the table below `## title`, as lists of cells without the header."""
    block = text[text.index(f"## {title}"):]
    block = block[: block.find("\n## ") if "\n## " in block else None]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Two data sets, two algorithms, two losses, two seeds; SCN lacks one run and one evaluation."""
    root = tmp_path_factory.mktemp("report")
    ferplus, demo = make_set(root / "FERPlus-C", "aaaa1111" * 4), make_set(root / "Demo-C", "dddd2222")
    runs = root / "runs"
    for loss in ("ce", "maxent+mbls"):
        for seed in (0, 1):
            make_run(runs, ferplus, "baseline", loss, seed)
        make_run(runs, demo, "baseline", loss, 0, "demo")
    make_run(runs, ferplus, "SCN", "maxent+mbls", 0)
    make_run(runs, None, "SCN", "maxent+mbls", 1, evaluated=False)
    make_run(runs, ferplus, "SCN", "ce", 1)
    make_run(runs, ferplus, "SCN", "focal", 0)
    make_run(runs, ferplus, "baseline", "ce", 0, noise=0.1)
    return runs, run_report(runs)


@pytest.fixture
def copy(example, tmp_path, monkeypatch):
    """A copy of the example to damage (predictions are links: see `own`), without what takes long."""
    for path in example[0].glob("run*"):
        shutil.copytree(path, tmp_path / "runs" / path.name, ignore=shutil.ignore_patterns("predictions"))
        if (path / "predictions").exists():
            (tmp_path / "runs" / path.name / "predictions").symlink_to(path / "predictions")
    monkeypatch.setattr(report, "draw_block", lambda *_: None)
    monkeypatch.setattr(reporting.predictions.metrics, "ece_floor", lambda *_, **__: 0.1)
    return tmp_path / "runs"


def own(folder):
    """Make the predictions of a copied run its own, to be changed."""
    link = folder / "predictions"
    original = link.readlink()
    link.unlink()
    shutil.copytree(original, link)
    return link


def find(runs, script, loss, seed=0, dataset="ferplus", noise=0.0):
    wanted = {"script": script, "loss": loss, "seed": seed, "dataset": dataset, "noise": noise}
    paths = sorted(runs.glob("*/args.json"))
    return next(path.parent for path in paths if wanted.items() <= json.loads(path.read_text()).items())


def slow_ece(probs, accuracy):
    total, confidence = 0.0, probs.max(1)
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(accuracy[inside].mean() - confidence[inside].mean())
    return total


def slow_scores(folder):
    """(macro-F1 clean, ECE clean, macro-F1 corrupted, ECE corrupted) from nothing but prediction and label files."""
    (predictions,) = (folder / "predictions").iterdir()
    labels = np.load(predictions / "labels.npy")
    soft = np.load(Path(json.loads((predictions / "set.json").read_text())["folder"]) / "soft_labels.npy")

    def both(path, target):
        logits = np.load(path).astype(float)
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        guess = probs.argmax(1)
        f1 = f1_score(labels, guess, average="macro", labels=range(K), zero_division=0)
        return f1, slow_ece(probs, target[np.arange(N), guess])

    cells = [both(predictions / corruption / f"{severity}.npy", soft[c, severity - 1])
             for c, corruption in enumerate(CORRUPTIONS) for severity in range(1, 6)]
    return *both(predictions / "clean.npy", np.eye(K)[labels]), *np.mean(cells, axis=0)


EXPECTED = {  # table -> row -> its runs that are evaluated, as (script, loss, seeds, data set, noise)
    "FERPlus-C": [("baseline", "ce", (0, 1)), ("baseline", "maxent+mbls", (0, 1)), ("SCN", "ce", (1,)),
                  ("SCN", "maxent+mbls", (0,)), ("SCN", "focal", (0,))],
    "Demo-C": [("baseline", "ce", (0,)), ("baseline", "maxent+mbls", (0,))],
}
NAMES = {"ce": "ce (uncalibrated)", "maxent+mbls": "maxent+mbls (calibrated)", "focal": "focal"}


@pytest.mark.parametrize("title, dataset", [("FERPlus-C", "ferplus"), ("Demo-C", "demo")])
def test_every_number_of_table_1(example, title, dataset):
    runs, text = example
    rows = table_rows(text, title)
    tidy = list(csv.DictReader((runs / "report" / "table1.csv").open(encoding="utf-8")))
    assert len(rows) == len(EXPECTED[title])
    for row, (script, loss, seeds) in zip(rows, EXPECTED[title], strict=True):
        values = np.array([slow_scores(find(runs, script, loss, seed, dataset)) for seed in seeds])
        cells = [f"{100 * column.mean():.1f}" + (f" ± {100 * statistics.stdev(column):.1f}" if len(seeds) > 1 else "")
                 for column in values.T]
        assert row == [script, NAMES[loss], str(len(seeds)), *cells]
        names = [("clean", "macro_f1"), ("clean", "ece"), ("corrupted", "macro_f1"), ("corrupted", "ece")]
        for (domain, metric), column in zip(names, values.T, strict=True):
            wanted = {"dataset": dataset, "algorithm": script, "loss": loss, "domain": domain, "metric": metric}
            (line,) = [line for line in tidy if wanted.items() <= line.items()]
            assert float(line["mean"]) == pytest.approx(column.mean(), abs=1e-7)
            if len(seeds) == 1:
                assert line["sd"] == ""
            else:
                assert float(line["sd"]) == pytest.approx(statistics.stdev(column), abs=1e-7)
            assert (line["seeds"], line["n"], line["noise"]) == (str(len(seeds)), str(N), "0.0")
            assert (line["protocol"], line["image_size"]) == ("paper", "64")


def test_csv_is_tidy(example):
    lines = (example[0] / "report" / "table1.csv").read_text().splitlines()
    assert lines[0] == "dataset,protocol,image_size,set_version,algorithm,loss,noise,domain,metric,mean,sd,seeds,n"
    assert len(lines) == 1 + 4 * 7  # nothing for rows that have no number
    assert {line.split(",")[3] for line in lines[1:]} == {"aaaa1111" * 4, "dddd2222"}


def test_terminal_and_file_say_the_same(example):
    runs, text = example
    written = (runs / "report" / "table1.md").read_text(encoding="utf-8")
    for part in written.split("\n\n"):
        assert part.strip() in text
    assert "N = 40 images, protocol paper, 64 px, set_version aaaa1111." in written
    assert "## Demo-C — demo data: shows function, not findings" in written and "## FERPlus-C\n" in written
    assert "upper bound" in written
    assert text.endswith(f"tables: {runs}/report\nfigures: {runs}/report/figures\n")


def test_missing_is_named_with_the_command_that_makes_it(example):
    runs, text = example
    missing = text[text.index("Missing:"):].splitlines()
    unevaluated = find(runs, "SCN", "maxent+mbls", 1)
    assert f"- {unevaluated}: not evaluated: `python evaluate.py {unevaluated}`" in missing
    train = "- not trained: `python train_{} --dataset ferplus --loss {} --seed {} --protocol paper --image-size 64{}`"
    assert train.format("SCN.py", "ce", 0, "") in missing
    assert train.format("SCN.py", "focal", 1, "") in missing
    assert train.format("baseline.py", "maxent+mbls", 0, " --noise 0.1") in missing
    assert sum(line.startswith("- ") for line in missing) == 4


def test_label_noise_has_its_own_table(example):
    runs, text = example
    noise = text[text.index("# Label noise in training"):]
    rows = table_rows(noise, "FERPlus-C")
    assert [row[1:4] for row in rows] == [[NAMES["ce"], "10%", "1"], [NAMES["maxent+mbls"], "10%", "0"]]
    assert rows[0][4:] == [f"{100 * value:.1f}" for value in slow_scores(find(runs, "baseline", "ce", noise=0.1))]
    assert rows[1][4:] == ["—"] * 4
    assert len((runs / "report" / "noise.csv").read_text().splitlines()) == 5


def test_floor_is_simulated_from_the_runs(example):
    runs, text = example
    clean, corrupted = [], []
    for loss in ("ce", "maxent+mbls"):
        folder = find(runs, "baseline", loss, 0, "demo") / "predictions" / "Demo-C"
        clean.append(metrics.ece_floor(metrics.softmax(np.load(folder / "clean.npy")).max(1), N))
        corrupted.append(np.mean([metrics.ece_floor(metrics.softmax(np.load(path)).max(1), N, repeats=50)
                                  for path in sorted(folder.glob("*/*.npy"))]))
    line = next(line for line in text.splitlines() if "set_version dddd2222" in line)
    words = line[line.index("ECE floor: "):].replace(",", "").rstrip(".").split()
    assert [words[3], words[5]] == [f"{100 * min(clean):.1f}", f"{100 * max(clean):.1f}"]
    assert float(words[7]) == pytest.approx(100 * min(corrupted), abs=1.5)  # five cells stand for all


def test_reliability_bins_pool_all_cells(example):
    runs, _ = example
    folder = find(runs, "baseline", "ce", 1)
    predictions = folder / "predictions" / "FERPlus-C"
    soft = np.load(runs.parent / "FERPlus-C" / "soft_labels.npy")
    scores = pd.read_csv(folder / "scores.csv").query("metric == 'ece'").set_index("corruption")["value"]
    for domain, labels in (("clean", None), ("pooled", soft)):
        count, confidence, accuracy = read_bins(predictions, np.load(predictions / "labels.npy"), labels)
        assert count.sum() == (N if domain == "clean" else 85 * N)
        assert np.abs(confidence - accuracy).sum() / count.sum() == pytest.approx(scores[domain])


def test_curves_by_severity(example):
    runs, _ = example
    scores = tidy(read_runs(runs)[0])
    curves = by_severity(scores[(scores["dataset"] == "ferplus")])
    assert set(curves) == {(script, loss) for script in ("baseline", "SCN") for loss in LOSSES}
    by_hand = pd.read_csv(find(runs, "baseline", "ce", 1) / "scores.csv").query("metric == 'ece'")
    third = by_hand[by_hand["severity"] == 3]["value"]
    assert len(third) == 17
    assert curves["baseline", "ce"]["ece"].shape == (2, 6)
    assert curves["baseline", "ce"]["ece"][1, 3] == pytest.approx(third.mean())
    assert curves["baseline", "ce"]["ece"][1, 0] == by_hand[by_hand["corruption"] == "clean"]["value"].item()


def test_figures_are_there_and_open(example):
    figures = sorted((example[0] / "report" / "figures").iterdir())
    kinds = [f"{kind}.{ending}" for kind in ("reliability", "severity") for ending in ("png", "svg")]
    slugs = ["demo_Demo-C_dddd2222_paper_64px_n40", "ferplus_FERPlus-C_aaaa1111_paper_64px_n40"]
    assert [path.name for path in figures] == [f"{slug}_{kind}" for slug in slugs for kind in kinds]
    for path in figures:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert image.size[0] in (990, 2070) and len(np.unique(np.asarray(image))) > 50
                assert not {"Software", "Date", "Creation Time"} & set(image.info)
        else:
            text = path.read_text(encoding="utf-8")
            assert text.rstrip().endswith("</svg>") and "<dc:date>" not in text and "Matplotlib" not in text


def test_same_bytes_again_whatever_the_users_style(example, tmp_path):
    for name in ("one", "two"):
        for seed_loss in ("ce", "maxent+mbls"):
            source = find(example[0], "baseline", seed_loss, 0, "demo")
            shutil.copytree(source, tmp_path / name / source.name)
    run_report(tmp_path / "one")
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other"}):
        run_report(tmp_path / "two")
    assert dict(matplotlib.rcParams) == before
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name / "report").rglob("*.*")}
                for name in ("one", "two"))
    assert len(one) == 6 and one == two


def texts_of(figure):
    """Every text that is drawn -> its box in pixels; fails where one leaves the figure or is too small to read."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(canvas.get_renderer())
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            assert inside, f"{text.get_text()!r} is cut off"
            assert text.get_fontsize() >= 7
            boxes[text] = box
    return boxes


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_figures_hold_any_number_of_algorithms_with_long_names(count):
    rng = np.random.default_rng(0)
    names = [f"{i}_an_algorithm_with_a_long_$name$_{i}" for i in range(count)]
    images = rng.integers(0, 50, (2, 15))
    keys = [(name, loss) for name in names for loss in LOSSES]
    bins = {(*key, domain): np.stack([images[0], images[0] * 0.7, images[0] * rng.random(15)])
            for key in keys for domain in DOMAINS}
    curves = {key: {metric: rng.random((2, 6)) for metric in ("accuracy", "ece")} for key in keys}
    bins.pop((names[0], "ce", "clean"))  # gaps are drawn as gaps
    curves[names[0], "ce"]["ece"][:, 3] = np.nan
    with matplotlib.style.context(["default", figures.STYLE]):
        title = f"Name, N = 4\n{DEMO}"
        for figure in (figures.draw_reliability(bins, title), figures.draw_severity(curves, title)):
            boxes = texts_of(figure)
            titles = [box for text, box in boxes.items() if text.get_text().endswith(("clean", "corrupted"))]
            assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])
            assert figure.get_figwidth() in (3.3, 6.9)


def test_readme_figures_are_of_the_demo_only(example, copy, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(report, "README_FIGURES", tmp_path / "figures")
    with pytest.raises(UserError, match="demo"):
        report.main(report.Args(copy, readme_figures=True))
    assert not (copy / "report").exists()
    for path in copy.glob("*/args.json"):
        if json.loads(path.read_text())["dataset"] != "demo":
            shutil.rmtree(path.parent)
    text = run_report(copy, readme_figures=True)
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["demo_reliability.png", "demo_severity.png"]
    assert not (copy / "report" / "figures").exists()
    assert f"figures: {tmp_path / 'figures'}" in text


@pytest.mark.parametrize("what", ["set_version", "protocol", "image_size", "n"])
def test_unlike_runs_are_never_averaged(copy, what):
    folder = find(copy, "baseline", "ce", 1)
    if what in ("set_version", "n"):
        scores = pd.read_csv(folder / "scores.csv")
        if what == "n":
            scores.loc[scores["metric"] == "n", "value"] = 20
        else:
            scores["set_version"] = "0000beef"
        scores.to_csv(folder / "scores.csv", index=False)
    else:
        args = json.loads((folder / "args.json").read_text())
        (folder / "args.json").write_text(json.dumps(args | {what: {"protocol": "released", "image_size": 224}[what]}))
    text = run_report(copy)
    assert text.count("## FERPlus-C") == 3  # two in table 1, one of label noise
    tables = [table_rows(f"## FERPlus-C{part}", "FERPlus-C") for part in text.split("## FERPlus-C")[1:]]
    seeds = [row[2] for rows in tables for row in rows if row[:2] == ["baseline", NAMES["ce"]] and len(row) == 7]
    assert sorted(seeds) == ["1", "1"]
    if what in ("set_version", "n"):
        assert f"{folder}: no scores on FERPlus-C aaaa1111 with N = 40: `python evaluate.py {folder}`" in text


def test_one_damaged_run_never_stops_the_report(copy):
    good = table_rows(run_report(copy), "FERPlus-C")
    broken_args, broken_scores = find(copy, "SCN", "focal"), find(copy, "SCN", "ce", 1)
    (broken_args / "args.json").write_text('{"script": "SCN", "seed": tr')
    (broken_scores / "scores.csv").write_text("set,set_version\nx")
    part = find(copy, "SCN", "maxent+mbls")
    scores = pd.read_csv(part / "scores.csv")
    scores[scores["corruption"] != "jpeg_compression"].to_csv(part / "scores.csv", index=False)
    text = run_report(copy)
    rows = table_rows(text, "FERPlus-C")
    assert rows[:2] == good[:2]
    assert rows[2] == ["SCN", NAMES["ce"], "0", *["—"] * 4]
    assert rows[3] == ["SCN", NAMES["maxent+mbls"], "1/0", *good[3][3:5], "—", "—"]
    assert len(rows) == 4
    assert f"{broken_args / 'args.json'} is damaged" in text
    assert f"{broken_scores}: scores.csv is damaged" in text
    assert f"{part}: 80 of 85 corrupted cells of FERPlus-C aaaa1111 scored: `python evaluate.py {part}`" in text


@pytest.mark.parametrize("change", [{"seed": "0"}, {"noise": None}, {"script": 3}, {"seed": True}])
def test_settings_of_the_wrong_kind_are_damage(tmp_path, change):
    folder = make_run(tmp_path, None, "SCN", "ce", 0, evaluated=False)
    args = json.loads((folder / "args.json").read_text())
    assert read_args(folder / "args.json") == args
    (folder / "args.json").write_text(json.dumps(args | change))
    with pytest.raises(ValueError, match=f"no usable '{next(iter(change))}'"):
        read_args(folder / "args.json")


@pytest.mark.parametrize("damage", ["set.json", "clean.npy", "snow/3.npy", "version"])
def test_damaged_predictions_are_named_and_the_tables_stay(example, copy, damage):
    folder = find(copy, "baseline", "ce", 0)
    predictions = own(folder) / "FERPlus-C"
    if damage == "version":
        info = json.loads((predictions / "set.json").read_text())
        (predictions / "set.json").write_text(json.dumps(info | {"set_version": "other"}))
    else:
        (predictions / damage).write_bytes(b"no")
    text = run_report(copy)
    assert f"{folder}: predictions on FERPlus-C aaaa1111 unusable (" in text
    assert table_rows(text, "FERPlus-C") == table_rows(example[1], "FERPlus-C")
    assert (example[0] / folder.name / "predictions" / "FERPlus-C" / "clean.npy").stat().st_size > 100


@pytest.mark.parametrize("damage", ["absent", "rebuilt", "shape"])
def test_without_fitting_soft_labels_only_that_diagram_is_left_out(copy, damage):
    for path in [path for link in copy.glob("*/predictions") for path in own(link.parent).glob("*/set.json")]:
        info = json.loads(path.read_text())
        moved = copy.parent / "moved" / path.parent.name
        if not moved.exists():
            shutil.copytree(info["folder"], moved)
        path.write_text(json.dumps(info | {"folder": str(moved)}))
    built = copy.parent / "moved" / "FERPlus-C"
    if damage == "absent":
        (built / "soft_labels.npy").unlink()
    elif damage == "rebuilt":
        (built / "manifest.json").write_text('{"set_version": "other"}')
    else:
        np.save(built / "soft_labels.npy", np.zeros((17, 5, N + 1, K), np.float32))
    text = run_report(copy)
    assert text.count("FERPlus-C aaaa1111: no reliability diagram of the corrupted images: ") == 1  # once, not per run
    assert "Demo-C dddd2222: no" not in text
    runs = read_runs(copy)[0]
    scores = tidy(runs)
    block = next(block for block in blocks_of(scores) if block.dataset == "ferplus")
    assert {domain for _, _, domain in examine(block, runs, scores).bins} == {"clean"}


def test_a_repeated_seed_counts_once_and_other_settings_are_told(copy):
    first, again = find(copy, "baseline", "ce", 0), copy / "zz" / "same"
    shutil.copytree(first, again)
    other = find(copy, "baseline", "ce", 1)
    args = json.loads((other / "args.json").read_text())
    (other / "args.json").write_text(json.dumps(args | {"epochs": 9, "workers": 7}))
    text = run_report(copy)
    assert table_rows(text, "FERPlus-C")[0][2] == "2"
    assert f"{again}: left out of FERPlus-C aaaa1111: the same settings and seed as {first}" in text
    assert f"other settings than {first}, though one row: {other} (epochs: 3 there, 9 now)" in text


def test_training_that_stopped_early_is_told(copy, capsys):
    run = find(copy, "baseline", "ce")
    (run / "metrics.csv").write_text("epoch\n0\n")
    run_report(copy)
    assert f"{run}: trained for 1 of 3 epochs: start it again" in (copy / "report/table1.md").read_text()


def test_text_of_others_cannot_break_a_table(copy):
    for path in copy.glob("*/args.json"):
        args = json.loads(path.read_text())
        if args["script"] == "SCN":
            path.write_text(json.dumps(args | {"script": "a|b\n<i>\x1b[31m"}))
    text = run_report(copy)
    rows = [line for line in text.splitlines() if "a\\|b" in line]
    assert len(rows) == 3 and all(line.count(" | ") == 6 and "\\<i>" in line for line in rows)
    assert "\x1b" not in text


def test_no_noise_runs_no_noise_table(copy):
    run_report(copy)
    assert (copy / "report" / "noise.md").exists()
    shutil.rmtree(find(copy, "baseline", "ce", 0, noise=0.1))
    assert "Label noise" not in run_report(copy)
    assert sorted(path.name for path in (copy / "report").iterdir()) == ["table1.csv", "table1.md"]


def test_nothing_evaluated_yet(tmp_path):
    make_run(tmp_path, None, "baseline", "ce", 0, evaluated=False)
    text = run_report(tmp_path)
    assert "No evaluated run yet." in text and "not evaluated: `python evaluate.py" in text


def test_only_the_report_folder_changes(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*") if path.is_file()}
    run_report(copy)
    after = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*") if path.is_file()}
    assert {path for path, when in after.items() if before.get(path) != when} == {
        copy / "report" / name for name in ("table1.md", "table1.csv", "noise.md", "noise.csv")}


def test_errors_for_people(tmp_path):
    with pytest.raises(UserError, match="no folder .*bash run.sh --demo"):
        report.main(report.Args(tmp_path / "none"))
    with pytest.raises(UserError, match="args.json.*bash run.sh --demo"):
        report.main(report.Args(tmp_path))
    (tmp_path / "args.json").write_text("[1]")
    with pytest.raises(UserError, match="damaged .it holds no JSON object"):
        report.main(report.Args(tmp_path))


def test_command_line_exits_2_without_runs_and_import_is_light(tmp_path):
    command = [sys.executable, "report.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: no run in ")
    code = "import report, sys; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
