"""The original pictures of RAF-DB basic and their landmarks, by which RAF-DB-P of the MIVIA benchmark aligns them.

Layout, below the folder `basic` of RAF-DB (datasets/rafdb.py):
  Image/original/train_00001.jpg                          the picture that the aligned one was cut out of
  Annotation/manual/train_00001_manu_attri.txt            five lines "x y": left eye, right eye, nose, left and right
                                                          corner of the mouth, in pixels of the original picture; then
                                                          gender, race and age, which are not read
An affine map takes the two eyes and the middle between the corners of the mouth to `TARGETS`, as the published code
does (github.com/MiviaLab/emotion-robustness, rafdb_perturb_dataset.py).

`make_fer_p.py --from original` takes pictures from here.
"""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datasets.images import inside
from datasets.listing import find_pictures
from datasets.split import printable
from datasets.text_files import read_text
from support.errors import UserError

# Where left eye, right eye and mouth come to lie, as (x, y) in fractions of the side of the picture with its margin.
TARGETS = np.array([(.286, .4), (.714, .4), (.5, .714)], np.float32)
ANNOTATION_PLACES = ("Annotation/manual", "Annotation/manual/manual")
LANDMARKS = 5
FARTHEST = 100_000  # pixels: no landmark is that far from the picture's corner


def original_pictures(root: Path, aligned_paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The original pictures of aligned ones, and how they are aligned.

    aligned_paths: N paths below the root, as the frame of a split of RAF-DB basic has them. Returns N paths of original
    pictures, and the maps from their pixels to fractions of the aligned picture with its margin, float64 (N, 2, 3).
    Raises UserError where a picture or its landmarks are missing or make no sense.
    """
    bases, stems = zip(*(_base_and_stem(path) for path in aligned_paths), strict=True)
    wanted = [f"{base}Image/original/{stem}.jpg" for base, stem in zip(bases, stems, strict=True)]
    paths = find_pictures(root, wanted, {}).tolist()
    missing = [path for path, file in zip(wanted, paths, strict=True) if not file]
    if missing:
        raise UserError(f"{root}: {len(missing)} of {len(paths)} original pictures are missing, for example "
                        f"{missing[0]}; unpack the release's archive of original images there, or leave out --from")
    place = next((place for place in ANNOTATION_PLACES if (root / bases[0] / place).is_dir()), ANNOTATION_PLACES[0])
    maps = []
    for base, stem in zip(bases, stems, strict=True):
        file = inside(root, f"{base}{place}/{stem}_manu_attri.txt")
        maps.append(alignment(read_landmarks(file), file))
    return paths, np.stack(maps)


def _base_and_stem(path: str) -> tuple[str, str]:
    """The folder basic with a final "/" ("" where it is the root), and the stem of an original picture, of the path of
    an aligned one. Raises UserError for pictures of RAF-ML, which have no landmarks."""
    base, separator, name = path.rpartition("Image/aligned/")
    stem = Path(name).stem.removesuffix("_aligned")
    if not separator or not stem.startswith(("train_", "test_")):
        raise UserError(f"--from original: {printable(path)[:80]} is no picture of RAF-DB basic; RAF-ML has no "
                        "landmarks. Take --data parts=basic or --data classes=7")
    return base, stem


def read_landmarks(file: Path) -> np.ndarray:
    """The five landmarks of a picture, float64 (5, 2), x and y in pixels. Raises UserError where there are none."""
    if not file.is_file():
        raise UserError(f"{file} is missing: --from original needs the landmarks of the release's folder Annotation")
    lines = read_text(file).split("\n")[:LANDMARKS]
    try:
        landmarks = np.array([[float(cell) for cell in line.replace(",", " ").split()] for line in lines])
    except ValueError:
        landmarks = np.zeros(0)
    if landmarks.shape != (LANDMARKS, 2) or not np.isfinite(landmarks).all() or np.abs(landmarks).max() > FARTHEST:
        raise UserError(f"{file}: its first {LANDMARKS} lines are not two numbers each, x and y of a landmark")
    return landmarks


def alignment(landmarks: np.ndarray, file: Path) -> np.ndarray:
    """The affine map that takes landmarks, float64 (5, 2), to `TARGETS`: float64 (2, 3). Raises UserError naming their
    file where the three points lie on a line."""
    left_eye, right_eye, _, left_corner, right_corner = landmarks
    points = np.array([left_eye, right_eye, (left_corner + right_corner) / 2])
    sides = points[1:] - points[0]
    if abs(sides[0, 0] * sides[1, 1] - sides[0, 1] * sides[1, 0]) < 1:
        raise UserError(f"{file}: its eyes and mouth lie on a line; the landmarks are damaged")
    return np.linalg.solve(np.column_stack([points, np.ones(3)]), TARGETS.astype(np.float64)).T


def aligned_picture(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """An original picture, uint8 (H, W, 3), aligned: uint8 (size, size, 3), black beyond the picture. transform: as
    `original_pictures` gives it, float64 (2, 3)."""
    return cv2.warpAffine(image, transform * size, (size, size), flags=cv2.INTER_LINEAR)
