"""Speed of every script's training step and inference (images per second), against plain loops of the same networks.

  python -m benchmarks.train_speed                    224 pixels, minutes on two CPU cores; on a GPU where there is one
  python -m benchmarks.train_speed --only DMUE --size 112 --batch-size 16
  python -m benchmarks.train_speed --batch-size 128 --steps 20 --deterministic              for a GPU; two minutes
  python -m benchmarks.train_speed --batch-size 128 --steps 20 --compile --only baseline    for a GPU; one minute

Ours: the step as the scripts take it (channels last, `--precision auto`, fused Adam, normalisation on the device). On a
GPU a second line is without CUDA graphs.
--compile adds a line with torch.compile, --deterministic one with deterministic algorithms, --float32 one in float32.
Inference takes the network in the form in which scoring uses it, but with the number format of training: scoring itself
is exact float32 unless asked otherwise. --only takes algorithms in the order in which they are measured.
Plain: float32 in NCHW, images normalised beforehand, Adam with torch's defaults. For DMUE the plain loop has the form
of the published code: every expert runs twice a step, each time on the images picked out for it, and inference computes
all experts and their logits too. All take turns in the same process; the best of the repetitions counts.

benchmarks/pipeline.py measures epochs with the cache of decoded images.
"""
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import losses
import train_DMUE
import train_RUL
import train_SCN
from compute.devices import (
    connect, deterministic_algorithms, fast_arithmetic, for_inference, precision_name)
from compute.graphs import set_up
from models.dmue import DMUE, class_agreement, pool
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel
from support import cli
from support.errors import UserError
from training.options import MachineOptions

CLASSES = 8


@dataclass
class Args:
    size: int = 224
    """side of the images (pixels)"""
    batch_size: int = 16
    """images in a batch"""
    steps: int = 2
    """steps in a repetition"""
    repeat: int = 3
    """repetitions, of which the best counts"""
    only: tuple[str, ...] = ()
    """algorithms, by the names of their scripts without train_ (if not given: all)"""
    compile: bool = False
    """measure our side with torch.compile too; the first step takes half a minute for a ResNet-18 (--only baseline)"""
    deterministic: bool = False
    """measure our side with deterministic algorithms too"""
    float32: bool = False
    """measure our side in float32 too"""


Terms = dict[str, torch.Tensor]


def scn_terms(criterion: nn.Module, model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    logits, attention = model(image)
    return criterion.terms(logits, labels) | {"rank": train_SCN.rank_loss(attention, 0.7, 0.15)}


def rul_terms(criterion: nn.Module, model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    partner = torch.randperm(len(image), device=image.device)
    return train_RUL.add_up(criterion, model(image, partner), labels, partner)


def dmue_terms(criterion: nn.Module, model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    return train_DMUE.all_terms(criterion, model(image, labels), labels, labels, train_DMUE.Algorithm(), (1, 1))


def plain_terms(criterion: nn.Module, model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    return criterion.terms(model(image), labels)


def plain_inference(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model(image)


ALGORITHMS = {  # name -> (its network for a side of images, the terms of its training step)
    "baseline": (lambda size: ResNet18(CLASSES, size), plain_terms),
    "SCN": (lambda size: SCN(CLASSES, size), scn_terms),
    "DMUE": (lambda size: DMUE(CLASSES, size), dmue_terms),
    "RUL": (lambda size: RUL(CLASSES, size), rul_terms),
    "swinv2": (lambda size: TimmModel(CLASSES, size, "swinv2_tiny_window8_256", 0.1), plain_terms),
}


def published_dmue(criterion: nn.Module, model: DMUE, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    """The terms of a step in the published code's form; `model` is a `DMUE`, whose layers it uses."""
    x = model.feature_map(image, stages=3)
    features = pool(model.backbone.layer4(x))
    logits = model.classifier(features)
    auxiliary = similarity = 0
    target = torch.zeros_like(logits)
    for c in range(CLASSES):
        others, own = (labels != c).nonzero()[:, 0], (labels == c).nonzero()[:, 0]
        u = model.expert_classifiers[c](pool(model.experts[c](x[others])))
        auxiliary = auxiliary + F.cross_entropy(u, labels[others] - (labels[others] > c).long()) / CLASSES
        g, h = (F.normalize(m @ m.T, dim=1) for m in (u, features[others]))
        similarity = similarity + F.mse_loss(g, h) / CLASSES
        if len(own):
            s = model.expert_classifiers[c](pool(model.experts[c](x[own]))).softmax(1) ** (1 / 1.2)
            columns = [k for k in range(CLASSES) if k != c]
            target[own[:, None], torch.tensor(columns, device=own.device)] = (s / s.sum(1, keepdim=True)).detach()
    agreement = class_agreement(features, labels, CLASSES, "zero")
    confidence = model.confidence(torch.cat([agreement, F.one_hot(labels, CLASSES).float()], 1)).sigmoid()
    p = logits.softmax(1).masked_fill(F.one_hot(labels, CLASSES).bool(), 0)
    return criterion.terms(confidence * logits, labels) | {
        "latent": 0.5 * F.mse_loss(p, target), "similarity": 1000 * similarity, "auxiliary": auxiliary}


def published_dmue_inference(model: DMUE, image: torch.Tensor) -> torch.Tensor:
    """Logits of a batch in the published code's form: random labels, all experts."""
    x = model.feature_map(image, stages=3)
    labels = torch.randint(CLASSES, (len(image),), device=image.device)
    for c in range(CLASSES):
        for rows in ((labels != c).nonzero()[:, 0], (labels == c).nonzero()[:, 0]):
            if len(rows):
                model.expert_classifiers[c](pool(model.experts[c](x[rows])))
    return model.classifier(pool(model.backbone.layer4(x)))


@dataclass
class Contender:
    """One way of training a network and of inference with it. best: the shortest time, "step" and "inference" (s)."""

    name: str
    step: Callable[[], None]
    inference: Callable[[], None]
    settings: Callable[[], AbstractContextManager] = nullcontext
    """the settings of torch that it runs with"""
    best: dict[str, float] = field(default_factory=lambda: {"step": np.inf, "inference": np.inf})


@dataclass
class OurModel:
    """A network and its optimizer as the scripts set them up."""

    fabric: Any
    model: nn.Module
    scored: nn.Module
    """the network as scoring runs it"""
    optimizer: torch.optim.Optimizer
    criterion: nn.Module
    terms: Callable[..., Terms]

    def step(self, image: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.fabric.backward(sum(self.terms(self.criterion, self.model, image, labels).values()))
        self.optimizer.step()


def our_model(fabric: Any, size: int, build: Callable[[int], nn.Module], terms: Callable[..., Terms],
              machine: MachineOptions, batch_size: int) -> OurModel:
    model = build(size)
    scored = for_inference(copy.deepcopy(model), fabric, machine).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
    with settings_of_training(fabric.device, machine):
        model, optimizer = set_up(fabric, model, optimizer, machine, batch_size)
    return OurModel(fabric, model, scored, optimizer, losses.build("ce", CLASSES).to(fabric.device), terms)


def our_contender(name: str, ours: OurModel, image: torch.Tensor, labels: torch.Tensor,
                  machine: MachineOptions) -> Contender:
    def step() -> None:
        ours.model.train()
        ours.step(image, labels)

    def inference() -> None:
        ours.scored(image)

    return Contender(name, step, inference, lambda: settings_of_training(image.device, machine))


@contextmanager
def settings_of_training(device: torch.device, machine: MachineOptions) -> Iterator[None]:
    """The settings of torch that training has."""
    with deterministic_algorithms(machine.deterministic), fast_arithmetic(device):
        yield


def our_contenders(fabric: Any, args: Args, algorithm: str, image: torch.Tensor,
                   labels: torch.Tensor) -> list[Contender]:
    """Our way, and those of its variants that the options ask for."""
    variants = [("", fabric, MachineOptions())]
    if image.is_cuda:
        variants.append((", without graphs", fabric, MachineOptions(no_cuda_graphs=True)))
    if args.compile:
        variants.append((", compiled", fabric, MachineOptions(compile=True)))
    if args.deterministic:
        variants.append((", deterministic", fabric, MachineOptions(deterministic=True)))
    if args.float32:
        variants.append((", float32", connect("32-true"), MachineOptions()))
    contenders = []
    for name, chosen, machine in variants:
        ours = our_model(chosen, args.size, *ALGORITHMS[algorithm], machine, args.batch_size)
        contenders.append(our_contender(algorithm + name, ours, image, labels, machine))
    return contenders


def plain_contender(args: Args, algorithm: str, image: torch.Tensor, labels: torch.Tensor) -> Contender:
    torch.manual_seed(0)
    build, terms = ALGORITHMS[algorithm]
    infer = plain_inference
    if algorithm == "DMUE":
        terms, infer = published_dmue, published_dmue_inference
    model = build(args.size).to(image.device)
    criterion = losses.build("ce", CLASSES).to(image.device)
    values = model.normalize(image).contiguous()
    model.normalize = nn.Identity()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        sum(terms(criterion, model, values, labels).values()).backward()
        optimizer.step()

    def inference() -> None:
        model.eval()
        infer(model, values)

    return Contender("plain", step, inference)


def seconds(action: Callable[[], None], repetitions: int, device: torch.device) -> float:
    """The mean time of an action (s)."""
    began = time.perf_counter()
    for _ in range(repetitions):
        action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repetitions


def measure(contenders: Sequence[Contender], args: Args, device: torch.device) -> None:
    """Let the contenders take turns; the first repetition only warms up."""
    for repetition in range(args.repeat + 1):
        for contender in contenders:
            with contender.settings():
                step = seconds(contender.step, args.steps, device)
                with torch.no_grad():
                    inference = seconds(contender.inference, args.steps, device)
            if repetition:
                contender.best["step"] = min(contender.best["step"], step)
                contender.best["inference"] = min(contender.best["inference"], inference)


def row(contender: Contender, plain: Contender, batch_size: int) -> str:
    """A line of the table."""
    line = f"{contender.name:24}"
    for kind in ("step", "inference"):
        fast, slow = batch_size / contender.best[kind], batch_size / plain.best[kind]
        line += f"{fast:12.1f}{slow:10.1f}{fast / slow:10.2f}    "
    return line


def main(args: Args) -> None:
    if not set(args.only) <= set(ALGORITHMS):
        raise UserError(f"--only takes {', '.join(ALGORITHMS)}")
    precision = precision_name("auto")
    fabric = connect(precision)
    device = fabric.device
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, {precision}, {args.size} pixels, batches of {args.batch_size}\n")
    print(f"{'':24}{'training, images/s':>32}{'inference, images/s':>36}")
    print(f"{'':24}" + f"{'ours':>12}{'plain':>10}{'ratio':>10}{'':4}" * 2)
    torch.manual_seed(0)
    image = torch.randint(256, (args.batch_size, 3, args.size, args.size), dtype=torch.uint8).to(device)
    labels = (torch.arange(args.batch_size) % CLASSES).to(device)
    for algorithm in args.only or ALGORITHMS:
        ours = our_contenders(fabric, args, algorithm, image, labels)
        plain = plain_contender(args, algorithm, image, labels)
        measure([*ours, plain], args, device)
        for contender in ours:
            print(row(contender, plain, args.batch_size), flush=True)


if __name__ == "__main__":
    cli.run(main, Args)
