"""Time of a frame of each perturbation sequence, next to the time of a form of FER-C.

  python benchmarks/perturbations.py                       ImageNet-P at 224 pixels
  python benchmarks/perturbations.py --preset rafdb-p      RAF-DB-P

Printed are milliseconds of processor time for one frame, the mean of a sequence of one drawn face, on one thread, after
the loops are compiled; and the ratio to the mean time of the 85 forms of FER-C of the same face, measured in the same
run. Sequences and forms are made several times in turn, and the best time of each counts.
"""
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: `perturbations` would be this one
    sys.path[0] = str(Path(__file__).parent.parent)

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from corruptions import CELLS, PRESETS, corrupt
from datasets.drawn.faces import faces
from perturbations import BORDERS, PERTURBATIONS, frames, number_of_frames
from support import cli
from support.errors import UserError
from support.image_sizes import SMALLEST
from support.random_streams import keyed_rng


@dataclass
class Args:
    size: int = 224
    """side of the frames (pixels); it also chooses the constants of imagenet-p"""
    preset: str = "imagenet-p"
    """perturbations: imagenet-p or rafdb-p"""
    border: str = "reflect"
    """where pixels outside of the frame come from: reflect or zero; with margin the frames are smaller than --size"""
    forms: str = "fer-c"
    """preset of the forms that are timed for comparison: fer-c, fer-c-released or imagenet-c"""
    repeats: int = 7
    """number of repetitions, of which the best counts"""


def main(args: Args) -> None:
    for option, value, known in (("preset", args.preset, PERTURBATIONS), ("border", args.border, BORDERS),
                                 ("forms", args.forms, [name for name in PRESETS if name != "mivia"])):
        if value not in known:
            raise UserError(f"--{option} {value!r} is unknown; known: {', '.join(known)}")
    if args.size < 2 * SMALLEST and args.border == "margin" or args.size < SMALLEST or args.repeats < 1:
        raise UserError(f"--size starts at {SMALLEST} ({2 * SMALLEST} with --border margin), --repeats at 1")
    face = next(faces("test", 1)).image
    face = cv2.resize(face, (args.size, args.size), interpolation=cv2.INTER_AREA)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            seconds, of_a_form = costs(args, face)
    finally:
        cv2.setNumThreads(threads)
    print_table(args, seconds, of_a_form)


def costs(args: Args, face: np.ndarray) -> tuple[dict[str, float], float]:
    """Seconds of processor time: {perturbation: a frame}, and a form of FER-C (mean of 85). face: uint8 (S, S, 3)."""
    sequences: dict[str, list[float]] = {name: [] for name in PERTURBATIONS[args.preset]}
    forms: dict[tuple[str, int], list[float]] = {cell: [] for cell in CELLS}
    for _ in range(1 + args.repeats):  # the first one compiles the loops
        for name, times in sequences.items():
            start = time.process_time()
            for _frame in frames(face, name, keyed_rng(0, "benchmark", name), args.preset, args.size,
                                 border=args.border):
                pass
            times.append(time.process_time() - start)
        for cell, times in forms.items():
            start = time.process_time()
            corrupt(face, *cell, keyed_rng(0, "benchmark", *cell), args.forms)
            times.append(time.process_time() - start)
    of_a_frame = {name: min(times[1:]) / number_of_frames(name, args.preset, args.size)
                  for name, times in sequences.items()}
    return of_a_frame, sum(min(times[1:]) for times in forms.values()) / len(forms)


def print_table(args: Args, seconds: dict[str, float], of_a_form: float) -> None:
    """Print what `costs` returns as a Markdown table."""
    print(f"frames of one {args.size} x {args.size} image, {args.preset}, border {args.border}; forms of {args.forms}")
    print("| perturbation | frames | ms a frame | ratio to a form |")
    print("|---|---|---|---|")
    counts = {name: number_of_frames(name, args.preset, args.size) for name in seconds}
    total = sum(counts.values())
    rows = [(name, counts[name], value) for name, value in seconds.items()]
    rows += [("mean", total, sum(seconds[name] * count for name, count in counts.items()) / total),
             ("FER-C form", len(CELLS), of_a_form)]
    for name, count, value in rows:
        print(f"| {name} | {count} | {1000 * value:.4f} | {value / of_a_form:.3f} |")


if __name__ == "__main__":
    cli.run(main, Args)
