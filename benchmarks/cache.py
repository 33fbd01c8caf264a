"""What the cache of decoded pictures saves: images a second of a training epoch's loading, without and with it.

  python -m benchmarks.cache                 draws faces into a temporary folder; about a minute
  python -m benchmarks.cache --gigabytes 5   also loads from a cache of 5 GB, filled with random pixels, in random order

The loader is the one that training uses (`compute.batches`), at 224 pixels, in shuffled batches. Pictures are drawn
faces stored as two data sets keep theirs: JPEG of 512x512 (AffectNet, old release), PNG of 224x224 (demo). Each
repetition measures an uncached epoch and then one of the cached loader, whose first epoch is not counted; the best of
each counts. The cache fits into memory here. Processor time is that of all processes: other programs on the machine
disturb it less than they disturb the clock.
"""
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from PIL import Image

from compute.batches import Images, load_batches
from compute.devices import connect
from datasets.drawn.faces import faces
from datasets.image_cache import BLOCK, ImageCache
from datasets.split import make_frame
from support import cli
from support.random_streams import keyed_rng
from training.options import MachineOptions

FILE_KINDS = {"jpg": 512, "png": 224}  # suffix: side in pixels


@dataclass
class Args:
    images: int = 512
    """pictures in an epoch"""
    size: int = 224
    """side that the network wants"""
    batch_size: int = 64
    """images at once"""
    workers: int = MachineOptions().workers
    """processes that decode for the uncached loader"""
    repeat: int = 3
    """repetitions, of which the best counts"""
    gigabytes: float = 0.0
    """size of another cache (GB; 0: none). It has to fit into the free memory, and on the disk of the temporary
    folder"""


def main(args: Args) -> None:
    torch.set_num_threads(1)
    fabric = connect("32-true")
    with tempfile.TemporaryDirectory() as folder:
        pictures = [face.image for face in faces("train", args.images)]
        print(f"{args.images} pictures at {args.size} pixels, batches of {args.batch_size}, {args.workers} workers for "
              f"the uncached loader, {len(os.sched_getaffinity(0))} cores")
        for suffix, side in FILE_KINDS.items():
            frame = write(Path(folder), suffix, side, pictures)
            compare(fabric, args, Path(folder), frame, f"{suffix} of {side}x{side}")
        if args.gigabytes:
            images = random_images(Path(folder), args.gigabytes, args.size)
            seconds = min(epoch(fabric, args, images, number)[0] for number in range(args.repeat + 1))
            rate = len(images.cached) / seconds
            print(f"a cache of {args.gigabytes:g} GB, {len(images.cached)} images: {rate:.0f} images/s, "
                  f"{rate * args.size ** 2 * 3 / 1e9:.1f} GB/s")


class RandomImages:
    """Images of random pixels that are in a cache, and only there: what `load_batches` needs to know of them."""

    resident = None

    def __init__(self, cached: ImageCache) -> None:
        self.cached = cached

    def __len__(self) -> int:
        return len(self.cached)


def random_images(folder: Path, gigabytes: float, size: int) -> RandomImages:
    """Images of random pixels whose cache has this size. Blocks repeat after 64, which does not matter to a disk."""
    blocks = max(1, round(gigabytes * 1e9 / (BLOCK * size * size * 3)))
    pixels = np.random.default_rng(0).integers(0, 256, (64, BLOCK, size, size, 3), np.uint8)
    numbers = np.arange(blocks * BLOCK)

    def read(path: str, size: int, box: np.ndarray) -> np.ndarray:
        number = int(Path(path).name)
        return pixels[number // BLOCK % 64, number % BLOCK]

    names = [str(number) for number in numbers]
    boxes = np.full((len(numbers), 4), np.nan)
    return RandomImages(ImageCache.open(folder, names, boxes, size, read, key=f"random-{size}-{blocks}"))


def write(root: Path, suffix: str, side: int, pictures: list[np.ndarray]) -> pd.DataFrame:
    """Write the pictures as files of one format and size, and return their frame."""
    paths = [f"{suffix}-{i}.{suffix}" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC).save(root / path, quality=90)
    return make_frame(id=paths, path=paths, expression=np.zeros(len(paths), np.int64))


def compare(fabric: Fabric, args: Args, root: Path, frame: pd.DataFrame, title: str) -> None:
    """Print images a second and processor time without and with the cache."""
    plain = Images(root, frame, args.size)
    began = time.perf_counter()
    cached = Images(root, frame, args.size, root / "cache")
    filled = time.perf_counter() - began
    epoch(fabric, args, cached, 0)
    best = {"uncached": [np.inf, np.inf], "cached, epoch 2": [np.inf, np.inf]}
    for repetition in range(args.repeat):
        for name, images in zip(best, (plain, cached), strict=True):
            best[name] = np.minimum(best[name], epoch(fabric, args, images, 1 + repetition))
    print(f"{title}: the cache is filled in {filled:.1f} s")
    for name, (seconds, work) in best.items():
        print(f"  {name:16}{len(frame) / seconds:9.0f} images/s{1e3 * work / len(frame):9.3f} ms of processor time an "
              "image")
    seconds, work = best["uncached"] / best["cached, epoch 2"]
    print(f"  cached / uncached: {seconds:.1f} times the images/s, {work:.1f} times less processor time", flush=True)


def epoch(fabric: Fabric, args: Args, images: Images | RandomImages, number: int) -> np.ndarray:
    """Seconds by the clock and of all processors for one shuffled pass."""
    order = keyed_rng("order", number).permutation(len(images)).tolist()
    batches = [order[start:start + args.batch_size] for start in range(0, len(order), args.batch_size)]
    began, work = time.perf_counter(), processor()
    total = 0
    for image, _ in load_batches(fabric, images, batches, args.workers):
        total += image[:, :, ::16, ::16].sum().item()  # look at every picture: a cached file is read when it is used
    assert total > 0
    return np.array([time.perf_counter() - began, processor() - work])


def processor() -> float:
    """Seconds of this process and of the worker processes that have ended."""
    usages = (resource.getrusage(processes) for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    cli.run(main, Args)
