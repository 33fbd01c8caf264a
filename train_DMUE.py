"""DMUE: Dive into Ambiguity (She et al., CVPR 2021, arXiv:2104.00232).

Adds to the baseline: for each class an expert that learns all the others, whose opinion on images of its own class is
their latent label distribution; a confidence that scales the logits in training; and a term that makes images relate
to each other alike in all branches. A test takes the main branch alone, at the price of the baseline.
--protocol paper trains the confidence (in both published codes no optimizer holds it), runs each expert once a step
and masks classes that a batch lacks. --protocol released: untrained, two passes, experts compared by their logits,
ramps that are over after one epoch, and the stem of the release's MS-Celeb weights, to be given with --weights PATH.
  python train_DMUE.py --dataset affectnet --calib
  torchrun --nproc-per-node 4 train_DMUE.py --dataset affectnet
  python train_DMUE.py --dataset demo                           no data; measured: 22 s an epoch on one core (2.5 GHz)
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

from dataclasses import dataclass, field

import torch

import cli
import harness
import metrics
import settings
# --- algorithm ---
import math
from typing import Annotated, Literal

from torch.nn import functional as F

from models.dmue import DMUE

RELEASED = {"train_confidence": False, "ramp": 0.6, "ramp_margin": False, "experts": "split", "missing": "zero",
            "similarity": "logits", "stem": "dmue", "nll_batch": 128}


@dataclass
class Run(settings.Run):
    """What you always set."""

    batch_size: int = 128
    """over all devices together (published for DMUE: 128)"""


@dataclass
class Algorithm:
    """Dive into Ambiguity: latent distributions and pairwise uncertainty."""

    classifier_lr: Annotated[float, cli.Between(0)] = 1e-3
    """of the classifiers and the confidence (FER-C release, authors' start: 1e-3)"""
    train_confidence: bool = True
    """the confidence's layers learn (in the authors' and the FER-C release they do not)"""
    ramp: Annotated[float, cli.Between(0, above=True)] | None = None
    """epochs until the main loss counts fully (default: a sixth of the run; authors: 6 to 14 of 36; FER-C: .6)"""
    ramp_margin: bool = True
    """MbLS counts by that ramp too (FER-C release: it does not)"""
    soft_weight: float = 0.5
    """of the latent distributions' term (authors: .5)"""
    similarity_weight: float = 1000.0
    """of the similarity term (authors: 1000)"""
    temperature: Annotated[float, cli.Between(0, above=True)] = 1.2
    """of the latent distributions; above 1 it flattens them (authors: 1.2)"""
    renormalise: bool = False
    """rescale the wrong classes' probabilities to sum to 1 before the latent distribution is compared (authors: no)"""
    similarity: Literal["features", "logits"] = "features"
    """of the experts, in the similarity term (authors' and FER-C release: logits)"""
    experts: Literal["joint", "split", "eval"] = "joint"
    """joint: one pass of the batch. split: own class apart (releases). eval: that with running BatchNorm statistics"""
    missing: Literal["mask", "zero"] = "mask"
    """classes that a batch lacks: left out, or similarity 0 (FER-C release)"""
    stem: Literal["standard", "dmue"] = "standard"
    """dmue: no ReLU, 2x2 pooling, for the release's MS-Celeb weights"""
    normalize: Literal["imagenet", "half"] = "imagenet"
    """of the images; half: to -1..1, what the MS-Celeb weights were trained with (FER-C release: imagenet)"""
    neck: bool = False
    """BatchNorm without bias before the classifiers, one for all branches (authors: yes; FER-C release: no)"""
    dropout: cli.Fraction = 0.0
    """before the classifiers (authors: .5; FER-C release: 0)"""
    test_scale: bool = False
    """scale test logits by the mean training confidence (neither release does)"""


@dataclass
class Args:
    run: Run
    algorithm: Algorithm = field(default_factory=Algorithm)
    loss: settings.Loss = field(default_factory=settings.Loss)
    machine: settings.Machine = field(default_factory=settings.Machine)


def ramps(epoch, length):
    """Weights (of the main loss, rising to 1; of the experts' own, falling from 1) (section 3.4 of the paper)."""
    rising = 1 if epoch > length else math.exp(-5 * (1 - epoch / length) ** 2)
    return rising, 1 if epoch < length else math.exp(-((1 - length / epoch) ** 2))


def over_experts(values, others):
    """Mean over the experts of the mean over their images. values, others (bool): (K, ...). No image: left out."""
    counts = others.flatten(1).sum(1)
    means = (values * others).flatten(1).sum(1) / counts.clamp_min(1)
    return means.sum() / (counts > 0).sum()


def auxiliary_loss(logits, labels):
    """Cross-entropy of expert c, logits (K, B, K - 1), on the images that are not of class c (eq. 1)."""
    own = torch.arange(len(logits), device=labels.device)[:, None]
    target = (labels - (labels > own).long()).clamp(max=logits.shape[2] - 1)  # its index among the other classes
    values = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    return over_experts(values, labels != own)


def similarity_loss(experts, features, labels):
    """Images relate alike in expert, (K, B, D), and main branch, (B, D'): unit rows of inner products (eq. 6)."""
    others = labels != torch.arange(len(experts), device=labels.device)[:, None]
    pairs = others[:, :, None] & others[:, None, :]
    difference = F.normalize(experts @ experts.mT * pairs, dim=2) - F.normalize(features @ features.T * pairs, dim=2)
    return over_experts(difference ** 2, pairs)


def latent_distribution(logits, labels, temperature):
    """(B, K) from the K - 1 logits of the expert on each image's own class; 0 at that class (eqs. 2, 3)."""
    classes = torch.arange(logits.shape[1], device=labels.device).expand_as(logits)
    q = (logits.float() / temperature).softmax(1)
    return q.new_zeros(len(q), q.shape[1] + 1).scatter(1, classes + (classes >= labels[:, None]).long(), q)


def latent_loss(logits, labels, latent, renormalise=False):
    """Mean squared difference of probabilities and latent distribution over the wrong classes (eq. 4)."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    p = logits.masked_fill(own, -torch.inf).softmax(1) if renormalise else logits.softmax(1).masked_fill(own, 0)
    return F.mse_loss(p, latent)


def all_terms(criterion, out, target, labels, own, weights):
    """The terms of a step from the network's `Output`; own: `Algorithm`; weights: of `ramps`."""
    rising, falling = weights
    main = criterion.terms(out.confidence[:, None] * out.logits, target)
    latent = latent_distribution(out.latent, labels, own.temperature)
    experts = out.expert_features if own.similarity == "features" else out.expert_logits
    return {name: value * (rising if own.ramp_margin or name != "mbls" else 1) for name, value in main.items()} | {
        "latent": rising * own.soft_weight * latent_loss(out.logits, labels, latent, own.renormalise),
        "similarity": rising * own.similarity_weight * similarity_loss(experts, out.features, labels),
        "auxiliary": falling * auxiliary_loss(out.expert_logits, labels)}
# --- shared ---


def main(args):
    with harness.start(args, __file__, RELEASED) as run:
        if run.finished:
            return
        criterion = run.criterion()
        # --- algorithm ---
        own = args.algorithm
        length = max(1, round(args.run.epochs / 6)) if own.ramp is None else own.ramp
        model = DMUE(run.num_classes, args.run.image_size, own.stem, own.normalize, own.experts, own.missing,
                     own.test_scale, own.neck, own.dropout)
        model.confidence.requires_grad_(own.train_confidence)
        fast = {name for name, _ in model.named_parameters() if "classifier" in name or "confidence" in name}
        parts = [[p for name, p in model.named_parameters() if (name in fast) is wanted] for wanted in (False, True)]
        groups = [{"params": parts[0]}, {"params": parts[1], "lr": own.classifier_lr}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.run.lr, weight_decay=args.run.weight_decay, fused=True)
        model, optimizer = run.setup(model, optimizer)
        for epoch in run.epochs():
            model.train()
            for image, index in run.batches(epoch):
                target = run.target(index)
                # --- algorithm ---
                labels = run.labels[index]
                terms = all_terms(criterion, model(image, labels), target, labels, own, ramps(epoch, length))
                # --- shared ---
                optimizer.zero_grad()
                run.fabric.backward(sum(terms.values()))
                optimizer.step()
                run.end_step(terms)
            logits, labels = run.predict(model)
            run.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.run(main, Args, settings.recipe(RELEASED))
