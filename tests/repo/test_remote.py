"""Artifacts travel through a remote of DVC: pushed here, pulled into a clone, verified there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import make_raw

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(directory: Path, *command: str) -> str:
    """The output of a command that has to succeed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(directory),
        "DVC_NO_ANALYTICS": "1",
    }
    result = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def wam(directory: Path, *arguments: str) -> str:
    return run(directory, sys.executable, "-m", "pipeline", *arguments)


def test_a_clone_pulls_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    project, clone, remote = (tmp_path / name for name in ("project", "clone", "remote"))
    project.mkdir()
    for folder in ("wam", "pipeline", "flows"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for file in ("dvc.yaml", "data/.gitignore"):
        (project / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, project / file)
    make_raw(tmp_path / "raw")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["ci"]["raw"]["path"] = str(tmp_path / "raw")
    params["ci"]["env"]["differences"] = "allow"
    params["ci"]["convert"] |= {"shard_frames": 50, "chunk_frames": 25, "workers": 1}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "init", "--quiet")
    # Without the flow around the conversion, which would begin a server.
    convert = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(convert.replace("python -m flows.convert", "wam convert"))
    for stage in ("collect@ci", "index@ci", "convert@ci", "export@ci"):
        run(project, "dvc", "repro", "--quiet", "--single-item", stage)
    run(project, "dvc", "remote", "add", "--default", "shared", str(remote))
    run(project, "git", "add", "--all")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run(project, "git", *identity, "commit", "--quiet", "--message", "made")
    run(project, "dvc", "push", "--quiet", "convert@ci")
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull", "--quiet", "convert@ci")
    assert "intact" in wam(clone, "inspect", "data/ci/store", "--verify")
    assert not (clone / "data" / "ci" / "shards").exists()
    found = [
        {path.name: path.read_bytes() for path in (place / "data/ci/store").rglob("*.json")}
        for place in (project, clone)
    ]
    assert found[0] == found[1] != {}
