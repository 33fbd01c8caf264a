"""Makes batches on the device from the images of a split, which worker processes decode or a cache holds decoded.

Given the frame of a split (`datasets.split.Split`) and lists of indices, it passes on pairs (images, indices). Labels
are not part of a batch: they stay with the caller, addressed by index. Used by training/, compute/predict.py and the
benchmarks.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.images import inside, open_cache, read_image
from support.errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # for the annotation only: it takes half a second, and `--help` need not wait

Item = tuple[torch.Tensor | UserError, int]


class Images(Dataset):
    """The images of a split. Item i is (uint8 (3, S, S), i), or (UserError, i) for a file that cannot be read: an error
    that is raised in a worker process would reach the user as a page of text."""

    def __init__(self, root: Path, frame: "pd.DataFrame", size: int, cache: Path | None = None):
        """root: the data set's folder. frame: as `Split.frame`. size: side S in pixels. cache: folder of decoded
        images, which is filled here if it does not hold these images yet."""
        self.paths = [inside(root, path) for path in frame["path"]]
        self.size = size
        self.boxes = frame[["left", "top", "right", "bottom"]].to_numpy(np.float64)
        self.cached = None
        if cache is not None:
            self.cached = open_cache(cache, self.paths, self.boxes, size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Item:
        try:
            if self.cached is not None:
                pixels = self.cached[i]
            else:
                pixels = read_image(self.paths[i], self.size, self.boxes[i])
        except UserError as error:
            return error, i
        return torch.from_numpy(pixels).permute(2, 0, 1), i


def load_batches(fabric: Any, images: Any, batches: Sequence[Sequence[int]],
                 workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(images uint8 (B, 3, S, S), indices int64 (B,)) on the device of `fabric`, for every list of indices.

    batches: the lists. images: `Images`, or another torch `Dataset` with the same kind of items and an attribute
    `cached`, None where its items are not in a cache. workers: processes that decode; none are started for cached
    images. Raises UserError where an image cannot be read.
    """
    workers = 0 if images.cached is not None else min(workers, len(batches))
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=_collate,
                        pin_memory=fabric.device.type == "cuda")
    for image, index in loader:
        if isinstance(image, UserError):
            raise image
        yield image.to(fabric.device, non_blocking=True), index.to(fabric.device, non_blocking=True)


def _collate(items: list[Item]) -> tuple[torch.Tensor, torch.Tensor] | tuple[UserError, None]:
    """A batch of items, or the first error among them."""
    for image, _ in items:
        if isinstance(image, UserError):
            return image, None
    images = torch.stack([image for image, _ in items])  # type: ignore[misc]
    return images, torch.tensor([index for _, index in items])
