"""SwinV2-T (Liu et al., CVPR 2022, arXiv:2111.09883), or any other network of timm with --backbone NAME.

Network: SwinV2-T from ImageNet weights, and a linear classifier. Images have the side that --image-size
gives (224 pixels), as for the other algorithms, and the network itself resizes them (224 to 256 pixels). In this way
clean and corrupted images are treated alike.

Loss: the chosen loss, as in the baseline.

Recipe: learning rate 5e-5, batches of 32 images, stochastic depth 0.1, no weight decay on norms and biases.

Released: --protocol released applies weight decay to all parameters, and puts the classifier on the 1,000 logits of
the ImageNet classifier. (The FER-C release also decodes clean images at 256 pixels; this script does not.) As for
every algorithm, the protocol also changes what training/options.py lists in `RELEASED`.

Cost: 27 s an epoch of an earlier demo (448 images of 48 pixels) on one core (2.5 GHz), measured.

  python train_swinv2.py --dataset rafdb --calib
  torchrun --nproc-per-node 4 train_swinv2.py --dataset rafdb
  python train_swinv2.py --dataset demo                         needs no data
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

RELEASED = {"head": "imagenet_logits", "decay_all": True}
RELEASED_ON = {}


@dataclass
class Options(TrainingOptions):
    """The run: its data, its recipe and its folders."""

    batch_size: int = 32
    """images in a batch, over all devices (FER-C release, for SwinV2: 32)"""
    lr: Annotated[float, cli.Between(0, above=True), cli.Rare] = 5e-5
    """learning rate of Adam, the same in all epochs unless --lr-decay is given (paper, for SwinV2: 5e-5)"""


@dataclass
class Algorithm:
    """Network."""

    backbone: str = "swinv2_tiny_window8_256"
    """network: any name that timm.list_models() gives (FER-C: SwinV2-T)"""
    drop_path: Annotated[cli.Fraction, cli.Rare] = 0.1
    """stochastic depth, the highest probability with which a layer is left out (FER-C release: 0.1)"""
    head: Annotated[Literal["features", "imagenet_logits"], cli.Rare] = "features"
    """input of the classifier; features: those of the network; imagenet_logits: the 1,000 logits of its ImageNet
    classifier (FER-C release)"""
    decay_all: Annotated[bool, cli.Rare] = False
    """whether weight decay applies to norms and biases too (FER-C release: yes)"""


@dataclass
class Args:
    options: Options
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
from models.swinv2 import TimmModel
# --- shared ---


def main(args: Args) -> None:
    with start_training(args, __file__, RELEASED, RELEASED_ON) as training:
        if training.finished:
            return
        criterion = training.criterion()
        # --- algorithm ---
        algorithm = args.algorithm
        model = TimmModel(training.num_classes, args.options.image_size, algorithm.backbone, algorithm.drop_path,
                          algorithm.head)
        if algorithm.decay_all:
            groups = [{"params": model.parameters()}]
        else:
            groups = model.groups(args.options.weight_decay)
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
