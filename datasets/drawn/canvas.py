"""Curves, shapes and paint: what faces.py draws a face with.

A point is (x, y) in output pixels or in any other unit; an outline is an array of points (n, 2). A canvas is a uint8
array (height, width, 3) that shows the output image of `SIZE` pixels at any scale: `fill`, `draw_lines` and `clipped`
take points in output pixels and convert them. Colours are RGB, 0 to 255.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

SIZE = 224  # pixels, width and height of the output image


def mix(a: Any, b: Any, fraction: Any) -> np.ndarray:
    """(1 - fraction) a + fraction b, float64: a colour between two colours."""
    return np.asarray(a, np.float64) * (1 - fraction) + np.asarray(b, np.float64) * fraction


def mirrored(half: np.ndarray) -> np.ndarray:
    """The closed outline of a symmetric shape: float (2n - 2, 2).

    half: its right half, float (n, 2), from top to bottom, with both ends on the axis x = 0.
    """
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


@lru_cache(maxsize=8)
def unit_circle(points: int) -> np.ndarray:
    """`points` points on a circle of radius 1: float64 (points, 2)."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 25) -> np.ndarray:
    """The outline of an ellipse with centre (x, y) and half axes rx and ry: float64 (points, 2)."""
    return unit_circle(points) * (rx, ry) + (x, y)


def wavy(points: np.ndarray, amount: float, spikes: bool = False) -> np.ndarray:
    """An outline around the origin, pushed out and in along its length by the fraction `amount`: curls, or spikes."""
    phase = np.linspace(0, len(points) * np.pi / 2, len(points))
    wave = 2 * np.abs((phase / np.pi) % 1 - 0.5) if spikes else np.sin(phase)
    return points * (1 + amount * wave)[:, None]


@lru_cache(maxsize=32)
def spline_weights(count: int, closed: bool, steps: int = 8) -> np.ndarray:
    """The weights of a Catmull-Rom spline, a smooth curve through `count` points: float64 (M, count).

    M is `steps` for each segment, and one more for an open curve. The curve is weights @ points.
    """
    segments = count if closed else count - 1
    t = np.arange(steps) / steps
    basis = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1)
    weights = np.zeros((segments * steps + (not closed), count))
    for k in range(segments):
        for j in range(4):
            index = (k + j - 1) % count if closed else min(max(k + j - 1, 0), count - 1)
            weights[k * steps : (k + 1) * steps, index] += basis[:, j]
    if not closed:
        weights[-1, -1] = 1
    return weights


def smooth_curve(points: np.ndarray, closed: bool = False) -> np.ndarray:
    """A smooth curve through control points (..., n, 2), with eight points in each segment: float64 (..., M, 2)."""
    return spline_weights(points.shape[-2], closed) @ points


def fixed_point(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points in output pixels as OpenCV's fixed-point numbers, 1/16 of a pixel of `canvas`: int32 (lines, n, 2)."""
    scaled = points * (16 * canvas.shape[1] / SIZE) - 7.5  # pixel centres at whole numbers, and rounding
    return scaled.astype(np.int32).reshape(-1, *points.shape[-2:])


def fill(canvas: np.ndarray, points: np.ndarray, colour: Any) -> None:
    """Fill an outline with a colour."""
    cv2.fillPoly(canvas, fixed_point(canvas, points), np.ravel(colour).tolist(), cv2.LINE_AA, 4)


def draw_lines(canvas: np.ndarray, points: np.ndarray, colour: Any, width: float) -> None:
    """Draw open lines, (n, 2) or (lines, n, 2), `width` output pixels wide."""
    thickness = max(1, round(width * canvas.shape[1] / SIZE))
    cv2.polylines(canvas, fixed_point(canvas, points), False, np.ravel(colour).tolist(), thickness, cv2.LINE_AA, 4)


@contextmanager
def clipped(canvas: np.ndarray, points: np.ndarray, opacity: float = 1.0) -> Iterator[np.ndarray]:
    """Paint inside an outline only: `with clipped(canvas, outline) as patch:`.

    What is painted on the patch, a canvas of the same size, appears in `canvas` inside the outline."""
    outline, margin = fixed_point(canvas, points), 8
    left, top = np.maximum(outline[0].min(0) // 16 - margin, 0)
    right, bottom = np.maximum(outline[0].max(0) // 16 + margin, 1)
    box = np.s_[top:bottom, left:right]
    before = canvas[box].copy()
    patch = np.zeros(canvas.shape, np.uint8)
    patch[box] = before
    yield patch
    mask = np.zeros(before.shape[:2], np.uint8)
    cv2.fillPoly(mask, outline - 16 * np.array((left, top), np.int32), opacity * 255, cv2.LINE_AA, 4)
    fraction = mask.astype(np.float32) / 255
    canvas[box] = cv2.blendLinear(patch[box].copy(), before, fraction, 1 - fraction)
