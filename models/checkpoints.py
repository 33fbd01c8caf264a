"""Tensors on disk: whole or not at all, and never anything but tensors and plain values."""
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch

import cli
from models import weight_files

# What each field of best.pt and last.pt holds.
KINDS = {"model": dict, "optimizer": dict, "epoch": int, "step": int, "labels": torch.Tensor,
         "next_labels": torch.Tensor, "sums": dict, "history": list, "best": float, "scores": dict}


class _RememberingFile:
    """A file for torch.save that keeps the OSError of a failed write: torch turns it into a RuntimeError."""

    def __init__(self, file: BinaryIO):
        self.file, self.problem = file, None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.problem = self.problem or error
            raise

    def flush(self):
        self.file.flush()


def write(path, state):
    """torch.save of dicts, lists, tensors and plain values; equal states give equal bytes. Raises OSError with the name
    of the file where it cannot be written, for example on a full disk; what was there before stays."""
    def plain(value):  # pickle looks at which strings are one object: make equal ones the same
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(plain, value))
        return sys.intern(value) if isinstance(value, str) else value

    def save(file):
        remembering = _RememberingFile(file)
        try:
            torch.save(plain(state), remembering)
        except RuntimeError:
            if remembering.problem is None:
                raise
            raise remembering.problem from None

    try:
        cli.write_whole(path, save)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def read(source, device="cpu"):
    """The inverse, from a path or an open file. Whatever is damaged or more than tensors can raise anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to programmers about files that are refused anyway
        return torch.load(source, map_location=device, weights_only=True)


def read_fields(path: Path, fields: Iterable[str], device="cpu") -> dict[str, Any]:
    """The named fields of a checkpoint that `write` wrote, best.pt or last.pt, and no others.

    Every byte is compared with the checksums in the file. Raises FileNotFoundError where there is no file, OSError
    where it cannot be read, and cli.DamagedFile naming the file where it was not written by `write`, is damaged, lacks
    a field, or holds one of another type.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise cli.DamagedFile(f"{path} is no regular file")
    with open(path, "rb") as file:
        beginning = file.read(4)
    if beginning != b"PK\x03\x04":
        raise cli.DamagedFile(f"{path} is damaged (it is no checkpoint of PyTorch)")
    problem = weight_files.zip_problem(path)
    if problem:
        raise cli.DamagedFile(f"{path} is damaged ({problem})")
    try:
        state = read(path, device)
    except torch.OutOfMemoryError:  # of the accelerator: the file may be sound
        raise
    except Exception as error:  # what is damaged can fail in any way
        raise cli.DamagedFile(f"{path} is damaged ({type(error).__name__} on reading its tensors)") from None
    if not isinstance(state, dict):
        raise cli.DamagedFile(f"{path} is damaged (it holds no fields)")
    fields = list(fields)
    missing = [name for name in fields if name not in state]
    if missing:
        raise cli.DamagedFile(f"{path} is damaged or incomplete: it lacks {', '.join(missing)}")
    for name in fields:
        if not _has_kind(name, state[name]):
            raise cli.DamagedFile(f"{path} is damaged: its field {name} is of the wrong type")
    return {name: state[name] for name in fields}


def _has_kind(name: str, value: Any) -> bool:
    """Whether a field holds what `KINDS` says; fields that it does not list may hold anything."""
    kind = KINDS.get(name, object)
    if kind is int:
        return type(value) is int and value >= 0
    if kind is float:
        return type(value) in (int, float)
    if name == "model":
        return isinstance(value, dict) and all(
            isinstance(key, str) and is_plain_tensor(tensor) for key, tensor in value.items())
    if kind is torch.Tensor:
        return is_plain_tensor(value)
    return isinstance(value, kind)


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor whose values are there: not sparse, quantized or without storage ("meta")."""
    return (isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized
            and not value.is_meta)
