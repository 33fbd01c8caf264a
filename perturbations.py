"""Perturbation sequences: an image that changes a little from frame to frame, `frames(image, name, rng)`.

A model that is sure of a face should not change its mind while a perturbation changes the face a little. How often it
does is measured by the last section of metrics.py.

perturbation  what changes from frame to frame, one of `PERTURBATIONS[preset]`
sequence      all frames that a perturbation makes of one image, as many as `number_of_frames` says
preset        imagenet-p: ImageNet-P (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261), ten perturbations of its
              test set and four extra ones; rafdb-p: the ten of RAF-DB-P (github.com/MiviaLab/emotion-robustness)
resolution    imagenet-p has constants for sources of 224, 64 and 32 pixels (ImageNet-P, Tiny ImageNet-P, CIFAR-10-P).
              `source_resolution` gives the one that is used for other sizes. rafdb-p was made for 100 pixels only
difficulty    how strong the noise of imagenet-p is: 1 (the usual one), 2 or 3. Other perturbations have the same frames
              at every difficulty; there it is the distance of the frames that metrics.flips compares
border        where pixels come from that enter the frame from outside. The published sequences were cut out of larger
              pictures. A data set of faces often has tight crops only, and black borders by themselves change
              predictions.
                margin   `image` is a larger picture; the frame is its centre, see `side_with_margin`. Beyond the
                         picture it is black, as published
                reflect  `image` is the frame; it is mirrored at its border, the border pixels not repeated. Frames of
                         `scale` below 100 % then show mirrored faces around the face; at 40 % up to nine faces are in
                         the frame, most of them cut
                zero     `image` is the frame; it is black beyond
              Perturbations of imagenet-p that move nothing use the frame only. Those of rafdb-p blur and spatter the
              whole picture and then cut the frame out, so that with `margin` they see what lies around the frame.

Images are uint8 (S, S, 3) in RGB. Positive angles of rotate and shear turn clockwise, as those of torchvision's
`affine`; angles of p_rotate turn counter-clockwise, as those of OpenCV; see `smear` in corruptions.py for motion blur.

The constants are those of make_imagenet_p.py, make_tinyimagenet_p.py and make_cifar_p.py
(github.com/hendrycks/robustness) and of rafdb_perturb_dataset.py. What differs from the published sequences:
  codec     frames are exact; ImageNet-P is stored as MP4 and RAF-DB-P as JPEG
  rounding  noise, blur, brightness, snow and drops are truncated to grey levels, as published. What is moved is
            interpolated bilinearly and rounded; Pillow, with which ImageNet-P was made, truncates there, so that its
            moved frames are half a grey level darker
  edges     where a moved picture ends, it fades to black within one pixel, as in OpenCV; Pillow ends it at once
  shear     by torchvision's present definition; that of 2018 also made the image lower by the cosine of the angle
  motion    Tiny ImageNet-P blurs the picture by motion before it is shrunk to 64 pixels. Here the frame is blurred, as
            in the two other sets of ImageNet-P, which is stronger
  drops     have their colours in RGB, which RAF-DB-P gives to BGR images. Where there is no drop, the frame stays as it
            is; the published code divides by zero

To add a perturbation: write a generator function `(scene, rng, count, *constants)` that yields frames; add its row to
`_FUNCTIONS`, its name to `TEST_SET` or `EXTRA`, and its constants to the tables. If its frames are independent noise,
its name ends in _noise.

All that is random comes from `rng` in the order of the frames, so equal generators give equal bytes.
Nothing is read or written.
"""
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

import corruptions
from support.image_sizes import SMALLEST

# Ten each, in the order of their papers' tables. In the results of CIFAR-10-P, spatter stands in the place of snow.
TEST_SET = {
    "imagenet-p": ("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow", "brightness", "translate",
                   "rotate", "tilt", "scale"),
    "rafdb-p": ("p_gaussian_noise", "p_shot_noise", "p_gaussian_blur", "p_motion_blur", "p_spatter", "p_brightness",
                "p_translate", "p_rotate", "p_scale", "p_shear"),
}
EXTRA = {"imagenet-p": ("speckle_noise", "gaussian_blur", "spatter", "shear"), "rafdb-p": ()}
PERTURBATIONS: dict[str, tuple[str, ...]] = {preset: names + EXTRA[preset] for preset, names in TEST_SET.items()}
ALL = tuple(name for names in PERTURBATIONS.values() for name in names)  # of all presets, in the order of tables

# {perturbation: {argument of its function: value}}. count: number of frames. The constant of frame i, counted from 0,
# is (i - middle) * step or first + i * step. Tuples hold a value for each difficulty.
_FALL = (.05, .1, .15, .7)
IMAGENET_P_224: dict[str, dict[str, Any]] = {
    "gaussian_noise": {"count": 31, "sd": (.03, .05, .08)},
    "shot_noise": {"count": 31, "photons": (300, 120, 60)},
    "motion_blur": {"count": 31, "reach": 10, "sigma": 3, "middle": 30, "step": 4},
    "zoom_blur": {"count": 31, "step": .004},
    "snow": {"count": 31, "loc": .05, "sd": .3, "zoom": 3, "threshold": .5, "reach": 14, "sigma": 4, "mix": .85,
             "first": -150, "step": 4},
    "brightness": {"count": 31, "middle": 15, "step": 2},
    "translate": {"count": 41, "middle": 20, "step": 1},
    "rotate": {"count": 31, "middle": 15, "step": 1},
    "tilt": {"count": 31, "middle": 15, "step": 1, "margin": 1 / 14},
    "scale": {"count": 31, "first": 40, "step": 2.5},
    "speckle_noise": {"count": 31, "sd": (.05, .1, .15)},
    "gaussian_blur": {"count": 31, "first": .25, "step": .035, "truncate": 6},
    "spatter": {"count": 31, "loc": .65, "sd": .27, "sigma": 3.7, "threshold": .69, "strength": .6, "fall": _FALL},
    "shear": {"count": 31, "middle": 15, "step": 1},
}
IMAGENET_P_64: dict[str, dict[str, Any]] = IMAGENET_P_224 | {
    "gaussian_noise": {"count": 31, "sd": (.025, .05, .075)},
    "shot_noise": {"count": 31, "photons": (500, 250, 125)},
    "motion_blur": {"count": 31, "reach": 14, "sigma": 3, "middle": 30, "step": 5},
    "snow": {"count": 31, "loc": .05, "sd": .28, "zoom": 2, "threshold": .5, "reach": 10, "sigma": 2.5, "mix": .85,
             "first": -150, "step": 4},
    "translate": {"count": 31, "middle": 15, "step": 1},
    "tilt": {"count": 31, "middle": 15, "step": 1, "margin": 0},
    "gaussian_blur": {"count": 31, "first": .35, "step": .014, "truncate": 7},
    "spatter": {"count": 31, "loc": .6, "sd": .25, "sigma": 1.75, "threshold": .7, "strength": .6, "fall": (.2, .8)},
}
IMAGENET_P_32: dict[str, dict[str, Any]] = IMAGENET_P_64 | {
    "gaussian_noise": {"count": 31, "sd": (.02, .04, .06)},
    "shot_noise": {"count": 31, "photons": (700, 400, 200)},
    "motion_blur": {"count": 21, "reach": 6, "sigma": 1.8, "middle": 20, "step": 9},
    "snow": {"count": 31, "loc": .05, "sd": .3, "zoom": 2, "threshold": .5, "reach": 10, "sigma": 2, "mix": .85,
             "first": -150, "step": 4},
    "brightness": {"count": 31, "middle": 15, "step": 1.5},
    "translate": {"count": 16, "middle": 7, "step": 1},
    "tilt": {"count": 31, "middle": 15, "step": .75, "margin": 0},
    "scale": {"count": 31, "first": 70, "step": 2},
    "speckle_noise": {"count": 31, "sd": (.05, .07, .1)},
    "gaussian_blur": {"count": 31, "first": .3, "step": .015, "truncate": 7},
    "spatter": {"count": 31, "loc": .6, "sd": .265, "sigma": 1.75, "threshold": .7, "strength": .6, "fall": (.2, .8)},
}
RAFDB_P: dict[str, dict[str, Any]] = {  # for frames of 100 pixels, cut out of pictures of 130
    "p_gaussian_noise": {"count": 30, "sd": (.12,)},
    "p_shot_noise": {"count": 30, "photons": (29,)},
    "p_gaussian_blur": {"count": 30, "first": .25, "step": .035, "truncate": 6},
    "p_motion_blur": {"count": 30, "reach": 10, "sigma": 3, "middle": 30, "step": 4},
    "p_spatter": {"count": 30, "loc": .65, "sd": .27, "sigma": 3.7, "threshold": .69, "strength": .6, "fall": _FALL},
    "p_brightness": {"count": 30, "middle": 15, "step": 2},
    "p_translate": {"count": 30, "middle": 15, "step": -1},
    "p_rotate": {"count": 30, "middle": 15, "step": 1},
    "p_scale": {"count": 30, "shrink": 1.7, "margin": .15},
    "p_shear": {"count": 30, "middle": 15, "step": .01, "margin": .15},
}
IMAGENET_P = {224: IMAGENET_P_224, 64: IMAGENET_P_64, 32: IMAGENET_P_32}  # by resolution of the source in pixels
MARGINS = {"imagenet-p": 1 / 14, "rafdb-p": .15}  # on each side of the frame, as a fraction of it: 16 of 224, 15 of 100
BORDERS = ("margin", "reflect", "zero")


def frames(image: np.ndarray, name: str, rng: np.random.Generator, preset: str = "imagenet-p", resolution: int = 224,
           difficulty: int = 1, border: str = "reflect") -> Iterator[np.ndarray]:
    """The frames of a sequence, one after the other; each is made when it is asked for.

    image: uint8 (S, S, 3), RGB, at least 16 pixels; with border="margin" a larger picture, of which the frame is the
    centre, see `side_with_margin`. It is not modified. name: one of
    `PERTURBATIONS[preset]`. rng: a numpy Generator, whose state advances with the frames. resolution: of the source in
    pixels (imagenet-p), see `source_resolution`. difficulty: 1 to 3, of the noise of imagenet-p. border: one of
    `BORDERS`. The frames are new C-contiguous uint8 arrays (S, S, 3). Raises TypeError or ValueError naming the
    argument that does not fit, before the first frame is asked for.
    """
    arguments = _arguments(name, preset, resolution)
    return apply(image, name, rng, arguments, preset, difficulty, border)


def apply(image: np.ndarray, name: str, rng: np.random.Generator, arguments: dict[str, Any], preset: str = "imagenet-p",
          difficulty: int = 1, border: str = "reflect") -> Iterator[np.ndarray]:
    """`frames` with the constants themselves, as `constants` gives them, in the place of a resolution."""
    corruptions.check_input(image, rng)
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"image must be a square, not {image.shape[:2]}")
    if border not in BORDERS:
        raise ValueError(f"unknown border {border!r}; known: {', '.join(BORDERS)}")
    if isinstance(difficulty, bool) or difficulty not in (1, 2, 3):
        raise ValueError(f"difficulty must be 1, 2 or 3, not {difficulty!r}")
    scene = _scene(np.array(image, order="C"), preset, border)
    if name in _WITHIN_THE_FRAME:
        scene = _scene(scene.clean(), preset, "zero")
    arguments = dict(arguments)
    if is_noise(name):
        key = "photons" if "photons" in arguments else "sd"
        if difficulty > len(arguments[key]):
            raise ValueError(f"{name} has one difficulty, 1, not {difficulty}")
        arguments[key] = arguments[key][difficulty - 1]
    return _FUNCTIONS[name](scene, rng, **arguments)


def constants(preset: str, resolution: int = 224) -> dict[str, dict[str, Any]]:
    """The constants of all perturbations of a preset, {perturbation: {argument: value}}, fit for JSON, which turns
    tuples into lists. A set that is built lists them in its manifest. resolution: as for `frames`. Raises ValueError
    where there is no such preset or resolution."""
    return {name: dict(_arguments(name, preset, resolution)) for name in _names(preset)}


def number_of_frames(name: str, preset: str = "imagenet-p", resolution: int = 224) -> int:
    """How many frames a sequence has, the first included. Arguments and errors as for `frames`."""
    return _arguments(name, preset, resolution)["count"]


def is_noise(name: str) -> bool:
    """Whether the frames of a perturbation are independent noise: then each is compared with the first frame, which is
    clean, and not with the frame before it (metrics.flips)."""
    return name.endswith("_noise")


def source_resolution(size: int) -> int:
    """Which constants of imagenet-p are for sources of this size (pixels): of 224, 64 and 32 the one whose ratio to
    `size` is nearest to 1. FER+ with 48 pixels and RAF-DB with 100 have those for 64. Raises ValueError where `size` is
    no positive whole number."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"a resolution is a whole number of pixels, at least 1, not {size!r}")
    return min(IMAGENET_P, key=lambda resolution: abs(math.log(resolution / size)))


def side_with_margin(size: int, preset: str = "imagenet-p") -> int:
    """The side of the picture (pixels) that has a frame of `size` pixels in its centre, for border="margin": 256 for
    224 in imagenet-p, 130 for 100 in rafdb-p, as published. Raises ValueError where there is no such preset."""
    _names(preset)
    return size + 2 * round(size * MARGINS[preset])


def frame_of(picture: np.ndarray, preset: str = "imagenet-p") -> np.ndarray:
    """The frame in the centre of a picture that has a margin (`side_with_margin`), unchanged: uint8 (S, S, 3)."""
    return _scene(picture, preset, "margin").clean().copy()


def _names(preset: str) -> tuple[str, ...]:
    """The perturbations of a preset. Raises ValueError where there is no such preset."""
    if preset not in PERTURBATIONS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[preset]


def _arguments(name: str, preset: str, resolution: int) -> dict[str, Any]:
    """The constants of one perturbation. Raises ValueError where there is no such preset, perturbation or
    resolution."""
    if name not in _names(preset):
        raise ValueError(f"unknown perturbation {name!r}; known: {', '.join(_names(preset))}")
    table = IMAGENET_P[source_resolution(resolution)] if preset == "imagenet-p" else RAFDB_P
    return table[name]


# --- the frame and what is around it ---


@dataclass(frozen=True)
class _Scene:
    """A picture and the frame in it. Coordinates are in pixels, x to the right and y down; (0, 0) is the centre of the
    frame's top left pixel."""

    picture: np.ndarray  # uint8 (S + 2 margin, S + 2 margin, 3)
    size: int  # S, of the frame
    margin: int  # pixels of the picture on each side of the frame; 0 where the picture is the frame
    border: int  # what is beyond the picture: OpenCV's name of a border

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The frame in a picture of the same size as the scene's, as a new array."""
        inside = slice(self.margin, self.margin + self.size)
        return picture[inside, inside].copy()

    def clean(self) -> np.ndarray:
        """The frame without any perturbation, as a new array."""
        return self.cut(self.picture)

    def moved(self, matrix: np.ndarray) -> np.ndarray:
        """The frame after every point was moved by a matrix, float64 (3, 3), of homogeneous coordinates of the
        frame."""
        from_picture = matrix @ _shift(-self.margin, -self.margin)
        size = (self.size, self.size)
        if np.array_equal(from_picture[2], [0, 0, 1]):
            return cv2.warpAffine(self.picture, from_picture[:2], size, flags=cv2.INTER_LINEAR, borderMode=self.border)
        return cv2.warpPerspective(self.picture, from_picture, size, flags=cv2.INTER_LINEAR, borderMode=self.border)

    def shifted(self, right: int) -> np.ndarray:
        """The frame after the picture was moved to the right by whole pixels, which may be negative."""
        rows = self.picture[self.margin:self.margin + self.size]
        first = self.margin - right  # the column of the picture that becomes the frame's first
        before, after = max(0, -first), max(0, first + self.size - rows.shape[1])
        wide = cv2.copyMakeBorder(rows, 0, 0, before, after, self.border, value=(0, 0, 0))
        return wide[:, first + before:first + before + self.size].copy()

    def with_margin(self, margin: int) -> np.ndarray:
        """The frame with a margin (pixels) on each side: the picture's where it has one, else what is beyond it."""
        if self.margin:
            return self.picture
        return cv2.copyMakeBorder(self.picture, margin, margin, margin, margin, self.border, value=(0, 0, 0))

    def margin_of(self, fraction: float) -> int:
        """The margin (pixels): the picture's where it has one, else this fraction of the frame."""
        return self.margin or round(self.size * fraction)


def _scene(image: np.ndarray, preset: str, border: str) -> _Scene:
    """The scene of an image, uint8 (side, side, 3). Raises ValueError where the frame would be under 16 pixels."""
    side = len(image)
    if border != "margin":
        return _Scene(image, side, 0, cv2.BORDER_REFLECT_101 if border == "reflect" else cv2.BORDER_CONSTANT)
    fraction = MARGINS[preset]
    margin = round(side * fraction / (1 + 2 * fraction))  # the inverse of `side_with_margin`
    size = side - 2 * margin
    if size < SMALLEST:
        smallest = side_with_margin(SMALLEST, preset)
        raise ValueError(f"image must be at least {smallest} pixels on each side with border='margin', not {side}")
    return _Scene(image, size, margin, cv2.BORDER_CONSTANT)


def _shift(right: float, down: float) -> np.ndarray:
    """The matrix that moves points by this many pixels."""
    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]], np.float64)


def _about(x: float, y: float, matrix: np.ndarray) -> np.ndarray:
    """A map about the point (x, y) instead of (0, 0). matrix: float64 (2, 2), of the map about (0, 0). Returns
    (3, 3)."""
    full = np.eye(3)
    full[:2, :2] = matrix
    full[:2, 2] = (x, y) - matrix @ (x, y)
    return full


def _about_centre(scene: _Scene, matrix: list[list[float]]) -> np.ndarray:
    """A map about the centre of the frame, as in torchvision: (3, 3)."""
    middle = (scene.size - 1) / 2
    return _about(middle, middle, np.array(matrix, np.float64))


# --- noise: the first frame is clean ---


def _noise(operation: Callable[..., np.ndarray], scene: _Scene, rng: np.random.Generator, count: int,
           constant: float) -> Iterator[np.ndarray]:
    """The clean frame, and then independent noise on it in each frame. operation: of corruptions.py, which says what it
    draws."""
    clean = scene.clean()
    yield clean.copy()
    for _ in range(1, count):
        yield operation(clean, rng, constant)


def _gaussian_noise(scene: _Scene, rng: np.random.Generator, count: int, sd: float) -> Iterator[np.ndarray]:
    """x + N(0, sd)."""
    return _noise(corruptions.gaussian_noise, scene, rng, count, sd)


def _shot_noise(scene: _Scene, rng: np.random.Generator, count: int, photons: float) -> Iterator[np.ndarray]:
    """Poisson(x * photons) / photons."""
    return _noise(corruptions.shot_noise, scene, rng, count, photons)


def _speckle_noise(scene: _Scene, rng: np.random.Generator, count: int, sd: float) -> Iterator[np.ndarray]:
    """x + x * N(0, sd)."""
    return _noise(corruptions.speckle_noise, scene, rng, count, sd)


# --- blur ---


def _motion_blur(scene: _Scene, rng: np.random.Generator, count: int, reach: int, sigma: float, middle: int,
                 step: float) -> Iterator[np.ndarray]:
    """A blur by motion whose direction turns: the angle of frame i is (i - middle) * step degrees. Draws nothing."""
    for i in range(count):
        yield scene.cut(corruptions.smear(scene.picture, (i - middle) * step, reach, sigma))


def _zoom_blur(scene: _Scene, rng: np.random.Generator, count: int, step: float) -> Iterator[np.ndarray]:
    """The mean of the clean frame and of all its enlargements so far. Frame i adds the one by 1 + step * i. Draws
    nothing."""
    total = scene.clean().astype(np.uint16)  # whole numbers, so that the mean is exact before it is truncated
    yield total.astype(np.uint8)
    for i in range(1, count):
        factor = 1 + step * i
        total += scene.moved(_about_centre(scene, [[factor, 0], [0, factor]]))
        yield (total // np.uint16(i + 1)).astype(np.uint8)


def _gaussian_blur(scene: _Scene, rng: np.random.Generator, count: int, first: float, step: float,
                   truncate: float) -> Iterator[np.ndarray]:
    """A Gaussian blur of first + step * i pixels, cut at `truncate` sigmas. Draws nothing."""
    for i in range(count):
        yield scene.cut(corruptions.blurred(scene.picture, first + step * i, truncate))


# --- weather and light ---


def _snow(scene: _Scene, rng: np.random.Generator, count: int, loc: float, sd: float, zoom: float, threshold: float,
          reach: int, sigma: float, mix: float, first: float, step: float) -> Iterator[np.ndarray]:
    """The same flakes in all frames; the direction in which they fall turns, first + step * i degrees in frame i. Draws
    normals (S, S) for the flakes. Other constants as in corruptions.snow."""
    image = scene.clean()
    layer = corruptions.flakes(rng, image.shape[:2], loc, sd, zoom, threshold)
    for i in range(count):
        yield corruptions.with_snow(image, corruptions.smear(layer, first + step * i, reach, sigma), mix)


def _spatter(scene: _Scene, rng: np.random.Generator, count: int, loc: float, sd: float, sigma: float, threshold: float,
             strength: float, fall: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Drops of water that run down. Draws normals of the size of the picture. Constants as in corruptions.spatter.

    fall: after each frame every column of the drops becomes np.convolve(column, fall, "same"), which moves them down
    and thins them out. Drops that have become so thin that no edge is found are no longer drawn; then the frame is
    clean.
    """
    drops = corruptions.liquid_layer(rng, scene.picture.shape[:2], loc, sd, sigma)
    _, drops = cv2.threshold(drops, threshold, 0, cv2.THRESH_TOZERO)
    kernel = np.array(fall, np.float64)[::-1, None]  # OpenCV correlates
    anchor = (0, len(fall) // 2)
    for i in range(count):
        if i:
            drops = cv2.filter2D(drops, cv2.CV_32F, kernel, anchor=anchor, borderType=cv2.BORDER_CONSTANT)
        liquid = np.minimum(drops * 255, 255).astype(np.uint8)
        yield scene.cut(corruptions.with_water(scene.picture, liquid, strength))


def _brightness(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: float) -> Iterator[np.ndarray]:
    """V of HSV plus (i - middle) * step percent. Frame `middle` is clean. Draws nothing."""
    image = scene.clean()
    for i in range(count):
        yield image.copy() if i == middle else corruptions.brightness(image, rng, (i - middle) * step / 100)


# --- geometry, as torchvision's `affine` ---


def _translate(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: int) -> Iterator[np.ndarray]:
    """Moved to the right by (i - middle) * step pixels. Frame `middle` is clean. Draws nothing."""
    for i in range(count):
        yield scene.shifted((i - middle) * step)


def _rotate(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: float) -> Iterator[np.ndarray]:
    """Turned clockwise by (i - middle) * step degrees about the centre. Frame `middle` is clean. Draws nothing."""
    for i in range(count):
        angle = math.radians((i - middle) * step)
        turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        yield scene.moved(_about_centre(scene, turn))


def _scale(scene: _Scene, rng: np.random.Generator, count: int, first: float, step: float) -> Iterator[np.ndarray]:
    """Scaled to first + step * i percent about the centre. Draws nothing."""
    for i in range(count):
        factor = (first + step * i) / 100
        yield scene.moved(_about_centre(scene, [[factor, 0], [0, factor]]))


def _shear(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: float) -> Iterator[np.ndarray]:
    """Rows moved to the left in proportion to how far they are below the centre: x - y tan(angle), by an angle of
    (i - middle) * step degrees. Frame `middle` is clean. Draws nothing."""
    for i in range(count):
        slope = math.tan(math.radians((i - middle) * step))
        yield scene.moved(_about_centre(scene, [[1, -slope], [0, 1]]))


def _tilt(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: float,
          margin: float) -> Iterator[np.ndarray]:
    """The picture tilted about its vertical and its horizontal axis by (i - middle) * step degrees, see `tilt_matrix`.

    margin: on each side of the frame, as a fraction of it, of the picture that the published code tilts. Frame `middle`
    is not quite clean: it is made smaller by f / (f + 1). Draws nothing."""
    margin_pixels = scene.margin_of(margin)
    side = scene.size + 2 * margin_pixels
    for i in range(count):
        matrix = tilt_matrix((i - middle) * step, side)
        yield scene.moved(_shift(-margin_pixels, -margin_pixels) @ matrix @ _shift(margin_pixels, margin_pixels))


def tilt_matrix(degrees: float, side: int) -> np.ndarray:
    """The map of homogeneous pixel coordinates, float64 (3, 3) with 1 in its last place, that tilts a square picture.

    P2 T RX RY P1: P1 puts the picture at z = 1 with its centre at 0, RY and RX turn it by the angle about y and x, T
    moves it away by the focal length f = sqrt(2) side, and P2 projects it (make_imagenet_p.py). side: in pixels."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    focal, half = math.sqrt(2) * side, side / 2
    place = np.array([[1, 0, -half], [0, 1, -half], [0, 0, 1], [0, 0, 1]])
    turn_y = np.array([[cos, 0, -sin, 0], [0, 1, 0, 0], [sin, 0, cos, 0], [0, 0, 0, 1]])
    turn_x = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
    move = np.eye(4)
    move[2, 3] = focal
    project = np.array([[focal, 0, half, 0], [0, focal, half, 0], [0, 0, 1, 0]])
    matrix = project @ move @ turn_x @ turn_y @ place
    return matrix / matrix[2, 2]


# --- geometry of RAF-DB-P, in OpenCV's pixel coordinates of the picture ---


def _p_rotate(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: float) -> Iterator[np.ndarray]:
    """Turned counter-clockwise by (i - middle) * step degrees about the point (S/2, S/2), half a pixel beside the
    centre, as published. Frame `middle` is clean. Draws nothing."""
    centre = scene.size / 2
    for i in range(count):
        angle = math.radians((i - middle) * step)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        yield scene.moved(_about(centre, centre, turn))


def _p_scale(scene: _Scene, rng: np.random.Generator, count: int, shrink: float, margin: float) -> Iterator[np.ndarray]:
    """A window around the centre that shrinks, resized to the frame. Its side in frame i is
    int(V - shrink * (V - S) * i / count), of 130 to 80 pixels for a picture of V = 130 and a frame of S = 100. margin:
    V is S * (1 + 2 margin) where the picture is the frame. Draws nothing."""
    canvas = scene.with_margin(scene.margin_of(margin))
    whole = len(canvas)
    for i in range(count):
        side = int(whole - shrink * (whole - scene.size) * (i / count))
        first = (whole - side) // 2
        window = canvas[first:first + side, first:first + side]
        yield cv2.resize(window, (scene.size, scene.size), interpolation=cv2.INTER_LINEAR)


def _p_shear(scene: _Scene, rng: np.random.Generator, count: int, middle: int, step: float,
             margin: float) -> Iterator[np.ndarray]:
    """x + s y and y + s x with s = (i - middle) * step, where (0, 0) is the corner of the picture and not its centre:
    the face also drifts along the diagonal, as published. margin: as in `_p_scale`. Frame `middle` is clean. Draws
    nothing."""
    corner = -scene.margin_of(margin)
    for i in range(count):
        slope = (i - middle) * step
        yield scene.moved(_about(corner, corner, np.array([[1, slope], [slope, 1]])))


_FUNCTIONS: dict[str, Callable[..., Iterator[np.ndarray]]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "brightness": _brightness,
    "translate": _translate,
    "rotate": _rotate,
    "tilt": _tilt,
    "scale": _scale,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "spatter": _spatter,
    "shear": _shear,
    "p_gaussian_noise": _gaussian_noise,
    "p_shot_noise": _shot_noise,
    "p_gaussian_blur": _gaussian_blur,
    "p_motion_blur": _motion_blur,
    "p_spatter": _spatter,
    "p_brightness": _brightness,
    "p_translate": _translate,
    "p_rotate": _p_rotate,
    "p_scale": _p_scale,
    "p_shear": _p_shear,
}
# With border="margin" these use the frame and nothing around it. The blurs and drops of rafdb-p are not among them.
_WITHIN_THE_FRAME = {"gaussian_noise", "shot_noise", "speckle_noise", "motion_blur", "gaussian_blur", "snow", "spatter",
                     "brightness", "p_gaussian_noise", "p_shot_noise", "p_brightness"}
