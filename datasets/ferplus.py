"""FER+ (Barsoum et al., ICMI 2016, arXiv:1608.01041): the 48x48 grey faces of FER2013 with ten human votes each.

Layouts: the folders microsoft/FERPlus's script writes (FER2013Train|Valid|Test/fer0000000.png, each with label.csv),
with fer2013new.csv beside them; or Kaggle's fer2013.csv with fer2013new.csv, joined by row index (names drift). The
latter is unpacked into the former once; `.fer-c-notes.json` in each folder keeps what was left out then.
"""
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from cli import UserError, first_line, read_json, write_text
from datasets import (
    Split, expression_name, found_in, frame_of, keyed_rng, note, note_all, note_missing, read_table, spelt,
)
from datasets.listing import comparison, find_pictures

CLASSES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt")
OPTIONS = {"labels": "distribution (default: the votes) or majority (one class above half of the votes, one-hot)"}


def official(**options):
    """Image counts of FER2013 (Kaggle's Usage column), before rows without enough votes are left out."""
    return {"train": 28_709, "val": 3_589, "test": 3_589}


FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
NAMES = [expression_name(name) for name in CLASSES]  # the vote columns, then:
VOTES = len(CLASSES) + 2  # the eight expressions, unknown and NF (not a face)
MOST_VOTES = 1e6  # nothing in these files is larger
IMAGES, BALLOTS = "fer2013.csv", "fer2013new.csv"  # Kaggle's pixels; the votes of FER+
KEPT_NOTES = ".fer-c-notes.json"
RIGHT_FILE = (f"The right file has the columns emotion, pixels, Usage and 35,887 rows: {IMAGES} of Kaggle's "
              f"fer2013.tar.gz, or icml_face_data.csv renamed to {IMAGES}; train.csv and test.csv do not say which "
              f"images are for testing")


def load(root: Path, split: str, labels: str = "distribution") -> Split:
    """One split. `distribution` is the fraction of the votes: single votes are dropped as noise, unknown and NF left
    out, and an image that keeps fewer than half of the votes cast is dropped (the rules of the FER+ authors).
    `labels=majority` keeps only images one class of which has more than half of the votes, as one-hot labels. Raises
    UserError where a file is missing or is not what its name says."""
    if labels not in ("distribution", "majority"):
        raise UserError(f"labels={labels}: choose distribution or majority")
    notes: dict = {}
    folder = root / FOLDERS[split]
    if not folder.is_dir() or _is_half_made(folder):
        if (root / IMAGES).is_file():
            _unpack_kaggle(root, split)
        elif folder.is_dir():
            raise UserError(f"{folder}/label.csv is empty and no picture is beside it, as an earlier version left it. "
                            f"Put {IMAGES} and {BALLOTS} into {root}, or delete the folder. {RIGHT_FILE}.")
        else:
            raise UserError(f"{root}: FER+ needs the folders {', '.join(FOLDERS.values())}, each with label.csv (or "
                            f"{BALLOTS} above them), or Kaggle's {IMAGES} with {BALLOTS}; found: {found_in(root)}. "
                            f"Point --root at the folder above.")
    names, votes = _from_folder(root, split, notes)
    frame, distribution = _labelled(root, FOLDERS[split], names, votes, labels, notes)
    return Split(frame, distribution, CLASSES, notes)


def _from_folder(root, split, notes):
    """Names and votes from label.csv; from fer2013new.csv where it is absent (the two differ on 1,602 images)."""
    folder = root / FOLDERS[split]
    if (folder / "label.csv").is_file():
        source = f"{FOLDERS[split]}/label.csv"
        rows = [(row[0], row[2:2 + VOTES], row) for _, row in read_table(folder / "label.csv")]
    elif (root / BALLOTS).is_file():
        source = BALLOTS
        ballots = read_ballots(root / BALLOTS)
        for usage, name, _, row in ballots:
            if usage not in USAGES.values():
                note(notes, f"row of {BALLOTS} whose Usage is none of {', '.join(USAGES.values())}",
                     f"{usage[:20] or 'nothing'} of {name or ','.join(row)[:60]}")
        rows = [(name, cells, row) for usage, name, cells, row in ballots if usage == USAGES[split]]
    else:
        raise UserError(f"{folder}: no label.csv here and no {BALLOTS} in {root}: the votes are missing. {BALLOTS} is "
                        f"in https://github.com/microsoft/FERPlus; put it into {root}")
    notes["layout"] = f"FER+ folders of PNG files, votes from {source}"
    if (folder / KEPT_NOTES).exists():
        notes |= read_json(folder / KEPT_NOTES)
    names, votes = [], []
    for name, cells, row in rows:
        counts = _numbers(cells)
        text = ",".join(row)
        if counts is None:  # a stray quotation mark makes one row of many lines
            note(notes, "malformed row", text[:60], 1 + text.count("\n"))
        elif not name:
            note(notes, "row without an image name", text[:60])
        else:
            names.append(name)
            votes.append(counts)
    return names, np.array(votes).reshape(-1, VOTES)


def read_ballots(path: Path) -> list[tuple[str, str, list[str], list[str]]]:
    """The rows of fer2013new.csv: (Usage in its official spelling where it is known, image name, the ten cells of votes
    in the order of `CLASSES`, unknown, NF; the whole row). Columns are found by name; a file without a header is read
    in the official order. Raises UserError where a column is missing."""
    rows = [row for _, row in read_table(path)]
    if not rows:
        raise UserError(f"{path}: no row in it; an incomplete copy?")
    wanted = ["usage", "image name", *NAMES, "unknown", "nf"]
    if official_usage(rows[0][0]) in USAGES.values():
        columns = list(range(len(wanted)))
    else:
        columns = _columns(path, rows.pop(0), wanted, f"The right file is {BALLOTS} of "
                           "https://github.com/microsoft/FERPlus")
    ballots = []
    for row in rows:
        cells = [row[column] if column < len(row) else "" for column in columns]
        if len(row) < len(wanted):
            cells[2:] = []  # a short row: whatever stands in it is not to be trusted
        ballots.append((official_usage(cells[0]), cells[1], cells[2:], row))
    return ballots


def _columns(path, header, wanted, advice):
    """Where the wanted columns (names as `expression_name` gives them) stand in a header."""
    names = [expression_name(cell) for cell in header]
    missing = [name for name in wanted if name not in names]
    if missing:
        found = spelt(", ".join(cell[:20] for cell in header[:12]))
        raise UserError(f"{path}: no column {', '.join(missing)}; the columns found: {found}. {advice}.")
    return [names.index(name) for name in wanted]


def official_usage(text: str) -> str:
    """A cell of the column Usage in its official spelling, whatever its letter case; another text stays."""
    by_name = {usage.lower(): usage for usage in USAGES.values()}
    return by_name.get(text.strip().lower(), text.strip())


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
    return counts if len(counts) == VOTES and ((counts >= 0) & (counts <= MOST_VOTES)).all() else None


# --- Kaggle's fer2013.csv ---

def _is_half_made(folder):
    """Whether a folder holds nothing but an empty label.csv. Earlier versions left this behind when fer2013.csv was not
    the right file."""
    label = folder / "label.csv"
    names = {path.name for path in folder.iterdir()}
    return names == {"label.csv"} and label.is_file() and not label.read_bytes().strip()


def _unpack_kaggle(root, split):
    """fer2013.csv and the votes of fer2013new.csv -> the folders of PNG files that are not there yet; all or none.

    Rows are joined by index: the image names of fer2013new.csv drift from row 60 on and 173 are empty. Both files say
    what a row is for, so a file in another order is noticed."""
    if not (root / BALLOTS).is_file():
        raise UserError(f"{root}: {IMAGES} is here, but not the votes: put FER+'s {BALLOTS} beside it (from "
                        "https://github.com/microsoft/FERPlus)")
    try:
        with open(root / ".fer-c-unpack.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes the first one unpacks
            for path in root.iterdir():
                if re.fullmatch(rf"\.({'|'.join(FOLDERS.values())})\.[0-9]+\.tmp", path.name):
                    shutil.rmtree(path)  # of a process that was killed
            missing = [name for name in SPLIT_NAMES if _is_missing(root / FOLDERS[name])]
            if missing:
                _unpack(root, missing, split)
    except OSError as error:
        raise UserError(f"{root}: {IMAGES} has to be unpacked here once: {error.strerror}") from None


SPLIT_NAMES = tuple(FOLDERS)


def _is_missing(folder):
    return not folder.is_dir() or _is_half_made(folder)


def _unpack(root, missing, split):
    """Write the folders of these splits; `split` is the one that must have images."""
    rows, left_out = _joined(root)
    for name in missing:
        if not rows[name] and name == split:
            counts = ", ".join(f"{len(rows[other])} {USAGES[other]}" for other in SPLIT_NAMES)
            raise UserError(f"{root}/{IMAGES}: no row whose Usage is {USAGES[split]} (it has {counts}). {RIGHT_FILE}.")
    temporary = {name: root / f".{FOLDERS[name]}.{os.getpid()}.tmp" for name in missing if rows[name]}
    try:
        for name, folder in temporary.items():
            folder.mkdir()
            lines = []
            for i, line, pixels, votes in rows[name]:
                _picture(root, line, pixels).save(folder / f"fer{i:07d}.png")
                lines.append(f'fer{i:07d}.png,"(0, 0, 48, 48)",{",".join(votes)}\n')
            write_text(folder / "label.csv", "".join(lines))
            if left_out:
                write_text(folder / KEPT_NOTES, json.dumps(left_out))
        for name, folder in temporary.items():
            goal = root / FOLDERS[name]
            if goal.is_dir():  # half made: its only file is an empty label.csv
                (goal / "label.csv").unlink()
                goal.rmdir()
            folder.rename(goal)
    finally:
        for folder in temporary.values():
            shutil.rmtree(folder, ignore_errors=True)


def _joined(root):
    """{split: [(row index, line in fer2013.csv, text of the pixels, ten cells of votes)]} and notes on what was left
    out. Raises UserError where the two files do not belong together."""
    table = read_table(root / IMAGES)
    if not table:
        raise UserError(f"{root}/{IMAGES}: no row in it. {RIGHT_FILE}.")
    (_, header), *images = table
    usage_column, pixel_column = _columns(root / IMAGES, header, ["usage", "pixels"], RIGHT_FILE)
    ballots = read_ballots(root / BALLOTS)
    if len(images) != len(ballots):
        raise UserError(f"{root}: {IMAGES} has {len(images)} images, {BALLOTS} {len(ballots)} rows of votes: "
                        f"they are joined by row and must be of equal length (35,887 in the official files)")
    rows: dict = {name: [] for name in SPLIT_NAMES}
    split_of = {usage: name for name, usage in USAGES.items()}
    left_out: dict = {}
    for i, ((line, row), (voted_usage, _, votes, _)) in enumerate(zip(images, ballots, strict=True)):
        usage = official_usage(row[usage_column]) if usage_column < len(row) else ""
        if usage not in split_of or voted_usage not in split_of:
            wrong, file = (usage, IMAGES) if usage not in split_of else (voted_usage, BALLOTS)
            note(left_out, f"row whose Usage is none of {', '.join(split_of)}, left out",
                 f"{wrong[:20] or 'nothing'} in row {i + 1} of {file}")
        elif usage != voted_usage:
            raise UserError(f"{root}: row {i + 1} is {usage} in {IMAGES} and {voted_usage} in {BALLOTS}: the rows are "
                            f"in another order, and every picture would get another picture's votes. Take both files "
                            f"as they were published. {RIGHT_FILE}.")
        else:
            pixels = row[pixel_column] if pixel_column < len(row) else ""
            rows[split_of[usage]].append((i, line, pixels, votes))
    return rows, left_out


def _picture(root, line, text):
    """The 48x48 grey picture that a cell of fer2013.csv spells out."""
    try:
        pixels = np.array(text.split(), np.uint8)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{root}/{IMAGES} row {line}: pixels that are no grey levels ({first_line(error)[:80]}). "
                        f"{RIGHT_FILE}.") from None
    if pixels.size != 48 * 48:
        raise UserError(f"{root}/{IMAGES} row {line}: {pixels.size} pixels instead of 2304. {RIGHT_FILE}.")
    return Image.fromarray(pixels.reshape(48, 48))


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
    paths = [f"{folder}/{name}" for name in names]
    found = find_pictures(root, paths, notes)
    present = found != ""
    note_missing(notes, names[usable & ~present], comparison(root, paths, found))
    usable &= present
    names, distribution = names[usable].tolist(), faces[usable] / np.maximum(kept[usable, None], 1)
    if rule == "majority":
        distribution = np.eye(len(CLASSES))[distribution.argmax(1)]
    level = (distribution == distribution.max(1, keepdims=True, initial=0)).sum(1) > 1
    note_all(notes, "level most votes, the first class taken as the hard label", np.array(names, object)[level])
    frame = frame_of(id=[name.rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in names],
                     path=found[usable], expression=distribution.argmax(1).astype(np.int64))
    return frame, distribution
