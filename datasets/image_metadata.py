"""What a picture's metadata say about its pixels, read so that a malformed tag elsewhere does no harm.

Only the orientation counts for the pixels. Web photographs carry tags of the wrong type, rationals over zero and cut
blocks; Pillow gives up on some of them although the pixels are sound.
"""
import re
import struct

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

ORIENTATION = 0x0112  # the tag of EXIF and TIFF; 1 is upright, 2 to 8 are mirrored or turned
# The tags of a TIFF file that describe its pixels: sizes, bits, compression, strips, tiles, colours (TIFF 6.0).
PIXEL_TAGS = frozenset({254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324,
                        325, 332, 338, 339, 347, 529, 530, 531, 532})
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def orientation_of(image: Image.Image) -> int:
    """The orientation, 1 to 8, of a loaded picture; 1 where nothing says otherwise.

    Sources in this order: Pillow's reading of EXIF and XMP, the EXIF block read entry by entry, the XMP text. A TIFF
    picture gives 1: Pillow turns it while it loads.
    """
    if isinstance(image, TiffImageFile):
        return 1
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # whatever Pillow makes of a malformed block
        value = None
    if value is None:
        value = _orientation_in_exif(image.info)
    if value is None:
        value = _orientation_in_xmp(image.info)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _orientation_in_exif(info):
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


def _orientation_in_tags(block):
    """The orientation in the first directory of a TIFF structure (bytes), or None."""
    directory = _first_directory(block)
    if directory is None:
        return None
    order, _, entries = directory
    for entry in entries:
        tag, kind, count = struct.unpack(order + "HHL", entry[:8])
        if tag == ORIENTATION and count == 1 and kind in (3, 4):  # a 16-bit or 32-bit integer
            return struct.unpack(order + ("H" if kind == 3 else "L"), entry[8:10 if kind == 3 else 12])[0]
    return None


def _first_directory(block):
    """(byte order for struct, place of the directory, its entries of 12 bytes each) of a TIFF structure, or None. A
    directory that is cut gives the entries before the cut."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 10:
        return None
    place = struct.unpack(order + "L", block[4:8])[0]
    if place + 2 > len(block):
        return None
    count = struct.unpack(order + "H", block[place:place + 2])[0]
    count = min(count, (len(block) - place - 2) // 12)
    return order, place, [block[start:start + 12] for start in range(place + 2, place + 2 + 12 * count, 12)]


def _orientation_in_xmp(info):
    for key in ("XML:com.adobe.xmp", "xmp"):
        text = info.get(key)
        if isinstance(text, str):
            text = text.encode("utf-8", "replace")
        match = XMP_ORIENTATION.search(text) if isinstance(text, bytes) else None
        if match:
            return int(match[1])
    return None


def without_metadata(data: bytes) -> tuple[bytes, int | None] | None:
    """A JPEG, PNG or TIFF file (its bytes) without what does not describe pixels, and the orientation that went with
    it (None where the file itself still tells it). None for other formats and where the structure cannot be followed.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_without_metadata(data)
    if data.startswith(PNG_SIGNATURE):
        return _png_without_metadata(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_without_metadata(data)
    return None


def _jpeg_without_metadata(data):
    """Without comments and application segments, except the two that tell the colour space and are whole."""
    kept, place, in_exif, in_xmp = [data[:2]], 2, None, None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:  # the pixels begin
            kept.append(data[place:])
            return b"".join(kept), in_xmp if in_exif is None else in_exif
        end = place + 2 + int.from_bytes(data[place + 2:place + 4], "big")
        segment, content = data[place:end], data[place + 4:end]
        colours = ((marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14)
                   or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12))
        if colours or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        elif content.startswith(b"Exif\0\0") and in_exif is None:
            in_exif = _orientation_in_exif({"exif": content})
        elif content.startswith(b"http://ns.adobe.com/xap/1.0/\0") and in_xmp is None:
            in_xmp = _orientation_in_xmp({"xmp": content})
        place = end
    return None


def _png_without_metadata(data):
    """The critical chunks alone (their names begin with a capital letter)."""
    kept, place, orientation = [PNG_SIGNATURE], len(PNG_SIGNATURE), None
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


def _tiff_without_metadata(data):
    """The tags of the first picture's pixels alone. They stay where they were, so what they point at stays right."""
    directory = _first_directory(data)
    if directory is None:
        return None
    order, place, entries = directory
    kept = [entry for entry in entries if struct.unpack(order + "H", entry[:2])[0] in PIXEL_TAGS]
    table = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)  # four zeros: no further picture
    stripped = data[:place] + table + data[place + len(table):]
    return stripped, _orientation_in_tags(data)
