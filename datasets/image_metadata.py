"""The orientation in a picture's metadata, and pictures without their metadata.

The orientation is all that metadata say about the pixels. Photographs from the web have tags of the wrong type,
fractions with the denominator zero and truncated blocks, and Pillow refuses some of these files although their pixels
are sound. So the orientation is read here entry by entry, and `without_metadata` gives `datasets.images` a file that
can be decoded.
"""
import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

ORIENTATION = 0x0112  # the tag of EXIF and TIFF; 1 is upright, 2 to 8 are mirrored or turned
# The tags of a TIFF file that describe its pixels: sizes, bits, compression, strips, tiles, colours (TIFF 6.0).
PIXEL_TAGS = frozenset({254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324,
                        325, 332, 338, 339, 347, 529, 530, 531, 532})
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def orientation_of(image: Image.Image) -> int:
    """The orientation of a loaded picture: 1 to 8, and 1 (upright) where there is none.

    It is looked for in this order: Pillow's reading of EXIF and XMP, the EXIF block read entry by entry, the XMP text.
    A TIFF picture gives 1, since Pillow turns it while it loads.
    """
    if isinstance(image, TiffImageFile):
        return 1
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # Pillow may raise anything on a malformed block
        value = None
    if value is None:
        value = _orientation_in_exif(image.info)
    if value is None:
        value = _orientation_in_xmp(image.info)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _orientation_in_exif(info: Mapping[Any, Any]) -> int | None:
    """The orientation in the EXIF block of `Image.info`, or None."""
    block = info.get("exif")
    if block is None and isinstance(info.get("Raw profile type exif"), str):  # how ImageMagick keeps EXIF in a PNG
        try:
            block = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
        except ValueError:
            return None
    if not isinstance(block, bytes):
        return None
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    return _orientation_in_tags(block)


def _orientation_in_tags(block: bytes) -> int | None:
    """The orientation in the first directory of a TIFF structure (bytes), or None."""
    directory = _first_directory(block)
    if directory is None:
        return None
    order, _, entries = directory
    for entry in entries:
        tag, kind, count = struct.unpack(order + "HHL", entry[:8])
        if tag == ORIENTATION and count == 1 and kind in (3, 4):  # a 16-bit or 32-bit integer
            if kind == 3:
                return struct.unpack(order + "H", entry[8:10])[0]
            return struct.unpack(order + "L", entry[8:12])[0]
    return None


def _first_directory(block: bytes) -> tuple[str, int, list[bytes]] | None:
    """The first directory of tags in a TIFF structure: byte order for `struct`, offset of the directory, its entries of
    12 bytes each. None where there is none. A truncated directory gives its whole entries."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 10:
        return None
    place = struct.unpack(order + "L", block[4:8])[0]
    if place + 2 > len(block):
        return None
    count = struct.unpack(order + "H", block[place:place + 2])[0]
    count = min(count, (len(block) - place - 2) // 12)
    return order, place, [block[start:start + 12] for start in range(place + 2, place + 2 + 12 * count, 12)]


def _orientation_in_xmp(info: Mapping[Any, Any]) -> int | None:
    """The orientation in the XMP text of `Image.info`, or None."""
    for key in ("XML:com.adobe.xmp", "xmp"):
        text = info.get(key)
        if isinstance(text, str):
            text = text.encode("utf-8", "replace")
        match = XMP_ORIENTATION.search(text) if isinstance(text, bytes) else None
        if match:
            return int(match[1])
    return None


def without_metadata(data: bytes) -> tuple[bytes, int | None] | None:
    """A file without everything that does not describe its pixels, and the orientation that was removed with it.

    data: the bytes of a JPEG, PNG or TIFF file. The orientation is None where there is none. Returns None for other
    formats and where the structure of the file is broken.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_without_metadata(data)
    if data.startswith(PNG_SIGNATURE):
        return _png_without_metadata(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_without_metadata(data)
    return None


def _jpeg_without_metadata(data: bytes) -> tuple[bytes, int | None] | None:
    """A JPEG file without comments and application segments, except complete ones that describe the colour space (JFIF
    and Adobe)."""
    kept = [data[:2]]
    place = 2
    in_exif: int | None = None
    in_xmp: int | None = None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:  # the pixels begin
            kept.append(data[place:])
            orientation = in_xmp if in_exif is None else in_exif
            return b"".join(kept), orientation
        end = place + 2 + int.from_bytes(data[place + 2:place + 4], "big")
        content = data[place + 4:end]
        is_colour = ((marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14)
                     or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12))
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if is_colour or not is_metadata:
            kept.append(data[place:end])
        elif content.startswith(b"Exif\0\0") and in_exif is None:
            in_exif = _orientation_in_exif({"exif": content})
        elif content.startswith(b"http://ns.adobe.com/xap/1.0/\0") and in_xmp is None:
            in_xmp = _orientation_in_xmp({"xmp": content})
        place = end
    return None


def _png_without_metadata(data: bytes) -> tuple[bytes, int | None]:
    """The critical chunks of a PNG file alone; their names begin with a capital letter."""
    kept = [PNG_SIGNATURE]
    place = len(PNG_SIGNATURE)
    orientation: int | None = None
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place:place + 4], "big")
        name = data[place + 4:place + 8]
        if name[:1].isupper():
            kept.append(data[place:end])
        elif name == b"eXIf":
            orientation = _orientation_in_exif({"exif": data[place + 8:end - 4]})
        if name == b"IEND":
            break
        place = end
    return b"".join(kept), orientation


def _tiff_without_metadata(data: bytes) -> tuple[bytes, int | None] | None:
    """A TIFF file with only those tags of its first picture that describe pixels. The data that they point to stay
    where they are, so the offsets remain valid."""
    directory = _first_directory(data)
    if directory is None:
        return None
    order, place, entries = directory
    kept = [entry for entry in entries if struct.unpack(order + "H", entry[:2])[0] in PIXEL_TAGS]
    table = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)  # four zeros: no further picture
    stripped = data[:place] + table + data[place + len(table):]
    return stripped, _orientation_in_tags(data)
