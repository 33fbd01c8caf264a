"""Aff-Wild2 (Kollias and Zafeiriou, arXiv:1811.07770; the ABAW challenges): seven expressions on frames of videos.

Layouts: below the root, in any depth, cropped_aligned*/<video>/00001.jpg and the label files of one or more ABAW
challenges, (EXPR|VA)*/.../Train_Set|Training_Set/<video>.txt (annotations/EXPR_Set of ABAW1 and 2, "3rd ABAW
Annotations/Third ABAW Annotations/EXPR_Classification_Challenge" and so on). An edition is the label files of one
challenge; it goes by the name of their folder. Line 0 of a label file is a header, line i belongs to frame i (line 1 to
00001.jpg); frames without a detected face are not on disk. Frames that were extracted anew are read under any number of
digits and any suffix of `datasets.listing.SUFFIXES` (1.png, 000001.jpg); they have to count from 1. Where there are
several files for one frame, the one with the name in the release is preferred.

Splits. FER-C's is followed as far as it is known: its logs count 54,720 training and 4,800 test rows, 228 and 20 videos
of 240 frames, together the 248 EXPR *training* videos of ABAW3. So the official EXPR validation videos are not used.
(The text of the paper says 252 videos and an 80/20 split.) Which frames and which videos they are is not public. Here
240 evenly spaced frames of each video are taken. 20 test videos and, of the other 228, 8 validation videos are drawn
with a seed; both persons of a video stay in one split. The list of frames is written to affwild_split.csv, and
`split_file=` reads such a list.

Valence and arousal belong to another task of the challenge, which divides the videos in another way: the VA file of a
video is taken from the training set of that task or, where it is not there, from its validation set.

Dropped, each with a note: frames without one of the seven expressions, malformed lines, frames that are not on disk,
images without a line, videos without images or without a usable frame.

`datasets.load_split` calls `load`; the options are in `OPTIONS`.
"""
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from datasets.images import inside
from datasets.listing import comparison, find_pictures, is_picture, rank
from datasets.split import (
    SPLITS,
    Split,
    count_note,
    count_note_for_names,
    folder_contents,
    hold_out,
    make_frame,
    note_missing_files,
    note_summary,
    printable,
)
from datasets.text_files import read_table, read_text
from support.errors import UserError
from support.files import write_text
from support.random_streams import keyed_rng

CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")
LIST_NAME = "affwild_split.csv"
FILE_OPTIONS = ("split_file", "write_split")  # those of OPTIONS that are paths
LIST_COLUMNS = ("split", "path", "expression", "valence", "arousal", "identity")
OPTIONS = {
    "edition": "a part of the name of the challenge's folder, or all of it, where several are there (default: the"
               " newest)",
    "frames": "frames of a video, evenly spaced (default: 240)",
    "split_seed": "seed that chooses the videos which are held out (default: 0)",
    "val_split": "identity (default: validation videos are no training videos) or frames (validation and training have "
                 "frames of the same videos)",
    "split_file": f"a list of frames that determines everything (columns {', '.join(LIST_COLUMNS)})",
    "write_split": f"where the list of frames is written (default: {LIST_NAME} in the root)",
}

# EXPR training videos of ABAW3, and how many of them are held out. FER-C gives no number of validation videos; 8
# is chosen here.
VIDEOS, TEST_VIDEOS, VAL_VIDEOS = 248, 20, 8

# Names in a header line, in lower case -> label. Another name in a header (Other) gives no label.
LABEL_BY_NAME = {name.lower(): label for label, name in enumerate(CLASSES)} | {"happiness": 1, "sadness": 2}
UNANNOTATED, OTHER, MALFORMED, OUTSIDE = -1, -2, -3, -4  # in place of a label, where a frame has none
REASONS = {
    UNANNOTATED: "frame labelled -1 (not annotated)",
    OTHER: "frame of another expression (Other)",
    MALFORMED: "malformed line of expressions",
    OUTSIDE: "label that the header does not name",
}
NO_VALENCE_AROUSAL = -5  # in the files of valence and arousal

# A folder with label files, below the root. The greedy start makes the last folder named EXPR* or VA* count.
LABEL_FOLDER = re.compile(
    r"(?:(?P<edition>.*)/)?(?P<task>EXPR|VA)[^/]*/.*?(?P<part>Train|Training|Validation)_Set", re.I)
IMAGE_FOLDER = re.compile(r"cropped[-_ ]?aligned", re.I)
CHALLENGE_NUMBER = re.compile(r"(?<!\d)(\d{1,2})(?:st|nd|rd|th)(?![a-z])|abaw[\W_]*(\d{1,2})(?!\d)", re.I)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
FRAME_NUMBER = re.compile("[0-9]{1,9}")
UNSAFE = re.compile(r"^[^A-Za-z0-9_]|[^A-Za-z0-9._-]")  # characters that an id may not hold

# What a video lost: {(reason, example): count}. It becomes notes once it is known which split the video is in.
Dropped = dict[tuple[str, str], int]


def official(**options: Any) -> dict[str, int]:
    """Total image counts in the logs of the FER-C release: 228 and 20 videos of 240 frames. Counts per class are not
    known."""
    return {"train+val": 54_720, "test": 4_800}


def load(root: Path, split: str, edition: str = "", frames: str = "240", split_seed: str = "0",
         val_split: str = "identity", split_file: str = "", write_split: str = "") -> Split:
    """One split; the options are those of `OPTIONS`.

    Every frame has one of the seven expressions and an image. Where a video has more frames than wanted, those with
    valence and arousal are preferred; the others have NaN. `identity` is the full name of the video; X, X_left and
    X_right are never in different splits. With val_split=frames, train and val are of the same videos, and the notes of
    both count what all of these videos lost. Raises UserError on a bad option and on a folder or list that cannot be
    used.
    """
    frame_count = _whole_number("frames", frames, 1)
    seed = _whole_number("split_seed", split_seed, 0)
    if val_split not in ("identity", "frames"):
        raise UserError(f"val_split={val_split[:40]} is neither identity nor frames")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root should be the folder that holds Aff-Wild2's annotations and "
                        "cropped_aligned")
    notes: dict[str, Any] = {"layout": ""}
    try:
        if split_file:
            if edition or write_split or (frame_count, seed, val_split) != (240, 0, "identity"):
                raise UserError("split_file= determines the frames by itself: leave out the other options")
            return _make_split(_read_list(root, split_file, split, notes), notes)
        noted = ("train", "val") if val_split == "frames" and split != "test" else (split,)
        table = _draw_list(root, noted, edition, frame_count, seed, notes)
        if val_split == "frames":
            in_pool = (table["split"] != "test").to_numpy()
            is_val = hold_out(table["expression"][in_pool], len(CLASSES))
            table.loc[in_pool, "split"] = np.where(is_val, "val", "train")
            notes["layout"] += "; validation: frames of the training videos"
        data = _make_split(table[table["split"] == split], notes)
        _write_list(root, table, write_split, notes)
        return data
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from None


def would_write(root: Path, split: str, **options: Any) -> bool:
    """Whether `load` would write a file. A list of frames in the root is never written again."""
    return bool(options.get("write_split")) or not (options.get("split_file") or (root / LIST_NAME).is_file())


def _whole_number(option: str, value: Any, least: int) -> int:
    """The value of an option as a number. Raises UserError where it is no whole number from `least` on."""
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise UserError(f"{option}={text[:40]} is not a whole number from {least} on")
    return int(text)


def _make_split(table: pd.DataFrame, notes: dict[str, Any]) -> Split:
    """The rows of one split (columns `LIST_COLUMNS`) as a `Split`; frames without valence and arousal are noted."""
    count_note_for_names(notes, "frame without valence and arousal", table["path"][table["valence"].isna()].tolist())
    frame = make_frame(
        id=_ids(table["path"].tolist()),
        path=table["path"].to_numpy(object),
        expression=table["expression"].to_numpy(np.int64),
        valence=table["valence"].to_numpy(float),
        arousal=table["arousal"].to_numpy(float),
        identity=table["identity"].to_numpy(object))
    return Split(frame, None, CLASSES, notes)


def _ids(paths: Sequence[str]) -> list[str]:
    """The ids of these paths: <video>_<frame>.

    A video whose name cannot be part of a file name gets one that can, with a hash of its own name. Raises UserError
    where two videos would get the same name.
    """
    videos_and_files = [("", "", *path.rsplit("/", 2))[-2:] for path in paths]
    safe_names: dict[str, str] = {}
    for video, _ in videos_and_files:
        safe_names[video] = _safe_video_name(video)
    if len(set(safe_names.values())) < len(safe_names):
        videos = ", ".join(sorted(safe_names))[:200]
        raise UserError(f"Aff-Wild2: two of the videos {videos} get one name for their images")
    return [f"{safe_names[video]}_{UNSAFE.sub('_', file.rsplit('.', 1)[0])}" for video, file in videos_and_files]


def _safe_video_name(video: str) -> str:
    name = UNSAFE.sub("_", video) or "_"
    if name == video:
        return name
    return f"{name}-{hashlib.sha256(video.encode()).hexdigest()[:8]}"


# --- what is on disk ---

class Edition(NamedTuple):
    """The label files of one ABAW challenge: {video: file}."""

    expressions: dict[str, Path]
    valence_arousal: dict[str, Path]


def _survey(root: Path) -> tuple[dict[str, Edition], list[str]]:
    """Walk through the root, but not through the folders of images.

    Returns {folder of the edition: its label files} and the folders of images, in order of their names. Folders are
    relative to the root, "" for the root itself.
    """
    editions: dict[str, Edition] = {}
    image_folders = []
    for folder, subfolders, files in os.walk(root):
        relative = Path(folder).relative_to(root).as_posix()
        subfolders[:] = sorted(filter(str.isprintable, subfolders), key=str.lower)  # Train_Set before Validation_Set
        image_folders += [name if relative == "." else f"{relative}/{name}"
                          for name in subfolders if IMAGE_FOLDER.match(name)]
        subfolders[:] = [name for name in subfolders if not name.lower().startswith(("cropped", ".", "__macosx"))]
        match = LABEL_FOLDER.fullmatch(relative)
        if match is None:
            continue
        is_expressions = match["task"].upper() == "EXPR"
        if is_expressions and match["part"].lower() == "validation":
            continue
        edition = editions.setdefault(match["edition"] or "", Edition({}, {}))
        label_files = edition.expressions if is_expressions else edition.valence_arousal
        for name in sorted(files):
            if name.lower().endswith(".txt") and not name.startswith("."):  # macOS leaves ._x.txt behind
                label_files.setdefault(name[:-4], Path(folder, name))
    return editions, sorted(image_folders)


def _challenge_number(edition: str) -> int:
    """Which ABAW challenge an edition is of, by the name of its folder; 0 where the name does not say (ABAW1 and 2:
    annotations)."""
    numbers = [int(before_th or behind_abaw) for before_th, behind_abaw in CHALLENGE_NUMBER.findall(edition)]
    words = re.split(r"[^a-z]+", edition.lower())
    numbers += [number for number, word in enumerate(ORDINALS, 1) if word in words]
    return max(numbers, default=0)


def _chosen_editions(root: Path, editions: dict[str, Edition], wanted: str) -> tuple[str, str | None, str]:
    """The edition of the expressions, that of valence and arousal (None where no edition has any), and the two in
    words for the note "layout".

    wanted: a part of the edition's name, "" for the newest. Raises UserError where there is no such edition.
    """
    newest_first = sorted(editions, key=lambda name: (-_challenge_number(name), name.count("/"), name))
    with_expressions = [name for name in newest_first if editions[name].expressions]
    if not with_expressions:
        message = (f"{root}: no expression labels: looked for EXPR*/Train_Set/*.txt (or Training_Set) in any depth; "
                   f"found: {folder_contents(root)}. --root should be the folder that holds Aff-Wild2's annotations "
                   "and cropped_aligned")
        if (root / "annotations/train/valence").is_dir():
            message += ". Aff-Wild (2017) has valence and arousal only and cannot serve alone"
        raise UserError(message)
    candidates = [name for name in with_expressions if wanted.lower() in name.lower()]
    candidates.sort(key=lambda name: name.lower() != wanted.lower())  # "annotations" is a part of most others' names
    listing = "; ".join(name or "the root" for name in with_expressions)
    if not candidates:
        raise UserError(f"{root}: edition={wanted}: no folder of expression labels is named so; found: {listing}")
    expressions = candidates[0]
    text = f"Aff-Wild2, expressions of {expressions or 'the root'}"
    if len(with_expressions) > 1:
        text += f" ({'chosen' if wanted else 'the newest'} of: {listing}; edition= chooses)"
    if editions[expressions].valence_arousal:
        return expressions, expressions, text + ", valence and arousal beside"
    for name in newest_first:
        if editions[name].valence_arousal:
            return expressions, name, text + f", valence and arousal of {name or 'the root'}"
    return expressions, None, text + ", no valence and arousal"


def _video_folders(root: Path, image_folders: Sequence[str], notes: dict[str, Any]) -> dict[str, str]:
    """{video: its folder below the root}. A folder of images may hold another one, as archives that were unpacked into
    a folder of their own name do (cropped_aligned/cropped_aligned)."""
    folder_of_video: dict[str, str] = {}
    queue = list(image_folders)
    while queue:
        folder = queue.pop(0)
        with os.scandir(inside(root, folder)) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        queue += [f"{folder}/{name}" for name in names if IMAGE_FOLDER.match(name)]
        for name in names:
            if name in folder_of_video:
                count_note(notes, "video in two image folders, the first one taken", f"{name} in {folder}")
            folder_of_video.setdefault(name, f"{folder}/{name}")
    return folder_of_video


def _frame_files(root: Path, folder: str, video: str, dropped: Dropped) -> dict[int, str]:
    """{frame number: file name} of the pictures in a video's folder. The frames of the release count from 1.

    Files that are no frames, and further files of the same frame, are counted in `dropped`.
    """
    with os.scandir(inside(root, folder)) as entries:
        names = sorted(entry.name for entry in entries if is_picture(entry.name) and entry.is_file())
    files_of_frame: dict[int, list[str]] = {}
    no_frames = []
    for name in names:
        number = FRAME_NUMBER.fullmatch(os.path.splitext(name)[0])
        if number is None:
            no_frames.append(name)
        else:
            files_of_frame.setdefault(int(number[0]), []).append(name)
    file_of_frame = {}
    doubled = []
    for frame, files in files_of_frame.items():
        released_name = f"{frame:05d}.jpg"
        files.sort(key=rank)
        if released_name in files:
            files.remove(released_name)
            files.insert(0, released_name)
        if len(files) > 1:
            doubled.append(f"{video}/{files[0]}, not {files[1]}")
        file_of_frame[frame] = files[0]
    if no_frames:
        example = f"{video}/{printable(no_frames[0])}"
        dropped["picture whose name is no frame number", example[:80]] = len(no_frames)
    if doubled:
        dropped["frame in several files, one taken", doubled[0][:80]] = len(doubled)
    return file_of_frame


# --- label files ---

def _read_lines(path: Path) -> list[str]:
    """The lines of a text file whose encoding is not known. Blank lines count: without them all later frames would get
    the label of another frame."""
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    return text.rstrip().split("\n")


def _numbers(cells: Sequence[str]) -> np.ndarray:
    """float64 (N,), NaN where a cell is no number."""
    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float)


def _header_names(line: str) -> list[str]:
    return [cell.strip().lower() for cell in line.split(",")]


def _read_expressions(path: Path) -> np.ndarray | None:
    """The labels of frames 1, 2, ...: int64 (N,), 0..6 or a key of `REASONS`. None where the header does not have the
    names of the seven expressions."""
    header, *lines = _read_lines(path)
    names = _header_names(header)
    label_of_code = np.array([LABEL_BY_NAME.get(name, OTHER) for name in names])
    if sorted(label_of_code[label_of_code >= 0]) != list(range(len(CLASSES))):
        return None
    numbers = _numbers(lines)
    is_whole = np.isfinite(numbers) & (numbers == np.floor(numbers))
    codes = np.where(is_whole & (np.abs(numbers) < 1000), numbers, -2).astype(int)
    is_in_header = (codes >= 0) & (codes < len(names))
    labels = np.where(is_whole, OUTSIDE, MALFORMED)
    labels[codes == -1] = UNANNOTATED
    labels[is_in_header] = label_of_code[codes[is_in_header]]
    return labels


def _read_valence_arousal(path: Path) -> np.ndarray | None:
    """Valence and arousal of frames 1, 2, ...: float64 (N, 2). A row is -5 where it is not annotated, and has a NaN
    where it is malformed or beyond [-1, 1]. None where the header does not have the two names."""
    header, *lines = _read_lines(path)
    names = _header_names(header)
    if sorted(names) != ["arousal", "valence"]:
        return None
    cells = [line.partition(",") for line in lines]
    first_column = _numbers([first for first, _, _ in cells])
    second_column = _numbers([second for _, _, second in cells])
    values = np.stack([first_column, second_column], 1)
    if names[0] == "arousal":
        values = values[:, ::-1]
    values[(values == NO_VALENCE_AROUSAL).any(1)] = NO_VALENCE_AROUSAL
    is_valid = (np.abs(values) <= 1) | (values == NO_VALENCE_AROUSAL)
    values[~is_valid.all(1)] = np.nan
    return values


# --- which frames ---

def _draw_list(root: Path, splits: Sequence[str], edition: str, frame_count: int, seed: int,
               notes: dict[str, Any]) -> pd.DataFrame:
    """The frames of all splits by the rules of this module: columns `LIST_COLUMNS`, in the order of videos and frames.

    What was dropped is noted for the videos of `splits` and for those that are in no split.
    """
    editions, image_folders = _survey(root)
    edition_of_labels, edition_of_va, layout = _chosen_editions(root, editions, edition)
    if not image_folders:
        raise UserError(f"{root}: no images: looked for a folder cropped_aligned; found: {folder_contents(root)}. "
                        "Unpack cropped_aligned beside the annotations")
    video_folders = _video_folders(root, image_folders, notes)
    va_files = {} if edition_of_va is None else editions[edition_of_va].valence_arousal
    table_of_video: dict[str, pd.DataFrame] = {}
    dropped_of_video: dict[str, Dropped] = {}
    for video, file in sorted(editions[edition_of_labels].expressions.items()):
        dropped: Dropped = {}
        table = _video_table(root, video, file, va_files.get(video), video_folders.get(video), frame_count, dropped)
        if table is not None:
            table_of_video[video] = table
        dropped_of_video[video] = dropped
    split_of_video = _draw_videos(sorted(table_of_video), seed)
    for video, dropped in dropped_of_video.items():
        if split_of_video.get(video, splits[0]) in splits:
            for (reason, example), count in dropped.items():
                count_note(notes, reason, example, count)
    video_splits = list(split_of_video.values())
    if len(set(video_splits)) < len(SPLITS):
        raise UserError(f"{root}: {len(table_of_video)} usable videos do not give a training, a validation and a test "
                        f"split ({note_summary(notes) or 'nothing else was found'}). Complete the copy: label files "
                        f"and folders of images go by the names of the videos")
    videos_per_split = ", ".join(f"{video_splits.count(name)} {name}" for name in SPLITS)
    notes["layout"] = (f"{layout}, images in {', '.join(image_folders)}; {len(table_of_video)} videos: "
                       f"{videos_per_split} (split_seed {seed}), up to {frame_count} frames each")
    tables = [table.assign(split=split_of_video[video]) for video, table in table_of_video.items()]
    return pd.concat(tables, ignore_index=True)[list(LIST_COLUMNS)]


def _video_table(root: Path, video: str, file: Path, va_file: Path | None, folder: str | None, frame_count: int,
                 dropped: Dropped) -> pd.DataFrame | None:
    """The chosen frames of one video, or None where it has none.

    file, va_file: its label files; folder: its images, below the root. What is left out is counted in `dropped`.
    Returns the columns frame, path, expression, identity, valence and arousal.
    """
    labels = _read_expressions(file)
    if folder is None:
        dropped["label file without a folder of images", f"{video}.txt"] = 1
        return None
    if not folder.isprintable():  # bytes that are not UTF-8, line ends
        dropped["video whose name is not text", video] = 1
        return None
    if labels is None:
        dropped["label file without the seven expressions in its first line", f"{video}.txt"] = 1
        return None
    table = _labelled_frames(root, video, folder, labels, dropped)
    values = _valence_arousal_of_frames(va_file, table["frame"].to_numpy(), dropped)
    table["valence"] = values[:, 0]
    table["arousal"] = values[:, 1]
    if table.empty:
        dropped["video without a usable frame", video] = 1
        return None
    return table.iloc[_spread_rows(~np.isnan(values[:, 0]), frame_count)]


def _labelled_frames(root: Path, video: str, folder: str, labels: np.ndarray, dropped: Dropped) -> pd.DataFrame:
    """All frames of a video with one of the seven expressions and an image: the columns frame, path, expression and
    identity. labels: int (N,) of frames 1, 2, ... as `_read_expressions` gives them."""
    frames = np.arange(1, len(labels) + 1)  # the header is line 0, images count from 1
    for code, reason in REASONS.items():
        without_label = frames[labels == code]
        if len(without_label):
            dropped[reason, f"{video}.txt frame {without_label[0]}"] = len(without_label)
    files = _frame_files(root, folder, video, dropped)
    if 0 in files and files[0] != "00000.jpg":  # an extraction that counts from 0 would shift every label by a frame
        reason = "video whose images count from 0, where line 1 is image 1: number them from 1"
        dropped[reason, f"{video}/{files[0]}"] = 1
        labels, frames, files = labels[:0], frames[:0], {}
    on_disk = np.isin(frames, list(files))
    missing = frames[(labels >= 0) & ~on_disk]
    if len(missing):
        example = f"{video}/{missing[0]:05d}.jpg"
        if not on_disk.any():
            first_file = min(files.values(), default="no numbered picture")
            example += f"; the folder holds {printable(first_file)}"
        dropped["labelled frame that is not on disk", example] = len(missing)
    without_line = sorted(file for frame, file in files.items() if not 1 <= frame <= len(labels))
    if without_line:
        dropped["image without a line of its own", f"{video}/{without_line[0]}"] = len(without_line)
    is_usable = (labels >= 0) & on_disk
    usable_frames = frames[is_usable]
    return pd.DataFrame({
        "frame": usable_frames,
        "path": [f"{folder}/{files[frame]}" for frame in usable_frames],
        "expression": labels[is_usable],
        "identity": video,
    })


def _valence_arousal_of_frames(file: Path | None, frames: np.ndarray, dropped: Dropped) -> np.ndarray:
    """Valence and arousal of these frames (int (N,), numbers from 1 on): float64 (N, 2), NaN where there is none.
    file: the video's VA file, None where it has none."""
    values = np.full((len(frames), 2), np.nan)
    if file is None:
        return values
    listed = _read_valence_arousal(file)
    if listed is None:
        dropped["file of valence and arousal without these names in its first line", file.name] = 1
        return values
    has_line = frames <= len(listed)
    values[has_line] = listed[frames[has_line] - 1]
    malformed = frames[has_line & np.isnan(values[:, 0])]
    if len(malformed):
        dropped["malformed valence or arousal, or beyond [-1, 1]", f"{file.name} frame {malformed[0]}"] = len(malformed)
    values[values[:, 0] == NO_VALENCE_AROUSAL] = np.nan
    return values


def _spread_rows(is_preferred: np.ndarray, count: int) -> np.ndarray:
    """The rows of `count` evenly spaced frames: int (count,), in order.

    is_preferred: bool (N,); these rows are taken first, and others only where they do not suffice. All rows are
    returned where there are no more than `count`.
    """
    preferred = np.flatnonzero(is_preferred)
    others = np.flatnonzero(~is_preferred)
    still_wanted = max(0, count - len(preferred))
    return np.sort(np.concatenate([_evenly_spaced(preferred, count), _evenly_spaced(others, still_wanted)]))


def _evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows: they are divided into `count` equal stretches, and the middle row of each is taken. All rows
    where there are no more."""
    if len(rows) <= count:
        return rows
    if count == 0:
        return rows[:0]
    middles = (2 * np.arange(count) + 1) * len(rows) // (2 * count)
    return rows[middles]


def _video_without_side(video: str) -> str:
    """The name of the original video. X_left and X_right are the two persons of video X."""
    return re.sub(r"_(left|right)$", "", video)


def _draw_videos(videos: Sequence[str], seed: int) -> dict[str, str]:
    """{video: split}, the persons of one video together.

    Every video gets a random number from its own name, and the smallest numbers are held out. So a copy that lacks a
    video has nearly the same splits.
    """
    groups: dict[str, list[str]] = {}
    for video in videos:
        groups.setdefault(_video_without_side(video), []).append(video)
    order = sorted(groups, key=lambda group: (keyed_rng("affwild", seed, group).random(), group))
    split_of_video = dict.fromkeys(videos, "train")
    for split, official_count in (("test", TEST_VIDEOS), ("val", VAL_VIDEOS)):
        wanted = max(1, round(official_count / VIDEOS * len(videos)))
        taken: list[str] = []
        for group in order:
            if len(taken) + len(groups[group]) <= wanted:
                taken += groups[group]
        if not taken and order:  # one video is wanted, and each group has two
            taken = groups[order[0]]
        split_of_video |= dict.fromkeys(taken, split)
        order = [group for group in order if groups[group][0] not in taken]
    return split_of_video


# --- the list of frames as a file ---

def _write_list(root: Path, table: pd.DataFrame, target: str, notes: dict[str, Any]) -> None:
    """Write the list of frames, with expressions by name, to `target` or, where it is "", to the root.

    A list in the root that holds other frames is left as it is, which is noted. So is a root that cannot be written.
    """
    path = Path(target) if target else root / LIST_NAME
    names = np.array(CLASSES, object)[table["expression"]]
    text = table.assign(expression=names).to_csv(index=False, lineterminator="\n")
    present = path.read_bytes() if path.is_file() else None
    if present == text.encode():
        return
    if present is not None and not target:
        notes[f"{LIST_NAME} holds other frames and was left as it is: this list is not written (write_split=FILE)"] = 1
        return
    try:
        write_text(path, text)
    except OSError as error:
        if target:
            raise UserError(f"write_split={target}: {error.strerror}") from None
        notes[f"{LIST_NAME} cannot be written to the root ({error.strerror}; write_split=FILE)"] = 1


def _read_list(root: Path, name: str, split: str, notes: dict[str, Any]) -> pd.DataFrame:
    """The rows of a split from a list of frames: columns `LIST_COLUMNS`. Raises UserError where the list or any of its
    rows, of whichever split, is wrong."""
    path = next((place for place in (Path(name), root / name) if place.is_file()), None)
    if path is None:
        raise UserError(f"split_file={name}: no such file, neither here nor in {root}")
    table = _valid_list(path, _list_table(path))
    split_counts = table.groupby(table["identity"].map(_video_without_side))["split"].nunique()
    count_note_for_names(notes, "identity in more than one split", split_counts.index[split_counts > 1].tolist())
    all_paths = table["path"].tolist()
    table = table[table["split"] == split]
    paths = table["path"].tolist()
    files = find_pictures(root, paths, notes, all_paths)
    on_disk = files != ""
    note_missing_files(notes, table["path"][~on_disk].tolist(), comparison(root, paths, files))
    notes["layout"] = f"Aff-Wild2, frames listed in {path.name} ({len(table)} of {split})"
    return table.assign(path=files)[on_disk]


def _list_table(path: Path) -> pd.DataFrame:
    """The rows of a list of frames as text, columns `LIST_COLUMNS`. Raises UserError on a missing column and on a row
    of another length."""
    numbered_rows = read_table(path)
    header = numbered_rows[0][1] if numbered_rows else []
    missing = [column for column in LIST_COLUMNS if header.count(column) != 1]
    if missing:
        raise UserError(f"{path}: a list of frames has the columns {','.join(LIST_COLUMNS)} once each; not so here: "
                        f"{','.join(missing)}")
    for row_number, (line, row) in enumerate(numbered_rows[1:], 2):
        if len(row) != len(header):
            raise UserError(f"{path} row {row_number}: {len(row)} cells instead of {len(header)} in line {line}: "
                            f"{printable(','.join(row))[:60]!r}")
    rows = [row for _, row in numbered_rows[1:]]
    return pd.DataFrame(rows, columns=header, dtype=object)[list(LIST_COLUMNS)]


def _valid_list(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A list of frames with its labels, valence and arousal as numbers. Raises UserError on the first bad cell of a
    column."""
    def refuse(is_bad: np.ndarray, column: str, problem: str) -> None:
        if is_bad.any():
            row = int(np.flatnonzero(is_bad)[0])
            raise UserError(f"{path} row {row + 2}: {column} {str(table[column].iloc[row])[:60]!r} {problem}")

    table = table.apply(lambda column: column.str.strip())
    refuse(~table["split"].isin(SPLITS).to_numpy(), "split", f"is not one of {', '.join(SPLITS)}")
    leads_out = table["path"].str.contains(r"^(?:$|[/~]|[A-Za-z]:)|(?:^|/)\.\.(?:/|$)|\\", regex=True).to_numpy(bool)
    refuse(leads_out, "path", "leads out of the data folder, or is not written with '/'")
    refuse(table["path"].duplicated().to_numpy(), "path", "is listed twice")
    refuse((table["identity"] == "").to_numpy(), "identity", "is empty")
    label_by_text = LABEL_BY_NAME | {str(label): label for label in range(len(CLASSES))}
    labels = table["expression"].str.lower().map(label_by_text)
    refuse(labels.isna().to_numpy(), "expression", f"is not one of {', '.join(CLASSES)} (or 0 to 6 in this order)")
    values = {}
    for column in ("valence", "arousal"):
        numbers = _numbers(table[column].tolist())
        is_empty = table[column].isin(["", str(NO_VALENCE_AROUSAL)]).to_numpy()
        refuse(~is_empty & ~(np.abs(numbers) <= 1), column, "is not in [-1, 1]")
        values[column] = np.where(is_empty, np.nan, numbers)
    is_unknown = np.isnan(values["valence"]) | np.isnan(values["arousal"])
    return table.assign(expression=labels.to_numpy(np.int64),
                        valence=np.where(is_unknown, np.nan, values["valence"]),
                        arousal=np.where(is_unknown, np.nan, values["arousal"]))
