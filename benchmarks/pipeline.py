"""Does the loader keep up with the device? Loading alone and whole epochs, compared with computing alone.

  python -m benchmarks.pipeline --quick           64 pixels, about a minute
  python -m benchmarks.pipeline                   224 pixels, several minutes and 4 GB of disk in the temporary folder

Measured are, in images a second, one after the other in each repetition (the best counts):

- computing alone: training steps of the baseline on one batch that lies on the device (`--precision auto`);
- the cache on the host, and on the device: loading alone, and epochs of training, in random order.

After the repetitions, the picture files are loaded once, decoded by one process for each core.

Loading cannot be faster than a bound, and its rate is also given as a fraction of it. For the cache on the host the
bound is the rate of copying as many bytes in memory (on a GPU: from pinned memory to the GPU, where that is slower);
for the picture files it is the decoding rate of one core, times the number of cores. The last lines are the time to
fill the cache, and the time from the start of a script to the end of its first step, with a cache that is full.
"""
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from benchmarks.train_speed import ALGORITHMS, CLASSES, OurModel, our_model, settings_of_training
from compute.batches import Images, load_batches, move_to_device
from compute.devices import connect, precision_name
from datasets.images import read_image
from datasets.split import make_frame
from support import cli
from support.random_streams import keyed_rng
from training.options import MachineOptions

ROOT = Path(__file__).parent.parent
DRAWN = 64  # different pictures; the others are copies of them
COPIED = 2**29  # bytes that are copied in memory to measure its rate
DECODED = 200  # pictures that one core decodes to measure its rate
FIRST_STEP = """
import os, sys, time
from training.run import Training
import torch, train_baseline
def end(training, terms):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print("FIRST STEP", time.time(), flush=True)
    os._exit(0)
Training.end_step = end
train_baseline.cli.run(train_baseline.main, train_baseline.Args,
                       train_baseline.recipe_filler(train_baseline.RELEASED, train_baseline.RELEASED_ON))
"""


@dataclass
class Args:
    quick: bool = False
    """64 pixels and fewer images, which takes about a minute"""
    size: int | None = None
    """side of the images (pixels; if not given: 224, with --quick 64)"""
    images: int | None = None
    """images of an epoch (if not given: 20,000, with --quick 4,000)"""
    batch_size: int | None = None
    """images in a batch (if not given: 128 on a GPU, else 16)"""
    repeat: int = 3
    """repetitions, of which the best counts"""
    batches: int | None = None
    """batches of an epoch that trains (if not given: all of them on a GPU, else 8)"""


@dataclass
class Bench:
    """What all measurements share."""

    fabric: Any
    ours: OurModel
    size: int
    labels: torch.Tensor
    """int64 (N,) on the device"""
    batches: list[list[int]]
    """the images in random order"""
    trained: int
    """batches of an epoch that trains"""

    def wait(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], None]) -> float:
        self.wait()
        began = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - began

    def load(self, images: Images, workers: int = 0) -> float:
        """Images a second of loading alone."""
        def every_batch() -> None:
            for _ in load_batches(self.fabric, images, self.batches, workers):
                pass
        return sum(map(len, self.batches)) / self.seconds(every_batch)

    def train(self, images: Images) -> float:
        """Images a second of an epoch of training."""
        def epoch() -> None:
            self.ours.model.train()
            for image, index in load_batches(self.fabric, images, self.batches[:self.trained], 0):
                self.ours.step(image, self.labels[index])
        return sum(map(len, self.batches[:self.trained])) / self.seconds(epoch)

    def compute(self) -> float:
        """Images a second of as many training steps, all on the same batch."""
        count = len(self.batches[0])
        image = torch.zeros(count, 3, self.size, self.size, dtype=torch.uint8, device=self.fabric.device)

        def steps() -> None:
            self.ours.model.train()
            for _ in range(self.trained):
                self.ours.step(image, self.labels[:count])
        return count * self.trained / self.seconds(steps)

    def copy(self) -> float:
        """Images a second of copying in memory; on a GPU the slower of that and of copies to the GPU."""
        shape = (len(self.batches[0]), self.size, self.size, 3)
        target = np.ones(shape, np.uint8)
        source = np.ones((max(1, COPIED // target.nbytes), *shape), np.uint8)  # more than the processor's caches hold

        def copy_all() -> None:
            for batch in source:
                np.copyto(target, batch)

        def send_all() -> None:
            for _ in source:
                pinned.to(self.fabric.device, non_blocking=True)

        duration = self.seconds(copy_all)
        if self.fabric.device.type == "cuda":
            pinned = torch.from_numpy(target).pin_memory()
            send_all()
            duration = max(duration, self.seconds(send_all))
        return len(source) * shape[0] / duration


def write_pictures(root: Path, count: int, size: int) -> pd.DataFrame:
    """Write smooth random pictures as JPEG files of the wanted size; returns their frame."""
    rng = keyed_rng("benchmarks.pipeline")
    files = []
    for _ in range(DRAWN):
        small = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
        files.append(cv2.imencode(".jpg", cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC))[1].tobytes())
    paths = [f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        (root / path).write_bytes(files[number % DRAWN])
    return make_frame(id=paths, path=paths, expression=np.arange(count) % CLASSES)


def decoding_rate(images: Images) -> float:
    """Pictures a second that one core decodes."""
    count = min(DECODED, len(images))
    began = time.perf_counter()
    for number in range(count):
        read_image(images.paths[number], images.size, images.boxes[number])
    return count / (time.perf_counter() - began)


def start_to_first_step(folder: Path) -> list[float]:
    """Seconds from the start of train_baseline.py on the demo to the end of its first step: without a cache, and then
    twice with it."""
    command = [sys.executable, "-c", FIRST_STEP, "--dataset", "demo", "--root", str(folder / "demo"), "--cache",
               str(folder / "demo cache"), "--runs", str(folder / "runs"), "--fresh"]
    times = []
    for _ in range(3):
        began = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("FIRST STEP")]
        if not lines:
            raise RuntimeError(done.stdout + done.stderr)
        times.append(float(lines[0].split()[2]) - began)
    return times


def report(name: str, rate: float, alone: float, bound: float | None = None) -> None:
    """Print a line: images a second, also as a fraction of computing alone and of the bound."""
    line = f"{name:36}{rate:12.0f} images/s{rate / alone:9.2f} of computing alone"
    print(line + (f"{rate / bound:9.2f} of its bound ({bound:.0f})" if bound else ""), flush=True)


def main(args: Args) -> None:
    fabric = connect(precision_name("auto"))
    on_gpu = fabric.device.type == "cuda"
    size = args.size or (64 if args.quick else 224)
    count = args.images or (4_000 if args.quick else 20_000)
    batch_size, cores = args.batch_size or (128 if on_gpu else 16), len(os.sched_getaffinity(0))
    order = keyed_rng("order", 0).permutation(count).tolist()
    batches = [order[start:start + batch_size] for start in range(0, count - count % batch_size, batch_size)]
    trained = args.batches or (len(batches) if on_gpu else min(8, len(batches)))
    ours = our_model(fabric, size, *ALGORITHMS["baseline"], MachineOptions(), batch_size)
    labels = (torch.arange(count) % CLASSES).to(fabric.device)
    bench = Bench(fabric, ours, size, labels, batches, trained)
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}, {cores} cores, {count} images of {size} pixels ({count * size**2 * 3 / 1e9:.1f} GB decoded), "
          f"batches of {batch_size}\n")
    with tempfile.TemporaryDirectory() as folder, settings_of_training(fabric.device, MachineOptions()):
        run(bench, Path(folder), args.repeat, cores)


def run(bench: Bench, folder: Path, repeat: int, cores: int) -> None:
    """Measure and print."""
    count = len(bench.labels)
    (folder / "pictures").mkdir()
    frame = write_pictures(folder / "pictures", count, bench.size)
    plain = Images(folder / "pictures", frame, bench.size)
    began = time.perf_counter()
    host = Images(folder / "pictures", frame, bench.size, folder / "cache")
    filled = time.perf_counter() - began
    resident = Images(folder / "pictures", frame, bench.size, folder / "cache")
    move_to_device(bench.fabric, resident)
    bench.compute(), bench.train(host)  # warm up
    best: dict[str, float] = {}
    for _ in range(repeat):
        for name, rate in (("alone", bench.compute()), ("copy", bench.copy()), ("host", bench.load(host)),
                           ("device", bench.load(resident)), ("host epoch", bench.train(host)),
                           ("device epoch", bench.train(resident)), ("decoding", decoding_rate(plain))):
            best[name] = max(rate, best.get(name, 0))
    best["files"] = bench.load(plain, cores)
    alone = best["alone"]
    print(f"{'computing alone':36}{alone:12.0f} images/s")
    report("cache on the host, loading alone", best["host"], alone, best["copy"])
    report("cache on the host, epoch", best["host epoch"], alone)
    report("cache on the device, loading alone", best["device"], alone)
    report("cache on the device, epoch", best["device epoch"], alone)
    report("picture files, loading alone", best["files"], alone, best["decoding"] * cores)
    fraction = count / filled / (best["decoding"] * cores)
    print(f"\nfilling the cache: {filled:.1f} s, {fraction:.2f} of the decoding rate "
          f"of {cores} cores")
    first, *later = start_to_first_step(folder)
    print(f"start to first step: {min(later):.1f} s with a full cache, {first:.1f} s where the demo is drawn and the "
          f"cache is filled")


if __name__ == "__main__":
    cli.run(main, Args)
