"""DMUE: Dive into Ambiguity (She et al., CVPR 2021, arXiv:2104.00232).

Idea: an image may show more than one expression. For each class there is an expert that does not know this class; for
an image of this class it says which other expressions the image shows.

Network: the baseline's ResNet-18, and for each class an expert: a copy of the last stage that learns all other
classes. A confidence for each image multiplies its logits in training.

Loss: the chosen loss on these logits, plus three terms. latent: the probabilities of the wrong classes have to be those
that the expert of the image's own class gives. This expert knows all classes but that one, and its probabilities are
the latent label distribution of the image. similarity: images have to be as similar to each other in the experts as in
the main branch. auxiliary: cross-entropy of the experts.

Ramp: the weight of all terms but auxiliary rises to 1 in the first epochs (--ramp). After that the weight of auxiliary
falls.

"DMUE release" is the code of She et al., "FER-C release" that of FER-C.

Paper: --protocol paper trains the confidence (in both releases no optimizer holds its parameters), runs each expert
once a step, compares experts by their features, and leaves classes that a batch lacks out of the confidence.

Released: --protocol released does not train the confidence, runs each expert twice a step, compares experts by their
logits, and counts the similarity to classes that a batch lacks as 0. The terms that rise have hardly any weight in the
first epoch (0.007), and their full weight from the second epoch on; the MbLS term has its full weight always. The
network has the stem (first layers) of the MS-Celeb weights from which the FER-C release starts; --weights PATH gives
them. As for every algorithm, the protocol also changes what training/options.py lists in `RELEASED`.

Inference: only the main branch is used, so it costs no more than the baseline.

Cost: 22 s an epoch of an earlier demo (448 images of 48 pixels) on one core (2.5 GHz), measured.

  python train_DMUE.py --dataset affectnet --calib
  torchrun --nproc-per-node 4 train_DMUE.py --dataset affectnet
  python train_DMUE.py --dataset demo                           needs no data
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

from dataclasses import dataclass, field

from support import cli
from training.options import LossOptions, MachineOptions, TrainingOptions, check, recipe_filler
# Lines between the marks `algorithm` and `shared` are this algorithm's own; all others are the same in five scripts.
# --- algorithm ---
from typing import Annotated, Literal

RELEASED = {"train_confidence": False, "ramp": 0.6, "ramp_margin": False, "experts": "split", "missing": "zero",
            "similarity": "logits", "stem": "dmue"}
RELEASED_ON = {}


@dataclass
class Options(TrainingOptions):
    """The run: its data, its recipe and its folders."""

    batch_size: int = 128
    """images in a batch, over all devices (FER-C release, for DMUE: 128)"""


@dataclass
class Algorithm:
    """Dive into Ambiguity: latent label distributions and pairwise uncertainty."""

    classifier_lr: Annotated[float, cli.Between(0)] = 1e-3
    """learning rate of the classifiers and of the confidence (FER-C release, and DMUE release at the start: 1e-3)"""
    train_confidence: bool = True
    """whether the layers of the confidence are trained; if not, they stay as they are initialised (DMUE release and
    FER-C release: no)"""
    ramp: Annotated[float, cli.Between(0, above=True)] | None = None
    """epochs until all terms but auxiliary have their full weight (if not given: a sixth of all epochs, rounded, at
    least 1; DMUE release: 6 to 14 of 36; FER-C release: 0.6)"""
    ramp_margin: bool = True
    """whether the ramp applies to the MbLS term too; if not, this term always has its full weight (FER-C release:
    no)"""
    soft_weight: float = 0.5
    """weight of the term latent; "soft" stands for its targets, the latent label distributions (DMUE release: 0.5)"""
    similarity_weight: float = 1000.0
    """weight of the similarity term (DMUE release: 1000)"""
    temperature: Annotated[float, cli.Between(0, above=True)] = 1.2
    """temperature of the latent label distributions; above 1 they become flatter (DMUE release: 1.2)"""
    renormalise: bool = False
    """whether the probabilities of the wrong classes are scaled to the sum 1 before they are compared with the latent
    label distribution (DMUE release and FER-C release: no)"""
    similarity: Literal["features", "logits"] = "features"
    """output of the experts that the similarity term compares (DMUE release and FER-C release: logits)"""
    experts: Literal["joint", "split", "eval"] = "joint"
    """how an expert is run in a step; joint: once, on the whole batch; split: twice, on the images of all other classes
    and then on those of its own class (DMUE release and FER-C release); eval: as split, with running BatchNorm
    statistics for the images of its own class"""
    missing: Literal["mask", "zero"] = "mask"
    """how the confidence treats classes that a batch lacks; mask: it leaves them out; zero: it counts the similarity to
    them as 0 (FER-C release)"""
    stem: Literal["standard", "dmue"] = "standard"
    """first layers; dmue: 2x2 pooling and no ReLU, for the FER-C release's MS-Celeb weights"""
    normalize: Literal["imagenet", "half"] = "imagenet"
    """normalisation of images; half: to -1..1, as the MS-Celeb weights were trained (FER-C release: imagenet)"""
    neck: bool = False
    """whether a BatchNorm without bias precedes the classifiers, one for all branches (DMUE release: yes; FER-C
    release: no)"""
    dropout: cli.Fraction = 0.0
    """dropout before the classifiers, as a fraction (DMUE release: 0.5; FER-C release: 0)"""
    test_scale: bool = False
    """whether logits at inference are multiplied by the mean confidence of training (DMUE release and FER-C release:
    no)"""


@dataclass
class Args:
    options: Options
    algorithm: Annotated[Algorithm, cli.Rare] = field(default_factory=Algorithm)
    constants: Annotated[LossOptions, cli.Rare] = field(default_factory=LossOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
# --- shared ---

if __name__ == "__main__":  # before torch is imported, which takes seconds: help and errors come at once
    ARGS = cli.read_options(Args, recipe_filler(RELEASED, RELEASED_ON), check)

import torch

import metrics
from training.run import start_training
# --- algorithm ---
import math

from torch.nn import functional as F

from models.dmue import DMUE, Output


def ramps(epoch: int, length: float) -> tuple[float, float]:
    """(weight of all terms but auxiliary, which rises to 1 until epoch `length`; weight of the term auxiliary, which
    falls from 1 after it), section 3.4 of the paper. epoch: counted from 0."""
    rising = 1 if epoch > length else math.exp(-5 * (1 - epoch / length) ** 2)
    falling = 1 if epoch < length else math.exp(-((1 - length / epoch) ** 2))
    return rising, falling


def mean_over_experts(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean over the experts of the mean over their images; an expert without images is left out.

    values: (K, ...), for each expert. counted: bool (K, ...), which values count for each expert. Returns a scalar.
    """
    counts = counted.flatten(1).sum(1)
    means = (values * counted).flatten(1).sum(1) / counts.clamp_min(1)
    return means.sum() / (counts > 0).sum()


def auxiliary_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each expert on the images that are not of its own class (eq. 1); a scalar.

    logits: (K, B, K - 1), of expert c over the classes other than c. labels: int64 (B,).
    """
    own_class = torch.arange(len(logits), device=labels.device)[:, None]
    target = (labels - (labels > own_class).long()).clamp(max=logits.shape[2] - 1)  # index among the other classes
    values = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    return mean_over_experts(values, labels != own_class)


def similarity_loss(experts: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between the similarities of images in each expert and in the main branch (eq. 6); a
    scalar.

    experts: (K, B, D). features: (B, D'), of the main branch. labels: int64 (B,). The similarities of an image are the
    vector of its inner products with the images of the batch, scaled to length 1. Images of an expert's own class do
    not count.
    """
    counted = labels != torch.arange(len(experts), device=labels.device)[:, None]
    pairs = counted[:, :, None] & counted[:, None, :]
    difference = F.normalize(experts @ experts.mT * pairs, dim=2) - F.normalize(features @ features.T * pairs, dim=2)
    return mean_over_experts(difference ** 2, pairs)


def latent_distribution(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Latent label distributions (B, K), 0 at the image's own class (eqs. 2, 3).

    logits: (B, K - 1), of the expert of each image's own class. labels: int64 (B,).
    """
    classes = torch.arange(logits.shape[1], device=labels.device).expand_as(logits)
    q = (logits.float() / temperature).softmax(1)
    return q.new_zeros(len(q), q.shape[1] + 1).scatter(1, classes + (classes >= labels[:, None]).long(), q)


def latent_loss(logits: torch.Tensor, labels: torch.Tensor, latent: torch.Tensor,
                renormalise: bool = False) -> torch.Tensor:
    """Squared difference of probabilities and latent label distribution (eq. 4), summed over the wrong classes and
    divided by K; a scalar, the mean over the batch.

    logits, latent: (B, K). labels: int64 (B,). renormalise: scale the probabilities of the wrong classes to the sum 1.
    """
    own_class = F.one_hot(labels, logits.shape[1]).bool()
    if renormalise:
        p = logits.masked_fill(own_class, -torch.inf).softmax(1)
    else:
        p = logits.softmax(1).masked_fill(own_class, 0)
    return F.mse_loss(p, latent)


def all_terms(criterion: torch.nn.Module, out: Output, target: torch.Tensor, labels: torch.Tensor,
              algorithm: Algorithm, weights: tuple[float, float]) -> dict[str, torch.Tensor]:
    """The terms of a step. out: of the network. target: int64 (B,) or distributions (B, K). labels: int64 (B,).
    weights: of all terms but auxiliary, and of auxiliary, as `ramps` gives them."""
    rising, falling = weights
    terms = criterion.terms(out.confidence[:, None] * out.logits, target)
    for name in terms:
        if algorithm.ramp_margin or name != "mbls":
            terms[name] = terms[name] * rising
    latent = latent_distribution(out.latent, labels, algorithm.temperature)
    compared = out.expert_features if algorithm.similarity == "features" else out.expert_logits
    return terms | {
        "latent": rising * algorithm.soft_weight * latent_loss(out.logits, labels, latent, algorithm.renormalise),
        "similarity": rising * algorithm.similarity_weight * similarity_loss(compared, out.features, labels),
        "auxiliary": falling * auxiliary_loss(out.expert_logits, labels),
    }
# --- shared ---


def main(args: Args) -> None:
    with start_training(args, __file__, RELEASED, RELEASED_ON) as training:
        if training.finished:
            return
        criterion = training.criterion()
        # --- algorithm ---
        algorithm = args.algorithm
        ramp = max(1, round(args.options.epochs / 6)) if algorithm.ramp is None else algorithm.ramp
        model = DMUE(training.num_classes, args.options.image_size, algorithm.stem, algorithm.normalize,
                     algorithm.experts, algorithm.missing, algorithm.test_scale, algorithm.neck, algorithm.dropout)
        model.confidence.requires_grad_(algorithm.train_confidence)
        classifiers, others = [], []  # the confidence has the learning rate of the classifiers
        for name, parameter in model.named_parameters():
            is_classifier = "classifier" in name or "confidence" in name
            (classifiers if is_classifier else others).append(parameter)
        groups = [{"params": others}, {"params": classifiers, "lr": algorithm.classifier_lr}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.options.lr, weight_decay=args.options.weight_decay, fused=True)
        model, optimizer = training.setup(model, optimizer)
        for epoch in training.epochs():
            model.train()
            for image, index in training.batches(epoch):
                target = training.target(index)
                # --- algorithm ---
                labels = training.labels[index]
                weights = ramps(epoch, ramp)
                terms = all_terms(criterion, model(image, labels), target, labels, algorithm, weights)
                # --- shared ---
                optimizer.zero_grad()
                training.fabric.backward(sum(terms.values()))
                optimizer.step()
                training.end_step(terms)
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.call(main, ARGS)
