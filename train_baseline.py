"""Baseline: ResNet-18 with a single loss, the reference for all other algorithms.

Paper: FER-C (arXiv:2312.11542), section 5; ResNet-18: He et al., CVPR 2016 (arXiv:1512.03385).

Network: ResNet-18 from ImageNet weights, and a linear classifier; --backbone takes another network.

Loss: cross-entropy; with --calib the paper's calibrated loss, which is the focal loss with the terms MaxEnt (maximum
entropy) and MbLS (margin-based label smoothing); or any other one with --loss NAME.

Released: --protocol released changes class weights, the rule of label noise, the choice of the best epoch, the
gradient of MaxEnt, and how some data sets are read.

Cost: 8 s an epoch of an earlier demo (448 images of 48 pixels) on one core (2.5 GHz), measured.

  python train_baseline.py --dataset ferplus --root DIR --calib
  torchrun --nproc-per-node 4 train_baseline.py --dataset ferplus --root DIR
  python train_baseline.py --dataset demo                       needs no data
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

from dataclasses import dataclass, field

from support import cli
from training.options import LossOptions, MachineOptions, TrainingOptions, check, recipe_filler
# Lines between the marks `algorithm` and `shared` are this algorithm's own; all others are the same in five scripts.
# --- algorithm ---
from typing import Annotated

RELEASED = {}  # nothing of its own: training/options.py says what --protocol released changes for every algorithm
RELEASED_ON = {}


@dataclass
class Algorithm:
    """Network."""

    backbone: str = "resnet18"
    """network: resnet18, or any name that timm.list_models() gives (FER-C: resnet18)"""


@dataclass
class Args:
    options: TrainingOptions
    algorithm: Algorithm = field(default_factory=Algorithm)
    constants: Annotated[LossOptions, cli.Rare] = field(default_factory=LossOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
# --- shared ---

if __name__ == "__main__":  # before torch is imported, which takes seconds: help and errors come at once
    ARGS = cli.read_options(Args, recipe_filler(RELEASED, RELEASED_ON), check)

import torch

import metrics
from training.run import start_training
# --- algorithm ---
from models.resnet import ResNet18
# --- shared ---


def main(args: Args) -> None:
    with start_training(args, __file__, RELEASED, RELEASED_ON) as training:
        if training.finished:
            return
        criterion = training.criterion()
        # --- algorithm ---
        if args.algorithm.backbone == "resnet18":
            model = ResNet18(training.num_classes, args.options.image_size)
        else:
            from models.swinv2 import TimmModel  # timm takes seconds to import
            model = TimmModel(training.num_classes, args.options.image_size, args.algorithm.backbone)
        groups = [{"params": model.parameters()}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.options.lr, weight_decay=args.options.weight_decay, fused=True)
        model, optimizer = training.setup(model, optimizer)
        for epoch in training.epochs():
            model.train()
            for image, index in training.batches(epoch):
                target = training.target(index)
                # --- algorithm ---
                terms = criterion.terms(model(image), target)
                # --- shared ---
                optimizer.zero_grad()
                training.fabric.backward(sum(terms.values()))
                optimizer.step()
                training.end_step(terms)
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.call(main, ARGS)
