"""The options that all training scripts have in common, and the values that a data set and a protocol give them.

A script's `Args` has these groups of options: `options` (`TrainingOptions`), groups of its own (`algorithm`; in
train_openset.py `open_set` and `detector`), `constants` (`LossOptions`: the constants of the losses) and `machine`
(`MachineOptions`). The value of an option is the first of these that is given:

  1. the command line;
  2. in train_openset.py: its values for this data set under both protocols (`USUAL_ON[dataset]`), for its own options;
  3. with `--protocol released`: the data set's released values (`datasets.RECIPES[dataset]["released"]`), the script's
     values for this data set (`RELEASED_ON[dataset]`), the script's values for all data sets (`RELEASED`), and those of
     all scripts (`RELEASED` below);
  4. the data set's values (`datasets.RECIPES[dataset]`);
  5. the default at the field.

2 to 5 together are the *recipe* of a run. The annotation of a field also says what the option has an effect on
(`Effect`); where it says nothing, the option changes the trained network. Only such options count for the folder of a
run, for resuming and for the tables.

In the texts below, "paper" is FER-C (arXiv 2312.11542), and "FER-C release" is the code that its authors published.

Options that are seldom set are marked `Rare`: only --help-all shows them.

Nothing here imports torch.
"""
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from datasets import DATASETS, RECIPES
from support import cli, run_folder
from support.cli import Between, Fraction, OneOf, Rare
from support.errors import UserError

CALIBRATED = "maxent+mbls"  # what --calib stands for
PUBLISHED_MULTIPLIER = "ferc"  # of MaxEnt; every other one is part of the loss's name

# What --protocol released changes for every algorithm: the FER-C release's behaviour where the paper's text differs.
RELEASED = {"class_weights": "released", "noise_rule": "released", "skip_first_epoch": True, "detach_multiplier": False}

# Loss -> the options of `LossOptions` that are constants of its formula. The losses are those of `losses.LOSSES`, in
# the same order, and a test compares the names of their constants with `losses.options`. Training passes the values of
# `LossOptions`, so the defaults in losses.py count only for other callers. The table is here because reports read it
# too, and losses.py imports torch. Poly's epsilon and AvUC's beta have no option: they keep the defaults of losses.py.
FOCAL = ("gamma",)
MAXENT = ("gamma", "maxent_constraint", "maxent_prior", "detach_multiplier")
MBLS = ("margin", "mbls_weight", "mbls_reduction")
CONSTANTS: dict[str, tuple[str, ...]] = {
    "ce": (),
    "focal": FOCAL,
    "maxent": (*MAXENT, "maxent_multiplier"),
    "mbls": MBLS,
    "maxent+mbls": (*MAXENT, "maxent_multiplier", *MBLS),
    "invfocal": FOCAL,
    "poly": (),
    "avuc": (),
    "soft-avuc": FOCAL,
    "cpc": (),
    "maxent-constant": MAXENT,
    "maxent-constant+mbls": (*MAXENT, *MBLS),
    "maxent-aaai": MAXENT,
    "maxent-aaai+mbls": (*MAXENT, *MBLS),
    "maxent-gibbs": MAXENT,
    "maxent-gibbs+mbls": (*MAXENT, *MBLS),
}
# Option -> its name as an argument of `losses.build`, where the two differ.
ARGUMENTS = {"mbls_weight": "weight", "mbls_reduction": "reduction", "maxent_multiplier": "multiplier",
             "maxent_constraint": "constraint", "maxent_prior": "prior"}


@dataclass(frozen=True)
class Effect:
    """What an option has an effect on, declared at its field: `Annotated[int, Effect("speed")]`.

    on: "result", the trained network (the default, not written out); "speed", how long training takes, and the last
    digits of the result at most; "place", only files (where they lie, which ones are kept, whether copies lie
    elsewhere), not the result; "alias", only the value of another option, and that one is compared.
    by_content: the option names a file, and two runs are the same if the contents of their files are, whatever the
    names.
    """

    on: Literal["result", "speed", "place", "alias"] = "result"
    by_content: bool = False


SPEED = Effect("speed")
PLACE = Effect("place")
ALIAS = Effect("alias")
CONTENT = Effect(by_content=True)


@dataclass
class TrainingOptions:
    """The run: its data, its recipe and its folders."""

    dataset: Annotated[str, OneOf(DATASETS)]
    """data set to train on"""
    root: Annotated[Path | None, PLACE] = None
    """folder of the data set ($FERC_DATA/<dataset> or data/<dataset> if not given)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, Rare] = ()
    """an option of the data set, written key=value; may be given several times (an unknown key is answered with the
    list of the known ones)"""
    protocol: Literal["paper", "released"] = "paper"
    """paper: follows the paper and fixes bugs of the FER-C release; released: reproduces that release, bugs included"""
    calib: Annotated[bool, ALIAS] = False  # of `loss`, which `name_loss` sets
    """use the calibrated loss; short for --loss maxent+mbls"""
    loss: str | None = None
    """training loss: ce (cross-entropy; the default), focal, maxent, mbls, maxent+mbls, invfocal, poly, avuc,
    soft-avuc, cpc; maxent-constant, maxent-aaai and maxent-gibbs, alone or with +mbls, are MaxEnt with another
    multiplier. docs/method.md describes all of them"""
    seed: int = 0
    """seed of the training: initialisation, order of images, augmentation, dropout, label noise (paper: 0, 1, 2)"""
    epochs: Annotated[int, Between(1)] = 20
    """number of epochs (paper: 5, 20 or 50, by data set)"""
    batch_size: int = 256
    """images in a batch, over all devices (paper: 256)"""
    lr: Annotated[float, Between(0, above=True), Rare] = 2.5e-4
    """learning rate of Adam, the same in all epochs unless --lr-decay is given (paper: 2.5e-4)"""
    lr_decay: Annotated[float, Between(0, above=True), Rare] = 1.0
    """factor by which all learning rates are multiplied after each epoch (paper: 1, which keeps them)"""
    weight_decay: Annotated[float, Between(0), Rare] = 1e-5
    """weight decay of Adam, added to the gradient (paper: 1e-5)"""
    image_size: Annotated[int, Between(32, 4096), Rare] = 224
    """side of the square images, in training and in scoring (pixels; paper: 224)"""
    weights: Annotated[str, CONTENT] = "imagenet"
    """weights to start from: imagenet, none, or a file"""
    class_weights: Annotated[Literal["none", "balanced", "released"], Rare] = "balanced"
    """weights of the K classes in the loss, where n_k of N training images are in class k; balanced: N / (K n_k),
    counted in the labels trained on; released: (largest n_k) / n_k, counted in the labels before label noise"""
    noise: Fraction = 0.0
    """fraction of training labels that are made wrong"""
    noise_rule: Annotated[Literal["exact", "released"], Rare] = "exact"
    """how labels are made wrong; exact: exactly that fraction, by the run's seed; released: drawn with replacement,
    where a label may also keep its class, always by seed 0"""
    augment: Annotated[Literal["none", "basic"], Rare] = "none"
    """augmentation of training images; basic: flip, shift and erase (paper: none)"""
    targets: Annotated[Literal["onehot", "fused"], Rare] = "onehot"
    """targets of training; fused: beta * one-hot + (1 - beta) * posterior of a Gaussian mixture over valence and
    arousal (see --gmm); where the data set has the annotators' distributions, these alone (paper: onehot)"""
    beta: Annotated[Fraction, Rare] = 0.5
    """weight of the given label in fused targets"""
    gmm: Annotated[Path | None, CONTENT, Rare] = None
    """file of the Gaussian mixture for fused targets, the gmm.json of a built set (if not given: it is fitted on the
    training split)"""
    skip_first_epoch: Annotated[bool, Rare] = False
    """whether the first epoch is left out of the choice of the best one, unless it is the only epoch (FER-C release:
    yes)"""
    runs: Annotated[Path, PLACE] = field(default_factory=run_folder.default_runs)
    """folder of all runs; this run gets a folder of its own there"""
    fresh: Annotated[bool, PLACE] = False
    """start over: delete what this run has written so far, scores and predictions included"""
    keep_last: Annotated[bool, PLACE, Rare] = False
    """keep last.pt, the checkpoint with the optimizer's state, when the run is finished"""
    track: Annotated[bool, PLACE, Rare] = False
    """mirror the run to Weights & Biases (needs requirements-optional.txt)"""


@dataclass
class LossOptions:
    """Constants of the losses. Those that the chosen loss does not have are ignored: they change neither the training
    nor the folder of its run."""

    gamma: Annotated[float, Between(0)] = 1.0
    """exponent of the focal and inverse focal terms (FER-C: 1; Lin et al.: 2)"""
    margin: Annotated[float, Between(0)] = 8.0
    """MbLS (margin-based label smoothing): largest gap between logits that costs nothing (FER-C release: 8; Liu et al.:
    10)"""
    mbls_weight: Annotated[float, Between(0)] = 1.0
    """weight of the MbLS term (FER-C release: 1; Liu et al.: 0.1)"""
    mbls_reduction: Literal["sum", "mean"] = "sum"
    """reduction of the MbLS term over classes (FER-C release: sum; Liu et al.: mean)"""
    maxent_multiplier: Literal["ferc", "constant", "aaai", "gibbs"] = "ferc"
    """multiplier of the MaxEnt (maximum entropy) constraint; ferc: as in the paper, one-sided and dependent on the
    order of the classes; constant, aaai, gibbs: see docs/method.md"""
    maxent_constraint: Literal["mean", "variance", "both"] = "mean"
    """moments that MaxEnt constrains (FER-C: mean; the others need the multiplier aaai)"""
    maxent_prior: Literal["uniform", "data"] = "uniform"
    """class frequencies for the multipliers aaai and gibbs; data: those of the labels trained on, as in the code of the
    MaxEnt paper, arXiv 2310.17159 (FER-C release: uniform)"""
    detach_multiplier: bool = True
    """whether the MaxEnt multiplier counts as a constant (--detach-multiplier), or gradients pass through it, as in the
    FER-C release (--no-detach-multiplier)"""

    def arguments(self, loss: str, frequencies: Any) -> dict[str, Any]:
        """The constants of a loss, as keyword arguments of `losses.build`.

        loss: a key of `CONSTANTS`. frequencies: float (K,), of the classes in the labels trained on.
        """
        arguments = {ARGUMENTS.get(option, option): getattr(self, option) for option in CONSTANTS[loss]}
        if "prior" in arguments:
            arguments["prior"] = frequencies if self.maxent_prior == "data" else None
        return arguments


@dataclass
class MachineOptions:
    """How training uses the machine."""

    precision: Annotated[Literal["auto", "32", "bf16"], Rare] = "auto"
    """precision of the arithmetic; auto: bf16 if the hardware computes in bf16 natively, else 32"""
    workers: Annotated[int, SPEED, Between(0)] = min(4, len(os.sched_getaffinity(0)))
    """processes that decode images where no cache holds them (0: the training process)"""
    compile: Annotated[bool, SPEED, Rare] = False
    """use torch.compile: the start takes a minute longer; whether the steps are faster then depends on the network
    (docs/benchmarks.md has what was measured)"""
    no_cuda_graphs: Annotated[bool, SPEED, Rare] = False
    """record no CUDA graphs: otherwise, on a single GPU and without --compile, the passes of a ResNet-18 are recorded
    and each is started as a whole, so that a step waits less for the processor"""
    deterministic: Annotated[bool, SPEED, Rare] = False
    """use only GPU algorithms that give the same bytes each time: a run that was interrupted then ends with the same
    bytes as one that was not (on CPUs it always does); slower"""
    cache: Annotated[Path | None, PLACE] = None
    """folder that keeps decoded images, for faster epochs (if not given: $FERC_CACHE or RUNS/cache, if it has them
    already, or they need less than 8 GB and at most a fifth of the free disk space; otherwise no cache)"""
    no_cache: Annotated[bool, PLACE, Rare] = False
    """keep no decoded images: every epoch decodes all of them again"""
    cache_on: Annotated[Literal["auto", "device", "host"], SPEED, Rare] = "auto"
    """where the images of the cache lie in training; device: all of them in the memory of the GPU; host: on the disk,
    and in free memory of the system; auto: device if they fill less than half of the GPU's free memory, other programs
    use at most 2 GiB of it, and no other job of the same sweep runs on it; else host"""


# --- the recipe ---


def recipe_filler(released: Mapping[str, Any], released_on: Mapping[str, Mapping[str, Any]] | None = None,
                  usual_on: Mapping[str, Mapping[str, Any]] | None = None) -> Callable[[Any], Any]:
    """The function that `cli.read_options` takes as `fill_defaults`: it fills in the recipe for the data set and
    protocol of an `Args`.

    released: the script's values with `--protocol released`. released_on: data set -> its values for that data set.
    usual_on: data set -> the script's values for that data set under both protocols, for options of its own.
    """
    def fill_defaults(args: Any) -> Any:
        # `args` is a first reading of the command line. The second one adds every --data to the defaults again.
        options = dataclasses.replace(args.options, data=())
        values = recipe_values(options.dataset, options.protocol, released, released_on or {})
        values.update((usual_on or {}).get(options.dataset, {}))
        return with_values(dataclasses.replace(args, options=options), values)
    return fill_defaults


def recipe_values(dataset: str, protocol: str, released: Mapping[str, Any],
                  released_on: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values that take the place of the defaults at the fields, option -> value. Raises ValueError where
    `datasets.RECIPES` names something that is no field of `TrainingOptions`."""
    values = dict(RECIPES.get(dataset, {}))
    released_of_data_set = dict(values.pop("released", {}))
    known = {entry.name for entry in dataclasses.fields(TrainingOptions)}
    unknown = (values.keys() | released_of_data_set.keys()) - known
    if unknown:
        raise ValueError(f"RECIPES[{dataset!r}] names {', '.join(sorted(unknown))}, no field of TrainingOptions")
    if protocol == "released":
        values.update(RELEASED)
        values.update(released)
        values.update(released_on.get(dataset, {}))
        values.update(released_of_data_set)
    return values


def with_values(args: Any, values: Mapping[str, Any]) -> Any:
    """A copy of an `Args` with these values in its groups. Raises ValueError for a name that no group has."""
    groups = {}
    unknown = set(values)
    for group in dataclasses.fields(args):
        options = getattr(args, group.name)
        own = {entry.name: values[entry.name] for entry in dataclasses.fields(options) if entry.name in values}
        groups[group.name] = dataclasses.replace(options, **own)
        unknown -= own.keys()
    if unknown:
        raise ValueError(f"a recipe names {', '.join(sorted(unknown))}, no option of {type(args).__module__}")
    return dataclasses.replace(args, **groups)


def usual_values(args: Any, released: Mapping[str, Any], released_on: Mapping[str, Mapping[str, Any]] | None = None,
                 usual_on: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The recipe's value of every option that changes the result, for the data set and the protocol of `args`.

    The recipe's protocol is `paper`, so that a run with the other protocol differs from it. Options that the path of
    the run's folder states are left out, and so are constants that the loss of `args` does not have. released,
    released_on, usual_on: as in `recipe_filler`.
    """
    options = type(args.options)(dataset=args.options.dataset, protocol=args.options.protocol)
    usual = recipe_filler(released, released_on, usual_on)(type(args)(options=options))
    usual.options.loss = args.options.loss
    name_loss(usual.options, usual.constants)  # a multiplier that the loss's name states is no setting of its own
    values = flat(usual) | {"protocol": TrainingOptions.protocol}
    results = {name for name, effect in effects(type(args)).items() if effect.on == "result"}
    results -= {*run_folder.PATH_SETTINGS, *unused_constants(usual.options.loss)}
    return {name: value for name, value in values.items() if name in results}


def unused_constants(loss: str) -> set[str]:
    """The options of `LossOptions` that are no constants of a loss. loss: its full name (`name_loss`)."""
    options = {entry.name for entry in dataclasses.fields(LossOptions)}
    return options - set(CONSTANTS.get(loss, options))


# --- checks ---


def check(args: Any) -> None:
    """Raises UserError where an option has an invalid value. Also sets the loss to its full name (`name_loss`).

    A script calls it before it imports torch, and `start_training` calls it again: a program may call the script's
    `main` without a command line."""
    options = args.options
    if options.dataset not in DATASETS:
        raise UserError(f"unknown data set {options.dataset!r}; known: {', '.join(DATASETS)}")
    given = options.loss
    name_loss(options, args.constants)
    if options.calib and given not in (None, CALIBRATED, options.loss):
        raise UserError(f"--calib is short for --loss {CALIBRATED}; it does not go with --loss {given}")
    if options.loss not in CONSTANTS:
        raise UserError(f"unknown loss {options.loss!r}; known: {', '.join(CONSTANTS)}")
    cli.check_values(args)
    if options.noise == 1:
        raise UserError("--noise is the fraction of wrong training labels; it has to be below 1")
    if args.machine.no_cache and args.machine.cache is not None:
        raise UserError(f"--cache {args.machine.cache} and --no-cache contradict each other")
    if args.machine.no_cache and args.machine.cache_on == "device":
        raise UserError("--cache-on device needs decoded images; it does not go with --no-cache")
    processes = process_count()
    if options.batch_size < 2 * processes:
        raise UserError(f"--batch-size has to be at least {2 * processes}, two images a process, not "
                        f"{options.batch_size}")


def process_count() -> int:
    """The number of processes that torchrun has started for this training; 1 without it. Raises UserError where the
    environment holds no number."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"WORLD_SIZE, which torchrun sets, is {text!r} in the environment, and no number of processes")
    return int(text)


def name_loss(options: TrainingOptions, constants: LossOptions) -> None:
    """Set `options.loss` and `constants.maxent_multiplier` to values that fit together, as args.json holds them.

    `options.loss` gets its full name: `CALIBRATED` with `--calib`, "ce" if no loss is given, and the multiplier of
    MaxEnt if it is not the paper's: `--loss maxent+mbls --maxent-multiplier aaai` becomes maxent-aaai+mbls.
    `constants.maxent_multiplier` gets the multiplier that the name states. Raises UserError where the name and
    `--maxent-multiplier` contradict each other.
    """
    name = CALIBRATED if options.calib else options.loss or "ce"
    first, plus, rest = name.partition("+")
    if first == "maxent" and constants.maxent_multiplier != PUBLISHED_MULTIPLIER:
        first = f"maxent-{constants.maxent_multiplier}"
    elif first.startswith("maxent-"):
        multiplier = first.removeprefix("maxent-")
        if constants.maxent_multiplier not in (PUBLISHED_MULTIPLIER, multiplier):
            raise UserError(f"--loss {options.loss} does not go with --maxent-multiplier "
                            f"{constants.maxent_multiplier}")
        constants.maxent_multiplier = multiplier  # type: ignore[assignment]  # `check` refuses unknown names
    options.loss = first + plus + rest


# --- options as args.json holds them ---


def flat(args: Any) -> dict[str, Any]:
    """The options of all groups in one dict of JSON values, as args.json holds them."""
    values: dict[str, Any] = {}
    for group in dataclasses.asdict(args).values():
        values.update(group)
    return json.loads(json.dumps(values, default=str))


def effects(Args: type) -> dict[str, Effect]:
    """What every option of a script has an effect on, option -> the `Effect` declared at its field. Args: the script's
    class of options, or one of its groups."""
    declared: dict[str, Effect] = {}
    for name, annotation in get_type_hints(Args, include_extras=True).items():
        kind, marks = cli.without_annotations(annotation)
        if dataclasses.is_dataclass(kind):
            declared.update(effects(kind))
        else:
            own = [mark for mark in marks if isinstance(mark, Effect)]
            declared[name] = own[0] if own else Effect()
    return declared


def contents(args: Any) -> dict[str, str]:
    """The digests of files that options name, for the options whose content counts: option -> `digest_of_file`."""
    digests = {}
    values = flat(args)
    for name, effect in effects(type(args)).items():
        if effect.by_content and values[name] and Path(values[name]).is_file():
            digests[name] = run_folder.digest_of_file(Path(values[name]))
    return digests
