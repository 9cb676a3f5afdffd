"""What a user of Prefect's pages sees of a stage, on a temporary server."""

import asyncio
import base64
import logging
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_every_profile_has_artifacts_of_its_own(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.artifacts import Artifact

    from flows.artifacts import publish
    from pipeline.artifacts.layout import Layout
    from pipeline.params import load_profile
    from pipeline.stages import report
    from tests.pipeline.report.made_up import make_run

    root = Path(__file__).parents[2]
    profile = load_profile("ci", root / "params.yaml")
    monkeypatch.chdir(tmp_path)
    layout = Layout.of("own-data")  # a name with a hyphen
    make_run(profile, layout)
    report.run(profile, layout)

    @flow
    def run() -> None:
        for stage in ("train_world_model", "evaluate"):
            for variant in ("wam", "dreamerv2"):
                publish(f"{stage}@own-data-{variant}")
        publish("report@own-data")
        publish("index@own-data")  # nothing to show

    run()

    def found(key: str) -> str:
        artifact = asyncio.run(Artifact.aget(f"own-data-{key}"))
        assert artifact is not None, key
        return str(artifact.data)

    success = found("success-wam")
    assert "close_drawer" in success
    assert "95 % interval" in success
    head, picture = found("learning-curves").split("base64,")
    assert head == "data:image/svg+xml;"
    assert b"var(--" not in base64.b64decode(picture)
    assert found("film-wam-static").startswith("data:image/png;base64,")
    assert "open_loop_psnr" in found("world-model-dreamerv2")
    assert (layout.report / "index.html").absolute().as_uri() in found("page")
    results = asyncio.run(Artifact.aget("results-own-data"))
    assert results is not None
    assert str(results.data).startswith("**Does PPO in imagination help?")


def test_warnings_of_a_stage_are_warnings_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import reproduce

    levels: list[int] = []

    class Logger:
        def log(self, level: int, line: str) -> None:
            levels.append(level)

    monkeypatch.setattr(reproduce, "get_run_logger", Logger)
    for line in ("! the policy would learn to fool it", "error no store", "✔ index  1,600 frames"):
        reproduce._logged(line)
    assert levels == [logging.WARNING, logging.ERROR, logging.INFO]
