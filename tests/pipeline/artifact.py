"""Complete artifacts for tests, as stages leave them."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.building import Build, build
from pipeline.artifacts.manifests import MANIFEST, digest, new_digest, read_json

_TIMES = ("frames_per_s",)
"""What records tell of the clock."""
OF_THE_CLOCK = ("tensorboard", "dvclive")
"""Directories whose files are stamped with the time."""


@contextlib.contextmanager
def artifact(
    output: Path, stage: str = "test", params: Any = None, **manifest: Any
) -> Iterator[Path]:
    """Yield a directory; what is written there becomes the artifact at ``output``."""
    content = output.with_name(f"{output.name}.content")
    content.mkdir(parents=True)
    yield content

    def make(target: Build) -> None:
        shutil.copytree(content, target.directory, dirs_exist_ok=True)
        target.manifest.update(manifest)

    build(output, make, stage=stage, params=params or {}, inputs={})
    shutil.rmtree(content)


def remade(directory: Path, **manifest: Any) -> None:
    """Let the artifact in ``directory`` have been made with the files that it has now."""
    before = read_json(directory / MANIFEST)
    stated = {"params", "inputs", "key", "files", "versions", "provenance", "manifest_digest"}
    more = {name: value for name, value in before.items() if name not in stated} | manifest
    content = directory.rename(directory.with_name(f"{directory.name}.content"))

    def make(target: Build) -> None:
        shutil.copytree(content, target.directory, dirs_exist_ok=True)
        target.manifest.update(more)

    stage = more.pop("stage")
    build(directory, make, stage=stage, params=before["params"], inputs=before["inputs"])
    shutil.rmtree(content)


def content(directory: Path) -> dict[str, str]:
    """Digests of all files of an artifact, by name, without what depends on the clock.

    That is: files stamped with the time, speeds in records, and their digests in the manifest.
    """
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and name.parts[0] not in OF_THE_CLOCK:
            found[str(name)] = new_digest(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    text = path.read_bytes()
    if path.name == MANIFEST:
        manifest = json.loads(text)
        manifest["files"] = sorted(
            name for name in manifest.get("files", {}) if name.split("/")[0] not in OF_THE_CLOCK
        )
        return digest({**manifest, "manifest_digest": None, "provenance": None}).encode()
    if path.suffix == ".json":
        return digest(_without_times(json.loads(text))).encode()
    if path.suffix == ".jsonl":
        return digest([_without_times(json.loads(line)) for line in text.splitlines()]).encode()
    if path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text.decode()))
        return digest([_without_times(row) for row in rows]).encode()
    return text


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(v) for name, v in value.items() if name not in _TIMES}
    return value
