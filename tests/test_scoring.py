"""What scoring promises whatever happened to the run's folder: nothing silently wrong, nothing lost, no traceback."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evaluate
import make_fer_c
import metrics
import reporting.runs
from building import plan
from building.built_set import open_built_set
from corruptions import CELLS
from evaluation import inference, predictions, scores, scoring, sources
from evaluation.cards import read_card
from evaluation.scoring_options import CardOptions, CheckOptions
from models.resnet import ResNet18
from support import cli, run_folder
from support.errors import DamagedFile, UserError
from support.files import write_rows
import fuzz_runs
from cases import mostly_slow
from conftest import SIZE
from scored_files import contents, rows_of

pytestmark = pytest.mark.usefixtures("small")
IMAGES = 4
ROOT = Path(__file__).parent.parent
SYNONYMS = {"Neutral": "no emotion", "Happy": "Happiness", "Sad": "sadness", "Surprise": "Surprised", "Fear": "fearful",
            "Disgust": "disgusted", "Anger": "Angry", "Contempt": "contemptuous"}


@pytest.fixture(scope="module")
def small_set(build_args, tmp_path_factory):
    """A set of a few images; tests only read it."""
    out = tmp_path_factory.mktemp("small set") / "Demo-C"
    make_fer_c.main(build_args(out=out, limit=IMAGES))
    return out


@pytest.fixture(scope="module")
def scored_once(small_set, small, tmp_path_factory):
    """A run with weights drawn from a seed, scored in float32; tests copy it."""
    run = new_run(tmp_path_factory.mktemp("runs") / "demo/baseline/ce/noise0/seed0", small_set)
    evaluate.main(evaluate.Args(run, set=(small_set,), machine=evaluate.Machine(workers=0)))
    return run


@pytest.fixture
def run(scored_once, tmp_path):
    return Path(shutil.copytree(scored_once, tmp_path / "seed0"))


@pytest.fixture
def predicted(monkeypatch):
    """The cells that are predicted, each once, in the order of their prediction."""
    cells, predict = [], inference.logits_of_blocks

    def watched(fabric, network, images, *more):
        for number, logits in predict(fabric, network, images, *more):
            cells.extend(cell for cell in images.blocks.cells if cell not in cells)
            yield number, logits

    monkeypatch.setattr(inference, "logits_of_blocks", watched)
    return cells


def new_run(run, built, **changes):
    run.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet18(8, SIZE)
    torch.save({"model": model.state_dict(), "epoch": 0, "scores": {}}, run / "best.pt")
    settings = {"script": "baseline", "dataset": "demo", "loss": "ce", "seed": 0, "noise": 0.0, "protocol": "paper",
                "image_size": SIZE, "classes": list(open_built_set(built).classes), "model": model.description,
                "epochs": 1, "runs": "my runs"}
    (run / "args.json").write_text(json.dumps(settings | changes))
    (run / "metrics.csv").write_text("epoch\n0\n")
    return run


def score(run, *sets, precision="32", **changes):
    machine = evaluate.Machine(precision=precision, workers=0)
    evaluate.main(evaluate.Args(run, set=sets, machine=machine, **changes))
    return rows_of(run)


def values(rows):
    """What was measured, without where and how, as text."""
    return {(row["corruption"], row["severity"], row["metric"]): row["value"] for row in rows}


def change_args(run, **changes):
    settings = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(settings | changes))


def refused(run, *sets, **changes):
    with pytest.raises(UserError) as caught:
        score(run, *sets, **changes)
    text = str(caught.value)
    assert "{" not in text and len(text.splitlines()) <= 2, text
    return text


# ---- a quick look

def test_a_look_prints_its_scores_and_changes_nothing(run, small_set, capsys, predicted):
    before = contents(run)
    score(run, small_set, limit=2)
    printed = capsys.readouterr().out
    assert contents(run) == before and len(predicted) == 1 + len(CELLS)
    assert "a look at 2 of 4 images, no benchmark score" in printed and "macro-F1" in printed
    assert max(map(len, printed.splitlines())) <= 100 and "scores:" not in printed


def test_a_look_at_a_new_run_leaves_no_file(small_set, tmp_path):
    run = new_run(tmp_path / "run", small_set)
    before = contents(run)
    evaluate.main(evaluate.Args(run, set=(small_set,), limit=1, machine=evaluate.Machine(workers=0)))
    assert contents(run) == before and not (run / "predictions").exists()


def test_a_limit_of_all_images_is_a_full_score(run, small_set):
    before = contents(run)
    score(run, small_set, limit=IMAGES)
    assert contents(run) == before
    with pytest.raises(UserError, match="--limit has to be at least 1"):
        score(run, small_set, limit=0)


# ---- the check and the card of a run

def test_a_card_that_would_not_be_written_is_refused(run, small_set, tmp_path):
    before, card = contents(run), tmp_path / "my.json"
    assert "--limit names fewer" in refused(run, small_set, limit=2, card=CardOptions(card))
    assert "--overlap, --licence: what is stated about a run goes to its card; add --card" in refused(
        run, small_set, card=CardOptions(overlap="none", licence="MIT"))
    assert contents(run) == before and not card.exists()
    score(run, small_set, limit=IMAGES, card=CardOptions(card, licence="MIT"))  # a limit of all images is no limit
    assert read_card(card).data["model"]["licence"] == "MIT"


def test_the_network_that_is_scored_is_the_one_that_is_checked(run, small_set, tmp_path, monkeypatch, capsys):
    """It is loaded once, and while this process holds the run."""
    loads, load = [], scoring.load_model

    def watched(trained):
        with pytest.raises(UserError, match="another process"), scoring.locked(run):
            pass
        loads.append(load(trained))
        return loads[-1]

    monkeypatch.setattr(scoring, "load_model", watched)
    monkeypatch.setattr(sources, "load_model", watched)
    card = tmp_path / "my.json"
    score(run, small_set, check=CheckOptions(True), card=CardOptions(card))
    model = read_card(card).data["model"]
    assert len(loads) == 1 and model["weights_sha256"] == loads[0].weights_sha256
    assert model["parameters"] == sum(parameter.numel() for parameter in loads[0].module.parameters())
    assert "check of the input: " in capsys.readouterr().out and read_card(card).data["check"]["images"] == IMAGES


# ---- precision

def test_float32_unless_asked_for_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    args = cli.parse(evaluate.Args, argv=["run"])
    assert args.machine.precision == "32"
    for word in ("auto", "16"):
        with pytest.raises(SystemExit):
            cli.parse(evaluate.Args, argv=["run", "--precision", word])


@pytest.mark.parametrize("state", ["as it starts", "asked for", "medium", "newer switches"])
def test_no_tensorfloat_while_scoring(state, run, small_set, monkeypatch):
    """In matrix products and in convolutions; afterwards the switches are as they were."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def switches():
        return [part.fp32_precision for part in (cuda, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul,
                                                 torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn)]

    first = (torch.get_float32_matmul_precision(), cudnn.allow_tf32, switches())
    seen, predict = [], inference.logits_of_blocks

    def watched(*given):
        seen.append((cuda.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision(), *switches()))
        return predict(*given)

    monkeypatch.setattr(inference, "logits_of_blocks", watched)
    try:
        if state == "asked for":
            cuda.allow_tf32 = cudnn.allow_tf32 = True
        if state == "medium":
            torch.set_float32_matmul_precision("medium")
        if state == "newer switches":
            cuda.fp32_precision = cudnn.conv.fp32_precision = "tf32"
        before = switches()
        score(run, small_set, limit=1)
        assert switches() == before
        assert seen[0] == (False, False, "highest", *["ieee"] * 6)
    finally:
        torch.set_float32_matmul_precision(first[0])
        cudnn.allow_tf32 = first[1]
        for part, value in zip((cuda, cudnn.conv, cudnn.rnn), first[2][:3], strict=True):
            part.fp32_precision = value


@pytest.mark.slow
def test_scores_in_another_precision_stand_beside_the_first(run, small_set, predicted):
    before, first = contents(run / "predictions"), rows_of(run)
    assert {row["precision"] for row in first} == {"32"}
    both = score(run, small_set, precision="bf16")
    assert len(predicted) == 1 + len(CELLS)
    assert both[:len(first)] == first and {row["precision"] for row in both[len(first):]} == {"bf16"}
    assert len(both) == 2 * len(first) and values(both[len(first):]) != values(first)
    after = contents(run / "predictions")
    assert {name: data for name, data in after.items() if name.startswith("Demo-C/")} == before
    note = json.loads((run / "predictions/Demo-C.bf16/set.json").read_text())
    assert note["precision"] == "bf16-mixed"
    del predicted[:]
    again = score(run, small_set)
    assert not predicted and sorted(map(str, again)) == sorted(map(str, both))


def test_a_set_whose_name_is_that_of_a_precision_is_refused(run, small_set, tmp_path):
    (tmp_path / "Demo-C.bf16").symlink_to(small_set)
    shutil.copytree(small_set, tmp_path / "other.bf16", ignore=shutil.ignore_patterns("images"))
    assert "rename the set's folder" in refused(run, tmp_path / "other.bf16")


def test_many_ties_are_said(run, small_set):
    state = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    for name in ("classifier.weight", "classifier.bias"):
        state["model"][name].zero_()
    torch.save(state, run / "best.pt")
    assert {row["notes"] for row in score(run, small_set)} == {
        "100.0 % of predictions tie, the class listed first counts"}


# ---- scores.csv

def test_columns(run):
    rows = rows_of(run)
    assert list(rows[0]) == ["set", "set_version", "method", "corruption", "severity", "metric", "value", "precision",
                             "notes"]
    assert {row["notes"] for row in rows} == {""} and all(np.isfinite(float(row["value"])) for row in rows)
    scored_set = Path(json.loads((run / "predictions/Demo-C/set.json").read_text())["folder"])
    assert run_folder.is_scored(run, scored_set) and not run_folder.is_scored(run, scored_set, "bf16")


def test_scores_of_other_pictures_do_not_count(run, small_set, tmp_path):
    """A set that is built anew from other pictures keeps its version; its manifest has another content."""
    other = tmp_path / "new" / small_set.name
    other.mkdir(parents=True)
    manifest = json.loads((small_set / "manifest.json").read_text())
    for content, wanted in ((manifest["content"], True), ("0" * 64, False)):
        (other / "manifest.json").write_text(json.dumps(manifest | {"content": content}))
        assert run_folder.is_scored(run, other) == wanted


def test_scores_of_the_first_release_are_merged(run, small_set, tmp_path):
    """Seven columns: rows of other sets stay, without a precision; those of the same set are replaced by float32."""
    rows = rows_of(run)
    old = [{name: row[name] for name in list(row)[:7]} for row in rows]
    other = [row | {"set": "Other-C", "set_version": "abc"} for row in old]
    write_rows(run / "scores.csv", old + other)
    after = score(run, small_set)
    assert after[:len(other)] == [row | {"precision": "", "notes": ""} for row in other]
    assert after[len(other):] == rows


def test_an_older_file_gets_new_rows_without_predicting(run, small_set, predicted):
    """Before, there were no scores against hard labels, and no mean without three corruptions."""
    rows = rows_of(run)
    older = [row for row in rows
             if not row["metric"].endswith("_hard") and row["corruption"] != scores.MEAN_WITHOUT]
    assert len(older) < len(rows)
    write_rows(run / "scores.csv", older)
    assert run_folder.is_scored(run, small_set)
    read, problems = reporting.runs.read_scores(run / "scores.csv")
    assert len(read) == len(older) and not problems
    assert score(run, small_set) == rows and not predicted
    read, problems = reporting.runs.read_scores(run / "scores.csv")
    assert len(read) == len(rows) and not problems


@pytest.mark.slow
def test_scores_of_another_version_of_a_set_stay(run, small_set, build_args, tmp_path):
    first = rows_of(run)
    make_fer_c.main(build_args(out=tmp_path / "Demo-C", limit=2))
    both = score(run, tmp_path / "Demo-C")
    assert both[:len(first)] == first and len({row["set_version"] for row in both}) == 2


DAMAGED_SCORES = {
    "bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "nothing": lambda path: path.write_bytes(b""),
    "header only": lambda path: path.write_text(path.read_text().split("\n")[0] + "\n"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "nan": lambda path: path.write_text(path.read_text().replace(",n,4,", ",n,nan,", 1)),
    "nan as numpy wrote it": lambda path: path.write_text(path.read_text().replace(",n,4,", ",n,,", 1)),
    "a column less": lambda path: path.write_text(path.read_text().replace("method,", "", 1)),
    "a cell more": lambda path: path.write_text(path.read_text().replace(",n,4,", ",n,4,,,,", 1)),
    "twice": lambda path: path.write_text(path.read_text() + path.read_text().split("\n", 1)[1]),
    "quotes": lambda path: path.write_text('"' + path.read_text()),
    "zero bytes": lambda path: path.write_bytes(path.read_bytes()[:100] + b"\0\0" + path.read_bytes()[100:]),
    "folder": lambda path: (path.unlink(), path.mkdir(), (path / "mine.txt").write_text("notes")),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", mostly_slow(DAMAGED_SCORES, fast=[0, 4, 8, len(DAMAGED_SCORES) - 1]))
def test_a_damaged_scores_file_is_kept_and_written_anew(run, small_set, damage, capsys, predicted):
    path, first = run / "scores.csv", rows_of(run)
    DAMAGED_SCORES[damage](path)
    before = path.read_bytes() if path.is_file() else None
    (run / "scores.csv.damaged").write_text("an earlier one")
    assert score(run, small_set) == first and not predicted
    printed = capsys.readouterr().out
    assert f"{path} is " in printed and f"kept as {path}.damaged-2" in printed
    kept = run / "scores.csv.damaged-2"
    assert kept.read_bytes() == before if before is not None else kept.exists()
    assert (run / "scores.csv.damaged").read_text() == "an earlier one"


@pytest.mark.slow
def test_scores_of_earlier_weights_are_left_out(run, small_set, tmp_path, capsys):
    """A run that went on training: the rows of a set that is not scored again are of weights that are gone."""
    shutil.copytree(small_set, tmp_path / "Second-C")
    score(run, tmp_path / "Second-C")
    state = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    state["model"]["classifier.bias"] += 1
    torch.save(state, run / "best.pt")
    rows = score(run, small_set)
    assert {row["set"] for row in rows} == {"Demo-C"}
    assert "the scores of Second-C are of earlier weights of this run and are left out" in capsys.readouterr().out


def test_scores_are_written_after_each_set(run, small_set, tmp_path, monkeypatch):
    shutil.copytree(small_set, tmp_path / "Second-C")
    shutil.copytree(small_set, tmp_path / "Third-C")
    summary = metrics.summary

    def failing(*given, **more):
        if (run / "predictions/Third-C").exists():
            raise UserError("the third set fails")
        return summary(*given, **more)

    monkeypatch.setattr(metrics, "summary", failing)
    refused(run, tmp_path / "Second-C", tmp_path / "Third-C")
    assert {row["set"] for row in rows_of(run)} == {"Demo-C", "Second-C"}


# ---- classes, protocol, size

@pytest.mark.slow
def test_classes_of_another_order_are_matched_by_name(run, small_set, tmp_path, capsys):
    """The scores are those of the same network whose outputs stand in the set's order."""
    first, classes = rows_of(run), open_built_set(small_set).classes
    order = [3, 0, 7, 1, 2, 6, 5, 4]
    change_args(run, classes=[SYNONYMS[classes[k]] for k in order])
    state = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    for name in ("classifier.weight", "classifier.bias"):
        state["model"][name] = state["model"][name][order].clone()
    torch.save(state, run / "best.pt")
    before = np.load(run / "predictions/Demo-C/clean.npy")
    rows = score(run, small_set)
    assert {row["notes"] for row in rows} == {"classes reordered by name"}
    assert "classes reordered by name" in capsys.readouterr().out
    for key, value in values(first).items():
        assert float(values(rows)[key]) == pytest.approx(float(value), abs=1e-5), key
    np.testing.assert_allclose(np.load(run / "predictions/Demo-C/clean.npy"), before, atol=1e-5)  # in the set's order


def test_other_names_for_the_same_classes_are_no_difference(run, small_set, predicted):
    first = rows_of(run)
    change_args(run, classes=[SYNONYMS[name] for name in open_built_set(small_set).classes])
    assert score(run, small_set) == first and not predicted


@pytest.mark.slow
def test_predictions_in_another_order_of_classes_are_made_again(run, small_set, predicted):
    """Predictions of the first release under --force stand in the model's order, and its set.json does not say so."""
    note = run / "predictions/Demo-C/set.json"
    known = json.loads(note.read_text())
    note.write_text(json.dumps({key: value for key, value in known.items() if key not in ("order", "verified")}))
    change_args(run, classes=open_built_set(small_set).classes[::-1])
    score(run, small_set)
    assert len(predicted) == 1 + len(CELLS)


@pytest.mark.parametrize("force", [False, True])
def test_other_classes_are_refused_whatever_is_forced(run, small_set, force):
    classes = list(open_built_set(small_set).classes)
    change_args(run, classes=["calm", *classes[1:]])
    text = refused(run, small_set, force=force)
    assert "only the run has calm, only the set has neutral" in text and ", ".join(classes) in text
    change_args(run, classes=classes[:7])
    assert "only the run has none, only the set has contempt" in refused(run, small_set, force=force)
    change_args(run, classes=["Happiness", *classes[1:]])
    assert "two classes of one meaning" in refused(run, small_set, force=force)


def test_forced_scores_say_so(run, small_set, build_args, tmp_path):
    change_args(run, protocol="released", image_size=48)
    text = refused(run, small_set)
    assert "protocol released" in text and "--force" in text
    assert "make_fer_c.py --dataset demo --protocol released --image-size 48 --out" in text
    rows = score(run, small_set, force=True)
    assert {row["notes"] for row in rows} == {
        "forced: protocol released scored on a set of protocol paper; forced: image size 48, set 32"}


def test_a_network_that_cannot_take_the_sets_images(run, small_set, monkeypatch):
    def fail(*_):
        raise AssertionError("Input height (32) doesn't match model (224).")
    monkeypatch.setattr(ResNet18, "forward", fail)
    assert "cannot take images of 32 pixels (Input height" in refused(run, small_set)


# ---- args.json and the weights

@pytest.mark.parametrize("changes, message", [
    ({"classes": None}, "'classes' is not a list"), ({"classes": "Happy"}, "'classes' is not a list"),
    ({"classes": [1, 2, 3, 4, 5, 6, 7, 8]}, "not a list of different names"),
    ({"classes": ["Happy"] * 8}, "not a list of different names"),
    ({"protocol": 3}, "'protocol' is not text"), ({"image_size": "32"}, "'image_size' is not a whole number"),
    ({"image_size": True}, "'image_size' is not a whole number"), ({"image_size": 10**300}, "out of range"),
    ({"model": ["models.resnet.ResNet18"]}, "'model' is not an object"), ({"nll_batch": 0}, "out of range"),
    ({"nll_batch": 2.5}, "'nll_batch' is not a whole number"), ({"nll_batch": None}, "'nll_batch' is not a whole"),
    ({"model": {"class": "models.resnet.ResNet18", "arguments": {"num_classes": 5, "image_size": SIZE}}},
     "best.pt does not hold the weights of ResNet18"),
])
def test_senseless_settings_of_a_run(run, small_set, changes, message):
    before = contents(run / "predictions")
    change_args(run, **changes)
    with pytest.raises(DamagedFile, match=message):
        score(run, small_set)
    assert contents(run / "predictions") == before


@pytest.mark.parametrize("key", ["dataset", "protocol", "image_size", "classes", "model"])
def test_missing_settings_are_named(run, small_set, key):
    settings = json.loads((run / "args.json").read_text())
    del settings[key]
    (run / "args.json").write_text(json.dumps(settings))
    assert f"args.json is damaged (it lacks '{key}'); restore it, or train this run again" in refused(run, small_set)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', "[" * 100_000, "\0\1"])
def test_an_args_file_that_is_none(run, small_set, text):
    (run / "args.json").write_text(text)
    assert "args.json is damaged" in refused(run, small_set)


def test_an_unknown_data_set_needs_a_set(run):
    change_args(run, dataset="../../etc")
    assert "unknown data set '../../etc'" in refused(run)


def test_the_own_set_that_is_missing(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FERC_DATA", str(tmp_path))
    change_args(run, data=["test=16"], root="/some where")
    text = refused(run)
    assert "--set" in text and "make_fer_c.py --dataset demo --protocol paper --image-size 32" in text
    assert "--root '/some where' --data test=16 --out" in text


def test_missing_weights_name_the_command(run, small_set):
    (run / "best.pt").unlink()
    assert "best.pt was removed. Restore it, or train again with the command that trained it, and --fresh" in refused(
        run, small_set)
    change_args(run, differs={"epochs": 1, "calib": False, "precision": "32-true"}, calib=False, precision="32-true")
    assert "`python train_baseline.py --dataset demo --loss ce --seed 0 --noise 0.0 --no-calib --epochs 1 " \
           "--precision 32 --runs 'my runs' --fresh`" in refused(run, small_set)
    (run / "metrics.csv").unlink()
    assert "has not finished an epoch yet. Go on with `python train_baseline.py" in refused(run, small_set)


@pytest.mark.parametrize("damage", ["empty", "junk", "no field", "another network", "another type", "folder"])
def test_damaged_weights(run, small_set, damage):
    path, before = run / "best.pt", contents(run / "predictions")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage in ("empty", "junk"):
        path.write_bytes(b"junk" * (damage == "junk"))
    else:
        if damage == "no field":
            state = {"weights": state["model"]}
        elif damage == "another network":
            del state["model"]["classifier.bias"]
        else:
            state["model"]["classifier.bias"] = state["model"]["classifier.bias"].to(torch.int8)
        torch.save(state, path)
    text = refused(run, small_set)
    assert str(path) in text and "weights_only" not in text
    assert contents(run / "predictions") == before


def test_outputs_that_are_not_finite(run, small_set):
    state = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    state["model"]["classifier.bias"][3] = np.nan
    torch.save(state, run / "best.pt")
    assert "the network's outputs are not finite for 4 of 4 images (clean)" in refused(run, small_set)


def test_memory_that_does_not_suffice(run, small_set, monkeypatch):
    def fail(*_):
        raise error
        yield
    monkeypatch.setattr(inference, "logits_of_blocks", fail)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    assert "try --batch-size 64" in refused(run, small_set, limit=1)
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    assert "try --workers 0" in refused(run, small_set, limit=1)


# ---- images as they were built

def test_images_are_verified_as_they_are_read(run, small_set, tmp_path, predicted):
    changed = Path(shutil.copytree(small_set, tmp_path / "Demo-C"))
    victim, other = sorted(changed.glob("images/snow/3/*"))[:2]
    victim.write_bytes(other.read_bytes())
    shutil.rmtree(run / "predictions")
    assert victim.name in refused(run, changed)
    assert {row["notes"] for row in score(run, changed, verify=False)} == {"not verified"}
    assert victim.name in refused(run, changed)  # predictions of images that were not verified are made again
    assert {row["notes"] for row in score(run, small_set)} == {""}


@pytest.mark.slow
def test_verified_predictions_stay_verified(run, small_set, predicted):
    first = rows_of(run)
    assert score(run, small_set, verify=False) == first and not predicted
    (run / "predictions/Demo-C/snow/3.npy").unlink()
    assert {row["notes"] for row in score(run, small_set, verify=False)} == {"not verified"}
    assert predicted == [("snow", 3)]


# ---- damaged predictions

def objects(path):
    np.save(path, np.array([{"a": 1}] * IMAGES, object), allow_pickle=True)


def change_array(change):
    return lambda path: np.save(path, change(np.load(path)))


DAMAGED_ARRAYS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(np.random.default_rng(1).bytes(400)),
    "header": lambda path: path.write_bytes(path.read_bytes().replace(b"(4, 8)", b"(4e8,)")),
    "huge": lambda path: path.write_bytes(path.read_bytes().replace(b"(4, 8), }      ", b"(400000000, 8),}")),
    "shape": change_array(lambda array: array[:3]),
    "type": change_array(lambda array: array.astype(np.float16)),
    "nan": change_array(lambda array: np.where(array == array.max(), np.nan, array).astype(np.float32)),
    "objects": objects,
    "values": change_array(lambda array: array[::-1]),
    "archive": lambda path: np.savez(path.with_suffix(".npz"), 1) or path.with_suffix(".npz").replace(path),
    "folder": lambda path: (path.unlink(), path.mkdir(), (path / "mine").write_text("notes")),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.fixture(scope="module")
def scored_one_by_one(small_set, small, tmp_path_factory):
    """A run scored in batches of one image: a cell that is predicted again has the same batches, and so the same bytes
    on every processor."""
    run = new_run(tmp_path_factory.mktemp("runs") / "demo/baseline/ce/noise0/seed0", small_set)
    evaluate.main(evaluate.Args(run, set=(small_set,), machine=evaluate.Machine(workers=0), batch_size=1))
    return run


@pytest.fixture
def run_one_by_one(scored_one_by_one, tmp_path):
    return Path(shutil.copytree(scored_one_by_one, tmp_path / "seed0"))


@pytest.mark.parametrize("damage", mostly_slow(DAMAGED_ARRAYS, fast=[0, 8]))
def test_a_damaged_cell_is_named_and_predicted_again(run_one_by_one, small_set, damage, capsys, predicted):
    run = run_one_by_one
    first, before = rows_of(run), contents(run / "predictions")
    for name in ("clean.npy", "snow/3.npy"):
        DAMAGED_ARRAYS[damage](run / "predictions/Demo-C" / name)
    assert score(run, small_set, batch_size=1) == first and predicted == [None, ("snow", 3)]
    assert {name: data for name, data in contents(run / "predictions").items() if "damaged" not in name} == before
    printed = capsys.readouterr().out
    assert "Demo-C/clean.npy is " in printed and "Demo-C/snow/3.npy is " in printed
    if damage == "folder":
        assert (run / "predictions/Demo-C/clean.npy.damaged/mine").read_text() == "notes"


@pytest.mark.slow
def test_damaged_labels_are_written_again(run, small_set, capsys, predicted):
    first, path = rows_of(run), run / "predictions/Demo-C/labels.npy"
    for damage in (lambda: np.save(path, 7 - np.load(path)), lambda: path.write_bytes(b"x"), path.unlink):
        before = np.load(path)
        damage()
        assert score(run, small_set) == first and not predicted
        np.testing.assert_array_equal(np.load(path), before)
    assert capsys.readouterr().out.count("labels.npy is damaged") == 2


@pytest.mark.parametrize("text", mostly_slow(
    ["", "{", "[1]", '{"weights": NaN}', "\0", "[" * 100_000, None], fast=[1, 6]))
def test_predictions_of_unknown_origin_are_made_again(run, small_set, text, capsys, predicted):
    first, note = rows_of(run), run / "predictions/Demo-C/set.json"
    note.unlink()
    note.mkdir() if text is None else note.write_text(text)
    assert score(run, small_set) == first and len(predicted) == 1 + len(CELLS)
    assert f"{note} is " in capsys.readouterr().out


@pytest.mark.parametrize("key, value", mostly_slow(
    [("verified", "x"), ("verified", 1), ("digests", []), ("order", "x"), ("precision", ["32-true"]),
     ("weights", None), ("classes", 3)], fast=[0, 5]))
def test_predictions_with_a_senseless_note_are_made_again(run, small_set, key, value, predicted):
    first, note = rows_of(run), run / "predictions/Demo-C/set.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {key: value}))
    assert values(score(run, small_set)) == values(first) and len(predicted) == 1 + len(CELLS)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["predictions", "predictions/Demo-C", "predictions/Demo-C/snow"])
def test_a_file_where_a_folder_belongs_is_kept(run, small_set, place, capsys):
    first = rows_of(run)
    shutil.rmtree(run / place)
    (run / place).write_text("my notes")
    assert score(run, small_set) == first
    assert (run / f"{place}.damaged").read_text() == "my notes" and "is no folder: kept as" in capsys.readouterr().out


@pytest.mark.slow
def test_files_of_others_among_the_predictions_stay(run, small_set):
    folder = run / "predictions/Demo-C"
    for name in ("notes.txt", "snow/mine.npy"):
        (folder / name).write_text("mine")
    state = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    state["model"]["classifier.bias"] += 1
    torch.save(state, run / "best.pt")
    score(run, small_set)
    assert (folder / "notes.txt").read_text() == (folder / "snow/mine.npy").read_text() == "mine"


@pytest.mark.parametrize("at, predicted_again", mostly_slow([(1, 86), (5, 0), (89, 0), (90, 0)], fast=[0]))
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(run, small_set, at, predicted_again, monkeypatch,
                                                              predicted):
    """At the first file, at a cell, at set.json and at scores.csv; nothing half-written looks finished, and no stored
    block is predicted again."""
    first = rows_of(run)
    shutil.rmtree(run / "predictions")
    count = []

    def full(file):
        count.append(file)
        if len(count) == at:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        text = refused(run, small_set)
    assert text.startswith(str(run)) and "cannot be written (No space left on device)" in text
    assert not list(run.rglob("*.tmp")) and rows_of(run) == first
    assert (run / "predictions/Demo-C").exists() == (at == 90)
    del predicted[:]
    assert score(run, small_set) == first and len(predicted) == predicted_again
    assert [path.name for path in (run / "predictions").iterdir()] == ["Demo-C"]


@pytest.mark.slow
def test_damaged_runs_are_scored_rightly_or_refused(tmp_path):
    """A few of the cases of tests/fuzz_runs.py."""
    each = 12
    cases = each * len(fuzz_runs.FILES)
    counts = fuzz_runs.fuzz(tmp_path, cases, 0)
    past = sum(number for (_, outcome), number in counts.items() if outcome == "past header")
    assert past >= cases / 4
    for name in fuzz_runs.FILES:
        assert sum(counts[name, outcome] for outcome in ("unharmed", "repaired", "refused")) == each


# ---- by block of source images

@pytest.fixture
def unscored(scored_once, tmp_path):
    """The run without predictions and scores."""
    run = Path(shutil.copytree(scored_once, tmp_path / "unscored", ignore=shutil.ignore_patterns("predictions")))
    (run / "scores.csv").unlink()
    return run


@pytest.fixture
def one_image_a_block(monkeypatch):
    """Blocks of one source image, so that a set of four has four."""
    monkeypatch.setattr(predictions, "IMAGES_IN_A_BLOCK", 1)


class Stopped(Exception):
    """Stands for kill -9."""


def stop_after(monkeypatch, blocks, stop=Stopped):
    """Let scoring end when so many blocks are stored."""
    stored, write = [], inference.write_block

    def stopping(*given):
        write(*given)
        stored.append(given)
        if len(stored) == blocks:
            raise stop

    monkeypatch.setattr(inference, "write_block", stopping)


def block_names(run):
    return sorted(path.name for path in (run / "predictions/Demo-C.partial/blocks").iterdir())


def logits_of(run):
    return {name: data for name, data in contents(run / "predictions").items() if name.endswith(".npy")}


def test_a_block_is_as_large_as_the_builders_chunk_and_fits_into_memory():
    assert predictions.images_in_a_block(86, 224) == plan.CHUNK
    assert predictions.images_in_a_block(1, 64) == 86 * plan.CHUNK
    assert predictions.images_in_a_block(86, 1024) == 1
    for size in (16, 48, 224, 512, 4096):
        for cells in (1, 2, 40, 86):
            images = predictions.images_in_a_block(cells, size)
            assert images == 1 or 3 * size**2 * cells * images <= 64 * 2**20


@pytest.mark.parametrize("on_the_fly, workers", mostly_slow([(False, 0), (True, 2)], fast=[1]))
def test_logits_are_those_of_a_plain_loop(unscored, small_set, on_the_fly, workers):
    """One image at a time, in the usual order of its dimensions."""
    machine = evaluate.Machine(workers=workers)
    evaluate.main(evaluate.Args(unscored, set=(small_set,), on_the_fly=on_the_fly, batch_size=50, machine=machine))
    built = open_built_set(small_set)
    model = ResNet18(8, SIZE)
    model.load_state_dict(torch.load(unscored / "best.pt", weights_only=True)["model"])
    model.eval()
    for cell in (None, *CELLS):
        images = [built.pixels(i, *(cell or ())) for i in range(IMAGES)]
        with torch.no_grad():
            plain = np.concatenate([model(torch.from_numpy(image).permute(2, 0, 1).contiguous()[None]).numpy()
                                    for image in images])
        stored = np.load(predictions.predictions_file(unscored / "predictions/Demo-C", cell))
        np.testing.assert_allclose(stored, plain, atol=1e-5, rtol=0)
        decided = np.sort(plain)[:, -1] - np.sort(plain)[:, -2] > 2e-5
        np.testing.assert_array_equal(stored.argmax(1)[decided], plain.argmax(1)[decided])


def test_batches_are_nearly_equal_and_stay_in_their_block(unscored, small_set, one_image_a_block, monkeypatch):
    sizes, forward = [], ResNet18.forward
    monkeypatch.setattr(ResNet18, "forward", lambda self, image: (sizes.append(len(image)), forward(self, image))[1])
    score(unscored, small_set, batch_size=40)
    assert sizes == [1, *[29, 29, 28] * IMAGES]  # the first is the check of the image size


@pytest.mark.parametrize("stop", mostly_slow([Stopped, KeyboardInterrupt], fast=[0]))
def test_a_scoring_that_is_stopped_goes_on_by_block(run, unscored, small_set, one_image_a_block, predicted, monkeypatch,
                                                   stop):
    undisturbed, twin = unscored, Path(shutil.copytree(unscored, unscored.with_name("twin")))
    rows = score(undisturbed, small_set)
    with monkeypatch.context() as patch:
        stop_after(patch, 2, stop)
        with pytest.raises(stop):
            score(twin, small_set)
    assert [name.split(".")[0] for name in block_names(twin)] == ["0", "1"]
    assert not (twin / "predictions/Demo-C").exists() and not (twin / "scores.csv").exists()
    numbers, predict = [], inference.logits_of_blocks
    monkeypatch.setattr(inference, "logits_of_blocks", lambda fabric, network, images, own, *more: (
        numbers.extend(own), predict(fabric, network, images, own, *more))[1])
    assert score(twin, small_set) == rows and numbers == [2, 3]
    assert contents(twin) == contents(undisturbed)
    assert not (twin / "predictions/Demo-C.partial").exists()


@pytest.mark.parametrize("moment", mostly_slow(["rewrite_by_cell", "delete_blocks"], fast=[0]))
def test_a_scoring_that_is_stopped_while_it_finishes(unscored, run, small_set, moment, monkeypatch, predicted):
    """Before the first file of a cell is whole, and after the folder has its name."""
    function = getattr(predictions, moment)

    def stopping(blocks, *folder):
        if moment == "delete_blocks" and not (unscored / "predictions/Demo-C").exists():
            return function(blocks, *folder)  # before inference
        if moment == "rewrite_by_cell":
            function(blocks, *folder)
            (folder[0] / "snow/3.npy").write_bytes(b"half")
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(predictions, moment, stopping)
        with pytest.raises(Stopped):
            score(unscored, small_set)
    assert block_names(unscored) and (unscored / "predictions/Demo-C").exists() == (moment == "delete_blocks")
    del predicted[:]
    assert score(unscored, small_set) == rows_of(run) and not predicted
    assert contents(unscored / "predictions") == contents(run / "predictions")


@pytest.mark.slow
def test_a_missing_cell_that_is_stopped_goes_on_too(run_one_by_one, small_set, monkeypatch, predicted):
    """The folder holds the other cells; the files of the missing ones move there one by one."""
    run = run_one_by_one
    before, first = contents(run / "predictions"), rows_of(run)
    for name in ("snow/3.npy", "contrast/1.npy"):
        (run / "predictions/Demo-C" / name).unlink()
    replaced, replace = [], os.replace

    def stopping(source, target):
        replace(source, target)
        if Path(target).parent.name in ("snow", "contrast"):
            replaced.append(target)
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        with pytest.raises(Stopped):
            score(run, small_set, batch_size=1)
    assert len(replaced) == 1 and len(block_names(run)) == 1
    del predicted[:]
    assert score(run, small_set, batch_size=1) == first and not predicted
    assert contents(run / "predictions") == before


def change_note(run, **changes):
    note = run / "predictions/Demo-C.partial/set.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | changes))


def change_weights(run):
    state = torch.load(run / "best.pt", weights_only=True)
    state["model"]["classifier.bias"] += 1
    torch.save(state, run / "best.pt")


OTHER_IDENTITIES = {
    "weights": (change_weights, {}, "weights"),
    "set version": (lambda run: change_note(run, set_version="0" * 64), {}, "set version"),
    "order": (lambda run: change_note(run, order=[1, 0, 2, 3, 4, 5, 6, 7]), {}, "order of classes"),
    "batch size": (lambda run: None, {"batch_size": 7}, "options"),
    "unverified": (lambda run: change_note(run, verified=False), {}, "images that were not verified"),
    "cells": (lambda run: change_note(run, cells=["clean", "snow/3"]), {}, "other cells"),
    "no cells": (lambda run: change_note(run, cells=[]), {}, "size of blocks"),
    "hostile cells": (lambda run: change_note(run, cells=["../../best", {}]), {}, "size of blocks"),
    "block size": (lambda run: change_note(run, images=10**9), {}, "size of blocks"),
    "senseless": (lambda run: change_note(run, verified="yes"), {}, "an entry `verified` that makes no sense"),
}


@pytest.mark.parametrize("case", mostly_slow(OTHER_IDENTITIES, fast=[0, 7]))
def test_blocks_of_another_identity_are_thrown_away(unscored, small_set, one_image_a_block, case, monkeypatch, capsys):
    change, options, words = OTHER_IDENTITIES[case]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            score(unscored, small_set)
    change(unscored)
    twin = Path(shutil.copytree(unscored, unscored.with_name("twin"), ignore=shutil.ignore_patterns("predictions")))
    capsys.readouterr()
    score(unscored, small_set, **options)
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"{unscored / 'predictions/Demo-C.partial'} was begun with ") and words in line
    score(twin, small_set, **options)
    assert contents(unscored) == contents(twin)


def first_block(run):
    return min((run / "predictions/Demo-C.partial/blocks").iterdir())


DAMAGED_PARTIALS = {
    "a cut block": lambda run: first_block(run).write_bytes(first_block(run).read_bytes()[:-9]),
    "another block's values": lambda run: np.save(first_block(run), np.load(first_block(run))[:, ::-1]),
    "a folder": lambda run: (first_block(run).unlink(), first_block(run).with_name("0.0123456789abcdef.npy").mkdir()),
    "a pipe": lambda run: (first_block(run).unlink(),
                           os.mkfifo(first_block(run).with_name("0.0123456789abcdef.npy"))),
    "a block out of range": lambda run: first_block(run).rename(first_block(run).with_name("999.0123456789abcdef.npy")),
    "temporary files": lambda run: (run / "predictions/Demo-C.partial/blocks/.0.0123456789abcdef.npy.7.tmp"
                                    ).write_text("x"),
    "no note": lambda run: (run / "predictions/Demo-C.partial/set.json").unlink(),
    "a cut note": lambda run: (run / "predictions/Demo-C.partial/set.json").write_text("{"),
    "a file": lambda run: (shutil.rmtree(run / "predictions/Demo-C.partial"),
                           (run / "predictions/Demo-C.partial").write_text("mine")),
    "files where folders belong": lambda run: [(
        shutil.rmtree(path, ignore_errors=True), path.parent.mkdir(exist_ok=True), path.write_text("mine"))
        for path in (run / "predictions/Demo-C.partial/blocks", run / "predictions/Demo-C.partial/set/snow")],
}


@pytest.mark.parametrize("damage", mostly_slow(DAMAGED_PARTIALS, fast=[0, 9]))
def test_a_damaged_partial_folder_is_repaired_or_set_aside(unscored, small_set, one_image_a_block, damage, monkeypatch):
    """The predictions are those of an undisturbed scoring."""
    undisturbed = Path(shutil.copytree(unscored, unscored.with_name("twin")))
    score(undisturbed, small_set)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            score(unscored, small_set)
    DAMAGED_PARTIALS[damage](unscored)
    score(unscored, small_set)
    after = contents(unscored)
    kept = {name: data for name, data in after.items() if "damaged" in name}
    assert {name: data for name, data in after.items() if name not in kept} == contents(undisturbed)
    assert set(kept.values()) <= {b"mine"} and (b"mine" in kept.values()) == ("file" in damage and "temp" not in damage)


@pytest.mark.slow
def test_files_of_others_in_the_partial_folder_stay(unscored, small_set):
    folder = unscored / "predictions/Demo-C.partial"
    (folder / "blocks").mkdir(parents=True)
    for name in ("notes.txt", "blocks/mine.npy"):
        (folder / name).write_text("mine")
    score(unscored, small_set)
    assert contents(folder) == {"notes.txt": b"mine", "blocks/mine.npy": b"mine"}


@pytest.mark.slow
def test_a_full_disk_at_a_block_is_one_line(unscored, run, small_set, one_image_a_block, monkeypatch):
    written, write = [], predictions.write_whole

    def full(path, *more, **options):
        written.append(path)
        if path.parent.name == "blocks" and len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "write_whole", full)
        assert "cannot be written (No space left on device)" in refused(unscored, small_set)
    assert len(block_names(unscored)) == 1
    assert values(score(unscored, small_set)) == values(rows_of(run))


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path, monkeypatch):
    """At most IMAGES_REWRITTEN_AT_ONCE source images are in memory while blocks are rewritten by cell."""
    monkeypatch.setattr(predictions, "IMAGES_REWRITTEN_AT_ONCE", 6)
    cells, rng = (None, ("snow", 3), ("contrast", 1)), np.random.default_rng(0)
    blocks = predictions.Blocks(tmp_path / "x", tmp_path / "x.partial", cells, cells[1:], 21, 2, 5, ())
    logits = rng.normal(size=(21, 3, 5)).astype(np.float32)
    for number in reversed(blocks.numbers):
        predictions.write_block(blocks, number, logits[blocks.rows(number)])
    assert [len(part) for part in predictions.read_blocks(blocks)] == [6, 6, 6, 3]
    digests = predictions.rewrite_by_cell(blocks, tmp_path / "out")
    for place, cell in enumerate(cells[1:], 1):
        np.save(tmp_path / "as numpy writes it.npy", logits[:, place])
        written = predictions.predictions_file(tmp_path / "out", cell)
        assert written.read_bytes() == (tmp_path / "as numpy writes it.npy").read_bytes()
        assert digests[predictions.cell_name(cell)] == predictions.digest(logits[:, place])


def test_workers_share_memory_and_fit_into_it(small_set, monkeypatch, capsys, tmp_path):
    """Fewer where /dev/shm is small: a process that runs out of it would die without a message."""
    built = open_built_set(small_set)
    blocks = predictions.Blocks(tmp_path, tmp_path, (None, ("snow", 3)), (None,), IMAGES, 2, 8, (0, 1))
    images = inference.BlockImages(built, blocks, False)
    loader = torch.utils.data.DataLoader(images, batch_size=None, num_workers=1)
    for number, block in loader:
        assert block.is_shared()
        for place, i in enumerate(blocks.rows(number)):
            np.testing.assert_array_equal(block[place, 1], built.pixels(i, "snow", 3))
    needed = 3 * block.numel()
    monkeypatch.setattr(inference.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * needed + 1))
    assert inference.workers_that_fit(images, 2) == 2 and not capsys.readouterr().out
    assert inference.workers_that_fit(images, 5) == 2 and "room for 2 of 5 processes" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_scoring_ends_with_the_same_bytes(build_args, scored_once, tmp_path, start, whole):
    """kill -9 as soon as the first block is stored; the network is the real one."""
    built = tmp_path / "Demo-C"
    make_fer_c.main(build_args(out=built))
    first = new_run(tmp_path / "first", built)
    second = Path(shutil.copytree(first, tmp_path / "second"))
    command = [sys.executable, "evaluate.py", "--set", str(built), "--workers", "1", "--batch-size", "32"]
    options = dict(cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert start([*command, str(first)], **options).wait(300) == 0
    process = start([*command, str(second)], **options)
    while process.poll() is None and not list(second.glob("predictions/*.partial/blocks/[0-9]*")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (second / "predictions/Demo-C").exists() and block_names(second)
    assert start([*command, str(second)], **options).wait(300) == 0
    assert contents(second) == contents(first)


# ---- runs and sets that are not there

def test_a_folder_of_runs_names_them(run, small_set):
    text = refused(run.parent, small_set)
    assert "is no run folder, but it holds runs" in text and str(run) in text


def test_runs_of_other_settings_are_named(run, small_set):
    other = run.rename(run.with_name("seed0-1a2b3c4d"))
    change_args(other, differs={"epochs": 5, "backbone": "resnet50"})
    text = refused(run, small_set)
    assert f"{other} (epochs 5, backbone resnet50)" in text
    (run / "notes").mkdir(parents=True)
    assert f"{other} (epochs 5" in refused(run, small_set)


@pytest.mark.slow
def test_a_set_given_twice(run, small_set, tmp_path):
    (tmp_path / "link").symlink_to(small_set)
    assert "names one set twice" in refused(run, small_set, tmp_path / "link")
    shutil.copytree(small_set, tmp_path / "x/Demo-C")
    assert "two sets are called Demo-C" in refused(run, small_set, tmp_path / "x/Demo-C")


def test_a_set_that_is_a_file(run, small_set):
    assert "is a file; --set takes the folder" in refused(run, small_set / "manifest.json")


# ---- work of the first release

@pytest.mark.slow
def test_float32_predictions_of_the_first_release_are_used(run, small_set, predicted):
    first, note = rows_of(run), run / "predictions/Demo-C/set.json"
    known = json.loads(note.read_text())
    old = {key: known[key] for key in
           ("weights", "set_version", "content", "classes", "limit", "precision", "demo", "folder")}
    note.write_text(json.dumps(old))
    rows = score(run, small_set)
    assert not predicted and values(rows) == values(first)
    assert {row["notes"] for row in rows} == {"predictions of the first release: images not verified"}
    assert score(run, small_set) == rows


@pytest.mark.slow
def test_bf16_predictions_of_the_first_release_are_kept_apart(run, small_set, predicted):
    first, note = rows_of(run), run / "predictions/Demo-C/set.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"precision": "bf16-mixed"}))
    write_rows(run / "scores.csv", [{name: row[name] for name in list(row)[:7]} for row in first])
    rows = score(run, small_set)
    assert len(predicted) == 1 + len(CELLS) and (run / "predictions/Demo-C.bf16/clean.npy").exists()
    assert [row["precision"] for row in rows] == ["bf16"] * len(first) + ["32"] * len(first)
    assert rows[len(first):] == first


@pytest.mark.slow
def test_a_limited_score_of_the_first_release_is_made_whole(run, small_set, predicted):
    first, folder = rows_of(run), run / "predictions/Demo-C"
    (folder / "set.json").write_text(json.dumps(json.loads((folder / "set.json").read_text()) | {"limit": 2}))
    for path in folder.rglob("*.npy"):
        np.save(path, np.load(path)[:2])
    assert score(run, small_set) == first and len(predicted) == 1 + len(CELLS)


# ---- the release's batches

def test_nll_released_goes_by_the_batch_of_the_runs_script(run, small_set):
    change_args(run, nll_batch=3)
    value = {key: float(row["value"]) for row in score(run, small_set)
             for key in [(row["corruption"], row["severity"], row["metric"])]}
    logits = np.load(run / "predictions/Demo-C/clean.npy").astype(float)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.load(run / "predictions/Demo-C/labels.npy")
    losses = -np.log(probs[np.arange(IMAGES), labels])
    assert value["clean", "", "nll_released"] == pytest.approx((losses[:3].mean() + losses[3]) / 2)
    assert value["clean", "", "nll"] == pytest.approx(losses.mean())
