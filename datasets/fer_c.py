"""A built set (RAF-DB-C, Demo-C, ...): how its images and tables are made, written, read and verified.

make_fer_c.py decides what goes in; set_files.py knows where it lies and checks manifest and checksums. A set without
images/ (--no-images) makes them in memory, see `BuiltSet.pixels`.
"""
import hashlib
import heapq
import io
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

import cli
import soft_labels
from cli import DamagedFile, UserError, first_line
from corruptions import CORRUPTIONS, apply
from datasets import SAFE_ID, keyed_rng
from datasets.images import decode, inside, read_image
from datasets.set_files import (
    CELLS, FOLDERS, HEX, IMAGE_FORMATS, SEVERITIES, TABLES, Checksums, content_hash, digest, files_of, line_name,
    listed, mending, read_manifest, read_regular, rebuild_command, require, sha256)

# chosen by `benchmarks/build.py --only encoders`. PNG: fewer bytes than OpenCV's default in the same time, a fifth of
# the time of level 6 for 6 % more bytes. JPEG: colour at half resolution, the default, would take colour noise away
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
       cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
JPG = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_QUALITY)
ENCODER = "OpenCV; png: level 1, strategy RLE, filter up; jpg: 4:4:4"  # in the manifest


# ---- one image

def make_form(clean: np.ndarray, image_id: str, name: str, severity: int, made: dict) -> np.ndarray:
    """One of the 85 forms of a clean image, as `made` (the manifest's `made_with`) says. uint8 (S, S, 3) to the same.

    Every form draws from a generator of its own, keyed by seed, image, corruption and severity. The constants are those
    that `made` lists, not those of the preset today: sets of an earlier release keep their images."""
    row = made["constants"][name][severity - 1]
    return apply(clean, name, keyed_rng(made["seed"], image_id, name, severity), row)


def encode(image: np.ndarray, image_format: str, quality: int | None = None) -> bytes:
    """uint8 (S, S, 3), RGB -> the bytes of its file. png keeps every value; quality: 1 to 100, of jpg and webp."""
    options = {"png": PNG, "jpg": (*JPG, quality), "webp": (cv2.IMWRITE_WEBP_QUALITY, quality)}
    return cv2.imencode(f".{image_format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options[image_format])[1].tobytes()


# ---- reading

@dataclass(frozen=True)
class BuiltSet:
    """A finished set. label: float64 (N, K), before softening; soft_labels: float32 (17, 5, N, K), memory-mapped.

    verify: whether files were compared with the hashes they were built with, and images are as they are read; hashes:
    those of the images, uint8 (86, N, 32) in the order of `FOLDERS`, or None."""

    folder: Path
    manifest: dict
    frame: pd.DataFrame
    label: np.ndarray
    soft_labels: np.ndarray
    verify: bool = False
    hashes: np.ndarray | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def made_with(self) -> dict:
        return self.manifest["made_with"]

    @property
    def has_images(self) -> bool:
        """False for a set built with --no-images: only the clean ones are files."""
        return (self.folder / "images").is_dir()

    def image_path(self, i: int, corruption: str | None = None, severity: int | None = None) -> Path:
        """The file of image `i`: clean, or in one of the 85 forms."""
        cell, kind = ("clean", "png") if corruption is None else (
            f"images/{corruption}/{severity}", self.made_with["image_format"])
        return self.folder / cell / f"{self.frame['id'].iloc[i]}.{kind}"

    def pixels(self, i: int, corruption: str | None = None, severity: int | None = None,
               in_memory: bool = False) -> np.ndarray:
        """uint8 (S, S, 3), RGB: image `i`, clean or in one of the 85 forms.

        The file's bytes are compared with the hash they were built with (unless the set was opened with verify=False)
        and decoded. in_memory: the form is made from the clean image instead, bit by bit the same; always so for a set
        without images/. Raises DamagedFile naming the file that is missing, changed or no image.
        """
        made = self.made_with
        if corruption is None or (self.has_images and not in_memory):
            return self._decoded(i, corruption, severity)
        clean = self._decoded(i, None, None)
        form = make_form(clean, self.frame["id"].iloc[i], corruption, severity, made)
        if made["image_format"] == "png":
            return form
        return read_image(io.BytesIO(encode(form, made["image_format"], made["quality"])), made["size"])

    def image(self, i: int, corruption: str | None = None, severity: int | None = None) -> np.ndarray:
        """`pixels`, made in memory from the clean image."""
        return self.pixels(i, corruption, severity, in_memory=True)

    def _decoded(self, i, corruption, severity):
        path, made = self.image_path(i, corruption, severity), self.made_with
        number = 0 if corruption is None else 1 + CELLS.index((corruption, severity))
        try:
            data = read_regular(path)
        except OSError as error:
            raise DamagedFile(f"{path}: {error.strerror}; {mending(self.folder, made)}") from None
        if self.verify and hashlib.sha256(data).digest() != self.hashes[number, i].tobytes():
            raise DamagedFile(f"{path} is not the file that was built (its hash differs from checksums.sha256); "
                              f"{mending(self.folder, made)}")
        try:
            image = np.array(decode(io.BytesIO(data)))
        except UserError as error:
            raise DamagedFile(f"{path} is no readable image ({first_line(error)}); "
                              f"{mending(self.folder, made)}") from None
        if image.shape != (made["size"], made["size"], 3):
            raise DamagedFile(f"{path} has {image.shape[1]}x{image.shape[0]} pixels, the set has images of "
                              f"{made['size']}x{made['size']}; {mending(self.folder, made)}")
        return image

    def check_images(self) -> None:
        """Raises UserError when this machine does not make the images that the set was built with: the first image's
        85 forms are made and compared with their checksums."""
        made, first = self.made_with, self.frame["id"].iloc[0]
        if self.hashes is not None:
            wanted = [value.tobytes().hex() for value in self.hashes[1:, 0]]
        else:
            names = files_of(first, made["image_format"])[1:]
            by_name = {name: value for value, name in listed(self.folder) if name in set(names)}
            wanted = [by_name.get(name) for name in names]
        clean = self.pixels(0)
        for cell, value in zip(CELLS, wanted, strict=True):
            if sha256(encode(make_form(clean, first, *cell, made), made["image_format"], made["quality"])) != value:
                there, here = self.manifest["software"], software()
                differ = [f"{name} {there.get(name)} there, {here[name]} here" for name in here
                          if there.get(name) != here[name]]
                raise UserError(f"{self.folder}: the images made here are not the ones the set was built with "
                                f"({', '.join(differ) or 'another kind of processor?'}). Score from files, or build "
                                f"the set here: {rebuild_command(self.folder, made)}")

    def targets(self, corruption: str, severity: int) -> np.ndarray:
        """Soft labels of one cell, float32 (N, K)."""
        return self.soft_labels[list(CORRUPTIONS).index(corruption), severity - 1]


def software() -> dict[str, str]:
    """Versions of what the bytes depend on."""
    return cli.versions("numpy", "opencv-python-headless", "pillow", "scipy", "numba")


def open_set(folder: Path, verify: bool = True) -> BuiltSet:
    """Open a built set and check that its tables are the ones that were built.

    verify: compare tables, manifest and the list of checksums with each other, and every image as it is read
    (`BuiltSet.pixels`); with False, only what can be told without hashes is checked: shapes, ranges, and that the soft
    labels are distributions. Raises UserError as `read_manifest` does, and DamagedFile naming the file.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    made = manifest["made_with"]
    try:
        sums = Checksums(folder, manifest["content"]) if verify else None
        if verify:
            for name, value in sums.tables.items():
                require(_hash_of(folder / name) == value, folder / name, "its hash differs from checksums.sha256")
        frame, label = _read_labels(folder / "labels.csv", manifest)
        soft = _read_cells(folder / "soft_labels.npy", label.shape)
        visible = _read_cells(folder / "visibility.npy", label.shape[:1])
        for number, (name, severity) in enumerate(CELLS):
            place = divmod(number, len(SEVERITIES))
            try:
                soft_labels.check_distributions(soft[place], f"{name} {severity}")
            except ValueError as error:
                raise DamagedFile(f"{folder}/soft_labels.npy is damaged ({error})") from None
            require(bool(((visible[place] >= 0) & (visible[place] <= 1)).all()), folder / "visibility.npy",
                    f"{name} {severity}: a value is not between 0 and 1")
        hashes = sums.of_images(frame["id"].tolist(), made["image_format"]) if verify else None
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {mending(folder, made)}") from None
    return BuiltSet(folder, manifest, frame, label, soft, verify, hashes)


def _hash_of(path):
    """sha256 of a file of any size, as hex; raises DamagedFile where there is no regular file."""
    require(path.is_file(), path, "no such file" if not path.exists() else "no regular file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_labels(path, manifest):
    """labels.csv: its frame and the labels before softening, float64 (N, K). Raises DamagedFile unless ids and labels
    are those that the manifest's digests are of."""
    made, count = manifest["made_with"], len(manifest["classes"])
    try:
        columns = [f"t_{k}" for k in range(count)]
        blank = dict.fromkeys(("valence", "arousal", "identity"), [""])  # elsewhere "NA" and "null" are names
        text = dict.fromkeys(("id", "identity", "path", *columns), str)
        frame = pd.read_csv(io.BytesIO(read_regular(path)), dtype=text, keep_default_na=False, na_values=blank)
        label = np.array([[float(value) for value in frame[name]] for name in columns]).T  # exact to the last bit
        frame = frame.assign(**dict(zip(columns, label.T, strict=True)))
        ids, expression = frame["id"].tolist(), frame["expression"].to_numpy()
        frame[["valence", "arousal"]].to_numpy(np.float64)
        named = all(isinstance(name, str) and SAFE_ID.fullmatch(name) for name in ids)
        numbers = np.issubdtype(expression.dtype, np.integer) and ((expression >= 0) & (expression < count)).all()
        soft_labels.check_distributions(label, "label")
    except DamagedFile:
        raise
    except Exception as error:  # the parser fails in many ways on what it cannot read
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    require(len(frame) == made["images"], path, f"{len(frame)} rows, the manifest says {made['images']}")
    require(named, path, "ids that cannot be file names")
    require(numbers, path, f"an expression is no number from 0 to {count - 1}")
    require(digest(ids) == made["ids"], path, "its ids are not those of the manifest")
    require(digest(map(str, label.round(6).tolist())) == made["labels"], path,
            "its labels are not those of the manifest")
    return frame, label


def _read_cells(path, shape):
    """A memory-mapped table, float32 (17, 5, *shape). Raises DamagedFile on anything else."""
    try:
        require(path.is_file(), path, "no such file" if not path.exists() else "no regular file")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except DamagedFile:
        raise
    except Exception as error:  # numpy's reader fails in many ways on what is no array
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    expected = (len(CORRUPTIONS), len(SEVERITIES), *shape)
    require(values.shape == expected, path, f"its shape is {values.shape}, not {expected}")
    require(values.dtype == np.dtype("<f4"), path, f"its values are {values.dtype}, not float32")
    return values


# ---- making, a few source images at a time: what a worker process does

@dataclass(frozen=True)
class Job:
    """What a worker has to know besides the rows; small, so that it travels to other processes."""

    root: Path
    work: Path
    made: dict
    images: bool
    shards: tuple[Path, ...] = ()  # that a merge takes the files from


def journal_of(work: Path, number: int) -> Path:
    return work / "journal" / f"{number}.json"


def write_journal(path: Path, entries: dict) -> None:
    """entries: {id: {"sha256": of the 86 files, in hex, or [] for an image that is only measured, "difference": of the
    85 forms to the clean image, "unchanged": numbers of the forms that equal it}}."""
    text = json.dumps({"images": entries, "sha256": sha256(json.dumps(entries).encode())})
    write_file(path, text.encode())


def read_journal(path: Path, job: Job, rows: pd.DataFrame, earlier: bool = False) -> dict:
    """The entries that `write_journal` wrote for the images of `rows`. earlier: also in the form of the first release,
    which has no hash and no `unchanged` (it becomes None). Raises FileNotFoundError, and DamagedFile on anything else:
    lists of other lengths, values that are no hashes, or differences that cannot be."""
    values = cli.read_json(path)
    first_form = "images" not in values
    require(earlier or not first_form, path, "in the form of the first release")
    entries = values if first_form else values["images"]
    require(isinstance(entries, dict) and list(entries) == rows["id"].tolist(), path, "entries of other images")
    require(first_form or values.get("sha256") == sha256(json.dumps(entries).encode()), path, "its hash differs")
    largest = soft_labels.LARGEST[job.made["softening"]["visibility"]]
    for row in rows.itertuples():
        entry = entries[row.id]
        require(isinstance(entry, dict), path, f"{row.id}: no entry")
        sums, differences = entry.get("sha256"), entry.get("difference")
        require(isinstance(sums, list) and len(sums) == (len(FOLDERS) if row.kept else 0), path,
                f"{row.id}: not as many hashes as files")
        require(all(isinstance(value, str) and HEX.fullmatch(value) for value in sums), path, f"{row.id}: no sha256")
        require(isinstance(differences, list) and len(differences) == len(CELLS), path, f"{row.id}: not 85 differences")
        for value in differences:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            require(number and -1e-9 <= value <= largest + 1e-9, path, f"{row.id}: a difference is out of range")
        if first_form:
            entry["unchanged"] = None
            continue
        unchanged = entry.get("unchanged")
        require(isinstance(unchanged, list) and all(number in range(len(CELLS)) for number in unchanged), path,
                f"{row.id}: unchanged forms that do not exist")
    return entries


def damage(job: Job, chunk: tuple[int, pd.DataFrame], work: Path | None = None, earlier: bool = False) -> str | None:
    """The first file of a chunk that is missing in `work` or not what its journal says; None if it is whole. earlier:
    journals in the form of the first release count."""
    work, (number, rows) = work or job.work, chunk
    journal = journal_of(work, number)
    try:
        entries = read_journal(journal, job, rows, earlier)
    except (OSError, UserError, TypeError):
        return str(journal.relative_to(work))
    for row in rows.itertuples():
        names = kept_files(job, row)
        for name, value in zip(names, entries[row.id]["sha256"][:len(names)], strict=True):
            try:
                if sha256(read_regular(work / "set" / name)) != value:
                    return name
            except (OSError, DamagedFile):
                return name
    return None


def kept_files(job: Job, row) -> list[str]:
    """The files of a source image that lie in the set: 86, only the clean one, or (measured for D_worst only) none."""
    return files_of(row.id, job.made["image_format"])[:None if job.images else 1] if row.kept else []


def write_file(path: Path, data: bytes) -> None:
    """Without rename and flush, unlike `cli.write_whole`: what is not in the journal with its right hash is made again,
    and nobody takes an unfinished set for a finished one."""
    path.write_bytes(data)


def make_chunk(job: Job, chunk: tuple[int, pd.DataFrame]) -> None:
    """All files of a few source images, then their entry in the journal. Files that the first release left whole are
    kept and only measured again."""
    number, rows = chunk
    journal = journal_of(job.work, number)
    if journal.exists() and damage(job, chunk, earlier=True) is None:
        entries = read_journal(journal, job, rows, earlier=True)
        write_journal(journal, {row.id: measured_again(job, row, entries[row.id], job.work)
                                for row in rows.itertuples()})
        return
    entries = {}
    for row in rows.itertuples():
        files = iter(kept_files(job, row))

        def keep(data, files=files):
            name = next(files, None)
            if name is not None:
                write_file(job.work / "set" / name, data)

        entries[row.id] = make_forms(job, row, keep)
    write_journal(journal, entries)


def clean_image(job: Job, row) -> np.ndarray:
    """The canonical image of a source, uint8 (S, S, 3). Raises UserError where the source has changed."""
    path = inside(job.root, row.path)
    image = read_image(path, job.made["size"], (row.left, row.top, row.right, row.bottom))
    if sha256(path.read_bytes()) != row.sha256:
        raise UserError(f"{path} has changed since the build began; restore it and give the same command again, or "
                        f"remove {job.work}")
    return image


def make_forms(job: Job, row, keep: Callable[[bytes], None]) -> dict:
    """The clean image and its 85 forms, encoded, to `keep(data)`; returns their entry for the journal. Of an image that
    is not part of the set, nothing is encoded and the entry has no hashes."""
    made, sums, differences, unchanged = job.made, [], [], []
    clean = clean_image(job, row)

    def add(image, *encoding):
        if row.kept:
            data = encode(image, *encoding)
            keep(data)
            sums.append(sha256(data))

    add(clean, "png")
    for number, (name, severity) in enumerate(CELLS):
        form = make_form(clean, row.id, name, severity, made)
        add(form, made["image_format"], made["quality"])
        measure(clean, form, number, made, differences, unchanged)
    return {"sha256": sums, "difference": differences, "unchanged": unchanged}


def measure(clean: np.ndarray, form: np.ndarray, number: int, made: dict, differences: list, unchanged: list) -> None:
    """Append the difference of a form to the clean image, and the form's number where they are equal in every pixel:
    before a lossy encoder changes it."""
    differences.append(soft_labels.difference(clean, form, made["softening"]["visibility"]))
    if np.array_equal(clean, form):
        unchanged.append(number)


def measured_again(job: Job, row, entry: dict, work: Path) -> dict:
    """The entry of a source image whose files in `work` have the hashes of `entry`, its differences not taken on trust.

    Files that keep every value are read back and compared; otherwise the forms are made again from the source. Raises
    UserError where the clean file is not the source's, or the hashes of files that are not kept are not those of the
    forms made here.
    """
    made = job.made
    if row.kept:
        clean, name = clean_image(job, row), files_of(row.id, "png")[0]
        if not np.array_equal(clean, np.array(decode(work / "set" / name))):
            raise UserError(f"{work}: {name} is not the image that {inside(job.root, row.path)} gives; {advice(work)}")
    if row.kept and job.images and made["image_format"] == "png":
        differences, unchanged = [], []
        for number, name in enumerate(kept_files(job, row)[1:]):
            form = np.array(decode(work / "set" / name))
            if form.shape != clean.shape:
                raise UserError(f"{work}: {name} has another size than the set; {advice(work)}")
            measure(clean, form, number, made, differences, unchanged)
        return {"sha256": entry["sha256"], "difference": differences, "unchanged": unchanged}
    again = make_forms(job, row, lambda data: None)
    if row.kept and not job.images and again["sha256"] != entry["sha256"]:
        raise UserError(f"{work}: the hashes of the images of {row.id}, which are not kept as files, are not those of "
                        f"the images made here (changed, or made on another kind of processor); {advice(work)}")
    return again | {"sha256": entry["sha256"]}


def advice(shard: Path) -> str:
    return f"remove {shard} and build it again with its --shard"


def take_chunk(job: Job, chunk: tuple[int, pd.DataFrame]) -> None:
    """The files of a chunk from the shard that made it, re-hashed and measured, then its entry in the journal."""
    number, rows = chunk
    shard = job.shards[number % len(job.shards)]
    wrong = damage(job, chunk, shard, earlier=True)
    if wrong:
        raise UserError(f"{shard}: {wrong} is missing or not as built; {advice(shard)}")
    given = read_journal(journal_of(shard, number), job, rows, earlier=True)
    entries = {row.id: measured_again(job, row, given[row.id], shard) for row in rows.itertuples()}
    for name in (name for row in rows.itertuples() for name in kept_files(job, row)):
        source, target = shard / "set" / name, job.work / "set" / name
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)  # takes no room
        except OSError:
            shutil.copyfile(source, target)
    write_journal(journal_of(job.work, number), entries)


# ---- removing

WRITTEN_FOLDERS = {"journal", "set", *(f"set/{folder}" for folder in FOLDERS), "set/images",
                   *(f"set/images/{name}" for name in CORRUPTIONS)}
WRITTEN_FILES = {".lock", "build.json", *(f"set/{name}" for name in (
    *TABLES, "manifest.json", "checksums.sha256", "images.sha256"))}
TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # what `cli.write_whole` leaves when it is killed


def is_written(name: str, ids: set[str]) -> bool:
    """Whether a file of an unfinished set or a shard, `name` relative to its folder, is one that a build writes. ids:
    of the set's images."""
    parent, _, file = name.rpartition("/")
    temporary = TEMPORARY.fullmatch(file)
    if temporary:
        return is_written(f"{parent}/{temporary[1]}" if parent else temporary[1], ids)
    if parent == "journal":
        return re.fullmatch(r"\d+\.json", file) is not None
    if parent.startswith("set/") and parent[4:] in FOLDERS:
        image_id, _, suffix = file.rpartition(".")
        return suffix in IMAGE_FORMATS and image_id in ids
    return name in WRITTEN_FILES


def written_and_foreign(work: Path, ids: set[str]) -> tuple[list[Path], list[str]]:
    """The files in an unfinished set or a shard that a build wrote, and the names of what it did not write: other
    files, links, and folders that no build makes (not looked into)."""
    written, foreign = [], []

    def visit(folder, prefix):
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if name in WRITTEN_FOLDERS:
                        visit(entry.path, f"{name}/")
                    else:
                        foreign.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False) and is_written(name, ids):
                    written.append(Path(entry.path))
                else:
                    foreign.append(name)

    visit(work, "")
    return written, sorted(foreign)


def remove_written(work: Path, ids: set[str]) -> None:
    """Remove what a build wrote into an unfinished set or a shard, and its folders where nothing is left in them. What
    the project did not write stays, and is named."""
    try:
        written, foreign = written_and_foreign(work, ids)
        for path in written:
            path.unlink(missing_ok=True)
        for name in sorted(WRITTEN_FOLDERS, key=len, reverse=True):
            _remove_if_empty(work / name)
        _remove_if_empty(work)
    except FileNotFoundError:  # another process removes it, too
        return
    except OSError as error:
        print(f"cannot remove {error.filename or work}: {error.strerror}; remove {work} yourself")
        return
    if foreign:
        print(f"{work} stays: it holds {named(foreign)}, which make_fer_c.py did not write")


def _remove_if_empty(folder):
    try:
        folder.rmdir()
    except OSError:
        pass


def named(names: Iterable[str]) -> str:
    """Up to three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- writing the tables; cell by cell, so that memory does not grow with all of them

def write_tables(folder, frame, label, visibility, exponent, gmm=None):
    """labels.csv, the arrays, and the mixture as JSON text. label: (N, K); visibility: float64 (85, N). Raises
    ValueError naming the first cell in which a soft label is no distribution."""
    fused = pd.DataFrame(label, columns=[f"t_{k}" for k in range(label.shape[1])])
    parts = [frame[["id", "path", "expression"]], fused, frame[["valence", "arousal", "identity"]]]
    cli.write_text(folder / "labels.csv", pd.concat(parts, axis=1).to_csv(index=False))
    _write_cells(folder / "soft_labels.npy", label.shape,
                 (_softened(cell, label, visible, exponent) for cell, visible in zip(CELLS, visibility, strict=True)))
    _write_cells(folder / "visibility.npy", label.shape[:1], visibility)
    means = pd.DataFrame(visibility.mean(1).reshape(-1, len(SEVERITIES)), columns=SEVERITIES,
                         index=pd.Index(CORRUPTIONS, name="corruption"))
    cli.write_text(folder / "visibility_mean.csv", means.to_csv(float_format="%.6f"))
    if gmm is not None:
        cli.write_text(folder / "gmm.json", gmm)


def _softened(cell, label, visible, exponent):
    """Soft labels of one cell as they are written, float32 (N, K): the guard before a set is sealed."""
    values = soft_labels.soften(label, visible, exponent).astype("<f4")
    soft_labels.check_distributions(values, f"soft labels of {cell[0]} {cell[1]}")
    return values


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
    tables = {name: sha256((folder / name).read_bytes()) for name in TABLES if (folder / name).exists()}

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
    last = [(sha256(text.encode()), "manifest.json")]
    if not images:
        write("images.sha256", (line for line in lines() if line[1].startswith("images/")))
        last.insert(0, (sha256((folder / "images.sha256").read_bytes()), "images.sha256"))
    kept = (line for line in lines() if images or not line[1].startswith("images/"))
    write("checksums.sha256", heapq.merge(kept, last, key=line_name))
    cli.write_text(folder / "manifest.json", text)


def verify(folder: Path, workers: int) -> None:
    """Re-hash every file of a set. Prints what is missing, changed or extra; raises UserError if anything is, or if
    tables and manifest do not fit each other."""
    manifest = read_manifest(folder)
    made = manifest["made_with"]
    memory_only = not (folder / "images").exists() and (folder / "images.sha256").exists()

    def state(line):
        try:
            return None if sha256(read_regular(folder / line[1])) == line[0] else "changed"
        except DamagedFile:
            return "changed"
        except OSError:
            return "missing"

    wrong, names = [], {"checksums.sha256"}
    total = made["images"] * (1 if memory_only else len(FOLDERS))
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, unit=" files", disable=None, desc="verify") as bar:
        for parent, lines in itertools.groupby(listed(folder), key=lambda line: line[1].rpartition("/")[0]):
            if memory_only and parent.startswith("images/"):
                continue
            lines = list(lines)  # one folder's
            wrong += [(what, name) for what, (_, name) in zip(pool.map(state, lines), lines, strict=True) if what]
            names.update(map(line_name, lines))
            bar.update(len(lines))
    present = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    wrong += [("extra", name) for name in sorted(name for name in present if name not in names)]
    if content_hash(listed(folder)) != manifest["content"]:
        wrong.append(("changed", "checksums.sha256 (does not give the manifest's content hash)"))
    for what, name in wrong[:50]:
        print(f"{what}: {name}")
    if wrong:
        raise UserError(f"{folder}: {len(wrong)} files are not as built. Restore them from another copy, or remove the "
                        f"folder and build it again: {mending(folder, made).rpartition(': ')[2]}")
    open_set(folder)
    print(f"{folder}: {len(names) - 1} files as built, set version {manifest['set_version'][:12]}")
