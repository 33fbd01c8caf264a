"""Drawn faces in the two layouts of AffectNet (`datasets.affectnet` reads them)."""
import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.affectnet import CLASSES, FOLDERS, HEADER, IMAGE_PLACES, LISTS, LIST_PLACES
from datasets.drawn.faces import Face, Faces
from support.files import write_text
from support.random_streams import keyed_rng

COUNTS = {"train": 240, "test": 80}
MISSING_IMAGES = 6  # rows of the training list whose pictures are not on disk
LANDMARKS = 68


class ListRow(NamedTuple):
    """A row of a list of the old release."""

    key: int | str
    """the name of the picture is made from it"""
    picture: np.ndarray | None
    """uint8 (height, width, 3); None: listed, but not on disk"""
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels"""
    expression: int
    valence: float
    arousal: float


def write_old(out: Path, faces: Faces) -> None:
    """The old release: pictures with a margin around the face, boxes x, y, width, height, and a headerless
    validation.csv.

    Both lists have rows without an expression (8 to 10, valence and arousal -2) and an image without valence and
    arousal. The training list also has a Happy row with a negative box, malformed rows, and six images that are not on
    disk.
    """
    for split, count in COUNTS.items():
        rows = []
        for i, face in enumerate(faces(split, count)):
            size = len(face.image)
            margin = int(0.15 * size)  # as in the boxes of the release: x is 0.15 of the width
            box = (margin, margin, size, size)
            picture = np.pad(face.image, ((margin, margin), (margin, margin), (0, 0)), "edge")
            valence, arousal = (-2, -2) if i == 7 else _annotated_point(face)
            rows.append(ListRow(i, picture, box, CLASSES.index(face.expression), valence, arousal))
            if i < 6:
                rows.append(ListRow(f"{i} without expression", picture[:, ::-1], box, 8 + i % 3, -2, -2))
        if split == "train":
            rows += [ListRow(f"missing {i}", None, box, 0, 0.1, 0.1) for i in range(MISSING_IMAGES)]
            rows.append(ListRow("negative box", picture[:, ::-1], (margin, margin, -size, size), 1, 0.5, 0.2))
        lines = [_write_row(out, split, row) for row in rows]
        if split == "train":
            line = _write_row(out, split, ListRow("spoilt", None, box, 0, 0.1, 0.1))
            lines[100:100] = [line[:200] + "\n", line.replace(",0,0.1,0.1", ",?,0.1,0.1"), ",,,,,,,,\n"]
            lines.insert(0, ",".join(HEADER) + "\n")
        write_text(out / LIST_PLACES[0] / LISTS[split], "".join(lines))


def write_2021(out: Path, faces: Faces) -> None:
    """The release of March 2021: cropped images with four .npy files each.

    train_set and val_set use the same ids. In every third image the numbers are texts. Missing are: the expression of
    one image, the valence of one, the arousal of one, and the image of one expression.
    """
    for split, count in COUNTS.items():
        images = out / FOLDERS[split] / "images"
        annotations = out / FOLDERS[split] / "annotations"
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        for i, face in enumerate(faces(split, count)):
            Image.fromarray(face.image).save(images / f"{i}.jpg", quality=90)
            valence, arousal = _annotated_point(face)
            _write_annotations(annotations, i, CLASSES.index(face.expression), valence, arousal, face.image.shape[0])
        Image.fromarray(face.image[:, ::-1]).save(images / f"{count}.jpg", quality=90)
        _write_annotations(annotations, count + 1, 0, 0.1, 0.1, 224)
        (annotations / "5_val.npy").unlink()
        (annotations / "9_aro.npy").unlink()


def _annotated_point(face: Face) -> tuple[float, float]:
    """Valence and arousal as they are annotated: within [-1, 1], six digits."""
    valence, arousal = (round(float(np.clip(value, -1, 1)), 6) for value in (face.valence, face.arousal))
    return valence, arousal


def _landmarks(key: Any, size: int) -> np.ndarray:
    """68 points x1, y1, ... on an ellipse, each moved by up to a pixel at random: float64 (136,), in pixels of a face
    that is `size` wide. key: of the random stream."""
    angles = np.arange(LANDMARKS) * (2 * np.pi / LANDMARKS)
    points = np.stack([0.5 + 0.3 * np.cos(angles), 0.5 + 0.4 * np.sin(angles)], 1) * size
    return (points + keyed_rng("landmarks", key).uniform(-1, 1, points.shape)).reshape(-1)


def _write_row(out: Path, split: str, row: ListRow) -> str:
    """Write the picture of a row, under a name of the release's form (folder, 56 hexadecimal digits), and return its
    line in the list."""
    digest = hashlib.sha224(f"{split} {row.key}".encode()).hexdigest()
    name = f"{int(digest[:2], 16) % 8 + 100}/{digest}.jpg"
    if row.picture is not None:
        path = out / IMAGE_PLACES[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row.picture).save(path, quality=90)
    landmarks_in_picture = _landmarks(digest, row.box[3]) + row.box[0]
    marks = ";".join(f"{value:.2f}" for value in landmarks_in_picture)
    return f"{name},{','.join(map(str, row.box))},{marks},{row.expression},{row.valence},{row.arousal}\n"


def _write_annotations(annotations: Path, i: int, expression: int, valence: float, arousal: float, size: int) -> None:
    """The four .npy files of image i, of a face that is `size` pixels wide."""
    for kind, value in (("exp", expression), ("val", valence), ("aro", arousal)):
        _save_array(annotations / f"{i}_{kind}.npy", np.array(value if i % 3 else str(value)))
    _save_array(annotations / f"{i}_lnd.npy", _landmarks(i, size))


def _save_array(path: Path, array: np.ndarray) -> None:
    data = BytesIO()
    np.save(data, array, allow_pickle=False)
    path.write_bytes(data.getvalue())
