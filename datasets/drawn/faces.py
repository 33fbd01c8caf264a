"""Draws faces: a picture from a point (valence, arousal), a person and a scene.

The expression is determined by the point alone. Each of the eight classes has a Gaussian over valence and arousal, from
which points are drawn, so the true probability of each class at a point is known (`true_posterior`). The point sets the
movements of the face (`movements`); the person and the scene (light, pose, background, camera) are drawn independently.

Lengths on the face are in half face heights, x to the right and y down, with the centre of the head at 0. `View` turns
them into output pixels, `canvas.py` paints them. Left and right are those of the image.

`datasets.demo` uses `image_labels` and `draw_image`, the writers of official layouts use `faces`. Equal arguments give
equal pixels: all random numbers come from `keyed_rng` streams of the seed, the split and the image or person, those of
freckles and strands of hair from a generator whose seed is drawn from such a stream (`Person.seed`).
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.drawn.canvas import SIZE, clipped, draw_lines, ellipse, fill, mirrored, mix, smooth_curve, wavy
from support.random_streams import keyed_rng

CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
PER_PERSON = len(CLASSES)  # every person shows each class once
OVERSAMPLING = 2  # the face is drawn twice as large and then averaged
SIDES = (-1, 1)  # left and right in the image
UNIT = np.linspace(-1, 1, 25)  # along an eye or the mouth


# --- valence and arousal of the classes ---

# Means ordered as on Russell's circumplex; the spreads were chosen for a Bayes accuracy of 0.82.
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


def true_posterior(va: Any) -> np.ndarray:
    """The probability of each class at these points, all classes being equally frequent.

    va: float (N, 2), valence and arousal. Returns float64 (N, 8), rows sum to 1.
    """
    offset = np.asarray(va, np.float64).reshape(-1, 1, 2) - CLASS_MEANS
    distance = np.einsum("nki,kij,nkj->nk", offset, np.linalg.inv(CLASS_COVARIANCES), offset)
    logits = -0.5 * (distance + np.log(np.linalg.det(CLASS_COVARIANCES)))
    posterior = np.exp(logits - logits.max(1, keepdims=True))
    return posterior / posterior.sum(1, keepdims=True)


def draw_point(rng: np.random.Generator, label: int) -> np.ndarray:
    """A point (valence, arousal) of a class, float64 (2,). It is not clipped: it may lie a little outside [-1, 1]."""
    return CLASS_MEANS[label] + np.linalg.cholesky(CLASS_COVARIANCES[label]) @ rng.standard_normal(2)


# --- images of a split ---

class ImageLabels(NamedTuple):
    """What an image shows."""

    person: int
    """number of the person in the split"""
    label: int
    """index in CLASSES"""
    point: np.ndarray
    """valence and arousal, float64 (2,)"""


class Face(NamedTuple):
    """A drawn face, for the writers of official layouts."""

    image: np.ndarray
    """uint8 (224, 224, 3), RGB"""
    expression: str
    """one of CLASSES"""
    valence: float
    arousal: float
    identity: str


Faces = Callable[[str, int], Iterator[Face]]
"""(split, count) -> the first `count` faces of the split; `faces`, or a stand-in of a test"""


def image_labels(seed: int, split: str, index: int) -> ImageLabels:
    """Person, label and point of image `index` of a split. Every person shows each class once, in an order of their
    own."""
    person, place = divmod(index, PER_PERSON)
    order = keyed_rng("demo", seed, split, "order", person).permutation(len(CLASSES))
    label = int(order[place])
    return ImageLabels(person, label, draw_point(keyed_rng("demo", seed, split, "point", index), label))


def person_name(split: str, person: int) -> str:
    """The name of a person, for the column `identity`."""
    return f"{split}-person-{person:04d}"


def draw_image(seed: int, split: str, index: int) -> np.ndarray:
    """Image `index` of a split: uint8 (224, 224, 3), RGB."""
    labels = image_labels(seed, split, index)
    return draw_face(labels.point, keyed_rng("demo", seed, split, "identity", labels.person),
                     keyed_rng("demo", seed, split, "nuisance", index))


def faces(split: str, count: int) -> Iterator[Face]:
    """The first `count` faces of a split of seed 0, drawn one after the other."""
    for index in range(count):
        labels = image_labels(0, split, index)
        valence, arousal = labels.point
        yield Face(draw_image(0, split, index), CLASSES[labels.label], float(valence), float(arousal),
                   person_name(split, labels.person))


# --- movements of the face ---

class Movements(NamedTuple):
    """How far each part of the face is moved, 0 at rest and 1 fully; those with (+) and (-) go both ways."""

    corner: float
    """mouth corners up (+) or down (-)"""
    open: float
    """jaw"""
    wide: float
    """mouth stretched (+) or rounded (-)"""
    press: float
    """lips thinned"""
    sneer: float
    """upper lip raised"""
    teeth: float
    """teeth shown"""
    brow: float
    """brows up (+) or down (-)"""
    inner: float
    """inner ends of the brows up (+, sorrow) or down (-, anger)"""
    frown: float
    """brows drawn together"""
    lid: float
    """upper lids raised (+) or dropped (-)"""
    squint: float
    """lower lids and cheeks raised"""
    wrinkle: float
    """nose"""
    smirk: float
    """one mouth corner and one brow only"""


# The movements of each class at its mean. Between the means they are blended, so close points have similar faces.
CLASS_MOVEMENTS = np.array([
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
BLEND_WIDTH = 0.17  # in valence and arousal, about the spread of a class


def movements(va: Any) -> Movements:
    """The movements at a point (valence, arousal), a smooth function of it."""
    square_distance = ((np.asarray(va, np.float64) - CLASS_MEANS) ** 2).sum(1)
    weight = np.exp((square_distance.min() - square_distance) / (2 * BLEND_WIDTH**2))
    return Movements(*(weight @ CLASS_MOVEMENTS / weight.sum()))


# --- persons ---

SKIN = np.array([  # from the lightest to the darkest, RGB
    (252, 224, 203), (240, 206, 180), (226, 184, 150), (204, 156, 118),
    (172, 122, 86), (134, 90, 62), (98, 64, 46), (66, 44, 36),
], np.float64)
HAIR = np.array([
    (24, 20, 22), (46, 32, 26), (78, 52, 36), (112, 74, 46),
    (150, 82, 44), (202, 160, 96), (224, 198, 140), (168, 164, 162),
], np.float64)
IRIS = np.array([(62, 40, 26), (92, 60, 34), (122, 96, 56), (84, 116, 84), (88, 128, 160), (112, 124, 136)], np.float64)


class HairStyle(NamedTuple):
    """The form of the hair, in half face heights."""

    volume: float
    """how far it stands out from the head"""
    hairline: float
    """y of the hairline over the forehead"""
    slant: float
    """how much lower the hairline is on one side"""
    sides: float
    """y where the hair at the sides ends"""
    back: float | None
    """y where the hair at the back ends; None: not visible"""
    waves: float
    """amount of curls or spikes"""
    bun: float
    """radius of a bun, 0 for none"""


STYLES = {
    "shaved": HairStyle(0.015, -0.70, 0.00, -0.20, None, 0.000, 0.0),
    "short": HairStyle(0.09, -0.68, 0.05, -0.08, None, 0.012, 0.0),
    "parted": HairStyle(0.13, -0.66, 0.25, -0.05, None, 0.000, 0.0),
    "fringe": HairStyle(0.13, -0.50, 0.03, 0.10, 0.60, 0.000, 0.0),
    "bob": HairStyle(0.15, -0.60, 0.20, 0.62, 0.80, 0.000, 0.0),
    "long": HairStyle(0.15, -0.66, 0.16, 1.70, 1.80, 0.010, 0.0),
    "curly": HairStyle(0.24, -0.60, 0.04, 0.35, 0.70, 0.050, 0.0),
    "afro": HairStyle(0.42, -0.66, 0.00, 0.05, 0.30, 0.025, 0.0),
    "spiky": HairStyle(0.17, -0.66, 0.06, -0.10, None, 0.110, 0.0),
    "bun": HairStyle(0.06, -0.70, 0.00, -0.15, None, 0.000, 0.3),
}
BALD = HairStyle(0.0, -0.9, 0.0, 0.0, None, 0.0, 0.0)
BEARDED_STYLES = ("shaved", "short", "parted", "spiky", "bald", "curly", "afro")  # persons of these may have a beard


@dataclass(frozen=True)
class Person:
    """Who it is: proportions in half face heights, or as a factor where 1 is usual; colours are RGB, float64 (3,)."""

    skin: np.ndarray
    tone: float
    """of the skin, from 0 (lightest) to 1"""
    hair: np.ndarray
    iris: np.ndarray
    style: str
    """of the hair: a key of STYLES, or bald"""
    width: float
    """half the width of the head"""
    jaw: float
    chin: float
    neck: float
    ear: float
    eye_x: float
    """distance of an eye from the middle"""
    eye_y: float
    eye: float
    """half the width of an eye"""
    tilt: float
    """of the eyes"""
    brow: float
    """thickness of a brow"""
    brow_y: float
    """distance of a brow from its eye"""
    nose: float
    """half the width of the nose"""
    nose_y: float
    mouth: float
    """half the width of the mouth"""
    mouth_y: float
    lips: float
    """thickness"""
    lip_red: float
    lashes: float
    beard: int
    """0: none, 1: stubble, 2: moustache, 3: full beard"""
    glasses: bool
    rim: np.ndarray
    """colour of the glasses"""
    square: float
    """how square the glasses are; 2 is round"""
    freckles: bool
    forehead: float
    """how much lower the hairline is"""
    folds: float
    """depth of the folds of the skin, 0 to 1"""
    side: int
    """of SIDES: where the parting is and the smirk"""
    seed: int
    """of the strands of hair and the freckles"""


def draw_person(rng: np.random.Generator) -> Person:
    """A person at random. The order of the draws is a part of the drawing: every face depends on it."""
    tone = rng.uniform(0, len(SKIN) - 1)
    skin = mix(SKIN[int(tone)], SKIN[min(int(tone) + 1, len(SKIN) - 1)], tone % 1) * rng.uniform(0.98, 1.02, 3)
    has_dark_hair = tone > 3.5 and rng.random() < 0.8  # and dark eyes; fair hair on dark skin is rare, not absent
    hair = HAIR[rng.integers(3)] if has_dark_hair else HAIR[rng.integers(len(HAIR))]
    iris = IRIS[rng.integers(2)] if has_dark_hair else IRIS[rng.integers(len(IRIS))]
    style = rng.choice([*STYLES, "bald"])
    return Person(
        skin=np.clip(skin, 20, 252), tone=tone / (len(SKIN) - 1), hair=np.clip(hair * rng.uniform(0.85, 1.15), 8, 240),
        iris=iris, style=style, width=rng.uniform(0.70, 0.82), jaw=rng.uniform(0.80, 1.0), chin=rng.uniform(0.85, 1.25),
        neck=rng.uniform(0.36, 0.48), ear=rng.uniform(0.85, 1.15), eye_x=rng.uniform(0.31, 0.36),
        eye_y=rng.uniform(-0.12, -0.04), eye=rng.uniform(0.145, 0.175), tilt=rng.uniform(-0.03, 0.02),
        brow=rng.uniform(0.025, 0.06), brow_y=rng.uniform(0.20, 0.25), nose=rng.uniform(0.10, 0.16),
        nose_y=rng.uniform(0.24, 0.31), mouth=rng.uniform(0.23, 0.29), mouth_y=rng.uniform(0.54, 0.60),
        lips=rng.uniform(0.7, 1.35), lip_red=rng.uniform(0.15, 0.75), lashes=rng.uniform(0, 1),
        beard=rng.choice(4, p=[0.55, 0.2, 0.1, 0.15]) * (style in BEARDED_STYLES), glasses=rng.random() < 0.22,
        rim=rng.uniform(15, 110, 3), square=rng.uniform(2, 5), freckles=rng.random() < 0.2 and tone < 4,
        forehead=rng.uniform(-0.06, 0.04), folds=rng.uniform(0, 1), side=rng.choice(SIDES),
        seed=int(rng.integers(2**32)),
    )


# --- scenes ---

@dataclass(frozen=True)
class Scene:
    """How the picture was taken. Angles in radians, lengths in output pixels, factors where 1 is usual."""

    light: np.ndarray
    """direction of the light in the image plane, float64 (2,)"""
    strength: float
    """of the light from that side"""
    exposure: float
    warmth: float
    """of the light: red is raised and blue lowered by this fraction"""
    roll: float
    yaw: float
    pitch: float
    half_height: float
    """of the face"""
    x: float
    """of the centre of the head"""
    y: float
    gaze: float
    """where the eyes look, to the side; in half eye widths"""
    shirt: np.ndarray
    """RGB, float64 (3,)"""
    collar: float
    """y of the collar, in half face heights"""
    blur: float
    """standard deviation of the camera's blur"""
    noise: float
    """standard deviation of the sensor's noise, in grey levels"""


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene at random. The order of the draws is a part of the drawing."""
    angle = rng.uniform(-np.pi, 0) if rng.random() < 0.9 else rng.uniform(0, np.pi)  # light mostly from above
    return Scene(
        light=np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.1, 0.75), strength=rng.uniform(0.15, 0.55),
        exposure=rng.uniform(0.85, 1.1), warmth=rng.normal(0, 0.05), roll=rng.normal(0, 0.09), yaw=rng.normal(0, 0.16),
        pitch=rng.normal(0, 0.09), half_height=rng.uniform(76, 87), x=112 + rng.normal(0, 4),
        y=116 + rng.normal(0, 4), gaze=rng.normal(0, 0.10), shirt=rng.uniform(25, 235, 3),
        collar=rng.uniform(-0.05, 0.25), blur=max(0.0, rng.uniform(-0.4, 0.9)), noise=rng.uniform(0.3, 3.0))


# --- from face coordinates to the image ---

FACE_BULGE = np.array((0.8, 1.1)) ** -2.0  # the face is half of an egg 0.8 wide and 1.1 high


class View:
    """Turns face coordinates into output pixels: the pose of the head, seen from far away."""

    def __init__(self, scene: Scene, roll: float) -> None:
        """roll: the fraction of the head's roll that takes effect, 1 for the head and less for the body."""
        cy, sy = np.cos(scene.yaw), np.sin(scene.yaw)
        cp, sp = np.cos(scene.pitch), np.sin(scene.pitch)
        cr, sr = np.cos(scene.roll * roll), np.sin(scene.roll * roll)
        turn = np.array([[cy, 0.0, sy], [sp * sy, cp, -sp * cy]])  # yaw, then pitch; z points at the camera
        matrix = np.array([[cr, -sr], [sr, cr]]) @ turn * scene.half_height
        self.plane = matrix.T[:2].copy()
        self.depth = matrix[:, 2].copy()
        self.centre = np.array([scene.x, scene.y])

    def __call__(self, points: Any, z: Any = None) -> np.ndarray:
        """Points (..., 2) of the face in output pixels, float64 (..., 2).

        z: their depth, (...) or one number; None: on the face, which bulges towards the camera.
        """
        points = np.asarray(points, np.float64)
        if z is None:
            z = 0.5 * np.sqrt(np.maximum(0, 1 - (points * points) @ FACE_BULGE))
        return points @ self.plane + (np.multiply.outer(z, self.depth) + self.centre)


class Outlines:
    """The outlines that several parts of the face need, in face coordinates.

    head: float64 (n, 2), closed, the jaw dropped as far as the mouth is open. chin: the y of its lowest point.
    mouth: the upper and the lower edge of the opening, two arrays (25, 2) from the left corner to the right one.
    lips: the outer edges of the upper and of the lower lip, likewise.
    """

    def __init__(self, move: Movements, person: Person) -> None:
        w = person.width
        drop = 0.15 * move.open
        half = np.array([
            (0.0, -1.02), (0.52 * w, -0.91), (0.86 * w, -0.62), (w, -0.25), (0.99 * w, 0.1), (0.93 * w, 0.40),
            (0.78 * w * person.jaw, 0.70), (0.30 * person.chin, 0.96), (0.0, 1.01),
        ])
        half[:, 1] += drop * np.clip((half[:, 1] - 0.3) / 0.5, 0, 1)
        self.head = smooth_curve(mirrored(half), closed=True)
        self.chin = 1.01 + drop

        # Mouth curves over UNIT, from the left corner to the right one.
        arch = 1 - UNIT**2
        smile = move.corner + 1.3 * move.smirk * np.clip(UNIT * person.side, -0.1, 1)
        x = person.mouth * (1 + 0.45 * move.wide + 0.15 * move.corner * (move.corner > 0)) * UNIT
        x = x + 0.03 * move.smirk * person.side
        line = person.mouth_y - 0.115 * smile * (np.abs(UNIT) ** 1.7 - 0.35) - 0.03 * move.sneer
        upper = line - arch**0.7 * (0.045 * move.open + 0.075 * move.sneer)
        lower = line + arch**0.6 * (0.30 * move.open + 0.02 * move.sneer)
        thick = 0.062 * person.lips * (1 - 0.55 * move.press) * (1 - 0.25 * abs(move.wide))
        bow = np.sqrt(arch) * (1 - 0.28 * np.exp(-((UNIT / 0.16) ** 2)))
        self.mouth = np.stack([x, upper], 1), np.stack([x, lower], 1)
        self.lips = np.stack([x, upper - thick * bow], 1), np.stack([x, lower + 1.25 * thick * arch**0.7], 1)


# --- the face ---

def draw_face(va: Any, person_rng: np.random.Generator, nuisance_rng: np.random.Generator) -> np.ndarray:
    """Draw one face: uint8 (224, 224, 3), RGB.

    va: (valence, arousal); person_rng: of the person; nuisance_rng: of the scene. Equal arguments, the states of the
    generators included, give equal pixels.
    """
    move = movements(va)
    person = draw_person(person_rng)
    scene = draw_scene(nuisance_rng)
    head = View(scene, 1.0)
    body = View(scene, 0.3)
    outlines = Outlines(move, person)
    image = _background(nuisance_rng)
    _draw_behind(image, head, body, outlines, person, scene)
    _draw_skin(image, head, outlines, move, person, scene)
    _draw_nose(image, head, move, person)
    if person.beard:
        _draw_beard(image, head, outlines, person)
    _draw_mouth(image, head, outlines, move, person)
    for side in SIDES:
        _draw_eye(image, head, side, move, person, scene)
    if person.style != "bald":
        _draw_hair(image, head, person)
    for side in SIDES:
        _draw_brow(image, head, side, move, person)
    if person.glasses:
        _draw_glasses(image, head, person)
    return _photograph(image, scene, nuisance_rng)


def _draw_behind(image: np.ndarray, head: View, body: View, outlines: Outlines, person: Person, scene: Scene) -> None:
    """The hair at the back, the shoulders, the neck and the ears."""
    style = STYLES.get(person.style, BALD)
    volume, back = style.volume, style.back
    w, n = person.width, person.neck
    dark = person.hair * 0.72
    if style.bun:
        fill(image, head(ellipse(0, -1.12, style.bun, style.bun * 0.9), -0.2), dark)
    if back is not None:
        ends = [(w + volume, -0.1), (w + volume * 1.1, back * 0.6), (w + volume * 0.6, back), (0, back + 0.1)]
        half = np.array([(0, -1.0 - volume), (0.7 * w, -0.9 - volume * 0.7), *ends])
        fill(image, head(wavy(smooth_curve(mirrored(half), closed=True), style.waves), -0.2), dark)
    shoulders = np.array([(0, 1.18), (n * 1.15, 1.16), (0.95, 1.34), (1.35, 1.65), (1.4, 2.4), (0, 2.4)])
    fill(image, body(smooth_curve(mirrored(shoulders), closed=True), -0.1), scene.shirt)
    neck = np.array([(n, 0.3), (n, 1.0), (n * 1.3, 1.2), (0.5 * n, 1.36 + scene.collar), (0, 1.4 + scene.collar)])
    neck = body(smooth_curve(mirrored(neck), closed=True), -0.1)
    fill(image, neck, person.skin * 0.92)
    with clipped(image, neck) as patch:
        fill(patch, head(outlines.head * (0.95, 1) + (0, 0.11), 0), person.skin * 0.74)
    for side in SIDES:
        x, rx, ry = side * (w + 0.015), 0.10 * person.ear, 0.20 * person.ear
        fill(image, head(ellipse(x, 0.02, rx, ry), -0.05), person.skin * 0.93)
        fill(image, head(ellipse(x + side * 0.012, 0.01, rx * 0.55, ry * 0.62), -0.05), person.skin * 0.76)


def _draw_skin(image: np.ndarray, head: View, outlines: Outlines, move: Movements,
               person: Person, scene: Scene) -> None:
    """The bare face with its light and shade."""
    outline = head(outlines.head, 0)
    fill(image, outline, person.skin)
    soft = np.full((SIZE // 2, SIZE // 2, 3), 128, np.uint8)  # multiplied in at the end: 128 changes nothing
    with clipped(soft, outline) as patch:
        _model_skin(patch, head, outlines, move, person, scene)
    soft = cv2.resize(soft, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    cv2.multiply(image, soft, dst=image, scale=1 / 128)
    if person.freckles:
        rng = np.random.Generator(np.random.SFC64(person.seed))
        for x, y in rng.normal((0, 0.2), (0.28, 0.09), (36, 2)):
            fill(image, head(ellipse(x, y, 0.012, 0.012, 7)), mix(person.skin, (120, 60, 30), 0.35))


def _model_skin(soft: np.ndarray, head: View, outlines: Outlines, move: Movements,
                person: Person, scene: Scene) -> None:
    """Paint what gives a flat shape the relief of a face: eye sockets, cheeks, nose, chin, and the folds of movements.

    soft: a canvas that multiplies the face: 128 leaves it as it is, less darkens, more lightens.
    """
    shade, light, blush = np.array((106, 99, 96)), np.array((141, 141, 141)), np.array((133, 118, 117))
    lit = 1 if scene.light[0] > 0 else -1
    happy = max(move.corner, 0)
    w, nose, tip, mouth = person.width, person.nose, person.nose_y, person.mouth_y

    edge = np.array([(w, -0.9), (w, 1.1), (0.5, 1.05), (0.62, 0.5), (0.66, -0.2), (0.6, -0.7)])
    for side in SIDES:
        fill(soft, head(ellipse(side * person.eye_x, person.eye_y - 0.05, 0.21, 0.13)), mix(shade, 128, 0.35))
        fill(soft, head(ellipse(side * 0.42, 0.28 - 0.05 * move.squint, 0.17, 0.13)), blush + 6 * happy)
        fill(soft, head(edge * (side, 1), 0), mix(shade, 128, 0.75 if side == lit else 0.35))
    if person.style != "bald":  # the shadow of the hair on the forehead
        y = STYLES[person.style].hairline + person.forehead + 0.06
        brim = [(-w, -0.25), (-0.6 * w, y + 0.08), (0, y), (0.6 * w, y + 0.08), (w, -0.25), (w, -1.1), (-w, -1.1)]
        fill(soft, head(brim), mix(shade, 128, 0.1))
    fill(soft, head([(0, -0.1), (-lit * 0.06, -0.1), (-lit * nose, tip), (0, tip)]), mix(shade, 128, 0.2))
    ridge = np.array([(0.02, -0.2), (0.05, -0.2), (0.07, tip - 0.05), (0, tip - 0.05)])
    fill(soft, head(ridge * (lit, 1)), light)
    fill(soft, head(ellipse(0, tip + 0.08, nose * 0.9, 0.045)), shade)
    below = outlines.lips[1][12, 1] + 0.06
    fill(soft, head(ellipse(0, below, 0.14, 0.04)), shade)
    fill(soft, head(ellipse(0, below + 0.12, 0.13, 0.07)), light)

    # Beside the mouth, under the eyes, between the brows, across the forehead.
    folds = mix(128, shade * 0.86, min(1, 0.2 * person.folds + 0.8 * happy + 0.8 * move.sneer + 0.3 * move.wrinkle))
    bags = mix(128, shade, min(1, 0.3 * person.folds + 0.8 * move.squint))
    tug, bag_y = 0.06 * happy + 0.03 * move.wide, person.eye_y + 0.15 - 0.03 * move.squint
    fold = np.array([(nose + 0.02, tip - 0.02), (0.24 + tug, 0.40), (person.mouth + 0.07 + tug, mouth - 0.02)])
    bag = np.array([(person.eye_x - 0.15, bag_y - 0.05), (person.eye_x, bag_y), (person.eye_x + 0.15, bag_y - 0.05)])
    furrow = np.array([(0.05, person.eye_y - 0.26), (0.04, person.eye_y - 0.10)])
    for side in SIDES:
        draw_lines(soft, head(smooth_curve(fold * (side, 1))), folds, 3.0)
        draw_lines(soft, head(smooth_curve(bag * (side, 1))), bags, 2.5)
        draw_lines(soft, head(furrow * (side, 1)), mix(128, shade * 0.8, np.clip(move.frown, 0, 1)), 2.5)
    creases = np.array([[(-0.32, y + 0.02), (0, y - 0.01), (0.32, y + 0.02)] for y in (-0.46, -0.54, -0.62)])
    draw_lines(soft, head(smooth_curve(creases)), mix(128, shade, 0.7 * np.clip(move.brow, 0, 1)), 2.0)
    cv2.GaussianBlur(soft, (0, 0), 2.0, dst=soft)

    # Finer ones stay sharp: on the nose, at the mouth's corners.
    wrinkles = np.array([[(0.03, person.eye_y + y), (0.11, person.eye_y + y - 0.06)] for y in (0.03, 0.12)])
    tuck = np.array([(0.02, -0.035), (0.035, 0.0), (0.02, 0.03)])
    for side, end in zip(SIDES, (0, -1), strict=True):
        draw_lines(soft, head(wrinkles * (side, 1)), mix(128, shade * 0.6, np.clip(move.wrinkle, 0, 1)), 1.0)
        depth = np.clip(0.4 * move.corner + 0.9 * move.smirk * (side == person.side) + 0.4 * move.press, 0, 1)
        draw_lines(soft, head(outlines.mouth[0][end] + tuck * (side, 1)), mix(128, shade * 0.6, depth), 1.0)


def _draw_nose(image: np.ndarray, head: View, move: Movements, person: Person) -> None:
    """The nostrils and the edges of the nose."""
    y, n, dark = person.nose_y - 0.04 * move.wrinkle, person.nose * (1 + 0.12 * move.wrinkle), person.skin * 0.62
    for side in SIDES:
        fill(image, head(ellipse(side * n * 0.48, y + 0.035, n * 0.25, 0.022, 13)), person.skin * 0.42)
        wing = np.array([(n * 0.86, y - 0.07), (n * 1.08, y), (n * 0.80, y + 0.04)])
        draw_lines(image, head(smooth_curve(wing * (side, 1))), dark, 1.1)
    base = np.array([(-n * 0.5, y + 0.06), (0, y + 0.075), (n * 0.5, y + 0.06)])
    draw_lines(image, head(smooth_curve(base)), dark, 1.0)


def _draw_mouth(image: np.ndarray, head: View, outlines: Outlines, move: Movements, person: Person) -> None:
    """The lips, and between them the dark of the mouth, the tongue and the teeth."""
    (upper, lower), (above, below) = outlines.mouth, outlines.lips
    red = mix(person.skin * (0.84, 0.66, 0.64), (176, 60, 66), person.lip_red * (0.7 - 0.4 * person.tone))
    fill(image, head(np.concatenate([above, below[::-1]])), red)
    fill(image, head(np.concatenate([above, upper[::-1]])), red * 0.86)
    gap = lower[:, 1] - upper[:, 1]
    if gap.max() > 0.012:
        inner = head(np.concatenate([upper, lower[::-1]]))
        teeth, show = (240, 236, 226), np.clip(move.teeth, 0, 1)
        bare = np.clip(1.6 * move.teeth - 1.4 * max(move.corner, 0), 0, 1)  # the lower row too, but not in a smile
        with clipped(image, inner) as patch:
            fill(patch, inner, (58, 18, 22))
            fill(patch, head(ellipse(0, lower[12, 1] + 0.03, 0.15, 0.02 + 0.35 * gap.max())), (186, 84, 86))
            top = upper + np.stack([0 * UNIT, np.minimum(gap, 0.10) * show], 1)
            fill(patch, head(np.concatenate([upper, top[::-1]])), teeth)
            bottom = lower - np.stack([0 * UNIT, np.minimum(gap, 0.09) * 0.45 * bare], 1)
            fill(patch, head(np.concatenate([lower, bottom[::-1]])), teeth)
            high, deep = upper[:, 1].min(), upper[:, 1].min() + 0.07 * show + 0.03
            gaps = np.array([[(x, high), (x, deep)] for x in np.linspace(-0.24, 0.24, 9)])
            draw_lines(patch, head(gaps), (206, 198, 190), 0.5)
    draw_lines(image, head(upper), red * 0.5, 1.1)
    draw_lines(image, head(lower), red * 0.55, 0.8)
    shine = below[8:17] * (1, 0.45) + lower[8:17] * (0, 0.55)
    draw_lines(image, head(shine), mix(red, 255, 0.18), 1.4)


def _draw_eye(image: np.ndarray, head: View, side: int, move: Movements, person: Person, scene: Scene) -> None:
    """One eye with its lids."""
    w, x0, y0 = person.eye, person.eye_x, person.eye_y
    x, bulge = side * (x0 + w * UNIT), 1 - UNIT**2  # UNIT: -1 at the nose, 1 at the temple
    lid = 1 + 0.85 * move.lid - 0.30 * move.squint + 0.12 * move.smirk * (side == person.side)
    slant = y0 + (person.tilt + 0.025 * move.inner) * UNIT
    top = slant - w * 0.56 * max(lid, 0.15) * (1 - np.abs(UNIT + 0.1 * bulge) ** 2.3)
    low = slant + w * 0.40 * (1 - 0.75 * move.squint + 0.15 * move.lid) * bulge
    upper, lower = np.stack([x, np.minimum(top, low)], 1), np.stack([x, low], 1)
    crease = upper - np.stack([0 * x, 0.035 + 0.02 * bulge - 0.012 * move.lid], 1)
    draw_lines(image, head(crease[2:-1]), person.skin * 0.68, 1.0)

    shape = head(np.concatenate([upper, lower[::-1]]))
    cx, cy = side * x0 + w * scene.gaze, y0 - 0.01 + 0.05 * w * max(move.inner, 0)
    glint = 0.15 * w * (1 if scene.light[0] > 0 else -1)
    with clipped(image, shape) as patch:
        fill(patch, shape, (238, 236, 232))
        fill(patch, head(ellipse(cx, cy, w * 0.49, w * 0.49)), person.iris * 0.55)
        fill(patch, head(ellipse(cx, cy, w * 0.43, w * 0.43)), person.iris)
        fill(patch, head(ellipse(cx, cy + w * 0.12, w * 0.30, w * 0.26)), mix(person.iris, 255, 0.22))
        fill(patch, head(ellipse(cx, cy, w * 0.21, w * 0.21)), (14, 12, 14))
        draw_lines(patch, head(upper + (0, 0.012)), (150, 142, 142), 2.0)  # the lid's shadow
        fill(patch, head(ellipse(cx + glint, cy - w * 0.16, w * 0.10, w * 0.10)), (255, 255, 255))
    draw_lines(image, head(lower), person.skin * 0.6, 0.8)
    lash = mix(person.skin * 0.3, (18, 14, 14), 0.7)
    draw_lines(image, head(upper), lash, 1.5 + person.lashes)
    if person.lashes > 0.55:
        draw_lines(image, head([upper[-3], upper[-1], upper[-1] + (side * 0.035, -0.03)]), lash, 1.6)


def _draw_brow(image: np.ndarray, head: View, side: int, move: Movements, person: Person) -> None:
    """One brow."""
    t = np.linspace(0, 1, 15)  # from the inner to the outer end
    w = person.eye
    x = person.eye_x - 1.05 * w - 0.05 * move.frown + t * 2.25 * w
    raised = move.brow + 0.9 * move.smirk * (side == person.side)
    arch = np.sin(np.pi * np.clip(t * 1.1, 0, 1))
    y = person.eye_y - person.brow_y - 0.11 * raised - 0.05 * arch * (1 + 0.5 * move.brow)
    y = y - 0.12 * move.inner * (1 - t) ** 1.3 + 0.04 * move.inner * t + 0.02 * t
    half = person.brow * np.where(t < 0.15, 0.7 + 2 * t, 1.0 - 0.85 * (t - 0.15)) * 0.75
    edge = np.concatenate([np.stack([side * x, y - half], 1), np.stack([side * x, y + half], 1)[::-1]])
    colour = person.hair if person.style != "bald" else HAIR[1]
    fill(image, head(edge), mix(np.minimum(colour, person.skin * 0.6) * 0.8, person.skin, 0.12))


def _draw_hair(image: np.ndarray, head: View, person: Person) -> None:
    """The hair in front: from ear to ear over the top, and back along the hairline; then strands between the two."""
    style = STYLES[person.style]
    volume, ends = style.volume, style.sides
    height = style.hairline + person.forehead
    w = person.width
    reach = w + 0.02 + volume * 0.75
    angle = np.linspace(-np.pi / 2, np.pi / 2, 41)
    arc = np.stack([reach * np.sin(angle), -0.25 - (0.79 + volume) * np.cos(angle)], 1)
    arc = wavy(arc, style.waves, spikes=person.style == "spiky")
    tail = np.array([(reach, ends * 0.5 - 0.12), (w + 0.02 + volume * 0.5, ends)])
    outside = np.concatenate([(tail * (-1, 1))[::-1], arc, tail])

    half = [(0.94 * w, min(ends, 0.2) * 0.5 - 0.25), (0.86 * w, -0.42), (0.62 * w, height + 0.08), (0.3 * w, height)]
    if ends >= 0.3:  # locks in front of the ears
        half = [(0.92 * w, ends * 0.55), *half]
    half = np.array([(w - 0.02, ends), *half, (0, height - 0.02)])
    hairline = smooth_curve(np.concatenate([half, half[-2::-1] * (-1, 1)]))
    # The slant lowers the hairline on one side of the forehead: a parting.
    hairline[:, 1] += person.side * style.slant * hairline[:, 0] * np.clip(-hairline[:, 1] - 0.3, 0, 0.3) / 0.3
    shape = np.concatenate([head(outside, 0), head(hairline)])

    fill(image, shape, person.hair)
    rng = np.random.Generator(np.random.SFC64(person.seed))
    top = head(arc * 0.99, 0)
    front = head(hairline[np.linspace(len(hairline) - 9, 8, len(arc)).astype(int)])
    middle = (top + front) / 2 + (3 * person.side, -3)
    strands = smooth_curve(np.stack([top, middle, front], 1))[rng.permutation(len(arc))]
    for k, (tone, width) in enumerate([(0.8, 1.5), (0.9, 1.0), (1.12, 1.0), (1.25, 0.5)]):
        draw_lines(image, strands[k::4], person.hair * tone, width)


def _draw_beard(image: np.ndarray, head: View, outlines: Outlines, person: Person) -> None:
    """Stubble, a moustache or a full beard, as `Person.beard` says."""
    colour = mix(person.hair, person.skin, 0.62 if person.beard == 1 else 0.08)
    w = person.width
    above = outlines.lips[0]
    if person.beard != 2:
        jaw = outlines.head[outlines.head[:, 1] > 0.12] * (0.985, 0.995)
        jaw = jaw[np.argsort(-np.arctan2(jaw[:, 1] - 0.1, jaw[:, 0]))]  # from the left ear by the chin to the right one
        cheek = np.array([(0.94 * w, 0.12), (0.80 * w, 0.36), (0.5 * w, 0.52), (0.32, person.mouth_y - 0.1)])
        top = np.concatenate([cheek, [(0, person.mouth_y - 0.13)], (cheek * (-1, 1))[::-1]])
        shape = np.concatenate([head(jaw, 0), head(smooth_curve(top))])
        with clipped(image, shape, 0.85 if person.beard == 3 else 0.4) as patch:
            fill(patch, shape, colour)
    if person.beard != 1:
        top = above * (1.12, 1) - np.stack([0 * UNIT, 0.065 * (1 - UNIT**2) ** 0.4], 1)
        fill(image, head(np.concatenate([top, above[::-1] + (0, 0.01)])), colour)


def _draw_glasses(image: np.ndarray, head: View, person: Person) -> None:
    """The glasses: rims, lenses, bridge and arms."""
    w, y, front = person.eye * 1.55, person.eye_y + 0.02, 0.5
    ring = ellipse(0, 0, 1, 1, 40)
    ring = np.sign(ring) * np.abs(ring) ** (2 / person.square) * (w, 0.82 * w)
    for side in SIDES:
        lens = head(ring + (side * (person.eye_x + 0.01), y), front)
        with clipped(image, lens, 0.10) as patch:
            fill(patch, lens, (235, 240, 250))
        draw_lines(image, np.concatenate([lens, lens[:1]]), person.rim, 2.0)
        arm = np.array([(person.eye_x + w + 0.01, y - 0.05), (person.width + 0.01, y - 0.06)]) * (side, 1)
        draw_lines(image, head(arm, np.array((front, 0.0))), person.rim, 1.8)
    inner = person.eye_x - w
    bridge = np.array([(-inner, y - 0.02), (0, y - 0.06), (inner, y - 0.02)])
    draw_lines(image, head(smooth_curve(bridge), front), person.rim, 2.0)


# --- background and camera ---

def _background(rng: np.random.Generator) -> np.ndarray:
    """A random background: two colours with a gradient between them, and soft blobs. uint8 (448, 448, 3)."""
    colours = mix(rng.uniform(30, 235, (9, 3)), rng.uniform(60, 215, (9, 1)), rng.uniform(0.2, 0.9))  # rarely garish
    grid = np.linspace(-0.5, 0.5, 56)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + np.cos(angle) * grid[None, :, None] + np.sin(angle) * grid[:, None, None]
    small = mix(colours[0], colours[1], np.clip(ramp, 0, 1)).astype(np.uint8)
    for colour in colours[2 : rng.integers(2, 10)]:
        x, y, radius = rng.uniform((0, 0, 64), (896, 896, 256)).astype(int).tolist()
        cv2.circle(small, (x, y), radius, colour.tolist(), -1, cv2.LINE_AA, 4)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(1.2, 6.0))
    return cv2.resize(small, (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), interpolation=cv2.INTER_LINEAR)


def _photograph(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Take the picture of a drawing: light from one side, camera blur, sensor noise, exposure.

    image: the large drawing, uint8 (448, 448, 3). Returns uint8 (224, 224, 3).
    """
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    if scene.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur)
    grid = np.arange(2, SIZE, 4)  # light changes slowly: every fourth pixel is enough
    x = (grid[None, :] - scene.x) / (0.95 * scene.half_height)
    y = (grid[:, None] - scene.y) / (1.25 * scene.half_height)
    square = x * x + y * y
    z = np.exp(-square / 1.2)  # the head as an egg that flattens into the background, so that no edge shows
    lambert = (x * scene.light[0] + y * scene.light[1] + z * 0.8) / np.sqrt(square + z * z)
    gain = scene.exposure * (1 + scene.strength * (lambert - 0.75))[:, :, None]
    gain = (gain * (1 + scene.warmth, 1, 1 - scene.warmth)).astype(np.float32)
    lit = cv2.multiply(image, cv2.resize(gain, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), dtype=cv2.CV_32F)
    noise = rng.standard_normal((SIZE, SIZE), np.float32) * np.float32(scene.noise)
    return cv2.add(lit, cv2.merge([noise] * 3), dtype=cv2.CV_8U)  # rounds and clips
