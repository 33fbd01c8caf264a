"""Time of all forms of one image: ours, those of the package imagecorruptions if installed, a plain reference.

  python benchmarks/corruptions.py                     the constants of ImageNet-C, which imagecorruptions has too
  python benchmarks/corruptions.py --preset fer-c      the constants of FER-C
  python benchmarks/corruptions.py --preset mivia      the 18 corruptions of RAF-DB-C

Printed are milliseconds of processor time for the five severities of one drawn face, on one thread, after the loops are
compiled. Each form is made several times, all forms in turn, and its best time counts. imagecorruptions (`pip install
imagecorruptions`) knows only the constants of ImageNet-C; the parts of it that do not run with current libraries are
patched in memory. The plain reference (tests/reference.py) is slow on purpose and runs once.
"""
import importlib.metadata
import importlib.util
import inspect
import itertools
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: `corruptions` would be this one
    sys.path[0] = str(Path(__file__).parent.parent)

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from corruptions import PRESETS, cells_of, corrupt, corruptions_of
from datasets.drawn.faces import faces
from support import cli
from support.errors import UserError
from support.image_sizes import SMALLEST
from support.random_streams import keyed_rng
from tests import reference


# (form, repetitions). `form(name, severity)` gives a corrupted image; repetitions: besides the first, which warms up.
Contender = tuple[Callable[[str, int], np.ndarray], int]


@dataclass
class Args:
    size: int = 224
    """side of the image (pixels)"""
    preset: str = "imagenet-c"
    """preset of severity constants: fer-c, fer-c-released, imagenet-c or mivia"""
    repeats: int = 15
    """number of repetitions, of which the best counts; imagecorruptions gets a fifth as many"""


def main(args: Args) -> None:
    if args.preset not in PRESETS:
        raise UserError(f"unknown preset {args.preset!r}; known: {', '.join(PRESETS)}")
    if args.size < SMALLEST or args.repeats < 1:
        raise UserError(f"--size starts at {SMALLEST}, --repeats at 1")
    face = next(faces("test", 1)).image
    face = cv2.resize(face, (args.size, args.size), interpolation=cv2.INTER_AREA)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            seconds = costs(contenders(args, face), corruptions_of(args.preset))
    finally:
        cv2.setNumThreads(threads)
    print_table(seconds)


def contenders(args: Args, face: np.ndarray) -> dict[str, Contender]:
    """{column of the table: contender}, ours first. face: uint8 (H, W, 3)."""
    def ours(name: str, severity: int) -> np.ndarray:
        return corrupt(face, name, severity, keyed_rng(0, "benchmark", name, severity), args.preset)

    def plain(name: str, severity: int) -> np.ndarray:
        return reference.levels(reference.form(face, name, severity, keyed_rng(0, "benchmark", name, severity),
                                               args.preset))

    columns = {"ours": (ours, args.repeats)}
    count = len(cells_of(corruptions_of(args.preset)))
    print(f"{count} forms of one {args.size} x {args.size} image, constants {args.preset}")
    if importlib.util.find_spec("imagecorruptions") is None:
        print("imagecorruptions is not installed (pip install imagecorruptions): no comparison with it")
    elif args.preset != "imagenet-c" or args.size < 32:
        print("imagecorruptions knows the constants imagenet-c only, from 32 pixels on: no comparison with it")
    else:
        theirs, patched = imagecorruptions()
        print(f"imagecorruptions {importlib.metadata.version('imagecorruptions')}, "
              f"patched in memory: {', '.join(patched) or 'nothing'}")
        columns["imagecorruptions"] = (lambda name, severity: theirs(face, severity, name), -(-args.repeats // 5))
    return columns | {"reference": (plain, 0)}


def imagecorruptions() -> tuple[Callable[..., np.ndarray], list[str]]:
    """`corrupt` of the package, and what had to be patched so that it runs with the installed libraries."""
    patched = []

    def replace_missing(module: str, **contents: Any) -> None:
        try:
            importlib.import_module(module)
        except ImportError:
            sys.modules[module] = types.ModuleType(module)
            vars(sys.modules[module]).update(contents)
            patched.append(f"import of {module}")

    import scipy.ndimage
    from skimage.filters import gaussian

    replace_missing("scipy.ndimage.interpolation", map_coordinates=scipy.ndimage.map_coordinates)
    replace_missing("pkg_resources", resource_filename=None)  # for frost, which FER-C does without
    package = importlib.import_module("imagecorruptions")
    if "multichannel" not in inspect.signature(gaussian).parameters:
        def with_multichannel(image: np.ndarray, sigma: float, multichannel: bool = False,
                              **options: Any) -> np.ndarray:
            return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **options)

        package.corruptions.gaussian = with_multichannel
        patched.append("multichannel of skimage.filters.gaussian")
    return package.corrupt, patched


def costs(columns: dict[str, Contender], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """{corruption: {column: seconds of processor time for its five severities}}. A first repetition warms up and does
    not count, except where there are no others."""
    best = {}
    for repetition in range(1 + max(times for _, times in columns.values())):
        for (name, severity), column in itertools.product(cells_of(names), columns):
            form, times = columns[column]
            if repetition <= times:
                start = time.process_time()
                form(name, severity)
                spent = time.process_time() - start
                if repetition or not times:
                    best[name, column, severity] = min(spent, best.get((name, column, severity), spent))
    return {name: {column: sum(best[name, column, severity] for _, severity in cells_of([name])) for column in columns}
            for name in names}


def print_table(seconds: dict[str, dict[str, float]]) -> None:
    """Print what `costs` returns as a Markdown table."""
    columns = list(next(iter(seconds.values())))
    print("| ms | " + " | ".join("ours" if column == "ours" else f"{column} | ratio" for column in columns) + " |")
    print("|---" * (2 * len(columns)) + "|")
    totals = {column: sum(row[column] for row in seconds.values()) for column in columns}
    for name, row in [*seconds.items(), ("total", totals)]:
        cells = [f"{1000 * row['ours']:.2f}"]
        for column in columns[1:]:
            cells += [f"{1000 * row[column]:.1f}", f"{row[column] / row['ours']:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    cli.run(main, Args)
