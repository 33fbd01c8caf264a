"""The store of predictions: where the logits of a run lie, and whether they may be used.

The folder of a run as a whole is described in support/run_folder.py; the layout of its subfolder predictions/ here.

A cell is a corruption at a severity (corruptions.py), written (name, severity); None stands for the clean images. The
predictions of a set lie in a folder of the run: predictions/<set>/ for float32, predictions/<set>.bf16/ for bfloat16.

  clean.npy, <corruption>/<severity>.npy   logits of a cell, float32 (N, K), images and classes in the set's order
  labels.npy                               the set's hard labels, int64 (N,)
  set.json                                 the entries of `made_from`, and three more:
      verified   whether images were compared with their checksums: true or false (missing in the first release of this
                 project: unknown)
      digests    {name of a cell: `digest` of its logits}
      folder     the folder of the set

Written by scoring.py and inference.py, read by scores.py and reporting/. Nothing here imports torch.
"""
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from building.built_set import BuiltSet
from corruptions import CELLS, CORRUPTIONS
from support import run_folder
from support.errors import DamagedFile, first_line
from support.files import os_errors_as_user_errors, read_json, write_text, write_whole

Cell = tuple[str, int] | None
ALL_CELLS: tuple[Cell, ...] = (None, *CELLS)
LABELS, ORIGIN = "labels.npy", "set.json"


# ---- names

def predictions_folder(run: Path | str, set_name: str, precision: str) -> Path:
    """Where the predictions of a set lie. precision: "32" or "bf16"."""
    suffix = "" if precision == "32" else f".{precision}"
    return Path(run) / run_folder.PREDICTIONS_FOLDER / f"{set_name}{suffix}"


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


# ---- before inference: what can be used, what has to be computed

def prepare_predictions(folder: Path, built: BuiltSet, limit: int | None, weights_sha256: str, fabric_precision: str,
                        order: list[int] | None = None, verify: bool = True) -> tuple[list[Cell], bool | None]:
    """Make a folder of predictions ready, so that only missing cells have to be computed.

    Predictions that were made from other weights, another set, another order of classes or another number of images are
    deleted, and so are those of unverified images where `verify` asks for verified ones. Damaged files are set aside or
    written anew, with a line that says so.

    limit: only the first images of the set, this many; None: all. weights_sha256: that of the file best.pt.
    fabric_precision: Fabric's name of the precision. order: as in `matching.MatchedSet`; None: the set's own order.
    verify: whether images will be compared with their checksums. Returns the cells whose logits are missing, and
    whether the images behind all cells are verified (None: unknown, predictions of the first release of this
    project)."""
    own_order = list(range(len(built.classes)))
    wanted = made_from(built, limit, weights_sha256, fabric_precision, order or own_order)
    separate_bf16_predictions(folder)
    for path in (folder.parent, folder, *(folder / name for name in CORRUPTIONS)):
        set_aside_unless_folder(path)

    origin_file = folder / ORIGIN
    # The first release of this project knew no other order and did not record it.
    known = {"order": own_order} | read_origin(origin_file)
    verified, digests = known.get("verified"), known.get("digests", {})
    if not can_be_used(known, wanted) or (verify and verified is False):
        delete_predictions(folder)
        verified, digests = verify, {}

    labels = built.frame["expression"].to_numpy(np.int64)[:limit]
    shape = (len(labels), len(built.classes))
    missing = []
    for cell in ALL_CELLS:
        if not is_intact(predictions_file(folder, cell), shape, np.float32, digests.get(cell_name(cell))):
            missing.append(cell)
    if missing and not verify:
        verified = False
    if not is_intact(folder / LABELS, labels.shape, np.int64, digest(labels)):
        write_array(folder / LABELS, labels)
    more = {"verified": verified, "digests": digests, "folder": str(built.folder.resolve())}
    with os_errors_as_user_errors(origin_file):
        write_text(origin_file, json.dumps(wanted | more))
    return missing, verified


def made_from(built: BuiltSet, limit: int | None, weights_sha256: str, fabric_precision: str,
              order: list[int]) -> dict[str, Any]:
    """What logits are made from, as set.json records it: two predictions with equal entries are interchangeable.
    Arguments as in `prepare_predictions`."""
    return {"weights": weights_sha256, "set_version": built.manifest["set_version"],
            "content": built.manifest["content"], "classes": list(built.classes), "order": order, "limit": limit,
            "precision": fabric_precision, "demo": built.made_with["dataset"] == "demo"}


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
    """Delete the predictions in a folder and the folders that are empty then; other files stay."""
    with os_errors_as_user_errors(folder):
        files = [predictions_file(folder, cell) for cell in ALL_CELLS]
        for path in [*files, folder / LABELS, folder / ORIGIN]:
            set_aside_unless_file(path)
            path.unlink(missing_ok=True)
        for parent in [*(folder / name for name in CORRUPTIONS), folder]:
            if parent.is_dir() and not parent.is_symlink() and not any(parent.iterdir()):
                parent.rmdir()


# ---- arrays

def digest(array: np.ndarray) -> str:
    """The first 16 hexadecimal digits of the sha256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


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


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all. Raises UserError naming it where it cannot be written."""
    data = io.BytesIO()
    np.save(data, array)
    with os_errors_as_user_errors(path):
        write_whole(path, lambda file: file.write(data.getbuffer()))


def write_cells(folder: Path, logits: Mapping[Cell, np.ndarray]) -> None:
    """Write the logits of these cells, float32 (N, K) each, into a folder that `prepare_predictions` has made ready.

    Digests are recorded before the files are written, so that every file has its digest whenever the process ends."""
    origin_file = folder / ORIGIN
    known = read_json(origin_file)
    new_digests = {cell_name(cell): digest(values) for cell, values in logits.items()}
    known["digests"] = known["digests"] | new_digests
    with os_errors_as_user_errors(origin_file):
        write_text(origin_file, json.dumps(known))
    for cell, values in logits.items():
        write_array(predictions_file(folder, cell), np.ascontiguousarray(values))
