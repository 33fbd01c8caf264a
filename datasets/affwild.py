"""Aff-Wild2 (Kollias and Zafeiriou, arXiv:1811.07770; the ABAW challenges): seven expressions on frames of videos.

Layouts: below the root, in any depth, cropped_aligned*/<video>/00001.jpg and the label files of one or more ABAW
challenges, (EXPR|VA)*/.../Train_Set|Training_Set/<video>.txt (annotations/EXPR_Set of ABAW1 and 2, "3rd ABAW
Annotations/Third ABAW Annotations/EXPR_Classification_Challenge" and so on). Line 0 of a label file is a header,
line i is frame 00001.jpg for i = 1; frames without a detected face are not on disk. Frames of one's own extraction are
read under any number of digits and any suffix of `datasets.listing.SUFFIXES` (1.png, 000001.jpg); they have to count
from 1. Of several files of one frame the release's name goes first.

The split is FER-C's as far as it is known: its logs count 54,720 training and 4,800 test rows, 228 and 20 videos of 240
frames, together the 248 EXPR *training* videos of ABAW3; so the official EXPR validation videos are not used. (The
paper's text says 252 videos and an 80/20 split.) Which frames and which videos is not public: here 240 evenly spaced
frames, and a seeded draw of 20 test and, from the 228, 8 validation videos, both persons of a video together. The list
is written to affwild_split.csv, and `split_file=` reads one back.

Valence and arousal are a by-product of another task of the challenge, with a partition of its own: a video's VA file is
taken from its training set or, where it is not there, from its validation set.
"""
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cli import UserError, write_text
from datasets import (
    SPLITS, Split, found_in, frame_of, hold_out, keyed_rng, note, note_all, note_missing, read_table, read_text, spelt,
    told,
)
from datasets.images import inside
from datasets.listing import comparison, find_pictures, is_picture, rank

CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")
LIST_NAME = "affwild_split.csv"
LIST_COLUMNS = ("split", "path", "expression", "valence", "arousal", "identity")
OPTIONS = {
    "edition": "a part of the name of the challenge's folder, or all of it, where several are there (the newest)",
    "frames": "frames of a video, evenly spaced (240)",
    "split_seed": "which videos are held out (0)",
    "val_split": "identity: validation videos are no training videos; frames: frames of the same videos (identity)",
    "split_file": f"a list of frames that determines everything (columns {', '.join(LIST_COLUMNS)})",
    "write_split": f"where the list of frames is written (default: {LIST_NAME} in the root)",
}
# From the row counts of FER-C's training logs: 228 x 240 (its training and validation rows) and 20 x 240.


def official(**options):
    """Total image counts in the FER-C release's own logs; counts per class are not known."""
    return {"train+val": 54_720, "test": 4_800}


VIDEOS, TEST_VIDEOS, VAL_VIDEOS = 248, 20, 8  # EXPR training videos of ABAW3; held out of them (the 8 are our choice)

# Names of the header lines, in lower case -> label; whatever else a header names (Other) is left out.
NAMES = {name.lower(): label for label, name in enumerate(CLASSES)} | {"happiness": 1, "sadness": 2}
UNANNOTATED, OTHER, MALFORMED, OUTSIDE = -1, -2, -3, -4
REASONS = {
    UNANNOTATED: "frame labelled -1 (not annotated)",
    OTHER: "frame of another expression (Other)",
    MALFORMED: "malformed line of expressions",
    OUTSIDE: "label that the header does not name",
}

# The spec's pattern. The greedy start makes the last folder named EXPR* or VA* count.
LABELS = re.compile(r"(?:(?P<edition>.*)/)?(?P<task>EXPR|VA)[^/]*/.*?(?P<part>Train|Training|Validation)_Set", re.I)
IMAGES = re.compile(r"cropped[-_ ]?aligned", re.I)
NUMBER = re.compile(r"(?<!\d)(\d{1,2})(?:st|nd|rd|th)(?![a-z])|abaw[\W_]*(\d{1,2})(?!\d)", re.I)
WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
FRAME = re.compile("[0-9]{1,9}")
UNSAFE = re.compile(r"^[^A-Za-z0-9_]|[^A-Za-z0-9._-]")


def load(root, split, edition="", frames="240", split_seed="0", val_split="identity", split_file="",
         write_split=""):
    """One split. Evenly spaced frames with one of the seven expressions and an image; those with valence and arousal
    first (NaN in the others). `identity` is the video's full name; X, X_left and X_right are never separated."""
    frames, split_seed = _whole_number("frames", frames, 1), _whole_number("split_seed", split_seed, 0)
    if val_split not in ("identity", "frames"):
        raise UserError(f"val_split={val_split[:40]} is neither identity nor frames")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root should be the folder that holds Aff-Wild2's annotations and "
                        "cropped_aligned")
    notes = {"layout": ""}
    try:
        if split_file:
            if edition or write_split or (frames, split_seed, val_split) != (240, 0, "identity"):
                raise UserError("split_file= determines the frames by itself: leave out the other options")
            return _as_split(_read_list(root, split_file, split, notes), notes)
        table = _draw_list(root, split, edition, frames, split_seed, notes)
        if val_split == "frames":
            pool = (table["split"] != "test").to_numpy()
            held = hold_out(table["expression"][pool], len(CLASSES))
            table.loc[pool, "split"] = np.where(held, "val", "train")
            notes["layout"] += "; validation: frames of the training videos"
        data = _as_split(table[table["split"] == split], notes)
        _write_list(root, table, write_split, notes)
        return data
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from None


def _whole_number(name, value, least):
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise UserError(f"{name}={text[:40]} is not a whole number from {least} on")
    return int(text)


def _as_split(table, notes):
    """The rows of one split in the common form, with the missing VA counted."""
    note_all(notes, "frame without valence and arousal", table["path"][table["valence"].isna()].tolist())
    frame = frame_of(id=_ids(table["path"].tolist()), path=table["path"].to_numpy(object),
                     expression=table["expression"].to_numpy(np.int64), valence=table["valence"].to_numpy(float),
                     arousal=table["arousal"].to_numpy(float), identity=table["identity"].to_numpy(object))
    return Split(frame, None, CLASSES, notes)


def _ids(paths):
    """`<video>_<frame>` of each path. A video with an unsafe name gets a safe one with a hash of the old behind it."""
    parts = [("", "", *path.rsplit("/", 2))[-2:] for path in paths]
    safe = {}
    for video in dict.fromkeys(video for video, _ in parts):
        name = UNSAFE.sub("_", video) or "_"
        safe[video] = name if name == video else f"{name}-{hashlib.sha256(video.encode()).hexdigest()[:8]}"
    if len(set(safe.values())) < len(safe):
        raise UserError(f"Aff-Wild2: two of the videos {', '.join(sorted(safe))[:200]} get one name for their images")
    return [f"{safe[video]}_{UNSAFE.sub('_', name.rsplit('.', 1)[0])}" for video, name in parts]


# --- what is on disk ---

def _survey(root):
    """Walk the root, not into the image folders.

    Returns {edition: {"EXPR": {video: file}, "VA": {video: file}}} with editions and files as Paths below the root,
    "" for the root itself, and the image folders (texts below the root)."""
    editions, pictures = {}, []
    for here, folders, files in os.walk(root):
        below = Path(here).relative_to(root).as_posix()
        folders[:] = sorted(filter(str.isprintable, folders), key=str.lower)  # Train_Set comes before Validation_Set
        pictures += [name if below == "." else f"{below}/{name}" for name in folders if IMAGES.match(name)]
        folders[:] = [name for name in folders if not name.lower().startswith(("cropped", ".", "__macosx"))]
        match = LABELS.fullmatch(below)
        if match is None or (task := match["task"].upper()) == "EXPR" and match["part"].lower() == "validation":
            continue
        found = editions.setdefault(match["edition"] or "", {"EXPR": {}, "VA": {}})[task]
        for name in sorted(files):
            if name.lower().endswith(".txt") and not name.startswith("."):  # ._x.txt: macOS's leftovers
                found.setdefault(name[:-4], Path(here, name))
    return editions, sorted(pictures)


def _challenge(edition):
    """Which ABAW challenge a folder is of, by its name; 0 where it does not say (ABAW1 and 2: annotations)."""
    numbers = [int(a or b) for a, b in NUMBER.findall(edition)]
    words = re.split(r"[^a-z]+", edition.lower())
    return max(numbers + [i + 1 for i, word in enumerate(WORDS) if word in words], default=0)


def _choose(root, editions, wanted):
    """The edition of the expressions, that of valence and arousal or None, and a text for the notes."""
    newest = sorted(editions, key=lambda name: (-_challenge(name), name.count("/"), name))
    usable = [name for name in newest if editions[name]["EXPR"]]
    listed = "; ".join(name or "the root" for name in usable)
    if not usable:
        raise UserError(f"{root}: no expression labels: looked for EXPR*/Train_Set/*.txt (or Training_Set) in any depth"
                        f"; found: {found_in(root)}. --root should be the folder that holds Aff-Wild2's annotations and"
                        " cropped_aligned" + (". Aff-Wild (2017) has valence and arousal only and cannot serve alone"
                                              if (root / "annotations/train/valence").is_dir() else ""))
    chosen = [name for name in usable if wanted.lower() in name.lower()]
    chosen.sort(key=lambda name: name.lower() != wanted.lower())  # "annotations" is a part of most others' names
    if not chosen:
        raise UserError(f"{root}: edition={wanted}: no folder of expression labels is named so; found: {listed}")
    first = chosen[0]
    other = first if editions[first]["VA"] else next((name for name in newest if editions[name]["VA"]), None)
    text = f"Aff-Wild2, expressions of {first or 'the root'}"
    if len(usable) > 1:
        text += f" ({'chosen' if wanted else 'the newest'} of: {listed}; edition= chooses)"
    text += ", no valence and arousal" if other is None else ", valence and arousal "
    return first, other, text + ("" if other is None else "beside" if other == first else f"of {other or 'the root'}")


def _video_folders(root, pictures, notes):
    """{video: its folder below the root}; cropped_aligned/cropped_aligned (unzipped into a folder) is one of them."""
    found, queue = {}, list(pictures)
    while queue:
        folder = queue.pop(0)
        with os.scandir(inside(root, folder)) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        queue += [f"{folder}/{name}" for name in names if IMAGES.match(name)]
        for name in names:
            if name in found:
                note(notes, "video in two image folders, the first one taken", f"{name} in {folder}")
            found.setdefault(name, f"{folder}/{name}")
    return found


def _frame_files(root, folder, video, dropped):
    """{frame number: file name} of the pictures in a video's folder; frame 0 does not exist in the release.

    Files that are no frames, and those of a frame that another file is taken for, are counted in `dropped`."""
    with os.scandir(inside(root, folder)) as entries:
        names = sorted(entry.name for entry in entries if is_picture(entry.name) and entry.is_file())
    frames, others, doubled = {}, [], []
    for name in names:
        number = FRAME.fullmatch(os.path.splitext(name)[0])
        if number is None:
            others.append(name)
        else:
            frames.setdefault(int(number[0]), []).append(name)
    for number, candidates in frames.items():
        candidates.sort(key=lambda name, official=f"{number:05d}.jpg": (name != official, rank(name)))
        if len(candidates) > 1:
            doubled.append(f"{video}/{candidates[0]}, not {candidates[1]}")
    for what, examples in (("picture whose name is no frame number", [f"{video}/{spelt(name)}" for name in others]),
                           ("frame in several files, one taken", doubled)):
        if examples:
            dropped[what, examples[0][:80]] = len(examples)
    return {number: candidates[0] for number, candidates in frames.items()}


# --- label files ---

def _lines(path):
    """The lines of a text file of unknown make. Only line ends count: a lost line would shift all frames behind it."""
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    return text.rstrip().split("\n")


def _numbers(cells):
    """float64, NaN where a cell is no number."""
    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float)


def _header(line):
    return [cell.strip().lower() for cell in line.split(",")]


def _expressions(path):
    """Labels of frames 1, 2, ...: int (N,), 0..6 or a key of `REASONS`; None without the seven names in the header."""
    header, *lines = _lines(path)
    names = _header(header)
    labels = np.array([NAMES.get(name, OTHER) for name in names])
    if sorted(labels[labels >= 0]) != list(range(len(CLASSES))):
        return None
    numbers = _numbers(lines)
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers))
    codes = np.where(whole & (np.abs(numbers) < 1000), numbers, -2).astype(int)
    named = (codes >= 0) & (codes < len(names))
    result = np.where(whole, OUTSIDE, MALFORMED)
    result[codes == -1] = UNANNOTATED
    result[named] = labels[codes[named]]
    return result


def _valence_arousal(path):
    """float64 (N, 2) of frames 1, 2, ...; -5 (not annotated) as it is, NaN where malformed or beyond [-1, 1]; None
    without the two names in the header."""
    header, *lines = _lines(path)
    names = _header(header)
    if sorted(names) != ["arousal", "valence"]:
        return None
    cells = [line.partition(",") for line in lines]
    values = np.stack([_numbers([cell[0] for cell in cells]), _numbers([cell[2] for cell in cells])], 1)
    if names[0] == "arousal":
        values = values[:, ::-1]
    values[(values == -5).any(1)] = -5
    values[~((np.abs(values) <= 1) | (values == -5)).all(1)] = np.nan
    return values


# --- which frames ---

def _draw_list(root, split, edition, frames, seed, notes):
    """The frames of all splits by the rules of the module, columns `LIST_COLUMNS`, by video and frame.

    What was dropped is noted for the videos of `split` and for those that are in none."""
    editions, pictures = _survey(root)
    expressions, others, layout = _choose(root, editions, edition)
    if not pictures:
        raise UserError(f"{root}: no images: looked for a folder cropped_aligned; found: {found_in(root)}. "
                        "Unpack cropped_aligned beside the annotations")
    folders = _video_folders(root, pictures, notes)
    va_files = {} if others is None else editions[others]["VA"]
    videos, dropped = {}, {}
    for video, file in sorted(editions[expressions]["EXPR"].items()):
        dropped[video] = {}
        table = _frames(root, video, file, va_files.get(video), folders, frames, dropped[video])
        if table is not None:
            videos[video] = table
    parts = _draw_videos(sorted(videos), seed)
    for video, counts in dropped.items():
        if parts.get(video, split) == split:
            for (what, example), number in counts.items():
                note(notes, what, example, number)
    if len(set(parts.values())) < len(SPLITS):
        raise UserError(f"{root}: {len(videos)} usable videos do not give a training, a validation and a test split "
                        f"({told(notes) or 'nothing else was found'}). Complete the copy: label files "
                        f"and folders of images go by the names of the videos")
    shares = ", ".join(f"{list(parts.values()).count(part)} {part}" for part in SPLITS)
    notes["layout"] = (f"{layout}, images in {', '.join(pictures)}; {len(videos)} videos: {shares} (split_seed {seed}),"
                       f" up to {frames} frames each")
    return pd.concat([table.assign(split=parts[video]) for video, table in videos.items()],
                     ignore_index=True)[list(LIST_COLUMNS)]


def _frames(root, video, file, va_file, folders, wanted, dropped):
    """The chosen frames of one video, or None; what is left out is counted in `dropped`: {(what, example): number}."""
    labels = _expressions(file)
    if video not in folders:
        dropped["label file without a folder of images", f"{video}.txt"] = 1
    elif not folders[video].isprintable():  # bytes that are no UTF-8, line ends
        dropped["video whose name is not text", video] = 1
    elif labels is None:
        dropped["label file without the seven expressions in its first line", f"{video}.txt"] = 1
    else:
        table = _usable(root, video, folders[video], labels, dropped)
        values = _joined(va_file, table["frame"].to_numpy(), dropped)
        table["valence"], table["arousal"] = values.T
        if len(table):
            return table.iloc[_chosen(~np.isnan(values[:, 0]), wanted)]
        dropped["video without a usable frame", video] = 1
    return None


def _usable(root, video, folder, labels, dropped):
    """All frames of a video with one of the seven expressions and an image."""
    numbers = np.arange(1, len(labels) + 1)  # the header is line 0, images count from 1
    for code, what in REASONS.items():
        if (labels == code).any():
            dropped[what, f"{video}.txt frame {numbers[labels == code][0]}"] = int((labels == code).sum())
    files = _frame_files(root, folder, video, dropped)
    if 0 in files and files[0] != "00000.jpg":  # an extraction that counts from 0 would shift every label by a frame
        what = "video whose images count from 0, where line 1 is image 1: number them from 1"
        dropped[what, f"{video}/{files[0]}"] = 1
        labels, numbers, files = labels[:0], numbers[:0], {}
    present = np.isin(numbers, list(files))
    absent = numbers[(labels >= 0) & ~present]
    if len(absent):
        found = spelt(min(files.values(), default="no numbered picture"))
        held = "" if present.any() else f"; the folder holds {found}"
        dropped["labelled frame that is not on disk", f"{video}/{absent[0]:05d}.jpg{held}"] = len(absent)
    beyond = sorted(name for number, name in files.items() if not 1 <= number <= len(labels))
    if beyond:
        dropped["image without a line of its own", f"{video}/{beyond[0]}"] = len(beyond)
    usable = (labels >= 0) & present
    return pd.DataFrame({"frame": numbers[usable], "path": [f"{folder}/{files[number]}" for number in numbers[usable]],
                         "expression": labels[usable], "identity": video})


def _joined(file, frames, dropped):
    """Valence and arousal of these frames (numbers from 1 on): float64 (N, 2), NaN where there is none."""
    result = np.full((len(frames), 2), np.nan)
    known = None if file is None else _valence_arousal(file)
    if known is None:
        if file is not None:
            dropped["file of valence and arousal without these names in its first line", file.name] = 1
        return result
    there = frames <= len(known)
    result[there] = known[frames[there] - 1]
    bad = there & np.isnan(result[:, 0])
    if bad.any():
        example = f"{file.name} frame {frames[bad][0]}"
        dropped["malformed valence or arousal, or beyond [-1, 1]", example] = int(bad.sum())
    result[result[:, 0] == -5] = np.nan
    return result


def _chosen(preferred, wanted):
    """Rows of `wanted` evenly spaced frames, those of `preferred` (bool, N) first; all where there are fewer."""
    first, second = np.flatnonzero(preferred), np.flatnonzero(~preferred)
    more = max(0, wanted - len(first))
    return np.sort(np.concatenate([_spaced(first, wanted), _spaced(second, more)]))


def _spaced(rows, wanted):
    """`wanted` of the rows, each from the middle of its equal share; all where there are no more."""
    if len(rows) <= wanted:
        return rows
    return rows[(2 * np.arange(wanted) + 1) * len(rows) // (2 * wanted)] if wanted else rows[:0]


def _group(video):
    return re.sub(r"_(left|right)$", "", video)


def _draw_videos(videos, seed):
    """{video: split}. Groups come in an order that each one's own name gives: a missing video hardly moves the rest."""
    groups = {}
    for video in videos:
        groups.setdefault(_group(video), []).append(video)
    order = sorted(groups, key=lambda group: (keyed_rng("affwild", seed, group).random(), group))
    parts = dict.fromkeys(videos, "train")
    for part, official in (("test", TEST_VIDEOS), ("val", VAL_VIDEOS)):
        wanted = max(1, round(official / VIDEOS * len(videos)))
        taken = []
        for group in order:
            if len(taken) + len(groups[group]) <= wanted:
                taken += groups[group]
        taken = taken or [video for group in order[:1] for video in groups[group]]  # nothing but pairs
        parts |= dict.fromkeys(taken, part)
        order = [group for group in order if groups[group][0] not in taken]
    return parts


# --- the list of frames as a file ---

def _write_list(root, table, target, notes):
    """Write the list, the expressions by name. What stands in the root already is never overwritten unasked."""
    path = Path(target) if target else root / LIST_NAME
    text = table.assign(expression=np.array(CLASSES, object)[table["expression"]]).to_csv(
        index=False, lineterminator="\n")
    there = path.read_bytes() if path.is_file() else None
    if there == text.encode():
        return
    if there is not None and not target:
        notes[f"{LIST_NAME} holds other frames and was left as it is: this list is not written (write_split=FILE)"] = 1
        return
    try:
        write_text(path, text)
    except OSError as error:
        if target:
            raise UserError(f"write_split={target}: {error.strerror}") from None
        notes[f"{LIST_NAME} cannot be written to the root ({error.strerror}; write_split=FILE)"] = 1


def _read_list(root, name, split, notes):
    """The rows of a split from a list of frames. Any row that does not fit, in whichever split, is an error."""
    path = next((path for path in (Path(name), root / name) if path.is_file()), None)
    if path is None:
        raise UserError(f"split_file={name}: no such file, neither here nor in {root}")
    (_, header), *numbered = read_table(path) or [(1, [])]
    lines, rows = [line for line, _ in numbered], [row for _, row in numbered]
    missing = [column for column in LIST_COLUMNS if header.count(column) != 1]
    if missing:
        raise UserError(f"{path}: a list of frames has the columns {','.join(LIST_COLUMNS)} once each; not so here: "
                        f"{','.join(missing)}")
    short = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if short is not None:
        raise UserError(f"{path} row {short + 2}: {len(rows[short])} cells instead of {len(header)} in line "
                        f"{lines[short]}: {spelt(','.join(rows[short]))[:60]!r}")
    table = pd.DataFrame(rows, columns=header, dtype=object)[list(LIST_COLUMNS)]
    table = _valid(path, table)
    whole = table.groupby(table["identity"].map(_group))["split"].nunique()
    note_all(notes, "identity in more than one split", whole.index[whole > 1].tolist())
    listed = table["path"].tolist()
    table = table[table["split"] == split]
    paths = table["path"].tolist()
    found = find_pictures(root, paths, notes, listed)
    present = found != ""
    note_missing(notes, table["path"][~present].tolist(), comparison(root, paths, found))
    notes["layout"] = f"Aff-Wild2, frames listed in {path.name} ({len(table)} of {split})"
    return table.assign(path=found)[present]


def _valid(path, table):
    """The table with its cells as numbers, each column checked."""
    def refuse(bad, column, what):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(f"{path} row {row + 2}: {column} {str(table[column].iloc[row])[:60]!r} {what}")

    table = table.apply(lambda column: column.str.strip())
    refuse(~table["split"].isin(SPLITS).to_numpy(), "split", f"is not one of {', '.join(SPLITS)}")
    leading = table["path"].str.contains(r"^(?:$|[/~]|[A-Za-z]:)|(?:^|/)\.\.(?:/|$)|\\", regex=True).to_numpy(bool)
    refuse(leading, "path", "leads out of the data folder, or is not written with '/'")
    refuse(table["path"].duplicated().to_numpy(), "path", "is listed twice")
    refuse((table["identity"] == "").to_numpy(), "identity", "is empty")
    known = NAMES | {str(label): label for label in range(len(CLASSES))}
    labels = table["expression"].str.lower().map(known)
    refuse(labels.isna().to_numpy(), "expression", f"is not one of {', '.join(CLASSES)} (or 0 to 6 in this order)")
    values = {}
    for column in ("valence", "arousal"):
        numbers, empty = _numbers(table[column].tolist()), table[column].isin(["", "-5"]).to_numpy()
        refuse(~empty & ~(np.abs(numbers) <= 1), column, "is not in [-1, 1]")
        values[column] = np.where(empty, np.nan, numbers)
    unknown = np.isnan(values["valence"]) | np.isnan(values["arousal"])
    return table.assign(expression=labels.to_numpy(np.int64),
                        **{column: np.where(unknown, np.nan, numbers) for column, numbers in values.items()})


# --- drawn faces in this layout ---

EDITION = "3rd ABAW Annotations/Third ABAW Annotations"
ABAW3_ORDER = ("Neutral", "Anger", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Contempt")  # Contempt as Other
DRAWN = (  # training videos of the layout and their frames
    ("1-30-1280x720", 24), ("10-60-1280x720_left", 24), ("10-60-1280x720_right", 24), ("102-30-640x360", 30),
    ("15-24-1920x1080", 16), ("video7", 24), ("video12", 22), ("video45_1", 24), ("207", 28), ("311", 24), ("349", 20),
    ("420", 24),
)


def write_layout(out, faces):
    """Drawn faces as Aff-Wild2 with the annotations of ABAW3: 12 training videos, one with two persons, one in
    cropped_aligned_new_50_vids; a validation video and one without labels. The quirks of the release are in: -1, -5,
    Other, missing frames, a label file with a line more and one with a line less than frames, a malformed line, a
    video without valence and arousal, and one whose valence and arousal are in the other task's validation set."""
    drawn = iter(faces("train", 8 * len(DRAWN)))  # eight of a person, one of each expression
    for i, (video, frames) in enumerate(DRAWN):
        folder = "cropped_aligned_new_50_vids" if video == "420" else "cropped_aligned"
        shown, values = _write_video(out / folder / video, [next(drawn) for _ in range(8)], frames, i % 5 + 3)
        if video == "102-30-640x360":
            shown, values = [*shown, shown[-1]], [*values, values[-1]]
        elif video == "15-24-1920x1080":
            shown, values = shown[:-1], values[:-1]
        elif video == "video7":
            shown[5] = "x"
        _write_labels(out, "EXPR_Classification", "Train_Set", video, shown)
        if video != "video12":
            part = "Validation_Set" if video == "207" else "Train_Set"
            _write_labels(out, "VA_Estimation", part, video, values)
    shown, values = _write_video(out / "cropped_aligned/77-30-1280x720", list(faces("val", 8)), 16, 4)
    _write_labels(out, "EXPR_Classification", "Validation_Set", "77-30-1280x720", shown)
    _write_labels(out, "VA_Estimation", "Validation_Set", "77-30-1280x720", values)
    _write_video(out / "cropped_aligned/500", list(faces("test", 8)), 10, 4)


LAYOUTS = {"affwild2": write_layout}


def _write_video(folder, faces, frames, missing):
    """A video that goes through the eight faces, each cropped and lit a little differently from frame to frame.

    Frame `missing` is not on disk, frame 2 has no expression and frame 9 no valence and arousal. Returns the lines."""
    folder.mkdir(parents=True, exist_ok=True)
    shown, values = [], []
    for i in range(frames):
        face, rng = faces[i * len(faces) // frames], keyed_rng("video", folder.name, i)
        left, top = rng.integers(0, 17, 2)
        picture = face.image[top:top + 208, left:left + 208] * rng.uniform(0.85, 1.0)
        if i + 1 != missing:
            image = Image.fromarray(picture.astype(np.uint8)).resize((112, 112), Image.Resampling.BILINEAR)
            image.save(folder / f"{i + 1:05d}.jpg", quality=90)
        point = np.clip((face.valence, face.arousal) + rng.normal(0, 0.01, 2), -1, 1)
        shown.append("-1" if i == 1 else str(ABAW3_ORDER.index(face.expression)))
        values.append("-5,-5" if i == 8 else f"{point[0]:.3f},{point[1]:.3f}")
    return shown, values


def _write_labels(out, task, part, video, lines):
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    lines = ["valence,arousal" if task.startswith("VA") else header, *lines]
    write_text(out / EDITION / f"{task}_Challenge" / part / f"{video}.txt", "\n".join(lines) + "\n")
