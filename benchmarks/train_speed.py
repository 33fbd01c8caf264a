"""Speed of every script's training step and inference (images per second), against plain loops of the same networks.

  python -m benchmarks.train_speed                    224 pixels, minutes on two CPU cores; on a GPU where there is one
  python -m benchmarks.train_speed --only DMUE --size 112 --batch-size 16

Ours: the step as the scripts take it (channels last, `--precision auto`, fused Adam, normalisation on the device).
Plain: float32 in NCHW, images normalised beforehand, Adam with torch's defaults. For DMUE the plain loop has the form
of the published code: every expert runs twice a step, each time on the images picked out for it, and inference computes
all experts and their logits too. Both take turns in the same process; the best of the repetitions counts. After the
baseline, an epoch with the cache of decoded images is compared with the same number of steps on one batch.
"""
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import losses
import train_DMUE
import train_RUL
import train_SCN
from compute.batches import Images, load_batches
from compute.devices import connect, optimised, precision_name
from datasets import load_split
from models.dmue import DMUE, class_agreement, pool
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel
from support import cli
from support.errors import UserError
from training.options import MachineOptions

CLASSES = 8
CE = losses.build("ce", CLASSES)


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
    only: str | None = None
    """one algorithm: baseline, SCN, DMUE, RUL or swinv2 (default: all)"""
    compile: bool = False
    """use torch.compile for our side"""


Terms = dict[str, torch.Tensor]


def scn_terms(model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    logits, attention = model(image)
    return CE.terms(logits, labels) | {"rank": train_SCN.rank_loss(attention, 0.7, 0.15)}


def rul_terms(model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    partner = torch.randperm(len(image), device=image.device)
    return train_RUL.add_up(CE, model(image, partner), labels, partner)


def dmue_terms(model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    return train_DMUE.all_terms(CE, model(image, labels), labels, labels, train_DMUE.Algorithm(), (1, 1))


def plain_terms(model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> Terms:
    return CE.terms(model(image), labels)


def plain_inference(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model(image)


ALGORITHMS = {  # name -> (its network for a side of images, the terms of its training step)
    "baseline": (lambda size: ResNet18(CLASSES, size), plain_terms),
    "SCN": (lambda size: SCN(CLASSES, size), scn_terms),
    "DMUE": (lambda size: DMUE(CLASSES, size), dmue_terms),
    "RUL": (lambda size: RUL(CLASSES, size), rul_terms),
    "swinv2": (lambda size: TimmModel(CLASSES, size, "swinv2_tiny_window8_256", 0.1), plain_terms),
}


def published_dmue(model: DMUE, image: torch.Tensor, labels: torch.Tensor) -> Terms:
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
    return {"ce": F.cross_entropy(confidence * logits, labels), "latent": 0.5 * F.mse_loss(p, target),
            "similarity": 1000 * similarity, "auxiliary": auxiliary}


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

    step: Callable[[], None]
    inference: Callable[[], None]
    best: dict[str, float] = field(default_factory=lambda: {"step": np.inf, "inference": np.inf})


@dataclass
class OurModel:
    """A network and its optimizer as the scripts set them up."""

    fabric: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    terms: Callable[..., Terms]

    def step(self, image: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.fabric.backward(sum(self.terms(self.model, image, labels).values()))
        self.optimizer.step()


def our_model(fabric: Any, args: Args, build: Callable[[int], nn.Module], terms: Callable[..., Terms]) -> OurModel:
    model = optimised(build(args.size), MachineOptions(compile=args.compile))
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-5, fused=True))
    return OurModel(fabric, model, optimizer, terms)


def our_contender(ours: OurModel, image: torch.Tensor, labels: torch.Tensor) -> Contender:
    def step() -> None:
        ours.model.train()
        ours.step(image, labels)

    def inference() -> None:
        ours.model.eval()
        ours.model(image)

    return Contender(step, inference)


def plain_contender(args: Args, build: Callable[[int], nn.Module], terms: Callable[..., Terms], image: torch.Tensor,
                    labels: torch.Tensor, infer: Callable[..., torch.Tensor]) -> Contender:
    torch.manual_seed(0)
    model = build(args.size).to(image.device)
    values = model.normalize(image).contiguous()
    model.normalize = nn.Identity()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        sum(terms(model, values, labels).values()).backward()
        optimizer.step()

    def inference() -> None:
        model.eval()
        infer(model, values)

    return Contender(step, inference)


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
            step = seconds(contender.step, args.steps, device)
            with torch.no_grad():
                inference = seconds(contender.inference, args.steps, device)
            if repetition:
                contender.best["step"] = min(contender.best["step"], step)
                contender.best["inference"] = min(contender.best["inference"], inference)


def main(args: Args) -> None:
    if args.only and args.only not in ALGORITHMS:
        raise UserError(f"--only takes one of {', '.join(ALGORITHMS)}")
    precision = precision_name("auto")
    fabric = connect(precision)
    device = fabric.device
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, {precision}, {args.size} pixels, batches of {args.batch_size}\n")
    print(f"{'':10}{'training, images/s':>32}{'inference, images/s':>36}")
    print(f"{'':10}" + f"{'ours':>12}{'plain':>10}{'ratio':>10}{'':4}" * 2)
    torch.manual_seed(0)
    image = torch.randint(256, (args.batch_size, 3, args.size, args.size), dtype=torch.uint8).to(device)
    labels = (torch.arange(args.batch_size) % CLASSES).to(device)
    for algorithm in [args.only] if args.only else ALGORITHMS:
        build, terms = ALGORITHMS[algorithm]
        is_published = algorithm == "DMUE"
        ours = our_model(fabric, args, build, terms)
        contenders = (our_contender(ours, image, labels),
                      plain_contender(args, build, published_dmue if is_published else terms, image, labels,
                                      published_dmue_inference if is_published else plain_inference))
        measure(contenders, args, device)
        line = f"{algorithm:10}"
        for kind in ("step", "inference"):
            fast, slow = (args.batch_size / contender.best[kind] for contender in contenders)
            line += f"{fast:12.1f}{slow:10.1f}{fast / slow:10.2f}    "
        print(line, flush=True)
        if algorithm == "baseline":
            compare_with_cached_epoch(args, ours, contenders[0])


def compare_with_cached_epoch(args: Args, ours: OurModel, one_batch: Contender) -> None:
    """A cached epoch of the baseline against as many steps on one batch, taking turns."""
    device = ours.fabric.device
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder) / "demo", 8 * args.batch_size
        frame = load_split("demo", root, "train", train=str(8 * -(-count // 8)), val="8", test="8").frame[:count]
        images = Images(root, frame, args.size, Path(folder) / "cache")
        labels = torch.from_numpy(frame["expression"].to_numpy(np.int64, copy=True)).to(device)
        batches = [list(range(start, start + args.batch_size)) for start in range(0, count, args.batch_size)]

        def cached_epoch() -> None:
            ours.model.train()
            for image, index in load_batches(ours.fabric, images, batches, 0):
                ours.step(image, labels[index])

        with_cache = computing_alone = np.inf
        for _ in range(args.repeat):
            with_cache = min(with_cache, seconds(cached_epoch, 1, device))
            computing_alone = min(computing_alone, len(batches) * seconds(one_batch.step, len(batches), device))
        print(f"\nan epoch of {count} images with the cache: {count / with_cache:.1f} images/s, computing alone "
              f"{count / computing_alone:.1f}: ratio {computing_alone / with_cache:.2f}")


if __name__ == "__main__":
    cli.run(main, Args)
