"""Drawn faces in the layouts of RAF-DB basic and RAF-ML (`datasets.rafdb` reads them)."""
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.drawn.faces import Face, Faces, true_posterior
from datasets.rafdb import CLASSES, LISTS, SEVEN, VOTES
from support.files import write_text
from support.random_streams import keyed_rng

LABELS = {"Surprise": 0, "Fear": 1, "Disgust": 2, "Happy": 3, "Sad": 4, "Anger": 5, "Neutral": 6}  # no Contempt
DRAWN_ORDER = [3, 4, 5, 1, 2, 6, 0]  # the classes of the drawn faces, in the order of SEVEN
VOTERS = 40  # both papers say about 40 annotators for each image
SIZE = 100  # pixels of an aligned image
# Left eye, right eye, nose, left and right corner of the mouth of a drawn face of average shape (pixels of 224).
AVERAGE_LANDMARKS = np.array([(84, 104), (140, 104), (112, 134), (94, 160), (130, 160)], np.float64)
ML_IMAGES = 90  # every third one is a test image


def write_basic(out: Path, faces: Faces) -> None:
    """RAF-DB basic: 203 training and 84 test images, the list with its misspelt name, and the nested image folder.

    distribute_basic.csv is written too, although the official download lacks it. Its votes are drawn from the true
    probabilities of the face's valence and arousal, so some disagree with the list or are ambiguous. The original
    pictures show the face turned and smaller; Annotation holds its landmarks, those of a face of average shape.
    """
    folder = out / "basic"
    lines = []
    votes = []
    for kind in ("Image/aligned/aligned", "Image/original", "Annotation/manual"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for part, count, digits in (("train", 232, 5), ("test", 96, 4)):
        labelled_faces = (face for face in faces(part, count) if face.expression in LABELS)
        for number, face in enumerate(labelled_faces, 1):
            stem = f"{part}_{number:0{digits}d}"
            _save_aligned(face.image, folder / f"Image/aligned/aligned/{stem}_aligned.jpg")
            _write_original(folder, stem, face.image)
            lines.append(f"{stem}.jpg {LABELS[face.expression] + 1}\n")
            fractions = _vote_fractions(face, len(SEVEN), part, number)
            if number == 3:  # all votes are for Neutral, so the six classes have none
                fractions = np.array([0, 0, 0, 0, 0, 0, 1])
            elif number == 4:  # too ambiguous for MIVIA's filter
                fractions = np.array([0.4, 0.3, 0.3, 0, 0, 0, 0])
            votes.append(",".join(f"{fraction:g}" for fraction in fractions) + "\n")
    write_text(folder / "EmoLabel" / LISTS[0], "".join(lines))
    write_text(folder / "EmoLabel" / VOTES, "".join(votes))


def write_ml(out: Path, faces: Faces) -> None:
    """RAF-ML: 60 training and 30 test images, their fractions rounded to three digits; one image has two largest ones.

    Image 0001 is the first test image of `write_basic` that is not Neutral, byte for byte, since the two releases
    overlap in this manner.
    """
    folder = out / "RAF-ML"
    (folder / "Image/aligned").mkdir(parents=True, exist_ok=True)
    image_of_basic = next(face for face in faces("test", 8) if LABELS.get(face.expression, 6) < 6)
    new_images = (face for face in faces("val", 120) if LABELS.get(face.expression, 6) < 6)
    texts: dict[str, list[str]] = {"distribution.txt": [], "multilabel.txt": [], "partition_label.txt": []}
    for number, face in enumerate(islice(chain([image_of_basic], new_images), ML_IMAGES), 1):
        name = f"{number:04d}.jpg"
        _save_aligned(face.image, folder / f"Image/aligned/{number:04d}_aligned.jpg")
        fractions = _vote_fractions(face, len(CLASSES), "ml", number)
        if number == 5:
            fractions = np.array([0.4, 0, 0, 0, 0.2, 0.4])
        # The threshold of multilabel.txt is made up: nothing here reads that file.
        is_present = [str(int(fraction > 1 / 6)) for fraction in fractions]
        texts["distribution.txt"].append(" ".join([name, *(f"{fraction:.3f}" for fraction in fractions)]) + "\n")
        texts["multilabel.txt"].append(" ".join([name, *is_present]) + "\n")
        texts["partition_label.txt"].append(f"{name} {int(number % 3 == 0)}\n")
    for file, lines in texts.items():
        write_text(folder / "EmoLabel" / file, "".join(lines))


def _write_original(folder: Path, stem: str, image: np.ndarray) -> None:
    """The original picture of a face, turned and smaller than the drawn one, and the file of its landmarks."""
    rng = keyed_rng("original", "rafdb", stem)
    transform = cv2.getRotationMatrix2D((112, 112), rng.uniform(-12, 12), rng.uniform(.7, .9))
    transform[:, 2] += rng.uniform(0, 60, 2)
    picture = cv2.warpAffine(image, transform, (280, 260), borderMode=cv2.BORDER_REPLICATE)
    Image.fromarray(picture).save(folder / f"Image/original/{stem}.jpg", quality=95)
    landmarks = AVERAGE_LANDMARKS @ transform[:, :2].T + transform[:, 2]
    lines = [f"{x:.6f}\t{y:.6f}\n" for x, y in landmarks]
    write_text(folder / f"Annotation/manual/{stem}_manu_attri.txt", "".join([*lines, "0\n", "0\n", "2\n"]))


def _save_aligned(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(path, quality=95)


def _vote_fractions(face: Face, num_classes: int, *key: str | int) -> np.ndarray:
    """The fractions of 40 votes for a drawn face: float64 (num_classes,), in the order of SEVEN. key: of the random
    stream."""
    posterior = true_posterior(np.array([[face.valence, face.arousal]]))[0, DRAWN_ORDER[:num_classes]]
    votes = keyed_rng("votes", "rafdb", *key).multinomial(VOTERS, posterior / posterior.sum())
    return votes / VOTERS
