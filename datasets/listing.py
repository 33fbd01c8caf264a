"""Which files stand for the pictures that a label file names. Copies are often saved again in another format: a picture
is found under any of `SUFFIXES`, in any letter case; the name as listed goes first."""
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cli import UserError
from datasets import found_in, note_all, spelt
from datasets.images import inside

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # the first that is there is taken


def is_picture(name: str) -> bool:
    """Whether a file is named as a picture; hidden files (macOS leaves ._x.jpg behind) are none."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def rank(name: str) -> tuple[int, str]:
    """Sort key of pictures that share a name but for the suffix: the order of `SUFFIXES`, then the name."""
    return SUFFIXES.index(os.path.splitext(name)[1].lower()), name


def files_in(root: Path, folder: str) -> list[str]:
    """Names of the regular files in a folder below the root; links are followed, an absent folder holds none. Raises
    UserError where it cannot be listed or leads out of the root."""
    try:
        with os.scandir(inside(root, folder)) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except PermissionError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    except (OSError, ValueError):  # absent, or a name from a label file that cannot be one
        return []


def find_pictures(root: Path, paths: Sequence[str], notes: dict, listed: Sequence[str] | None = None) -> np.ndarray:
    """The files that stand for these paths below the root.

    Returns text (N,), dtype object: the path itself where it is there, otherwise the file in the same folder whose name
    differs only in the suffix, otherwise "". Every folder is listed once. `notes` counts the pictures found under
    another suffix, and those that are there in several formats. `listed`: all paths of the data set, where `paths` are
    only some: one file never stands for two of them.
    """
    listings: dict[str, Listing] = {}
    found = np.full(len(paths), "", object)
    renamed, doubled = [], []
    shared: set[str] | None = None
    for i, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if folder not in listings:
            listings[folder] = Listing(files_in(root, folder))
        listing = listings[folder]
        if name in listing.files:
            found[i] = path
            if not listing.mixed:
                continue
        same = listing.same_picture(name)
        if not found[i] and same:
            if shared is None:  # built only where a copy needs it: it takes its time for 300,000 paths
                shared = _shared_stems(paths if listed is None else listed)
            if os.path.splitext(path)[0] in shared:
                continue
            found[i] = f"{folder}/{same[0]}" if folder else same[0]
            renamed.append(f"{same[0]} for {name}")
        if len(same) > 1:
            taken = found[i].rpartition("/")[2]
            doubled.append(f"{taken}, not {next(other for other in same if other != taken)}")
    note_all(notes, "picture found under another suffix than listed", renamed)
    note_all(notes, "picture in several formats, one taken", doubled)
    return found


class Listing:
    """The files of a folder, and its pictures by their name without the suffix, which are sorted out on the first
    need: the folders of AffectNet hold 300,000 files."""

    def __init__(self, names: list[str]):
        self.files = set(names)
        self.mixed = len({name[-4:] for name in names}) > 1  # of one ending, no two share their stem
        self._by_stem: dict[str, list[str]] | None = None

    def same_picture(self, name: str) -> list[str]:
        """The pictures called `name` but for the suffix, in order of `rank`."""
        if self._by_stem is None:
            self._by_stem = {}
            for file in filter(is_picture, self.files):
                self._by_stem.setdefault(os.path.splitext(file)[0], []).append(file)
        return sorted(self._by_stem.get(os.path.splitext(name)[0], ()), key=rank)


def _shared_stems(paths):
    """The paths without their suffixes that occur several times."""
    counts = Counter(os.path.splitext(path)[0] for path in paths)
    return {stem for stem, count in counts.items() if count > 1}


def comparison(root: Path, paths: Sequence[str], found: Sequence[str]) -> str:
    """Where none of the pictures was found: the first name looked for beside what its folder holds; else ""."""
    if not len(paths) or any(found):
        return ""
    folder, _, name = paths[0].rpartition("/")
    return f"looked for {spelt(name)[:80]} in {spelt(folder)[:120] or 'the root'}, which holds: " + found_in(
        inside(root, folder))
