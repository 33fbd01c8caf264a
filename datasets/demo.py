"""Demo: faces drawn on the spot, so that everything runs without any data.

The expression is driven by one point (valence, arousal) and by nothing else. The point comes from one Gaussian a class;
the Gaussians overlap, so labels are honestly ambiguous and the true posterior is known (`true_posterior`).
Who it is (identity) and how it was taken (light, pose, background, camera) are drawn independently of the class.

Layout: <root>/v<drawing>-seed<seed>/<split>/<id>.png. Image i of a split depends on (seed, split, i) only: a larger set
begins with the smaller one. `load` draws what is missing.

  python -m datasets.demo --layout ferplus --out DIR      drawn faces in the official layout of another set
"""
import os
import sys

if __name__ == "__main__" and not __package__:  # as a script: the project's folder stands for datasets/ on the path
    sys.path[0] = os.path.dirname(sys.path[0])

from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

import importlib
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

import cli
from cli import UserError
from datasets import COLUMNS, Split, keyed_rng, spelt

CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
DEFAULTS = {"train": 256, "val": 64, "test": 56, "seed": 0}
OPTIONS = {
    "train": f"images to draw for training ({DEFAULTS['train']})",
    "val": f"images to draw for validation ({DEFAULTS['val']})",
    "test": f"images to draw for testing ({DEFAULTS['test']})",
    "seed": f"which set of faces ({DEFAULTS['seed']})",
}

# Valence and arousal of the classes, ordered as on Russell's circumplex; spreads chosen for a Bayes accuracy of 0.82.
CLASS_MEANS = np.array([
    (0.02, -0.04), (0.52, 0.18), (-0.42, -0.42), (0.22, 0.62),
    (-0.18, 0.66), (-0.64, 0.04), (-0.54, 0.46), (-0.32, 0.16),
])
_SPREADS = np.array([
    (0.16, 0.15), (0.18, 0.17), (0.17, 0.17), (0.17, 0.14), (0.15, 0.14), (0.15, 0.16), (0.16, 0.15), (0.15, 0.14),
])
_CORRELATIONS = np.array([0.0, 0.3, 0.3, 0.2, -0.2, 0.2, -0.3, -0.2])
CLASS_COVARIANCES = _SPREADS[:, :, None] * _SPREADS[:, None, :]
CLASS_COVARIANCES[:, [0, 1], [1, 0]] *= _CORRELATIONS[:, None]


def true_posterior(va):
    """p(class | valence, arousal) with equal priors. va: (N, 2). Returns float64 (N, 8); rows sum to 1."""
    offset = np.asarray(va, np.float64).reshape(-1, 1, 2) - CLASS_MEANS
    distance = np.einsum("nki,kij,nkj->nk", offset, np.linalg.inv(CLASS_COVARIANCES), offset)
    logits = -0.5 * (distance + np.log(np.linalg.det(CLASS_COVARIANCES)))
    posterior = np.exp(logits - logits.max(1, keepdims=True))
    return posterior / posterior.sum(1, keepdims=True)


def draw_point(rng, label):
    """One (valence, arousal) of a class: float64 (2,). Never clipped: a point may lie a little outside [-1, 1]."""
    return CLASS_MEANS[label] + np.linalg.cholesky(CLASS_COVARIANCES[label]) @ rng.standard_normal(2)


# --- the data set ---

DRAWING = 1  # to be raised with every change of the pictures: files that are there are trusted
PER_IDENTITY = len(CLASSES)  # every identity shows each class once


def load(root, split, **options):
    """Draw the images of a split that are not there yet and return its `Split`.

    root: folder; options: see `OPTIONS`, numbers or their text. Raises UserError on an option that is no such number
    and on a folder that cannot be written.
    """
    settings = {name: _whole_number(name, options.get(name, default)) for name, default in DEFAULTS.items()}
    seed = settings["seed"]
    rows, todo = [], []
    for i in range(settings[split]):
        person, label, point = _who_feels_what(seed, split, i)
        path = f"v{DRAWING}-seed{seed}/{split}/{split}-{i:05d}.png"
        box = (np.nan,) * 4
        rows.append((f"{split}-{i:05d}", path, *box, label, *point, f"{split}-person-{person:04d}"))
        if not (root / path).exists():
            todo.append((root / path, point, (seed, split, "identity", person), (seed, split, "nuisance", i)))
    if todo:
        folder = todo[0][0].parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Threads: OpenCV lets go of the interpreter's lock; processes would need a guard in the caller's script.
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                drawn = pool.map(_draw_file, todo)
                list(tqdm(drawn, f"drawing demo {split}", len(todo), mininterval=1, disable=len(todo) <= 200 or None))
        except OSError as error:
            raise UserError(f"demo: cannot draw into {folder}: {error}") from error
    return Split(pd.DataFrame(rows, columns=COLUMNS), None, CLASSES)


def _who_feels_what(seed, split, i):
    """Identity, label and (valence, arousal) of image `i`."""
    person = i // PER_IDENTITY
    label = int(keyed_rng("demo", seed, split, "order", person).permutation(len(CLASSES))[i % PER_IDENTITY])
    return person, label, draw_point(keyed_rng("demo", seed, split, "point", i), label)


class Face(NamedTuple):
    """A drawn face that the layout writers of other sets store in their own form."""

    image: np.ndarray  # uint8 (224, 224, 3), RGB
    expression: str  # of CLASSES
    valence: float
    arousal: float
    identity: str


def faces(split, count):
    """The first `count` faces of a split, one after the other: eight of an identity, one of each expression."""
    for i in range(count):
        person, label, point = _who_feels_what(0, split, i)
        image = draw_face(point, keyed_rng("demo", 0, split, "identity", person),
                          keyed_rng("demo", 0, split, "nuisance", i))
        yield Face(image, CLASSES[label], float(point[0]), float(point[1]), f"{split}-person-{person:04d}")


def _whole_number(name, value):
    text, least = str(value), 0 if name == "seed" else 1
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise UserError(f"demo: {name}={value} is not a whole number from {least} on ({OPTIONS[name]})")
    return int(text)


def _draw_file(job):
    path, point, identity, nuisance = job
    face = draw_face(point, keyed_rng("demo", *identity), keyed_rng("demo", *nuisance))
    png = cv2.imencode(".png", face[:, :, ::-1])[1]
    # As cli.write_whole, but without its flush to disk: what a power cut takes is drawn again by deleting the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(png)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- what a point (valence, arousal) does to a face ---

# One row of face movements a class, at its mean. Between the means they blend, so neighbouring points look alike.
MOVEMENTS = (
    "corner",  # mouth corners up (+) or down (-)
    "open",    # jaw
    "wide",    # mouth stretched (+) or rounded (-)
    "press",   # lips thinned
    "sneer",   # upper lip raised
    "teeth",
    "brow",    # brows up (+) or down (-)
    "inner",   # their inner ends up (+, sorrow) or down (-, anger)
    "frown",   # brows drawn together
    "lid",     # upper lids raised (+) or dropped (-)
    "squint",  # lower lids and cheeks raised
    "wrinkle",  # nose
    "smirk",   # one mouth corner and one brow only
)
_TABLE = np.array([
    # corner open wide press sneer teeth brow inner frown lid squint wrinkle smirk
    (0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (1.0, 0.42, 0.35, 0.0, 0.1, 1.0, 0.15, 0.0, 0.0, -0.1, 0.8, 0.0, 0.0),
    (-0.9, 0.0, -0.12, 0.1, 0.0, 0.0, 0.0, 1.0, 0.3, -0.5, 0.1, 0.0, 0.0),
    (0.1, 1.0, -0.3, 0.0, 0.0, 0.15, 1.1, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0),
    (-0.6, 0.38, 0.4, 0.2, 0.1, 0.8, 0.55, 0.9, 0.8, 0.75, 0.0, 0.0, 0.0),
    (-0.75, 0.1, -0.1, 0.0, 1.0, 0.5, -0.5, -0.35, 0.5, -0.35, 0.7, 1.0, 0.0),
    (-0.6, 0.3, 0.15, 0.5, 0.4, 1.0, -0.75, -1.0, 1.0, 0.2, 0.45, 0.4, 0.0),
    (0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, -0.1, 0.0, -0.3, 0.15, 0.0, 1.0),
])
_BLEND_WIDTH = 0.17  # in valence and arousal, about a class's spread


def movements(va):
    """The movements at a point, smooth in it. va: (2,). Returns a namespace of floats named by `MOVEMENTS`."""
    distance = ((np.asarray(va, np.float64) - CLASS_MEANS) ** 2).sum(1)
    weight = np.exp((distance.min() - distance) / (2 * _BLEND_WIDTH**2))
    return SimpleNamespace(**dict(zip(MOVEMENTS, weight @ _TABLE / weight.sum(), strict=True)))


# --- who it is, how it was taken ---

SKIN = np.array([  # from the lightest to the darkest, RGB
    (252, 224, 203), (240, 206, 180), (226, 184, 150), (204, 156, 118),
    (172, 122, 86), (134, 90, 62), (98, 64, 46), (66, 44, 36),
], np.float64)
HAIR = np.array([
    (24, 20, 22), (46, 32, 26), (78, 52, 36), (112, 74, 46),
    (150, 82, 44), (202, 160, 96), (224, 198, 140), (168, 164, 162),
], np.float64)
IRIS = np.array([(62, 40, 26), (92, 60, 34), (122, 96, 56), (84, 116, 84), (88, 128, 160), (112, 124, 136)], np.float64)
STYLES = {  # volume, hairline height, its slant, where the sides and the back end, waves, bun
    "shaved": (0.015, -0.70, 0.00, -0.20, None, 0.000, 0.0),
    "short": (0.09, -0.68, 0.05, -0.08, None, 0.012, 0.0),
    "parted": (0.13, -0.66, 0.25, -0.05, None, 0.000, 0.0),
    "fringe": (0.13, -0.50, 0.03, 0.10, 0.60, 0.000, 0.0),
    "bob": (0.15, -0.60, 0.20, 0.62, 0.80, 0.000, 0.0),
    "long": (0.15, -0.66, 0.16, 1.70, 1.80, 0.010, 0.0),
    "curly": (0.24, -0.60, 0.04, 0.35, 0.70, 0.050, 0.0),
    "afro": (0.42, -0.66, 0.00, 0.05, 0.30, 0.025, 0.0),
    "spiky": (0.17, -0.66, 0.06, -0.10, None, 0.110, 0.0),
    "bun": (0.06, -0.70, 0.00, -0.15, None, 0.000, 0.3),
}
BALD = (0.0, -0.9, 0.0, 0.0, None, 0.0, 0.0)


def _identity(rng):
    """Proportions (in half face heights), colours and habits of one person."""
    tone = rng.uniform(0, len(SKIN) - 1)
    skin = _mix(SKIN[int(tone)], SKIN[min(int(tone) + 1, len(SKIN) - 1)], tone % 1) * rng.uniform(0.98, 1.02, 3)
    dark = tone > 3.5 and rng.random() < 0.8  # fair hair on dark skin is rare, not absent
    hair = HAIR[rng.integers(3)] if dark else HAIR[rng.integers(len(HAIR))]
    iris = IRIS[rng.integers(2)] if dark else IRIS[rng.integers(len(IRIS))]
    style = rng.choice([*STYLES, "bald"])
    beardable = style in ("shaved", "short", "parted", "spiky", "bald", "curly", "afro")
    return SimpleNamespace(
        skin=np.clip(skin, 20, 252), tone=tone / (len(SKIN) - 1), hair=np.clip(hair * rng.uniform(0.85, 1.15), 8, 240),
        iris=iris, style=style, width=rng.uniform(0.70, 0.82), jaw=rng.uniform(0.80, 1.0), chin=rng.uniform(0.85, 1.25),
        neck=rng.uniform(0.36, 0.48), ear=rng.uniform(0.85, 1.15), eye_x=rng.uniform(0.31, 0.36),
        eye_y=rng.uniform(-0.12, -0.04), eye=rng.uniform(0.145, 0.175), tilt=rng.uniform(-0.03, 0.02),
        brow=rng.uniform(0.025, 0.06), brow_y=rng.uniform(0.20, 0.25), nose=rng.uniform(0.10, 0.16),
        nose_y=rng.uniform(0.24, 0.31), mouth=rng.uniform(0.23, 0.29), mouth_y=rng.uniform(0.54, 0.60),
        lips=rng.uniform(0.7, 1.35), lip_red=rng.uniform(0.15, 0.75), lashes=rng.uniform(0, 1),
        beard=rng.choice(4, p=[0.55, 0.2, 0.1, 0.15]) * beardable, glasses=rng.random() < 0.22,
        rim=rng.uniform(15, 110, 3), square=rng.uniform(2, 5), freckles=rng.random() < 0.2 and tone < 4,
        forehead=rng.uniform(-0.06, 0.04), folds=rng.uniform(0, 1), side=rng.choice(SIDES),
        seed=int(rng.integers(2**32)),  # of the strands and the freckles
    )


def _scene(rng):
    """Light, pose, background and camera of one image. Angles in radians, lengths in output pixels."""
    angle = rng.uniform(-np.pi, 0) if rng.random() < 0.9 else rng.uniform(0, np.pi)  # light mostly from above
    return SimpleNamespace(
        light=np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.1, 0.75), strength=rng.uniform(0.15, 0.55),
        exposure=rng.uniform(0.85, 1.1), warmth=rng.normal(0, 0.05), roll=rng.normal(0, 0.09), yaw=rng.normal(0, 0.16),
        pitch=rng.normal(0, 0.09), zoom=rng.uniform(76, 87), x=112 + rng.normal(0, 4), y=116 + rng.normal(0, 4),
        gaze=rng.normal(0, 0.10), shirt=rng.uniform(25, 235, 3), collar=rng.uniform(-0.05, 0.25),
        blur=max(0.0, rng.uniform(-0.4, 0.9)), noise=rng.uniform(0.3, 3.0),
    )


# --- drawing ---

SIZE = 224
ZOOM = 2  # drawn twice as large, then averaged
UNIT = np.linspace(-1, 1, 25)
SIDES = (-1, 1)  # left and right in the image


def draw_face(va, identity_rng, nuisance_rng):
    """Draw one face. va: (valence, arousal); two numpy Generators: who it is, how it was taken.

    Returns uint8 (224, 224, 3) RGB. Equal arguments (generator states included) give equal pixels.
    """
    move, who, scene = movements(va), _identity(identity_rng), _scene(nuisance_rng)
    head, body = _View(scene, 1.0), _View(scene, 0.3)
    form = _Form(move, who)
    image = _background(nuisance_rng)
    _draw_behind(image, head, body, form, who, scene)
    _draw_skin(image, head, form, move, who, scene)
    _draw_nose(image, head, move, who)
    if who.beard:
        _draw_beard(image, head, form, who)
    _draw_mouth(image, head, form, move, who)
    for side in SIDES:
        _draw_eye(image, head, side, move, who, scene)
    if who.style != "bald":
        _draw_hair(image, head, who)
    for side in SIDES:
        _draw_brow(image, head, side, move, who)
    if who.glasses:
        _draw_glasses(image, head, who)
    return _photograph(image, scene, nuisance_rng)


_BULGE = np.array((0.8, 1.1)) ** -2.0  # the face is half of an egg 0.8 wide and 1.1 high


class _View:
    """Turns face coordinates (x right, y down, half face heights, the head's centre at 0) into output pixels."""

    def __init__(self, scene, roll):
        cy, sy, cp, sp = np.cos(scene.yaw), np.sin(scene.yaw), np.cos(scene.pitch), np.sin(scene.pitch)
        cr, sr = np.cos(scene.roll * roll), np.sin(scene.roll * roll)
        turn = np.array([[cy, 0.0, sy], [sp * sy, cp, -sp * cy]])  # yaw, then pitch; z points at the camera
        matrix = np.array([[cr, -sr], [sr, cr]]) @ turn * scene.zoom
        self.plane, self.depth = matrix.T[:2].copy(), matrix[:, 2].copy()
        self.centre = np.array([scene.x, scene.y])

    def __call__(self, points, z=None):
        """points: (..., 2). z: their depth, (...) or one number; None: on the face, which bulges towards the camera."""
        points = np.asarray(points, np.float64)
        if z is None:
            z = 0.5 * np.sqrt(np.maximum(0, 1 - (points * points) @ _BULGE))
        return points @ self.plane + (np.multiply.outer(z, self.depth) + self.centre)


class _Form:
    """Outlines that several parts share: the head with its jaw dropped, the mouth's curves, the hair's edge."""

    def __init__(self, move, who):
        w, drop = who.width, 0.15 * move.open
        half = np.array([
            (0.0, -1.02), (0.52 * w, -0.91), (0.86 * w, -0.62), (w, -0.25), (0.99 * w, 0.1), (0.93 * w, 0.40),
            (0.78 * w * who.jaw, 0.70), (0.30 * who.chin, 0.96), (0.0, 1.01),
        ])
        half[:, 1] += drop * np.clip((half[:, 1] - 0.3) / 0.5, 0, 1)
        self.head = _smooth(_mirror(half), closed=True)
        self.chin = 1.01 + drop

        # Mouth curves over UNIT, from the left corner to the right one.
        arch, smile = 1 - UNIT**2, move.corner + 1.3 * move.smirk * np.clip(UNIT * who.side, -0.1, 1)
        x = who.mouth * (1 + 0.45 * move.wide + 0.15 * move.corner * (move.corner > 0)) * UNIT
        x = x + 0.03 * move.smirk * who.side
        line = who.mouth_y - 0.115 * smile * (np.abs(UNIT) ** 1.7 - 0.35) - 0.03 * move.sneer
        upper = line - arch**0.7 * (0.045 * move.open + 0.075 * move.sneer)
        lower = line + arch**0.6 * (0.30 * move.open + 0.02 * move.sneer)
        thick = 0.062 * who.lips * (1 - 0.55 * move.press) * (1 - 0.25 * abs(move.wide))
        bow = np.sqrt(arch) * (1 - 0.28 * np.exp(-((UNIT / 0.16) ** 2)))
        self.mouth = np.stack([x, upper], 1), np.stack([x, lower], 1)
        self.lips = np.stack([x, upper - thick * bow], 1), np.stack([x, lower + 1.25 * thick * arch**0.7], 1)


def _draw_behind(image, head, body, form, who, scene):
    """Hair at the back, shoulders, neck, ears."""
    volume, _, _, _, back, waves, bun = STYLES.get(who.style, BALD)
    w, n, dark = who.width, who.neck, who.hair * 0.72
    if bun:
        _fill(image, head(_ellipse(0, -1.12, bun, bun * 0.9), -0.2), dark)
    if back is not None:
        ends = [(w + volume, -0.1), (w + volume * 1.1, back * 0.6), (w + volume * 0.6, back), (0, back + 0.1)]
        half = np.array([(0, -1.0 - volume), (0.7 * w, -0.9 - volume * 0.7), *ends])
        _fill(image, head(_wavy(_smooth(_mirror(half), closed=True), waves), -0.2), dark)
    shoulders = np.array([(0, 1.18), (n * 1.15, 1.16), (0.95, 1.34), (1.35, 1.65), (1.4, 2.4), (0, 2.4)])
    _fill(image, body(_smooth(_mirror(shoulders), closed=True), -0.1), scene.shirt)
    neck = np.array([(n, 0.3), (n, 1.0), (n * 1.3, 1.2), (0.5 * n, 1.36 + scene.collar), (0, 1.4 + scene.collar)])
    neck = body(_smooth(_mirror(neck), closed=True), -0.1)
    _fill(image, neck, who.skin * 0.92)
    with _inside(image, neck) as patch:
        _fill(patch, head(form.head * (0.95, 1) + (0, 0.11), 0), who.skin * 0.74)
    for side in SIDES:
        x, rx, ry = side * (w + 0.015), 0.10 * who.ear, 0.20 * who.ear
        _fill(image, head(_ellipse(x, 0.02, rx, ry), -0.05), who.skin * 0.93)
        _fill(image, head(_ellipse(x + side * 0.012, 0.01, rx * 0.55, ry * 0.62), -0.05), who.skin * 0.76)


def _draw_skin(image, head, form, move, who, scene):
    """The bare face and its modelling."""
    outline = head(form.head, 0)
    _fill(image, outline, who.skin)
    soft = np.full((SIZE // 2, SIZE // 2, 3), 128, np.uint8)  # multiplied in at the end: 128 changes nothing
    with _inside(soft, outline) as patch:
        _model_skin(patch, head, form, move, who, scene)
    soft = cv2.resize(soft, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    cv2.multiply(image, soft, dst=image, scale=1 / 128)
    if who.freckles:
        rng = np.random.Generator(np.random.SFC64(who.seed))
        for x, y in rng.normal((0, 0.2), (0.28, 0.09), (36, 2)):
            _fill(image, head(_ellipse(x, y, 0.012, 0.012, 7)), _mix(who.skin, (120, 60, 30), 0.35))


def _model_skin(soft, head, form, move, who, scene):
    """What makes a face of a flat shape: sockets, cheeks, nose, chin, and the folds that movement draws."""
    shade, light, blush = np.array((106, 99, 96)), np.array((141, 141, 141)), np.array((133, 118, 117))
    lit = 1 if scene.light[0] > 0 else -1
    happy, w, nose, tip, mouth = max(move.corner, 0), who.width, who.nose, who.nose_y, who.mouth_y

    edge = np.array([(w, -0.9), (w, 1.1), (0.5, 1.05), (0.62, 0.5), (0.66, -0.2), (0.6, -0.7)])
    for side in SIDES:
        _fill(soft, head(_ellipse(side * who.eye_x, who.eye_y - 0.05, 0.21, 0.13)), _mix(shade, 128, 0.35))
        _fill(soft, head(_ellipse(side * 0.42, 0.28 - 0.05 * move.squint, 0.17, 0.13)), blush + 6 * happy)
        _fill(soft, head(edge * (side, 1), 0), _mix(shade, 128, 0.75 if side == lit else 0.35))
    if who.style != "bald":  # what the hair throws on the forehead
        y = STYLES[who.style][1] + who.forehead + 0.06
        brim = [(-w, -0.25), (-0.6 * w, y + 0.08), (0, y), (0.6 * w, y + 0.08), (w, -0.25), (w, -1.1), (-w, -1.1)]
        _fill(soft, head(brim), _mix(shade, 128, 0.1))
    _fill(soft, head([(0, -0.1), (-lit * 0.06, -0.1), (-lit * nose, tip), (0, tip)]), _mix(shade, 128, 0.2))
    ridge = np.array([(0.02, -0.2), (0.05, -0.2), (0.07, tip - 0.05), (0, tip - 0.05)])
    _fill(soft, head(ridge * (lit, 1)), light)
    _fill(soft, head(_ellipse(0, tip + 0.08, nose * 0.9, 0.045)), shade)
    below = form.lips[1][12, 1] + 0.06
    _fill(soft, head(_ellipse(0, below, 0.14, 0.04)), shade)
    _fill(soft, head(_ellipse(0, below + 0.12, 0.13, 0.07)), light)

    # Beside the mouth, under the eyes, between the brows, across the forehead.
    folds = _mix(128, shade * 0.86, min(1, 0.2 * who.folds + 0.8 * happy + 0.8 * move.sneer + 0.3 * move.wrinkle))
    bags = _mix(128, shade, min(1, 0.3 * who.folds + 0.8 * move.squint))
    tug, bag_y = 0.06 * happy + 0.03 * move.wide, who.eye_y + 0.15 - 0.03 * move.squint
    fold = np.array([(nose + 0.02, tip - 0.02), (0.24 + tug, 0.40), (who.mouth + 0.07 + tug, mouth - 0.02)])
    bag = np.array([(who.eye_x - 0.15, bag_y - 0.05), (who.eye_x, bag_y), (who.eye_x + 0.15, bag_y - 0.05)])
    furrow = np.array([(0.05, who.eye_y - 0.26), (0.04, who.eye_y - 0.10)])
    for side in SIDES:
        _line(soft, head(_smooth(fold * (side, 1))), folds, 3.0)
        _line(soft, head(_smooth(bag * (side, 1))), bags, 2.5)
        _line(soft, head(furrow * (side, 1)), _mix(128, shade * 0.8, np.clip(move.frown, 0, 1)), 2.5)
    creases = np.array([[(-0.32, y + 0.02), (0, y - 0.01), (0.32, y + 0.02)] for y in (-0.46, -0.54, -0.62)])
    _line(soft, head(_smooth(creases)), _mix(128, shade, 0.7 * np.clip(move.brow, 0, 1)), 2.0)
    cv2.GaussianBlur(soft, (0, 0), 2.0, dst=soft)

    # Finer ones stay sharp: on the nose, at the mouth's corners.
    wrinkles = np.array([[(0.03, who.eye_y + y), (0.11, who.eye_y + y - 0.06)] for y in (0.03, 0.12)])
    tuck = np.array([(0.02, -0.035), (0.035, 0.0), (0.02, 0.03)])
    for side, end in zip(SIDES, (0, -1), strict=True):
        _line(soft, head(wrinkles * (side, 1)), _mix(128, shade * 0.6, np.clip(move.wrinkle, 0, 1)), 1.0)
        depth = np.clip(0.4 * move.corner + 0.9 * move.smirk * (side == who.side) + 0.4 * move.press, 0, 1)
        _line(soft, head(form.mouth[0][end] + tuck * (side, 1)), _mix(128, shade * 0.6, depth), 1.0)


def _draw_nose(image, head, move, who):
    y, n, dark = who.nose_y - 0.04 * move.wrinkle, who.nose * (1 + 0.12 * move.wrinkle), who.skin * 0.62
    for side in SIDES:
        _fill(image, head(_ellipse(side * n * 0.48, y + 0.035, n * 0.25, 0.022, 13)), who.skin * 0.42)
        wing = np.array([(n * 0.86, y - 0.07), (n * 1.08, y), (n * 0.80, y + 0.04)])
        _line(image, head(_smooth(wing * (side, 1))), dark, 1.1)
    _line(image, head(_smooth(np.array([(-n * 0.5, y + 0.06), (0, y + 0.075), (n * 0.5, y + 0.06)]))), dark, 1.0)


def _draw_mouth(image, head, form, move, who):
    """Lips, and between them the dark, the tongue and the teeth."""
    (upper, lower), (above, below) = form.mouth, form.lips
    red = _mix(who.skin * (0.84, 0.66, 0.64), (176, 60, 66), who.lip_red * (0.7 - 0.4 * who.tone))
    _fill(image, head(np.concatenate([above, below[::-1]])), red)
    _fill(image, head(np.concatenate([above, upper[::-1]])), red * 0.86)
    gap = lower[:, 1] - upper[:, 1]
    if gap.max() > 0.012:
        inner = head(np.concatenate([upper, lower[::-1]]))
        teeth, show = (240, 236, 226), np.clip(move.teeth, 0, 1)
        bare = np.clip(1.6 * move.teeth - 1.4 * max(move.corner, 0), 0, 1)  # the lower row too, but not in a smile
        with _inside(image, inner) as patch:
            _fill(patch, inner, (58, 18, 22))
            _fill(patch, head(_ellipse(0, lower[12, 1] + 0.03, 0.15, 0.02 + 0.35 * gap.max())), (186, 84, 86))
            top = upper + np.stack([0 * UNIT, np.minimum(gap, 0.10) * show], 1)
            _fill(patch, head(np.concatenate([upper, top[::-1]])), teeth)
            bottom = lower - np.stack([0 * UNIT, np.minimum(gap, 0.09) * 0.45 * bare], 1)
            _fill(patch, head(np.concatenate([lower, bottom[::-1]])), teeth)
            high, deep = upper[:, 1].min(), upper[:, 1].min() + 0.07 * show + 0.03
            gaps = np.array([[(x, high), (x, deep)] for x in np.linspace(-0.24, 0.24, 9)])
            _line(patch, head(gaps), (206, 198, 190), 0.5)
    _line(image, head(upper), red * 0.5, 1.1)
    _line(image, head(lower), red * 0.55, 0.8)
    shine = below[8:17] * (1, 0.45) + lower[8:17] * (0, 0.55)
    _line(image, head(shine), _mix(red, 255, 0.18), 1.4)


def _draw_eye(image, head, side, move, who, scene):
    w, x0, y0 = who.eye, who.eye_x, who.eye_y
    x, bulge = side * (x0 + w * UNIT), 1 - UNIT**2  # UNIT: -1 at the nose, 1 at the temple
    lid = 1 + 0.85 * move.lid - 0.30 * move.squint + 0.12 * move.smirk * (side == who.side)
    slant = y0 + (who.tilt + 0.025 * move.inner) * UNIT
    top = slant - w * 0.56 * max(lid, 0.15) * (1 - np.abs(UNIT + 0.1 * bulge) ** 2.3)
    low = slant + w * 0.40 * (1 - 0.75 * move.squint + 0.15 * move.lid) * bulge
    upper, lower = np.stack([x, np.minimum(top, low)], 1), np.stack([x, low], 1)
    crease = upper - np.stack([0 * x, 0.035 + 0.02 * bulge - 0.012 * move.lid], 1)
    _line(image, head(crease[2:-1]), who.skin * 0.68, 1.0)

    shape = head(np.concatenate([upper, lower[::-1]]))
    cx, cy = side * x0 + w * scene.gaze, y0 - 0.01 + 0.05 * w * max(move.inner, 0)
    glint = 0.15 * w * (1 if scene.light[0] > 0 else -1)
    with _inside(image, shape) as patch:
        _fill(patch, shape, (238, 236, 232))
        _fill(patch, head(_ellipse(cx, cy, w * 0.49, w * 0.49)), who.iris * 0.55)
        _fill(patch, head(_ellipse(cx, cy, w * 0.43, w * 0.43)), who.iris)
        _fill(patch, head(_ellipse(cx, cy + w * 0.12, w * 0.30, w * 0.26)), _mix(who.iris, 255, 0.22))
        _fill(patch, head(_ellipse(cx, cy, w * 0.21, w * 0.21)), (14, 12, 14))
        _line(patch, head(upper + (0, 0.012)), (150, 142, 142), 2.0)  # the lid's shadow
        _fill(patch, head(_ellipse(cx + glint, cy - w * 0.16, w * 0.10, w * 0.10)), (255, 255, 255))
    _line(image, head(lower), who.skin * 0.6, 0.8)
    lash = _mix(who.skin * 0.3, (18, 14, 14), 0.7)
    _line(image, head(upper), lash, 1.5 + who.lashes)
    if who.lashes > 0.55:
        _line(image, head([upper[-3], upper[-1], upper[-1] + (side * 0.035, -0.03)]), lash, 1.6)


def _draw_brow(image, head, side, move, who):
    t = np.linspace(0, 1, 15)  # from the inner to the outer end
    w = who.eye
    x = who.eye_x - 1.05 * w - 0.05 * move.frown + t * 2.25 * w
    raised = move.brow + 0.9 * move.smirk * (side == who.side)
    y = who.eye_y - who.brow_y - 0.11 * raised - 0.05 * np.sin(np.pi * np.clip(t * 1.1, 0, 1)) * (1 + 0.5 * move.brow)
    y = y - 0.12 * move.inner * (1 - t) ** 1.3 + 0.04 * move.inner * t + 0.02 * t
    half = who.brow * np.where(t < 0.15, 0.7 + 2 * t, 1.0 - 0.85 * (t - 0.15)) * 0.75
    edge = np.concatenate([np.stack([side * x, y - half], 1), np.stack([side * x, y + half], 1)[::-1]])
    colour = who.hair if who.style != "bald" else HAIR[1]
    _fill(image, head(edge), _mix(np.minimum(colour, who.skin * 0.6) * 0.8, who.skin, 0.12))


def _draw_hair(image, head, who):
    """The hair in front: from ear to ear over the top, and back along the hairline; then strands between the two."""
    volume, height, slant, ends, _, waves, _ = STYLES[who.style]
    height, w = height + who.forehead, who.width
    reach = w + 0.02 + volume * 0.75
    angle = np.linspace(-np.pi / 2, np.pi / 2, 41)
    arc = np.stack([reach * np.sin(angle), -0.25 - (0.79 + volume) * np.cos(angle)], 1)
    arc = _wavy(arc, waves, spikes=who.style == "spiky")
    tail = np.array([(reach, ends * 0.5 - 0.12), (w + 0.02 + volume * 0.5, ends)])
    outside = np.concatenate([(tail * (-1, 1))[::-1], arc, tail])

    half = [(0.94 * w, min(ends, 0.2) * 0.5 - 0.25), (0.86 * w, -0.42), (0.62 * w, height + 0.08), (0.3 * w, height)]
    if ends >= 0.3:  # locks in front of the ears
        half = [(0.92 * w, ends * 0.55), *half]
    half = np.array([(w - 0.02, ends), *half, (0, height - 0.02)])
    hairline = _smooth(np.concatenate([half, half[-2::-1] * (-1, 1)]))
    # The slant lowers the hairline on one side of the forehead: a parting.
    hairline[:, 1] += who.side * slant * hairline[:, 0] * np.clip(-hairline[:, 1] - 0.3, 0, 0.3) / 0.3
    shape = np.concatenate([head(outside, 0), head(hairline)])

    _fill(image, shape, who.hair)
    rng = np.random.Generator(np.random.SFC64(who.seed))
    top, front = head(arc * 0.99, 0), head(hairline[np.linspace(len(hairline) - 9, 8, len(arc)).astype(int)])
    strands = _smooth(np.stack([top, (top + front) / 2 + (3 * who.side, -3), front], 1))[rng.permutation(len(arc))]
    for k, (tone, width) in enumerate([(0.8, 1.5), (0.9, 1.0), (1.12, 1.0), (1.25, 0.5)]):
        _line(image, strands[k::4], who.hair * tone, width)


def _draw_beard(image, head, form, who):
    """1: stubble, 2: moustache, 3: full beard."""
    colour = _mix(who.hair, who.skin, 0.62 if who.beard == 1 else 0.08)
    w, above = who.width, form.lips[0]
    if who.beard != 2:
        jaw = form.head[form.head[:, 1] > 0.12] * (0.985, 0.995)
        jaw = jaw[np.argsort(-np.arctan2(jaw[:, 1] - 0.1, jaw[:, 0]))]  # from the left ear by the chin to the right one
        cheek = np.array([(0.94 * w, 0.12), (0.80 * w, 0.36), (0.5 * w, 0.52), (0.32, who.mouth_y - 0.1)])
        top = np.concatenate([cheek, [(0, who.mouth_y - 0.13)], (cheek * (-1, 1))[::-1]])
        shape = np.concatenate([head(jaw, 0), head(_smooth(top))])
        with _inside(image, shape, 0.85 if who.beard == 3 else 0.4) as patch:
            _fill(patch, shape, colour)
    if who.beard != 1:
        top = above * (1.12, 1) - np.stack([0 * UNIT, 0.065 * (1 - UNIT**2) ** 0.4], 1)
        _fill(image, head(np.concatenate([top, above[::-1] + (0, 0.01)])), colour)


def _draw_glasses(image, head, who):
    w, y, front = who.eye * 1.55, who.eye_y + 0.02, 0.5
    ring = _ellipse(0, 0, 1, 1, 40)
    ring = np.sign(ring) * np.abs(ring) ** (2 / who.square) * (w, 0.82 * w)
    for side in SIDES:
        lens = head(ring + (side * (who.eye_x + 0.01), y), front)
        with _inside(image, lens, 0.10) as patch:
            _fill(patch, lens, (235, 240, 250))
        _line(image, np.concatenate([lens, lens[:1]]), who.rim, 2.0)
        arm = np.array([(who.eye_x + w + 0.01, y - 0.05), (who.width + 0.01, y - 0.06)]) * (side, 1)
        _line(image, head(arm, np.array((front, 0.0))), who.rim, 1.8)
    inner = who.eye_x - w
    bridge = np.array([(-inner, y - 0.02), (0, y - 0.06), (inner, y - 0.02)])
    _line(image, head(_smooth(bridge), front), who.rim, 2.0)


def _background(rng):
    """Two colours with a gradient between them, and soft blobs: uint8 (448, 448, 3)."""
    colours = _mix(rng.uniform(30, 235, (9, 3)), rng.uniform(60, 215, (9, 1)), rng.uniform(0.2, 0.9))  # rarely garish
    grid, angle = np.linspace(-0.5, 0.5, 56), rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + np.cos(angle) * grid[None, :, None] + np.sin(angle) * grid[:, None, None]
    small = _mix(colours[0], colours[1], np.clip(ramp, 0, 1)).astype(np.uint8)
    for colour in colours[2 : rng.integers(2, 10)]:
        x, y, radius = rng.uniform((0, 0, 64), (896, 896, 256)).astype(int).tolist()
        cv2.circle(small, (x, y), radius, colour.tolist(), -1, cv2.LINE_AA, 4)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(1.2, 6.0))
    return cv2.resize(small, (SIZE * ZOOM, SIZE * ZOOM), interpolation=cv2.INTER_LINEAR)


def _photograph(image, scene, rng):
    """Light from one side, camera blur, sensor noise, exposure: the large drawing to uint8 (224, 224, 3)."""
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    if scene.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur)
    grid = np.arange(2, SIZE, 4)  # light changes slowly: every fourth pixel is enough
    x, y = (grid[None, :] - scene.x) / (0.95 * scene.zoom), (grid[:, None] - scene.y) / (1.25 * scene.zoom)
    square = x * x + y * y
    z = np.exp(-square / 1.2)  # the head as an egg that flattens into the background, so that no edge shows
    lambert = (x * scene.light[0] + y * scene.light[1] + z * 0.8) / np.sqrt(square + z * z)
    gain = scene.exposure * (1 + scene.strength * (lambert - 0.75))[:, :, None]
    gain = (gain * (1 + scene.warmth, 1, 1 - scene.warmth)).astype(np.float32)
    lit = cv2.multiply(image, cv2.resize(gain, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), dtype=cv2.CV_32F)
    noise = rng.standard_normal((SIZE, SIZE), np.float32) * np.float32(scene.noise)
    return cv2.add(lit, cv2.merge([noise] * 3), dtype=cv2.CV_8U)  # rounds and clips


# --- small tools: points are (..., 2) arrays; an image may be twice or half as large as the output ---


def _mix(a, b, share):
    return np.asarray(a, np.float64) * (1 - share) + np.asarray(b, np.float64) * share


def _mirror(half):
    """Points of the right half, from top to bottom, both ends on the axis -> the closed outline."""
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


@lru_cache(maxsize=8)
def _circle(points):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _ellipse(x, y, rx, ry, points=25):
    return _circle(points) * (rx, ry) + (x, y)


def _wavy(points, amount, spikes=False):
    """Push an outline out and in along its length: curls, or spikes."""
    phase = np.linspace(0, len(points) * np.pi / 2, len(points))
    wave = 2 * np.abs((phase / np.pi) % 1 - 0.5) if spikes else np.sin(phase)
    return points * (1 + amount * wave)[:, None]


@lru_cache(maxsize=32)
def _spline(count, closed, steps=8):
    """Catmull-Rom weights (M, count): a smooth curve through `count` points."""
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


def _smooth(points, closed=False):
    """(..., n, 2) control points -> a smooth curve through them, eight points a segment."""
    return _spline(points.shape[-2], closed) @ points


def _fixed(image, points):
    """Output pixels -> OpenCV's fixed point in `image`, 1/16 of its pixels: int32 (lines, n, 2)."""
    scaled = points * (16 * image.shape[1] / SIZE) - 7.5  # pixel centres at whole numbers, and rounding
    return scaled.astype(np.int32).reshape(-1, *points.shape[-2:])


def _fill(image, points, colour):
    cv2.fillPoly(image, _fixed(image, points), np.ravel(colour).tolist(), cv2.LINE_AA, 4)


def _line(image, points, colour, width):
    """Open lines, (n, 2) or (lines, n, 2), `width` output pixels wide."""
    thickness = max(1, round(width * image.shape[1] / SIZE))
    cv2.polylines(image, _fixed(image, points), False, np.ravel(colour).tolist(), thickness, cv2.LINE_AA, 4)


@contextmanager
def _inside(image, points, opacity=1.0):
    """`with _inside(image, outline) as patch:` what is painted on the patch shows in `image` inside the outline."""
    outline, margin = _fixed(image, points), 8
    left, top = np.maximum(outline[0].min(0) // 16 - margin, 0)
    right, bottom = np.maximum(outline[0].max(0) // 16 + margin, 1)
    box = np.s_[top:bottom, left:right]
    before = image[box].copy()
    patch = np.zeros(image.shape, np.uint8)
    patch[box] = before
    yield patch
    mask = np.zeros(before.shape[:2], np.uint8)
    cv2.fillPoly(mask, outline - 16 * np.array((left, top), np.int32), opacity * 255, cv2.LINE_AA, 4)
    share = mask.astype(np.float32) / 255
    image[box] = cv2.blendLinear(patch[box].copy(), before, share, 1 - share)


# --- the official layouts of other sets, filled with drawn faces ---

LAYOUTS = {
    "affectnet-old": "datasets.affectnet", "affectnet-2021": "datasets.affectnet", "affwild2": "datasets.affwild",
    "rafdb": "datasets.rafdb", "raf-ml": "datasets.rafdb", "ferplus": "datasets.ferplus",
    "folders": "datasets.folders",
}
BESIDE = {"rafdb": {"RAF-ML"}, "raf-ml": {"basic"}}  # two releases, one data set: one may be written beside the other


@dataclass
class Args:
    layout: str
    """affectnet-old, affectnet-2021, affwild2, rafdb, raf-ml, ferplus or folders"""
    out: Path
    """a new folder for it (raf-ml may go beside rafdb)"""


def main(args: Args) -> None:
    """Write demo faces in exactly the layout of an official release, its known quirks included. Nothing that is in the
    folder before is touched. Raises UserError on an unknown layout and on a folder that cannot be used."""
    if args.layout not in LAYOUTS:
        raise UserError(f"unknown layout {args.layout!r}; known: {', '.join(LAYOUTS)}")
    out, created = args.out, not args.out.exists()
    if not created:
        refuse_foreign(out, args.layout)
    module = importlib.import_module(LAYOUTS[args.layout])
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Inside the folder, so that it may be a link, a mount point or the current one.
        with tempfile.TemporaryDirectory(prefix=".layout-", dir=out) as temporary:
            module.LAYOUTS[args.layout](Path(temporary), faces)
            for part in sorted(Path(temporary).iterdir()):
                part.rename(out / part.name)
    except OSError as error:
        if created and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    print(f"wrote the layout {args.layout} to {out}")


def refuse_foreign(out: Path, layout: str) -> None:
    """Raises UserError where a layout cannot go into a folder, because it is a file or holds something else."""
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; give a new folder")
    try:
        others = sorted({path.name for path in out.iterdir()} - BESIDE.get(layout, set()))
    except OSError as error:
        raise UserError(f"cannot read {out}: {error.strerror}") from None
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(f"{out} is not empty (it holds {spelt(named)}); give a new folder")


if __name__ == "__main__":
    cli.run(main, Args)
