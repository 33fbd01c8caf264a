"""The journals of a build: which files are done, with their hashes and what was measured on them.

journal  the JSON file of a finished chunk (chunks.py) of an unfinished set or a shard, journal/<number of the
         chunk>.json. It holds a record for each source image. A chunk is done when its journal is there and every file
         has the hash that the journal says; otherwise it is made again, so a build may be killed at any moment.

A journal is read as strictly as if somebody else had written it: shards may come from other machines.
"""
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import soft_labels
from building.chunks import Chunk, Job, kept_files
from building.integrity import HEX, read_regular, require, sha256
from building.layout import cells_of_set, image_folders, is_sequence_set, journal_path
from support.errors import DamagedFile, UserError
from support.files import read_json


@dataclass(frozen=True)
class ImageRecord:
    """What a journal holds for one source image. An image that is not in the set has no hashes."""

    hashes: list[str]  # the sha256 of its files in the order of `layout.image_folders`, kept or not
    differences: list[float]  # of its forms to the clean image, in the order of `layout.cells_of_set`
    unchanged: list[int]  # the positions in that order of forms that equal the clean image in every pixel


def write_journal(path: Path, records: Mapping[str, ImageRecord]) -> None:
    """Write the records of a chunk, {id of the source image: record}, with a hash of them."""
    images = {}
    for image_id, record in records.items():
        images[image_id] = {"sha256": record.hashes, "difference": record.differences, "unchanged": record.unchanged}
    text = json.dumps({"images": images, "sha256": sha256(json.dumps(images).encode())})
    write_file(path, text.encode())


def read_journal(path: Path, job: Job, rows: pd.DataFrame, first_release: bool = False) -> dict[str, ImageRecord]:
    """The records that `write_journal` wrote for the images of `rows`.

    first_release: also read the format that the first release of this project wrote. It has neither the hash nor
    `unchanged`, which is then empty. Raises FileNotFoundError, and DamagedFile on anything else: records of other
    images, lists of other lengths, values that are no hashes, or differences that no images can have.
    """
    values = read_json(path)
    is_first_release = "images" not in values
    require(first_release or not is_first_release, path, "in the format of the first release")
    images = values if is_first_release else values["images"]
    require(isinstance(images, dict) and list(images) == rows["id"].tolist(), path, "records of other images")
    if not is_first_release:
        require(values.get("sha256") == sha256(json.dumps(images).encode()), path, "its hash differs")
    cells, largest = 0, 0.0  # nothing is measured on the frames of sequences
    if not is_sequence_set(job.made_with):
        measure = job.made_with["softening"]["visibility"]  # the difference from which the visibility is computed
        cells, largest = len(cells_of_set(job.made_with)), soft_labels.LARGEST[measure]
    files = len(image_folders(job.made_with))
    records = {}
    for row in rows.itertuples():
        image = images[row.id]
        require(isinstance(image, dict), path, f"{row.id}: no record")
        hashes = _checked_hashes(image.get("sha256"), files if row.in_set else 0, path, row.id)
        differences = _checked_differences(image.get("difference"), cells, largest, path, row.id)
        unchanged = [] if is_first_release else _checked_unchanged(image.get("unchanged"), cells, path, row.id)
        records[row.id] = ImageRecord(hashes, differences, unchanged)
    return records


def _checked_hashes(values: Any, count: int, path: Path, image_id: str) -> list[str]:
    require(isinstance(values, list) and len(values) == count, path, f"{image_id}: not as many hashes as files")
    for value in values:
        require(isinstance(value, str) and HEX.fullmatch(value) is not None, path, f"{image_id}: no sha256")
    return values


def _checked_differences(values: Any, count: int, largest: float, path: Path, image_id: str) -> list[float]:
    require(isinstance(values, list) and len(values) == count, path, f"{image_id}: not {count} differences")
    for value in values:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        require(is_number and -1e-9 <= value <= largest + 1e-9, path, f"{image_id}: a difference is out of range")
    return values


def _checked_unchanged(values: Any, cells: int, path: Path, image_id: str) -> list[int]:
    is_list = isinstance(values, list) and all(number in range(cells) for number in values)
    require(is_list, path, f"{image_id}: unchanged forms that do not exist")
    return values


def damaged_file(job: Job, chunk: Chunk, folder: Path | None = None, first_release: bool = False) -> str | None:
    """The first file of a chunk that is missing or differs from its journal, relative to `folder` or to its set/; None
    where the chunk is done. folder: an unfinished set or a shard (default: that of the job); first_release: as in
    `read_journal`."""
    folder = folder or job.work
    journal = journal_path(folder, chunk.number)
    try:
        records = read_journal(journal, job, chunk.rows, first_release)
    except (OSError, UserError, TypeError):
        return str(journal.relative_to(folder))
    for name, expected in _kept_hashes(job, chunk, records):
        try:
            actual = sha256(read_regular(folder / "set" / name))
        except (OSError, DamagedFile):
            return name
        if actual != expected:
            return name
    return None


def _kept_hashes(job: Job, chunk: Chunk, records: Mapping[str, ImageRecord]) -> Iterator[tuple[str, str]]:
    """(file, sha256) of every file of a chunk that lies in the set."""
    for row in chunk.rows.itertuples():
        files = kept_files(job, row)
        yield from zip(files, records[row.id].hashes[:len(files)], strict=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a file without the flush and the rename of `support.files.write_whole`, which would take most of the time
    of a build. It is safe: a file that differs from its journal is made again, and no reader takes an unfinished set
    for a finished one."""
    path.write_bytes(data)
