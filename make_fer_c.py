"""Build FER-C: every test image in 17 corruptions x 5 severities, with soft labels and a manifest.

  python make_fer_c.py --dataset demo                          faces drawn on the spot, nothing to fetch
  python make_fer_c.py --dataset ferplus --root DIR --workers 8
  python make_fer_c.py --dataset ferplus --dry-run             how many images, bytes and minutes it would be
  python make_fer_c.py --dataset ferplus --shard 2/8           a shard of it, on any machine; then, for all: --merge
  python make_fer_c.py --dataset ferplus --verify              re-hash a finished set

The set grows in DIR.partial and moves to DIR when it is whole. Killed, the same command goes on and ends with the same
bytes. FER-C: arXiv:2312.11542; the corruptions are ImageNet-C's (Hendrycks and Dietterich, ICLR 2019).
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import re
import select
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

import cli
import soft_labels
from cli import UserError
from corruptions import CORRUPTIONS, PRESETS, constants
from datasets import RECIPES, TITLES, default_root, default_set, keyed_rng, load_split, parse_options
from datasets.fer_c import (
    ENCODER, BuiltSet, Job, damage, journal_of, make_chunk, make_forms, named, open_set, read_journal, remove_written,
    seal, software, take_chunk, verify, write_tables, written_and_foreign)
from datasets.fused import neighbours
from datasets.images import inside, read_image
from datasets.set_files import (
    CELLS, FOLDERS, FORMAT, SIZES, check_made_with, digest, partial_of, read_manifest, require, set_version)

CALIBRATION_IMAGES = 100  # D_worst is the largest mean difference over these (FER-C section 4.2.3)
CHUNK = 4  # source images (344 files) between two entries of the journal
MEASURED = 8  # source images, and seconds at most, that --dry-run measures
ALL, FEW = "all", "no images/"  # which files are kept
RELEASED = {"corruptions": "fer-c-released", "visibility": "l2-uint8"}  # what the published sets were made with


@dataclass
class Args:
    dataset: str
    """the data set whose test split is corrupted"""
    root: Path | None = None
    """its folder (default: data/<dataset>, or $FERC_DATA/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set as key=value; may be given several times"""
    out: Path | None = None
    """the set to build (default: data/<Title>-C, below $FERC_DATA likewise)"""
    protocol: Literal["paper", "released"] = "paper"
    """paper: as described. released: --corruptions fer-c-released --visibility l2-uint8, as published"""
    corruptions: str = "fer-c"
    """severity constants: fer-c, fer-c-released or imagenet-c"""
    image_size: int = 224
    """side of the canonical image in pixels: resized first, corrupted after (demo: 64)"""
    format: Literal["png", "jpg", "webp"] = "png"
    """of the corrupted images: png keeps every value; jpg and webp are smaller and change the benchmark"""
    quality: int = 95
    """of jpg and webp"""
    limit: int | None = None
    """only this many images, evenly spaced over the split"""
    workers: int = len(os.sched_getaffinity(0))
    """processes; the bytes do not depend on it"""
    seed: int = 0
    """of the corruptions and of the images D_worst is estimated on"""
    beta: float = 0.5
    """fraction of the given label in the fused label (eq. 7)"""
    exponent: float = 2
    """of the softening curve (eq. 10)"""
    visibility: Literal["l2", "mse", "ssim", "psnr", "l2-uint8"] = "l2"
    """how the difference to the clean image is measured (eq. 9)"""
    visibility_per: Literal["image", "mean"] = "image"
    """image: each image its own visibility. mean: the average of its cell (figure 4)"""
    gmm: Path | None = None
    """take the mixture over valence and arousal from this file (gmm.json of a built set) instead of fitting one"""
    skip_bad: bool = False
    """leave out source images that cannot be read, instead of stopping; they are named in the manifest"""
    images: bool = True
    """--no-images: keep all but images/; evaluate.py --on-the-fly makes them in memory, bit by bit the same"""
    shard: str | None = None
    """i/n, i from 1 to n: build only this shard, into a folder of its own beside --out, for --merge"""
    merge: bool = False
    """check the shards beside --out, join them to the set and remove what was written into them"""
    dry_run: bool = False
    """build nothing: say how many images, bytes and minutes it would be, from a few made in memory"""
    verify: bool = False
    """build nothing: re-hash the set and name what is missing, changed or extra"""
    gallery: Path | None = None
    """also draw figure 2 (17 corruptions of one image with their labels) into this file"""


def settle(args):
    """The defaults that follow from the data set and the protocol; the command line goes over them."""
    recipe = RECIPES.get(args.dataset, {})
    if args.protocol == "released":
        recipe = recipe | RELEASED | recipe.get("released", {})
    chosen = {key: value for key, value in recipe.items() if hasattr(args, key)}
    return Args(args.dataset, protocol=args.protocol, **chosen)


def main(args):
    if args.dataset not in TITLES:
        raise UserError(f"unknown data set {args.dataset!r}; known: {', '.join(TITLES)}")
    if args.corruptions not in PRESETS:
        raise UserError(f"unknown preset {args.corruptions!r}; known: {', '.join(PRESETS)}")
    if args.workers < 1 or (args.limit is not None and args.limit < 1):
        raise UserError("--workers and --limit start at 1")
    if args.image_size not in SIZES:
        raise UserError(f"--image-size lies between {SIZES[0]} and {SIZES[-1]}")
    if not (0 <= args.beta <= 1 and 0 < args.exponent < math.inf and 1 <= args.quality <= 100):
        raise UserError("--beta lies between 0 and 1, --exponent is a number above 0, --quality lies between 1 and 100")
    if args.gallery and args.gallery.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--gallery {args.gallery}: give a file name that ends in .png, .svg or .pdf")
    shard = read_shard(args.shard)
    if shard and (args.merge or args.verify or args.gallery):
        raise UserError("--shard builds a shard and nothing else; --merge, --verify and --gallery are for whole sets")
    out = settled_out(args.out or default_set(args.dataset))
    if args.verify:
        return verify(out, args.workers)
    if args.dry_run:
        return estimate(args, out, shard)
    if not (out / "manifest.json").is_file():
        check_place(out, shard_of(out, *shard) if shard else out)
    plan = make_plan(args)
    if not is_built(plan, out):
        build(plan, out, args.workers, shard, find_shards(out, plan) if args.merge else ())
        if shard:
            return
    elif args.merge:  # the merge that made it may have died before it had removed the shards
        for folder in (out.with_name(match[0]) for match in shard_names(out) if not match[3]):
            if belongs(folder, plan):
                remove_written(folder, plan.ids)
    if args.gallery:
        draw_gallery(open_set(out), args.gallery)
        print(f"gallery: {args.gallery}")


def command(args: Args, **changes: object) -> str:
    """The command line that gives `args`, with some changed: only what differs from the defaults, for messages."""
    args = dataclasses.replace(args, **changes)
    words, default = ["make_fer_c.py"], dataclasses.replace(settle(args), protocol=Args.protocol)
    for field in dataclasses.fields(args):
        value, option = getattr(args, field.name), f"--{field.name.replace('_', '-')}"
        if field.name not in ("dataset", "out") and value == getattr(default, field.name):
            continue
        if value is True:
            words.append(option)
        elif value is False:
            words.append(f"--no-{option[2:]}")
        elif isinstance(value, tuple):
            for pair in value:
                words += [option, pair]
        elif value is not None:
            words += [option, str(value)]
    return shlex.join(words)


# ---- where the set goes

def settled_out(out: Path) -> Path:
    """--out with a name of its own: a link is followed, since a finished set is renamed to its place and a link would
    be in the way; `.` becomes the folder it stands for."""
    try:
        if out.is_symlink():
            target = out.resolve()
            print(f"--out {out} is a link to {target}: the set goes there")
            return target
        return out.resolve() if out.name in ("", "..") else out
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--out {out}: {cli.first_line(error)}; choose another --out") from None


def check_place(out: Path, goal: Path) -> None:
    """Raises UserError, before the first image, when what is built could not take its place in the end.

    out: the set; goal: the folder that is built, `out` itself or a shard's. It grows in a folder beside it and is
    renamed, so the goal has to be absent or an empty folder that can be replaced, and the folder above writable.
    """
    work = partial_of(goal)
    try:
        for folder in {out, goal}:
            _check_goal(folder, folder != out)
        if work.is_symlink() or (work.exists() and not work.is_dir()):
            raise UserError(f"{work}, where the set grows, is a file or a link; move it away or choose another --out")
        if os.path.ismount(work):
            raise UserError(f"{work}, where the set grows, is a mount point; choose another --out")
        parent = work if work.exists() else next(folder for folder in work.absolute().parents if folder.exists())
        if not parent.is_dir():
            raise UserError(f"--out {out} lies below {parent}, which is a file; choose another --out")
        with tempfile.TemporaryDirectory(prefix=".ferc-", dir=parent) as probe:  # a rename, as in the end
            (Path(probe) / "before").mkdir()
            (Path(probe) / "before").rename(Path(probe) / "after")
        (work / "set").exists()  # raises where a name is too long
    except OSError as error:
        raise UserError(f"cannot write {work}: {error.strerror}; choose another --out") from None


def _check_goal(folder, is_shard):
    """One of the folders that the end renames to; one that is there may only be empty, or a finished shard."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link; remove it or choose another --out")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--out {folder} is a file; the set needs a folder")
    if os.path.ismount(folder):
        raise UserError(f"--out {folder} is a mount point, which a finished set cannot replace; give a folder below "
                        f"it, for example --out {folder / 'FER-C'}")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"--out {folder} is the folder you are in, or above it; give a folder below it, for example "
                        f"--out {folder / 'FER-C'}")
    if any(folder.iterdir()) and not (is_shard and (folder / "build.json").exists()):
        raise UserError(f"{folder} exists and is no FER-C set (no manifest.json); choose another --out")


# ---- the plan: everything the bytes depend on

@dataclass(frozen=True)
class Plan:
    """What is built. `frame` and `label` are the images of the set, `calibration` those D_worst is estimated on."""

    frame: pd.DataFrame
    label: np.ndarray
    calibration: pd.DataFrame
    root: Path
    made_with: dict  # settings and digests: two builds with equal ones give equal bytes
    facts: dict  # for the manifest only
    gmm: soft_labels.GMM | None
    images: bool  # whether images/ is kept
    args: Args

    @property
    def ids(self) -> set[str]:
        """Of the set's images: the names of the files that a build writes."""
        return set(self.frame["id"])

    @property
    def state(self) -> dict:
        """What an unfinished set or a shard was made with."""
        return self.made_with | {"files": ALL if self.images else FEW}

    @property
    def chunks(self):
        """[(number, rows)]: all source images, those only D_worst is estimated on last, with `kept` False."""
        outside = self.calibration[~self.calibration["id"].isin(self.frame["id"])]
        rows = pd.concat([self.frame.assign(kept=True), outside.assign(kept=False)], ignore_index=True)
        return [(number, rows.iloc[start:start + CHUNK]) for number, start in enumerate(range(0, len(rows), CHUNK))]


def make_plan(args: Args) -> Plan:
    root = args.root or default_root(args.dataset)
    options = parse_options(args.data)
    split = load_split(args.dataset, root, "test", **options)
    other, given, gmm, notes = neighbours(args.dataset, split, root, options, args.gmm)
    try:
        label = soft_labels.fuse(split.frame["expression"], other, np.nan_to_num(given, nan=args.beta))
    except ValueError as error:
        raise UserError(f"{root}: the labels of {args.dataset} cannot be made ({error})") from None
    wanted, sample = chosen(args, len(split.frame))
    with ThreadPoolExecutor(args.workers) as pool:  # every source is decoded once before the first byte is written
        needed = np.union1d(wanted, sample)
        found = pool.map(lambda i: source_digest(root, split.frame.iloc[i]), needed)
        digests = dict(zip(needed.tolist(), found, strict=True))
    bad = {i: reason for i, (digest, reason) in digests.items() if digest is None}
    if bad:
        for reason in bad.values():
            print(f"unreadable: {reason}", file=sys.stderr)
        if not args.skip_bad:
            raise UserError(f"{len(bad)} of {len(needed)} source images cannot be read (named above); mend them or "
                            f"leave them out with --skip-bad. Nothing was built.")
    wanted, sample = ([i for i in some if i not in bad] for some in (wanted.tolist(), sample.tolist()))
    if not wanted or not sample:
        raise UserError(f"no readable image is left in {root}")

    skipped = [split.frame["id"].iloc[i] for i in bad]
    every = split.frame.assign(sha256=pd.Series({i: sha256 for i, (sha256, _) in digests.items()}))
    frame = every.iloc[wanted].reset_index(drop=True)
    label = label[wanted]
    softening = {name: as_default(args, name) for name in ("beta", "exponent", "visibility", "visibility_per")}
    identity = {
        "format": FORMAT, "dataset": args.dataset, "size": args.image_size, "seed": args.seed,
        "image_format": args.format, "quality": None if args.format == "png" else args.quality,
        "constants": constants(args.corruptions, args.image_size), "softening": softening,
        "ids": digest(frame["id"]), "labels": digest(map(str, label.round(6).tolist())),
    }
    made_with = identity | {
        "options": options, "protocol": args.protocol, "preset": args.corruptions, "limit": args.limit,
        "images": len(frame), "sources": digest(digests[i][0] for i in wanted + sample), "encoder": ENCODER,
    }
    facts = {
        "set_version": set_version(identity),
        "title": f"{TITLES[args.dataset]}-C", "classes": list(split.classes),
        "counts": {name: int((frame["expression"] == k).sum()) for k, name in enumerate(split.classes)},
        "notes": {key: value for key, value in split.notes.items() if key != "cache"} | notes
        | ({"unreadable, skipped": skipped} if skipped else {}),
    }
    return Plan(frame, label, every.iloc[sample], root, made_with, facts, gmm, args.images, args)


def as_default(args: Args, name: str) -> object:
    """An option's value; one equal to the default is the default: 2.0, as it comes from a command line, and 2 are one
    exponent and have to give one set version."""
    default = getattr(Args, name)
    value = getattr(args, name)
    return default if value == default else value


def chosen(args, count):
    """Row numbers of a split of `count` images: those of the set, and those D_worst is estimated on, which are of the
    full split, so that --limit does not change it."""
    wanted = np.unique(np.linspace(0, count - 1, min(args.limit or count, count)).round().astype(int))
    return wanted, keyed_rng("D_worst", args.seed).permutation(count)[:CALIBRATION_IMAGES]


def is_built(plan: Plan, out: Path) -> bool:
    """Whether the set is there, built with these settings. Raises UserError when it is there with others."""
    if not (out / "manifest.json").exists():
        return False
    there = read_manifest(out)["made_with"] | {"files": ALL if (out / "images").exists() else FEW}
    refuse_if_different(there, plan.state, out)
    if belongs(partial_of(out), plan):
        remove_written(partial_of(out), plan.ids)  # the last build may have died just before doing so
    print(f"{out} is already built with these settings ({plan.made_with['images']} images x {len(CELLS)})")
    return True


def belongs(folder: Path, plan: Plan) -> bool:
    """Whether an unfinished set or a shard was made with the plan's settings, or does not say with which (it died while
    it was being removed). One that is damaged or was made with other settings is somebody's."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    try:
        return not (folder / "build.json").exists() or read_state(folder) == plan.state
    except UserError:
        return False


def source_digest(root, row):
    """(sha256 of the file, None), or (None, why it cannot be read)."""
    try:
        path = inside(root, row.path)
        read_image(path, 16)
        return hashlib.sha256(path.read_bytes()).hexdigest(), None
    except UserError as error:
        return None, error


# What a setting is called in messages, where its value says nothing to people
UNSPEAKING = {"ids": "the images", "labels": "the labels before softening", "sources": "the sources of the images"}


def refuse_if_different(before: dict, now: dict, where: Path) -> None:
    """Raises UserError naming the settings in which what is there differs from what is asked for. Both as
    `Plan.state`."""
    differ = []
    for key in now:
        if key == "constants":
            names = [name for name in now[key] if before[key].get(name) != now[key][name]]
            if names:
                differ.append(f"the constants of {named(names)}")
        elif key in UNSPEAKING:
            differ += [UNSPEAKING[key]] if before.get(key) != now[key] else []
        elif isinstance(now[key], dict):  # softening, and the options of the data set
            for name in sorted({*before[key], *now[key]}):
                differ += difference_in_words(name, before[key].get(name), now[key].get(name))
        else:
            differ += difference_in_words(key, before.get(key), now[key])
    if not differ:
        return
    same_preset = all(before[key] == now[key] for key in ("preset", "size"))
    reason = ""
    if same_preset and before["constants"] != now["constants"]:
        reason = (f" The constants of preset {now['preset']} at {now['size']} pixels have changed since (see "
                  f"CHANGELOG.md): a finished set can still be scored, but not be continued.")
    raise UserError(f"{where} was made with other settings ({'; '.join(differ)}).{reason} Choose another --out or "
                    f"remove it.")


def difference_in_words(name: str, before: object, now: object) -> list[str]:
    """["seed: 0 there, 1 asked for"], [] where the two are equal."""
    if before == now:
        return []
    there, asked = ("none" if value is None else str(value) for value in (before, now))
    return [f"{name}: {there} there, {asked} asked for"]


# ---- building

def build(plan: Plan, out: Path, workers: int, shard: tuple[int, int] | None = None,
          shards: tuple[Path, ...] = ()) -> None:
    """Make the set in `<out>.partial`, then move it to `out`. shard: (i, n), only that part, to `shard_of(out, i, n)`;
    shards: folders of all n, whose files are taken."""
    goal = shard_of(out, *shard) if shard else out
    work, made = partial_of(goal), plan.made_with
    job = Job(plan.root, work, made, plan.images, shards)
    again, joining = command(plan.args), command(plan.args, shard=None, merge=True)
    for folder in shards:
        refuse_if_different(read_state(folder), plan.state, folder)
    if (goal / "build.json").exists():
        refuse_if_different(read_state(goal), plan.state, goal)
        print(f"{goal} is already built with these settings; when all {shard[1]} are there, join them: {joining}")
        return
    refuse_foreign(work, plan)
    try:
        with cli.lock(work, "building"):
            if is_built(plan, out):  # by another process, while this one read the sources
                return
            if (work / "build.json").exists():
                refuse_if_different(read_state(work), plan.state, work)
            else:
                cli.write_text(work / "build.json", json.dumps(plan.state))
            for folder in ("journal", *(f"set/{folder}" for folder in FOLDERS[:None if plan.images else 1])):
                (work / folder).mkdir(parents=True, exist_ok=True)
            for left in (work / "set").glob(".*.tmp"):  # nothing foreign: `refuse_foreign` has looked
                left.unlink()
            chunks = plan.chunks[shard[0] - 1::shard[1]] if shard else plan.chunks
            with workers_of(workers) as submit:
                wrong = run_all(submit, damage, job, chunks)
                todo = [chunk for chunk, what in zip(chunks, wrong, strict=True) if what]
                count, left = (sum(len(rows) for _, rows in some) * len(CELLS) for some in (chunks, todo))
                with tqdm(total=count, initial=count - left, unit=" images", smoothing=0.05, disable=None,
                          desc=made["dataset"]) as bar:
                    run_all(submit, take_chunk if shards else make_chunk, job, todo,
                            lambda chunk: bar.update(len(chunk[1]) * len(CELLS)))
            if shard is None:
                finish(plan, work, job, chunks)
            os.sync()  # what has its final name survives a power cut
            if shard:
                work.rename(goal)
            else:
                if out.exists():
                    out.rmdir()  # empty, or check_place would have refused
                (work / "set").rename(out)
                for folder in (work, *shards):
                    remove_written(folder, plan.ids)
    except BrokenProcessPool:
        fewer = command(plan.args, workers=max(1, workers // 2))
        raise UserError(f"a worker process died (out of memory?); what is done is kept in {work}: start again, perhaps "
                        f"with fewer workers: {fewer}") from None
    except OSError as error:
        raise UserError(f"cannot write {error.filename or work}: {error.strerror or error}; what is done is kept in "
                        f"{work}: mend it and start again: {again}") from None
    if shard:
        own = sum(int(rows["kept"].sum()) for _, rows in chunks)
        print(f"built {goal}: {own} of {len(plan.frame)} images x {len(CELLS)} forms; when all {shard[1]} shards are "
              f"there, join them: {joining}")
        return
    print(f"built {out}: {len(plan.frame)} images x {len(CELLS)} forms, set version {plan.facts['set_version'][:12]}")
    built = open_set(out)
    print_confidence(built)
    print_unchanged(built)


def refuse_foreign(work: Path, plan: Plan) -> None:
    """Raises UserError when the folder where the set grows holds what this build does not write: it would become part
    of the set, or be left over in the end."""
    if not work.exists():
        return
    if (work / "build.json").exists():
        refuse_if_different(read_state(work), plan.state, work)
    _, foreign = written_and_foreign(work, plan.ids)
    if foreign:
        raise UserError(f"{work}, where the set grows, holds {named(foreign)}, which make_fer_c.py did not write; move "
                        f"it away, then the same command goes on, or choose another --out")


@contextmanager
def workers_of(count):
    """A `submit(function, *arguments)`: in this process for one worker, else in a pool."""
    if count == 1:
        yield None
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["make_fer_c"])
    with ProcessPoolExecutor(count, context, initializer=begin_worker, initargs=(os.getpid(),)) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def begin_worker(builder):
    """One OpenCV thread each; Ctrl-C is the builder's business; when the builder is gone, so is the worker."""
    def follow():
        try:
            select.select([os.pidfd_open(builder)], [], [])
        finally:
            os._exit(1)

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()


def run_all(submit, work_on, recipe, items, done=lambda item: None):
    """`[work_on(recipe, item) for item in items]`, by the pool where there is one; `done(item)` as each comes in."""
    if submit is None:
        results = []
        for item in items:
            results.append(work_on(recipe, item))
            done(item)
        return results
    futures = {submit(work_on, recipe, item): item for item in items}
    for future in as_completed(futures):
        future.result()
        done(futures[future])
    return [future.result() for future in futures]


# ---- shards of a set, built on several machines

def read_shard(text: str | None) -> tuple[int, int] | None:
    """"2/8" -> (2, 8); None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard takes i/n with i from 1 to n, for example 2/8, not {text!r}")
    return int(match[1]), int(match[2])


def shard_of(out: Path, i: int, n: int) -> Path:
    return out.with_name(f"{out.name}.shard-{i}-of-{n}")


def shard_names(out: Path) -> list[re.Match]:
    """What lies beside `out` as shard of it, each a match: [1] of [2], [3] ".partial" where it is not whole."""
    pattern = re.compile(re.escape(out.name) + r"\.shard-(\d+)-of-(\d+)(\.partial)?")
    names = os.listdir(out.parent) if out.parent.exists() else ()
    return [match for match in map(pattern.fullmatch, names) if match]


def find_shards(out: Path, plan: Plan) -> tuple[Path, ...]:
    """The folders of all n shards beside `out`, in order. Raises UserError naming what is missing or does not fit."""
    counts = sorted({int(match[2]) for match in shard_names(out)})
    if len(counts) != 1:
        what = f"shards of several divisions (n = {', '.join(map(str, counts))})" if counts else "no shards"
        first = command(plan.args, merge=False, shard="1/2")
        raise UserError(f"--merge found {what} in {out.parent}, named {out.name}.shard-<i>-of-<n>; it needs all of "
                        f"one. The first of two is built by: {first}")
    shards = [shard_of(out, i, counts[0]) for i in range(1, counts[0] + 1)]
    missing = [i for i, folder in enumerate(shards, 1) if not (folder / "build.json").exists()]
    if missing:
        text = ", ".join(f"{i}/{counts[0]}" + (" (begun)" if partial_of(shards[i - 1]).exists() else "")
                         for i in missing[:20])
        first = command(plan.args, merge=False, shard=f"{missing[0]}/{counts[0]}")
        raise UserError(f"--merge: {len(missing)} of {counts[0]} shards are missing: {text}. Build them: {first}")
    return tuple(shards)


def read_state(folder: Path) -> dict:
    """What a shard or an unfinished set was made with. Raises DamagedFile where its build.json is not as written."""
    file = folder / "build.json"
    try:
        state = cli.read_json(file)
        check_made_with(state, file)
        require(state.get("files") in (ALL, FEW), file, "files is missing or unknown")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; remove {folder} and give the same command again") from None
    except UserError as error:
        raise cli.DamagedFile(f"{error}; remove {folder} and give the same command again") from None
    return state


# ---- what it would cost

def estimate(args: Args, out: Path, shard: tuple[int, int] | None) -> None:
    """Print images, bytes and minutes of a build, from making the forms of a few images in memory."""
    root = args.root or default_root(args.dataset)
    split = load_split(args.dataset, root, "test", **parse_options(args.data))
    wanted, sample = chosen(args, len(split.frame))
    part = 1 / shard[1] if shard else 1
    images, outside = len(wanted) * part, len(set(sample) - set(wanted)) * part
    made = {"size": args.image_size, "seed": args.seed, "constants": constants(args.corruptions, args.image_size),
            "image_format": args.format, "quality": args.quality, "softening": {"visibility": args.visibility}}
    job, sizes, seconds = Job(root, out, made, args.images), [], []
    few = split.frame.iloc[wanted[np.unique(np.linspace(0, len(wanted) - 1, MEASURED).astype(int))]]
    sums = [source_digest(root, row)[0] for row in few.itertuples()]
    few = few.assign(kept=True, sha256=sums).dropna(subset="sha256")
    for row in (*few[:1].itertuples(), *few.itertuples()):  # the first once more: what it takes to compile is left out
        began = time.perf_counter()
        sizes.append([])
        make_forms(job, row, lambda data: sizes[-1].append(len(data)))
        seconds.append(time.perf_counter() - began)
        if sum(seconds[1:]) > MEASURED:
            break
    if not sizes:
        raise UserError(f"none of {MEASURED} images of {root} can be read")
    each = np.mean([sum(files[:None if args.images else 1]) for files in sizes])
    needed = images * (each + len(CELLS) * 4 * (len(split.classes) + 1) + len(FOLDERS) * 110)  # arrays, checksums
    there = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    minutes = (images + outside) * np.mean(seconds[1:]) / min(args.workers, os.cpu_count()) / 60
    print(f"{shard_of(out, *shard) if shard else out}: {images:,.0f} images x {len(CELLS)} forms, about "
          f"{needed / 1e9:.3g} GB and {minutes:.2g} minutes with {args.workers} workers ({len(seconds) - 1} images "
          f"measured). {free / 1e9:.3g} GB are free in {there}{': TOO LITTLE' if needed > free else ''}")


# ---- finishing

def finish(plan: Plan, work: Path, job: Job, chunks: list[tuple[int, pd.DataFrame]]) -> None:
    """Soft labels from the differences, then the tables, the checksums and the manifest."""
    folder, softening = work / "set", plan.made_with["softening"]
    sums, differences, unchanged = {}, {}, np.zeros(len(CELLS), int)
    for number, rows in chunks:
        entries = read_journal(journal_of(work, number), job, rows)
        for row in rows.itertuples():
            entry = entries[row.id]
            differences[row.id] = np.array(entry["difference"])
            if row.kept:
                sums[row.id] = bytes.fromhex("".join(entry["sha256"]))
                unchanged[entry["unchanged"]] += 1
    of_set, of_sample = (np.stack([differences[i] for i in rows["id"]], 1) for rows in (plan.frame, plan.calibration))
    of_sample = of_sample.mean(1)
    worst = float(of_sample.max())
    try:
        visible = soft_labels.visibility(of_set, worst)
        if softening["visibility_per"] == "mean":
            visible = np.broadcast_to(visible.mean(1, keepdims=True), visible.shape)
        gmm = plan.gmm and json.dumps(json.loads(plan.gmm.to_json()) | {"classes": plan.facts["classes"]}, indent=1)
        write_tables(folder, plan.frame, plan.label, visible, softening["exponent"], gmm)
    except ValueError as error:
        raise UserError(f"no labels can be made for {work}, and no set is written: {error}") from None
    name, severity = CELLS[int(of_sample.argmax())]
    manifest = plan.facts | {
        "made_with": plan.made_with, "software": software(),
        "worst": {"difference": worst, "corruption": name, "severity": severity,
                  "images": plan.calibration["id"].tolist()},
        "unchanged": mostly_unchanged(unchanged / len(plan.frame)),
    }
    seal(folder, manifest, sums, plan.made_with["image_format"], plan.images)


def mostly_unchanged(fractions: np.ndarray) -> list[dict]:
    """The cells in which over half of the images equal the clean one, for the manifest. fractions: float (85,)."""
    return [{"corruption": name, "severity": severity, "fraction": round(float(fraction), 6)}
            for (name, severity), fraction in zip(CELLS, fractions, strict=True) if fraction > 0.5]


def print_unchanged(built: BuiltSet) -> None:
    """One line about the corruptions that do nothing to most images, at this size or to images like these."""
    severities = {}
    for cell in built.manifest["unchanged"]:
        severities.setdefault(cell["corruption"], []).append(str(cell["severity"]))
    if severities:
        cells = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in severities.items())
        print(f"in {len(built.manifest['unchanged'])} of {len(CELLS)} corruptions at a severity, over half of the "
              f"images equal the clean one: {cells}")


def print_confidence(built):
    """Mean confidence of the soft labels in every cell: how sure a person is taken to be of the expression."""
    confidence = built.soft_labels.max(-1).mean(-1)
    print("mean label confidence (largest class, percent), severity 1..5; "
          f"clean {100 * built.label.max(1).mean():.1f}, visibility {built.made_with['softening']['visibility']}")
    for name, row in zip(CORRUPTIONS, confidence, strict=True):
        print(f"  {name:18}" + "".join(f"{100 * value:7.1f}" for value in row))


def draw_gallery(built, file):
    """Figure 2: one image in all 17 corruptions at severity 5, each over the bars of its soft label."""
    import matplotlib.style

    from reporting import pictures, style

    title = built.manifest["title"] + (" (demo data)" if built.made_with["dataset"] == "demo" else "")
    with matplotlib.style.context(["default", style.STYLE]):
        figure = pictures.draw_gallery(built, title, pictures.choose_image(built))
        style.save(figure, file.with_suffix(""), [file.suffix[1:]])


if __name__ == "__main__":
    cli.run(main, Args, settle)
