"""Complete artifacts for tests, as stages leave them."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.building import Build, build
from pipeline.artifacts.manifests import MANIFEST, digest, new_digest, read_json


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
    """Digests of all files of an artifact, by name; of its manifest without how it was made."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(directory))] = new_digest(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.name != MANIFEST:
        return path.read_bytes()
    return digest({**read_json(path), "manifest_digest": None, "provenance": None}).encode()
