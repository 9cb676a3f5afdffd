"""Directories that exist only when complete, and of which no kill takes anything.

A stage builds its output in ``<output>.partial``, which is unknown to DVC. A killed stage finds its
own work there and goes on, provided that what shapes the result is still the same; work that cannot
be used is set aside under another name, never deleted, and taken up again when its settings return.

In the partial directory, ``.work`` holds what the artifact does not need: what the run is
(``run.json``), checkpoints, records of finished jobs. The manifest is the last file to be written;
from then on the artifact is complete, and what may still be missing is done by the next run:

1. the partial directory and an earlier output change places, in one step where the system can;
2. the earlier output is removed, and so is ``.work``, which has told until now that 2. is to come.
"""

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.artifacts import locks
from pipeline.artifacts.identity import Identity
from pipeline.artifacts.manifests import (
    HOW_MADE,
    MANIFEST,
    entry,
    file_problem,
    plain,
    read_json,
    sealed,
    verified_manifest,
    versions,
    write_json,
)
from pipeline.artifacts.provenance import code_digest, provenance
from wam.errors import WamError
from wam.reliability.atomic import sweep

_WORK = ".work"
_RUN = "run.json"
_UNKNOWN = "unknown"

_AT_WORKING_DIRECTORY = -100
_RENAME_EXCHANGE = 2
"""Of renameat2(2)."""


@dataclass(frozen=True)
class Build:
    """An artifact that is being made."""

    directory: Path
    """Its content goes here."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """Further entries of the manifest."""
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``bytes`` and ``digest`` of files that need not be read again, by path in the directory."""

    @property
    def work(self) -> Path:
        """For what is of use until the artifact is complete."""
        return self.directory / _WORK

    def finish(self, part: str, paths: Iterable[Path]) -> None:
        """Note that the ``part`` of the work is done, which consists of the files ``paths``."""
        files = {str(path.relative_to(self.directory)): entry(path) for path in paths}
        write_json(self._record(part), files)
        self.known.update(files)

    def is_finished(self, part: str) -> bool:
        """Whether an earlier run has finished a ``part``, and all its files are what they were."""
        try:
            files = read_json(self._record(part), dict)
            if not files or _damages(self.directory, files):
                return False
        except (WamError, LookupError, TypeError):
            return False  # the record is damaged
        self.known.update(files)
        return True

    def _record(self, part: str) -> Path:
        return self.work / part / "finished.json"


def build(
    output: Path,
    make: Callable[[Build], None],
    *,
    stage: str,
    params: Any,
    inputs: dict[str, str],
    free: Collection[str] = (),
    growing: Collection[str] = (),
) -> None:
    """Let ``make`` fill a directory and put it in the place of ``output``.

    ``params`` is a mapping or dataclass, ``inputs`` maps names to digests of what the stage reads
    (see :func:`artifacts.fingerprint`). What an interrupted run left in the directory is still
    there, if ``params`` and ``inputs`` are equal. Of ``params``, those named in ``free`` (with
    dots: ``policy.log_every``) shape no result and may differ, those in ``growing`` may while the
    artifact is not complete: a number may change, a list become longer.

    Nothing is made if the output is complete, undamaged, and equal in all of these and in the code.
    """
    identity = Identity(stage, plain(params), inputs, frozenset(free), frozenset(growing))
    with output_slot(output) as found:
        found.build(make, identity)


def partial_directory(output: Path) -> Path:
    """Where ``output`` is built."""
    output = _real(output)
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def output_slot(output: Path) -> Iterator["OutputSlot"]:
    """The right to build ``output``, after what an earlier process left undone has been done."""
    output = _real(output)
    with locks.exclusive(output):
        found = OutputSlot(output)
        found.tidy()
        yield found


class OutputSlot:
    """Where an artifact lies or is to lie; of one process at a time, see :func:`output_slot`."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._partial = partial_directory(output)
        self._old = output.with_name(f".{output.name}.old")

    def tidy(self) -> None:
        """Do what a killed process has left undone after the artifact was complete."""
        sweep(self._partial, recursive=True)
        if not any(path.is_file() for path in self._partial.rglob("*")):
            _remove(self._partial)  # that process had not begun
        if self._partial.is_dir() and not (self._partial / _WORK).is_dir():
            if (self._partial / MANIFEST).is_file():  # the earlier output, after the exchange
                _remove(self._old)
                self._partial.rename(self._old)
            else:
                self._set_aside(self._partial, _UNKNOWN, "it is not known what it was begun with")
        if self._old.exists() and not self._output.exists():
            if _is_complete(self._partial):
                self._partial.rename(self._output)
            else:
                self._old.rename(self._output)
        _remove(self._old)
        _remove(self._output / _WORK)

    def build(
        self, make: Callable[[Build], None], identity: Identity, *, versioned: bool = True
    ) -> None:
        """See the function :func:`build`.

        An output that is not ``versioned``, neither here by a list of its files nor by DVC, is set
        aside before another takes its place.
        """
        if versioned and self._is_there(identity):
            console.note(
                f"{self._output}: complete already, with equal settings, inputs and code; nothing "
                "to do (delete it to have it made again)"
            )
            if not identity.change(_read_run(self._partial), complete=True):
                self._drop_partial()  # it was to become the same
            return
        self._prepare(identity)
        if not _is_complete(self._partial):
            new = Build(self._partial)
            try:
                make(new)
            except OSError as error:
                if error.errno and error.filename is None:  # as libraries leave it
                    error.filename = str(self._partial)
                raise
            self._seal(identity, new, versioned=versioned)
        self._publish(identity.key, versioned=versioned)

    def _is_there(self, identity: Identity) -> bool:
        """Whether the output is what would be made."""
        if not _is_complete(self._output):
            return False
        manifest = verified_manifest(self._output)
        made_by = manifest.get("provenance", {}).get("code")
        if identity.change(manifest, complete=True) or made_by != code_digest():
            return False
        return not _damages(self._output, manifest["files"])

    def _prepare(self, identity: Identity) -> None:
        """Have a partial directory of ``identity``: the begun one, one set aside, or a new one."""
        if self._partial.is_dir():
            record = _read_run(self._partial)
            if not (why := identity.change(record, complete=False)):
                if identity.change(record, complete=True):  # it was complete, and is to be longer
                    (self._partial / MANIFEST).unlink(missing_ok=True)
            else:
                known = isinstance(record, dict) and record.get("key")
                self._set_aside(self._partial, str(known or _UNKNOWN), why)
        aside = self._aside(identity.key)
        if not self._partial.is_dir() and aside.is_dir():
            (aside / _WORK).mkdir(exist_ok=True)
            if not identity.change(_read_run(aside), complete=_is_complete(aside)):
                aside.rename(self._partial)
                console.note(f"{aside}: has these settings; going on with it")
        run = self._partial / _WORK / _RUN
        run.parent.mkdir(parents=True, exist_ok=True)
        record = {**identity.record(), "key": identity.key}
        if not run.is_file() or read_json(run) != record:
            write_json(run, record)

    def _seal(self, identity: Identity, new: Build, *, versioned: bool) -> None:
        sweep(self._partial, recursive=True)
        files = {}
        for path in sorted(self._partial.rglob("*")) if versioned else []:
            name = path.relative_to(self._partial)
            if path.is_file() and name.parts[0] not in (_WORK, MANIFEST):
                files[str(name)] = _entry(path, new.known.get(str(name)))
        content = {
            **identity.record(),
            **new.manifest,
            "key": identity.key,
            "files": files,
            "versions": versions(),
            "provenance": provenance(),
        }
        write_json(self._partial / MANIFEST, sealed(content))

    def _publish(self, key: str, *, versioned: bool) -> None:
        """Put the complete partial directory in place; see the module's description.

        An output with the same content stays: it says what made it first, and is not new to DVC.
        """
        if versioned and self._has_same_content():
            self._drop_partial()
            return
        if self._output.exists() and not (versioned and (self._output / MANIFEST).is_file()):
            record = read_json(self._output / MANIFEST) if _is_complete(self._output) else {}
            # One of the same kind was not good enough to be kept: it is not to be found again.
            found = "incomplete" if record.get("key") == key else record.get("key", _UNKNOWN)
            self._set_aside(self._output, found, "another output takes its place")
        if not self._output.exists():
            self._partial.rename(self._output)
        elif _exchange(self._partial, self._output):
            self._partial.rename(self._old)
        else:
            self._output.rename(self._old)
            self._partial.rename(self._output)
        self.tidy()

    def _drop_partial(self) -> None:
        """Remove the partial directory, of which nothing is needed, at once and as a whole."""
        self._partial.rename(self._old)
        _remove(self._old)

    def _has_same_content(self) -> bool:
        if not _is_complete(self._output):
            return False
        old, new = (
            {name: value for name, value in manifest.items() if name not in HOW_MADE}
            for manifest in map(verified_manifest, (self._output, self._partial))
        )
        return old == new and not _damages(self._output, old["files"])

    def _aside(self, key: str, number: int = 1) -> Path:
        suffix = f"-{number}" if number > 1 else ""
        return self._output.with_name(f"{self._output.name}.set-aside-{key}{suffix}")

    def _set_aside(self, directory: Path, key: str, why: str) -> None:
        """Keep ``directory`` under another name, and say so."""
        number = 1
        while (target := self._aside(key, number)).exists():
            number += 1
        directory.rename(target)
        console.warn(f"{directory}: set aside as {target} ({why}); delete that if it is not needed")


def _real(output: Path) -> Path:
    """``output``, or what a symbolic link there points to: that is what is replaced."""
    return output.resolve() if output.is_symlink() else output


def _is_complete(directory: Path) -> bool:
    """Whether a manifest lies there that is whole: it was the last file to be written."""
    if not (directory / MANIFEST).is_file():
        return False
    try:
        verified_manifest(directory)
    except WamError:
        return False
    return True


def _read_run(directory: Path) -> Any:
    """What the work in ``directory`` was begun with; None if that cannot be read."""
    for path in (directory / _WORK / _RUN, directory / MANIFEST):
        try:
            return read_json(path)
        except WamError:
            continue
    return None


def _damages(directory: Path, files: dict[str, dict[str, Any]]) -> bool:
    return any(file_problem(directory / name, entry) for name, entry in files.items())


def _entry(path: Path, known: dict[str, Any] | None) -> dict[str, Any]:
    """Size and digest of a file, as ``known`` by its writer. Raises WamError if it has shrunk."""
    if known is None:
        return entry(path)
    size = path.stat().st_size
    if size != known["bytes"]:
        raise WamError(
            f"{path}: {size:,} bytes, {known['bytes']:,} were written; delete it and run again"
        )
    return known


def _remove(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)


def _exchange(first: Path, second: Path) -> bool:
    """Let two directories change names at once; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    sys.audit("os.rename", first, second, _AT_WORKING_DIRECTORY, _AT_WORKING_DIRECTORY)
    names = [
        argument
        for path in (first, second)
        for argument in (_AT_WORKING_DIRECTORY, os.fsencode(path))
    ]
    return renameat2(*names, _RENAME_EXCHANGE) == 0
