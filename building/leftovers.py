"""Which files in a folder a build wrote, and which somebody else did: only the former are ever removed."""
import os
import re
from collections.abc import Iterable
from pathlib import Path

from building.layout import IMAGE_FORMATS, TABLES
from corruptions import PRESETS, corruptions_of
from perturbations import PERTURBATIONS
from support.files import final_name

# Of the sets of every preset: images/ and the folders in it, one for a corruption or perturbation and its severity or
# frame.
NAMES = {name for preset in PRESETS for name in corruptions_of(preset)} | set().union(*PERTURBATIONS.values())
IMAGE_FOLDER = re.compile(rf"images(?:/(?:{'|'.join(sorted(NAMES))})(?:/\d{{1,3}})?)?")
SET_FILES = (*TABLES, "manifest.json", "checksums.sha256", "images.sha256")
WRITTEN_FILES = {".lock", "build.json", *(f"set/{name}" for name in SET_FILES)}


def is_written_folder(name: str) -> bool:
    """Whether a folder of an unfinished set or a shard is one that a build makes. name: relative to it."""
    return name in ("journal", "set", "set/clean") or (
        name.startswith("set/") and IMAGE_FOLDER.fullmatch(name.removeprefix("set/")) is not None)


def is_written(name: str, ids: set[str]) -> bool:
    """Whether a file of an unfinished set or a shard is one that a build writes. name: relative to the folder; ids: of
    the set's images."""
    parent, _, file = name.rpartition("/")
    whole = final_name(file)
    if whole is not None:  # a temporary file, which `support.files.write_whole` leaves when the process is killed
        return is_written(f"{parent}/{whole}" if parent else whole, ids)
    if parent == "journal":
        return re.fullmatch(r"\d+\.json", file) is not None
    if parent.startswith("set/") and is_written_folder(parent):
        image_id, _, suffix = file.rpartition(".")
        return suffix in IMAGE_FORMATS and image_id in ids
    return name in WRITTEN_FILES


def written_and_foreign(work: Path, ids: set[str]) -> tuple[list[Path], list[str]]:
    """The files in an unfinished set or a shard that a build wrote, and the names of what it did not write: other
    files, links, and folders that no build makes, which are not looked into."""
    written: list[Path] = []
    foreign: list[str] = []

    def visit(folder: str | Path, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if is_written_folder(name):
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
    """Remove what a build wrote into an unfinished set or a shard, and the folders that are empty then. What the
    project did not write stays, and a line names it."""
    try:
        written, foreign = written_and_foreign(work, ids)
        for path in written:
            path.unlink(missing_ok=True)
        for folder, _, _ in os.walk(work, topdown=False):
            name = os.path.relpath(folder, work)
            if name == "." or is_written_folder(name):
                _remove_if_empty(Path(folder))
    except FileNotFoundError:  # another process removes it, too
        return
    except OSError as error:
        print(f"cannot remove {error.filename or work}: {error.strerror}; remove {work} yourself")
        return
    if foreign:
        print(f"{work} stays: it holds {first_names(foreign)}, which no build wrote")


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass


def first_names(names: Iterable[str]) -> str:
    """Up to three names, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:3])
    return f"{text} and {len(names) - 3} more" if len(names) > 3 else text
