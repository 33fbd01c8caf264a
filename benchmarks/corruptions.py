"""What the 85 forms of one image cost: ours, the package imagecorruptions where it is installed, a plain reference.

  python benchmarks/corruptions.py                     the constants of ImageNet-C, which the peers' figures are for
  python benchmarks/corruptions.py --preset fer-c      ours

Milliseconds of processor time for the five severities of one drawn face, everything on one thread, compiled loops
warmed, of each form the best of several repetitions, all forms in turn. imagecorruptions (`pip install
imagecorruptions`) knows the constants of ImageNet-C only; what of it does not run with current libraries is patched in
memory. The plain reference (tests/reference.py) is slow on purpose and runs once.
"""
import importlib.metadata
import importlib.util
import inspect
import itertools
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: `corruptions` would be this one
    sys.path[0] = str(Path(__file__).parent.parent)

import cv2
from threadpoolctl import threadpool_limits

import cli
from cli import UserError
from corruptions import CORRUPTIONS, PRESETS, SMALLEST, corrupt
from datasets import demo, keyed_rng
from tests import reference

SEVERITIES = range(1, 6)


@dataclass
class Args:
    size: int = 224
    """side of the image in pixels"""
    preset: str = "imagenet-c"
    """constants: fer-c, fer-c-released or imagenet-c"""
    repeats: int = 15
    """repetitions, of which the best counts; a fifth as many of imagecorruptions"""


def main(args):
    if args.preset not in PRESETS:
        raise UserError(f"unknown preset {args.preset!r}; known: {', '.join(PRESETS)}")
    if args.size < SMALLEST or args.repeats < 1:
        raise UserError(f"--size starts at {SMALLEST}, --repeats at 1")
    face = next(demo.faces("test", 1)).image
    face = cv2.resize(face, (args.size, args.size), interpolation=cv2.INTER_AREA)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            seconds = costs(contenders(args, face))
    finally:
        cv2.setNumThreads(threads)
    print_table(seconds)


def contenders(args, face):
    """{column: (form(name, severity), repetitions as `costs` takes them)}, ours first."""
    def ours(name, severity):
        return corrupt(face, name, severity, keyed_rng(0, "benchmark", name, severity), args.preset)

    def plain(name, severity):
        return reference.levels(reference.form(face, name, severity, keyed_rng(0, "benchmark", name, severity),
                                               args.preset))

    columns = {"ours": (ours, args.repeats)}
    print(f"85 forms of one {args.size} x {args.size} image, constants {args.preset}")
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


def imagecorruptions():
    """Its `corrupt`, and what had to be patched for it to run with the libraries that are here."""
    patched = []

    def stand_in(module, **contents):
        try:
            importlib.import_module(module)
        except ImportError:
            sys.modules[module] = types.ModuleType(module)
            vars(sys.modules[module]).update(contents)
            patched.append(f"import of {module}")

    import scipy.ndimage
    from skimage.filters import gaussian

    stand_in("scipy.ndimage.interpolation", map_coordinates=scipy.ndimage.map_coordinates)
    stand_in("pkg_resources", resource_filename=None)  # for frost, which FER-C does without
    package = importlib.import_module("imagecorruptions")
    if "multichannel" not in inspect.signature(gaussian).parameters:
        def with_multichannel(image, sigma, multichannel=False, **options):
            return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **options)

        package.corruptions.gaussian = with_multichannel
        patched.append("multichannel of skimage.filters.gaussian")
    return package.corrupt, patched


def costs(columns):
    """{name: {column: seconds of processor time for five severities}}, each the best of its repetitions after one
    that warms up; where there are none, of that one."""
    best = {}
    for repetition in range(1 + max(times for _, times in columns.values())):
        for name, severity, column in itertools.product(CORRUPTIONS, SEVERITIES, columns):
            form, times = columns[column]
            if repetition <= times:
                start = time.process_time()
                form(name, severity)
                spent = time.process_time() - start
                if repetition or not times:
                    best[name, column, severity] = min(spent, best.get((name, column, severity), spent))
    return {name: {column: sum(best[name, column, severity] for severity in SEVERITIES) for column in columns}
            for name in CORRUPTIONS}


def print_table(seconds):
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
