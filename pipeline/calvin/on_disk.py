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

from pipeline.calvin import safe_pickle
from pipeline.calvin.moments import Moments
from pipeline.calvin.npz import DAMAGED, Kind, Npz, parse_npy
from pipeline.untrusted import bounded_yaml
from pipeline.untrusted.regular_file import open_regular, read_regular
from pipeline.untrusted.text import MAX_ID, check_text, id_pair, shortened, shown
from wam.errors import WamError
from wam.reliability.atomic import replacing

DIGITS = 7
"""Digits of a frame id in file names that we write; other data may differ."""
EPISODE_TABLE = "ep_start_end_ids.npy"
EPISODE_LENGTHS = "ep_lens.npy"
STATISTICS = "statistics.yaml"
SCENE_INFO = "scene_info.npy"
ANNOTATIONS = Path("lang_annotations/auto_lang_ann.npy")
OTHER_ANNOTATIONS = "lang_*/auto_lang_ann.npy"
"""The same windows with the embeddings of another language model, in a folder named after it."""
RECORDING = Path(".hydra/merged_config.yaml")

_STATISTICS_FRAMES = 1000
"""Frames of an episode that are in memory at a time."""

_FRAME_NAME = re.compile(r"episode_([0-9]{1,18})\.npz")
_MOST_TABLE_BYTES = 1 << 25
"""Two million episodes."""
_LONGEST_TASK = 200
_LONGEST_SENTENCE = 2000
_MOST_LISTED = 20
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
    """Frame id, digits of the id and name of every frame file, in ascending order.

    Links to nothing, directories and named pipes are no frame files, whatever they are called.
    """
    with os.scandir(directory) as entries:
        return sorted(
            (*parsed, entry.name)
            for entry in entries
            if (parsed := parse_frame_name(entry.name)) is not None and _is_file(entry)
        )


def write_frame(directory: Path, frame_id: int, frame: dict[str, np.ndarray]) -> None:
    """Write one frame atomically; the same content gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **frame)  # type: ignore[arg-type]
    _write_bytes(frame_path(directory, frame_id), buffer.getvalue())


def read_frame(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays called ``keys`` of one frame file.

    Raises WamError naming the file if it is missing, truncated or damaged, lacks a key, or holds
    more than any frame does.
    """
    keys = tuple(keys)
    with _open_frame(path) as archive:
        missing = [key for key in keys if key not in archive]
        if missing:
            found = archive.names
            more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
            listed = ", ".join(shortened(name) for name in found[:_MOST_LISTED]) or "nothing"
            raise WamError(f"{path}: {missing[0]} is missing; found {listed}{more}")
        return archive.read(keys)


def examine_frame(path: Path, keys: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, Kind]]:
    """Those of ``keys`` that a frame file holds, and the dtype and shape of every array in it.

    Arrays that are not asked for are not inflated, and may be damaged or hold objects. Raises
    WamError naming the file if it is missing, truncated or damaged.
    """
    with _open_frame(path) as archive:
        arrays = archive.read(key for key in keys if key in archive)
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

    Raises WamError if the table is missing, damaged or empty, or has an id that no frame can have.
    """
    path = directory / EPISODE_TABLE
    table = _load_npy(path)
    if table.ndim != 2 or table.shape[1] != 2 or not np.issubdtype(table.dtype, np.integer):
        raise WamError(
            f"{path}: expected integers of shape (episodes, 2), got {table.dtype} {table.shape}"
        )
    if len(table) == 0:
        raise WamError(f"{path}: holds no episode")
    if (beyond := (np.abs(table.astype(float)) > MAX_ID).any(axis=1)).any():
        row = table[beyond][0].tolist()
        raise WamError(f"{path}: episode {row}; expected frame ids from 0 to {MAX_ID}")
    return table.astype(np.int64)


def read_episode_lengths(directory: Path) -> np.ndarray:
    """int64 [E] of ``ep_lens.npy``. Raises WamError if it is missing or damaged."""
    path = directory / EPISODE_LENGTHS
    lengths = _load_npy(path)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise WamError(
            f"{path}: expected integers of shape (episodes,), got {lengths.dtype} {lengths.shape}"
        )
    if len(lengths) and np.abs(lengths.astype(float)).max() > MAX_ID:
        raise WamError(f"{path}: a length of {lengths.max()} frames")
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


def annotations_path(directory: Path) -> Path | None:
    """Where the annotations of a split are; None if it has none.

    :data:`ANNOTATIONS`, or what is called alike in the only other folder: CALVIN has the same
    windows in one folder per language model, and no embedding is used here. Raises WamError if it
    might be one of several.
    """
    path = directory / ANNOTATIONS
    if os.path.lexists(path):
        return path
    others = sorted(directory.glob(OTHER_ANNOTATIONS))
    if len(others) > 1:
        listed = ", ".join(str(other.relative_to(directory)) for other in others[:_MOST_LISTED])
        raise WamError(f"{path}: not found, but {listed}; link one of these folders to that name")
    return others[0] if others else None


@dataclass(frozen=True)
class AnnotationFile:
    """The language annotations of a split as they are on disk."""

    path: Path
    annotations: list[Annotation]
    """With repeated entries and empty windows."""
    num_rephrased: int
    """How many of them have several sentences, of which the first is used."""


def read_annotations(directory: Path) -> list[Annotation]:
    """The language annotations, without repeated entries.

    Raises WamError if the file is missing, malformed, asks for anything but plain data, or has an
    empty window.
    """
    file = read_annotation_file(directory)
    for annotation in file.annotations:
        if annotation.start >= annotation.stop:
            window = (annotation.start, annotation.stop)
            raise WamError(f"{file.path}: info.indx {window} of {annotation.task} is empty")
    return list(dict.fromkeys(file.annotations))


def read_annotation_file(directory: Path) -> AnnotationFile:
    """The language annotations as they are on disk.

    Raises WamError if the file is missing, malformed, or asks for anything but plain data.
    """
    path = annotations_path(directory) or directory / ANNOTATIONS
    content = safe_pickle.load(path)
    lists = {}
    for section, name in (("language", "ann"), ("language", "task"), ("info", "indx")):
        field_name = f"{section}.{name}"
        values = _lookup(content, section, name)
        if isinstance(values, np.ndarray):
            values = values.tolist() if values.ndim else None
        if not isinstance(values, list | tuple):
            raise WamError(f"{path}: {field_name} is {shown(values)}; expected a list")
        lists[field_name] = values
    sentences, tasks, windows = lists.values()
    if not len(sentences) == len(tasks) == len(windows):
        raise WamError(
            f"{path}: {len(sentences)} sentences, {len(tasks)} tasks and {len(windows)} "
            "windows; expected as many of each"
        )
    annotations = []
    for at, (task, sentence, window) in enumerate(zip(tasks, sentences, windows, strict=True)):
        check_text(f"{path}: language.task[{at}]", task, _LONGEST_TASK)
        # Several wordings of one instruction, as people add them to CALVIN's.
        first = sentence[0] if isinstance(sentence, list | tuple) and sentence else sentence
        check_text(f"{path}: language.ann[{at}]", first, _LONGEST_SENTENCE)
        start, stop = id_pair(f"{path}: info.indx[{at}]", window)
        annotations.append(Annotation(task, first, start, stop))
    rephrased = sum(isinstance(item, list | tuple) and len(item) > 1 for item in sentences)
    return AnnotationFile(path, annotations, rephrased)


def write_scene_info(directory: Path, scenes: dict[str, tuple[int, int]]) -> None:
    """Write ``scene name -> (first, last)`` frame ids, both inclusive."""
    _write_pickled(directory / SCENE_INFO, {name: list(ids) for name, ids in scenes.items()})


def read_scene_info(directory: Path) -> dict[str, tuple[int, int]]:
    """``scene name -> (first, last)`` frame ids; empty where the file is absent (validation)."""
    path = directory / SCENE_INFO
    if not os.path.lexists(path):
        return {}
    content = safe_pickle.load(path)
    if not isinstance(content, dict):
        raise WamError(f"{path}: expected scene name -> [first, last], got {shown(content)}")
    scenes = {}
    for name, ids in content.items():
        check_text(f"{path}: scene name", name, _LONGEST_TASK)
        scenes[name] = id_pair(f"{path}: {name}", ids)
    return scenes


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
    if not os.path.lexists(path):
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
            cameras[shortened(str(name))] = (height, width)
    return Recording(
        scene=scene[1] if scene else None,
        renderer={True: "egl", False: "tiny"}.get(use_egl) if isinstance(use_egl, bool) else None,
        robot_model=_text(path, content, "robot", "model"),
        cameras=cameras,
        use_nullspace=use_nullspace if isinstance(use_nullspace, bool) else None,
        scene_source=_text(path, content, "scene", "source"),
        backend=_text(path, content, "env", "backend"),
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
        descriptor = open_regular(path)
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


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _load_npy(path: Path) -> np.ndarray:
    try:
        return parse_npy(read_regular(path, _MOST_TABLE_BYTES))
    except FileNotFoundError:
        raise WamError(f"{path}: not found; every split of CALVIN data has this table") from None
    except OSError as error:
        raise WamError(f"{path}: cannot be read ({error.strerror})") from None
    except WamError:
        raise
    except ValueError as error:
        raise WamError(f"{path}: not a valid .npy file ({error})") from None


def _load_yaml(path: Path) -> Any:
    try:
        text = read_regular(path, bounded_yaml.MOST_CHARACTERS).decode()
    except FileNotFoundError:
        raise WamError(f"{path}: not found") from None
    except OSError as error:
        raise WamError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise WamError(f"{path}: not valid YAML (not UTF-8 at byte {error.start})") from None
    return bounded_yaml.load(text, path)


def _lookup(mapping: Any, *keys: str) -> Any:
    """``mapping[keys[0]][keys[1]]…``, or None."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping


def _text(path: Path, content: Any, *keys: str) -> str | None:
    """A text or nothing. Raises WamError for anything else."""
    value = _lookup(content, *keys)
    if value is not None:
        check_text(f"{path}: {'.'.join(keys)}", value, _LONGEST_TASK)
    return value
