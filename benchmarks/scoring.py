"""Speed of scoring (images per second), against what bounds it: reading alone, making the forms alone, computing alone.

  python -m benchmarks.scoring                     draws faces, builds a Demo-C of 60 images at 224 pixels: a minute
  python -m benchmarks.scoring --network tiny      so little to compute that reading is the bound on every machine
  python -m benchmarks.scoring --size 64 --images 400

An image is a source image in one cell: the clean one, or one of its 85 forms. Measured are:

- reading alone: as many processes as scoring has workers read, check and decode all files, and do nothing else;
- forms alone: the same processes make all forms in memory;
- computing alone: the network on images that already lie on the device, in the batches of scoring;
- from files: scoring as evaluate.py does it, from the first file to one file of logits for each cell;
- on the fly: the same with forms made in memory.

Scoring cannot be faster than a bound, and its rates are also given as fractions of two bounds. The first is the smaller
of the rates of computing alone and of reading (or of the forms) alone: it holds on a GPU. Without a GPU the same cores
read and compute, and the second holds: 1 / (1 / reading + 1 / computing). Processor time is that of all processes:
other programs on the machine disturb it less than they disturb the clock. The files are in the memory of the system.
The measurements take turns, and the best of the repetitions counts.
"""
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import make_fer_c
from building.built_set import BuiltSet, open_built_set
from compute import devices
from evaluation.class_matching import same_classes
from evaluation.inference import InferenceOptions, predict_blocks, opencv_without_threads
from evaluation.matching import MatchedSet
from evaluation.predictions import ALL_CELLS, finish_predictions, prepare_predictions
from models import Model, Normalize
from models.resnet import ResNet18
from support import cli
from support.run_folder import PRECISIONS, predictions_folder


@dataclass
class Args:
    images: int = 60
    """source images of the set, which has 86 times as many"""
    size: int = 224
    """side of the images in pixels"""
    format: Literal["png", "jpg", "webp"] = "png"
    """file format of the set"""
    network: Literal["resnet18", "tiny"] = "resnet18"
    """tiny: a linear layer on 16 pixels of the image"""
    precision: Literal["32", "bf16"] = "32"
    """number format of the network"""
    batch_size: int = 128
    """largest number of images that the network takes at once"""
    workers: int = len(os.sched_getaffinity(0))
    """processes that read images"""
    repeat: int = 3
    """repetitions, of which the best counts"""


class TinyNetwork(Model):
    """Next to nothing to compute."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__(num_classes, image_size)
        self.normalize, self.classifier = Normalize(), torch.nn.Linear(48, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        side = image.shape[2] // 4
        coarse = image[:, :, side // 2::side, side // 2::side][:, :, :4, :4]
        return self.classifier(self.normalize(coarse).flatten(1))


class Bench:
    """A built set and a network on its device."""

    def __init__(self, folder: Path, args: Args) -> None:
        out = folder / "Demo-C"
        make_fer_c.main(make_fer_c.Args(
            dataset="demo", root=folder / "demo", out=out, data=("train=128", "val=16", f"test={args.images}"),
            image_size=args.size, format=args.format, workers=min(args.workers, args.images)))
        self.folder, self.args = folder, args
        self.built: BuiltSet = open_built_set(out)
        self.matched = MatchedSet(self.built, same_classes(len(self.built.classes)), [])
        self.fabric = devices.connect(PRECISIONS[args.precision])
        kind = {"resnet18": ResNet18, "tiny": TinyNetwork}[args.network]
        self.options = InferenceOptions(args.precision, args.batch_size, args.workers)
        model = kind(len(self.built.classes), args.size)
        self.network = devices.for_inference(model, self.fabric, self.options).eval()

    @property
    def images(self) -> int:
        return len(self.built.frame) * len(ALL_CELLS)

    def reading_alone(self, in_memory: bool) -> int:
        """Read all files or make all forms, by all workers. Returns the number of images."""
        with opencv_without_threads():
            context, count = multiprocessing.get_context("fork"), self.args.workers
            work = [context.Process(target=self.read, args=(range(number, len(self.built.frame), count), in_memory))
                    for number in range(count)]
            for process in work:
                process.start()
            for process in work:
                process.join()
        return self.images

    def read(self, rows: range, in_memory: bool) -> None:
        for i in rows:
            for _ in self.built.pixels_of_cells(i, ALL_CELLS, in_memory):
                pass

    def computing_alone(self) -> int:
        """Run the network for a second or more."""
        size = self.args.size
        block = torch.randint(256, (4 * len(ALL_CELLS), size, size, 3), dtype=torch.uint8).to(self.fabric.device)
        batches = torch.tensor_split(block.permute(0, 3, 1, 2), -(-len(block) // self.args.batch_size))
        count, began = 0, time.perf_counter()
        with torch.no_grad():
            while time.perf_counter() - began < 1:
                for batch in batches:
                    self.network(batch)
                self.synchronize()
                count += len(block)
        return count

    def synchronize(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()

    def scoring(self, on_the_fly: bool) -> int:
        """From the set to the stored logits."""
        options = InferenceOptions(self.args.precision, self.args.batch_size, self.args.workers, on_the_fly=on_the_fly)
        with tempfile.TemporaryDirectory(dir=self.folder) as run:
            folder = predictions_folder(run, "Demo-C", self.args.precision)
            blocks, _ = prepare_predictions(folder, self.built, None, "weights", PRECISIONS[self.args.precision])
            predict_blocks(self.fabric, self.network, "benchmark", self.matched, blocks, options)
            finish_predictions(blocks, self.built)
        return self.images


def main(args: Args) -> None:
    torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory(prefix="ferc-scoring-") as folder, devices.exact_float32():
        bench = Bench(Path(folder), args)
        device = torch.cuda.get_device_name() if bench.fabric.device.type == "cuda" else "cpu"
        print(f"{args.images} source images of {args.size} pixels ({args.format}), {args.network}, batches of "
              f"{args.batch_size}, {args.workers} workers, {len(os.sched_getaffinity(0))} cores, {device}, load "
              f"{os.getloadavg()[0]:.1f}")
        measures: dict[str, Callable[[], int]] = {
            "reading alone": lambda: bench.reading_alone(False), "forms alone": lambda: bench.reading_alone(True),
            "computing alone": bench.computing_alone, "from files": lambda: bench.scoring(False),
            "on the fly": lambda: bench.scoring(True)}
        bench.computing_alone()  # not counted: the network's first call takes longer
        best = {name: np.full(2, np.inf) for name in measures}
        for _ in range(args.repeat):
            for name, measure in measures.items():
                best[name] = np.minimum(best[name], seconds_per_image(measure))
        for name, (clock, work) in best.items():
            print(f"  {name:16}{1 / clock:10.0f} images/s{1e3 * work:10.3f} ms of processor time an image")
        for name, source in (("from files", "reading alone"), ("on the fly", "forms alone")):
            show_fractions(name, source, *best[name], *best[source], *best["computing alone"])


def seconds_per_image(measure: Callable[[], int]) -> np.ndarray:
    """Seconds for an image, by the clock and of all processors, of a function that returns its number of images."""
    began, work = time.perf_counter(), processor()
    images = measure()
    return np.array([time.perf_counter() - began, processor() - work]) / images


def show_fractions(name: str, source: str, clock: float, work: float, source_clock: float, source_work: float,
                   computing_clock: float, computing_work: float) -> None:
    """Print how near scoring comes to its two bounds. All numbers are seconds for an image."""
    print(f"  {name}: {max(source_clock, computing_clock) / clock:.2f} of the smaller of {source} and computing alone, "
          f"{(source_clock + computing_clock) / clock:.2f} of the bound where both share the cores; processor time of "
          f"both / of scoring {(source_work + computing_work) / work:.2f}")


def processor() -> float:
    """Seconds of this process and of the child processes that have ended."""
    usages = (resource.getrusage(processes) for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    cli.run(main, Args)
