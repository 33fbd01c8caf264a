"""FER+ (Barsoum et al., ICMI 2016, arXiv:1608.01041): the 48x48 grey faces of FER2013 with ten human votes each.

Layouts:
  FER2013Train|FER2013Valid|FER2013Test/fer0000000.png   as the script of microsoft/FERPlus writes them, each folder
                                                         with label.csv, or with fer2013new.csv in the root
  fer2013.csv                                            the pixels as Kaggle has them, with fer2013new.csv (the votes)
The two files of the second layout are joined by row index, since the image names in fer2013new.csv do not match
from row 60 on. They are unpacked into the first layout once; `.fer-c-notes.json` in each folder keeps what was left out
then. Pictures saved again under another suffix are found.

Splits are the official ones: Training, PublicTest (val) and PrivateTest (test).

Labels. The distribution of an image is the fraction of its votes for each of the eight expressions, by the rules of the
FER+ authors: an expression with a single vote loses it, and votes for "unknown" and "not a face" do not count. With
`labels=majority` it is one-hot.

Dropped, each with a note: images that keep fewer than half of the votes cast; with `labels=majority` instead images
of which no expression has more than half of the votes that are left (here the votes for "unknown" and "not a face"
count in the sum); malformed rows, rows without a name, images that are not on disk.

`datasets.load_split` calls `load`; the options are in `OPTIONS`.
"""
import fcntl
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from datasets.listing import comparison, find_pictures
from datasets.split import (
    Split,
    count_note,
    count_note_for_names,
    expression_name,
    folder_contents,
    make_frame,
    note_missing_files,
    printable,
)
from datasets.text_files import read_table
from support.errors import UserError, first_line
from support.files import final_name, read_json, temporary_path, write_text

CLASSES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt")
OPTIONS = {"labels": "distribution (default: the votes) or majority (one class with more than half, one-hot)"}

FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # the column Usage
SPLIT_OF_USAGE = {usage: split for split, usage in USAGES.items()}
VOTE_COLUMNS = (*(expression_name(name) for name in CLASSES), "unknown", "nf")  # nf: not a face
VOTES = len(VOTE_COLUMNS)
MOST_VOTES = 1e6  # no number in these files is larger
SIDE = 48  # pixels
PIXELS_FILE = "fer2013.csv"  # of Kaggle
VOTES_FILE = "fer2013new.csv"  # of FER+
KEPT_NOTES = ".fer-c-notes.json"
RIGHT_FILE = (f"The right file has the columns emotion, pixels, Usage and 35,887 rows: {PIXELS_FILE} of Kaggle's "
              f"fer2013.tar.gz, or icml_face_data.csv renamed to {PIXELS_FILE}; train.csv and test.csv do not say "
              f"which images are for testing")


def official(**options: Any) -> dict[str, int]:
    """Image counts of FER2013 (Kaggle's column Usage), before images without enough votes are left out."""
    return {"train": 28_709, "val": 3_589, "test": 3_589}


class VoteRow(NamedTuple):
    """A row of fer2013new.csv."""

    usage: str
    """one of `USAGES`, or what else the cell holds"""
    name: str
    """of the image"""
    votes: list[str]
    """the cells of `VOTE_COLUMNS`; empty where the row is too short"""
    row: list[str]
    """all cells"""


def load(root: Path, split: str, labels: str = "distribution") -> Split:
    """One split; the option is that of `OPTIONS`. Raises UserError where a file is missing or is not what its name
    says."""
    if labels not in ("distribution", "majority"):
        raise UserError(f"labels={labels}: choose distribution or majority")
    folder = root / FOLDERS[split]
    if not folder.is_dir() or _has_only_an_empty_list(folder):
        if (root / PIXELS_FILE).is_file():
            _unpack_kaggle(root, split)
        elif folder.is_dir():
            raise UserError(f"{folder}/label.csv is empty and no picture is beside it, as an earlier version left it. "
                            f"Put {PIXELS_FILE} and {VOTES_FILE} into {root}, or delete the folder. {RIGHT_FILE}.")
        else:
            raise UserError(f"{root}: FER+ needs the folders {', '.join(FOLDERS.values())}, each with label.csv (or "
                            f"{VOTES_FILE} above them), or Kaggle's {PIXELS_FILE} with {VOTES_FILE}; found: "
                            f"{folder_contents(root)}. Point --root at the folder above.")
    notes: dict[str, Any] = {}
    names, votes = _read_votes(root, split, notes)
    frame, distribution = _labelled_images(root, FOLDERS[split], names, votes, labels, notes)
    return Split(frame, distribution, CLASSES, notes)


def _read_votes(root: Path, split: str, notes: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """The names of the images of a split and their votes, float64 (N, 10).

    They are read from label.csv, or from fer2013new.csv where that is absent (the two differ on 1,602 images).
    Malformed rows are noted. Raises UserError where there is neither.
    """
    folder = root / FOLDERS[split]
    if (folder / "label.csv").is_file():
        source = f"{FOLDERS[split]}/label.csv"
        rows = [(row[0], row[2:2 + VOTES], row) for _, row in read_table(folder / "label.csv")]
    elif (root / VOTES_FILE).is_file():
        source = VOTES_FILE
        vote_rows = read_vote_rows(root / VOTES_FILE)
        for vote_row in vote_rows:
            if vote_row.usage not in SPLIT_OF_USAGE:
                example = f"{vote_row.usage[:20] or 'nothing'} of {vote_row.name or ','.join(vote_row.row)[:60]}"
                count_note(notes, f"row of {VOTES_FILE} whose Usage is none of {', '.join(SPLIT_OF_USAGE)}", example)
        rows_of_split = [vote_row for vote_row in vote_rows if vote_row.usage == USAGES[split]]
        rows = [(vote_row.name, vote_row.votes, vote_row.row) for vote_row in rows_of_split]
    else:
        raise UserError(f"{folder}: no label.csv here and no {VOTES_FILE} in {root}: the votes are missing. "
                        f"{VOTES_FILE} is in https://github.com/microsoft/FERPlus; put it into {root}")
    notes["layout"] = f"FER+ folders of PNG files, votes from {source}"
    if (folder / KEPT_NOTES).exists():
        notes |= read_json(folder / KEPT_NOTES)
    names = []
    votes = []
    for name, cells, row in rows:
        counts = _vote_counts(cells)
        text = ",".join(row)
        if counts is None:  # a stray quotation mark makes one row of many lines
            count_note(notes, "malformed row", text[:60], 1 + text.count("\n"))
        elif not name:
            count_note(notes, "row without an image name", text[:60])
        else:
            names.append(name)
            votes.append(counts)
    return names, np.array(votes).reshape(-1, VOTES)


def read_vote_rows(path: Path) -> list[VoteRow]:
    """The rows of fer2013new.csv.

    Columns are found by their names; a file without a header is read in the official order. Raises UserError where the
    file is empty or a column is missing.
    """
    rows = [row for _, row in read_table(path)]
    if not rows:
        raise UserError(f"{path}: no row in it; an incomplete copy?")
    wanted = ["usage", "image name", *VOTE_COLUMNS]
    if official_usage(rows[0][0]) in SPLIT_OF_USAGE:
        columns = list(range(len(wanted)))
    else:
        columns = _column_numbers(path, rows.pop(0), wanted, f"The right file is {VOTES_FILE} of "
                                  "https://github.com/microsoft/FERPlus")
    vote_rows = []
    for row in rows:
        usage, name, *votes = [row[column] if column < len(row) else "" for column in columns]
        if len(row) < len(wanted):
            votes = []  # nobody knows which cells of a short row are missing
        vote_rows.append(VoteRow(official_usage(usage), name, votes, row))
    return vote_rows


def _column_numbers(path: Path, header: Sequence[str], wanted: Sequence[str], advice: str) -> list[int]:
    """The columns of a header with the wanted names (as `expression_name` gives them). Raises UserError naming the
    missing ones; advice: where the right file is to be had."""
    names = [expression_name(cell) for cell in header]
    missing = [name for name in wanted if name not in names]
    if missing:
        present = printable(", ".join(cell[:20] for cell in header[:12]))
        raise UserError(f"{path}: no column {', '.join(missing)}; the columns found: {present}. {advice}.")
    return [names.index(name) for name in wanted]


def official_usage(text: str) -> str:
    """A cell of the column Usage in its official spelling, whatever its letter case. Another text stays as it is,
    without blanks at its ends."""
    by_lower_case = {usage.lower(): usage for usage in SPLIT_OF_USAGE}
    return by_lower_case.get(text.strip().lower(), text.strip())


def _vote_counts(cells: Sequence[str]) -> np.ndarray | None:
    """The ten counts of a row, float64 (10,), or None where the cells are something else."""
    try:
        counts = np.array(cells, float)
    except ValueError:
        return None
    if len(counts) != VOTES or not ((counts >= 0) & (counts <= MOST_VOTES)).all():
        return None
    return counts


# --- Kaggle's fer2013.csv ---

class KaggleRow(NamedTuple):
    """A row of fer2013.csv with its votes."""

    number: int
    """counted from 0, the header left out; it is in the name of the image"""
    line: int
    """its line in fer2013.csv, for messages"""
    pixels: str
    """2304 grey levels, separated by blanks"""
    votes: list[str]
    """the cells of `VOTE_COLUMNS`"""


def would_write(root: Path, split: str, **options: Any) -> bool:
    """Whether `load` would unpack Kaggle's file."""
    folder = root / FOLDERS[split]
    return (not folder.is_dir() or _has_only_an_empty_list(folder)) and (root / PIXELS_FILE).is_file()


def _has_only_an_empty_list(folder: Path) -> bool:
    """Whether a folder holds nothing but an empty label.csv. Earlier versions left that behind when fer2013.csv was not
    the right file."""
    label = folder / "label.csv"
    names = {path.name for path in folder.iterdir()}
    return names == {"label.csv"} and label.is_file() and not label.read_bytes().strip()


def _unpack_kaggle(root: Path, split: str) -> None:
    """Write the folders of PNG files that are not there yet, all of them or none, from fer2013.csv and the votes in
    fer2013new.csv.

    Rows are joined by index: the image names of fer2013new.csv do not match from row 60 on, and 173 are empty. Both
    files say what a row is for, so a file in another order is noticed. split: the one that must have images.
    """
    if not (root / VOTES_FILE).is_file():
        raise UserError(f"{root}: {PIXELS_FILE} is here, but not the votes: put FER+'s {VOTES_FILE} beside it (from "
                        "https://github.com/microsoft/FERPlus)")
    try:
        with open(root / ".fer-c-unpack.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the first of several processes unpacks, the others wait
            for path in root.iterdir():
                if final_name(path.name) in FOLDERS.values():
                    shutil.rmtree(path)  # of a process that was killed
            missing = [name for name, folder in FOLDERS.items()
                       if not (root / folder).is_dir() or _has_only_an_empty_list(root / folder)]
            if missing:
                _unpack_splits(root, missing, split)
    except OSError as error:
        raise UserError(f"{root}: {PIXELS_FILE} has to be unpacked here once: {error.strerror}") from None


def _unpack_splits(root: Path, missing: Sequence[str], split: str) -> None:
    """Write the folders of the `missing` splits; `split` is the one that must have images."""
    rows, left_out = _kaggle_rows(root)
    if split in missing and not rows[split]:
        counts = ", ".join(f"{len(rows[name])} {USAGES[name]}" for name in FOLDERS)
        raise UserError(f"{root}/{PIXELS_FILE}: no row whose Usage is {USAGES[split]} (it has {counts}). {RIGHT_FILE}.")
    temporary_folders = {name: temporary_path(root / FOLDERS[name]) for name in missing if rows[name]}
    try:
        for name, folder in temporary_folders.items():
            _write_folder(root, folder, rows[name], left_out)
        for name, folder in temporary_folders.items():
            target = root / FOLDERS[name]
            if target.is_dir():  # its only file is an empty label.csv
                (target / "label.csv").unlink()
                target.rmdir()
            folder.rename(target)
    finally:
        for folder in temporary_folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def _write_folder(root: Path, folder: Path, rows: Sequence[KaggleRow], left_out: dict[str, Any]) -> None:
    """Write one folder of the first layout: PNG files, label.csv, and notes on what was left out."""
    folder.mkdir()
    lines = []
    for row in rows:
        name = f"fer{row.number:07d}.png"
        _picture(root, row).save(folder / name)  # not by support.files: the folder is renamed when it is whole
        lines.append(f'{name},"(0, 0, 48, 48)",{",".join(row.votes)}\n')
    write_text(folder / "label.csv", "".join(lines))
    if left_out:
        write_text(folder / KEPT_NOTES, json.dumps(left_out))


def _kaggle_rows(root: Path) -> tuple[dict[str, list[KaggleRow]], dict[str, Any]]:
    """{split: its rows of fer2013.csv, joined with their votes} and notes on what was left out. Raises UserError where
    the two files do not belong together."""
    table = read_table(root / PIXELS_FILE)
    if not table:
        raise UserError(f"{root}/{PIXELS_FILE}: no row in it. {RIGHT_FILE}.")
    (_, header), *images = table
    usage_column, pixel_column = _column_numbers(root / PIXELS_FILE, header, ["usage", "pixels"], RIGHT_FILE)
    vote_rows = read_vote_rows(root / VOTES_FILE)
    if len(images) != len(vote_rows):
        raise UserError(f"{root}: {PIXELS_FILE} has {len(images)} images, {VOTES_FILE} {len(vote_rows)} rows of votes: "
                        f"they are joined by row and must be of equal length (35,887 in the official files)")
    rows: dict[str, list[KaggleRow]] = {split: [] for split in FOLDERS}
    left_out: dict[str, Any] = {}
    for index, ((line, cells), vote_row) in enumerate(zip(images, vote_rows, strict=True)):
        usage = official_usage(cells[usage_column]) if usage_column < len(cells) else ""
        if usage not in SPLIT_OF_USAGE:
            _note_other_usage(left_out, usage, index, PIXELS_FILE)
        elif vote_row.usage not in SPLIT_OF_USAGE:
            _note_other_usage(left_out, vote_row.usage, index, VOTES_FILE)
        elif usage != vote_row.usage:
            raise UserError(f"{root}: row {index + 1} is {usage} in {PIXELS_FILE} and {vote_row.usage} in "
                            f"{VOTES_FILE}: the rows are in another order, and every picture would get another "
                            f"picture's votes. Take both files as they were published. {RIGHT_FILE}.")
        else:
            pixels = cells[pixel_column] if pixel_column < len(cells) else ""
            rows[SPLIT_OF_USAGE[usage]].append(KaggleRow(index, line, pixels, vote_row.votes))
    return rows, left_out


def _note_other_usage(notes: dict[str, Any], usage: str, index: int, file: str) -> None:
    count_note(notes, f"row whose Usage is none of {', '.join(SPLIT_OF_USAGE)}, left out",
               f"{usage[:20] or 'nothing'} in row {index + 1} of {file}")


def _picture(root: Path, row: KaggleRow) -> Image.Image:
    """The 48x48 grey picture of a row of fer2013.csv. Raises UserError where its cell holds something else."""
    try:
        pixels = np.array(row.pixels.split(), np.uint8)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{root}/{PIXELS_FILE} row {row.line}: pixels that are no grey levels ({first_line(error)[:80]}"
                        f"). {RIGHT_FILE}.") from None
    if pixels.size != SIDE * SIDE:
        raise UserError(f"{root}/{PIXELS_FILE} row {row.line}: {pixels.size} pixels instead of 2304. {RIGHT_FILE}.")
    return Image.fromarray(pixels.reshape(SIDE, SIDE))


# --- from votes to labels ---

def _labelled_images(root: Path, folder: str, names: Sequence[str], votes: np.ndarray, rule: str,
                     notes: dict[str, Any]) -> tuple[pd.DataFrame, np.ndarray]:
    """The frame of the usable images and their distributions, float64 (N, 8).

    names: of all images with votes; votes: float64 (images, 10); rule: distribution or majority.
    """
    votes_cast = votes.sum(1)
    votes = np.where(votes <= 1, 0, votes)  # single votes are noise
    expression_votes = votes[:, :len(CLASSES)]
    kept_votes = expression_votes.sum(1)
    if rule == "majority":
        is_usable = (kept_votes > 0) & (expression_votes.max(1, initial=0) > votes.sum(1) / 2)
        reason = "no expression with half of the votes"  # in fact, more than half; manifests hold this text
    else:
        is_usable = (kept_votes > 0) & (kept_votes >= votes_cast / 2)
        reason = "fewer than half of the votes left"
    name_array = np.array(names, object)
    count_note_for_names(notes, reason, name_array[~is_usable])
    paths = [f"{folder}/{name}" for name in names]
    files = find_pictures(root, paths, notes)
    on_disk = files != ""
    note_missing_files(notes, name_array[is_usable & ~on_disk], comparison(root, paths, files))
    is_usable &= on_disk
    usable_names = name_array[is_usable]
    distribution = expression_votes[is_usable] / np.maximum(kept_votes[is_usable, None], 1)
    if rule == "majority":
        distribution = np.eye(len(CLASSES))[distribution.argmax(1)]
    is_level = (distribution == distribution.max(1, keepdims=True, initial=0)).sum(1) > 1
    count_note_for_names(notes, "level most votes, the first class taken as the hard label", usable_names[is_level])
    frame = make_frame(
        id=[name.rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in usable_names],
        path=files[is_usable],
        expression=distribution.argmax(1).astype(np.int64))
    return frame, distribution
