"""SCN: Self-Cure Network (Wang et al., CVPR 2020, arXiv:2002.10392).

Adds to the baseline: an attention weight for each image that scales its logits; a rank term that keeps the most
attended 70 % of a batch above the rest; and relabelling: an image whose label is much less likely than the network's
favourite gets that as its label from the next epoch on. Both terms have weight 1 and relabelling looks at the whole
batch, as in the authors' code. --protocol released: margin .9, from epoch 2 on (AffWild: 15), as in the FER-C release.
  python train_SCN.py --dataset rafdb --calib
  torchrun --nproc-per-node 4 train_SCN.py --dataset rafdb
  python train_SCN.py --dataset demo                            no data; measured: 7 s an epoch on one core (2.5 GHz)
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
from typing import Literal

from models.scn import SCN

RELEASED = {"relabel_margin": 0.9, "relabel_epoch": 2}


@dataclass
class Algorithm:
    """Self-Cure Network."""

    high_ratio: cli.Fraction = 0.7
    """share of a batch in the high-attention group (authors: .7)"""
    rank_margin: float = 0.15
    """by which that group's mean attention has to lie above the rest's (authors: .15, for batches of 64 rather .07)"""
    relabel_margin: float = 0.2
    """by which the most likely class has to beat the label to replace it (authors: .2; FER-C release: .9)"""
    relabel_epoch: int | None = None
    """first epoch, from 0, that relabels (default: a sixth of the run; authors: 10 of 70; FER-C: 2, AffWild 15)"""
    relabel_scope: Literal["all", "low"] = "all"
    """all: any image of the batch (authors' code). low: only those of the low-attention group (paper)"""


@dataclass
class Args:
    run: settings.Run
    algorithm: Algorithm = field(default_factory=Algorithm)
    loss: settings.Loss = field(default_factory=settings.Loss)
    machine: settings.Machine = field(default_factory=settings.Machine)


def rank_loss(attention, ratio, margin):
    """max(0, margin - (mean attention of the high group - that of the rest)) (eq. 3); 0 where one has no image."""
    high = int(ratio * len(attention))
    if not 0 < high < len(attention):
        return attention.new_zeros(())
    ordered = attention.sort(descending=True).values
    return torch.relu(margin - (ordered[:high].mean() - ordered[high:].mean()))


def low_group(attention, ratio):
    """The images outside the high group, bool (B,)."""
    return attention.argsort(descending=True).argsort() >= int(ratio * len(attention))


def relabel(logits, labels, margin):
    """(which labels lose to another class by more than `margin`, bool (B,); the most likely classes, int64 (B,))."""
    p = logits.detach().softmax(1)
    best, favourite = p.max(1)
    return best - p.gather(1, labels[:, None])[:, 0] > margin, favourite
# --- shared ---


def main(args):
    with harness.start(args, __file__, RELEASED) as run:
        if run.finished:
            return
        criterion = run.criterion()
        # --- algorithm ---
        own = args.algorithm
        first = max(1, round(args.run.epochs / 6)) if own.relabel_epoch is None else own.relabel_epoch
        model = SCN(run.num_classes, args.run.image_size)
        groups = [{"params": model.parameters()}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.run.lr, weight_decay=args.run.weight_decay, fused=True)
        model, optimizer = run.setup(model, optimizer)
        for epoch in run.epochs():
            model.train()
            for image, index in run.batches(epoch):
                target = run.target(index)
                # --- algorithm ---
                logits, attention = model(image)
                rank = rank_loss(attention, own.high_ratio, own.rank_margin)
                terms = criterion.terms(logits, target) | {"rank": rank}
                if epoch >= first:
                    unsure, favourite = relabel(logits, run.labels[index], own.relabel_margin)
                    if own.relabel_scope == "low":
                        unsure &= low_group(attention, own.high_ratio)
                    run.next_labels[index] = torch.where(unsure, favourite, run.labels[index])
                # --- shared ---
                optimizer.zero_grad()
                run.fabric.backward(sum(terms.values()))
                optimizer.step()
                run.end_step(terms)
            logits, labels = run.predict(model)
            run.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.run(main, Args, settings.recipe(RELEASED))
