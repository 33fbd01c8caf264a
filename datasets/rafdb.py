"""RAF-DB (Li, Deng and Du, CVPR 2017) and RAF-ML (Li and Deng, IJCV 2019): faces from the web, each labelled by about
40 annotators.

Classes. The default is FER-C's data set: six classes, RAF-DB basic without Neutral together with RAF-ML, 13,673
training and 3,370 test images. `classes=7` is the RAF-DB of most papers: basic with Neutral, 12,271 and 3,068 images.

Layouts, below a root that holds `basic` and `RAF-ML` (or is one of the two itself):
  basic/EmoLabel/list_patition_label.txt (sic; list_partition_label.txt too)      train_00001.jpg 5
  basic/Image/aligned[/aligned]/train_00001_aligned.jpg                           100x100
  distribute_basic.csv, in EmoLabel, basic or the root                            seven fractions a row, train then test
  RAF-ML[/RAF-ML]/EmoLabel/{distribution.txt,partition_label.txt}                 0001.jpg p1 .. p6; 0001.jpg 0|1 (test)
  RAF-ML[/RAF-ML]/Image/aligned[/aligned]/0001_aligned.jpg
distribute_basic.csv is not in the official download. Copies differ. Pictures are read with or without `_aligned` and
with any suffix of `datasets.listing.SUFFIXES`; the name in the release is preferred. Lists may have commas, more
columns, or words in place of label numbers, as long as only one column can be the label.

Splits. test is the official test rows. There is no official validation split: val is held out of the training rows
(`datasets.split.hold_out`).

Labels. The distribution of a RAF-DB basic image is one-hot, or its votes (`basic_labels=votes`). That of a RAF-ML image
is the fractions of its votes, and its label is the class with the largest one.

Dropped, each with a note: images of Neutral among six classes, images that the vote filter of the MIVIA benchmark
(docs/data.md) calls ambiguous (with `labels=mivia` only), images of RAF-ML without any vote or without a row in
partition_label.txt, malformed rows, and images that are not on disk. About 2 % of basic's test images are in RAF-ML
too; they are kept, and `python -m datasets.check` lists them.

A part is RAF-DB basic or RAF-ML. `datasets.load_split` calls `load`; the options are in `OPTIONS`.
"""
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from datasets.listing import SUFFIXES, files_in, find_pictures, is_picture
from datasets.split import (
    Split,
    count_note,
    count_note_for_names,
    expression_name,
    folder_contents,
    hold_out,
    make_frame,
    note_missing_files,
    printable,
)
from datasets.text_files import read_text
from support.errors import UserError

CLASSES = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")
SEVEN = (*CLASSES, "Neutral")  # the codes 1..7 of the list file
OPTIONS = {
    "classes": "6 (default: no Neutral) or 7 (RAF-DB basic with Neutral)",
    "parts": "basic,ml (default of the six classes; ml only where it is there), basic or ml",
    "basic_labels": "label distributions of RAF-DB basic: onehot (default) or votes (of distribute_basic.csv)",
    "labels": "which images of RAF-DB basic are used (not which labels, see basic_labels): list (default: all of its "
              "list file) or mivia (the vote filter of the MIVIA benchmark drops ambiguous ones; implies "
              "basic_labels=votes)",
}

# Official image counts. Those of RAF-DB basic are per class, in the order of SEVEN, counted in the list file of the
# release; "train" includes what `hold_out` takes for val. Those of RAF-ML are totals, from partition_label.txt.
BASIC_COUNTS = {"train": (1290, 281, 717, 4772, 1982, 705, 2524), "test": (329, 74, 160, 1185, 478, 162, 680)}
ML_COUNTS = {"train": 3926, "test": 982}

# --- names of the release ---

LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # as released; as some copies correct it
VOTES = "distribute_basic.csv"
BASIC_FOLDERS = ("basic", "basic/basic", "")
ML_FOLDERS = ("RAF-ML/RAF-ML", "RAF-ML", "")
IMAGE_FOLDERS = ("Image/aligned/aligned", "Image/aligned")
BASIC_NAME = r"(?:train|test)_[0-9]{1,9}"
ML_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"

# --- cells of label files ---

LABEL_WORDS = {expression_name(name): code for code, name in enumerate(SEVEN, 1)}  # labels written out
LABEL_CODES = {str(code): code for code in LABEL_WORDS.values()}
TEST_FLAGS = {"0": 0, "1": 1, "train": 0, "test": 1}  # of partition_label.txt
ENDING = "(?:_aligned)?(?:" + "|".join(re.escape(suffix) for suffix in SUFFIXES) + ")?"  # after a name, any case
SEPARATOR = re.compile(r"[\s,;]+")
OUTSIDE = r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)"  # an absolute path or a '..' part
QUOTES = "\"'"
SHOWN = 60  # characters of a malformed row that go into a note
LARGEST_NUMBER = 1e6  # no number in these files is larger


def official(classes: str = "6", parts: str | None = None, **options: Any) -> dict[str, Any]:
    """The official image counts of train and val together and of test: a tuple per class in label order where these
    are published (RAF-DB basic alone), else the total."""
    if parts is None:
        parts = "basic,ml" if classes == "6" else "basic"
    names = parts.split(",")
    counts: dict[str, Any] = {}
    for key, split in (("train+val", "train"), ("test", "test")):
        basic = BASIC_COUNTS[split][:int(classes)] if "basic" in names else ()
        counts[key] = sum(basic) + ML_COUNTS[split] if "ml" in names else basic
    return counts


class Part(NamedTuple):
    """The usable images of RAF-DB basic or of RAF-ML: those of the official training rows, or of the test rows."""

    layout: str
    """what was found on disk, in words"""
    ids: np.ndarray
    """text (N,)"""
    paths: np.ndarray
    """text (N,), relative to the root"""
    expression: np.ndarray
    """int64 (N,), labels"""
    distribution: np.ndarray
    """float64 (N, K), rows sum to 1"""


class LabelFile(NamedTuple):
    """Where the label file of a part lies."""

    folder: str
    """the folder of the part, relative to the root; "" for the root"""
    name: str
    """its name in <folder>/EmoLabel"""


class Choices(NamedTuple):
    """The options of the data set, checked."""

    classes: tuple[str, ...]
    """the class names in label order"""
    parts: frozenset[str]
    """the parts wanted: basic, ml or both"""
    basic_labels: str
    """onehot or votes"""
    vote_filter: bool
    """whether the vote filter of the MIVIA benchmark drops ambiguous images of RAF-DB basic"""


def class_names(classes: str = "6", parts: str | None = None, basic_labels: str | None = None,
                labels: str = "list") -> tuple[str, ...]:
    """The names of the classes with these options."""
    return _checked_choices(classes, parts, basic_labels, labels).classes


def load(root: Path, split: str, classes: str = "6", parts: str | None = None, basic_labels: str | None = None,
         labels: str = "list") -> Split:
    """One split; the options are those of `OPTIONS`.

    Notes of train and val count over the official training rows, of which val is a part. Raises UserError on unknown
    or contradicting options, on a folder without the files, and on labels out of range.
    """
    choices = _checked_choices(classes, parts, basic_labels, labels)
    basic_file = _label_file(root, BASIC_FOLDERS, LISTS)
    ml_file = _label_file(root, ML_FOLDERS, ("distribution.txt",))
    # RAF-ML may be absent unless it is asked for. A folder RAF-ML without its label file is an error.
    is_ml_expected = parts is not None or ml_file is not None or (root / "RAF-ML").is_dir()
    with_basic = "basic" in choices.parts
    with_ml = "ml" in choices.parts and is_ml_expected
    if with_basic and basic_file is None:
        raise _missing_part(root, f"RAF-DB needs basic/EmoLabel/{LISTS[0]} (or {LISTS[1]})",
                            "--data parts=ml takes the RAF-ML that is here alone" if ml_file else "")
    if with_ml and ml_file is None:
        raise _missing_part(root, "RAF-ML needs RAF-ML/EmoLabel/distribution.txt",
                            "--data parts=basic takes the RAF-DB basic that is here alone" if basic_file else "")
    notes: dict[str, Any] = {"layout": ""}  # the first note, whatever is noted meanwhile
    read = []
    is_test = split == "test"
    if with_basic and basic_file:
        read.append(_read_basic(root, basic_file, is_test, choices, notes))
    if with_ml and ml_file:
        read.append(_read_ml(root, ml_file, is_test, notes))
    notes["layout"] = " and ".join(source.layout for source in read)
    if "ml" in choices.parts and not with_ml:
        notes["layout"] += "; without RAF-ML, which is not below the root: smaller than FER-C's RAF-DB"
    frame = make_frame(id=np.concatenate([source.ids for source in read]),
                       path=np.concatenate([source.paths for source in read]),
                       expression=np.concatenate([source.expression for source in read]))
    distribution = np.concatenate([source.distribution for source in read])
    if not is_test:
        is_val = hold_out(frame["expression"], len(choices.classes))
        wanted = is_val if split == "val" else ~is_val
        frame = frame[wanted].reset_index(drop=True)
        distribution = distribution[wanted]
    return Split(frame, distribution, choices.classes, notes)


def _checked_choices(classes: str, parts: str | None, basic_labels: str | None, labels: str) -> Choices:
    """The options as one value. Raises UserError on a value that is unknown or contradicts another one."""
    if classes not in ("6", "7"):
        raise UserError(f"classes={classes}: choose 6 or 7 ({OPTIONS['classes']})")
    default_parts = "basic" if classes == "7" else "basic,ml"
    wanted = frozenset((parts or default_parts).split(","))
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
    default_labels = "votes" if labels == "mivia" else "onehot"
    return Choices(SEVEN if classes == "7" else CLASSES, wanted, basic_labels or default_labels, labels == "mivia")


# --- where the files are ---

def _label_file(root: Path, folders: Sequence[str], names: Sequence[str]) -> LabelFile | None:
    """The first label file that exists, in the order of the folders and then of the names; None if there is none."""
    for folder in folders:
        for name in names:
            if (root / folder / "EmoLabel" / name).is_file():
                return LabelFile(folder, name)
    return None


def _missing_part(root: Path, need: str, hint: str) -> UserError:
    """The error for a part that is not below the root. hint: what else to do; "" for the usual advice."""
    hint = hint or "--root should be the folder that holds basic (and RAF-ML beside it), or basic itself"
    return UserError(f"{root}: {need}; found: {folder_contents(root)}. {hint}")


def _image_folder(root: Path, folder: str) -> str:
    """The folder of a part's aligned images, relative to the root. Raises UserError where it holds no picture."""
    for name in IMAGE_FOLDERS:
        images = f"{folder}/{name}" if folder else name
        if any(is_picture(file) for file in files_in(root, images)):
            return images
    raise UserError(f"{root / folder}: no .jpg in Image/aligned or Image/aligned/aligned, nor another picture; "
                    f"unpack the release's archive of aligned images there")


def _picture_paths(root: Path, images: str, ids: np.ndarray, is_wanted: np.ndarray,
                   notes: dict[str, Any]) -> np.ndarray:
    """The pictures of the wanted images: text (N,), relative to the root, "" where there is none or none is wanted.

    images: folder of the pictures; ids: text (N,); is_wanted: bool (N,). Missing pictures are noted.
    """
    wanted_ids = ids[is_wanted]
    files = find_pictures(root, [f"{images}/{name}_aligned.jpg" for name in wanted_ids], notes)
    is_absent = files == ""
    files[is_absent] = find_pictures(root, [f"{images}/{name}.jpg" for name in wanted_ids[is_absent]], notes)
    paths = np.full(len(ids), "", object)
    paths[is_wanted] = files
    comparison = ""
    if len(files) and not (files != "").any():
        example = next(name for name in sorted(files_in(root, images)) if is_picture(name))
        comparison = (f"looked for {wanted_ids[0]}_aligned.jpg and {wanted_ids[0]}.jpg in {images}, which holds for "
                      f"example {printable(example)[:80]}")
    note_missing_files(notes, ids[is_wanted & (paths == "")], comparison)
    return paths


# --- RAF-DB basic ---

def _read_basic(root: Path, file: LabelFile, is_test: bool, choices: Choices, notes: dict[str, Any]) -> Part:
    """RAF-DB basic: the images of the test rows, or of the training rows. What is dropped is noted."""
    num_classes = len(choices.classes)
    ids, labels = _read_basic_list(root / file.folder / "EmoLabel" / file.name, notes)
    in_test = pd.Series(ids).str.startswith("test").to_numpy(bool)
    in_split = in_test == is_test
    keep = in_split & (labels < num_classes)
    count_note_for_names(notes, "Neutral, none of the six classes", ids[in_split & ~keep])
    distribution = np.eye(len(SEVEN))[labels]
    source = "one-hot labels"
    if choices.vote_filter or choices.basic_labels == "votes":
        votes = _read_votes(root, file.folder, ids, in_test)
        source = f"votes from {VOTES}"
        if choices.vote_filter:
            votes, is_clear = vote_filter(votes)
            count_note_for_names(notes, "ambiguous votes (MIVIA's filter)", ids[keep & ~is_clear])
            keep &= is_clear
            source += ", MIVIA's filter"
        if choices.basic_labels == "votes":
            distribution = votes
        else:
            source += ", one-hot labels"
    images = _image_folder(root, file.folder)
    paths = _picture_paths(root, images, ids, keep, notes)
    keep = paths != ""
    distribution, is_replaced = _votes_for_label(distribution[keep, :num_classes], labels[keep])
    count_note_for_names(notes, "one-hot, for the votes do not favour the list's label", ids[keep][is_replaced])
    layout = f"RAF-DB basic ({file.name}, {images}, {source})"
    return Part(layout, ids[keep], paths[keep], labels[keep], distribution)


def _read_basic_list(path: Path, notes: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The list of RAF-DB basic: names of the images, text (N,), and labels in the order of SEVEN, int64 (N,). Raises
    UserError where a label is not in 1..7."""
    rows = _read_named_rows(path, 1, BASIC_NAME, "train_00001.jpg 5", notes, LABEL_CODES | LABEL_WORDS)
    codes = rows.numbers[:, 0]
    is_wrong = ~np.isin(codes, range(1, len(SEVEN) + 1))
    if is_wrong.any():
        first = np.flatnonzero(is_wrong)[0]
        raise UserError(f"{path} line {rows.lines[first]}: label {codes[first]:g} of {rows.names[first]} is not in "
                        f"1..7 (1 {SEVEN[0]} .. 7 {SEVEN[6]}); is this RAF-DB's list of basic expressions?")
    return rows.names, (codes - 1).astype(np.int64)


def vote_filter(votes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The vote filter of the MIVIA benchmark, for ambiguous images (docs/data.md).

    Fractions of at most 10 % are removed. An image is dropped where more than two classes have the largest fraction, or
    where the one or two classes that have it hold at most half of what is left.

    votes: float (N, K), fractions of the annotators. Returns the cleaned fractions, float64 (N, K) with rows that sum
    to 1 (0 where nothing is left), and bool (N,), True for the images kept.
    """
    tenths = np.round(np.asarray(votes, np.float64) * 10, 9)  # rounded: 0.1 read from text must not count as above 10 %
    tenths[tenths <= 1] = 0
    total = tenths.sum(1)
    largest = tenths.max(1, initial=0)
    winners = (tenths == largest[:, None]).sum(1)
    keep = (winners <= 2) & (winners * largest > 0.5 * total)
    return tenths / np.where(total > 0, total, 1)[:, None], keep


def _votes_for_label(fractions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fractions as distributions that agree with the labels.

    A row becomes one-hot where it is empty or where its (first) largest fraction is not that of the label.
    fractions: float64 (N, K); labels: int (N,). Returns float64 (N, K), rows sum to 1, and bool (N,), True for the rows
    made one-hot.
    """
    total = fractions.sum(1)
    is_replaced = (total <= 0) | (fractions.argmax(1) != labels)
    distribution = fractions / np.where(total > 0, total, 1)[:, None]
    one_hot = np.eye(fractions.shape[1])[labels]
    return np.where(is_replaced[:, None], one_hot, distribution), is_replaced


def _read_votes(root: Path, folder: str, ids: np.ndarray, in_test: np.ndarray) -> np.ndarray:
    """The fraction of the annotators that chose each of the seven classes: float64 (N, 7), in the order of `ids`.

    The rows of the file have no names: they are train 1, 2, ..., then test 1, 2, ... Raises UserError where there is no
    such file or where it does not have one row of seven numbers for each image.
    """
    places = [root / folder / "EmoLabel" / VOTES, root / folder / VOTES, root / VOTES]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"{places[0]}: no such file, nor in the folders above. The official download has no "
                        f"votes: use basic_labels=onehot and labels=list, or put {VOTES} there")
    rows = [line.split(",") for line in read_text(path).splitlines() if line.strip()]
    if rows and all(_numbers([cell], 1) is None for cell in rows[0]):
        rows = rows[1:]  # a header
    votes = []
    for number, row in enumerate(rows, 1):
        fractions = _numbers(row, len(SEVEN))
        if fractions is None:  # rows belong to images by their order, so none can be skipped
            raise UserError(f"{path}: row {number} is not seven fractions of votes: "
                            f"{','.join(row)[:SHOWN]!r}")
        votes.append(fractions)
    if len(votes) != len(ids):
        raise UserError(f"{path}: {len(votes)} rows for {len(ids)} images in the list file; they belong together by "
                        f"their order (15,339 each in the official files)")
    numbers = pd.Series(ids).str.split("_").str[1].astype(np.int64)
    order_in_file = np.lexsort((numbers, in_test))
    row_of_image = np.empty(len(ids), np.int64)
    row_of_image[order_in_file] = np.arange(len(ids))
    return np.array(votes).reshape(-1, len(SEVEN))[row_of_image]


# --- RAF-ML ---

def _read_ml(root: Path, file: LabelFile, is_test: bool, notes: dict[str, Any]) -> Part:
    """RAF-ML: the images of the test rows, or of the training rows. What is dropped is noted."""
    label_folder = root / file.folder / "EmoLabel"
    rows = _read_named_rows(label_folder / file.name, len(CLASSES), ML_NAME, "0001.jpg 0.5 0.5 0 0 0 0", notes)
    test_flags = _read_test_flags(label_folder, rows.names, notes)
    in_split = test_flags == is_test
    total = rows.numbers.sum(1)
    count_note_for_names(notes, "no share of any class (RAF-ML)", rows.names[in_split & (total <= 0)])
    images = _image_folder(root, file.folder)
    paths = _picture_paths(root, images, rows.names, in_split & (total > 0), notes)
    keep = paths != ""
    distribution = rows.numbers[keep] / total[keep, None]
    is_level = (distribution == distribution.max(1, keepdims=True, initial=0)).sum(1) > 1
    count_note_for_names(notes, "level largest shares, the first class taken (RAF-ML)", rows.names[keep][is_level])
    return Part(f"RAF-ML ({file.name}, {images})", rows.names[keep], paths[keep], distribution.argmax(1), distribution)


def _read_test_flags(label_folder: Path, ids: np.ndarray, notes: dict[str, Any]) -> np.ndarray:
    """What partition_label.txt says of these images: float64 (N,), 1 for test, 0 for train, NaN where it has no row.

    Images that are in one of the two files only are noted. Raises UserError where the file is absent or holds another
    number.
    """
    path = label_folder / "partition_label.txt"
    if not path.is_file():
        raise UserError(f"{label_folder}: no partition_label.txt: it says which images of RAF-ML are for testing. "
                        f"Unpack it from the release; found: {folder_contents(label_folder)}")
    rows = _read_named_rows(path, 1, ML_NAME, "0001.jpg 0", notes, TEST_FLAGS)
    flags = rows.numbers[:, 0]
    is_wrong = ~np.isin(flags, (0, 1))
    if is_wrong.any():
        first = np.flatnonzero(is_wrong)[0]
        raise UserError(f"{path} line {rows.lines[first]}: {flags[first]:g} for {rows.names[first]} is neither 0 "
                        f"(train) nor 1 (test)")
    flag_of_image = pd.Series(flags, index=rows.names).reindex(ids).to_numpy()
    count_note_for_names(notes, "not in partition_label.txt", ids[np.isnan(flag_of_image)])
    count_note_for_names(notes, "in partition_label.txt, not in distribution.txt",
                         rows.names[~pd.Index(rows.names).isin(ids)])
    return flag_of_image


# --- label files whose exact form is not known ---

class Line(NamedTuple):
    """A line of a label file that is not empty."""

    number: int
    """counted from 1"""
    text: str
    """its first `SHOWN` characters"""
    cells: list[str]
    """what is between the separators, without quotes"""


class NamedRows(NamedTuple):
    """The rows of a label file, each an image name with numbers."""

    names: np.ndarray
    """text (N,), without `_aligned` and suffix"""
    numbers: np.ndarray
    """float64 (N, width)"""
    lines: np.ndarray
    """int (N,), the numbers of their lines, counted from 1"""


def _read_named_rows(path: Path, width: int, pattern: str, example: str, notes: dict[str, Any],
                     words: Mapping[str, int] | None = None) -> NamedRows:
    """Read rows `<name>[_aligned][.jpg] number ...`, separated by blanks or commas.

    width: how many numbers a row has; pattern: the regular expression of a name; example: a row, for messages; words:
    what may be in place of a number, and what may be in a column of labels. Rows of another form and names that
    do not match are noted. Raises UserError showing the line on a name that leads out of the folder, a name that
    appears twice, columns that could be meant in two ways, and a file without any row of this form.
    """
    words = words or {}
    lines = _cell_lines(path)
    usual_count = _usual_cell_count(lines, width)
    if usual_count <= width:
        raise _no_row(path, example, lines)
    usual_lines = [line for line in lines if len(line.cells) == usual_count]
    name_column, number_columns = _columns(path, usual_lines, width, pattern, example, words)
    names: list[str] = []
    values: list[list[float]] = []
    line_numbers: list[int] = []
    for line in lines:
        row = _row_numbers(line.cells, number_columns, words) if len(line.cells) == usual_count else None
        if row is None:
            count_note(notes, f"malformed row of {path.name}", line.text)
            continue
        cell = line.cells[name_column]
        if re.search(OUTSIDE, cell):
            raise UserError(f"{path} line {line.number}: {cell[:SHOWN]!r} leads out of the data folder; label files "
                            f"may only name files below it")
        name = _without_ending(cell)
        if not re.fullmatch(pattern, name):
            count_note(notes, f"no image name in {path.name}", cell[:SHOWN])
            continue
        names.append(name)
        values.append(row)
        line_numbers.append(line.number)
    if not names:
        raise _no_row(path, example, lines)
    repeated = np.flatnonzero(pd.Series(names).duplicated())
    if len(repeated):
        raise UserError(f"{path}: {len(repeated)} names appear twice, for example {names[repeated[0]]} (again in line "
                        f"{line_numbers[repeated[0]]}); delete one of the lines")
    return NamedRows(np.array(names, object), np.array(values, np.float64).reshape(-1, width), np.array(line_numbers))


def _cell_lines(path: Path) -> list[Line]:
    """The lines of a file that have at least one cell."""
    lines = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        cells = [cell.strip(QUOTES) for cell in SEPARATOR.split(text.strip()) if cell]
        if cells:
            lines.append(Line(number, text.strip()[:SHOWN], cells))
    return lines


def _usual_cell_count(lines: Sequence[Line], width: int) -> int:
    """How many cells most lines have; of two counts that are equally frequent the one of a name with `width` numbers.
    0 where there is no line."""
    frequency = Counter(len(line.cells) for line in lines)
    return max(frequency, key=lambda count: (frequency[count], count == width + 1), default=0)


def _no_row(path: Path, example: str, lines: Sequence[Line]) -> UserError:
    """The error for a file without a single row of the form `example`."""
    content = f"line {lines[0].number} is {lines[0].text!r}" if lines else "it is empty"
    return UserError(f"{path}: no row of the form {example!r}; {content}")


def _without_ending(name: str) -> str:
    """The name of an image without `_aligned` and suffix."""
    return re.sub(f"{ENDING}$", "", name, flags=re.IGNORECASE)


def _is_name(cell: str, pattern: str) -> bool:
    """Whether a cell can only be the name of an image. The names of RAF-ML without their suffix are numbers too."""
    return _numbers([cell], 1) is None and re.fullmatch(pattern, _without_ending(cell)) is not None


def _columns(path: Path, lines: Sequence[Line], width: int, pattern: str, example: str,
             words: Mapping[str, int]) -> tuple[int, list[int]]:
    """The column of the name, and the `width` columns of the numbers.

    lines: those with the usual number of cells. A file with more columns than needed is read where only one of them can
    be the label: where each of its cells in a row with an image name is one of `words`. Two such columns with equal
    labels are accepted. Raises UserError where the columns cannot be told apart.
    """
    rows = [line.cells for line in lines]
    columns = range(len(rows[0]))
    name_counts = [sum(_is_name(row[column], pattern) for row in rows) for column in columns]
    name_column = name_counts.index(max(name_counts))
    others = [column for column in columns if column != name_column]
    if len(others) == width:
        return name_column, others
    problem = f"{path} line {lines[0].number}: {lines[0].text!r} has {len(rows[0])} columns; expected {example!r}"
    if width > 1:
        raise UserError(f"{problem}. Keep the name and its {width} numbers")
    labels = _label_columns(rows, name_column, pattern, words)
    if not labels:
        raise UserError(f"{problem}, and no column holds a label in every row. Keep the two columns name and label")
    label_column, *further_columns = labels
    if any(labels[column] != labels[label_column] for column in further_columns):
        raise UserError(f"{problem}, and columns {' and '.join(str(column + 1) for column in labels)} could each be "
                        f"the label. Keep the two columns name and label")
    return name_column, [label_column]


def _label_columns(rows: Sequence[Sequence[str]], name_column: int, pattern: str,
                   words: Mapping[str, int]) -> dict[int, list[int]]:
    """{column: its labels} for the columns that hold one of `words` in every row with an image name."""
    named_rows = [row for row in rows if re.fullmatch(pattern, _without_ending(row[name_column]))]
    labels_by_column: dict[int, list[int]] = {}
    if not named_rows:
        return labels_by_column
    for column in range(len(rows[0])):
        labels = [words[word] for word in (expression_name(row[column]) for row in named_rows) if word in words]
        if column != name_column and len(labels) == len(named_rows):
            labels_by_column[column] = labels
    return labels_by_column


def _row_numbers(cells: Sequence[str], columns: Sequence[int], words: Mapping[str, int]) -> list[float] | None:
    """The numbers in these columns of a row, words replaced by their numbers; None where a cell is neither."""
    return _numbers([words.get(expression_name(cells[column]), cells[column]) for column in columns], len(columns))


def _numbers(cells: Sequence[str | int], width: int) -> list[float] | None:
    """`width` cells as numbers, or None where there are more or fewer, or where one is no number of 0 to 1e6."""
    if len(cells) != width:
        return None
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    if not all(0 <= number <= LARGEST_NUMBER for number in numbers):
        return None
    return numbers
