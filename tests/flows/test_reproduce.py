"""What the outer flow leaves to Prefect: the stages' order is tested in test_dvc_stages.py."""

import pytest
from prefect.states import State

from flows.reproduce import reproduce


@pytest.mark.parametrize(
    ("parameters", "told"),
    [({"profile": "demmo"}, "demmo"), ({"profile": "ci", "stage": "convrt"}, "stage 'convrt'")],
)
def test_what_is_not_there_fails_the_run_before_it_begins(
    parameters: dict[str, str], told: str
) -> None:
    state = reproduce.fn(**parameters)
    assert isinstance(state, State)
    assert state.is_failed()
    assert told in (state.message or "")
