"""Stage ``index``: list the raw frames once, check that none is missing, and leave a digest.

The listing stands for the frames in DVC, which would need minutes for 500,000 files: as long as it
stays the same, byte for byte, nothing downstream runs. What ``convert.frames`` and
``convert.scenes`` leave out is left out here, so that all later stages agree on the episodes.
"""

import hashlib
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, output_slot
from pipeline.artifacts.identity import Identity
from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.calvin import conformance, language, metadata, on_disk
from pipeline.calvin.fields import VECTORS
from pipeline.calvin.frame_checks import DroppedEpisode, read_first_frame
from pipeline.calvin.listing import INDEX_FILE, Episodes, RawIndex, SplitIndex, load_index
from pipeline.calvin.npz import Kind
from pipeline.calvin.scenes import episode_scenes
from pipeline.evaluation.recordings import check_recording
from pipeline.params import Convert, Profile
from pipeline.untrusted.regular_file import what_is_there
from wam.errors import WamError

_MAX_STRAY_NAMES = 20


def run(profile: Profile, layout: Layout) -> None:
    """Index the profile's raw frames into ``layout.index``.

    Where the raw frames are not here, an index of them with the same settings is kept. Raises
    WamError if a directory, table or annotation is missing or damaged, if a frame inside an episode
    is missing (under ``convert.on_error: skip-episode`` the episode is dropped and noted instead),
    or if the first frame is invalid.
    """
    root = _raw_directory(profile, layout)
    settings = profile.convert
    params = manifests.plain(
        {
            "verify": profile.index.verify,
            "on_error": settings.on_error,
            "cameras": settings.cameras,
            "scenes": settings.scenes,
            "frames": settings.frames,
        }
    )
    is_here = any((root / split).is_dir() for split in SPLITS)
    index = None if is_here else _kept(layout.index, root, params)
    if index is not None:
        console.note(f"{root}: the raw frames are not here; {layout.index} is kept")
    else:
        index = _made(profile, layout, root)
        _save(layout.index, index, params)
        for warning in index.warnings:
            console.warn(str(warning))
        for split in index.splits.values():
            for finding in split.findings:
                console.warn(f"{finding.file}: {finding.problem}; the episode is dropped")
    training, validation = index.splits["training"], index.splits["validation"]
    console.done(
        "index",
        f"{training.num_frames:,} training and {validation.num_frames:,} validation frames in "
        f"{len(training.episodes)} + {len(validation.episodes)} episodes of {root}",
    )


def index_split(directory: Path, split: str, verify: str, settings: Convert) -> SplitIndex:
    """Index the frames below one split's ``directory``; see :func:`run` for the errors."""
    if not directory.is_dir():
        raise WamError(
            f"{directory}: directory not found; CALVIN data has {' and '.join(SPLITS)} side by side"
        )
    table = on_disk.read_episodes(directory)
    recorded = [(first, last + 1) for first, last in table.tolist()]
    names, ids, digits = _list_frames(directory)
    stray = [names[at] for at in _outside(recorded, ids)]
    chosen = _select(directory, split, recorded, settings)
    episodes = [episode for episode, _ in chosen]
    findings, num_missing = _missing_frames(directory, split, digits, episodes, ids)
    if findings and settings.on_error == "fail":
        raise WamError(
            f"{findings[0].file}: {findings[0].problem}; missing in all: {num_missing}. Restore "
            "the files, or set convert.on_error to skip-episode"
        )
    dropped = {finding.episode for finding in findings}
    kept = [episode for episode in episodes if episode not in dropped]
    recording = metadata.read_recording_config(directory)
    annotations = language.annotations_path(directory)
    windows = None if annotations is None else language.read_annotations(directory)
    tasks = [window.task for window in windows or []]
    return SplitIndex(
        directory=str(directory),
        episodes=kept,
        scenes=[scene for episode, scene in chosen if episode not in dropped],
        num_frames=sum(stop - start for start, stop in kept),
        digits=digits,
        digest=_digest(directory, annotations, kept, digits, verify),
        arrays=_first_arrays(directory, kept, digits, settings),
        renderer=recording.renderer,
        annotations=None if windows is None else dict(sorted(Counter(tasks).items())),
        windows=windows,
        num_stray=len(stray),
        stray=stray[:_MAX_STRAY_NAMES],
        findings=findings,
        robot_model=recording.robot_model,
        scene_source=recording.scene_source,
        backend=recording.backend,
    )


def _raw_directory(profile: Profile, layout: Layout) -> Path:
    """Where the profile's raw frames are to be."""
    if profile.raw.path is None:
        return layout.raw
    try:
        return Path(profile.raw.path).expanduser()
    except RuntimeError as error:  # ~ of an unknown user
        raise WamError(f"raw.path: {profile.raw.path}: {error}") from None


def _made(profile: Profile, layout: Layout, root: Path) -> RawIndex:
    if not root.is_dir():
        if profile.raw.path is None:
            raise WamError(
                f"{root}: no raw frames; run 'wam collect' first, "
                "or set raw.path to a CALVIN data set"
            )
        raise WamError(
            f"raw.path: {root}: directory not found, and {layout.index} holds no index of it with "
            "these settings"
        )
    splits = {
        split: index_split(root / split, split, profile.index.verify, profile.convert)
        for split in SPLITS
    }
    check_recording(root / "validation", profile.env)
    findings = conformance.check(root, frames=0)
    warnings = [finding for finding in findings if finding.severity != "note"]
    return RawIndex(str(root), profile.index.verify, splits, warnings)


def _kept(directory: Path, root: Path, params: dict[str, Any]) -> RawIndex | None:
    """The index of ``root`` with ``params`` that is in ``directory``; None if there is none."""
    try:
        index = load_index(directory)
    except WamError:
        return None
    is_same = manifests.read_json(directory / manifests.MANIFEST)["params"] == params
    return index if is_same and index.raw == str(root) else None


def _save(directory: Path, index: RawIndex, params: dict[str, Any]) -> None:
    """Write ``index``; one with the same content stays as it is, down to its manifest."""

    def make(target: Build) -> None:
        manifests.write_json(target.directory / INDEX_FILE, asdict(index))

    inputs = {"content": manifests.digest(index)}
    with output_slot(directory) as found:
        kept = _kept(directory, Path(index.raw), params)
        if kept is None or manifests.plain(kept) != manifests.plain(index):
            found.build(make, Identity("index", manifests.plain(params), inputs))


def _select(
    directory: Path, split: str, episodes: Episodes, settings: Convert
) -> list[tuple[tuple[int, int], str | None]]:
    """The episodes that ``convert.scenes`` and ``convert.frames`` choose, with their scenes."""
    scenes = episode_scenes(directory, episodes)
    chosen = list(zip(episodes, scenes, strict=True))
    if settings.scenes is not None and split == "training":
        for (start, stop), scene in chosen:
            if scene is None:
                raise WamError(
                    f"{directory / metadata.SCENE_INFO}: no scene for the episode of frames "
                    f"{start} to {stop - 1}; convert.scenes needs one for each"
                )
        chosen = [(episode, scene) for episode, scene in chosen if scene in settings.scenes]
        if not chosen:
            raise WamError(
                f"convert.scenes: no episode of {', '.join(settings.scenes)} in {directory}; its "
                f"frames are from {', '.join(sorted(set(map(str, scenes))))}"
            )
    if settings.frames is not None and split in settings.frames:
        ranges = [(first, last + 1) for first, last in settings.frames[split]]
        chosen = [
            ((max(start, low), min(stop, high)), scene)
            for (start, stop), scene in chosen
            for low, high in ranges
            if max(start, low) < min(stop, high)
        ]
        if not chosen:
            raise WamError(
                f"convert.frames.{split}: no chosen episode of {directory} has a frame in "
                f"{list(map(list, settings.frames[split]))}"
            )
    return chosen


def _outside(episodes: Episodes, ids: np.ndarray) -> list[int]:
    """Places in ``ids`` of those that are in no episode; episodes ascend and do not overlap."""
    starts, stops = np.array(episodes).T
    rows = np.searchsorted(starts, ids, side="right") - 1
    return np.flatnonzero((rows < 0) | (ids >= stops[rows])).tolist()


def _list_frames(directory: Path) -> tuple[list[str], np.ndarray, int]:
    """Names and ids of all frame files in ascending order, and the digits of their ids."""
    found = on_disk.list_frames(directory)
    if not found:
        raise WamError(f"{directory}: no frame file here; expected episode_0000000.npz and so on")
    digits = found[0][1]
    for _, other, name in found:
        if other != digits:
            raise WamError(
                f"{directory}: {found[0][2]} and {name} have ids of {digits} and {other} digits; "
                "expected one width"
            )
    return [name for _, _, name in found], np.array([frame_id for frame_id, _, _ in found]), digits


def _missing_frames(
    directory: Path, split: str, digits: int, episodes: Episodes, ids: np.ndarray
) -> tuple[list[DroppedEpisode], int]:
    """A finding for every episode that is not complete, and how many frames are missing in all."""
    findings, num_missing = [], 0
    for start, stop in episodes:
        lost, first = on_disk.missing_frames(ids, start, stop - 1)
        if not lost:
            continue
        path = on_disk.frame_path(directory, first, digits)
        instead = what_is_there(path)
        problem = f"frame missing inside the episode of frames {start} to {stop - 1}"
        problem += f"; there is {instead}" if instead else ""
        findings.append(DroppedEpisode(split, (start, stop), str(path), problem))
        num_missing += lost
    return findings, num_missing


def _digest(
    directory: Path, annotations: Path | None, episodes: Episodes, digits: int, verify: str
) -> str:
    """Digest of the frames that will be used, and of the small files beside them."""
    total = hashlib.blake2b(digest_size=16)
    windows = language.ANNOTATIONS if annotations is None else annotations.relative_to(directory)
    for name in (on_disk.EPISODE_TABLE, metadata.SCENE_INFO, windows, metadata.RECORDING):
        path = directory / name
        content = manifests.file_digest(path) if path.is_file() else "-"
        total.update(f"{name} {content}\n".encode())
    num_frames = sum(stop - start for start, stop in episodes)
    with console.progress(f"index {directory.name}", num_frames, "frames") as advance:
        for start, stop in episodes:
            lines = [
                _line(str(directory), on_disk.frame_name(frame_id, digits), verify)
                for frame_id in range(start, stop)
            ]
            total.update("".join(lines).encode())
            advance(stop - start)
    return total.hexdigest()


def _line(directory: str, name: str, verify: str) -> str:
    # Strings instead of Paths: this runs 500,000 times.
    path = directory + os.sep + name
    if verify == "md5":
        with Path(path).open("rb") as file:
            return f"{name} {hashlib.file_digest(file, 'md5').hexdigest()}\n"
    found = os.stat(path)  # noqa: PTH116
    if verify == "mtime":
        return f"{name} {found.st_size} {found.st_mtime_ns}\n"
    return f"{name} {found.st_size}\n"


def _first_arrays(
    directory: Path, episodes: Episodes, digits: int, settings: Convert
) -> dict[str, Kind]:
    """The arrays of the first frame; of the first valid one where episodes may be skipped."""
    problem = WamError(f"{directory}: no complete episode is left")
    for start, _ in episodes:
        path = on_disk.frame_path(directory, start, digits)
        try:
            return read_first_frame(path, (*settings.cameras, *VECTORS))
        except WamError as error:
            if settings.on_error == "fail":
                raise
            problem = error
    raise problem
