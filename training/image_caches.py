"""Where the decoded images of a training are kept: in which folder, and on the host or on the device.

Without `--cache` and `--no-cache` the cache is made where it is small: below `LARGEST_UNASKED` bytes, and at most a
fifth of the disk's free space. `--cache-on auto` takes the device where the images fill less than half of its free
memory, other programs use at most `USED_BY_OTHERS` bytes of it, and no other job of the same sweep runs there.
"""
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from compute.batches import Images, move_to_device
from datasets.image_cache import StorageError, bytes_needed
from support import run_folder
from support.errors import UserError
from training.options import MachineOptions
from training.processes import Processes

LARGEST_UNASKED = 8e9  # bytes: a cache that is made without asking is smaller
PART_OF_DISK = 1 / 5  # of the free space, at most, for a cache that is made without asking
PART_OF_MEMORY = 1 / 2  # of the device's free memory, at most, for images that are put there without asking
USED_BY_OTHERS = 2**31  # bytes: where other processes use more than this on a device, another program is at work there.
# (A process that has computed nothing yet takes half a gigabyte.)


def attach_caches(splits: Sequence[Images], machine: MachineOptions, runs: Path, processes: Processes,
                  to_device: bool = True) -> None:
    """Give these images a cache where the options say so, and copy them to the device if they are to lie there.

    splits: training and validation images, without a cache so far. runs: the folder of all runs. to_device: whether
    they may be copied to the device; not where each image is read once. All processes call
    this; the first one decides about the folder and prints it. Where the folder of a cache that nobody asked for cannot
    be used, a line says so and the images stay without a cache. Raises UserError where the folder of `--cache` cannot
    be used, where an image cannot be read, and where `--cache-on device` finds no cache or too little memory.
    """
    folder = processes.run_on_first(lambda: cache_folder(splits, machine, runs, processes))
    folder = processes.fabric.broadcast(folder)
    if folder is None:
        if machine.cache_on == "device" and to_device:
            raise UserError(f"--cache-on device needs decoded images, {size_text(cache_bytes(splits))} on the disk: "
                            "give --cache DIR")
        return
    try:
        for images in splits:
            images.open_cache(folder)
    except StorageError as error:
        if machine.cache is not None:
            raise
        processes.print_once(f"no images are kept decoded: {error}")  # nobody has asked for a cache
        for images in splits:
            images.drop_cache()
        return
    if to_device:
        choose_place(splits, machine, processes)


def size_text(size: int) -> str:
    """A number of bytes, as "43 GB"."""
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"


def decoded_bytes(splits: Sequence[Images]) -> int:
    """Bytes of these images, decoded."""
    return sum(bytes_needed(len(images), images.size) for images in splits)


def whole_splits(splits: Sequence[Images]) -> list[Images]:
    """The whole splits whose caches hold these images, each once."""
    return list({id(whole): whole for images in splits for whole in images.cached_splits}.values())


def cache_bytes(splits: Sequence[Images]) -> int:
    """Bytes of the caches that hold these images, on the disk."""
    return decoded_bytes(whole_splits(splits))


def folder_to_keep_in(machine: MachineOptions, runs: Path) -> Path | None:
    """The folder of everything that is kept for the next start, None with --no-cache."""
    if machine.cache is not None or machine.no_cache:
        return machine.cache
    return run_folder.default_cache(runs)


def cache_folder(splits: Sequence[Images], machine: MachineOptions, runs: Path, processes: Processes) -> Path | None:
    """The folder of the cache, None for no cache. Prints where a new cache is made, or, where it would
    be too large to be made without asking, the option that makes it."""
    if machine.cache is not None or machine.no_cache:
        return machine.cache
    folder = run_folder.default_cache(runs)
    if all(has_cache(folder, images.cache_key) for images in whole_splits(splits)):
        return folder
    needed = cache_bytes(splits)
    free = free_space(folder)
    if needed < LARGEST_UNASKED and needed <= PART_OF_DISK * free:
        processes.print_once(f"{folder}: decoded images are kept here, {size_text(needed)} (--cache DIR takes "
                             "another folder, --no-cache none)")
        return folder
    processes.print_once(f"images are decoded again in every epoch; --cache DIR keeps them decoded: "
                         f"{size_text(needed)} are needed, {size_text(free)} are free at {folder}")
    return None


def has_cache(folder: Path, key: str) -> bool:
    """Whether a folder holds the cache with this key, or another process is making it there."""
    return (folder / f"{key}.npy").exists() or any(folder.glob(f"{key}.*.tmp"))


def free_space(folder: Path) -> int:
    """Free bytes of the disk on which a folder lies, or will lie."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


# --- on the host or on the device ---


def choose_place(splits: Sequence[Images], machine: MachineOptions, processes: Processes) -> None:
    """Copy images that have a cache to the device, with `--cache-on device`, and with `auto` if there is room."""
    device = processes.fabric.device
    size = decoded_bytes(splits)
    if machine.cache_on == "host" or machine.cache_on == "auto" and not has_room(device, size):
        return
    try:
        for images in splits:
            move_to_device(processes.fabric, images)
    except torch.OutOfMemoryError:
        for images in splits:
            images.resident = None
        if machine.cache_on == "device":
            raise UserError(f"--cache-on device: {size_text(size)} of decoded images do not fit into the device's "
                            "memory; --cache-on host leaves them where they are") from None
        return
    processes.print_once(f"decoded images lie on the device, {size_text(size)} (--cache-on host leaves them on the "
                         "disk)")


def has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes of images may go to a device without asking: it is a GPU, a sweep runs one job there at
    most, other programs use at most `USED_BY_OTHERS`, and the images take less than half of its free memory."""
    if device.type != "cuda" or int(os.environ.get(run_folder.JOBS_ON_A_DEVICE) or 1) > 1:
        return False
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    return others <= USED_BY_OTHERS and size < PART_OF_MEMORY * free
