"""Reads many rows of a file, each at its own place, in one call.

The loop over the rows is compiled by numba. It runs without the interpreter's lock, so that a thread can read the next
batch while another one trains. The file is read by position (`pread`) and never mapped into memory: if a mapped file
is cut, or its disk fails, the process ends without a message.

datasets/image_cache.py imports this file when it needs it: numba and the compiled loop take most of a second to load.
"""
import functools
from collections.abc import Callable

import numba
import numpy as np
from numba import types

# pread(2): file descriptor, address in memory, number of bytes, place in the file -> the number of bytes that were
# read, -1 for an error
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))
_SIGNATURE = "int64(int32, int64[::1], int64, int64, int64)"


def read_rows(number: int, rows: np.ndarray, first_byte: int, out: np.ndarray) -> int:
    """Read rows of an open file into `out`, in the order of `rows`. Returns how many were read.

    number: file descriptor of the open file. rows: int64 (B,), numbers of rows, counted from 0. first_byte: where row 0
    begins. out: uint8 (B, ...), contiguous; a row of the file has as many bytes as `out[0]`. Fewer than B rows are read
    where the file is too short or cannot be read; no exception is raised for that. Raises ValueError where `out` does
    not fit.
    """
    if out.dtype != np.uint8 or not out.flags.c_contiguous or len(out) != len(rows):
        raise ValueError(f"{len(rows)} rows do not fit into {out.dtype} {out.shape}")
    if not len(rows):
        return 0
    return _compiled_loop()(number, np.ascontiguousarray(rows, np.int64), first_byte, out[0].nbytes, out.ctypes.data)


@functools.cache
def _compiled_loop() -> Callable[[int, np.ndarray, int, int, int], int]:
    """`_loop`, compiled. numba's cache is used where a folder for it can be written."""
    try:
        return numba.njit(_SIGNATURE, cache=True, nogil=True)(_loop)
    except RuntimeError:  # there is no folder in which its cache could be written
        return numba.njit(_SIGNATURE, nogil=True)(_loop)


def _loop(number, rows, first_byte, row_bytes, address):
    """The loop of `read_rows`. address: of the first byte of `out`."""
    for row in range(len(rows)):
        done = 0
        while done < row_bytes:  # a read may end early
            count = _pread(number, types.uintp(address + row * row_bytes + done), types.uintp(row_bytes - done),
                           first_byte + rows[row] * row_bytes + done)
            if count <= 0:  # the end of the file, or an error
                return row
            done += count
    return len(rows)
