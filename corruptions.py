"""The 17 corruptions of FER-C, each at five severities: `corrupt(image, name, severity, rng)`.

The operations are ImageNet-C's (Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations, ICLR 2019, arXiv 1903.12261); motion blur follows ImageMagick's (imagemagick.org, -motion-blur).
Images are uint8, H x W x 3, RGB; below, x is the image over 255. A result is clipped to [0, 1], multiplied by 255 and
truncated, not rounded: rounding shifts every image by half a grey level.

Everything random comes from `rng`, a numpy Generator, in the order that each function's docstring gives; what is called
words and normals there is drawn by `_words` and `_normals`, in half the time of the Generator or less. The constants
come in presets, see `PRESETS`; how those in pixels follow the short side of the image is the preset's, see `constants`.

Add a corruption: a function `(image, rng, *constants) -> image`, its row in `CORRUPTIONS` and in each preset.
"""
import functools
import inspect
import math
import operator
import statistics
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

CANONICAL = 224  # the presets' constants are meant for this short side
SMALLEST = 16  # below, crops and kernels degenerate

IMAGENET_C = {  # the constants for 224 pixels
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
                          (29.28, 2.44, 4.88)],  # 244 x 2, .7, ...: the typo for 224 is in the published code
    "pixelate": [(.6,), (.5,), (.4,), (.3,), (.25,)],
    "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
    "spatter": [(.65, .3, 4, .69, .6, 0), (.65, .3, 3, .68, .6, 0), (.65, .3, 2, .68, .5, 0),
                (.65, .3, 1, .65, 1.5, 1), (.67, .4, 1, .65, 1.5, 1)],
    "saturate": [(.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2)],
}

FER_C = {  # ImageNet-C's constants for 64 pixels, which the published FER-C took at 224
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

# The published images have two faults of the script that made them: the loop over the pixels of glass blur still ended
# at the border of 64-pixel images, and drops of spatter brighter than white (severity 3) wrapped around at 256.
FER_C_RELEASED = {
    **FER_C,
    "glass_blur": [(*row[:3], 64) for row in FER_C["glass_blur"]],
    "spatter": [(*row, 1) for row in FER_C["spatter"]],
}


@dataclass(frozen=True)
class Preset:
    """The constants of all corruptions and what becomes of them at other sizes than 224."""

    description: str
    table: dict[str, list[tuple]]
    """name -> the constants of severities 1 to 5, in the order of the function's arguments; those with a default may be
    absent"""
    shrinks: bool
    """below 224 pixels, lengths are multiplied by size / 224 (True) or keep their values (False)"""


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
}

PIXELS = {"radius", "alias", "sigma", "reach", "distance", "alpha", "jitter"}  # the arguments that are lengths


def corrupt(image: np.ndarray, name: str, severity: int, rng: np.random.Generator, preset: str = "fer-c") -> np.ndarray:
    """One corrupted form of an image.

    image: uint8 (H, W, 3), RGB, never modified; name: a key of `CORRUPTIONS`; severity: 1 to 5; rng: numpy Generator;
    preset: a key of `PRESETS`. Returns a new C-contiguous uint8 array of the same shape.
    Raises TypeError or ValueError naming what does not fit.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image must be a uint8 array, not {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (height, width, 3) in RGB, not {image.shape}")
    if min(image.shape[:2]) < SMALLEST:
        raise ValueError(f"image must be at least {SMALLEST} pixels on each side, not {image.shape[:2]}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(CORRUPTIONS)}")
    try:
        index = operator.index(severity) - 1
    except TypeError:
        raise TypeError(f"severity must be an integer from 1 to 5, not {severity!r}") from None
    if isinstance(severity, (bool, np.bool_)) or not 0 <= index < 5:
        raise ValueError(f"severity must be an integer from 1 to 5, not {severity!r}")
    return apply(image, name, rng, _constants(_preset(preset), name, index, min(image.shape[:2])))


def apply(image: np.ndarray, name: str, rng: np.random.Generator, arguments: dict) -> np.ndarray:
    """`corrupt` with the constants themselves, {argument: value} as `constants` gives them, instead of a preset and a
    severity: a built set lists the constants that its images were made with. image: uint8 (H, W, 3), unchecked."""
    own = np.array(image, order="C")  # writable and contiguous: compiled kernels see one type of array
    return CORRUPTIONS[name](own, rng, **arguments)


def constants(preset: str, size: int) -> dict[str, list[dict]]:
    """The constants really used for images with this short side: {name: [five times {argument: value}]}.

    Lengths in pixels (radii, sigmas, reaches, displacements) are multiplied by size / 224 above 224 pixels, and below
    where the preset `shrinks`: imagenet-c does; the lengths of fer-c and fer-c-released were made for 64 pixels and
    keep their values up to 224, since smaller ones would leave images as they are. A reach is rounded up, the distance
    of glass blur is rounded and at least 1. All others stay, as does the border at 64 of `fer-c-released`. At 224 they
    are the preset's. Plain numbers, fit for JSON.
    """
    chosen = _preset(preset)
    return {name: [_constants(chosen, name, index, size) for index in range(5)] for name in CORRUPTIONS}


def arguments_of(name: str) -> tuple[str, ...]:
    """The names of a corruption's constants, in the order of the presets' tables."""
    return _arguments(CORRUPTIONS[name])


def _preset(name):
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def _constants(preset, name, index, size):
    values = preset.table[name][index]
    row = dict(zip(_arguments(CORRUPTIONS[name]), values, strict=False))  # optional constants may be absent at the end
    if size == CANONICAL or (size < CANONICAL and not preset.shrinks):
        return row
    lengths = PIXELS & row.keys() | ({"strength"} if row.get("mud") else set())  # of mud, it is a sigma
    row.update({key: row[key] * size / CANONICAL for key in lengths})
    if "reach" in row:
        row["reach"] = math.ceil(row["reach"])
    if "distance" in row:
        row["distance"] = max(1, round(row["distance"]))
    return row


@functools.cache
def _arguments(function):
    return tuple(inspect.signature(function).parameters)[2:]  # after image and rng


# --- noise ---


def gaussian_noise(image, rng, sd):
    """x + N(0, sd) for every value. Draws normals (H, W, 3)."""
    return _noisy(image, _normals(rng, image.shape), 255 * sd, 0)


def shot_noise(image, rng, photons):
    """Poisson(x photons) / photons. Draws words (H, W, 3): the count is the smallest whose cumulated probability
    exceeds the word over 2**32."""
    # there are only 256 rates: tables are an order of magnitude faster than the Generator's own sampler
    out = np.empty_like(image)
    _compiled(_invert)(image.ravel(), _words(rng, image.size), *_poisson_tables(photons), out.ravel())
    return out


def impulse_noise(image, rng, amount):
    """Values replaced by 0 or 255. Draws words (H, W, 3): over 2**32, below amount / 2 is 0, up to amount is 255."""
    black, white = (math.ceil(share * 2 ** 32) for share in (amount / 2, amount))
    out = np.empty_like(image)
    _compiled(_replace)(image.ravel(), _words(rng, image.size), black, white, out.ravel())
    return out


def speckle_noise(image, rng, sd):
    """x + x N(0, sd). Draws normals (H, W, 3)."""
    return _noisy(image, _normals(rng, image.shape), 0, sd)


# --- blur ---


def motion_blur(image, rng, reach, sigma):
    """Smeared along a line. Draws the angle in degrees, U(-45, 45)."""
    return _smear(image, rng.uniform(-45, 45), reach, sigma)


def defocus_blur(image, rng, radius, alias):
    """A disk of this radius, its edge smoothed by a Gaussian of sigma `alias`. Draws nothing."""
    half, width = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    squares = np.arange(-half, half + 1.) ** 2
    disk = (squares[:, None] + squares <= radius ** 2).astype(np.float64)
    edge = cv2.getGaussianKernel(width, alias)
    disk = cv2.sepFilter2D(disk / disk.sum(), -1, edge, edge, borderType=cv2.BORDER_REFLECT_101)
    disk[disk < 1e-9] = 0  # an edge hardly smoothed leaves subnormal numbers, on which processors crawl
    used = np.flatnonzero(disk.max(0))[0]  # a frame of zeros costs time only
    disk = disk[used:len(disk) - used, used:len(disk) - used]
    return _truncate(cv2.filter2D(image.astype(np.float32), -1, disk, borderType=cv2.BORDER_REFLECT_101))


def glass_blur(image, rng, sigma, distance, passes, border):
    """Gaussian blur, pixels that take the place of their neighbours, Gaussian blur.

    The published code means to swap two pixels and, through a view, copies one. Later steps read what earlier ones
    wrote, so the order counts. Draws int8 integers from [-distance, distance), shape (passes, rows, columns, 2): dx, dy
    in the order of the loop. border: only rows and columns below it are shuffled; None: all.
    """
    image = _truncate(_gaussian(image, sigma))
    bottom, right = (min(side, border or side) for side in image.shape[:2])
    shape = (passes, bottom - 2 * distance, right - 2 * distance, 2)
    _compiled(_shuffle)(image, rng.integers(-distance, distance, shape, dtype=np.int8), distance)
    return _truncate(_gaussian(image, sigma))


def zoom_blur(image, rng, step, count):
    """The mean of the image and of `count` enlargements by 1, 1 + step, 1 + 2 step, ... Draws nothing."""
    factors = [1 + step * i for i in range(1, count)]
    out = []
    for plane in cv2.split(image.astype(np.float32)):
        total = _zooms(plane, factors)
        total += 2 * plane  # itself and the factor 1
        total *= 1 / (count + 1)
        out.append(_truncate(total))
    return cv2.merge(out)


def gaussian_blur(image, rng, sigma):
    """Gaussian blur. Draws nothing."""
    return _truncate(_gaussian(image, sigma))


# --- weather ---


def snow(image, rng, loc, sd, zoom, threshold, reach, sigma, mix):
    """A whitened image under two layers of smeared flakes, one the other turned by 180 degrees.

    Draws normals (H, W), the flakes, then the angle in degrees, U(-135, -45).
    """
    flakes = _normals(rng, image.shape[:2]) * np.float32(sd) + np.float32(loc)
    flakes = _zooms(flakes, [zoom])
    layer = _smear(_spots(flakes, threshold), rng.uniform(-135, -45), reach, sigma)
    return _on_planes(_whiten, image, layer.ravel(), np.float32(mix))


def spatter(image, rng, loc, sd, sigma, threshold, strength, mud, wrap=0):
    """Drops of water (pale turquoise, shaded along their edges) or of mud. Draws normals (H, W).

    strength: the opacity of water, the sigma that smooths the spots of mud. wrap: water that is brighter than white
    wraps around at 256 before its edges are looked for (1), as in the published code, or stays white (0); mud has no
    grey levels to wrap.
    """
    liquid = _normals(rng, image.shape[:2]) * np.float32(sd) + np.float32(loc)
    liquid = _gaussian(liquid, sigma)
    if mud:
        cover = _gaussian((liquid > threshold).astype(np.float32), strength)
        _, cover = cv2.threshold(cover, .8, 0, cv2.THRESH_TOZERO)
        return _tinted(image, cover, (63, 42, 20), 1)
    liquid = _spots(liquid, threshold, wrap)
    depth = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    depth = cv2.equalizeHist(cv2.blur(np.minimum(depth, 20), (3, 3)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    cover = liquid * cv2.blur(cv2.filter2D(depth, cv2.CV_8U, relief), (3, 3)).astype(np.float32)
    most = cover.max()
    if most == 0:  # no drop; the published code divides by zero
        return image
    return _tinted(image, cover * (strength / most), (175, 238, 238), 0)


def brightness(image, rng, amount):
    """V + amount in HSV. Draws nothing."""
    return _on_planes(_adjust_hsv, image, 1., 0., float(amount))


# --- digital ---


def contrast(image, rng, factor):
    """(x - m) factor + m with m the mean of each channel. Draws nothing."""
    levels = np.arange(256)[:, None] / 255
    means = np.array(cv2.mean(image)[:3]) / 255
    table = np.clip((levels - means) * factor + means, 0, 1) * 255
    return cv2.LUT(image, table.astype(np.uint8)[None])


def elastic_transform(image, rng, alpha, sigma, jitter):
    """An affine map, then a smooth random displacement of every pixel.

    Draws the moves (x, y) of three points, U(-jitter, jitter), shape (3, 2), then, unless alpha is 0, words (2, H, W):
    dx, dy, brought to [-1, 1).
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
        dx, dy = (_smooth(field, sigma) * np.float32(alpha) for field in fields)
        dx += np.arange(width, dtype=np.float32)
        dy += np.arange(height, dtype=np.float32)[:, None]
        values = cv2.remap(values, dx, dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return _truncate(values)


def pixelate(image, rng, ratio):
    """Pillow's box filter to int(ratio) of the size, and back. Draws nothing."""
    height, width = image.shape[:2]
    small = np.asarray(Image.fromarray(image).resize((int(width * ratio), int(height * ratio)), Image.Resampling.BOX))
    rows, columns = (((np.arange(size) + .5) * (less / size)).astype(np.uint32)  # the box filter's, when it enlarges
                     for size, less in zip(image.shape, small.shape[:2], strict=False))
    out = np.empty_like(image)
    _compiled(_repeat)(small, rows, columns, out)
    return out


def jpeg_compression(image, rng, quality):
    """To JPEG and back with Pillow's defaults: colour at half the resolution. Draws nothing."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality,  # the library is Pillow's; called from OpenCV it takes two thirds
               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)


def saturate(image, rng, factor, amount):
    """S factor + amount in HSV. Draws nothing."""
    return _on_planes(_adjust_hsv, image, float(factor), float(amount), 0.)


CORRUPTIONS = {
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


# --- what several of them need ---


def _words(rng, count):
    """`count` uniform uint32: the halves of uint64 from the Generator, the low one first."""
    return rng.integers(0, 2 ** 64, -(-count // 2), dtype=np.uint64).view(np.uint32)[:count]


def _normals(rng, shape):
    """Standard normals, float32, by inversion. Draws as many words as there are values; of a word as int32 plus .5, the
    sign is the normal's and the size, over 2**32, the probability of what lies further out."""
    out = np.empty(shape, np.float32)
    _compiled(_to_normals)(_words(rng, out.size).view(np.int32), *_normal_table(), out.ravel())
    return out


@functools.cache
def _normal_table():
    """For tails from 2**-1 to 2**31 over 2**32, each octave in 512 steps (float32's leading bits): the quantile, and
    its slope to the next. Straight lines between are 5e-7 off at most."""
    edges = np.ldexp(1 + np.arange(512) / 512, np.arange(-1, 31)[:, None]).ravel()
    normal = statistics.NormalDist()
    quantiles = np.array([-normal.inv_cdf(edge / 2 ** 32) for edge in [*edges, 2 ** 31]])
    slopes = np.append(np.diff(quantiles), 0) / 2 ** 14
    return quantiles.astype(np.float32), slopes.astype(np.float32)


def _noisy(image, noise, constant, proportional):
    """image + noise (constant + proportional image)."""
    out = np.empty_like(image)
    _compiled(_add_noise)(image.ravel(), noise.ravel(), np.float32(constant), np.float32(proportional), out.ravel())
    return out


def _truncate(values):
    """Floats on the scale of 0 to 255 -> uint8, towards zero. What is whole in exact arithmetic may be 1e-4 less in
    float32: without the added 1/2048 it would lose a level."""
    out = np.empty(values.shape, np.uint8)
    more = np.float32(1 / 2048) if values.dtype == np.float32 else 1e-9
    _compiled(_to_levels)(values.ravel(), more, out.ravel())
    return out


def _spots(values, threshold, wrap=0):
    """Floats on the scale of 0 to 1 -> uint8, 0 below the threshold; above 1, white, or with `wrap` modulo 256. Random,
    so never whole: nothing to add before they are truncated, and of liquid a level more might move an edge."""
    _, values = cv2.threshold(values, threshold, 0, cv2.THRESH_TOZERO)
    if wrap:
        return (values * 255).astype(np.int32).astype(np.uint8)  # by way of int32: C leaves the direct step undefined
    return np.minimum(values * 255, 255).astype(np.uint8)


def _on_planes(kernel, image, *arguments):
    """A compiled loop over red, green and blue, each apart: processors work on many equal neighbours at once."""
    planes, out = cv2.split(image), np.empty((3, *image.shape[:2]), np.uint8)
    _compiled(kernel)(*(plane.ravel() for plane in planes), *arguments, *out.reshape(3, -1))
    return cv2.merge(list(out))


def _tinted(image, cover, colour, opacity):
    """image (1 - cover opacity) + cover colour."""
    planes, out = cv2.split(image), np.empty((3, *cover.shape), np.uint8)
    for plane, level, result in zip(planes, colour, out, strict=True):
        _compiled(_add_cover)(plane.ravel(), cover.ravel(), np.float32(level), np.float32(opacity), result.ravel())
    return cv2.merge(list(out))


def _gaussian_kernel(sigma, truncate):
    radius = int(truncate * sigma + .5)
    kernel = np.exp(-.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    return kernel / kernel.sum()


def _gaussian(values, sigma):
    """Gaussian blur, cut at four sigma, the border pixel repeated. uint8 or float32 -> float."""
    kernel = _gaussian_kernel(sigma, 4)
    # on small images sigma may be so tiny that only float64 tells what it does to a grey level
    depth = cv2.CV_64F if sigma < .3 and values.dtype == np.uint8 else cv2.CV_32F
    return cv2.sepFilter2D(values, depth, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def _smooth(field, sigma):
    """Gaussian blur, cut at three sigma, mirrored at the border; sigma may exceed the image."""
    kernel = _gaussian_kernel(sigma, 3)
    if len(kernel) < 40:
        return cv2.sepFilter2D(field, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    from scipy import fft

    # this border makes the blur a product in the cosine transform, whatever its width: the same sums, far fewer
    spectrum = fft.dctn(field, norm="ortho")
    for size, shape in zip(field.shape, ((-1, 1), (1, -1)), strict=True):
        spectrum *= _cosine_response(size, sigma).reshape(shape)
    return fft.idctn(spectrum, norm="ortho")


@functools.lru_cache(maxsize=32)
def _cosine_response(size, sigma):
    kernel = _gaussian_kernel(sigma, 3)
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    return (np.cos(np.pi / size * np.outer(np.arange(size), offsets)) @ kernel).astype(np.float32)


def _zooms(plane, factors):
    """The sum over `factors` of: the centre cut out and enlarged back by the factor, bilinear, corner pixels on corner
    pixels. plane: float32 (H, W)."""
    height, width = plane.shape
    mixed, turned = np.empty((height, width), np.float32), np.empty((width, height), np.float32)
    total = np.zeros((width, height), np.float32)
    mix_rows = _compiled(_mix_rows)  # whole rows are quick to mix: so the columns are turned into rows
    for factor in factors:
        mix_rows(plane, *_zoom_table(height, factor), False, mixed)
        mix_rows(cv2.transpose(mixed, turned), *_zoom_table(width, factor), True, total)
    return cv2.transpose(total)


@functools.lru_cache(maxsize=512)
def _zoom_table(size, factor):
    """For every output place along one axis: the first of two input places, and the weight of the second."""
    cut = math.ceil(size / factor)
    enlarged = round(cut * factor)
    place = (np.arange(size) + (enlarged - size) // 2) * (cut - 1) / (enlarged - 1)
    whole = np.minimum(place.astype(np.int64), cut - 2)
    return (whole + (size - cut) // 2).astype(np.uint32), (place - whole).astype(np.float32)


def _smear(image, angle, reach, sigma):
    """ImageMagick's motion blur: copies of the image, shifted by whole pixels along a line in one direction, the border
    pixel repeated, with the weights of half a Gaussian. uint8 (H, W) or (H, W, 3)."""
    steps = np.arange(2 * reach + 1)
    weights = np.exp(-.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    seen = weights > 1e-8  # the rest moves nothing by a thousandth of a level
    steps, weights = steps[seen], weights[seen]
    radians = math.radians(angle)
    down = np.ceil(steps * math.sin(radians) - .5).astype(np.int64)
    right = np.ceil(steps * math.cos(radians) - .5).astype(np.int64)
    margin = int(max(np.abs(down).max(), np.abs(right).max()))
    padded = cv2.copyMakeBorder(image.astype(np.float32), *[margin] * 4, borderType=cv2.BORDER_REPLICATE)
    channels = image.shape[2] if image.ndim == 3 else 1
    out = np.empty((image.shape[0], image.shape[1] * channels), np.float32)
    _compiled(_add_shifted)(padded.reshape(len(padded), -1), margin + down, (margin + right) * channels,
                            weights.astype(np.float32), out)
    return _truncate(out).reshape(image.shape)


@functools.lru_cache(maxsize=16)
def _poisson_tables(photons):
    """For every grey level, the last word of each count (up to full white: more look the same) and, for 512 equal
    slices of the words, the first count in it; for every count, its grey level."""
    counts = np.arange(math.ceil(photons) + 1)
    rates = np.arange(1, 256)[:, None] / 255 * photons
    log_factorial = np.array([math.lgamma(count + 1) for count in counts])
    distribution = np.ones((256, len(counts)))  # the rate 0 counts 0
    distribution[1:] = np.exp(counts * np.log(rates) - rates - log_factorial).cumsum(1)
    distribution[:, -1] = 1
    last = np.clip(np.ceil(distribution * 2. ** 32) - 1, 0, 2 ** 32 - 1).astype(np.uint32)
    slices = np.arange(512, dtype=np.uint32) << 23
    first = np.array([np.searchsorted(row, slices) for row in last]).astype(np.uint16)
    levels = (np.minimum(counts / photons, 1) * 255).astype(np.uint8)
    return last, first, levels


# --- compiled loops ---

BLACK, WHITE = np.int32([0, 255])  # numba takes 0 and 255 for 64 bits, of which half as many are worked on at once


@functools.cache
def _compiled(kernel):
    """numba's form of a loop below. Imported here: it takes longer than all the rest of this module."""
    import numba

    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(kernel)
    except RuntimeError:  # no folder where its cache could be written
        return numba.njit(nogil=True, error_model="numpy")(kernel)


def _to_levels(values, more, out):
    for i in range(values.size):
        out[i] = min(max(np.int32(values[i] + more), BLACK), WHITE)


def _to_normals(words, quantiles, slopes, out):
    for i in range(words.size):
        further = np.float32(words[i]) + np.float32(.5)
        bits = np.uint32(np.float32(abs(further)).view(np.int32) - (126 << 23))  # .5 is the table's first
        step, rest = bits >> np.uint32(14), np.float32(np.int32(bits & np.uint32(2 ** 14 - 1)))
        value = quantiles[step] + slopes[step] * rest
        out[i] = value if further > 0 else -value


def _add_noise(image, noise, constant, proportional, out):
    for i in range(image.size):
        value = np.float32(image[i])
        value += noise[i] * (constant + proportional * value) + np.float32(1 / 2048)  # as in _truncate
        out[i] = min(max(np.int32(value), BLACK), WHITE)


def _replace(image, words, black, white, out):
    for i in range(image.size):
        out[i] = 0 if words[i] < black else 255 if words[i] < white else image[i]


def _invert(image, words, last, first, levels, out):
    for i in range(image.size):
        rate, word = image[i], words[i]
        count = first[rate, word >> 23]
        while word > last[rate, count]:
            count += 1
        out[i] = levels[count]


def _shuffle(image, moves, distance):
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
    for y in range(rows.size):
        line, wide = small[rows[y]], out[y]
        for x in range(columns.size):
            for channel in range(3):
                wide[x, channel] = line[columns[x], channel]


def _mix_rows(values, first, weights, add, out):
    for y in range(out.shape[0]):
        upper, lower, weight, line = values[first[y]], values[first[y] + np.uint32(1)], weights[y], out[y]
        if add:
            for x in range(line.size):
                line[x] += upper[x] + weight * (lower[x] - upper[x])
        else:
            for x in range(line.size):
                line[x] = upper[x] + weight * (lower[x] - upper[x])


def _add_shifted(padded, down, right, weights, out):
    height, width = out.shape
    for y in range(height):
        line = out[y]
        line[:] = 0
        for n in range(weights.size):
            shifted, weight = padded[y + down[n], right[n]:], weights[n]
            for x in range(width):
                line[x] += weight * shifted[x]


def _add_cover(plane, cover, level, opacity, out):
    for i in range(plane.size):
        value = np.float32(plane[i])
        value += cover[i] * (level - opacity * value) + np.float32(1 / 2048)  # as in _truncate
        out[i] = min(max(np.int32(value), BLACK), WHITE)


def _whiten(reds, greens, blues, flakes, mix, red_out, green_out, blue_out):
    for i in range(reds.size):
        red, green, blue = np.float32(reds[i]), np.float32(greens[i]), np.float32(blues[i])
        white = np.float32(1.5) * (np.float32(.299) * red + np.float32(.587) * green + np.float32(.114) * blue)
        white += np.float32(127.5)
        more = np.float32(flakes[i]) + np.float32(flakes[flakes.size - 1 - i]) + np.float32(1 / 2048)  # as in _truncate
        rest = np.float32(1) - mix
        red_out[i] = min(np.int32(mix * red + rest * max(red, white) + more), WHITE)
        green_out[i] = min(np.int32(mix * green + rest * max(green, white) + more), WHITE)
        blue_out[i] = min(np.int32(mix * blue + rest * max(blue, white) + more), WHITE)


def _adjust_hsv(reds, greens, blues, factor, more_saturation, more_value, red_out, green_out, blue_out):
    # in float64 and in this order of operations, since many results are whole numbers but for their rounding error;
    # choices, not branches, so that several pixels are computed at once
    for i in range(reds.size):
        red, green, blue = reds[i] / 255, greens[i] / 255, blues[i] / 255
        value = max(red, green, blue)
        delta = value - min(red, green, blue)
        grey = delta == 0
        by = 1. if grey else delta
        corner = 4. if blue == value else 2. if green == value else 0.
        beyond = red - green if blue == value else blue - red if green == value else green - blue
        hue = corner + beyond / by
        hue = (hue / 6 + (1. if hue < 0 else 0.)) * 6
        hue = 0. if grey else hue
        saturation = min((0. if grey else delta / value) * factor + more_saturation, 1.)
        value = min(value + more_value, 1.)
        sector = np.int32(hue)
        part = hue - sector
        low = value * (1 - saturation)
        falling = value * (1 - part * saturation)
        rising = value * (1 - (1 - part) * saturation)
        red = (value if (sector == 0) | (sector == 5) else falling if sector == 1 else rising if sector == 4 else low)
        green = (value if (sector == 1) | (sector == 2) else rising if sector == 0 else falling if sector == 3 else low)
        blue = (value if (sector == 3) | (sector == 4) else rising if sector == 2 else falling if sector == 5 else low)
        red_out[i] = np.int32(red * 255)
        green_out[i] = np.int32(green * 255)
        blue_out[i] = np.int32(blue * 255)
