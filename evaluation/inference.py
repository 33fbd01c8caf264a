"""Inference: the logits of a network for the images of a built set.

Given a network on its device and a set that fits it, `predict_cells` stores the logits of the cells asked for, through
predictions.py. Used by scoring.py.

A cell is a corruption at a severity (corruptions.py), written (name, severity); None stands for the clean images.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from building.built_set import BuiltSet
from compute.predict import predict
from evaluation.matching import MatchedSet
from evaluation.predictions import ALL_CELLS, Cell, cell_name, write_cells
from support.errors import UserError, first_line

# Worker processes start anew for each group of whole cells, and logits are written when a group is done. A group has
# about this many images: enough to make the start cheap, few enough to lose little when interrupted.
IMAGES_IN_A_GROUP = 8192


@dataclass(frozen=True)
class InferenceOptions:
    """How logits are computed; the field names are those of evaluate.py's options."""

    precision: str = "32"
    """"32" or "bf16", see `support.run_folder.PRECISIONS`"""
    batch_size: int = 128
    """images that the network takes at once, in each process"""
    workers: int = 0
    """processes that read images; 0: none, the images are read in this process"""
    compile: bool = False
    """whether torch.compile is applied to the network"""
    on_the_fly: bool = False
    """whether corrupted images are made in memory instead of read from files; their bytes are the same"""


class CellImages(torch.utils.data.Dataset):
    """The images of several cells, one cell after the other. Item i is (uint8 (3, S, S), RGB; i), as in
    `compute.batches.Images`."""

    cached = None  # no decoded copies: `compute.batches.load_batches` asks

    def __init__(self, built: BuiltSet, cells: Sequence[Cell], count: int, on_the_fly: bool):
        """count: only the first images of the set, this many."""
        self.built = built
        self.cells = cells
        self.count = count
        self.on_the_fly = on_the_fly

    def __len__(self) -> int:
        return self.count * len(self.cells)

    def __getitem__(self, i: int) -> tuple[torch.Tensor | UserError, int]:
        """The image, or the error that its reading raised: raised in a worker process, it would arrive as a page of
        text."""
        cell = self.cells[i // self.count]
        corruption, severity = cell or (None, None)
        try:
            pixels = self.built.pixels(i % self.count, corruption, severity, in_memory=self.on_the_fly)
        except UserError as error:
            return UserError(str(error)), i
        except OSError as error:
            return UserError(f"{error.filename or self.built.folder}: {error.strerror or error}"), i
        return torch.from_numpy(pixels).permute(2, 0, 1), i


def predict_cells(fabric: Any, network: torch.nn.Module, model_name: str, matched: MatchedSet, folder: Path,
                  cells: Sequence[Cell], count: int, options: InferenceOptions) -> None:
    """Compute the logits of the first `count` images of these cells, and store them in `folder`.

    fabric: on whose device the network is; all of its processes call this, and process 0 writes. model_name: for
    messages. Logits are stored in the set's order of classes, one file a cell, each renamed into place when it is
    whole. Raises UserError where an image cannot be read, memory does not suffice, or logits are not finite."""
    built = matched.built
    images_done = (len(ALL_CELLS) - len(cells)) * count
    hidden = True if fabric.global_rank != 0 else None  # None: tqdm shows the bar in a terminal only
    cells_in_a_group = max(1, IMAGES_IN_A_GROUP // count)
    with tqdm(total=len(ALL_CELLS) * count, initial=images_done, unit=" images", desc=built.folder.name,
              disable=hidden) as bar:
        for start in range(0, len(cells), cells_in_a_group):
            group = cells[start:start + cells_in_a_group]
            images = CellImages(built, group, count, options.on_the_fly)
            logits = logits_of(fabric, network, images, options).reshape(len(group), count, -1)[:, :, matched.order]
            logits_by_cell = dict(zip(group, logits, strict=True))
            for cell, values in logits_by_cell.items():
                check_finite(values, model_name, cell, options.precision)
            if fabric.global_rank == 0:
                write_cells(folder, logits_by_cell)
            bar.update(len(images))
        fabric.barrier()


def check_finite(logits: np.ndarray, model_name: str, cell: Cell, precision: str) -> None:
    """Raises UserError where the logits of a cell, (N, K), hold NaN or infinity."""
    broken = len(logits) - int(np.isfinite(logits).all(1).sum())
    if broken:
        name = cell_name(cell).replace("/", " ")
        raise UserError(f"{model_name}: the network's outputs are not finite for {broken} of {len(logits)} images "
                        f"({name}): its training has diverged, or --precision {precision} is too coarse for it")


def logits_of(fabric: Any, network: torch.nn.Module, images: CellImages, options: InferenceOptions) -> np.ndarray:
    """Logits of these images, float32 (N, K), in the network's order of classes. Raises UserError where memory does not
    suffice."""
    try:
        return predict(fabric, network, images, options.batch_size, options.workers)
    except torch.OutOfMemoryError:
        smaller = max(1, options.batch_size // 2)
        raise UserError(f"--batch-size {options.batch_size} does not fit into the device's memory; try "
                        f"--batch-size {smaller}") from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a process that reads images died, perhaps out of memory ({first_line(error)}); "
                        f"try --workers 0") from None
