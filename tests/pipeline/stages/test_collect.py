"""Collected play: the format on disk, determinism, resuming, and bad input."""

import importlib.util
import itertools
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.calvin import actions, language, metadata, on_disk
from pipeline.calvin.fields import RAW_KEYS
from pipeline.params import Profile, load_profile
from pipeline.play.episode import EpisodeJob
from pipeline.stages import collect
from wam import tasks
from wam.errors import WamError

FRAMES = {"training": 180, "validation": 90}


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Two training episodes and one validation episode of 90 small frames."""
    ci = load_profile("ci")
    small = replace(
        ci.collect,
        training_frames=FRAMES["training"],
        validation_frames=FRAMES["validation"],
        episode_frames=90,
        static_size=32,
        gripper_size=24,
    )
    return replace(ci, collect=small, env=replace(ci.env, workers=1))


@pytest.fixture(scope="module")
def collected(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Read only."""
    pytest.importorskip("pybullet")
    layout = Layout(tmp_path_factory.mktemp("collected"))
    collect.run(profile, layout)
    return layout


def test_actions_may_be_the_commands(collected: Layout, profile: Profile, tmp_path: Path) -> None:
    commanded = replace(profile, collect=replace(profile.collect, actions="commanded"))
    layout = Layout(tmp_path)
    collect.run(commanded, layout)
    frames: list[list[dict[str, np.ndarray]]] = []
    for root in (collected.raw, layout.raw):
        directory = root / "training"
        first, last = on_disk.read_episodes(directory)[0].tolist()
        paths = (on_disk.frame_path(directory, frame) for frame in range(first, last + 1))
        frames.append([on_disk.read_frame(path, RAW_KEYS) for path in paths])
    differences = []
    for hindsight, command in zip(*frames, strict=True):
        assert hindsight.keys() == command.keys()
        for name in hindsight.keys() - {"rel_actions"}:
            np.testing.assert_array_equal(hindsight[name], command[name])
        assert np.abs(command["rel_actions"]).max() <= 1
        assert command["rel_actions"][6] == hindsight["rel_actions"][6]
        differences.append(np.abs(command["rel_actions"] - hindsight["rel_actions"])[:6])
    # The arm lags behind its commands.
    assert 0.03 < np.mean(differences) < 0.5


def test_frames_are_calvins(collected: Layout) -> None:
    first_id = 0
    for split in SPLITS:
        directory = collected.raw / split
        episodes = on_disk.read_episodes(directory)
        assert episodes[0, 0] == first_id
        assert (episodes[:, 1] - episodes[:, 0] + 1).sum() == FRAMES[split]
        for first, last in episodes.tolist():
            frames = [
                on_disk.read_frame(on_disk.frame_path(directory, frame_id), RAW_KEYS)
                for frame_id in range(first, last + 1)
            ]
            for frame, following in itertools.pairwise(frames):
                assert frame["rgb_static"].shape == (32, 32, 3)
                assert frame["rgb_gripper"].shape == (24, 24, 3)
                assert frame["robot_obs"].dtype == frame["rel_actions"].dtype == np.float64
                np.testing.assert_array_equal(frame["actions"][:6], following["robot_obs"][:6])
                assert frame["rel_actions"][6] == following["robot_obs"][14]
        first_id += FRAMES[split]
        recording = metadata.read_recording_config(directory)
        assert (recording.scene, recording.renderer, recording.robot_model) == (
            "D",
            "tiny",
            "light",
        )
        assert (recording.scene_source, recording.backend) == ("embedded", "embedded")
        assert recording.cameras == {"static": (32, 32), "gripper": (24, 24)}
    assert metadata.read_scene_info(collected.raw / "training") == {"calvin_scene_D": (0, 269)}
    assert not (collected.raw / "validation" / metadata.SCENE_INFO).exists()


def test_annotations_pass_the_oracle(collected: Layout) -> None:
    receipt = manifests.read_json(collected.raw_receipt)
    for split in SPLITS:
        directory = collected.raw / split
        annotations = language.read_annotations(directory)
        assert len(annotations) == sum(receipt["splits"][split]["windows"].values())
        for annotation in annotations:
            assert 8 <= annotation.stop - annotation.start <= 64
            start, end = (
                on_disk.read_frame(on_disk.frame_path(directory, frame_id), ["scene_obs"])[
                    "scene_obs"
                ]
                for frame_id in (annotation.start, annotation.stop - 1)
            )
            assert tasks.startable(annotation.task, start)
            assert tasks.achieved(annotation.task, start, end)
    assert language.read_annotations(collected.raw / "training")


def test_second_run_does_nothing(
    profile: Profile, collected: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "record_all", lambda *_: pytest.fail("collects again"))
    before = collected.raw_receipt.read_bytes()
    collected.raw_receipt.unlink()
    collect.run(profile, collected)
    assert collected.raw_receipt.read_bytes() == before


def test_interrupted_run_goes_on_in_workers(
    profile: Profile, collected: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: the data do not depend on the number of workers."""
    layout = Layout(tmp_path)
    record_all = collect.record_all

    def first_episode_only(jobs: list[EpisodeJob], workers: int) -> None:
        assert len(jobs) == 3
        record_all(jobs[:1], workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "record_all", first_episode_only)
    with pytest.raises(KeyboardInterrupt):
        collect.run(profile, layout)
    assert not layout.raw.exists()
    assert not layout.raw_receipt.exists()

    def remaining(jobs: list[EpisodeJob], workers: int) -> None:
        assert len(jobs) == 2
        record_all(jobs, workers)

    monkeypatch.setattr(collect, "record_all", remaining)
    collect.run(replace(profile, env=replace(profile.env, workers=2)), layout)
    assert layout.raw_receipt.read_bytes() == collected.raw_receipt.read_bytes()
    assert not multiprocessing.active_children()
    for path in sorted((collected.raw / "training").glob("*")):
        if path.is_file():
            assert (layout.raw / "training" / path.name).read_bytes() == path.read_bytes()


def test_other_settings_replace_the_frames(
    profile: Profile, collected: Layout, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(collected.raw, layout.raw)
    other = replace(
        profile,
        collect=replace(profile.collect, seed=1, training_frames=40, validation_frames=40),
    )
    collect.run(other, layout)
    assert manifests.read_json(layout.raw_receipt)["settings"]["seed"] == 1
    assert len(list((layout.raw / "training").glob("*.npz"))) == 40


def test_missing_frames_are_collected_anew(
    profile: Profile, collected: Layout, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(collected.raw, layout.raw)
    on_disk.frame_path(layout.raw / "training", 7).unlink()
    collect.run(profile, layout)
    assert layout.raw_receipt.read_bytes() == collected.raw_receipt.read_bytes()
    assert on_disk.frame_path(layout.raw / "training", 7).is_file()


def test_auto_is_content_with_frames_of_either_renderer(
    profile: Profile, collected: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "record_all", lambda *_: pytest.fail("collects again"))
    before = collected.raw_receipt.read_bytes()
    collect.run(replace(profile, env=replace(profile.env, renderer="auto")), collected)
    assert collected.raw_receipt.read_bytes() == before


def test_the_official_simulator_records_no_play(profile: Profile, tmp_path: Path) -> None:
    other = replace(profile, env=replace(profile.env, backend="calvin_env"))
    with pytest.raises(WamError, match=r"env\.backend: .*use embedded"):
        collect.run(other, Layout(tmp_path))


def test_own_data_are_only_named(profile: Profile, collected: Layout, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    collect.run(replace(profile, raw=replace(profile.raw, path=str(collected.raw))), layout)
    assert manifests.read_json(layout.raw_receipt) == {"source": str(collected.raw)}
    assert not layout.raw.exists()
    nowhere = replace(profile, raw=replace(profile.raw, path=str(tmp_path / "none")))
    with pytest.raises(WamError, match=r"raw\.path: .*none/training: not found"):
        collect.run(nowhere, layout)


def test_advice_without_the_simulator(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WamError, match=r"wam\[sim\]"):
        collect.run(profile, Layout(tmp_path))
    assert not list(tmp_path.iterdir())


def test_hindsight_actions() -> None:
    now, following = np.zeros(15), np.zeros(15)
    now[3], following[3] = np.pi - 0.01, -np.pi + 0.01
    following[0], following[1], following[14] = 0.01, -0.1, -1.0
    action = actions.absolute(following)
    rel_action = actions.relative(action, now)
    np.testing.assert_array_equal(action, [*following[:6], -1.0])
    np.testing.assert_allclose(rel_action, [0.5, -1.0, 0.0, 0.4, 0.0, 0.0, -1.0], atol=1e-12)
