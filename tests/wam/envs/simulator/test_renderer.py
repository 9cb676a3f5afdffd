"""Trying EGL in a child process: with this machine's driver, with none, and with bad ones."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wam.envs.simulator import renderer
from wam.envs.simulator.egl_probe import is_blank
from wam.envs.simulator.play_table import PlayTableEnv
from wam.envs.simulator.renderer import Trial, probe, resolve_renderer, try_egl
from wam.errors import WamError

CRASH = (sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})")


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No verdict from before, and none left behind."""
    monkeypatch.delenv(renderer.VERDICT, raising=False)
    verdicts = (try_egl, renderer._automatic)
    for verdict in verdicts:
        verdict.cache_clear()
    yield
    for verdict in verdicts:
        verdict.cache_clear()
    os.environ.pop(renderer.VERDICT, None)


@pytest.fixture
def egl() -> None:
    """EGL works on this machine."""
    if problem := try_egl().problem:
        pytest.skip(f"EGL does not work on this machine: {problem}")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's EGL finds no driver: PyBullet's plugin then ends the process that loads it."""
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/no/such/driver.json")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", "/no/such/directory")


def test_a_machine_without_a_driver_is_noticed(no_driver: None) -> None:
    assert "EGL" in (try_egl().problem or "")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})", "signal 11"),
        ("import time; time.sleep(60)", "no image within 0.5 s"),
        ("import os; os._exit(0)", "exit status 0"),
        ("import sys; sys.exit('no display')", "no display"),
    ],
)
def test_whatever_ends_the_trial_is_the_reason(code: str, reason: str) -> None:
    assert reason in (probe((sys.executable, "-c", code), 0.5).problem or "")


def test_auto_falls_back_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(renderer, "PROBE", CRASH)
    for _ in range(2):
        env = PlayTableEnv(renderer="auto", static_size=32, gripper_size=32)
        observation, _ = env.reset(seed=0)
        env.close()
        assert env.renderer == "tiny"
        assert not is_blank(observation["rgb_static"])
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "signal 11" in record.getMessage()


def test_egl_that_does_not_work_is_an_error(no_driver: None) -> None:
    with pytest.raises(WamError, match=r"egl does not work on this machine .*EGL.*; install"):
        PlayTableEnv(renderer="egl")
    assert PlayTableEnv(renderer="egl", cameras=False).renderer == "tiny"


def test_unknown_renderers_are_named() -> None:
    with pytest.raises(WamError, match="unknown renderer 'ray'; known: auto, tiny, egl"):
        resolve_renderer("ray")


def test_a_verdict_holds_for_the_whole_run(egl: None, monkeypatch: pytest.MonkeyPatch) -> None:
    try_egl.cache_clear()  # as in a worker, which inherits the environment only
    monkeypatch.setattr(renderer, "PROBE", CRASH)
    assert resolve_renderer("egl") == "egl"


@pytest.mark.parametrize(
    ("device", "chosen"),
    [("NVIDIA H100/PCIe/SSE2", "egl"), ("llvmpipe (LLVM 15.0.6, 256 bits)", "tiny")],
)
def test_auto_takes_egl_on_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch, device: str, chosen: str
) -> None:
    monkeypatch.setenv(renderer.VERDICT, device)
    assert resolve_renderer("auto") == chosen


def test_the_device_is_known(egl: None) -> None:
    assert try_egl().device not in ("", "unknown")
    assert not Trial("no driver", "some GPU").on_gpu


def test_egl_shows_the_table_and_prints_nothing(
    egl: None, capfd: pytest.CaptureFixture[str]
) -> None:
    env = PlayTableEnv(renderer="egl", static_size=64, gripper_size=64)
    state = np.zeros(24)
    state[6:9], state[12:15], state[18:21] = (0.05, -0.12, 0.46), (0.2, -0.1, 0.46), (0, 0.09, 0.46)
    first, _ = env.reset(options={"scene_obs": state})
    again, _ = env.reset(options={"scene_obs": state})
    env.close()
    for camera in ("rgb_static", "rgb_gripper"):
        assert not is_blank(first[camera])
        # Shadows, which change a quarter of the image, are there from the first image on.
        assert (first[camera] != again[camera]).mean() < 0.01
    assert capfd.readouterr() == ("", "")


def test_egl_images_are_calvins(egl: None, golden: Path, assets: Path) -> None:
    recorded = np.load(golden / "image_D_open_on_egl.npz")
    env = PlayTableEnv("D", assets=assets, renderer="egl")
    options = {name: recorded[f"reset_{name}"] for name in ("robot_obs", "scene_obs")}
    observation, _ = env.reset(options=options)
    env.close()
    tiny = np.load(golden / "image_D_open_on_tiny.npz")
    for camera in ("rgb_static", "rgb_gripper"):
        ours, theirs = observation[camera].astype(float), recorded[camera].astype(float)
        # None here; another version of Mesa or a GPU rounds differently.
        assert np.abs(ours - theirs).mean() < 0.2 * np.abs(tiny[camera] - theirs).mean()


def test_a_sky_without_a_scene_is_blank() -> None:
    sky = np.full((64, 64, 3), (178, 178, 204), np.uint8)
    assert is_blank(sky)
