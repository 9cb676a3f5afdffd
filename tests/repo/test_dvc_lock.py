"""``dvc.lock`` in git: of the same runs as the results beside it."""

import json
import subprocess
import sys

import pytest
import yaml

from pipeline import dvc_stages
from pipeline.params import load_profile
from tests.repo.checkout import ROOT, changed

PROFILES = ("demo", "small")


@pytest.mark.parametrize(
    ("stage", "results"),
    [
        *((f"report@{name}", f"data/{name}/results") for name in PROFILES),
        ("study_report", "data/study/results"),
    ],
)
def test_the_results_in_git_are_those_of_the_lock(
    stage: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    outs = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"][stage]["outs"]
    assert results in [out["path"] for out in outs]
    if changed("dvc.lock", results):
        pytest.skip("own results lie in data/: the lock in git is of others")
    command = [sys.executable, "-m", "dvc", "status", "--json", stage]
    status = subprocess.run(
        command, capture_output=True, text=True, check=True, env=dvc_stages.dvc_environment()
    )
    stale = [
        path
        for change in json.loads(status.stdout).get(stage, [])
        if isinstance(change, dict)
        for path in change.get("changed outs", {})
    ]
    assert results not in stale, f"results that no run of DVC left: dvc repro -s {stage}"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_lock_has_every_stage_behind_the_results(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    graph = dvc_stages.chosen_stages(profile, None, has_tasks=bool(load_profile(profile).tasks))
    assert graph.keys() <= locked.keys()
