"""Doing without what C libraries print: PyBullet's build time, OpenGL's greeting."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Drop what is written to standard error meanwhile, also by C code."""
    with _dropped(_STDERR):
        yield


@contextlib.contextmanager
def quiet_driver() -> Iterator[None]:
    """Drop what C code writes to standard output and standard error meanwhile."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    with _dropped(_STDOUT), _dropped(_STDERR):
        try:
            yield
        finally:
            # C keeps its output in a buffer of its own, which would come out later.
            libc.fflush(None)


@contextlib.contextmanager
def _dropped(descriptor: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(sink)
