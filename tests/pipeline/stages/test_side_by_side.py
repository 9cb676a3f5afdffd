"""Tasks and seeds as jobs on Dask: the same results as one after the other, also after losses."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import MANIFEST
from pipeline.artifacts.parts import Part
from pipeline.latents.features import save_features
from pipeline.params import Profile
from pipeline.stages import finetune, train_policy, train_reward
from tests.pipeline.artifact import artifact
from tests.pipeline.dask_cluster import Cluster, cluster
from tests.pipeline.small_run import CONFIG, VARIANT, make_features
from wam.errors import WamError

__all__ = ["cluster"]  # a fixture

pytestmark = pytest.mark.slow

TASKS = ("close_drawer", "open_drawer", "turn_on_led")


@pytest.fixture
def profile(profile: Profile) -> Profile:
    """Three tasks, two seeds of PPO."""
    return replace(profile, tasks=TASKS, finetune=replace(profile.finetune, seeds=(0, 1)))


@pytest.fixture
def layout(layout: Layout) -> Layout:
    shutil.rmtree(layout.features(VARIANT))
    with artifact(layout.features(VARIANT), "featurize") as directory:
        for task in TASKS:
            save_features(directory / task, make_features(), CONFIG)
    return layout


def made(profile: Profile, layout: Layout, root: Path, **parallel: Any) -> dict[str, bytes]:
    """All files that rewards, policies and fine-tuning leave with these settings, in ``root``."""
    own = Layout(Path(shutil.copytree(layout.root, root)))
    profile = replace(profile, parallel=replace(profile.parallel, **parallel))
    for stage in (train_reward, train_policy, finetune):
        stage.run(profile, own, VARIANT)
    outputs = (own.reward(VARIANT), own.policy(VARIANT), own.finetune(VARIANT))
    return {
        str(path.relative_to(root)): path.read_bytes()
        for output in outputs
        for path in output.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def test_any_number_of_workers_gives_the_same_bytes(
    profile: Profile, layout: Layout, tmp_path: Path, cluster: Cluster
) -> None:
    alone = made(profile, layout, tmp_path / "alone", workers=1)
    assert len([name for name in alone if name.endswith("safetensors")]) == 3 + 3 + 6
    assert made(profile, layout, tmp_path / "two", workers=2) == alone
    for _ in range(3):  # which share neither memory nor the working directory
        cluster.add_worker()
    assert made(profile, layout, tmp_path / "three", dask_address=cluster.address) == alone


def test_the_job_of_a_killed_worker_goes_on_elsewhere(
    profile: Profile, layout: Layout, tmp_path: Path, cluster: Cluster
) -> None:
    profile = replace(profile, finetune=replace(profile.finetune, iterations=30, validate_every=30))
    alone = made(profile, layout, tmp_path / "alone", workers=1)
    cluster.add_worker()
    cluster.add_worker()
    begun = tmp_path / "killed" / "finetune"

    def kill_the_first() -> None:
        while not list(begun.rglob("checkpoint.safetensors")):
            time.sleep(0.01)
        cluster.kill(1)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    found = made(profile, layout, tmp_path / "killed", dask_address=cluster.address)
    killer.join()
    assert found == alone


def test_a_job_that_ends_its_workers_is_named(
    profile: Profile, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = replace(profile, parallel=replace(profile.parallel, workers=2))
    monkeypatch.setattr(train_reward, "_train", _die)
    with pytest.raises(WamError, match=r"workers died repeatedly.*close_drawer"):
        train_reward.run(profile, layout, VARIANT)


def _die(source: Path, profile: Profile, part: Part) -> None:
    if part.name == TASKS[0]:
        os.kill(os.getpid(), signal.SIGKILL)


def test_errors_and_warnings_arrive(
    profile: Profile,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile = replace(profile, parallel=replace(profile.parallel, workers=2))
    monkeypatch.setattr(train_reward, "_train", _complain)
    with pytest.raises(WamError, match=r"^open_drawer: of no use$"):
        train_reward.run(profile, layout, VARIANT)
    assert "! close_drawer: look" in capsys.readouterr().out


def _complain(source: Path, profile: Profile, part: Part) -> None:
    if part.name == TASKS[1]:
        time.sleep(2)
        raise WamError(f"{part.name}: of no use")
    console.warn(f"{part.name}: look")
