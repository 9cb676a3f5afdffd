"""What stages leave: JSON files, and the manifest that makes a directory a complete artifact.

The manifest says what made the artifact and holds size and digest of every file, so that whoever
reads it can tell whether it is still what was written. How it comes about: :mod:`building`.
"""

import contextlib
import functools
import hashlib
import json
import platform
import re
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from wam.errors import WamError
from wam.reliability.atomic import replacing
from wam.reliability.json_files import read_json

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
"""Headline numbers of a stage, or of one of its tasks."""
_OWN_DIGEST = "manifest_digest"
"""Of all else in the manifest."""
HOW_MADE = ("versions", "provenance", _OWN_DIGEST)
"""What in a manifest tells who made the content, and nothing of the content."""
PLACES = ("*", "*/*", "transfer/*/*")
"""Where artifacts lie below the directory of a profile, or of a run of the study."""
_NOT_IN_PLACE = re.compile(r"\..+|.+\.(partial|set-aside-.+)")
"""Names of directories that a stage is at work on, or has put out of the way."""


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


def read_manifest(directory: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a complete artifact.

    Raises WamError, naming the stage that makes it, where the artifact is absent or incomplete.
    """
    if not (directory / MANIFEST).is_file():
        raise WamError(f"{directory}: no complete artifact here; run 'wam {made_by}' first")
    return read_json(directory / MANIFEST, dict)


def stage_of(directory: Path) -> str | None:
    """The stage that left an artifact in ``directory``; None where none did, though a manifest of
    another program may lie there. Raises WamError if the manifest is no JSON."""
    path = directory / MANIFEST
    content = read_json(path) if path.is_file() else None
    stage = content.get("stage") if isinstance(content, dict) else None
    return stage if isinstance(stage, str) else None


def artifacts_below(root: Path) -> list[Path]:
    """The artifacts in place in the directory of a profile or a run, or ``root`` if it is one
    itself: the oldest first. Raises WamError if a manifest is no JSON."""
    below = [path.parent for place in PLACES for path in root.glob(f"{place}/{MANIFEST}")]
    found = [
        path
        for path in (root, *below)
        if not any(map(_NOT_IN_PLACE.fullmatch, path.relative_to(root).parts)) and stage_of(path)
    ]
    # A copy has the times of its copying, which may not be those of its making.
    return sorted(found, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, str(path)))


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of ``content``: with the digest by which :func:`verified_manifest` knows it."""
    return {**content, _OWN_DIGEST: digest(content)}


def verified_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, of which not a byte has changed since it was written.

    Raises WamError if it is missing, damaged, or lists no files.
    """
    path = directory / MANIFEST
    manifest = read_json(path, dict)
    if not {_OWN_DIGEST, "files"} <= manifest.keys():
        raise WamError(f"{path}: lists no checksums; make the artifact again to have them")
    content = {name: value for name, value in manifest.items() if name != _OWN_DIGEST}
    if digest(content) != manifest[_OWN_DIGEST] or _json_text(manifest) != path.read_text():
        raise WamError(f"{path}: damaged (does not fit its own checksum); make the artifact again")
    return manifest


def check_replaceable(output: Path, stage: str) -> None:
    """Raise WamError if ``output`` exists and is no earlier output of ``stage``.

    Building it removes what lies there, which a user may have chosen.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    manifest = output / MANIFEST
    if not manifest.is_file() or read_json(manifest, dict).get("stage") != stage:
        raise WamError(
            f"{output}: exists and is no earlier output of 'wam {stage}'; choose another directory"
        )


def checked_manifest(directory: Path, made_by: str, *, deep: bool = True) -> dict[str, Any]:
    """The manifest of a complete artifact whose files are what was written.

    They are compared with their digests in the manifest, or, if not ``deep``, their sizes alone:
    the shards of a store, which are checked as they are read. Raises WamError as
    :func:`read_manifest` does, and naming the first damaged file.
    """
    read_manifest(directory, made_by)
    manifest = verified_manifest(directory)
    check = file_problem if deep else size_problem
    for name, entry in manifest["files"].items():
        if problem := check(directory / name, entry):
            raise WamError(f"{directory / name}: damaged ({problem}); run 'wam {made_by}' again")
    return manifest


def fingerprint(directory: Path, made_by: str, *, deep: bool = True) -> str:
    """Digest that stands for a complete artifact's content when it is another stage's input.

    It does not change with what the content was made by: package versions, the commit, the
    settings that shape nothing. The files are checked as :func:`checked_manifest` does.
    """
    return content_digest(checked_manifest(directory, made_by, deep=deep))


def content_digest(manifest: dict[str, Any]) -> str:
    """Digest of what the manifest of an artifact says of its content; see :func:`fingerprint`."""
    how = ("params", "inputs", "key", *HOW_MADE)
    return digest({name: value for name, value in manifest.items() if name not in how})


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "digest": file_digest(path)}


def file_problem(path: Path, entry: dict[str, Any]) -> str | None:
    """How a file differs from its entry in the manifest; None if it does not."""
    try:
        problem = size_problem(path, entry)
        if problem is None and _unchanged_digest(path) != entry["digest"]:
            return "checksum differs"
        return problem
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def size_problem(path: Path, entry: dict[str, Any]) -> str | None:
    """What is seen without reading the file: that it is missing, or its size is another."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    return None if size == entry["bytes"] else f"{size:,} bytes instead of {entry['bytes']:,}"


def _unchanged_digest(path: Path) -> str:
    """:func:`file_digest`, computed once per process as long as the file is not written again."""
    found = path.stat()
    return _digest_of_version(path.absolute(), found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _digest_of_version(path: Path, *_version: int) -> str:
    return file_digest(path)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    names = ("wam", "torch", "numpy", "zarr", "pybullet")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n"


def plain(value: Any) -> Any:
    """``value`` as JSON gives it back: dicts, lists, texts and numbers."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON-like")
