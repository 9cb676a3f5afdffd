"""What the outer flow leaves to Prefect: the stages' order is tested in test_dvc_stages.py."""

import logging
from pathlib import Path

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.states import State
from prefect.utilities.callables import parameter_schema

import flows.reproduce
from flows.reproduce import reproduce, study
from tests.processes import sleeping


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"profile": "demmo"}, "demmo"),
        ({"profile": "ci", "stage": "convrt"}, "stage 'convrt'"),
        ({"profile": "ci", "variant": "wam"}, "variant: needs a stage"),
        ({"profile": "ci", "stage": "convert", "variant": "wam"}, "stage 'convert@ci-wam'"),
    ],
)
def test_what_is_not_there_fails_the_run_before_it_begins(
    parameters: dict[str, str], told: str
) -> None:
    state = reproduce.fn(**parameters)
    assert isinstance(state, State)
    assert state.is_failed()
    assert told in (state.message or "")


def test_the_form_of_a_run_offers_what_there_is() -> None:
    properties = parameter_schema(reproduce).model_dump()["properties"]
    assert {"ci", "demo", "small", "paper"} <= set(properties["profile"]["enum"])
    offered = [choice.get("enum", []) for choice in properties["stage"]["anyOf"]]
    assert "train_world_model" in offered[0]
    with pytest.raises(ParameterTypeError, match=r"profile: Input should be 'ci', 'demo'"):
        reproduce(profile="demmo")


def test_what_cancels_a_run_interrupts_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flows.reproduce, "get_run_logger", logging.getLogger)

    def cancelled(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flows.reproduce, "wait", cancelled)
    with sleeping() as stage:
        monkeypatch.setattr(flows.reproduce, "_PROCESSES", [stage])
        with pytest.raises(KeyboardInterrupt):
            flows.reproduce._in_order(["mine"], {}, lambda stage: 0, None, force=False)
        assert stage.wait(60) != 0


def test_a_study_without_settings_fails_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("demo: {}\n")
    monkeypatch.chdir(tmp_path)
    state = study.fn()
    assert isinstance(state, State)
    assert state.is_failed()
    assert "study: not there; expected base, seeds" in (state.message or "")
