"""Pictures from files: decode, crop, convert to RGB, resize, and keep the result in a cache.

All floors read pictures through this module: `decode` and `read_image` for one picture, `open_cache` for all pictures
of a data set, `box_fits` and `picture_sizes` for parsers that check face boxes, `inside` for paths from label files.
Only regular files of the formats in `FORMATS` below `MAX_PIXELS` and `MAX_BYTES` are read, whatever their suffix is.
"""
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
# The plugins are imported by name: what is not imported here cannot be started by a file.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from tqdm import tqdm

from datasets.image_cache import ImageCache
from datasets.image_metadata import orientation_of, without_metadata
from support.errors import UserError, first_line

MAX_PIXELS = 64_000_000  # refused above: a small file can unpack into all the memory there is
MAX_BYTES = 2**30  # refused above: 64 megapixels in 16 bits with alpha need half of it
MIN_OVERLAP = 0.1  # the smallest fraction of a box's area that must lie in its picture; faces at the border stick out
SIZES_AT_ONCE = 64  # pictures whose headers a thread reads before it takes the next ones

_PLUGINS = (JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile,
            BmpImagePlugin.BmpImageFile, TiffImagePlugin.TiffImageFile, GifImagePlugin.GifImageFile)
FORMATS = tuple(plugin.format for plugin in _PLUGINS)  # the only formats that are read
MAGIC = {"JPEG": (b"\xff\xd8\xff",), "PNG": (b"\x89PNG\r\n\x1a\n",), "WebP": (b"RIFF",), "BMP": (b"BM",),
         "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GIF": (b"GIF8",)}
_PILLOW = re.compile(r"PIL\.")
_TURNS = {  # orientation -> how the stored pixels become upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def inside(root: str | os.PathLike, path: str | os.PathLike) -> Path:
    """`root/path`. Links in the root are followed.

    Raises UserError where the path leads out of the root, since label files of unknown origin are not to be trusted.
    """
    full = Path(os.path.normpath(Path(root) / path))
    if not full.is_relative_to(os.path.normpath(root)):
        raise UserError(f"{path!r} leads out of the data folder {root}; label files may only name files below it")
    return full


def inside_all(root: str | os.PathLike, paths: Iterable[str]) -> list[str]:
    """`inside` for the paths of a whole split, as text: half a million `Path` objects take seconds to make."""
    base = os.path.normpath(root)
    start = "" if base == "." else base.rstrip("/") + "/"
    paths = list(paths)
    parts = "/".join(["", *paths, ""])
    if "//" not in parts and "/." not in parts:
        return [start + path for path in paths]  # all are plain, which is the usual case
    full = []
    for path in paths:
        is_plain = path and not path.startswith(("/", ".")) and "/." not in path and "//" not in path
        full.append(start + path if is_plain and not path.endswith("/") else str(inside(root, path)))
    return full


def decode(path: str | os.PathLike | BinaryIO, box: Sequence[float] | None = None) -> Image.Image:
    """One picture as a PIL image in RGB, upright, cropped.

    path: file, or an open file in memory (its attribute `name`, where it has one, is used in messages);
    box: (left, top, right, bottom) in pixels of the upright picture, or None (or NaN) for all of it.

    JPEG, PNG, WebP, BMP, TIFF and GIF are read, of several frames the first. Grey, palette, alpha, CMYK, 16-bit (the
    high byte counts) and float pictures (0 to 1) become RGB; the rotation in EXIF or XMP is applied, and no other tag
    counts: pictures whose pixels are sound are read whatever their metadata say.
    Raises UserError naming the file when it is missing, no regular file, truncated, not a picture of these formats,
    above 64 megapixels or 1 GiB, holds values outside the range of its type, or when `box_fits` says that the box does
    not belong to it. Parts of the box outside the picture are black.
    """
    label = _label(path)
    with _opened(path, label) as file:
        image = _read_upright(file, label)
    if box is None or np.isnan(box).any():
        return image
    if not box_fits(np.array([box], np.float64), np.array([image.size]))[0]:
        sides = ", ".join(f"{side:g}" for side in box)
        raise UserError(f"{label}: the box (left, top, right, bottom) = ({sides}) does not fit the picture of "
                        f"{image.width}x{image.height} pixels; at least a tenth of its area has to lie inside")
    return image.crop(tuple(int(round(side)) for side in box))


def read_image(path: str | os.PathLike | BinaryIO, size: int, box: Sequence[float] | None = None) -> np.ndarray:
    """`decode` at the model's size: uint8 (size, size, 3), bilinear with antialiasing (torchvision's Resize on PIL).
    Raises UserError as `decode` does."""
    image = decode(path, box)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def box_fits(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes belong to their pictures: bool (N,).

    boxes: float (N, 4), left, top, right, bottom in pixels of the upright picture, NaN for the whole picture;
    sizes: int (N, 2), width and height as `picture_sizes` gives them.
    A box fits when, its sides rounded to whole pixels, it is not empty, has at most 64 megapixels, and at least a tenth
    of its area (`MIN_OVERLAP`) lies in the picture. The whole picture always fits. So does every box where the size is
    unknown (-1): the decoder reports such a picture.
    """
    boxes = np.rint(np.asarray(boxes, np.float64))
    sizes = np.asarray(sizes)
    left, top, right, bottom = boxes.T
    width, height = sizes.T
    with np.errstate(all="ignore"):  # infinite sides give NaN, and NaN fits nowhere
        area = (right - left) * (bottom - top)
        inner_width = np.minimum(right, width) - np.maximum(left, 0)
        inner_height = np.minimum(bottom, height) - np.maximum(top, 0)
        inner_area = np.maximum(inner_width, 0) * np.maximum(inner_height, 0)
        belongs = (right > left) & (bottom > top) & (area <= MAX_PIXELS) & (inner_area >= MIN_OVERLAP * area)
    return belongs | np.isnan(boxes).any(axis=1) | (sizes < 0).any(axis=1)


def picture_sizes(root: str | os.PathLike, paths: Sequence[str]) -> np.ndarray:
    """Width and height of pictures as `decode` gives them (upright), from their headers alone.

    paths: N texts below the root. Returns int64 (N, 2), -1 where a header cannot be read or `decode` would refuse the
    size. Shows a bar while it works.
    """
    sizes = np.full((len(paths), 2), -1, np.int64)

    def read_sizes(start: int) -> None:
        for i in range(start, min(start + SIZES_AT_ONCE, len(paths))):
            try:
                sizes[i] = _upright_size(inside(root, paths[i]))
            except Exception:  # `decode` says what is wrong when the picture is used
                continue

    starts = range(0, len(paths), SIZES_AT_ONCE)
    with ThreadPoolExecutor() as pool, tqdm(desc="sizes of the pictures", total=len(paths), disable=None) as bar:
        for start, _ in zip(starts, pool.map(read_sizes, starts), strict=True):
            bar.update(min(SIZES_AT_ONCE, len(paths) - start))
    return sizes


def _upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture once it is upright, from its header. Raises what Pillow raises, and UserError."""
    label = _label(path)
    with _opened(path, label) as file:
        try:
            image = _open_header(file, label)
            orientation = None
        except UserError:
            raise
        except Exception:
            stripped = without_metadata(_all_bytes(file))
            if stripped is None:
                raise
            data, orientation = stripped
            image = _open_header(io.BytesIO(data), label)
        is_turned = (orientation or orientation_of(image)) >= 5  # by 90 degrees: width and height change places
        return (image.height, image.width) if is_turned else image.size


def _label(path: str | os.PathLike | BinaryIO) -> str:
    """The name of a file in messages: one line, without control characters."""
    is_path = isinstance(path, (str, os.PathLike))
    text = str(path if is_path else getattr(path, "name", "a picture in memory"))
    return text if text.isprintable() else ascii(text)


@contextmanager
def _opened(path: str | os.PathLike | BinaryIO, label: str) -> Iterator[BinaryIO]:
    """The file, open for reading. Only regular files are opened: a pipe would block, a device may never end."""
    if not isinstance(path, (str, os.PathLike)):
        yield path
        return
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{label}: no such image") from None
    except OSError as error:
        raise UserError(f"{label}: {error.strerror}") from None
    except ValueError as error:  # a name that cannot be one
        raise UserError(f"{label}: {first_line(error)}") from None
    state = os.fstat(number)
    if not stat.S_ISREG(state.st_mode):
        os.close(number)
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "no regular file"
        raise UserError(f"{label}: {kind}, not an image")
    with open(number, "rb") as file:
        if state.st_size > MAX_BYTES:
            raise UserError(f"{label}: {state.st_size / 2**30:.1f} GiB is too much for an image: refused above 1 GiB")
        yield file


def _all_bytes(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_BYTES)


def _read_upright(file: BinaryIO, label: str) -> Image.Image:
    """The picture in an open file, in RGB and upright.

    Where the decoder fails, the file is decoded a second time without its metadata: a malformed tag is no reason to
    lose sound pixels. Raises UserError.
    """
    try:
        return _pixels(file, label)
    except UserError:
        raise
    except Exception as error:  # of a damaged file a decoder may raise anything
        reason = error
    try:
        stripped = without_metadata(_all_bytes(file))
        if stripped is not None:
            return _pixels(io.BytesIO(stripped[0]), label, stripped[1])
    except Exception:  # the first error is reported: it is about the file as it is on disk
        pass
    raise UserError(f"{label}: not a readable image ({_reason(reason, file)})") from None


def _open_header(file: BinaryIO, label: str) -> Image.Image:
    """The picture in an open file with nothing decoded yet. Raises what Pillow raises, and UserError on its size."""
    _silence_pillow()
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{label}: {image.width}x{image.height} is above 64 megapixels: refused")
    return image


def _pixels(file: BinaryIO, label: str, orientation: int | None = None) -> Image.Image:
    """The picture in an open file, in RGB and upright. orientation: 1 to 8, None to read it from the metadata. Raises
    what Pillow raises, and UserError on its size."""
    image = _open_header(file, label)
    image.load()
    if image.width * image.height > MAX_PIXELS:  # loading may have changed the size
        raise UserError(f"{label}: {image.width}x{image.height} is above 64 megapixels: refused")
    turn = _TURNS.get(orientation or orientation_of(image))
    return _rgb(image if turn is None else image.transpose(turn))


def _silence_pillow() -> None:
    """Keep Pillow's warnings and log messages about metadata off the screen. They name no file, and what matters is
    reported by this module.

    The filter is set when the first picture is read, and stays. `warnings.catch_warnings` cannot be used: it replaces
    the filters of the whole process, and pictures are decoded in threads.
    """
    if ("ignore", None, Warning, _PILLOW, 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
    logger = logging.getLogger("PIL")
    if not logger.handlers:  # without one, Python prints what is logged as an error
        logger.addHandler(logging.NullHandler())


def _reason(error: Exception, file: BinaryIO) -> str:
    """What an exception of the decoder means, in one short line."""
    if isinstance(error, UnidentifiedImageError):
        file.seek(0)
        start = file.read(8)
        names = [name for name, beginnings in MAGIC.items() if start.startswith(beginnings)]
        if names:
            return f"its {names[0]} header is damaged"
        return f"it is none of {', '.join(list(MAGIC)[:-1])} and {list(MAGIC)[-1]}"
    if isinstance(error, MemoryError):
        return "too little memory to decode it"
    text = first_line(error)[:200]
    text = text if text.isprintable() else ascii(text)
    is_expected = isinstance(error, (OSError, SyntaxError, ValueError, Image.DecompressionBombError))
    return text if is_expected else f"the decoder failed: {text}"


def _rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB.

    Raises ValueError on values outside the range of their type: clipped, they would look like a sound picture.
    """
    if image.mode.startswith("I;16") or image.mode == "I":  # PIL would clip 16 bits to 8, not scale
        values = np.asarray(image).astype(np.int64)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"its integers range from {low} to {high}; 0 to 65535 can be read")
        if 0 < high < 256:
            raise ValueError(f"its 16-bit values end at {high}, so they would all be black; save it with 8 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        darkest, brightest = float(values.min()), float(values.max())
        if darkest < 0 or brightest > 1:
            raise ValueError(f"its values range from {darkest:g} to {brightest:g}; floats from 0 to 1 can be read")
        image = Image.fromarray(np.rint(255 * values).astype(np.uint8))
    return image.convert("RGB")


def open_cache(folder: str | os.PathLike, paths: Sequence[str | os.PathLike], boxes: np.ndarray, size: int,
               key: str = "") -> ImageCache:
    """The cache of decoded pictures in `folder`, which is made on the first call. Item i is uint8 (size, size, 3).

    paths: N files; boxes: float (N, 4), NaN for the whole picture. The file's name depends on paths, boxes, size and
    each picture's number of bytes and time of modification: changed pictures make a new cache. key: what
    `image_cache.cache_key` gives for them, where the caller has computed it already. Several processes may call at
    once: one decodes, the others wait. Raises UserError on an unreadable picture or too little room.
    """
    return ImageCache.open(Path(folder), paths, boxes, size, read_image, key)
