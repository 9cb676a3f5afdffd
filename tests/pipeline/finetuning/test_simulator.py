"""Fine-tuning in the real simulator, from two starts of one task, with an untrained world model."""

import importlib.util
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

pytest.importorskip("pybullet")

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout, store_path
from pipeline.finetuning import simulator, task
from pipeline.params import Profile
from pipeline.stages import finetune
from pipeline.store.open import open_store
from tests.pipeline.artifact import artifact
from tests.pipeline.small_run import TASK, VARIANT, Killed
from wam.envs.play.starts import random_start
from wam.envs.simulated import SimulatedEnv
from wam.envs.simulator import renderer
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError
from wam.policy.policy import FinetunedPolicy, load_policy

ROWS = (3, 8)
"""Of the training store, where the demonstrations begin."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A training store in whose rows the drawer is open, as far as a demonstration begins there."""
    env = PlayTableEnv(cameras=False)
    starts = [random_start(env, np.random.default_rng(seed), TASK) for seed in range(2)]
    env.close()
    arrays = {"robot_obs": np.full((10, 15), np.nan), "scene_obs": np.full((10, 24), np.nan)}
    for row, start in zip(ROWS, starts, strict=True):
        for name, array in arrays.items():
            array[row] = start[name]
    attrs = {
        "renderer": "tiny",
        "robot_model": "light",
        "scene_source": "embedded",
        "source_image_shapes": {"rgb_static": [64, 64, 3], "rgb_gripper": [64, 64, 3]},
    }
    made = SimpleNamespace(
        attrs=attrs,
        frame_ids=100 + np.arange(10),
        episode_scenes=["D"],
        episode_of_rows=np.zeros_like,
        read=arrays.__getitem__,
    )
    opened: list[Path] = []

    def fake(path: Path) -> SimpleNamespace:
        opened.append(path)
        return made

    made.opened = opened
    monkeypatch.setattr(simulator, "open_store", fake)
    return made


@pytest.fixture
def ready(trained: Layout) -> Layout:
    """Everything that the stage reads; the held-out starts cannot be simulated."""
    demos = [{"start": row, "stop": row + 1, "episode_start": 0} for row in ROWS]
    held_out = [{"frame_id": 0, "robot_obs": [], "scene_obs": []}]
    listed = {"training": demos, "validation": [], "starts": held_out}
    listed |= {"imagination_starts": [], "training_play": [], "validation_play": []}
    with artifact(trained.demos, "extract") as directory:
        content = {"digest": "0", "tasks": {TASK: listed}}
        (directory / "demos.json").write_text(json.dumps(content))
    return trained


def simulated(profile: Profile, **env: Any) -> Profile:
    settings = replace(
        profile.finetune,
        environment="simulator",
        envs=3,
        steps=3,
        max_decisions=2,
        iterations=3,
        checkpoint_every=1,
    )
    return replace(profile, finetune=settings, env=replace(profile.env, **env))


def test_policies_are_fine_tuned_in_the_simulator_and_say_so(
    profile: Profile, ready: Layout, store: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune.run(simulated(profile), ready, VARIANT)
    output = ready.finetune(VARIANT)
    assert isinstance(load_policy(output / TASK / "seed-0", "cpu"), FinetunedPolicy)  # type: ignore[arg-type]
    manifest = manifests.read_json(output / manifests.MANIFEST)
    assert manifest["environment"] == "simulator"
    assert manifest["renderer"] == "tiny"
    assert manifest["inputs"]["demos"]
    assert len(manifest["world_model_weights"]) == 32
    for path in (output / TASK / "seed-0" / "summary.json", output / "summary.json"):
        summary = manifests.read_json(path)
        assert summary.get(TASK, summary)["environment"] == "simulator"
    lines = (output / TASK / "seed-0" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all("explored_success" in record for record in records)
    assert [record["finished_episodes"] for record in records] == [3, 3, 3]
    assert [path.name for path in store.opened] == ["training.zarr"]
    assert not multiprocessing.active_children()
    printed = capsys.readouterr().out
    assert "fine-tuned in the simulator" in printed
    assert "min_imagined_precision" not in printed


def test_policies_look_as_they_will_at_evaluation(
    profile: Profile, ready: Layout, store: SimpleNamespace
) -> None:
    """A policy that looks once finds itself where the model says that it is."""
    looks = replace(profile.evaluate, look_every_of={TASK: 0, "turn_off_led": 4})
    once = simulated(replace(profile, evaluate=looks))
    with patch.object(SimulatedEnv, "step", autospec=True, side_effect=SimulatedEnv.step) as steps:
        finetune.run(once, ready, VARIANT)
        filtered = steps.call_args.args[0]._filtered
    assert not torch.equal(filtered.feature, filtered.seen)
    manifest = manifests.read_json(ready.finetune(VARIANT) / manifests.MANIFEST)
    assert manifest["params"]["look_every_of"] == {TASK: 0}


def test_a_killed_run_goes_on_with_other_workers_and_ends_as_if_it_had_not_been(
    profile: Profile, ready: Layout, store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune.run(simulated(profile, workers=1), ready, VARIANT)
    done = ready.finetune(VARIANT)
    names = ("model.safetensors", "metrics.jsonl", "summary.json")
    whole = [(done / TASK / "seed-0" / name).read_bytes() for name in names]
    done.rename(done.with_name("whole"))
    train_iteration = task.Dppo.train_iteration

    def dying(dppo: task.Dppo, *args: Any) -> object:
        if dppo.iteration == 2:
            raise Killed
        return train_iteration(dppo, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(task.Dppo, "train_iteration", dying)
        finetune.run(simulated(profile, workers=2), ready, VARIANT)
    assert not multiprocessing.active_children()
    assert not done.exists()
    finetune.run(simulated(profile, workers=2), ready, VARIANT)
    assert [(done / TASK / "seed-0" / name).read_bytes() for name in names] == whole


def test_what_is_missing_is_named(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WamError, match="run 'wam extract' first"):
        finetune.run(simulated(profile), trained, VARIANT)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WamError, match=r'finetune.environment=simulator.*pip install "wam\[sim\]"'):
        finetune.run(simulated(profile), trained, VARIANT)
    assert not list(trained.root.glob("finetune/*"))


def test_fewer_processes_than_environments_that_need_one_each_are_refused(
    profile: Profile, ready: Layout, store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, "try_egl", lambda: renderer.Trial(None, "a GPU"))
    store.attrs["renderer"] = "egl"
    with pytest.raises(WamError, match=r"env.workers: 2, finetune.envs: 3; with env.renderer: egl"):
        finetune.run(simulated(profile, workers=2, renderer="egl"), ready, VARIANT)
    assert not multiprocessing.active_children()


def test_starts_from_which_the_task_cannot_be_done_are_warned_about(
    profile: Profile, ready: Layout, store: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = store.read("scene_obs")
    scene[ROWS[1], 1] = 0.0
    starts = simulator.training_starts(TASK, store, list(ROWS), "D")
    np.testing.assert_array_equal(starts[1].scene_obs, scene[ROWS[1]])
    assert "1 of 2 training starts do not meet" in capsys.readouterr().out


def test_starts_are_stored_states_of_the_simulators_scene(converted: Layout) -> None:
    store = open_store(store_path(converted.store, "training"))
    rows = [2, 82]
    starts = simulator.training_starts("turn_on_led", store, rows, "D")
    for row, start in zip(rows, starts, strict=True):
        np.testing.assert_array_equal(start.robot_obs, store.read("robot_obs", row, row + 1)[0])
        np.testing.assert_array_equal(start.scene_obs, store.read("scene_obs", row, row + 1)[0])
        assert start.scene_obs.dtype == np.float64
    with pytest.raises(WamError, match="start is in scene B"):
        simulator.training_starts("turn_on_led", store, rows, "B")
