"""Perturbation sequences against the published operations (torchvision, OpenCV, scipy), a worked example, and
what they must never do.
"""
import functools
import io
import itertools
import json
import math
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import ndimage
from torchvision.transforms import InterpolationMode, functional

import corruptions
import perturbations
import reference
from perturbations import (
    BORDERS, EXTRA, PERTURBATIONS, TEST_SET, constants, frames, is_noise, number_of_frames, side_with_margin,
    source_resolution, tilt_matrix)
from support.errors import UserError

ALL = [(preset, name) for preset, names in PERTURBATIONS.items() for name in names]
GEOMETRY = ["translate", "rotate", "tilt", "scale", "shear", "zoom_blur",
            "p_translate", "p_rotate", "p_scale", "p_shear"]


def stream(key=0):
    return np.random.Generator(np.random.SFC64(key))


@functools.cache
def photo(size=64, seed=0):
    """Gradients, texture and edges; no pixel is black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    planes = []
    for _ in range(3):
        smooth = 130 + 60 * np.sin(3 * x + rng.uniform(0, 6)) + 40 * np.cos(4 * y + rng.uniform(0, 6))
        planes.append(smooth + 15 * ndimage.gaussian_filter(rng.standard_normal((size, size)), 1) / .28)
    image = np.clip(np.stack(planes, -1) + 30 * ((20 * x).astype(int) % 5 == 0)[..., None], 1, 255).astype(np.uint8)
    image.setflags(write=False)
    return image


def sequence(image, name, key=0, **options):
    preset = "rafdb-p" if name.startswith("p_") else "imagenet-p"
    return list(frames(image, name, stream(key), preset, **options))


def assert_close(result, expected, mean=.01):
    """Equal up to one grey level, which few pixels may differ by."""
    difference = np.abs(np.asarray(result, int) - np.asarray(expected, int))
    assert difference.max() <= 1 and difference.mean() <= mean


def truncated(x):
    """x, float64 on the scale of 0 to 1, as grey levels."""
    return reference.levels(x)


# --- names and counts ---


def test_names():
    assert TEST_SET["imagenet-p"] == ("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow", "brightness",
                                      "translate", "rotate", "tilt", "scale")
    assert EXTRA["imagenet-p"] == ("speckle_noise", "gaussian_blur", "spatter", "shear")
    assert PERTURBATIONS["rafdb-p"] == (
        "p_gaussian_noise", "p_shot_noise", "p_gaussian_blur", "p_motion_blur", "p_spatter", "p_brightness",
        "p_translate", "p_rotate", "p_scale", "p_shear")
    assert set(perturbations._FUNCTIONS) == {name for _, name in ALL}
    noise = [name for _, name in ALL if is_noise(name)]
    assert noise == ["gaussian_noise", "shot_noise", "speckle_noise", "p_gaussian_noise", "p_shot_noise"]


@pytest.mark.parametrize(("preset", "name"), ALL)
def test_number_of_frames(preset, name):
    for resolution in (224, 64, 32):
        expected = 30 if preset == "rafdb-p" else 31
        if name == "translate":
            expected = {224: 41, 64: 31, 32: 16}[resolution]
        if (name, resolution) == ("motion_blur", 32):
            expected = 21
        assert number_of_frames(name, preset, resolution) == expected
        assert len(list(frames(photo(32), name, stream(), preset, resolution))) == expected


def test_source_resolution():
    assert [source_resolution(size) for size in (224, 64, 32)] == [224, 64, 32]
    assert [source_resolution(size) for size in (16, 45, 46, 48, 100, 119, 120, 512)] == [
        32, 32, 64, 64, 64, 64, 224, 224]
    assert constants("imagenet-p", 48) == constants("imagenet-p", 64) != constants("imagenet-p", 32)
    assert constants("rafdb-p", 48) == constants("rafdb-p", 224)


def test_side_with_margin_is_the_published_one_and_gives_the_frame():
    assert side_with_margin(224) == 256 and side_with_margin(100, "rafdb-p") == 130
    for preset in PERTURBATIONS:
        for size in range(16, 513):
            scene = perturbations._scene(np.empty((side_with_margin(size, preset), 0)), preset, "margin")
            assert scene.size == size and side_with_margin(size, preset) == size + 2 * scene.margin


def test_constants_are_fit_for_a_manifest():
    for preset, resolution in itertools.product(PERTURBATIONS, (224, 64, 32)):
        read = json.loads(json.dumps(constants(preset, resolution)))
        assert list(read) == list(PERTURBATIONS[preset])
        image = photo(32)
        for name, arguments in read.items() if resolution == 64 else ():
            made = list(perturbations.apply(image, name, stream(1), arguments, preset))
            assert np.array_equal(made, list(frames(image, name, stream(1), preset, resolution)))


# --- known answers ---


def test_brightness_known_answers():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:6], image[6:11], image[11:] = (200, 100, 50), (10, 10, 10), 255
    for name in ("brightness", "p_brightness"):
        made = [frame[[0, 6, 11], 0].astype(int) for frame in sequence(image, name)]
        assert np.abs(made[0] - [(123, 61, 30), (0, 0, 0), (178, 178, 178)]).max() <= 1
        assert np.array_equal(made[15], [(200, 100, 50), (10, 10, 10), (255, 255, 255)])
    last = sequence(image, "brightness")[30][[0, 6, 11], 0].astype(int)
    assert np.abs(last - [(255, 127, 63), (86, 86, 86), (255, 255, 255)]).max() <= 1
    small = sequence(image, "brightness", resolution=32)  # 1.5 percent a frame
    assert np.array_equal(small[30], sequence(image, "brightness")[15 + 11]) is False
    assert small[0][11, 0, 0] == int(255 * (1 - .225))


def test_tilt_known_answers():
    known = {-15: [[.74212, -.07739, 23.65951], [-.1314, .73948, 30.90328], [-.00058, -.0006, 1]],
             0: [[.99725, 0, .35258], [0, .99725, .35258], [0, 0, 1]],
             15: [[1.28156, .11123, -22.60165], [.02601, 1.28535, -12.16847], [.00084, .00087, 1]]}
    for degrees, expected in known.items():
        assert np.allclose(tilt_matrix(degrees, 256), expected, rtol=0, atol=6e-6)


@pytest.mark.parametrize("resolution", [224, 64, 32])
def test_tilt_is_the_published_warp(resolution):
    picture = photo(256, 3)
    degrees = .75 if resolution == 32 else 1
    for i, frame in enumerate(sequence(picture, "tilt", resolution=resolution, border="margin")):
        if i % 5 == 0:
            warped = cv2.warpPerspective(picture, tilt_matrix((i - 15) * degrees, 256), (256, 256))[16:240, 16:240]
            assert_close(frame, warped)
    tight = photo(64)  # at 64 and 32 pixels the published code tilts the frame itself
    warped = cv2.warpPerspective(tight, tilt_matrix(-15 * degrees, 64 if resolution != 224 else 74), (74, 74))
    if resolution != 224:
        assert_close(sequence(tight, "tilt", resolution=resolution, border="zero")[0], warped[:64, :64])


def test_ends_of_the_sequences():
    """First and last constant, computed from the table as the functions do."""
    def ends(name, preset="imagenet-p", resolution=224):
        row = constants(preset, resolution)[name]
        last = row["count"] - 1
        if "middle" in row:
            return -row["middle"] * row["step"], (last - row["middle"]) * row["step"]
        return row["first"], row["first"] + last * row["step"]

    for resolution, expected in ((224, (-120, 0)), (64, (-150, 0)), (32, (-180, 0))):
        assert ends("motion_blur", resolution=resolution) == expected
    for resolution, expected in ((224, (.25, 1.3)), (64, (.35, .77)), (32, (.3, .75))):
        assert ends("gaussian_blur", resolution=resolution) == pytest.approx(expected)
    assert ends("scale") == (40, 115) and ends("scale", resolution=32) == (70, 130)
    assert ends("translate") == (-20, 20) and ends("translate", resolution=64) == (-15, 15)
    assert ends("translate", resolution=32) == (-7, 8)
    assert ends("rotate") == ends("shear") == ends("tilt") == (-15, 15)
    assert ends("tilt", resolution=32) == (-11.25, 11.25)
    assert ends("snow") == (-150, -30) and ends("brightness") == (-30, 30)
    assert ends("brightness", resolution=32) == (-22.5, 22.5)
    assert 1 + constants("imagenet-p")["zoom_blur"]["step"] == 1.004 and 1 + 30 * .004 == pytest.approx(1.12)
    assert ends("p_gaussian_blur", "rafdb-p") == pytest.approx((.25, 1.265))
    assert ends("p_motion_blur", "rafdb-p") == (-120, -4) and ends("p_brightness", "rafdb-p") == (-30, 28)
    assert ends("p_rotate", "rafdb-p") == (-15, 14) and ends("p_shear", "rafdb-p") == pytest.approx((-.15, .14))
    assert ends("p_translate", "rafdb-p") == (15, -14)  # to the right; the published window moves from 0 to 29


IDENTITY = {"gaussian_noise": 0, "shot_noise": 0, "speckle_noise": 0, "zoom_blur": 0, "brightness": 15, "translate": 20,
            "rotate": 15, "shear": 15, "scale": 24, "p_gaussian_noise": 0, "p_shot_noise": 0, "p_brightness": 15,
            "p_translate": 15, "p_rotate": 15, "p_shear": 15}


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_frames(name):
    preset = "rafdb-p" if name.startswith("p_") else "imagenet-p"
    for size in (48, 65):
        for border in ("reflect", "zero"):
            assert np.array_equal(sequence(photo(size), name, border=border)[IDENTITY[name]], photo(size))
        large = photo(side_with_margin(size, preset))
        first = (len(large) - size) // 2
        made = sequence(large, name, border="margin")[IDENTITY[name]]
        assert np.array_equal(made, large[first:first + size, first:first + size])
    if name in ("translate", "scale"):
        assert np.array_equal(sequence(photo(), name, resolution=32)[{"translate": 7, "scale": 15}[name]], photo())


# --- directions and parity ---


def affine(picture, angle=0., right=0, scale=1., shear=0., size=112, bilinear=True):
    """The published operation of ImageNet-P: torchvision's affine of the larger picture, and its centre."""
    mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.NEAREST
    moved = functional.affine(Image.fromarray(picture), angle, (right, 0), scale, (shear, 0.), mode)
    return np.array(functional.center_crop(moved, [size, size]))


def assert_rounded(result, expected):
    """Pillow truncates where ours is rounded. Left out is the edge of black areas: Pillow ends and OpenCV fades."""
    is_filled = ndimage.binary_erosion(((expected > 0) & (result > 0)).all(-1), np.ones((5, 5)))
    assert is_filled.mean() > .1
    assert set(np.unique(result[is_filled].astype(int) - expected[is_filled])) <= {0, 1}
    is_black = ndimage.binary_erosion((expected == 0).all(-1), np.ones((5, 5)))
    assert (result[is_black] == 0).all()


@pytest.mark.parametrize("name", ["rotate", "shear", "scale", "translate"])
def test_geometry_of_imagenet_p_is_torchvisions(name):
    picture = photo(128, 1)
    made = sequence(picture, name, border="margin")
    for i in (0, 4, 15, 20, len(made) - 1):
        options = {"rotate": {"angle": i - 15.}, "shear": {"shear": i - 15.}, "scale": {"scale": (2.5 * i + 40) / 100},
                   "translate": {"right": i - 20, "bilinear": False}}[name]
        if name == "translate":
            assert np.array_equal(made[i], affine(picture, **options))
        else:
            assert_rounded(made[i], affine(picture, **options))


def test_zoom_blur_is_the_running_mean():
    picture = photo(128, 2)
    made = sequence(picture, "zoom_blur", border="margin")
    total = picture[8:120, 8:120] / 255
    for i in range(1, 31):
        total = total + affine(picture, scale=1 + .004 * i) / 255
        if i in (1, 7, 30):
            assert_close(made[i], truncated(total / (i + 1)), .5)
    means = np.array([frame.astype(float) for frame in made])
    assert np.abs(np.diff(means, axis=0)).mean((1, 2, 3))[20:].max() < 1  # it settles down


def test_rotate_turns_clockwise_and_p_rotate_the_other_way():
    image = np.zeros((101, 101, 3), np.uint8)
    image[8:12, 48:53] = 255  # above the centre
    for name, sign in (("rotate", 1), ("p_rotate", -1)):
        first, last = (cv2.moments(sequence(image, name, border="zero")[i][..., 0]) for i in (0, -1))
        angles = [math.degrees(math.atan2(m["m10"] / m["m00"] - 50, 50 - m["m01"] / m["m00"])) for m in (first, last)]
        assert angles == pytest.approx([-15 * sign, (15 if name == "rotate" else 14) * sign], abs=1)


def test_p_rotate_is_the_published_warp():
    picture = photo(130, 4)
    made = sequence(picture, "p_rotate", border="margin")
    for i in (0, 7, 15, 29):
        warped = cv2.warpAffine(picture, cv2.getRotationMatrix2D((65, 65), i - 15, 1.), (115, 115))[15:, 15:]
        assert_close(made[i], warped)
    white = np.full((130, 130, 3), 255, np.uint8)
    assert np.min(sequence(white, "p_rotate", border="margin")) == 255  # the margin is wide enough


def test_p_shear_is_the_published_warp_about_the_corner():
    picture = photo(130, 5)
    made = sequence(picture, "p_shear", border="margin")
    white = sequence(np.full((130, 130, 3), 255, np.uint8), "p_shear", border="margin")
    for i in (0, 7, 15, 29):
        slope = .01 * (i - 15)
        warped = cv2.warpAffine(picture, np.array([[1, slope, 0], [slope, 1, 0]]), (115, 115))[15:, 15:]
        assert_close(made[i], warped)
    assert max((frame < 255).any(-1).mean() for frame in white) == pytest.approx(.018, abs=.002)
    assert min((frame < 255).any(-1).mean() for frame in white) == 0
    dot = np.zeros((130, 130, 3), np.uint8)
    dot[64:67, 64:67] = 255
    drift = []
    for frame in sequence(dot, "p_shear", border="margin"):
        moments = cv2.moments(frame[..., 0])
        drift.append((15 + moments["m10"] / moments["m00"], 15 + moments["m01"] / moments["m00"]))
    assert np.allclose([drift[0], drift[15], drift[29]], [(55.25, 55.25), (65, 65), (74.1, 74.1)], atol=.1)


def test_p_scale_is_the_published_window():
    picture = photo(130, 6)
    made = sequence(picture, "p_scale", border="margin")
    sides = [int(130 - 1.7 * 30 * (i / 30)) for i in range(30)]
    assert sides[:5] == [130, 128, 126, 124, 123] and sides[-2:] == [82, 80]
    for side, frame in zip(sides, made, strict=True):
        first = (130 - side) // 2
        window = picture[first:first + side, first:first + side]
        assert np.array_equal(frame, cv2.resize(window, (100, 100)))


def test_p_translate_is_the_published_window():
    picture = photo(130, 7)
    for i, frame in enumerate(sequence(picture, "p_translate", border="margin")):
        assert np.array_equal(frame, picture[15:115, i:i + 100])


@pytest.mark.parametrize(("name", "resolution", "reach", "sigma", "step"), [
    ("motion_blur", 224, 10, 3, 4), ("motion_blur", 64, 14, 3, 5), ("motion_blur", 32, 6, 1.8, 9),
    ("p_motion_blur", 224, 10, 3, 4)])
def test_motion_blur_turns(name, resolution, reach, sigma, step):
    image = photo(48)
    made = sequence(image, name, resolution=resolution)
    middle = 20 if resolution == 32 else 30
    for i in (0, len(made) // 2, len(made) - 1):
        exact = reference.smeared(image / 255, (i - middle) * step, reach, sigma)
        assert_close(made[i], truncated(exact))


@pytest.mark.slow  # test_corruptions.py has the same comparison of another kernel
def test_motion_blur_is_imagemagicks():
    try:
        from wand.image import Image as WandImage
    except ImportError:
        pytest.skip("the MagickWand library is not installed (apt-get install libmagickwand-dev)")
    image = photo(224)
    for i, frame in enumerate(sequence(image, "motion_blur")):
        with WandImage.from_array(image) as magick:
            magick.motion_blur(radius=10, sigma=3, angle=(i - 30) * 4)
            exact = np.array(Image.open(io.BytesIO(magick.make_blob("PNG"))).convert("RGB"))
        assert_close(frame, exact)


@pytest.mark.parametrize(("name", "resolution", "truncate"), [
    ("gaussian_blur", 224, 6), ("gaussian_blur", 64, 7), ("gaussian_blur", 32, 7), ("p_gaussian_blur", 224, 6)])
def test_gaussian_blur_is_scipys(name, resolution, truncate):
    image = photo(48)
    first, step = {224: (.25, .035), 64: (.35, .014), 32: (.3, .015)}[resolution]
    for i, frame in enumerate(sequence(image, name, resolution=resolution)):
        if i % 7 == 0:
            sigma = first + step * i
            exact = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", truncate=truncate)
            assert_close(frame, truncated(exact), .03)


@pytest.mark.parametrize(("resolution", "loc", "sd", "zoom", "reach", "sigma"), [
    (224, .05, .3, 3, 14, 4), (64, .05, .28, 2, 10, 2.5), (32, .05, .3, 2, 10, 2)])
def test_snow_keeps_its_flakes_and_turns_their_fall(resolution, loc, sd, zoom, reach, sigma):
    image, x = photo(64), photo(64) / 255
    made = sequence(image, "snow", key=3, resolution=resolution)
    flakes = reference.zoomed(loc + sd * reference.normals(stream(3), 64, 64), zoom)
    flakes[flakes < .5] = 0
    white = np.maximum(x, 1.5 * (x @ [.299, .587, .114])[..., None] + .5)
    for i in (0, 13, 30):
        layer = truncated(reference.smeared(truncated(flakes) / 255, 4 * i - 150, reach, sigma))[..., None] / 255
        assert_close(made[i], truncated(.85 * x + .15 * white + layer + np.rot90(layer, 2)))


@pytest.mark.parametrize(("name", "resolution"), [
    ("spatter", 224), ("spatter", 64), ("spatter", 32), ("p_spatter", 224)])
def test_drops_of_spatter_accumulate(name, resolution, monkeypatch):
    """The layers that are drawn, against float64 and np.convolve of every column."""
    layers = []

    def draw(image, liquid, strength):
        layers.append(liquid)
        assert strength == .6
        return image

    monkeypatch.setattr(corruptions, "with_water", draw)
    sequence(photo(96), name, key=1, resolution=resolution)
    loc, sd, sigma, threshold = {224: (.65, .27, 3.7, .69), 64: (.6, .25, 1.75, .7),
                                 32: (.6, .265, 1.75, .7)}[resolution]
    fall = [.05, .1, .15, .7] if resolution == 224 else [.2, .8]
    drops = ndimage.gaussian_filter(loc + sd * reference.normals(stream(1), 96, 96), sigma, mode="nearest")
    drops[drops < threshold] = 0
    assert (drops > 0).any()
    for layer in layers:
        assert_close(layer, (drops * 255).astype(np.uint8))
        drops = np.apply_along_axis(lambda column: np.convolve(column, fall, mode="same"), 0, drops)


@pytest.mark.parametrize(("resolution", "speed"), [(224, -.05 + .15 + 2 * .7), (64, .8)])
def test_drops_of_spatter_run_down(resolution, speed, monkeypatch):
    drop = np.zeros((96, 96), np.float32)
    drop[20:30, 40:50] = .9
    layers = []
    monkeypatch.setattr(corruptions, "liquid_layer", lambda *constants: drop)
    monkeypatch.setattr(corruptions, "with_water", lambda image, liquid, strength: layers.append(liquid) or image)
    sequence(photo(96), "spatter", resolution=resolution)
    centres = [np.average(np.arange(96), weights=layer.sum(1)) for layer in layers[:20]]
    assert np.diff(centres) == pytest.approx(speed, abs=.05)
    assert (layers[19] == 229).sum() < (layers[0] == 229).sum()  # they become thinner


def test_spatter_draws_water():
    image = photo(64)
    made = sequence(image, "spatter", key=2)
    for frame in made:
        change = frame.astype(int) - image
        assert change.min() >= -1 and change.max() > 5  # water adds light
        assert (change[..., 2] >= change[..., 0] - 1)[frame.max(-1) < 255].all()  # pale turquoise in RGB
    dry = dict(constants("imagenet-p")["spatter"], threshold=2.)
    for frame in perturbations.apply(image, "spatter", stream(), dry):
        assert np.array_equal(frame, image)


# --- noise ---


@pytest.mark.parametrize(("name", "resolution", "expected"), [
    ("gaussian_noise", 224, (.03, .05, .08)), ("gaussian_noise", 64, (.025, .05, .075)),
    ("gaussian_noise", 32, (.02, .04, .06)), ("speckle_noise", 224, (.05, .1, .15)),
    ("speckle_noise", 64, (.05, .1, .15)), ("speckle_noise", 32, (.05, .07, .1)),
    ("shot_noise", 224, (300, 120, 60)), ("shot_noise", 64, (500, 250, 125)), ("shot_noise", 32, (700, 400, 200))])
def test_noise_has_its_strength_at_every_difficulty(name, resolution, expected):
    grey = np.full((48, 48, 3), 128, np.uint8)
    for difficulty, constant in enumerate(expected, 1):
        made = np.array(sequence(grey, name, resolution=resolution, difficulty=difficulty)[1:8], float)
        spread = {"gaussian_noise": constant, "speckle_noise": constant * 128 / 255,
                  "shot_noise": math.sqrt(128 / 255 / constant)}[name] * 255
        assert made.std() == pytest.approx(spread, rel=.06)
        assert made.mean() == pytest.approx(127.5, abs=.4)
        assert abs(np.corrcoef(made[0].ravel(), made[1].ravel())[0, 1]) < .05  # independent from frame to frame


def test_noise_of_rafdb_p_has_one_strength():
    grey = np.full((48, 48, 3), 128, np.uint8)
    made = np.array(sequence(grey, "p_gaussian_noise")[1:6], float)
    assert made.std() == pytest.approx(.12 * 255, rel=.03)
    made = np.array(sequence(grey, "p_shot_noise")[1:6], float)
    assert made.std() == pytest.approx(255 * math.sqrt(128 / 255 / 29), rel=.06)
    for name in ("p_gaussian_noise", "p_shot_noise"):
        with pytest.raises(ValueError, match="one difficulty"):
            frames(grey, name, stream(), "rafdb-p", difficulty=2)


def test_difficulty_changes_noise_only():
    image = photo(48)
    for preset, name in ALL:
        if not is_noise(name):
            hard = list(frames(image, name, stream(), preset, difficulty=3))
            assert np.array_equal(hard, list(frames(image, name, stream(), preset)))


# --- borders ---


@pytest.mark.parametrize("name", GEOMETRY)
def test_reflect_has_no_black_and_zero_has(name):
    white = np.full((64, 64, 3), 255, np.uint8)
    assert np.min(sequence(white, name, border="reflect")) == 255
    darkest = np.min(sequence(white, name, border="zero"))
    assert darkest == 255 if name == "zoom_blur" else darkest == 0
    if name == "translate":
        shifted = sequence(photo(64), name, border="reflect")[40]
        assert np.array_equal(shifted[:, 20:], photo(64)[:, :44])
        assert np.array_equal(shifted[:, :20], photo(64)[:, 20:0:-1])


def test_margin_beyond_the_picture_is_black_as_published():
    white = np.full((256, 256, 3), 255, np.uint8)
    made = sequence(white, "translate", border="margin")
    assert (made[0][:, 220:] == 0).all() and (made[0][:, :220] == 255).all()  # 20 pixels of which 16 are margin
    assert np.min(made[4:37]) == 255
    for name in PERTURBATIONS["imagenet-p"]:
        if name not in GEOMETRY:  # made of the frame; the margin has no influence
            picture = photo(64).copy()
            inside = sequence(np.ascontiguousarray(picture[4:60, 4:60]), name)
            picture[:4] = 0
            assert np.array_equal(sequence(picture, name, border="margin"), inside)


def test_blurs_of_rafdb_p_see_the_margin():
    picture = photo(130).copy()
    picture[:15] = 255
    for name in ("p_gaussian_blur", "p_motion_blur"):
        made = sequence(picture, name, border="margin")[20]
        tight = sequence(np.ascontiguousarray(picture[15:115, 15:115]), name)[20]
        assert np.abs(made[0].astype(int) - tight[0]).max() > 5
        assert np.array_equal(made[40:60, 40:60], tight[40:60, 40:60])


# --- what they must never do ---


@pytest.mark.parametrize(("preset", "name"), ALL)
def test_pure(preset, name):
    image = photo(48).copy()
    state, threads = repr(np.random.get_state()), cv2.getNumThreads()
    for border in reversed(BORDERS):  # margin last
        first, second = (list(frames(image, name, stream(5), preset, border=border)) for _ in range(2))
        assert np.array_equal(first, second)
        size = len(first[0])
        assert all(frame.dtype == np.uint8 and frame.shape == (size, size, 3) and frame.flags.c_contiguous
                   and frame.flags.writeable for frame in first)
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations([image, *first[:4]], 2))
    other = list(frames(image, name, stream(6), preset, border="margin"))
    assert np.array_equal(other, first) != (is_noise(name) or name in ("snow", "spatter", "p_spatter"))
    assert np.array_equal(image, photo(48)) and repr(np.random.get_state()) == state
    assert cv2.getNumThreads() == threads
    flipped = np.ascontiguousarray(image[::-1, :, ::-1])[::-1, :, ::-1]
    assert np.array_equal(list(frames(flipped, name, stream(5), preset, border="margin")), first)


@pytest.mark.parametrize(("preset", "name"), ALL)
def test_frames_are_made_one_by_one(preset, name):
    """Whoever changes a frame, or the image, changes no later frame; frames not asked for cost no random numbers."""
    image, rng = photo(32).copy(), stream(4)
    made = frames(image, name, rng, preset)
    expected = list(frames(photo(32), name, stream(4), preset))
    image[:] = 0
    for frame in expected:
        ours = next(made)
        assert np.array_equal(ours, frame)
        ours[:] = 77
    assert next(made, None) is None
    lazy = stream(4)
    next(frames(photo(32), name, lazy, preset))
    assert (repr(lazy.bit_generator.state) == repr(stream(4).bit_generator.state)) == (
        name not in ("snow", "spatter", "p_spatter"))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [33, 48, 100])
def test_every_size_runs(border, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preset, name in ALL:
            for frame in itertools.islice(frames(photo(size), name, stream(), preset, size, border=border), 0, None, 9):
                assert frame.dtype == np.uint8 and frame.shape[0] == frame.shape[1] <= size


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(ALL), st.integers(21, 60), st.sampled_from(BORDERS), st.sampled_from([32, 64, 224]),
       st.sampled_from(["noise", "black", "white", "binary"]), st.integers(0, 2 ** 32))
def test_any_image(case, size, border, resolution, kind, key):
    preset, name = case
    image = {"noise": stream(key).integers(0, 256, (size, size, 3), dtype=np.uint8),
             "black": np.zeros((size, size, 3), np.uint8), "white": np.full((size, size, 3), 255, np.uint8),
             "binary": stream(key).integers(0, 2, (size, size, 3), dtype=np.uint8) * 255}[kind]
    made = list(frames(image, name, stream(key), preset, resolution, border=border))
    assert len(made) == number_of_frames(name, preset, resolution)
    assert len({frame.shape for frame in made}) == 1
    if kind == "black" and name in GEOMETRY:
        assert not np.any(made)


def test_refuses_meaningless_arguments():
    """Before the first frame is asked for."""
    image, rng = photo(48), stream()
    for wrong in (image.astype(float), None, [1]):
        with pytest.raises(TypeError, match="uint8"):
            frames(wrong, "snow", rng)
    for wrong, words in ((image[..., 0], "height, width, 3"), (image[:8, :8], "at least 16"), (image[:40], "square")):
        with pytest.raises(ValueError, match=words):
            frames(wrong, "snow", rng)
    with pytest.raises(TypeError, match="Generator"):
        frames(image, "snow", np.random.RandomState(0))
    for name, preset in (("p_snow", "imagenet-p"), ("snow", "rafdb-p")):
        with pytest.raises(ValueError, match="unknown perturbation.*known: "):
            frames(image, name, rng, preset)
    for call in (lambda: frames(image, "snow", rng, "cifar"), lambda: constants("cifar"),
                 lambda: side_with_margin(64, "cifar"), lambda: number_of_frames("snow", "cifar")):
        with pytest.raises(ValueError, match="cifar.*imagenet-p, rafdb-p"):
            call()
    for wrong in (0, -1, 64., True, None):
        with pytest.raises(ValueError, match="resolution"):
            frames(image, "snow", rng, resolution=wrong)
    for wrong in (0, 4, "1", True):
        with pytest.raises(ValueError, match="difficulty"):
            frames(image, "snow", rng, difficulty=wrong)
    with pytest.raises(ValueError, match="border.*margin, reflect, zero"):
        frames(image, "snow", rng, border="wrap")
    with pytest.raises(ValueError, match="at least 18 pixels"):
        frames(image[:17, :17], "snow", rng, border="margin")


def test_benchmark_prints_a_table(capsys):
    from benchmarks import perturbations as benchmark

    threads = cv2.getNumThreads()
    benchmark.main(benchmark.Args(size=24, preset="rafdb-p", repeats=1))
    lines = capsys.readouterr().out.splitlines()
    assert "rafdb-p" in lines[0]
    assert [line.split()[1] for line in lines[3:]] == [*PERTURBATIONS["rafdb-p"], "mean", "FER-C"]
    for line in lines[3:]:
        time, ratio = (float(cell) for cell in line.split("|")[3:5])
        assert time > 0 and ratio > 0
    assert cv2.getNumThreads() == threads
    with pytest.raises(UserError, match="cifar"):
        benchmark.main(benchmark.Args(preset="cifar"))
