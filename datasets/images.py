"""Pictures from files: decode, crop, convert to RGB, resize, and a cache of the result. One way in for every room."""
import fcntl
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from cli import UserError, first_line

MAX_PIXELS = 64_000_000  # refused above: a small file can unpack into all the memory there is


def inside(root, path):
    """`root/path`, refused if it leads out of the root: label files are not to be trusted. Links that the user has put
    there are followed."""
    full = Path(os.path.normpath(Path(root) / path))
    if not full.is_relative_to(os.path.normpath(root)):
        raise UserError(f"{path!r} leads out of the data folder {root}; label files may only name files below it")
    return full


def on_disk(root, paths):
    """Which of these files are there? paths: N texts below the root. Returns bool (N,). Every folder is listed once: a
    look at each of 300,000 files would take minutes. Raises UserError where a folder cannot be listed."""
    listings, present = {}, np.zeros(len(paths), bool)
    for i, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if folder not in listings:
            try:
                with os.scandir(inside(root, folder)) as entries:
                    listings[folder] = {entry.name for entry in entries if entry.is_file()}
            except PermissionError as error:
                raise UserError(f"{error.filename}: {error.strerror}") from None
            except (OSError, ValueError):  # absent, or a name from a label file that cannot be one
                listings[folder] = ()
        present[i] = name in listings[folder]
    return present


def decode(path, box=None):
    """One picture as a PIL image in RGB, upright, cropped.

    path: file; box: (left, top, right, bottom) in pixels of the upright picture, or None (or NaN) for all of it. Grey,
    palette, alpha, 16-bit and CMYK pictures become RGB, EXIF rotation is applied. Raises UserError naming the file when
    it is missing, truncated, not a picture, or above 64 megapixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: {image.width}x{image.height} is above 64 megapixels: refused")
            image = _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({first_line(error)})") from None
    if box is None or np.isnan(box).any():
        return image
    return image.crop(tuple(int(round(side)) for side in box))


def read_image(path, size, box=None):
    """`decode` at the model's size: uint8 (size, size, 3), bilinear with antialiasing (torchvision's Resize on PIL)."""
    image = decode(path, box)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def _rgb(image):
    if image.mode.startswith("I;16") or image.mode == "I":  # PIL would clip 16 bits to 8, not scale
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")


def open_cache(folder, paths, boxes, size):
    """All pictures decoded, as one memory-mapped uint8 (N, size, size, 3) in `folder`; made on the first call.

    paths: N files; boxes: float (N, 4), NaN for the whole picture. The file's name depends on paths, boxes, size and
    each picture's length and time of change: changed pictures make a new cache. Several processes may call at once: one
    decodes, the others wait. Raises UserError on an unreadable picture or too little room.
    """
    key = hashlib.sha256(repr(size).encode() + np.ascontiguousarray(boxes, np.float64).tobytes())
    for path in paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        key.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    file = Path(folder) / f"{key.hexdigest()[:32]}.npy"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                _fill_cache(file, paths, boxes, size)
    except OSError as error:
        raise UserError(f"--cache {folder}: {error.strerror}") from None
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _fill_cache(file, paths, boxes, size):
    shape = (len(paths), size, size, 3)
    need, room = len(paths) * size * size * 3, shutil.disk_usage(file.parent).free
    if need > room:
        raise UserError(f"--cache {file.parent}: {need / 2**30:.1f} GiB of decoded pictures do not fit into the "
                        f"{room / 2**30:.1f} GiB that are free")
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)

        def fill(i):
            pixels[i] = read_image(paths[i], size, boxes[i])

        with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter's lock
            for _ in tqdm(pool.map(fill, range(len(paths))), "decoding into the cache", len(paths), disable=None):
                pass
        pixels.flush()
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
