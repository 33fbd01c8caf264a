"""A finished set, read and checked: evaluation and reports open it here.

`open_set(folder)` checks that manifest, tables and checksums are those that were built and fit each other, and gives a
`BuiltSet`: images by `pixels`, soft labels by `soft_labels_of`. Every image is compared with its hash as it is read,
unless the set was opened with verify=False.
"""
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import soft_labels
from building.checksums import Checksums, image_hashes, read_checksums, read_lines
from building.forms import encode, make_form, software, stored_form
from building.integrity import read_regular, require, sha256, sha256_of_file
from building.layout import FOLDERS, image_files, image_suffix
from building.manifest import read_manifest
from building.options import rebuild_command, repair_advice
from building.tables import read_cells, read_labels
from corruptions import CELLS, SEVERITIES, cell_index
from datasets.images import decode
from support.errors import DamagedFile, UserError, first_line


@dataclass(frozen=True)
class BuiltSet:
    """A finished set of N images and K classes."""

    folder: Path
    manifest: dict[str, Any]
    frame: pd.DataFrame  # labels.csv
    labels_before_softening: np.ndarray  # float64 (N, K)
    soft_labels: np.ndarray  # float32 (17, 5, N, K), memory-mapped
    verify: bool  # whether images are compared with the hashes they were built with
    hashes: np.ndarray | None  # of the images, uint8 (86, N, 32) in the order of `FOLDERS`; None unless verify

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels' columns."""
        return tuple(self.manifest["classes"])

    @property
    def made_with(self) -> dict[str, Any]:
        """The settings that the set was made with (building/manifest.py)."""
        return self.manifest["made_with"]

    @property
    def has_images(self) -> bool:
        """False for a set built with --no-images: only its clean images are files."""
        return (self.folder / "images").is_dir()

    def soft_labels_of(self, corruption: str, severity: int) -> np.ndarray:
        """The soft labels of one cell, float32 (N, K)."""
        return self.soft_labels[divmod(cell_index(corruption, severity), len(SEVERITIES))]

    def image_path(self, i: int, corruption: str | None = None, severity: int | None = None) -> Path:
        """The file of image `i`: the clean one, or one of its 85 forms."""
        return self.folder / self._image_file(self.frame["id"].iloc[i], _number_of(corruption, severity))

    def _image_file(self, image_id: str, number: int) -> str:
        """number: as in `FOLDERS`."""
        return f"{FOLDERS[number]}/{image_id}.{image_suffix(FOLDERS[number], self.made_with['image_format'])}"

    def pixels(self, i: int, corruption: str | None = None, severity: int | None = None,
               in_memory: bool = False) -> np.ndarray:
        """Image `i`, clean or in one of its 85 forms: uint8 (S, S, 3), RGB.

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
        makes_forms = in_memory or not self.has_images
        clean = None
        for cell in cells:
            if cell is not None and not makes_forms:
                yield self._read_file(i, image_id, _number_of(*cell))
                continue
            if clean is None:
                clean = self._read_file(i, image_id, 0)
            yield clean if cell is None else stored_form(clean, image_id, *cell, self.made_with)

    def _read_file(self, i: int, image_id: str, number: int) -> np.ndarray:
        """A file of image `i`, uint8 (S, S, 3), RGB. number: as in `FOLDERS`."""
        expected = None
        if self.verify and self.hashes is not None:
            expected = self.hashes[number, i].tobytes().hex()
        try:
            return read_set_image(self.folder / self._image_file(image_id, number), self.made_with["size"], expected)
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {repair_advice(self.folder, self.made_with)}") from None

    def check_images(self) -> None:
        """Raises UserError where this machine does not make the images that the set was built with: the first image's
        85 forms are made here and compared with their checksums."""
        _check_forms(self)


def _number_of(corruption: str | None, severity: int | None) -> int:
    """The position in `FOLDERS` of a cell, 0 for the clean images."""
    return 0 if corruption is None or severity is None else 1 + cell_index(corruption, severity)


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
    clean = built.pixels(0)
    for (name, severity), expected in zip(CELLS, _hashes_of_first_image(built), strict=True):
        form = make_form(clean, image_id, name, severity, made_with)
        if sha256(encode(form, made_with["image_format"], made_with["quality"])) != expected:
            reason = _software_differences(built.manifest["software"]) or "another kind of processor?"
            raise UserError(f"{built.folder}: the images made here are not the ones the set was built with ({reason}). "
                            f"Use a set with image files (in evaluate.py: without --on-the-fly), or build the set "
                            f"here: {rebuild_command(built.folder, made_with)}")


def _hashes_of_first_image(built: BuiltSet) -> list[str | None]:
    """The sha256 of the 85 forms of the first image in the order of `CELLS`; None for one that is not listed."""
    if built.hashes is not None:
        return [value.tobytes().hex() for value in built.hashes[1:, 0]]
    names = image_files(built.frame["id"].iloc[0], built.made_with["image_format"])[1:]
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


def open_set(folder: Path, verify: bool = True) -> BuiltSet:
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
            checksums = read_checksums(folder, manifest["content"])
            _check_tables(folder, checksums)
        frame, labels = read_labels(folder / "labels.csv", manifest)
        soft = read_cells(folder / "soft_labels.npy", labels.shape)
        visibility = read_cells(folder / "visibility.npy", labels.shape[:1])
        _check_cells(folder, soft, visibility)
        hashes = None
        if checksums is not None:
            hashes = image_hashes(checksums, frame["id"].tolist(), manifest["made_with"]["image_format"])
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {repair_advice(folder, manifest['made_with'])}") from None
    return BuiltSet(folder, manifest, frame, labels, soft, verify, hashes)


def _check_tables(folder: Path, checksums: Checksums) -> None:
    """Raises DamagedFile unless the tables have the hashes that are listed."""
    for name, expected in checksums.tables.items():
        require(sha256_of_file(folder / name) == expected, folder / name, "its hash differs from checksums.sha256")


def _check_cells(folder: Path, soft: np.ndarray, visibility: np.ndarray) -> None:
    """Raises DamagedFile unless all soft labels, (17, 5, N, K), are distributions and all visibilities, (17, 5, N), lie
    between 0 and 1."""
    for number, (name, severity) in enumerate(CELLS):
        place = divmod(number, len(SEVERITIES))
        try:
            soft_labels.check_distributions(soft[place], f"{name} {severity}")
        except ValueError as error:
            raise DamagedFile(f"{folder}/soft_labels.npy is damaged ({error})") from None
        in_range = (visibility[place] >= 0) & (visibility[place] <= 1)
        require(bool(in_range.all()), folder / "visibility.npy", f"{name} {severity}: a value is not between 0 and 1")
