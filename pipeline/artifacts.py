"""Directories that exist only when complete.

A stage builds its output in ``<output>.partial`` and renames it at the end. The partial directory
is unknown to DVC, so a killed stage finds its own work there and goes on, provided that inputs and
settings are still the same; an earlier complete output stays until the new one replaces it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import console
from wam.atomic import replacing
from wam.errors import WamError

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
"""Headline numbers of a stage, or of one of its tasks."""
_RUN = ".run.json"


def digest(value: Any) -> str:
    """Hex digest of a JSON-like value or dataclass; equal values give equal digests."""
    text = json.dumps(value, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises WamError naming a missing or damaged file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise WamError(f"{path}: not found") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WamError(f"{path}: not valid JSON ({error})") from None


def merge_summaries(directory: Path, tasks: Iterable[str]) -> dict[str, Any]:
    """Write the summaries of the tasks' subdirectories as one mapping by task; returns it."""
    summary = {task: read_json(directory / task / SUMMARY) for task in tasks}
    write_json(directory / SUMMARY, summary)
    return summary


def read_manifest(directory: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a complete artifact.

    Raises WamError, naming the stage that makes it, where the artifact is absent or incomplete.
    """
    if not (directory / MANIFEST).is_file():
        raise WamError(f"{directory}: no complete artifact here; run 'wam {made_by}' first")
    return read_json(directory / MANIFEST)


@contextlib.contextmanager
def building(
    output: Path, *, stage: str, params: Any, inputs: dict[str, str]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield ``(partial directory, manifest)`` and put it in place when the block succeeds.

    ``inputs`` maps names to digests of what the stage reads (see :func:`fingerprint`). The block
    may add entries to ``manifest``; they end up in ``manifest.json`` beside the run's own. What an
    interrupted run with equal ``params`` and ``inputs`` left in the partial directory is kept,
    anything else removed.
    """
    identity = {
        "stage": stage,
        "params": json.loads(json.dumps(params, default=_plain)),
        "inputs": inputs,
    }
    partial = output.with_name(output.name + ".partial")
    with exclusive(output):
        yield from _build(output, partial, identity)


def _build(
    output: Path, partial: Path, identity: dict[str, Any]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not (partial / _RUN).is_file() or read_json(partial / _RUN) != identity:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / _RUN, identity)
    manifest: dict[str, Any] = {}
    yield partial, manifest
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path.name != _RUN)
    digests = {str(path.relative_to(partial)): file_digest(path) for path in files}
    write_json(
        partial / MANIFEST, {**identity, **manifest, "files": digests, "versions": versions()}
    )
    (partial / _RUN).unlink()
    put_in_place(partial, output)


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Hold the right to build ``output``; wait while another process has it.

    A stage whose DVC process was killed runs on for a while, and the next run must not write into
    the same partial directory. The right ends with its process, however that ends.
    """
    name = f"wam-{os.getuid()}-{digest(str(output.absolute()))}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.warn(f"another process is building {output}; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(directory: Path, made_by: str) -> str:
    """Digest that stands for a complete artifact's content when it is another stage's input.

    The manifest holds a digest of every file. Raises WamError as :func:`read_manifest` does.
    """
    read_manifest(directory, made_by)
    return file_digest(directory / MANIFEST)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    names = ("wam", "torch", "numpy", "zarr", "pybullet")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def put_in_place(source: Path, target: Path) -> None:
    """Rename the directory ``source`` to ``target``, removing what lay there."""
    if target.exists():
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old)
    else:
        source.rename(target)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON-like")
