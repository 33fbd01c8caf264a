"""A built set (RAF-DB-C, Demo-C, ...): its images, tables and checksums, how they are written, read and verified.

make_fer_c.py decides what goes in; this file is the only one that knows where it lies and in which form. Layout and the
order of files follow from `FOLDERS`; a set without images/ (--no-images) makes them in memory, see `BuiltSet.image`.
"""
import hashlib
import heapq
import io
import itertools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

import cli
import soft_labels
from cli import UserError, first_line
from corruptions import CORRUPTIONS, constants, corrupt
from datasets import SAFE_ID, keyed_rng
from datasets.images import inside, read_image

FORMAT = 1
SEVERITIES = (1, 2, 3, 4, 5)
CELLS = tuple((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)
FOLDERS = ("clean", *(f"images/{name}/{severity}" for name, severity in CELLS))  # the 86 files of a source image
TABLES = ("labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json")
# chosen by `benchmarks/build.py --only encoders`. PNG: fewer bytes than OpenCV's default in the same time, a fifth of
# the time of level 6 for 6 % more bytes. JPEG: colour at half resolution, the default, would take colour noise away
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
       cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
JPG = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_QUALITY)
ENCODER = "OpenCV; png: level 1, strategy RLE, filter up; jpg: 4:4:4"  # in the manifest


# ---- one image

def make_form(clean, image_id, name, severity, made):
    """One of the 85 forms of a clean image, as `made` (the manifest's `made_with`) says. uint8 (S, S, 3) to the same.

    Every form draws from a generator of its own, keyed by seed, image, corruption and severity."""
    return corrupt(clean, name, severity, keyed_rng(made["seed"], image_id, name, severity), made["preset"])


def encode(image, image_format, quality=None):
    """uint8 (S, S, 3), RGB -> the bytes of its file. png keeps every value; quality: 1 to 100, of jpg and webp."""
    options = {"png": PNG, "jpg": (*JPG, quality), "webp": (cv2.IMWRITE_WEBP_QUALITY, quality)}
    return cv2.imencode(f".{image_format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options[image_format])[1].tobytes()


def files_of(image_id, image_format):
    """The 86 files of a source image, in the order of `FOLDERS`. The clean one is PNG whatever the others are: a set
    without images/ makes them from it."""
    return [f"{folder}/{image_id}.{'png' if folder == 'clean' else image_format}" for folder in FOLDERS]


# ---- reading

@dataclass(frozen=True)
class BuiltSet:
    """A finished set. label: float64 (N, K), before softening; soft_labels: float32 (17, 5, N, K), memory-mapped."""

    folder: Path
    manifest: dict
    frame: pd.DataFrame
    label: np.ndarray
    soft_labels: np.ndarray

    @property
    def classes(self):
        return tuple(self.manifest["classes"])

    @property
    def made_with(self):
        return self.manifest["made_with"]

    @property
    def has_images(self):
        """False for a set built with --no-images: only the clean ones are files."""
        return (self.folder / "images").is_dir()

    def image_path(self, i, corruption=None, severity=None):
        """The file of image `i`: clean, or in one of the 85 forms."""
        cell, kind = ("clean", "png") if corruption is None else (
            f"images/{corruption}/{severity}", self.made_with["image_format"])
        return self.folder / cell / f"{self.frame['id'].iloc[i]}.{kind}"

    def image(self, i, corruption=None, severity=None):
        """uint8 (S, S, 3): what `image_path`'s file holds, made in memory from the clean image."""
        made = self.made_with
        clean = read_image(self.image_path(i), made["size"])
        if corruption is None:
            return clean
        form = make_form(clean, self.frame["id"].iloc[i], corruption, severity, made)
        if made["image_format"] == "png":
            return form
        return read_image(io.BytesIO(encode(form, made["image_format"], made["quality"])), made["size"])

    def check_images(self):
        """Raises UserError when this machine does not make the images that the set was built with: the first image's
        85 forms are made and compared with their checksums."""
        made, first = self.made_with, self.frame["id"].iloc[0]
        wanted = dict.fromkeys(files_of(first, made["image_format"])[1:])
        wanted |= {name: value for value, name in listed(self.folder) if name in wanted}
        clean = read_image(self.image_path(0), made["size"])
        same = constants(made["preset"], made["size"]) == made["constants"] and all(
            _sha256(encode(make_form(clean, first, *cell, made), made["image_format"], made["quality"])) == sha256
            for cell, sha256 in zip(CELLS, wanted.values(), strict=True))
        if not same:
            there, here = self.manifest["software"], software()
            differ = [f"{name} {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]
            raise UserError(f"{self.folder}: the images made here are not the ones the set was built with "
                            f"({', '.join(differ) or 'another kind of processor?'}). Score from files or build here.")

    def targets(self, corruption, severity):
        """Soft labels of one cell, float32 (N, K)."""
        return self.soft_labels[list(CORRUPTIONS).index(corruption), severity - 1]


def software():
    """Versions of what the bytes depend on."""
    return cli.versions("numpy", "opencv-python-headless", "pillow", "scipy", "numba")


def partial_of(folder):
    """Where a set grows until it is whole."""
    return folder.with_name(folder.name + ".partial")


def read_manifest(folder):
    """The manifest of a built set. Raises UserError when it is missing, unfinished, of another format, or damaged."""
    if not (folder / "manifest.json").is_file():
        partial = partial_of(folder)
        why = f"its build is not finished ({partial}): start it again" if partial.exists() else "no manifest.json"
        raise UserError(f"{folder} is no FER-C set: {why}. Build it with make_fer_c.py --out {folder}")
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["made_with"]["format"] != FORMAT:
            raise UserError(f"{folder} is of format {manifest['made_with']['format']}, not {FORMAT}: build it again")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}/manifest.json is damaged ({first_line(error)}): build the set again") from None
    return manifest


def open_set(folder):
    """Open a built set. Raises UserError as `read_manifest` does, and when its tables are damaged."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        frame = pd.read_csv(folder / "labels.csv", dtype={"id": str, "identity": str})
        label = frame[[f"t_{k}" for k in range(len(manifest["classes"]))]].to_numpy(np.float64)
        soft = np.load(folder / "soft_labels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({first_line(error)}); look with make_fer_c.py --verify") from None
    if not frame["id"].str.fullmatch(SAFE_ID.pattern).all():
        raise UserError(f"{folder}/labels.csv is damaged (ids that cannot be file names); look with --verify")
    if soft.shape != (len(CORRUPTIONS), len(SEVERITIES), *label.shape):
        raise UserError(f"{folder}: soft_labels.npy has shape {soft.shape} for {len(frame)} images; run --verify")
    return BuiltSet(folder, manifest, frame, label, soft)


# ---- making, a few source images at a time: what a worker process does

@dataclass(frozen=True)
class Job:
    """What a worker has to know besides the rows; small, so that it travels to other processes."""

    root: Path
    work: Path
    made: dict
    images: bool
    shares: tuple[Path, ...] = ()  # that a merge takes the files from


def journal_of(work, number):
    return work / "journal" / f"{number}.json"


def damage(job, chunk, work=None):
    """The first file of a chunk that is missing in `work` or not what its journal says; None if it is whole."""
    work = work or job.work
    try:
        entry = json.loads(journal_of(work, chunk[0]).read_text())
        for row in chunk[1].itertuples():
            for name, sha256 in zip(kept_files(job, row), entry[row.id]["sha256"], strict=False):
                if hashlib.sha256((work / "set" / name).read_bytes()).hexdigest() != sha256:
                    return name
    except FileNotFoundError as error:
        return str(Path(error.filename).relative_to(work))
    except (ValueError, KeyError, TypeError):
        return str(journal_of(work, chunk[0]).relative_to(work))


def kept_files(job, row):
    """The files of a source image that lie in the set: 86, only the clean one, or (measured for D_worst only) none."""
    return files_of(row.id, job.made["image_format"])[:None if job.images else 1] if row.kept else []


def write_file(path, data):
    """Without rename and flush, unlike `cli.write_whole`: what is not in the journal with its right hash is made again,
    and nobody takes an unfinished set for a finished one."""
    path.write_bytes(data)


def make_chunk(job, chunk):
    """All files of a few source images, then their entry in the journal."""
    number, rows = chunk
    entry = {}
    for row in rows.itertuples():
        files = iter(kept_files(job, row))

        def keep(data, files=files):
            name = next(files, None)
            if name is not None:
                write_file(job.work / "set" / name, data)

        sha256, differences = make_forms(job, row, keep)
        entry[row.id] = {"sha256": sha256, "difference": differences}
    write_file(journal_of(job.work, number), json.dumps(entry).encode())


def make_forms(job, row, keep):
    """The clean image and its 85 forms, encoded, to `keep(data)`; returns (their sha256, the differences of the forms
    to the clean image). Of an image that is not part of the set, only the differences."""
    made, path = job.made, inside(job.root, row.path)
    clean = read_image(path, made["size"], (row.left, row.top, row.right, row.bottom))
    if hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
        raise UserError(f"{path} has changed since the build began; restore it and start again, or remove {job.work}")
    sums, differences = [], []

    def add(image, *encoding):
        if row.kept:
            data = encode(image, *encoding)
            keep(data)
            sums.append(hashlib.sha256(data).hexdigest())

    add(clean, "png")
    for name, severity in CELLS:
        form = make_form(clean, row.id, name, severity, made)
        add(form, made["image_format"], made["quality"])
        differences.append(soft_labels.difference(clean, form, made["softening"]["visibility"]))
    return sums, differences


def take_chunk(job, chunk):
    """The files of a chunk from the share that made it, re-hashed, then its entry in the journal."""
    number, rows = chunk
    share = job.shares[number % len(job.shares)]
    wrong = damage(job, chunk, share)
    if wrong:
        raise UserError(f"{share}: {wrong} is missing or not as built; remove this share and build it again")
    for name in (name for row in rows.itertuples() for name in kept_files(job, row)):
        source, target = share / "set" / name, job.work / "set" / name
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)  # takes no room
        except OSError:
            shutil.copyfile(source, target)
    write_file(journal_of(job.work, number), journal_of(share, number).read_bytes())


# ---- writing the tables; cell by cell, so that memory does not grow with all of them

def write_tables(folder, frame, label, visibility, exponent, gmm=None):
    """labels.csv, the arrays, and the mixture as JSON text. label: (N, K); visibility: float64 (85, N)."""
    fused = pd.DataFrame(label, columns=[f"t_{k}" for k in range(label.shape[1])])
    parts = [frame[["id", "path", "expression"]], fused, frame[["valence", "arousal", "identity"]]]
    cli.write_text(folder / "labels.csv", pd.concat(parts, axis=1).to_csv(index=False))
    _write_cells(folder / "soft_labels.npy", label.shape,
                 (soft_labels.soften(label, visible, exponent) for visible in visibility))
    _write_cells(folder / "visibility.npy", label.shape[:1], visibility)
    means = pd.DataFrame(visibility.mean(1).reshape(-1, len(SEVERITIES)), columns=SEVERITIES,
                         index=pd.Index(CORRUPTIONS, name="corruption"))
    cli.write_text(folder / "visibility_mean.csv", means.to_csv(float_format="%.6f"))
    if gmm is not None:
        cli.write_text(folder / "gmm.json", gmm)


def _write_cells(path, shape, cells):
    """A .npy file, float32 (17, 5, *shape), from its 85 parts."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(CORRUPTIONS), len(SEVERITIES), *shape)}

    def write(file):
        np.lib.format.write_array_header_1_0(file, header)
        for cell in cells:
            file.write(cell.astype("<f4").tobytes())

    cli.write_whole(path, write)


# ---- checksums

def seal(folder, manifest, sums, image_format, images=True):
    """checksums.sha256 over all files, and manifest.json, which makes the folder a set. Where images/ is not kept, the
    sums of its files go to images.sha256; the manifest with its content hash is the same.

    sums: {id: 86 x 32 bytes, in the order of `FOLDERS`}.
    """
    tables = {name: _sha256((folder / name).read_bytes()) for name in TABLES if (folder / name).exists()}

    def lines():  # by name: one folder at a time, so that they need not be sorted all together
        for part in sorted([*tables, *(f"{folder}/" for folder in FOLDERS)]):
            if part in tables:
                yield tables[part], part
                continue
            number, suffix = FOLDERS.index(part[:-1]), "png" if part == "clean/" else image_format
            for name, own in sorted((f"{part}{image}.{suffix}", own) for image, own in sums.items()):
                yield own[32 * number:32 * number + 32].hex(), name

    def write(name, lines):
        cli.write_whole(folder / name, lambda file: file.writelines(f"{a}  {b}\n" for a, b in lines), "w")

    text = json.dumps(manifest | {"content": content_hash(lines())}, indent=1, sort_keys=True) + "\n"
    last = [(_sha256(text.encode()), "manifest.json")]
    if not images:
        write("images.sha256", (line for line in lines() if line[1].startswith("images/")))
        last.insert(0, (_sha256((folder / "images.sha256").read_bytes()), "images.sha256"))
    kept = (line for line in lines() if images or not line[1].startswith("images/"))
    write("checksums.sha256", heapq.merge(kept, last, key=_name))
    cli.write_text(folder / "manifest.json", text)


def _name(line):
    return line[1]


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def digest(texts):
    """One sha256 over texts."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\n")
    return whole.hexdigest()


def content_hash(lines):
    """One hash over the (sha256, name) of all files, those in images.sha256 included; not over the manifest, which
    holds it."""
    return digest(f"{value}  {name}" for value, name in lines if name not in ("manifest.json", "images.sha256"))


def listed(folder):
    """(sha256, name) of every file of a set, images.sha256 included, by name. Raises UserError on anything else."""
    def read(file):
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                value, name = line.rstrip("\n").split("  ", 1)
                yield value, name

    files = [folder / name for name in ("checksums.sha256", "images.sha256")]
    try:
        yield from heapq.merge(*(read(file) for file in files if file.exists() or file == files[0]), key=_name)
    except (FileNotFoundError, ValueError):
        raise UserError(f"{folder}: checksums.sha256 or images.sha256 is missing or not in sha256sum's form") from None


def verify(folder, workers):
    """Re-hash every file of a set. Prints what is missing, changed or extra; raises UserError if anything is."""
    manifest = read_manifest(folder)
    memory_only = not (folder / "images").exists() and (folder / "images.sha256").exists()

    def state(line):
        try:
            return None if _sha256(inside(folder, line[1]).read_bytes()) == line[0] else "changed"
        except OSError:
            return "missing"

    wrong, names = [], {"checksums.sha256"}
    total = manifest["made_with"]["images"] * (1 if memory_only else len(FOLDERS))
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, unit=" files", disable=None, desc="verify") as bar:
        for parent, lines in itertools.groupby(listed(folder), key=lambda line: line[1].rpartition("/")[0]):
            if memory_only and parent.startswith("images/"):
                continue
            lines = list(lines)  # one folder's
            wrong += [(what, name) for what, (_, name) in zip(pool.map(state, lines), lines, strict=True) if what]
            names.update(map(_name, lines))
            bar.update(len(lines))
    present = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    wrong += [("extra", name) for name in sorted(name for name in present if name not in names)]
    if content_hash(listed(folder)) != manifest["content"]:
        wrong.append(("changed", "checksums.sha256 (does not give the manifest's content hash)"))
    for what, name in wrong[:50]:
        print(f"{what}: {name}")
    if wrong:
        raise UserError(f"{folder}: {len(wrong)} files are not as built. Remove the folder and build it again, or "
                        f"restore them from another copy.")
    print(f"{folder}: {len(names) - 1} files as built, set version {manifest['set_version'][:12]}")
