"""The demonstrations and starts of every task, as ``extract`` left them."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import manifests
from wam.errors import WamError

DEMOS_FILE = "demos.json"
_WINDOWS = ("training", "validation", "training_play", "validation_play")


@dataclass(frozen=True)
class Demo:
    """Rows [start, stop) of one split's store that accomplish a task."""

    start: int
    stop: int
    episode_start: int
    """First row of the episode, for filtering with the preceding play as context."""


@dataclass(frozen=True)
class Start:
    """A held-out simulator state: the first frame of a validation window."""

    frame_id: int
    robot_obs: list[float]
    """[15] float64"""
    scene_obs: list[float]
    """[24] float64"""


@dataclass(frozen=True)
class TaskDemos:
    """What is learned from and evaluated on for one task."""

    training: list[Demo]
    validation: list[Demo]
    starts: list[Start]
    """The first frame of every validation window."""
    imagination_starts: list[int]
    """Rows of the training store from which the task can be imagined; no demonstrations."""
    training_play: list[Demo]
    """Windows of play that begin where the task can be done, whatever happens then"""
    validation_play: list[Demo]


@dataclass(frozen=True)
class DemoSet:
    """All tasks of a profile."""

    tasks: dict[str, TaskDemos]
    digest: str
    """Of the source frame ids: equal digests mean identical demonstrations and starts."""

    def __getitem__(self, task: str) -> TaskDemos:
        """One task's part. Raises WamError for a task that was not extracted."""
        if task not in self.tasks:
            raise WamError(
                f"task '{task}': no demonstrations; extracted were {', '.join(self.tasks)}. "
                "Run 'wam extract' again"
            )
        return self.tasks[task]


def load_demos(directory: Path) -> DemoSet:
    """What :func:`run` extracted. Raises WamError if it is absent or incomplete."""
    manifests.read_manifest(directory, "extract")
    content = manifests.read_json(directory / DEMOS_FILE)
    try:
        return DemoSet(
            tasks={
                task: TaskDemos(
                    starts=[Start(**start) for start in demos["starts"]],
                    imagination_starts=demos["imagination_starts"],
                    **{name: [Demo(**demo) for demo in demos[name]] for name in _WINDOWS},
                )
                for task, demos in content["tasks"].items()
            },
            digest=content["digest"],
        )
    except KeyError as error:
        raise WamError(f"{directory / DEMOS_FILE}: no {error}; run 'wam extract' again") from None
