"""Hashes, and checks of files that the project wrote: whatever is not as it was written is a `DamagedFile`."""
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from support.errors import DamagedFile

HEX = re.compile(r"[0-9a-f]{64}")  # a sha256 as text


def sha256(data: bytes) -> str:
    """The sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file of any size. Raises DamagedFile where there is no regular file."""
    require_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(texts: Iterable[str]) -> str:
    """One sha256 over several texts, each followed by a line feed."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\n")
    return whole.hexdigest()


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises OSError where there is none, DamagedFile where it is no regular file."""
    if path.exists() and not path.is_file():  # a pipe would wait for a writer for ever
        raise DamagedFile(f"{path} is no regular file")
    return path.read_bytes()


def require(condition: bool, file: Path, reason: str) -> None:
    """Raises DamagedFile naming the file and the reason unless the condition holds."""
    if not condition:
        raise DamagedFile(f"{file} is damaged ({reason})")


def require_file(path: Path) -> None:
    """Raises DamagedFile unless the path is a regular file."""
    require(path.exists(), path, "no such file")
    require(path.is_file(), path, "no regular file")


def require_types(values: Mapping[str, Any], types: Mapping[str, Any], file: Path, where: str = "") -> None:
    """Raises DamagedFile unless `values` holds every key of `types` with a value of that type. Numbers have to be
    finite; true and false are no numbers. where: the beginning of the keys in the message, for example "worst."."""
    for key, kind in types.items():
        require(key in values, file, f"{where}{key} is missing")
        value = values[key]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if isinstance(value, float):
            fits = fits and math.isfinite(value)
        require(fits, file, f"{where}{key} has the wrong type ({type(value).__name__})")
