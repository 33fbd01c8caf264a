"""RUL: Relative Uncertainty Learning (Zhang, Wang & Deng, NeurIPS 2021).

Idea: of two images that are mixed, the network has to recognise both labels; it can do so only if it learns which
of the two images is the uncertain one.

Network: the baseline's ResNet-18 with two heads. One gives the features of an image, the other its uncertainty. In
training the features of two images are mixed in proportion to their uncertainties.

Loss: the chosen loss towards the label of each of the two images, half of each ("add-up" loss).

"RUL release" is the code of Zhang et al., "FER-C release" that of FER-C.

Released: --protocol released takes the loss towards the label of the first image only (in the FER-C release a line
overwrites the sum), and trains without dropout and with a single learning rate, 2e-4. The FER-C release starts from the
weights of a face recognition network; --weights PATH gives them. As for every algorithm, the protocol also changes what
training/options.py lists in `RELEASED`.

Inference: one pass of the network; nothing is mixed.

Cost: 6 s an epoch of an earlier demo (448 images of 48 pixels) on one core (2.5 GHz), measured.

  python train_RUL.py --dataset affectnet --calib
  torchrun --nproc-per-node 4 train_RUL.py --dataset affectnet
  python train_RUL.py --dataset demo                            needs no data
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

RELEASED = {"mixture_loss": "own", "dropout": 0.0, "classifier_lr_factor": 1.0, "lr": 2e-4}
RELEASED_ON = {}


@dataclass
class Algorithm:
    """Relative Uncertainty Learning."""

    mixture_loss: Literal["add-up", "own"] = "add-up"
    """loss of two mixed images; add-up: half the loss towards each of the two labels (paper); own: the loss towards the
    label of the first image only (FER-C release)"""
    dropout: cli.Fraction = 0.4
    """dropout before both heads, as a fraction (RUL release: 0.4; FER-C release: 0)"""
    classifier_lr_factor: Annotated[float, cli.Between(0)] = 10.0
    """learning rate of the classifier, as a multiple of --lr (RUL release: 10; FER-C release: 1)"""


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
from models.rul import RUL


def add_up(criterion: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor,
           partner: torch.Tensor) -> dict[str, torch.Tensor]:
    """The terms of the loss, half towards each image's own target and half towards its partner's (eq. 6).

    logits: (B, K). target: int64 (B,) or distributions (B, K). partner: int64 (B,), the image that each is mixed with.
    """
    own_terms = criterion.terms(logits, target)
    partner_terms = criterion.terms(logits, target[partner])
    return {name: (own_terms[name] + partner_terms[name]) / 2 for name in own_terms}
# --- shared ---


def main(args: Args) -> None:
    with start_training(args, __file__, RELEASED, RELEASED_ON) as training:
        if training.finished:
            return
        criterion = training.criterion()
        # --- algorithm ---
        algorithm = args.algorithm
        model = RUL(training.num_classes, args.options.image_size, algorithm.dropout)
        classifier = list(model.classifier.parameters())
        others = [parameter for name, parameter in model.named_parameters() if not name.startswith("classifier.")]
        groups = [{"params": others}, {"params": classifier, "lr": algorithm.classifier_lr_factor * args.options.lr}]
        # --- shared ---
        optimizer = torch.optim.Adam(groups, lr=args.options.lr, weight_decay=args.options.weight_decay, fused=True)
        model, optimizer = training.setup(model, optimizer)
        for epoch in training.epochs():
            model.train()
            for image, index in training.batches(epoch):
                target = training.target(index)
                # --- algorithm ---
                partner = torch.randperm(len(image), device=image.device)
                logits = model(image, partner)
                if algorithm.mixture_loss == "own":
                    terms = criterion.terms(logits, target)
                else:
                    terms = add_up(criterion, logits, target, partner)
                # --- shared ---
                optimizer.zero_grad()
                training.fabric.backward(sum(terms.values()))
                optimizer.step()
                training.end_step(terms)
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(metrics.softmax(logits), labels, logits=logits))


if __name__ == "__main__":
    cli.call(main, ARGS)
