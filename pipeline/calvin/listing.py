"""What the stage ``index`` found: the episodes that are used, and what stands for their frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifests
from pipeline.calvin import language
from pipeline.calvin.fields import CAMERAS
from pipeline.calvin.finding import Finding
from pipeline.calvin.npz import Kind
from pipeline.calvin.stretches import DamagedEpisode
from wam.errors import WamError

INDEX_FILE = "index.json"
Episodes = list[tuple[int, int]]
"""Frame ids [start, stop) of every episode."""


@dataclass(frozen=True)
class SplitIndex:
    """The frames of one split."""

    directory: str
    episodes: Episodes
    """The episodes that are used, cut to ``convert.frames`` and to what is there of them."""
    scenes: list[str | None]
    """Letter of every episode's scene; None where it is unknown."""
    num_frames: int
    digits: int
    """Digits of the frame id in file names."""
    digest: str
    """Of names, sizes and, as ``index.verify`` says, times or contents; and of the small files."""
    arrays: dict[str, Kind]
    """Dtype and shape of every array of the first frame."""
    renderer: str | None
    annotations: dict[str, int] | None
    """Number of annotated windows per task; None where the split has no annotations."""
    windows: list[language.Annotation] | None
    """The annotated windows, for stages that run where the raw frames are not."""
    num_stray: int
    """Frame files that belong to no episode; they are ignored."""
    stray: list[str]
    """Names of the first few of them."""
    damaged: list[DamagedEpisode]
    robot_model: str | None = None
    scene_source: str | None = None
    backend: str | None = None

    @property
    def scene(self) -> str | None:
        """The scene of all episodes; None if there are several, or one is unknown."""
        return self.scenes[0] if len(set(self.scenes)) == 1 else None

    @property
    def image_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape (H, W, 3) of the cameras' images."""
        return {name: self.arrays[name][1] for name in CAMERAS if name in self.arrays}


@dataclass(frozen=True)
class RawIndex:
    """The content of ``index.json``."""

    raw: str
    verify: str
    splits: dict[str, SplitIndex]
    warnings: list[Finding]
    """Errors and warnings of ``wam inspect`` that need no look into the frames."""

    @property
    def digest(self) -> str:
        """Stands for all frames of both splits."""
        return manifests.digest({name: split.digest for name, split in self.splits.items()})


def load_index(directory: Path) -> RawIndex:
    """The index in ``directory``. Raises WamError if it is absent, incomplete or damaged."""
    if "files" not in manifests.read_manifest(directory, "index"):
        raise WamError(f"{directory}: made by an earlier version; run 'wam index' again")
    manifests.checked_manifest(directory, "index")
    content = manifests.read_json(directory / INDEX_FILE)
    try:
        return RawIndex(
            content["raw"],
            content["verify"],
            {name: _split_of(split) for name, split in content["splits"].items()},
            [Finding(**finding) for finding in content["warnings"]],
        )
    except (KeyError, TypeError) as error:
        raise WamError(
            f"{directory / INDEX_FILE}: made by another version ({error}); run 'wam index' again"
        ) from None


def _split_of(content: dict[str, Any]) -> SplitIndex:
    """A split of ``index.json``."""
    windows = content["windows"]
    return SplitIndex(
        **{
            **content,
            "episodes": [tuple(episode) for episode in content["episodes"]],
            "arrays": {
                name: (dtype, tuple(shape)) for name, (dtype, shape) in content["arrays"].items()
            },
            "windows": windows and [language.Annotation(**window) for window in windows],
            "damaged": [
                DamagedEpisode(
                    **{
                        **damaged,
                        "episode": tuple(damaged["episode"]),
                        "kept": [tuple(stretch) for stretch in damaged["kept"]],
                    }
                )
                for damaged in content["damaged"]
            ],
        }
    )
