"""The data sets. `load_split(name, root, split)` is the one door; each parser stands in its own file, imported on use.

Add a data set: a module with `OPTIONS` and `load(root, split, **options) -> Split`, and its rows in the tables below.
"""
import csv
import hashlib
import importlib
import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cli import UserError

DATASETS = {
    "affectnet": "datasets.affectnet", "affwild": "datasets.affwild", "rafdb": "datasets.rafdb",
    "ferplus": "datasets.ferplus", "demo": "datasets.demo", "folders": "datasets.folders",
}
TITLES = {
    "affectnet": "AffectNet", "affwild": "AffWild", "rafdb": "RAF-DB", "ferplus": "FERPlus", "demo": "Demo",
    "folders": "Folders",
}

# How each set is trained (spec of the benchmark, section 5); a field of settings.Run each. What is absent: its default.
RECIPES = {
    "affectnet": {"epochs": 5, "released": {"data": ("crop=legacy",)}},
    "affwild": {"epochs": 20, "class_weights": "none", "released": {
        "class_weights": "none", "relabel_epoch": 15, "data": ("val_split=frames",)}},
    "rafdb": {"epochs": 50},
    # FER+ without weights: the 34 images of its rarest class would weigh 22
    "ferplus": {"epochs": 20, "class_weights": "none", "released": {"class_weights": "none"}},
    "demo": {"epochs": 3, "image_size": 48, "batch_size": 32, "weights": "none"},
    # Class folders of any origin: as long as FER+. The balanced weights (the default) stay: nothing is known about the
    # frequencies, and the rarest class of the usual copies (Disgust in FER2013, 1.5 %) weighs 9 with them.
    "folders": {"epochs": 20},
}

GMM_FROM = {"affwild": "affectnet"}  # labelled with the mixture of another set

# What data sets and models call the eight expressions, in lower case -> one name for each.
EXPRESSIONS = {
    "neutral": "neutral", "normal": "neutral", "no emotion": "neutral",
    "happy": "happy", "happiness": "happy", "joy": "happy",
    "sad": "sad", "sadness": "sad",
    "surprise": "surprise", "surprised": "surprise",
    "fear": "fear", "fearful": "fear", "afraid": "fear", "scared": "fear",
    "disgust": "disgust", "disgusted": "disgust",
    "anger": "anger", "angry": "anger",
    "contempt": "contempt", "contemptuous": "contempt",
}

SPLITS = ("train", "val", "test")
COLUMNS = ("id", "path", "left", "top", "right", "bottom", "expression", "valence", "arousal", "identity")
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # becomes a file name: no leading dot or dash, no separator


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    frame: pandas, columns `COLUMNS`; `path` is relative to the root, a NaN box is the whole image, valence and arousal
    are NaN where unknown, `identity` is empty where unknown.
    distribution: float64 (N, K), rows sum to 1: the annotators' label distribution, or None.
    classes: the K class names in label order. notes: "layout" -> what was found; what was dropped -> how often.
    """

    frame: pd.DataFrame
    distribution: np.ndarray | None
    classes: tuple[str, ...]
    notes: dict = field(default_factory=dict)


def expression_name(name: str) -> str:
    """One name for what different sources call the same expression: "Happiness" -> "happy". A name that is not in
    `EXPRESSIONS` stays, in lower case and without blanks around it."""
    plain = " ".join(name.replace("_", " ").split()).lower()
    return EXPRESSIONS.get(plain, plain)


def default_root(name):
    """Where a data set is looked for without `--root`: $FERC_DATA/<name> or data/<name>."""
    return Path(os.environ.get("FERC_DATA", "data")) / name


def default_set(name):
    """Where its corrupted form is built and looked for: data/<Title>-C, under $FERC_DATA likewise."""
    return Path(os.environ.get("FERC_DATA", "data")) / f"{TITLES[name]}-C"


def keyed_rng(*key):
    """A generator keyed by what it is for: equal keys give equal streams, in any process and order."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def told(notes: dict) -> str:
    """Notes as a part of a sentence, "" where there are none."""
    return "; ".join(f"{reason}: {count}" for reason, count in notes.items() if count)


def note(notes, what, example, number=1):
    """Count `what`, `number` times, under a text that carries its first example; bytes that are no text spelt out."""
    start = f"{what} (for example "
    key = next((key for key in notes if key.startswith(start)), f"{start}{spelt(example)})")
    notes[key] = notes.get(key, 0) + number


def note_all(notes, what, names):
    """As `note`, for all of `names`; nothing where there are none."""
    if len(names):
        note(notes, what, names[0], len(names))


def note_missing(notes: dict, names, looked_for: str = "") -> None:
    """Count files that a list names and that are not there: up to ten are named, of more the first.

    looked_for: where none at all was found, what was looked for beside what is there (`datasets.listing.comparison`).
    """
    if len(names):
        named = ", ".join(names) if len(names) <= 10 else f"for example {names[0]}"
        notes[f"listed but not on disk ({spelt(named)}{'; ' * bool(looked_for)}{looked_for})"] = len(names)


def spelt(text: str) -> str:
    """Text from a label file or a folder in one printable line: bytes that are no text and control characters are
    written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def found_in(folder: Path) -> str:
    """What a folder holds, in a few words for an error."""
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file of this name"
    return spelt(", ".join(sorted(path.name[:60] for path in folder.iterdir())[:5])) or "nothing"


def read_text(path: Path) -> str:
    """A text file of unknown make: UTF-8 with or without a byte order mark, or UTF-16 with one; bytes that are neither
    become U+FFFD, NUL characters are dropped. Raises UserError where it cannot be read or is no regular file (opening
    a named pipe would wait for ever)."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file" if not path.exists() else f"{path} is no regular file")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding, "replace").replace("\0", "")


def read_table(path: Path) -> list[tuple[int, list[str]]]:
    """A CSV file of unknown make: (number of the line it begins on, cells without blanks around them) of every row that
    is not empty. Raises UserError naming the line where it is no CSV file."""
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    rows, line, reader = [], 1, csv.reader(io.StringIO(text))
    try:
        for row in reader:
            if row:
                rows.append((line, [cell.strip() for cell in row]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} line {line}: not a CSV file ({error}); a stray quotation mark?") from None
    return rows


def frame_of(**columns):
    """The frame of a split from the columns that it has: no box, no valence and arousal, no identity by default."""
    frame, blank = pd.DataFrame(columns), dict.fromkeys(COLUMNS, np.nan) | {"identity": ""}
    return frame.assign(**{name: blank[name] for name in COLUMNS if name not in frame})[list(COLUMNS)]


def hold_out(labels, num_classes):
    """Validation rows for a set without an official validation split: min(250, 10 %) of every class, always the same.

    labels: int (N,) of the training rows. Returns bool (N,).
    """
    labels, held = np.asarray(labels), np.zeros(len(labels), bool)
    for k in range(num_classes):
        rows = np.flatnonzero(labels == k)
        held[keyed_rng("validation", k).permutation(rows)[:min(250, len(rows) // 10)]] = True
    return held


def fingerprint(*frames):
    """One sha256 over the ids and labels of some splits: whether two runs saw the same data."""
    listed = (f"{i} {label}\n" for frame in frames for i, label in zip(frame["id"], frame["expression"], strict=True))
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def parse_options(pairs):
    """`("key=value", ...)` of the repeatable `--data` option -> dict. Raises UserError where there is no `=`."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--data takes key=value, not {pair!r}")
        options[key] = value
    return options


def load_split(name, root, split, **options):
    """Read one split of a data set and check what every later room relies on.

    name: a key of `DATASETS`; root: folder; split: train, val or test; options: the data set's own (`--data`).
    Returns a `Split`. Raises UserError on an unknown name, split or option, a wrong folder, or labels that do not fit.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    module = importlib.import_module(DATASETS[name])
    unknown = sorted(set(options) - set(module.OPTIONS))
    if unknown:
        known = ", ".join(f"{key} ({text})" for key, text in module.OPTIONS.items()) or "none"
        raise UserError(f"{name} has no option {', '.join(unknown)}; its options: {known}")
    return _checked(module.load(Path(root), split, **options), name, split)


def _checked(data, name, split):
    frame, classes, what = data.frame, data.classes, f"{name} {split}"
    said = told(data.notes) or "nothing was found"
    if tuple(frame.columns) != COLUMNS:
        raise AssertionError(f"{what}: columns are {tuple(frame.columns)}, not {COLUMNS}")
    if frame.empty:
        rule = "Without an official list it is a tenth of each class of train" if split == "val" else (
            "Is the copy complete, and do the names in its label files fit those on disk?")
        raise UserError(f"{what}: no usable image ({said}). {rule}")
    bad = [i for i in frame["id"] if not SAFE_ID.fullmatch(i)]
    if bad:
        raise UserError(f"{what}: {len(bad)} ids cannot be file names, for example {bad[0]!r}")
    twice = frame["id"][frame["id"].duplicated()]
    if len(twice):
        same = frame["path"][frame["id"] == twice.iloc[0]].tolist()
        raise UserError(f"{what}: {len(twice)} ids appear twice, for example {twice.iloc[0]!r} of "
                        f"{spelt(same[0])[:80]} and {spelt(same[1])[:80]}. Images are "
                        f"stored under these names: list each one once")
    outside = frame.loc[~frame["expression"].between(0, len(classes) - 1)]
    if len(outside):
        first = outside.iloc[0]
        raise UserError(f"{what}: label {first['expression']} of {first['id']} is not in 0..{len(classes) - 1}")
    empty = ", ".join(np.array(classes)[np.bincount(frame["expression"], minlength=len(classes)) == 0])
    if empty and split == "train":
        raise UserError(f"{what}: no usable image of {empty} ({said}). An incomplete copy?")
    if empty:
        data.notes["classes without an image"] = empty
    if data.distribution is not None:
        if data.distribution.shape != (len(frame), len(classes)) or not np.allclose(data.distribution.sum(1), 1):
            raise AssertionError(f"{what}: the label distribution does not fit the frame")
    return data
