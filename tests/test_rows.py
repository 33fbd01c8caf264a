"""Which runs share a row of the report, which do not, and that one damaged run never stops it."""
import contextlib
import io
import json
import os
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest

import losses
import metrics
import report
import reporting.report
from benchmarks.report import make_run
from building.built_set import open_built_set
from reporting import bootstrap, figures
from reporting.rows import Row, variants
from reporting.runs import read_runs
from reporting.scores import scores_as_table
from reporting.settings import LOSS_CONSTANTS, loss_has_constant
from reporting.survey import read_survey
from support.errors import UserError
from training.options import LossOptions
from cases import copy_runs, mostly_slow
from test_report import read_table, whole_text


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(metrics, "ece_floor", lambda *_, **__: 0.1)


def run_report(runs, **options):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert report.main(report.Args(runs, **{"resamples": 0, "figures": "none"} | options)) == 0
    return out.getvalue() if options.get("brief") else whole_text(runs, out.getvalue())


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """Runs of two networks: an uncalibrated one with seeds 0 and 1, one of another backbone, their calibrated
    partners, and one calibrated with another margin."""
    runs, demo = tmp_path_factory.mktemp("rows") / "runs", open_built_set(built)
    for loss in ("ce", "maxent+mbls"):
        for seed in (0, 1):
            make_run(runs, demo, "baseline", loss, seed, backbone="resnet18")
        make_run(runs, demo, "baseline", loss, 0, backbone="mobilenetv3_small_100")
    make_run(runs, demo, "baseline", "maxent+mbls", 0, backbone="resnet18", margin=10.0)
    return runs


@pytest.fixture
def copy(made, tmp_path):
    return copy_runs(made, tmp_path / "runs")


def args_of(folder):
    return json.loads((folder / "args.json").read_text())


def change(folder, **values):
    (folder / "args.json").write_text(json.dumps(args_of(folder) | values))


def find(runs, **wanted):
    (found,) = [path.parent for path in runs.rglob("args.json") if wanted.items() <= args_of(path.parent).items()]
    return found


# --- rows

def test_backbones_are_no_seeds_of_each_other(made):
    text = run_report(made, resamples=20)
    table = read_table(text)
    assert {title for section, title in table if section == "clean"} == {
        "baseline, backbone resnet18", "baseline, backbone resnet18, margin 10.0",
        "baseline, backbone mobilenetv3_small_100"}
    row = table["clean", "baseline, backbone mobilenetv3_small_100"]
    assert all(" ± " not in cell and cell != "—" for cell in row.values())
    assert " ± " in table["clean", "baseline, backbone resnet18"]["Demo-C CE F1"]
    assert "left out" not in text.replace("references left out", "") and "same settings" not in text
    frame = pd.read_csv(made / "report" / "table1.csv", keep_default_na=False)
    assert set(frame["settings"]) == {"backbone resnet18", "backbone resnet18, margin 10.0",
                                      "backbone mobilenetv3_small_100"}
    paired = read_table(text, bootstrap.TITLE)
    assert {title for _, title in paired} == {title for _, title in table}


def test_a_pair_differs_in_the_loss_only(made):
    rows = {run.row for run in read_runs(made)[0]}
    pairs = variants(rows)
    assert len(pairs) == 3
    for variant, members in pairs.items():
        assert set(members) == {"ce", "maxent+mbls"}
        assert {row.settings for row in members.values()} == {variant.settings}
        assert members["ce"].constants == ""
        assert members["maxent+mbls"].constants == variant.constants


@pytest.mark.parametrize("name, value, words", mostly_slow([
    ("epochs", 9, "epochs 9"), ("weights", "none", "weights none"), ("augment", "basic", "augment basic"),
    ("targets", "fused", "targets fused"), ("precision", "bf16-mixed", "precision bf16"),
    ("lr_decay", 0.9, "lr decay 0.9"), ("skip_first_epoch", True, "skip first epoch yes"),
    ("data", ["classes=7"], "data classes=7"), ("data_sha256", "ab" * 32, "training data abababab")
], fast=[0, 4, 7, 8]))
def test_everything_that_changes_the_result_separates_rows(copy, name, value, words):
    for path in sorted(copy.rglob("args.json")):
        args = args_of(path.parent)
        usual = {"data_sha256": "00" * 32}.get(name)
        path.write_text(json.dumps(args | ({name: usual} if usual else {}) | {"backbone": "resnet18", "margin": 8.0}))
        if args["margin"] == 10 or args["backbone"] != "resnet18":
            shutil.rmtree(path.parent)
    one = find(copy, loss="ce", seed=1)
    recipe = args_of(one)["recipe"] | ({} if name == "data_sha256" else {name: args_of(one).get(name)})
    change(one, **{name: value, "recipe": recipe})
    rows = {run.folder: run.row for run in read_runs(copy)[0]}
    others = {row.settings for folder, row in rows.items() if folder != one}
    assert words in rows[one].settings and not any(words in settings for settings in others)


@pytest.mark.parametrize("name, value", mostly_slow(
    [("seed", 5), ("workers", 7), ("cache", "/x"), ("runs", "/y"), ("root", "/z")], fast=[0, 1]))
def test_what_does_not_change_the_result_separates_nothing(copy, name, value):
    before = {run.row for run in read_runs(copy)[0]}
    change(find(copy, loss="ce", seed=1), **{name: value})
    assert {run.row for run in read_runs(copy)[0]} == before


@pytest.mark.slow
def test_an_old_run_and_a_new_one_with_the_same_settings_share_a_row(copy):
    old = find(copy, loss="ce", seed=1)
    args = {name: value for name, value in args_of(old).items() if name not in ("recipe", "contents", "differs")}
    (old / "args.json").write_text(json.dumps(args))
    scores = pd.read_csv(old / "scores.csv")
    scores[scores.columns[:7]].to_csv(old / "scores.csv", index=False)
    assert " ± " in read_table(run_report(copy))["clean", "baseline, backbone resnet18"]["Demo-C CE F1"]


@pytest.mark.slow
def test_the_recipes_value_is_not_spelt_out(copy):
    for path in copy.rglob("args.json"):
        change(path.parent, recipe=args_of(path.parent)["recipe"] | {"backbone": "resnet18"})
    titles = {title for section, title in read_table(run_report(copy)) if section == "clean"}
    assert titles == {"baseline", "baseline, margin 10.0", "baseline, backbone mobilenetv3_small_100"}


def test_constants_that_a_loss_does_not_have_are_known(monkeypatch):
    words = {"margin": "margin", "mbls_weight": "weight", "mbls_reduction": "reduction", "gamma": "gamma",
             "maxent_constraint": "constraint", "maxent_prior": "prior", "detach_multiplier": "detach_multiplier"}
    assert words.keys() | {"maxent_multiplier"} == LOSS_CONSTANTS == set(vars(LossOptions()))
    for loss in losses.LOSSES:
        known = set(losses.options(loss))
        assert {name: loss_has_constant(loss, name) for name in words} == {name: word in known
                                                                      for name, word in words.items()}
    assert loss_has_constant("a loss of others", "gamma")


def test_missing_runs_are_named_with_every_option(copy):
    for path in copy.rglob("args.json"):
        change(path.parent, root="/data/my faces", runs="elsewhere/runs")
    small = find(copy, loss="maxent+mbls", backbone="mobilenetv3_small_100")
    shutil.rmtree(small)
    lines = [line for line in run_report(copy).splitlines() if "not trained" in line]
    (line,) = [line for line in lines if "mobilenetv3" in line and "maxent+mbls" in line and "--seed 0" in line]
    words = shlex.split(line.split("`")[1])
    for option, value in (("--backbone", "mobilenetv3_small_100"), ("--root", "/data/my faces"),
                          ("--runs", "elsewhere/runs"), ("--loss", "maxent+mbls")):
        assert words[words.index(option) + 1] == value
    assert "--margin" not in words
    (line,) = [line for line in lines if "--margin 10.0" in line and "--seed 1" in line]
    assert "--loss maxent+mbls" in line and "--backbone resnet18" in line


# --- precision and notes of scoring

@pytest.mark.slow
def test_bf16_scores_stand_apart(made, built, tmp_path):
    copy_runs(made, tmp_path / "runs")
    one = find(tmp_path / "runs", loss="ce", seed=1)
    scores = pd.read_csv(one / "scores.csv", dtype=str, keep_default_na=False)
    other = scores.assign(precision="bf16")
    pd.concat([scores, other]).to_csv(one / "scores.csv", index=False)
    shutil.copytree(one / "predictions" / built.name, one / "predictions" / f"{built.name}.bf16")
    info = one / "predictions" / f"{built.name}.bf16" / "set.json"
    info.write_text(info.read_text().replace("32-true", "bf16-mixed"))
    text = run_report(tmp_path / "runs")
    row = read_table(text)["clean", "baseline, backbone resnet18"]
    assert " ± " in row["Demo-C, scored in 32 CE F1"] and " ± " not in row["Demo-C, scored in bf16 CE F1"]
    assert "no scores on" not in text and "unusable" not in text
    frame = pd.read_csv(tmp_path / "runs" / "report" / "means.csv")
    assert set(frame["precision"]) == {"32", "bf16"}


@pytest.mark.slow
def test_notes_of_scoring_are_marked_and_said_below(copy):
    one = find(copy, loss="ce", backbone="mobilenetv3_small_100")
    scores = pd.read_csv(one / "scores.csv", dtype=str, keep_default_na=False)
    scores.assign(notes="forced: image size 48, set 224; not verified").to_csv(one / "scores.csv", index=False)
    text = run_report(copy, html=copy.parent / "page.html")
    row = read_table(text)["clean", "baseline, backbone mobilenetv3_small_100"]
    assert row["Demo-C CE F1"].endswith(" [1]") and "[1]" not in row["Demo-C MaxEnt+MbLS F1"]
    assert "- [1] forced: image size 48, set 224; not verified" in text
    frame = pd.read_csv(copy / "report" / "table1.csv", keep_default_na=False)
    assert set(frame["notes"]) == {"", "forced: image size 48, set 224; not verified"}
    assert "forced: image size 48" in (copy / "report" / "table1.tex").read_text()
    assert "forced: image size 48" in (copy.parent / "page.html").read_text()


# --- damage

def write_cells(folder, **columns):
    scores = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    scores.assign(**columns).to_csv(folder / "scores.csv", index=False)


DAMAGE = {
    "NaN for the number of images": lambda run: rewrite(run / "scores.csv", ",n,16", ",n,nan"),
    "NaN in one cell": lambda run: rewrite(run / "scores.csv", "clean,,ece,", "clean,,ece,nan#"),
    "every value NaN": lambda run: write_cells(run, value="nan"),
    "every value 1e308": lambda run: write_cells(run, value="1e308"),
    "severity infinite": lambda run: write_cells(run, severity="inf"),
    "a set above": lambda run: write_cells(run, set="../.."),
    "random bytes": lambda run: (run / "scores.csv").write_bytes(np.random.default_rng(0).bytes(999)),
    "scores.csv a folder": lambda run: ((run / "scores.csv").unlink(), (run / "scores.csv").mkdir()),
    "scores.csv a FIFO": lambda run: ((run / "scores.csv").unlink(), os.mkfifo(run / "scores.csv")),
    "args.json a folder": lambda run: ((run / "args.json").unlink(), (run / "args.json").mkdir()),
    "args.json a FIFO": lambda run: ((run / "args.json").unlink(), os.mkfifo(run / "args.json")),
    "args.json a loop": lambda run: ((run / "args.json").unlink(), (run / "args.json").symlink_to("args.json")),
    "args.json nested": lambda run: (run / "args.json").write_text("[" * 100_000),
    "settings nested": lambda run: (run / "args.json").write_text(
        json.dumps(args_of(run))[:-1] + ', "data": ' + "[" * 900 + "]" * 900 + "}"),
    "a huge seed": lambda run: change(run, seed=10**30),
    "a script that is no text": lambda run: change(run, script="\ud800"),
    "contents a list": lambda run: change(run, contents=[1]),
    "epochs a word": lambda run: change(run, epochs="three"),
    "metrics.csv bytes": lambda run: (run / "metrics.csv").write_bytes(b"\xff\x00\n"),
    "metrics.csv a folder": lambda run: ((run / "metrics.csv").unlink(), (run / "metrics.csv").mkdir()),
    "set.json a list": lambda run: set_json(run).write_text("[]"),
    "set.json without classes": lambda run: set_json(run).write_text('{"set_version": "x"}'),
    "set.json nested": lambda run: set_json(run).write_text("[" * 100_000),
    "logits NaN": lambda run: np.save(set_json(run).with_name("clean.npy"), np.full((16, 8), np.nan, np.float32)),
    "logits objects": lambda run: np.save(set_json(run).with_name("clean.npy"), np.array([{}]), allow_pickle=True),
    "logits a FIFO": lambda run: (set_json(run).with_name("clean.npy").unlink(),
                                  os.mkfifo(set_json(run).with_name("clean.npy"))),
    "labels out of range": lambda run: np.save(set_json(run).with_name("labels.npy"), np.full(16, 99)),
    "labels negative": lambda run: np.save(set_json(run).with_name("labels.npy"), np.full(16, -1)),
    "a header of terabytes": lambda run: set_json(run).with_name("clean.npy").write_bytes(
        set_json(run).with_name("clean.npy").read_bytes().replace(b"(16, 8)", b"(9999999999, 8)")),
}


def set_json(run):
    (path,) = run.glob("predictions/*/set.json")
    return path


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if "#" not in new else text.replace(old, new.replace("#", ""), 1))


FAST = ("args.json a FIFO",)


@pytest.mark.parametrize("damage", [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in DAMAGE])
def test_one_damaged_run_never_stops_report_or_page(copy, damage):
    run = find(copy, loss="ce", seed=1)
    DAMAGE[damage](run)
    text = run_report(copy, html=copy.parent / "page.html", resamples=5)
    assert read_table(text)["clean", "baseline, backbone mobilenetv3_small_100"]["Demo-C CE F1"] != "—"
    if damage not in ("epochs a word", "settings nested"):  # which its scores do not depend on
        assert str(run) in text.partition("Missing:")[2]
    assert (copy.parent / "page.html").stat().st_size > 100_000


@pytest.mark.parametrize("what", ["folder", "survey", "page"])
def test_a_fifo_is_refused(copy, what):
    fifo = copy.parent / ("fifo.html" if what == "page" else "fifo")
    os.mkfifo(fifo)
    options = {"folder": {"runs": fifo}, "survey": {"survey": fifo}, "page": {"html": fifo}}[what]
    with pytest.raises(UserError, match=str(fifo)):
        report.main(report.Args(**{"runs": copy} | options))
    assert not (copy / "report").exists()


def test_a_loop_of_links_and_a_fifo_beside_the_runs_change_nothing(copy):
    (copy / "again").symlink_to(copy)
    (copy / "loop").symlink_to("loop")
    os.mkfifo(copy / "fifo")
    assert "left out" not in run_report(copy).replace("references left out", "")


@pytest.mark.parametrize("votes, wanted", [("1e308,1e308,0", [0.5, 0.5, 0]), ("-0,1,1", [0, 0.5, 0.5]),
                                           ("5e-324,0,0", [1, 0, 0])])
def test_votes_of_any_size(tmp_path, votes, wanted):
    (tmp_path / "s.csv").write_text(f"id,corruption,severity,A,B,C\na,snow,1,{votes}\n")
    (label,) = read_survey(tmp_path / "s.csv").labels.values()
    assert label.tolist() == wanted and not np.signbit(label).any()


def test_where_nothing_can_be_written_is_said_before_the_work(copy, monkeypatch):
    (copy / "report").write_text("notes")
    monkeypatch.setattr(reporting.report, "summarise_predictions", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(UserError, match="report: no file can be written there"):
        report.main(report.Args(copy))
    assert (copy / "report").read_text() == "notes"


# --- figures on demand

@pytest.mark.slow
def test_figures_that_are_up_to_date_are_not_drawn_again(copy, monkeypatch):
    options = {"figures": "severity,figure6"}
    run_report(copy, **options)
    folder = copy / "report" / "figures"
    (folder / "my notes.txt").write_text("mine")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.*g")}
    assert len(before) == 4
    run_report(copy, **options)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.*g")} == before
    damaged = next(folder.glob("*/severity.png"))
    damaged.write_bytes(b"")
    run_report(copy, **options)
    assert damaged.stat().st_size > 1000
    rewrite(find(copy, loss="ce", seed=1) / "scores.csv", "clean,,ece,0.", "clean,,ece,0.9")
    run_report(copy, figures="none")
    assert {path.name.rpartition("_")[2] for path in folder.glob("*/*.*g")} == {"nll.png", "nll.svg"}
    for path in copy.rglob("scores.csv"):
        path.unlink()
    run_report(copy, figures="none")
    assert not list(folder.glob("*/*.*g")) and (folder / "my notes.txt").read_text() == "mine"


@pytest.mark.parametrize("asked", mostly_slow(["", "figures", "fog,severity", "paper,none"], fast=[0, 2]))
def test_figures_that_are_none_are_refused(copy, asked):
    with pytest.raises(UserError, match="--figures"):
        report.main(report.Args(copy, figures=asked))


def test_which_figures_are_asked_for():
    assert figures.is_asked("figure5_kse_f1", "paper") and not figures.is_asked("severity", "paper")
    assert figures.is_asked("classes_SCN", "reliability,classes") and not figures.is_asked("severity", "none")


# --- in brief

def test_brief_is_ten_narrow_lines(copy):
    text = run_report(copy, html=copy.parent / "page.html", brief=True)
    lines = text.splitlines()
    assert len(lines) <= 10
    assert all(len(line) <= 80 for line in lines if not line.startswith(("page", "tables", "next")))
    assert "demo data: shows function, not findings" in lines[0]
    assert any(line.startswith("page: ") for line in lines) and any(line.startswith("tables: ") for line in lines)
    assert lines[-1].startswith("next: ")
    rows = [line for line in lines if line.count(" -> ") == 4]
    assert len(rows) == 3 and len({line[:24] for line in rows}) == 3
    assert (copy / "report" / "tables.md").exists()


def test_ferc_runs_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("FERC_RUNS", str(tmp_path))
    assert report.Args().runs == tmp_path


def test_names_of_rows():
    row = Row("SCN", "focal", 0.0, "epochs 5", "gamma 2")
    assert (row.name, row.loss_name, row.all_settings) == ("SCN, epochs 5", "focal, gamma 2", "epochs 5, gamma 2")
    assert len(scores_as_table([])) == 0
