"""Files that are written whole or not at all, reading them back, and the lock on a folder.

A file is written under a temporary name beside its own (`temporary_path`), flushed to the disk and renamed: a reader
sees the old file or the new one, never a part, whenever the process or the machine stops. Everything that the project
writes goes through here, except where a module's docstring or a comment gives a reason.
"""
import csv
import fcntl
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from support.errors import DamagedFile, UserError, first_line

TEMPORARY_NAME = re.compile(r"\.(.+)\.[0-9]+\.tmp")  # as `temporary_path` builds it; the group is the final name


# ---- temporary names

def temporary_path(path: Path) -> Path:
    """Where a file or folder lies while this process writes it: `.<name>.<process id>.tmp` beside its final path."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def final_name(name: str) -> str | None:
    """The name that a temporary file or folder would have got in the end; None if `name` is no temporary name."""
    match = TEMPORARY_NAME.fullmatch(name)
    return match[1] if match else None


# ---- writing

def write_whole(path: str | Path, write: Callable[[IO[Any]], object], mode: str = "wb", flush: bool = True) -> None:
    """Create or replace a file: call `write(file)` on a temporary file, flush that to the disk, and rename it.

    mode: "wb" for bytes, "w" for text (UTF-8, Unix line ends). flush: False for files whose readers notice a part that
    a power cut has left, and which are too many to wait for the disk. Folders are made where they are missing. Raises
    OSError with the name of the file, and whatever `write` raises; the old file is untouched then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    text_format = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **text_format) as file:  # type: ignore[call-overload]
            write(file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8, Unix line ends), whole or not at all."""
    write_whole(path, lambda file: file.write(text), "w")


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all.

    rows: at least one. The columns are the keys of all rows, in the order in which they first appear. A row without one
    of them gets an empty cell: when a metric is added to the project, an interrupted run has epochs without it."""
    columns: dict[str, None] = {}  # the keys are the columns, in their order
    for row in rows:
        columns.update(dict.fromkeys(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


# ---- reading what the project wrote

def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of the project as {column: text}, [] where there is no file. Raises DamagedFile naming
    the file where it is no text, or where a row is not as long as the header."""
    if not path.exists():
        return []
    if not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))
    except (ValueError, csv.Error) as error:
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DamagedFile(f"{path} is damaged (row {number} is not as long as the header)")
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the project. Raises FileNotFoundError, and DamagedFile naming the file where it
    holds no JSON object, or NaN or infinity, which the project never writes."""
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        value = json.loads(path.read_bytes(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged (it holds no JSON object)")
    return value


def refuse_constant(name: str) -> NoReturn:
    """For json.loads: raises ValueError on NaN, Infinity and -Infinity, which Python would read."""
    raise ValueError(f"it holds {name}")


# ---- folders and errors

def lock(folder: Path, activity: str) -> IO[str]:
    """Hold a folder for this process, and remove the temporary files that killed processes left in it.

    activity: for the message, what the other process does to the folder ("working in" or "building"). Returns an open
    file: the lock is released when it is closed or when the process ends, even if it is killed. Raises UserError where
    another process holds the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock_file = open(folder / ".lock", "w")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock_file.close()
        raise UserError(f"another process is {activity} {folder}; wait for it or choose another folder") from None
    for path in folder.glob(".*.tmp"):
        if final_name(path.name) is not None:
            path.unlink(missing_ok=True)
    return lock_file


@contextmanager
def os_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Within this block, an error of the file system becomes a UserError of one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or first_line(error)}); once that is fixed, "
                        f"repeat the command; it continues from here") from None
