"""Build FER-C: every test image in 17 corruptions x 5 severities, with soft labels and a manifest.

  python make_fer_c.py --dataset demo                          faces drawn on the spot, nothing to fetch
  python make_fer_c.py --dataset ferplus --root DIR --workers 8
  python make_fer_c.py --dataset ferplus --dry-run             how many images, bytes and minutes it would be
  python make_fer_c.py --dataset ferplus --shard 2/8           a share of it, on any machine; then, for all: --merge
  python make_fer_c.py --dataset ferplus --verify              re-hash a finished set

The set grows in DIR.partial and moves to DIR when it is whole. Killed, the same command goes on and ends with the same
bytes. FER-C: arXiv:2312.11542; the corruptions are ImageNet-C's (Hendrycks and Dietterich, ICLR 2019).
"""
import hashlib
import json
import multiprocessing
import os
import re
import select
import shutil
import signal
import sys
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
    CELLS, ENCODER, FOLDERS, FORMAT, Job, damage, digest, journal_of, make_chunk, make_forms, open_set, partial_of,
    read_manifest, seal, software, take_chunk, verify, write_tables)
from datasets.fused import neighbours
from datasets.images import inside, read_image

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
    """side of the canonical image in pixels: resized first, corrupted after (demo: 48)"""
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
    """share of the given label in the fused label (eq. 7)"""
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
    """i/n, i from 1 to n: build only this share, into a folder of its own beside --out, for --merge"""
    merge: bool = False
    """check the shares beside --out and join them to the set; removes them"""
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
    if args.workers < 1 or args.image_size < 16 or (args.limit is not None and args.limit < 1):
        raise UserError("--workers and --limit start at 1, --image-size at 16")
    if not (0 <= args.beta <= 1 and args.exponent > 0 and 1 <= args.quality <= 100):
        raise UserError("--beta lies between 0 and 1, --exponent above 0, --quality between 1 and 100")
    if args.gallery and args.gallery.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--gallery {args.gallery}: give a file name that ends in .png, .svg or .pdf")
    share = read_share(args.shard)
    if share and (args.merge or args.verify or args.gallery):
        raise UserError("--shard builds a share and nothing else; --merge, --verify and --gallery are for whole sets")
    out = args.out or default_set(args.dataset)
    if args.verify:
        return verify(out, args.workers)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; the set needs a folder")
    if args.dry_run:
        return estimate(args, out, share)
    plan = make_plan(args)
    if not is_built(plan, out):
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} exists and is no FER-C set (no manifest.json); choose another --out")
        build(plan, out, args.workers, share, find_shares(out) if args.merge else ())
        if share:
            return
    elif args.merge:  # the merge that made it may have died before it had removed the shares
        for folder in (out.with_name(name[0]) for name in share_names(out) if not name[3]):
            if not (folder / "build.json").exists() or read_state(folder) == plan.state:
                shutil.rmtree(folder)
    if args.gallery:
        draw_gallery(open_set(out), args.gallery)
        print(f"gallery: {args.gallery}")


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

    @property
    def state(self):
        """What an unfinished set or a share was made with."""
        return self.made_with | {"files": ALL if self.images else FEW}

    @property
    def chunks(self):
        """[(number, rows)]: all source images, those only D_worst is estimated on last, with `kept` False."""
        outside = self.calibration[~self.calibration["id"].isin(self.frame["id"])]
        rows = pd.concat([self.frame.assign(kept=True), outside.assign(kept=False)], ignore_index=True)
        return [(number, rows.iloc[start:start + CHUNK]) for number, start in enumerate(range(0, len(rows), CHUNK))]


def make_plan(args):
    root = args.root or default_root(args.dataset)
    options = parse_options(args.data)
    split = load_split(args.dataset, root, "test", **options)
    other, share, gmm, notes = neighbours(args.dataset, split, root, options, args.gmm)
    label = soft_labels.fuse(split.frame["expression"], other, np.nan_to_num(share, nan=args.beta))
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
    softening = {name: getattr(args, name) for name in ("beta", "exponent", "visibility", "visibility_per")}
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
        "set_version": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "title": f"{TITLES[args.dataset]}-C", "classes": list(split.classes),
        "counts": {name: int((frame["expression"] == k).sum()) for k, name in enumerate(split.classes)},
        "notes": {key: value for key, value in split.notes.items() if key != "cache"} | notes
        | ({"unreadable, skipped": skipped} if skipped else {}),
    }
    return Plan(frame, label, every.iloc[sample], root, made_with, facts, gmm, args.images)


def chosen(args, count):
    """Row numbers of a split of `count` images: those of the set, and those D_worst is estimated on, which are of the
    full split, so that --limit does not change it."""
    wanted = np.unique(np.linspace(0, count - 1, min(args.limit or count, count)).round().astype(int))
    return wanted, keyed_rng("D_worst", args.seed).permutation(count)[:CALIBRATION_IMAGES]


def is_built(plan, out):
    """Whether the set is there, built with these settings. Raises UserError when it is there with others."""
    if not (out / "manifest.json").exists():
        return False
    there = read_manifest(out)["made_with"] | {"files": ALL if (out / "images").exists() else FEW}
    refuse_if_different(there, plan.state, out)
    shutil.rmtree(partial_of(out), ignore_errors=True)  # the last build may have died just before doing so
    print(f"{out} is already built with these settings ({plan.made_with['images']} images x {len(CELLS)})")
    return True


def source_digest(root, row):
    """(sha256 of the file, None), or (None, why it cannot be read)."""
    try:
        path = inside(root, row.path)
        read_image(path, 16)
        return hashlib.sha256(path.read_bytes()).hexdigest(), None
    except UserError as error:
        return None, error


def refuse_if_different(before, now, where):
    """Raises UserError naming the settings in which a set that is there differs from the one asked for."""
    before, now = ({**made, **made["softening"], "softening": None} for made in (before, now))
    differ = [f"{key}: {shorten(before.get(key))} there, {shorten(now[key])} asked for"
              for key in now if before.get(key) != now[key]]
    if differ:
        raise UserError(f"{where} was made with other settings ({'; '.join(differ)}). Choose another --out or remove "
                        f"it.")


def shorten(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


# ---- building

def build(plan, out, workers, share=None, shares=()):
    """Make the set in `<out>.partial`, then move it to `out`. share: (i, n), only that part, to `share_of(out, i, n)`;
    shares: folders of all n, whose files are taken."""
    goal = share_of(out, *share) if share else out
    work, made = partial_of(goal), plan.made_with
    job = Job(plan.root, work, made, plan.images, shares)
    for folder in shares:
        refuse_if_different(read_state(folder), plan.state, folder)
    if (goal / "build.json").exists():
        refuse_if_different(read_state(goal), plan.state, goal)
        print(f"{goal} is already built with these settings; --merge joins the shares")
        return
    try:
        with cli.lock(work, "building"):
            if is_built(plan, out):  # by another process, while this one read the sources
                return
            for left in (work / "set").glob(".*.tmp"):
                left.unlink()
            if (work / "build.json").exists():
                refuse_if_different(read_state(work), plan.state, work)
            else:
                cli.write_text(work / "build.json", json.dumps(plan.state))
            for folder in ("journal", *(f"set/{folder}" for folder in FOLDERS[:None if plan.images else 1])):
                (work / folder).mkdir(parents=True, exist_ok=True)
            chunks = plan.chunks[share[0] - 1::share[1]] if share else plan.chunks
            with workers_of(workers) as submit:
                wrong = run_all(submit, damage, job, chunks)
                todo = [chunk for chunk, what in zip(chunks, wrong, strict=True) if what]
                count, left = (sum(len(rows) for _, rows in some) * len(CELLS) for some in (chunks, todo))
                with tqdm(total=count, initial=count - left, unit=" images", smoothing=0.05, disable=None,
                          desc=made["dataset"]) as bar:
                    run_all(submit, take_chunk if shares else make_chunk, job, todo,
                            lambda chunk: bar.update(len(chunk[1]) * len(CELLS)))
            if share is None:
                finish(plan, work, len(chunks))
            os.sync()  # what has its final name survives a power cut
            if share:
                work.rename(goal)
            else:
                if out.exists():
                    out.rmdir()  # empty, or main would have refused
                (work / "set").rename(out)
                for folder in (work, *shares):
                    shutil.rmtree(folder, ignore_errors=True)
    except BrokenProcessPool:
        raise UserError(f"a worker process died (out of memory?); what is done is kept in {work}: start again, perhaps "
                        f"with fewer --workers") from None
    except OSError as error:
        raise UserError(f"cannot write {error.filename or work}: {error.strerror}; what is done is kept in {work}: "
                        f"mend it and start again") from None
    if share:
        own = sum(int(rows["kept"].sum()) for _, rows in chunks)
        print(f"built {goal}: {own} of {len(plan.frame)} images x {len(CELLS)} forms; --merge joins the shares")
        return
    print(f"built {out}: {len(plan.frame)} images x {len(CELLS)} forms, set version {plan.facts['set_version'][:12]}")
    print_confidence(open_set(out))


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


# ---- shares of a set, built on several machines

def read_share(text):
    """"2/8" -> (2, 8); None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard takes i/n with i from 1 to n, for example 2/8, not {text!r}")
    return int(match[1]), int(match[2])


def share_of(out, i, n):
    return out.with_name(f"{out.name}.shard-{i}-of-{n}")


def share_names(out):
    """What lies beside `out` as share of it, each a match: [1] of [2], [3] ".partial" where it is not whole."""
    pattern = re.compile(re.escape(out.name) + r"\.shard-(\d+)-of-(\d+)(\.partial)?")
    return [match for match in map(pattern.fullmatch, os.listdir(out.parent) if out.parent.exists() else ()) if match]


def find_shares(out):
    """The folders of all n shares beside `out`, in order. Raises UserError naming what is missing or does not fit."""
    counts = sorted({int(match[2]) for match in share_names(out)})
    if len(counts) != 1:
        what = f"shares of several divisions (n = {', '.join(map(str, counts))})" if counts else "no shares"
        raise UserError(f"--merge found {what} in {out.parent}, named {out.name}.shard-<i>-of-<n>; it needs all of one")
    shares = [share_of(out, i, counts[0]) for i in range(1, counts[0] + 1)]
    missing = [i for i, folder in enumerate(shares, 1) if not (folder / "build.json").exists()]
    if missing:
        named = ", ".join(f"{i}/{counts[0]}" + (" (begun)" if partial_of(shares[i - 1]).exists() else "")
                          for i in missing[:20])
        raise UserError(f"--merge: {len(missing)} of {counts[0]} shares are missing: {named}. Build them with --shard")
    return tuple(shares)


def read_state(folder):
    """What a share or an unfinished set was made with."""
    try:
        return json.loads((folder / "build.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/build.json is damaged ({cli.first_line(error)}); remove {folder}") from None


# ---- what it would cost

def estimate(args, out, share):
    """Print images, bytes and minutes of a build, from making the forms of a few images in memory."""
    root = args.root or default_root(args.dataset)
    split = load_split(args.dataset, root, "test", **parse_options(args.data))
    wanted, sample = chosen(args, len(split.frame))
    part = 1 / share[1] if share else 1
    images, outside = len(wanted) * part, len(set(sample) - set(wanted)) * part
    made = {"size": args.image_size, "seed": args.seed, "preset": args.corruptions, "image_format": args.format,
            "quality": args.quality, "softening": {"visibility": args.visibility}}
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
    print(f"{share_of(out, *share) if share else out}: {images:,.0f} images x {len(CELLS)} forms, about "
          f"{needed / 1e9:.3g} GB and {minutes:.2g} minutes with {args.workers} workers ({len(seconds) - 1} images "
          f"measured). {free / 1e9:.3g} GB are free in {there}{': TOO LITTLE' if needed > free else ''}")


# ---- finishing

def finish(plan, work, chunks):
    """Soft labels from the differences, then the tables, the checksums and the manifest."""
    sums, differences = {}, {}
    for number in range(chunks):
        for key, entry in json.loads(journal_of(work, number).read_text()).items():
            sums |= {key: bytes.fromhex("".join(entry["sha256"]))} if entry["sha256"] else {}
            differences[key] = np.array(entry["difference"])
    of_set, of_sample = (np.stack([differences[i] for i in rows["id"]], 1) for rows in (plan.frame, plan.calibration))
    of_sample = of_sample.mean(1)
    worst = float(of_sample.max())
    visible = soft_labels.visibility(of_set, worst)
    softening = plan.made_with["softening"]
    if softening["visibility_per"] == "mean":
        visible = np.broadcast_to(visible.mean(1, keepdims=True), visible.shape)
    gmm = plan.gmm and json.dumps(json.loads(plan.gmm.to_json()) | {"classes": plan.facts["classes"]}, indent=1)
    write_tables(work / "set", plan.frame, plan.label, visible, softening["exponent"], gmm)
    name, severity = CELLS[int(of_sample.argmax())]
    manifest = plan.facts | {
        "made_with": plan.made_with, "software": software(),
        "worst": {"difference": worst, "corruption": name, "severity": severity,
                  "images": plan.calibration["id"].tolist()},
    }
    seal(work / "set", manifest, sums, plan.made_with["image_format"], plan.images)


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
