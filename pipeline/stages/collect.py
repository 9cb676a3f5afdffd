"""``wam collect``: scripted play on the embedded simulator, written in CALVIN's own format.

Every episode is a job of its own with its own seed, so the data do not depend on the number of
workers, and an interrupted run goes on with the episodes that are missing.
"""

import itertools
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, OutputSlot, output_slot
from pipeline.artifacts.identity import Identity
from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.calvin import language, metadata, on_disk
from pipeline.evaluation.recordings import check_recording
from pipeline.params import Profile
from pipeline.play.episode import EpisodeJob
from pipeline.play.windows import Window, select_windows, sentence
from pipeline.play.workers import record_all
from wam.config import TASKS
from wam.envs.settings import SimulatorConfig, require_packages
from wam.errors import WamError
from wam.paths import expanded

RECEIPT = "collect.json"
"""The receipt's copy among the frames; it is written last."""
PLAY_VERSION = 5
"""To be raised whenever the same settings and seed give other frames."""


def run(profile: Profile, layout: Layout, *, lazy: bool = False) -> None:
    """Collect ``layout.raw`` and write its receipt, or record where the user's own data are.

    Nothing is done where complete frames of the same settings already lie there; if ``lazy``, not
    even where only their receipt does: what was made of them came from another machine. Raises
    WamError if the simulator is not installed, an asset is missing, or ``raw.path`` is not CALVIN
    data.
    """
    if profile.raw.path is not None:
        _record_source(profile, expanded(profile.raw.path, "raw.path"), layout, lazy=lazy)
        return
    collect = profile.collect
    simulator = profile.env.simulator(
        collect.static_size, collect.gripper_size, depth=collect.depth
    )
    if simulator.backend != "embedded":
        raise WamError(
            f"env.backend: play is not recorded in {simulator.backend}; use embedded, with "
            "env.assets for CALVIN's own scene, or set raw.path to CALVIN data"
        )
    settings = _settings(profile, simulator)
    if lazy and not layout.raw.exists() and layout.raw_receipt.is_file():
        receipt = manifests.read_json(layout.raw_receipt, dict)
        if _are_same(receipt.get("settings", {}), settings):
            _say_elsewhere(layout.raw)
            return
    with output_slot(layout.raw) as found:
        receipt = _complete(layout.raw, settings)
        verb = "already there:" if receipt else "collected"
        if receipt is None:
            receipt = _collect(profile, layout, simulator, found)
    _write_receipt(layout, receipt)
    for split in SPLITS:
        counts = receipt["splits"][split]["windows"]
        listed = ", ".join(f"{task} {counts[task]}" for task in TASKS)
        console.note(f"{split} windows: {listed}")
    frames = [receipt["splits"][split]["frames"] for split in SPLITS]
    console.done(
        "collect", f"{verb} {frames[0]} training and {frames[1]} validation frames in {layout.raw}"
    )


def _say_elsewhere(raw_directory: Path) -> None:
    console.done(
        "collect", f"nothing to do: {raw_directory} is not here, what was made of it is kept"
    )


def _record_source(profile: Profile, source: Path, layout: Layout, *, lazy: bool) -> None:
    receipt = {"source": str(source)}
    if lazy and not source.exists() and layout.raw_receipt.is_file():
        if manifests.read_json(layout.raw_receipt) == receipt:
            _say_elsewhere(source)
            return
    for split in SPLITS:
        if not (source / split).is_dir():
            raise WamError(
                f"raw.path: {source / split}: not found; expected a CALVIN dataset with "
                "training/ and validation/"
            )
    check_recording(source / "validation", profile.env)
    _write_receipt(layout, receipt)
    console.done("collect", f"nothing to collect: raw.path is {source}")


def _write_receipt(layout: Layout, receipt: dict[str, Any]) -> None:
    path = layout.raw_receipt
    if not path.is_file() or manifests.read_json(path) != receipt:
        manifests.write_json(path, receipt)


def _settings(profile: Profile, simulator: SimulatorConfig) -> dict[str, Any]:
    """Everything that shapes the frames."""
    return {"play_version": PLAY_VERSION, **asdict(profile.collect), **asdict(simulator)}


def _are_same(found: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether frames of the settings ``found`` will do; ``auto`` is content with any renderer."""
    if settings["renderer"] == "auto":
        settings = {**settings, "renderer": found.get("renderer")}
    return found == settings


def _complete(directory: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The receipt of ``directory`` if it holds all frames of these settings."""
    if not (directory / RECEIPT).is_file():
        return None
    receipt = manifests.read_json(directory / RECEIPT, dict)
    if not _are_same(receipt.get("settings", {}), settings):
        return None
    for split in SPLITS:
        with os.scandir(directory / split) as entries:
            frames = sum(on_disk.parse_frame_name(entry.name) is not None for entry in entries)
        if frames != receipt["splits"][split]["frames"]:
            console.warn(f"{directory / split}: frames are missing; collecting anew")
            return None
    return receipt


def _collect(
    profile: Profile, layout: Layout, simulator: SimulatorConfig, found: OutputSlot
) -> dict[str, Any]:
    """Record all episodes beside ``layout.raw`` and put them in its place; the receipt."""
    require_packages(simulator.backend, "collect needs it, unless raw.path names CALVIN data; run")
    simulator = simulator.resolved()
    settings = _settings(profile, simulator)

    def make(target: Build) -> None:
        jobs = {split: _jobs(simulator, settings, split, target) for split in SPLITS}
        missing = [job for split in SPLITS for job in jobs[split] if not job.is_done]
        record_all(missing, profile.env.workers)
        total = settings["training_frames"] + settings["validation_frames"]
        scenes = {f"calvin_scene_{profile.env.scene}": (0, total - 1)}
        metadata.write_scene_info(target.directory / "training", scenes)
        limits = (profile.collect.max_windows_per_task, profile.collect.max_starts_per_task)
        splits = {
            split: _finish_split(jobs[split], limit, simulator)
            for split, limit in zip(SPLITS, limits, strict=True)
        }
        manifests.write_json(target.directory / RECEIPT, {"settings": settings, "splits": splits})

    # Frames are in nobody's cache: those that were there are not given up.
    found.build(make, Identity("collect", manifests.plain(settings), {}), versioned=False)
    return manifests.read_json(layout.raw / RECEIPT)


def _jobs(
    simulator: SimulatorConfig, settings: dict[str, Any], split: str, target: Build
) -> list[EpisodeJob]:
    """The split's episodes: as equal in length as possible, ids consecutive over both splits."""
    total = settings[f"{split}_frames"]
    count = -(-total // settings["episode_frames"])
    edges = [total * index // count for index in range(count + 1)]
    offset = 0 if split == "training" else settings["training_frames"]
    return [
        EpisodeJob(
            directory=target.directory / split,
            markers=target.work / split,
            simulator=simulator,
            noise=settings["noise"],
            fumbles=settings["fumbles"],
            partial_moves=settings["partial_moves"],
            miss_again=settings["miss_again"],
            commanded=settings["actions"] == "commanded",
            seed=(settings["seed"], SPLITS.index(split), index),
            first_id=offset + start,
            frames=stop - start,
        )
        for index, (start, stop) in enumerate(itertools.pairwise(edges))
    ]


def _finish_split(jobs: list[EpisodeJob], limit: int, simulator: SimulatorConfig) -> dict[str, Any]:
    """Write what CALVIN keeps beside the frames; the split's part of the receipt."""
    directory = jobs[0].directory
    markers = [manifests.read_json(job.marker) for job in jobs]
    windows = [
        Window(w["task"], w["start"] + job.first_id, w["stop"] + job.first_id, w["later"])
        for job, marker in zip(jobs, markers, strict=True)
        for w in marker["windows"]
    ]
    selected = select_windows(windows, limit)
    metadata.write_split(directory, [(job.first_id, job.first_id + job.frames - 1) for job in jobs])
    language.write_annotations(
        directory, [language.Annotation(w.task, sentence(w), w.start, w.stop) for w in selected]
    )
    origin = simulator.description()
    metadata.write_recording_config(
        directory,
        metadata.Recording(
            scene=simulator.scene,
            renderer=origin["renderer"],
            robot_model=origin["robot_model"],
            cameras={
                "static": (simulator.static_size,) * 2,
                "gripper": (simulator.gripper_size,) * 2,
            },
            scene_source=origin["scene_source"],
            backend=origin["backend"],
        ),
    )
    counts = Counter(window.task for window in selected)
    return {
        "frames": sum(job.frames for job in jobs),
        "episodes": len(jobs),
        "windows": {task: counts[task] for task in TASKS},
        "digest": manifests.digest([marker["digest"] for marker in markers]),
    }
