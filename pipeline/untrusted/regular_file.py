"""Opening what is meant to be a file: a named pipe would hang for ever, a device never end."""

import os
import stat
from pathlib import Path

from wam.errors import WamError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def open_regular(path: Path) -> int:
    """A descriptor for reading the file ``path``; the caller closes it.

    Raises WamError if something else has this name, FileNotFoundError if nothing has it.
    """
    # Without waiting for who writes to a pipe; of no effect on files.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise WamError(f"{path}: is {_kind(mode)}; expected a file")


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The content of the file ``path``. Errors as of :func:`open_regular`; WamError if longer."""
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > most_bytes:
            raise WamError(f"{path}: has {size:,} bytes; expected at most {most_bytes:,}")
        return file.read(most_bytes)


def what_is_there(path: Path) -> str | None:
    """What is called ``path`` instead of a file, as words; None for a file or nothing at all."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else None
    except OSError as error:
        return f"not readable ({error.strerror})"
    return None if stat.S_ISREG(mode) else _kind(mode)


def _kind(mode: int) -> str:
    return next((name for matches, name in _KINDS if matches(mode)), "no file")
