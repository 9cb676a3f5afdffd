"""A tiny project with every stage of the pipeline, small enough to be run hundreds of times."""

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from pipeline.artifacts.layout import Layout
from pipeline.cli import COMMANDS, main
from tests.pipeline.conftest import make_raw
from wam.reliability.interruption import SIGNALS

REPOSITORY = Path(__file__).parents[2]
PROFILE, PLAYED = "tiny", "played"
"""A profile of recorded frames, and one that collects its own."""
_USED_LATER = (
    "PIL.Image",
    "cv2",
    "dvclive",
    "matplotlib.pyplot",
    "pipeline.evaluation.rollout",
    "pyarrow.parquet",
    "pybullet",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "webdataset",
)
"""What stages import only when they need it."""

Place = Callable[[Layout], Path]


@dataclass(frozen=True)
class Stage:
    """A command and the artifact that it makes."""

    command: tuple[str, ...]
    output: Place
    profile: str = PROFILE

    @property
    def name(self) -> str:
        return " ".join(part for part in self.command if not part.startswith("--"))

    @property
    def argv(self) -> list[str]:
        """Arguments of ``wam``."""
        return [*self.command, "--profile", self.profile]

    def directory(self, project: Path) -> Path:
        """Where the artifact is to be."""
        return self.output(Layout(project / "data" / self.profile))


def _of_variant(command: str, place: Callable[[Layout], Callable[[str], Path]]) -> list[Stage]:
    return [Stage((command, "--variant", "wam"), lambda layout: place(layout)("wam"))]


STAGES = [
    Stage(("collect",), lambda layout: layout.raw, PLAYED),
    Stage(("index",), lambda layout: layout.index),
    Stage(("convert",), lambda layout: layout.store),
    Stage(("export",), lambda layout: layout.shards),
    Stage(("export", "--format", "lerobot"), lambda layout: layout.lerobot),
    Stage(("extract",), lambda layout: layout.demos),
    *_of_variant("train-world-model", lambda layout: layout.world_model),
    *_of_variant("featurize", lambda layout: layout.features),
    *_of_variant("train-reward", lambda layout: layout.reward),
    *_of_variant("train-policy", lambda layout: layout.policy),
    *_of_variant("finetune", lambda layout: layout.finetune),
    Stage(("evaluate", "--policies", "controls"), lambda layout: layout.evaluation("controls")),
    Stage(("evaluate", "--policies", "wam"), lambda layout: layout.evaluation("wam")),
    Stage(("report",), lambda layout: layout.report),
]


def create(project: Path) -> None:
    """Write raw frames and ``params.yaml`` to the directory ``project``."""
    make_raw(project / "raw", gripper_shape=(64, 64))
    base = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["ci"]
    tiny = {
        "device": "cpu",
        "tasks": ["close_drawer", "turn_on_led"],
        "parallel": {"workers": 1},
        "raw": {"path": str(project / "raw")},
        "env": {"workers": 1, "differences": "allow"},
        "collect": {"training_frames": 12, "validation_frames": 6, "episode_frames": 6},
        "convert": {"shard_frames": 32, "chunk_frames": 8, "workers": 1},
        "export": {"sequence_frames": 16, "sequences_per_shard": 5},
        "extract": {"demos_per_task": 2, "play_starts_per_task": 4, "play_windows_per_task": 2},
        "world_model": {"cnn_depth": 2, "visual_embedding": 16, "decoder_channels": 16},
        "train_world_model": {
            "batch": 2,
            "window": 8,
            "updates": 6,
            "checkpoint_every": 2,
            "validate_every": 3,
            "log_every": 2,
        },
        "loader": {"cache": "none"},
        "evaluate_world_model": {"open_loop_sequences": 3, "open_loop_steps": 12},
        "reward": {"epochs": 3},
        "policy": {"updates": 20, "log_every": 5, "warmup": 2, "hidden": [16, 16, 16]},
        "finetune": {
            "envs": 2,
            "steps": 2,
            "max_decisions": 2,
            "iterations": 3,
            "minibatch": 20,
            "epochs": 1,
            "checkpoint_every": 1,
            "validate_every": 2,
            "seeds": [0, 1],
        },
        "evaluate": {"max_steps": 4, "max_episodes": 1, "clips": False},
    }
    profile = {
        section: {**content, **tiny.get(section, {})}
        if isinstance(content, dict)
        else tiny.get(section, content)
        for section, content in base.items()
    }
    played = {**profile, "raw": {"path": None, "annotations": None}}
    (project / "params.yaml").write_text(yaml.safe_dump({PROFILE: profile, PLAYED: played}))


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    status: int
    """Negative: the signal that killed it."""
    output: str

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output


def run(
    project: Path,
    argv: list[str],
    before: Callable[[], None] = lambda: None,
    behind: Callable[[], None] = lambda: None,
    signal_after: tuple[float, int] | None = None,
) -> Run:
    """Run ``wam`` in a copy of this process that begins with ``before()``.

    ``signal_after`` is what is sent to it: seconds and signal; ``behind()`` is called in it at the
    end. This process has imported what the stages need, which takes most of the time of a small
    one, and must not have begun any thread.
    """
    log = project / "output.txt"
    sys.stdout.flush()
    before_fork = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        status = 70
        try:
            for signum in SIGNALS:  # as in a process in which Python has not begun
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before_fork)
            status = _in_child(project, argv, before, log)
            behind()
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_SETMASK, before_fork)
    if signal_after is not None:
        time.sleep(signal_after[0])
        os.kill(child, signal_after[1])
    _, status = os.waitpid(child, 0)
    return Run(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


def _in_child(project: Path, argv: list[str], before: Callable[[], None], log: Path) -> int:
    descriptor = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(project)
    torch.set_num_threads(1)
    try:
        before()
        main(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001 - what the interpreter would print
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def leftovers(directory: Path) -> list[str]:
    """Names beside and in an artifact that a finished run must not leave."""
    beside = [
        path.name
        for path in directory.parent.iterdir()
        if path.name.startswith(f".{directory.name}.")
        or (path.name.startswith(f"{directory.name}.") and not path.is_file())
    ]
    inside = [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.name.endswith(".tmp") or path.name.endswith(".partial") or path.name == ".work"
    ]
    return beside + inside


def preload() -> None:
    """Import what the stages import."""
    for command in COMMANDS.values():
        importlib.import_module(f"pipeline.{command.module}")
    for module in _USED_LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
