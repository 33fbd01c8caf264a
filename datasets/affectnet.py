"""AffectNet (Mollahosseini et al., IEEE TAC 2017, arXiv:1708.03985): faces from the web, each labelled by one annotator
with one of eight expressions, valence and arousal. The official validation images serve as test; val is held out of the
training images.

Layouts: the old distribution, Manually_Annotated/Manually_Annotated_Images/<subdir>/<hash>.jpg (whole pictures) with
training.csv and validation.csv in any of `LIST_PLACES`; or that of March 2021, {train_set,val_set}/images/<id>.jpg
(224x224, cropped) with annotations/<id>_{exp,val,aro}.npy. Pictures saved again under another suffix are found. What
takes long, the scan of the latter's many files and the sizes of the former's pictures (a box that misses its picture is
left out), is kept beside them.
"""
import hashlib
import os
import re
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from cli import UserError, write_text
from datasets import Split, found_in, frame_of, hold_out, keyed_rng, note, note_all, note_missing, spelt
from datasets.images import MAX_PIXELS, box_fits, picture_sizes
from datasets.listing import comparison, find_pictures, is_picture

CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
OPTIONS = {
    "classes": "8 (default) or 7 (without Contempt)",
    "crop": "xywh (default: boxes are x, y, width, height) or legacy (read as left, top, right, bottom, as the code "
            "released with FER-C does); the images of March 2021 are cropped already",
    "layout": "old or 2021: which distribution to read where both are there (default: 2021)",
}
# Spec of the data sets, section 1: the training list has 74874, 134416 (one without a usable box), 25459, 14090, 6378,
# 3803, 24882, 3750, of which `hold_out` takes 250 each for val; 500 each for validation (one image of 4,000 may lack).
TRAIN = (74874, 134416, 25459, 14090, 6378, 3803, 24882, 3750)  # one Happy row has face_width < 0


def official(classes="8", **options):
    """Official image counts per class: training list, of which `val` is held out, and validation list."""
    return {"train+val": TRAIN[:int(classes)], "test": (500,) * int(classes)}


# --- the old distribution ---

LISTS = {"train": "training.csv", "val": "training.csv", "test": "validation.csv"}
LIST_PLACES = ("Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists",
               "Manually_Annotated", ".")
IMAGE_PLACES = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images")
BOX = ["face_x", "face_y", "face_width", "face_height"]
HEADER = ["subDirectory_filePath", *BOX, "facial_landmarks", "expression", "valence", "arousal"]
NUMBERS = [*BOX, "expression", "valence", "arousal"]
BLANKS = ' "\t\n'  # around a cell; copies saved by other programs quote the text
PLAIN_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
LONGEST_SIDE = 65535  # pixels, of a JPEG file: a box beyond it is no box

# --- the distribution of March 2021 ---

FOLDERS = {"train": "train_set", "val": "train_set", "test": "val_set"}
THREADS = 16  # they wait for the disk, so more of them than cores
BATCH = 500  # ids a thread takes at once


def load(root, split, classes="8", crop="xywh", layout=""):
    """One split; the options are those of `OPTIONS`. Notes of train and val count what the whole training list lost.
    Raises UserError where neither distribution is found, or a list cannot be read or leads out of the root."""
    for name, value, known in (("classes", classes, ("8", "7")), ("crop", crop, ("xywh", "legacy")),
                               ("layout", layout, ("", "old", "2021"))):
        if str(value) not in known:
            raise UserError(f"affectnet: {name}={value}: choose {' or '.join(filter(None, known))}")
    notes, count = {}, int(classes)
    distribution = _distribution(root, layout, notes)
    if distribution == "old":
        table = _from_list(root, split, notes)
    else:
        table = _from_annotations(root, FOLDERS[split], notes)
    table = _labelled(table, count, notes)
    table = _on_disk(root, table, notes)
    if distribution == "old":
        table = _fitting(root, LISTS[split], table, notes)
    if split != "test":
        held = hold_out(table["expression"], count)
        table = table[held if split == "val" else ~held]
    table = _boxes(table, crop, notes)  # after the draw of val, so that both crops hold out the same images
    return Split(frame_of(id=_ids(table.pop("name")), **table.reset_index(drop=True)), None, CLASSES[:count], notes)


def _distribution(root, wanted, notes):
    """Which of the two is here, or wanted: "old" or "2021"."""
    new = [name for name in ("train_set", "val_set") if (root / name).is_dir()]
    old = [name for name in IMAGE_PLACES if (root / name).is_dir()]
    old += [f"{place}/{name}" for name in set(LISTS.values()) if (place := _list_place(root, name))]
    if not wanted and not new and not old:
        raise UserError(f"{root}: AffectNet is either Manually_Annotated/Manually_Annotated_Images with training.csv "
                        f"and validation.csv, or train_set and val_set; found: {found_in(root)}. "
                        f"--root should be the folder that holds them.")
    if wanted == "old" or not wanted and not new:
        notes["layout"] = "AffectNet, old distribution"
        return "old"
    notes["layout"] = "AffectNet, distribution of March 2021"
    if not wanted and old:
        notes["layout"] += " (the old one is here too: layout=old reads it)"
    return "2021"


def _list_place(root, name):
    return next((place for place in LIST_PLACES if (root / place / name).is_file()), None)


# Within this module a split is a table of the columns name (the example in notes, the source of the id), path,
# expression, valence, arousal and, from the old lists, `BOX`.

def _from_list(root, split, notes):
    name = LISTS[split]
    place = _list_place(root, name)
    if place is None:
        raise UserError(f"{root}: no {name} here, nor in {', '.join(LIST_PLACES[:-1])}; found: {found_in(root)}. "
                        f"--root should be the folder that holds Manually_Annotated.")
    images = next((place for place in IMAGE_PLACES if (root / place).is_dir()), None)
    if images is None:
        raise UserError(f"{root}: {name} is here, but not its images: no folder {' or '.join(IMAGE_PLACES)}")
    table, headed = _read_list(root / place / name)
    where = "the root" if place == "." else place
    notes["layout"] += f": lists in {where}, {'' if headed else 'headerless '}{name}"
    sides = table[BOX].abs().max(axis=1, skipna=False)
    whole = (table["name"] != "") & table["expression"].notna()
    whole &= (sides <= LONGEST_SIDE) & (table["face_width"] * table["face_height"] <= MAX_PIXELS)
    table = _keep(table, whole, "malformed row", notes)
    table = _keep(table, (table["face_width"] > 0) & (table["face_height"] > 0), "face box without area", notes)
    table = _keep(table, ~table["name"].duplicated(), "listed twice", notes)
    return table.assign(path=f"{images}/" + table["name"])


def _read_list(path):
    """A list of the old distribution, and whether it has a header. Numbers are NaN where a cell holds none, and in rows
    with another number of cells. Not by pandas: of 400,000 lines of 1 kB, nearly all of it landmarks, it takes its time
    over every character. No cell of the release holds a comma, so a stray quotation mark cannot swallow lines."""
    names, numbers, no_numbers = [], array("d"), (np.nan,) * len(NUMBERS)
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = file.readline()
            header = [cell.strip(BLANKS) for cell in first.split(",")]
            headed = HEADER[0] in header
            header = header if headed else HEADER
            missing = [name for name in HEADER if name not in header and name != "facial_landmarks"]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)}; found: {spelt(', '.join(header))[:200]}. The "
                                f"list of AffectNet has the columns {', '.join(HEADER)}")
            name, some = header.index(HEADER[0]), itemgetter(*(header.index(number) for number in NUMBERS))
            for line in file if headed else chain([first], file):
                cells = line.split(",")
                whole = len(cells) == len(header)
                if whole or line.strip(BLANKS):
                    names.append("".join(cells[name:name + 1]).strip(BLANKS).replace("\\", "/"))
                    numbers.extend(map(_cell_number, some(cells)) if whole else no_numbers)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not names:
        raise UserError(f"{path}: no row in it; an incomplete copy?")
    table = pd.DataFrame(np.frombuffer(numbers).reshape(-1, len(NUMBERS)), columns=NUMBERS)
    if table.isna().all(axis=None):
        raise UserError(f"{path}: not a list of {', '.join(HEADER)}: no row has such cells; line 1 is "
                        f"{spelt(first.strip())[:60]!r}")
    return table.assign(name=pd.Series(names, dtype=object)), headed


def _cell_number(cell):
    """Text to a number, NaN where it is none."""
    try:
        return float(cell)
    except ValueError:
        cell = cell.strip(BLANKS)  # quotes
        return float(cell) if PLAIN_NUMBER.fullmatch(cell) else np.nan


def _from_annotations(root, folder, notes):
    for part in ("annotations", "images"):
        if not (root / folder / part).is_dir():
            raise UserError(f"{root}: AffectNet of March 2021 needs {folder}/{part}; found: {found_in(root / folder)}. "
                            f"--root should be the folder that holds train_set and val_set.")
    notes["layout"] += f": {folder}"
    table = _annotations(root, folder, notes)
    table["path"] = f"{folder}/images/" + table["name"] + ".jpg"
    readable = table["expression"].notna()
    images = {os.path.splitext(name)[0]: name for name in os.listdir(root / folder / "images") if is_picture(name)}
    without = images.keys() - set(table["name"][readable])
    if without:
        note(notes, "image without a readable expression", images[min(without)], len(without))
    return table[readable]


def _annotations(root, folder, notes):
    """name, expression, valence, arousal of every id with an expression; NaN where missing or unreadable.

    Kept as a CSV file in the root, or in the user's cache folder where the root cannot be written. It counts as long as
    the annotations folder has as many files and the same date; files changed in place go unseen."""
    annotations = root / folder / "annotations"
    changed = annotations.stat().st_mtime_ns
    with os.scandir(annotations) as entries:
        files = {entry.name: entry.is_file() for entry in entries}  # opening a named pipe would wait for ever
    stamp = f"# FER-C scan 1, {len(files)} files, changed {changed}\n"
    places = _cache_places(root, folder)
    for what, path in places.items():
        table = _read_cache(path, stamp)
        if table is not None:
            notes["cache"] = f"annotations from {what}, {path.name} (delete it to have them read again)"
            return table
    names = sorted((found[1] for found in map(re.compile(r"([0-9]{1,18})_exp\.npy").fullmatch, files) if found),
                   key=lambda name: (int(name), name))
    batches = [names[i:i + BATCH] for i in range(0, len(names), BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda batch: _read_numbers(annotations, batch, files), batches)
        read = list(tqdm(read, f"reading {folder}/annotations", len(batches), mininterval=1,
                         disable=len(batches) <= 20 or None))
    values = np.concatenate(read) if read else np.zeros((0, 3))
    table = pd.DataFrame({"name": pd.Series(names, dtype=object), "expression": values[:, 0], "valence": values[:, 1],
                          "arousal": values[:, 2]})
    _write_cache(places, stamp, table)
    return table


def _write_cache(places, stamp, table):
    """Keep a table in the first place that can be written. A cache is a convenience: without one the next start
    reads the files again."""
    for path in places.values():
        try:
            write_text(path, stamp + table.to_csv(index=False, lineterminator="\n"))
            return
        except (OSError, UnicodeEncodeError):
            continue


def _cache_places(root, folder):
    """Where a scan may be kept, the best place first: {in words: file}."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fer-c"
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return {"the scan in the root": root / f".fer-c-{folder}.csv",
            "the scan in the user's cache folder": cache / f"{key}-{folder}.csv"}


def _read_cache(path, stamp, columns=("expression", "valence", "arousal"), name="[0-9]+"):
    """The table kept in a file with this stamp, or None. columns: those of numbers, behind `name`, a text that matches
    the pattern where one is given."""
    columns = list(columns)
    try:
        if not path.is_file():
            return None
        with open(path, encoding="utf-8") as file:
            if file.readline(1000) != stamp:
                return None
            table = pd.read_csv(file, dtype=object, keep_default_na=False, na_values={key: [""] for key in columns})
        table[columns] = table[columns].astype(np.float64)  # from text, so that every digit counts
        whole = list(table.columns) == ["name", *columns]
        whole = whole and (name is None or table["name"].str.fullmatch(name).all())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return table if whole else None


# --- sizes of the pictures of the old distribution ---

def _fitting(root, list_name, table, notes):
    """The rows whose face box lies in its picture, with the columns picture_width and picture_height (NaN where a
    picture cannot be read: whoever decodes it says why)."""
    sizes = _sizes(root, list_name, table, notes)
    table = table.assign(picture_width=sizes[:, 0], picture_height=sizes[:, 1])
    x, y, width, height = (table[name].to_numpy() for name in BOX)
    good = _box_fits(np.stack([x, y, x + width, y + height], 1), table)
    return _keep(table, good, "face box that is not in its picture", notes)


def _box_fits(boxes, table):
    """`box_fits` for rows with the columns of `_fitting`. boxes: float (N, 4). Returns bool (N,)."""
    sizes = table[["picture_width", "picture_height"]].fillna(-1).to_numpy(np.int64)
    return box_fits(boxes, sizes)


def _sizes(root, list_name, table, notes):
    """Width and height of the pictures of a table, float (N, 2), NaN where a header cannot be read.

    Kept as a CSV file as `_annotations` are. It counts as long as no folder of the images has changed; pictures that
    the list has got in the meantime are looked at and added, unreadable ones are looked at every time."""
    images = next(place for place in IMAGE_PLACES if (root / place).is_dir())
    stamp = f"# FER-C sizes 1, {_folders_digest(root / images)}\n"
    places = _cache_places(root, f"{list_name.removesuffix('.csv')}-sizes")
    known = None
    for what, path in places.items():
        known = _read_cache(path, stamp, ("width", "height"), None)
        if known is not None:
            notes["cache"] = f"sizes of pictures from {what}, {path.name} (delete it to have them read again)"
            break
    if known is None:
        known = pd.DataFrame({"name": pd.Series([], dtype=object), "width": [], "height": []})
    if np.array_equal(known["name"].to_numpy(object), table["name"].to_numpy(object)):
        return known[["width", "height"]].to_numpy()  # the usual case, which is to be quick
    rows = pd.Index(known["name"]).get_indexer(table["name"]) if known["name"].is_unique else np.full(len(table), -1)
    sizes = np.full((len(table), 2), np.nan)
    sizes[rows >= 0] = known[["width", "height"]].to_numpy()[rows[rows >= 0]]
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        found = picture_sizes(root, table["path"].iloc[unknown].tolist()).astype(float)
        readable = (found > 0).all(axis=1)
        sizes[unknown[readable]] = found[readable]
        new = pd.DataFrame({"name": table["name"].iloc[unknown[readable]].to_numpy(object),
                            "width": found[readable, 0], "height": found[readable, 1]})
        if len(new):
            notes.pop("cache", None)
            _write_cache(places, stamp, pd.concat([known, new]).astype({"width": int, "height": int}))
    return sizes


def _folders_digest(folder):
    """A digest of when the folders below `folder`, and it itself, last got or lost a file."""
    changed = [f"{folder.stat().st_mtime_ns}"]
    with os.scandir(folder) as entries:
        changed += sorted(f"{entry.name} {entry.stat().st_mtime_ns}" for entry in entries if entry.is_dir())
    return hashlib.sha256(os.fsencode("\n".join(changed))).hexdigest()


NPY = re.compile(rb"\x93NUMPY[\1-\3]\0.{2,4}\{'descr': '([<>|=][fiuSU][0-9]{1,3})', 'fortran_order': (?:True|False), "
                 rb"'shape': \((?:1, ?)*1?\),? *\} *\n", re.DOTALL)


def _read_numbers(annotations, names, files):
    """expression, valence, arousal of some ids: float64 (N, 3), NaN where there is none.

    files: {name in the folder: whether it is a regular file}."""
    values = np.full((len(names), 3), np.nan)
    for i, name in enumerate(names):
        for k, kind in enumerate(("exp", "val", "aro")):
            if files.get(f"{name}_{kind}.npy"):
                values[i, k] = _read_number(f"{annotations}/{name}_{kind}.npy")
    return values


def _read_number(path):
    """The number, or the text of one, in an npy file of one element; NaN for anything else. By its own reading of the
    header, as numpy's takes several times as long and allocates whatever the header says; nothing is ever unpickled."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(4096)
        header = NPY.match(data)
        return float(np.frombuffer(data, header[1].decode(), 1, header.end())[0].item()) if header else np.nan
    except (OSError, ValueError, TypeError):
        return np.nan


# --- both ---

PLAIN = re.compile(r"((?:[A-Za-z0-9]+/)?[A-Za-z0-9]+)(?:\.[A-Za-z]+)?")  # the names of the releases
LEADS_OUT = re.compile(r"^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)")


def _keep(table, good, why, notes):
    """The good rows; the others are counted under `why` with the first as example."""
    note_all(notes, why, (table["name"][~good].str[:80].replace("", "row without a path")).tolist())
    return table[good]


def _labelled(table, count, notes):
    """Rows with one of the `count` expressions; valence and arousal outside -1..1 (-2 says none) become NaN."""
    table = _keep(table, table["expression"].isin(range(11)), "expression is not one of 0..10", notes)
    table = _keep(table, table["expression"] < 8, "no expression: None, Uncertain or No-Face", notes)
    table = _keep(table, table["expression"] < count, "Contempt, left out by classes=7", notes)
    table = table.assign(expression=table["expression"].astype(np.int64))
    for name in ("valence", "arousal"):
        table[name] = table[name].where(table[name].between(-1, 1))
    unknown = table["name"][table[["valence", "arousal"]].isna().any(axis=1)]
    note_all(notes, "kept without valence or arousal", unknown.str[:80].tolist())
    return table


def _on_disk(root, table, notes):
    """Rows whose image exists; the others are noted."""
    leads_out = next((name for name in table["name"] if not PLAIN.fullmatch(name) and LEADS_OUT.search(name)), None)
    if leads_out is not None:
        raise UserError(f"{leads_out!r} leads out of the data folder {root}; label files may only name files below it")
    paths = table["path"].tolist()
    found = find_pictures(root, paths, notes)
    there = found != ""
    note_missing(notes, table["name"][~there].str[:80].tolist(), comparison(root, paths, found))
    return table.assign(path=pd.Series(found, index=table.index, dtype=table["path"].dtype))[there]


def _boxes(table, crop, notes):
    """The columns left, top, right, bottom in place of `BOX`; none where the images are cropped already."""
    if BOX[0] not in table:
        return table
    sizes = table[["picture_width", "picture_height"]]
    table = table.drop(columns=list(sizes))
    x, y, width, height = (table.pop(name) for name in BOX)
    if crop == "xywh":
        return table.assign(left=x, top=y, right=x + width, bottom=y + height)
    notes["layout"] += ", legacy crop"
    table = table.assign(left=x, top=y, right=width, bottom=height)
    legacy = table[["left", "top", "right", "bottom"]].to_numpy()
    good = (width > x) & (height > y) & _box_fits(legacy, sizes)
    return _keep(table, good, "legacy crop is empty", notes)


def _ids(names):
    """`103/29a3...jpg` -> `103_29a3...`. A name of another form, or two that differ in their suffix only, get a digest
    of the whole name behind a dash, which plain ones never hold: ids are unique where names are."""
    plain = [PLAIN.fullmatch(name) for name in names]
    ids = [match[1].replace("/", "_") if match else None for match in plain]
    often = Counter(ids)
    return [i if match and often[i] == 1 else _odd_id(name) for i, match, name in zip(ids, plain, names, strict=True)]


def _odd_id(name):
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"\.[A-Za-z]+$", "", name))[:80]
    return f"_{stem}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


# --- drawn faces in the two layouts ---

COUNTS = {"train": 240, "test": 80}


def write_old(out, faces):
    """The old distribution: pictures with a margin around the face, boxes x, y, width, height, a headerless
    validation.csv, and in the training list rows without expression (8 to 10, valence and arousal -2), a Happy row with
    a negative box, malformed rows, six images that are not on disk."""
    for split, count in COUNTS.items():
        rows = []  # (what makes the name, picture, box, expression, valence, arousal); a picture of None: not on disk
        for i, face in enumerate(faces(split, count)):
            size = len(face.image)
            margin = int(0.15 * size)  # as in the boxes of the release: x is 0.15 of the width
            box = (margin, margin, size, size)
            picture = np.pad(face.image, ((margin, margin), (margin, margin), (0, 0)), "edge")
            point = (-2, -2) if i == 7 else _point(face)
            rows.append((i, picture, box, CLASSES.index(face.expression), *point))
            if i < 6:
                rows.append((f"{i} without expression", picture[:, ::-1], box, 8 + i % 3, -2, -2))
        if split == "train":
            rows += [(f"missing {i}", None, box, 0, 0.1, 0.1) for i in range(6)]
            rows.append(("negative box", picture[:, ::-1], (margin, margin, -size, size), 1, 0.5, 0.2))
        lines = [_old_row(out, split, *row) for row in rows]
        if split == "train":
            spoilt = _old_row(out, split, "spoilt", None, box, 0, 0.1, 0.1)
            lines[100:100] = [spoilt[:200] + "\n", spoilt.replace(",0,0.1,0.1", ",?,0.1,0.1"), ",,,,,,,,\n"]
            lines.insert(0, ",".join(HEADER) + "\n")
        write_text(out / LIST_PLACES[0] / LISTS[split], "".join(lines))


def write_2021(out, faces):
    """The distribution of March 2021: cropped images, four npy files each, ids that train and val share, every third
    number as text, and missing annotations: an image without an expression, one without valence, one without arousal,
    an expression without its image."""
    for split, count in COUNTS.items():
        images, annotations = (out / FOLDERS[split] / part for part in ("images", "annotations"))
        for folder in (images, annotations):
            folder.mkdir(parents=True, exist_ok=True)
        for i, face in enumerate(faces(split, count)):
            Image.fromarray(face.image).save(images / f"{i}.jpg", quality=90)
            _write_annotations(annotations, i, CLASSES.index(face.expression), *_point(face), face.image.shape[0])
        Image.fromarray(face.image[:, ::-1]).save(images / f"{count}.jpg", quality=90)
        _write_annotations(annotations, count + 1, 0, 0.1, 0.1, 224)
        (annotations / "5_val.npy").unlink()
        (annotations / "9_aro.npy").unlink()


LAYOUTS = {"affectnet-old": write_old, "affectnet-2021": write_2021}


def _point(face):
    """Valence and arousal as annotated: within -1..1, six digits."""
    return tuple(round(float(np.clip(value, -1, 1)), 6) for value in (face.valence, face.arousal))


def _landmarks(key, size):
    """68 points x1, y1, ... on an ellipse, a pixel off at random: float64 (136,), in pixels of a face `size` wide."""
    turn = np.arange(68) * (2 * np.pi / 68)
    points = np.stack([0.5 + 0.3 * np.cos(turn), 0.5 + 0.4 * np.sin(turn)], 1) * size
    return (points + keyed_rng("landmarks", key).uniform(-1, 1, points.shape)).reshape(-1)


def _old_row(out, split, key, picture, box, expression, valence, arousal):
    """A line of a list; the picture goes to disk under a name of the release's form: folder, 56 hexadecimal digits."""
    digest = hashlib.sha224(f"{split} {key}".encode()).hexdigest()
    name = f"{int(digest[:2], 16) % 8 + 100}/{digest}.jpg"
    if picture is not None:
        (out / IMAGE_PLACES[0] / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out / IMAGE_PLACES[0] / name, quality=90)
    marks = ";".join(f"{value:.2f}" for value in _landmarks(digest, box[3]) + box[0])  # in the whole picture
    return f"{name},{','.join(map(str, box))},{marks},{expression},{valence},{arousal}\n"


def _write_annotations(annotations, i, expression, valence, arousal, size):
    for kind, value in (("exp", expression), ("val", valence), ("aro", arousal)):
        _save(annotations / f"{i}_{kind}.npy", np.array(value if i % 3 else str(value)))
    _save(annotations / f"{i}_lnd.npy", _landmarks(i, size))


def _save(path, array):
    data = BytesIO()
    np.save(data, array, allow_pickle=False)
    path.write_bytes(data.getvalue())
