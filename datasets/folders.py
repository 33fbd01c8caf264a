"""A folder per class, the form in which RAF-DB, FER2013 and AffectNet are often packed again: train/happy/x.jpg.

Layout: <split>/<class>/<picture>, below the root or one folder further down (archive/train). Split folders are train or
training, val or valid or validation, test or testing, in any letter case. Pictures have any suffix of
`datasets.listing.SUFFIXES`; folders inside a class folder belong to the class; hidden files are ignored.

Classes come from the names of train's folders, whatever word a copy uses (happy, Happiness; a number before it is
dropped: 4_happy). Their order is fixed: `ORDER` as far as it is there, then other names alphabetically. Numbered
folders (1, 2, ...) do not say what they hold: `--data classes=Surprise,Fear,...` names them in the order of their
numbers. Without a folder val, validation images are held out of train (min(250, 10 %) of each class); without a folder
test, `--data test=val` scores on the validation folder and holds validation images out of train.
"""
import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cli import UserError
from datasets import SAFE_ID, Split, expression_name, found_in, frame_of, hold_out, note_all, spelt
from datasets.images import inside
from datasets.listing import SUFFIXES, is_picture

ORDER = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
OPTIONS = {
    "classes": "names of numbered class folders, in the order of the numbers: classes=Surprise,Fear,Disgust,...",
    "test": "val: score on the validation folder and hold validation images out of train (default: the folder test)",
}
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SYSTEM_FOLDERS = ("__macosx", "$recycle.bin", "system volume information")  # what file systems and archivers leave
NUMBERED = re.compile(r"[0-9]{1,4}")
NUMBER_BEFORE = re.compile(r"^[0-9]{1,4}[\s._-]+(?=\D)")  # 4_happy
LONGEST_ID = 120  # characters; file names end at 255 bytes
EXAMPLE = "--data classes=Surprise,Fear,Disgust,Happiness,Sadness,Anger,Neutral"


class Picture(NamedTuple):
    path: str  # below the root, with /
    name: str  # below the folder of the split, with /
    folder: str  # the class folder's name


def load(root: Path, split: str, classes: str = "", test: str = "") -> Split:
    """One split of class folders. Raises UserError where no such folders are found, where they do not say which class
    they hold, and where val or test has a class that train lacks."""
    if test not in ("", "val"):
        raise UserError(f"test={test[:40]}: the only choice is test=val, which scores on the validation folder")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root should be the folder that holds train and test, each with a "
                        "folder per class")
    notes: dict = {"layout": ""}
    above, places = _split_folders(root)
    source = _source(root, split, places, test)
    notes["layout"] = f"a folder per class in {above + '/' if above else ''}{places[source]}"
    if test and "test" in places:
        notes["layout"] += f"; the folder {places['test']} is not used (test=val)"
    folders = {name: _class_folders(root, above, place) for name, place in places.items()}
    word_of = _words(root, folders, classes)
    pictures = {name: _pictures(root, above, places[name], folders[name], notes if name == source else {})
                for name in dict.fromkeys(("train", source))}
    titles = _titles(root, pictures["train"], folders["train"], word_of, notes if source == "train" else {})
    rows = pictures[source]
    _refuse_unknown(root, places[source], rows, word_of, titles)
    if source == split == "train" and len(titles) < 2:
        raise UserError(f"{root}: one class only in {places['train']} ({titles[0]}); a data set of class folders looks "
                        f"like {places['train']}/happy/x.jpg, {places['train']}/sad/y.jpg")
    label_of = {expression_name(title): label for label, title in enumerate(titles)}
    labels = np.array([label_of[expression_name(word_of[row.folder])] for row in rows], np.int64)
    ids = np.array(_ids([row.name for row in rows]), object)
    paths = np.array([row.path for row in rows], object)
    if source == "train" and (split == "val" or "val" not in places or test):
        mine = hold_out(labels, len(titles)) == (split == "val")
        ids, paths, labels = ids[mine], paths[mine], labels[mine]
        notes["layout"] += "; val is held out of it"
    return Split(frame_of(id=ids, path=paths, expression=labels), None, titles, notes)


# --- which folders ---

def _visible_folders(folder):
    """Names of the folders in a folder, links included, without hidden ones and what operating systems leave."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS)


def _split_folders(root):
    """The folder below the root that holds the splits ("" for the root itself), and {split: name of its folder}."""
    places = _splits_in(root)
    if places:
        return "", places
    below = {name: _splits_in(root / name) for name in _visible_folders(root)}
    candidates = [name for name, found in below.items() if "train" in found]
    if len(candidates) > 1:
        raise UserError(f"{root}: several folders hold a data set: {spelt(', '.join(candidates))[:200]}. Give one of "
                        f"them as --root, for example --root {spelt(str(root / candidates[0]))}")
    if not candidates:
        raise UserError(f"{root}: no folder train (or training) here or one folder further down; found: "
                        f"{found_in(root)}. --root should hold train and test, each with a folder per class "
                        f"(train/happy/x.jpg); a single set of class folders has to be divided into the two first")
    return candidates[0], below[candidates[0]]


def _splits_in(folder):
    """{split: name of its folder} as far as they are there. Raises UserError where two folders claim one split."""
    places: dict = {}
    for name in _visible_folders(folder):
        for split, names in SPLIT_FOLDERS.items():
            if name.lower() in names:
                if split in places:
                    raise UserError(f"{folder}: both {places[split]} and {name} could be the {split} split; move one "
                                    f"of them out of this folder")
                places[split] = name
    return places


def _source(root, split, places, test):
    """The key of `places` from which a split is read."""
    if "train" not in places:
        raise UserError(f"{root}: no folder train (or training); found: {found_in(root)}. Training images stand in "
                        f"train/<class>/")
    if test and "val" not in places:
        raise UserError(f"{root}: test=val, but there is no folder val (or valid, validation); found: {found_in(root)}")
    if split == "test" and not test and "test" not in places:
        advice = ("--data test=val scores on the validation folder and holds validation images out of train"
                  if "val" in places else "move a part of each class of train to test/<class>/")
        raise UserError(f"{root}: no folder test (or testing); found: {found_in(root)}. {advice}")
    if split == "test":
        return "val" if test else "test"
    return "val" if split == "val" and "val" in places and not test else "train"


def _class_folders(root, above, place):
    folder = inside(root, f"{above}/{place}" if above else place)
    names = _visible_folders(folder)
    for name in names:
        if not _is_text(name):
            raise UserError(f"{folder}: the name of the class folder {spelt(name)} is no UTF-8 text; rename it")
    return names


def _is_text(name):
    """Whether a file name is UTF-8: other bytes cannot be written into a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- which classes ---

def _words(root, folders, classes):
    """{class folder: the word for its class}, over all splits.

    folders: {split: names of its class folders}; classes: the option. Raises UserError where numbers have no names."""
    names = sorted({name for found in folders.values() for name in found})
    numbers = {name: int(name) for name in names if NUMBERED.fullmatch(name)}
    if not numbers:
        if classes:
            raise UserError(f"{root}: classes= names numbered folders, and these have names already: "
                            f"{spelt(', '.join(names))[:200]}. Leave it out")
        return {name: " ".join(NUMBER_BEFORE.sub("", name).replace("_", " ").split()) or name for name in names}
    others = [name for name in names if name not in numbers]
    if others:
        raise UserError(f"{root}: some class folders are numbers ({', '.join(list(numbers)[:3])}) and some are words "
                        f"({spelt(', '.join(others))[:100]}); rename them to one of the two")
    span = f"{min(numbers.values())} to {max(numbers.values())}"
    if not classes:
        raise UserError(f"{root}: the class folders are numbers, {span}, and do not say which expression they hold. "
                        f"Name them in the order of the numbers, for example (RAF-DB's order): {EXAMPLE}")
    words = [word.strip() for word in classes.split(",")]
    if not all(words) or len({expression_name(word) for word in words}) < len(words):
        raise UserError(f"classes={classes[:200]}: each class has a name of its own, separated by commas")
    first = min(numbers.values())
    if first > 1 or sorted(set(numbers.values())) != list(range(first, first + len(words))):
        raise UserError(f"{root}: classes= names {len(words)} classes, and the folders are "
                        f"{', '.join(sorted(numbers, key=numbers.get))[:200]}; they should count from 0 or 1 without a "
                        f"gap, one name for each number")
    return {name: words[number - first] for name, number in numbers.items()}


def _titles(root, rows, folders, word_of, notes):
    """The names of the classes in label order: those of which train has a picture."""
    with_pictures = {row.folder for row in rows}
    words: dict = {}
    for folder in folders:
        words.setdefault(expression_name(word_of[folder]), []).append(folder)
    empty = [", ".join(names) for names in words.values() if not with_pictures.intersection(names)]
    note_all(notes, "class folder without a picture, no class", empty)
    note_all(notes, "class in several folders, taken together",
             [", ".join(names) for names in words.values() if len(names) > 1])
    present = {word: names[0] for word, names in words.items() if with_pictures.intersection(names)}
    if not present:
        raise UserError(f"{root}: no picture in the class folders of train ({spelt(', '.join(folders))[:200] or 'none'}"
                        f"); looked for files that end in {', '.join(SUFFIXES)}")
    known = {expression_name(title): title for title in ORDER}
    others = sorted(word for word in present if word not in known)
    note_all(notes, "class that is none of the eight expressions, after them in alphabetical order",
             [word_of[present[word]] for word in others])
    return tuple([title for word, title in known.items() if word in present]
                 + [word_of[present[word]] for word in others])


def _refuse_unknown(root, place, rows, word_of, titles):
    """Raises UserError where pictures have a class that train lacks."""
    known = {expression_name(title) for title in titles}
    unknown = sorted({row.folder for row in rows if expression_name(word_of[row.folder]) not in known})
    if unknown:
        raise UserError(f"{root}: {place} has a class without a training image: {spelt(', '.join(unknown))[:200]} "
                        f"(train has {', '.join(titles)[:200]}). Rename it if it is one of these, or take it out")


# --- which pictures ---

def _pictures(root, above, place, folders, notes):
    """The pictures of a split, in order of their names; what is left out is counted in `notes`."""
    start = f"{above}/{place}" if above else place
    rows, others, links, no_text = [], [], [], []
    for folder in folders:
        base = inside(root, f"{start}/{folder}")
        for here, below, files in os.walk(base):
            below[:] = sorted(name for name in below if not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS)
            inner = Path(here).relative_to(base).as_posix()
            links += [f"{folder}/{name}" for name in below if os.path.islink(os.path.join(here, name))]
            for file in sorted(files):
                name = "/".join(part for part in (folder, inner if inner != "." else "", file) if part)
                if file.startswith("."):
                    continue
                if not _is_text(name):
                    no_text.append(name)
                elif is_picture(file) and os.path.isfile(os.path.join(here, file)):
                    rows.append(Picture(f"{start}/{name}", name, folder))
                else:
                    others.append(name)
    with os.scandir(inside(root, start)) as entries:
        outside = sorted(entry.name for entry in entries if entry.is_file() and is_picture(entry.name))
    note_all(notes, "file that is no picture", others)
    note_all(notes, "file name that is not text", no_text)
    note_all(notes, "linked folder inside a class folder, not followed", links)
    note_all(notes, "picture outside the class folders", outside)
    twins = Counter(os.path.splitext(row.name)[0] for row in rows)
    note_all(notes, "picture whose name is there with another suffix too, both taken",
             [row.name for row in rows if twins[os.path.splitext(row.name)[0]] > 1])
    return rows


def _ids(names):
    """`happy/a.jpg` -> `happy_a`. A name that is no safe file name, is long, or would meet another one (in small
    letters: file systems may not tell A from a) gets a digest of the whole name."""
    plain = [os.path.splitext(name)[0].replace("/", "_") for name in names]
    often = Counter(i.lower() for i in plain)
    ids = []
    for name, i in zip(names, plain, strict=True):
        if not SAFE_ID.fullmatch(i) or len(i) > LONGEST_ID or often[i.lower()] > 1:
            safe = re.sub(r"[^A-Za-z0-9._-]", "_", i)[:60]
            i = f"_{safe}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        ids.append(i)
    return ids


# --- drawn faces in this layout ---

COUNTS = {"train": 240, "test": 80}
WORDS = {"train": dict(zip(ORDER, ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"),
                           strict=True)),
         "test": dict(zip(ORDER, ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger",
                                  "Contempt"), strict=True))}


def write_layout(out: Path, faces) -> None:
    """Drawn faces in train/<class> and test/<class>, 240 and 80: the two splits name some classes differently, some
    pictures are PNG files, the same file name occurs in several classes and once with two suffixes, one picture stands
    a folder deeper, and a text file and a hidden file are no pictures."""
    for split, count in COUNTS.items():
        for i, face in enumerate(faces(split, count)):
            folder = out / split / WORDS[split][face.expression]
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{i // len(ORDER):04d}"
            if i == 0:
                Image.fromarray(face.image[:, ::-1]).save(folder / f"{name}.png")
            if i == 1:
                folder = folder / "more"
                folder.mkdir()
            Image.fromarray(face.image).save(folder / f"{name}.{'png' if i % 5 == 2 else 'jpg'}")
        (folder / "Thumbs.txt").write_text("no picture\n")
        (folder / "._hidden.jpg").write_bytes(b"\0\5")


LAYOUTS = {"folders": write_layout}
