"""What a data set holds, in a few lines."""

from collections import Counter
from typing import Any

import numpy as np

from pipeline.calvin.conformance.scenes import declared_scenes, release_of
from pipeline.calvin.conformance.survey import SplitSurvey, Survey
from wam.envs.scene_files.geometry import SCENES


def describe(survey: Survey) -> dict[str, dict[str, Any]]:
    """Facts of every split by name, ready for JSON."""
    return {name: _facts(split) for name, split in survey.splits.items()}


def _facts(split: SplitSurvey) -> dict[str, Any]:
    lengths = split.episodes[:, 1] - split.episodes[:, 0] + 1
    scenes = declared_scenes(split)
    release = release_of(split)
    tasks = Counter(window.task for window in split.windows)
    read = sum(count for count, _ in split.sample.layouts.values())
    return {
        "frames": len(split.used),
        "sampled_frames": read + len(split.sample.damaged),
        "episodes": len(split.episodes),
        "episode_lengths": _range("shortest", "longest", lengths),
        "frame_ids": _range("first", "last", split.ids),
        "release": release.name if release else None,
        "scenes": {name: {"first": ids[0], "last": ids[1]} for name, ids in scenes.items()},
        "blocks": {name: [colour for colour, _ in SCENES[name].blocks] for name in scenes},
        "renderer": split.recording and split.recording.renderer,
        "robot": split.recording and split.recording.robot_model,
        "arrays": {key: f"{dtype} {shape}" for key, (dtype, shape) in split.sample.arrays.items()},
        "language_folders": sorted(path.name for path in split.directory.glob("lang_*")),
        "annotations": sum(tasks.values()),
        "tasks": dict(sorted(tasks.items())),
    }


def _range(lowest: str, highest: str, values: np.ndarray) -> dict[str, int]:
    return {lowest: int(values.min()), highest: int(values.max())} if len(values) else {}
