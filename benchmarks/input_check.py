"""How well the check of the input finds mistakes, and how often it warns without one.

  python -m benchmarks.input_check                             Demo-C: draws faces, trains for a minute
  python -m benchmarks.input_check --faces FOLDER              besides, colour faces in FOLDER/train/CLASS/

Four networks are trained on faces of 48 pixels: two sound ones (a small convolutional network, and one with twice the
channels), a weak one (one epoch), and a collapsed one (nine tenths of its training images are called by one name).
Their logits under all readings, with sizes up to 128 pixels, are computed once, on a pool of images that they were not
trained on. Then everything is resampled: 300 images are drawn, and the check judges the cached logits, as it would
before scoring.

Power: for each mistake (the images are read wrongly, softmaxed, or the classes are named in another order), the
accuracy it costs and the fraction of resamples in which the check warns and its option is the right one. False alarms:
the fraction of resamples with any alarm where nothing is wrong. Targets: power of at least .9 where a mistake costs ten
points, false alarms of at most .01.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from datasets import default_root, load_split
from datasets.images import inside, read_image
from datasets.split import Split
from evaluation.class_matching import match_classes, same_classes
from evaluation.input_check import CheckedImages, CheckedModel, Reading, check_outputs, other_formats
from evaluation.input_format import InputFormat
from metrics import softmax
from support import cli
from support.errors import UserError
from support.random_streams import keyed_rng

SIDE = 48
LARGEST_SIDE = 128  # of the readings that are tried
RIGHT = InputFormat(size=SIDE, range="-1..1")
MISTAKES = {
    "BGR": replace(RIGHT, colour="bgr"),
    "grey": replace(RIGHT, colour="grey3"),
    "0..1 for -1..1": replace(RIGHT, range="0..1"),
    "0..255 for -1..1": replace(RIGHT, range="0..255"),
    "ImageNet's mean": replace(RIGHT, range="standardised", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "64 pixels for 48": replace(RIGHT, size=64),
    "96 pixels for 48": replace(RIGHT, size=96),
}
MODELS = {"sound": (24, 12, 1.0), "sound, wide": (48, 12, 1.0), "weak": (24, 1, 1.0), "collapsed": (24, 3, 0.1)}


@dataclass
class Args:
    faces: Path | None = None
    """a folder with train/, and val/ where there is one, each with a folder of colour pictures for each class, as
    `--dataset folders` reads it"""
    demo: bool = True  # the text is that of --no-demo
    """do not use the demo's drawn faces"""
    resamples: int = 300
    """how often 300 images are drawn"""
    images: int = 300
    """images of a check"""
    train: int = 2000
    """training images that are drawn for the demo"""
    pool: int = 1000
    """images that are drawn for the demo to resample from"""


def main(args: Args) -> None:
    if not args.demo and args.faces is None:
        raise UserError("name a folder with --faces, or leave out --no-demo")
    if args.demo:
        splits = [load_split("demo", default_root("demo"), name, **{name: count})
                  for name, count in (("train", args.train), ("val", args.pool))]
        report("Demo", *splits, default_root("demo"), args)
    if args.faces is not None:
        splits = [load_split("folders", args.faces, name) for name in ("train", "val")]
        report(args.faces.name, *splits, args.faces, args)


def report(title: str, train: Split, pool: Split, root: Path, args: Args) -> None:
    """Train, and print the table of one data set."""
    images, labels = read_split(train, root)
    pool_images, pool_labels = read_split(pool, root)
    print(f"{title}: {len(labels)} images to train on, {len(pool_labels)} to check; {args.resamples} resamples of "
          f"{args.images}")
    print(f"  {'model':12s} {'mistake':18s} {'right':>7s} {'wrong':>7s} {'warned':>7s} {'right option':>13s}")
    classes = list(train.classes)
    for name, (channels, epochs, purity) in MODELS.items():
        network = trained(images, labels, len(classes), channels, epochs, purity)
        formats = [RIGHT, *MISTAKES.values()]
        formats += [other for format in formats for _, _, other in other_readings(format)]
        cached = {format: logits_of(network, pool_images, format) for format in dict.fromkeys(formats)}
        print_model(name, cached, pool_labels, classes, args)


def print_model(name: str, cached: dict[InputFormat, np.ndarray], labels: np.ndarray, classes: Sequence[str],
                args: Args) -> None:
    """The lines of one model. cached: {format: logits (N, K) of the pool}. labels: (N,)."""
    right = (cached[RIGHT].argmax(1) == labels).mean()

    def line(mistake: str, wrong: float, options: Sequence[str | None], wanted: str) -> None:
        warned = np.mean([option is not None for option in options])
        named = np.mean([option == wanted for option in options])
        print(f"  {name:12s} {mistake:18s} {right:7.3f} {wrong:7.3f} {warned:7.3f} "
              f"{named if wanted else float('nan'):13.3f}", flush=True)

    line("none", right, resampled(cached, RIGHT, labels, classes, args), "")
    for mistake, format in MISTAKES.items():
        wrong = (cached[format].argmax(1) == labels).mean()
        line(mistake, wrong, resampled(cached, format, labels, classes, args), f"--input {RIGHT.description()}")
    softmaxed = {format: softmax(logits) for format, logits in cached.items()}
    line("softmaxed", right, resampled(softmaxed, RIGHT, labels, classes, args), "--output probabilities")
    two = [*classes[:-2], classes[-1], classes[-2]]
    for mistake, names in (("classes permuted", [*classes[1:], classes[0]]), ("two classes swapped", two)):
        order = [names.index(name) for name in classes]
        wrong = (cached[RIGHT][:, order].argmax(1) == labels).mean()
        options = resampled(cached, RIGHT, labels, classes, args, names)
        line(mistake, wrong, options, f"--classes {','.join(classes)}")


def resampled(cached: dict[InputFormat, np.ndarray], given: InputFormat, labels: np.ndarray, classes: Sequence[str],
              args: Args, names: Sequence[str] | None = None) -> list[str | None]:
    """For each resample the option of the first alarm, None where there was none. names: what the outputs are called;
    None: `classes`."""
    match = same_classes(len(classes)) if names is None else match_classes("net", names, "set", classes)
    options: list[str | None] = []
    for number in range(args.resamples):
        rows = keyed_rng("benchmark of the check", number).integers(0, len(labels), args.images)
        images = CheckedImages(np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (args.images, 1, 1, 3)), labels[rows],
                               "")
        model = CheckedModel("net", names or classes, classes, match, "logits")
        result = check_outputs(model, cached[given][rows], cached_readings(cached, given, rows), images)
        options.append(result.alarms[0].option if result.alarms else None)
    return options


def cached_readings(cached: dict[InputFormat, np.ndarray], given: InputFormat,
                    rows: np.ndarray) -> Callable[[], list[Reading]]:
    """The other readings, which answer with cached logits."""
    def readings() -> list[Reading]:
        return [Reading(subject, words, f"--input {other.description()}", lambda _, other=other: cached[other][rows])
                for subject, words, other in other_readings(given)]
    return readings


def other_readings(given: InputFormat) -> list[tuple[str, str, InputFormat]]:
    """What the check would try, without the sizes that take long."""
    return [entry for entry in other_formats(given, SIDE, are_grey=False) if (entry[2].size or SIDE) <= LARGEST_SIDE]


# ---- networks and images

def read_split(split: Split, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, SIDE, SIDE, 3) and labels (N,) of a split."""
    images = [read_image(inside(root, row.path), SIDE, (row.left, row.top, row.right, row.bottom))
              for row in split.frame.itertuples()]
    return np.stack(images), split.frame["expression"].to_numpy(np.int64)


def trained(images: np.ndarray, labels: np.ndarray, classes: int, channels: int, epochs: int,
            purity: float) -> nn.Module:
    """A small network, trained on images in the right reading. purity: the fraction of labels that are right; the
    others are called by the first class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            *block(3, channels), *block(channels, 2 * channels), *block(2 * channels, 2 * channels),
            nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Dropout(0.3), nn.Linear(72 * channels, classes))
        rng = keyed_rng("training of the benchmark", purity)
        labels = np.where(rng.random(len(labels)) < purity, labels, 0)
        inputs, targets = prepared(images, RIGHT), torch.from_numpy(labels)
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for epoch in range(epochs):
            network.train()
            for rows in torch.from_numpy(rng.permutation(len(labels))).split(64):
                batch = inputs[rows].flip(3) if epoch % 2 else inputs[rows]
                optimizer.zero_grad()
                functional.cross_entropy(network(batch), targets[rows]).backward()
                optimizer.step()
    return network.eval()


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """A convolution that halves the side."""
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def logits_of(network: nn.Module, images: np.ndarray, format: InputFormat) -> np.ndarray:
    """The logits of a network, (N, K), for images that are read with a format."""
    with torch.no_grad():
        return np.concatenate([network(prepared(images[start:start + 100], format)).numpy()
                               for start in range(0, len(images), 100)])


def prepared(images: np.ndarray, format: InputFormat) -> torch.Tensor:
    """Float32 (N, 3, size, size): images uint8 (N, SIDE, SIDE, 3) as a format reads them."""
    values = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if format.colour == "bgr":
        values = values.flip(1)
    if format.colour == "grey3":
        values = (values * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(values)
    if format.size not in (None, SIDE):
        values = functional.interpolate(values, (format.size, format.size), mode="bilinear", antialias=True)
    if format.range == "standardised":
        mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (format.mean, format.std))
        return (values / 255 - mean) / std
    factor, shift = {"0..255": (1, 0), "0..1": (255, 0), "-1..1": (127.5, 1)}[format.range]
    return values / factor - shift


if __name__ == "__main__":
    cli.run(main, Args)
