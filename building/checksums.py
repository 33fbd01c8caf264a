"""checksums.sha256: the hash of every file of a set, in the format of `sha256sum -c`.

A set without images/ lists the hashes of its images in images.sha256, and that file in checksums.sha256. The manifest
holds a hash of the lines of all files except itself and images.sha256 (`content_hash`); the lines of the images are
among them. And checksums.sha256 lists the manifest: neither of the two can be changed alone. Lines are in the order of
the names of the files.
"""
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from building.integrity import HEX, digest, read_regular, require, sha256
from building.layout import OPTIONAL_TABLES, image_folders, image_suffix, tables_of_set
from support.errors import DamagedFile, first_line
from support.files import write_text, write_whole

Line = tuple[str, str]  # (sha256 in hexadecimal, name of the file relative to the set)

# The parts of a line as the file holds it, "<sha256>  <name>": `image_hashes` slices millions of them.
HASH, END = slice(64), slice(64, None)  # END: two blanks and the name
NAME = slice(66, None)
HASH_BYTES = 32  # of a sha256 that is not written in hexadecimal


def line_name(line: Line) -> str:
    """The name in a line, by which lines are sorted."""
    return line[1]


def content_hash(lines: Iterable[Line]) -> str:
    """One hash over the lines of all files, those listed in images.sha256 included.

    Two lines are left out: that of manifest.json, which holds the hash, and that of images.sha256 itself, so that a set
    has the same hash with and without images/."""
    return digest(f"{value}  {name}" for value, name in lines if name not in ("manifest.json", "images.sha256"))


def sorted_entries(tables: Iterable[str], folders: Iterable[str]) -> list[str]:
    """The entries of a list of checksums, by name: tables, and folders of images with a final "/"."""
    return sorted([*tables, *(f"{folder}/" for folder in folders)])


# ---- writing

def seal(folder: Path, manifest: Mapping[str, Any], hashes: Mapping[str, bytes], keeps_images: bool = True) -> None:
    """Write checksums.sha256 and then manifest.json, which makes the folder a set.

    manifest: without its content hash; hashes: {id: the hashes of the image's files, 32 bytes each, in the order of
    `layout.image_folders`}. Where images/ is not kept, the lines of its files go to images.sha256; the manifest is
    the same.
    """
    names = tables_of_set(manifest["made_with"])
    tables = {name: sha256((folder / name).read_bytes()) for name in names if (folder / name).exists()}

    def lines() -> Iterator[Line]:
        return _set_lines(tables, hashes, manifest["made_with"])

    text = json.dumps({**manifest, "content": content_hash(lines())}, indent=1, sort_keys=True) + "\n"
    last_lines = [(sha256(text.encode()), "manifest.json")]
    kept_lines = lines()
    if not keeps_images:
        kept_lines = (line for line in lines() if not _is_corrupted_image(line))
        _write_lines(folder / "images.sha256", (line for line in lines() if _is_corrupted_image(line)))
        last_lines.insert(0, (sha256((folder / "images.sha256").read_bytes()), "images.sha256"))
    _write_lines(folder / "checksums.sha256", heapq.merge(kept_lines, last_lines, key=line_name))
    write_text(folder / "manifest.json", text)


def _set_lines(tables: Mapping[str, str], hashes: Mapping[str, bytes],
               made_with: Mapping[str, Any]) -> Iterator[Line]:
    """The lines of all files but the manifest, by name. One folder is sorted at a time: there may be millions."""
    folders = image_folders(made_with)
    for entry in sorted_entries(tables, folders):
        if entry in tables:
            yield tables[entry], entry
            continue
        folder = entry.rstrip("/")
        start = HASH_BYTES * folders.index(folder)
        suffix = image_suffix(folder, made_with["image_format"])
        for name, image_id in sorted((f"{entry}{image_id}.{suffix}", image_id) for image_id in hashes):
            yield hashes[image_id][start:start + HASH_BYTES].hex(), name


def _is_corrupted_image(line: Line) -> bool:
    return line_name(line).startswith("images/")


def _write_lines(path: Path, lines: Iterable[Line]) -> None:
    write_whole(path, lambda file: file.writelines(f"{value}  {name}\n" for value, name in lines), "w")


# ---- reading

def read_lines(folder: Path) -> Iterator[Line]:
    """The lines of all files of a set, images.sha256 included, by name. Raises DamagedFile on anything else, and on a
    name that leads out of the set."""
    file, images_file = folder / "checksums.sha256", folder / "images.sha256"
    try:
        parts = [_parse_lines(file)]
        if images_file.exists():
            parts.append(_parse_lines(images_file))
        yield from heapq.merge(*parts, key=line_name)
    except FileNotFoundError:
        raise DamagedFile(f"{file} is missing") from None
    except ValueError as error:  # UnicodeDecodeError among them
        raise DamagedFile(f"{folder}: the checksums are damaged ({first_line(error)})") from None


def _parse_lines(file: Path) -> Iterator[Line]:
    """The lines of one file. Raises ValueError where one is malformed or names a file outside the set."""
    for number, line in enumerate(read_regular(file).decode("ascii").splitlines(), 1):
        value, _, name = line.partition("  ")
        leads_out = not set(name.split("/")).isdisjoint({"", ".", ".."})
        if not HEX.fullmatch(value) or not name.isprintable() or leads_out:
            raise ValueError(f"line {number} of {file.name} is not a sha256 and the name of a file of the set")
        yield value, name


@dataclass(frozen=True)
class Checksums:
    """The hashes that the files of a set have to have. Lines of images are parsed by `image_hashes`, once labels.csv
    has been compared with its hash, since the names of the images follow from it."""

    file: Path  # checksums.sha256, for messages
    lines: list[bytes]  # "<sha256>  <name>" of all files but the manifest, by name, those in images.sha256 included
    tables: dict[str, str]  # {table: sha256}


def read_checksums(folder: Path, manifest: Mapping[str, Any]) -> Checksums:
    """checksums.sha256 of a set, with images.sha256 where it lists one. Raises DamagedFile where a list is missing,
    malformed or not the one that was written with the manifest."""
    file = folder / "checksums.sha256"
    try:
        lines = _split_lines(file)
        manifest_line = lines.pop(_position(lines, b"manifest.json", file))
        _require_hash(folder / "manifest.json", manifest_line)
        if any(line[END] == b"  images.sha256" for line in lines):
            place = _position(lines, b"images.sha256", file)
            _require_hash(folder / "images.sha256", lines[place])
            lines[place:place + 1] = _split_lines(folder / "images.sha256")  # its lines belong there by name
    except OSError as error:
        raise DamagedFile(f"{error.filename}: {error.strerror}") from None
    content = sha256(b"\n".join(lines) + b"\n")
    require(content == manifest["content"], file, "it does not give the manifest's content hash")
    hash_of_file = {line[NAME].decode(): line[HASH].decode() for line in lines if b"/" not in line}
    names = tables_of_set(manifest["made_with"])
    tables = {name: hash_of_file[name] for name in names if name in hash_of_file}
    for name in names:
        require(name in tables or name in OPTIONAL_TABLES, file, f"it does not list {name}")
    return Checksums(file, lines, tables)


def _split_lines(file: Path) -> list[bytes]:
    data = read_regular(file)
    require(data.isascii() and data.endswith(b"\n"), file, "not in sha256sum's format")
    return data[:-1].split(b"\n")


def _position(lines: list[bytes], name: bytes, file: Path) -> int:
    """The position of the line of a file. Raises DamagedFile where there is none."""
    for position, line in enumerate(lines):
        if line[END] == b"  " + name:
            return position
    raise DamagedFile(f"{file} is damaged (it does not list {name.decode()})")


def _require_hash(path: Path, line: bytes) -> None:
    """Raises DamagedFile unless a file has the hash in its line."""
    require(line[HASH].decode("ascii") == sha256(read_regular(path)), path, "its hash differs from checksums.sha256")


def image_hashes(checksums: Checksums, ids: list[str], made_with: Mapping[str, Any]) -> np.ndarray:
    """The hashes of all images: uint8 (F, N, 32), in the order of the F `layout.image_folders` and of `ids`. made_with:
    the settings in the manifest. Raises DamagedFile unless exactly the files of these images are listed, in the order
    in which they were written."""
    folders, image_format = image_folders(made_with), made_with["image_format"]
    hashes = np.empty((len(folders), len(ids), HASH_BYTES), np.uint8)
    order_by_suffix = {suffix: _order_of_files(ids, suffix) for suffix in {"png", image_format}}
    start = 0
    for entry in sorted_entries(checksums.tables, folders):
        if entry in checksums.tables:
            start += 1
            continue
        folder = entry.rstrip("/")
        suffix = image_suffix(folder, image_format)
        order = order_by_suffix[suffix]
        lines = checksums.lines[start:start + len(ids)]
        ends = [f"  {entry}{ids[i]}.{suffix}".encode() for i in order]
        require([line[END] for line in lines] == ends, checksums.file,
                f"it does not list the images of {entry} as labels.csv names them")
        hashes[folders.index(folder), order] = _parse_hashes(lines, entry, checksums.file)
        start += len(ids)
    require(start == len(checksums.lines), checksums.file, "it lists files that are no part of the set")
    return hashes


def _order_of_files(ids: list[str], suffix: str) -> list[int]:
    """The positions in `ids` in the order of the names of their files."""
    return sorted(range(len(ids)), key=lambda i: f"{ids[i]}.{suffix}")


def _parse_hashes(lines: list[bytes], entry: str, file: Path) -> np.ndarray:
    """The hashes of lines as uint8 (number of lines, 32). Raises DamagedFile where one is malformed."""
    try:
        data = bytes.fromhex(b"".join(line[HASH] for line in lines).decode())
    except ValueError:
        data = b""
    require(len(data) == HASH_BYTES * len(lines), file, f"a hash of {entry} is malformed")
    return np.frombuffer(data, np.uint8).reshape(len(lines), HASH_BYTES)
