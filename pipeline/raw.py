"""CALVIN's on-disk format: one deflated ``.npz`` per frame, episode table, annotations, statistics.

Source: CALVIN contract 1.2 to 1.7. ``directory`` is always that of one split.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import safe_pickle
from pipeline.moments import Moments
from pipeline.npz import DAMAGED, Kind, Npz
from wam.atomic import replacing
from wam.errors import WamError

DIGITS = 7
"""Digits of a frame id in file names that we write; other data may differ."""
EPISODE_TABLE = "ep_start_end_ids.npy"
EPISODE_LENGTHS = "ep_lens.npy"
STATISTICS = "statistics.yaml"
SCENE_INFO = "scene_info.npy"
ANNOTATIONS = Path("lang_annotations/auto_lang_ann.npy")
RECORDING = Path(".hydra/merged_config.yaml")

_STATISTICS_FRAMES = 1000
"""Frames of an episode that are in memory at a time."""

_FRAME_NAME = re.compile(r"episode_(\d+)\.npz")
# A scene is named, or spelled out with the table that it loads (contract 1.7, 2.8).
_SCENE_NAME = re.compile(r"calvin_(?:scene|table)_([A-D])")


@dataclass(frozen=True)
class Annotation:
    """A stretch of play that accomplishes a task."""

    task: str
    sentence: str
    start: int
    """First frame id."""
    stop: int
    """One past the last frame id that was checked (CALVIN contract 1.5)."""


@dataclass(frozen=True)
class Recording:
    """How frames were made; None where the recording does not say."""

    scene: str | None
    """Letter of the scene, A to D."""
    renderer: str | None
    """``tiny`` or ``egl``; images of the two differ visibly."""
    robot_model: str | None = None
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width by camera name (``static``, ``gripper``)."""
    use_nullspace: bool | None = None
    """Whether inverse kinematics prefers the home posture; CALVIN's own robot always does."""
    scene_source: str | None = None
    """``embedded`` or ``calvin``: whose tables and blocks were seen."""
    backend: str | None = None
    """The simulator that made the frames."""


def frame_name(frame_id: int, digits: int = DIGITS) -> str:
    """``episode_0000000.npz`` of a frame."""
    return f"episode_{frame_id:0{digits}d}.npz"


def frame_path(directory: Path, frame_id: int, digits: int = DIGITS) -> Path:
    """``directory/episode_0000000.npz`` of a frame."""
    return directory / frame_name(frame_id, digits)


def parse_frame_name(name: str) -> tuple[int, int] | None:
    """``(frame id, digits)`` of a frame's file name; None for any other file."""
    match = _FRAME_NAME.fullmatch(name)
    return (int(match[1]), len(match[1])) if match else None


def list_frames(directory: Path) -> list[tuple[int, int, str]]:
    """Frame id, digits of the id and name of every frame file, in ascending order."""
    with os.scandir(directory) as entries:
        return sorted(
            (*parsed, entry.name)
            for entry in entries
            if (parsed := parse_frame_name(entry.name)) is not None
        )


def write_frame(directory: Path, frame_id: int, frame: dict[str, np.ndarray]) -> None:
    """Write one frame atomically; the same content gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **frame)  # type: ignore[arg-type]
    _write_bytes(frame_path(directory, frame_id), buffer.getvalue())


def read_frame(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays called ``keys`` of one frame file.

    Raises WamError naming the file if it is missing, truncated or damaged, or lacks a key.
    """
    with _open_frame(path) as archive:
        missing = [key for key in keys if key not in archive]
        if missing:
            raise WamError(f"{path}: {missing[0]} is missing; found {', '.join(archive.names)}")
        return {key: archive[key] for key in keys}


def examine_frame(path: Path, keys: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, Kind]]:
    """Those of ``keys`` that a frame file holds, and the dtype and shape of every array in it.

    Arrays that are not asked for are not inflated. Raises WamError naming the file if it is
    missing, truncated or damaged.
    """
    with _open_frame(path) as archive:
        arrays = {key: archive[key] for key in keys if key in archive}
        return arrays, {key: archive.kind(key) for key in archive.names}


def write_split(directory: Path, episodes: Sequence[tuple[int, int]]) -> None:
    """Write the episode table, lengths and statistics of a split whose frames are all there.

    ``episodes`` holds the first and last frame id of every episode, both inclusive as on disk.
    """
    table = np.asarray(episodes, np.int64).reshape(-1, 2)
    write_npy(directory / EPISODE_TABLE, table)
    write_npy(directory / EPISODE_LENGTHS, table[:, 1] - table[:, 0] + 1)
    _write_statistics(directory, table)


def read_episode_table(directory: Path) -> np.ndarray:
    """int64 [E, 2]: the rows of the episode table as they are on disk.

    Raises WamError if the table is missing, damaged or empty.
    """
    path = directory / EPISODE_TABLE
    table = _load_npy(path)
    if table.ndim != 2 or table.shape[1] != 2 or not np.issubdtype(table.dtype, np.integer):
        raise WamError(
            f"{path}: expected integers of shape (episodes, 2), got {table.dtype} {table.shape}"
        )
    if len(table) == 0:
        raise WamError(f"{path}: holds no episode")
    return table.astype(np.int64)


def read_episode_lengths(directory: Path) -> np.ndarray:
    """int64 [E] of ``ep_lens.npy``. Raises WamError if it is missing or damaged."""
    path = directory / EPISODE_LENGTHS
    lengths = _load_npy(path)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise WamError(
            f"{path}: expected integers of shape (episodes,), got {lengths.dtype} {lengths.shape}"
        )
    return lengths.astype(np.int64)


def read_episodes(directory: Path) -> np.ndarray:
    """int64 [E, 2]: first and last frame id (both inclusive) of every episode, in ascending order.

    Raises WamError if the table is missing, damaged, empty, or has reversed or overlapping rows.
    """
    path = directory / EPISODE_TABLE
    table = read_episode_table(directory)
    table = table[np.argsort(table[:, 0], kind="stable")]
    if (reversed_ := table[:, 1] < table[:, 0]).any() or (table[:, 0] < 0).any():
        row = table[reversed_ | (table[:, 0] < 0)][0]
        raise WamError(f"{path}: episode {row.tolist()} ends before it starts or has a negative id")
    if (overlap := table[1:, 0] <= table[:-1, 1]).any():
        at = int(np.flatnonzero(overlap)[0])
        raise WamError(
            f"{path}: episodes {table[at].tolist()} and {table[at + 1].tolist()} overlap"
        )
    return table


def write_annotations(directory: Path, annotations: Sequence[Annotation]) -> None:
    """Write the language annotations. There is no language model here: ``emb`` is (N, 1, 0)."""
    content = {
        "language": {
            "ann": [annotation.sentence for annotation in annotations],
            "task": [annotation.task for annotation in annotations],
            "emb": np.zeros((len(annotations), 1, 0), np.float32),
        },
        "info": {
            "episodes": [],
            "indx": [(annotation.start, annotation.stop) for annotation in annotations],
        },
    }
    _write_pickled(directory / ANNOTATIONS, content)


def read_annotations(directory: Path) -> list[Annotation]:
    """The language annotations, without repeated entries.

    Raises WamError if the file is missing, malformed, asks for anything but plain data, or has an
    empty window.
    """
    annotations = read_annotation_list(directory)
    for annotation in annotations:
        if annotation.start >= annotation.stop:
            window = (annotation.start, annotation.stop)
            raise WamError(
                f"{directory / ANNOTATIONS}: info.indx {window} of {annotation.task} is empty"
            )
    return list(dict.fromkeys(annotations))


def read_annotation_list(directory: Path) -> list[Annotation]:
    """The language annotations as they are on disk: repeated entries and empty windows too.

    Raises WamError if the file is missing, malformed, or asks for anything but plain data.
    """
    path = directory / ANNOTATIONS
    content = safe_pickle.load(path)
    try:
        sentences, tasks = content["language"]["ann"], content["language"]["task"]
        windows = content["info"]["indx"]
        if not len(sentences) == len(tasks) == len(windows):
            raise WamError(
                f"{path}: {len(sentences)} sentences, {len(tasks)} tasks and {len(windows)} "
                "windows; expected as many of each"
            )
        return [
            Annotation(str(task), str(sentence), int(window[0]), int(window[1]))
            for task, sentence, window in zip(tasks, sentences, windows, strict=True)
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, WamError):
            raise
        raise WamError(
            f"{path}: expected language.ann, language.task and info.indx ({error!r})"
        ) from None


def write_scene_info(directory: Path, scenes: dict[str, tuple[int, int]]) -> None:
    """Write ``scene name -> (first, last)`` frame ids, both inclusive."""
    _write_pickled(directory / SCENE_INFO, {name: list(ids) for name, ids in scenes.items()})


def read_scene_info(directory: Path) -> dict[str, tuple[int, int]]:
    """``scene name -> (first, last)`` frame ids; empty where the file is absent (validation)."""
    path = directory / SCENE_INFO
    if not path.exists():
        return {}
    content = safe_pickle.load(path)
    try:
        return {str(name): (int(ids[0]), int(ids[1])) for name, ids in content.items()}
    except (AttributeError, TypeError, IndexError, ValueError) as error:
        raise WamError(f"{path}: expected scene name -> [first, last] ({error!r})") from None


def write_recording_config(directory: Path, recording: Recording) -> None:
    """Write ``.hydra/merged_config.yaml`` with the keys that CALVIN's tools read."""
    content: dict[str, dict[str, Any]] = {
        "cameras": {
            name: {"name": name, "height": height, "width": width}
            for name, (height, width) in recording.cameras.items()
        },
        "scene": {
            "name": f"calvin_scene_{recording.scene}",
            "source": recording.scene_source,
        },
        "env": {"use_egl": recording.renderer == "egl", "backend": recording.backend},
        "robot": {"model": recording.robot_model},
    }
    if recording.use_nullspace is not None:
        content["robot"]["use_nullspace"] = recording.use_nullspace
    _write_bytes(directory / RECORDING, yaml.safe_dump(content, sort_keys=True).encode())


def read_recording_config(directory: Path) -> Recording:
    """What ``.hydra/merged_config.yaml`` tells; all None where the file is absent."""
    path = directory / RECORDING
    if not path.is_file():
        return Recording(None, None)
    content = _load_yaml(path)
    scene = _SCENE_NAME.search(str(_lookup(content, "scene")))
    use_egl = _lookup(content, "env", "use_egl")
    use_nullspace = _lookup(content, "robot", "use_nullspace")
    listed = _lookup(content, "cameras")
    cameras = {}
    for name, camera in listed.items() if isinstance(listed, dict) else ():
        height, width = _lookup(camera, "height"), _lookup(camera, "width")
        if isinstance(height, int) and isinstance(width, int):
            cameras[str(name)] = (height, width)
    return Recording(
        scene=scene[1] if scene else None,
        renderer={True: "egl", False: "tiny"}.get(use_egl) if isinstance(use_egl, bool) else None,
        robot_model=_lookup(content, "robot", "model"),
        cameras=cameras,
        use_nullspace=use_nullspace if isinstance(use_nullspace, bool) else None,
        scene_source=_lookup(content, "scene", "source"),
        backend=_lookup(content, "env", "backend"),
    )


def read_statistics(directory: Path) -> dict[str, Any]:
    """``statistics.yaml``. Raises WamError if it is missing or not a YAML mapping."""
    path = directory / STATISTICS
    content = _load_yaml(path)
    if not isinstance(content, dict):
        raise WamError(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array atomically as ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    _write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def _open_frame(path: Path) -> Iterator[Npz]:
    """The archive of a frame; whatever its reader trips over becomes a WamError naming the file."""
    try:
        # No Python file object: its buffer would be larger than what is read of a frame.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield Npz(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise WamError(f"{path}: frame file not found") from None
    except OSError as error:
        raise WamError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED as error:
        if isinstance(error, WamError):
            raise
        raise WamError(f"{path}: truncated or damaged frame file ({error})") from None


def _write_statistics(directory: Path, table: np.ndarray) -> None:
    """``statistics.yaml`` (CALVIN contract 1.6) over all frames of the episodes."""
    found: dict[str, Moments] = {}
    for first, last in table.tolist():
        for start in range(first, last + 1, _STATISTICS_FRAMES):
            stop = min(start + _STATISTICS_FRAMES, last + 1)
            frames = [
                read_frame(frame_path(directory, frame_id), ("robot_obs", "scene_obs", "actions"))
                for frame_id in range(start, stop)
            ]
            for key in frames[0]:
                moments = Moments.of(np.stack([frame[key] for frame in frames]))
                found[key] = found[key].merged(moments) if key in found else moments
    content: dict[str, Any] = {
        "act_min_bound": found["actions"].minimum.tolist(),
        "act_max_bound": found["actions"].maximum.tolist(),
    }
    for key in ("robot_obs", "scene_obs"):
        constant = found[key].minimum == found[key].maximum
        content[key] = [
            {
                "_target_": "calvin_agent.utils.transforms.NormalizeVector",
                "mean": found[key].mean.tolist(),
                "std": np.where(constant, 1.0, found[key].std).tolist(),
            }
        ]
    _write_bytes(directory / STATISTICS, yaml.safe_dump(content, sort_keys=True).encode())


def _write_pickled(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array(content, dtype=object), allow_pickle=True)
    _write_bytes(path, buffer.getvalue())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise WamError(f"{path}: not found; every split of CALVIN data has this table") from None
    except (ValueError, EOFError) as error:
        raise WamError(f"{path}: not a valid .npy file ({error})") from None


def _load_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise WamError(f"{path}: not found") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WamError(f"{path}: not valid YAML ({error})") from None


def _lookup(mapping: Any, *keys: str) -> Any:
    """``mapping[keys[0]][keys[1]]…``, or None."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping
