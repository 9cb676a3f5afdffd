"""Episodes end with the command that records them, and nobody prints a traceback."""

import signal
from pathlib import Path

import pytest

from pipeline.params import PARAMS_FILE
from tests.processes import Whom, interrupted


@pytest.mark.parametrize(
    ("signum", "whom", "status", "message"),
    [
        (signal.SIGINT, "group", 130, "interrupted"),
        (signal.SIGINT, "parent", 130, "interrupted"),
        (signal.SIGTERM, "group", 143, "interrupted"),
        (signal.SIGTERM, "parent", 143, "interrupted"),
        (signal.SIGKILL, "worker", 1, "error collect: a worker process died"),
    ],
)
def test_no_worker_outlives_a_command_that_ends_early(
    tmp_path: Path, signum: signal.Signals, whom: Whom, status: int, message: str
) -> None:
    text = (Path(__file__).parents[3] / PARAMS_FILE).read_text()
    # Nobody could wait for the end of these episodes.
    text = text.replace("training_frames: 1600", "training_frames: 400000", 1)
    text = text.replace("episode_frames: 800", "episode_frames: 100000", 1)
    (tmp_path / PARAMS_FILE).write_text(text)
    command = ["-m", "pipeline", "collect", "--profile", "ci"]
    code, output, errors = interrupted(command, signum, num_workers=2, whom=whom, cwd=tmp_path)
    assert (code, errors) == (status, "")
    assert output.startswith(message)
    assert output.count("\n") == 1
