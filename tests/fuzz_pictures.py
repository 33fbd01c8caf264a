"""Mutated pictures in eight formats: each is read or refused in one line, never anything else.

  python tests/fuzz_pictures.py --count 20000 --seed 0           counts per format; exit 1 when a case fails

The pictures are drawn from a generator. A case that raises anything but a UserError, whose message is not one printable
line, or that takes longer than five seconds fails; its bytes are saved in the folder given by --save.
"""
import argparse
import io
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.images import FORMATS, read_image
from support.errors import UserError
from support.random_streams import keyed_rng
 # noqa: E402
 # noqa: E402
 # noqa: E402

LIMIT = 5  # seconds a case may take
SIZE = 24  # pixels of the picture that is read
ATTEMPTS = 4  # mutations drawn until one keeps the header readable; a quarter of the cases takes the first


def drawn(rng: np.random.Generator) -> Image.Image:
    """A smooth picture with noise in RGB, of 8 to 48 pixels a side."""
    height, width = rng.integers(8, 49, 2)
    slopes = rng.uniform(-4, 4, (2, 3))
    rows, columns = np.mgrid[:height, :width]
    values = 128 + rows[..., None] * slopes[0] + columns[..., None] * slopes[1] + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def exif(rng: np.random.Generator) -> Image.Exif:
    """Tags of all kinds: numbers, texts, rationals, directories of their own."""
    tags = Image.Exif()
    tags[0x0112] = int(rng.integers(1, 9))
    tags[0x010F], tags[0x011A], tags[0x0128], tags[0x0132] = "maker", 72.0, 2, "2020:01:01 00:00:00"
    tags.get_ifd(0x8769).update({0x829A: 0.01, 0x9000: b"0230", 0xA002: 48})
    tags.get_ifd(0x8825).update({0x0001: "N", 0x0002: (48.0, 1.0, 2.0)})
    return tags


def baseline_jpeg(rng: np.random.Generator) -> bytes:
    return saved(drawn(rng), "jpeg", quality=int(rng.integers(30, 96)))


def progressive_jpeg_with_exif(rng: np.random.Generator) -> bytes:
    return saved(drawn(rng), "jpeg", progressive=True, exif=exif(rng), comment=b"drawn", icc_profile=bytes(200))


def cmyk_jpeg(rng: np.random.Generator) -> bytes:
    return saved(drawn(rng).convert("CMYK"), "jpeg", exif=exif(rng))


def png(rng: np.random.Generator) -> bytes:
    kind, picture = rng.integers(5), drawn(rng)
    if kind == 0:
        return saved(picture, "png", exif=exif(rng))
    if kind == 1:
        return saved(picture.convert("L"), "png")
    if kind == 2:
        return saved(picture.quantize(16), "png", transparency=0)
    if kind == 3:
        return saved(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "png")
    return saved(picture, "png", save_all=True, append_images=[picture.rotate(90)])


def webp(rng: np.random.Generator) -> bytes:
    return saved(drawn(rng), "webp", lossless=bool(rng.integers(2)), exif=exif(rng))


def bmp(rng: np.random.Generator) -> bytes:
    return saved(drawn(rng).convert(("RGB", "L", "P", "1")[rng.integers(4)]), "bmp")


def tiff(rng: np.random.Generator) -> bytes:
    picture = drawn(rng)
    kind = rng.integers(4)
    if kind == 1:
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.float32) / 255)
    elif kind == 2:
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    compression = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")[rng.integers(4)]
    return saved(picture, "tiff", compression=compression, tiffinfo={0x0112: int(rng.integers(1, 9)), 0x010F: "maker"})


def gif(rng: np.random.Generator) -> bytes:
    picture = drawn(rng)
    return saved(picture, "gif", save_all=True, append_images=[picture.rotate(90)] if rng.integers(2) else [])


SOURCES: dict[str, Callable[[np.random.Generator], bytes]] = {
    "JPEG baseline": baseline_jpeg, "JPEG progressive": progressive_jpeg_with_exif, "JPEG CMYK": cmyk_jpeg, "PNG": png,
    "WebP": webp, "BMP": bmp, "TIFF": tiff, "GIF": gif,
}


def saved(picture: Image.Image, name: str, **options) -> bytes:
    """The picture as a file of this format."""
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def flip_bits(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    for place in rng.integers(4, len(data), rng.integers(1, 12)):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    return data[:int(rng.integers(4, len(data)))]


def remove(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    start = int(rng.integers(4, len(data)))
    del data[start:start + int(rng.integers(1, 64))]
    return data


def insert(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    start = int(rng.integers(4, len(data)))
    data[start:start] = rng.bytes(int(rng.integers(1, 64)))
    return data


def splice(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    start, source = int(rng.integers(4, len(data))), int(rng.integers(0, len(other)))
    length = int(rng.integers(1, 200))
    data[start:start + length] = other[source:source + length]
    return data


def edit_fields(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    """Numbers that matter: 0, 1, the largest of 16 and 32 bits, in both byte orders; mostly near the beginning."""
    for _ in range(int(rng.integers(1, 6))):
        number = (0, 1, 2, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)[rng.integers(7)]
        field = struct.pack(("<", ">")[rng.integers(2)] + ("L" if number > 0xFFFF else "HL"[rng.integers(2)]), number)
        reach = len(data) if rng.integers(2) else min(len(data), 400)
        start = int(rng.integers(4, max(5, reach - 4)))
        data[start:start + len(field)] = field
    return data


def edit_tags(data: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    """Entries of EXIF and TIFF directories get another type, count, or value."""
    for order in ("<", ">"):
        start = max(data.find(b"II*\0" if order == "<" else b"MM\0*"), -1)
        if start < 0 or start + 8 > len(data):
            continue
        place = start + struct.unpack_from(order + "L", data, start + 4)[0]
        for _ in range(int(rng.integers(1, 4))):
            entry = place + 2 + 12 * int(rng.integers(12))
            if entry + 12 <= len(data):
                kind = rng.integers(4)
                if kind == 0:
                    struct.pack_into(order + "H", data, entry + 2, int(rng.integers(0, 20)))
                elif kind == 1:
                    struct.pack_into(order + "L", data, entry + 4, int(2.0 ** rng.uniform(0, 32)) - 1)
                elif kind == 2:
                    struct.pack_into(order + "L", data, entry + 8, int(2.0 ** rng.uniform(0, 32)) - 1)
                else:
                    struct.pack_into(order + "H", data, entry, int(rng.choice((256, 257, 274, 282, 296, 34665, 700))))
    return data


MUTATIONS = (flip_bits, cut, remove, insert, splice, edit_fields, edit_tags)


def header_is_read(data: bytes) -> bool:
    """Does Pillow get past the header, to the pixels?"""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS)
        return True
    except Exception:
        return False


def mutated(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """One to three mutations; three of four cases are drawn again until the header can be read."""
    attempts = ATTEMPTS if rng.integers(4) else 1
    for _ in range(attempts):
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            if len(changed) > 8:
                changed = MUTATIONS[rng.integers(len(MUTATIONS))](changed, rng, other)
        if header_is_read(bytes(changed)):
            break
    return bytes(changed)


def failure_of(data: bytes) -> tuple[bool, str | None]:
    """Was the picture read, and what is wrong with how that went (None: nothing)?"""
    began, is_read, failure = time.monotonic(), False, None
    try:
        pixels = read_image(io.BytesIO(data), SIZE)
        is_read = True
        if pixels.shape != (SIZE, SIZE, 3) or pixels.dtype != np.uint8:
            failure = f"it gave {pixels.shape} {pixels.dtype}"
    except UserError as error:
        if len(str(error).splitlines()) != 1 or not str(error).isprintable():
            failure = f"its message is not one printable line: {str(error)!r}"
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    if time.monotonic() - began > LIMIT:
        failure = failure or f"it took {time.monotonic() - began:.1f} seconds"
    return is_read, failure


def run(count: int, seed: int, save: Path) -> dict[str, dict[str, int]]:
    """Try `count` cases. Returns {format: {"read", "refused", "past the header", "failed": number of cases}}; what
    failed is saved in `save` and said on stderr."""
    rows = {name: dict.fromkeys(("read", "refused", "past the header", "failed"), 0) for name in SOURCES}
    names = list(SOURCES)
    for case in range(count):
        name, rng = names[case % len(names)], keyed_rng(seed, "fuzz of pictures", case)
        other = SOURCES[names[rng.integers(len(names))]](rng)
        data = mutated(SOURCES[name](rng), rng, other)
        is_read, failure = failure_of(data)
        row = rows[name]
        row["read" if is_read else "refused"] += 1
        row["past the header"] += header_is_read(data)
        if failure is not None:
            row["failed"] += 1
            save.mkdir(parents=True, exist_ok=True)
            (save / f"{case}.bin").write_bytes(data)
            print(f"case {case}, {name}: {failure}; saved as {save / f'{case}.bin'}", file=sys.stderr)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of mutated pictures (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default 0)")
    parser.add_argument("--save", type=Path, default=Path("fuzz_failures"), help="folder for cases that fail")
    args = parser.parse_args()
    began = time.monotonic()
    rows = run(args.count, args.seed, args.save)
    columns = ("read", "refused", "past the header", "failed")
    print(f"{'':18}" + "".join(f"{column:>17}" for column in columns))
    total = {column: sum(row[column] for row in rows.values()) for column in columns}
    for name, row in (rows | {"all": total}).items():
        print(f"{name:18}" + "".join(f"{row[column]:>17}" for column in columns))
    print(f"{args.count} cases, seed {args.seed}, {time.monotonic() - began:.0f} s")
    return 1 if total["failed"] or 4 * total["past the header"] < args.count else 0


if __name__ == "__main__":
    sys.exit(main())
