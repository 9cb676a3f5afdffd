"""Is an artifact still what its stage wrote? Every file against its entry in the manifest."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.cores import available_cores
from wam.errors import WamError


@dataclass(frozen=True)
class Damage:
    """A file that is not what its stage wrote."""

    file: str
    """Relative to the artifact's directory."""
    problem: str


@dataclass(frozen=True)
class Verdict:
    """What came of reading all files again."""

    num_files: int
    num_bytes: int
    """Of all files, as the manifest says."""
    damages: list[Damage]
    """In the order of the files' names."""


def verify(directory: Path, below: str = "") -> Verdict:
    """Compare the files of an artifact whose paths begin with ``below`` with its manifest.

    A thread per core computes the checksums. Raises WamError if the manifest is missing or damaged,
    or lists no checksums.
    """
    if not (directory / manifests.MANIFEST).is_file():
        raise WamError(
            f"{directory}: no {manifests.MANIFEST} here that lists checksums "
            "(raw frames have none; '--frames all' reads and checks each of them)"
        )
    files = {
        name: entry
        for name, entry in manifests.verified_manifest(directory)["files"].items()
        if name.startswith(below)
    }
    damages = []
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        console.progress("verify", len(files), "files") as advance,
    ):
        checks = {
            pool.submit(manifests.file_problem, directory / name, entry): name
            for name, entry in files.items()
        }
        for check in as_completed(checks):
            if problem := check.result():
                damages.append(Damage(checks[check], problem))
            advance()
    num_bytes = sum(entry["bytes"] for entry in files.values())
    return Verdict(len(files), num_bytes, sorted(damages, key=lambda damage: damage.file))
