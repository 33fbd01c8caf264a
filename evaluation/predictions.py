"""The store of predictions: where the logits of a run lie, and whether they may be used.

The folder of a run as a whole is described in support/run_folder.py; the layout of its subfolder predictions/ here.

A cell is a corruption at a severity (corruptions.py), written (name, severity), or in a set of sequences a frame of a
perturbation, written (name, number of the frame); None stands for the clean images. Which cells there are depends on
the set (`BuiltSet.cells`). The predictions of a set lie in a folder of the run: predictions/<set>/ for float32,
predictions/<set>.bf16/ for bfloat16.

  clean.npy, <corruption>/<severity>.npy   logits of a cell, float32 (N, K), images and classes in the set's order. Of
                                           a model that is no run: the set's classes that it knows, then its others.
                                           In a set of sequences: <perturbation>/<frame>.npy
  labels.npy                               the set's hard labels, int64 (N,), as indices of the set's classes
  set.json                                 the entries of `made_from`; of these, `corruptions` and `sequences` say which
                                           cells the set has, and a set of FER-C has neither. And three entries more:
      verified   whether images were compared with their checksums: true or false (missing in the first release of this
                 project: unknown)
      digests    {name of a cell: `digest` of its logits}
      folder     the folder of the set

While logits are computed they lie in a folder beside it, the partial folder, whose name ends in .partial. A block is a
few source images, one after the other in the set's order; its logits are those of all cells that are computed.

  blocks/<number>.<digest>.npy   logits of a block, float32 (images, cells, K); `digest` of its values in the name
  set/                           the finished files, while they are written
  set.json                       the entries of `made_from`, and five more:
      options    what else changes the last digits of logits ({name: value}, as evaluation/inference.py gives it)
      cells      names of the cells, in their order in the blocks
      images     source images in a block; the last block may have fewer
      verified   whether the images behind the blocks were compared with their checksums: true or false
      folder     the folder of the set

When all blocks are there, set/ is written and renamed to predictions/<set>/. Where that folder already holds
the files of some cells, only those of the others move there, one by one.

Written by scoring.py and inference.py, read by scores.py and reporting/. Nothing here imports torch.
"""
import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from building.built_set import BuiltSet
from building.layout import MOST_FRAMES
from corruptions import CELLS, CORRUPTIONS, OPERATIONS, cells_of, suite_of
from evaluation.class_matching import ClassMatch, same_classes
from perturbations import ALL, PERTURBATIONS
from support import run_folder
from support.errors import DamagedFile, first_line
from support.files import final_name, os_errors_as_user_errors, read_json, write_text, write_whole

Cell = tuple[str, int] | None
ALL_CELLS: tuple[Cell, ...] = (None, *CELLS)  # of a set of FER-C, the clean images first
LABELS, ORIGIN = "labels.npy", run_folder.PREDICTIONS_ORIGIN
DIGITS = 16  # of a digest
BLOCKS, FINISHED = "blocks", "set"  # subfolders of a partial folder
BLOCK_FILE = re.compile(r"(\d{1,9})\.([0-9a-f]{16})\.npy")  # number and digest
CELL_FILE = re.compile(r"\d{1,3}\.npy")  # in the folder of a corruption or perturbation
# The folders that cells of any set have: names of corruptions and of perturbations.
CELL_FOLDERS = tuple(dict.fromkeys((*OPERATIONS, *ALL)))

# A block has at most this many images and bytes, but at least one source image: with all 86 cells of FER-C it is as
# large as a chunk of the builder (4 source images, `building.plan.CHUNK`), and a worker process holds three at a time
# in memory.
IMAGES_IN_A_BLOCK = 4 * len(ALL_CELLS)
BYTES_IN_A_BLOCK = 64 * 2**20
IMAGES_REWRITTEN_AT_ONCE = 4096  # source images in memory while blocks are rewritten by cell
FILES_AT_ONCE = 128  # open files of cells meanwhile; some systems allow no more than 256

# The entries of set.json, as messages name them.
WORDS = {"weights": "weights", "set_version": "set version", "content": "image files", "classes": "classes",
         "order": "order of classes", "known": "known classes", "limit": "number of images", "precision": "precision",
         "demo": "data set", "options": "options", "images": "size of blocks", "corruptions": "corruptions",
         "sequences": "perturbation sequences"}


# ---- names

def read_info(folder: Path) -> dict[str, Any]:
    """What set.json in a folder of predictions holds, unchecked. Raises OSError where there is none, and DamagedFile
    where it is none."""
    return read_json(folder / ORIGIN)


def predictions_file(folder: Path, cell: Cell) -> Path:
    """The file of a cell's logits in a folder of predictions."""
    if cell is None:
        return folder / "clean.npy"
    corruption, severity = cell
    return folder / corruption / f"{severity}.npy"


def cell_name(cell: Cell) -> str:
    """The name of a cell in set.json: "clean" or "<corruption>/<severity>"."""
    if cell is None:
        return "clean"
    corruption, severity = cell
    return f"{corruption}/{severity}"


def all_cells(built: BuiltSet) -> tuple[Cell, ...]:
    """The cells of a set, the clean images first."""
    return (None, *built.cells)


def partial_folder(folder: Path) -> Path:
    """Where logits lie by block until a folder of predictions can be written."""
    return folder.with_name(f"{folder.name}.partial")


# ---- before inference: what can be used, what has to be computed

@dataclass(frozen=True)
class Blocks:
    """The logits that are to be computed, by block of source images."""

    goal: Path
    """the folder of predictions"""
    folder: Path
    """`partial_folder` of the goal"""
    cells: tuple[Cell, ...]
    """the cells of every block, in their order in the arrays"""
    missing_cells: tuple[Cell, ...]
    """the cells that the goal lacks; all of them are among `cells`"""
    count: int
    """source images, the first of the set"""
    images: int
    """source images in a block; the last block may have fewer"""
    classes: int
    missing_blocks: tuple[int, ...]
    """the numbers of the blocks whose logits are not stored yet"""

    @property
    def numbers(self) -> range:
        """The numbers of all blocks."""
        return range(-(-self.count // self.images) if self.missing_cells else 0)

    def rows(self, number: int) -> range:
        """The positions in the set of a block's source images."""
        return range(number * self.images, min((number + 1) * self.images, self.count))

    def shape(self, number: int) -> tuple[int, int, int]:
        """The shape of a block's logits."""
        return len(self.rows(number)), len(self.cells), self.classes


def prepare_predictions(folder: Path, built: BuiltSet, limit: int | None, weights_sha256: str, fabric_precision: str,
                        classes: ClassMatch | None = None, verify: bool = True,
                        options: Mapping[str, Any] | None = None) -> tuple[Blocks, bool | None]:
    """Find out which logits have to be computed, and make the folders ready for them.

    Predictions that were made from other weights, another set, another order of classes or another number of images are
    deleted, and so are those of unverified images where `verify` asks for verified ones. The same holds for blocks,
    which moreover have to be computed with the same options. Damaged files are set aside or written anew, with a line
    that says so.

    limit: only the first images of the set, this many; None: all. weights_sha256: that of the file best.pt.
    fabric_precision: Fabric's name of the precision. classes: how the model's outputs stand for the set's classes;
    None: one for one. verify: whether images will be compared with their checksums. options: what else changes the last
    digits of logits. Returns the blocks, with no cell wanted where all logits are there, and whether the images behind
    all cells are verified (None: unknown, predictions of the first release of this project)."""
    own_order = same_classes(len(built.classes))
    classes = classes or own_order
    wanted = made_from(built, limit, weights_sha256, fabric_precision, classes)
    separate_bf16_predictions(folder)
    set_aside_wrong_kinds(folder)

    # The first release of this project knew no other order and did not record it.
    known = {"order": own_order.order} | read_origin(folder / ORIGIN)
    verified, digests = known.get("verified"), known.get("digests", {})
    if not can_be_used(known, wanted) or (verify and verified is False):
        delete_predictions(folder)
        verified, digests = verify, {}

    labels = built.frame["expression"].to_numpy(np.int64)[:limit]
    shape = (len(labels), classes.stored)
    missing = []
    for cell in all_cells(built):
        if not is_intact(predictions_file(folder, cell), shape, np.float32, digests.get(cell_name(cell))):
            missing.append(cell)
    blocks, blocks_verified = prepare_blocks(folder, built, missing, shape, wanted | {"options": dict(options or {})},
                                             verify)
    if missing and not blocks_verified:
        verified = False
    if folder.is_dir():  # some cells are there, or files of others
        if not is_intact(folder / LABELS, labels.shape, np.int64, digest(labels)):
            write_array(folder / LABELS, labels)
        write_origin(folder, wanted | {"verified": verified, "digests": digests}, built)
    return blocks, verified


def prepare_blocks(goal: Path, built: BuiltSet, missing: Sequence[Cell], shape: tuple[int, int],
                   wanted: dict[str, Any], verify: bool) -> tuple[Blocks, bool]:
    """Find out which blocks are stored, and make the partial folder ready for the others. Where no cell is missing, the
    folder is deleted.

    shape: (N, K), of a cell's logits. wanted: the entries of `made_from`, and the options. Returns the blocks, and
    whether the images behind all of them are verified, those that will be computed with `verify` among them."""
    folder = partial_folder(goal)
    if not missing:
        delete_blocks(folder)
        return Blocks(goal, folder, cells=(), missing_cells=(), count=shape[0], images=1, classes=shape[1],
                      missing_blocks=()), verify
    set_aside_wrong_kinds(folder)
    known = read_origin(folder / ORIGIN)
    cells = cells_of_names(known.get("cells"), built)
    wanted["images"] = images_in_a_block(len(cells), built.made_with["size"]) if cells else None
    reason = reason_against_blocks(known, wanted, set(missing) <= set(cells), verify)
    if reason:
        if known:
            print(f"{folder} was begun with {reason}: its logits are computed again")
        delete_blocks(folder)
        cells = tuple(missing)
        wanted["images"] = images_in_a_block(len(cells), built.made_with["size"])
        known = {}
    verified = verify and known.get("verified", True)
    names = [cell_name(cell) for cell in cells]
    write_origin(folder, wanted | {"cells": names, "verified": verified}, built)
    blocks = Blocks(goal, folder, cells, missing_cells=tuple(missing), count=shape[0], images=wanted["images"],
                    classes=shape[1], missing_blocks=())
    stored = intact_blocks(blocks)
    missing_blocks = tuple(number for number in blocks.numbers if number not in stored)
    return replace(blocks, missing_blocks=missing_blocks), verified


def reason_against_blocks(known: Mapping[str, Any], wanted: Mapping[str, Any], has_cells: bool, verify: bool) -> str:
    """Why the blocks in a partial folder cannot be used, in words; "" where they can. known: its set.json; wanted: as
    it has to be; has_cells: whether the blocks hold all cells that are missing."""
    differing = [WORDS[name] for name, value in wanted.items() if name not in known or known[name] != value]
    if differing:
        return f"other {', '.join(differing)}"
    if not has_cells:
        return "other cells"
    if not isinstance(known.get("verified"), bool):
        return "an entry `verified` that makes no sense"
    if verify and not known["verified"]:
        return "images that were not verified"
    return ""


def cells_of_names(names: Any, built: BuiltSet) -> tuple[Cell, ...]:
    """The cells of a set that set.json lists; () where it lists anything else."""
    cell_of_name = {cell_name(cell): cell for cell in all_cells(built)}
    if not isinstance(names, list) or not all(isinstance(name, str) and name in cell_of_name for name in names):
        return ()
    return tuple(cell_of_name[name] for name in dict.fromkeys(names))


def images_in_a_block(cells: int, size: int) -> int:
    """Source images in a block of this many cells. size: side of the images in pixels."""
    most = min(IMAGES_IN_A_BLOCK, BYTES_IN_A_BLOCK // (3 * size**2))
    return max(1, most // cells)


def made_from(built: BuiltSet, limit: int | None, weights_sha256: str, fabric_precision: str,
              classes: ClassMatch) -> dict[str, Any]:
    """What logits are made from, as set.json records it: two predictions with equal entries are interchangeable.
    Arguments as in `prepare_predictions`.

    `classes` are the names of the logits' columns. Where these are not just the set's classes, `known` holds the
    indices of the set's classes that the first columns stand for; the columns behind those are removed classes."""
    entries = {"weights": weights_sha256, "set_version": built.manifest["set_version"],
               "content": built.manifest["content"], "classes": classes.stored_classes(built.classes),
               "order": classes.order, "limit": limit, "precision": fabric_precision,
               "demo": built.made_with["dataset"] == "demo"} | kind_of_set(built)
    return entries if classes.is_complete else entries | {"known": classes.known}


def kind_of_set(built: BuiltSet) -> dict[str, Any]:
    """The entries of set.json from which `stored_cells` and `stored_sequences` tell what a set has: nothing for the 17
    corruptions of FER-C, `corruptions` with the names of others, and `sequences` with the number of frames of each
    perturbation and the difficulty."""
    if built.has_sequences:
        return {"sequences": {"frames": built.frame_counts, "difficulty": built.made_with["difficulty"]}}
    return {} if built.corruptions == tuple(CORRUPTIONS) else {"corruptions": list(built.corruptions)}


@dataclass(frozen=True)
class Sequences:
    """What a set of perturbation sequences has."""

    frames: dict[str, int]
    """{perturbation: number of frames}, in the set's order"""
    difficulty: int
    """1 to 3: for perturbations without noise the distance of the frames that are compared"""

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """All frames, (perturbation, number of the frame), counted from 0."""
        return tuple((name, frame) for name, count in self.frames.items() for frame in range(count))


def stored_sequences(info: Mapping[str, Any]) -> Sequences | None:
    """The sequences that set.json of predictions tells of; None where they are of a set of corruptions. Raises
    ValueError where the entry makes no sense: run folders come from anybody."""
    entry = info.get("sequences")
    if entry is None:
        return None
    frames = entry.get("frames") if isinstance(entry, dict) else None
    if not isinstance(frames, dict) or not frames:
        raise ValueError("its entry `sequences` names no perturbations")
    if not any(set(frames) <= set(names) for names in PERTURBATIONS.values()):
        raise ValueError("its entry `sequences` does not name perturbations of one preset")
    difficulty = entry.get("difficulty")
    numbers = [difficulty, *frames.values()]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ValueError("its entry `sequences` holds something that is no whole number")
    if difficulty not in (1, 2, 3) or not all(difficulty < count <= MOST_FRAMES for count in frames.values()):
        raise ValueError("its entry `sequences` is out of range")
    return Sequences(dict(frames), difficulty)


def stored_cells(info: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """The cells of stored predictions without the clean images, in the set's order. info: their set.json; without an
    entry that says it, they are FER-C's 85. Raises ValueError where the entry makes no sense."""
    sequences = stored_sequences(info)
    if sequences is not None:
        return sequences.cells
    names = info.get("corruptions", list(CORRUPTIONS))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its entry `corruptions` is no list of names")
    if tuple(names) != suite_of(names):
        raise ValueError("its entry `corruptions` does not name the corruptions of a preset")
    return cells_of(names)


def can_be_used(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether predictions are the wanted ones. known: their set.json; wanted: as `made_from` gives it."""
    same_origin = all(name in known and known[name] == value for name, value in wanted.items())
    verified = known.get("verified")
    sound = isinstance(known.get("digests", {}), dict) and (verified is None or isinstance(verified, bool))
    return same_origin and sound


def separate_bf16_predictions(folder: Path) -> None:
    """Rename bf16 predictions of the first release of this project, which lie where float32 predictions belong now.

    folder: of the predictions that are wanted, in either precision."""
    name = folder.name.removesuffix(".bf16")
    float32_folder, bf16_folder = folder.with_name(name), folder.with_name(f"{name}.bf16")
    try:
        fabric_precision = read_json(float32_folder / ORIGIN).get("precision")
    except (OSError, DamagedFile):  # reported by `read_origin`
        return
    if fabric_precision == run_folder.PRECISIONS["bf16"] and not os.path.lexists(bf16_folder):
        with os_errors_as_user_errors(bf16_folder):
            float32_folder.rename(bf16_folder)


def read_origin(path: Path) -> dict[str, Any]:
    """set.json of a folder of predictions, {} where there is none. A damaged one counts as none, and a line says so."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except DamagedFile as error:
        print(f"{error}: it is not known which weights and which set these predictions are of, so they are made again")
        set_aside_unless_file(path)
        return {}


def is_intact(path: Path, shape: tuple[int, ...], dtype: type, expected_digest: str | None) -> bool:
    """Whether a file holds the array that was written. A damaged one is reported, and set aside unless it is a file.

    expected_digest: the array's `digest`; None: not recorded, so that only shape, type and finiteness are checked."""
    if not os.path.lexists(path):
        return False
    try:
        stored = read_array(path, shape, dtype)
        if expected_digest is not None and digest(stored) != expected_digest:
            raise DamagedFile(f"{path} is damaged (its values are not those that were written)")
    except DamagedFile as error:
        print(f"{error}: made again")
        set_aside_unless_file(path)
        return False
    return True


# ---- what does not belong where predictions do

def set_aside_wrong_kinds(folder: Path) -> None:
    """Set aside whatever lies where a folder of predictions, or a partial folder, needs folders."""
    own = CELL_FOLDERS
    if is_partial(folder):
        own = (BLOCKS, FINISHED, *(f"{FINISHED}/{name}" for name in CELL_FOLDERS))
    for path in (folder.parent, folder, *(folder / name for name in own)):
        set_aside_unless_folder(path)


def is_partial(folder: Path) -> bool:
    """Whether this is the name of a partial folder."""
    return folder.suffix == ".partial"


def set_aside_unless_folder(path: Path) -> None:
    """Set aside a file that lies where predictions need a folder."""
    if os.path.lexists(path) and not path.is_dir():
        print(f"{path} is no folder: kept as {set_aside(path)}")


def set_aside_unless_file(path: Path) -> None:
    """Set aside a folder, pipe or the like that lies where a file of predictions belongs. A file is left: it will be
    written over."""
    if not os.path.lexists(path):
        return
    if path.is_dir() or not (path.is_file() or path.is_symlink()):
        print(f"{path} is no file: kept as {set_aside(path)}")


def set_aside(path: Path) -> Path:
    """Rename to <name>.damaged, or to <name>.damaged-2 and so on where that name is taken, so that nothing is lost.
    Returns the new name."""
    target = path.with_name(f"{path.name}.damaged")
    number = 2
    while os.path.lexists(target):
        target = path.with_name(f"{path.name}.damaged-{number}")
        number += 1
    with os_errors_as_user_errors(target):
        path.rename(target)
    return target


def delete_predictions(folder: Path) -> None:
    """Delete the predictions of any set in a folder, and the folders that are empty then; other files stay."""
    with os_errors_as_user_errors(folder):
        for path in [*files_of_cells(folder), predictions_file(folder, None), folder / LABELS, folder / ORIGIN]:
            set_aside_unless_file(path)
            path.unlink(missing_ok=True)
        for parent in [*(folder / name for name in CELL_FOLDERS), folder]:
            if parent.is_dir() and not parent.is_symlink() and not any(parent.iterdir()):
                parent.rmdir()


def files_of_cells(folder: Path) -> list[Path]:
    """What lies where the logits of corruptions and perturbations belong, whichever set they are of."""
    parents = [folder / name for name in CELL_FOLDERS]
    return [path for parent in parents if parent.is_dir() and not parent.is_symlink()
            for path in sorted(parent.iterdir()) if CELL_FILE.fullmatch(path.name)]


def delete_blocks(folder: Path) -> None:
    """Delete what the project wrote into a partial folder, and the folders that are empty then; other files stay."""
    if not os.path.lexists(folder):
        return
    set_aside_wrong_kinds(folder)
    with os_errors_as_user_errors(folder):
        for path in [*block_files(folder).values(), folder / ORIGIN]:
            set_aside_unless_file(path)
            path.unlink(missing_ok=True)
        delete_predictions(folder / FINISHED)
        for parent in (folder / BLOCKS, folder):
            if parent.is_dir() and not parent.is_symlink() and not any(parent.iterdir()):
                parent.rmdir()


# ---- arrays

def digest(array: np.ndarray) -> str:
    """The first `DIGITS` hexadecimal digits of the sha256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:DIGITS]


def read_array(path: Path, shape: tuple[int, ...] | None = None, dtype: type = np.float32) -> np.ndarray:
    """The array in a .npy file of the store, in memory. shape: the one it has to have; None: any.

    Raises DamagedFile naming the file where it is missing, holds another shape or type, or NaN or infinity."""
    if not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        stored = np.load(str(path), mmap_mode="r", allow_pickle=False)  # of a Path, numpy would follow links, slowly
    except Exception as error:  # a damaged file can fail in any way
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    if not isinstance(stored, np.ndarray):
        raise DamagedFile(f"{path} is damaged (it holds an archive, not an array of {np.dtype(dtype)})")
    expected_shape = stored.shape if shape is None else shape
    if stored.shape != expected_shape or stored.dtype != dtype:
        raise DamagedFile(f"{path} is damaged (it holds {stored.shape} of {stored.dtype}, not {expected_shape} of "
                          f"{np.dtype(dtype)})")
    array = np.array(stored)
    if not np.isfinite(array).all():
        raise DamagedFile(f"{path} is damaged (it holds NaN or infinity)")
    return array


def write_array(path: Path, array: np.ndarray, flush: bool = True) -> None:
    """Write a .npy file, whole or not at all. flush: as for `support.files.write_whole`. Raises UserError naming it
    where it cannot be written."""
    data = io.BytesIO()
    np.save(data, array)
    with os_errors_as_user_errors(path):
        write_whole(path, lambda file: file.write(data.getbuffer()), flush=flush)


def write_origin(folder: Path, entries: Mapping[str, Any], built: BuiltSet) -> None:
    """Write set.json of a folder of predictions or of a partial one; the folder of the set is added to the entries."""
    with os_errors_as_user_errors(folder / ORIGIN):
        write_text(folder / ORIGIN, json.dumps({**entries, "folder": str(built.folder.resolve())}))


# ---- blocks

def block_files(folder: Path) -> dict[str, Path]:
    """{name: path} of the files of blocks in a partial folder. Temporary files that a killed process left are removed,
    other files are no blocks."""
    files = {}
    if (folder / BLOCKS).is_dir():
        for entry in os.scandir(folder / BLOCKS):
            written_name = final_name(entry.name)
            if BLOCK_FILE.fullmatch(entry.name):
                files[entry.name] = Path(entry.path)
            elif written_name is not None and BLOCK_FILE.fullmatch(written_name):
                Path(entry.path).unlink(missing_ok=True)
    return files


def intact_blocks(blocks: Blocks) -> dict[int, Path]:
    """{number: file} of the blocks that are stored as they were written. Damaged ones are removed, with a line that
    says so."""
    stored = {}
    for name, path in block_files(blocks.folder).items():
        number, expected = number_and_digest(name)
        if number in blocks.numbers and is_intact(path, blocks.shape(number), np.float32, expected):
            stored[number] = path
        else:
            with os_errors_as_user_errors(path):
                path.unlink(missing_ok=True)
    return stored


def number_and_digest(name: str) -> tuple[int, str]:
    """The number of a block and the digest of its values, from the name of its file."""
    number, expected, _ = name.split(".")
    return int(number), expected


def write_block(blocks: Blocks, number: int, logits: np.ndarray) -> None:
    """Store the logits of a block, float32 (images, cells, K). Raises UserError where the file cannot be written.

    The file is not flushed to the disk, because a set has thousands. Where only a part of it arrives there, the
    digest in its name does not fit, and the block is computed again."""
    path = blocks.folder / BLOCKS / f"{number}.{digest(logits)}.npy"
    write_array(path, np.ascontiguousarray(logits), flush=False)


def finish_predictions(blocks: Blocks, built: BuiltSet) -> None:
    """Make the folder of predictions from the blocks, which all have to be stored; then delete the partial folder.

    Raises DamagedFile where a block is damaged or missing. Wherever the process ends, no file of the folder is lost,
    and the next scoring goes on from the blocks."""
    if not blocks.missing_cells:
        return
    finished = blocks.folder / FINISHED
    delete_predictions(finished)
    with os_errors_as_user_errors(finished):
        digests = rewrite_by_cell(blocks, finished)
        entries = read_json((blocks.goal if blocks.goal.is_dir() else blocks.folder) / ORIGIN)
        digests = entries.get("digests", {}) | digests
        not_of_predictions = ("options", "cells", "images", "folder", "digests")
        entries = {name: value for name, value in entries.items() if name not in not_of_predictions}
        entries["digests"] = digests
        if blocks.goal.is_dir():
            # Digests are recorded before the files are there, so that every file has its digest whenever this ends.
            write_origin(blocks.goal, entries, built)
            for cell in blocks.missing_cells:
                path = predictions_file(blocks.goal, cell)
                path.parent.mkdir(exist_ok=True)
                os.replace(predictions_file(finished, cell), path)
        else:
            write_array(finished / LABELS, built.frame["expression"].to_numpy(np.int64)[:blocks.count])
            write_origin(finished, entries, built)
            os.rename(finished, blocks.goal)
    delete_blocks(blocks.folder)


def rewrite_by_cell(blocks: Blocks, folder: Path) -> dict[str, str]:
    """Write the logits of the wanted cells into `folder`, from the blocks. Returns {name of a cell: `digest`}."""
    digests: dict[str, str] = {}
    for start in range(0, len(blocks.missing_cells), FILES_AT_ONCE):
        digests |= rewrite_cells(blocks, folder, blocks.missing_cells[start:start + FILES_AT_ONCE])
    return digests


def rewrite_cells(blocks: Blocks, folder: Path, cells: Sequence[Cell]) -> dict[str, str]:
    """Write the logits of these cells into `folder`, from the blocks. Returns {name of a cell: `digest`}.

    The files of the cells are open at once and grow together, so that memory does not depend on the number of images;
    they are written, not memory-mapped, because a full disk would end the process then, without a message."""
    header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": (blocks.count, blocks.classes)}
    hashes = {cell: hashlib.sha256() for cell in cells}
    with contextlib.ExitStack() as stack:
        files: dict[Cell, IO[bytes]] = {}
        for cell in cells:
            path = predictions_file(folder, cell)
            path.parent.mkdir(parents=True, exist_ok=True)
            files[cell] = stack.enter_context(open(path, "wb"))
            np.lib.format.write_array_header_1_0(files[cell], header)
        for logits in read_blocks(blocks):
            for cell, file in files.items():
                data = logits[:, blocks.cells.index(cell)].tobytes()
                file.write(data)
                hashes[cell].update(data)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return {cell_name(cell): value.hexdigest()[:DIGITS] for cell, value in hashes.items()}


def read_blocks(blocks: Blocks) -> Iterator[np.ndarray]:
    """The logits of all images, in their order, float32 (images, cells, K), many blocks at a time. Raises DamagedFile
    where a block is missing or not as it was written."""
    paths = {number_and_digest(name)[0]: path for name, path in block_files(blocks.folder).items()}
    together: list[np.ndarray] = []
    for number in blocks.numbers:
        if number not in paths:
            raise DamagedFile(f"{blocks.folder / BLOCKS} lacks block {number}; the same command computes it again")
        logits = read_array(paths[number], blocks.shape(number))
        if digest(logits) != number_and_digest(paths[number].name)[1]:
            raise DamagedFile(f"{paths[number]} is damaged; the same command computes it again")
        together.append(logits)
        if len(together) * blocks.images >= IMAGES_REWRITTEN_AT_ONCE or number == blocks.numbers[-1]:
            yield np.concatenate(together)
            together.clear()
