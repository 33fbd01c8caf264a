"""What is in a data folder? Layout, counts against the official ones, what is dropped, unreadable, or there twice.

  python -m datasets.check --dataset ferplus --root DIR          exit 0 when usable, 2 when not; --json for programs
"""
import hashlib
import importlib
import json
import os
import shlex
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __name__ == "__main__" and not __package__:  # as a script: the project's folder stands for datasets/ on the path
    sys.path[0] = os.path.dirname(sys.path[0])

from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

import numpy as np
import tyro
from tqdm import tqdm

import cli
from cli import UserError
from datasets import DATASETS, SPLITS, default_root, load_split, parse_options, spelt
from datasets.images import decode, inside


SHOWN = 20  # problems that the report for people lists


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


def main(args: Args) -> int:
    """Print the report. Returns the exit code: 0 usable, 2 not."""
    try:
        found = inspect(args)
    except UserError as error:
        if not args.json:
            raise
        found = {"dataset": args.dataset, "root": str(args.root or ""), "splits": {}, "problems": [str(error)],
                 "official": {}, "duplicates": {}, "usable": False}
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines_of(found, next_step(args, found))))
    return 0 if found["usable"] else 2


def inspect(args: Args) -> dict:
    """Everything that the report says. Raises UserError where there is no such data set or option."""
    if args.dataset not in DATASETS:
        raise UserError(f"unknown data set {args.dataset!r}; known: {', '.join(DATASETS)}")
    root, options = args.root or default_root(args.dataset), parse_options(args.data)
    module = importlib.import_module(DATASETS[args.dataset])
    found = {"dataset": args.dataset, "root": str(root), "splits": {}, "problems": []}
    pictures = defaultdict(list)  # digest of the pixels -> where they are
    refusals = defaultdict(list)  # why a split cannot be read -> the splits
    unreadable = []
    for name in SPLITS:
        try:
            split = load_split(args.dataset, root, name, **options)
        except UserError as error:
            refusals[str(error).removeprefix(f"{args.dataset} {name}: ")].append(name)
            continue
        found["splits"][name] = describe(root, name, split, pictures)
        unreadable += found["splits"][name]["unreadable"]
    found["problems"] = [reason if len(names) == len(SPLITS) else f"{', '.join(names)}: {reason}"
                         for reason, names in refusals.items()] + unreadable
    found["official"] = module.official(**options) if hasattr(module, "official") and not found["problems"] else {}
    found["duplicates"] = duplicates(pictures)
    found["usable"] = not found["problems"]
    return found


def next_step(args: Args, found: dict) -> str:
    """What to do when a folder is not usable, with the command that looks again."""
    command = ["python", "-m", "datasets.check", "--dataset", args.dataset, "--root", found["root"]]
    for option in args.data:
        command += ["--data", option]
    advice = "Put this right, then look again: " + spelt(shlex.join(command))
    if any(facts["unreadable"] for facts in found["splits"].values()):
        advice = "Replace the unreadable pictures (make_fer_c.py --skip-bad leaves them out of a built set). " + advice
    return advice


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


def lines_of(found: dict, advice: str = ""):
    """The report for people, line by line; advice: what to do where the folder is not usable."""
    said = {}
    yield f"{found['dataset']} in {spelt(found['root'])}"
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
    problems = found["problems"]
    for problem in problems[:SHOWN]:
        yield f"problem: {problem}"
    if len(problems) > SHOWN:
        yield f"and {len(problems) - SHOWN} more: --json lists all"
    yield f"not usable: {len(problems)} problem{'s' if len(problems) > 1 else ''}. {advice}"


if __name__ == "__main__":
    sys.exit(cli.run(main, Args))
