"""Reading whole files from a directory, or from a URL of any file system that fsspec knows."""

import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from wam.errors import WamError

_RETRY_AFTER_S = (0.5, 2.0)


class Source:
    """The directory ``location``: a local path, or a URL such as ``s3://bucket/shards``.

    Raises WamError for a URL that fsspec does not know or lacks a package for.
    """

    def __init__(self, location: Path | str) -> None:
        self.location = str(location).rstrip("/")
        self._file_system: Any = None
        self._expected: dict[str, Future[bytes]] = {}
        self._turn = threading.Lock()
        if "://" in self.location:
            import fsspec  # not needed for local files

            try:
                self._file_system, _ = fsspec.url_to_fs(self.location)
            except (ImportError, ValueError) as error:
                raise WamError(f"{self.location}: {error}") from None

    def expect(self, name: str) -> None:
        """Fetch a file in the background that is soon to be read, if it has to be fetched.

        It is held until :meth:`read`, which is also where its errors are raised.
        """
        if self._file_system is not None and name not in self._expected:
            future = self._expected[name] = Future[bytes]()
            # A daemon: whoever stops reading does not wait for what was expected.
            threading.Thread(target=self._fetch, args=(name, future), daemon=True).start()

    def read(self, name: str) -> bytes:
        """The content of the file ``name`` below the directory.

        Raises FileNotFoundError if there is none, and WamError naming the file if it cannot be read
        even at the third attempt.
        """
        expected = self._expected.pop(name, None)
        return self._read(name) if expected is None else expected.result()

    def _fetch(self, name: str, future: Future[bytes]) -> None:
        with self._turn:
            try:
                future.set_result(self._read(name))
            except Exception as error:  # noqa: BLE001 - raised where it is read
                future.set_exception(error)

    def _read(self, name: str) -> bytes:
        path = f"{self.location}/{name}"
        for delay_s in (*_RETRY_AFTER_S, None):
            try:
                if self._file_system is None:
                    return Path(path).read_bytes()
                return self._file_system.cat_file(path)
            except FileNotFoundError:
                raise
            except Exception as error:  # noqa: BLE001 - every file system raises its own
                if delay_s is None:
                    raise WamError(f"{path}: cannot be read ({error!r})") from None
                time.sleep(delay_s)
        raise AssertionError("unreachable")
