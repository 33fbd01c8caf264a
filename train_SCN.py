"""SCN: Self-Cure Network (Wang et al., CVPR 2020, arXiv:2002.10392).

Idea: an image with a wrong label does less harm if the network learns to give it little attention, and if its label is
corrected.

Network: the baseline's ResNet-18, and an attention weight for each image, which multiplies its logits.

"SCN release" is the code of Wang et al., "FER-C release" that of FER-C.

Loss: the chosen loss on these logits, plus a rank term: the mean attention of the most attended part of a batch
(--high-ratio, 70 %) has to lie above that of the rest by a margin. Both have weight 1, as in the SCN release.

Labels: an image whose label is much less probable than the most probable class gets that class as its label from
the next epoch on. The SCN release does this for all images of a batch, and so does this script by default
(--relabel-scope).

Released: --protocol released relabels from the third epoch on (AffWild: the sixteenth), with a margin of 0.9. As for
every algorithm, the protocol also changes what training/options.py lists in `RELEASED`.

Inference: one pass of the network; the logits are multiplied by the attention weight.

Cost: 7 s an epoch of an earlier demo (448 images of 48 pixels) on one core (2.5 GHz), measured.

  python train_SCN.py --dataset rafdb --calib
  torchrun --nproc-per-node 4 train_SCN.py --dataset rafdb
  python train_SCN.py --dataset demo                            needs no data
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

RELEASED = {"relabel_margin": 0.9, "relabel_epoch": 2}
RELEASED_ON = {"affwild": {"relabel_epoch": 15}}


@dataclass
class Algorithm:
    """Self-Cure Network."""

    high_ratio: cli.Fraction = 0.7
    """fraction of a batch that forms the high-attention group (SCN release: 0.7)"""
    rank_margin: float = 0.15
    """margin of the rank term: how far the mean attention of the high-attention group has to lie above that of the rest
    (SCN release: 0.15, and 0.07 for batches of 64)"""
    relabel_margin: float = 0.2
    """margin of relabelling: how far the probability of the most probable class has to lie above the label's (SCN
    release: 0.2; FER-C release: 0.9)"""
    relabel_epoch: int | None = None
    """number of the first epoch that relabels, counted from 0 (if not given: a sixth of all epochs, rounded, at least
    1; SCN release: 10 of 70; FER-C release: 2, for AffWild 15)"""
    relabel_scope: Literal["all", "low"] = "all"
    """images that may be relabelled; all: every image of the batch (SCN release); low: only those outside the
    high-attention group (paper)"""


@dataclass
class Args:
    options: TrainingOptions
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
from models.scn import SCN


def rank_loss(attention: torch.Tensor, ratio: float, margin: float) -> torch.Tensor:
    """max(0, margin - (mean attention of the high-attention group - mean attention of the rest)), eq. 3; a scalar.

    attention: (B,). ratio: fraction of the batch in the high-attention group. 0 where one of the groups is empty.
    """
    high = int(ratio * len(attention))
    if not 0 < high < len(attention):
        return attention.new_zeros(())
    group, rest = attention.sort(descending=True).values.split([high, len(attention) - high])
    return torch.relu(margin - (group.mean() - rest.mean()))


def low_group(attention: torch.Tensor, ratio: float) -> torch.Tensor:
    """bool (B,): the images outside the high-attention group. attention, ratio: as in `rank_loss`."""
    rank = attention.argsort(descending=True).argsort()
    return rank >= int(ratio * len(attention))


def relabel(logits: torch.Tensor, labels: torch.Tensor, margin: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images of a batch get another label, and which one (eq. 5): (bool (B,), int64 (B,)).

    An image is relabelled where the most probable class has a probability that is more than `margin` above that of the
    label. The second result is the most probable class, for every image. logits: (B, K). labels: int64 (B,).
    """
    p = logits.detach().softmax(1)
    highest, new_label = p.max(1)
    of_label = p.gather(1, labels[:, None])[:, 0]
    return highest - of_label > margin, new_label
# --- shared ---


def main(args: Args) -> None:
    with start_training(args, __file__, RELEASED, RELEASED_ON) as training:
        if training.finished:
            return
        criterion = training.criterion()
        # --- algorithm ---
        algorithm = args.algorithm
        relabel_epoch = algorithm.relabel_epoch
        if relabel_epoch is None:
            relabel_epoch = max(1, round(args.options.epochs / 6))
        model = SCN(training.num_classes, args.options.image_size)
        groups = [{"params": model.parameters()}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.options.lr, weight_decay=args.options.weight_decay, fused=True)
        model, optimizer = training.setup(model, optimizer)
        for epoch in training.epochs():
            model.train()
            for image, index in training.batches(epoch):
                target = training.target(index)
                # --- algorithm ---
                logits, attention = model(image)
                rank = rank_loss(attention, algorithm.high_ratio, algorithm.rank_margin)
                terms = criterion.terms(logits, target) | {"rank": rank}
                if epoch >= relabel_epoch:
                    labels = training.labels[index]
                    is_relabelled, new_label = relabel(logits, labels, algorithm.relabel_margin)
                    if algorithm.relabel_scope == "low":
                        is_relabelled &= low_group(attention, algorithm.high_ratio)
                    training.next_labels[index] = torch.where(is_relabelled, new_label, labels)
                # --- shared ---
                optimizer.zero_grad()
                training.fabric.backward(sum(terms.values()))
                optimizer.step()
                training.end_step(terms)
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.call(main, ARGS)
