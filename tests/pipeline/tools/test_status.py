"""What ``wam status`` makes of DVC's answer, in a real project of a few stages."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import dvc_stages
from pipeline.artifacts.layout import Layout
from pipeline.dvc_stages import dvc_environment
from pipeline.params import Profile, load_profile
from pipeline.tools import status
from wam.errors import WamError

PROFILE = load_profile("ci", Path(__file__).parents[3] / "params.yaml")
FILES = {
    "dvc.yaml": """
vars:
  - variants: [wam, dreamerv2]
stages:
  index:
    matrix: {profile: [mine]}
    cmd: cp raw.txt data/mine/index
    deps: [raw.txt]
    outs: ["data/${item.profile}/index"]
  extract:
    matrix: {profile: [mine]}
    cmd: cp raw.txt data/mine/demos
    params: ["${item.profile}.extract"]
    deps: [raw.txt]
    outs: ["data/${item.profile}/demos"]
  train_policy:
    matrix: {profile: [mine], variant: [wam]}
    cmd: cp data/mine/demos data/mine/policy
    deps: ["data/${item.profile}/demos"]
    outs: ["data/${item.profile}/policy"]
""",
    "params.yaml": "mine: {extract: 1}\n",
    "raw.txt": "a",
}


def dvc(*arguments: str) -> None:
    subprocess.run(["dvc", *arguments], check=True, capture_output=True, env=dvc_environment())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_text(content)
    Path("data/mine").mkdir(parents=True)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], profile: Profile = PROFILE) -> str:
    capsys.readouterr()
    status.run(profile, Layout.of("mine"))
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_every_stage_says_why_it_is_out_of_date(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = {"extract@mine": frozenset(), "train_policy@mine-wam": frozenset({"extract@mine"})}
    monkeypatch.setattr(dvc_stages, "stage_graph", lambda profile: graph)
    with pytest.raises(WamError, match=r"^dvc status: .*not inside of a DVC repository"):
        status.run(PROFILE, Layout.of("mine"))
    dvc("init", "--no-scm")
    text = told(capsys)
    assert "extract not made yet train_policy wam not made yet" in text
    assert "2 of 2 stages to run: wam run --profile mine" in text
    dvc("repro")
    assert "everything is up to date" in told(capsys)
    Path("params.yaml").write_text("mine: {extract: 2}\n")
    text = told(capsys)
    assert "extract out of date: mine.extract modified" in text
    assert "train_policy wam behind extract@mine" in text
    Path("data/mine/policy").unlink()
    assert "train_policy wam not made yet" in told(capsys)


def test_a_profile_without_tasks_has_the_stages_that_it_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extract = {"extract@mine": frozenset({"index@mine"})}
    graph = {"index@mine": frozenset[str](), **extract}
    monkeypatch.setattr(dvc_stages, "stage_graph", lambda profile: graph)
    dvc("init", "--no-scm")
    dvc("repro", "index@mine")
    assert "1 of 2 stages to run" in told(capsys)
    text = told(capsys, replace(PROFILE, tasks=()))
    assert "extract" not in text
    assert "everything is up to date" in text
