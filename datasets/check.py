"""What is in a data folder? Layout, counts against the official ones, what is dropped, unreadable, or there twice.

  python -m datasets.check --dataset ferplus --root DIR          exit 0 when usable, 2 when not; --json for programs
"""
import hashlib
import importlib
import json
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

import cli
from cli import UserError
from datasets import DATASETS, SPLITS, default_root, load_split, parse_options
from datasets.images import decode, inside


@dataclass
class Args:
    dataset: str
    """the data set"""
    root: Path | None = None
    """its folder (default: data/<dataset>, or $FERC_DATA/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set as key=value; may be given several times"""
    json: bool = False
    """print everything as JSON instead"""


def main(args):
    if args.dataset not in DATASETS:
        raise UserError(f"unknown data set {args.dataset!r}; known: {', '.join(DATASETS)}")
    root, options = args.root or default_root(args.dataset), parse_options(args.data)
    module = importlib.import_module(DATASETS[args.dataset])
    found = {"dataset": args.dataset, "root": str(root), "splits": {}, "problems": []}
    pictures = defaultdict(list)  # digest of the pixels -> where they are
    for name in SPLITS:
        try:
            split = load_split(args.dataset, root, name, **options)
        except UserError as error:
            found["problems"].append(str(error))
            continue
        found["splits"][name] = describe(root, name, split, pictures)
        found["problems"] += found["splits"][name]["unreadable"]
    found["official"] = module.official(**options) if hasattr(module, "official") and not found["problems"] else {}
    found["duplicates"] = duplicates(pictures)
    found["usable"] = not found["problems"]
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines_of(found)))
    return 0 if found["usable"] else 2


def describe(root, name, split, pictures):
    """Facts of one split; every picture is decoded once and its pixels are booked in `pictures`."""
    frame, unreadable = split.frame, []

    def digest(row):
        try:
            image = decode(inside(root, row.path), (row.left, row.top, row.right, row.bottom))
            return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        except UserError as error:
            return error

    with ThreadPoolExecutor() as pool:
        rows = list(frame.itertuples())
        for row, value in zip(rows, tqdm(pool.map(digest, rows), name, len(rows), disable=None), strict=True):
            if isinstance(value, UserError):
                unreadable.append(str(value))
            else:
                pictures[value].append((name, row.path))
    counts = np.bincount(frame["expression"], minlength=len(split.classes)).tolist()
    ranges = {axis: [float(frame[axis].min()), float(frame[axis].max())] for axis in ("valence", "arousal")
              if frame[axis].notna().any()}
    return {
        "layout": split.notes.get("layout", ""), "images": len(frame),
        "counts": dict(zip(split.classes, counts, strict=True)),
        "identities": int(frame["identity"].replace("", np.nan).nunique()),
        "labels": "one class each" if split.distribution is None else "distributions",
        "ranges": ranges, "unreadable": unreadable,
        "noticed": {reason: count for reason, count in split.notes.items() if reason != "layout"},
    }


def duplicates(pictures):
    """Pictures with equal pixels: {where: number of groups, examples}. `train, test` are groups that cross the two."""
    groups = defaultdict(list)
    for places in pictures.values():
        if len(places) > 1:
            where = sorted({name for name, _ in places}, key=SPLITS.index)
            groups["within " + where[0] if len(where) == 1 else ", ".join(where)].append([path for _, path in places])
    return {where: {"groups": len(some), "examples": some[:3]} for where, some in groups.items()}


def table_of(found):
    """Counts per class and split, each group of splits beside the official count where that is known."""
    columns = {name: facts["counts"] for name, facts in found["splits"].items()}
    if not columns:
        return
    classes = list(next(iter(columns.values())))
    for name, official in found["official"].items():
        parts = [columns[part] for part in name.split("+")]
        by_class = isinstance(official, tuple)
        if by_class:
            columns[f"{name}, official"] = dict(zip(classes, official, strict=True))
        here, wanted = sum(sum(part.values()) for part in parts), sum(official) if by_class else official
        more = f" ({here - wanted:+d})" if here != wanted else ""
        yield f"\n{name}: {here} images here, {wanted} officially{more}"
    wide = 2 + max(map(len, columns))
    yield "\n" + " " * 12 + "".join(f"{name:>{wide}}" for name in columns)
    for label in classes:
        yield f"{label:12}" + "".join(f"{counts.get(label, ''):>{wide}}" for counts in columns.values())


def lines_of(found):
    """The report for people."""
    said = {}
    yield f"{found['dataset']} in {found['root']}"
    for name, facts in found["splits"].items():
        who = f"; {facts['identities']} identities" if facts["identities"] else ""
        layout = f"; {facts['layout']}" if facts["layout"] else ""
        yield f"\n{name}: {facts['images']} images{layout}; labels: {facts['labels']}{who}"
        for axis, (low, high) in facts["ranges"].items():
            yield f"  {axis} from {low:.3f} to {high:.3f}" + ("" if -1 <= low and high <= 1 else "   (outside -1..1)")
        noticed = {reason: count for reason, count in facts["noticed"].items() if reason != "cache"}
        if noticed and noticed in said.values():  # val is often a part of train's list
            yield f"  left out: as in {next(split for split in said if said[split] == noticed)}"
        else:
            yield from (f"  {reason}: {count}" for reason, count in facts["noticed"].items())
        said[name] = noticed
    yield from table_of(found)
    for where, some in found["duplicates"].items():
        first, more = some["examples"][0], len(some["examples"][0]) - 3
        more = f" and {more} more" if more > 0 else ""
        yield f"\nequal pictures {where}: {some['groups']} groups, for example {' = '.join(first[:3])}{more}"
    yield ""
    if found["usable"]:
        yield "usable"
        return
    for problem in found["problems"][:20]:
        yield f"problem: {problem}"
    yield f"not usable: {len(found['problems'])} problems"


if __name__ == "__main__":
    sys.exit(cli.run(main, Args))
