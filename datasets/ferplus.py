"""FER+ (Barsoum et al., ICMI 2016, arXiv:1608.01041): the 48x48 grey faces of FER2013 with ten human votes each.

Layouts: the folders microsoft/FERPlus's script writes (FER2013Train|Valid|Test/fer0000000.png, each with label.csv),
with fer2013new.csv beside them; or Kaggle's fer2013.csv with fer2013new.csv, joined by row index (names drift).
"""
import csv
import io
import os

import numpy as np
from PIL import Image

from cli import UserError, write_text
from datasets import Split, found_in, frame_of, keyed_rng, note, note_all, note_missing, read_text
from datasets.images import on_disk

CLASSES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt")
OPTIONS = {"labels": "distribution (default: the votes) or majority (one class above half of the votes, one-hot)"}


def official(**options):
    """Image counts of FER2013 (Kaggle's Usage column), before rows without enough votes are left out."""
    return {"train": 28_709, "val": 3_589, "test": 3_589}


FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
VOTES = len(CLASSES) + 2  # the eight expressions, then unknown and NF (not a face)


def load(root, split, labels="distribution"):
    """One split. `distribution` is the share of the votes: single votes are dropped as noise, unknown and NF left out,
    and an image that keeps fewer than half of the votes cast is dropped (the rules of the FER+ authors).
    `labels=majority` keeps only images one class of which has more than half of the votes, as one-hot labels."""
    if labels not in ("distribution", "majority"):
        raise UserError(f"labels={labels}: choose distribution or majority")
    notes = {}
    if (root / FOLDERS[split]).is_dir():
        names, votes = _from_folder(root, split, notes)
    elif (root / "fer2013.csv").is_file():
        _unpack_kaggle(root)
        names, votes = _from_folder(root, split, notes)
    else:
        raise UserError(f"{root}: FER+ needs the folder {FOLDERS[split]} with label.csv (or fer2013new.csv above it), "
                        f"or Kaggle's fer2013.csv; found: {found_in(root)}. Point --root at the folder above.")
    frame, distribution = _labelled(root, FOLDERS[split], names, votes, labels, notes)
    return Split(frame, distribution, CLASSES, notes)


def _from_folder(root, split, notes):
    """Names and votes from label.csv; from fer2013new.csv where it is absent (the two differ on 1,602 images)."""
    folder = root / FOLDERS[split]
    if (folder / "label.csv").is_file():
        rows, source, columns = _rows(folder / "label.csv"), f"{FOLDERS[split]}/label.csv", (0, 2)
    elif (root / "fer2013new.csv").is_file():
        rows = [row for row in _rows(root / "fer2013new.csv") if row[0] == USAGES[split]]
        source, columns = "fer2013new.csv", (1, 2)
    else:
        raise UserError(f"{folder}: no label.csv here and no fer2013new.csv in {root}: the votes are missing")
    notes["layout"] = f"FER+ folders of PNG files, votes from {source}"
    names, votes = [], []
    for row in rows:
        counts = _numbers(row[columns[1]:columns[1] + VOTES])
        if counts is None:
            note(notes, "malformed row", ",".join(row)[:60])
        elif not row[columns[0]]:
            note(notes, "row without an image name", ",".join(row)[:60])
        else:
            names.append(row[columns[0]])
            votes.append(counts)
    return names, np.array(votes).reshape(-1, VOTES)


def write_layout(out, faces):
    """Drawn faces as FER+ folders: grey 48x48 files, ten votes each by the drawn point's true posterior, fer2013new.csv
    that differs on some, and the quirks of the release: nine votes, no face, too few votes, an empty name."""
    from datasets.demo import true_posterior

    order = [0, 1, 3, 2, 6, 5, 4, 7]  # the demo's classes in the order of CLASSES
    both = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"]
    for split, count in (("train", 320), ("val", 80), ("test", 80)):
        folder, lines = out / FOLDERS[split], []
        folder.mkdir(parents=True, exist_ok=True)
        for i, face in enumerate(faces(split, count)):
            name = f"fer{len(both) - 1:07d}.png"
            Image.fromarray(face.image).convert("L").resize((48, 48)).save(folder / name)
            share = true_posterior(np.array([[face.valence, face.arousal]]))[0, order]
            votes = [*keyed_rng("votes", split, i).multinomial(9 if i == 3 else 10, share), 0, 0]
            if i in (5, 6):
                votes = [0] * 8 + [4, 6] if i == 5 else [1, 1, 1, 1, 0, 0, 0, 0, 6, 0]
            text = ",".join(map(str, votes))
            lines.append(f'{name},"(0, 0, 48, 48)",{text}\n')
            both.append(f"{USAGES[split]},{'' if i == 7 else name},{text if i % 20 else '10' + ',0' * 9}\n")
        write_text(folder / "label.csv", "".join(lines))
    write_text(out / "fer2013new.csv", "".join(both))


LAYOUTS = {"ferplus": write_layout}


def _numbers(cells):
    """Ten counts of votes, or None for a malformed row."""
    try:
        counts = np.array(cells, float)
    except ValueError:
        return None
    return counts if len(counts) == VOTES and np.isfinite(counts).all() and (counts >= 0).all() else None


def _unpack_kaggle(root):
    """fer2013.csv (emotion,pixels,Usage) and the votes of fer2013new.csv -> the folders of PNG files, once.

    Rows are joined by index: the image names of fer2013new.csv drift from row 60 on and 173 are empty."""
    if not (root / "fer2013new.csv").is_file():
        raise UserError(f"{root}: fer2013.csv is here, but not the votes: put FER+'s fer2013new.csv beside it")
    images, votes = _rows(root / "fer2013.csv")[1:], _rows(root / "fer2013new.csv")[1:]
    if len(images) != len(votes):
        raise UserError(f"{root}: fer2013.csv has {len(images)} images, fer2013new.csv {len(votes)} rows of votes: "
                        f"they are joined by row and must be of equal length (35,887 in the official files)")
    for split, usage in USAGES.items():
        if (root / FOLDERS[split]).exists():
            continue
        folder = root / f".{FOLDERS[split]}.{os.getpid()}.tmp"
        try:
            folder.mkdir(exist_ok=True)
            lines = []
            for i, (image, row) in enumerate(zip(images, votes, strict=True)):
                if image[2:3] == [usage]:
                    pixels = np.array(image[1].split(), np.uint8)
                    if pixels.size != 48 * 48:
                        raise UserError(f"{root}/fer2013.csv row {i + 2}: {pixels.size} pixels instead of 2304")
                    Image.fromarray(pixels.reshape(48, 48)).save(folder / f"fer{i:07d}.png")
                    lines.append(f'fer{i:07d}.png,"(0, 0, 48, 48)",{",".join(row[2:2 + VOTES])}\n')
            write_text(folder / "label.csv", "".join(lines))
            if not (root / FOLDERS[split]).exists():  # another process may have been faster
                folder.rename(root / FOLDERS[split])
        except (ValueError, OverflowError) as error:
            raise UserError(f"{root}/fer2013.csv row {i + 2}: pixels that are no grey levels ({error})") from None
        except OSError as error:
            raise UserError(f"{root}: fer2013.csv has to be unpacked here once: {error.strerror}") from None


def _rows(path):
    """The rows of a small CSV file of unknown make, as lists of text."""
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(read_text(path))) if row]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None


def _labelled(root, folder, names, votes, rule, notes):
    cast = votes.sum(1)
    votes = np.where(votes <= 1, 0, votes)
    faces = votes[:, : len(CLASSES)]
    kept = faces.sum(1)
    usable = (kept > 0) & (kept >= cast / 2)
    if rule == "majority":
        usable = (kept > 0) & (faces.max(1, initial=0) > votes.sum(1) / 2)
    reason = "no expression with half of the votes" if rule == "majority" else "fewer than half of the votes left"
    names = np.array(names, object)
    note_all(notes, reason, names[~usable])
    present = on_disk(root, [f"{folder}/{name}" for name in names])
    note_missing(notes, names[usable & ~present])
    usable &= present
    names, distribution = names[usable].tolist(), faces[usable] / np.maximum(kept[usable, None], 1)
    if rule == "majority":
        distribution = np.eye(len(CLASSES))[distribution.argmax(1)]
    frame = frame_of(id=[name.rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in names],
                     path=[f"{folder}/{name}" for name in names], expression=distribution.argmax(1).astype(np.int64))
    return frame, distribution
