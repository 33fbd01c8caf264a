"""Makes batches on the device from the images of a split, which worker processes decode or a cache holds decoded.

Given the frame of a split (`datasets.split.Split`) and lists of indices, it gives one pair (images, indices) for each
list. Labels are not part of a batch: the caller keeps them and looks them up by index.

The images come from one of three places, and a batch has the same bytes from each of them:

decoded      worker processes decode the pictures (torch's DataLoader). This is slow, and needs no room on the disk.
on the host  a cache on the disk holds the decoded images. Threads gather the next batches from it and start the copy to
             the device, while the present batch is computed.
on the device  `move_to_device` has copied all images of the split there. A batch is a selection of them.
"""
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.image_cache import CacheRows, ImageCache, cache_key
from datasets.images import inside_all, open_cache, read_image
from support.errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # for the annotation only: it takes half a second, and `--help` need not wait

AHEAD = 2  # batches that are gathered, or on their way to the device, while one is computed
CHUNK = 2**26  # bytes of images that go to the device at once when a whole split is copied there

Item = tuple[torch.Tensor | UserError, int]
Batch = tuple[torch.Tensor, torch.Tensor]
"""images uint8 (B, 3, S, S) and their indices int64 (B,), on the device"""


class Images(Dataset):
    """The images of a split. Item i is (uint8 (3, S, S), i), or (UserError, i) for a file that cannot be read: an error
    that is raised in a worker process would reach the user as a page of text.

    `Images.of_rows` chooses images of whole splits; they are kept in the caches of these splits."""

    resident: torch.Tensor | None = None
    """uint8 (N, S, S, 3): all images on the device, if `move_to_device` has copied them there"""

    def __init__(self, root: Path, frame: "pd.DataFrame", size: int, cache: Path | None = None):
        """root: the data set's folder. frame: as `Split.frame`. size: side S in pixels. cache: folder of decoded
        images, which is filled here if it does not hold these images yet."""
        self.paths = inside_all(root, frame["path"].tolist())
        self.size = size
        self.boxes = frame[["left", "top", "right", "bottom"]].to_numpy(np.float64)
        self.cached: ImageCache | CacheRows | None = None
        self.splits: list[Images] = []  # of `of_rows`
        self.places: np.ndarray | None = None
        if cache is not None:
            self.open_cache(cache)

    @classmethod
    def of_rows(cls, splits: "Sequence[Images]", places: np.ndarray) -> "Images":
        """Images chosen from whole splits, all of one size. splits: those that are chosen from. places: int64 (N, 2),
        for every image the number of its split in `splits` and its row there. Their caches are those of the splits, so
        that many choices (the closed classes of many runs, for example) share them."""
        images = cls.__new__(cls)
        images.paths = [splits[number].paths[row] for number, row in places]
        images.size = splits[0].size
        images.boxes = np.array([splits[number].boxes[row] for number, row in places]).reshape(-1, 4)
        images.cached = None
        images.splits, images.places = list(splits), np.asarray(places, np.int64).reshape(-1, 2)
        return images

    @cached_property
    def cache_key(self) -> str:
        """The key of the cache of these images. It is the same in every folder, and the names of the cache's files
        begin with it. To compute it, the size and the time of modification of every picture are read from the disk."""
        return cache_key(self.paths, self.boxes, self.size)

    def open_cache(self, folder: Path) -> None:
        """Take the images from the cache in `folder`, which is filled here if it does not hold these images yet; chosen
        images from the caches of their splits. Raises UserError where an image cannot be read, `StorageError` where the
        folder cannot be used."""
        if self.places is None:
            self.cached = open_cache(folder, self.paths, self.boxes, self.size, self.cache_key)
            return
        for split in self.cached_splits:
            if split.cached is None:
                split.open_cache(folder)
        self.cached = CacheRows([split.cached for split in self.splits], self.places, self.size)

    def drop_cache(self) -> None:
        """Decode the images from their files from now on."""
        self.cached = None
        for split in self.splits:
            split.cached = None

    @property
    def cached_splits(self) -> "list[Images]":
        """The whole splits whose caches hold these images."""
        if self.places is None:
            return [self]
        return [self.splits[number] for number in np.unique(self.places[:, 0])]

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
                 workers: int) -> Generator[Batch, None, None]:
    """(images uint8 (B, 3, S, S), indices int64 (B,)) on the device of `fabric`, for every list of indices.

    batches: the lists. images: `Images`, or another torch `Dataset` with the same kind of items and an attribute
    `cached`, None where its items are not in a cache. workers: processes that decode; none are started for cached
    images. Raises UserError where an image cannot be read. A caller that does not take all batches closes the
    generator: then the threads that prepare further batches end.
    """
    if not batches:
        return
    if images.cached is None:
        yield from _decoded_batches(fabric.device, images, batches, min(workers, len(batches)))
        return
    numbers = np.concatenate([np.asarray(batch, np.int64) for batch in batches])
    all_indices = _to_device(torch.from_numpy(numbers), fabric.device)  # in one copy
    lengths = [len(batch) for batch in batches]
    indices = all_indices.split(lengths)
    if images.resident is not None:
        for index in indices:
            yield _rows(images.resident, index).permute(0, 3, 1, 2), index
        return
    parts = np.split(numbers, np.cumsum(lengths)[:-1])
    with closing(_gathered_batches(fabric.device, images.cached, parts)) as gathered:
        yield from zip(gathered, indices, strict=True)


def move_to_device(fabric: Any, images: Images) -> None:
    """Copy all images of a cached split to the device of `fabric`. Later batches are taken from there. Every block of
    the cache is checked on the way. Raises UserError where an image cannot be read, and torch.OutOfMemoryError."""
    cache = images.cached
    if cache is None:
        raise ValueError("only a split that has a cache can be copied to the device")
    resident = torch.empty(cache.shape, dtype=torch.uint8, device=fabric.device)
    at_once = max(1, CHUNK // resident[0].nbytes)
    chunks = [list(range(start, min(start + at_once, len(images)))) for start in range(0, len(images), at_once)]
    with tqdm(desc="to the device", total=len(images), disable=None if fabric.global_rank == 0 else True) as bar:
        batches = load_batches(fabric, images, chunks, 0)
        for chunk, (image, _) in zip(chunks, batches, strict=True):
            resident[chunk[0]:chunk[-1] + 1] = image.permute(0, 2, 3, 1)
            bar.update(len(chunk))
    images.resident = resident


# --- decoded by worker processes ---


def _decoded_batches(device: torch.device, images: Any, batches: Sequence[Sequence[int]],
                     workers: int) -> Generator[Batch, None, None]:
    """The batches of `load_batches`, decoded by worker processes, or by this one if `workers` is 0."""
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=_collate,
                        pin_memory=device.type == "cuda")
    for image, index in loader:
        if isinstance(image, UserError):
            raise image
        yield image.to(device, non_blocking=True), index.to(device, non_blocking=True)


def _collate(items: list[Item]) -> tuple[torch.Tensor, torch.Tensor] | tuple[UserError, None]:
    """A batch of items, or the first error among them."""
    for image, _ in items:
        if isinstance(image, UserError):
            return image, None
    images = torch.stack([image for image, _ in items])  # type: ignore[misc]
    return images, torch.tensor([index for _, index in items])


# --- gathered from the cache ---


def _gathered_batches(device: torch.device, cache: ImageCache,
                      parts: Sequence[np.ndarray]) -> Generator[torch.Tensor, None, None]:
    """Images uint8 (B, 3, S, S) on the device, for every array of indices. `AHEAD` batches are prepared by as many
    threads while the caller works with one."""
    memory: _PinnedMemory | _ReusedMemory
    if device.type == "cuda":
        memory, stream = _PinnedMemory(), torch.cuda.Stream(device)
    else:
        memory, stream = _ReusedMemory(max(map(len, parts)), cache.shape[1:]), None

    def prepare(numbers: np.ndarray) -> tuple[torch.Tensor, Any]:
        """The images on the device, and the event after which they are complete (None on a CPU)."""
        with torch.cuda.stream(stream) if stream else nullcontext():  # a new thread would use the first GPU
            pixels = memory.take((len(numbers), *cache.shape[1:]))
            cache.gather(numbers, pixels.numpy())
            image = pixels.to(device, non_blocking=True)  # torch keeps the pinned memory until the copy is done
            return image, stream.record_event() if stream else None

    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="batches")
    try:
        waiting: deque[Future] = deque()
        for numbers in parts:
            waiting.append(pool.submit(prepare, numbers))
            if len(waiting) > AHEAD:
                yield _images_of(waiting.popleft())
        while waiting:
            yield _images_of(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)  # waits for a batch that is just being gathered


def _images_of(batch: "Future[tuple[torch.Tensor, Any]]") -> torch.Tensor:
    """The images of a prepared batch, uint8 (B, 3, S, S). What the caller starts on the device after this call waits
    there until they are copied; the processor does not wait."""
    image, event = batch.result()
    if event is not None:
        current = torch.cuda.current_stream(image.device)
        current.wait_event(event)
        image.record_stream(current)  # its memory belongs to the stream of the copies
    return image.permute(0, 3, 1, 2)


class _PinnedMemory:
    """Memory of the host that the device can copy from while the processor works. Memory that no tensor uses any more
    is kept by torch, which gives it to a later call."""

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


class _ReusedMemory:
    """Memory for batches that is used again as soon as nothing refers to a batch any more. New memory would take more
    time than the gathering, because the system clears every page of it."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        """count: images of the largest batch. shape: of an image."""
        self.shape = (count, *shape)
        self.free: deque[np.ndarray] = deque()

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """uint8 tensor of this shape, with any content."""
        try:
            slab = self.free.pop()
        except IndexError:
            slab = np.empty(self.shape, np.uint8)
        pixels = slab[:shape[0]]
        # torch keeps `pixels` as long as any tensor uses it; after that, `slab` is free again
        weakref.finalize(pixels, self.free.append, slab).atexit = False
        return torch.from_numpy(pixels)


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a tensor on the device. The processor does not wait for the copying."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _rows(resident: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Images with these indices: uint8 (B, S, S, 3). They are copied in the largest unit, up to eight bytes, of which
    an image is a multiple: byte by byte there would be up to eight times as many operations."""
    flat = resident.flatten(1)
    for unit in (torch.int64, torch.int32, torch.uint8):
        if flat.shape[1] % unit.itemsize == 0:
            break
    return flat.view(unit).index_select(0, index).view(torch.uint8).unflatten(1, resident.shape[1:])
