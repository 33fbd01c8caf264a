"""Pictures that are odd or broken, boxes that miss their picture, and a cache of decoded pictures that was damaged."""
import errno
import io
import multiprocessing
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import fuzz_pictures
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from datasets import image_cache, images
from datasets.images import box_fits, decode, open_cache, picture_sizes, read_image
from support.errors import UserError

ROOT = Path(__file__).parent.parent
TURNED = 6  # the orientation of these pictures: the top is stored at the left


@pytest.fixture
def stored():
    """A picture as it is stored, uint8 (24, 40, 3): red at the left, so red at the top once it is turned."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:, :20] = (220, 30, 30)
    pixels[:12, 20:] = (30, 30, 220)
    return pixels


def exif_of(*entries):
    """An EXIF block of (tag, type, count, 4 bytes), sorted by tag, and the orientation 6."""
    entries = sorted([*entries, (0x0112, 3, 1, struct.pack("<HH", TURNED, 0))])
    table = b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)) + table + bytes(4) + struct.pack("<lL2L", -1, 0, 0, 0)


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95, subsampling=0, **options)
    return file.getvalue()


def assert_turned(path, stored):
    expected = np.rot90(stored, -1).astype(int)
    pixels = np.asarray(decode(path)).astype(int)
    assert pixels.shape == expected.shape
    assert abs(pixels - expected).mean() < 3


# ---- metadata

@pytest.mark.parametrize("entry", [
    (0x011A, 2, 3, b"72\0\0"),  # the resolution as text
    (0x0128, 2, 2, b"in\0\0"),  # its unit as text
    (0x011A, 10, 1, struct.pack("<L", 38)),  # a signed rational over zero
    (0x0101, 2, 3, b"hi\0\0"),  # the length as text
    (0x010F, 2, 100_000, struct.pack("<L", 40)),  # longer than the file
    (0x010F, 2, 200, struct.pack("<L", 2**32 - 8)),  # beyond the file
    (0x8769, 4, 1, struct.pack("<L", 8)),  # a directory that is its own child
    (0x8769, 2, 3, b"xy\0\0"),  # a directory as text
    (0x0100, 77, 1, bytes(4)),  # an unknown type
], ids=range(9))
def test_a_malformed_tag_does_not_matter(tmp_path, stored, entry):
    (tmp_path / "x.jpg").write_bytes(jpeg(stored, exif=exif_of(entry)))
    assert_turned(tmp_path / "x.jpg", stored)
    (size,) = picture_sizes(tmp_path, ["x.jpg"])
    assert size.tolist() == [24, 40]


def segment(marker, content):
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("marker, content", [
    (0xE0, b"JFIF\0"),  # cut
    (0xEE, b"Adobe"),
    (0xED, b"Photoshop 3.0\x008BIM\x04"),
    (0xE2, b"ICC_PROFILE\0"),
    (0xE2, b"MPF\0II*\0" + struct.pack("<L", 8)),
    (0xE2, b"MPF\0" + b"\xff" * 40),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe\xff"),
    (0xFE, b"\xff" * 50),
], ids=range(8))
def test_malformed_segments_of_a_jpeg_do_not_matter(tmp_path, stored, marker, content):
    data = jpeg(stored, exif=exif_of())
    (tmp_path / "x.jpg").write_bytes(data[:2] + segment(marker, content) + data[2:])
    assert_turned(tmp_path / "x.jpg", stored)
    assert picture_sizes(tmp_path, ["x.jpg"]).tolist() == [[24, 40]]


def test_an_orientation_after_a_cut_tag_counts(tmp_path, stored):
    """Pillow stops reading at the first tag that it cannot; here the block of EXIF ends before the last one."""
    exif = exif_of((0x010F, 2, 20, struct.pack("<L", 30)))
    (tmp_path / "x.jpg").write_bytes(jpeg(stored, exif=exif[:-18]))
    assert_turned(tmp_path / "x.jpg", stored)


def test_an_orientation_in_xmp_counts(tmp_path, stored):
    data = jpeg(stored)
    for text in (b'<x tiff:Orientation="6"/>', b"\xff\xfe<tiff:Orientation>6</tiff:Orientation>"):
        xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text)
        (tmp_path / "x.jpg").write_bytes(data[:2] + xmp + data[2:])
        assert_turned(tmp_path / "x.jpg", stored)


def chunk(name, content):
    checksum = PngImagePlugin._crc32(content, PngImagePlugin._crc32(name))
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", checksum)


@pytest.mark.parametrize("extra", [
    chunk(b"eXIf", exif_of()[6:]),
    chunk(b"eXIf", exif_of((0x011A, 2, 3, b"72\0\0"))[6:]),
    chunk(b"eXIf", exif_of()[6:]) + chunk(b"zTXt", b"a\0\x07x"),
    chunk(b"eXIf", exif_of()[6:]) + chunk(b"tIME", b"")[:-4] + b"bad!",  # a wrong checksum
    chunk(b"eXIf", exif_of()[6:]) + chunk(b"pHYs", b"1"),
    chunk(b"eXIf", exif_of()[6:]) + chunk(b"iCCP", b"x\0\x05"),
    chunk(b"eXIf", exif_of()[6:]) + chunk(b"tRNS", b""),
    chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'),
], ids=range(8))
def test_malformed_chunks_of_a_png_do_not_matter(tmp_path, stored, extra):
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "png")
    data = file.getvalue()
    (tmp_path / "x.png").write_bytes(data[:33] + extra + data[33:])  # after IHDR
    assert_turned(tmp_path / "x.png", stored)
    assert picture_sizes(tmp_path, ["x.png"]).tolist() == [[24, 40]]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("tag, kind, value", [
    (0x011A, 2, b"72\0\0"), (0x0128, 2, b"in\0\0"), (0x8769, 2, b"in\0\0"), (0x010E, 10, struct.pack("<L", 4)),
])
def test_malformed_tags_of_a_tiff_do_not_matter(tmp_path, stored, compression, tag, kind, value):
    file = io.BytesIO()
    # a tag to be mangled; a resolution of its own would make Pillow write more tags
    Image.fromarray(stored).save(file, "tiff", compression=compression, tiffinfo={0x0112: TURNED, 0x0131: "abc"})
    data = bytearray(file.getvalue())
    place = data.find(struct.pack("<HHL", 0x0131, 2, 4))
    data[place:place + 12] = struct.pack("<HHL", tag, kind, 1 if kind == 10 else 4) + value
    (tmp_path / "x.tif").write_bytes(data)
    assert_turned(tmp_path / "x.tif", stored)
    assert picture_sizes(tmp_path, ["x.tif"]).tolist() == [[24, 40]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(tmp_path, stored, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("jpg", "png", "webp", "tif"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(stored).save(path, exif=exif, **({"quality": 95} if suffix != "tif" else {}))
        turned = {2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
                  6: np.rot90(stored, -1), 7: np.rot90(stored, 2).swapaxes(0, 1), 8: np.rot90(stored)}
        expected = turned.get(orientation, stored)
        assert picture_sizes(tmp_path, [path.name]).tolist() == [[expected.shape[1], expected.shape[0]]]
        difference = abs(np.asarray(decode(path)).astype(int) - expected)
        assert difference.mean() < 12, suffix  # WebP and JPEG blur the colours' edges


def test_no_warning_reaches_the_screen(tmp_path, stored, capfd):
    (tmp_path / "x.jpg").write_bytes(jpeg(stored, exif=exif_of((0x010F, 2, 100_000, struct.pack("<L", 40)))[:-20]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(tmp_path / "x.jpg")
        warnings.warn("another module's", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["another module's"]
    assert capfd.readouterr() == ("", "")


# ---- formats, modes, frames

def refusal(path, box=None):
    with pytest.raises(UserError) as caught:
        decode(path, box)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    return message


def test_only_the_listed_formats_are_read(tmp_path, stored, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **options: started.append(command))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "none of JPEG, PNG, WebP, BMP, TIFF and GIF" in refusal(tmp_path / "x.png")
    for name in ("ppm", "tga", "jp2", "pcx", "ico", "avif"):
        Image.fromarray(stored).save(tmp_path / f"x.{name}")
        assert "none of JPEG" in refusal(tmp_path / f"x.{name}")
    assert not started
    for name in ("jpg", "png", "webp", "bmp", "tif", "gif"):
        Image.fromarray(stored).save(tmp_path / f"y.{name}")
        assert decode(tmp_path / f"y.{name}").size == (40, 24)


def test_a_damaged_header_is_called_so(tmp_path):
    for data, name in ((b"\xff\xd8\xff\xc0\0\x0b\x0c" + bytes(20), "JPEG"), (b"II*\0" + bytes(20), "TIFF")):
        (tmp_path / "x").write_bytes(data)
        assert f"its {name} header is damaged" in refusal(tmp_path / "x")


def test_what_a_decoder_raises_becomes_one_line(tmp_path, stored, monkeypatch):
    path = tmp_path / "x.png"
    Image.fromarray(stored).save(path)
    failures = (MemoryError(), RecursionError("deep\nnest"), struct.error("short"), AttributeError("no\x1b[31m"),
                AssertionError(), KeyError(3), TypeError("x"), OverflowError("y"), ZeroDivisionError("z"))
    for failure in failures:
        with monkeypatch.context() as patch:
            patch.setattr(PngImagePlugin.PngImageFile, "load", lambda self, f=failure: (_ for _ in ()).throw(f))
            assert refusal(path).startswith(f"{path}: not a readable image (")
    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load",
                      lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            decode(path)


def test_the_first_frame_counts(tmp_path, stored):
    first, second = Image.fromarray(stored), Image.fromarray(255 - stored)
    for suffix in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"x.{suffix}"
        first.save(path, save_all=True, append_images=[second], **({"lossless": True} if suffix == "webp" else {}))
        assert abs(np.asarray(decode(path)).astype(int) - stored).max() <= 4, suffix


def test_floats_from_0_to_1_are_read(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "x.tif"))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("values, reason", [
    (np.float32([[0, 255]]), "its values range from 0 to 255; floats from 0 to 1"),
    (np.float32([[-0.5, 0.5]]), "its values range from -0.5 to 0.5"),
    (np.float32([[np.nan, 0.5]]), "not finite"), (np.float32([[np.inf, 0.5]]), "not finite"),
    (np.int32([[0, 70000]]), "its integers range from 0 to 70000"), (np.int32([[-1, 5]]), "from -1 to 5"),
    (np.uint16([[0, 200]]), "its 16-bit values end at 200"),
])
def test_values_out_of_range_are_refused(tmp_path, values, reason):
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert reason in refusal(tmp_path / "x.tif")


def test_sixteen_bits_keep_the_high_byte(tmp_path):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(np.asarray(decode(tmp_path / f"x.{suffix}"))[..., 0].ravel(), np.arange(256))
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i.tif")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "i.tif"))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("mode, suffix, colour", [
    ("LAB", "tif", (137, 128, 128)), ("CMYK", "tif", (127, 127, 127, 0)), ("LA", "png", (128, 0)),
    ("RGBA", "tif", (128, 128, 128, 0)), ("1", "gif", 1), ("L", "webp", 128), ("YCbCr", "jpg", (128, 128, 128)),
])
def test_grey_is_grey_in_every_mode(tmp_path, mode, suffix, colour):
    """Transparent pixels keep their colour: faces are not composed with a background."""
    Image.new(mode, (16, 16), colour).save(tmp_path / f"x.{suffix}")
    expected = 255 if mode == "1" else 128
    assert abs(np.asarray(decode(tmp_path / f"x.{suffix}")).astype(int) - expected).max() <= 4


def test_a_palette_with_transparency_keeps_its_colours(tmp_path, stored):
    Image.fromarray(stored).quantize(4).save(tmp_path / "x.png", transparency=bytes((0, 100, 255)))
    assert abs(np.asarray(decode(tmp_path / "x.png")).astype(int) - stored).max() <= 4


def test_bombs_are_refused(tmp_path, monkeypatch):
    huge = struct.pack(">LL", 30_000, 30_000) + b"\x08\x02\0\0\0"
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", huge) + chunk(b"IDAT", b"x"))
    refusal(tmp_path / "x.png")
    with open(tmp_path / "long.jpg", "wb") as file:  # a sparse file: nothing but zeros behind the beginning
        file.write(b"\xff\xd8\xff")
        file.truncate(2**33)
    assert "8.0 GiB is too much" in refusal(tmp_path / "long.jpg")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "socket", "loop", ".", "x" * 300, "no\0name"):
        assert str(tmp_path) in refusal(f"{tmp_path}/{name}") or "\\x00" in refusal(f"{tmp_path}/{name}")
    listener.close()
    assert "/dev/zero: no regular file" in refusal("/dev/zero")
    assert "no such image" in refusal(f"{tmp_path}/two\nlines \x1b[31m")
    assert "no such image" in refusal(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    number = len(os.listdir("/proc/self/fd"))
    refusal(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == number


def test_pictures_in_memory(stored):
    file = io.BytesIO(jpeg(stored))
    assert read_image(file, 16).shape == (16, 16, 3)
    assert refusal(io.BytesIO(b"x")).startswith("a picture in memory: ")
    file = io.BytesIO(b"x")
    file.name = "set/clean/1.png"
    assert refusal(file).startswith("set/clean/1.png: ")


# ---- boxes

BOXES = [  # for a picture of 100 x 80
    ((0, 0, 100, 80), True), ((-20, -20, 50, 50), True), ((10, 10, 11, 11), True), ((np.nan,) * 4, True),
    ((0, 0, 300, 240), True),  # a ninth of it is picture
    ((0, 0, 1000, 800), False), ((-450, -360, 550, 440), False), ((0, 0, 10_000, 8_000), False),
    ((100, 0, 200, 80), False), ((-50, 0, 0, 80), False), ((0, 80, 10, 90), False), ((95, 75, 195, 175), False),
    ((50, 50, 50, 60), False), ((50, 50, 40, 40), False), ((50.2, 50.2, 50.4, 60), False),
    ((0, 0, np.inf, 80), False), ((-np.inf, -np.inf, np.inf, np.inf), False), ((0, 0, 1e308, 1e308), False),
]


@pytest.mark.parametrize("box, fits", BOXES)
def test_a_box_belongs_to_its_picture(tmp_path, box, fits):
    Image.new("RGB", (100, 80), (200, 100, 50)).save(tmp_path / "x.png")
    assert box_fits(np.array([box]), np.array([[100, 80]])).tolist() == [fits]
    if fits:
        assert read_image(tmp_path / "x.png", 8, box).any()
    else:
        message = refusal(tmp_path / "x.png", box)
        assert "x.png: the box" in message and "100x80" in message


def test_boxes_are_judged_together():
    boxes, fits = np.array([box for box, _ in BOXES]), [value for _, value in BOXES]
    sizes = np.tile([100, 80], (len(boxes), 1))
    assert box_fits(boxes, sizes).tolist() == fits
    assert box_fits(boxes, np.full_like(sizes, -1)).all()  # unknown: the decoder will tell
    assert box_fits(np.empty((0, 4)), np.empty((0, 2), int)).shape == (0,)


def test_a_box_counts_in_the_upright_picture(tmp_path, stored):
    (tmp_path / "x.jpg").write_bytes(jpeg(stored, exif=exif_of()))
    assert decode(tmp_path / "x.jpg", (0, 30, 24, 40)).size == (24, 10)
    refusal(tmp_path / "x.jpg", (30, 0, 40, 24))


def test_sizes_of_pictures(tmp_path, stored):
    names = []
    for number in range(150):
        names.append(f"{number}.png")
        Image.new("L", (number + 1, 7)).save(tmp_path / names[-1])
    (tmp_path / "3.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    sizes = picture_sizes(tmp_path, [*names, "none.png", "pipe", "../x.png", "a\0b", "."])
    assert sizes.dtype == np.int64 and sizes.shape == (155, 2)
    expected = np.stack([np.arange(1, 151), np.full(150, 7)], axis=1)
    expected[3] = -1
    np.testing.assert_array_equal(sizes[:150], expected)
    assert (sizes[150:] == -1).all()
    assert picture_sizes(tmp_path, []).shape == (0, 2)


# ---- the cache of decoded pictures

COUNT, SIZE = 100, 16  # four blocks, the last of four pictures


@pytest.fixture
def pictures(tmp_path):
    rng, folder, paths = np.random.default_rng(5), tmp_path / "pictures", []
    folder.mkdir()
    for number in range(COUNT):
        paths.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(1, 256, (20, 20, 3), np.uint8)).save(paths[-1])
    return paths, np.full((COUNT, 4), np.nan)


def expected_of(pictures):
    return [read_image(path, SIZE, box) for path, box in zip(*pictures, strict=True)]


def opened(tmp_path, pictures):
    return open_cache(tmp_path / "cache", *pictures, SIZE)


def assert_right(cache, pictures):
    for i, picture in enumerate(expected_of(pictures)):
        np.testing.assert_array_equal(cache[i], picture)


def pixels_of(cache):
    return np.load(cache.file)


def test_the_cache_gives_what_is_decoded(tmp_path, pictures):
    cache = opened(tmp_path, pictures)
    assert_right(cache, pictures)
    assert_right(opened(tmp_path, pictures), pictures)
    np.testing.assert_array_equal(pixels_of(cache), expected_of(pictures))
    assert len(cache) == COUNT and cache.shape == (COUNT, SIZE, SIZE, 3)
    np.testing.assert_array_equal(cache[np.int64(-1)], cache[COUNT - 1])
    with pytest.raises(IndexError):
        cache[COUNT]
    cache[0][:] = 0  # the caller's own
    assert cache[0].all()


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def blackened(file):
    size = file.stat().st_size
    with open(file, "r+b") as pixels:
        pixels.seek(128)
        pixels.write(bytes(size - 128))


def grown(file):
    with open(file, "ab") as pixels:
        pixels.write(b"x")


def headless(file):
    with open(file, "r+b") as pixels:
        pixels.write(bytes(10))


def unhashed(file):
    file.with_suffix(".blocks.json").unlink()


def hash_damaged(file):
    sidecar = file.with_suffix(".blocks.json")
    sidecar.write_text(re.sub("[0-9a-f]{64}", "0" * 64, sidecar.read_text()))


def hashes_cut(file):
    sidecar = file.with_suffix(".blocks.json")
    sidecar.write_bytes(sidecar.read_bytes()[:50])


def hashes_of_another_form(file):
    file.with_suffix(".blocks.json").write_text('{"format": 1, "sha256": {"a": []}}')


@pytest.mark.parametrize("damage", [cut, blackened, grown, headless, unhashed, hash_damaged, hashes_cut,
                                    hashes_of_another_form])
def test_a_damaged_cache_is_mended(tmp_path, pictures, capfd, damage):
    damage(opened(tmp_path, pictures).file)
    capfd.readouterr()
    cache = opened(tmp_path, pictures)
    assert_right(cache, pictures)
    notice = [line for line in capfd.readouterr().err.splitlines() if line.startswith("the cache")]
    assert len(notice) == 1 and str(cache.file) in notice[0]
    np.testing.assert_array_equal(pixels_of(cache), expected_of(pictures))
    second = opened(tmp_path, pictures)
    second.read = None  # nothing is left to decode
    assert_right(second, pictures)
    assert "the cache" not in capfd.readouterr().err


def test_one_damaged_block_is_decoded_alone(tmp_path, pictures, monkeypatch):
    file = opened(tmp_path, pictures).file
    with open(file, "r+b") as pixels:
        pixels.seek(128 + 40 * SIZE * SIZE * 3 + 5)
        pixels.write(b"\0")
    cache, decoded, read = opened(tmp_path, pictures), [], images.read_image
    cache.read = lambda *arguments: (decoded.append(arguments[0].name), read(*arguments))[1]
    assert_right(cache, pictures)
    assert decoded == [f"{i}.png" for i in range(32, 64)]


def test_a_cache_of_the_first_release_is_made_anew(tmp_path, pictures, capfd):
    """It has the same name and no hashes; its pixels may be black."""
    file = opened(tmp_path, pictures).file
    for path in file.parent.iterdir():
        path.unlink()
    np.lib.format.open_memmap(file, "w+", np.uint8, (COUNT, SIZE, SIZE, 3)).flush()
    assert_right(opened(tmp_path, pictures), pictures)
    assert "no hashes" in capfd.readouterr().err


def test_each_block_is_hashed_once(tmp_path, pictures, monkeypatch):
    cache, hashed, original = opened(tmp_path, pictures), [], image_cache._hash
    monkeypatch.setattr(image_cache, "_hash", lambda pixels: (hashed.append(1), original(pixels))[1])
    for _ in range(3):
        assert_right(cache, pictures)
    assert len(hashed) == 4


def test_a_cache_that_is_cut_while_it_is_used(tmp_path, pictures, capfd):
    """A file mapped into memory would end the process with SIGBUS here."""
    cache = opened(tmp_path, pictures)
    assert_right(cache, pictures)
    os.truncate(cache.file, 1000)
    assert_right(cache, pictures)
    cache.file.unlink()
    assert_right(cache, pictures)


def test_a_block_that_cannot_be_mended_names_the_picture(tmp_path, pictures):
    blackened(opened(tmp_path, pictures).file)
    cache = opened(tmp_path, pictures)
    pictures[0][3].write_bytes(b"x")
    with pytest.raises(UserError, match="3.png: not a readable image"):
        cache[0]
    assert_right_from = cache[40]
    np.testing.assert_array_equal(assert_right_from, read_image(pictures[0][40], SIZE))


@pytest.mark.parametrize("failure", ["reserve", "write"])
def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, pictures, monkeypatch, failure):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate" if failure == "reserve" else "pwrite", full)
        with pytest.raises(UserError, match=r"cache: No space left on device; 0\.0 GiB of decoded pictures"):
            opened(tmp_path, pictures)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}
    assert_right(opened(tmp_path, pictures), pictures)


def test_a_file_system_that_cannot_reserve_space(tmp_path, pictures, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert_right(opened(tmp_path, pictures), pictures)


def test_what_a_killed_process_leaves_is_removed(tmp_path, pictures):
    command = ("import os, sys, time, numpy as np\nfrom datasets import images\n"
               "images.read_image = lambda *arguments: (os.write(1, b'decoding\\n'), time.sleep(60))\n"
               "paths = sorted(images.Path(sys.argv[1]).iterdir())\n"
               "images.open_cache(sys.argv[2], paths, np.full((len(paths), 4), np.nan), 16)\n")
    with subprocess.Popen([sys.executable, "-c", command, pictures[0][0].parent, tmp_path / "cache"], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout.readline() == b"decoding\n"
            assert list((tmp_path / "cache").glob("*.tmp"))
            foreign = tmp_path / "cache" / "notes.tmp"
            foreign.write_text("the user's")
            open_cache(tmp_path / "cache", *pictures, SIZE + 1)  # the other process lives: its file stays
            assert len(list((tmp_path / "cache").glob("*.tmp"))) == 2
        finally:
            process.send_signal(signal.SIGKILL)
    open_cache(tmp_path / "cache", *pictures, SIZE + 2)
    assert list((tmp_path / "cache").glob("*.tmp")) == [foreign]


def test_a_cache_folder_that_cannot_be_one(tmp_path, pictures):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="the cache .*cache: "):
        opened(tmp_path, pictures)
    (tmp_path / "cache").unlink()
    file = opened(tmp_path, pictures).file
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="no regular file"):
        opened(tmp_path, pictures)
    with pytest.raises(UserError, match="null byte"):
        open_cache(tmp_path / "cache", [Path("a\0b")], np.full((1, 4), np.nan), SIZE)


def test_names_outside_utf8(tmp_path, pictures):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    odd.write_bytes(pictures[0][0].read_bytes())
    cache = open_cache(tmp_path / "cache", [odd], np.full((1, 4), np.nan), SIZE)
    np.testing.assert_array_equal(cache[0], read_image(odd, SIZE))


def _read_all(cache, results):
    results.put([cache[i].tobytes() for i in range(len(cache))])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_read_the_cache(tmp_path, pictures, method):
    cache = opened(tmp_path, pictures)
    blackened(cache.file)
    context = multiprocessing.get_context(method)
    results = context.Queue()
    processes = [context.Process(target=_read_all, args=(cache, results)) for _ in range(2)]
    expected = [picture.tobytes() for picture in expected_of(pictures)]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            assert results.get(timeout=60) == expected
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    if method == "fork":
        assert cache._checked[:] == b"\1" * 4  # what the children have checked is known here
    assert_right(pickle.loads(pickle.dumps(cache)), pictures)


def test_threads_mend_a_block_once(tmp_path, pictures):
    blackened(opened(tmp_path, pictures).file)
    cache, decoded = opened(tmp_path, pictures), []

    def read(*arguments):
        decoded.append(1)
        time.sleep(0.001)
        return read_image(*arguments)

    cache.read = read
    threads = [threading.Thread(target=assert_right, args=(cache, pictures)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == COUNT


# ---- the fuzz

@pytest.mark.slow
def test_mutated_pictures_end_in_one_line(tmp_path):
    counts = fuzz_pictures.run(400, 0, tmp_path)
    assert len(counts) == 8 and not list(tmp_path.iterdir())
    total = {name: sum(row[name] for row in counts.values()) for name in ("read", "refused", "past the header")}
    assert total["read"] + total["refused"] == 400
    assert total["past the header"] >= 100 and total["read"] >= 40 and total["refused"] >= 40
