"""Corruptions of images at five severities, the 17 of FER-C and the 18 of MIVIA: `corrupt(image, name, severity, rng)`.

corruption  an operation on an image, a key of `OPERATIONS`; FER-C's are the keys of `CORRUPTIONS`
suite       the corruptions that a set has, in its order: the 17 of FER-C, or the 18 of preset mivia (`corruptions_of`)
severity    1 (weakest) to 5: which of five rows of constants the operation takes
cell        a corruption at a severity, such as ("snow", 3). FER-C has 85, in the order of `CELLS`; arrays with a value
            for each have the shape (85, ...) or (17, 5, ...), see `cell_index`
preset      the constants of all corruptions at all severities, see `PRESETS`

The operations are those of ImageNet-C (Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, ICLR 2019, arXiv 1903.12261); motion blur follows ImageMagick (imagemagick.org,
-motion-blur). The 18 corruptions of preset mivia are those of RAF-DB-C (github.com/MiviaLab/emotion-robustness).

Images are uint8 arrays (H, W, 3) in RGB. In the docstrings below, x is the image divided by 255, and "the published
code" is that of ImageNet-C, which the script of FER-C took over. A result is clipped to [0, 1], multiplied by 255 and
truncated, as in the published code; rounding would shift every image by half a grey level.

All that is random comes from `rng`, a numpy Generator, in the order that each function's docstring gives. "Draws
uint32" means uniform uint32 values (`_words`), "draws normals" standard normal float32 values (`_normals`); both take
at most half the time of the Generator's own methods.

To add a corruption: write a function `(image, rng, *constants) -> image`; add its row to `CORRUPTIONS` and to the
tables `IMAGENET_C` and `FER_C` (`FER_C_RELEASED` takes those of `FER_C`); add the names of those of its constants that
are in pixels to `LENGTHS`. The names of constants are in the manifests of built sets, so those that exist must not be
renamed. A corruption that only preset mivia has goes into `OPERATIONS` and `MIVIA`, and changes nothing in FER-C.
"""
import functools
import inspect
import math
import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from support.image_sizes import SMALLEST

CANONICAL = 224  # the short side, in pixels, of images that take the constants of a preset without a rule as they are

IMAGENET_C: dict[str, list[tuple]] = {  # the constants for 224 pixels
    "gaussian_noise": [(.08,), (.12,), (.18,), (.26,), (.38,)],
    "shot_noise": [(60,), (25,), (12,), (5,), (3,)],
    "impulse_noise": [(.03,), (.06,), (.09,), (.17,), (.27,)],
    "speckle_noise": [(.15,), (.2,), (.35,), (.45,), (.6,)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "defocus_blur": [(3, .1), (4, .5), (6, .5), (8, .5), (10, .5)],
    "glass_blur": [(.7, 1, 2, None), (.9, 2, 1, None), (1, 2, 3, None), (1.1, 3, 2, None), (1.5, 4, 2, None)],
    "zoom_blur": [(.01, 12), (.01, 16), (.02, 11), (.02, 13), (.03, 11)],
    "gaussian_blur": [(1,), (2,), (3,), (4,), (6,)],
    "snow": [(.1, .3, 3, .5, 10, 4, .8), (.2, .3, 2, .5, 12, 4, .7), (.55, .3, 4, .9, 12, 8, .7),
             (.55, .3, 4.5, .85, 12, 8, .65), (.55, .3, 2.5, .85, 12, 12, .55)],
    "brightness": [(.1,), (.2,), (.3,), (.4,), (.5,)],
    "contrast": [(.4,), (.3,), (.2,), (.1,), (.05,)],
    "elastic_transform": [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88),
                          (29.28, 2.44, 4.88)],  # 488 = 2 x 244, 170.8 = .7 x 244, ...: 244 is a typo for 224 there
    "pixelate": [(.6,), (.5,), (.4,), (.3,), (.25,)],
    "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
    "spatter": [(.65, .3, 4, .69, .6, 0), (.65, .3, 3, .68, .6, 0), (.65, .3, 2, .68, .5, 0),
                (.65, .3, 1, .65, 1.5, 1), (.67, .4, 1, .65, 1.5, 1)],
    "saturate": [(.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2)],
}

# ImageNet-C has constants for images of 224 pixels (above) and weaker ones for images of 64 pixels (Tiny ImageNet-C).
# The published FER-C used the latter on images of 224 pixels. Gaussian blur of severity 3, for example, has a sigma of
# 1 pixel here and of 3 pixels above.
FER_C: dict[str, list[tuple]] = {
    "gaussian_noise": [(.04,), (.08,), (.12,), (.15,), (.18,)],
    "shot_noise": [(250,), (100,), (50,), (30,), (15,)],
    "impulse_noise": [(.01,), (.02,), (.05,), (.08,), (.14,)],
    "speckle_noise": [(.15,), (.2,), (.25,), (.3,), (.35,)],
    "motion_blur": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
    "defocus_blur": [(.5, .6), (1, .1), (1.5, .1), (2.5, .01), (3, .1)],
    "glass_blur": [(.1, 1, 1, None), (.5, 1, 1, None), (.6, 1, 2, None), (.7, 2, 1, None), (.9, 2, 2, None)],
    "zoom_blur": [(.01, 7), (.01, 12), (.01, 16), (.01, 21), (.01, 26)],
    "gaussian_blur": [(.5,), (.75,), (1,), (1.25,), (1.5,)],
    "snow": [(.1, .2, 1, .6, 8, 3, .8), (.1, .2, 1, .5, 10, 4, .8), (.15, .3, 1.75, .55, 10, 4, .7),
             (.25, .3, 2.25, .6, 12, 6, .65), (.3, .3, 1.25, .65, 14, 12, .6)],
    "brightness": IMAGENET_C["brightness"],
    "contrast": IMAGENET_C["contrast"],
    "elastic_transform": [(0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)],
    "pixelate": [(.9,), (.8,), (.7,), (.6,), (.5,)],
    "jpeg_compression": [(65,), (58,), (50,), (40,), (25,)],
    "spatter": [(.62, .1, .7, .7, .6, 0), (.65, .1, .8, .7, .6, 0), (.65, .3, 1, .69, .6, 0),
                (.65, .1, .7, .68, .6, 1), (.65, .1, .5, .67, .6, 1)],
    "saturate": [(.3, 0), (.1, 0), (2, 0), (5, .1), (30, .2)],
}

# FER-C's script, which made the published images, had two faults: the loop over the pixels of glass blur still ended at
# the border of 64-pixel images, and drops of spatter brighter than white (at severity 3) wrapped around at 256.
FER_C_RELEASED: dict[str, list[tuple]] = {
    **FER_C,
    "glass_blur": [(*row[:3], 64) for row in FER_C["glass_blur"]],
    "spatter": [(*row, 1) for row in FER_C["spatter"]],
}

# RAF-DB-C of the MIVIA benchmark: 18 corruptions. Those of the same name as above are the same operations. The
# constants of motion and defocus blur are for 48 pixels, see `_mivia_constants`.
MIVIA_SINGLE: dict[str, list[tuple]] = {
    "gaussian_blur": [(1,), (1.8,), (2.6,), (3.4,), (4,)],
    "defocus_blur": [(1.5, .1), (2, .2), (2, .3), (2.5, .4), (3, .4)],
    "zoom_blur": [(.01, 12), (.01, 18), (.02, 13), (.02, 17), (.03, 14)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "gaussian_noise": [(.08,), (.12,), (.18,), (.24,), (.3,)],
    "shot_noise": [(60,), (29,), (15,), (8,), (5,)],
    "contrast_plus": [(1.5,), (1.9,), (2.6,), (3.3,), (5,)],
    "contrast": [(.4,), (.33,), (.24,), (.16,), (.1,)],
    "brightness_plus": [(.1,), (.2,), (.3,), (.4,), (.5,)],
    "brightness_minus": [(-.1,), (-.2,), (-.3,), (-.4,), (-.5,)],
    "spatter": IMAGENET_C["spatter"],
    "pixelate": [(.6,), (.5,), (.41,), (.3,), (.25,)],
    "jpeg_compression": IMAGENET_C["jpeg_compression"],
}


def _mixed(names: Sequence[str], severities: Sequence[tuple[int, ...]]) -> list[tuple]:
    """The constants of a mixed corruption of MIVIA: those of its parts, one after the other. names: of the parts;
    severities: for each severity of the mixture, the severities of its parts."""
    return [sum((MIVIA_SINGLE[name][part - 1] for name, part in zip(names, parts, strict=True)), ())
            for parts in severities]


_DARKER = ("brightness_minus", "contrast")
MIVIA: dict[str, list[tuple]] = {
    **MIVIA_SINGLE,
    "contrast_brightness_plus": _mixed(("brightness_plus", "contrast"), [(1, 1), (2, 1), (2, 2), (2, 3), (3, 4)]),
    "contrast_brightness_minus": _mixed(_DARKER, [(1, 1), (2, 1), (2, 2), (2, 3), (3, 4)]),
    "gaussian_noise_contrast_brightness_minus": _mixed(
        ("gaussian_noise", *_DARKER), [(1, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 3), (3, 2, 4)]),
    "motion_blur_contrast_brightness_minus": _mixed(
        ("motion_blur", *_DARKER), [(2, 1, 1), (3, 1, 1), (4, 2, 2), (5, 2, 1), (5, 2, 3)]),
    "pixelate_contrast_brightness_minus": _mixed(
        ("pixelate", *_DARKER), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 1), (4, 3, 3)]),
}


def _mivia_constants(row: dict[str, Any], size: int) -> dict[str, Any]:
    """How the constants of preset mivia follow the size of the image. row: {argument: value} for 48 pixels; size: the
    short side in pixels (the published code takes the height).

    Defocus blur: both constants are multiplied by size / 48. Motion blur (in a mixture too): both are multiplied
    by size / 48 and divided by 3 without remainder, so that they are 6 and 2 pixels at severity 1 on images of 100
    pixels. Below 48 pixels the published rule gives a sigma of 0, for which nothing is defined; here it is at least 1.
    All other constants, the sigma of Gaussian blur among them, are the same at every size.
    """
    scale = size / 48
    if "alias" in row:  # only defocus_blur has it
        return {argument: value * scale for argument, value in row.items()}
    if "reach" in row:  # only motion_blur has it, and the mixture with it
        return row | {argument: max(1, int(row[argument] * scale // 3)) for argument in ("reach", "sigma")}
    return row


@dataclass(frozen=True)
class Preset:
    """The constants of all corruptions, and how those that are lengths follow the size of the image."""

    description: str
    """how it differs from the others, in words; for readers of this file, no command prints it"""
    table: dict[str, list[tuple]]
    """{corruption: the constants of severities 1 to 5}, in the order of the function's arguments; arguments with a
    default may be absent at the end"""
    shrinks: bool
    """whether lengths are multiplied by size / 224 below 224 pixels; otherwise they keep their values there"""
    rule: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    """its own rule by which the constants follow the size, in the place of that of `constants`: (row, size) -> row"""


PRESETS = {
    "fer-c": Preset(
        "ImageNet-C's constants for 64 pixels at 224 pixels, as in the published FER-C, without the faults of its "
        "script: glass blur shuffles the whole image, drops of spatter that are brighter than white stay white. "
        "Lengths keep their values up to 224 pixels and grow above",
        FER_C, shrinks=False),
    "fer-c-released": Preset(
        "as fer-c, with the faults of the published script: glass blur shuffles only the first 64 rows and columns, "
        "drops of spatter that are brighter than white wrap around at 256 and become dark",
        FER_C_RELEASED, shrinks=False),
    "imagenet-c": Preset(
        "ImageNet-C's constants for 224 pixels; drops of spatter that are brighter than white stay white. Lengths "
        "follow the size below and above 224 pixels",
        IMAGENET_C, shrinks=True),
    "mivia": Preset(
        "RAF-DB-C of the MIVIA benchmark: 18 corruptions, five of them mixtures, made for 100 pixels. Drops of spatter "
        "have their colours in RGB and those brighter than white stay white; the published code gives its RGB colours "
        "to BGR images, so that its water is yellowish and its mud blue",
        MIVIA, shrinks=False, rule=_mivia_constants),
}

# The arguments that are in pixels. `strength` of spatter is a length only for mud, see `lengths_of`.
LENGTHS = {"radius", "alias", "sigma", "reach", "distance", "alpha", "jitter"}


def corrupt(image: np.ndarray, name: str, severity: int, rng: np.random.Generator, preset: str = "fer-c") -> np.ndarray:
    """An image with one corruption at one severity.

    image: uint8 (H, W, 3), RGB, both sides at least 16 pixels; it is not modified. name: one of
    `corruptions_of(preset)`. severity: 1 to 5. rng: a numpy Generator, whose state advances. preset: a key of
    `PRESETS`.
    Returns a new C-contiguous uint8 array of the same shape. Raises TypeError or ValueError naming the
    argument that does not fit.
    """
    check_input(image, rng)
    if name not in corruptions_of(preset):
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(corruptions_of(preset))}")
    try:
        index = operator.index(severity) - 1
    except TypeError:
        raise TypeError(f"severity must be an integer from 1 to 5, not {severity!r}") from None
    if isinstance(severity, (bool, np.bool_)) or not 0 <= index < 5:
        raise ValueError(f"severity must be an integer from 1 to 5, not {severity!r}")
    return apply(image, name, rng, _constants(_preset(preset), name, index, min(image.shape[:2])))


def check_input(image: np.ndarray, rng: np.random.Generator) -> None:
    """Raises TypeError or ValueError unless `image` is a uint8 array (H, W, 3) of at least 16 pixels on each side, and
    `rng` a numpy Generator."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image must be a uint8 array, not {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (height, width, 3) in RGB, not {image.shape}")
    if min(image.shape[:2]) < SMALLEST:
        raise ValueError(f"image must be at least {SMALLEST} pixels on each side, not {image.shape[:2]}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")


def apply(image: np.ndarray, name: str, rng: np.random.Generator, arguments: dict) -> np.ndarray:
    """`corrupt` with the constants themselves instead of a preset and a severity. building/ makes the images of a
    set with it, from the constants in the set's manifest.

    image: uint8 (H, W, 3), RGB, not checked and not modified; arguments: {argument: value}, as `constants` gives them.
    Returns a new uint8 array of the same shape.
    """
    copy = np.array(image, order="C")  # writable and contiguous, so that the loops are compiled for one type of array
    return OPERATIONS[name](copy, rng, **arguments)


def constants(preset: str, size: int) -> dict[str, list[dict]]:
    """The constants that are used for images with this short side: {corruption: [five times {argument: value}]}, plain
    numbers and None, fit for JSON.

    size: in pixels. At 224 the constants are those of the preset. Above 224, lengths (`LENGTHS`: radii, sigmas,
    reaches, displacements) are multiplied by size / 224. Below 224 they are multiplied only where the preset `shrinks`,
    as imagenet-c does. The lengths of fer-c and fer-c-released were made for 64 pixels and keep their values up to 224,
    since smaller ones would leave images unchanged. A reach is rounded up; the distance of glass blur is rounded and at
    least 1. All other constants stay as they are, also the border at 64 pixels of fer-c-released. mivia has a rule of
    its own, see `_mivia_constants`.
    Raises ValueError where there is no such preset.
    """
    table = _preset(preset)
    return {name: [_constants(table, name, index, size) for index in range(len(SEVERITIES))] for name in table.table}


def corruptions_of(preset: str) -> tuple[str, ...]:
    """The names of a preset's corruptions, in the order of its sets: for most presets the 17 of `CORRUPTIONS`, for
    mivia the 18 of RAF-DB-C, ten of which are operations of FER-C with other constants. Raises ValueError where
    there is no such preset."""
    return tuple(_preset(preset).table)


def suite_of(names: Iterable[str]) -> tuple[str, ...]:
    """All corruptions of the preset that has these, in the order of its sets. It says what a set has of which only
    scores or predictions are known. Where several presets fit, FER-C's 17 come first.

    Raises ValueError naming one that does not fit, where no preset has all of them."""
    wanted = list(dict.fromkeys(names))
    suites = dict.fromkeys(corruptions_of(preset) for preset in PRESETS)
    for suite in suites:
        if set(wanted) <= set(suite):
            return suite
    unknown = [name for name in wanted if not any(name in suite for suite in suites)]
    if unknown:
        raise ValueError(f"unknown corruption {unknown[0]!r}")
    raise ValueError(f"no preset has all of the corruptions {', '.join(wanted)}")


def cells_of(corruptions: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """All cells (corruption, severity) of a set that has these corruptions, in the order of its arrays: the place of a
    cell in arrays (corruptions, 5, ...) is `divmod(cells_of(corruptions).index(cell), 5)`. `CELLS` is that of FER-C."""
    return tuple((name, severity) for name in corruptions for severity in SEVERITIES)


@functools.cache
def arguments_of(name: str) -> tuple[str, ...]:
    """The names of a corruption's constants, in the order of the presets' tables."""
    return tuple(inspect.signature(OPERATIONS[name]).parameters)[2:]  # after image and rng


def _preset(name: str) -> Preset:
    """The preset with this name. Raises ValueError where there is none."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def _constants(preset: Preset, name: str, index: int, size: int) -> dict:
    """{argument: value} of a corruption at severity index + 1, for images with this short side."""
    values = preset.table[name][index]
    row = dict(zip(arguments_of(name), values, strict=False))  # optional constants may be absent at the end
    if preset.rule:
        return preset.rule(row, size)
    if size == CANONICAL or (size < CANONICAL and not preset.shrinks):
        return row
    for argument in lengths_of(row):
        row[argument] = row[argument] * size / CANONICAL
    if "reach" in row:
        row["reach"] = math.ceil(row["reach"])
    if "distance" in row:
        row["distance"] = max(1, round(row["distance"]))
    return row


def lengths_of(row: dict[str, Any]) -> set[str]:
    """The arguments of a corruption that are in pixels. row: {argument: value}.

    `strength` of spatter has two meanings: the opacity of water, and the sigma that smooths the spots of mud. Only the
    sigma is a length."""
    lengths = LENGTHS & row.keys()
    if row.get("mud"):
        lengths.add("strength")
    return lengths


# --- noise ---


def gaussian_noise(image: np.ndarray, rng: np.random.Generator, sd: float) -> np.ndarray:
    """Adds N(0, sd) to every value of x. Draws normals (H, W, 3)."""
    return _noisy(image, _normals(rng, image.shape), 255 * sd, 0)


def shot_noise(image: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    """Poisson(x * photons) / photons for every value of x. Draws uint32 (H, W, 3); the count is the smallest whose
    cumulative probability exceeds the drawn value / 2**32."""
    # there are only 256 rates, so tables are an order of magnitude faster than the Generator's own sampler
    out = np.empty_like(image)
    _compiled(_invert)(image.ravel(), _words(rng, image.size), *_poisson_tables(photons), out.ravel())
    return out


def impulse_noise(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Replaces a fraction `amount` of all values, half of them by 0 and half by 255. Draws uint32 (H, W, 3): where
    the drawn value / 2**32 is below amount / 2, the result is 0; from there to `amount`, 255."""
    black = math.ceil(amount / 2 * 2 ** 32)  # where a drawn value is below it, the result is 0
    white = math.ceil(amount * 2 ** 32)  # where it is from `black` to below `white`, the result is 255
    out = np.empty_like(image)
    _compiled(_replace)(image.ravel(), _words(rng, image.size), black, white, out.ravel())
    return out


def speckle_noise(image: np.ndarray, rng: np.random.Generator, sd: float) -> np.ndarray:
    """Adds x * N(0, sd) to every value of x. Draws normals (H, W, 3)."""
    return _noisy(image, _normals(rng, image.shape), 0, sd)


# --- blur ---


def motion_blur(image: np.ndarray, rng: np.random.Generator, reach: int, sigma: float) -> np.ndarray:
    """Smears the image along a line. reach, sigma: in pixels, see `smear`. Draws the angle in degrees, U(-45, 45)."""
    return smear(image, rng.uniform(-45, 45), reach, sigma)


def defocus_blur(image: np.ndarray, rng: np.random.Generator, radius: float, alias: float) -> np.ndarray:
    """Convolves the image with a disk. Draws nothing.

    radius: of the disk, in pixels; alias: the sigma of the Gaussian that smooths its edge against aliasing, in pixels
    (ImageNet-C calls it alias_blur).
    """
    if radius <= 8:
        half, width = 8, 3
    else:
        half, width = math.ceil(radius), 5
    squares = np.arange(-half, half + 1.) ** 2
    disk = (squares[:, None] + squares <= radius ** 2).astype(np.float64)
    edge = cv2.getGaussianKernel(width, alias)
    disk = cv2.sepFilter2D(disk / disk.sum(), -1, edge, edge, borderType=cv2.BORDER_REFLECT_101)
    disk[disk < 1e-9] = 0  # a hardly smoothed edge leaves subnormal numbers, which processors are slow with
    margin = np.flatnonzero(disk.max(0))[0]  # the frame of zeros would only cost time
    disk = disk[margin:len(disk) - margin, margin:len(disk) - margin]
    return _truncate(cv2.filter2D(image.astype(np.float32), -1, disk, borderType=cv2.BORDER_REFLECT_101))


def glass_blur(image: np.ndarray, rng: np.random.Generator, sigma: float, distance: int, passes: int,
               border: int | None) -> np.ndarray:
    """Blurs the image, replaces every pixel by one of its neighbours, `passes` times, and blurs it again.

    sigma: of both Gaussian blurs, in pixels; distance: of the neighbours, in pixels; border: only rows and columns with
    smaller numbers are shuffled, None for all. The published code is meant to swap two pixels but, through a view,
    copies one. Later steps read what earlier ones wrote, so the order matters. Draws int8 integers from [-distance,
    distance), shape (passes, rows, columns, 2): dx, dy in the order of the loop.
    """
    image = _truncate(_gaussian(image, sigma))
    bottom, right = image.shape[:2]
    if border is not None:
        bottom, right = min(bottom, border), min(right, border)
    shape = (passes, bottom - 2 * distance, right - 2 * distance, 2)
    moves = rng.integers(-distance, distance, shape, dtype=np.int8)
    _compiled(_shuffle)(image, moves, distance)
    return _truncate(_gaussian(image, sigma))


def zoom_blur(image: np.ndarray, rng: np.random.Generator, step: float, count: int) -> np.ndarray:
    """The mean of the image and of `count` enlargements by the factors 1, 1 + step, 1 + 2 step, ... Draws nothing."""
    factors = [1 + step * i for i in range(1, count)]
    blurred = []
    for plane in cv2.split(image.astype(np.float32)):
        total = _zooms(plane, factors)
        total += 2 * plane  # the image itself, and its enlargement by the factor 1
        total *= 1 / (count + 1)
        blurred.append(_truncate(total))
    return cv2.merge(blurred)


def gaussian_blur(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in pixels. Draws nothing."""
    return blurred(image, sigma, 4)


# --- weather ---


def snow(image: np.ndarray, rng: np.random.Generator, loc: float, sd: float, zoom: float, threshold: float, reach: int,
         sigma: float, mix: float) -> np.ndarray:
    """Whitens the image and adds two layers of smeared flakes; the second layer is the first, turned by 180 degrees.

    loc, sd: of the normals that become flakes; zoom: factor by which flakes are enlarged; threshold: values below it
    are no flakes; reach, sigma: of the smear, see `smear`; mix: weight of the image before whitening.
    Draws normals (H, W) for the flakes, then the angle of the smear in degrees, U(-135, -45).
    """
    layer = flakes(rng, image.shape[:2], loc, sd, zoom, threshold)
    return with_snow(image, smear(layer, rng.uniform(-135, -45), reach, sigma), mix)


# --- digital ---


def spatter(image: np.ndarray, rng: np.random.Generator, loc: float, sd: float, sigma: float, threshold: float,
            strength: float, mud: int, wrap: int = 0) -> np.ndarray:
    """Adds drops of water, which are pale turquoise and shaded along their edges, or of mud. Draws normals (H, W).

    loc, sd, sigma: of the normals and of the Gaussian blur that turns them into drops; threshold: values below it are
    no drops; strength: the opacity of water, or the sigma that smooths the spots of mud; mud: 1 for mud, 0 for water;
    wrap: 1 where water that is brighter than white wraps around at 256 before its edges are detected, as in the
    published code, 0 where it stays white. Mud has no grey levels that could wrap.
    """
    liquid = liquid_layer(rng, image.shape[:2], loc, sd, sigma)
    if mud:
        cover = _gaussian((liquid > threshold).astype(np.float32), strength)
        _, cover = cv2.threshold(cover, .8, 0, cv2.THRESH_TOZERO)
        return _tinted(image, cover, (63, 42, 20), 1)
    return with_water(image, _spots(liquid, threshold, wrap), strength)


def brightness(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Adds `amount`, which may be negative, to V in HSV, within 0..1. Draws nothing."""
    return _on_planes(_adjust_hsv, image, 1., 0., float(amount))


def contrast(image: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """(x - m) * factor + m, where m is the mean of each channel. Draws nothing."""
    levels = np.arange(256)[:, None] / 255
    means = np.array(cv2.mean(image)[:3]) / 255
    table = np.clip((levels - means) * factor + means, 0, 1) * 255
    return cv2.LUT(image, table.astype(np.uint8)[None])


def elastic_transform(image: np.ndarray, rng: np.random.Generator, alpha: float, sigma: float,
                      jitter: float) -> np.ndarray:
    """An affine map, then a smooth random displacement of every pixel.

    alpha, sigma: size and smoothness of the displacement, in pixels; jitter: of the affine map, in pixels.
    Draws the moves (x, y) of three points, U(-jitter, jitter), shape (3, 2); then, unless alpha is 0, uint32
    (2, H, W) for dx and dy, mapped to [-1, 1).
    """
    height, width = image.shape[:2]
    arm = min(height, width) // 3
    points = np.array([width // 2, height // 2]) + np.array([[arm, arm], [arm, -arm], [-arm, -arm]])
    moved = points + rng.uniform(-jitter, jitter, (3, 2))
    source = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points).T  # from the result back to the image
    values = cv2.warpAffine(image.astype(np.float32), source, (width, height),
                            flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if alpha:
        fields = _words(rng, 2 * height * width).reshape(2, height, width).astype(np.float32)
        fields *= np.float32(2 ** -31)
        fields -= 1
        dx = _smooth(fields[0], sigma) * np.float32(alpha)
        dy = _smooth(fields[1], sigma) * np.float32(alpha)
        dx += np.arange(width, dtype=np.float32)
        dy += np.arange(height, dtype=np.float32)[:, None]
        values = cv2.remap(values, dx, dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return _truncate(values)


def pixelate(image: np.ndarray, rng: np.random.Generator, ratio: float) -> np.ndarray:
    """Shrinks the image to int(ratio * side) with Pillow's box filter, and enlarges it again. Draws nothing."""
    height, width = image.shape[:2]
    small_height, small_width = int(height * ratio), int(width * ratio)
    small = np.asarray(Image.fromarray(image).resize((small_width, small_height), Image.Resampling.BOX))
    # the pixels that the box filter takes when it enlarges
    rows = ((np.arange(height) + .5) * (small_height / height)).astype(np.uint32)
    columns = ((np.arange(width) + .5) * (small_width / width)).astype(np.uint32)
    out = np.empty_like(image)
    _compiled(_repeat)(small, rows, columns, out)
    return out


def jpeg_compression(image: np.ndarray, rng: np.random.Generator, quality: int) -> np.ndarray:
    """Encodes the image as JPEG with Pillow's defaults, colour at half the resolution, and decodes it. quality: 1 to
    100. Draws nothing."""
    # OpenCV and Pillow use the same library; called from OpenCV it takes two thirds of the time
    options = [cv2.IMWRITE_JPEG_QUALITY, quality,
               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)


def saturate(image: np.ndarray, rng: np.random.Generator, factor: float, amount: float) -> np.ndarray:
    """S * factor + amount in HSV. Draws nothing."""
    return _on_planes(_adjust_hsv, image, float(factor), float(amount), 0.)


# --- mixtures of preset mivia ---

# What is between the steps is clipped to 0..1 and not truncated to grey levels, as in the published code; only motion
# blur and pixelate give grey levels.


def contrast_brightness(image: np.ndarray, rng: np.random.Generator, amount: float, factor: float) -> np.ndarray:
    """`brightness`, then `contrast`. Draws nothing."""
    return _brighter_then_flatter(image.astype(np.float32), amount, factor)


def gaussian_noise_contrast_brightness(image: np.ndarray, rng: np.random.Generator, sd: float, amount: float,
                                       factor: float) -> np.ndarray:
    """`gaussian_noise`, `brightness`, `contrast`. Draws normals (H, W, 3)."""
    noisy = _normals(rng, image.shape) * np.float32(255 * sd) + image
    return _brighter_then_flatter(np.clip(noisy, 0, 255), amount, factor)


def motion_blur_contrast_brightness(image: np.ndarray, rng: np.random.Generator, reach: int, sigma: float,
                                    amount: float, factor: float) -> np.ndarray:
    """`motion_blur`, `brightness`, `contrast`. Draws the angle in degrees, U(-45, 45)."""
    return contrast_brightness(motion_blur(image, rng, reach, sigma), rng, amount, factor)


def pixelate_contrast_brightness(image: np.ndarray, rng: np.random.Generator, ratio: float, amount: float,
                                 factor: float) -> np.ndarray:
    """`pixelate`, `brightness`, `contrast`. Draws nothing."""
    return contrast_brightness(pixelate(image, rng, ratio), rng, amount, factor)


def _brighter_then_flatter(values: np.ndarray, amount: float, factor: float) -> np.ndarray:
    """`brightness` and `contrast` without truncation between them, as uint8. values: float32 (H, W, 3) in 0..255.

    Hue and saturation stay where all channels are multiplied by new V / old V. Black becomes grey."""
    planes = cv2.split(values)
    value = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    new_value = np.clip(value + np.float32(255 * amount), 0, 255)
    is_black = value == 0
    ratio = new_value / np.where(is_black, 1, value)
    out = []
    for plane in planes:
        plane = np.where(is_black, new_value, plane * ratio)
        mean = np.float32(plane.mean(dtype=np.float64))
        out.append(_truncate((plane - mean) * np.float32(factor) + mean))
    return cv2.merge(out)


CORRUPTIONS: dict[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "speckle_noise": speckle_noise,
    "motion_blur": motion_blur,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "zoom_blur": zoom_blur,
    "gaussian_blur": gaussian_blur,
    "snow": snow,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "spatter": spatter,
    "saturate": saturate,
}
OPERATIONS = CORRUPTIONS | {  # those of all presets: the 17 of FER-C, and what only mivia has
    "contrast_plus": contrast,
    "brightness_plus": brightness,
    "brightness_minus": brightness,
    "contrast_brightness_plus": contrast_brightness,
    "contrast_brightness_minus": contrast_brightness,
    "gaussian_noise_contrast_brightness_minus": gaussian_noise_contrast_brightness,
    "motion_blur_contrast_brightness_minus": motion_blur_contrast_brightness,
    "pixelate_contrast_brightness_minus": pixelate_contrast_brightness,
}
SEVERITIES = (1, 2, 3, 4, 5)
CELLS = cells_of(tuple(CORRUPTIONS))  # all 85 of FER-C


def cell_index(name: str, severity: int) -> int:
    """The position of a cell in `CELLS`, which is its place in arrays of shape (85, ...). In arrays (17, 5, ...) its
    place is `divmod(cell_index(name, severity), 5)`. Raises ValueError where there is no such cell."""
    return CELLS.index((name, severity))


# --- parts that perturbations.py needs too ---


def flakes(rng: np.random.Generator, shape: tuple[int, int], loc: float, sd: float, zoom: float,
           threshold: float) -> np.ndarray:
    """Flakes of snow before they are smeared, uint8 of this shape (H, W). Draws normals (H, W). Constants as in
    `snow`."""
    layer = _normals(rng, shape) * np.float32(sd) + np.float32(loc)
    return _spots(_zooms(layer, [zoom]), threshold)


def with_snow(image: np.ndarray, layer: np.ndarray, mix: float) -> np.ndarray:
    """The image, whitened, with smeared flakes and the same flakes turned by 180 degrees. image: uint8 (H, W, 3);
    layer: uint8 (H, W); mix: weight of the image before whitening."""
    return _on_planes(_whiten, image, layer.ravel(), np.float32(mix))


def liquid_layer(rng: np.random.Generator, shape: tuple[int, int], loc: float, sd: float, sigma: float) -> np.ndarray:
    """The field whose peaks are drops, float32 of this shape (H, W). Draws normals (H, W). Constants as in
    `spatter`."""
    return _gaussian(_normals(rng, shape) * np.float32(sd) + np.float32(loc), sigma)


def with_water(image: np.ndarray, liquid: np.ndarray, strength: float) -> np.ndarray:
    """The image with drops of water. image: uint8 (H, W, 3); liquid: uint8 (H, W), 0 where there is no drop; strength:
    the opacity of water at its thickest place. Without any drop it is the image."""
    depth = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    depth = cv2.equalizeHist(cv2.blur(np.minimum(depth, 20), (3, 3)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    cover = liquid * cv2.blur(cv2.filter2D(depth, cv2.CV_8U, relief), (3, 3)).astype(np.float32)
    thickest = cover.max()
    if thickest == 0:  # there is no drop; the published code divides by zero here
        return image
    return _tinted(image, cover * (strength / thickest), (175, 238, 238), 0)


def blurred(image: np.ndarray, sigma: float, truncate: float) -> np.ndarray:
    """Gaussian blur, cut at `truncate` sigmas. image: uint8 (H, W, 3), also the result; sigma: in pixels. Beyond the
    border the last pixel is repeated."""
    return _truncate(_gaussian(image, sigma, truncate))


def smear(image: np.ndarray, angle: float, reach: int, sigma: float) -> np.ndarray:
    """ImageMagick's motion blur: the weighted sum of copies of the image that are shifted by whole pixels along a line
    in one direction. Beyond the border the last pixel is repeated.

    image: uint8 (H, W) or (H, W, 3); angle: in degrees; reach: there are 2 reach + 1 copies; sigma: of the half
    Gaussian that gives the weights, in pixels.
    """
    steps = np.arange(2 * reach + 1)
    weights = np.exp(-.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    has_effect = weights > 1e-8  # the rest together changes no value by a thousandth of a grey level
    steps, weights = steps[has_effect], weights[has_effect]
    radians = math.radians(angle)
    down = np.ceil(steps * math.sin(radians) - .5).astype(np.int64)
    right = np.ceil(steps * math.cos(radians) - .5).astype(np.int64)
    margin = int(max(np.abs(down).max(), np.abs(right).max()))
    padded = cv2.copyMakeBorder(image.astype(np.float32), margin, margin, margin, margin,
                                borderType=cv2.BORDER_REPLICATE)
    channels = image.shape[2] if image.ndim == 3 else 1
    out = np.empty((image.shape[0], image.shape[1] * channels), np.float32)
    _compiled(_add_shifted)(padded.reshape(len(padded), -1), margin + down, (margin + right) * channels,
                            weights.astype(np.float32), out)
    return _truncate(out).reshape(image.shape)


# --- parts that several corruptions need ---


def _words(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` uniform uint32 values: the halves of uint64 values from the Generator, the low half first."""
    return rng.integers(0, 2 ** 64, -(-count // 2), dtype=np.uint64).view(np.uint32)[:count]


def _normals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values, float32, by inversion of the distribution function. Draws one uint32 for each value. Let
    x be this number, read as int32, plus .5: the normal value has the sign of x, and |x| / 2**32 is the probability of
    the tail beyond it."""
    out = np.empty(shape, np.float32)
    _compiled(_to_normals)(_words(rng, out.size).view(np.int32), *_normal_table(), out.ravel())
    return out


@functools.cache
def _normal_table() -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the normal distribution for upper tails of the probability t / 2**32, and the slope from each to the
    next, both float32. t goes from 2**-1 to 2**31, each octave in 512 steps (the leading bits of a float32). Straight
    lines between the quantiles are 5e-7 off at most."""
    edges = np.ldexp(1 + np.arange(512) / 512, np.arange(-1, 31)[:, None]).ravel()
    normal = statistics.NormalDist()
    quantiles = np.array([-normal.inv_cdf(edge / 2 ** 32) for edge in [*edges, 2 ** 31]])
    slopes = np.append(np.diff(quantiles), 0) / 2 ** 14
    return quantiles.astype(np.float32), slopes.astype(np.float32)


def _noisy(image: np.ndarray, noise: np.ndarray, constant: float, proportional: float) -> np.ndarray:
    """image + noise * (constant + proportional * image), as uint8."""
    out = np.empty_like(image)
    _compiled(_add_noise)(image.ravel(), noise.ravel(), np.float32(constant), np.float32(proportional), out.ravel())
    return out


def _truncate(values: np.ndarray) -> np.ndarray:
    """Floats on the scale of 0 to 255 as uint8, rounded towards zero. A value that is whole in exact arithmetic may be
    1e-4 less in float32; without the added 1/2048 it would lose a grey level."""
    out = np.empty(values.shape, np.uint8)
    tolerance = np.float32(1 / 2048) if values.dtype == np.float32 else 1e-9
    _compiled(_to_levels)(values.ravel(), tolerance, out.ravel())
    return out


def _spots(values: np.ndarray, threshold: float, wrap: int = 0) -> np.ndarray:
    """Floats on the scale of 0 to 1 as uint8: 0 below the threshold; above 1, white or, with `wrap`, modulo 256. The
    values are random, so none is whole in exact arithmetic and no tolerance is added before they are truncated."""
    _, values = cv2.threshold(values, threshold, 0, cv2.THRESH_TOZERO)
    if wrap:
        return (values * 255).astype(np.int32).astype(np.uint8)  # by way of int32: C leaves the direct step undefined
    return np.minimum(values * 255, 255).astype(np.uint8)


def _on_planes(kernel: Callable, image: np.ndarray, *arguments: Any) -> np.ndarray:
    """The result of a compiled loop that gets red, green and blue as separate planes: processors are fast where the
    values next to each other are of one kind."""
    planes, out = cv2.split(image), np.empty((3, *image.shape[:2]), np.uint8)
    _compiled(kernel)(*(plane.ravel() for plane in planes), *arguments, *out.reshape(3, -1))
    return cv2.merge(list(out))


def _tinted(image: np.ndarray, cover: np.ndarray, colour: tuple[int, int, int], hidden: float) -> np.ndarray:
    """image * (1 - cover * hidden) + cover * colour, as uint8. cover: float32 (H, W). hidden: how much of the image is
    hidden where cover is 1: all of it (1, mud), or nothing (0, water, whose light is added)."""
    planes, out = cv2.split(image), np.empty((3, *cover.shape), np.uint8)
    for plane, level, result in zip(planes, colour, out, strict=True):
        _compiled(_add_cover)(plane.ravel(), cover.ravel(), np.float32(level), np.float32(hidden), result.ravel())
    return cv2.merge(list(out))


def _gaussian_kernel(sigma: float, truncate: float) -> np.ndarray:
    """The weights of a Gaussian that is cut at `truncate` sigmas, float64, sum 1."""
    radius = int(truncate * sigma + .5)
    kernel = np.exp(-.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    return kernel / kernel.sum()


def _gaussian(values: np.ndarray, sigma: float, truncate: float = 4) -> np.ndarray:
    """Gaussian blur, cut at `truncate` sigmas; beyond the border the last pixel is repeated. Takes uint8 or float32,
    returns float."""
    kernel = _gaussian_kernel(sigma, truncate)
    # on small images sigma may be so small that only float64 shows its effect on a grey level
    depth = cv2.CV_64F if sigma < .3 and values.dtype == np.uint8 else cv2.CV_32F
    return cv2.sepFilter2D(values, depth, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def _smooth(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float32 field (H, W), cut at three sigmas and mirrored at the border; sigma may be larger than
    the image."""
    kernel = _gaussian_kernel(sigma, 3)
    if len(kernel) < 40:
        return cv2.sepFilter2D(field, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    from scipy import fft

    # with a mirrored border, the blur is a product in the cosine transform, which takes the same time for any sigma
    spectrum = fft.dctn(field, norm="ortho")
    for size, shape in zip(field.shape, ((-1, 1), (1, -1)), strict=True):
        spectrum *= _cosine_response(size, sigma).reshape(shape)
    return fft.idctn(spectrum, norm="ortho")


@functools.lru_cache(maxsize=32)
def _cosine_response(size: int, sigma: float) -> np.ndarray:
    """The factors, float32 (size,), by which the blur of `_smooth` multiplies the cosine transform along one axis."""
    kernel = _gaussian_kernel(sigma, 3)
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    return (np.cos(np.pi / size * np.outer(np.arange(size), offsets)) @ kernel).astype(np.float32)


def _zooms(plane: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """The sum of one enlargement for each factor: the centre of the plane, enlarged by the factor to the size of the
    plane, bilinear, with corner pixels on corner pixels. plane: float32 (H, W)."""
    height, width = plane.shape
    mixed, turned = np.empty((height, width), np.float32), np.empty((width, height), np.float32)
    total = np.zeros((width, height), np.float32)
    mix_rows = _compiled(_mix_rows)  # it is fast on whole rows, so columns are turned into rows
    for factor in factors:
        mix_rows(plane, *_zoom_table(height, factor), False, mixed)
        mix_rows(cv2.transpose(mixed, turned), *_zoom_table(width, factor), True, total)
    return cv2.transpose(total)


@functools.lru_cache(maxsize=512)
def _zoom_table(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """For each output pixel along one axis, the first of the two input pixels that it is mixed from (uint32), and the
    weight of the second (float32)."""
    cut = math.ceil(size / factor)
    enlarged = round(cut * factor)
    place = (np.arange(size) + (enlarged - size) // 2) * (cut - 1) / (enlarged - 1)
    whole = np.minimum(place.astype(np.int64), cut - 2)
    return (whole + (size - cut) // 2).astype(np.uint32), (place - whole).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _poisson_tables(photons: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables that invert the Poisson distribution of each of the 256 grey levels.

    last: uint32 (256, counts), the largest drawn value that gives each count; counts end at full white, since more look
    the same. first: uint16 (256, 512), the smallest count in each of 512 equal slices of the range of uint32. levels:
    uint8 (counts,), the grey level of each count.
    """
    counts = np.arange(math.ceil(photons) + 1)
    rates = np.arange(1, 256)[:, None] / 255 * photons
    log_factorial = np.array([math.lgamma(count + 1) for count in counts])
    distribution = np.ones((256, len(counts)))  # black has the rate 0, so its count is 0
    distribution[1:] = np.exp(counts * np.log(rates) - rates - log_factorial).cumsum(1)
    distribution[:, -1] = 1
    last = np.clip(np.ceil(distribution * 2. ** 32) - 1, 0, 2 ** 32 - 1).astype(np.uint32)
    slices = np.arange(512, dtype=np.uint32) << 23
    first = np.array([np.searchsorted(row, slices) for row in last]).astype(np.uint16)
    levels = (np.minimum(counts / photons, 1) * 255).astype(np.uint8)
    return last, first, levels


# --- compiled loops ---

# As int32: numba would take the literals 0 and 255 for int64, of which a processor handles half as many at once.
BLACK = np.int32(0)
WHITE = np.int32(255)


@functools.cache
def _compiled(kernel: Callable) -> Callable:
    """A loop below, compiled by numba. Its cache is used where a folder for it can be written."""
    import numba  # here, because importing it takes longer than all the rest of this module

    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(kernel)
    except RuntimeError:  # there is no folder in which its cache could be written
        return numba.njit(nogil=True, error_model="numpy")(kernel)


def _to_levels(values, tolerance, out):
    """The loop of `_truncate`."""
    for i in range(values.size):
        out[i] = min(max(np.int32(values[i] + tolerance), BLACK), WHITE)


def _to_normals(words, quantiles, slopes, out):
    """The loop of `_normals`. words: int32; quantiles, slopes: of `_normal_table`."""
    for i in range(words.size):
        signed_tail = np.float32(words[i]) + np.float32(.5)
        bits = np.uint32(np.float32(abs(signed_tail)).view(np.int32) - (126 << 23))  # the table begins at .5
        step = bits >> np.uint32(14)
        rest = np.float32(np.int32(bits & np.uint32(2 ** 14 - 1)))
        value = quantiles[step] + slopes[step] * rest
        out[i] = value if signed_tail > 0 else -value


def _add_noise(image, noise, constant, proportional, out):
    """The loop of `_noisy`."""
    for i in range(image.size):
        value = np.float32(image[i])
        value += noise[i] * (constant + proportional * value) + np.float32(1 / 2048)  # as in _truncate
        out[i] = min(max(np.int32(value), BLACK), WHITE)


def _replace(image, words, black, white, out):
    """The loop of `impulse_noise`."""
    for i in range(image.size):
        value = image[i]
        value = 255 if words[i] < white else value
        value = 0 if words[i] < black else value
        out[i] = value


def _invert(image, words, last, first, levels, out):
    """The loop of `shot_noise`. last, first, levels: of `_poisson_tables`."""
    for i in range(image.size):
        rate, word = image[i], words[i]
        count = first[rate, word >> 23]
        while word > last[rate, count]:
            count += 1
        out[i] = levels[count]


def _shuffle(image, moves, distance):
    """The loop of `glass_blur`, which changes the image. moves: int8 (passes, rows, columns, 2)."""
    passes, rows, columns, _ = moves.shape
    for n in range(passes):
        for i in range(rows):
            y = rows + distance - i
            for j in range(columns):
                x = columns + distance - j
                from_x, from_y = x + moves[n, i, j, 0], y + moves[n, i, j, 1]
                for channel in range(3):
                    image[y, x, channel] = image[from_y, from_x, channel]


def _repeat(small, rows, columns, out):
    """The loop of `pixelate`: out[y, x] = small[rows[y], columns[x]]."""
    for y in range(rows.size):
        source = small[rows[y]]
        target = out[y]
        for x in range(columns.size):
            for channel in range(3):
                target[x, channel] = source[columns[x], channel]


def _mix_rows(values, first, weights, add, out):
    """The loop of `_zooms`: each row of `out` is a mix of two rows of `values`, as `_zoom_table` says, or with `add` is
    increased by it."""
    for y in range(out.shape[0]):
        upper = values[first[y]]
        lower = values[first[y] + np.uint32(1)]
        weight = weights[y]
        line = out[y]
        if add:
            for x in range(line.size):
                line[x] += upper[x] + weight * (lower[x] - upper[x])
        else:
            for x in range(line.size):
                line[x] = upper[x] + weight * (lower[x] - upper[x])


def _add_shifted(padded, down, right, weights, out):
    """The loop of `smear`: the sum of copies of `padded`, shifted by `down` rows and `right` columns."""
    height, width = out.shape
    for y in range(height):
        line = out[y]
        line[:] = 0
        for n in range(weights.size):
            shifted, weight = padded[y + down[n], right[n]:], weights[n]
            for x in range(width):
                line[x] += weight * shifted[x]


def _add_cover(plane, cover, level, hidden, out):
    """The loop of `_tinted` for one plane."""
    for i in range(plane.size):
        value = np.float32(plane[i])
        value += cover[i] * (level - hidden * value) + np.float32(1 / 2048)  # as in _truncate
        out[i] = min(max(np.int32(value), BLACK), WHITE)


def _whiten(reds, greens, blues, flakes, mix, red_out, green_out, blue_out):
    """The loop of `snow`: mix * image + (1 - mix) * max(image, 1.5 * grey + .5) + flakes + flakes turned by 180
    degrees."""
    for i in range(reds.size):
        red, green, blue = np.float32(reds[i]), np.float32(greens[i]), np.float32(blues[i])
        white = np.float32(1.5) * (np.float32(.299) * red + np.float32(.587) * green + np.float32(.114) * blue)
        white += np.float32(127.5)
        snow = np.float32(flakes[i]) + np.float32(flakes[flakes.size - 1 - i]) + np.float32(1 / 2048)  # as in _truncate
        rest = np.float32(1) - mix
        red_out[i] = min(np.int32(mix * red + rest * max(red, white) + snow), WHITE)
        green_out[i] = min(np.int32(mix * green + rest * max(green, white) + snow), WHITE)
        blue_out[i] = min(np.int32(mix * blue + rest * max(blue, white) + snow), WHITE)


def _adjust_hsv(reds, greens, blues, factor, more_saturation, more_value, red_out, green_out, blue_out):
    """The loop of `brightness` and `saturate`: to HSV, S * factor + more_saturation, V + more_value, and back."""
    # In float64 and in this order of operations, since many results are whole numbers up to their rounding error.
    # Choices and no branches, so that several pixels are computed at once.
    for i in range(reds.size):
        red, green, blue = reds[i] / 255, greens[i] / 255, blues[i] / 255
        value = max(red, green, blue)
        delta = value - min(red, green, blue)
        grey = delta == 0
        divisor = 1. if grey else delta
        corner = 0.  # the hue of pure red, 2 of green, 4 of blue
        corner = 2. if green == value else corner
        corner = 4. if blue == value else corner
        excess = green - blue
        excess = blue - red if green == value else excess
        excess = red - green if blue == value else excess
        hue = corner + excess / divisor
        hue = (hue / 6 + (1. if hue < 0 else 0.)) * 6
        hue = 0. if grey else hue
        saturation = min((0. if grey else delta / value) * factor + more_saturation, 1.)
        value = min(max(value + more_value, 0.), 1.)
        sector = np.int32(hue)
        part = hue - sector
        low = value * (1 - saturation)
        falling = value * (1 - part * saturation)
        rising = value * (1 - (1 - part) * saturation)
        red = value if (sector == 0) | (sector == 5) else low
        red = falling if sector == 1 else red
        red = rising if sector == 4 else red
        green = value if (sector == 1) | (sector == 2) else low
        green = rising if sector == 0 else green
        green = falling if sector == 3 else green
        blue = value if (sector == 3) | (sector == 4) else low
        blue = rising if sector == 2 else blue
        blue = falling if sector == 5 else blue
        red_out[i] = np.int32(red * 255)
        green_out[i] = np.int32(green * 255)
        blue_out[i] = np.int32(blue * 255)
