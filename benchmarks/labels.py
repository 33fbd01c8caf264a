"""How long AffectNet's labels take to load at full size, and how much memory.

  python -m benchmarks.labels                    writes 1.9 million small files (4 GB), which takes most of the time
  python -m benchmarks.labels --fraction .01     a quick look

The files go to a temporary folder, which is removed at the end. Both releases are written with the official number of
rows. Old: training.csv with 414,800 rows of 1 kB, 287,651 of them usable; the pictures are links to one JPEG file in
each folder, since the sizes of all pictures are read the first time. March 2021: four npy files each for 287,651
training and 4,000 validation images; empty files stand in for the pictures, because loading these labels opens none.

"Start of a training" is what a training does with images and labels before its first step, where nothing has changed
since the last one: labels from kept_splits.py, their fingerprint, and the key of the cache of decoded images, for which
the state of every picture is read.

Every load is a process of its own, so that its peak memory is its own; files are in the system's cache, having just
been written. The seconds of processor time are those of all threads: other programs on the machine change them less
than they change the time by the clock. Target for the CSV file, sizes known: 10 s and 1.5 GiB.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import affectnet, load_split
from datasets.image_cache import cache_key
from datasets.images import inside_all
from datasets.kept_splits import load_kept_splits
from datasets.split import fingerprint
from support import cli
from support.errors import UserError
from support.files import write_text
from support.random_streams import keyed_rng

# Rows of the official lists. Of these, affectnet.TRAIN_COUNTS (train) and 500 of each class (test) have an expression.
ROWS = {"train": 414_800, "test": 5_500}
SECONDS, MEMORY = 10, 1.5  # target for the old release: s, GiB


@dataclass
class Args:
    fraction: float = 1.0
    """fraction of the official number of rows that is written; less than 1 for a quick look"""
    folder: Path | None = None
    """where to write the layouts (default: a temporary folder, removed at the end)"""
    load: str | None = None
    """measure the layout in --folder and print JSON: a split, or `start`. The benchmark runs this in processes of its
    own"""


def main(args: Args) -> None:
    if args.load:
        print(json.dumps(measure(args.folder, start_training if args.load == "start" else loading(args.load))))
        return
    if not 0 < args.fraction <= 1 or args.folder and args.folder.exists():
        raise UserError("--fraction has to be above 0 and at most 1; --folder has to be a new folder")
    with tempfile.TemporaryDirectory(dir=args.folder and args.folder.parent) as temporary:
        folder = args.folder or Path(temporary)
        report_old(folder / "old", args.fraction)
        report_2021(folder / "2021", args.fraction)


def report_old(root: Path, fraction: float) -> None:
    rows = write_old(root, fraction)
    size = (root / affectnet.LIST_PLACES[0] / "training.csv").stat().st_size
    print(f"old release: training.csv of {rows:,} rows, {size / 2**20:.0f} MiB")
    show("load_split train, sizes read", in_process(root, "train"))
    for split in ("train", "val", "test"):
        taken = in_process(root, split)
        show(f"load_split {split}", taken)
        if split == "train":
            within = taken["work"] < SECONDS and taken["memory"] < MEMORY
    show("start of a training, first", in_process(root, "start"))
    show("start of a training, again", in_process(root, "start"))
    print(f"  train {'keeps to' if within else 'MISSES'} {SECONDS} s of processor time and {MEMORY} GiB", flush=True)


def report_2021(root: Path, fraction: float) -> None:
    files = write_2021(root, fraction)
    print(f"release of March 2021: {files:,} npy files in train_set")
    first, kept = (in_process(root, "train") for _ in range(2))
    show("load_split train, files read", first)
    show("load_split train, scan kept", kept)
    print(f"  kept / first: {kept['seconds'] / first['seconds']:.3f} of the time")


def in_process(root: Path, split: str) -> dict[str, float]:
    """`measure` by a new process."""
    command = [sys.executable, "-m", "benchmarks.labels", "--folder", str(root), "--load", split]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(root: Path, load: Callable[[Path], int]) -> dict[str, float]:
    """Call `load`, which returns a number of images. Returns this number, seconds by the clock, seconds of processor
    time, and the peak memory of this process in GiB (from /proc: getrusage would begin with the peak of the process
    that started this one)."""
    began, work = time.perf_counter(), time.process_time()
    images = load(root)
    seconds, work = time.perf_counter() - began, time.process_time() - work
    return {"images": images, "seconds": seconds, "work": work,
            "memory": int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20}


def loading(split: str) -> Callable[[Path], int]:
    """Loading this split."""
    return lambda root: len(load_split("affectnet", root, split).frame)


def start_training(root: Path) -> int:
    """Everything that a training does with images and labels before it reads the first image."""
    train, val = load_kept_splits(root.parent / "kept", "affectnet", root, ("train", "val"))
    fingerprint(train.frame, val.frame)
    for split in (train, val):
        boxes = split.frame[["left", "top", "right", "bottom"]].to_numpy(np.float64)
        cache_key(inside_all(root, split.frame["path"].tolist()), boxes, 224)
    return len(train.frame)


def show(title: str, taken: dict[str, float]) -> None:
    print(f"  {title:30}{taken['images']:9,} images{taken['seconds']:8.2f} s ({taken['work']:.2f} s of processor time)"
          f"{taken['memory']:7.2f} GiB at most", flush=True)


def labels_of(split: str, fraction: float) -> np.ndarray:
    """Expressions in a shuffled order: as many of each as in the official lists, the rest 8, 9 and 10."""
    official = np.full(8, 500)
    if split == "train":
        official = np.array(affectnet.TRAIN_COUNTS) - (np.arange(8) == 1)  # one Happy row has no usable box
    counts = (fraction * official).round().astype(int)
    counts = np.append(counts, np.full(3, (round(fraction * ROWS[split]) - sum(counts)) // 3))
    return keyed_rng("labels", split).permutation(np.repeat(np.arange(11), counts))


def write_old(root: Path, fraction: float) -> int:
    """Lists as released, with a header, and a picture for every row: in each folder links to one file. Returns the
    rows of training.csv."""
    rng = keyed_rng("old")
    marks = [";".join(f"{value:.2f}" for value in rng.uniform(0, 999, 136)) for _ in range(500)]
    (root / affectnet.LIST_PLACES[0]).mkdir(parents=True)
    pictures = root / affectnet.IMAGE_PLACES[0]
    for folder in range(1000):
        (pictures / str(folder)).mkdir(parents=True)
        if folder == 0:
            Image.new("L", (2000, 2000)).save(pictures / "0.jpg")
        else:
            shutil.copyfile(pictures / "0.jpg", pictures / f"{folder}.jpg")
    for split in ("test", "train"):
        labels, lines = labels_of(split, fraction), [",".join(affectnet.HEADER)]
        numbers, points = rng.integers(20, 900, (len(labels), 2)), rng.uniform(-1, 1, (len(labels), 2)).round(6)
        for i, (label, (x, width), (valence, arousal)) in enumerate(
                zip(labels.tolist(), numbers.tolist(), points.tolist(), strict=True)):
            name = f"{i % 1000}/{rng.bytes(28).hex()}.jpg"
            os.link(pictures / f"{i % 1000}.jpg", pictures / name)
            valence, arousal = (valence, arousal) if label < 8 else (-2, -2)
            lines.append(f"{name},{x},{x},{width},{width},{marks[i % 500]},{label},{valence},{arousal}")
        write_text(root / affectnet.LIST_PLACES[0] / affectnet.LISTS[split], "\n".join(lines) + "\n")
    return len(labels)


def write_2021(root: Path, fraction: float) -> int:
    """Four npy files each, text in exp, val and aro as released, and an empty file for every picture. Returns how many
    npy files there are for training."""
    for split in ("test", "train"):
        labels = labels_of(split, fraction)
        labels = labels[labels < 8]
        images, annotations = (root / affectnet.FOLDERS[split] / kind for kind in ("images", "annotations"))
        images.mkdir(parents=True)
        annotations.mkdir()
        points = keyed_rng("points", split).uniform(-1, 1, (len(labels), 2)).round(6)
        for i, values in enumerate(zip(labels.tolist(), *points.T.tolist(), strict=True)):
            os.close(os.open(images / f"{i}.jpg", os.O_CREAT | os.O_WRONLY))
            for kind, value in zip(("exp", "val", "aro"), values, strict=True):
                np.save(annotations / f"{i}_{kind}.npy", np.array(str(value)))
            os.close(os.open(annotations / f"{i}_lnd.npy", os.O_CREAT | os.O_WRONLY))  # nothing reads landmarks
    return 4 * len(labels)


if __name__ == "__main__":
    cli.run(main, Args)
