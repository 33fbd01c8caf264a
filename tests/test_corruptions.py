"""The corruptions against slow float64 references, their statistics, and what they must never do.

A random corruption is checked by giving its reference an equal generator.
"""
import functools
import hashlib
import inspect
import io
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from PIL import Image
from scipy import ndimage, special, stats

import corruptions
from corruptions import CELLS, CORRUPTIONS, PRESETS, cells_of, constants, corrupt, corruptions_of
from support.errors import UserError
import reference
from reference import levels

NAMES = ("gaussian_noise shot_noise impulse_noise speckle_noise motion_blur defocus_blur glass_blur zoom_blur "
         "gaussian_blur snow brightness contrast elastic_transform pixelate jpeg_compression spatter saturate").split()
MIVIA_NAMES = (
    "gaussian_blur defocus_blur zoom_blur motion_blur gaussian_noise shot_noise contrast_plus contrast brightness_plus "
    "brightness_minus spatter pixelate jpeg_compression contrast_brightness_plus contrast_brightness_minus "
    "gaussian_noise_contrast_brightness_minus motion_blur_contrast_brightness_minus "
    "pixelate_contrast_brightness_minus").split()
DETERMINISTIC = "defocus_blur zoom_blur gaussian_blur brightness contrast pixelate jpeg_compression saturate".split()
SEVERITIES = range(1, 6)
CASES = [(preset, severity) for preset in ("fer-c", "imagenet-c") for severity in SEVERITIES]
SHAPES = [(224, 224), (100, 144)]


def stream(key):
    return np.random.Generator(np.random.SFC64(key))


@functools.cache
def photo(height=224, width=224, seed=0):
    """Smooth gradients, texture, edges, a black and a white corner."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / min(height, width)
    planes = []
    for _ in range(3):
        smooth = 120 + 70 * np.sin(3 * x + rng.uniform(0, 6)) + 60 * np.cos(4 * y + rng.uniform(0, 6))
        texture = 25 * ndimage.gaussian_filter(rng.standard_normal((height, width)), 1) / .28
        planes.append(smooth + texture + 40 * ((20 * x).astype(int) % 5 == 0))
    image = np.clip(np.stack(planes, -1), 0, 255)
    image[: height // 6, : width // 6] = 0
    image[-height // 6:, -width // 6:] = 255
    image = image.astype(np.uint8)
    image.setflags(write=False)
    return image


def settings_of(name, severity, preset, image):
    return constants(preset, min(image.shape[:2]))[name][severity - 1]


def assert_close(result, exact):
    difference = np.abs(result.astype(int) - levels(exact))
    assert difference.max() <= 1
    scaled = np.clip(exact, 0, 1) * 255
    fair = np.abs(scaled - np.rint(scaled)) > .001  # elsewhere rounding errors decide
    assert difference[fair].mean() <= .01 if fair.any() else difference.mean() <= .01


# --- parity with the references ---


def test_names_and_signatures():
    assert list(CORRUPTIONS) == NAMES
    for preset_name, preset in PRESETS.items():
        assert list(preset.table) == (MIVIA_NAMES if preset_name == "mivia" else NAMES) and preset.description
        for name, rows in preset.table.items():
            parameters = list(inspect.signature(corruptions.OPERATIONS[name]).parameters.values())[2:]
            required = [parameter for parameter in parameters if parameter.default is parameter.empty]
            assert len(rows) == 5 and len({len(row) for row in rows}) == 1
            assert len(required) <= len(rows[0]) <= len(parameters)


def test_constants_known_answers():
    def rows(preset, size, severity):
        return {name: tuple(row[severity - 1].values()) for name, row in constants(preset, size).items()}

    assert rows("fer-c", 224, 1) == dict(
        gaussian_noise=(.04,), shot_noise=(250,), impulse_noise=(.01,), speckle_noise=(.15,), motion_blur=(10, 1),
        defocus_blur=(.5, .6), glass_blur=(.1, 1, 1, None), zoom_blur=(.01, 7), gaussian_blur=(.5,),
        snow=(.1, .2, 1, .6, 8, 3, .8), brightness=(.1,), contrast=(.4,), elastic_transform=(0, 0, 5.12),
        pixelate=(.9,), jpeg_compression=(65,), spatter=(.62, .1, .7, .7, .6, 0), saturate=(.3, 0))
    assert rows("fer-c", 224, 5) == dict(
        gaussian_noise=(.18,), shot_noise=(15,), impulse_noise=(.14,), speckle_noise=(.35,), motion_blur=(12, 3),
        defocus_blur=(3, .1), glass_blur=(.9, 2, 2, None), zoom_blur=(.01, 26), gaussian_blur=(1.5,),
        snow=(.3, .3, 1.25, .65, 14, 12, .6), brightness=(.5,), contrast=(.05,), elastic_transform=(10.24, 1.92, 1.28),
        pixelate=(.5,), jpeg_compression=(25,), spatter=(.65, .1, .5, .67, .6, 1), saturate=(30, .2))
    assert rows("imagenet-c", 224, 3) == dict(
        gaussian_noise=(.18,), shot_noise=(12,), impulse_noise=(.09,), speckle_noise=(.35,), motion_blur=(15, 8),
        defocus_blur=(6, .5), glass_blur=(1, 2, 3, None), zoom_blur=(.02, 11), gaussian_blur=(3,),
        snow=(.55, .3, 4, .9, 12, 8, .7), brightness=(.3,), contrast=(.2,), elastic_transform=(12.2, 2.44, 4.88),
        pixelate=(.4,), jpeg_compression=(15,), spatter=(.65, .3, 2, .68, .5, 0), saturate=(2, 0))
    half = rows("imagenet-c", 112, 5)
    assert half["motion_blur"] == (10, 7.5) and half["defocus_blur"] == (5, .25) and half["gaussian_blur"] == (3,)
    assert half["glass_blur"] == (.75, 2, 2, None) and half["elastic_transform"] == (14.64, 1.22, 2.44)
    assert half["snow"] == (.55, .3, 2.5, .85, 6, 6, .55)
    assert half["spatter"] == (.67, .4, .5, .65, .75, 1)  # mud's strength is a sigma
    assert rows("imagenet-c", 112, 1)["spatter"] == (.65, .3, 2, .69, .6, 0)  # water's is not
    for name in ("gaussian_noise", "contrast", "brightness", "saturate", "jpeg_compression", "pixelate", "zoom_blur"):
        assert constants("fer-c", 48)[name] == constants("fer-c", 224)[name]
    small = constants("imagenet-c", 32)
    assert [row["distance"] for row in small["glass_blur"]] == [1] * 5
    assert small["motion_blur"][0]["reach"] == 2  # 1.43 rounded up
    released = constants("fer-c-released", 224)
    assert [row.pop("wrap") for row in released["spatter"]] == [1] * 5
    assert [row.pop("border") for row in released["glass_blur"]] == [64] * 5
    for row in released["glass_blur"]:
        row["border"] = None
    assert released == constants("fer-c", 224)
    for preset in PRESETS:
        assert json.loads(json.dumps(constants(preset, 224))) == constants(preset, 224)
    assert json.loads(json.dumps(constants("fer-c-released", 100))) == constants("fer-c-released", 100)


def test_constants_that_go_into_set_versions_stay():
    """Of the presets whose bytes are frozen at 224 pixels; computed with the first release."""
    def fingerprint(preset, size):
        return hashlib.sha256(json.dumps(constants(preset, size), sort_keys=True).encode()).hexdigest()[:16]

    assert fingerprint("fer-c", 224) == "8e813da43068b5ee" and fingerprint("imagenet-c", 224) == "7a129b9f51d90da8"
    assert fingerprint("fer-c", 256) == "c6ac743d841f27b0"
    assert fingerprint("imagenet-c", 64) == "2d61089a4bc1c83c"


def test_lengths_of_fer_c_shrink_nowhere():
    """They were made for 64 pixels: scaled down, defocus and Gaussian blur left small images as they were."""
    for preset in ("fer-c", "fer-c-released"):
        at_224 = constants(preset, 224)
        for size in (16, 32, 48, 64, 100, 223):
            assert constants(preset, size) == at_224
        assert constants(preset, 448)["gaussian_blur"][0]["sigma"] == 2 * at_224["gaussian_blur"][0]["sigma"]
        assert not PRESETS[preset].shrinks
    assert constants("imagenet-c", 112)["gaussian_blur"][4]["sigma"] == 3 and PRESETS["imagenet-c"].shrinks
    for size in (48, 64, 96, 128, 160, 192):
        image = photo(size, size)
        for name in ("defocus_blur", "gaussian_blur"):
            for severity in SEVERITIES:
                if (name, severity) != ("defocus_blur", 2):  # a disk of one pixel and its four neighbours, below
                    assert not np.array_equal(corrupt(image, name, severity, stream(0)), image), (name, severity, size)
        assert (corrupt(image, "defocus_blur", 2, stream(0)) != image).mean() > .05


def test_preset_descriptions_explain_bright_drops():
    for name, words in (("fer-c", "stay white"), ("imagenet-c", "stay white"), ("fer-c-released", "wrap around")):
        assert words in PRESETS[name].description and "spatter" in PRESETS[name].description


def test_drops_brighter_than_white_wrap_in_the_released_preset_only():
    """The published code turns liquid to uint8 without a limit: at severity 3, 256 becomes 0."""
    image, wrapped = photo(), 0
    for key in range(12):
        released = corrupt(image, "spatter", 3, stream(key), "fer-c-released")
        assert_close(released, reference.form(image, "spatter", 3, stream(key), "fer-c-released"))
        saturated = corrupt(image, "spatter", 3, stream(key), "fer-c")
        assert_close(saturated, reference.form(image, "spatter", 3, stream(key), "fer-c"))
        wrapped += np.abs(released.astype(int) - saturated).max() > 1
        for severity in (1, 2, 4, 5):  # drops are never so bright, and mud has no grey levels
            assert np.array_equal(corrupt(image, "spatter", severity, stream(key), "fer-c-released"),
                                  corrupt(image, "spatter", severity, stream(key), "fer-c"))
    assert wrapped >= 4
    assert all("wrap" not in constants(preset, 224)["spatter"][2] for preset in ("fer-c", "imagenet-c"))


@pytest.mark.slow
def test_constants_of_a_set_give_the_images_of_the_preset():
    image = photo(64, 64)
    for name in NAMES:
        row = constants("fer-c-released", 64)[name][2]
        assert np.array_equal(corruptions.apply(image, name, stream(1), row),
                              corrupt(image, name, 3, stream(1), "fer-c-released"))
        assert set(row) <= set(corruptions.arguments_of(name))


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in DETERMINISTIC for shape in SHAPES
                                             if name not in ("brightness", "saturate") or shape != SHAPES[0]])
def test_deterministic_parity(name, shape):
    image = photo(*shape)
    for preset, severity in CASES:
        result = corrupt(image, name, severity, stream(0), preset)
        assert_close(result, reference.form(image, name, severity, None, preset))
        if preset == "fer-c":
            assert np.array_equal(result, corrupt(image, name, severity, stream(1), "fer-c-released"))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETERMINISTIC])
@pytest.mark.parametrize("shape", [pytest.param(SHAPES[0], marks=pytest.mark.slow), SHAPES[1]])
def test_random_parity(name, shape):
    image = photo(40, 52) if name == "glass_blur" and shape != (224, 224) else photo(*shape)
    for preset, severity in CASES:
        result = corrupt(image, name, severity, stream(severity), preset)
        assert_close(result, reference.form(image, name, severity, stream(severity), preset))


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_hsv_keeps_the_last_bit(name):
    """Many results are whole numbers but for the error of float64: they must come from the same order of operations."""
    from skimage.color import hsv2rgb, rgb2hsv

    image = photo()
    for preset, severity in CASES:
        row = settings_of(name, severity, preset, image)
        hsv = rgb2hsv(image / 255)
        if name == "brightness":
            hsv[..., 2] = np.clip(hsv[..., 2] + row["amount"], 0, 1)
        else:
            hsv[..., 1] = np.clip(hsv[..., 1] * row["factor"] + row["amount"], 0, 1)
        exact = (np.clip(hsv2rgb(hsv), 0, 1) * 255).astype(np.uint8)
        assert np.array_equal(corrupt(image, name, severity, stream(0), preset), exact)


@pytest.mark.parametrize("name", ["jpeg_compression", "pixelate"])
@pytest.mark.parametrize("shape", [(224, 224), (33, 50), (99, 64)])
def test_pillows_bytes(name, shape):
    """Pillow's own calls are the definition: its JPEG, and its box filter both ways."""
    image = photo(*shape)
    for preset, severity in CASES:
        row = settings_of(name, severity, preset, image)
        if name == "pixelate":
            small = tuple(int(side * row["ratio"]) for side in shape[::-1])
            box = Image.Resampling.BOX
            exact = np.array(Image.fromarray(image).resize(small, box).resize(shape[::-1], box))
        else:
            exact = np.rint(reference.jpeg_compression(image / 255, None, **row) * 255)
        assert np.array_equal(corrupt(image, name, severity, stream(0), preset), exact)


def test_released_glass_touches_the_first_64_only():
    image = photo(224, 300)
    for severity in SEVERITIES:
        sigma = settings_of("glass_blur", severity, "fer-c", image)["sigma"]
        once = levels(reference.gaussian_blur(image / 255, None, sigma))
        twice = levels(reference.gaussian_blur(once / 255, None, sigma))
        reach = 64 + int(4 * sigma + .5)  # the second blur carries the shuffle that far
        released = corrupt(image, "glass_blur", severity, stream(3), "fer-c-released").astype(int)
        outside = np.ones(image.shape[:2], bool)
        outside[:reach, :reach] = False
        assert np.abs(released - twice)[outside].max() <= 1 and np.abs(released - twice)[outside].mean() < .01
        assert np.abs(released - twice)[:64, :64].mean() > .3
        full = corrupt(image, "glass_blur", severity, stream(3)).astype(int)
        assert np.abs(full - twice)[outside].mean() > .3


def test_released_glass_parity():
    image = photo(80, 96)
    for severity in SEVERITIES:
        exact = reference.form(image, "glass_blur", severity, stream(8), "fer-c-released")
        assert_close(corrupt(image, "glass_blur", severity, stream(8), "fer-c-released"), exact)


@pytest.mark.slow
def test_motion_blur_is_imagemagicks():
    try:
        from wand.image import Image as WandImage
    except ImportError:
        pytest.skip("the MagickWand library is not installed (apt-get install libmagickwand-dev)")
    for preset, severity in CASES:
        image = photo(seed=severity)
        row = settings_of("motion_blur", severity, preset, image)
        result = corrupt(image, "motion_blur", severity, stream(severity), preset).astype(int)
        with WandImage.from_array(image) as magick:
            magick.motion_blur(radius=row["reach"], sigma=row["sigma"], angle=stream(severity).uniform(-45, 45))
            # by way of a PNG, as published, it truncates; its raw output rounds
            exact = np.array(Image.open(io.BytesIO(magick.make_blob("PNG"))).convert("RGB"))
        assert np.abs(result - exact).max() <= 1 and (result != exact).mean() < .004


# --- preset mivia ---


def test_mivia_known_answers():
    """The table of the specification, at the size of RAF-DB's aligned faces."""
    rows = {name: [tuple(row.values()) for row in rows] for name, rows in constants("mivia", 100).items()}
    assert list(rows) == MIVIA_NAMES and len(rows) == 18
    assert rows["gaussian_blur"] == [(1,), (1.8,), (2.6,), (3.4,), (4,)]
    assert [row[0] for row in rows["defocus_blur"]] == pytest.approx([3.125, 4.1667, 4.1667, 5.2083, 6.25], abs=1e-4)
    assert [row[1] * 48 / 100 for row in rows["defocus_blur"]] == pytest.approx([.1, .2, .3, .4, .4])
    assert rows["zoom_blur"] == [(.01, 12), (.01, 18), (.02, 13), (.02, 17), (.03, 14)]
    assert rows["motion_blur"] == [(6, 2), (10, 3), (10, 5), (10, 8), (13, 10)]
    assert rows["gaussian_noise"] == [(.08,), (.12,), (.18,), (.24,), (.3,)]
    assert rows["shot_noise"] == [(60,), (29,), (15,), (8,), (5,)]
    assert rows["contrast_plus"] == [(1.5,), (1.9,), (2.6,), (3.3,), (5,)]
    assert rows["contrast"] == [(.4,), (.33,), (.24,), (.16,), (.1,)]
    assert rows["brightness_plus"] == [(.1,), (.2,), (.3,), (.4,), (.5,)]
    assert rows["brightness_minus"] == [(-.1,), (-.2,), (-.3,), (-.4,), (-.5,)]
    assert rows["spatter"][2:4] == [(.65, .3, 2, .68, .5, 0), (.65, .3, 1, .65, 1.5, 1)]
    assert rows["pixelate"] == [(.6,), (.5,), (.41,), (.3,), (.25,)]
    assert rows["jpeg_compression"] == [(25,), (18,), (15,), (10,), (7,)]
    assert rows["contrast_brightness_plus"] == [(.1, .4), (.2, .4), (.2, .33), (.2, .24), (.3, .16)]
    assert rows["contrast_brightness_minus"] == [(-.1, .4), (-.2, .4), (-.2, .33), (-.2, .24), (-.3, .16)]
    assert rows["gaussian_noise_contrast_brightness_minus"] == [
        (.08, -.1, .4), (.12, -.2, .4), (.12, -.2, .33), (.18, -.2, .24), (.18, -.2, .16)]
    assert rows["motion_blur_contrast_brightness_minus"] == [
        (10, 3, -.1, .4), (10, 5, -.1, .4), (10, 8, -.2, .33), (13, 10, -.2, .4), (13, 10, -.2, .24)]
    assert rows["pixelate_contrast_brightness_minus"] == [
        (.6, -.1, .4), (.5, -.2, .4), (.41, -.2, .33), (.3, -.2, .4), (.3, -.3, .24)]


def test_mivia_constants_follow_the_size_by_their_own_rule():
    at_100, at_224, at_16 = (constants("mivia", size) for size in (100, 224, 16))
    for name in set(MIVIA_NAMES) - {"defocus_blur", "motion_blur", "motion_blur_contrast_brightness_minus"}:
        assert at_100[name] == at_224[name] == at_16[name]  # Gaussian blur and spatter among them
    assert [tuple(row.values()) for row in at_224["motion_blur"]] == [(15, 4), (23, 7), (23, 12), (23, 18), (31, 23)]
    assert at_224["defocus_blur"][0]["radius"] == 7
    assert at_16["motion_blur"][0] == {"reach": 1, "sigma": 1}  # the published rule gives a sigma of 0
    assert json.loads(json.dumps(at_100)) == at_100


def test_mivia_leaves_fer_c_as_it_is():
    assert list(CORRUPTIONS) == NAMES and CELLS == cells_of(tuple(NAMES)) and len(CELLS) == 85
    for preset in ("fer-c", "fer-c-released", "imagenet-c"):
        assert corruptions_of(preset) == tuple(NAMES)
    cells = cells_of(corruptions_of("mivia"))
    assert len(cells) == 90 and cells[0] == ("gaussian_blur", 1) and cells[8] == ("defocus_blur", 4)
    image = photo(64, 64)
    with pytest.raises(ValueError, match="snow.*gaussian_blur.*pixelate_contrast_brightness_minus"):
        corrupt(image, "snow", 1, stream(0), "mivia")
    with pytest.raises(ValueError, match="contrast_plus.*gaussian_noise"):
        corrupt(image, "contrast_plus", 1, stream(0))


@pytest.mark.parametrize("name", MIVIA_NAMES)
def test_mivia_parity(name):
    image = photo(40, 52)
    for severity in SEVERITIES:
        result = corrupt(image, name, severity, stream(severity), "mivia")
        assert_close(result, reference.form(image, name, severity, stream(severity), "mivia"))


@pytest.mark.parametrize("name", MIVIA_NAMES[13:])
def test_mivia_mixtures_are_their_parts_one_after_the_other(name):
    """Each part truncates to grey levels, and the mixture does so once, so they are a grey level or two apart."""
    image = photo(100, 100)
    first = name.split("_contrast")[0]
    for severity, row in enumerate(constants("mivia", 100)[name], 1):
        rng, row = stream(severity), dict(row)
        expected = image
        if first in CORRUPTIONS:
            own = {argument: row.pop(argument) for argument in corruptions.arguments_of(first)}
            expected = corruptions.apply(expected, first, rng, own)
        expected = corruptions.apply(expected, "brightness_minus", rng, {"amount": row["amount"]})
        expected = corruptions.apply(expected, "contrast", rng, {"factor": row["factor"]})
        result = corrupt(image, name, severity, stream(severity), "mivia").astype(int)
        assert np.abs(result - expected).max() <= 2
        assert 0 <= (result - expected).mean() < 1.5


def test_mivia_known_pixels():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8], image[8:12] = (200, 100, 50), (10, 10, 10)
    image[12:] = 255
    darker = corrupt(image, "brightness_minus", 3, stream(0), "mivia")
    assert np.abs(darker[[0, 8, 12], 0].astype(int) - [(123, 61, 30), (0, 0, 0), (178, 178, 178)]).max() <= 1
    brighter = corrupt(image, "brightness_plus", 3, stream(0), "mivia")
    assert np.abs(brighter[[0, 8, 12], 0].astype(int) - [(255, 127, 63), (86, 86, 86), (255, 255, 255)]).max() <= 1
    black = np.zeros((16, 16, 3), np.uint8)
    assert (corrupt(black, "contrast_brightness_plus", 1, stream(0), "mivia") == 25).all()  # .1 * 255 = 25.5
    assert (corrupt(black, "contrast_brightness_minus", 5, stream(0), "mivia") == 0).all()


def test_mivia_colours_are_rgb():
    """Water is turquoise and mud is brown. The published code gives these colours to BGR images."""
    dark = grey(40, 100)
    water = corrupt(dark, "spatter", 3, stream(1), "mivia").astype(int)
    drops = water[(water != 40).any(-1)]
    assert len(drops) and (drops[:, 2] >= drops[:, 0]).all() and (drops[:, 1] >= drops[:, 0]).all()
    bright = grey(200, 100)
    mud = corrupt(bright, "spatter", 5, stream(1), "mivia").astype(int)
    spots = mud[(mud != 200).any(-1)]
    assert len(spots) and (spots[:, 0] >= spots[:, 2]).all()


@pytest.mark.parametrize("name", MIVIA_NAMES)
def test_mivia_is_pure(name):
    image = photo(48, 48)
    state = repr(np.random.get_state())
    a, b = (corrupt(image, name, 4, stream(7), "mivia") for _ in range(2))
    assert np.array_equal(a, b) and not np.shares_memory(a, image) and a.flags.c_contiguous
    is_random = "noise" in name or "motion" in name or name == "spatter"
    assert np.array_equal(corrupt(image, name, 4, stream(8), "mivia"), a) != is_random
    assert np.array_equal(image, photo(48, 48)) and repr(np.random.get_state()) == state


# --- statistics ---


def test_normals_known_answers():
    """A word plus .5 has the sign of the normal value; its size over 2**32 is the probability of the tail beyond."""
    def normals(words):
        out = np.empty(len(words), np.float32)
        corruptions._compiled(corruptions._to_normals)(np.array(words, np.int32), *corruptions._normal_table(), out)
        return out

    known = normals([2 ** 30, -2 ** 30, 2 ** 31 - 1, -2 ** 31, 0, -1, 97_711_072])
    assert np.allclose(known, [.674490, -.674490, 0, 0, 6.337957, -6.337957, 2], rtol=0, atol=1e-6)
    powers = 2 ** np.arange(31)
    words = np.concatenate([powers, powers * 2 - 1, powers + powers // 3])
    assert np.allclose(normals(words), -special.ndtri((words + .5) / 2 ** 32), rtol=1e-6, atol=1e-6)
    assert np.array_equal(normals(-1 - words), -normals(words))


def test_normals_are_normal():
    shape = (1001, 999)  # an odd number
    values = corruptions._normals(stream(5), shape)
    assert values.dtype == np.float32 and values.shape == shape
    assert np.abs(values - reference.normals(stream(5), *shape)).max() < 1e-6
    flat = values.ravel().astype(float)
    assert abs(flat.mean()) < 4e-3 and abs(flat.var() - 1) < 6e-3 and abs((flat ** 4).mean() - 3) < .05
    assert stats.kstest(flat, "norm").statistic < 1.95 / math.sqrt(flat.size)  # one in a thousand is larger
    for far in (2, 3, 4, 4.5):
        expected = 2 * stats.norm.sf(far) * flat.size
        assert abs((np.abs(flat) > far).sum() - expected) < 4 * math.sqrt(expected)
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 4e-3  # the two halves of a draw among them


def grey(level=128, size=224):
    return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize(("name", "spread"), [
    ("gaussian_noise", lambda x, sd: sd), ("speckle_noise", lambda x, sd: x * sd),
    ("shot_noise", lambda x, photons: math.sqrt(x / photons))])
def test_noise_has_the_mean_and_variance_of_the_definition(name, spread):
    for preset, severity in CASES:
        row = settings_of(name, severity, preset, grey())
        sd = 255 * spread(128 / 255, **row)
        if sd > 25:  # clipping sets in at five sigma
            continue
        mean, variance = 128 - .5, sd ** 2 + 1 / 12  # truncation takes U(0, 1)
        if name == "shot_noise":  # a lattice, from which truncation takes what it takes
            counts = np.arange(1000)
            chances = stats.poisson.pmf(counts, 128 / 255 * row["photons"])
            lattice = np.floor(np.clip(counts / row["photons"], 0, 1) * 255 + 1e-9)
            mean = chances @ lattice
            variance = chances @ (lattice - mean) ** 2
        change = corrupt(grey(), name, severity, stream(severity), preset) - mean
        n = change.size
        assert abs(change.mean()) < 5 * sd / math.sqrt(n)
        assert abs(change.var() / variance - 1) < 5 * math.sqrt(2 / n)
        for channel in range(3):  # independent between channels and neighbours
            plane, other = change[..., channel], change[..., channel - 1]
            assert abs((plane * other).mean()) < 5 * sd ** 2 / math.sqrt(plane.size)
            assert abs((plane[:, 1:] * plane[:, :-1]).mean()) < 5 * sd ** 2 / math.sqrt(plane.size)


@pytest.mark.parametrize("level", [1, 10, 128, 250])
def test_shot_noise_is_poisson(level):
    photons = 60
    result = corrupt(grey(level), "shot_noise", 1, stream(level), "imagenet-c")
    counts = np.arange(photons)
    grey_levels = np.floor(counts / photons * 255 + 1e-9)
    expected = stats.poisson.pmf(counts, level / 255 * photons) * result.size
    for count in counts[expected > 20]:  # a count and its grey level: one level is left to float64
        observed = (np.abs(result - grey_levels[count]) <= 1).sum()
        assert abs(observed - expected[count]) < 5 * math.sqrt(expected[count])


@pytest.mark.parametrize("preset", ["fer-c", "imagenet-c"])
def test_impulse_rate(preset):
    for severity in SEVERITIES:
        amount = settings_of("impulse_noise", severity, preset, grey())["amount"]
        result = corrupt(grey(), "impulse_noise", severity, stream(severity), preset)
        assert set(np.unique(result)) == {0, 128, 255}
        n = 224 * 224
        for channel in range(3):
            for value in (0, 255):
                observed = (result[..., channel] == value).sum()
                assert abs(observed - n * amount / 2) < 4 * math.sqrt(n * amount / 2)
        every = (result != 128).all(-1).mean()  # per channel, not per pixel
        assert every < 5 * max(amount ** 3, 1e-4)


def test_motion_angles():
    """From a single bright pixel one can read the angle."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[32, 32] = 255
    angles = []
    for key in range(300):
        result = corrupt(image, "motion_blur", 5, stream(key), "imagenet-c")[..., 0].astype(float)
        rows, columns = np.nonzero(result)
        far = np.argmax((rows - 32) ** 2 + (columns - 32) ** 2)
        angles.append(math.degrees(math.atan2(32 - rows[far], 32 - columns[far])))
    assert -52 < min(angles) < -35 and 35 < max(angles) < 52  # whole pixels: a few degrees off
    assert abs(np.mean(angles)) < 5 and abs(np.std(angles) - 90 / math.sqrt(12)) < 3
    drawn = np.array([stream(key).uniform(-45, 45) for key in range(300)])
    assert np.abs(np.array(angles) - drawn).max() < 7  # it is the first draw


# --- what they must never do ---


def test_refuses_meaningless_arguments():
    image, rng = photo(64, 64), stream(0)
    for wrong in (image.astype(np.float32), image.tolist(), None, image.astype(np.int16)):
        with pytest.raises(TypeError, match="uint8"):
            corrupt(wrong, "contrast", 1, rng)
    for wrong in (image[..., 0], image[..., :2], image[None], np.zeros((64, 64, 4), np.uint8)):
        with pytest.raises(ValueError, match="height, width, 3"):
            corrupt(wrong, "contrast", 1, rng)
    with pytest.raises(ValueError, match="at least 16"):
        corrupt(image[:8], "contrast", 1, rng)
    for wrong in (0, 6, -1, True):
        with pytest.raises(ValueError, match="1 to 5"):
            corrupt(image, "contrast", wrong, rng)
    for wrong in (1., "1", None):
        with pytest.raises(TypeError, match="1 to 5"):
            corrupt(image, "contrast", wrong, rng)
    with pytest.raises(ValueError, match="fog.*gaussian_noise.*saturate"):
        corrupt(image, "fog", 1, rng)
    for call in (lambda: corrupt(image, "contrast", 1, rng, "cifar"), lambda: constants("cifar", 224)):
        with pytest.raises(ValueError, match="cifar.*fer-c, fer-c-released, imagenet-c"):
            call()
    with pytest.raises(TypeError, match="Generator"):
        corrupt(image, "contrast", 1, np.random.RandomState(0))
    assert corrupt(image, "contrast", np.int64(5), rng).shape == image.shape


# where the constants imply it; those of elastic, snow, spatter, saturate and glass do not
GROWING = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "motion_blur", "defocus_blur", "zoom_blur",
           "gaussian_blur", "contrast", "pixelate", "jpeg_compression", "brightness"]


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("preset", ["fer-c", "imagenet-c"])
def test_severity_grows(name, preset):
    image = photo() // 2  # leaves brightness its room
    if (name, preset) == ("defocus_blur", "fer-c"):
        severities = [1, 3, 4, 5]  # (.5, .6) blurs, (1, .1) hardly more
    else:
        severities = SEVERITIES
    errors = [np.mean((corrupt(image, name, s, stream(0), preset).astype(float) - image) ** 2) for s in severities]
    assert np.all(np.diff(errors) > 0), errors


@pytest.mark.parametrize("name", NAMES)
def test_pure(name):
    image = photo(64, 80)
    before = image.copy()
    state = repr(np.random.get_state())
    threads = cv2.getNumThreads()
    for severity in (1, 5):
        a, b = (corrupt(image, name, severity, stream(7)) for _ in range(2))
        assert a.tobytes() == b.tobytes()
        other = corrupt(image, name, severity, stream(8))
        assert (a.tobytes() == other.tobytes()) == (name in DETERMINISTIC)
        assert not np.shares_memory(a, image) and a.flags.c_contiguous and a.flags.writeable
        strided = np.ascontiguousarray(image[::-1, :, ::-1])[::-1, :, ::-1]
        assert np.array_equal(corrupt(strided, name, severity, stream(7)), a)
    assert np.array_equal(image, before) and repr(np.random.get_state()) == state and cv2.getNumThreads() == threads


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("size", [16, 32, 48, 64, 100, 224, 256, (50, 91), (99, 33)])
def test_every_size_runs(preset, size):
    image = photo(*size) if isinstance(size, tuple) else photo(size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in corruptions_of(preset):
            for severity in SEVERITIES:
                result = corrupt(image, name, severity, stream(severity), preset)
                assert result.dtype == np.uint8 and result.shape == image.shape and result.flags.c_contiguous


@pytest.mark.parametrize("preset", ["fer-c", "imagenet-c"])
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_flat_images(preset, level):
    image = grey(level, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            for severity in SEVERITIES:
                result = corrupt(image, name, severity, stream(severity), preset)
                if name.endswith("_blur") or name in ("contrast", "elastic_transform", "pixelate"):
                    assert np.array_equal(result, image), (name, severity)
                if name == "saturate" and severity < 4:
                    assert np.array_equal(result, image)


def test_large_image_runs():
    image = photo(512, 530)
    for name in NAMES:
        assert corrupt(image, name, 5, stream(0), "imagenet-c").shape == image.shape


def test_spatter_without_drops_returns_the_image():
    image = photo(64, 64)
    result = corruptions.spatter(image.copy(), stream(0), loc=.1, sd=.01, sigma=1., threshold=.69, strength=.6, mud=0)
    assert np.array_equal(result, image)
    result = corruptions.spatter(image.copy(), stream(0), loc=.1, sd=.01, sigma=1., threshold=.69, strength=.6, mud=1)
    assert np.array_equal(result, image)


def test_import_is_light():
    code = ("import sys, cv2; n = cv2.getNumThreads(); import corruptions; assert n == cv2.getNumThreads(); "
            "print(*{'torch', 'numba', 'scipy', 'wand', 'pandas'} & set(sys.modules))")
    root = Path(corruptions.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    import numba

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda kernel: kernel

    monkeypatch.setattr(numba, "njit", njit)
    corruptions._compiled.cache_clear()
    try:
        plain = corrupt(photo(32, 32), "saturate", 4, stream(0))  # in plain Python
    finally:
        corruptions._compiled.cache_clear()
    monkeypatch.undo()
    assert np.array_equal(plain, corrupt(photo(32, 32), "saturate", 4, stream(0)))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(strategies.integers(32, 64), strategies.integers(32, 64),
       strategies.sampled_from([(preset, name) for preset in PRESETS for name in corruptions_of(preset)]),
       strategies.integers(1, 5), strategies.integers(0, 2 ** 32),
       strategies.sampled_from(["noise", "binary", "sparse", "ramp"]))
def test_any_image(height, width, preset_and_name, severity, key, kind):
    preset, name = preset_and_name
    rng = stream(key)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "binary":
        image = (image > 127).astype(np.uint8) * 255
    elif kind == "sparse":
        image = np.where(image > 250, image, 0)
    elif kind == "ramp":
        image = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], image.shape)
    before = image.copy()
    result = corrupt(image, name, severity, rng, preset)
    assert result.dtype == np.uint8 and result.shape == image.shape and result.flags.c_contiguous
    assert np.array_equal(image, before)


def test_benchmark_prints_a_table(capsys):
    from benchmarks import corruptions as benchmark

    threads = cv2.getNumThreads()
    benchmark.main(benchmark.Args(size=24, preset="fer-c", repeats=1))
    lines = capsys.readouterr().out.splitlines()
    assert "fer-c" in lines[0] and "imagecorruptions" in lines[1]  # why there is no comparison with it
    assert [line.split()[1] for line in lines[4:]] == [*NAMES, "total"]
    for line in lines[4:]:
        ours, slow, ratio = (float(cell) for cell in line.split("|")[2:5])
        assert 0 < ours and 0 < slow and 0 < ratio
    assert cv2.getNumThreads() == threads
    with pytest.raises(UserError, match="cifar"):
        benchmark.main(benchmark.Args(preset="cifar"))
