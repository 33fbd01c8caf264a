"""The files on disk that stand for the pictures a label file names.

Copies of a data set are often saved again in another format. So a picture is found under any of `SUFFIXES`, in any
letter case; the name in the label file is preferred.
"""
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.images import inside
from datasets.split import count_note_for_names, folder_contents, printable
from support.errors import UserError

# Of files that differ in the suffix only, the one whose suffix comes first here is taken.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def is_picture(name: str) -> bool:
    """Whether a file has the name of a picture. Hidden files do not count (macOS leaves ._x.jpg behind)."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def rank(name: str) -> tuple[int, str]:
    """Sort key of pictures whose names differ in their suffixes only: the order of `SUFFIXES`, then the name."""
    return SUFFIXES.index(os.path.splitext(name)[1].lower()), name


def files_in(root: Path, folder: str) -> list[str]:
    """The names of the regular files in a folder below the root.

    Links are followed. A folder that does not exist holds none. Raises UserError where the folder cannot be listed or
    leads out of the root.
    """
    try:
        with os.scandir(inside(root, folder)) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except PermissionError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    except (OSError, ValueError):  # absent, or a name from a label file that cannot be the name of a folder
        return []


def find_pictures(root: Path, paths: Sequence[str], notes: dict[str, Any],
                  all_paths: Sequence[str] | None = None) -> np.ndarray:
    """The files that stand for these paths.

    paths: N paths as a label file names them, relative to the root. all_paths: all paths of the data set, where `paths`
    are a part of them: two listed pictures never get the same file.

    Returns text (N,), dtype object: the path itself if the file exists, else the file in the same folder whose name
    differs in the suffix only, else "". Every folder is listed once, since asking for each of 300,000 files would take
    minutes. `notes` counts the pictures found under another suffix and those that exist in several formats.
    """
    listings: dict[str, Listing] = {}
    files = np.full(len(paths), "", object)
    renamed = []
    doubled = []
    ambiguous_stems: set[str] | None = None
    for i, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        listing = listings.get(folder)
        if listing is None:
            listing = listings[folder] = Listing(files_in(root, folder))
        if name in listing.names:
            files[i] = path
            if not listing.is_mixed:
                continue
        formats = listing.formats(name)
        if not files[i] and formats:
            if ambiguous_stems is None:  # made only when a copy needs it: it takes a while for 300,000 paths
                ambiguous_stems = _ambiguous_stems(paths if all_paths is None else all_paths)
            if os.path.splitext(path)[0] in ambiguous_stems:
                continue
            files[i] = f"{folder}/{formats[0]}" if folder else formats[0]
            renamed.append(f"{formats[0]} for {name}")
        if len(formats) > 1:
            taken = files[i].rpartition("/")[2]
            not_taken = next(file for file in formats if file != taken)
            doubled.append(f"{taken}, not {not_taken}")
    count_note_for_names(notes, "picture found under another suffix than listed", renamed)
    count_note_for_names(notes, "picture in several formats, one taken", doubled)
    return files


class Listing:
    """The names of the files in a folder, and which of its pictures differ in their suffixes only.

    The latter is worked out when it is first needed: the folders of AffectNet hold 300,000 files.
    """

    names: set[str]
    """all files"""
    is_mixed: bool
    """whether the names end in different ways; where all end alike, no two can differ in the suffix only"""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)
        self.is_mixed = len({name[-4:] for name in names}) > 1
        self._pictures_by_stem: dict[str, list[str]] | None = None

    def formats(self, name: str) -> list[str]:
        """The pictures with the name `name` but for its suffix, the preferred one first (`rank`)."""
        if self._pictures_by_stem is None:
            self._pictures_by_stem = {}
            for file in filter(is_picture, self.names):
                self._pictures_by_stem.setdefault(os.path.splitext(file)[0], []).append(file)
        return sorted(self._pictures_by_stem.get(os.path.splitext(name)[0], ()), key=rank)


def _ambiguous_stems(paths: Sequence[str]) -> set[str]:
    """The stems (paths without their suffix) that more than one of the paths has."""
    counts = Counter(os.path.splitext(path)[0] for path in paths)
    return {stem for stem, count in counts.items() if count > 1}


def comparison(root: Path, paths: Sequence[str], files: Sequence[str] | np.ndarray) -> str:
    """For a note, where no file was found: the first name that was looked for, and what its folder holds. "" where a
    file was found.

    paths: as label files name them; files: what `find_pictures` returned for them.
    """
    if not len(paths) or any(files):
        return ""
    folder, _, name = paths[0].rpartition("/")
    contents = folder_contents(inside(root, folder))
    return f"looked for {printable(name)[:80]} in {printable(folder)[:120] or 'the root'}, which holds: {contents}"
