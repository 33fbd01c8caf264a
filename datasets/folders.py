"""A folder per class, the form in which RAF-DB, FER2013 and AffectNet are often packed again: train/happy/x.jpg.

Layout: <split>/<class>/<picture>, below the root or one folder further down (archive/train). Split folders are train or
training, val or valid or validation, test or testing, in any letter case. Pictures have any suffix of
`datasets.listing.SUFFIXES`; folders inside a class folder belong to the class; hidden files are ignored.

Classes come from the names of train's folders, whatever word a copy uses (happy, Happiness; a number before it is
dropped: 4_happy). Their order is fixed: first those of `ORDER`, then other names alphabetically. Numbered folders
(1, 2, ...) do not say what they hold: `--data classes=Surprise,Fear,...` names them in the order of their numbers.

Splits. Without a folder val, validation images are held out of train (`datasets.split.hold_out`). Without a folder
test, `--data test=val` scores on the validation folder and holds validation images out of train.

Dropped, each with a note: files that are no pictures, names that are not text, pictures outside the class folders,
linked folders inside a class folder.

In this module a word is what a folder calls its class, a title is the name that the class gets in `Split.classes`, and
the source is the split whose folder is read. `datasets.load_split` calls `load`; the options are in `OPTIONS`.
"""
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.images import inside
from datasets.listing import SUFFIXES, is_picture
from datasets.split import (
    SAFE_ID,
    Split,
    count_note_for_names,
    expression_name,
    folder_contents,
    hold_out,
    make_frame,
    printable,
)
from support.errors import UserError

ORDER = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
OPTIONS = {
    "classes": "names of numbered class folders, in the order of the numbers: classes=Surprise,Fear,Disgust,...",
    "test": "val: score on the validation folder and hold validation images out of train (default: the folder test)",
}
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SYSTEM_FOLDERS = ("__macosx", "$recycle.bin", "system volume information")  # of operating systems and archive programs
NUMBERED = re.compile(r"[0-9]{1,4}")
NUMBER_BEFORE = re.compile(r"^[0-9]{1,4}[\s._-]+(?=\D)")  # 4_happy
LONGEST_ID = 120  # characters; file names end at 255 bytes
EXAMPLE = "--data classes=Surprise,Fear,Disgust,Happiness,Sadness,Anger,Neutral"


class SplitFolders(NamedTuple):
    """Where the splits lie."""

    parent: str
    """the folder that holds them, relative to the root; "" for the root itself"""
    names: dict[str, str]
    """split -> name of its folder, for the splits that are there"""

    def path(self, split: str) -> str:
        """The folder of a split, relative to the root."""
        name = self.names[split]
        return f"{self.parent}/{name}" if self.parent else name


class Picture(NamedTuple):
    """A picture in a class folder."""

    path: str
    """relative to the root, with /"""
    name: str
    """relative to the folder of the split, with /"""
    folder: str
    """name of the class folder"""


def load(root: Path, split: str, classes: str = "", test: str = "") -> Split:
    """One split; the options are those of `OPTIONS`.

    Raises UserError where no such folders are found, where their names do not say which class they hold, and where val
    or test has a class that train lacks.
    """
    if test not in ("", "val"):
        raise UserError(f"test={test[:40]}: the only choice is test=val, which scores on the validation folder")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root should be the folder that holds train and test, each with a "
                        "folder per class")
    places = _split_folders(root)
    source = _source(root, split, places.names, test)
    notes: dict[str, Any] = {"layout": f"a folder per class in {places.path(source)}"}
    if test and "test" in places.names:
        notes["layout"] += f"; the folder {places.names['test']} is not used (test=val)"
    class_folders = {name: _class_folders(root, places.path(name)) for name in places.names}
    word_of_folder = _words(root, class_folders, classes)
    # The classes are those of train. Only the notes on the split that is read are of interest.
    train_notes = notes if source == "train" else {}
    train_pictures = _pictures(root, places.path("train"), class_folders["train"], train_notes)
    pictures = train_pictures
    if source != "train":
        pictures = _pictures(root, places.path(source), class_folders[source], notes)
    titles = _titles(root, train_pictures, class_folders["train"], word_of_folder, train_notes)
    _refuse_unknown_classes(root, places.names[source], pictures, word_of_folder, titles)
    if source == split == "train" and len(titles) < 2:
        train = places.names["train"]
        raise UserError(f"{root}: one class only in {train} ({titles[0]}); a data set of class folders looks like "
                        f"{train}/happy/x.jpg, {train}/sad/y.jpg")
    label_of_name = {expression_name(title): label for label, title in enumerate(titles)}
    labels = [label_of_name[expression_name(word_of_folder[picture.folder])] for picture in pictures]
    frame = make_frame(
        id=np.array(_ids([picture.name for picture in pictures]), object),
        path=np.array([picture.path for picture in pictures], object),
        expression=np.array(labels, np.int64))
    has_val_folder = "val" in places.names and not test
    if source == "train" and not has_val_folder:
        is_val = hold_out(frame["expression"], len(titles))
        frame = frame[is_val if split == "val" else ~is_val].reset_index(drop=True)
        notes["layout"] += "; val is held out of it"
    return Split(frame, None, titles, notes)


# --- which folders ---

def _visible_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, links included, without hidden ones and those of operating systems."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS)


def _split_folders(root: Path) -> SplitFolders:
    """The folders of the splits, in the root or in one of its folders. Raises UserError where there are none, or
    several sets of them."""
    names = _split_names(root)
    if names:
        return SplitFolders("", names)
    names_below = {folder: _split_names(root / folder) for folder in _visible_folders(root)}
    parents = [folder for folder, names in names_below.items() if "train" in names]
    if len(parents) > 1:
        raise UserError(f"{root}: several folders hold a data set: {printable(', '.join(parents))[:200]}. Give one of "
                        f"them as --root, for example --root {printable(str(root / parents[0]))}")
    if not parents:
        raise UserError(f"{root}: no folder train (or training) here or one folder further down; found: "
                        f"{folder_contents(root)}. --root should hold train and test, each with a folder per class "
                        f"(train/happy/x.jpg); a single set of class folders has to be divided into the two first")
    return SplitFolders(parents[0], names_below[parents[0]])


def _split_names(folder: Path) -> dict[str, str]:
    """{split: name of its folder} for the splits in a folder. Raises UserError where two folders could be one split."""
    names: dict[str, str] = {}
    for name in _visible_folders(folder):
        for split, split_names in SPLIT_FOLDERS.items():
            if name.lower() in split_names:
                if split in names:
                    raise UserError(f"{folder}: both {names[split]} and {name} could be the {split} split; move one "
                                    f"of them out of this folder")
                names[split] = name
    return names


def _source(root: Path, split: str, names: Mapping[str, str], test: str) -> str:
    """The split whose folder is read to make `split`. names: {split: name of its folder}; test: the option. Raises
    UserError where that folder is not there."""
    if "train" not in names:
        raise UserError(f"{root}: no folder train (or training); found: {folder_contents(root)}. Training images lie "
                        f"in train/<class>/")
    if test and "val" not in names:
        raise UserError(f"{root}: test=val, but there is no folder val (or valid, validation); found: "
                        f"{folder_contents(root)}")
    if split == "test" and test:
        return "val"
    if split == "test":
        if "test" not in names:
            advice = "move a part of each class of train to test/<class>/"
            if "val" in names:
                advice = "--data test=val scores on the validation folder and holds validation images out of train"
            raise UserError(f"{root}: no folder test (or testing); found: {folder_contents(root)}. {advice}")
        return "test"
    if split == "val" and "val" in names and not test:
        return "val"
    return "train"


def _class_folders(root: Path, place: str) -> list[str]:
    """The names of the class folders in the folder of a split. Raises UserError where one is not text."""
    folder = inside(root, place)
    names = _visible_folders(folder)
    for name in names:
        if not _is_text(name):
            raise UserError(f"{folder}: the name of the class folder {printable(name)} is no UTF-8 text; rename it")
    return names


def _is_text(name: str) -> bool:
    """Whether a file name is UTF-8. Other bytes cannot be written into a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- which classes ---

def _words(root: Path, class_folders: Mapping[str, Sequence[str]], classes: str) -> dict[str, str]:
    """{class folder: the word for its class}, over all splits.

    class_folders: {split: names of its class folders}; classes: the option. Raises UserError where folders are numbered
    and the option does not name each of them.
    """
    folders = sorted({folder for of_split in class_folders.values() for folder in of_split})
    numbers = {folder: int(folder) for folder in folders if NUMBERED.fullmatch(folder)}
    if not numbers:
        if classes:
            raise UserError(f"{root}: classes= names numbered folders, and these have names already: "
                            f"{printable(', '.join(folders))[:200]}. Leave it out")
        return {folder: _word_in_name(folder) for folder in folders}
    named = [folder for folder in folders if folder not in numbers]
    if named:
        raise UserError(f"{root}: some class folders are numbers ({', '.join(list(numbers)[:3])}) and some are words "
                        f"({printable(', '.join(named))[:100]}); rename them to one of the two")
    first = min(numbers.values())
    last = max(numbers.values())
    if not classes:
        raise UserError(f"{root}: the class folders are numbers, {first} to {last}, and do not say which expression "
                        f"they hold. Name them in the order of the numbers, for example (RAF-DB's order): {EXAMPLE}")
    words = [word.strip() for word in classes.split(",")]
    if not all(words) or len({expression_name(word) for word in words}) < len(words):
        raise UserError(f"classes={classes[:200]}: each class has a name of its own, separated by commas")
    if first > 1 or sorted(set(numbers.values())) != list(range(first, first + len(words))):
        in_order = sorted(numbers, key=lambda folder: numbers[folder])
        raise UserError(f"{root}: classes= names {len(words)} classes, and the folders are "
                        f"{', '.join(in_order)[:200]}; they should count from 0 or 1 without a gap, one name for each "
                        f"number")
    return {folder: words[number - first] for folder, number in numbers.items()}


def _word_in_name(folder: str) -> str:
    """The word in the name of a class folder: 4_happy_face -> "happy face"."""
    return " ".join(NUMBER_BEFORE.sub("", folder).replace("_", " ").split()) or folder


def _titles(root: Path, pictures: Iterable[Picture], folders: Sequence[str], word_of_folder: Mapping[str, str],
            notes: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes in label order: those of which train has a picture.

    pictures, folders: of train. Raises UserError where there is no picture at all.
    """
    folders_with_pictures = {picture.folder for picture in pictures}
    folders_of_class: dict[str, list[str]] = {}
    for folder in folders:
        folders_of_class.setdefault(expression_name(word_of_folder[folder]), []).append(folder)
    without_picture = []
    in_several_folders = []
    word_of_class = {}
    for name, class_folders in folders_of_class.items():
        if folders_with_pictures.isdisjoint(class_folders):
            without_picture.append(", ".join(class_folders))
        else:
            word_of_class[name] = word_of_folder[class_folders[0]]
        if len(class_folders) > 1:
            in_several_folders.append(", ".join(class_folders))
    count_note_for_names(notes, "class folder without a picture, no class", without_picture)
    count_note_for_names(notes, "class in several folders, taken together", in_several_folders)
    if not word_of_class:
        raise UserError(f"{root}: no picture in the class folders of train "
                        f"({printable(', '.join(folders))[:200] or 'none'}); looked for files that end in "
                        f"{', '.join(SUFFIXES)}")
    title_of_expression = {expression_name(title): title for title in ORDER}
    expressions = [title for name, title in title_of_expression.items() if name in word_of_class]
    other_classes = [word_of_class[name] for name in sorted(word_of_class) if name not in title_of_expression]
    count_note_for_names(notes, "class that is none of the eight expressions, after them in alphabetical order",
                         other_classes)
    return (*expressions, *other_classes)


def _refuse_unknown_classes(root: Path, place: str, pictures: Iterable[Picture], word_of_folder: Mapping[str, str],
                            titles: Sequence[str]) -> None:
    """Raises UserError where pictures have a class that train lacks."""
    known = {expression_name(title) for title in titles}
    folders = {picture.folder for picture in pictures}
    unknown = sorted(folder for folder in folders if expression_name(word_of_folder[folder]) not in known)
    if unknown:
        raise UserError(f"{root}: {place} has a class without a training image: {printable(', '.join(unknown))[:200]} "
                        f"(train has {', '.join(titles)[:200]}). Rename it if it is one of these, or take it out")


# --- which pictures ---

def _pictures(root: Path, place: str, folders: Sequence[str], notes: dict[str, Any]) -> list[Picture]:
    """The pictures in the class folders of a split, in the order of their names; what is left out is noted. place: the
    folder of the split, relative to the root."""
    pictures: list[Picture] = []
    no_pictures: list[str] = []
    links: list[str] = []
    no_text: list[str] = []
    for folder in folders:
        base = inside(root, f"{place}/{folder}")
        for current, subfolders, files in os.walk(base):
            subfolders[:] = sorted(name for name in subfolders
                                   if not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS)
            links += [f"{folder}/{name}" for name in subfolders if os.path.islink(os.path.join(current, name))]
            inner = Path(current).relative_to(base).as_posix()
            prefix = folder if inner == "." else f"{folder}/{inner}"
            for file in sorted(files):
                name = f"{prefix}/{file}"
                if file.startswith("."):
                    continue
                if not _is_text(name):
                    no_text.append(name)
                elif is_picture(file) and os.path.isfile(os.path.join(current, file)):
                    pictures.append(Picture(f"{place}/{name}", name, folder))
                else:
                    no_pictures.append(name)
    with os.scandir(inside(root, place)) as entries:
        outside = sorted(entry.name for entry in entries if entry.is_file() and is_picture(entry.name))
    stems = Counter(os.path.splitext(picture.name)[0] for picture in pictures)
    same_stem = [picture.name for picture in pictures if stems[os.path.splitext(picture.name)[0]] > 1]
    count_note_for_names(notes, "file that is no picture", no_pictures)
    count_note_for_names(notes, "file name that is not text", no_text)
    count_note_for_names(notes, "linked folder inside a class folder, not followed", links)
    count_note_for_names(notes, "picture outside the class folders", outside)
    count_note_for_names(notes, "picture whose name is there with another suffix too, both taken", same_stem)
    return pictures


def _ids(names: Sequence[str]) -> list[str]:
    """The ids of pictures: `happy/a.jpg` -> `happy_a`.

    A name that is no safe file name, that is long, or that equals another one in lower case (file systems may not
    distinguish A from a) gets a digest of the whole name.
    """
    plain_ids = [os.path.splitext(name)[0].replace("/", "_") for name in names]
    counts = Counter(plain_id.lower() for plain_id in plain_ids)
    ids = []
    for name, plain_id in zip(names, plain_ids, strict=True):
        is_unique = counts[plain_id.lower()] == 1
        if SAFE_ID.fullmatch(plain_id) and len(plain_id) <= LONGEST_ID and is_unique:
            ids.append(plain_id)
        else:
            safe = re.sub(r"[^A-Za-z0-9._-]", "_", plain_id)[:60]
            ids.append(f"_{safe}-{hashlib.sha256(name.encode()).hexdigest()[:16]}")
    return ids
