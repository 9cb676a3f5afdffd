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
_OWN_DIGEST = "manifest_digest"
"""Of all else in the manifest."""


def digest(value: Any) -> str:
    """Hex digest of a JSON-like value or dataclass; equal values give equal digests."""
    text = json.dumps(value, sort_keys=True, default=_plain, separators=(",", ":"))
    return new_digest(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_digest).hexdigest()


def new_digest(content: bytes = b"") -> hashlib.blake2b:
    """The digest of ``content``, to be updated: what :func:`file_digest` says of the same bytes."""
    return hashlib.blake2b(content, digest_size=16)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(_json_text(value))


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


def verified_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, of which not a byte has changed since :func:`building` wrote it.

    Raises WamError if it is missing, damaged, or lists no files.
    """
    path = directory / MANIFEST
    manifest = read_json(path)
    if _OWN_DIGEST not in manifest or "files" not in manifest:
        raise WamError(f"{path}: lists no checksums; make the artifact again to have them")
    content = {name: value for name, value in manifest.items() if name != _OWN_DIGEST}
    if digest(content) != manifest[_OWN_DIGEST] or _json_text(manifest) != path.read_text():
        raise WamError(f"{path}: damaged (does not fit its own checksum); make the artifact again")
    return manifest


def check_replaceable(output: Path, stage: str) -> None:
    """Raise WamError if ``output`` exists and is no earlier output of ``stage``.

    :func:`building` removes what lies at its output, which a user may have chosen.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    manifest = output / MANIFEST
    if not manifest.is_file() or read_json(manifest).get("stage") != stage:
        raise WamError(
            f"{output}: exists and is no earlier output of 'wam {stage}'; choose another directory"
        )


@contextlib.contextmanager
def building(
    output: Path, *, stage: str, params: Any, inputs: dict[str, str]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield ``(partial directory, manifest)`` and put it in place when the block succeeds.

    ``inputs`` maps names to digests of what the stage reads (see :func:`fingerprint`). The block
    may add entries to ``manifest``; they end up in ``manifest.json`` beside the run's own: among
    these ``files``, size and digest of every file. Digests that the block knows already, it puts
    into ``manifest["digests"]`` by path, and those files are not read again. What an interrupted
    run with equal ``params`` and ``inputs`` left in the partial directory is kept, anything else
    removed.
    """
    identity = {
        "stage": stage,
        "params": json.loads(json.dumps(params, default=_plain)),
        "inputs": inputs,
    }
    partial = partial_directory(output)
    with exclusive(output):
        yield from _build(output, partial, identity)


def partial_directory(output: Path) -> Path:
    """Where ``output`` is built."""
    return output.with_name(output.name + ".partial")


def _build(
    output: Path, partial: Path, identity: dict[str, Any]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not (partial / _RUN).is_file() or read_json(partial / _RUN) != identity:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / _RUN, identity)
    manifest: dict[str, Any] = {"digests": {}}
    yield partial, manifest
    known = manifest.pop("digests")
    files = {
        name: {"bytes": path.stat().st_size, "digest": known.get(name) or file_digest(path)}
        for path in sorted(partial.rglob("*"))
        if path.is_file() and (name := str(path.relative_to(partial))) != _RUN
    }
    content = {**identity, **manifest, "files": files, "versions": versions()}
    write_json(partial / MANIFEST, {**content, _OWN_DIGEST: digest(content)})
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


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON-like")
