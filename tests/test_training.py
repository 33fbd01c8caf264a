"""Training and scoring end to end on small demo data: the same bytes after every interruption, clear refusals."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import evaluate
from datasets import kept_splits
from datasets.images import read_image
from compute import batches as compute_batches
import losses
import make_fer_c
import metrics
import train_baseline
from building.built_set import open_built_set
from corruptions import CORRUPTIONS
from corruptions import CELLS
from evaluation import inference
from evaluation.predictions import predictions_file
from evaluation.scores import SUMMARIES
from models import Normalize, checkpoints
from models.resnet import ResNet18
from support import cli
from support.errors import UserError
from training.options import LossOptions, TrainingOptions, check, recipe_filler
from training.run import Training, start_training
from training.state import Checkpoint, State
from conftest import MACHINE, ON_CUDA, OPTIONS, SIZE

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def train_args(demo_root, tmp_path):
    """Arguments of a short run: two epochs of four steps."""
    def build(**changes):
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, epochs=2, batch_size=32,
                      weights="none", runs=tmp_path / "runs", keep_last=True)
        return train_baseline.Args(TrainingOptions(**common | changes), machine=MACHINE)
    return build


def folder_of(args):
    """The only run of these arguments' loss, noise and seed."""
    options = args.options
    parent = options.runs / "demo/baseline" / (options.loss or "ce") / f"noise{100 * options.noise:g}"
    (folder,) = parent.glob(f"seed{options.seed}*")
    return folder


def train(args):
    train_baseline.main(args)
    return folder_of(args)


def weights(folder, name="last.pt"):
    return torch.load(folder / name, map_location="cpu", weights_only=True)["model"]


def assert_same_run(one, other):
    """Bit for bit: weights, optimizer, metrics."""
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(folder / name, map_location="cpu", weights_only=True) for folder in (one, other))
        assert a.keys() == b.keys()
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()


def command_line(demo_root, runs):
    """What the fixture `trained` does, as typed."""
    options = [part for option in OPTIONS for part in ("--data", option)]
    return ["train_baseline.py", "--dataset", "demo", "--root", str(demo_root), *options, "--image-size", str(SIZE),
            "--epochs", "2", "--batch-size", "32", "--precision", "32", "--workers", "0", "--runs", str(runs),
            "--keep-last", *(["--deterministic"] if MACHINE.deterministic else [])]


@pytest.fixture(scope="module")
def trained(demo_root, tmp_path_factory):
    """One finished run; tests only read it."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    options = TrainingOptions("demo", root=demo_root, data=OPTIONS, image_size=SIZE, epochs=2, batch_size=32,
                              weights="none", runs=runs, keep_last=True)
    return train(train_baseline.Args(options, machine=MACHINE))


# ---- a run

def test_a_training_has_only_declared_attributes(train_args):
    with start_training(train_args(epochs=1), "train_baseline.py", {}) as training:
        model = ResNet18(8, SIZE)
        model, optimizer = training.setup(model, torch.optim.Adam(model.parameters()))
        for epoch in training.epochs():
            for image, index in training.batches(epoch):
                training.end_step(training.criterion().terms(model(image), training.target(index)))
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))
    assert vars(training).keys() == {entry.name for entry in fields(Training)}
    assert vars(training.state).keys() == {entry.name for entry in fields(State)}


def test_last_pt_holds_what_a_checkpoint_declares(trained):
    state = torch.load(trained / "last.pt", map_location="cpu", weights_only=True)
    assert list(state) == [entry.name for entry in fields(Checkpoint)]
    assert list(state) == ["epoch", "step", "labels", "next_labels", "sums", "history", "best", "model", "optimizer"]


def test_a_run_leaves_its_folder(trained):
    names = set(os.listdir(trained))
    assert {"args.json", "environment.json", "metrics.csv", "timing.csv", "last.pt", "best.pt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    args = json.loads((trained / "args.json").read_text())
    assert (args["script"], args["dataset"], args["loss"], args["seed"]) == ("baseline", "demo", "ce", 0)
    assert args["model"] == {"class": "models.resnet.ResNet18", "arguments": {"num_classes": 8, "image_size": SIZE}}
    rows = list(csv.DictReader(open(trained / "metrics.csv")))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["train_ce"]) < float(rows[0]["train_ce"])
    best = torch.load(trained / "best.pt", map_location="cpu", weights_only=True)
    assert best["scores"]["macro_f1"] == max(float(row["val_macro_f1"]) for row in rows)


def test_finished_runs_are_skipped(trained, train_args, capsys):
    before = (trained / "last.pt").stat().st_mtime_ns
    train_baseline.main(train_args(runs=trained.parents[4]))
    assert "is finished" in capsys.readouterr().out
    assert (trained / "last.pt").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused_and_named(trained, train_args, tmp_path):
    """No command leads there any more: a folder that was renamed by hand."""
    other = train(train_args(lr=0.1, epochs=1))
    shutil.rmtree(other)
    shutil.copytree(trained, other)
    with pytest.raises(UserError, match="other settings \\(epochs: 2 there, 1 now; lr: 0.00025 there, 0.1 now\\)"):
        train_baseline.main(train_args(lr=0.1, epochs=1))


def test_a_multiplier_of_maxent_names_the_run(train_args):
    """However it is asked for: two multipliers in one folder would be two losses in one row of the tables."""
    def named(loss=None, multiplier="ferc", **more):
        args = train_args(loss=loss, **more)
        args.constants.maxent_multiplier = multiplier
        check(args)
        first = args.options.loss, args.constants.maxent_multiplier
        check(args)  # a script checks before torch is imported, and start_training again
        assert first == (args.options.loss, args.constants.maxent_multiplier)
        return first

    assert get_args(LossOptions.__annotations__["maxent_multiplier"]) == losses.MULTIPLIERS
    assert named(calib=True, multiplier="aaai") == ("maxent-aaai+mbls", "aaai")
    assert named("maxent", "gibbs") == named("maxent-gibbs") == named("maxent-gibbs", "gibbs") == (
        "maxent-gibbs", "gibbs")
    assert named("maxent+mbls") == ("maxent+mbls", "ferc") and named("mbls", "aaai") == ("mbls", "aaai")
    with pytest.raises(UserError, match="--loss maxent-gibbs does not go with --maxent-multiplier aaai"):
        named("maxent-gibbs", "aaai")
    with pytest.raises(UserError, match="unknown loss 'maxent-newton'; known: ce, focal"):
        named("maxent-newton")


def test_calib_is_the_calibrated_loss(train_args):
    folder = train(train_args(calib=True, epochs=1))
    args = json.loads((folder / "args.json").read_text())
    assert folder.parts[-3:-1] == ("maxent+mbls", "noise0") and args["loss"] == "maxent+mbls"
    row = next(csv.DictReader(open(folder / "metrics.csv")))
    assert [name for name in row if name.startswith("train_")] == ["train_focal", "train_maxent", "train_mbls"]
    with pytest.raises(UserError, match="does not go with --loss focal"):
        train_baseline.main(train_args(calib=True, loss="focal"))


def test_passes_are_recorded_for_batches_of_the_usual_size(train_args, monkeypatch):
    """The last image joins the batch before: of 125 images in batches of 31 the last batch has 32."""
    counts = []
    monkeypatch.setattr("training.run.set_up", lambda fabric, *others: counts.append(others[-1]) or
                        fabric.setup(*others[:2]))
    train(train_args(epochs=1, batch_size=31, data=("train=125", *OPTIONS[1:])))
    assert counts == [31]


def test_class_weights_reach_the_loss(train_args):
    with start_training(train_args(class_weights="balanced", noise=0.3), "train_baseline.py", {}) as run:
        labels = run.labels.cpu().numpy()
        counts = np.bincount(labels, minlength=8)
        np.testing.assert_allclose(run.criterion().class_weights.cpu(), 128 / (8 * counts), rtol=1e-6)
    with start_training(train_args(class_weights="released", noise=0.3, seed=1), "train_baseline.py", {}) as run:
        np.testing.assert_allclose(run.criterion().class_weights.cpu(), np.ones(8))  # of the clean labels, 16 a class


def test_label_noise_is_in_training_labels_only(train_args):
    with start_training(train_args(noise=0.25), "train_baseline.py", {}) as run:
        assert run.settings["noise_realised"] == 0.25
        assert run.folder.parts[-2:] == ("noise25", run.folder.name)
        assert (np.bincount(run.data.val_labels, minlength=8) == 2).all()
        exact = run.labels.clone()
    with start_training(train_args(noise=0.25, seed=1), "train_baseline.py", {}) as run:
        assert (run.labels != exact).any()  # the noise seed is the run's
    released = []
    for seed in (2, 3):
        with start_training(train_args(noise=0.25, noise_rule="released", seed=seed), "train_baseline.py", {}) as run:
            released.append(run.labels)
    assert (released[0] == released[1]).all()


def test_first_epoch_may_be_the_best_unless_released(train_args, monkeypatch):
    scores = iter([0.9, 0.1] * 2)
    monkeypatch.setattr(metrics, "summary", lambda *_, **__: {"macro_f1": next(scores), "ece": 0.0})
    for skip, epoch in ((False, 0), (True, 1)):
        folder = train(train_args(skip_first_epoch=skip, runs=train_args().options.runs / str(skip)))
        assert torch.load(folder / "best.pt", map_location="cpu", weights_only=True)["epoch"] == epoch


def test_settings_go_command_line_protocol_recipe_default():
    def parsed(line):
        fill_defaults = recipe_filler(train_baseline.RELEASED, train_baseline.RELEASED_ON)
        args = cli.parse(train_baseline.Args, fill_defaults, line.split())
        return args.options, args.constants

    run, loss = parsed("--dataset demo")
    assert (run.epochs, run.image_size, run.weights, run.class_weights) == (3, 64, "none", "balanced")
    assert loss.detach_multiplier
    run, loss = parsed("--dataset ferplus")
    assert (run.epochs, run.image_size, run.weights, run.class_weights) == (20, 224, "imagenet", "none")
    run, loss = parsed("--dataset demo --protocol released")
    assert (run.class_weights, run.noise_rule, run.skip_first_epoch) == ("released", "released", True)
    assert not loss.detach_multiplier and run.epochs == 3
    run, loss = parsed("--dataset demo --protocol released --class-weights none --epochs 7 --detach-multiplier "
                       "--data a=1")
    assert (run.class_weights, run.epochs, run.data) == ("none", 7, ("a=1",)) and loss.detach_multiplier


# ---- interruptions

def stop_at(monkeypatch, step, how):
    """Call `how(run)` after that many steps of the whole run."""
    end_step, count = Training.end_step, []

    def stopping(run, terms):
        count.append(1)
        if len(count) == step:
            how(run)
        end_step(run, terms)

    monkeypatch.setattr(Training, "end_step", stopping)


def interrupt(run):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [2, 4, 7])
def test_interrupted_run_ends_with_the_same_bytes(trained, train_args, monkeypatch, step):
    """Stopped by Ctrl-C inside the first epoch, at its end, inside the second."""
    args = train_args()
    with monkeypatch.context() as patch:
        stop_at(patch, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(args)
    state = torch.load(folder_of(args) / "last.pt", map_location="cpu", weights_only=True)
    assert (state["epoch"], state["step"]) == (divmod(step, 4) if step != 4 else (0, 4))
    assert_same_run(train(args), trained)


def test_killed_run_repeats_from_the_last_checkpoint(trained, train_args, monkeypatch):
    """Nothing is saved at the moment of death: here after epoch 1 and two steps."""
    class Killed(BaseException):
        pass

    def die(run):
        raise Killed

    args = train_args()
    with monkeypatch.context() as patch:
        stop_at(patch, 6, die)
        with pytest.raises(Killed):
            train(args)
    assert torch.load(folder_of(args) / "last.pt", map_location="cpu", weights_only=True)["step"] == 0
    assert_same_run(train(args), trained)


@pytest.mark.slow  # two starts of a process; the tests above kill inside one
def test_kill_9_of_the_process(train_args, demo_root, tmp_path, whole):
    command = [sys.executable, *command_line(demo_root, tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the sum's order depends on it
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < give_up and not list(tmp_path.rglob("last.pt")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (last,) = tmp_path.rglob("last.pt")
    assert_same_run(last.parent, train(train_args(runs=tmp_path / "whole")))


def test_data_that_changed_is_refused(train_args, monkeypatch):
    args = train_args()
    with monkeypatch.context() as patch:
        stop_at(patch, 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(args)
    whole = kept_splits.load_splits

    def shorter(name, root, splits, **options):
        train_split, val_split = whole(name, root, splits, **options)
        return [replace(train_split, frame=train_split.frame[:120]), val_split]

    monkeypatch.setattr(kept_splits, "load_splits", shorter)
    with pytest.raises(UserError, match=r"have changed since this run began \(128 training images then, 120 now\)"):
        train(args)


def test_cached_images_train_the_same(train_args, trained, tmp_path, monkeypatch):
    """`trained` has taken the cache that is made without asking."""
    args = train_args()
    args.machine = replace(MACHINE, no_cache=True)
    assert_same_run(train(args), trained)
    assert not (args.options.runs / "cache").exists()
    args.machine = replace(MACHINE, cache=tmp_path / "cache", cache_on="device")
    args.options.runs = tmp_path / "on the device"
    assert_same_run(train(args), trained)
    monkeypatch.setattr(compute_batches, "read_image", None)  # a second run decodes nothing
    args.machine = replace(MACHINE, cache=tmp_path / "cache")
    args.options.runs = tmp_path / "again"
    assert_same_run(train(args), trained)


def test_a_training_that_stops_leaves_no_thread(train_args, monkeypatch):
    def broken(training, terms):
        raise RuntimeError("in the middle of an epoch")

    monkeypatch.setattr(Training, "end_step", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        train(train_args())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_fresh_starts_over(train_args, trained):
    args = train_args(epochs=1)
    folder = train(args)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError):
        train(replace(args, options=replace(args.options, fresh=True, root=folder / "args.json")))
    assert (folder / "best.pt").exists()  # nothing is deleted before the new run can begin
    (folder / "best.pt").write_bytes(b"old")
    train(replace(args, options=replace(args.options, fresh=True)))
    assert weights(folder, "best.pt") and (folder / "notes.txt").read_text() == "mine"


def test_killed_between_checkpoint_and_table(train_args, trained):
    args = train_args()
    folder = train(args)
    (folder / "metrics.csv").unlink()
    (folder / ".last.pt.99.tmp").write_bytes(b"half")
    assert_same_run(train(args), trained)
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("written, repeated, best", [(0, 0.05, 0), (1, 0.9, 1)], ids=["before last.pt", "after it"])
def test_best_weights_are_of_an_epoch_that_counted(train_args, monkeypatch, written, repeated, best):
    """The run is killed among the files of its second epoch, which is the best one. Where the run repeats this epoch,
    it ends with another score, as it can on a GPU."""
    scores = iter([0.1, 0.9, repeated])
    monkeypatch.setattr(metrics, "summary", lambda *_, **__: {"macro_f1": next(scores), "ece": 0.0})
    write, first_epoch = checkpoints.write, 2
    paths = []

    def write_or_die(path, content):
        if len(paths) == first_epoch + written:
            raise SystemExit("killed")
        paths.append(path.name)
        write(path, content)

    with monkeypatch.context() as dying, pytest.raises(SystemExit, match="killed"):
        dying.setattr(checkpoints, "write", write_or_die)
        train(train_args())
    assert paths == ["last.pt", "best.pt", "last.pt"][:first_epoch + written]
    folder = train(train_args())
    stored = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
    rows = list(csv.DictReader(open(folder / "metrics.csv")))
    assert stored["epoch"] == best and len(rows) == 2
    assert stored["scores"]["macro_f1"] == float(rows[best]["val_macro_f1"]) == max(
        float(row["val_macro_f1"]) for row in rows)
    if best == 1:
        torch.testing.assert_close(stored["model"], weights(folder), rtol=0, atol=0)


def test_damaged_checkpoint_is_said(train_args):
    args = train_args(epochs=1)
    folder = train(args)
    (folder / "metrics.csv").unlink()
    for content in (b"", b"junk", (folder / "last.pt").read_bytes()[:2000]):
        (folder / "last.pt").write_bytes(content)
        with pytest.raises(UserError, match="last.pt is damaged.*--fresh"):
            train(args)


def test_a_term_may_be_absent_from_some_steps(train_args, tmp_path):
    with start_training(train_args(epochs=1), "train_baseline.py", {}) as run:
        model = ResNet18(8, SIZE)
        run.setup(model, torch.optim.Adam(model.parameters()))
        for _ in run.epochs():
            for step, _ in enumerate(run.batches(0)):
                a, b = torch.tensor([2.0, 4.0], device=run.fabric.device)
                run.end_step({"a": a} | ({"b": b} if step == 1 else {}))
            run.end_epoch({"macro_f1": 0.5, "ece": 0.1})
    row = next(csv.DictReader(open(run.folder / "metrics.csv")))
    assert (float(row["train_a"]), float(row["train_b"])) == (2, 4)


def test_two_processes_on_one_run(train_args):
    with start_training(train_args(), "train_baseline.py", {}):
        with pytest.raises(UserError, match="another process is working in"):
            train(train_args())
    train(train_args())  # the lock went with the run


def test_signal_handlers_come_back(train_args):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(train_args(epochs=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- refusals

def test_non_finite_loss_names_step_term_and_checkpoint(train_args, monkeypatch):
    def poison(run):
        with torch.no_grad():
            run.network.classifier.bias.fill_(float("nan"))

    args = train_args()
    stop_at(monkeypatch, 5, poison)
    with pytest.raises(UserError, match=r"'ce' is nan at epoch 2, step 2; the last good checkpoint is .*last.pt"):
        train(args)
    assert all(value.isfinite().all() for value in weights(folder_of(args)).values())


def test_weights_that_the_last_step_spoils_are_named(train_args, monkeypatch):
    """No loss shows it, since no step follows."""
    args = train_args()
    predict = Training.predict

    def poisoned(run, model):
        if run.state.epoch == 1:
            with torch.no_grad():
                run.network.classifier.bias.fill_(float("nan"))
        return predict(run, model)

    monkeypatch.setattr(Training, "predict", poisoned)
    with pytest.raises(UserError, match=r"outputs are not finite after epoch 2; the last good checkpoint is .*last.pt"):
        train(args)


def test_going_on_elsewhere_is_said_and_booked(train_args, monkeypatch, capsys):
    args = train_args()
    with monkeypatch.context() as patch:
        stop_at(patch, 3, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(args)
    path = folder_of(args) / "environment.json"
    environment = json.loads(path.read_text())
    path.write_text(json.dumps(environment | {"processes": 4}))
    train(args)
    assert "processes: 4 there, 1 now; the result will not be the same bit for bit" in capsys.readouterr().out
    resumed = {key: environment[key] for key in ("device", "processes", "threads", "compile", "deterministic")}
    assert json.loads(path.read_text()) == environment | {"processes": 4, "resumed": [resumed]}


def test_poisoned_weights_are_never_saved(train_args, monkeypatch):
    """A signal arrives after the loss has gone: the checkpoint that is there stays."""
    def poison_then_interrupt(run):
        run.log.pending.append({"ce": torch.tensor(float("inf"), device=run.fabric.device)})
        run.state.step += 1
        interrupt(run)

    args = train_args()
    stop_at(monkeypatch, 6, poison_then_interrupt)
    with pytest.raises(UserError, match="is inf"):
        train(args)
    assert torch.load(folder_of(args) / "last.pt", map_location="cpu", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("changes, message", [
    (dict(loss="mse"), "known: ce, focal"), (dict(noise=1.0), "below 1"),
    (dict(epochs=0), "--epochs has to be at least 1"),
    (dict(batch_size=1), "--batch-size"), (dict(image_size=16), "--image-size"),
    (dict(dataset="x"), "unknown data set"), (dict(weights="nowhere.pt"), "nowhere.pt: no such file"),
    (dict(data=("train=0",)), "train=0 is not a whole number"), (dict(weight_decay=-1), "--weight-decay"),
])
def test_nonsense_is_refused(train_args, changes, message):
    with pytest.raises(UserError, match=message):
        train(train_args(**changes))


def test_unreadable_training_image_is_named(train_args, demo_root, tmp_path):
    root = tmp_path / "demo"
    shutil.copytree(demo_root, root)
    victim = sorted(root.rglob("train-*.png"))[7]
    victim.write_bytes(b"x")
    for workers in (0, 2):
        args = train_args(root=root, runs=tmp_path / str(workers))
        args.machine = replace(MACHINE, workers=workers)
        with pytest.raises(UserError, match=f"{victim.name}: not a readable image"):
            train(args)


def test_missing_tracker_is_said(train_args, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="requirements-optional.txt"):
        train(train_args(track=True))


def test_tracking_offline(demo_root, tmp_path):
    """W&B mirrors what TensorBoard gets, without a network; a process of its own, since it hooks into TensorBoard."""
    pytest.importorskip("wandb", reason="wandb is not installed (requirements-optional.txt)")
    done = subprocess.run([sys.executable, *command_line(demo_root, tmp_path), "--track", "--epochs", "1"], cwd=ROOT,
                          env=os.environ | {"WANDB_MODE": "offline"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (mirror,) = tmp_path.rglob("offline-run-*/*.wandb")
    assert b"val/macro_f1" in mirror.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_runs_train_and_score(trained, built, train_args, tmp_path):
    """What is stored does not depend on --compile; the numbers differ in their last digits."""
    args = train_args()
    args.machine = replace(MACHINE, compile=True)
    folder = train(args)
    assert weights(folder).keys() == weights(trained).keys()
    evaluate.main(evaluate.Args(folder, set=(built,), machine=evaluate.Machine(compile=True, workers=0)))
    logits = np.load(folder / "predictions" / built.name / "clean.npy")
    shutil.rmtree(folder / "predictions")
    evaluate.main(evaluate.Args(folder, set=(built,), machine=evaluate.Machine(workers=0)))
    np.testing.assert_allclose(np.load(folder / "predictions" / built.name / "clean.npy"), logits, rtol=1e-3, atol=1e-4)


# ---- weights to start from

def test_weights_from_a_file(train_args, tmp_path):
    torch.manual_seed(5)
    source = ResNet18(8, SIZE).backbone.state_dict()
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"module.{key}": value for key, value in source.items()}, "epoch": 3}, file)
    args = train_args(weights=str(file))
    with start_training(args, "train_baseline.py", {}) as run:
        model = ResNet18(8, SIZE)
        run.setup(model, torch.optim.Adam(model.parameters()))
        loaded = {key: value.cpu() for key, value in model.backbone.state_dict().items()}
        torch.testing.assert_close(loaded, dict(source))
        recorded = json.loads((run.folder / "environment.json").read_text())["weights"]
    assert recorded["name"] == "weights.pt" and len(recorded["loaded"]) == len(source) and len(recorded["sha256"]) == 64


@pytest.mark.parametrize("content, message", [
    ({"a": torch.zeros(3)}, "only 0 of the backbone's [0-9]+ tensors"), ([1, 2], "holds no state dict"),
    (b"no archive", "cannot|not a file of plain tensors"), (Path("x"), "not a file of plain tensors"),
])
def test_weights_that_do_not_fit_are_refused(train_args, tmp_path, content, message):
    file = tmp_path / "weights.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(UserError, match=message):
        train(train_args(weights=str(file)))


def test_imagenet_weights_that_cannot_be_had_name_the_way_out(train_args, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match="cannot be fetched .* --weights none .* --weights PATH"):
        train(train_args(weights="imagenet"))


# ---- the network

def test_normalisation_is_torchvisions():
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(Normalize()(image), (image / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_resnet_is_the_specified_one(whole):
    model = ResNet18(8, 224).eval()
    assert sum(p.numel() for p in model.backbone.parameters()) == 11_176_512
    assert sum(p.numel() for p in model.parameters()) == 11_176_512 + 513 * 8
    assert model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 8)


def test_every_term_moves_the_weights(train_args, whole, device):
    with start_training(train_args(calib=True), "train_baseline.py", {}) as run:
        criterion = run.criterion()
    model = ResNet18(8, SIZE).to(device)
    with torch.no_grad():
        model.classifier.weight.mul_(400)  # so that gaps exceed the margin
    image = torch.randint(0, 256, (16, 3, SIZE, SIZE), dtype=torch.uint8, device=device)
    for name, value in criterion.terms(model(image), torch.arange(16, device=device) % 8).items():
        gradient = torch.autograd.grad(value, model.backbone.conv1.weight, retain_graph=True)[0]
        assert gradient.abs().max() > 0, name


# ---- scoring

@pytest.fixture(scope="module")
def scored(trained, built):
    evaluate.main(evaluate.Args(trained, set=(built,), machine=MACHINE))
    return trained


def score_again(run, built, **changes):
    evaluate.main(evaluate.Args(run, set=(built,), machine=MACHINE, **changes))


def test_predictions_are_the_models_logits(scored, built):
    data = open_built_set(built)
    model = ResNet18(8, SIZE)
    model.load_state_dict(weights(scored, "best.pt"))
    model.eval()
    for cell in (None, ("snow", 3), ("saturate", 5)):
        images = torch.stack([torch.from_numpy(read_image(data.image_path(i, *(cell or ())), SIZE))
                              for i in range(16)]).permute(0, 3, 1, 2)
        stored = np.load(predictions_file(scored / "predictions/Demo-C", cell))
        assert stored.dtype == np.float32
        with torch.no_grad():
            np.testing.assert_allclose(stored, model(images), atol=1e-4)


def test_scores_are_tidy_and_complete(scored, built):
    table = pd.read_csv(scored / "scores.csv", dtype={"severity": "Int64"})
    assert table.columns.tolist() == ["set", "set_version", "method", "corruption", "severity", "metric", "value",
                                      "precision", "notes"]
    assert set(table["set"]) == {"Demo-C"} and table["set_version"].nunique() == 1
    one = table[table["metric"] == "ece"]
    assert len(one) == 85 + 5
    assert set(one["corruption"]) == {"clean", *SUMMARIES, *CORRUPTIONS}
    assert SUMMARIES == ("mean", "pooled_by_severity", "pooled", "mean_without_brightness_contrast_snow")
    assert one.loc[one["corruption"].isin(list(CORRUPTIONS)), "severity"].notna().all()
    assert one.loc[~one["corruption"].isin(list(CORRUPTIONS)), "severity"].isna().all()
    assert not table.duplicated(["set", "corruption", "severity", "metric"]).any()
    assert (table.loc[table["metric"] == "n", "value"] == 16).all()


def test_scores_recomputed_from_the_predictions(scored, built):
    data, folder = open_built_set(built), scored / "predictions/Demo-C"
    table = pd.read_csv(scored / "scores.csv", dtype={"severity": "Int64"})
    value = table.set_index(["corruption", "severity", "metric"])["value"]
    labels = data.frame["expression"].to_numpy()
    cells = []
    for name, severity in CELLS:
        logits = torch.from_numpy(np.load(folder / name / f"{severity}.npy")).double()
        target = torch.from_numpy(np.array(data.soft_labels_of(name, severity))).double()
        cells.append((logits, target))
        assert value[name, severity, "nll"] == pytest.approx(float(F.cross_entropy(logits, target)))
        assert value[name, severity, "accuracy"] == np.mean(logits.argmax(1).numpy() == labels)
    mean = value.xs("mean", level=0).droplevel(0)
    per_cell = table[table["corruption"].isin(list(CORRUPTIONS))].groupby("metric")["value"].mean()
    for metric in ("macro_f1", "ece", "kse", "brier"):
        assert mean[metric] == pytest.approx(per_cell[metric])
    everything = metrics.summary(np.concatenate([metrics.softmax(logits.numpy()) for logits, _ in cells]),
                                 np.tile(labels, 85), np.concatenate([target.numpy() for _, target in cells]))
    assert value.xs("pooled", level=0).droplevel(0)["ece"] == pytest.approx(everything["ece"])
    parts = []
    for severity in range(5):
        pool = cells[severity::5]
        probs = np.concatenate([metrics.softmax(logits.numpy()) for logits, _ in pool])
        targets = np.concatenate([target.numpy() for _, target in pool])
        parts.append(metrics.summary(probs, np.tile(labels, 17), targets)["ece"])
    assert value.xs("pooled_by_severity", level=0).droplevel(0)["ece"] == pytest.approx(np.mean(parts))


def test_scoring_goes_on_by_cell(scored, built, monkeypatch):
    before = (scored / "scores.csv").read_bytes()
    values = pd.read_csv(scored / "scores.csv")["value"]
    (scored / "predictions/Demo-C/snow/3.npy").unlink()
    seen, predict = [], inference.logits_of_blocks

    def watched(fabric, network, images, numbers, *rest):
        seen.append((images.blocks.cells, list(numbers)))
        return predict(fabric, network, images, numbers, *rest)

    monkeypatch.setattr(inference, "logits_of_blocks", watched)
    score_again(scored, built)
    assert seen == [((("snow", 3),), [0])]
    if ON_CUDA:  # a batch of another size is computed with other kernels there
        np.testing.assert_allclose(pd.read_csv(scored / "scores.csv")["value"], values, atol=1e-4)
    else:
        assert (scored / "scores.csv").read_bytes() == before


@pytest.mark.slow
def test_predictions_of_other_weights_are_thrown_away(trained, built, tmp_path):
    run = tmp_path / "seed0"
    shutil.copytree(trained, run)
    score_again(run, built)
    first = np.load(run / "predictions/Demo-C/clean.npy")
    state = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    state["model"]["classifier.bias"] += 1
    torch.save(state, run / "best.pt")
    score_again(run, built)
    np.testing.assert_allclose(np.load(run / "predictions/Demo-C/clean.npy"), first + 1, atol=1e-5)


@pytest.mark.slow
def test_predictions_of_unknown_origin_are_thrown_away(trained, built, tmp_path):
    run = tmp_path / "seed0"
    shutil.copytree(trained, run)
    score_again(run, built)
    scores, folder = run / "scores.csv", run / "predictions/Demo-C"
    first, values = scores.read_text(), pd.read_csv(scores)["value"]
    np.save(folder / "clean.npy", 9 * np.eye(8, dtype=np.float32)[np.arange(16) % 8])
    (folder / "set.json").unlink()
    score_again(run, built)
    if ON_CUDA:  # the last digits of a batch differ from time to time there
        np.testing.assert_allclose(pd.read_csv(scores)["value"], values, atol=1e-4)
    else:
        assert scores.read_text() == first


def test_runs_and_sets_that_do_not_match_are_refused(trained, built, build_args, tmp_path):
    make_fer_c.main(build_args(out=tmp_path / "Demo-C", limit=2, protocol="released"))
    run = tmp_path / "seed0"
    shutil.copytree(trained, run, ignore=lambda folder, names: [n for n in names if n == "predictions"])
    with pytest.raises(UserError, match="has protocol paper, .* has released"):
        score_again(run, tmp_path / "Demo-C")
    score_again(run, tmp_path / "Demo-C", force=True, limit=1)
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(args | {"image_size": 48}))
    with pytest.raises(UserError, match="image size 48"):
        score_again(run, built)
    (run / "args.json").write_text(json.dumps(args | {"model": {"class": "os.system", "arguments": {}}}))
    with pytest.raises(UserError):  # its message: the tests of models.build_model
        score_again(run, built)
    (run / "args.json").write_text(json.dumps(args))
    for content in (b"", b"junk"):
        (run / "best.pt").write_bytes(content)
        with pytest.raises(UserError, match="best.pt is damaged"):
            score_again(run, built)


@pytest.mark.parametrize("spoil, message", [
    (lambda run: None, "args.json is missing: .* is no run folder"),
    (lambda run: (run.mkdir(), (run / "args.json").write_text("{")), "args.json is damaged"),
    (lambda run: run.write_text(""), "is a file, and RUN is the folder of a trained run"),
])
def test_folders_that_are_no_runs(built, tmp_path, spoil, message):
    spoil(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        score_again(tmp_path / "run", built)


# ---- several processes (gloo)

def torchrun(arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                          capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two processes need two GPUs, or a machine without one")
def test_two_processes_train_and_score_as_one(train_args, demo_root, built, tmp_path, whole):
    done = torchrun(command_line(demo_root, tmp_path))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "demo/baseline/ce/noise0").glob("seed0-*")
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert len(list(csv.DictReader(open(folder / "metrics.csv")))) == 2

    scored, run = train(train_args(epochs=1, seed=1, runs=tmp_path / "one")), tmp_path / "copy"
    shutil.copytree(scored, run)
    score_again(scored, built)
    done = torchrun(["evaluate.py", str(run), "--set", str(built), "--precision", "32", "--workers", "0"])
    assert done.returncode == 0, done.stderr
    for cell in (None, ("snow", 3)):
        one, two = (np.load(predictions_file(f / "predictions/Demo-C", cell)) for f in (scored, run))
        np.testing.assert_allclose(two, one, atol=1e-4)
