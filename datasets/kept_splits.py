"""Splits that are kept from one start to the next, so that the label files of a large data set are parsed once.

`load_kept_splits` gives what `datasets.load_splits` gives. The result lies in one file of the cache's folder,
split-<32 hexadecimal digits>.bin; the digits are a hash of the data set's name, its root, the splits and the options.
The file is used while two things are what they were: the sources, which a parser names in `Split.sources` (of each
file and folder its kind, number of bytes, mtime, ctime and inode number), and the code of the parsers. A file that is
damaged, or of another state, is made anew. Its content is checked like what a parser gives, so a file of somebody else
can do no more than a label file of somebody else.

Nothing is kept where a source changed shortly before it was read: its next change may get the same time.
"""
import functools
import hashlib
import json
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets import load_splits
from datasets.split import COLUMNS, Split, validated_split
from support.errors import UserError
from support.files import write_whole

MAGIC = b"FER-C splits 2\n"
SMALLEST = 20_000  # images; fewer are parsed in less than a second
SETTLED = 10  # seconds between the last change of a source and its reading, at least
PREFIX = "<QI"  # after MAGIC: the number of bytes of the header, and the CRC-32 of everything behind this prefix
LARGEST_HEADER = 2**26  # bytes
LARGEST = 2**32  # bytes of the file
TEXTS = ("id", "path", "identity")  # columns
SEPARATOR = "\0"  # between texts; no name of a file holds it


def load_kept_splits(folder: Path | None, name: str, root: Path, splits: Sequence[str],
                     **options: Any) -> list[Split]:
    """Several splits, as `load_splits` gives them, from the file in `folder` where it is valid. Where it is not, the
    splits are parsed, and kept where the parser names its sources and there are `SMALLEST` images or more.

    folder: of the cache; None: nothing is kept. Where it cannot be written, nothing is kept either. The notes of splits
    that were kept are those of the time when they were parsed. Raises UserError as `load_splits` does."""
    if folder is None:
        return load_splits(name, root, splits, **options)
    identity = {"name": name, "root": os.path.abspath(root), "splits": list(splits), "options": options}
    digits = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"split-{digits}.bin"
    kept = _read(path, identity)
    if kept is not None:
        return kept
    began = time.time()
    loaded = load_splits(name, root, splits, **options)
    if sum(len(split.frame) for split in loaded) >= SMALLEST:
        _keep(path, identity, loaded, began)
    return loaded


# --- the state of the sources ---

def state_of(sources: Iterable[str]) -> tuple[str, float]:
    """(a digest of the state of files and folders, when the last of them changed in seconds since 1970). A source that
    does not exist is a state, too: it may appear."""
    lines = []
    newest = 0
    for source in sources:
        try:
            state = os.stat(source)
        except (OSError, ValueError):
            lines.append(f"{source}\0absent\n")
            continue
        kind = stat.S_IFMT(state.st_mode)
        lines.append(f"{source}\0{kind} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}\n")
        newest = max(newest, state.st_mtime_ns, state.st_ctime_ns)
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest(), newest / 1e9


@functools.cache
def code_version() -> str:
    """A digest of the code that decides what a split of a real data set holds: the files of this folder (without
    `drawn/`), the random streams, and the versions of NumPy and pandas."""
    here = Path(__file__).parent
    digest = hashlib.sha256(f"{np.__version__} {pd.__version__}".encode())
    for file in [*sorted(here.glob("*.py")), here.parent / "support" / "random_streams.py"]:
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


# --- the file ---

def _keep(path: Path, identity: Mapping[str, Any], splits: Sequence[Split], began: float) -> None:
    """Write the file, if the parser names its sources and each of them changed last at least `SETTLED` seconds before
    `began`. began: when the parsing began (seconds since 1970)."""
    sources: set[str] = set()
    for split in splits:
        if split.sources is None:
            return
        sources |= split.sources
    state, newest = state_of(sorted(sources))
    if newest > began - SETTLED:
        return
    packed = [result for result in map(_packed, splits) if result is not None]
    if len(packed) < len(splits):
        return
    arrays = [array for _, own_arrays in packed for array in own_arrays]
    header = json.dumps({
        "identity": identity, "code": code_version(), "sources": sorted(sources), "state": state,
        "splits": [description for description, _ in packed], "bytes": [len(array) for array in arrays]}).encode()
    check = zlib.crc32(header)
    for array in arrays:
        check = zlib.crc32(array, check)
    prefix = struct.pack(PREFIX, len(header), check)
    try:
        write_whole(path, lambda file: file.writelines([MAGIC, prefix, header, *arrays]))
    except OSError:
        return  # a cache that nobody has asked for


def _read(path: Path, identity: Mapping[str, Any]) -> list[Split] | None:
    """The splits in a file, None where it is absent, damaged, or of another state of the sources or the code."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        data = memoryview(path.read_bytes())
        start = len(MAGIC) + struct.calcsize(PREFIX)
        length, check = struct.unpack(PREFIX, data[len(MAGIC):start])
        if bytes(data[:len(MAGIC)]) != MAGIC or length > LARGEST_HEADER or zlib.crc32(data[start:]) != check:
            return None
        header = json.loads(bytes(data[start:start + length]))
        is_same = header["identity"] == identity and header["code"] == code_version()
        if not is_same or state_of(header["sources"])[0] != header["state"]:
            return None
        ends = start + length + np.cumsum([0, *header["bytes"]])
        arrays = iter([data[first:last] for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)])
        splits = [_unpacked(description, arrays, header["sources"]) for description in header["splits"]]
        return [validated_split(split, identity["name"], part)
                for split, part in zip(splits, identity["splits"], strict=True)]
    except (OSError, UserError, struct.error, ValueError, KeyError, TypeError, AttributeError, StopIteration,
            OverflowError, RecursionError, AssertionError, MemoryError):
        return None


def _packed(split: Split) -> tuple[dict[str, Any], list[bytes]] | None:
    """A split as (what JSON holds, the bytes of its columns and of its distribution). None where a text holds the
    separator."""
    columns = []
    arrays = []
    for name in COLUMNS:
        column = split.frame[name]
        columns.append(str(column.dtype))
        if name in TEXTS:
            texts = column.tolist()
            joined = SEPARATOR.join(texts)
            if joined.count(SEPARATOR) != len(texts) - 1:
                return None
            arrays.append(os.fsencode(joined))
        else:
            arrays.append(np.ascontiguousarray(column.to_numpy()).tobytes())
    description = {"rows": len(split.frame), "columns": columns, "classes": split.classes, "notes": split.notes,
                   "has_distribution": split.distribution is not None}
    if split.distribution is not None:
        arrays.append(np.ascontiguousarray(split.distribution, np.float64).tobytes())
    return description, arrays


def _unpacked(description: Mapping[str, Any], arrays: Iterable[memoryview], sources: Sequence[str]) -> Split:
    """The split that `_packed` has packed. Raises ValueError, KeyError, TypeError or StopIteration where it has not."""
    arrays = iter(arrays)
    rows, classes = int(description["rows"]), tuple(map(str, description["classes"]))
    values: dict[str, Any] = {}
    for name, dtype in zip(COLUMNS, description["columns"], strict=True):
        array = next(arrays)
        if name in TEXTS:
            texts = os.fsdecode(bytes(array)).split(SEPARATOR)
            values[name] = pd.Series(texts, dtype=dtype if dtype in ("object", "str") else "object")
        else:
            values[name] = np.frombuffer(array, np.int64 if name == "expression" else np.float64)
        if len(values[name]) != rows:
            raise ValueError("a column is not as long as the frame")
    distribution = None
    if description["has_distribution"]:
        distribution = np.frombuffer(next(arrays), np.float64).reshape(rows, len(classes)).copy()
    return Split(pd.DataFrame(values, copy=True), distribution, classes, dict(description["notes"]), frozenset(sources))
