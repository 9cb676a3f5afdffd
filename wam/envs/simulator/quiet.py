"""Doing without what others print: PyBullet's build time, OpenGL's greeting, gym's notice."""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

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
def quiet_package() -> Iterator[None]:
    """Drop what Python and C code write to both streams meanwhile, and warnings."""
    for stream in (sys.stdout, sys.stderr):
        # What came before is not dropped.
        stream.flush()
    with (
        quiet_driver(),
        Path(os.devnull).open("w") as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


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
