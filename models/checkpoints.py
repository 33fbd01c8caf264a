"""Tensors on disk: written whole or not at all, and read so that nothing but tensors and plain values can come out.

best.pt holds `BestWeights`, the weights of a run's best epoch (of train_openset.py: of its last one). What last.pt
holds is declared in training/state.py.
"""
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, get_origin, get_type_hints

import torch

from models import weight_files
from support.errors import DamagedFile
from support.files import write_whole

Weights = dict[str, torch.Tensor]  # a network's state_dict()


@dataclass(frozen=True)
class BestWeights:
    """The entries of best.pt, under the names and in the order of these fields."""

    model: Weights
    """the network's weights"""
    epoch: int
    """number of the epoch, from 0"""
    scores: dict
    """name -> score of the validation images, as `metrics.summary` gives them"""


BEST_FIELDS: dict[str, Any] = get_type_hints(BestWeights)  # name -> type, as `read_fields` takes them


class _ErrorKeepingFile:
    """A file for torch.save that keeps the OSError of a failed write, which torch turns into a RuntimeError."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write(path: Path, state: Mapping[str, Any]) -> None:
    """torch.save of dicts, lists, tensors and plain values; equal states give equal bytes. Raises OSError with the name
    of the file where it cannot be written, for example on a full disk; what was there before stays."""
    def save(file: BinaryIO) -> None:
        kept = _ErrorKeepingFile(file)
        try:
            torch.save(_with_shared_strings(state), kept)
        except RuntimeError:
            if kept.error is None:
                raise
            raise kept.error from None

    try:
        write_whole(path, save)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_best(path: Path, best: BestWeights) -> None:
    """Write best.pt, whole or not at all. Raises OSError as `write` does."""
    write(path, {entry.name: getattr(best, entry.name) for entry in fields(BestWeights)})


def _with_shared_strings(value: Any) -> Any:
    """A copy in which equal strings are one object. Pickle writes an object that comes again as a reference, so without
    this equal states could give different bytes."""
    if isinstance(value, dict):
        return {_with_shared_strings(key): _with_shared_strings(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_shared_strings, value))
    return sys.intern(value) if isinstance(value, str) else value


def read(source: Any, device: Any = "cpu") -> Any:
    """What `write` has written, from a path or an open file, with tensors on `device`. A file that is damaged, or holds
    more than tensors and plain values, can raise any exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to programmers about files that are refused anyway
        return torch.load(source, map_location=device, weights_only=True)


def read_fields(path: Path, kinds: Mapping[str, Any], device: Any = "cpu") -> dict[str, Any]:
    """The fields `kinds` (name -> type) of a checkpoint that `write` wrote, and no others.

    A type is int, float, list, dict, torch.Tensor or `Weights`; of other generic types only the container is checked.
    Every byte is compared with the checksums in the file. Raises FileNotFoundError where there is no file, OSError
    where it cannot be read, and DamagedFile naming the file where it was not written by `write`, is damaged, lacks a
    field, or holds one of another type.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    with open(path, "rb") as file:
        beginning = file.read(4)
    if beginning != b"PK\x03\x04":
        raise DamagedFile(f"{path} is damaged (it is no checkpoint of PyTorch)")
    problem = weight_files.zip_problem(path)
    if problem:
        raise DamagedFile(f"{path} is damaged ({problem})")
    try:
        state = read(path, device)
    except torch.OutOfMemoryError:  # of the accelerator: the file may be sound
        raise
    except Exception as error:  # what is damaged can fail in any way
        raise DamagedFile(f"{path} is damaged ({type(error).__name__} on reading its tensors)") from None
    if not isinstance(state, dict):
        raise DamagedFile(f"{path} is damaged (it holds no fields)")
    missing = [name for name in kinds if name not in state]
    if missing:
        raise DamagedFile(f"{path} is damaged or incomplete: it lacks {', '.join(missing)}")
    for name, kind in kinds.items():
        if not _has_kind(state[name], kind):
            raise DamagedFile(f"{path} is damaged: its field {name} is of the wrong type")
    return {name: state[name] for name in kinds}


def _has_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of a type as `read_fields` understands types. Whole numbers are not negative."""
    if kind is int:
        return type(value) is int and value >= 0
    if kind is float:
        return type(value) in (int, float)
    if kind is torch.Tensor:
        return is_plain_tensor(value)
    if kind == Weights:
        return isinstance(value, dict) and all(
            isinstance(key, str) and is_plain_tensor(tensor) for key, tensor in value.items())
    return isinstance(value, get_origin(kind) or kind)


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor whose values are there: not sparse, quantized or without storage ("meta")."""
    return (isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized
            and not value.is_meta)
