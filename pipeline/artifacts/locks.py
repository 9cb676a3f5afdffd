"""The right to build something, held by one process at a time, whichever machine it is on."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline import console
from wam.errors import WamError

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to write ``target``, after any other process that has it.

    A stage whose DVC process was killed runs on for a while, and the next run must not write into
    the same partial directory. The lock is a file beside the target, so that all who see the one
    see the other. It ends with its process, however that ends; the file is removed by its last
    holder. Warns where the file system knows no locks. Raises WamError if something else lies in
    the place of the lock.
    """
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, target)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, target: Path) -> int:
    while True:
        descriptor = _open(path)
        try:
            _lock(descriptor, target)
            # The holder before us has removed the file that we waited for.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> int:
    """A descriptor of the lock file, whose content is never touched."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise WamError(f"{path}: no lock file of wam; move it away") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WamError(f"{path}: no lock file of wam; move it away")
    return descriptor


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.warn(f"another process is building {target}; waiting for it to end")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        console.warn(
            f"{target.parent}: this file system has no locks ({error.strerror}); take care that no "
            f"other process builds {target.name} at the same time"
        )
