"""The settings that every training script shares, and where their values come from: what is typed goes over what
`--protocol released` changes, that over the data set's recipe, that over the defaults here. No torch in this file.
"""
import dataclasses
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import cli
from cli import UserError
from datasets import DATASETS, RECIPES

CALIBRATED = "maxent+mbls"  # what --calib stands for

# What --protocol released changes for every algorithm: the FER-C release's behaviour where the paper's text differs.
RELEASED = {"class_weights": "released", "noise_rule": "released", "skip_first_epoch": True, "detach_multiplier": False}


@dataclass
class Run:
    """What you always set."""

    dataset: str
    """the data set to train on"""
    root: Path | None = None
    """its folder (default: data/<dataset>, or $FERC_DATA/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set as key=value; may be given several times"""
    protocol: Literal["paper", "released"] = "paper"
    """paper: the method as described. released: as the FER-C release behaves where it differs"""
    calib: bool = False
    """train calibrated: short for --loss maxent+mbls"""
    loss: str = "ce"
    """ce, focal, maxent, mbls, maxent+mbls, invfocal, poly, avuc, soft-avuc, cpc; maxent-aaai: with that multiplier"""
    seed: int = 0
    """of initialisation, order, dropout and label noise; published: 0 1 2"""
    epochs: int = 20
    """published: 5 AffectNet, 20 AffWild, 50 RAF-DB; ours: 20 FER+, 3 demo"""
    batch_size: int = 256
    """over all devices together (published: 256)"""
    lr: float = 2.5e-4
    """of Adam, constant (published: 2.5e-4)"""
    lr_decay: float = 1.0
    """factor of the learning rates per epoch (published: 1; RUL's authors: .9)"""
    weight_decay: float = 1e-5
    """of Adam, coupled (published: 1e-5)"""
    image_size: int = 224
    """side of the images, in training and scoring alike (published: 224; demo: 48)"""
    weights: str = "imagenet"
    """to start from: imagenet, none, or the path of a checkpoint (demo: none)"""
    class_weights: Literal["none", "balanced", "released"] = "balanced"
    """balanced: N / (K n_k) of the labels trained on. released: max n / n_k of the clean ones (FER+, AffWild: none)"""
    noise: float = 0.0
    """share of training labels made wrong"""
    noise_rule: Literal["exact", "released"] = "exact"
    """exact: that share, seeded with the run. released: with replacement, may keep a label, always seed 0"""
    augment: Literal["none", "basic"] = "none"
    """basic: flip, shift and erase training images. FER-C: none"""
    targets: Literal["onehot", "fused"] = "onehot"
    """fused: train towards beta * one-hot + (1 - beta) * mixture (or the annotators' distribution). FER-C: onehot"""
    beta: float = 0.5
    """share of the given label in fused targets"""
    gmm: Path | None = None
    """the mixture of fused targets, gmm.json of a built set (default: fitted on the training split)"""
    skip_first_epoch: bool = False
    """the first epoch cannot be the best one (the release's rule)"""
    runs: Path = Path("runs")
    """folder of all runs; this one is <dataset>/<script>/<loss>/noise<percent>/seed<seed> below it"""
    fresh: bool = False
    """delete what this run's folder holds and start over"""
    track: bool = False
    """mirror the run to Weights & Biases (needs requirements-optional.txt)"""


@dataclass
class Loss:
    """Constants of the losses; those the chosen loss does not have are left alone."""

    gamma: float = 1.0
    """focal exponent (FER-C: 1; Lin et al.: 2)"""
    margin: float = 8.0
    """largest free gap between logits in MbLS (FER-C release: 8; Liu et al.: 10)"""
    mbls_weight: float = 1.0
    """of the MbLS term (FER-C release: 1; Liu et al.: .1)"""
    mbls_reduction: Literal["sum", "mean"] = "sum"
    """over classes (FER-C release: sum; Liu et al.: mean)"""
    maxent_multiplier: Literal["ferc", "constant", "aaai", "gibbs"] = "ferc"
    """of the MaxEnt constraint; ferc: as published, one-sided and dependent on the class order"""
    maxent_constraint: Literal["mean", "variance", "both"] = "mean"
    """what MaxEnt constrains (FER-C: mean; the others belong to the multiplier aaai)"""
    maxent_prior: Literal["uniform", "data"] = "uniform"
    """class frequencies behind aaai and gibbs (FER-C release: uniform; MaxEnt's authors: the data's)"""
    detach_multiplier: bool = True
    """no gradient through the MaxEnt multiplier (the release lets it through)"""

    def constants(self, known, frequencies):
        """Those of `known`, the options of a loss, by its names for them. frequencies: (K,) of the training labels."""
        values = {re.sub("^(mbls|maxent)_", "", key): value for key, value in vars(self).items()}
        values["prior"] = frequencies if self.maxent_prior == "data" else None
        return {key: value for key, value in values.items() if key in known}


@dataclass
class Machine:
    """Where it runs."""

    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto: bf16 where the hardware multiplies it, else 32"""
    workers: int = min(4, len(os.sched_getaffinity(0)))
    """processes that decode images; 0: none"""
    compile: bool = False
    """torch.compile: slow to start, faster steps"""
    cache: Path | None = None
    """folder for decoded images: the first start fills it, after that no epoch decodes anything"""


SHARES = {"beta", "dropout", "drop_path", "high_ratio"}  # options that are shares, of whichever script
FREE = {"root", "runs", "fresh", "track", "calib", "workers", "cache"}  # may change when a run goes on


def recipe(released):
    """`settle` for cli.run. released: the script's own values under `--protocol released`."""
    def settle(args):
        values = dict(RECIPES.get(args.run.dataset, {}))
        of_set = values.pop("released", {})
        if args.run.protocol == "released":
            values |= RELEASED | released | of_set
        args = dataclasses.replace(args, run=dataclasses.replace(args.run, data=()))  # repeated options would add up
        for group in dataclasses.fields(args):
            part = getattr(args, group.name)
            if dataclasses.is_dataclass(part):
                own = {key: value for key, value in values.items() if hasattr(part, key)}
                args = dataclasses.replace(args, **{group.name: dataclasses.replace(part, **own)})
        return dataclasses.replace(args, **{key: value for key, value in values.items() if hasattr(args, key)})
    return settle


def check(args, known_losses):
    """Raises UserError on values that make no sense; writes the loss out (`name_loss`)."""
    run = args.run
    if run.dataset not in DATASETS:
        raise UserError(f"unknown data set {run.dataset!r}; known: {', '.join(DATASETS)}")
    if run.calib and run.loss not in ("ce", CALIBRATED):
        raise UserError(f"--calib is --loss {CALIBRATED}; it does not go with --loss {run.loss}")
    name_loss(run, args.loss)
    if run.loss not in known_losses:
        raise UserError(f"unknown loss {run.loss!r}; known: {', '.join(known_losses)}")
    shares = {key: value for key, value in flat(args).items() if key in SHARES}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"--{name.replace('_', '-')} is a share between 0 and 1, not {value}")
    if not 0 <= run.noise < 1:
        raise UserError(f"--noise is the share of wrong labels, at least 0 and below 1, not {run.noise}")
    values, processes = vars(run) | {"workers": args.machine.workers}, int(os.environ.get("WORLD_SIZE", 1))
    for name, least in (("epochs", 1), ("batch_size", 2 * processes), ("image_size", 32), ("lr", 1e-12),
                        ("lr_decay", 1e-12), ("weight_decay", 0), ("workers", 0)):
        if not values[name] >= least:
            raise UserError(f"--{name.replace('_', '-')} starts at {least}, not {values[name]}")


def name_loss(run, constants):
    """Write out the loss as runs are filed: what `--calib` is short for; another multiplier of MaxEnt in its name.
    Raises UserError where name and `--maxent-multiplier` contradict each other."""
    first, *more = (CALIBRATED if run.calib else run.loss).split("+")
    if first == "maxent" and constants.maxent_multiplier != "ferc":
        first = f"maxent-{constants.maxent_multiplier}"
    elif first.startswith("maxent-"):
        named = first.removeprefix("maxent-")
        if constants.maxent_multiplier not in ("ferc", named):
            raise UserError(f"--loss {run.loss} does not go with --maxent-multiplier {constants.maxent_multiplier}")
        constants.maxent_multiplier = named
    run.loss = "+".join([first, *more])


def flat(args):
    """All fields of the groups in one dict of JSON values: what args.json holds and a second start is compared by."""
    values = {}
    for key, value in dataclasses.asdict(args).items():
        values |= value if isinstance(value, dict) else {key: value}
    return json.loads(json.dumps(values, default=str))


def refuse_others(folder, before, now):
    """Raises UserError naming the settings in which the run in `folder` differs from the one asked for."""
    differ = differences(before, now)
    if differ:
        raise UserError(f"{folder} holds a run with other settings ({differ}). Use another --runs folder, or "
                        f"--fresh to start over.")


def refuse_other_data(folder, before, now):
    """Raises UserError where the data of the run in `folder` have changed; before: its settings, None for none."""
    if before and any(before.get(key) != now.get(key) for key in ("data_sha256", "fused")):
        raise UserError(f"{folder}: images, labels or targets of {now['dataset']} have changed since this run began "
                        f"({before['train_images']} images then, {now['train_images']} now). Restore them, or use "
                        f"--fresh.")


def earlier(folder):
    """The settings of the run that `folder` holds, None where there is none."""
    path = folder / "args.json"
    return json.loads(path.read_text()) if path.exists() else None


def record(folder, values, environment):
    """Begin a run: empty its folder and write args.json and environment.json."""
    for path in folder.iterdir():  # of a run started over, or of one that died before its first checkpoint
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    environment |= {"versions": cli.versions("torch", "torchvision", "lightning-fabric", "timm", "numpy")}
    cli.write_text(folder / "environment.json", json.dumps(environment, indent=1))
    cli.write_text(folder / "args.json", json.dumps(values, indent=1))


def note_resume(folder, environment):
    """Book in environment.json that a run goes on elsewhere than it began. Returns what to say about it, or nothing."""
    path = folder / "environment.json"
    known = json.loads(path.read_text())
    before = {key: (known.get("resumed") or [known])[-1].get(key) for key in environment}
    if before == environment:
        return ""
    known["resumed"] = [*known.get("resumed", ()), environment]
    cli.write_text(path, json.dumps(known, indent=1))
    return f" ({differences(before, environment)}: not bit for bit what it would have been)"


def differences(before, now):
    """The settings in which two dicts differ, as text for a person; those that may change on the way are left out."""
    return "; ".join(f"{key}: {before.get(key)} there, {value} now" for key, value in now.items()
                     if key not in FREE and before.get(key) != value)
