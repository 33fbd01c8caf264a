"""The names of files and folders: of a built set, of a set that is still being built, and of a shard.

  <set>/                     a finished set
      manifest.json          what it was made with, and its set version (manifest.py)
      labels.csv, soft_labels.npy, visibility.npy, visibility_mean.csv, gmm.json (tables.py); of a set of sequences
                             labels.csv only
      clean/<id>.png         the images before corruption
      images/<corruption>/<severity>/<id>.<format>, or images/<perturbation>/<frame>/<id>.png
      checksums.sha256       the sha256 of every file; images.sha256 where images/ is not kept (checksums.py)
  <set>.partial/             the same set while it is being built
      build.json             what it is made with (state.py)
      journal/<number>.json  which files of a chunk are done (journal.py)
      set/                   the files, as in a finished set
  <set>.shard-<i>-of-<n>/    a finished shard, laid out as <set>.partial/ (shards.py)
"""
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corruptions import cells_of, corruptions_of
from perturbations import PERTURBATIONS

MOST_FRAMES = 41  # of a sequence: `translate` of imagenet-p has as many, and no perturbation has more
SEQUENCES = "sequences"  # `kind` of a set of perturbation sequences; the other sets have no such entry

TABLES = ("labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json")
OPTIONAL_TABLES = ("gmm.json",)  # a set whose labels came without a mixture has none
IMAGE_FORMATS = ("png", "jpg", "webp")


def partial_folder(folder: Path) -> Path:
    """The folder in which a set or a shard is built until it is complete."""
    return folder.parent / (folder.name + ".partial")


def journal_path(work: Path, number: int) -> Path:
    """The journal of chunk `number` in an unfinished set or a shard."""
    return work / "journal" / f"{number}.json"


def is_sequence_set(made_with: Mapping[str, Any]) -> bool:
    """Whether a set holds perturbation sequences, as make_fer_p.py builds them, and not corruptions at severities.
    made_with: the settings in the manifest."""
    return made_with.get("kind") == SEQUENCES


def cells_of_set(made_with: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """The cells of a set in the order in which its tables and folders have them: corruptions at a severity, 85 in
    FER-C, or the frames of perturbations, counted from 0. made_with: the settings in the manifest."""
    preset = made_with["preset"]
    if not is_sequence_set(made_with):
        return _cells_of_preset(preset)
    constants = made_with["constants"]
    return _frames(tuple((name, constants[name]["count"]) for name in PERTURBATIONS[preset] if name in constants))


@functools.cache
def _cells_of_preset(preset: str) -> tuple[tuple[str, int], ...]:
    return cells_of(corruptions_of(preset))


@functools.cache
def _frames(counts: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The frames of perturbations. counts: (perturbation, number of its frames)."""
    return tuple((name, frame) for name, count in counts for frame in range(count))


def image_folders(made_with: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders that hold the images of a set, one for each file of a source image: the clean images, then those of
    each cell. made_with: the settings in the manifest."""
    return _image_folders(cells_of_set(made_with))


@functools.cache
def _image_folders(cells: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return "clean", *(f"images/{name}/{number}" for name, number in cells)


def picture_size(made_with: Mapping[str, Any]) -> int:
    """The side of the clean images in pixels. It is larger than that of the forms where sequences are cut out of
    pictures with a margin. made_with: the settings in the manifest."""
    return made_with["picture_size"] if is_sequence_set(made_with) else made_with["size"]


def tables_of_set(made_with: Mapping[str, Any]) -> tuple[str, ...]:
    """The tables that a set has, those that it may lack (`OPTIONAL_TABLES`) included."""
    return TABLES[:1] if is_sequence_set(made_with) else TABLES


def image_suffix(folder: str, image_format: str) -> str:
    """The ending of the images in one of `image_folders`. Clean images are always PNG, because a set without images/
    makes its images from them."""
    return "png" if folder == "clean" else image_format


def image_files(image_id: str, made_with: Mapping[str, Any]) -> list[str]:
    """The files of a source image, relative to the set, in the order of `image_folders`. made_with: the settings in the
    manifest."""
    image_format = made_with["image_format"]
    return [f"{folder}/{image_id}.{image_suffix(folder, image_format)}" for folder in image_folders(made_with)]
