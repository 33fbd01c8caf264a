"""RUL: Relative Uncertainty Learning (Zhang, Wang & Deng, NeurIPS 2021).

Adds to the baseline: a second head that says how uncertain an image is relative to another one. In training the
features of two images are mixed in proportion to their uncertainties, and the mixture has to be recognised as both
("add-up" loss): the network can only manage by telling which image is the hard one. A test mixes nothing.
--protocol released: the FER-C release overwrote the add-up loss with that of the first label, and trains without
dropout and with one learning rate. Its weights were those of a face network: give them with --weights PATH.
  python train_RUL.py --dataset affectnet --calib
  torchrun --nproc-per-node 4 train_RUL.py --dataset affectnet
  python train_RUL.py --dataset demo                            no data; measured: 6 s an epoch on one core (2.5 GHz)
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
from typing import Annotated, Literal

from models.rul import RUL

RELEASED = {"mixture_loss": "own", "dropout": 0.0, "classifier_lr_factor": 1.0, "lr": 2e-4}


@dataclass
class Algorithm:
    """Relative Uncertainty Learning."""

    mixture_loss: Literal["add-up", "own"] = "add-up"
    """add-up: half the loss towards either label (paper). own: towards the first alone (FER-C release)"""
    dropout: cli.Fraction = 0.4
    """before both heads (authors: .4; FER-C release: 0)"""
    classifier_lr_factor: Annotated[float, cli.Between(0)] = 10.0
    """the classifier learns at this times --lr (authors: 10; FER-C release: 1)"""


@dataclass
class Args:
    run: settings.Run
    algorithm: Algorithm = field(default_factory=Algorithm)
    loss: settings.Loss = field(default_factory=settings.Loss)
    machine: settings.Machine = field(default_factory=settings.Machine)


def add_up(criterion, logits, target, other):
    """Every term half for an image's own target and half for its partner's (eq. 6); other: int64 (B,)."""
    own, partner = criterion.terms(logits, target), criterion.terms(logits, target[other])
    return {name: (own[name] + partner[name]) / 2 for name in own}
# --- shared ---


def main(args):
    with harness.start(args, __file__, RELEASED) as run:
        if run.finished:
            return
        criterion = run.criterion()
        # --- algorithm ---
        own = args.algorithm
        model = RUL(run.num_classes, args.run.image_size, own.dropout)
        head = list(model.classifier.parameters())
        rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("classifier.")]
        groups = [{"params": rest}, {"params": head, "lr": own.classifier_lr_factor * args.run.lr}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.run.lr, weight_decay=args.run.weight_decay, fused=True)
        model, optimizer = run.setup(model, optimizer)
        for epoch in run.epochs():
            model.train()
            for image, index in run.batches(epoch):
                target = run.target(index)
                # --- algorithm ---
                other = torch.randperm(len(image), device=image.device)
                logits = model(image, other)
                if own.mixture_loss == "own":
                    terms = criterion.terms(logits, target)
                else:
                    terms = add_up(criterion, logits, target, other)
                # --- shared ---
                optimizer.zero_grad()
                run.fabric.backward(sum(terms.values()))
                optimizer.step()
                run.end_step(terms)
            logits, labels = run.predict(model)
            run.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.run(main, Args, settings.recipe(RELEASED))
