"""Files as arrays, without a file descriptor each."""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file that is not empty, uint8 [size], read-only, in pages shared by processes.

    ``np.memmap`` keeps the file open as long as the array lives, so that a process could have no
    more arrays than files. (From Python 3.13 on, ``mmap.mmap`` can do without, too.)
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    content = (ctypes.c_uint8 * size).from_address(address)
    # Not at exit, where threads may still be reading.
    weakref.finalize(content, _LIBC.munmap, address, size).atexit = False
    array = np.ctypeslib.as_array(content)
    array.flags.writeable = False
    return array
