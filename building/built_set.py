"""A finished set, read and checked: evaluation and reports open it here.

`open_built_set(folder)` checks that manifest, tables and checksums are those that were built and fit each other, and
gives a `BuiltSet`: images by `pixels`, soft labels by `soft_labels_of`. Every image is compared with its hash as it is
read, unless the set was opened with verify=False.
"""
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import soft_labels
from building.checksums import Checksums, image_hashes, read_checksums, read_lines
from building.forms import clean_form, encode, make_forms, software, stored_form
from building.integrity import read_regular, require, sha256, sha256_of_file
from building.layout import (
    cells_of_set, image_files, image_folders, image_suffix, is_sequence_set, picture_size)
from building.manifest import read_manifest
from building.options import rebuild_command, repair_advice
from building.tables import read_cells, read_labels
from corruptions import SEVERITIES, corruptions_of
from datasets.images import decode
from support.errors import DamagedFile, UserError, first_line


@dataclass(frozen=True)
class BuiltSet:
    """A finished set of N images, K classes and C corruptions, 17 in FER-C."""

    folder: Path
    manifest: dict[str, Any]
    frame: pd.DataFrame  # labels.csv
    labels_before_softening: np.ndarray  # float64 (N, K)
    soft_labels: np.ndarray  # float32 (C, 5, N, K), memory-mapped; empty in a set of sequences
    verify: bool  # whether images are compared with the hashes they were built with
    hashes: np.ndarray | None  # of the images, uint8 (F, N, 32) in the order of `image_folders`; None unless verify

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels' columns."""
        return tuple(self.manifest["classes"])

    @property
    def made_with(self) -> dict[str, Any]:
        """The settings that the set was made with (building/manifest.py)."""
        return self.manifest["made_with"]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names of the corruptions, or of the perturbations in a set of sequences, in the order of the tables."""
        return tuple(dict.fromkeys(name for name, _ in self.cells))

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """The cells (corruptions at a severity, or frames of perturbations), in the order of the tables."""
        return cells_of_set(self.made_with)

    @property
    def frame_counts(self) -> dict[str, int]:
        """{perturbation: number of its frames} of a set of sequences, in its order."""
        return dict(Counter(name for name, _ in self.cells))

    @property
    def has_sequences(self) -> bool:
        """Whether it is a set of perturbation sequences, built by make_fer_p.py. Its labels are not softened."""
        return is_sequence_set(self.made_with)

    @property
    def has_images(self) -> bool:
        """False for a set built with --no-images: only its clean images are files."""
        return (self.folder / "images").is_dir()

    def soft_labels_of(self, corruption: str, severity: int) -> np.ndarray:
        """The soft labels of one cell, float32 (N, K); in a set of sequences, which has none, the labels of labels.csv,
        float64."""
        if self.has_sequences:
            return self.labels_before_softening
        return self.soft_labels[divmod(self._number_of(corruption, severity) - 1, len(SEVERITIES))]

    def image_path(self, i: int, corruption: str | None = None, severity: int | None = None) -> Path:
        """The file of image `i`: the clean one, or one of its forms."""
        return self.folder / self._image_file(self.frame["id"].iloc[i], self._number_of(corruption, severity))

    def _image_file(self, image_id: str, number: int) -> str:
        """number: the position in `image_folders`."""
        folder = image_folders(self.made_with)[number]
        return f"{folder}/{image_id}.{image_suffix(folder, self.made_with['image_format'])}"

    def _number_of(self, corruption: str | None, severity: int | None) -> int:
        """The position of a cell in `image_folders`, 0 for the clean images. Raises ValueError where the set has no
        such cell."""
        return 0 if corruption is None or severity is None else 1 + self.cells.index((corruption, severity))

    def pixels(self, i: int, corruption: str | None = None, severity: int | None = None,
               in_memory: bool = False) -> np.ndarray:
        """Image `i`, clean or in one of its forms: uint8 (S, S, 3), RGB.

        in_memory: make the form from the clean image instead of reading its file; the result is the same, bit by bit.
        A set without images/ always does. Raises DamagedFile naming a file that is missing, no image, or, unless the
        set was opened with verify=False, different from the one that was built.
        """
        cell = None if corruption is None or severity is None else (corruption, severity)
        return next(self.pixels_of_cells(i, [cell], in_memory))

    def pixels_of_cells(self, i: int, cells: Iterable[tuple[str, int] | None],
                        in_memory: bool = False) -> Iterator[np.ndarray]:
        """Image `i` in several cells, one after the other, each as `pixels` gives it; None stands for the clean image.
        In memory the clean file is read and checked only once."""
        image_id = self.frame["id"].iloc[i]
        cells = list(cells)
        made_cells = [cell for cell in cells if cell is not None] if in_memory or not self.has_images else []
        if made_cells or None in cells:
            clean = self._read_file(i, image_id, 0)
            forms = make_forms(clean, image_id, made_cells, self.made_with)
        for cell in cells:
            if cell is None:
                yield clean_form(clean, self.made_with)
            elif made_cells:
                yield stored_form(next(forms), self.made_with)
            else:
                yield self._read_file(i, image_id, self._number_of(*cell))

    def clean_picture(self, i: int) -> np.ndarray:
        """The clean image as its file holds it: `pixels(i)`, with the margin that pictures of sequences may have."""
        return self._read_file(i, self.frame["id"].iloc[i], 0)

    def _read_file(self, i: int, image_id: str, number: int) -> np.ndarray:
        """A file of image `i`, uint8 (S, S, 3), RGB. number: the position in `image_folders`."""
        expected = None
        if self.verify and self.hashes is not None:
            expected = self.hashes[number, i].tobytes().hex()
        try:
            size = picture_size(self.made_with) if number == 0 else self.made_with["size"]
            return read_set_image(self.folder / self._image_file(image_id, number), size, expected)
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {repair_advice(self.folder, self.made_with)}") from None

    def check_forms_made_here(self) -> None:
        """Raises UserError where this machine does not make the images that the set was built with: all forms of
        the first image are made here and compared with their checksums."""
        _check_forms(self)


def read_set_image(path: Path, size: int, expected: str | None) -> np.ndarray:
    """An image file of a set, uint8 (size, size, 3), RGB. expected: its sha256 in hexadecimal, None to compare nothing.
    Raises DamagedFile where the file is missing, has another hash, is no image or has another size."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise DamagedFile(f"{path}: {error.strerror}") from None
    if expected is not None and sha256(data) != expected:
        raise DamagedFile(f"{path} is not the file that was built (its hash differs from checksums.sha256)")
    try:
        image = np.array(decode(io.BytesIO(data)))
    except UserError as error:
        raise DamagedFile(f"{path} is no readable image ({first_line(error)})") from None
    if image.shape != (size, size, 3):
        raise DamagedFile(f"{path} has {image.shape[1]}x{image.shape[0]} pixels, the set has images of {size}x{size}")
    return image


def _check_forms(built: BuiltSet) -> None:
    """Raises UserError where a form of the first image, made here, has another hash than the one that was built."""
    made_with = built.made_with
    image_id = built.frame["id"].iloc[0]
    clean = built.clean_picture(0)
    forms = make_forms(clean, image_id, built.cells, made_with)
    for form, expected in zip(forms, _hashes_of_first_image(built), strict=True):
        if sha256(encode(form, made_with["image_format"], made_with["quality"])) != expected:
            reason = _software_differences(built.manifest["software"]) or "another kind of processor?"
            raise UserError(f"{built.folder}: the images made here are not the ones the set was built with ({reason}). "
                            f"Use a set with image files (in evaluate.py: without --on-the-fly), or build the set "
                            f"here: {rebuild_command(built.folder, made_with)}")


def _hashes_of_first_image(built: BuiltSet) -> list[str | None]:
    """The sha256 of the forms of the first image in the order of `BuiltSet.cells`; None for one that is not listed."""
    if built.hashes is not None:
        return [value.tobytes().hex() for value in built.hashes[1:, 0]]
    names = image_files(built.frame["id"].iloc[0], built.made_with)[1:]
    names_in_set = set(names)
    hash_of_name = {name: value for value, name in read_lines(built.folder) if name in names_in_set}
    return [hash_of_name.get(name) for name in names]


def _software_differences(set_versions: dict[str, str]) -> str:
    """The packages whose versions differ between a set and this machine, in words; "" where all are equal."""
    differences = []
    for name, version in software().items():
        if set_versions.get(name) != version:
            differences.append(f"{name} {set_versions.get(name)} there, {version} here")
    return ", ".join(differences)


def open_built_set(folder: Path, verify: bool = True) -> BuiltSet:
    """Open a built set and check that its tables are the ones that were built.

    verify: compare manifest, tables and checksums with each other, and each image as it is read. With False no file is
    compared with checksums.sha256. Still checked are the manifest, the ids and labels against its digests, shapes and
    ranges, and that the soft labels are distributions. Raises UserError as `read_manifest` does, and DamagedFile naming
    the file and the command that builds the set again.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        checksums = None
        if verify:
            checksums = read_checksums(folder, manifest)
            _check_tables(folder, checksums)
        frame, labels = read_labels(folder / "labels.csv", manifest)
        made_with = manifest["made_with"]
        soft = np.zeros((0, len(SEVERITIES), *labels.shape), np.float32)
        if not is_sequence_set(made_with):
            soft = _read_soft_labels(folder, made_with, labels.shape)
        hashes = None
        if checksums is not None:
            hashes = image_hashes(checksums, frame["id"].tolist(), made_with)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {repair_advice(folder, manifest['made_with'])}") from None
    return BuiltSet(folder, manifest, frame, labels, soft, verify, hashes)


def _read_soft_labels(folder: Path, made_with: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """soft_labels.npy, memory-mapped, after it and visibility.npy were checked. shape: (N, K). Raises DamagedFile."""
    numbers = len(corruptions_of(made_with["preset"])), len(SEVERITIES)
    soft = read_cells(folder / "soft_labels.npy", (*numbers, *shape))
    visibility = read_cells(folder / "visibility.npy", (*numbers, shape[0]))
    _check_cells(folder, cells_of_set(made_with), soft, visibility)
    return soft


def _check_tables(folder: Path, checksums: Checksums) -> None:
    """Raises DamagedFile unless the tables have the hashes that are listed."""
    for name, expected in checksums.tables.items():
        require(sha256_of_file(folder / name) == expected, folder / name, "its hash differs from checksums.sha256")


def _check_cells(folder: Path, cells: tuple[tuple[str, int], ...], soft: np.ndarray, visibility: np.ndarray) -> None:
    """Raises DamagedFile unless all soft labels, (C, 5, N, K), are distributions and all visibilities, (C, 5, N), lie
    between 0 and 1."""
    for number, (name, severity) in enumerate(cells):
        place = divmod(number, len(SEVERITIES))
        try:
            soft_labels.check_distributions(soft[place], f"{name} {severity}")
        except ValueError as error:
            raise DamagedFile(f"{folder}/soft_labels.npy is damaged ({error})") from None
        in_range = (visibility[place] >= 0) & (visibility[place] <= 1)
        require(bool(in_range.all()), folder / "visibility.npy", f"{name} {severity}: a value is not between 0 and 1")
