"""Baseline: ResNet-18 and one loss, the reference that the other algorithms are read against.

FER-C (arXiv:2312.11542) trains it with cross-entropy, or calibrated with MaxEnt and margin-based label smoothing
(--calib). --protocol released differs in class weights, noise rule, first epoch, MaxEnt gradient and some data.
  python train_baseline.py --dataset ferplus --root DIR --calib
  torchrun --nproc-per-node 4 train_baseline.py --dataset ferplus --root DIR
  python train_baseline.py --dataset demo                       no data; measured: 8 s an epoch on one core (2.5 GHz)
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
from models.resnet import ResNet18

RELEASED = {}  # nothing of its own: what --protocol released changes for every algorithm stands in settings.py


@dataclass
class Algorithm:
    """The network."""

    backbone: str = "resnet18"
    """or any name that timm.list_models() gives (FER-C: resnet18)"""


@dataclass
class Args:
    run: settings.Run
    algorithm: Algorithm = field(default_factory=Algorithm)
    loss: settings.Loss = field(default_factory=settings.Loss)
    machine: settings.Machine = field(default_factory=settings.Machine)
# --- shared ---


def main(args):
    with harness.start(args, __file__, RELEASED) as run:
        if run.finished:
            return
        criterion = run.criterion()
        # --- algorithm ---
        if args.algorithm.backbone == "resnet18":
            model = ResNet18(run.num_classes, args.run.image_size)
        else:
            from models.swinv2 import TimmModel  # timm takes seconds to import
            model = TimmModel(run.num_classes, args.run.image_size, args.algorithm.backbone)
        groups = [{"params": model.parameters()}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.run.lr, weight_decay=args.run.weight_decay, fused=True)
        model, optimizer = run.setup(model, optimizer)
        for epoch in run.epochs():
            model.train()
            for image, index in run.batches(epoch):
                target = run.target(index)
                # --- algorithm ---
                terms = criterion.terms(model(image), target)
                # --- shared ---
                optimizer.zero_grad()
                run.fabric.backward(sum(terms.values()))
                optimizer.step()
                run.end_step(terms)
            logits, labels = run.predict(model)
            run.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.run(main, Args, settings.recipe(RELEASED))
