"""Images a second of every script's training step and test pass, against plain loops of the same networks.

  python -m benchmarks.train_speed                    224 pixels, minutes on two CPU cores; on a GPU where there is one
  python -m benchmarks.train_speed --only DMUE --size 112 --batch-size 16

Ours: the step as the scripts take it (channels last, `--precision auto`, fused Adam, normalisation on the device).
Plain: float32 in NCHW, images normalised before they come in, Adam as torch has it by default. For DMUE the plain loop
has the published code's form: every expert twice a step, each time on the images picked out for it, and all experts and
their logits in the test pass too. Both sides take turns in the same run; the best of the repetitions counts. At the end
an epoch with the cache of decoded images is set against the same number of steps on one batch.
"""
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import cli
import harness
import losses
import settings
import train_DMUE
import train_RUL
import train_SCN
from datasets import load_split
from models.dmue import DMUE, class_agreement, pool
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel

CLASSES = 8
CE = losses.build("ce", CLASSES)


@dataclass
class Args:
    size: int = 224
    """side of the images"""
    batch_size: int = 16
    """images a step"""
    steps: int = 2
    """steps a repetition"""
    repeat: int = 3
    """repetitions, of which the best counts"""
    only: str = ""
    """one algorithm: baseline, SCN, DMUE, RUL or swinv2"""
    compile: bool = False
    """torch.compile our side"""


def scn_terms(model, image, labels):
    logits, attention = model(image)
    return CE.terms(logits, labels) | {"rank": train_SCN.rank_loss(attention, 0.7, 0.15)}


def rul_terms(model, image, labels):
    other = torch.randperm(len(image), device=image.device)
    return train_RUL.add_up(CE, model(image, other), labels, other)


def dmue_terms(model, image, labels):
    return train_DMUE.all_terms(CE, model(image, labels), labels, labels, train_DMUE.Algorithm(), (1, 1))


def plain_terms(model, image, labels):
    return CE.terms(model(image), labels)


ALGORITHMS = {  # network, terms of a step
    "baseline": (lambda size: ResNet18(CLASSES, size), plain_terms),
    "SCN": (lambda size: SCN(CLASSES, size), scn_terms),
    "DMUE": (lambda size: DMUE(CLASSES, size), dmue_terms),
    "RUL": (lambda size: RUL(CLASSES, size), rul_terms),
    "swinv2": (lambda size: TimmModel(CLASSES, size, "swinv2_tiny_window8_256", 0.1), plain_terms),
}


def published_dmue(model, image, labels):
    """The terms of a step in the published code's form; `model` is a `DMUE`, whose layers it uses."""
    x = model.feature_map(image, stages=3)
    features = pool(model.backbone.layer4(x))
    logits = model.classifier(features)
    auxiliary, similarity, target = 0, 0, torch.zeros_like(logits)
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


def published_dmue_test(model, image):
    """Logits of a test batch in the published code's form: random labels, all experts."""
    x = model.feature_map(image, stages=3)
    labels = torch.randint(CLASSES, (len(image),), device=image.device)
    for c in range(CLASSES):
        for rows in ((labels != c).nonzero()[:, 0], (labels == c).nonzero()[:, 0]):
            if len(rows):
                model.expert_classifiers[c](pool(model.experts[c](x[rows])))
    return model.classifier(pool(model.backbone.layer4(x)))


class Side:
    """One way of training and testing a network."""

    def __init__(self, step, test, image):
        self.step, self.test, self.image = step, test, image
        self.best = {"step": np.inf, "test": np.inf}


def ours(fabric, args, build, terms, image, labels):
    model = harness.optimised(build(args.size), settings.Machine(compile=args.compile))
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-5, fused=True))

    def step():
        model.train()
        optimizer.zero_grad()
        fabric.backward(sum(terms(model, image, labels).values()))
        optimizer.step()

    def test():
        model.eval()
        model(image)

    side = Side(step, test, image)
    side.model, side.optimizer, side.terms = model, optimizer, terms
    return side


def plain(args, build, terms, image, labels, test_pass):
    torch.manual_seed(0)
    model = build(args.size).to(image.device)
    values = model.normalize(image).contiguous()
    model.normalize = torch.nn.Identity()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step():
        model.train()
        optimizer.zero_grad()
        sum(terms(model, values, labels).values()).backward()
        optimizer.step()

    def test():
        model.eval()
        test_pass(model, values)

    return Side(step, test, values)


def seconds(action, steps, device):
    began = time.perf_counter()
    for _ in range(steps):
        action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def main(args):
    if args.only and args.only not in ALGORITHMS:
        raise cli.UserError(f"--only takes one of {', '.join(ALGORITHMS)}")
    precision = harness.precision_of(settings.Machine())
    fabric = harness.connect(precision)
    device = fabric.device
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, {precision}, {args.size} pixels, batches of {args.batch_size}\n")
    print(f"{'':10}{'training, images/s':>32}{'test, images/s':>36}")
    print(f"{'':10}" + f"{'ours':>12}{'plain':>10}{'ratio':>10}{'':4}" * 2)
    torch.manual_seed(0)
    image = torch.randint(256, (args.batch_size, 3, args.size, args.size), dtype=torch.uint8).to(device)
    labels = (torch.arange(args.batch_size) % CLASSES).to(device)
    for algorithm in [args.only] if args.only else ALGORITHMS:
        build, terms = ALGORITHMS[algorithm]
        published = algorithm == "DMUE"
        sides = (ours(fabric, args, build, terms, image, labels),
                 plain(args, build, published_dmue if published else terms, image, labels,
                       published_dmue_test if published else lambda model, x: model(x)))
        for repetition in range(args.repeat + 1):  # the first warms up
            for side in sides:
                for kind, action in (("step", side.step), ("test", side.test)):
                    with torch.set_grad_enabled(kind == "step"):
                        taken = seconds(action, args.steps, device)
                    if repetition:
                        side.best[kind] = min(side.best[kind], taken)
        line = f"{algorithm:10}"
        for kind in ("step", "test"):
            fast, slow = (args.batch_size / side.best[kind] for side in sides)
            line += f"{fast:12.1f}{slow:10.1f}{fast / slow:10.2f}    "
        print(line, flush=True)
        if algorithm == "baseline":
            baseline = sides[0]
    if not args.only or args.only == "baseline":
        epoch(fabric, args, baseline)


def epoch(fabric, args, side):
    """A cached epoch of the baseline against as many steps on one batch, taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder) / "demo", 8 * args.batch_size
        frame = load_split("demo", root, "train", train=str(8 * -(-count // 8)), val="8", test="8").frame[:count]
        images = harness.Images(root, frame, args.size, Path(folder) / "cache")
        labels = torch.from_numpy(frame["expression"].to_numpy(np.int64, copy=True)).to(fabric.device)
        batches = [list(range(start, start + args.batch_size)) for start in range(0, count, args.batch_size)]
        model, optimizer = side.model, side.optimizer

        def loaded():
            model.train()
            for image, index in harness.load_batches(fabric, images, batches, 0):
                optimizer.zero_grad()
                fabric.backward(sum(side.terms(model, image, labels[index]).values()))
                optimizer.step()

        best = [np.inf, np.inf]
        for _ in range(args.repeat):
            best[0] = min(best[0], seconds(loaded, 1, fabric.device))
            best[1] = min(best[1], seconds(side.step, len(batches), fabric.device) * len(batches))
        print(f"\nan epoch of {count} images with the cache: {count / best[0]:.1f} images/s, computing alone "
              f"{count / best[1]:.1f}: ratio {best[1] / best[0]:.2f}")


if __name__ == "__main__":
    cli.run(main, Args)
