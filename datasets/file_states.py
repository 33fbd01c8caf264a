"""The state of many files, as lines of text, read at the speed of the kernel.

The loop over the files is compiled by numba and calls statx(2). It runs without the interpreter's lock, in one thread
for each core. datasets/image_cache.py imports this file when it needs it: numba takes a quarter of a second.
"""
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numba import types

# statx(2): folder that a relative path starts from, address of the path, flags, what is wanted, address of the result
# -> 0, or -1 for an error. Its result is 256 bytes, which are the same on every machine.
_statx = types.ExternalFunction("statx", types.int32(types.int32, types.uintp, types.int32, types.uint32, types.uintp))
_SIGNATURE = "int64(int32, uint8[::1], int64[::1], int64, uint8[::1])"
_WANTED = 0x40 | 0x200  # STATX_MTIME, STATX_SIZE
_SIZE, _SECONDS, _NANOSECONDS = 5, 14, 15  # places in the result, in units of 8 bytes
_LONGEST = 43  # bytes of a line besides the path: two numbers of up to 20 bytes, two zeros, the end


def lines_of_states(paths: Sequence[str]) -> list[memoryview] | None:
    """For each of N files the line "<path>\\0<number of bytes>\\0<time of modification>\\n", in the order of the paths.
    Each element of the list holds the lines of a part of the files, one part for each core. The time is in nanoseconds
    since 1970, as `os.stat` gives it.

    None where a file is missing, where a path holds a zero byte and so names no file, or on a machine without statx:
    `os.stat` says more."""
    if not paths or not _has_statx():
        return None
    text = np.frombuffer(bytearray(os.fsencode("\0".join(paths)) + b"\0"), np.uint8)
    ends = np.flatnonzero(text == 0)
    if len(ends) != len(paths):
        return None
    starts = np.concatenate([[0], ends + 1])
    # The kernel walks every path. From the folder that all of them have in common, the way is shorter.
    common = os.path.commonprefix([min(paths), max(paths)])
    common = common[:common.rfind("/") + 1]
    try:
        folder = os.open(common or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _lines(folder, len(os.fsencode(common)), text, starts)
    finally:
        os.close(folder)


def _lines(folder: int, skipped: int, text: np.ndarray, starts: np.ndarray) -> list[memoryview] | None:
    """The result of `lines_of_states`, by one thread for each core.

    folder: descriptor of the folder in which all paths begin; skipped: number of bytes at the start of each path that
    name it. text: uint8, the paths, each with a zero behind it. starts: int64 (N + 1,), where they begin, and the
    end."""
    loop = _compiled_loop()
    cores = len(os.sched_getaffinity(0))
    bounds = np.linspace(0, len(starts) - 1, cores + 1).astype(int).tolist()

    def read(first: int, last: int) -> memoryview | None:
        own = starts[first:last + 1]
        out = np.empty(int(own[-1] - own[0]) + _LONGEST * (last - first), np.uint8)
        count = loop(folder, text, own, skipped, out)
        return None if count < 0 else memoryview(out[:count])

    with ThreadPoolExecutor(cores) as pool:
        lines_by_thread = list(pool.map(read, bounds[:-1], bounds[1:]))
    complete = [lines for lines in lines_by_thread if lines is not None]
    return complete if len(complete) == len(lines_by_thread) else None


@functools.cache
def _has_statx() -> bool:
    """Whether the C library has statx, and numbers lie in memory as `_loop` reads them."""
    return sys.platform == "linux" and sys.byteorder == "little" and hasattr(ctypes.CDLL(None), "statx")


@functools.cache
def _compiled_loop() -> Callable[[int, np.ndarray, np.ndarray, int, np.ndarray], int]:
    """`_loop`, compiled. numba's cache is used where a folder for it can be written."""
    try:
        return numba.njit(_SIGNATURE, cache=True, nogil=True)(_loop)
    except RuntimeError:  # there is no folder in which its cache could be written
        return numba.njit(_SIGNATURE, nogil=True)(_loop)


def _loop(folder, text, starts, skipped, out):
    """The loop of `_lines`, with its arguments. out: uint8, room for the lines. Returns how many bytes it has written,
    -1 where a file is missing."""
    result = np.zeros(32, np.int64)
    digits = np.empty(20, np.uint8)
    place = 0
    for row in range(len(starts) - 1):
        error = _statx(folder, types.uintp(text.ctypes.data + starts[row] + skipped), 0, _WANTED,
                       types.uintp(result.ctypes.data))
        if error != 0 or (result[0] & _WANTED) != _WANTED:
            return -1
        for source in range(starts[row], starts[row + 1]):  # with its zero
            out[place] = text[source]
            place += 1
        changed = result[_SECONDS] * 1_000_000_000 + (result[_NANOSECONDS] & 0xFFFFFFFF)
        for number, end in ((result[_SIZE], 0), (changed, 10)):
            if number < 0:
                out[place] = 45
                place += 1
                number = -number
            count = 0
            while count == 0 or number > 0:
                digits[count] = 48 + number % 10
                number //= 10
                count += 1
            for digit in range(count):
                out[place + digit] = digits[count - 1 - digit]
            out[place + count] = end
            place += count + 1
    return place
