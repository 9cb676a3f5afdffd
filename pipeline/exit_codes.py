"""What becomes of errors and signals: one message, and the exit status of the process."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from pipeline import console
from wam.errors import WamError
from wam.reliability.interruption import SIGNALS, Interrupted, heard, interrupt

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.I)
_REMEDIES = {
    errno.ENOSPC: "make room, then run the same command again: it goes on where it stopped",
    errno.EDQUOT: "make room in your quota, then run the same command again: it goes on",
    errno.EFBIG: "the file size limit (ulimit -f) is too low",
    errno.EMFILE: "the limit of open files (ulimit -n) is too low",
    errno.EACCES: "check the permissions",
    errno.EROFS: "choose a place that can be written to",
}


def exit_on_error(body: Callable[[], None]) -> None:
    """Call ``body``; what the user or the system did wrong becomes one message and a status.

    WamError, OSError and MemoryError: 1. Ctrl-C: 130, SIGTERM: 143, which does the same, and so
    does whatever fails after it.
    """
    for signum in SIGNALS:
        signal.signal(signum, interrupt)
    try:
        with heard():
            body()
    except WamError as error:
        _fail(str(error))
    except KeyboardInterrupt as error:
        number = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        console.titled("interrupted", "run the same command again to go on", style="bold yellow")
        sys.exit(128 + number)
    except BrokenPipeError:
        # Who read our output has gone; what is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _fail(_sentence(error))
    except (MemoryError, RuntimeError) as error:
        # torch has a RuntimeError of its own for it.
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        _fail(
            "out of memory: make batches or sizes smaller, or use fewer workers; nothing that was "
            "finished is lost"
        )


def _sentence(error: OSError) -> str:
    """What the system refused, and what to do about it."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    what = f"{' → '.join(files)}: {error.strerror}" if files and error.strerror else str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{what}; {remedy}" if remedy else what


def _fail(message: str) -> NoReturn:
    console.error(message)
    sys.exit(1)
