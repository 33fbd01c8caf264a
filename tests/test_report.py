"""report.py against numbers worked out again from the prediction files, on a small folder of made-up runs."""
import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import metrics
import report
import reporting.report
from corruptions import CORRUPTIONS
from evaluation.scores import FIRST_RELEASE_COLUMNS
from evaluation.summary import DEMO
from reporting import plots, style
from reporting.predictions import read_bins, summarise_predictions
from reporting.rows import COMPARED_LOSSES
from reporting.runs import read_args, read_runs
from reporting.scores import DOMAINS, blocks_of, scores_as_table
from reporting.series import by_severity
from support.errors import UserError
from cases import mostly_slow

K, N = 4, 40
ROOT = Path(report.__file__).parent


def make_set(folder, version, identities=None):
    """A built set as far as report.py reads it. -> (folder, version, labels, soft labels)"""
    rng = np.random.default_rng(len(version))
    labels = rng.integers(0, K, N)
    weight = rng.random((17, 5, N, 1)) * 0.8
    soft = ((1 - weight) * np.eye(K)[labels] + weight / K).astype(np.float32)
    folder.mkdir(parents=True)
    np.save(folder / "soft_labels.npy", soft)
    dataset = folder.name.removesuffix("-C").replace("-", "").lower()
    manifest = {"set_version": version, "made_with": {"dataset": dataset, "options": {}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pd.DataFrame({"id": [f"i{i}" for i in range(N)], "identity": identities}).to_csv(folder / "labels.csv", index=False)
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
    scores = pd.DataFrame(lines, columns=FIRST_RELEASE_COLUMNS)
    means = scores[scores["corruption"] != "clean"].groupby("metric")["value"].mean()
    pooled = metrics.summary(np.concatenate(all_probs[1:]), np.tile(labels, 85), soft.reshape(-1, K))
    for name, values in (("mean", means), ("pooled", pooled)):
        more = [(set_folder.name, version, "softmax", name, "", metric, value) for metric, value in values.items()]
        scores = pd.concat([scores, pd.DataFrame(more, columns=FIRST_RELEASE_COLUMNS)])
    scores.to_csv(folder / "scores.csv", index=False)
    np.save(out / "labels.npy", labels)
    (out / "set.json").write_text(json.dumps({"set_version": version, "classes": list("abcd"), "limit": None,
                                              "folder": str(set_folder), "demo": set_folder.name == "Demo-C"}))


def run_report(runs, **options):
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setenv("FERC_DATA", "no data")  # the references do not read a data set that lies on this machine
        assert report.main(report.Args(runs, **{"resamples": 0} | options)) == 0
    return whole_text(runs, out.getvalue())


def whole_text(runs, printed):
    """tables.md, and behind it the printed lines that say where everything lies."""
    places = [line for line in printed.splitlines() if line.startswith(("tables: ", "figures: ", "page: "))]
    return (runs / "report" / "tables.md").read_text(encoding="utf-8") + "\n".join([*places, ""])


class NoFigures:
    """Stands in for `figures.Drawing`: draws nothing."""

    def __init__(self, *_):
        pass

    def begin(self, *_):
        pass

    def finish(self):
        return []


TABLE1 = "Table 1: clean and corrupted images"


def read_table(text, title=TABLE1, number=0):
    """{(section, row): {column: cell}} of the table below a title, the first or a later one; columns are named by all
    their headings."""
    part = f"\n{text}".split(f"\n# {title}\n")[1 + number].split("\n# ")[0]
    first, _, *lines = [[cell.strip() for cell in line[2:-2].split(" | ")]
                        for line in part.splitlines() if line.startswith("| ")]
    heads = [first] + [line for line in lines if not line[1]]
    names = [[next(cell for cell in reversed(level[2:i + 1]) if cell) for level in heads] for i in range(2, len(first))]
    section, table = None, {}
    for line in lines[len(heads) - 1:]:
        section = line[0] or section
        table[section, line[1]] = dict(zip(map(" ".join, names), line[2:], strict=True))
    return table


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting.report, "Drawing", NoFigures)  # figures: test_figures.py
        return runs, run_report(runs, resamples=100)


@pytest.fixture
def copy(example, tmp_path, monkeypatch):
    """A copy of the example to damage (predictions are links: see `own`), without what takes long."""
    for path in example[0].glob("run*"):
        shutil.copytree(path, tmp_path / "runs" / path.name, ignore=shutil.ignore_patterns("predictions"))
        if (path / "predictions").exists():
            (tmp_path / "runs" / path.name / "predictions").symlink_to(path / "predictions")
    monkeypatch.setattr(reporting.report, "Drawing", NoFigures)
    monkeypatch.setattr(metrics, "ece_floor", lambda *_, **__: 0.1)
    return tmp_path / "runs"


def own(folder):
    """Make the predictions of a copied run its own, to be changed."""
    link = folder / "predictions"
    original = link.readlink()
    link.unlink()
    shutil.copytree(original, link)
    return link


def set_of(folder):
    """The built set that a run's predictions are of."""
    (info,) = folder.glob("predictions/*/set.json")
    return json.loads(info.read_text())["folder"]


def strip(row):
    """Without the marks of the best."""
    return {name: cell.replace("*", "") for name, cell in row.items()}


def find(runs, script, loss, seed=0, dataset="ferplus", noise=0.0):
    wanted = {"script": script, "loss": loss, "seed": seed, "dataset": dataset, "noise": noise}
    paths = sorted(runs.glob("*/args.json"))
    return next(path.parent for path in paths if wanted.items() <= json.loads(path.read_text()).items())


def test_missing_is_named_with_the_command_that_makes_it(example):
    runs, text = example
    missing = text[text.index("Missing:"):].splitlines()
    unevaluated = find(runs, "SCN", "maxent+mbls", 1)
    built = runs.parent / "FERPlus-C"
    assert f"- {unevaluated}: not evaluated: `python evaluate.py {unevaluated} --set {built}`" in missing
    train = "- not trained: `python train_{} --dataset ferplus --loss {} --seed {} --protocol paper --image-size 64{}`"
    assert train.format("SCN.py", "ce", 0, "") in missing
    assert train.format("SCN.py", "focal", 1, "") in missing
    for seed in (0, 1):  # once focal was begun
        assert train.format("SCN.py", "maxent", seed, "") in missing
    for loss in COMPARED_LOSSES:  # in one table with FERPlus-C
        assert train.replace("ferplus", "demo").format("SCN.py", loss, 0, "") in missing
    assert train.format("baseline.py", "maxent+mbls", 0, " --noise 0.1") in missing
    assert sum(line.startswith("- ") for line in missing) == 8


@pytest.mark.slow
def test_floor_is_simulated_from_the_runs(example):
    runs, text = example
    clean, corrupted = [], []
    for loss in ("ce", "maxent+mbls"):
        folder = find(runs, "baseline", loss, 0, "demo") / "predictions" / "Demo-C"
        clean.append(metrics.ece_floor(metrics.softmax(np.load(folder / "clean.npy")).max(1), N))
        corrupted.append(np.mean([metrics.ece_floor(metrics.softmax(np.load(path)).max(1), N, repeats=50)
                                  for path in sorted(folder.glob("*/*.npy"))]))
    line = next(line for line in text.splitlines() if "set_version dddd2222" in line)
    assert DEMO in line
    words = line[line.index("ECE floor: "):].replace(",", "").replace(";", "").split()
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
    scores = scores_as_table(read_runs(runs)[0])
    curves = by_severity(scores[(scores["dataset"] == "ferplus")])
    assert set(curves) == {(script, loss) for script in ("baseline", "SCN") for loss in COMPARED_LOSSES}
    by_hand = pd.read_csv(find(runs, "baseline", "ce", 1) / "scores.csv").query("metric == 'ece'")
    third = by_hand[by_hand["severity"] == 3]["value"]
    assert len(third) == 17
    assert curves["baseline", "ce"]["ece"].shape == (2, 6)
    assert curves["baseline", "ce"]["ece"][1, 3] == pytest.approx(third.mean())
    assert curves["baseline", "ce"]["ece"][1, 0] == by_hand[by_hand["corruption"] == "clean"]["value"].item()


@pytest.mark.slow
def test_same_bytes_again_whatever_the_users_style(example, tmp_path):
    for name in ("one", "two"):
        for seed_loss in ("ce", "maxent+mbls"):
            source = find(example[0], "baseline", seed_loss, 0, "demo")
            shutil.copytree(source, tmp_path / name / source.name)
    run_report(tmp_path / "one", heatmap=("ece",), resamples=100)
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other"}):
        run_report(tmp_path / "two", heatmap=("ece",), resamples=100)
    assert dict(matplotlib.rcParams) == before
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name / "report").rglob("*.*")}
                for name in ("one", "two"))
    assert one == two and len([name for name in one if name.endswith((".png", ".pdf", ".svg"))]) == 6 * 3
    assert {"tables.md", "all.tex", "table4.csv", "ranking.md"} <= one.keys()


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


@pytest.mark.parametrize("count", mostly_slow([1, 2, 3, 6], fast=[]))
def test_figures_hold_any_number_of_algorithms_with_long_names(count):
    rng = np.random.default_rng(0)
    names = [f"{i}_an_algorithm_with_a_long_$name$_{i}" for i in range(count)]
    images = rng.integers(0, 50, (2, 15))
    keys = [(name, loss) for name in names for loss in COMPARED_LOSSES]
    bins = {(*key, domain): np.stack([images[0], images[0] * 0.7, images[0] * rng.random(15)])
            for key in keys for domain in DOMAINS}
    curves = {key: {metric: rng.random((2, 6)) for metric in ("accuracy", "ece")} for key in keys}
    bins.pop((names[0], "ce", "clean"))  # gaps are drawn as gaps
    curves[names[0], "ce"]["ece"][:, 3] = np.nan
    with matplotlib.style.context(["default", style.STYLE]):
        title = f"Name, N = 4\n{DEMO}"
        for figure in (plots.draw_reliability(bins, title), plots.draw_severity(curves, title)):
            boxes = texts_of(figure)
            titles = [box for text, box in boxes.items() if text.get_text().endswith(("clean", "corrupted"))]
            assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])
            assert figure.get_figwidth() in (3.3, 6.9)


@pytest.mark.slow
def test_readme_figures_are_of_the_demo_only(example, copy, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(reporting.report, "README_FIGURES", tmp_path / "figures")
    with pytest.raises(UserError, match="demo"):
        report.main(report.Args(copy, readme_figures=True))
    assert not (copy / "report").exists()
    for path in copy.glob("*/args.json"):
        if json.loads(path.read_text())["dataset"] != "demo":
            shutil.rmtree(path.parent)
    text = run_report(copy, readme_figures=True)
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["demo_heatmap_ece.png", "demo_reliability.png", "demo_severity.png"]  # no images in this set
    assert not (copy / "report" / "figures").exists()
    assert f"figures: {tmp_path / 'figures'}" in text


@pytest.mark.parametrize("what", mostly_slow(["set_version", "protocol", "image_size", "n"], fast=[1]))
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
    rows = [read_table(text, number=number)["clean", "baseline"] for number in range(text.count(f"# {TABLE1}"))]
    cells = [cell for row in rows for name, cell in row.items() if name.startswith("FER") and name.endswith(" CE F1")]
    assert len(cells) == 2 and all(0 < float(cell.strip("*").rstrip("¹")) < 100 for cell in cells)
    if what in ("set_version", "n"):
        command = f"`python evaluate.py {folder} --set {set_of(folder)}`"
        assert f"{folder}: no scores on FERPlus-C aaaa1111 with N = 40: {command}" in text


@pytest.mark.slow
def test_one_damaged_run_never_stops_the_report(copy):
    good = read_table(run_report(copy))
    broken_args, broken_scores = find(copy, "SCN", "focal"), find(copy, "SCN", "ce", 1)
    (broken_args / "args.json").write_text('{"script": "SCN", "seed": tr')
    (broken_scores / "scores.csv").write_text("set,set_version\nx")
    part = find(copy, "SCN", "maxent+mbls")
    scores = pd.read_csv(part / "scores.csv")
    scores[scores["corruption"] != "jpeg_compression"].to_csv(part / "scores.csv", index=False)
    text = run_report(copy)
    table = read_table(text)
    for section in DOMAINS:
        assert strip(table[section, "baseline"]) == strip(good[section, "baseline"])
        assert table[section, "SCN"]["FERPlus-C CE ECE"] == "—"
    assert table["clean", "SCN"]["FERPlus-C MaxEnt+MbLS ECE"] == good["clean", "SCN"]["FERPlus-C MaxEnt+MbLS ECE"]
    assert table["corrupted", "SCN"]["FERPlus-C MaxEnt+MbLS ECE"] == "—"
    assert "Table 3" not in text
    assert f"{broken_args / 'args.json'} is damaged" in text
    assert f"{broken_scores}: scores.csv is damaged" in text
    command = f"`python evaluate.py {part} --set {set_of(part)}`"
    assert f"{part}: 80 of 85 corrupted cells of FERPlus-C aaaa1111 scored: {command}" in text


@pytest.mark.parametrize("change", [{"seed": "0"}, {"noise": None}, {"script": 3}, {"seed": True}])
def test_settings_of_the_wrong_kind_are_damage(tmp_path, change):
    folder = make_run(tmp_path, None, "SCN", "ce", 0, evaluated=False)
    args = json.loads((folder / "args.json").read_text())
    assert read_args(folder / "args.json") == args
    (folder / "args.json").write_text(json.dumps(args | change))
    with pytest.raises(ValueError, match=f"no usable '{next(iter(change))}'"):
        read_args(folder / "args.json")


@pytest.mark.parametrize("noise", [float("nan"), -0.1, 1.5])
def test_a_noise_rate_that_is_none_is_damage(tmp_path, noise):
    folder = make_run(tmp_path, None, "SCN", "ce", 0, evaluated=False)
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | {"noise": noise}))
    with pytest.raises(ValueError, match="noise .* in it|it holds NaN"):
        read_args(folder / "args.json")


@pytest.mark.parametrize("damage", mostly_slow(["set.json", "clean.npy", "snow/3.npy", "version"], fast=[2]))
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
    assert read_table(text) == read_table(example[1])
    assert (example[0] / folder.name / "predictions" / "FERPlus-C" / "clean.npy").stat().st_size > 100


@pytest.mark.slow
def test_copies_of_a_set_with_other_pictures_are_noted(copy):
    """Their set version is the same; only the hash of all files tells them apart."""
    for folder, content in ((find(copy, "baseline", "ce", 0), "a" * 64), (find(copy, "baseline", "ce", 1), "b" * 64)):
        own(folder)
        (file,) = folder.glob("predictions/*/set.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"content": content}))
    text = run_report(copy)
    assert "copies of the set whose files differ" in text and "(content aaaaaaaa: 1 run; bbbbbbbb: 1 run)" in text


@pytest.mark.parametrize("damage", mostly_slow(["absent", "rebuilt", "shape"], fast=[2]))
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
    scores = scores_as_table(runs)
    block = next(block for block in blocks_of(scores) if block.dataset == "ferplus")
    assert {domain for _, _, domain in summarise_predictions(block, runs, scores).bins} == {"clean"}


@pytest.mark.slow
def test_a_repeated_seed_counts_once_and_other_settings_are_told(example, copy):
    first, again = find(copy, "baseline", "ce", 0), copy / "zz" / "same"
    shutil.copytree(first, again)
    other = find(copy, "baseline", "ce", 1)
    args = json.loads((other / "args.json").read_text())
    (other / "args.json").write_text(json.dumps(args | {"epochs": 9, "workers": 7}))
    text = run_report(copy)
    table = read_table(text)
    assert ("clean", "baseline, epochs 3") in table and ("clean", "baseline, epochs 9") in table
    assert " ± " not in table["clean", "baseline, epochs 9"]["FERPlus-C CE F1"]
    assert strip(table["clean", "SCN"]) == strip(read_table(example[1])["clean", "SCN"])
    assert f"{again}: left out of FERPlus-C aaaa1111: the same settings and seed as {first}" in text


@pytest.mark.slow
def test_training_that_stopped_early_is_told(copy, capsys):
    run = find(copy, "baseline", "ce")
    (run / "metrics.csv").write_text("epoch\n0\n")
    run_report(copy)
    assert f"{run}: trained for 1 of 3 epochs: start it again" in (copy / "report/tables.md").read_text()


def test_text_of_others_cannot_break_a_table(copy):
    for path in copy.glob("*/args.json"):
        args = json.loads(path.read_text())
        if args["script"] == "SCN":
            path.write_text(json.dumps(args | {"script": "a|b\n<i>\x1b[31m"}))
    text = run_report(copy)
    rows = [line for line in text.splitlines() if "| a\\|b" in line]
    assert len(rows) == 13  # clean and corrupted in tables 1, 4 and 5; the bootstrap; three rows in ranks and in errors
    assert all("\\<i>" in line for line in rows)
    assert {name: len(row) for name, row in read_table(text).items()} == dict.fromkeys(read_table(text), 8)
    assert "\x1b" not in text


@pytest.mark.slow
def test_tables_of_runs_that_are_gone_go_too(copy):
    run_report(copy, resamples=10)
    assert all((copy / "report" / f"table{n}.{kind}").exists() for n in (2, 3, 6) for kind in ("md", "csv", "tex"))
    shutil.rmtree(find(copy, "baseline", "ce", 0, noise=0.1))
    shutil.rmtree(find(copy, "SCN", "focal"))
    assert "label noise" not in run_report(copy, resamples=0)
    kept = ("table1", "table4", "table5", "ranking", "ranks", "errors")
    names = {f"{name}.{kind}" for name in kept for kind in ("md", "csv", "tex")}
    assert {path.name for path in (copy / "report").iterdir()} == names | {
        "all.tex", "bootstrap.csv", "means.csv", "tables.md"}


def test_nothing_evaluated_yet(tmp_path):
    make_run(tmp_path, None, "baseline", "ce", 0, evaluated=False)
    text = run_report(tmp_path)
    assert "No evaluated run yet." in text and "not evaluated: `python evaluate.py" in text


def test_only_the_report_folder_changes(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*") if path.is_file()}
    run_report(copy, resamples=10)
    after = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*") if path.is_file()}
    changed = {path for path, when in after.items() if before.get(path) != when}
    assert len(changed) == 33 and {path.parent for path in changed} == {copy / "report"}


def test_errors_for_people(tmp_path):
    with pytest.raises(UserError, match="no folder .*bash run.sh --demo"):
        report.main(report.Args(tmp_path / "none"))
    with pytest.raises(UserError, match="args.json.*bash run.sh --demo"):
        report.main(report.Args(tmp_path))
    (tmp_path / "args.json").write_text("[1]")
    with pytest.raises(UserError, match="damaged .it holds no JSON object"):
        report.main(report.Args(tmp_path))


@pytest.mark.slow
def test_command_line_exits_2_without_runs_and_import_is_light(tmp_path):
    command = [sys.executable, "report.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: no run in ")
    code = "import report, sys; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
