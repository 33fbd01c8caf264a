"""RAF-DB (Li, Deng and Du, CVPR 2017) and RAF-ML (Li and Deng, IJCV 2019): web faces, about 40 votes each.

The default is FER-C's set: six classes, RAF-DB basic without Neutral plus RAF-ML, 13,673 train and 3,370 test images.
`classes=7` is the field's standard RAF-DB: basic with Neutral, 12,271 / 3,068.

Layouts, below a root that holds `basic` and `RAF-ML` (or is one of the two itself):
  basic/EmoLabel/list_patition_label.txt (sic; list_partition_label.txt too)      train_00001.jpg 5
  basic/Image/aligned[/aligned]/train_00001_aligned.jpg                           100x100
  distribute_basic.csv, in EmoLabel, basic or the root (no part of the package)   seven shares a row, train then test
  RAF-ML[/RAF-ML]/EmoLabel/{distribution.txt,partition_label.txt}                 0001.jpg p1 .. p6; 0001.jpg 0|1 (test)
  RAF-ML[/RAF-ML]/Image/aligned[/aligned]/0001_aligned.jpg
Copies differ: pictures are read with or without `_aligned` and with any suffix of `datasets.listing.SUFFIXES` (the
release's own name goes first), lists with commas, more columns or words for labels where one column only can be meant.
About 2 % of basic's test images are in RAF-ML too: `datasets.check` lists equal pictures.
"""
import re
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from cli import UserError, write_text
from datasets import (
    Split, expression_name, found_in, frame_of, hold_out, keyed_rng, note, note_all, note_missing, read_text, spelt,
)
from datasets.listing import SUFFIXES, files_in, find_pictures, is_picture

CLASSES = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")
SEVEN = (*CLASSES, "Neutral")  # the codes 1..7 of the list file
OPTIONS = {
    "classes": "6 (default: no Neutral) or 7 (RAF-DB basic with Neutral)",
    "parts": "basic,ml (default of the six classes; ml only where it is there), basic or ml",
    "basic_labels": "onehot (default) or votes (of distribute_basic.csv) as the distribution of RAF-DB basic",
    "labels": "list (default) or mivia (MIVIA's vote filter: drops ambiguous images of RAF-DB basic, implies votes)",
}

# Images a class, of the list file of the release; train includes what `hold_out` takes for val.
BASIC = {"train": (1290, 281, 717, 4772, 1982, 705, 2524), "test": (329, 74, 160, 1185, 478, 162, 680)}
ML = {"train": 3926, "test": 982}  # partition_label.txt; counts per class are not published


def official(classes="6", parts=None, **options):
    """Official image counts: per class in label order where they are published, else the total."""
    parts = (parts or ("basic,ml" if classes == "6" else "basic")).split(",")
    counts = {}
    for split, name in (("train", "train+val"), ("test", "test")):
        basic, ml = BASIC[split][: int(classes)] if "basic" in parts else (), ML[split] if "ml" in parts else 0
        counts[name] = basic if not ml else sum(basic) + ml
    return counts


LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # as released; as some copies mend it
VOTES = "distribute_basic.csv"
BASIC_FOLDERS = ("basic", "basic/basic", "")
ML_FOLDERS = ("RAF-ML/RAF-ML", "RAF-ML", "")
WORDS = {expression_name(name): code for code, name in enumerate(SEVEN, 1)}  # labels written out
CODES = {str(code): code for code in WORDS.values()}
FLAGS = {"0": 0, "1": 1, "train": 0, "test": 1}  # of partition_label.txt
ENDING = "(?:_aligned)?(?:" + "|".join(re.escape(suffix) for suffix in SUFFIXES) + ")?"  # after a name, any case
SEPARATOR = re.compile(r"[\s,;]+")
BASIC_NAME = r"(?:train|test)_[0-9]{1,9}"
ML_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
OUTSIDE = r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)"  # an absolute path or a '..' part
QUOTES = "\"'"
SHOWN = 60  # characters of a bad row that go into a note


class Part(NamedTuple):
    """The usable images of RAF-DB basic or RAF-ML, of the official training or test rows."""

    layout: str  # what was found
    ids: np.ndarray  # text (N,)
    paths: np.ndarray  # text (N,), relative to the root
    expression: np.ndarray  # int64 (N,)
    distribution: np.ndarray  # float64 (N, K), rows sum to 1


def load(root, split, classes="6", parts=None, basic_labels=None, labels="list"):
    """One split. test: the official test rows; val: min(250, 10 %) of every class of the training rows.

    `distribution` is one-hot for RAF-DB basic (or its votes, see `OPTIONS`) and RAF-ML's own shares; `expression` is
    the list's label and, for RAF-ML, the class of the largest share. Notes on dropped rows of train and val are counted
    over the official training rows, of which val is a part. Raises UserError on unknown or contradicting options, on a
    folder without the files, and on labels out of range.
    """
    wanted, basic_labels = _choices(classes, parts, basic_labels, labels)
    names = SEVEN if classes == "7" else CLASSES
    basic, ml = _find(root, BASIC_FOLDERS, LISTS), _find(root, ML_FOLDERS, ("distribution.txt",))
    with_ml = "ml" in wanted and (parts is not None or ml is not None or _half_there(root))
    if "basic" in wanted and basic is None:
        raise _missing(root, f"RAF-DB needs basic/EmoLabel/{LISTS[0]} (or {LISTS[1]})",
                       "--data parts=ml takes the RAF-ML that is here alone" if ml else "")
    if with_ml and ml is None:
        raise _missing(root, "RAF-ML needs RAF-ML/EmoLabel/distribution.txt",
                       "--data parts=basic takes the RAF-DB basic that is here alone" if basic else "")
    notes, found = {"layout": ""}, []
    if "basic" in wanted:
        found.append(_basic(root, basic, split == "test", len(names), basic_labels, labels == "mivia", notes))
    if with_ml:
        found.append(_ml(root, ml, split == "test", notes))
    notes["layout"] = " and ".join(part.layout for part in found)
    if "ml" in wanted and not with_ml:
        notes["layout"] += "; without RAF-ML, which is not below the root: smaller than FER-C's RAF-DB"
    ids, paths, expression, distribution = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
    if split != "test":
        mine = hold_out(expression, len(names)) == (split == "val")
        ids, paths, expression, distribution = ids[mine], paths[mine], expression[mine], distribution[mine]
    return Split(frame_of(id=ids, path=paths, expression=expression), distribution, names, notes)


def _choices(classes, parts, basic_labels, labels):
    """The options checked: the set of parts wanted, and onehot or votes."""
    if classes not in ("6", "7"):
        raise UserError(f"classes={classes}: choose 6 or 7 ({OPTIONS['classes']})")
    wanted = set((parts or ("basic" if classes == "7" else "basic,ml")).split(","))
    if not wanted <= {"basic", "ml"} or parts == "":
        raise UserError(f"parts={parts}: choose basic,ml or basic or ml")
    if classes == "7" and "ml" in wanted:
        raise UserError(f"classes=7 with parts={parts}: RAF-ML has no Neutral; use parts=basic, or classes=6")
    if basic_labels not in (None, "onehot", "votes"):
        raise UserError(f"basic_labels={basic_labels}: choose onehot or votes")
    if labels not in ("list", "mivia"):
        raise UserError(f"labels={labels}: choose list or mivia")
    if "basic" not in wanted and (basic_labels or labels == "mivia"):
        raise UserError("basic_labels and labels=mivia are about RAF-DB basic, which parts=ml leaves out")
    return wanted, basic_labels or ("votes" if labels == "mivia" else "onehot")


# --- where the files are ---

def _find(root, folders, names):
    """(folder below the root, name of the label file) of the first that is there, or None."""
    for folder in folders:
        for name in names:
            if (root / folder / "EmoLabel" / name).is_file():
                return folder, name
    return None


def _half_there(root):
    """Whether a folder RAF-ML stands here: then it is to be read, and its missing files are an error."""
    return (root / "RAF-ML").is_dir()


def _missing(root, what, hint):
    hint = hint or "--root should be the folder that holds basic (and RAF-ML beside it), or basic itself"
    return UserError(f"{root}: {what}; found: {found_in(root)}. {hint}")


def _usable(root, folder, ids, keep, notes):
    """`keep` without the images that are not on disk, the paths of all, and the folder of the images."""
    places = ["/".join(filter(None, (folder, sub))) for sub in ("Image/aligned/aligned", "Image/aligned")]
    images = next((place for place in places if any(map(is_picture, files_in(root, place)))), None)
    if images is None:
        raise UserError(f"{root / folder}: no .jpg in Image/aligned or Image/aligned/aligned, nor another picture; "
                        f"unpack the release's archive of aligned images there")
    aligned = find_pictures(root, [f"{images}/{name}_aligned.jpg" for name in ids[keep]], notes)
    absent = aligned == ""
    aligned[absent] = find_pictures(root, [f"{images}/{name}.jpg" for name in ids[keep][absent]], notes)
    paths = np.full(len(ids), "", object)
    paths[keep] = aligned
    present = paths != ""
    looked_for = ""
    if keep.any() and not present.any():
        some = next(name for name in sorted(files_in(root, images)) if is_picture(name))
        looked_for = (f"looked for {ids[keep][0]}_aligned.jpg and {ids[keep][0]}.jpg in {images}, which holds for "
                      f"example {spelt(some)[:80]}")
    note_missing(notes, ids[keep & ~present], looked_for)
    return keep & present, paths, images


# --- RAF-DB basic ---

def _basic(root, found, test, num_classes, basic_labels, mivia, notes):
    folder, name = found
    path = root / folder / "EmoLabel" / name
    ids, codes, lines = _named_rows(path, 1, BASIC_NAME, "train_00001.jpg 5", notes, CODES | WORDS)
    labels = codes[:, 0] - 1
    wrong = ~np.isin(labels, range(len(SEVEN)))
    if wrong.any():
        raise UserError(f"{path} line {lines[wrong][0]}: label {codes[wrong][0, 0]:g} of {ids[wrong][0]} is not in "
                        f"1..7 (1 {SEVEN[0]} .. 7 {SEVEN[6]}); is this RAF-DB's list of basic expressions?")
    labels = labels.astype(np.int64)
    tests = pd.Series(ids).str.startswith("test").to_numpy(bool)
    mine = tests == test
    keep = mine & (labels < num_classes)
    note_all(notes, "Neutral, none of the six classes", ids[mine & ~keep])
    distribution = np.eye(len(SEVEN))[labels]
    source = "one-hot labels"
    if mivia or basic_labels == "votes":
        votes, source = _votes(root, folder, ids, tests), f"votes from {VOTES}"
        if mivia:
            votes, clear = vote_filter(votes)
            note_all(notes, "ambiguous votes (MIVIA's filter)", ids[keep & ~clear])
            keep &= clear
            source += ", MIVIA's filter"
        if basic_labels == "votes":
            distribution = votes
        else:
            source += ", one-hot labels"
    keep, paths, images = _usable(root, folder, ids, keep, notes)
    labels = labels[keep]
    distribution, replaced = _agreeing(distribution[keep, :num_classes], labels)
    note_all(notes, "one-hot, for the votes do not favour the list's label", ids[keep][replaced])
    return Part(f"RAF-DB basic ({name}, {images}, {source})", ids[keep], paths[keep], labels, distribution)


def vote_filter(votes):
    """MIVIA's filter: shares of at most 10 % are removed; an image is dropped where more than two classes share the
    maximum, or where the one or two that have it hold at most half of what is left.

    votes: float (N, K), shares. Returns the cleaned shares, float64 (N, K) with rows that sum to 1 (0 where nothing is
    left), and bool (N,): the rows kept.
    """
    votes = np.round(np.asarray(votes, np.float64) * 10, 9)  # rounded: 0.1 read from text must not count as above 10 %
    votes[votes <= 1] = 0
    total, most = votes.sum(1), votes.max(1, initial=0)
    winners = (votes == most[:, None]).sum(1)
    keep = (winners <= 2) & (winners * most > 0.5 * total)
    return votes / np.where(total > 0, total, 1)[:, None], keep


def _agreeing(shares, labels):
    """Rows renormalised; one-hot where nothing is left or the (first) largest share is not the label's.

    shares: (N, K); labels: (N,). Returns float64 (N, K) and bool (N,): the rows made one-hot."""
    mass = shares.sum(1)
    replaced = (mass <= 0) | (shares.argmax(1) != labels)
    shares = shares / np.where(mass > 0, mass, 1)[:, None]
    return np.where(replaced[:, None], np.eye(shares.shape[1])[labels], shares), replaced


def _votes(root, folder, ids, tests):
    """The seven shares of every image of the list, float64 (N, 7): rows are train 1, 2, ..., then test 1, 2, ..."""
    places = [root / folder / "EmoLabel" / VOTES, root / folder / VOTES, root / VOTES]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"{places[0]}: no such file, nor in the folders above. The package has no votes: "
                        f"use basic_labels=onehot and labels=list, or put {VOTES} there")
    rows = [line.split(",") for line in read_text(path).splitlines() if line.strip()]
    if rows and all(_numbers([cell], 1) is None for cell in rows[0]):
        rows = rows[1:]  # a header
    votes = [_numbers(row, len(SEVEN)) for row in rows]
    bad = next((i for i, row in enumerate(votes) if row is None), None)
    if bad is not None:  # rows belong to images by their order, so none can be skipped
        raise UserError(f"{path}: row {bad + 1} is not seven shares of votes: {','.join(rows[bad])[:SHOWN]!r}")
    if len(votes) != len(ids):
        raise UserError(f"{path}: {len(votes)} rows for {len(ids)} images in the list file; they belong together by "
                        f"their order (15,339 each in the official files)")
    order = np.lexsort((pd.Series(ids).str.split("_").str[1].astype(np.int64), tests))
    sorted_back = np.empty(len(ids), np.int64)
    sorted_back[order] = np.arange(len(ids))
    return np.array(votes).reshape(-1, len(SEVEN))[sorted_back]


# --- RAF-ML ---

def _ml(root, found, test, notes):
    folder, name = found
    labels = root / folder / "EmoLabel"
    ids, shares, _ = _named_rows(labels / name, len(CLASSES), ML_NAME, "0001.jpg 0.5 0.5 0 0 0 0", notes)
    if not (labels / "partition_label.txt").is_file():
        raise UserError(f"{labels}: no partition_label.txt: it says which images of RAF-ML are for testing. "
                        f"Unpack it from the release; found: {found_in(labels)}")
    listed, flags, lines = _named_rows(labels / "partition_label.txt", 1, ML_NAME, "0001.jpg 0", notes, FLAGS)
    wrong = ~np.isin(flags[:, 0], (0, 1))
    if wrong.any():
        raise UserError(f"{labels}/partition_label.txt line {lines[wrong][0]}: {flags[wrong][0, 0]:g} for "
                        f"{listed[wrong][0]} is neither 0 (train) nor 1 (test)")
    flag = pd.Series(flags[:, 0], index=listed).reindex(ids).to_numpy()
    note_all(notes, "not in partition_label.txt", ids[np.isnan(flag)])
    note_all(notes, "in partition_label.txt, not in distribution.txt", listed[~pd.Index(listed).isin(ids)])
    keep, total = flag == test, shares.sum(1)
    note_all(notes, "no share of any class (RAF-ML)", ids[keep & (total <= 0)])
    keep, paths, images = _usable(root, folder, ids, keep & (total > 0), notes)
    distribution = shares[keep] / total[keep, None]
    level = (distribution == distribution.max(1, keepdims=True, initial=0)).sum(1) > 1
    note_all(notes, "level largest shares, the first class taken (RAF-ML)", ids[keep][level])
    return Part(f"RAF-ML ({name}, {images})", ids[keep], paths[keep], distribution.argmax(1), distribution)


# --- label files of unknown make ---

class Line(NamedTuple):
    """A line of a label file that is not empty."""

    number: int  # from 1 on
    text: str
    cells: list[str]


def _named_rows(path: Path, width: int, pattern: str, example: str, notes: dict, words: dict | None = None):
    """Rows `<name>[_aligned][.jpg] number ...`, separated by blanks or commas.

    words: what may stand for a number, or stand alone in a column of labels. Returns names without their ending, text
    (N,), numbers, float64 (N, width), and the numbers of their lines, int (N,). Rows of another form and names that are
    none of the set's are counted in `notes`. Raises UserError showing the line on a name that leads out of the folder,
    one that appears twice, columns that could be meant in two ways, and a file without any row of this form."""
    lines = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        cells = [cell.strip(QUOTES) for cell in SEPARATOR.split(text.strip()) if cell]
        if cells:
            lines.append(Line(number, text.strip()[:SHOWN], cells))
    counts = Counter(len(line.cells) for line in lines)
    usual = max(counts, key=lambda count: (counts[count], count == width + 1), default=0)
    if usual <= width:
        raise _no_row(path, example, lines)
    name_column, columns = _columns(path, [line for line in lines if len(line.cells) == usual], width, pattern,
                                    example, words or {})
    names, values, numbers = [], [], []
    for line in lines:
        row = _row(line.cells, columns, words or {}) if len(line.cells) == usual else None
        if row is None:
            note(notes, f"malformed row of {path.name}", line.text)
            continue
        name = line.cells[name_column]
        if re.search(OUTSIDE, name):
            raise UserError(f"{path} line {line.number}: {name[:SHOWN]!r} leads out of the data folder; label files "
                            f"may only name files below it")
        plain = _without_ending(name)
        if not re.fullmatch(pattern, plain):
            note(notes, f"no image name in {path.name}", name[:SHOWN])
            continue
        names.append(plain)
        values.append(row)
        numbers.append(line.number)
    if not names:
        raise _no_row(path, example, lines)
    doubled = np.flatnonzero(pd.Series(names).duplicated())
    if len(doubled):
        raise UserError(f"{path}: {len(doubled)} names appear twice, for example {names[doubled[0]]} (again in line "
                        f"{numbers[doubled[0]]}); delete one of the lines")
    return np.array(names, object), np.array(values, np.float64).reshape(-1, width), np.array(numbers)


def _no_row(path, example, lines):
    found = f"; line {lines[0].number} is {lines[0].text!r}" if lines else "; it is empty"
    return UserError(f"{path}: no row of the form {example!r}{found}")


def _without_ending(name):
    """The name of an image without `_aligned` and suffix."""
    return re.sub(f"{ENDING}$", "", name, flags=re.IGNORECASE)


def _is_name(cell, pattern):
    """Whether a cell can only be the name of an image: RAF-ML's names without suffix are numbers too."""
    return _numbers([cell], 1) is None and re.fullmatch(pattern, _without_ending(cell)) is not None


def _columns(path, lines, width, pattern, example, words):
    """The column of the name and the `width` columns of the numbers, in rows of equally many cells.

    A file with more columns than needed is read where one of them only can be the label: where every named row has one
    of `words` in it (or where such columns say the same)."""
    cells = [line.cells for line in lines]
    matches = [sum(_is_name(row[k], pattern) for row in cells) for k in range(len(cells[0]))]
    name_column = matches.index(max(matches))
    others = [k for k in range(len(cells[0])) if k != name_column]
    if len(others) == width:
        return name_column, others
    named = [row for row in cells if re.fullmatch(pattern, _without_ending(row[name_column]))]
    labels = {}
    for k in others:
        column = [words.get(expression_name(row[k])) for row in named]
        if column and None not in column:
            labels[k] = column
    first = f"{path} line {lines[0].number}: {lines[0].text!r} has {len(cells[0])} columns; expected {example!r}"
    if width > 1 or not labels:
        raise UserError(f"{first}, and no column holds a label in every row. Keep the two columns name and label"
                        if width == 1 else f"{first}. Keep the name and its {width} numbers")
    column, *more = labels
    if any(labels[other] != labels[column] for other in more):
        raise UserError(f"{first}, and columns {' and '.join(str(k + 1) for k in labels)} could each be the label. "
                        f"Keep the two columns name and label")
    return name_column, [column]


def _row(cells, columns, words):
    """The numbers in these columns of a row, or None."""
    return _numbers([words.get(expression_name(cells[k]), cells[k]) for k in columns], len(columns))


def _numbers(cells, width):
    """`width` numbers, each of 0 .. 1e6 (nothing in these files is larger), or None."""
    if len(cells) != width:
        return None
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if all(0 <= number <= 1e6 for number in numbers) else None


# --- the same layouts, with drawn faces ---

DEMO = {"Surprise": 0, "Fear": 1, "Disgust": 2, "Happy": 3, "Sad": 4, "Anger": 5, "Neutral": 6}  # no Contempt
DEMO_COLUMNS = [3, 4, 5, 1, 2, 6, 0]  # of the demo's posterior, in the order of SEVEN
VOTERS = 40  # "about 40" annotators an image, of both releases


def write_basic(out, faces):
    """Drawn faces as RAF-DB basic: 203 train, 84 test; the list's misspelt name, the nested folder, and, though the
    package lacks it, distribute_basic.csv, by the drawn point's true posterior: some votes disagree with the list or
    are ambiguous. Of Image/original only the first five of each; Annotation, which nothing here reads, is left out."""
    folder, lines, votes = out / "basic", [], []
    for kind in ("Image/aligned/aligned", "Image/original"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for part, drawn, digits in (("train", 232, 5), ("test", 96, 4)):
        known = (face for face in faces(part, drawn) if face.expression in DEMO)
        for number, face in enumerate(known, 1):
            stem = f"{part}_{number:0{digits}d}"
            _save(face.image, folder / f"Image/aligned/aligned/{stem}_aligned.jpg")
            if number <= 5:
                Image.fromarray(face.image).save(folder / f"Image/original/{stem}.jpg", quality=95)
            lines.append(f"{stem}.jpg {DEMO[face.expression] + 1}\n")
            shares = _drawn_votes(face, len(SEVEN), part, number)
            if number in (3, 4):  # all votes on Neutral: no mass in the six classes; too ambiguous for MIVIA's filter
                shares = [0, 0, 0, 0, 0, 0, 1] if number == 3 else [0.4, 0.3, 0.3, 0, 0, 0, 0]
            votes.append(",".join(f"{share:g}" for share in shares) + "\n")
    write_text(folder / "EmoLabel" / LISTS[0], "".join(lines))
    write_text(folder / "EmoLabel" / VOTES, "".join(votes))


def write_ml(out, faces):
    """Drawn faces as RAF-ML: 60 train, 30 test; some largest shares are level, shares are rounded. 0001 is the first
    test image of `write_basic` that is not Neutral, byte for byte: the releases overlap likewise."""
    folder = out / "RAF-ML"
    (folder / "Image/aligned").mkdir(parents=True, exist_ok=True)
    shared = next(face for face in faces("test", 8) if DEMO.get(face.expression, 6) < 6)
    own = (face for face in faces("val", 120) if DEMO.get(face.expression, 6) < 6)
    texts = {"distribution.txt": [], "multilabel.txt": [], "partition_label.txt": []}
    for number, face in enumerate(islice(chain([shared], own), 90), 1):
        name = f"{number:04d}.jpg"
        _save(face.image, folder / f"Image/aligned/{number:04d}_aligned.jpg")
        shares = _drawn_votes(face, len(CLASSES), "ml", number)
        if number == 5:
            shares = [0.4, 0, 0, 0, 0.2, 0.4]  # level
        present = [int(share > 1 / 6) for share in shares]  # our threshold: multilabel.txt is read by nothing here
        texts["distribution.txt"].append(" ".join([name, *(f"{share:.3f}" for share in shares)]) + "\n")
        texts["multilabel.txt"].append(" ".join([name, *map(str, present)]) + "\n")
        texts["partition_label.txt"].append(f"{name} {int(number % 3 == 0)}\n")
    for name, lines in texts.items():
        write_text(folder / "EmoLabel" / name, "".join(lines))


def _save(image, path):
    Image.fromarray(image).resize((100, 100), Image.Resampling.LANCZOS).save(path, quality=95)


def _drawn_votes(face, num_classes, *key):
    """Shares of 40 votes for a drawn face, float64 (num_classes,), in the order of SEVEN."""
    from datasets.demo import true_posterior

    chance = true_posterior(np.array([[face.valence, face.arousal]]))[0, DEMO_COLUMNS[:num_classes]]
    return keyed_rng("votes", "rafdb", *key).multinomial(VOTERS, chance / chance.sum()) / VOTERS


LAYOUTS = {"rafdb": write_basic, "raf-ml": write_ml}
