"""The names of files and folders: of a built set, of a set that is still being built, and of a shard.

  <set>/                     a finished set
      manifest.json          what it was made with, and its set version (manifest.py)
      labels.csv, soft_labels.npy, visibility.npy, visibility_mean.csv, gmm.json (tables.py)
      clean/<id>.png         the images before corruption
      images/<corruption>/<severity>/<id>.<format>
      checksums.sha256       the sha256 of every file; images.sha256 where images/ is not kept (checksums.py)
  <set>.partial/             the same set while it is being built
      build.json             what it is made with (state.py)
      journal/<number>.json  which files of a chunk are done (journal.py)
      set/                   the files, as in a finished set
  <set>.shard-<i>-of-<n>/    a finished shard, laid out as <set>.partial/ (shards.py)
"""
from pathlib import Path

from corruptions import CELLS

FOLDERS = ("clean", *(f"images/{name}/{severity}" for name, severity in CELLS))  # one for each of an image's 86 files
TABLES = ("labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json")
OPTIONAL_TABLES = ("gmm.json",)  # a set whose labels came without a mixture has none
IMAGE_FORMATS = ("png", "jpg", "webp")


def partial_folder(folder: Path) -> Path:
    """The folder in which a set or a shard is built until it is complete."""
    return folder.parent / (folder.name + ".partial")


def journal_path(work: Path, number: int) -> Path:
    """The journal of chunk `number` in an unfinished set or a shard."""
    return work / "journal" / f"{number}.json"


def image_suffix(folder: str, image_format: str) -> str:
    """The ending of the images in one of `FOLDERS`. Clean images are always PNG, because a set without images/ makes
    its images from them."""
    return "png" if folder == "clean" else image_format


def image_files(image_id: str, image_format: str) -> list[str]:
    """The 86 files of a source image, relative to the set, in the order of `FOLDERS`."""
    return [f"{folder}/{image_id}.{image_suffix(folder, image_format)}" for folder in FOLDERS]
