"""Inference: the logits of a network for the images of a built set.

Given a network on its device and the blocks that predictions.py wants, `predict_blocks` computes and stores them.

A cell is a corruption at a severity (corruptions.py), written (name, severity), or a frame of a perturbation; None
stands for the clean images. A block is a few source images in all cells that are computed. A worker process reads or
makes the images of a block as one array in shared memory; the device computes them in batches; the logits of a block
are one file. While the device computes a block, the next one is copied to it, and the workers prepare the blocks after
that.
"""
import contextlib
import shutil
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from building.built_set import BuiltSet
from evaluation.matching import MatchedSet
from evaluation.predictions import Blocks, all_cells, cell_name, write_block
from support.errors import UserError, first_line

SHARED_MEMORY = Path("/dev/shm")  # where arrays lie that pass between processes
BLOCKS_OF_A_WORKER = 3  # at once: one that is made, and two that wait (DataLoader's prefetch_factor)


@dataclass(frozen=True)
class InferenceOptions:
    """How logits are computed; the field names are those of evaluate.py's options."""

    precision: str = "32"
    """"32" or "bf16", see `support.run_folder.PRECISIONS`"""
    batch_size: int = 128
    """largest number of images that the network takes at once, in each process"""
    workers: int = 0
    """processes that read images; 0: none, the images are read in this process"""
    compile: bool = False
    """whether torch.compile is applied to the network"""
    on_the_fly: bool = False
    """whether corrupted images are made in memory instead of read from files; their bytes are the same"""

    def that_change_digits(self, device: str) -> dict[str, Any]:
        """What changes the last digits of logits, besides the precision. device: type of the device, cpu or cuda."""
        return {"batch size": self.batch_size, "compile": self.compile, "device": device}


class BlockImages(Dataset):
    """The images of blocks. Item `number` is (number, uint8 (images, cells, S, S, 3), RGB), or (number, UserError)
    where an image cannot be read: raised in a worker process, an error would arrive as a page of text."""

    def __init__(self, built: BuiltSet, blocks: Blocks, on_the_fly: bool):
        self.built = built
        self.blocks = blocks
        self.on_the_fly = on_the_fly

    def __len__(self) -> int:
        return len(self.blocks.numbers)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor | UserError]:
        try:
            return number, self.read(number)
        except UserError as error:
            return number, UserError(str(error))
        except OSError as error:
            return number, UserError(f"{error.filename or self.built.folder}: {error.strerror or error}")

    def read(self, number: int) -> torch.Tensor:
        """The images of a block. Raises what `BuiltSet.pixels` raises."""
        rows, cells, size = self.blocks.rows(number), self.blocks.cells, self.built.made_with["size"]
        images = new_array((len(rows), len(cells), size, size, 3))
        array = images.numpy()
        for place, i in enumerate(rows):
            for target, pixels in zip(array[place], self.built.pixels_of_cells(i, cells, self.on_the_fly), strict=True):
                target[:] = pixels
        return images


def new_array(shape: tuple[int, ...]) -> torch.Tensor:
    """A uint8 tensor, not filled. In a worker process it lies in shared memory from the beginning, as in torch's own
    `default_collate`, so that it reaches the main process without a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def predict_blocks(fabric: Any, network: torch.nn.Module, model_name: str, matched: MatchedSet, blocks: Blocks,
                   options: InferenceOptions, divided: bool = True) -> None:
    """Compute the logits of the blocks that are missing, and store each block when it is done.

    fabric: on whose device the network is; all of its processes call this. Each takes every world_size-th block and
    writes its logits, in the set's order of classes; with divided=False process 0 takes all. model_name: for messages.
    Raises UserError where an image cannot be read, memory does not suffice, or logits are not finite."""
    built, processes = matched.built, fabric.world_size
    own = blocks.missing_blocks[fabric.global_rank::fabric.world_size]
    if not divided:
        processes, own = 1, blocks.missing_blocks if fabric.global_rank == 0 else ()
    prepare_network(fabric, network, built.made_with["size"])
    images = BlockImages(built, blocks, options.on_the_fly)
    forms = {number: len(blocks.rows(number)) * len(blocks.cells) for number in blocks.missing_blocks}
    total = max(len(all_cells(built)) * blocks.count, sum(forms.values()))
    no_bar = True if fabric.global_rank != 0 else None  # None: tqdm shows the bar in a terminal only
    bar = tqdm(total=total, initial=total - sum(forms.values()), unit=" images", desc=built.folder.name, disable=no_bar)
    logits_by_block = with_advice(logits_of_blocks(fabric, network, images, own, options), options)
    with bar, contextlib.closing(logits_by_block):
        for number, logits in logits_by_block:
            logits = logits[:, :, matched.order]
            check_finite(logits, model_name, images, number, options.precision)
            write_block(blocks, number, logits)
            bar.update(min(processes * forms[number], total - bar.n))
    fabric.barrier()


def prepare_network(fabric: Any, network: torch.nn.Module, size: int) -> None:
    """Set the network to eval mode. With several processes, run it once: DistributedDataParallel exchanges buffers in
    its first call, in which all processes have to take part, and a process may have no block."""
    network.eval()
    if fabric.world_size > 1:
        with torch.no_grad():
            network(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=fabric.device))


def check_finite(logits: np.ndarray, model_name: str, images: BlockImages, number: int, precision: str) -> None:
    """Raises UserError naming the first cell whose logits hold NaN or infinity. logits: of block `number`, (images,
    cells, K)."""
    is_broken = ~np.isfinite(logits).all(2)
    if is_broken.any():
        cell = int(is_broken.any(0).argmax())
        name = cell_name(images.blocks.cells[cell]).replace("/", " ")
        first = images.built.frame["id"].iloc[images.blocks.rows(number)[0]]
        raise UserError(f"{model_name}: the network's outputs are not finite for {is_broken[:, cell].sum()} of "
                        f"{len(logits)} images ({name}), counted from {first} on: its training has diverged, or "
                        f"--precision {precision} is too coarse for it")


def with_advice(logits: Iterator[tuple[int, np.ndarray]],
                options: InferenceOptions) -> Generator[tuple[int, np.ndarray], None, None]:
    """Passes `logits` on. Raises UserError with advice where memory does not suffice."""
    try:
        yield from logits
    except torch.OutOfMemoryError:
        smaller = max(1, options.batch_size // 2)
        raise UserError(f"--batch-size {options.batch_size} does not fit into the device's memory; try "
                        f"--batch-size {smaller}") from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a process that reads images died, perhaps out of memory ({first_line(error)}); "
                        f"try --workers 0") from None


# ---- from images to logits

def logits_of_blocks(fabric: Any, network: torch.nn.Module, images: BlockImages, numbers: Sequence[int],
                     options: InferenceOptions) -> Iterator[tuple[int, np.ndarray]]:
    """(number, logits float32 (images, cells, K) in the network's order of classes) of these blocks, in any order.

    A block is divided into batches of nearly equal size, and no batch holds images of two blocks: a block has the same
    logits whatever else is computed. On a GPU the logits of a block are fetched only after the next block has been
    handed to the GPU, so that the GPU never waits for this process."""
    in_flight: deque[tuple[int, torch.Tensor, torch.cuda.Event | None]] = deque()
    blocks_in_flight = 1 if fabric.device.type == "cuda" else 0
    copies = torch.cuda.Stream(fabric.device) if fabric.device.type == "cuda" else None
    for number, block in load_blocks(fabric, images, numbers, options.workers):
        pixels = on_device(block, fabric.device, copies).flatten(0, 1).permute(0, 3, 1, 2)  # NCHW, channels last
        batches = torch.tensor_split(pixels, -(-len(pixels) // options.batch_size))
        with torch.no_grad():
            logits = torch.cat([network(batch).float() for batch in batches])
        logits = logits.reshape(*block.shape[:2], -1).to("cpu", non_blocking=True)  # into pinned memory
        done = None
        if copies is not None:
            done = torch.cuda.Event()
            done.record()
        in_flight.append((number, logits, done))
        if len(in_flight) > blocks_in_flight:
            yield fetched(*in_flight.popleft())
    while in_flight:
        yield fetched(*in_flight.popleft())


def on_device(block: torch.Tensor, device: torch.device, copies: torch.cuda.Stream | None) -> torch.Tensor:
    """The block on the device. copies: on a GPU, the stream in which it copies while it computes, and the block has to
    be in pinned memory; None on a CPU."""
    if copies is None:
        return block.to(device)
    with torch.cuda.stream(copies):
        copied = block.to(device, non_blocking=True)
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(copies)
    copied.record_stream(computing)  # its memory is not used again before the GPU has computed it
    return copied


def fetched(number: int, logits: torch.Tensor, done: torch.cuda.Event | None) -> tuple[int, np.ndarray]:
    """Number and logits of a block; waits until the device has computed them."""
    if done is not None:
        done.synchronize()
    return number, logits.numpy()


# ---- from files to images

def load_blocks(fabric: Any, images: BlockImages, numbers: Sequence[int],
                workers: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(number, images of the block, uint8 (images, cells, S, S, 3)) of these blocks, in any order; in pinned memory
    where the device is a GPU. The worker processes start once. Raises UserError where an image cannot be read."""
    workers = min(workers, len(numbers), workers_that_fit(images, workers))
    loader = DataLoader(images, batch_size=None, sampler=numbers, num_workers=workers, in_order=workers == 0,
                        pin_memory=fabric.device.type == "cuda", worker_init_fn=prepare_worker,
                        generator=torch.Generator())  # torch draws the workers' seed from it, else from the global one
    with opencv_without_threads():
        iterator = iter(loader)
    try:
        for number, block in iterator:
            if isinstance(block, UserError):
                raise block
            yield number, block
    finally:
        del iterator  # ends the worker processes, which a traceback would keep otherwise


def workers_that_fit(images: BlockImages, workers: int) -> int:
    """How many workers the shared memory has room for; containers often have 64 MB of it. Prints a line
    where there is room for fewer than `workers`."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return workers
    blocks, size = images.blocks, images.built.made_with["size"]
    most = free // (BLOCKS_OF_A_WORKER * blocks.images * len(blocks.cells) * 3 * size**2 or 1)
    if most < workers:
        print(f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, room for {most} of {workers} processes that read images "
              f"(Docker: --shm-size)")
    return most


@contextlib.contextmanager
def opencv_without_threads() -> Iterator[None]:
    """End OpenCV's threads for the moment in which worker processes are forked: a child that inherits them waits for
    them for ever in its first call of OpenCV."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def prepare_worker(_: int) -> None:
    """Set up a worker process: one thread, and Ctrl-C is left to the main process."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
