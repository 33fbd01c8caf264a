"""Slow float64 references of the corruptions: their definitions, written with scipy, loops and explicit copies.

Each is a function `(x, rng, *constants) -> x` with the name of its corruption. x: float64 (H, W, 3) in [0, 1]; the
result is before the last step, `levels`. Random ones draw the same numbers as `corruptions` does, in the order given
there. The tests compare with them, and benchmarks/corruptions.py times them.
"""
import colorsys
import io
import math

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage, special, stats

from corruptions import OPERATIONS, constants


def form(image, name, severity, rng, preset):
    """One corrupted form before truncation: float64 (H, W, 3), not clipped."""
    return FUNCTIONS[name](image / 255, rng, **constants(preset, min(image.shape[:2]))[name][severity - 1])


def levels(exact):
    """The definition's last step. A whole number stays whole: float64 may give it as 99.99999999999999."""
    return np.floor(np.clip(exact, 0, 1) * 255 + 1e-9).astype(np.uint8)


# --- deterministic: rng stays untouched ---


def zoomed(x, factor):
    """clipped_zoom: scipy's zoom of each side is linear, here as a matrix."""
    def matrix(size):
        cut = math.ceil(size / factor)
        large = ndimage.zoom(np.eye(cut), (factor, 1), order=1)
        before, trim = (size - cut) // 2, (len(large) - size) // 2
        return np.pad(large[trim:trim + size], ((0, 0), (before, size - cut - before)))

    planes = matrix(x.shape[0]) @ np.atleast_3d(x).transpose(2, 0, 1) @ matrix(x.shape[1]).T
    return planes.transpose(1, 2, 0).reshape(x.shape)


def gaussian_blur(x, rng, sigma):
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4)


def defocus_blur(x, rng, radius, alias):
    half, edge = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    disk = np.array([[float(i * i + j * j <= radius * radius) for j in range(-half, half + 1)]
                     for i in range(-half, half + 1)])
    disk /= disk.sum()
    weights = np.array([math.exp(-i * i / (2 * alias * alias)) for i in range(-edge, edge + 1)])
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, weights / weights.sum(), axis=axis, mode="mirror")
    return np.stack([ndimage.correlate(x[..., c], disk, mode="mirror") for c in range(3)], -1)


def zoom_blur(x, rng, step, count):
    return (x + sum(zoomed(x, 1 + step * j) for j in range(count))) / (count + 1)


def brightness(x, rng, amount):
    return in_hsv(x, lambda h, s, v: (h, s, min(max(v + amount, 0), 1)))


def saturate(x, rng, factor, amount):
    return in_hsv(x, lambda h, s, v: (h, min(max(s * factor + amount, 0), 1), v))


def in_hsv(x, change):
    pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in x.reshape(-1, 3).tolist()]
    return np.array(pixels).reshape(x.shape)


def contrast(x, rng, factor):
    mean = x.mean((0, 1))
    return (x - mean) * factor + mean


def pixelate(x, rng, ratio):
    """Pillow's box filter: the mean of the pixels whose centres lie in the box, rounded after both passes."""
    def across(values, size):
        scale = values.shape[1] / size
        support = max(scale, 1) / 2
        out = np.empty((values.shape[0], size, 3))
        for i in range(size):
            middle = (i + .5) * scale
            first = max(int(middle - support + .5), 0)
            last = min(int(middle + support + .5), values.shape[1])
            inside = [j for j in range(first, last) if -.5 < (j - middle + .5) / max(scale, 1) <= .5]
            out[:, i] = np.floor(values[:, inside].mean(1) + .5 + 1e-9)
        return out

    def resized(values, height, width):
        return across(across(values, width).swapaxes(0, 1), height).swapaxes(0, 1)

    height, width = x.shape[:2]
    return resized(resized(x * 255, int(height * ratio), int(width * ratio)), height, width) / 255


def jpeg_compression(x, rng, quality):
    """The codec is the definition, reached through Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(x * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer)) / 255


# --- random ---


def words(rng, *shape):
    """The halves of uint64, the low one first, as probabilities of 0, 1, ..., 2**32 - 1 over 2**32."""
    pairs = rng.integers(0, 2 ** 64, -(-math.prod(shape) // 2), dtype=np.uint64)
    return np.stack([pairs % 2 ** 32, pairs // 2 ** 32], 1).ravel()[:math.prod(shape)].reshape(shape) / 2 ** 32


def normals(rng, *shape):
    fraction = words(rng, *shape)
    signed_tail = fraction - (fraction >= .5) + .5 / 2 ** 32
    return np.sign(signed_tail) * -special.ndtri(np.abs(signed_tail))


def gaussian_noise(x, rng, sd):
    return x + sd * normals(rng, *x.shape)


def speckle_noise(x, rng, sd):
    return x + x * sd * normals(rng, *x.shape)


def shot_noise(x, rng, photons):
    uniform = words(rng, *x.shape)
    counts = np.empty_like(x)
    for rate in np.unique(x):
        cumulated = stats.poisson.cdf(np.arange(500), rate * photons)
        here = x == rate
        counts[here] = np.searchsorted(cumulated, uniform[here], side="right")  # how many do not exceed it
    return counts / photons


def impulse_noise(x, rng, amount):
    uniform = words(rng, *x.shape)
    return np.where(uniform < amount / 2, 0, np.where(uniform < amount, 1, x))


def smeared(x, angle, reach, sigma):
    weights = [math.exp(-i * i / (2 * sigma * sigma)) for i in range(2 * reach + 1)]
    rows, columns = np.mgrid[:x.shape[0], :x.shape[1]]
    total = np.zeros_like(x)
    for i, weight in enumerate(weights):
        dy = -math.ceil(i * math.sin(math.radians(angle)) - .5)
        dx = -math.ceil(i * math.cos(math.radians(angle)) - .5)
        total += weight / sum(weights) * x[np.clip(rows - dy, 0, len(x) - 1), np.clip(columns - dx, 0, x.shape[1] - 1)]
    return total


def motion_blur(x, rng, reach, sigma):
    return smeared(x, rng.uniform(-45, 45), reach, sigma)


def glass_blur(x, rng, sigma, distance, passes, border):
    height, width = x.shape[:2]
    bottom, right = (height, width) if border is None else (min(border, height), min(border, width))
    shape = (passes, bottom - 2 * distance, right - 2 * distance, 2)
    moves = iter(rng.integers(-distance, distance, shape, dtype=np.int8).reshape(-1, 2).tolist())
    image = levels(gaussian_blur(x, rng, sigma)).tolist()
    for _ in range(passes):
        for h in range(bottom - distance, distance, -1):
            for w in range(right - distance, distance, -1):
                dx, dy = next(moves)
                image[h][w] = list(image[h + dy][w + dx])
    assert next(moves, None) is None
    return gaussian_blur(np.array(image) / 255, rng, sigma)


def snow(x, rng, loc, sd, zoom, threshold, reach, sigma, mix):
    flakes = zoomed(loc + sd * normals(rng, *x.shape[:2]), zoom)
    flakes[flakes < threshold] = 0
    layer = levels(smeared(levels(flakes) / 255, rng.uniform(-135, -45), reach, sigma))[..., None] / 255
    gray = (x @ [.299, .587, .114])[..., None]
    return mix * x + (1 - mix) * np.maximum(x, 1.5 * gray + .5) + layer + np.rot90(layer, 2)


def spatter(x, rng, loc, sd, sigma, threshold, strength, mud, wrap=0):
    liquid = loc + sd * normals(rng, *x.shape[:2])
    liquid = ndimage.gaussian_filter(liquid, sigma, mode="nearest")
    liquid[liquid < threshold] = 0
    if mud:
        cover = ndimage.gaussian_filter((liquid > threshold).astype(float), strength, mode="nearest")
        cover[cover < .8] = 0
        return x * (1 - cover[..., None]) + cover[..., None] * np.array([63, 42, 20]) / 255
    liquid = np.mod(np.floor(liquid * 255), 256).astype(np.uint8) if wrap else levels(liquid)
    depth = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    depth = cv2.blur(np.where(depth > 20, np.float32(20), depth), (3, 3)).astype(np.uint8)
    depth = cv2.filter2D(cv2.equalizeHist(depth), cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    cover = liquid.astype(float) * cv2.blur(depth, (3, 3))
    if cover.max() == 0:
        return x
    return x + (cover / cover.max() * strength)[..., None] * np.array([175, 238, 238]) / 255


def elastic_transform(x, rng, alpha, sigma, jitter):
    height, width = x.shape[:2]
    middle, arm = np.array([width // 2, height // 2]), min(height, width) // 3
    before = np.stack([middle + arm, [middle[0] + arm, middle[1] - arm], middle - arm]).astype(float)
    after = before + rng.uniform(-jitter, jitter, (3, 2))
    square = np.array([[*point, 1] for point in before]).T
    forward = np.vstack([after.T, np.ones(3)]) @ np.linalg.inv(square)
    rows, columns = np.mgrid[:height, :width].astype(float)
    back = np.linalg.inv(forward)
    from_columns, from_rows = (back[i, 0] * columns + back[i, 1] * rows + back[i, 2] for i in (0, 1))
    x = sampled(x, from_rows, from_columns, "mirror")
    if alpha == 0:
        return x
    fields = 2 * words(rng, 2, height, width) - 1
    dx, dy = (alpha * ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) for field in fields)
    return sampled(x, rows + dy, columns + dx, "reflect")


def sampled(x, rows, columns, mode):
    return np.stack([ndimage.map_coordinates(x[..., c], [rows, columns], order=1, mode=mode) for c in range(3)], -1)


# --- mixtures of preset mivia ---


def contrast_brightness(x, rng, amount, factor):
    return contrast(brightness(x, rng, amount), rng, factor)


def gaussian_noise_contrast_brightness(x, rng, sd, amount, factor):
    return contrast_brightness(np.clip(gaussian_noise(x, rng, sd), 0, 1), rng, amount, factor)


def motion_blur_contrast_brightness(x, rng, reach, sigma, amount, factor):
    return contrast_brightness(levels(motion_blur(x, rng, reach, sigma)) / 255, rng, amount, factor)


def pixelate_contrast_brightness(x, rng, ratio, amount, factor):
    return contrast_brightness(pixelate(x, rng, ratio), rng, amount, factor)


FUNCTIONS = {name: globals()[function.__name__] for name, function in OPERATIONS.items()}
