"""Pictures from files: decode, crop, convert to RGB, resize. One way in, for training, building and scoring alike."""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cli import UserError

MAX_PIXELS = 64_000_000  # refused above: a small file can unpack into all the memory there is


def inside(root, path):
    """`root/path`, refused if it leads out of the root (label files are not to be trusted)."""
    full = Path(root) / path
    if not full.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(f"{path!r} leads out of the data folder {root}; label files may only name files below it")
    return full


def read_image(path, size, box=None):
    """Decode one picture to the model's size.

    path: file; size: int, the side of the square result; box: (left, top, right, bottom) in pixels of the upright
    picture, or None (or NaN) for all of it. Grey, palette, alpha, 16-bit and CMYK pictures become RGB, EXIF rotation is
    applied. Returns uint8 (size, size, 3), bilinear with antialiasing (as torchvision's Resize does on PIL images).
    Raises UserError naming the file when it is missing, truncated, not a picture, or above 64 megapixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: {image.width}x{image.height} is above 64 megapixels: refused")
            image = _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({str(error).splitlines()[0]})") from None
    if box is not None and not np.isnan(box).any():
        image = image.crop(tuple(int(round(side)) for side in box))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def _rgb(image):
    if image.mode.startswith("I;16") or image.mode == "I":  # PIL would clip 16 bits to 8, not scale
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")
