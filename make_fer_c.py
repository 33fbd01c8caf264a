"""Build FER-C: every test image in 17 corruptions x 5 severities, with soft labels and a manifest.

  python make_fer_c.py --dataset demo                          faces drawn on the spot, nothing to fetch
  python make_fer_c.py --dataset ferplus --root DIR --workers 8
  python make_fer_c.py --dataset ferplus --verify              re-hash a finished set

The set grows in DIR.partial and moves to DIR when it is whole. Killed, the same command goes on and ends with the same
bytes. FER-C: arXiv:2312.11542; the corruptions are ImageNet-C's (Hendrycks and Dietterich, ICLR 2019).
"""
import hashlib
import json
import multiprocessing
import os
import select
import shutil
import signal
import sys
import threading
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
from corruptions import CORRUPTIONS, PRESETS, constants, corrupt
from datasets import GMM_FROM, RECIPES, TITLES, default_root, default_set, keyed_rng, load_split, parse_options
from datasets.fer_c import CELLS, FORMAT, SEVERITIES, open_set, partial_of, read_manifest
from datasets.images import inside, read_image

CALIBRATION_IMAGES = 100  # D_worst is the largest mean difference over these (FER-C section 4.2.3)
CHUNK = 4  # source images (344 files) between two entries of the journal
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
    """png keeps every value; jpg and webp are smaller and change the benchmark"""
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
    out = args.out or default_set(args.dataset)
    if args.verify:
        return verify(out, args.workers)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; the set needs a folder")
    plan = make_plan(args)
    if (out / "manifest.json").exists():
        refuse_if_different(read_manifest(out)["made_with"], plan.made_with, out)
        shutil.rmtree(partial_of(out), ignore_errors=True)  # the last build may have died just before doing so
        print(f"{out} is already built with these settings ({plan.made_with['images']} images x 85)")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is no FER-C set (no manifest.json); choose another --out")
    else:
        build(plan, out, args.workers)
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


def make_plan(args):
    root = args.root or default_root(args.dataset)
    options = parse_options(args.data)
    split = load_split(args.dataset, root, "test", **options)
    label, gmm, notes = fused_labels(args, root, options, split)
    count = len(split.frame)
    wanted = np.unique(np.linspace(0, count - 1, min(args.limit or count, count)).round().astype(int))
    order = keyed_rng("D_worst", args.seed).permutation(count)  # of the full split, so that --limit does not change it
    sample = order[:CALIBRATION_IMAGES]
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
    frame = split.frame.iloc[wanted].reset_index(drop=True)
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
        "images": len(frame), "sources": digest(digests[i][0] for i in wanted + sample),
    }
    facts = {
        "set_version": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "title": f"{TITLES[args.dataset]}-C", "classes": list(split.classes),
        "counts": {name: int((frame["expression"] == k).sum()) for k, name in enumerate(split.classes)},
        "notes": {key: value for key, value in split.notes.items() if key != "cache"} | notes
        | ({"unreadable, skipped": skipped} if skipped else {}),
    }
    return Plan(frame, label, split.frame.iloc[sample], root, made_with, facts, gmm)


def fused_labels(args, root, options, split):
    """(N, K) labels before softening: the annotators' distribution where there is one, else label and mixture fused."""
    expression, va = split.frame["expression"].to_numpy(), split.frame[["valence", "arousal"]].to_numpy()
    if split.distribution is not None:
        return split.distribution, None, {"labels": "the annotators' distribution"}
    known = np.isfinite(va).all(1)
    label = np.eye(len(split.classes))[expression]
    if not known.any():
        return label, None, {"labels": "one-hot: the set has neither distributions nor valence and arousal"}
    notes = {"one-hot for want of valence and arousal": int((~known).sum())}
    if args.gmm:
        gmm = read_gmm(args.gmm, split.classes)
        notes["mixture"] = f"given, sha256 {hashlib.sha256(args.gmm.read_bytes()).hexdigest()}"
    else:
        gmm = fit_gmm(args.dataset, load_split(args.dataset, root, "train", **options).frame, split.classes)
        notes["mixture"] = "fitted on the training split"
        if args.dataset in GMM_FROM:
            source = GMM_FROM[args.dataset]
            notes["mixture"] += f", although FER-C takes that of {source}"
            print(f"warning: FER-C labels {args.dataset} with the mixture of {source}; without --gmm "
                  f"{default_set(source)}/gmm.json this set is labelled with its own", file=sys.stderr)
    label[known] = soft_labels.fuse(expression[known], gmm.posterior(va[known]), args.beta)
    return label, gmm, notes | {"labels": "given label and mixture fused"}


def fit_gmm(dataset, train, classes):
    va, labels = train[["valence", "arousal"]].to_numpy(), train["expression"].to_numpy()
    try:
        return soft_labels.fit_gmm(va, labels, len(classes))
    except ValueError as error:
        named = ", ".join(f"{k} is {name}" for k, name in enumerate(classes))
        raise UserError(f"{dataset}: no mixture over valence and arousal can be fitted: {error} ({named})") from None


def read_gmm(file, classes):
    """The mixture in a built set's gmm.json, its classes matched by name and the weights renormalised."""
    try:
        text = file.read_text()
        gmm, names = soft_labels.GMM.from_json(text), json.loads(text)["classes"]
        return gmm.take([names.index(name) for name in classes])
    except OSError as error:
        raise UserError(f"--gmm {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"--gmm {file}: no mixture of the classes {', '.join(classes)} ({error})") from None


def source_digest(root, row):
    """(sha256 of the file, None), or (None, why it cannot be read)."""
    try:
        path = inside(root, row.path)
        read_image(path, 16)
        return hashlib.sha256(path.read_bytes()).hexdigest(), None
    except UserError as error:
        return None, error


def digest(texts):
    """One sha256 over a sequence of texts."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\n")
    return whole.hexdigest()


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

@dataclass(frozen=True)
class Recipe:
    """What a worker has to know to make the forms of one image; small, so that it travels to other processes."""

    root: Path
    work: Path
    size: int
    seed: int
    preset: str
    measure: str
    image_format: str
    quality: int | None


def build(plan, out, workers):
    """Make the set in `<out>.partial`, then move it to `out`."""
    work, made = partial_of(out), plan.made_with
    recipe = Recipe(plan.root, work, made["size"], made["seed"], made["preset"], made["softening"]["visibility"],
                    made["image_format"], made["quality"])
    try:
        with cli.lock(work, "building"):
            for left in (work / "set").glob(".*.tmp"):
                left.unlink()
            if (work / "build.json").exists():
                refuse_if_different(json.loads((work / "build.json").read_text()), made, work)
            else:
                cli.write_text(work / "build.json", json.dumps(made))
            for folder in ("temporary", "journal", "set/clean", *(f"set/images/{name}/{s}" for name, s in CELLS)):
                (work / folder).mkdir(parents=True, exist_ok=True)
            chunks = [(number, plan.frame.iloc[start:start + CHUNK])
                      for number, start in enumerate(range(0, len(plan.frame), CHUNK))]
            extra = plan.calibration[~plan.calibration["id"].isin(plan.frame["id"])]
            extra = [extra.iloc[i:i + 1] for i in range(len(extra))]
            with workers_of(workers) as submit:
                todo = [chunks[n] for n, whole in enumerate(run_all(submit, is_whole, recipe, chunks)) if not whole]
                kept = len(plan.frame) - sum(len(rows) for _, rows in todo)
                bar = tqdm(total=len(plan.frame) * len(CELLS), initial=kept * len(CELLS), unit=" images",
                           smoothing=0.05, disable=None, desc=made["dataset"])
                with bar:
                    run_all(submit, make_chunk, recipe, todo, lambda chunk: bar.update(len(chunk[1]) * len(CELLS)))
                outside = run_all(submit, measure_only, recipe, extra)
            finish(plan, work, len(chunks), {key: value for part in outside for key, value in part.items()})
            if out.exists():
                out.rmdir()  # empty, or main would have refused
            (work / "set").rename(out)
            shutil.rmtree(work)
    except BrokenProcessPool:
        raise UserError(f"a worker process died (out of memory?); what is done is kept in {work}: start again, perhaps "
                        f"with fewer --workers") from None
    except OSError as error:
        raise UserError(f"cannot write {error.filename or work}: {error.strerror}; what is done is kept in {work}: "
                        f"mend it and start again") from None
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


def journal_of(work, number):
    return work / "journal" / f"{number}.json"


def is_whole(recipe, chunk):
    """Whether an earlier run finished this chunk and its files still are what it wrote."""
    try:
        entry = json.loads(journal_of(recipe.work, chunk[0]).read_text())
        return all(hashlib.sha256((recipe.work / "set" / name).read_bytes()).hexdigest() == wanted
                   for name, wanted in entry["files"].items())
    except (FileNotFoundError, ValueError, KeyError):
        return False


def make_chunk(recipe, chunk):
    """All files of a few source images, then one entry in the journal."""
    number, rows = chunk
    entry = {"files": {}, "difference": {}}
    for row in rows.itertuples():
        def keep(name, image, row=row):
            path = f"{name}/{row.id}.{recipe.image_format}"
            entry["files"][path] = write_image(recipe, path, image)

        entry["difference"][row.id] = make_forms(recipe, row, keep)
    cli.write_text(journal_of(recipe.work, number), json.dumps(entry))


def measure_only(recipe, rows):
    """{id: differences} of images that D_worst is estimated on but that are not part of the set."""
    return {row.id: make_forms(recipe, row, lambda name, image: None) for row in rows.itertuples()}


def make_forms(recipe, row, keep):
    """The clean image and its 85 forms to `keep(folder, image)`; returns the differences to the clean one, by cell.

    Every form draws from a generator of its own, keyed by seed, image, corruption and severity."""
    clean = read_image(inside(recipe.root, row.path), recipe.size, (row.left, row.top, row.right, row.bottom))
    keep("clean", clean)
    differences = []
    for name, severity in CELLS:
        rng = keyed_rng(recipe.seed, row.id, name, severity)
        form = corrupt(clean, name, severity, rng, recipe.preset)
        keep(f"images/{name}/{severity}", form)
        differences.append(soft_labels.difference(clean, form, recipe.measure))
    return differences


def write_image(recipe, name, image):
    """Encode, write under a temporary name, rename; returns the sha256 of the file's bytes."""
    options = {"png": [], "jpg": [cv2.IMWRITE_JPEG_QUALITY, recipe.quality],
               "webp": [cv2.IMWRITE_WEBP_QUALITY, recipe.quality]}[recipe.image_format]
    data = cv2.imencode(f".{recipe.image_format}", image[..., ::-1], options)[1]
    temporary = recipe.work / "temporary" / str(os.getpid())
    temporary.write_bytes(data)
    temporary.replace(recipe.work / "set" / name)
    return hashlib.sha256(data).hexdigest()


# ---- finishing

def finish(plan, work, chunks, outside):
    """Soft labels from the differences, then the tables, the checksums and the manifest."""
    entries = [json.loads(journal_of(work, number).read_text()) for number in range(chunks)]
    differences = {key: value for entry in entries for key, value in entry["difference"].items()}
    shape = (len(CORRUPTIONS), len(SEVERITIES), -1)
    of_set = np.array([differences[i] for i in plan.frame["id"]]).T.reshape(shape)
    of_sample = np.array([(differences | outside)[i] for i in plan.calibration["id"]]).T.reshape(shape).mean(-1)
    worst = float(of_sample.max())
    visible = soft_labels.visibility(of_set, worst)
    if plan.made_with["softening"]["visibility_per"] == "mean":
        visible = np.broadcast_to(visible.mean(-1, keepdims=True), visible.shape)
    soft = soft_labels.soften(plan.label, visible, plan.made_with["softening"]["exponent"])

    folder = work / "set"
    fused = pd.DataFrame(plan.label, columns=[f"t_{k}" for k in range(plan.label.shape[1])])
    parts = [plan.frame[["id", "path", "expression"]], fused, plan.frame[["valence", "arousal", "identity"]]]
    cli.write_text(folder / "labels.csv", pd.concat(parts, axis=1).to_csv(index=False))
    cli.write_whole(folder / "soft_labels.npy", lambda file: np.save(file, soft.astype(np.float32)))
    cli.write_whole(folder / "visibility.npy", lambda file: np.save(file, visible.astype(np.float32)))
    means = pd.DataFrame(visible.mean(-1), index=pd.Index(CORRUPTIONS, name="corruption"), columns=SEVERITIES)
    cli.write_text(folder / "visibility_mean.csv", means.to_csv(float_format="%.6f"))
    if plan.gmm is not None:
        named = json.loads(plan.gmm.to_json()) | {"classes": plan.facts["classes"]}
        cli.write_text(folder / "gmm.json", json.dumps(named, indent=1))

    sums = {name: value for entry in entries for name, value in entry["files"].items()}
    tables = ("labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json")
    sums |= {table: hashlib.sha256((folder / table).read_bytes()).hexdigest() for table in tables
             if (folder / table).exists()}
    name, severity = CELLS[int(of_sample.argmax())]
    manifest = plan.facts | {
        "made_with": plan.made_with, "content": content_hash(sums),
        "worst": {"difference": worst, "corruption": name, "severity": severity,
                  "images": plan.calibration["id"].tolist()},
        "software": cli.versions("numpy", "opencv-python-headless", "pillow", "scipy", "numba"),
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    sums["manifest.json"] = hashlib.sha256(text.encode()).hexdigest()
    cli.write_text(folder / "checksums.sha256", "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    cli.write_text(folder / "manifest.json", text)
    os.sync()  # a set that has its final name survives a power cut


def content_hash(sums):
    """One hash over all files but the manifest, which holds it."""
    return digest(f"{sums[name]}  {name}" for name in sorted(sums) if name != "manifest.json")


def print_confidence(built):
    """Mean confidence of the soft labels in every cell: how sure a person is taken to be of the expression."""
    confidence = built.soft_labels.max(-1).mean(-1)
    print("mean label confidence (largest class, percent), severity 1..5; "
          f"clean {100 * built.label.max(1).mean():.1f}, visibility {built.made_with['softening']['visibility']}")
    for name, row in zip(CORRUPTIONS, confidence, strict=True):
        print(f"  {name:18}" + "".join(f"{100 * value:7.1f}" for value in row))


def verify(out, workers):
    """Re-hash every file of a set. Prints what is missing, changed or extra; raises UserError if anything is."""
    manifest = read_manifest(out)
    try:
        lines = (out / "checksums.sha256").read_text().splitlines()
        sums = {name: value for value, name in (line.split("  ", 1) for line in lines)}
    except (FileNotFoundError, ValueError):
        raise UserError(f"{out}/checksums.sha256 is missing or not in sha256sum's form") from None

    def state(name):
        try:
            return None if hashlib.sha256(inside(out, name).read_bytes()).hexdigest() == sums[name] else "changed"
        except OSError:
            return "missing"

    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(state, sums), total=len(sums), unit=" files", disable=None, desc="verify")
        wrong = [(what, name) for what, name in zip(bar, sums, strict=True) if what]
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    wrong += [("extra", name) for name in sorted(present - set(sums) - {"checksums.sha256"})]
    if content_hash(sums) != manifest["content"]:
        wrong.append(("changed", "checksums.sha256 (does not give the manifest's content hash)"))
    for what, name in wrong[:50]:
        print(f"{what}: {name}")
    if wrong:
        raise UserError(f"{out}: {len(wrong)} files are not as built. Remove the folder and build it again, or restore "
                        f"them from another copy.")
    print(f"{out}: {len(sums)} files as built, set version {manifest['set_version'][:12]}")


def draw_gallery(built, file):
    """Figure 2: one image in all 17 corruptions at severity 5, each over the bars of its soft label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    panels = figure.subplots(6, 6, gridspec_kw={"height_ratios": (3, 1) * 3})
    shown = [("original", built.image_path(0), built.label[0])]
    shown += [(name.replace("_", " "), built.image_path(0, name, 5), built.soft_labels[c, 4, 0])
              for c, name in enumerate(CORRUPTIONS)]
    for i, (title, path, label) in enumerate(shown):
        picture, bars = panels[2 * (i // 6), i % 6], panels[2 * (i // 6) + 1, i % 6]
        picture.imshow(read_image(path, built.made_with["size"]))
        picture.set_title(title, fontsize=8, pad=2)
        picture.axis("off")
        bars.bar(range(len(label)), label, color="#0072B2")
        bars.set(ylim=(0, 1), yticks=(0, 1), xticks=range(len(label)))
        bars.set_xticklabels([name[:3] for name in built.classes], rotation=90, fontsize=5)
        bars.tick_params(labelsize=5, length=2, pad=1)
    drawn = " (demo data)" if built.made_with["dataset"] == "demo" else ""
    figure.suptitle(f"{built.manifest['title']}{drawn}: severity 5 and the soft label", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    cli.run(main, Args, settle)
