"""A cache of decoded pictures: one file of pixels, checked while it is read and repaired from the pictures.

A block is `BLOCK` consecutive pictures, which have one hash. The cache of some pictures is three files in one
folder: the pixels, <key>.npy, the hashes of the blocks, <key>.blocks.json, and a lock that every writer holds,
<key>.lock. The key is a hash of the size in pixels, of the boxes, and of each picture's path, number of bytes and time
of modification. Pixels are read by position and never mapped into memory: if a mapped file is truncated, the process
ends without a message.

`datasets.images.open_cache` is the way in. `cache[i]` gives one picture, `cache.gather` a batch at the speed of memory.
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
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.file_states import lines_of_states
from support.errors import DamagedFile, UserError
from support.files import read_json, write_text

BLOCK = 32  # pictures with one hash: 4.6 MiB at 224 pixels, hashed in 4 ms
FORMAT = 1  # of <key>.blocks.json
SMALL = 2**24  # bytes of pixels; below it, compiled code takes longer to load than it saves
MANY = 100_000  # pictures; the states of so many files are read by several processes
TEMPORARY = re.compile(r"\.?([0-9a-f]{32})\..*\.tmp")  # files that a killed process may leave; the group is the key

Shape = tuple[int, int, int, int]
"""of a file of pixels: pictures, height, width, 3"""
PathLike = str | os.PathLike
ReadPicture = Callable[[PathLike, int, np.ndarray], np.ndarray]
"""(path, size, box) -> the picture, uint8 (size, size, 3)"""


class StorageError(UserError):
    """The folder of a cache cannot be used, or has too little room. The pictures themselves are not at fault."""


class ImageCache:
    """Decoded pictures in a file: `cache[i]` is a new uint8 array (size, size, 3).

    The hash of a block is checked once in a run, when a picture of it is read for the first time. A damaged block is
    decoded again from the pictures and repaired on disk; one message on stderr reports it. The object can be used in
    forked processes, which have the record of checked blocks in common, and in processes that got it pickled, which
    open the file anew.
    """

    file: Path
    """the file of pixels"""
    paths: Sequence[PathLike]
    """of the N pictures"""
    boxes: np.ndarray
    """float (N, 4), NaN for the whole picture"""
    size: int
    """pixels, width and height of a decoded picture"""
    read: ReadPicture
    hashes: list[str]
    """SHA-256 of every block"""
    shape: Shape

    def __init__(self, file: Path, paths: Sequence[PathLike], boxes: np.ndarray, size: int,
                 read: ReadPicture, hashes: list[str]) -> None:
        """Use `open`, which makes and checks the file first."""
        self.file = file
        self.paths = paths
        self.boxes = boxes
        self.size = size
        self.read = read
        self.hashes = hashes
        self.shape = (len(paths), size, size, 3)
        self._header = _header(self.shape)
        self._picture_bytes = size * size * 3
        self._prepare()

    def _prepare(self) -> None:
        """Set what belongs to one process and is not pickled."""
        self._open_file: io.FileIO | None = None
        self._is_reported = False
        self._checking = threading.Lock()  # held by the thread that checks the blocks of a batch
        self._checked = mmap.mmap(-1, max(1, len(self.hashes)))  # a byte for each block; forked processes see it too

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_open_file", "_checked", "_checking", "_is_reported")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        """Picture i: uint8 (size, size, 3), a copy that the caller may change. Raises IndexError, and UserError where
        the file is damaged and cannot be repaired."""
        i = int(i) + (len(self) if i < 0 else 0)
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        block = i // BLOCK
        if not self._checked[block]:
            return self._check(block)[i - block * BLOCK].copy()
        picture = np.empty(self.shape[1:], np.uint8)
        try:
            is_whole = self._fill_from_file(picture, i)
        except OSError:  # the disk fails; `_check` repairs the block, or raises what concerns the user
            is_whole = False
        if not is_whole:  # the file was cut since its block was checked
            return self._check(block)[i - block * BLOCK].copy()
        return picture

    def gather(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Read many pictures into `out`. Consecutive ones are read in one piece; others, where the cache is large, in
        one call without the interpreter's lock.

        numbers: int64 (B,), of the pictures. out: uint8 (B, size, size, 3), contiguous. Blocks that were not read
        before in this run are checked first, several at once. Raises IndexError, and UserError as `cache[i]` does.
        """
        if len(numbers) and not 0 <= min(numbers) <= max(numbers) < len(self):
            raise IndexError(f"pictures {min(numbers)} to {max(numbers)} of {len(self)}")
        if len(numbers) and np.array_equal(numbers, int(numbers[0]) + np.arange(len(numbers))):
            read_rows = _read_consecutive_rows
        elif len(self) * self._picture_bytes < SMALL:
            read_rows = _read_rows
        else:
            from datasets.file_rows import read_rows  # it imports numba, which takes a second to load
        self._check_blocks_of(numbers)
        done = 0
        while done < len(numbers):
            try:
                file = self._opened()  # held here, so that no other thread closes it meanwhile
                done += read_rows(file.fileno(), numbers[done:], len(self._header), out[done:])
            except OSError:  # the line below raises what concerns the user
                pass
            if done < len(numbers):  # the file was cut since its block was checked, or its disk fails
                out[done] = self[numbers[done]]
                done += 1

    def _check_blocks_of(self, numbers: np.ndarray) -> None:
        """Check the blocks of these pictures that were not checked yet in this run, several at once."""
        with self._checking:  # so that two batches do not check the same blocks
            is_checked = np.frombuffer(self._checked, np.uint8)
            blocks = np.unique(numbers // BLOCK)
            blocks = blocks[is_checked[blocks] == 0].tolist()
            if not blocks:
                return
            with ThreadPoolExecutor(min(len(blocks), _cores())) as pool:  # hashing releases the interpreter's lock
                for check in [pool.submit(self._check_only, block) for block in blocks]:
                    check.result()

    @classmethod
    def open(cls, folder: Path, paths: Sequence[PathLike], boxes: np.ndarray, size: int,
             read: ReadPicture, key: str = "") -> "ImageCache":
        """The cache of these pictures in `folder`. It is made where it is absent, truncated or without valid hashes
        (caches of the first release of this project have none).

        paths, boxes, size: see the attributes. key: their `cache_key`, where it is known. Raises UserError where the
        cache cannot be made or opened, `StorageError` if this is the folder's fault. No half-made file is left.
        """
        file = folder / f"{key or cache_key(paths, boxes, size)}.npy"
        shape = (len(paths), size, size, 3)
        needed = _file_bytes(shape)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_remains(folder)
            with _lock(file):
                hashes = _stored_hashes(file, shape)
                if hashes is None:
                    hashes = _fill(file, paths, boxes, shape, read)
                return cls(file, paths, boxes, size, read, hashes)
        except OSError as error:
            message = f"the cache {folder}: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                message += f"; {needed / 2**30:.1f} GiB of decoded pictures have to fit there"
            raise StorageError(message) from None

    def _opened(self) -> io.FileIO:
        """The file of pixels, open for reading."""
        file = self._open_file
        if file is None:
            file = self._open_file = open(self.file, "rb", buffering=0)
        return file

    def _fill_from_file(self, pixels: np.ndarray, first: int) -> bool:
        """Read pictures from number `first` on into `pixels`, as many as it has room for. False where the file is too
        short. Each read names its position, so threads and forked processes do not disturb each other."""
        file = self._opened()  # held here, so that no other thread closes it meanwhile
        number = file.fileno()
        start = len(self._header) + first * self._picture_bytes
        done = os.preadv(number, [pixels], start)
        while done < pixels.nbytes:  # a read may end early, as at 2 GiB; at the end of the file it gives nothing
            count = os.preadv(number, [memoryview(pixels).cast("B")[done:]], start + done)
            if count == 0:
                return False
            done += count
        return True

    def _check(self, block: int) -> np.ndarray:
        """The pictures of a block, uint8 (count, size, size, 3), after their hash was checked; repaired if needed."""
        try:
            pixels = self._checked_pixels(block)
            if pixels is None:
                with _lock(self.file):
                    self._open_file = None  # another process may have made the file anew
                    pixels = self._checked_pixels(block)  # or repaired it
                    if pixels is None:
                        pixels = self._repair(block)
        except OSError as error:
            raise UserError(f"the cache {self.file}: {error.strerror}") from None
        self._checked[block] = 1
        return pixels

    def _check_only(self, block: int) -> None:
        """`_check` without its result, the pixels of the block, which a thread would keep in memory."""
        self._check(block)

    def _checked_pixels(self, block: int) -> np.ndarray | None:
        """The pictures of a block, or None where the file is damaged there."""
        first = block * BLOCK
        pixels = np.empty((min(BLOCK, len(self) - first), *self.shape[1:]), np.uint8)
        try:
            is_whole = self._fill_from_file(pixels, first)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOENT):
                raise
            return None
        return pixels if is_whole and _hash(pixels) == self.hashes[block] else None

    def _repair(self, block: int) -> np.ndarray:
        """Decode a block from the pictures, write it to the file, and return it. The lock is held."""
        if not self._is_reported:
            self._is_reported = True
            last = min(len(self), (block + 1) * BLOCK)
            print(f"the cache {self.file}: pictures {block * BLOCK + 1} to {last} of {len(self)} are damaged in it; "
                  "whatever is damaged is decoded again from the pictures", file=sys.stderr)
        number = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(number).st_size
            _write_at(number, self._header, 0)
            # A file that was cut is filled up in its order: written at its place behind the end, a block would leave a
            # gap before it, and a gap reads as black pictures, also of blocks that were checked before the cut.
            whole_blocks = max(0, size - len(self._header)) // (BLOCK * self._picture_bytes)
            for missing in range(whole_blocks, block):
                self._write_block(number, missing)
            return self._write_block(number, block)
        finally:
            os.close(number)

    def _write_block(self, number: int, block: int) -> np.ndarray:
        """Decode a block, write it to the open file with this number, and return it. The lock is held."""
        pixels = _decode_block(block, self.paths, self.boxes, self.size, self.read)
        if _hash(pixels) != self.hashes[block]:  # the hash itself was damaged, or another Pillow decodes otherwise
            self.hashes[block] = _hash(pixels)
            _store_hashes(self.file, self.hashes, self.shape)
        _write_at(number, pixels, len(self._header) + block * BLOCK * self._picture_bytes)
        return pixels


class CacheRows:
    """Some pictures of caches of one size, in any order, to be used like a cache of these pictures alone."""

    def __init__(self, caches: Sequence[ImageCache | None], places: np.ndarray, size: int) -> None:
        """caches: None for those that no picture lies in. places: int64 (N, 2), for every picture the number of its
        cache and its number there. size: in pixels."""
        self.caches = list(caches)
        self.places = places
        self.shape = (len(places), size, size, 3)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> np.ndarray:
        """As `ImageCache` gives picture i."""
        number, row = self.places[i].tolist()
        return self.caches[number][row]  # type: ignore[index]  # a cache of a picture is open

    def gather(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """As `ImageCache.gather`."""
        if len(numbers) and not 0 <= min(numbers) <= max(numbers) < len(self):
            raise IndexError(f"pictures {min(numbers)} to {max(numbers)} of {len(self)}")
        places = self.places[numbers]
        used = np.unique(places[:, 0])
        for number in used:
            cache = self.caches[number]
            assert cache is not None
            chosen = np.flatnonzero(places[:, 0] == number)
            if len(used) == 1:
                cache.gather(places[:, 1], out)
            else:
                pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
                cache.gather(places[chosen, 1], pixels)
                out[chosen] = pixels


def bytes_needed(count: int, size: int) -> int:
    """The bytes that a cache of so many pictures takes on the disk. size: in pixels."""
    return _file_bytes((count, size, size, 3))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def cache_key(paths: Sequence[PathLike], boxes: np.ndarray, size: int) -> str:
    """The key of a cache: 32 hexadecimal digits that depend on the size, the boxes, and each picture's path, number
    of bytes and time of modification. Raises UserError for a picture that is missing."""
    key = hashlib.sha256(repr(size).encode() + np.ascontiguousarray(boxes, np.float64).tobytes())
    for lines in _lines_of_states(paths):
        key.update(lines)
    return key.hexdigest()[:32]


def _lines_of_states(paths: Sequence[PathLike]) -> Sequence[bytes]:
    """For each file the line "<path>\\0<number of bytes>\\0<time of modification>\\n", the time in nanoseconds; all of
    them are in order, in one part or several. Raises UserError where a file is missing."""
    if len(paths) >= MANY:
        parts = lines_of_states([os.fspath(path) for path in paths])
        if parts is not None:
            return parts
    lines = []
    for path in paths:
        try:
            state = os.stat(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        lines.append(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n")
    return [os.fsencode("".join(lines))]


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Hold the lock of a cache; waits until it is free."""
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_remains(folder: Path) -> None:
    """Delete the unfinished files of killed processes: temporary files whose lock is free."""
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


def _read_rows(number: int, rows: np.ndarray, first_byte: int, out: np.ndarray) -> int:
    """As `file_rows.read_rows`, for caches that are small. `out` has to fit."""
    for done, row in enumerate(rows.tolist()):
        row_bytes = out[done].nbytes
        if os.preadv(number, [out[done]], first_byte + row * row_bytes) < row_bytes:
            return done
    return len(rows)


def _read_consecutive_rows(number: int, rows: np.ndarray, first_byte: int, out: np.ndarray) -> int:
    """As `file_rows.read_rows`, for rows that follow one another in the file. `out` has to fit."""
    row_bytes = out[0].nbytes
    return os.preadv(number, [out[:len(rows)]], first_byte + int(rows[0]) * row_bytes) // row_bytes


def _header(shape: Shape) -> bytes:
    """The first bytes of a .npy file with uint8 values of this shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _file_bytes(shape: Shape) -> int:
    return len(_header(shape)) + math.prod(shape)


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels).hexdigest()


def _hashes_file(file: Path) -> Path:
    return file.with_suffix(".blocks.json")


def _store_hashes(file: Path, hashes: Sequence[str], shape: Shape) -> None:
    text = json.dumps({"format": FORMAT, "shape": list(shape), "block": BLOCK, "sha256": hashes})
    write_text(_hashes_file(file), text + "\n")


def _stored_hashes(file: Path, shape: Shape) -> list[str] | None:
    """The hashes of a finished cache, or None where there is no cache or it cannot be trusted. The reason for the
    latter is printed on stderr."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(number, "rb") as pixels:
        state = os.fstat(number)
        header = _header(shape)
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"the cache {file} is no regular file; move it away")
        if state.st_size != _file_bytes(shape):
            reason = f"it has {state.st_size} bytes instead of {_file_bytes(shape)}"
        elif pixels.read(len(header)) != header:
            reason = "its header is damaged"
        else:
            reason = ""
    try:
        stored = read_json(_hashes_file(file))
        hashes = stored.get("sha256")
        description = (stored.get("format"), stored.get("shape"), stored.get("block"))
        is_right = description == (FORMAT, list(shape), BLOCK)
        if not is_right or not isinstance(hashes, list) or len(hashes) != _block_count(shape):
            reason = reason or f"{_hashes_file(file).name} does not belong to it"
    except FileNotFoundError:
        reason = reason or "it has no hashes, as the caches of the first release"
    except DamagedFile as error:
        reason = reason or str(error)
    if not reason:
        return hashes
    print(f"the cache {file} cannot be trusted ({reason}): the pictures are decoded again", file=sys.stderr)
    return None


def _block_count(shape: Shape) -> int:
    return math.ceil(shape[0] / BLOCK)


def _decode_block(block: int, paths: Sequence[PathLike], boxes: np.ndarray, size: int, read: ReadPicture) -> np.ndarray:
    """The pictures of a block from their files: uint8 (count, size, size, 3)."""
    numbers = range(block * BLOCK, min((block + 1) * BLOCK, len(paths)))
    return np.stack([read(paths[i], size, boxes[i]) for i in numbers])


def _write_at(number: int, data: Any, start: int) -> None:
    """Write all bytes of `data` to the open file with this number, from byte `start` on."""
    buffer = memoryview(data).cast("B")
    while len(buffer):
        count = os.pwrite(number, buffer, start)
        buffer, start = buffer[count:], start + count


def _reserve(number: int, size: int) -> None:
    """Reserve space on the disk for `size` bytes of an open file. Raises OSError where there is too little."""
    try:
        os.posix_fallocate(number, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve: writing will tell
            raise


def _fill(file: Path, paths: Sequence[PathLike], boxes: np.ndarray, shape: Shape, read: ReadPicture) -> list[str]:
    """Decode all pictures into `file` and return the hashes of its blocks. The lock is held.

    The space is reserved first, and pixels are written by position, so a full disk is an error here and not a signal
    that ends the process. Raises StorageError where there is too little space.
    """
    header = _header(shape)
    size = shape[1]
    needed = _file_bytes(shape)
    for old in (file, _hashes_file(file)):
        old.unlink(missing_ok=True)  # there may be no room for both
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise StorageError(f"the cache {file.parent}: {needed / 2**30:.1f} GiB of decoded pictures do not fit into the "
                           f"{free / 2**30:.1f} GiB that are free")
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    number = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def write_block(block: int) -> tuple[str, int]:
        """The hash of a block and its number of pictures."""
        pixels = _decode_block(block, paths, boxes, size, read)
        _write_at(number, pixels, len(header) + block * BLOCK * size * size * 3)
        return _hash(pixels), len(pixels)

    try:
        _reserve(number, needed)
        _write_at(number, header, 0)
        hashes = []
        pool = ThreadPoolExecutor(_cores())  # threads suffice, since Pillow releases the interpreter's lock
        try:
            with tqdm(desc="decoding into the cache", total=len(paths), disable=None) as bar:
                for block_hash, count in pool.map(write_block, range(_block_count(shape))):
                    hashes.append(block_hash)
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
