"""Which renderer makes the images: TinyRenderer on the CPU, or OpenGL through EGL.

Images of the two differ visibly, so data and evaluation should share one; CALVIN's own images were
made with EGL. Whether EGL works depends on the machine's driver, and one that does not work ends or
blocks the process that loads it. Therefore a child process tries first.

EGL does not need a GPU: Mesa draws the same images on the CPU, several times slower than
TinyRenderer draws its own. ``auto`` therefore takes EGL only where a GPU draws.
"""

import functools
import importlib.util
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from wam.errors import WamError

Renderer = Literal["auto", "tiny", "egl"]
RENDERERS: tuple[str, ...] = get_args(Renderer)

PROBE: tuple[str, ...] = (sys.executable, "-m", "wam.envs.simulator.egl_probe")
"""The command that tries EGL."""
VERDICT = "WAM_EGL_WORKS"
"""Environment variable that passes a good verdict, the device's name, on to child processes."""
PROOF = "wam: egl makes images"
"""What the command prints where EGL works."""
_TIMEOUT_S = 60.0

_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader")
"""Devices that are no GPU."""

_log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """What became of trying EGL."""

    problem: str | None
    """Why it makes no images; None where it does."""
    device: str = ""
    """What draws, as OpenGL calls it."""

    @property
    def on_gpu(self) -> bool:
        """Whether it works and a GPU draws."""
        return self.problem is None and not any(name in self.device.lower() for name in _SOFTWARE)


def resolve_renderer(renderer: str) -> Renderer:
    """``tiny`` or ``egl``: ``auto`` is EGL on a GPU, else TinyRenderer and a line in the log.

    Raises WamError for an unknown name, and where ``egl`` is asked for and does not work.
    """
    if renderer not in RENDERERS:
        raise WamError(f"renderer: unknown renderer {renderer!r}; known: {', '.join(RENDERERS)}")
    if renderer == "auto":
        return _automatic()
    if renderer == "tiny":
        return "tiny"
    if problem := try_egl().problem:
        raise WamError(
            f"renderer: egl does not work on this machine ({problem}); "
            "install an EGL driver (the GPU's or Mesa's), or use tiny or auto"
        )
    return "egl"


@functools.cache
def try_egl() -> Trial:
    """Whether EGL makes images on this machine.

    Tried once per run: this process and those that it starts keep the verdict.
    """
    if VERDICT in os.environ:
        return Trial(None, os.environ[VERDICT])
    trial = probe(PROBE, _TIMEOUT_S)
    if trial.problem is None:
        os.environ[VERDICT] = trial.device
    return trial


def probe(command: Sequence[str], timeout_s: float) -> Trial:
    """Let ``command`` try EGL."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, VERDICT: ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial(f"no image within {timeout_s:g} s")
    if done.returncode < 0:
        return Trial(
            f"it ends with signal {-done.returncode}, {signal.strsignal(-done.returncode)}"
        )
    # A status of 0 alone proves nothing: it is the driver that may end the process.
    if done.returncode == 0 and PROOF in done.stdout:
        device = re.search(r"^GL_RENDERER=(.*)$", done.stdout, re.MULTILINE)
        return Trial(None, device[1].strip() if device else "unknown")
    said = done.stderr.strip().splitlines()
    return Trial(said[-1].strip() if said else f"it ends with exit status {done.returncode}")


def load_egl(client: int) -> None:
    """Give a physics client the EGL renderer. A driver that does not work may end the process."""
    from wam.envs.simulator.engine import pybullet

    spec = importlib.util.find_spec("eglRenderer")
    plugin = -1
    if spec is not None and spec.origin is not None:
        plugin = pybullet.loadPlugin(spec.origin, "_eglRendererPlugin", physicsClientId=client)
    if plugin < 0:
        raise WamError("renderer: this build of pybullet has no EGL renderer; use tiny or auto")


@functools.cache
def _automatic() -> Renderer:
    trial = try_egl()
    if trial.on_gpu:
        return "egl"
    reason = (
        f"EGL does not work on this machine ({trial.problem})"
        if trial.problem
        else f"EGL would draw on the CPU ({trial.device})"
    )
    _log.warning("%s: rendering with tiny", reason)
    return "tiny"
