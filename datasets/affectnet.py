"""AffectNet (Mollahosseini et al., IEEE TAC 2017, arXiv:1708.03985): faces from the web, each labelled by one annotator
with one of eight expressions, valence and arousal.

Layouts:
  old release   Manually_Annotated/Manually_Annotated_Images/<subdir>/<hash>.jpg (whole pictures), with training.csv and
                validation.csv in any of `LIST_PLACES`
  March 2021    {train_set,val_set}/images/<id>.jpg (224x224, cropped), with
                {train_set,val_set}/annotations/<id>_{exp,val,aro}.npy
Pictures saved again under another suffix are found. Where both releases are there, that of March 2021 is read
(`layout=` chooses). In the notes, which manifests of built sets hold and which therefore stay as they are, a release
is called a distribution.

Splits. The official validation images serve as test. val is held out of the official training images
(`datasets.split.hold_out`).

Dropped, each with a note: rows without one of the eight expressions (None, Uncertain, No-Face), malformed rows, rows
listed twice, images that are not on disk, and, in the old release, face boxes without area or outside their
picture. Images without valence or arousal are kept.

Two things take long, so their results are kept in a scan file (`_scan_places`): the numbers in the many .npy files of
March 2021, and the sizes of the pictures of the old release, which the check of face boxes needs.

Within this module the images of a split are a table with the columns name (the example in notes, the source of the id),
path, expression, valence, arousal and, from the old lists, `BOX`. `datasets.load_split` calls `load`; the options are
in `OPTIONS`.
"""
import contextlib
import hashlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from datasets.images import MAX_PIXELS, box_fits, picture_sizes
from datasets.listing import comparison, find_pictures, is_picture
from datasets.split import (
    Split,
    count_note,
    count_note_for_names,
    folder_contents,
    hold_out,
    make_frame,
    note_missing_files,
    printable,
)
from support.errors import UserError
from support.files import write_text

CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
OPTIONS = {
    "classes": "8 (default) or 7 (without Contempt)",
    "crop": "xywh (default: boxes are x, y, width, height) or legacy (read as left, top, right, bottom, as the code "
            "released with FER-C does); the images of March 2021 are cropped already",
    "layout": "old or 2021: which release to read where both are there (default: 2021)",
}
# Images per class in the official training list (one Happy row has a negative face_width and is dropped). `hold_out`
# takes 250 of each class for val. The official validation list has 500 of each class.
TRAIN_COUNTS = (74874, 134416, 25459, 14090, 6378, 3803, 24882, 3750)

# --- names of the old release ---

LISTS = {"train": "training.csv", "val": "training.csv", "test": "validation.csv"}
LIST_PLACES = ("Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists",
               "Manually_Annotated", ".")
IMAGE_PLACES = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images")
BOX = ["face_x", "face_y", "face_width", "face_height"]
HEADER = ["subDirectory_filePath", *BOX, "facial_landmarks", "expression", "valence", "arousal"]
NUMBERS = [*BOX, "expression", "valence", "arousal"]
BLANKS = ' "\t\n'  # around a cell; copies saved by other programs quote the text
PLAIN_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
LONGEST_SIDE = 65535  # pixels, of a JPEG file: a longer box is malformed

# --- names of the release of March 2021 ---

FOLDERS = {"train": "train_set", "val": "train_set", "test": "val_set"}
KINDS = ("exp", "val", "aro")  # of .npy files: expression, valence, arousal
EXPRESSION_FILE = re.compile(r"([0-9]{1,18})_exp\.npy")
THREADS = 16  # they wait for the disk, so there may be more of them than processor cores
IDS_AT_ONCE = 500  # images whose files a thread reads before it takes the next ones

# --- names in both ---

# A name as the releases have it: letters and digits, perhaps below one folder, with or without a suffix.
RELEASED_NAME = re.compile(r"((?:[A-Za-z0-9]+/)?[A-Za-z0-9]+)(?:\.[A-Za-z]+)?")
LEADS_OUT = re.compile(r"^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)")  # an absolute path or a '..' part
SHOWN = 80  # characters of a name in a note


def official(classes: str = "8", **options: Any) -> dict[str, tuple[int, ...]]:
    """Official image counts per class: of the training list, from which val is held out, and of the validation list."""
    return {"train+val": TRAIN_COUNTS[:int(classes)], "test": (500,) * int(classes)}


def class_names(classes: str = "8", **options: Any) -> tuple[str, ...]:
    """The names of the classes with these options."""
    _refuse_unknown("classes", classes, ("8", "7"))
    return CLASSES[:int(classes)]


def load(root: Path, split: str, classes: str = "8", crop: str = "xywh", layout: str = "") -> Split:
    """One split; the options are those of `OPTIONS`.

    Notes of train and val count what the whole training list lost. Raises UserError where neither release is found, and
    where a list cannot be read or names a file outside the root.
    """
    return load_several(root, (split,), classes, crop, layout)[0]


def load_several(root: Path, splits: Sequence[str], classes: str = "8", crop: str = "xywh",
                 layout: str = "") -> list[Split]:
    """Several splits, as `load` gives them. The official list that train and val are taken from is read once."""
    _refuse_unknown("classes", classes, ("8", "7"))
    _refuse_unknown("crop", crop, ("xywh", "legacy"))
    if layout:
        _refuse_unknown("layout", layout, ("old", "2021"))
    num_classes = int(classes)
    # By its list, which train and val share.
    official: dict[str, tuple[pd.DataFrame, dict[str, Any], bool, frozenset[str]]] = {}
    loaded = []
    for split in splits:
        if LISTS[split] not in official:
            official[LISTS[split]] = _official_images(root, split, num_classes, layout)
        table, notes, is_old, sources = official[LISTS[split]]
        notes = dict(notes)
        if split != "test":
            is_val = hold_out(table["expression"], num_classes)
            table = table[is_val if split == "val" else ~is_val]
        if is_old:
            table = _with_corners(table, crop, notes)  # after val is drawn, so that both crops hold out the same images
        names = table["name"]
        columns = table.drop(columns="name").reset_index(drop=True)
        loaded.append(Split(make_frame(id=_ids(names), **columns), None, CLASSES[:num_classes], notes, sources))
    return loaded


def _official_images(root: Path, split: str, num_classes: int,
                     layout: str) -> tuple[pd.DataFrame, dict[str, Any], bool, frozenset[str]]:
    """The usable images of the list that a split belongs to, the notes, whether it is the old release, and the sources
    (`Split.sources`). layout: the option, "" where it was not given."""
    notes: dict[str, Any] = {}
    is_old = _release(root, layout, notes) == "old"
    if is_old:
        table = _list_rows(root, split, notes)
    else:
        table = _annotated_images(root, FOLDERS[split], notes)
    table = _with_expression(table, num_classes, notes)
    sources = _sources(root, split, is_old, table)
    table = _on_disk(root, table, notes)
    if is_old:
        table = _with_box_in_picture(root, LISTS[split], table, notes)
    return table, notes, is_old, sources


def _sources(root: Path, split: str, is_old: bool, table: pd.DataFrame) -> frozenset[str]:
    """The sources of a list (`Split.sources`). table: its rows, pictures that are not on disk included."""
    places = [*IMAGE_PLACES, *(f"{place}/{name}" for place in LIST_PLACES for name in set(LISTS.values()))]
    places += ["train_set", "val_set"]
    if not is_old:
        places += [f"{FOLDERS[split]}/{folder}" for folder in ("annotations", "images")]
    folders = {path.rpartition("/")[0] for path in table["path"].tolist()}
    base = os.path.abspath(root)
    sources = {f"{base}/{place}" for place in places} | {f"{base}/{folder}" for folder in folders}
    for place in IMAGE_PLACES if is_old else ():  # sizes of pictures are read anew when any folder has changed
        with contextlib.suppress(OSError), os.scandir(f"{base}/{place}") as entries:
            sources |= {entry.path for entry in entries if entry.is_dir()}
    return frozenset(sources)


def _refuse_unknown(option: str, value: Any, known: Sequence[str]) -> None:
    if str(value) not in known:
        raise UserError(f"affectnet: {option}={value}: choose {' or '.join(known)}")


def _release(root: Path, wanted: str, notes: dict[str, Any]) -> str:
    """Which release to read, "old" or "2021": the wanted one, else the one that is there. Raises UserError where
    there is neither."""
    has_2021 = (root / "train_set").is_dir() or (root / "val_set").is_dir()
    has_old_images = any((root / place).is_dir() for place in IMAGE_PLACES)
    has_old = has_old_images or any(_list_place(root, name) is not None for name in set(LISTS.values()))
    if not wanted and not has_2021 and not has_old:
        raise UserError(f"{root}: AffectNet is either Manually_Annotated/Manually_Annotated_Images with training.csv "
                        f"and validation.csv, or train_set and val_set; found: {folder_contents(root)}. "
                        f"--root should be the folder that holds them.")
    if wanted == "old" or (not wanted and not has_2021):
        notes["layout"] = "AffectNet, old distribution"
        return "old"
    notes["layout"] = "AffectNet, distribution of March 2021"
    if not wanted and has_old:
        notes["layout"] += " (the old one is here too: layout=old reads it)"
    return "2021"


def _dropped(table: pd.DataFrame, is_good: pd.Series | np.ndarray, reason: str, notes: dict[str, Any]) -> pd.DataFrame:
    """The good rows of a table; the others are noted under `reason`. is_good: bool (N,)."""
    names = table["name"][~is_good].str[:SHOWN].replace("", "row without a path")
    count_note_for_names(notes, reason, names.tolist())
    return table[is_good]


# --- lists of the old release ---

def _list_place(root: Path, name: str) -> str | None:
    """The place of `LIST_PLACES` that has a list of this name, None if there is none."""
    return next((place for place in LIST_PLACES if (root / place / name).is_file()), None)


def _list_rows(root: Path, split: str, notes: dict[str, Any]) -> pd.DataFrame:
    """The rows of the list that a split is read from, without malformed ones. Raises UserError where the list or the
    images are not there."""
    name = LISTS[split]
    place = _list_place(root, name)
    if place is None:
        raise UserError(f"{root}: no {name} here, nor in {', '.join(LIST_PLACES[:-1])}; found: {folder_contents(root)}."
                        f" --root should be the folder that holds Manually_Annotated.")
    images = next((folder for folder in IMAGE_PLACES if (root / folder).is_dir()), None)
    if images is None:
        raise UserError(f"{root}: {name} is here, but not its images: no folder {' or '.join(IMAGE_PLACES)}")
    table, has_header = _read_list(root / place / name)
    where = "the root" if place == "." else place
    notes["layout"] += f": lists in {where}, {'' if has_header else 'headerless '}{name}"
    longest_side = table[BOX].abs().max(axis=1, skipna=False)
    area = table["face_width"] * table["face_height"]
    is_whole = (table["name"] != "") & table["expression"].notna()
    is_whole &= (longest_side <= LONGEST_SIDE) & (area <= MAX_PIXELS)
    table = _dropped(table, is_whole, "malformed row", notes)
    has_area = (table["face_width"] > 0) & (table["face_height"] > 0)
    table = _dropped(table, has_area, "face box without area", notes)
    table = _dropped(table, ~table["name"].duplicated(), "listed twice", notes)
    return table.assign(path=f"{images}/" + table["name"])


def _read_list(path: Path) -> tuple[pd.DataFrame, bool]:
    """A list of the old release, with the columns name and `NUMBERS`, and whether it has a header.

    A number is NaN where its cell holds none; so are all numbers of a row with too few or too many cells. The file is
    not read by pandas: a line has 1 kB, nearly all of it landmarks, and for 400,000 lines pandas takes far longer. No
    cell of the release holds a comma, so lines are split at commas and a stray quotation mark cannot swallow any.
    """
    names: list[str] = []
    numbers = array("d")
    no_numbers = (np.nan,) * len(NUMBERS)
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first_line = file.readline()
            header = [cell.strip(BLANKS) for cell in first_line.split(",")]
            has_header = HEADER[0] in header
            lines: Iterable[str] = file
            if not has_header:
                header = HEADER
                lines = chain([first_line], file)
            missing = [name for name in HEADER if name not in header and name != "facial_landmarks"]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)}; found: {printable(', '.join(header))[:200]}. "
                                f"The list of AffectNet has the columns {', '.join(HEADER)}")
            name_column = header.index(HEADER[0])
            number_cells = itemgetter(*(header.index(number) for number in NUMBERS))
            for line in lines:
                cells = line.split(",")
                is_whole = len(cells) == len(header)
                if not is_whole and not line.strip(BLANKS):
                    continue
                name = cells[name_column] if name_column < len(cells) else ""
                names.append(name.strip(BLANKS).replace("\\", "/"))
                numbers.extend(map(_cell_number, number_cells(cells)) if is_whole else no_numbers)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not names:
        raise UserError(f"{path}: no row in it; an incomplete copy?")
    table = pd.DataFrame(np.frombuffer(numbers).reshape(-1, len(NUMBERS)), columns=NUMBERS)
    if table.isna().all(axis=None):
        raise UserError(f"{path}: not a list of {', '.join(HEADER)}: no row has such cells; line 1 is "
                        f"{printable(first_line.strip())[:60]!r}")
    return table.assign(name=pd.Series(names, dtype=object)), has_header


def _cell_number(cell: str) -> float:
    """The number in a cell, with or without quotes; NaN where it holds none."""
    try:
        return float(cell)
    except ValueError:
        text = cell.strip(BLANKS)
        return float(text) if PLAIN_NUMBER.fullmatch(text) else np.nan


# --- face boxes of the old release ---

def _with_box_in_picture(root: Path, list_name: str, table: pd.DataFrame, notes: dict[str, Any]) -> pd.DataFrame:
    """The rows whose face box lies in its picture, with the columns picture_width and picture_height.

    These are NaN where a picture cannot be read. Such rows are kept: who decodes the picture reports what is wrong.
    """
    sizes = _picture_sizes(root, list_name, table, notes)
    table = table.assign(picture_width=sizes[:, 0], picture_height=sizes[:, 1])
    x, y, width, height = (table[name].to_numpy() for name in BOX)
    is_good = _fits_picture(np.stack([x, y, x + width, y + height], 1), table)
    return _dropped(table, is_good, "face box that is not in its picture", notes)


def _fits_picture(boxes: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Which boxes (float (N, 4): left, top, right, bottom) belong to the pictures of the rows: bool (N,)."""
    sizes = table[["picture_width", "picture_height"]].fillna(-1).to_numpy(np.int64)
    return box_fits(boxes, sizes)


def _picture_sizes(root: Path, list_name: str, table: pd.DataFrame, notes: dict[str, Any]) -> np.ndarray:
    """Width and height of the pictures of a table: float64 (N, 2), NaN where the header of a picture cannot be read.

    The sizes are kept in a scan file, which is valid until a folder of the images changes. Pictures that are not in it
    are read and added; unreadable ones are tried every time.
    """
    images = next(place for place in IMAGE_PLACES if (root / place).is_dir())
    stamp = f"# FER-C sizes 1, {_folders_digest(root / images)}\n"
    places = _scan_places(root, f"{list_name.removesuffix('.csv')}-sizes")
    known = pd.DataFrame({"name": pd.Series([], dtype=object), "width": [], "height": []})
    for description, path in places.items():
        scan = _read_scan(path, stamp, ("width", "height"), None)
        if scan is not None:
            known = scan
            notes["cache"] = f"sizes of pictures from {description}, {path.name} (delete it to have them read again)"
            break
    known_sizes = known[["width", "height"]].to_numpy()
    if np.array_equal(known["name"].to_numpy(object), table["name"].to_numpy(object)):
        return known_sizes  # the usual case, which has to be fast
    row_in_scan = np.full(len(table), -1)
    if known["name"].is_unique:
        row_in_scan = pd.Index(known["name"]).get_indexer(table["name"])
    sizes = np.full((len(table), 2), np.nan)
    sizes[row_in_scan >= 0] = known_sizes[row_in_scan[row_in_scan >= 0]]
    unknown = np.flatnonzero(row_in_scan < 0)
    if not len(unknown):
        return sizes
    new_sizes = picture_sizes(root, table["path"].iloc[unknown].tolist()).astype(float)
    is_readable = (new_sizes > 0).all(axis=1)
    readable = unknown[is_readable]
    sizes[readable] = new_sizes[is_readable]
    if len(readable):
        notes.pop("cache", None)
        new = pd.DataFrame({"name": table["name"].iloc[readable].to_numpy(object),
                            "width": sizes[readable, 0], "height": sizes[readable, 1]})
        _write_scan(places, stamp, pd.concat([known, new]).astype({"width": int, "height": int}))
    return sizes


def _folders_digest(folder: Path) -> str:
    """A digest of the times at which a folder and the folders in it last got or lost a file."""
    changes = [f"{folder.stat().st_mtime_ns}"]
    with os.scandir(folder) as entries:
        changes += sorted(f"{entry.name} {entry.stat().st_mtime_ns}" for entry in entries if entry.is_dir())
    return hashlib.sha256(os.fsencode("\n".join(changes))).hexdigest()


def _with_corners(table: pd.DataFrame, crop: str, notes: dict[str, Any]) -> pd.DataFrame:
    """The columns left, top, right, bottom in place of `BOX` and the sizes of the pictures.

    crop: xywh or legacy, see `OPTIONS`. Rows whose legacy crop is empty or outside the picture are noted and dropped.
    """
    sizes = table[["picture_width", "picture_height"]]
    x, y, width, height = (table[name] for name in BOX)
    table = table.drop(columns=[*sizes, *BOX])
    if crop == "xywh":
        return table.assign(left=x, top=y, right=x + width, bottom=y + height)
    notes["layout"] += ", legacy crop"
    table = table.assign(left=x, top=y, right=width, bottom=height)
    corners = table[["left", "top", "right", "bottom"]].to_numpy()
    is_good = (width > x) & (height > y) & _fits_picture(corners, sizes)
    return _dropped(table, is_good, "legacy crop is empty", notes)


# --- annotations of March 2021 ---

def _annotated_images(root: Path, folder: str, notes: dict[str, Any]) -> pd.DataFrame:
    """The images with a readable expression of train_set or val_set. Images on disk without one are noted. Raises
    UserError where the folders are not there."""
    for needed in ("annotations", "images"):
        if not (root / folder / needed).is_dir():
            raise UserError(f"{root}: AffectNet of March 2021 needs {folder}/{needed}; found: "
                            f"{folder_contents(root / folder)}. --root should be the folder that holds train_set and "
                            f"val_set.")
    notes["layout"] += f": {folder}"
    table = _annotations(root, folder, notes)
    table["path"] = f"{folder}/images/" + table["name"] + ".jpg"
    is_readable = table["expression"].notna()
    images = {}
    for name in os.listdir(root / folder / "images"):
        if name.endswith(".jpg") and not name.startswith("."):  # the usual case, which has to be fast
            images[name[:-4]] = name
        elif is_picture(name):
            images[os.path.splitext(name)[0]] = name
    without_expression = images.keys() - set(table["name"][is_readable])
    if without_expression:
        count_note(notes, "image without a readable expression", images[min(without_expression)],
                   len(without_expression))
    return table[is_readable]


def _annotations(root: Path, folder: str, notes: dict[str, Any]) -> pd.DataFrame:
    """The columns name, expression, valence, arousal of every image with an _exp.npy file; NaN where a file is missing
    or unreadable.

    The numbers are kept in a scan file, which is valid as long as the annotations folder has the same number of files
    and the same time of change. Files that are changed in place are not noticed.
    """
    annotations = root / folder / "annotations"
    changed = annotations.stat().st_mtime_ns
    stamp = f"# FER-C scan 1, {len(os.listdir(annotations))} files, changed {changed}\n"
    places = _scan_places(root, folder)
    for description, path in places.items():
        scan = _read_scan(path, stamp)
        if scan is not None:
            notes["cache"] = f"annotations from {description}, {path.name} (delete it to have them read again)"
            return scan
    with os.scandir(annotations) as entries:
        files = {entry.name: entry.is_file() for entry in entries}  # opening a named pipe would wait for ever
    matches = [EXPRESSION_FILE.fullmatch(file) for file in files]
    names = sorted((match[1] for match in matches if match), key=lambda name: (int(name), name))
    batches = [names[start:start + IDS_AT_ONCE] for start in range(0, len(names), IDS_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda batch: _read_numbers(annotations, batch, files), batches)
        numbers = list(tqdm(results, f"reading {folder}/annotations", len(batches), mininterval=1,
                            disable=len(batches) <= 20 or None))
    values = np.concatenate(numbers) if numbers else np.zeros((0, 3))
    table = pd.DataFrame({"name": pd.Series(names, dtype=object), "expression": values[:, 0], "valence": values[:, 1],
                          "arousal": values[:, 2]})
    _write_scan(places, stamp, table)
    return table


# The header of an .npy file with one number or text.
NPY_HEADER = re.compile(
    rb"\x93NUMPY[\1-\3]\0.{2,4}\{'descr': '([<>|=][fiuSU][0-9]{1,3})', 'fortran_order': (?:True|False), "
    rb"'shape': \((?:1, ?)*1?\),? *\} *\n", re.DOTALL)


def _read_numbers(annotations: Path, names: Sequence[str], files: dict[str, bool]) -> np.ndarray:
    """Expression, valence and arousal of some images: float64 (N, 3), NaN where there is none.

    files: {name in the annotations folder: whether it is a regular file}.
    """
    values = np.full((len(names), len(KINDS)), np.nan)
    for row, name in enumerate(names):
        for column, kind in enumerate(KINDS):
            file = f"{name}_{kind}.npy"
            if files.get(file):
                values[row, column] = _read_number(f"{annotations}/{file}")
    return values


def _read_number(path: str | Path) -> float:
    """The number, or the text of a number, in an .npy file of one element; NaN for anything else.

    The header is read here, since numpy takes several times as long and allocates whatever the header says. Nothing is
    ever unpickled.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(4096)
        header = NPY_HEADER.match(data)
        if header is None:
            return np.nan
        return float(np.frombuffer(data, header[1].decode(), 1, header.end())[0].item())
    except (OSError, ValueError, TypeError):
        return np.nan


# --- scan files: results of long reading, kept ---

def _scan_places(root: Path, name: str) -> dict[str, Path]:
    """Where a scan file may be kept, the best place first: {description: file}."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fer-c"
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return {"the scan in the root": root / f".fer-c-{name}.csv",
            "the scan in the user's cache folder": cache / f"{key}-{name}.csv"}


def _write_scan(places: dict[str, Path], stamp: str, table: pd.DataFrame) -> None:
    """Keep a table in the first place that can be written. Where none can, the next start reads the files again."""
    for path in places.values():
        try:
            write_text(path, stamp + table.to_csv(index=False, lineterminator="\n"))
            return
        except (OSError, UnicodeEncodeError):
            continue


def _read_scan(path: Path, stamp: str, number_columns: Sequence[str] = ("expression", "valence", "arousal"),
               name_pattern: str | None = "[0-9]+") -> pd.DataFrame | None:
    """The table in a scan file, or None where the file is absent, damaged or has another stamp.

    stamp: the first line, which says what state of the folder the scan belongs to; number_columns: those behind the
    column `name`; name_pattern: what each name has to match, None for anything.
    """
    columns = list(number_columns)
    try:
        if not path.is_file():
            return None
        with open(path, encoding="utf-8") as file:
            if file.readline(1000) != stamp:
                return None
            table = pd.read_csv(file, dtype=object, keep_default_na=False, na_values={key: [""] for key in columns})
        table[columns] = table[columns].astype(np.float64)  # from text, so that every digit counts
        if list(table.columns) != ["name", *columns]:
            return None
        if name_pattern is not None and not table["name"].str.fullmatch(name_pattern).all():
            return None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return table


# --- both releases ---

def _with_expression(table: pd.DataFrame, num_classes: int, notes: dict[str, Any]) -> pd.DataFrame:
    """The rows with one of the first `num_classes` expressions. Valence and arousal outside [-1, 1] (the lists have -2
    for none) become NaN."""
    table = _dropped(table, table["expression"].isin(range(11)), "expression is not one of 0..10", notes)
    table = _dropped(table, table["expression"] < 8, "no expression: None, Uncertain or No-Face", notes)
    table = _dropped(table, table["expression"] < num_classes, "Contempt, left out by classes=7", notes)
    table = table.assign(expression=table["expression"].astype(np.int64))
    for column in ("valence", "arousal"):
        table[column] = table[column].where(table[column].between(-1, 1))
    is_unknown = table[["valence", "arousal"]].isna().any(axis=1)
    count_note_for_names(notes, "kept without valence or arousal", table["name"][is_unknown].str[:SHOWN].tolist())
    return table


def _on_disk(root: Path, table: pd.DataFrame, notes: dict[str, Any]) -> pd.DataFrame:
    """The rows whose picture exists, with its path; the others are noted. Raises UserError where a name leads out of
    the root."""
    for name in table["name"].tolist():
        if not RELEASED_NAME.fullmatch(name) and LEADS_OUT.search(name):
            raise UserError(f"{name!r} leads out of the data folder {root}; label files may only name files below it")
    paths = table["path"].tolist()
    files = find_pictures(root, paths, notes)
    is_present = files != ""
    missing = table["name"][~is_present].str[:SHOWN].tolist()
    note_missing_files(notes, missing, comparison(root, paths, files))
    return table.assign(path=pd.Series(files, index=table.index, dtype=table["path"].dtype))[is_present]


def _ids(names: Sequence[str] | pd.Series) -> list[str]:
    """The ids of images: `103/29a3...jpg` -> `103_29a3...`.

    A name that is not of the releases' form gets a digest of the whole name behind a dash, which the others never hold;
    so do two names that differ in their suffixes only. So ids are unique where names are.
    """
    ids = []
    for name in names:
        match = RELEASED_NAME.fullmatch(name)
        ids.append(match[1].replace("/", "_") if match else "")
    counts = Counter(ids)
    return [image_id if image_id and counts[image_id] == 1 else _id_with_digest(name)
            for image_id, name in zip(ids, names, strict=True)]


def _id_with_digest(name: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"\.[A-Za-z]+$", "", name))[:80]
    return f"_{stem}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
