"""What every parser returns, a `Split`, and the small functions that parsers share.

Words that this module owns:

split         one part of a data set, by its name: train, val or test (`SPLITS`).
`Split`       the object that describes the images and labels of a split.
frame         the pandas table of a split: one row for each image, with the columns `COLUMNS`.
picture       a file as it lies on disk.
image         what one row of a frame describes: a picture, or the part of it that lies in the face box.
distribution  the label of an image as K numbers that sum to 1: the fraction of its annotators that chose each class, or
              one-hot, where a parser that gives distributions has or takes one class only (RAF-DB basic without
              basic_labels=votes, FER+ with labels=majority).
note          one entry of `Split.notes`, usually a reason in words -> how often it happened. A parser notes what it
              dropped and what it had to guess. `python -m datasets.check` prints the notes, and `make_fer_c.py` stores
              them in the manifest of a built set, so their texts are a part of the file format.

Parsers fill the notes and build the frame with the functions below; `datasets.load_split` passes what a parser returns
through `validated_split`. Every floor above relies on what is checked there.
"""
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import UserError
from support.random_streams import keyed_rng

SPLITS = ("train", "val", "test")
COLUMNS = ("id", "path", "left", "top", "right", "bottom", "expression", "valence", "arousal", "identity")
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # becomes a file name: no leading dot or dash, no separator
SAFE_IDS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*+(?:\n[A-Za-z0-9_][A-Za-z0-9._-]*+)*+")  # one a line

MOST_HELD_OUT = 250  # validation images of a class, where a data set has no validation split of its own
NAMED_FILES = 10  # a note lists up to so many missing files by name
NAMED_ENTRIES = 5  # an error message lists so many entries of a folder

# What data sets and models call the eight expressions, in lower case -> one name for each. The short ones are those of
# file names (JAFFE's AN, DI, ...) and of the labels of public models.
EXPRESSIONS = {
    "neutral": "neutral", "normal": "neutral", "no emotion": "neutral", "neutrality": "neutral",
    "no expression": "neutral", "neu": "neutral", "ne": "neutral",
    "happy": "happy", "happiness": "happy", "joy": "happy", "joyful": "happy", "hap": "happy", "ha": "happy",
    "sad": "sad", "sadness": "sad", "sa": "sad",
    "surprise": "surprise", "surprised": "surprise", "surprising": "surprise", "sur": "surprise", "su": "surprise",
    "fear": "fear", "fearful": "fear", "afraid": "fear", "scared": "fear", "frightened": "fear", "fea": "fear",
    "fe": "fear",
    "disgust": "disgust", "disgusted": "disgust", "disgusting": "disgust", "dis": "disgust", "di": "disgust",
    "anger": "anger", "angry": "anger", "ang": "anger", "an": "anger",
    "contempt": "contempt", "contemptuous": "contempt", "con": "contempt", "co": "contempt",
}


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    frame: pd.DataFrame
    """N rows with the columns `COLUMNS`. `id` is unique in the split and matches `SAFE_ID`. `path` is relative to the
    root. `left top right bottom` is the face box in pixels of the upright picture, NaN for the whole picture.
    `expression` is int64 in 0..K-1. `valence arousal` are in [-1, 1], NaN where unknown. `identity` is the name of the
    person or video, "" where unknown."""
    distribution: np.ndarray | None
    """float64 (N, K), the distributions of the images. None where the parser gives each image a class and no
    distribution."""
    classes: tuple[str, ...]
    """the K class names, in the order of the labels"""
    notes: dict[str, Any] = field(default_factory=dict)
    """a reason -> how often it happened. The values of three notes are texts: "layout", what was found on disk;
    "cache", from which file sizes or annotations were taken; "classes without an image", their names."""
    sources: frozenset[str] | None = None
    """the files and folders that decide what the split holds: label files, folders in which pictures were looked up,
    and the places where such a file or folder was looked for and is not. None where the parser does not name them;
    then kept_splits.py keeps nothing"""


def expression_name(name: str) -> str:
    """The common name of an expression: "Happiness" -> "happy".

    A name that is not in `EXPRESSIONS` is returned in lower case, with single blanks and none at its ends.
    """
    plain = " ".join(name.replace("_", " ").split()).lower()
    return EXPRESSIONS.get(plain, plain)


# --- text for messages ---

def printable(text: str) -> str:
    """Text from a label file or a folder as one printable line. Control characters and bytes that are not text are
    written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def folder_contents(folder: Path) -> str:
    """The first names in a folder, for an error message; in words where it is absent, a file or empty."""
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file of this name"
    names = sorted(path.name[:60] for path in folder.iterdir())
    return printable(", ".join(names[:NAMED_ENTRIES])) or "nothing"


# --- notes ---

def count_note(notes: dict[str, Any], reason: str, example: str, count: int = 1) -> None:
    """Add `count` to the note `reason`. The text of the note carries the example of the first call."""
    start = f"{reason} (for example "
    for text in notes:
        if text.startswith(start):
            notes[text] += count
            return
    notes[f"{start}{printable(example)})"] = count


def count_note_for_names(notes: dict[str, Any], reason: str, names: Sequence[str] | np.ndarray) -> None:
    """Note `reason` once for each of the names, with the first one as the example. Without names nothing is noted."""
    if len(names):
        count_note(notes, reason, names[0], len(names))


def note_missing_files(notes: dict[str, Any], names: Sequence[str] | np.ndarray, comparison: str = "") -> None:
    """Note the files that a label file lists and that are not on disk.

    Up to ten files are named; of more only the first. comparison: where no file at all was found, the name that was
    looked for and the names that are there (`datasets.listing.comparison`).
    """
    if not len(names):
        return
    examples = ", ".join(names) if len(names) <= NAMED_FILES else f"for example {names[0]}"
    text = printable(examples)
    if comparison:
        text += f"; {comparison}"
    notes[f"listed but not on disk ({text})"] = len(names)


def note_summary(notes: dict[str, Any]) -> str:
    """The notes as a part of a sentence, "" where there are none."""
    return "; ".join(f"{reason}: {count}" for reason, count in notes.items() if count)


# --- frames ---

def make_frame(**columns: Any) -> pd.DataFrame:
    """The frame of a split from the columns that a data set has; the others get their empty value.

    columns: N values each. Without `left top right bottom` the whole picture counts; without `valence arousal` they are
    NaN; without `identity` it is "".
    """
    frame = pd.DataFrame({name: _plain_text(values) for name, values in columns.items()})
    for name in COLUMNS:
        if name not in frame:
            frame[name] = "" if name == "identity" else np.nan
    return frame[list(COLUMNS)]


def _plain_text(values: Any) -> Any:
    """A column as it is, but texts as pandas keeps them where pyarrow is not installed: pyarrow's cannot hold the name
    of a file that is no UTF-8."""
    if pd.api.types.infer_dtype(values, skipna=True) != "string":
        return values
    text = pd.StringDtype("python", np.nan)
    return values.astype(text) if isinstance(values, pd.Series) else pd.array(values, dtype=text)


def hold_out(labels: np.ndarray | pd.Series, num_classes: int) -> np.ndarray:
    """The rows that become val in a data set without an official validation split.

    Of every class min(250, 10 %) of the rows are drawn, always the same ones.
    labels: int (N,), the labels of the official training rows. Returns bool (N,), True for val.
    """
    labels = np.asarray(labels)
    is_val = np.zeros(len(labels), bool)
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        count = min(MOST_HELD_OUT, len(rows) // 10)
        is_val[keyed_rng("validation", label).permutation(rows)[:count]] = True
    return is_val


def fingerprint(*frames: pd.DataFrame) -> str:
    """SHA-256 (64 hexadecimal digits) of the ids and labels of these frames. Two runs with the same fingerprint have
    the same ids and the same labels before label noise; pixels are not compared."""
    lines = []
    for frame in frames:
        pairs = zip(frame["id"].tolist(), frame["expression"].tolist(), strict=True)
        lines += [f"{image_id} {label}\n" for image_id, label in pairs]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- what every parser has to deliver ---

def validated_split(data: Split, dataset: str, split: str) -> Split:
    """The split itself, after it was checked.

    A test or validation split may lack images of a class; that is noted in `data.notes`. Raises UserError where the
    data are at fault: no image, an id that cannot be a file name or is not unique, a label out of range, a class
    without a training image. Raises AssertionError where the parser is at fault.
    """
    where = f"{dataset} {split}"
    summary = note_summary(data.notes) or "nothing was found"
    if tuple(data.frame.columns) != COLUMNS:
        raise AssertionError(f"{where}: columns are {tuple(data.frame.columns)}, not {COLUMNS}")
    if data.frame.empty:
        raise UserError(f"{where}: no usable image ({summary}). {_advice_without_images(split)}")
    _refuse_unusable_ids(data.frame, where)
    _refuse_unknown_labels(data.frame, data.classes, where)
    counts = np.bincount(data.frame["expression"], minlength=len(data.classes))
    empty = ", ".join(name for name, count in zip(data.classes, counts, strict=True) if count == 0)
    if empty and split == "train":
        raise UserError(f"{where}: no usable image of {empty} ({summary}). An incomplete copy?")
    if empty:
        data.notes["classes without an image"] = empty
    if data.distribution is not None:
        expected_shape = (len(data.frame), len(data.classes))
        if data.distribution.shape != expected_shape or not np.allclose(data.distribution.sum(1), 1):
            raise AssertionError(f"{where}: the label distribution does not fit the frame")
    return data


def _advice_without_images(split: str) -> str:
    if split == "val":
        return (f"Without an official list, val is a tenth of each class of train, at most {MOST_HELD_OUT} images of a "
                f"class")
    return "Is the copy complete, and do the names in its label files fit those on disk?"


def _refuse_unusable_ids(frame: pd.DataFrame, where: str) -> None:
    """Raises UserError where an id is no safe file name or belongs to two images."""
    ids = frame["id"].tolist()
    text = "\n".join(ids)
    are_safe = SAFE_IDS.fullmatch(text) and text.count("\n") == len(ids) - 1  # the usual case, which has to be fast
    unsafe = [] if are_safe else [image_id for image_id in ids if not SAFE_ID.fullmatch(image_id)]
    if unsafe:
        raise UserError(f"{where}: {len(unsafe)} ids cannot be file names, for example {unsafe[0]!r}")
    if len(set(ids)) < len(ids):
        repeated = frame["id"][frame["id"].duplicated()]
        first, second, *_ = frame["path"][frame["id"] == repeated.iloc[0]]
        raise UserError(f"{where}: {len(repeated)} ids appear twice, for example {repeated.iloc[0]!r} of "
                        f"{printable(first)[:80]} and {printable(second)[:80]}. Images are stored under these names: "
                        f"list each one once")


def _refuse_unknown_labels(frame: pd.DataFrame, classes: Sequence[str], where: str) -> None:
    """Raises UserError where a label is no index of `classes`."""
    outside = frame.loc[~frame["expression"].between(0, len(classes) - 1)]
    if len(outside):
        row = outside.iloc[0]
        raise UserError(f"{where}: label {row['expression']} of {row['id']} is not in 0..{len(classes) - 1}")
