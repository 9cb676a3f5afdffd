"""The small file of a run is read as that of this run alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.params.study import Run, load_study, study_run
from pipeline.study import outcomes
from wam.errors import WamError

PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return study_run(load_study(PARAMS), "wam", 0, PARAMS)


def write(one: Run, **changes: Any) -> None:
    path = outcomes.outcome_path(one.cell, one.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "cell": one.cell,
        "seed": one.seed,
        "variant": one.variant,
        "settings": outcomes._settings(one),
        "figures": {"bc": 0.5},
        "success": {"bc": {task: [0, 1] for task in one.profile.tasks}},
        "frame_ids": {task: [3, 7] for task in one.profile.tasks},
        "made": {"commit": "0123456789abcdef", "dirty": True},
    }
    path.write_text(json.dumps({**content, **changes}))


def test_an_outcome_says_what_its_run_left(one: Run) -> None:
    write(one)
    found = outcomes.read_outcome(one)
    assert found.figures == {"bc": 0.5}
    assert found.success["bc"][one.profile.tasks[0]].tolist() == [False, True]
    assert found.commit == "0123456789, changed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "dreamerv2"}, "made with cell 'dreamerv2', expected 'wam'"),
        ({"seed": 1}, "made with seed 1, expected 0"),
        ({"variant": "dreamerv2"}, "made with variant 'dreamerv2', expected 'wam'"),
        ({"settings": {}}, "made with other settings of 'tasks'"),
        ({"success": []}, "damaged"),
    ],
)
def test_an_outcome_of_another_run_is_refused(
    one: Run, change: dict[str, Any], message: str
) -> None:
    write(one, **change)
    with pytest.raises(
        WamError, match=rf"^data/study/outcomes/wam-0\.json: {message}.*; 'wam study"
    ):
        outcomes.read_outcome(one)
