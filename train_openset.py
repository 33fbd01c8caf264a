"""Open-set FER: a face whose expression fits none of the trained classes is to be told from the others.

Paper: Zhang et al., Open-Set Facial Expression Recognition, AAAI 2024, arXiv:2401.12507. Some classes are open: no
model is trained on them. The paper's idea: let a closed model predict classes for all images, and train a new model on
these pseudo labels with a loss that resists wrong labels. Open images, whose pseudo label is always wrong, keep a high
loss. docs/openset.md describes the protocol, what the released code does differently, and the findings.

Four stages in one run folder, each of which goes on after an interruption:
- the closed model is trained without the open classes; its last epoch counts;
- it predicts a pseudo label for every image of a pool;
- detectors are trained on the pool with pseudo labels: attention maps of an image and of its mirror image have to
  agree, and two networks choose images for each other;
- open scores: -log of the detector's probability of the pseudo label, and six baselines from the closed model alone.

Cost: a run of the demo takes two to three minutes on one core (2.5 GHz, shared), measured.

  python train_openset.py --dataset demo --open surprise              needs no data
  python train_openset.py --dataset rafdb --root DIR --open surprise,fear --pools test paper
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import open_set
from support import cli, run_folder
from support.cli import Between, Fraction, OneOf, Rare
from support.errors import UserError
from support.files import lock
from training.options import CONTENT, PLACE, LossOptions, MachineOptions, TrainingOptions, process_count, recipe_filler

RELEASED: dict[str, Any] = {}  # nothing of its own: training/options.py says what --protocol released changes
RELEASED_ON: dict[str, dict[str, Any]] = {}
# Values for one data set: the demo is small, and has to be fast.
USUAL_ON: dict[str, dict[str, Any]] = {
    "demo": {"detector_epochs": 4, "cycles": 2, "detector_batch_size": 16, "warm_up": 1, "ramp": 2, "neighbours": 10}}


EXTRAS = run_folder.OPEN_SET_EXTRAS  # defaults of the options that change no score


@dataclass
class OpenSetOptions:
    """Open classes and scoring. Zhang et al.: Open-Set Facial Expression Recognition, AAAI 2024, arXiv:2401.12507."""

    open: str = ""
    """names of the open classes, as in surprise or surprise,fear (required; it has no default)"""
    pools: Annotated[tuple[str, ...], OneOf(run_folder.POOLS), PLACE] = EXTRAS["pools"]
    """images that are scored; test: all test images; paper: also all images of the open classes in the other splits, as
    Zhang et al. did; paper-permuted and paper-random show what wrong pseudo labels make (docs/openset.md)"""
    scorings: Annotated[tuple[str, ...], OneOf(run_folder.SCORINGS), PLACE, Rare] = EXTRAS["scorings"]
    """ways of scoring; transductive: the detector is trained on the images that it scores; inductive: it is trained on
    the other half of them"""
    set: Annotated[tuple[Path, ...], PLACE] = EXTRAS["set"]
    """built sets of the test split: their corrupted images are scored too, by detectors that are trained on clean
    images of the other half of the pool test"""
    backbone: Annotated[str, Rare] = "resnet18"
    """network of the closed model: resnet18, or any name that timm.list_models() gives (released code:
    ResNet-18)"""
    neighbours: Annotated[int, Between(1), Rare] = open_set.NEIGHBOURS
    """k of the baseline nearest_neighbours (Sun et al.: 50 on CIFAR-10)"""
    mirror: Annotated[bool, Rare] = False
    """whether a detector's score is the mean over an image and its mirror image (released code: no)"""
    keep_snapshots: Annotated[bool, PLACE, Rare] = EXTRAS["keep_snapshots"]
    """keep the weights of detectors (45 MB for each network and cycle), so that other sets can be scored later without
    a new training"""


@dataclass
class Detector:
    """Training of detectors. The released code (of Zhang et al.) trains one network on all images, in one cycle with an
    exponential schedule. The paper does not state the values of its cyclic training; those here are this project's."""

    networks: Annotated[int, Between(1, 2)] = 2
    """networks that teach each other (Zhang et al.: 2; released code: 1)"""
    detector_backbone: Annotated[str, Rare] = "resnet18"
    """their architecture: resnet18, or a name of timm.list_models() whose features are the mean of a map (this
    project's: resnet18, as the closed model; released code: ResNet-50)"""
    detector_epochs: Annotated[int, Between(1)] = 30
    """number of epochs (released code: 30)"""
    detector_batch_size: Annotated[int, Between(2)] = 128
    """images in a batch (released code: 128)"""
    detector_lr: Annotated[float, Between(0, above=True), Rare] = 2e-4
    """learning rate of Adam (released code: 1e-4 with ResNet-50; its parent method EAC advises 2e-4 with ResNet-18)"""
    detector_weight_decay: Annotated[float, Between(0), Rare] = 1e-4
    """weight decay of Adam, added to the gradient (released code: 1e-4)"""
    detector_weights: Annotated[str, CONTENT, Rare] = ""
    """weights that each network starts from, as for --weights (default: those of --weights; Zhang et al.: none, "from
    scratch"; released code: of VGGFace2)"""
    consistency: Annotated[float, Between(0)] = 6.0
    """weight of the consistency of attention maps (released code: 6)"""
    schedule: Annotated[Literal["cosine", "exponential"], Rare] = "cosine"
    """learning rate over the epochs; cosine: falls along half a cosine in every cycle (Zhang et al.: cyclical);
    exponential: times 0.9 after every epoch of a cycle (released code, with one cycle)"""
    cycles: Annotated[int, Between(1)] = 3
    """cycles of the learning rate, each with a snapshot; the score is the mean over snapshots (this project's: 3)"""
    lowest_lr: Annotated[float, Between(0), Rare] = 1e-6
    """learning rate towards the end of a cosine cycle (this project's: 1e-6)"""
    warm_up: Annotated[int, Between(1), Rare] = 5
    """epochs on all images before networks choose (this project's: 5)"""
    left_out: Fraction = 0.3
    """with --selection fraction: fraction of images of every pseudo class, those with the largest losses, that a
    network leaves out of the other one's training (this project's: 0.3; 0: both train on all images)"""
    ramp: Annotated[int, Between(1), Rare] = 10
    """with --selection fraction: epochs in which this fraction rises from 0 (this project's: 10)"""
    selection: Annotated[Literal["fraction", "mixture"], Rare] = "fraction"
    """how images are chosen; fraction: by --left-out; mixture: two Gaussians fitted to the losses (DivideMix)"""
    view_noise: Annotated[Fraction, Rare] = 0.5
    """probability that an image gets Gaussian noise (released code: 0.5)"""
    view_variance: Annotated[float, Between(0), Rare] = 30.0
    """variance of that noise (grey levels squared; released code: 30)"""
    view_erase: Annotated[Fraction, Rare] = 0.5
    """probability that a box of an image is erased (released code: 0.5)"""


@dataclass
class Args:
    options: TrainingOptions
    open_set: OpenSetOptions = field(default_factory=OpenSetOptions)
    detector: Detector = field(default_factory=Detector)
    constants: Annotated[LossOptions, cli.Rare] = field(default_factory=LossOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)


# --- the options ---


def check(args: Args) -> Args:
    """The options with the names of open classes as folders have them. Raises UserError where one makes no sense or has
    no effect."""
    from datasets.open_classes import open_name  # it imports pandas, for which --help need not wait

    if not args.open_set.open:
        raise UserError("--open names the classes that are open, as in --open surprise or --open surprise,fear")
    cli.check_values(args)
    if args.open_set.set and ("test" not in args.open_set.pools or "inductive" not in args.open_set.scorings):
        raise UserError("--set needs the pool test and the scoring inductive")
    refuse_options(args)
    if args.detector.detector_epochs % args.detector.cycles:
        raise UserError(f"--detector-epochs {args.detector.detector_epochs} cannot be divided into --cycles "
                        f"{args.detector.cycles}")
    if process_count() > 1:
        raise UserError("open-set training uses one device; start one process for each run (bash run.sh --open-set)")
    named = dataclasses.replace(args.open_set, open=open_name(args.open_set.open))
    return dataclasses.replace(args, open_set=named)


def refuse_options(args: Args) -> None:
    """Raises UserError for options that open-set training does not allow, and for those that would only change the name
    of the folder."""
    usual = recipe_filler(RELEASED, RELEASED_ON, USUAL_ON)(Args(TrainingOptions(args.options.dataset)))
    options, detector = args.options, args.detector
    if (options.targets, options.beta, options.gmm) != (usual.options.targets, usual.options.beta, None):
        raise UserError("--targets fused, --beta and --gmm are not for open-set training: fused targets know the open "
                        "classes")
    if options.skip_first_epoch and options.protocol != "released":  # the recipe of that protocol sets it
        raise UserError("--skip-first-epoch has no effect in open-set training: the last epoch counts")
    is_usual = (detector.left_out, detector.ramp) == (usual.detector.left_out, usual.detector.ramp)
    if detector.selection == "mixture" and not is_usual:
        raise UserError("--left-out and --ramp have no effect with --selection mixture; leave them out")


if __name__ == "__main__":  # before torch is imported, which takes seconds: help and errors come at once
    ARGS = cli.read_options(Args, recipe_filler(RELEASED, RELEASED_ON, USUAL_ON), check)

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import losses
import metrics
from building.built_set import BuiltSet, open_built_set
from compute.devices import deterministic_algorithms
from models.augment import noise_and_erase
from models.detector import DetectorNetworks
from models.resnet import ResNet18
from models.swinv2 import TimmModel
from training.open_set.inference import check_kind_and_size
from training.open_set.run import Pool, open_set_run
from training.open_set.scores import has_scores, summary_lines
from training.open_set.stages import ClosedTraining, start_detector
from training.run import start_training


def main(args: Args) -> None:
    args = check(args)
    sets = built_sets(args)
    with deterministic_algorithms(args.machine.deterministic):
        folder = train_closed_model(args)
        with lock(folder, "working in"):
            if has_all_scores(args, folder, sets):
                print(f"{folder} is scored; --fresh starts over", flush=True)
            else:
                detect(args, folder, sets)
            print_scores(folder)


def built_sets(args: Args) -> dict[str, BuiltSet]:
    """The sets of --set by name, opened. Raises UserError where a folder holds no built set, two have one name, or
    one has sequences or images of another size."""
    sets = {path.resolve().name: open_built_set(path) for path in args.open_set.set}
    if len(sets) < len(args.open_set.set):
        raise UserError("--set names two folders of one name; rename one of them")
    for built in sets.values():  # before hours of training; check_set compares the images later
        check_kind_and_size(built, args.options.image_size)
    return sets


# --- stage 1: the closed model ---


def train_closed_model(args: Args) -> Path:
    """Train the closed model, if it is not yet. Returns the folder of the run."""
    with start_training(args, __file__, RELEASED, RELEASED_ON, ClosedTraining, USUAL_ON) as training:
        if training.finished:
            return training.folder
        criterion = training.criterion()
        if args.open_set.backbone == "resnet18":
            model = ResNet18(training.num_classes, args.options.image_size)
        else:
            model = TimmModel(training.num_classes, args.options.image_size, args.open_set.backbone)
        optimizer = torch.optim.Adam(model.parameters(), lr=args.options.lr, weight_decay=args.options.weight_decay,
                                     fused=True)
        model, optimizer = training.setup(model, optimizer)
        for epoch in training.epochs():
            model.train()
            for image, index in training.batches(epoch):
                terms = criterion.terms(model(image), training.target(index))
                optimizer.zero_grad()
                training.fabric.backward(sum(terms.values()))
                optimizer.step()
                training.end_step(terms)
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))
        return training.folder


# --- stages 2 to 4: pseudo labels, detectors, scores ---


def detect(args: Args, folder: Path, sets: dict[str, BuiltSet]) -> None:
    """Everything after the closed training. folder: of the run. sets: of `built_sets`."""
    run = open_set_run(args, folder, sets)  # the data, and what the closed model computes for them
    for name in args.open_set.pools:
        pool = run.pool(name)  # with its pseudo labels
        for subset in run.missing_subsets(pool):
            if not run.is_trained(pool, subset):
                train_detector(args, run.detector_folder(pool, subset), pool, subset)
            run.score_detector(pool, subset)
        run.score_sets(pool)
        run.write_scores(pool)
    run.finish()


def train_detector(args: Args, folder: Path, pool: Pool, subset: str) -> None:
    """Train a detector. folder: of the detector. subset: all, or a half of the pool."""
    detector = args.detector
    print(f"detector on {pool.name} ({subset})", flush=True)
    with start_detector(args, folder, pool.images, pool.labels, pool.rows(subset), pool.classes) as training:
        networks = DetectorNetworks(len(pool.classes), args.options.image_size, detector.networks, len(pool.labels),
                                    detector.detector_backbone)
        optimizer = torch.optim.Adam(networks.parameters(), lr=detector.detector_lr,
                                     weight_decay=detector.detector_weight_decay, fused=True)
        networks, optimizer = training.setup(networks, optimizer)
        for epoch in training.epochs():
            training.set_learning_rate(learning_rate(detector, epoch))
            kept = images_of_epoch(detector, epoch, training.losses(), training.pseudo_labels)
            training.choose(kept)
            networks.train()
            for number, image, index in training.batches_of_networks(epoch):
                view = noise_and_erase(image, detector.view_noise, detector.view_variance, detector.view_erase)
                logits, maps = networks(view, number)
                _, mirrored = networks(view.flip(-1), number)  # of the same view: erased first, then mirrored
                terms = {"ce": cross_entropy(logits.float(), training.target(index)),
                         "consistency": detector.consistency * losses.attention_consistency(maps, mirrored)}
                optimizer.zero_grad()  # the other network has no gradients, and its step is left out
                training.fabric.backward(sum(terms.values()))
                optimizer.step()
                training.end_step(terms)
            training.measure(networks)  # the losses on clean views; a snapshot at the end of a cycle
            training.end_detector_epoch(kept)


def learning_rate(detector: Detector, epoch: int) -> float:
    """The learning rate of an epoch, from 0."""
    if detector.schedule == "cosine":
        return open_set.cyclical_rate(epoch, detector.detector_epochs, detector.cycles, detector.detector_lr,
                                      detector.lowest_lr)
    return detector.detector_lr * 0.9 ** (epoch % (detector.detector_epochs // detector.cycles))


def images_of_epoch(detector: Detector, epoch: int, losses_by_network: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images that each network is trained on in an epoch, bool (M, n). losses_by_network: float (M, n), after the
    previous epoch. labels: int (n,), pseudo labels. A network is trained on what the other one has chosen; a single one
    on its own choice."""
    since_warm_up = epoch - detector.warm_up
    if since_warm_up < 0:
        return np.ones(losses_by_network.shape, bool)
    choices = losses_by_network[::-1]
    if detector.selection == "mixture":
        return np.stack([open_set.kept_by_mixture(values, labels) for values in choices])
    left_out = open_set.left_out_fraction(since_warm_up, detector.ramp, detector.left_out)
    return np.stack([open_set.kept_images(values, labels, left_out) for values in choices])


# --- what is printed ---


def has_all_scores(args: Args, folder: Path, sets: dict[str, BuiltSet]) -> bool:
    """Whether the run has all scores that the options ask for."""
    versions = {name: built.manifest["set_version"] for name, built in sets.items()}
    return has_scores(folder, args.open_set.pools, args.open_set.scorings, versions)


def print_scores(folder: Path) -> None:
    """Print AUROC and FPR@TPR95 of every detector for every pool, on clean images."""
    print("\n".join([*summary_lines(folder), f"scores: {folder / run_folder.OPEN_SCORES_FILE}"]), flush=True)


if __name__ == "__main__":
    cli.call(main, ARGS)
