"""What a worker process is given: a chunk of source images, and the job that it belongs to.

chunk  a few source images (`plan.CHUNK`) whose files are made by one call of a worker
job    what is the same for all chunks of a build

plan.py divides the images into chunks, build.py gives them to the workers, worker.py and shards.py do the work.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from building.layout import image_files


class Chunk(NamedTuple):
    """Source images that are made together."""

    number: int
    rows: pd.DataFrame
    """of `Plan.frame` or `Plan.d_worst_images`, with a column `in_set`: False for images that are not in the set and on
    which only D_worst is estimated"""


@dataclass(frozen=True)
class Job:
    """What a worker process has to know besides the chunk."""

    root: Path  # of the data set
    work: Path  # the unfinished set or shard
    made_with: dict[str, Any]  # the settings, as in the manifest
    keeps_images: bool  # whether images/ is kept
    shards: tuple[Path, ...] = ()  # the folders that a merge takes the files from


def kept_files(job: Job, row: Any) -> list[str]:
    """The files of a source image that lie in the set, in the order of `layout.image_folders`: all, only the clean one,
    or none where D_worst alone is estimated on the image. row: of `Chunk.rows`, as `itertuples` gives it."""
    if not row.in_set:
        return []
    files = image_files(row.id, job.made_with)
    return files if job.keeps_images else files[:1]
