"""--dry-run: how many images a build would make, and how many bytes and minutes it would take.

Nothing of the set is written. Reading the data set may write into its folder, as it always may (demo: draws the faces).
"""
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from building.chunks import Job
from building.layout import cells_of_set, is_sequence_set
from building.options import BuildOptions, SequenceOptions
from building.plan import (
    choose_rows, frame_of_sources, read_source, settings_of_corruptions, settings_of_sequences)
from building.shards import Shard, shard_folder
from building.worker import process_source
from datasets import default_root, load_split, parse_options
from support.errors import UserError

MEASURED_IMAGES = 8  # source images whose forms are made and timed
MEASURED_SECONDS = 8  # no further image is begun after so many seconds
CHECKSUM_BYTES = 110  # of one line of checksums.sha256


def estimate(options: BuildOptions | SequenceOptions, out: Path, shard: Shard | None) -> None:
    """Print the number of images of a build, and about how many bytes and minutes it takes, from making the forms of a
    few images in memory. Raises UserError where none of them can be read."""
    root = options.root or default_root(options.dataset)
    split = load_split(options.dataset, root, "test", **parse_options(options.data))
    set_rows, d_worst_rows = choose_rows(options.limit, options.seed, len(split.frame))
    frame = frame_of_sources(options, root, split.frame)
    made_with = settings(options)
    if is_sequence_set(made_with):
        d_worst_rows = d_worst_rows[:0]
    shard_fraction = 1 if shard is None else 1 / shard.n
    images = len(set_rows) * shard_fraction
    d_worst_only = len(set(d_worst_rows) - set(set_rows)) * shard_fraction

    positions = np.unique(np.linspace(0, len(set_rows) - 1, MEASURED_IMAGES).astype(int))
    costs = measure_images(Job(root, out, made_with, options.images), frame.iloc[set_rows[positions]])
    image_bytes = np.mean([sum(sizes if options.images else sizes[:1]) for sizes, _ in costs])
    image_seconds = np.mean([seconds for _, seconds in costs])

    cells = len(cells_of_set(made_with))
    table_bytes = 0 if is_sequence_set(made_with) else cells * 4 * (len(split.classes) + 1)  # soft label and visibility
    needed = images * (image_bytes + table_bytes + (1 + cells) * CHECKSUM_BYTES)
    workers = min(options.workers, os.cpu_count() or 1)
    minutes = (images + d_worst_only) * image_seconds / workers / 60
    place = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    goal = out if shard is None else shard_folder(out, *shard)
    print(f"{goal}: {images:,.0f} images x {cells} forms, about {needed / 1e9:.3g} GB and {minutes:.2g} minutes "
          f"with {options.workers} workers ({len(costs)} images measured). {free / 1e9:.3g} GB are free in "
          f"{place}{': TOO LITTLE' if needed > free else ''}")


def settings(options: BuildOptions | SequenceOptions) -> dict[str, Any]:
    """The part of a manifest's `made_with` from which the forms of an image follow."""
    common = {"size": options.image_size, "seed": options.seed}
    if isinstance(options, BuildOptions):
        return common | settings_of_corruptions(options)
    return common | settings_of_sequences(options)


def measure_images(job: Job, frame: pd.DataFrame) -> list[tuple[list[int], float]]:
    """(bytes of its files, seconds) of each source image in a split's frame, for those that can be read. The first
    image is made once more before, so that the time to compile the corruptions is left out."""
    root = job.root
    hashes = [read_source(root, row).sha256 for row in frame.itertuples()]
    rows = list(frame.assign(in_set=True, sha256=hashes).dropna(subset="sha256").itertuples())
    if not rows:
        raise UserError(f"none of {len(frame)} images of {root} can be read")
    process_source(job, rows[0])
    costs: list[tuple[list[int], float]] = []
    for row in rows:
        costs.append(measure_image(job, row))
        if sum(seconds for _, seconds in costs) > MEASURED_SECONDS:
            break
    return costs


def measure_image(job: Job, row: Any) -> tuple[list[int], float]:
    """(bytes of its files, seconds) of one source image. row: as `process_source` takes it."""
    sizes: list[int] = []

    def add_size(number: int, data: bytes) -> None:
        sizes.append(len(data))

    began = time.perf_counter()
    process_source(job, row, add_size)
    return sizes, time.perf_counter() - began
