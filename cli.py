"""What every command needs: errors for people, the command line, files that appear whole or not at all."""
import csv
import dataclasses
import errno
import fcntl
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro


class UserError(Exception):
    """Something a person has to mend. The message says what is wrong, where, and what to do, in one or two lines."""


class DamagedFile(UserError, ValueError):
    """A file that the project wrote and that is no longer as it was written. The message names the file."""


@dataclass(frozen=True)
class Between:
    """The range of a numeric option, both ends included: `Annotated[float, Between(0, 1)]` at its field."""

    low: float
    high: float = math.inf
    above: bool = False  # whether `low` itself is refused

    def __str__(self) -> str:
        start = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return start if math.isinf(self.high) else f"{start} and at most {self.high:g}"


Fraction = Annotated[float, Between(0, 1)]


def check_values(args: Any) -> None:
    """Raises UserError where a number in a dataclass of options (groups of options included) is NaN or infinite, or
    outside the range that its field declares with `Between`."""
    declared = get_type_hints(type(args), include_extras=True)
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            option = f"--{field.name.replace('_', '-')}"
            if not math.isfinite(value):
                raise UserError(f"{option} is a number, not {value}")
            for allowed in ranges_of(declared[field.name]):
                if not allowed.low <= value <= allowed.high or (allowed.above and value == allowed.low):
                    raise UserError(f"{option} has to be {allowed}, not {value:g}")


def ranges_of(annotation: Any) -> list[Between]:
    """Every `Between` in an annotation, also inside `X | None`."""
    ranges = []
    for argument in get_args(annotation):
        ranges += [argument] if isinstance(argument, Between) else ranges_of(argument)
    return ranges


def parse(Args, settle=None, argv=None):
    """The command line as an `Args`. `settle(args)` may fill in values that depend on others (a data set's recipe, a
    protocol): it gets a first reading and returns the defaults of the second, so what is typed always wins."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    description = sys.modules[Args.__module__].__doc__
    args = tyro.cli(Args, args=argv, config=config, description=description)
    if settle is None:
        return args
    return tyro.cli(Args, args=argv, config=config, description=description, default=settle(args))


def run(main, Args, settle=None):
    """Parse, run, and end with an exit code: 0 done, 2 a `UserError` (one line, no traceback), 130 interrupted."""
    try:
        code = main(parse(Args, settle))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        print(f"error: {spell_os_error(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


@contextmanager
def hidden(package):
    """Let an installed package look absent to what is imported inside."""
    unknown = package not in sys.modules
    sys.modules.setdefault(package, None)
    try:
        yield
    finally:
        if unknown:
            del sys.modules[package]


def spell_os_error(error: OSError) -> str:
    """File and reason, as a person reads them, and what to do about a full disk."""
    remedy = "; free some space and start the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename or 'a file'}: {error.strerror or error}{remedy}"


def first_line(error):
    """What an exception says, in one line and never empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def lock(folder, doing):
    """Hold `folder` for this process: an open file, released when it is closed or the process ends, however that comes.
    Removes what killed processes left half-written there. Raises UserError when another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = open(folder / ".lock", "w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise UserError(f"another process is {doing} {folder}; wait for it or choose another folder") from None
    for left in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9]+\.tmp", left.name):  # as `write_whole` names them
            left.unlink(missing_ok=True)
    return held


def versions(*packages):
    """{name: version} of Python and of installed packages."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def write_whole(path, write, mode="wb"):
    """Call `write(file)` on a temporary sibling of `path`, flush it to disk, rename: readers see all or nothing. Raises
    OSError with the name of the file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": "\n"})) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk does not say where it is full
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path, rows):
    """Write dicts with equal keys as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of ours as dicts of text, [] where there is none. Raises DamagedFile naming the file where
    it is no text, or its rows are not as long as its header."""
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


def read_json(path: Path) -> dict:
    """The JSON object in a file of ours. NaN, infinity and anything but an object are damage: the project never writes
    them. Raises FileNotFoundError, and DamagedFile naming the file where it holds something else."""
    def refuse(constant):
        raise ValueError(f"it holds {constant}")

    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        value = json.loads(path.read_bytes(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged (it holds no JSON object)")
    return value


def write_text(path, text):
    """Write `text` as UTF-8 with Unix line ends, whole or not at all."""
    write_whole(path, lambda file: file.write(text), "w")
