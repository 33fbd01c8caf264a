"""Decoded pictures in one file, which is checked as it is read and mended from the pictures.

A block is `BLOCK` consecutive pictures. Beside the file of pixels, <key>.npy, lie the hashes of its blocks,
<key>.blocks.json, and a lock, <key>.lock, without which nobody writes. The file is read by position, never mapped into
memory: a file that is cut while it is mapped ends the process without a word.
"""
import errno
import fcntl
import hashlib
import io
import json
import math
import mmap
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

import cli
from cli import DamagedFile, UserError

BLOCK = 32  # pictures hashed together: 4.6 MiB at 224 pixels, hashed in 4 ms
FORMAT = 1  # of <key>.blocks.json
TEMPORARY = re.compile(r"\.?([0-9a-f]{32})\..*\.tmp")  # what a killed process may leave, and its key


class ImageCache:
    """The pictures of a data set, decoded: `cache[i]` is a new uint8 array (size, size, 3).

    The hash of a block is checked once in a run, when its first picture is read; a block that is damaged is decoded
    again from the pictures and mended on disk, which is said once on stderr. Works in processes that were forked (they
    share what has been checked) and in those that got the object pickled (they open the file anew).
    """

    def __init__(self, file: Path, paths: Sequence[Path], boxes: np.ndarray, size: int,
                 read: Callable[[Path, int, np.ndarray], np.ndarray], hashes: list[str]):
        """file: made and checked by `open`; read(path, size, box): a picture as uint8 (size, size, 3); hashes: the
        SHA-256 of every block."""
        self.file, self.paths, self.boxes, self.size = file, paths, boxes, size
        self.read, self.hashes = read, hashes
        self.shape = (len(paths), size, size, 3)
        self._header, self._picture_bytes = _header(self.shape), size * size * 3
        self._prepare()

    def _prepare(self):
        self._open_file, self._is_reported = None, False
        self._checked = mmap.mmap(-1, max(1, len(self.hashes)))  # one byte a block, shared with forked processes

    def __getstate__(self):
        hidden = ("_open_file", "_checked", "_is_reported")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._prepare()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        """Picture i, uint8 (size, size, 3), the caller's own. Raises IndexError, and UserError where the file is
        damaged and cannot be mended."""
        i = int(i) + (len(self) if i < 0 else 0)
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        block = i // BLOCK
        if not self._checked[block]:
            return self._check(block)[i - block * BLOCK].copy()
        picture = np.empty(self.shape[1:], np.uint8)
        if not self._fill_from_file(picture, i):  # the file was cut since its block was checked
            return self._check(block)[i - block * BLOCK].copy()
        return picture

    @classmethod
    def open(cls, folder: Path, paths: Sequence[Path], boxes: np.ndarray, size: int,
             read: Callable[[Path, int, np.ndarray], np.ndarray]) -> "ImageCache":
        """The cache of these pictures in `folder`; made when it is absent, cut, or without valid hashes (as those of
        the first release are). Raises UserError; what could not be finished leaves no file of pixels behind."""
        file = folder / f"{_key(paths, boxes, size)}.npy"
        shape = (len(paths), size, size, 3)
        need = _file_bytes(shape)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_remains(folder)
            with _lock(file):
                hashes = _stored_hashes(file, shape)
                if hashes is None:
                    hashes = _fill(file, paths, boxes, shape, read)
                return cls(file, paths, boxes, size, read, hashes)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            more = f"; {need / 2**30:.1f} GiB of decoded pictures have to fit there" if full else ""
            raise UserError(f"--cache {folder}: {error.strerror}{more}") from None

    def _fill_from_file(self, pixels, first):
        """Read pictures from number `first` on into `pixels`, as many as it holds. False where the file is too short.
        The operating system's calls name a position, so threads and forked processes do not disturb each other."""
        file = self._open_file  # held here, so that no other thread closes it meanwhile
        if file is None:
            file = self._open_file = open(self.file, "rb", buffering=0)
        number, start = file.fileno(), len(self._header) + first * self._picture_bytes
        done = os.preadv(number, [pixels], start)
        while done < pixels.nbytes:  # a read may end early, as at 2 GiB; at the end of the file it gives nothing
            count = os.preadv(number, [memoryview(pixels).cast("B")[done:]], start + done)
            if count == 0:
                return False
            done += count
        return True

    def _check(self, block):
        """The pictures of a block, uint8 (count, size, size, 3), after a look at their hash; mended if need be."""
        try:
            pixels = self._checked_pixels(block)
            if pixels is None:
                with _lock(self.file):
                    self._open_file = None  # another process may have made the file anew
                    pixels = self._checked_pixels(block)  # or mended it
                    if pixels is None:
                        pixels = self._mend(block)
        except OSError as error:
            raise UserError(f"--cache {self.file}: {error.strerror}") from None
        self._checked[block] = 1
        return pixels

    def _checked_pixels(self, block):
        first = block * BLOCK
        pixels = np.empty((min(BLOCK, len(self) - first), *self.shape[1:]), np.uint8)
        try:
            is_whole = self._fill_from_file(pixels, first)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOENT):
                raise
            return None
        return pixels if is_whole and _hash(pixels) == self.hashes[block] else None

    def _mend(self, block):
        if not self._is_reported:
            self._is_reported = True
            last = min(len(self), (block + 1) * BLOCK)
            print(f"--cache {self.file}: pictures {block * BLOCK + 1} to {last} of {len(self)} are damaged in it; "
                  "whatever is damaged is decoded again from the pictures", file=sys.stderr)
        pixels = _decode_block(block, self.paths, self.boxes, self.size, self.read)
        if _hash(pixels) != self.hashes[block]:  # the hash itself was damaged, or another Pillow decodes otherwise
            self.hashes[block] = _hash(pixels)
            _store_hashes(self.file, self.hashes, self.shape)
        number = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _write_at(number, self._header, 0)
            _write_at(number, pixels, len(self._header) + block * BLOCK * self._picture_bytes)
        finally:
            os.close(number)
        return pixels


def _key(paths, boxes, size):
    key = hashlib.sha256(repr(size).encode() + np.ascontiguousarray(boxes, np.float64).tobytes())
    for path in paths:
        try:
            state = os.stat(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        key.update(os.fsencode(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n"))
    return key.hexdigest()[:32]


@contextmanager
def _lock(file):
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_remains(folder):
    """Delete what killed processes left half-written. A temporary file whose lock is free belongs to nobody."""
    for path in folder.iterdir():
        name = TEMPORARY.fullmatch(path.name)
        if name is None or not path.is_file():
            continue
        try:
            with open(folder / f"{name[1]}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # another process is writing it, or it is another user's
            continue


def _header(shape):
    """The first bytes of a .npy file with uint8 values of this shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _file_bytes(shape):
    return len(_header(shape)) + math.prod(shape)


def _hash(pixels):
    return hashlib.sha256(pixels).hexdigest()


def _hashes_file(file):
    return file.with_suffix(".blocks.json")


def _store_hashes(file, hashes, shape):
    text = json.dumps({"format": FORMAT, "shape": list(shape), "block": BLOCK, "sha256": hashes})
    cli.write_text(_hashes_file(file), text + "\n")


def _stored_hashes(file, shape):
    """The hashes of the blocks of a finished cache, or None where there is none or none that can be checked. What is
    wrong with it is said on stderr."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(number, "rb") as pixels:
        state, header = os.fstat(number), _header(shape)
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"--cache: {file} is no regular file; move it away")
        if state.st_size != _file_bytes(shape):
            reason = f"it has {state.st_size} bytes instead of {_file_bytes(shape)}"
        elif pixels.read(len(header)) != header:
            reason = "its header is damaged"
        else:
            reason = None
    try:
        stored = cli.read_json(_hashes_file(file))
        hashes = stored.get("sha256")
        known = (stored.get("format"), stored.get("shape"), stored.get("block")) == (FORMAT, list(shape), BLOCK)
        count = -(-shape[0] // BLOCK)
        if not known or not isinstance(hashes, list) or len(hashes) != count:
            reason = reason or f"{_hashes_file(file).name} does not belong to it"
    except FileNotFoundError:
        reason = reason or "it has no hashes, as those of the first release"
    except DamagedFile as error:
        reason = reason or str(error)
    if reason is None:
        return hashes
    print(f"--cache {file} cannot be trusted ({reason}): the pictures are decoded again", file=sys.stderr)
    return None


def _decode_block(block, paths, boxes, size, read):
    numbers = range(block * BLOCK, min((block + 1) * BLOCK, len(paths)))
    return np.stack([read(paths[i], size, boxes[i]) for i in numbers])


def _write_at(number, data, start):
    buffer = memoryview(data).cast("B")
    while len(buffer):
        count = os.pwrite(number, buffer, start)
        buffer, start = buffer[count:], start + count


def _reserve(number, size):
    try:
        os.posix_fallocate(number, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve: writing will tell
            raise


def _fill(file, paths, boxes, shape, read):
    """Decode all pictures into `file` and return the hashes of its blocks. The lock is held. The space is reserved
    first, and pixels are written by position: a full disk is an error here, not a signal that ends the process."""
    header, size = _header(shape), shape[1]
    need = _file_bytes(shape)
    for old in (file, _hashes_file(file)):
        old.unlink(missing_ok=True)  # there may be no room for both
    room = shutil.disk_usage(file.parent).free
    if need > room:
        raise UserError(f"--cache {file.parent}: {need / 2**30:.1f} GiB of decoded pictures do not fit into the "
                        f"{room / 2**30:.1f} GiB that are free")
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    number = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def fill(block):
        pixels = _decode_block(block, paths, boxes, size, read)
        _write_at(number, pixels, len(header) + block * BLOCK * size * size * 3)
        return _hash(pixels), len(pixels)

    try:
        _reserve(number, need)
        _write_at(number, header, 0)
        hashes, blocks = [], range(-(-len(paths) // BLOCK))
        pool = ThreadPoolExecutor()  # Pillow lets go of the interpreter's lock
        try:
            with tqdm(desc="decoding into the cache", total=len(paths), disable=None) as bar:
                for value, count in pool.map(fill, blocks):
                    hashes.append(value)
                    bar.update(count)
        finally:
            pool.shutdown(cancel_futures=True)
        os.fsync(number)
        os.replace(temporary, file)
        _store_hashes(file, hashes, shape)
    except BaseException:
        for unfinished in (file, _hashes_file(file)):
            unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(number)
        temporary.unlink(missing_ok=True)
    return hashes
