"""The report's tables against numbers worked out again from the prediction files, by other code than the project's."""
import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import metrics
import report
import reporting.report
from corruptions import CORRUPTIONS
from reporting import bootstrap, latex, published, terminal
from reporting.predictions import PredictionSummary, summarise_predictions
from reporting.gaps import find_gaps, wanted_rows
from reporting.rows import Block
from reporting.runs import read_runs
from reporting.scores import scores_as_table
from reporting.captions import DEMO, LEGEND
from reporting.cells import for_sets
from reporting.printing import spell_entry, spell_number
from reporting.tables import PAPER, Entry, Grid, GridLine, Section, mark_best, name_blocks, spell_loss
from support.errors import UserError
from test_report import TABLE1, K, N, NoFigures, find, make_run, make_set, read_table, run_report, strip

METRICS = {  # of scores.csv -> heading, how much of the unit a printed 1 is, digits
    "accuracy": ("accuracy", 100, 1), "macro_f1": ("F1", 100, 1), "ece": ("ECE", 100, 1), "cece": ("CECE", 100, 1),
    "cece_sum": ("CECE sum", 100, 1), "nll": ("NLL", 1, 2), "adaece": ("AdaECE", 100, 1)}
LOSSES = {"ce": "CE", "focal": "Focal", "maxent": "MaxEnt", "maxent+mbls": "MaxEnt+MbLS"}
RATE = 0.1993  # what label noise of 20 % came to
SETS = {"rafdb": "RAF-DB-C", "ferplus": "FERPlus-C"}
RUNS = [  # data set, script, loss, seeds, label noise
    ("rafdb", "baseline", "ce", (0, 1), 0), ("rafdb", "baseline", "maxent+mbls", (0, 1), 0),
    ("rafdb", "SCN", "ce", (0,), 0), ("rafdb", "SCN", "maxent+mbls", (0,), 0),
    ("rafdb", "baseline", "focal", (0,), 0), ("rafdb", "baseline", "maxent", (0,), 0),
    ("rafdb", "baseline", "ce", (0,), 0.2), ("rafdb", "baseline", "maxent+mbls", (0,), 0.2),
    ("rafdb", "SCN", "ce", (0,), 0.1),
    ("ferplus", "baseline", "ce", (0,), 0), ("ferplus", "baseline", "maxent+mbls", (0,), 0)]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A RAF-DB as the paper has it (224 px, six classes), images in clusters of one; FER+ with four images a person."""
    root = tmp_path_factory.mktemp("tables")
    sets = {"rafdb": make_set(root / "RAF-DB-C", "aaaa1111" * 4),
            "ferplus": make_set(root / "FERPlus-C", "bbbb2222" * 4, [f"p{i // 4}" for i in range(N)])}
    for dataset, script, loss, seeds, noise in RUNS:
        for seed in seeds:
            make_run(root / "runs", sets[dataset], script, loss, seed, dataset, noise, image_size=224,
                     classes=list("abcdef"), noise_realised=RATE if noise == 0.2 else 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting.report, "Drawing", NoFigures)
        return root / "runs", run_report(root / "runs", published=True, resamples=200)


@pytest.fixture
def copy(example, tmp_path, monkeypatch):
    """A copy to change, its predictions those of the example; without what is not about tables."""
    shutil.copytree(example[0], tmp_path / "runs", ignore=shutil.ignore_patterns("predictions", "report"))
    for path in example[0].glob("run*"):
        (tmp_path / "runs" / path.name / "predictions").symlink_to(path / "predictions")
    monkeypatch.setattr(reporting.report, "Drawing", NoFigures)
    monkeypatch.setattr(reporting.report, "summarise_predictions", lambda block, *_: PredictionSummary(
        {}, {"clean": [0.1]}, block.dataset == "demo", []))
    return tmp_path / "runs"


# --- by other code ---


def slow_ece(confidence, accuracy):
    bins = np.maximum(np.ceil(15 * confidence), 1)
    return sum(abs(np.sum(accuracy[bins == b]) - np.sum(confidence[bins == b])) for b in set(bins)) / len(bins)


def slow_adaece(confidence, accuracy):
    n = len(confidence)
    edges = np.interp([n * b / 15 for b in range(16)], range(n), sorted(confidence))
    total = 0.0
    for b in range(15):
        inside = (confidence > edges[b]) & (confidence <= edges[b + 1])
        if b == 0:
            inside |= confidence == edges[0]
        total += abs(np.sum(accuracy[inside]) - np.sum(confidence[inside])) / n
    return total


def read_cells(folder):
    """(labels, [(probs, target)] with the clean images first and then the 85 cells) from nothing but files."""
    (predictions,) = (folder / "predictions").iterdir()
    labels = np.load(predictions / "labels.npy")
    soft = np.load(Path(json.loads((predictions / "set.json").read_text())["folder"]) / "soft_labels.npy")

    def probs(path):
        logits = np.load(path).astype(float)
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    return labels, [(probs(predictions / "clean.npy"), np.eye(K)[labels])] + [
        (probs(predictions / corruption / f"{severity}.npy"), soft[c, severity - 1].astype(float))
        for c, corruption in enumerate(CORRUPTIONS) for severity in range(1, 6)]


def slow_f1(labels, guess):
    scores = []
    for k in range(K):
        hits, either = np.sum((labels == k) & (guess == k)), np.sum(labels == k) + np.sum(guess == k)
        scores.append(2 * hits / either if either else 0.0)
    return np.mean(scores)


def slow_both(labels, probs, target):
    guess = probs.argmax(1)
    return slow_f1(labels, guess), slow_ece(probs.max(1), target[range(len(guess)), guess])


def slow_scores(folder):
    """{(domain, metric): value}"""
    labels, cells = read_cells(folder)
    rows = []
    for probs, target in cells:
        guess, classwise = probs.argmax(1), [slow_ece(probs[:, k], target[:, k]) for k in range(K)]
        right = target[range(N), guess]
        rows.append({
            "accuracy": np.mean(guess == labels), "ece": slow_ece(probs.max(1), right), "cece": np.mean(classwise),
            "macro_f1": slow_f1(labels, guess),
            "cece_sum": sum(classwise), "adaece": slow_adaece(probs.max(1), right),
            "nll": -np.mean([np.dot(t, np.log(p)) for p, t in zip(probs, target, strict=True)])})
    guess = cells[0][0].argmax(1)
    theirs = f1_score(labels, guess, average="macro", labels=range(K), zero_division=0)
    assert rows[0]["macro_f1"] == pytest.approx(theirs)
    return {("clean", metric): value for metric, value in rows[0].items()} | {
        ("corrupted", metric): np.mean([row[metric] for row in rows[1:]]) for metric in METRICS}


@pytest.fixture(scope="module")
def truth(example):
    """{run of RUNS: [slow_scores of its seeds]}"""
    return {run: [slow_scores(find(example[0], run[1], run[2], seed, run[0], run[4])) for seed in run[3]]
            for run in RUNS}


def printed(values, metric, most):
    _, scale, digits = METRICS[metric]
    text = f"{scale * np.mean(values):.{digits}f}"
    if len(values) > 1:
        return f"{text} ± {scale * np.std(values, ddof=1):.{digits}f}"
    return text + ("¹" if most > 1 else "")


# --- the paper's tables ---

NOISY = [run for run in RUNS if run[4]]
PLAIN = [run for run in RUNS if not run[4] and run[2] in ("ce", "maxent+mbls")]
ABLATED = [run for run in RUNS if run[1] == "baseline" and run[0] == "rafdb" and not run[4]]
WANTED = {"table1": (PLAIN, ("macro_f1", "ece"), ("clean", "corrupted")), "table2": (NOISY, ("accuracy", "ece"), (
    "corrupted",)), "table3": (ABLATED, ("ece",), ("corrupted",)), "table4": (PLAIN, ("cece", "cece_sum"), (
        "clean", "corrupted")), "table5": (PLAIN, ("nll", "adaece"), ("clean", "corrupted")), "table6": (
            NOISY, ("accuracy", "ece"), ("clean",))}
HEADING = {0.1: "label noise 10 % (realised: 0.0 %)", 0.2: "label noise 20 % (realised: 19.9 %)"}


@pytest.mark.parametrize("name", WANTED)
def test_every_number_of_every_table(example, truth, name):
    runs, text = example
    wanted, names, domains = WANTED[name]
    table = read_table(text, PAPER[name].title)
    lines = list(csv.DictReader((runs / "report" / f"{name}.csv").open(encoding="utf-8")))
    most = max(len(run[3]) for run in wanted)
    seen = set()
    for run in wanted:
        dataset, script, loss, seeds, noise = run
        for domain in domains:
            for metric in names:
                values = [scores[domain, metric] for scores in truth[run]]
                row, column = (HEADING[noise] if noise else domain, script), (
                    f"{SETS[dataset]} {LOSSES[loss]} {METRICS[metric][0]}")
                if name == "table3":
                    row, column = (SETS[dataset], LOSSES[loss]), script
                assert table[row][column].replace("*", "") == printed(values, metric, most)
                seen.add((row, column))
                keys = {"dataset": dataset, "protocol": "paper", "image_size": "224", "set": SETS[dataset],
                        "algorithm": script, "loss": loss, "noise": str(float(noise)), "domain": domain,
                        "metric": metric, "seeds": str(len(seeds)), "n": str(N)}
                (line,) = [line for line in lines if keys.items() <= line.items()]
                assert float(line["mean"]) == pytest.approx(np.mean(values), abs=1e-7)
                assert line["sd"] == "" if len(seeds) == 1 else float(line["sd"]) == pytest.approx(
                    np.std(values, ddof=1), abs=1e-7)
                assert float(line["noise_realised"]) == (RATE if noise == 0.2 else 0)
    rest = {(row, column): cell for row, cells in table.items() for column, cell in cells.items()
            if (row, column) not in seen and row[1] not in ("published", "difference")}
    if name == "table3":
        assert len(rest) == 4 and {column for _, column in rest} == {"Overall"}
    else:
        assert set(rest.values()) <= {"—"}  # what is missing is to be seen
    assert len(lines) == len(wanted) * len(names) * len(domains)


@pytest.mark.parametrize("name", WANTED)
def test_the_best_of_a_column_is_bold(example, name):
    table = read_table(example[1], PAPER[name].title)
    rows = [row for row in table if row[1] not in ("published", "difference")]
    marked = 0
    for section in {section for section, _ in rows}:
        for column in table[rows[0]]:
            cells = [table[row][column] for row in rows if row[0] == section and table[row][column] != "—"]
            values = [float(re.match(r"\**([\d.]+)", cell)[1]) for cell in cells]
            best = (max if column.split()[-1] in ("F1", "accuracy") else min)(values, default=None)
            assert [cell.startswith("**") for cell in cells] == [value == best and len(cells) > 1 for value in values]
            marked += sum(cell.startswith("**") for cell in cells)
    assert marked > 0 or name in ("table2", "table6")  # one algorithm for each rate: nothing to compare


def test_best_marks_all_that_print_alike():
    rows = mark_best([("a", [Entry(12.34), Entry(5.0)]), ("b", [Entry(12.31), Entry()]), ("c", [Entry(9.0), Entry()])],
                     ["macro_f1", "ece"])
    assert [[cell.best for cell in cells] for _, cells in rows] == [[True, False], [True, False], [False, False]]


def test_overall_is_the_mean_of_the_row(copy):
    for loss in ("focal", "maxent"):
        run = json.loads((find(copy, "baseline", loss, 0, "rafdb") / "args.json").read_text())
        shutil.copytree(find(copy, "baseline", loss, 0, "rafdb"), copy / f"runX{loss}", symlinks=True)
        (copy / f"runX{loss}" / "args.json").write_text(json.dumps(run | {"script": "SCN"}))
    scores = copy / "runXfocal" / "scores.csv"
    frame = pd.read_csv(scores)
    frame.loc[(frame["metric"] == "ece") & (frame["corruption"] == "mean"), "value"] = 0.5
    frame.to_csv(scores, index=False)
    table = read_table(run_report(copy, resamples=0), PAPER["table3"].title)
    own = pd.read_csv(find(copy, "baseline", "focal", 0, "rafdb") / "scores.csv").set_index(["corruption", "metric"])
    focal = table["RAF-DB-C", "Focal"]
    assert float(focal["Overall"].strip("*")) == pytest.approx(50 * (own.loc[("mean", "ece"), "value"].item() + 0.5),
                                                               abs=0.051)
    shutil.rmtree(copy / "runXfocal")
    focal = read_table(run_report(copy, resamples=0), PAPER["table3"].title)["RAF-DB-C", "Focal"]
    assert focal["SCN"] == focal["Overall"] == "—"  # a mean over others would not be comparable


def test_captions_say_what_the_numbers_stand_for(example):
    text = (example[0] / "report" / "table1.md").read_text(encoding="utf-8")
    assert "Protocol paper, 224 px, 2 seeds (a raised number: that many seeds, where there are fewer)." in text
    assert for_sets(LEGEND, ()) in text
    assert f"- RAF-DB-C: trained on rafdb, N = {N} images, set_version aaaa1111; ECE floor: clean " in text
    tex = (example[0] / "report" / "table1.tex").read_text(encoding="utf-8")
    assert f"N = {N} images, set\\_version aaaa1111; ECE floor: clean " in tex and "2 seeds" in tex


def test_terminal_and_file_say_the_same(example):
    runs, text = example
    whole = (runs / "report" / "tables.md").read_text(encoding="utf-8")
    assert text.startswith(whole.rstrip("\n"))
    assert text.endswith(f"tables: {runs}/report\nfigures: {runs}/report/figures\n")
    for name in [*PAPER, "calibration"]:
        part = (runs / "report" / f"{name}.md").read_text(encoding="utf-8")
        assert part.split(for_sets(LEGEND, ()))[0].rstrip("\n") in whole


def test_terminal_is_narrow_and_has_every_number(copy, capsys):
    report.main(report.Args(copy, published=True, resamples=0))
    printed = capsys.readouterr().out.partition("Missing:")[0]
    assert all(len(line) <= 80 for line in printed.splitlines()) and "\x1b" not in printed
    whole = (copy / "report" / "tables.md").read_text(encoding="utf-8")
    for paper in PAPER.values():
        assert paper.title in printed
        for cells in read_table(whole, paper.title).values():
            for text in cells.values():
                assert text.replace("*", "") in printed.replace("*", "")
    assert printed.count("*") > 20 and "Not compared with the paper: it has no values for ferplus." in printed


@pytest.mark.parametrize("is_terminal, no_color, wanted", [(True, "", True), (True, "1", False), (False, "", False)])
def test_colour_only_where_a_terminal_has_it(monkeypatch, is_terminal, no_color, wanted):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: is_terminal, write=len, flush=int))
    assert reporting.report.is_coloured() == wanted


@pytest.mark.parametrize("colour", [True, False])
def test_a_grid_of_any_width_is_printed_in_80_columns(colour):
    name = "an algorithm with a name that is far longer than any line has room for, really"
    columns = [(f"set {block}", loss, metric) for block in range(3) for loss in ("CE", "a long loss", "MaxEnt+MbLS")
               for metric in ("F1", "ECE")]
    entries = [Entry(100.0, 10.0, 3, best=i % 3 == 0, published=50.0, notes="n") for i in range(len(columns))]
    rows = [GridLine(name, entries), GridLine("short", entries)]
    grid = Grid("table1", "Title", columns, [Section("clean", rows)], [], ["About", "more"], {})
    lines = terminal.render(grid, colour)
    assert all(terminal.visible_length(line) <= 80 for line in lines)
    shown = "\n".join(lines)
    assert shown.count("100.0 ± 10.0") == 2 * len(columns) and "a long loss" in shown and "[1] n" in shown
    assert ("\x1b" in shown) == colour and ("*" in shown) != colour


def test_means_csv_has_everything(example, truth):
    frame = pd.read_csv(example[0] / "report" / "means.csv")
    assert len(frame) == 2 * len(METRICS) * len(RUNS)
    row = frame.query("dataset == 'rafdb' and loss == 'focal' and metric == 'macro_f1' and domain == 'clean'")
    assert row["mean"].item() == pytest.approx(truth[RUNS[4]][0]["clean", "macro_f1"], abs=1e-7)


def test_sets_of_one_name_are_told_apart():
    one = Block("rafdb", "paper", 224, "X-C", "a" * 32, 40)
    names = name_blocks([one, one._replace(n=20), one._replace(dataset="ferplus"), one._replace(set="Y-C")])
    assert list(names.values()) == ["X-C, trained on rafdb, N = 40", "X-C, trained on rafdb, N = 20",
                                    "X-C, trained on ferplus, N = 40", "Y-C"]
    names = name_blocks([one, one._replace(set_version="b" * 32)])
    assert list(names.values()) == ["X-C, aaaaaaaa", "X-C, bbbbbbbb"]


@pytest.mark.parametrize("value, digits, sign, text", [
    (-0.04, 1, True, "0.0"), (0.05, 1, True, "+0.1"), (-3.14159, 2, False, "−3.14"), (float("nan"), 1, True, "—"),
    (0.0, 1, True, "0.0"), (12.0, 1, False, "12.0")])
def test_numbers_as_printed(value, digits, sign, text):
    assert spell_number(value, digits, sign) == text


def test_cells_as_printed():
    assert spell_entry(Entry(12.34, 0.56, 2)) == "12.3 ± 0.6" and spell_entry(Entry()) == "—"
    assert spell_entry(Entry(-1.25, interval=(-2.0, 0.449))) == "−1.2 [−2.0, +0.4]"


# --- what is missing ---


def test_every_gap_in_a_table_is_named_with_its_command(example):
    runs, text = example
    missing = text[text.index("Missing:"):]
    train = "not trained: `python train_{}.py --dataset {} --loss {} --seed {} --protocol paper --image-size 224{}`"
    wanted = [("SCN", "ferplus", loss, 0, "") for loss in ("ce", "maxent+mbls")]  # begun on the other set
    wanted += [("SCN", "rafdb", loss, 1, "") for loss in ("ce", "maxent+mbls")]
    wanted += [("baseline", "rafdb", loss, 1, "") for loss in ("focal", "maxent")]
    wanted += [("SCN", "rafdb", "maxent+mbls", 0, " --noise 0.1")]
    for one in wanted:
        assert f"- {train.format(*one)}\n" in missing
    assert missing.count("\n- ") == len(wanted)
    gaps = sum(cell == "—" for name in WANTED for row, cells in read_table(text, PAPER[name].title).items()
               for cell in cells.values() if row[1] not in ("published", "difference"))
    assert gaps == 3 * 2 * 4 + 2 * 2  # tables 1, 4, 5: two domains of SCN on FER+; tables 2 and 6: two numbers each


def test_names_of_losses():
    names = {"ce": "CE", "maxent+mbls": "MaxEnt+MbLS", "maxent-aaai": "MaxEnt (aaai)", "soft-avuc": "soft-avuc",
             "maxent-gibbs+mbls": "MaxEnt (gibbs)+MbLS"}
    assert {loss: spell_loss(loss) for loss in names} == names


def test_label_noise_and_ablation_are_wanted_only_where_begun(example):
    runs = read_runs(example[0])[0]
    wanted = {(trained[0], *row[:3]) for trained, row in wanted_rows(runs)}
    assert {one for one in wanted if one[3]} == {
        ("rafdb", script, loss, noise) for script, noise in (("baseline", 0.2), ("SCN", 0.1))
        for loss in ("ce", "maxent+mbls")}
    assert {one for one in wanted if one[2] in ("focal", "maxent")} == {
        ("rafdb", "baseline", loss, 0.0) for loss in ("focal", "maxent")}
    other = [run for run in runs if run.row.loss not in ("focal", "maxent")]
    assert not any("focal" in str(note) for note in find_gaps(other, scores_as_table(other)))


# --- beside the paper ---


def test_published_values_are_all_there():
    values = published.read()
    assert len(values) == 680 + 60  # CECE stands beside the mean and beside the sum
    for key, value in {("table1", "rafdb", "clean", 0.0, "baseline", "ce", "macro_f1"): 72.6,
                       ("table2", "affwild", "corrupted", 0.1, "baseline", "maxent+mbls", "ece"): 8.85,
                       ("table4", "rafdb", "corrupted", 0.0, "SCN", "ce", "cece_sum"): 22.7,
                       ("table5", "rafdb", "corrupted", 0.0, "baseline", "ce", "nll"): 2.22,
                       ("table6", "affectnet", "clean", 0.1, "SCN", "ce", "ece"): 14.2}.items():
        assert values[key] == value
    rows = {loss: [value for key, value in values.items() if key[0] == "table3" and key[5] == loss] for loss in LOSSES}
    assert [f"{np.mean(row):.1f}" for row in rows.values()] == ["32.5", "24.0", "22.9", "21.4"]
    assert all(f"{np.mean(row):.1f}" in published.NOTES[1] for row in rows.values())


@pytest.mark.parametrize("name, section, column, metric, value", [
    ("table1", "clean", "RAF-DB-C CE F1", "macro_f1", 72.6), ("table1", "corrupted", "RAF-DB-C MaxEnt+MbLS ECE", "ece",
                                                              11.1),
    ("table5", "corrupted", "RAF-DB-C CE NLL", "nll", 2.22), ("table4", "clean", "RAF-DB-C MaxEnt+MbLS CECE sum",
                                                              "cece_sum", 8.54),
    ("table2", HEADING[0.2], "RAF-DB-C CE accuracy", "accuracy", 54.5)])
def test_published_beside_ours_with_the_difference(example, truth, name, section, column, metric, value):
    text = (example[0] / "report" / f"{name}.md").read_text(encoding="utf-8")
    table = text.split("\n| ")[1:]
    start = next(i for i, line in enumerate(table) if f"| {section} |".replace(" ", "") in f"|{line}".replace(" ", ""))
    start += next(i for i, line in enumerate(table[start:]) if "| baseline " in line)
    names = list(read_table(text, PAPER[name].title)[section, "baseline"])
    below = [line.split(" | ")[2 + names.index(column)].strip(" |") for line in table[start + 1:start + 3]]
    _, scale, digits = METRICS[metric]
    loss = "ce" if " CE " in column else "maxent+mbls"
    noise, domain = (0.2, "corrupted") if name == "table2" else (0, section)
    (run,) = [run for run in RUNS if run[0] == "rafdb" and run[1] == "baseline" and run[2] == loss and run[4] == noise]
    apart = scale * np.mean([scores[domain, metric] for scores in truth[run]]) - value
    assert below == [f"{value:.{digits}f}", f"{apart:+.{digits}f}".replace("-", "−")]
    frame = pd.read_csv(example[0] / "report" / f"{name}.csv")
    line = frame.query(f"dataset == 'rafdb' and algorithm == 'baseline' and loss == '{loss}' and metric == '{metric}' "
                       f"and domain == '{domain}' and noise == {noise}")
    assert line["published"].item() == pytest.approx(value / scale)
    assert line["difference"].item() == pytest.approx(apart / scale, abs=1e-7)


def test_without_published_values_it_is_said_why(example, copy):
    assert "FERPlus-C: trained on ferplus" in example[1]
    assert "Not compared with the paper: it has no values for ferplus." in example[1]
    frame = pd.read_csv(example[0] / "report" / "table1.csv")
    assert frame[frame["dataset"] == "ferplus"]["published"].isna().all()
    assert frame[frame["dataset"] == "rafdb"]["published"].notna().all()
    for path in copy.glob("*/args.json"):
        args = json.loads(path.read_text())
        path.write_text(json.dumps(args | ({"classes": list("abcdefg")} if args["seed"] == 0 else {"image_size": 64})))
    text = run_report(copy, published=True, resamples=0)
    assert "its values are for 6 classes." in text and "its values are for 224 px." in text
    assert "published " not in {row[1] for row in read_table(text)}
    plain = run_report(copy, resamples=0)
    assert "difference" not in plain and published.NOTES[0] not in plain and published.NOTES[0] in text
    assert "published" not in (copy / "report" / "table1.csv").read_text()


# --- bootstrap ---


def drawn(version, clusters, resamples):
    return bootstrap.draw_weights(clusters, resamples, version).astype(int)


@pytest.mark.parametrize("dataset, kind, clusters, version", [
    ("rafdb", "image", N, "aaaa1111" * 4), ("ferplus", "identity", N // 4, "bbbb2222" * 4)])
def test_bootstrap_against_resampling_image_by_image(example, dataset, kind, clusters, version):
    runs, _ = example
    seeds = (0, 1) if dataset == "rafdb" else (0,)
    opened = {(loss, seed): read_cells(find(runs, "baseline", loss, seed, dataset))
              for loss in ("ce", "maxent+mbls") for seed in seeds}
    weights = drawn(version, clusters, 200)
    assert (weights[0] == 1).all() and (weights.sum(1) == clusters).all()

    def slow(weight, some):
        """macro-F1 and ECE, the mean over seeds and cells, of both losses -> (2 losses, 2 metrics)"""
        taken = np.repeat(np.arange(N), np.repeat(weight, N // clusters))
        return [np.mean([slow_both(labels[taken], probs[taken], target[taken])
                         for seed in seeds for labels, cells in [opened[loss, seed]]
                         for probs, target in cells[some]], axis=0) for loss in ("ce", "maxent+mbls")]

    folder, results = find(runs, "baseline", "ce", 0, dataset) / "predictions" / SETS[dataset], []
    soft = np.load(runs.parent / SETS[dataset] / "soft_labels.npy")
    found, cluster = bootstrap.clusters_of(runs.parent / SETS[dataset], N)
    assert found == kind and cluster.max() + 1 == clusters
    for loss in ("ce", "maxent+mbls"):
        results.append(np.mean([bootstrap.replicates(
            find(runs, "baseline", loss, seed, dataset) / "predictions" / SETS[dataset], opened[loss, seed][0], soft,
            cluster, weights.astype(float)) for seed in seeds], axis=0))
    assert folder.exists()
    for resample in (0, 1, 7):
        both = np.concatenate([slow(weights[resample], slice(1)), slow(weights[resample], slice(1, None))], axis=1)
        np.testing.assert_allclose([result[resample] for result in results], both, atol=1e-9)
    clean = np.array([slow(weight, slice(1)) for weight in weights])  # (resamples + 1, losses, metrics)
    frame = pd.read_csv(runs / "report" / "bootstrap.csv").query(
        f"dataset == '{dataset}' and algorithm == 'baseline' and noise == 0")
    assert frame[["seeds", "clusters", "cluster", "resamples"]].drop_duplicates().to_numpy().tolist() == [
        [len(seeds), clusters, kind, 200]]
    for i, metric in enumerate(("macro_f1", "ece")):
        line = frame.query(f"domain == 'clean' and metric == '{metric}'").iloc[0]
        apart = clean[:, 1, i] - clean[:, 0, i]
        assert [line["uncalibrated"], line["calibrated"]] == pytest.approx(list(clean[0, :, i]), abs=1e-9)
        assert line["difference"] == pytest.approx(apart[0], abs=1e-9)
        assert line["bias"] == pytest.approx(apart[1:].mean() - apart[0], abs=1e-9)
        low, high = np.quantile(apart[1:], [0.025, 0.975]) - line["bias"]
        assert [line["low"], line["high"]] == pytest.approx([low, high], abs=1e-9)


def test_bootstrap_table_prints_the_csv(example):
    runs, text = example
    frame, table = pd.read_csv(runs / "report" / "bootstrap.csv"), read_table(text, bootstrap.TITLE)
    assert len(frame) == 4 * 4  # baseline on both sets, SCN, baseline with label noise; SCN's noise has no pair
    assert {row[0] for row in table} == {"RAF-DB-C", "RAF-DB-C, label noise 20 %", "FERPlus-C"}
    for line in frame.itertuples():
        section = line.set + (f", label noise {line.noise:.0%}".replace("%", " %") if line.noise else "")
        cell = table[section, line.algorithm][f"{line.domain} {'F1' if line.metric == 'macro_f1' else 'ECE'}"]
        texts = [spell_number(100 * value, 1, True) for value in (line.difference, line.low, line.high)]
        assert cell.strip("*¹") == f"{texts[0]} [{texts[1]}, {texts[2]}]"
        assert cell.startswith("**") == (line.low > 0 or line.high < 0)
        assert line.low <= line.difference <= line.high


def simulate(rng, n, sharpness):
    """Labels and the probabilities of models that see the same noise and differ in how sure they are."""
    labels = rng.integers(0, K, n)
    logits = np.eye(K)[labels] + 0.5 * rng.normal(size=(n, K))
    return labels, [metrics.softmax(one * logits) for one in sharpness]


def interval(labels, models, cluster, clusters, name, resamples=200):
    weight = bootstrap.draw_weights(clusters, resamples, name)
    labelled = weight @ bootstrap.sum_by_cluster(cluster, labels, clusters, K)
    return np.array(bootstrap.summarise(*(bootstrap.score_resamples(
        probs, labels, np.eye(K)[labels], cluster, weight, labelled) for probs in models)))


def test_intervals_hold_the_expected_difference_in_nine_of_ten_samples():
    rng, rows = np.random.default_rng(0), []
    for i in range(150):
        labels, models = simulate(rng, 200, (6, 2))
        shifted = [models[0], metrics.softmax(np.log(models[1]) + [0, 0, 0.8, 0])]  # so that F1 differs too
        rows.append(interval(labels, shifted, np.arange(200), 200, i))
    rows = np.array(rows)  # (samples, metrics, numbers)
    expected = rows[:, :, 2].mean(0)
    covered = ((rows[:, :, 3] <= expected) & (expected <= rows[:, :, 4])).mean(0)
    assert (np.abs(expected) > 0.01).all()
    assert (covered > 0.86).all() and (covered < 0.99).all()


def test_copies_of_an_image_in_one_cluster_add_nothing():
    labels, models = simulate(np.random.default_rng(1), 60, (6, 2))
    once = interval(labels, models, np.arange(60), 60, "x")
    four = interval(np.repeat(labels, 4), [np.repeat(one, 4, axis=0) for one in models], np.repeat(np.arange(60), 4),
                    60, "x")
    np.testing.assert_allclose(four, once, atol=1e-12)
    apart = interval(np.repeat(labels, 4), [np.repeat(one, 4, axis=0) for one in models], np.arange(240), 240, "x")
    assert apart[1, 4] - apart[1, 3] < 0.7 * (once[1, 4] - once[1, 3])  # ECE, copies taken for 240 images


def test_equal_runs_differ_by_nothing_at_all():
    labels, (one,) = simulate(np.random.default_rng(2), 50, (3,))
    assert (interval(labels, [one, one], np.arange(50), 50, "x")[:, 2:] == 0).all()


def test_no_resamples_no_bootstrap(example, copy):
    assert bootstrap.TITLE in example[1]
    run_report(copy, resamples=2)
    assert (copy / "report" / "calibration.tex").exists()
    text = run_report(copy, resamples=0)
    assert bootstrap.TITLE not in text and not (copy / "report" / "calibration.tex").exists()
    assert len((copy / "report" / "bootstrap.csv").read_text().splitlines()) == 1
    with pytest.raises(UserError, match="--resamples"):
        report.main(report.Args(copy, resamples=-1))


@pytest.mark.parametrize("damage", ["cell", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("no labels", "short labels", "no set"))])
def test_what_cannot_be_compared_is_named_and_the_rest_goes_on(example, copy, damage, monkeypatch):
    built = copy.parent / "sets" / "FERPlus-C"
    shutil.copytree(example[0].parent / "FERPlus-C", built)
    for loss in ("ce", "maxent+mbls"):
        folder = find(copy, "baseline", loss, 0, "ferplus") / "predictions"
        original = folder.readlink()
        folder.unlink()
        shutil.copytree(original, folder)
        info = json.loads((folder / "FERPlus-C" / "set.json").read_text())
        (folder / "FERPlus-C" / "set.json").write_text(json.dumps(info | {"folder": str(built)}))
    if damage == "no labels":
        (built / "labels.csv").unlink()
    elif damage == "short labels":
        (built / "labels.csv").write_text("id,identity\ni0,p0\n")
    elif damage == "no set":
        shutil.rmtree(built)
    else:
        np.save(folder / "FERPlus-C" / "snow" / "3.npy", np.zeros((N, K + 1), np.float32))
        # which names the run as well: once is enough
        monkeypatch.setattr(reporting.report, "summarise_predictions", summarise_predictions)
    text = run_report(copy, resamples=20)
    missing = text[text.index("Missing:"):]
    what = f"{folder.parent}: predictions on" if damage == "cell" else "FERPlus-C bbbb2222: not in the bootstrap: "
    assert missing.count(what) == 1
    assert set(pd.read_csv(copy / "report" / "bootstrap.csv")["dataset"]) == {"rafdb"}
    assert strip(read_table(text)["clean", "SCN"]) == strip(read_table(example[1])["clean", "SCN"])


# --- LaTeX ---


@pytest.mark.parametrize("text, tex", [
    ("set_version 5 %", r"set\_version 5 \%"),
    ("a&b#c$d^e~f{g}", r"a\&b\#c\$d\textasciicircum{}e\textasciitilde{}f\{g\}"),
    ("\\input{x}", r"\textbackslash{}input\{x\}"), ("a--b", "a-{}-b"), ("12.3 ± 0.4", r"12.3 $\pm$ 0.4"),
    ("−1.0 [−2.0, +1.0]", r"$-$1.0 {[}$-$2.0, +1.0{]}"), ("—", "---"), ("中é", "{[}U+4E2D{]}{[}U+00E9{]}"),
    ("a\nb\x1b", "a b ")])
def test_latex_escapes(text, tex):
    assert latex.escape(text) == tex


@given(st.text())
def test_whatever_a_file_holds_is_only_text_in_latex(text):
    tex = latex.escape(text)
    for known in ("\\textbackslash{}", "\\textasciicircum{}", "\\textasciitilde{}", "\\textless{}", "\\textgreater{}",
                  "\\textbar{}", "\\textquotedblright{}", "\\`{}", "-{}", "{[}", "{]}", "$\\pm$", "$-$",
                  "\\{", "\\}", "\\$", "\\&", "\\#", "\\_", "\\%"):
        tex = tex.replace(known, "")
    assert tex.isascii() and tex.isprintable() and not set(tex) & set("\\{}$&#_%^~")


def test_latex_tables_stand_alone_and_underline_the_best(example):
    runs, text = example
    for name in PAPER:
        tex = (runs / "report" / f"{name}.tex").read_text(encoding="utf-8")
        assert tex.startswith("% needs \\usepackage{booktabs,graphicx}\n\\begin{table}\n")
        assert tex.count("\\toprule") == tex.count("\\bottomrule") == tex.count("\\begin{tabular}") == 1
        bold = sum(cell.startswith("**") for cells in read_table(text, PAPER[name].title).values()
                   for cell in cells.values())
        assert tex.count("\\underline{") == bold and f"\\label{{tab:{name}}}" in tex
        rows = [line for line in tex.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
        columns = len(next(iter(read_table(text, PAPER[name].title).values())))
        assert rows and all(line.count(" & ") == columns for line in rows)
    assert "Table 1" not in tex


@pytest.mark.slow
def test_all_tex_compiles_whatever_the_names(copy):
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex; on Debian: apt install texlive-latex-recommended")
    nasty = "\\a_b%{$^~#&|<i>\"'`[x]--中é\nend"
    for path in copy.glob("*/args.json"):
        args = json.loads(path.read_text())
        if args["script"] == "SCN":
            path.write_text(json.dumps(args | {"script": nasty, "protocol": nasty if args["noise"] else "paper"}))
    run_report(copy, published=True, resamples=20)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=copy / "report", capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (copy / "report" / "all.pdf").stat().st_size > 10_000


def test_demo_is_labelled_in_every_table(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting.report, "Drawing", NoFigures)
    demo = make_set(tmp_path / "Demo-C", "dddd2222")
    for loss in ("ce", "maxent+mbls"):
        make_run(tmp_path / "runs", demo, "baseline", loss, 0, "demo")
    text = run_report(tmp_path / "runs", published=True, resamples=10)
    assert text.count(DEMO) == 5 and text.count("it has no values for demo.") == 3
    for path in (tmp_path / "runs" / "report").glob("[tc]*.tex"):
        assert DEMO in path.read_text()
    assert [TABLE1 in text, "Table 2" in text] == [True, False]
