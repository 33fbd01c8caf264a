"""What a data folder holds: `inspect` reads all splits and decodes all their pictures, `report_lines` writes it for
people.

`python -m datasets.check` is the command (check.py); it hands in the name of a data set, its folder and its options.
"""
import hashlib
import importlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets import DATASETS, default_root, load_split, parse_options
from datasets.images import decode, inside
from datasets.split import SPLITS, Split, printable
from support.errors import UserError

SHOWN_PROBLEMS = 20  # in the report for people
SHOWN_DUPLICATES = 3

Report = dict[str, Any]
"""The keys of the JSON output: dataset, root, splits {split: facts}, problems [text], official {splits: counts},
duplicates {where: groups, examples}, usable. Among the facts, "noticed" holds the notes of a split."""


def inspect(dataset: str, root: Path | None = None, data: Sequence[str] = ()) -> Report:
    """Read all splits of a data folder and decode all their pictures.

    root: the folder (default: that of the data set). data: the data set's options, as key=value. Raises UserError where
    there is no such data set or the options are not of this form."""
    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}; known: {', '.join(DATASETS)}")
    if root is None:
        root = default_root(dataset)
    options = parse_options(data)
    splits: dict[str, dict[str, Any]] = {}
    places_of_pixels: dict[bytes, list[tuple[str, str]]] = defaultdict(list)  # digest -> (split, path) of each picture
    splits_of_refusal: dict[str, list[str]] = defaultdict(list)  # why a split cannot be read -> these splits
    unreadable: list[str] = []
    for name in SPLITS:
        try:
            split = load_split(dataset, root, name, **options)
        except UserError as error:
            reason = str(error).removeprefix(f"{dataset} {name}: ")
            splits_of_refusal[reason].append(name)
            continue
        splits[name] = split_facts(root, name, split, places_of_pixels)
        unreadable += splits[name]["unreadable"]
    problems = []
    for reason, names in splits_of_refusal.items():
        problems.append(reason if len(names) == len(SPLITS) else f"{', '.join(names)}: {reason}")
    problems += unreadable
    official = {}
    parser = importlib.import_module(DATASETS[dataset])
    if hasattr(parser, "official") and not problems:
        official = parser.official(**options)
    return {"dataset": dataset, "root": str(root), "splits": splits, "problems": problems, "official": official,
            "duplicates": duplicates(places_of_pixels), "usable": not problems}


def split_facts(root: Path, name: str, split: Split,
                places_of_pixels: dict[bytes, list[tuple[str, str]]]) -> dict[str, Any]:
    """What the report says of one split. Every picture is decoded once, and where it lies is added to
    `places_of_pixels`."""
    frame = split.frame
    unreadable = []

    def pixel_digest(row: Any) -> bytes | UserError:
        try:
            image = decode(inside(root, row.path), (row.left, row.top, row.right, row.bottom))
            return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        except UserError as error:
            return error

    with ThreadPoolExecutor() as pool:
        rows = list(frame.itertuples())
        digests = tqdm(pool.map(pixel_digest, rows), name, len(rows), disable=None)
        for row, digest in zip(rows, digests, strict=True):
            if isinstance(digest, UserError):
                unreadable.append(str(digest))
            else:
                places_of_pixels[digest].append((name, row.path))
    counts = np.bincount(frame["expression"], minlength=len(split.classes)).tolist()
    ranges = {axis: [float(frame[axis].min()), float(frame[axis].max())] for axis in ("valence", "arousal")
              if frame[axis].notna().any()}
    return {
        "layout": split.notes.get("layout", ""),
        "images": len(frame),
        "counts": dict(zip(split.classes, counts, strict=True)),
        "identities": int(frame["identity"].replace("", np.nan).nunique()),
        "labels": "one class each" if has_one_class_each(split) else "distributions",
        "ranges": ranges,
        "unreadable": unreadable,
        "noticed": {reason: count for reason, count in split.notes.items() if reason != "layout"},
    }


def has_one_class_each(split: Split) -> bool:
    """Whether no image of a split has a distribution over several classes."""
    return split.distribution is None or bool((split.distribution.max(1) == 1).all())


def duplicates(places_of_pixels: Mapping[bytes, Sequence[tuple[str, str]]]) -> dict[str, dict[str, Any]]:
    """Groups of pictures with equal pixels: {where: number of groups, examples}.

    where: "within test", or "train, test" for groups with pictures of both. An example is a list of paths.
    """
    groups_by_place: dict[str, list[list[str]]] = defaultdict(list)
    for places in places_of_pixels.values():
        if len(places) < 2:
            continue
        splits = sorted({name for name, _ in places}, key=SPLITS.index)
        where = f"within {splits[0]}" if len(splits) == 1 else ", ".join(splits)
        groups_by_place[where].append([path for _, path in places])
    return {where: {"groups": len(groups), "examples": groups[:SHOWN_DUPLICATES]}
            for where, groups in groups_by_place.items()}


# --- the report for people ---

def report_lines(report: Report, advice: str = "") -> Iterator[str]:
    """The report, line by line. advice: what to do where the folder is not usable."""
    yield f"{report['dataset']} in {printable(report['root'])}"
    notes_of_split: dict[str, dict[str, Any]] = {}
    for name, facts in report["splits"].items():
        yield from _split_lines(name, facts)
        notes = {reason: count for reason, count in facts["noticed"].items() if reason != "cache"}
        equal_splits = [split for split, other_notes in notes_of_split.items() if other_notes == notes]
        if notes and equal_splits:  # val is often a part of train's list
            yield f"  notes: as in {equal_splits[0]}"
        else:
            yield from (f"  {reason}: {count}" for reason, count in facts["noticed"].items())
        notes_of_split[name] = notes
    yield from count_lines(report)
    for where, groups in report["duplicates"].items():
        example = groups["examples"][0]
        further = len(example) - SHOWN_DUPLICATES
        more = f" and {further} more" if further > 0 else ""
        paths = " = ".join(example[:SHOWN_DUPLICATES])
        yield f"\nequal pictures {where}: {groups['groups']} groups, for example {paths}{more}"
    yield ""
    if report["usable"]:
        yield "usable"
    else:
        yield from _problem_lines(report["problems"], advice)


def _split_lines(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """One split: number of images, layout, kind of labels, ranges of valence and arousal."""
    layout = f"; {facts['layout']}" if facts["layout"] else ""
    identities = f"; {facts['identities']} identities" if facts["identities"] else ""
    yield f"\n{name}: {facts['images']} images{layout}; labels: {facts['labels']}{identities}"
    for axis, (low, high) in facts["ranges"].items():
        warning = "" if -1 <= low and high <= 1 else "   (outside -1..1)"
        yield f"  {axis} from {low:.3f} to {high:.3f}{warning}"


def count_lines(report: Report) -> Iterator[str]:
    """The number of images in total and per class, beside the official counts where these are known."""
    columns: dict[str, Mapping[str, int]] = {name: facts["counts"] for name, facts in report["splits"].items()}
    if not columns:
        return
    classes = list(next(iter(columns.values())))
    for name, official in report["official"].items():  # name: a split, or several joined by +
        present = sum(sum(columns[split].values()) for split in name.split("+"))
        if isinstance(official, tuple):  # a count for each class
            expected = sum(official)
            columns[f"{name}, official"] = dict(zip(classes, official, strict=True))
        else:
            expected = official
        difference = f" ({present - expected:+d})" if present != expected else ""
        yield f"\n{name}: {present} images here, {expected} officially{difference}"
    width = 2 + max(map(len, columns))
    yield "\n" + " " * 12 + "".join(f"{name:>{width}}" for name in columns)
    for label in classes:
        yield f"{label:12}" + "".join(f"{counts.get(label, ''):>{width}}" for counts in columns.values())


def _problem_lines(problems: Sequence[str], advice: str) -> Iterator[str]:
    for problem in problems[:SHOWN_PROBLEMS]:
        yield f"problem: {problem}"
    if len(problems) > SHOWN_PROBLEMS:
        yield f"and {len(problems) - SHOWN_PROBLEMS} more: --json lists all"
    plural = "s" if len(problems) > 1 else ""
    yield f"not usable: {len(problems)} problem{plural}. {advice}"
