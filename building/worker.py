"""The work on one source image: read it, corrupt it, encode, write, hash and measure. Runs in worker processes."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import soft_labels
from building.chunks import Chunk, Job, kept_files
from building.forms import encode, make_forms
from building.integrity import sha256
from building.journal import ImageRecord, damaged_file, read_journal, write_file, write_journal
from building.layout import cells_of_set, image_files, is_sequence_set, journal_path, picture_size
from datasets.images import decode, inside, read_image
from datasets.rafdb_originals import aligned_picture
from support.errors import UserError


def make_chunk(job: Job, chunk: Chunk) -> None:
    """Make all files of a chunk, then write its journal.

    The first release of this project wrote journals without `unchanged`. Where such a chunk is complete its files are
    kept, and they are only measured again.
    """
    journal = journal_path(job.work, chunk.number)
    records = {}
    if journal.exists() and damaged_file(job, chunk, first_release=True) is None:
        earlier_records = read_journal(journal, job, chunk.rows, first_release=True)
        for row in chunk.rows.itertuples():
            records[row.id] = checked_record(job, row, earlier_records[row.id], job.work)
    else:
        for row in chunk.rows.itertuples():
            records[row.id] = write_source_files(job, row)
    write_journal(journal, records)


def write_source_files(job: Job, row: Any) -> ImageRecord:
    """Make the clean image and all forms of a source image and write those that are kept. row: of `Chunk.rows`."""
    files = kept_files(job, row)

    def write(number: int, data: bytes) -> None:
        if number < len(files):
            write_file(job.work / "set" / files[number], data)

    return process_source(job, row, write)


def process_source(job: Job, row: Any, write: Callable[[int, bytes], None] | None = None) -> ImageRecord:
    """Make the clean image and all forms of a source image in memory, and measure the forms.

    write: called with each encoded file and its number in the order of `layout.image_folders`, 0 for the clean image.
    An image that is not in the set is not encoded, and its record has no hashes.
    """
    made_with = job.made_with
    hashes: list[str] = []
    differences: list[float] = []
    unchanged: list[int] = []

    def add_file(image: np.ndarray, image_format: str, quality: int | None = None) -> None:
        if not row.in_set:
            return
        data = encode(image, image_format, quality)
        if write is not None:
            write(len(hashes), data)
        hashes.append(sha256(data))

    clean = clean_image(job, row)
    add_file(clean, "png")
    for number, form in enumerate(make_forms(clean, row.id, cells_of_set(made_with), made_with)):
        add_file(form, made_with["image_format"], made_with["quality"])
        if is_sequence_set(made_with):  # nothing is computed from the differences of frames
            continue
        measure = made_with["softening"]["visibility"]  # the difference from which the visibility is computed
        # measured before a lossy encoder changes the form
        differences.append(soft_labels.difference(clean, form, measure))
        if np.array_equal(clean, form):
            unchanged.append(number)
    return ImageRecord(hashes, differences, unchanged)


def clean_image(job: Job, row: Any) -> np.ndarray:
    """The clean image of a source, uint8 (S, S, 3), RGB. Raises UserError where the source is not the file that was
    read when the build began."""
    path = inside(job.root, row.path)
    image = read_picture(path, row, job.made_with)
    if sha256(path.read_bytes()) != row.sha256:
        raise UserError(f"{path} has changed since the build began; restore it and give the same command again, or "
                        f"remove {job.work}")
    return image


def read_picture(path: Path, row: Any, made_with: Mapping[str, Any]) -> np.ndarray:
    """The part of a source picture that a clean image shows, uint8 (S, S, 3), RGB, of the size `picture_size`. row:
    with the box of the face, NaN for the whole picture.

    Where sequences need a margin, the box is made larger by as much on each side; where there is no box, the margin is
    taken from the picture itself, as ImageNet-P does."""
    if made_with.get("source") == "original":
        return aligned_picture(np.array(decode(path)), row.alignment, picture_size(made_with))
    box = np.array([row.left, row.top, row.right, row.bottom])
    size, frame_size = picture_size(made_with), made_with["size"]
    if size > frame_size and not np.isnan(box).any():
        sides = np.array([box[2] - box[0], box[3] - box[1]])
        margin = sides * (size - frame_size) / (2 * frame_size)
        box += np.concatenate([-margin, margin])
    return read_image(path, size, box)


def checked_record(job: Job, row: Any, record: ImageRecord, folder: Path) -> ImageRecord:
    """The record of a source image whose files are already in `folder`, an unfinished set or a shard. Their hashes are
    those of `record`; the differences are measured again, because a journal from elsewhere is not trusted.

    PNG files are decoded and compared with the clean image. Forms that are lossy or not kept are made again from the
    source. Raises UserError where the clean file is not that of the source, or where the hashes of files that are not
    kept are not those of the forms made here.
    """
    if row.in_set:
        _check_clean_file(job, row, folder)
    if is_sequence_set(job.made_with) and job.keeps_images:
        return record
    if row.in_set and job.keeps_images and job.made_with["image_format"] == "png":
        differences, unchanged = _measure_png_files(job, row, folder)
        return ImageRecord(record.hashes, differences, unchanged)
    new_record = process_source(job, row)
    if row.in_set and not job.keeps_images:
        _check_hashes(row.id, record, new_record, folder)
    return ImageRecord(record.hashes, new_record.differences, new_record.unchanged)


def _check_clean_file(job: Job, row: Any, folder: Path) -> None:
    """Raises UserError where the clean file of a source image is not the image that the source gives."""
    name = image_files(row.id, job.made_with)[0]
    if not np.array_equal(clean_image(job, row), np.array(decode(folder / "set" / name))):
        raise UserError(f"{folder}: {name} is not the image that {inside(job.root, row.path)} gives; "
                        f"{advice_on_folder(folder)}")


def _check_hashes(image_id: str, record: ImageRecord, new_record: ImageRecord, folder: Path) -> None:
    """Raises UserError unless the hashes in a journal are those of the forms that were made here."""
    if new_record.hashes != record.hashes:
        raise UserError(f"{folder}: the hashes of the images of {image_id}, which are not kept as files, are not those "
                        f"of the images made here (changed, or made on another kind of processor); "
                        f"{advice_on_folder(folder)}")


def _measure_png_files(job: Job, row: Any, folder: Path) -> tuple[list[float], list[int]]:
    """`differences` and `unchanged` of an `ImageRecord`, from the forms as their files hold them."""
    clean_file, *form_files = kept_files(job, row)
    clean = np.array(decode(folder / "set" / clean_file))
    differences: list[float] = []
    unchanged: list[int] = []
    for number, name in enumerate(form_files):
        form = np.array(decode(folder / "set" / name))
        if form.shape != clean.shape:
            raise UserError(f"{folder}: {name} has another size than the set; {advice_on_folder(folder)}")
        measure = job.made_with["softening"]["visibility"]  # the difference from which the visibility is computed
        differences.append(soft_labels.difference(clean, form, measure))
        if np.array_equal(clean, form):
            unchanged.append(number)
    return differences, unchanged


def advice_on_folder(folder: Path) -> str:
    """What to do about an unfinished set or a shard that cannot be used."""
    return f"remove {folder} and give the command again that made it (for a shard, the one with its --shard)"
