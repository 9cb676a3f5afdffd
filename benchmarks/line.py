"""Files over HTTP on this machine, through a line of limited rate."""

import contextlib
import http.server
import multiprocessing
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple

_PIECE = 1 << 16
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Line(NamedTuple):
    """A server in a process of its own."""

    url: str
    """Of the directory."""
    sent: "Synchronized[int]"
    """Bytes of all files that it has sent."""


@contextlib.contextmanager
def line(directory: Path, bytes_per_s: float) -> Iterator[Line]:
    """Serve ``directory`` to this machine; all requests share ``bytes_per_s``, which may be inf."""
    context = multiprocessing.get_context("spawn")
    sent = context.Value("q", 0)
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(directory, bytes_per_s, sent, sender))
    server.start()
    try:
        yield Line(f"http://127.0.0.1:{receiver.recv()}", sent)
    finally:
        server.terminate()
        server.join()


class _Rate:
    """Lets so many bytes per second pass, whoever sends them."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int) -> None:
        """Until ``size`` more bytes may be sent."""
        with self._lock:
            start = max(self._free_at, time.monotonic())
            self._free_at = start + size / self._bytes_per_s
            free_at = self._free_at
        time.sleep(max(0.0, free_at - time.monotonic()))


class _Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of files, whole or one range of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else the content waits for the client to acknowledge the header, some 40 ms."""

    def __init__(
        self, directory: Path, rate: _Rate, sent: "Synchronized[int]", *request: Any
    ) -> None:
        self._directory, self._rate, self._sent = directory, rate, sent
        super().__init__(*request)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def _answer(self, *, with_content: bool) -> None:
        path = (self._directory / self.path.lstrip("/")).resolve()
        if not (path.is_relative_to(self._directory.resolve()) and path.is_file()):
            self.send_error(404)
            return
        size = path.stat().st_size
        start, stop = _range(self.headers.get("Range"), size)
        self.send_response(200 if stop - start == size else 206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if with_content:
            with path.open("rb") as file:
                file.seek(start)
                self._send(file.read(stop - start))

    def _send(self, content: bytes) -> None:
        for at in range(0, len(content), _PIECE):
            piece = content[at : at + _PIECE]
            self._rate.wait(len(piece))
            self.wfile.write(piece)
            with self._sent.get_lock():
                self._sent.value += len(piece)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """Bytes [start, stop) that a request asks for, by default all."""
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return 0, size
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


def _serve(
    directory: Path, bytes_per_s: float, sent: "Synchronized[int]", port: Connection
) -> None:
    handler = partial(_Handler, directory, _Rate(bytes_per_s), sent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        port.send(server.server_port)
        server.serve_forever()
