"""A tiny data set in CALVIN's format, and a profile that fits it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.layout import Layout, store_path
from pipeline.calvin import language, metadata, on_disk
from pipeline.params import Profile, load_profile
from pipeline.stages import convert, export, index
from pipeline.store.open import open_store
from tests.pipeline.artifact import artifact
from wam.config import VARIANTS
from wam.tasks import DRAWER, LED
from wam.weights import save_model
from wam.world_model.load import world_model_config
from wam.world_model.model import WorldModel

EPISODE = 40
FIRST_IDS = {"training": (100, 140, 200), "validation": (0, 50)}
"""First frame id of each episode; 100 and 140 follow each other without a gap."""


def make_frame(
    frame_id: int, position: int, gripper_shape: tuple[int, int] = (72, 80)
) -> dict[str, np.ndarray]:
    """Frame ``position`` of an episode: the drawer closes, and at half time the LED goes on."""
    progress = position / (EPISODE - 1)
    ramp = np.arange(64 * 64 * 3, dtype=np.int64).reshape(64, 64, 3)
    height, width = gripper_shape
    gripper = np.arange(height * width * 3, dtype=np.int64).reshape(height, width, 3)
    robot_obs = np.zeros(15)
    robot_obs[:3] = 0.1 * progress, -0.2, 0.5
    robot_obs[3:6] = 3.1, 0.1 * progress, 1.5
    robot_obs[6] = 0.08 * progress
    robot_obs[7:14] = np.linspace(-1, 1, 7) + 0.01 * (frame_id % 7)
    robot_obs[14] = 1.0
    scene_obs = np.zeros(24)
    scene_obs[DRAWER] = 0.2 * (1 - progress)
    scene_obs[LED] = float(position >= EPISODE // 2)
    rel_actions = np.full(7, np.sin(frame_id) * 0.5)
    rel_actions[6] = 1.0 if position % 2 else -1.0
    return {
        "rgb_static": ((ramp + 7 * frame_id) % 251).astype(np.uint8),
        "rgb_gripper": ((gripper // 5 + 3 * frame_id) % 251).astype(np.uint8),
        "actions": np.append(robot_obs[:6], rel_actions[6]),
        "rel_actions": rel_actions,
        "robot_obs": robot_obs,
        "scene_obs": scene_obs,
    }


def make_raw(root: Path, gripper_shape: tuple[int, int] = (72, 80)) -> None:
    for split, first_ids in FIRST_IDS.items():
        directory = root / split
        annotations = []
        for first in first_ids:
            for position in range(EPISODE):
                frame = make_frame(first + position, position, gripper_shape)
                on_disk.write_frame(directory, first + position, frame)
            window = (first + 2, first + 34)
            annotations.append(language.Annotation("close_drawer", "push the drawer in", *window))
            annotations.append(language.Annotation("turn_on_led", "press the button", *window))
        metadata.write_split(directory, [(first, first + EPISODE - 1) for first in first_ids])
        language.write_annotations(directory, annotations)
        metadata.write_recording_config(
            directory, metadata.Recording("D", "tiny", "light", {"static": (64, 64)})
        )


@pytest.fixture(scope="session")
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: 3 training and 2 validation episodes of 40 frames."""
    root = tmp_path_factory.mktemp("raw")
    make_raw(root)
    return root


@pytest.fixture
def own_raw(raw_root: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may damage."""
    return Path(shutil.copytree(raw_root, tmp_path / "raw"))


@pytest.fixture(scope="session")
def make_profile() -> Callable[..., Profile]:
    """``make_profile(raw_root, **sections)``: the ci profile on tiny shards, in process."""
    base = load_profile("ci", Path(__file__).parents[2] / "params.yaml")

    def make(
        root: Path, *, workers: int = 1, on_error: str = "fail", **sections: object
    ) -> Profile:
        own: dict[str, object] = {
            "tasks": ("close_drawer", "turn_on_led"),
            "parallel": replace(base.parallel, workers=1),
            "raw": replace(base.raw, path=str(root)),
            # The tiny data set does not say what it was made with.
            "env": replace(base.env, differences="allow"),
            "convert": replace(
                base.convert,
                shard_frames=32,
                chunk_frames=8,
                workers=workers,
                on_error=on_error,  # type: ignore[arg-type]
            ),
            "export": replace(base.export, sequence_frames=16, sequences_per_shard=3),
            "extract": replace(base.extract, demos_per_task=2, play_starts_per_task=4),
        }
        return replace(base, **{**own, **sections})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def converted(
    raw_root: Path, make_profile: Callable[..., Profile], tmp_path_factory: pytest.TempPathFactory
) -> Layout:
    """Read only: index and store of the tiny data set."""
    layout = Layout(tmp_path_factory.mktemp("data"))
    profile = make_profile(raw_root)
    index.run(profile, layout)
    convert.run(profile, layout)
    return layout


@pytest.fixture(scope="session")
def tiny_models(
    converted: Layout,
    raw_root: Path,
    make_profile: Callable[..., Profile],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Profile, Layout]:
    """Read only: the store and a world model of each variant, as random as its seed."""
    base = make_profile(raw_root)
    profile = replace(
        base,
        world_model=replace(base.world_model, cnn_depth=2, visual_embedding=16, deter=16),
        evaluate_world_model=replace(
            base.evaluate_world_model, open_loop_sequences=12, open_loop_steps=11
        ),
    )
    layout = Layout(tmp_path_factory.mktemp("models"))
    shutil.copytree(converted.store, layout.store)
    normalizer = open_store(store_path(layout.store, "training")).proprio_normalizer()
    for seed, variant in enumerate(VARIANTS, start=1):
        output = layout.world_model(variant)
        with artifact(output, "train-world-model") as directory:
            model = WorldModel(profile.world_model, seed)
            save_model(directory, model, world_model_config(model, variant, normalizer))
    return profile, layout


@pytest.fixture(scope="session")
def exported(
    converted: Layout,
    raw_root: Path,
    make_profile: Callable[..., Profile],
    tmp_path_factory: pytest.TempPathFactory,
) -> Layout:
    """Read only: the store and the WebDataset shards of the tiny data set."""
    layout = Layout(tmp_path_factory.mktemp("export"))
    shutil.copytree(converted.store, layout.store)
    export.run(make_profile(raw_root), layout)
    return layout
