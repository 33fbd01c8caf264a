"""The demo set: faces drawn on the spot, so that everything runs without any data.

The expression of a face is determined by one point (valence, arousal) and by nothing else. The points of a class are
drawn from one Gaussian; the Gaussians overlap, so labels are ambiguous in a known way, and the true probability of each
class is known (`datasets.drawn.faces.true_posterior`). The person, the light, the pose, the background and the camera
are drawn independently of the class.

Layout: <root>/v<drawing>-seed<seed>/<split>/<id>.png. `load` draws the files that are missing. Image i of a split
depends on (seed, split, i) only, so a larger set begins with the smaller one.

The command writes drawn faces in the official layout of another data set, so that the commands for that data set can be
tried without its licence:

  python -m datasets.demo --layout ferplus --out DIR
"""
import os
import sys

if __name__ == "__main__" and not __package__:  # as a script: the path starts at the project
    sys.path[0] = os.path.dirname(sys.path[0])

from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from datasets.drawn.faces import CLASSES, draw_image, image_labels, person_name
from datasets.drawn.layouts import LAYOUTS, write_layout
from datasets.split import COLUMNS, Split
from support import cli
from support.errors import UserError

DEFAULTS = {"train": 256, "val": 64, "test": 56, "seed": 0}
OPTIONS = {
    "train": f"images to draw for training (default: {DEFAULTS['train']})",
    "val": f"images to draw for validation (default: {DEFAULTS['val']})",
    "test": f"images to draw for testing (default: {DEFAULTS['test']})",
    "seed": f"which set of faces (default: {DEFAULTS['seed']})",
}
DRAWING = 1  # raise it with every change of the pictures: files on disk are not drawn again
DRAWING_THREADS = 4


class MissingImage(NamedTuple):
    """An image that is not on disk yet."""

    path: Path
    seed: int
    split: str
    number: int


def load(root: Path, split: str, **options: Any) -> Split:
    """One split; images that are not on disk are drawn.

    options: those of `OPTIONS`, as numbers or their text. Raises UserError on an option that is no such number and on a
    folder that cannot be written.
    """
    numbers = {name: _whole_number(name, options.get(name, default)) for name, default in DEFAULTS.items()}
    seed = numbers["seed"]
    rows = []
    missing = []
    for index in range(numbers[split]):
        labels = image_labels(seed, split, index)
        image_id = f"{split}-{index:05d}"
        path = _path_of_image(seed, split, index)
        whole_image = (np.nan,) * 4
        rows.append((image_id, path, *whole_image, labels.label, *labels.point, person_name(split, labels.person)))
        if not (root / path).exists():
            missing.append(MissingImage(root / path, seed, split, index))
    if missing:
        _draw_missing(missing, split)
    return Split(pd.DataFrame(rows, columns=COLUMNS), None, CLASSES)


def would_write(root: Path, split: str, **options: Any) -> bool:
    """Whether `load` would draw images: one of the split is not on disk. Raises UserError as `load` does."""
    count, seed = (_whole_number(name, options.get(name, DEFAULTS[name])) for name in (split, "seed"))
    return not all((root / _path_of_image(seed, split, index)).exists() for index in range(count))


def _path_of_image(seed: int, split: str, index: int) -> str:
    """Where an image lies, relative to the root."""
    return f"v{DRAWING}-seed{seed}/{split}/{split}-{index:05d}.png"


def _whole_number(option: str, value: Any) -> int:
    """The value of an option as a number. Raises UserError where it is no whole number from 1 on (the seed: from 0)."""
    least = 0 if option == "seed" else 1
    text = str(value)
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise UserError(f"demo: {option}={value} is not a whole number from {least} on ({OPTIONS[option]})")
    return int(text)


def _draw_missing(missing: list[MissingImage], split: str) -> None:
    """Draw these images, all of one folder. Raises UserError where they cannot be written."""
    folder = missing[0].path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Threads suffice, since OpenCV releases the interpreter's lock. Processes would need a guard in the script of
        # the caller.
        with ThreadPoolExecutor(min(DRAWING_THREADS, os.cpu_count() or 1)) as pool:
            results = pool.map(_draw_file, missing)
            is_bar_hidden = len(missing) <= 200 or None
            list(tqdm(results, f"drawing demo {split}", len(missing), mininterval=1, disable=is_bar_hidden))
    except OSError as error:
        raise UserError(f"demo: cannot draw into {folder}: {error}") from error


def _draw_file(image: MissingImage) -> None:
    """Draw one image and write it as a PNG file, whole or not at all.

    `support.files.write_whole` also waits until the file is on the disk. That is not needed here: what a power cut
    takes is drawn again after the folder is deleted.
    """
    face = draw_image(image.seed, image.split, image.number)
    blue_green_red = face[:, :, ::-1]
    png = cv2.imencode(".png", blue_green_red)[1]
    temporary = image.path.with_name(f".{image.path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(png)
        os.replace(temporary, image.path)
    finally:
        temporary.unlink(missing_ok=True)


# --- the command ---

@dataclass
class Args:
    layout: Annotated[str, cli.OneOf(LAYOUTS)]
    """the layout to write"""
    out: Path
    """the folder to write to: a new or an empty one (rafdb and raf-ml may share one)"""


def main(args: Args) -> None:
    """Write drawn faces in an official layout. Raises UserError as `write_layout` does."""
    write_layout(args.layout, args.out)
    print(f"wrote the layout {args.layout} to {args.out}")


if __name__ == "__main__":
    cli.run(main, Args)
