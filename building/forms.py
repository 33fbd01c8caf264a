"""The forms of an image, and how they are encoded.

form  one changed version of a clean image. There is one for each cell of the set: a corruption at a severity
      (corruptions.py), 85 in FER-C, or a frame of a perturbation (perturbations.py).
"""
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

import perturbations
from building.layout import is_sequence_set
from corruptions import apply
from datasets.images import read_image
from support.random_streams import keyed_rng
from support.software import versions

# Chosen by `benchmarks/build.py --only encoders`. PNG: fewer bytes than with OpenCV's defaults in the same time, and a
# fifth of the time of compression level 6 for 6 % more bytes. JPEG: colour at full resolution, because half the
# resolution, the default, would remove colour noise.
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
       cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
JPG = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_QUALITY)
ENCODER = "OpenCV; png: level 1, strategy RLE, filter up; jpg: 4:4:4"  # in the manifest


def make_form(clean: np.ndarray, image_id: str, name: str, severity: int, made_with: Mapping[str, Any]) -> np.ndarray:
    """One form of a clean image, with the seed and the constants of `made_with` (the settings in the manifest).

    clean: uint8 (S, S, 3), RGB. The result has the same shape and type. Every form draws from a random stream of its
    own, keyed by (seed, id of the image, corruption, severity). The constants are those that the manifest lists and not
    those of the preset as it is today, so a set of an earlier release keeps its images.
    """
    arguments = made_with["constants"][name][severity - 1]
    return apply(clean, name, keyed_rng(made_with["seed"], image_id, name, severity), arguments)


def make_forms(clean: np.ndarray, image_id: str, cells: Iterable[tuple[str, int]],
               made_with: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The forms of a clean image in these cells, one after the other, uint8 (S, S, 3), RGB.

    clean: of the size `layout.picture_size`. The frames of a sequence follow from each other: each perturbation has one
    random stream, keyed by (seed, id of the image, perturbation), and the frames before one that is asked for are made
    with it. So the frames of a perturbation are best asked for one after the other and in their order: in any other
    order they are the same, but the sequence is made again."""
    if not is_sequence_set(made_with):
        for name, severity in cells:
            yield make_form(clean, image_id, name, severity, made_with)
        return
    for name, cells_of_perturbation in itertools.groupby(cells, key=lambda cell: cell[0]):
        next_frame = 0
        frames = sequence(clean, image_id, name, made_with)
        for _, number in cells_of_perturbation:
            if number < next_frame:
                frames, next_frame = sequence(clean, image_id, name, made_with), 0
            yield next(itertools.islice(frames, number - next_frame, None))
            next_frame = number + 1


def sequence(clean: np.ndarray, image_id: str, name: str, made_with: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The frames of a perturbation, uint8 (S, S, 3), RGB each. Arguments as for `make_forms`."""
    rng = keyed_rng(made_with["seed"], image_id, name)
    return perturbations.apply(clean, name, rng, made_with["constants"][name], made_with["preset"],
                               made_with["difficulty"], made_with["border"])


def clean_form(clean: np.ndarray, made_with: Mapping[str, Any]) -> np.ndarray:
    """The clean image as a model gets it: without the margin that pictures of sequences may have."""
    if not is_sequence_set(made_with) or made_with["border"] != "margin":
        return clean
    return perturbations.frame_of(clean, made_with["preset"])


def stored_form(form: np.ndarray, made_with: Mapping[str, Any]) -> np.ndarray:
    """A form as a reader of its file gets it: with what a lossy format changes."""
    if made_with["image_format"] == "png":
        return form
    data = encode(form, made_with["image_format"], made_with["quality"])
    return read_image(io.BytesIO(data), made_with["size"])


def encode(image: np.ndarray, image_format: str, quality: int | None = None) -> bytes:
    """The bytes of an image file. image: uint8 (S, S, 3), RGB; image_format: png, which keeps every value, jpg or webp;
    quality: 1 to 100, for jpg and webp."""
    options: dict[str, tuple[Any, ...]] = {
        "png": PNG, "jpg": (*JPG, quality), "webp": (cv2.IMWRITE_WEBP_QUALITY, quality)}
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(f".{image_format}", bgr, options[image_format])[1].tobytes()


def software() -> dict[str, str]:
    """The versions of the packages that the bytes of a set depend on, for the manifest."""
    return versions("numpy", "opencv-python-headless", "pillow", "scipy", "numba")
