"""The five training scripts end to end on small demo data: what they share has to hold for each of them."""
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import losses
import soft_labels
import train_DMUE
import train_RUL
import train_SCN
import train_baseline
import train_swinv2
from datasets import kept_splits, load_split
from support import cli
from support.errors import UserError
from training.options import RELEASED, LossOptions, TrainingOptions, flat, recipe_filler
from training.run import Training, all_settings
from conftest import MACHINE, OPTIONS, SIZE

pytestmark = pytest.mark.usefixtures("small")

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    "baseline": (train_baseline, {}), "SCN": (train_SCN, {"relabel_epoch": 0, "relabel_margin": 0.0}),
    "DMUE": (train_DMUE, {}), "RUL": (train_RUL, {}), "swinv2": (train_swinv2, {"backbone": "test_vit"}),
}
BATCH_SIZES = {"baseline": 256, "SCN": 256, "DMUE": 128, "RUL": 256, "swinv2": 32}  # of the release, and for AffectNet
OWN_TERMS = {"SCN": ["rank"], "DMUE": ["latent", "similarity", "auxiliary"]}  # of the loss, besides cross-entropy


@pytest.fixture
def start(demo_root, tmp_path):
    """`start(name, algorithm options, **changes of TrainingOptions)` trains and returns the run's folder."""
    def build(name, own=None, machine=MACHINE, constants=None, **changes):
        module, usual = SCRIPTS[name]
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, epochs=2, batch_size=32,
                      weights="none", runs=tmp_path / "runs", keep_last=True)
        algorithm = module.Algorithm(**usual | (own or {}))
        options = TrainingOptions(**common | changes)
        module.main(module.Args(options, algorithm, LossOptions(**constants or {}), machine))
        folders = (options.runs / "demo" / name / options.loss / f"noise{100 * options.noise:g}").glob("seed0*")
        return max(folders, key=lambda folder: (folder / "metrics.csv").stat().st_mtime_ns)
    return build


def stop_after(patch, steps):
    """Ctrl-C after that many steps of the whole run."""
    end_step, count = Training.end_step, []

    def stopping(run, terms):
        count.append(1)
        if len(count) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        end_step(run, terms)

    patch.setattr(Training, "end_step", stopping)


@pytest.mark.parametrize("name", [  # baseline: test_training.py
    "SCN", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DMUE", "RUL", "swinv2"))])
def test_resumed_equals_uninterrupted(start, tmp_path, monkeypatch, name):
    """Calibrated, on noisy labels, with falling learning rates; stopped between the epochs and inside the second."""
    options = dict(calib=True, noise=0.25, lr_decay=0.9)
    whole = start(name, runs=tmp_path / "whole", **options)
    for step in (4, 7):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            with pytest.raises(KeyboardInterrupt):
                start(name, runs=tmp_path / str(step), **options)
        resumed = start(name, runs=tmp_path / str(step), **options)
        for file in ("last.pt", "best.pt", "metrics.csv"):
            assert (resumed / file).read_bytes() == (whole / file).read_bytes(), (step, file)


@pytest.mark.parametrize("name", [
    "baseline", "DMUE", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SCN", "RUL", "swinv2"))])
def test_a_run_is_scored(start, built, name, monkeypatch):
    weights, splits, build, load = [], [], losses.build, kept_splits.load_splits
    monkeypatch.setattr(losses, "build", lambda *given, **more: weights.append(given[2]) or build(*given, **more))
    monkeypatch.setattr(kept_splits, "load_splits",
                        lambda *given, **more: splits.extend(load(*given, **more)) or splits)
    folder = start(name, epochs=1)
    train, val = (split.frame for split in splits)  # training never opens the test split
    count = np.bincount(train["expression"], minlength=8)
    np.testing.assert_allclose(weights[0], len(train) / (8 * count), rtol=1e-6)
    assert set(val["identity"]).isdisjoint(train["identity"])
    row = pd.read_csv(folder / "metrics.csv").iloc[0]
    terms = ["ce", *OWN_TERMS.get(name, [])]
    assert [key for key in row.index if key.startswith("train_")] == [f"train_{term}" for term in terms]
    evaluate.main(evaluate.Args(folder, set=(built,), machine=MACHINE))
    scores = pd.read_csv(folder / "scores.csv").pivot_table(index=["corruption", "severity"], columns="metric",
                                                            values="value", dropna=False)
    assert np.isfinite(scores[["macro_f1", "ece", "nll"]]).sum().tolist() == [1 + 85 + 4] * 3  # clean, cells, means
    settings_of = json.loads((folder / "args.json").read_text())
    module, usual = SCRIPTS[name]
    assert settings_of.items() >= usual.items() and settings_of["script"] == name
    assert settings_of["model"]["class"].startswith("models.")


@pytest.mark.parametrize("name", SCRIPTS)
def test_released_protocol_reaches_every_option(name):
    """Everything in RELEASED is an option, and what is typed goes over it."""
    module, _ = SCRIPTS[name]
    line = ["--dataset", "ferplus"]
    paper, released = (flat(cli.parse(module.Args, recipe_filler(module.RELEASED, module.RELEASED_ON), line + more))
                       for more in ([], ["--protocol", "released"]))
    for key, value in (RELEASED | module.RELEASED).items():
        if key != "class_weights":  # the recipe of FER+
            assert released[key] == value != paper[key], key
    assert released.keys() == paper.keys()


PAPER_AND_RELEASED = {  # of both columns of the protocols
    "baseline": {"lr": (2.5e-4, 2.5e-4), "weight_decay": (1e-5, 1e-5)},
    "SCN": {"lr": (2.5e-4, 2.5e-4), "rank_margin": (.15, .15), "high_ratio": (.7, .7), "relabel_margin": (.2, .9)},
    "DMUE": {"lr": (2.5e-4, 2.5e-4), "classifier_lr": (1e-3, 1e-3), "ramp": (None, .6), "soft_weight": (.5, .5),
             "similarity_weight": (1000, 1000), "temperature": (1.2, 1.2), "train_confidence": (True, False)},
    "RUL": {"dropout": (.4, 0), "classifier_lr_factor": (10, 1), "lr": (2.5e-4, 2e-4), "weight_decay": (1e-5, 1e-5)},
    "swinv2": {"lr": (5e-5, 5e-5), "drop_path": (.1, .1), "weight_decay": (1e-5, 1e-5)},
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_numbers_of_both_protocols(name):
    module, _ = SCRIPTS[name]
    for at, protocol in enumerate(("paper", "released")):
        line = ["--dataset", "rafdb", "--protocol", protocol]
        values = flat(cli.parse(module.Args, recipe_filler(module.RELEASED, module.RELEASED_ON), line))
        wanted = {key: both[at] for key, both in PAPER_AND_RELEASED[name].items()} | {
            "epochs": 50, "class_weights": ("balanced", "released")[at], "noise_rule": ("exact", "released")[at],
            "skip_first_epoch": bool(at), "detach_multiplier": not at, "image_size": 224, "gamma": 1, "margin": 8}
        assert {key: values[key] for key in wanted} == wanted


def test_settings_of_the_published_recipes():
    def parsed(name, line):
        module, _ = SCRIPTS[name]
        return flat(cli.parse(module.Args, recipe_filler(module.RELEASED, module.RELEASED_ON), line.split()))

    assert {name: parsed(name, "--dataset affectnet")["batch_size"] for name in SCRIPTS} == BATCH_SIZES
    assert {name: parsed(name, "--dataset affectnet")["lr"] for name in SCRIPTS} == {
        name: constants["lr"][0] for name, constants in PAPER_AND_RELEASED.items()}
    assert {parsed(name, "--dataset demo")["batch_size"] for name in SCRIPTS} == {16}
    assert parsed("SCN", "--dataset affwild --protocol released")["relabel_epoch"] == 15
    assert parsed("SCN", "--dataset rafdb --protocol released")["relabel_epoch"] == 2
    assert parsed("SCN", "--dataset rafdb --protocol released --relabel-epoch 7")["relabel_epoch"] == 7


def test_the_batch_of_nll_released_is_that_of_the_release():
    """args.json has it from the script's default, whatever the data set and the options say."""
    for name, (module, _) in SCRIPTS.items():
        args = cli.parse(module.Args, recipe_filler(module.RELEASED, module.RELEASED_ON), ["--dataset", "demo"])
        settings = all_settings(args, name, module.RELEASED, module.RELEASED_ON)
        assert settings["nll_batch"] == BATCH_SIZES[name] != settings["batch_size"]


def test_no_two_options_share_a_name():
    """args.json is flat."""
    for module, _ in SCRIPTS.values():
        args = module.Args(module.Args.__annotations__["options"]("demo"))
        assert len(flat(args)) == sum(len(vars(group)) for group in vars(args).values())


def test_relabelling_takes_effect_in_the_next_epoch(start, monkeypatch):
    seen = []
    target = Training.target

    def watched(run, index):
        seen.append((run.state.epoch, run.labels.clone().cpu(), run.next_labels.clone().cpu()))
        return target(run, index)

    monkeypatch.setattr(Training, "target", watched)
    folder = start("SCN", epochs=3, machine=replace(MACHINE, workers=2))
    first = [labels for epoch, labels, _ in seen if epoch == 0]
    assert all((labels == first[0]).all() for labels in first)
    second = next(labels for epoch, labels, _ in seen if epoch == 1)
    counts = pd.read_csv(folder / "metrics.csv")["relabelled"]
    assert counts[0] == int((second != first[0]).sum()) > 0
    assert (torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["labels"] != first[0]).any()


def test_relabelling_waits_for_its_epoch(start):
    cases = {"later": {"relabel_epoch": None}, "few": {"relabel_scope": "low"}, "all": {}}
    count = {case: pd.read_csv(start("SCN", own, epochs=1, fresh=True) / "metrics.csv")["relabelled"][0]
             for case, own in cases.items()}
    assert 0 == count["later"] < count["few"] < count["all"]


def test_learning_rates_fall_after_every_epoch(start):
    last = torch.load(start("RUL", lr_decay=0.5) / "last.pt", map_location="cpu", weights_only=True)
    groups = last["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([2.5e-4 / 4, 2.5e-3 / 4])


@pytest.mark.slow
def test_prior_of_maxent_is_of_the_labels_trained_on(start, monkeypatch):
    built, build = [], losses.build
    monkeypatch.setattr(losses, "build", lambda *given, **more: built.append(more) or build(*given, **more))
    for prior in ("uniform", "data"):
        folder = start("baseline", loss="maxent", noise=0.5, epochs=1, fresh=True,
                       constants={"maxent_multiplier": "aaai", "maxent_prior": prior, "maxent_constraint": "variance"})
    labels = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["labels"]
    assert built[0]["prior"] is None and built[0]["constraint"] == "variance"
    np.testing.assert_allclose(built[1]["prior"].cpu(), np.bincount(labels, minlength=8) / len(labels), rtol=1e-6)
    with pytest.raises(UserError, match="--loss maxent: the multiplier ferc always takes the uniform prior"):
        start("baseline", loss="maxent", fresh=True, constants={"maxent_prior": "data"})


@pytest.mark.slow
def test_confidence_stays_as_it_was_when_it_is_not_trained(start):
    for trained in (True, False):
        folder = start("DMUE", {"train_confidence": trained}, epochs=2, fresh=True)
        state = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["model"]
        assert (state["confidence.1.weight"].item() != 0.25) == trained  # PReLU's initial slope


def test_stem_of_other_weights_is_refused(start):
    with pytest.raises(UserError, match="--stem dmue belongs to"):
        start("DMUE", {"stem": "dmue"}, weights="imagenet")


@pytest.mark.parametrize("name, own", [("RUL", {"dropout": 2.0}), ("DMUE", {"dropout": -0.1}),
                                       ("SCN", {"high_ratio": 7.0}), ("swinv2", {"drop_path": float("nan")})])
def test_shares_lie_between_0_and_1(start, name, own):
    (key, value), = own.items()
    message = f"--{key.replace('_', '-')} has to be (at least 0|a finite number, not nan)"
    with pytest.raises(UserError, match=message):
        start(name, own)


def test_unknown_backbone_is_refused(start):
    for name in ("baseline", "swinv2"):
        with pytest.raises(UserError, match="timm has no network 'resnet_18'"):
            start(name, {"backbone": "resnet_18"})


def test_any_backbone(start, built):
    folder = start("baseline", {"backbone": "test_resnet"}, epochs=1)
    assert json.loads((folder / "args.json").read_text())["model"]["arguments"]["backbone"] == "test_resnet"
    evaluate.main(evaluate.Args(folder, set=(built,), limit=2, machine=MACHINE))


@pytest.mark.parametrize("name", ["baseline", "RUL"])
def test_fused_targets(start, demo_root, monkeypatch, name):
    options = {key: value for key, value in (option.split("=") for option in OPTIONS)}
    frame = load_split("demo", demo_root, "train", **options).frame
    va = frame[["valence", "arousal"]].to_numpy()
    gmm = soft_labels.fit_gmm(va, frame["expression"], 8)
    expected = soft_labels.fuse(frame["expression"], gmm.posterior(va), 0.7)
    seen, target = [], Training.target

    def watched(run, index):
        seen.append((index, target(run, index)))
        return seen[-1][1]

    monkeypatch.setattr(Training, "target", watched)
    folder = start(name, epochs=1, targets="fused", beta=0.7)
    for index, value in seen:
        np.testing.assert_allclose(value.cpu(), expected[index.cpu()], atol=1e-6)
    assert "fitted on the training split" in json.loads((folder / "args.json").read_text())["fused"]["mixture"]


@pytest.mark.parametrize("name", ["baseline", "DMUE"])
def test_augmented(start, name):
    plain, augmented = (pd.read_csv(start(name, epochs=1, fresh=True, augment=kind) / "metrics.csv")["train_ce"][0]
                        for kind in ("none", "basic"))
    assert plain != augmented


# ---- several processes (gloo)

def torchrun(arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=900)


TWO_PROCESSES = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import os, signal
from pathlib import Path
import torch
import conftest, models.resnet, train_{name} as script
from training import options as settings, requests, run as harness
models.resnet.resnet18 = conftest.SmallResNet
requests.AGREE_EVERY = 5
stop, end_step, end_epoch, steps = {stop}, harness.Training.end_step, harness.Training.end_epoch, []
def stopping(run, terms):
    steps.append(1)
    if len(steps) == stop:
        run.requests.stop_signal = signal.SIGTERM
    end_step(run, terms)
def told(run, scores):
    end_epoch(run, scores)
    torch.save(run.labels, run.folder / f"labels-{{run.fabric.global_rank}}-{{run.state.epoch}}.pt")
harness.Training.end_step, harness.Training.end_epoch = stopping, told
options = settings.TrainingOptions(
    dataset="demo", root=Path({data!r}), data={options}, image_size={size}, epochs=3, batch_size=32, weights="none",
    noise=.25, runs=Path({runs!r}), keep_last=True)
machine = settings.MachineOptions(precision="32", workers=0)
script.main(script.Args(options, script.Algorithm(**{own}), machine=machine))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two processes need two GPUs, or a machine without one")
@pytest.mark.parametrize("name", ["SCN", "DMUE"])
def test_two_processes_agree_and_resume(demo_root, tmp_path, name):
    """Two gloo processes hold the same labels after every epoch, and end with the same bytes if stopped on the way."""
    folders = []
    for stop in (None, 6):
        file = tmp_path / f"{name}{stop}.py"
        file.write_text(TWO_PROCESSES.format(
            root=str(ROOT), tests=str(ROOT / "tests"), name=name, stop=stop, data=str(demo_root), options=OPTIONS,
            size=SIZE, runs=str(tmp_path / str(stop)), own=SCRIPTS[name][1]))
        done = torchrun([str(file)])
        if stop:
            assert done.returncode
            file.write_text(file.read_text().replace(f"= {stop}, harness", "= None, harness"))
            done = torchrun([str(file)])
            assert "going on at epoch 3, step 3" in done.stdout, done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        folders += (tmp_path / str(stop) / "demo" / name / "ce/noise25").glob("seed0-*")
    for epoch in (2, 3):
        one, two = (torch.load(folders[1] / f"labels-{rank}-{epoch}.pt") for rank in (0, 1))
        assert (one == two).all()
    if name == "SCN":
        assert pd.read_csv(folders[0] / "metrics.csv")["relabelled"].sum() > 0
    for file in ("last.pt", "metrics.csv"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
