"""Files that are either the old ones or the new ones, whenever the process is killed."""

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY = re.compile(
    r"\..+\.[0-9a-f]{16}\.tmp(\.\w+)?|.+\.[0-9a-f]{32}\.partial|\.tmp[0-9A-Za-z]{6}"
)
"""Ours, with the suffix that a library may insist on, those of Zarr, and those of safetensors."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; what was written to it takes its place at the end.

    If the block raises, ``path`` stays as it was and the temporary file goes. One that a killed
    process has left is known by its name and is removed by :func:`sweep`. The content is on the
    disk before the name is, so that a crash of the machine leaves no empty file. An OSError that
    names no file is given ``path``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            # Some libraries put a file of their own in its place, which others may not read.
            with temporary.open("rb") as written:
                os.fchmod(written.fileno(), stat.S_IMODE(os.fstat(descriptor).st_mode))
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            os.close(descriptor)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise


def sweep(directory: Path, *, recursive: bool = False) -> None:
    """Remove the temporary files in ``directory`` whose writers are dead, also those of libraries.

    A living writer holds a lock on its file, so this disturbs nobody.
    """
    for path in directory.rglob("*") if recursive else directory.glob("*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
