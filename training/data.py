"""The data of a training: images and labels of the training and validation splits, and the batches of an epoch.

Given the options of a run, it reads the data set through `datasets/kept_splits.py`; it never opens the test split.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import losses
from compute.batches import Images
from datasets import default_root, parse_options
from datasets.label_noise import add_noise
from support.errors import UserError
from support.random_streams import keyed_rng
from training.options import TrainingOptions
from training.processes import Processes

if TYPE_CHECKING:
    from datasets.split import Split


@dataclass(frozen=True)
class FusedTargets:
    """What --targets fused needs besides the labels, on the device. The target of an image is its label and its
    distribution, mixed by its weight: `soft_labels.fuse`."""

    distribution: torch.Tensor
    """float32 (N, K): `LabelParts.distribution` of datasets/fused.py"""
    label_weight: torch.Tensor
    """float32 (N, 1): the weight of the label, `--beta` where the data do not determine it"""


@dataclass
class TrainingData:
    """What a run is trained and validated on: N training images, M validation images, K classes."""

    classes: tuple[str, ...]
    """names of the K classes, in the order of their numbers"""
    images: Images
    """the N training images"""
    labels: np.ndarray
    """int64 (N,): the labels trained on, with label noise"""
    class_weights: torch.Tensor | None
    """float32 (K,): weights of the classes in the loss, None for equal ones"""
    fused: FusedTargets | None
    """None unless --targets fused"""
    val_images: Images
    """the M validation images"""
    val_labels: np.ndarray
    """int64 (M,): the labels of the validation images"""
    facts: dict[str, Any]
    """what args.json says about the data"""


def load_data(options: TrainingOptions, processes: Processes,
              restrict: "Callable[[Split], tuple[Split, np.ndarray]] | None" = None,
              cache: Path | None = None) -> TrainingData:
    """Read both splits, and print where they are and how many images are trained on. The images have no cache so far.

    restrict: gives the part of a split that is trained or validated on, and its rows in the split, int64 (N,); None:
    all of it. cache: the folder in which the splits of a large data set are kept, so that the next start need not parse
    it; None: nowhere. Raises UserError where the data set cannot be read, or does not have what class weights or fused
    targets need.
    """
    # With pandas, for which `--help` need not wait.
    from datasets.kept_splits import load_kept_splits
    from datasets.split import fingerprint

    root, data_options = options.root or default_root(options.dataset), parse_options(options.data)
    train, val = load_kept_splits(cache, options.dataset, root, ("train", "val"), **data_options)
    images, val_images = Images(root, train.frame, options.image_size), Images(root, val.frame, options.image_size)
    if restrict is not None:
        train, rows = restrict(train)
        val, val_rows = restrict(val)
        images, val_images = rows_of_split(images, rows), rows_of_split(val_images, val_rows)
    layout = train.notes.get("layout", options.dataset)
    processes.print_once(f"{root}: {layout}; {len(train.frame)} training images")

    original_labels = train.frame["expression"].to_numpy(np.int64)
    noise_seed = 0 if options.noise_rule == "released" else options.seed
    labels = add_noise(original_labels, options.noise, len(train.classes), noise_seed, options.noise_rule)
    data = TrainingData(
        classes=train.classes,
        images=images,
        labels=labels,
        class_weights=None,
        fused=None,
        val_images=val_images,
        val_labels=val.frame["expression"].to_numpy(np.int64),
        facts={
            "classes": list(train.classes),
            "train_images": len(original_labels),
            "val_images": len(val.frame),
            "train_class_counts": class_counts(original_labels, len(train.classes)),
            "val_class_counts": class_counts(val.frame["expression"].to_numpy(np.int64), len(train.classes)),
            "data_sha256": fingerprint(train.frame, val.frame),
            "noise_realised": float((labels != original_labels).mean()),
        })
    try:
        counted = original_labels if options.class_weights == "released" else labels
        data.class_weights = losses.class_weights(counted, len(train.classes), options.class_weights)
    except ValueError as error:
        raise UserError(f"{options.dataset}: {error}; --class-weights none trains without weights") from None
    if options.targets == "fused":
        from datasets.fused import training_label_parts  # it imports OpenCV, which other runs need not wait for
        distribution, label_weight, _, notes = training_label_parts(
            options.dataset, train, root, data_options, gmm_file=options.gmm, beta=options.beta, noise=options.noise)
        device = processes.fabric.device
        data.fused = FusedTargets(torch.from_numpy(distribution).float().to(device),
                                  torch.from_numpy(label_weight[:, None]).float().to(device))
        data.facts["fused"] = notes
    return data


def rows_of_split(images: Images, rows: np.ndarray) -> Images:
    """Some images of a split, which are kept in the cache of the whole one. rows: int64 (N,)."""
    return Images.of_rows([images], np.stack([np.zeros(len(rows), np.int64), rows], 1))


def class_counts(labels: np.ndarray, classes: int) -> list[int]:
    """The number of labels of every class. labels: int64 (N,), those before label noise. args.json keeps the numbers:
    reports compute from them a reference, the prediction that is always the class frequencies."""
    return np.bincount(labels, minlength=classes).tolist()


def plan_batches(count: int, batch_size: int, seed: int | str, epoch: int, rank: int,
                 processes: int) -> list[list[int]]:
    """The batches of one process in one epoch, as lists of indices of images.

    The order of the `count` images is keyed by (seed, epoch), so an epoch that is resumed has the same batches.
    batch_size: images in a batch, over all processes. A process takes every `processes`-th image of the batch, from
    number `rank` on.
    """
    order = keyed_rng("order", seed, epoch).permutation(count)
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < 2 * processes:
        starts.pop()  # BatchNorm cannot take a single image of a process: the last images join the batch before
    ends = [*starts[1:], count]
    return [order[start:end][rank::processes].tolist() for start, end in zip(starts, ends, strict=True)]
