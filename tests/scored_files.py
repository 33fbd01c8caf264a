"""What a scoring wrote, in a form that can be compared with ==: on a CPU byte by byte, on a card up to last digits.

On a card a batch of another size, as when a cell is predicted alone, is computed by other kernels, and the last digits
of a batch may differ from time to time. So arrays and values count as equal there if they differ by at most
`TOLERANCE`, and digests of them are not compared. Everything else is compared exactly on both.
"""
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

import conftest

TOLERANCE = 1e-4


class CloseValue(str):
    """A number as text. It equals another one that differs by at most `TOLERANCE`."""

    def __eq__(self, other: object) -> bool:
        if not self or not other:
            return str(self) == other
        return bool(np.isclose(float(self), float(str(other)), rtol=0, atol=TOLERANCE, equal_nan=True))

    __hash__ = None  # type: ignore[assignment]  # equal ones would need equal hashes


class CloseArray:
    """An array of floats. It equals another one of its shape whose values differ by at most `TOLERANCE`."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, CloseArray) and self.array.shape == other.array.shape
                and np.allclose(self.array, other.array, rtol=0, atol=TOLERANCE, equal_nan=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"CloseArray({self.array!r})"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's scores.csv."""
    return read_rows((folder / "scores.csv").read_bytes())


def contents(folder: Path, pattern: str = "*") -> dict[str, Any]:
    """{name of a file below `folder`: what is in it}. pattern: of the files."""
    files = [path for path in folder.rglob(pattern) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): content(path) for path in files}


def content(path: Path) -> Any:
    """What is in a file: its bytes; on a card what was computed in a form that equals what is close to it."""
    data = path.read_bytes()
    if not conftest.ON_CUDA:
        return data
    try:
        if path.suffix == ".npy":
            array = np.load(io.BytesIO(data), allow_pickle=False)
            return CloseArray(array) if array.dtype.kind == "f" else data
        if path.name == "scores.csv":
            return read_rows(data)
        if path.suffix == ".json":
            return without_digests(json.loads(data))
    except ValueError:
        pass  # a file that a test has damaged
    return data


def read_rows(data: bytes) -> list[dict[str, Any]]:
    """The rows of a scores.csv."""
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    if conftest.ON_CUDA:
        rows = [row | {"value": CloseValue(row["value"] or "")} for row in rows]
    return rows


def without_digests(entry: Any) -> Any:
    """What JSON holds, without the digests of predictions."""
    if isinstance(entry, dict):
        return {name: without_digests(value) for name, value in entry.items() if name != "digests"}
    return entry
