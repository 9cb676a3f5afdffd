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
from pipeline.calvin.conformance.first_look import look
from pipeline.calvin.fields import VECTORS
from pipeline.calvin.frame_checks import read_first_frame
from pipeline.calvin.listing import INDEX_FILE, Episodes, RawIndex, SplitIndex, load_index
from pipeline.calvin.npz import Kind
from pipeline.calvin.scenes import episode_scenes
from pipeline.calvin.stretches import DamagedEpisode, long_enough, stretches
from pipeline.evaluation.recordings import check_recording
from pipeline.params import Convert, Profile
from pipeline.untrusted.regular_file import what_is_there
from wam.errors import WamError
from wam.paths import expanded

_MAX_STRAY_NAMES = 20
_MOST_RANGES = 4
_TRIES = 8
"""Frames of an episode that are tried before it counts as invalid as a whole."""
_ADVANCE_EVERY = 1000
_OTHERWISE = ". For stores and world models alone set tasks to []"


def run(profile: Profile, layout: Layout) -> None:
    """Index the profile's raw frames into ``layout.index``.

    Where the raw frames are not here, an index of them with the same settings is kept. Raises
    WamError if a directory, table or annotation is missing or damaged, if a task of the profile is
    nowhere annotated, if a frame inside an episode is missing or empty (under ``convert.on_error:
    skip-episode`` its episode is cut instead, which is noted), if one of some frames is invalid, if
    states cannot occur in their scene, or if the simulator's world is another.
    """
    root = _raw_directory(profile, layout)
    settings = profile.convert
    params = manifests.plain(
        {
            "verify": profile.index.verify,
            "annotations": profile.raw.annotations,
            "on_error": settings.on_error,
            "cameras": settings.cameras,
            "scenes": settings.scenes,
            "frames": settings.frames,
        }
    )
    is_here = any((root / split).is_dir() for split in SPLITS)
    index = None if is_here else _kept(layout.index, root, params)
    if index is not None:
        _check_tasks(profile, index)
        console.note(f"{root}: the raw frames are not here; {layout.index} is kept")
    else:
        index = _made(profile, layout, root)
        _check_tasks(profile, index)
        _save(layout.index, index, params)
        for warning in index.warnings:
            console.warn(str(warning))
        for split in index.splits.values():
            for episode in split.damaged:
                console.warn(str(episode))
    training, validation = index.splits["training"], index.splits["validation"]
    console.done(
        "index",
        f"{training.num_frames:,} training and {validation.num_frames:,} validation frames in "
        f"{len(training.episodes)} + {len(validation.episodes)} episodes of {root}",
    )


def index_split(directory: Path, split: str, profile: Profile) -> SplitIndex:
    """Index the frames below one split's ``directory``; see :func:`run` for the errors."""
    if not directory.is_dir():
        raise WamError(
            f"{directory}: directory not found; CALVIN data has {' and '.join(SPLITS)} side by side"
        )
    settings = profile.convert
    table = on_disk.read_episodes(directory)
    recorded = [(first, last + 1) for first, last in table.tolist()]
    names, ids, digits = _list_frames(directory)
    stray = [names[at] for at in np.flatnonzero(~_inside(recorded, ids)).tolist()]
    chosen = _select(directory, split, recorded, settings)
    lines = _examined(directory, names, ids, [episode for episode, _ in chosen], profile)
    present = np.array(list(lines), np.int64)
    kept, damaged = _complete(directory, split, digits, chosen, present)
    if damaged and settings.on_error == "fail":
        raise WamError(_advice(damaged, split, [episode for episode, _ in chosen], present))
    if not kept:
        raise WamError(f"{directory}: nothing is left of any episode; the first: {damaged[0]}")
    episodes = [episode for episode, _ in kept]
    scenes = [scene for _, scene in kept]
    arrays = _first_arrays(directory, episodes, digits, settings)
    look(
        directory,
        episodes,
        scenes,
        arrays,
        digits,
        settings.cameras,
        skip_invalid=settings.on_error == "skip-episode",
    )
    recording = metadata.read_recording_config(directory)
    folder = profile.raw.annotations
    annotations = language.annotations_path(directory, folder)
    windows = None if annotations is None else language.read_annotations(directory, folder)
    tasks = [window.task for window in windows or []]
    return SplitIndex(
        directory=str(directory),
        episodes=episodes,
        scenes=scenes,
        num_frames=sum(stop - start for start, stop in episodes),
        digits=digits,
        digest=_digest(directory, annotations, episodes, lines),
        arrays=arrays,
        renderer=recording.renderer,
        annotations=None if windows is None else dict(sorted(Counter(tasks).items())),
        windows=windows,
        num_stray=len(stray),
        stray=stray[:_MAX_STRAY_NAMES],
        damaged=damaged,
        robot_model=recording.robot_model,
        scene_source=recording.scene_source,
        backend=recording.backend,
    )


def _raw_directory(profile: Profile, layout: Layout) -> Path:
    """Where the profile's raw frames are to be."""
    return layout.raw if profile.raw.path is None else expanded(profile.raw.path, "raw.path")


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
    splits = {split: index_split(root / split, split, profile) for split in SPLITS}
    check_recording(root / "validation", profile.env)
    findings = conformance.check(root, frames=0, annotations=profile.raw.annotations)
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


def _check_tasks(profile: Profile, index: RawIndex) -> None:
    """Every task of the profile needs a window in both splits, within an episode that is used."""
    for split in index.splits.values() if profile.tasks else ():
        if split.windows is None:
            raise WamError(
                f"{Path(split.directory) / language.ANNOTATIONS}: not found, nor another folder "
                f"{language.FOLDERS}; the profile's tasks need both splits' annotations{_OTHERWISE}"
            )
        starts, stops = np.array(split.episodes).T
        rows = np.searchsorted(starts, [window.start for window in split.windows], "right") - 1
        used = Counter(
            window.task
            for window, row in zip(split.windows, rows.tolist(), strict=True)
            if row >= 0 and window.stop <= stops[row]
        )
        if absent := [task for task in profile.tasks if not used[task]]:
            found = ", ".join(f"{task} {count}" for task, count in sorted(used.items()))
            raise WamError(
                f"tasks: {split.directory} has no annotated window of {', '.join(absent)} within "
                f"its episodes; it has {found or 'none at all'}{_OTHERWISE}"
            )


def _inside(episodes: Episodes, ids: np.ndarray) -> np.ndarray:
    """bool like ``ids``: which are in an episode; episodes ascend and do not overlap."""
    starts, stops = np.array(episodes).T
    rows = np.searchsorted(starts, ids, side="right") - 1
    return (rows >= 0) & (ids < stops[rows])


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


def _examined(
    directory: Path, names: list[str], ids: np.ndarray, episodes: Episodes, profile: Profile
) -> dict[int, str]:
    """Each frame in ``episodes`` that is not empty, ascending, with its line of the digest."""
    wanted = np.flatnonzero(_inside(episodes, ids)).tolist()
    lines = {}
    with console.progress(f"index {directory.name}", len(wanted), "frames") as advance:
        for start in range(0, len(wanted), _ADVANCE_EVERY):
            part = wanted[start : start + _ADVANCE_EVERY]
            for at in part:
                line = _line(str(directory), names[at], profile.index.verify)
                if line is not None:
                    lines[int(ids[at])] = line
            advance(len(part))
    return lines


def _complete(
    directory: Path,
    split: str,
    digits: int,
    chosen: list[tuple[tuple[int, int], str | None]],
    present: np.ndarray,
) -> tuple[list[tuple[tuple[int, int], str | None]], list[DamagedEpisode]]:
    """What is there of every episode, with its scene, and the episodes that lack frames."""
    kept, damaged = [], []
    for (start, stop), scene in chosen:
        lost, first = on_disk.missing_frames(present, start, stop - 1)
        if not lost:
            kept.append(((start, stop), scene))
            continue
        parts = long_enough(_stretches(present, start, stop))
        kept += [(part, scene) for part in parts]
        path = on_disk.frame_path(directory, first, digits)
        instead = "an empty file" if path.is_file() else what_is_there(path)
        problem = f"frame missing inside the episode of frames {start} to {stop - 1}"
        problem += f"; there is {instead}" if instead else ""
        damaged.append(DamagedEpisode(split, (start, stop), lost, str(path), problem, parts))
    return kept, damaged


def _stretches(present: np.ndarray, start: int, stop: int) -> Episodes:
    """What is there of the frames [start, stop)."""
    low, high = np.searchsorted(present, (start, stop))
    return stretches(present[low:high])


def _advice(
    damaged: list[DamagedEpisode], split: str, episodes: Episodes, present: np.ndarray
) -> str:
    """What is missing, and how to go on with what is there, as after a partial download."""
    first = damaged[0]
    text = (
        f"{first.file}: {first.problem}; missing in all: {sum(one.num_lost for one in damaged)}. "
        "Restore the files, or set convert.on_error to skip-episode, which uses what is whole"
    )
    ranges: Episodes = []
    whole_before = False
    for start, stop in episodes:
        found = long_enough(_stretches(present, start, stop))
        for low, high in found:
            if whole_before and low == start:
                ranges[-1] = (ranges[-1][0], high)
            else:
                ranges.append((low, high))
            whole_before = False
        whole_before = bool(found) and found[-1][1] == stop
    longest = sorted(ranges, key=lambda one: one[0] - one[1])[:_MOST_RANGES]
    if longest:
        listed = ", ".join(f"[{low}, {high - 1}]" for low, high in sorted(longest))
        more = f", the longest {_MOST_RANGES} of {len(ranges)} stretches" * (
            len(ranges) > _MOST_RANGES
        )
        text += f", or choose it: convert.frames: {{{split}: [{listed}]}}{more}"
    return text


def _digest(
    directory: Path, annotations: Path | None, episodes: Episodes, lines: dict[int, str]
) -> str:
    """Digest of the frames that will be used, and of the small files beside them."""
    total = hashlib.blake2b(digest_size=16)
    windows = language.ANNOTATIONS if annotations is None else annotations.relative_to(directory)
    for name in (on_disk.EPISODE_TABLE, metadata.SCENE_INFO, windows, metadata.RECORDING):
        path = directory / name
        content = manifests.file_digest(path) if path.is_file() else "-"
        total.update(f"{name} {content}\n".encode())
    for start, stop in episodes:
        total.update("".join(lines[frame_id] for frame_id in range(start, stop)).encode())
    return total.hexdigest()


def _line(directory: str, name: str, verify: str) -> str | None:
    """What stands for a frame; None if its file is empty."""
    # Strings instead of Paths: this runs 500,000 times.
    path = directory + os.sep + name
    found = os.stat(path)  # noqa: PTH116
    if not found.st_size:
        return None
    if verify == "md5":
        with Path(path).open("rb") as file:
            return f"{name} {hashlib.file_digest(file, 'md5').hexdigest()}\n"
    if verify == "mtime":
        return f"{name} {found.st_size} {found.st_mtime_ns}\n"
    return f"{name} {found.st_size}\n"


def _first_arrays(
    directory: Path, episodes: Episodes, digits: int, settings: Convert
) -> dict[str, Kind]:
    """The arrays of the first frame; of the first valid one where frames may be left out."""
    problem = WamError(f"{directory}: no frame is left")
    for start, stop in episodes:
        for frame_id in np.linspace(start, stop - 1, _TRIES).astype(int).tolist():
            path = on_disk.frame_path(directory, frame_id, digits)
            try:
                return read_first_frame(path, (*settings.cameras, *VECTORS))
            except WamError as error:
                if settings.on_error == "fail":
                    raise
                problem = error
    raise problem
