"""``wam compare``: where two runs part, and what of it explains the rest."""

import json
from pathlib import Path

import pytest

from pipeline.artifacts.building import Build, build
from pipeline.artifacts.manifests import fingerprint, write_json
from pipeline.cli import main
from wam.errors import WamError

ROOT = Path(__file__).parents[3]


def make(root: Path, *, updates: int = 10, rate: float = 0.5, colour: str = "red") -> Path:
    """A store, a model of it, evaluations of that, and results, whose settings are those of all."""

    def store(target: Build) -> None:
        (target.directory / "frames").write_text(colour)

    def model(target: Build) -> None:
        (target.directory / "weights").write_text(f"{colour} {updates}")
        write_json(target.directory / "summary.json", {"loss": 1 / updates, "seconds": updates})

    def evaluation(target: Build) -> None:
        write_json(target.directory / "metrics.json", {"bc": {"average": rate}})

    build(root / "store", store, stage="convert", params={"colour": colour}, inputs={})
    inputs = {"store": fingerprint(root / "store", "convert")}
    params = {"training": {"updates": updates, "batch": 4}}
    build(root / "world_model" / "wam", model, stage="train", params=params, inputs=inputs)
    model_digest = fingerprint(root / "world_model" / "wam", "train")
    # Stages call their inputs as they like.
    for place, name in (("evaluation/wam", "world_model"), ("evaluation/world_model", "wam")):
        inputs = {name: model_digest}
        build(root / place, evaluation, stage="evaluate", params={}, inputs=inputs)
    everything = {"collect": {"colour": colour}, **params}
    inputs = {"world model · WAM": model_digest}
    build(root / "results", evaluation, stage="results", params=everything, inputs=inputs)
    return root


def compared(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    main(["compare", *map(str, arguments)])
    return capsys.readouterr().out


def test_equal_runs_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    output = compared(first, second, capsys=capsys)
    assert "✔ compare  equal contents" in output
    assert "differs" not in output


def test_what_differs_begins_at_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b", updates=20, rate=0.75)
    output = compared(first, second, capsys=capsys)
    assert output.splitlines()[-1].endswith("begins at world_model/wam (settings)")
    assert "equal  store" in output
    assert "evaluation/wam: inputs" in output
    content = json.loads(compared(first, second, "--json", capsys=capsys))["artifacts"]
    model = content["world_model/wam"]
    assert model["settings"] == {"training.updates": [10, 20]}
    assert model["figures"] == {"loss": [0.1, 0.05]}  # not how many seconds it took
    assert content["evaluation/wam"]["figures"] == {"bc.average": [0.5, 0.75]}
    assert content["evaluation/wam"]["causes"] == ["inputs"]


def test_an_artifact_alone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b", colour="blue")
    (second / "evaluation" / "wam").rename(tmp_path / "away")
    output = compared(first, second, capsys=capsys)
    assert f"only {first}  evaluation/wam" in output.replace("\n", "")
    assert "begins at store (settings)" in output
    output = compared(first / "store", second / "store", capsys=capsys)
    assert "begins at . (settings)" in output


def test_results_in_other_worlds_are_compared_and_work_that_was_set_aside_where_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make(tmp_path / "a.set-aside-01234567"), make(tmp_path / "b", rate=0.75)
    for root in (first, second):
        (root / "transfer" / "calvin").mkdir(parents=True)
        (root / "evaluation" / "wam").rename(root / "transfer" / "calvin" / "wam")
        (root / "store").rename(root / "store.set-aside-01234567")
    content = json.loads(compared(first, second, "--json", capsys=capsys))["artifacts"]
    assert content.keys() == {
        "world_model/wam",
        "evaluation/world_model",
        "transfer/calvin/wam",
        "results",
    }
    assert content["transfer/calvin/wam"]["figures"] == {"bc.average": [0.5, 0.75]}


def test_profiles_are_compared_by_their_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "docs")  # and from anywhere below the root
    found = json.loads(compared("demo", "small", "--json", capsys=capsys))["settings"]
    assert found["extract.demos_per_task"] == [3, 50]
    assert "extract.seed" not in found


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    from pipeline.tools.compare import run

    first = make(tmp_path / "a")
    with pytest.raises(WamError, match=r"nothing: no artifact; expected a directory"):
        run(first, tmp_path / "nothing", as_json=False)
    with pytest.raises(WamError, match="no artifact in common"):
        run(first / "store", first / "world_model", as_json=False)
