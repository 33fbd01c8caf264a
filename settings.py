"""The settings that every training script shares, and where their values come from: what is typed goes over what
`--protocol released` changes, that over the data set's recipe, that over the defaults here. No torch in this file.
"""
import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro

import cli
from cli import Between, Fraction, UserError
from datasets import DATASETS, RECIPES
from support import run_folder

CALIBRATED = "maxent+mbls"  # what --calib stands for


@dataclass(frozen=True)
class Affects:
    """What an option changes, declared at its field. The folder of a run, resuming it and the tables read only this.

    result (the default, not written out): the trained network; speed: only how long it takes; place: only where things
    lie or what is kept. by_content: the option names a file, and what the file holds is what counts."""

    what: Literal["result", "speed", "place"] = "result"
    by_content: bool = False


SPEED, PLACE, CONTENT = Affects("speed"), Affects("place"), Affects(by_content=True)

# What --protocol released changes for every algorithm: the FER-C release's behaviour where the paper's text differs.
RELEASED = {"class_weights": "released", "noise_rule": "released", "skip_first_epoch": True, "detach_multiplier": False}


@dataclass
class Run:
    """What you always set."""

    dataset: str
    """the data set to train on"""
    root: Annotated[Path | None, PLACE] = None
    """its folder (default: data/<dataset>, or $FERC_DATA/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set as key=value; may be given several times"""
    protocol: Literal["paper", "released"] = "paper"
    """paper: the method as described. released: as the FER-C release behaves where it differs"""
    calib: Annotated[bool, PLACE] = False  # --loss says it all once it is written out
    """train calibrated: short for --loss maxent+mbls"""
    loss: str | None = None
    """default: ce, with --calib maxent+mbls. Others: focal, maxent, mbls, invfocal, poly, avuc, soft-avuc, cpc;
    maxent-aaai: with that multiplier"""
    seed: int = 0
    """of initialisation, order, dropout and label noise; published: 0 1 2"""
    epochs: Annotated[int, Between(1)] = 20
    """published: 5 AffectNet, 20 AffWild, 50 RAF-DB; ours: 20 FER+, 3 demo"""
    batch_size: int = 256
    """over all devices together (published: 256)"""
    lr: Annotated[float, Between(0, above=True)] = 2.5e-4
    """of Adam, constant (published: 2.5e-4)"""
    lr_decay: Annotated[float, Between(0, above=True)] = 1.0
    """factor of the learning rates per epoch (published: 1; RUL's authors: .9)"""
    weight_decay: Annotated[float, Between(0)] = 1e-5
    """of Adam, coupled (published: 1e-5)"""
    image_size: Annotated[int, Between(32, 4096)] = 224
    """side of the images, in training and scoring alike (published: 224; demo: 64)"""
    weights: Annotated[str, CONTENT] = "imagenet"
    """to start from: imagenet, none, or the path of a checkpoint (demo: none)"""
    class_weights: Literal["none", "balanced", "released"] = "balanced"
    """balanced: N / (K n_k) of the labels trained on. released: max n / n_k of the clean ones (FER+, AffWild: none)"""
    noise: Fraction = 0.0
    """fraction of training labels made wrong, below 1"""
    noise_rule: Literal["exact", "released"] = "exact"
    """exact: that fraction, seeded with the run. released: with replacement, may keep a label, always seed 0"""
    augment: Literal["none", "basic"] = "none"
    """basic: flip, shift and erase training images. FER-C: none"""
    targets: Literal["onehot", "fused"] = "onehot"
    """fused: train towards beta * one-hot + (1 - beta) * mixture (or the annotators' distribution). FER-C: onehot"""
    beta: Fraction = 0.5
    """weight of the given label in fused targets"""
    gmm: Annotated[Path | None, CONTENT] = None
    """the mixture of fused targets, gmm.json of a built set (default: fitted on the training split)"""
    skip_first_epoch: bool = False
    """the first epoch cannot be the best one (the release's rule)"""
    runs: Annotated[Path, PLACE] = field(default_factory=run_folder.default_runs)
    """folder of all runs ($FERC_RUNS or runs); this one is <dataset>/<script>/<loss>/noise<percent>/seed<seed> in it,
    with a hash behind the seed where settings differ from the data set's recipe"""
    fresh: Annotated[bool, PLACE] = False
    """start over: delete what this run has written into its folder, scores and predictions included"""
    keep_last: Annotated[bool, PLACE] = False
    """keep last.pt, the checkpoint with the optimizer's state, when the run is finished"""
    track: Annotated[bool, PLACE] = False
    """mirror the run to Weights & Biases (needs requirements-optional.txt)"""


@dataclass
class Loss:
    """Constants of the losses; those the chosen loss does not have are left alone."""

    gamma: Annotated[float, Between(0)] = 1.0
    """focal exponent (FER-C: 1; Lin et al.: 2)"""
    margin: Annotated[float, Between(0)] = 8.0
    """largest free gap between logits in MbLS (FER-C release: 8; Liu et al.: 10)"""
    mbls_weight: Annotated[float, Between(0)] = 1.0
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
    workers: Annotated[int, SPEED, Between(0)] = min(4, len(os.sched_getaffinity(0)))
    """processes that decode images; 0: none"""
    compile: Annotated[bool, SPEED] = False
    """torch.compile: slow to start, faster steps"""
    cache: Annotated[Path | None, PLACE] = None
    """folder for decoded images: the first start fills it, after that no epoch decodes anything"""


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


def check(args: Any, known_losses: tuple[str, ...]) -> None:
    """Raises UserError on values that make no sense; writes the loss out (`name_loss`)."""
    run = args.run
    if run.dataset not in DATASETS:
        raise UserError(f"unknown data set {run.dataset!r}; known: {', '.join(DATASETS)}")
    if run.calib and run.loss not in (None, CALIBRATED):
        raise UserError(f"--calib is short for --loss {CALIBRATED}; it does not go with --loss {run.loss}")
    name_loss(run, args.loss)
    if run.loss not in known_losses:
        raise UserError(f"unknown loss {run.loss!r}; known: {', '.join(known_losses)}")
    cli.check_values(args)
    if run.noise == 1:
        raise UserError("--noise is the fraction of wrong training labels; it has to be below 1")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if run.batch_size < 2 * processes:
        raise UserError(f"--batch-size has to be at least {2 * processes}, two images a process, not {run.batch_size}")


def name_loss(run, constants):
    """Write out the loss as runs are filed: what `--calib` is short for; another multiplier of MaxEnt in its name.
    Raises UserError where name and `--maxent-multiplier` contradict each other."""
    first, *more = (CALIBRATED if run.calib else run.loss or "ce").split("+")
    if first == "maxent" and constants.maxent_multiplier != "ferc":
        first = f"maxent-{constants.maxent_multiplier}"
    elif first.startswith("maxent-"):
        named = first.removeprefix("maxent-")
        if constants.maxent_multiplier not in ("ferc", named):
            raise UserError(f"--loss {run.loss} does not go with --maxent-multiplier {constants.maxent_multiplier}")
        constants.maxent_multiplier = named
    run.loss = "+".join([first, *more])


def flat(args: Any) -> dict[str, Any]:
    """All fields of the groups in one dict of JSON values, as args.json holds them."""
    values = {}
    for key, value in dataclasses.asdict(args).items():
        values |= value if isinstance(value, dict) else {key: value}
    return json.loads(json.dumps(values, default=str))


def affects(Args: type) -> dict[str, Affects]:
    """What every option of a script changes, by its name: {field of a group: its declared `Affects`}."""
    effects = {}
    for name, kind in get_type_hints(Args, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            effects |= affects(kind)
        else:
            declared = [part for part in get_args(kind) if isinstance(part, Affects)]
            effects[name] = declared[0] if declared else Affects()
    return effects


def usual_values(args: Any, released: dict[str, Any]) -> dict[str, Any]:
    """What the recipe gives every option that changes the result, for the data set and the protocol of `args`; the
    protocol itself is usually `paper`. released: the script's values under `--protocol released`."""
    run = type(args.run)(dataset=args.run.dataset, protocol=args.run.protocol)
    usual = recipe(released)(type(args)(run=run))
    usual.run.loss = args.run.loss
    name_loss(usual.run, usual.loss)  # a multiplier that the loss's name says is no setting of its own
    values = flat(usual) | {"protocol": Run.protocol}
    results = [name for name, effect in affects(type(args)).items() if effect.what == "result"]
    return {name: values[name] for name in results if name not in run_folder.PATH_SETTINGS}


def contents(args: Any) -> dict[str, str]:
    """{option: "sha256 <16 digits>"} of the files that options name, of those options whose content counts."""
    digests, values = {}, flat(args)
    for name, effect in affects(type(args)).items():
        file = Path(values[name]) if effect.by_content and values[name] else None
        if file and file.is_file():
            with open(file, "rb") as data:
                digests[name] = f"sha256 {hashlib.file_digest(data, 'sha256').hexdigest()[:16]}"
    return digests


def refuse_others(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError naming the settings in which the run in `folder` differs from the one asked for."""
    names = run_folder.varying([before, now])
    names += [name for name in run_folder.PATH_SETTINGS if before.get(name) != now.get(name)]
    if names:
        listed = "; ".join(f"{name.replace('_', ' ')}: {spell(before.get(name))} there, {spell(now.get(name))} now"
                           for name in names)
        raise UserError(f"{folder} holds a run with other settings ({listed}). Use another --runs folder, or --fresh "
                        f"to start over.")


def spell(value: Any) -> str:
    """A setting's value in a message."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else "none" if value is None else str(value)


def refuse_other_data(folder: Path, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raises UserError where the data of the run in `folder` have changed. before, now: what args.json holds; None: no
    run is there."""
    if before and any(before.get(name) != now.get(name) for name in ("data_sha256", "fused")):
        raise UserError(f"{folder}: images, labels or targets of {now['dataset']} have changed since this run began "
                        f"({before.get('train_images')} training images then, {now['train_images']} now). Restore "
                        f"them, or start over with --fresh.")


def earlier(folder: Path) -> dict[str, Any] | None:
    """The settings of the run that `folder` holds, None where there is none."""
    try:
        return cli.read_json(folder / run_folder.ARGS)
    except FileNotFoundError:
        return None
    except cli.DamagedFile as error:
        raise UserError(f"{error}: what this run was trained with is lost. Restore it, or start over with "
                        f"--fresh") from None


def record(folder: Path, values: dict[str, Any], environment: dict[str, Any]) -> None:
    """Begin a run: write args.json and environment.json."""
    environment |= {"versions": cli.versions("torch", "torchvision", "lightning-fabric", "timm", "numpy")}
    cli.write_text(folder / run_folder.ENVIRONMENT, json.dumps(environment, indent=1))
    cli.write_text(folder / run_folder.ARGS, json.dumps(values, indent=1))


def note_resume(folder: Path, environment: dict[str, Any]) -> str:
    """Book in environment.json that a run goes on elsewhere than it began. Returns what to say about it, or nothing."""
    path = folder / run_folder.ENVIRONMENT
    try:
        known = cli.read_json(path)
        past = known.get("resumed", [])
        last = past[-1] if past else known
        before = {key: last.get(key) for key in environment}
    except (FileNotFoundError, cli.DamagedFile, TypeError, AttributeError, LookupError):
        cli.write_text(path, json.dumps(environment, indent=1))
        return f" ({path.name} was missing or damaged and is written anew: not known where the run began)"
    changed = [f"{key}: {before[key]} there, {value} now" for key, value in environment.items()
               if before[key] is not None and before[key] != value]
    if before == environment:
        return ""
    cli.write_text(path, json.dumps(known | {"resumed": [*past, environment]}, indent=1))
    return f" ({'; '.join(changed)}: not bit for bit what it would have been)" if changed else ""
