"""SwinV2-T (Liu et al., CVPR 2022, arXiv:2111.09883), or any other network of timm with `--backbone NAME`.

Differs from the baseline in its network and recipe: the benchmark's 224-pixel image is resized to the network's 256
inside the model, stochastic depth .1, learning rate 5e-5, batches of 32; no weight decay on norms and biases.
--protocol released: weight decay on everything, and the classifier on top of the 1,000 ImageNet logits.
(The release also decodes clean images straight to 256; here clean and corrupted images always take the same way.)
  python train_swinv2.py --dataset rafdb --calib
  torchrun --nproc-per-node 4 train_swinv2.py --dataset rafdb
  python train_swinv2.py --dataset demo                         no data; measured: 27 s an epoch on one core (2.5 GHz)
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

from models.swinv2 import TimmModel

RELEASED = {"head": "imagenet_logits", "decay_all": True, "nll_batch": 32}


@dataclass
class Run(settings.Run):
    """What you always set."""

    batch_size: int = 32
    """over all devices together (published for SwinV2: 32)"""
    lr: Annotated[float, cli.Between(0, above=True)] = 5e-5
    """of Adam, constant (published for SwinV2: 5e-5)"""


@dataclass
class Algorithm:
    """The network."""

    backbone: str = "swinv2_tiny_window8_256"
    """any name that timm.list_models() gives (FER-C: SwinV2-T)"""
    drop_path: cli.Fraction = 0.1
    """stochastic depth (FER-C release: .1)"""
    head: Literal["features", "imagenet_logits"] = "features"
    """what the classifier stands on (FER-C release: imagenet_logits)"""
    decay_all: bool = False
    """weight decay on norms and biases too (FER-C release)"""


@dataclass
class Args:
    run: Run
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
        own = args.algorithm
        model = TimmModel(run.num_classes, args.run.image_size, own.backbone, own.drop_path, own.head)
        groups = [{"params": model.parameters()}] if own.decay_all else model.groups(args.run.weight_decay)
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
