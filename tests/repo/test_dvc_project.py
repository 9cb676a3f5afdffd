"""A repository of its own, with its DVC: what is pushed, pulled and tried out in copies."""

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


def run(directory: Path, *command: str, succeeds: bool = True) -> str:
    """The output of a command, which has to succeed, or has to fail."""
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
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == succeeds, output
    return output


def wam(directory: Path, *arguments: str) -> str:
    return run(directory, sys.executable, "-m", "pipeline", *arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with this code, whose profile ``ci`` has tiny frames at a relative path."""
    project = tmp_path_factory.mktemp("dvc") / "project"
    project.mkdir()
    for folder in ("wam", "pipeline", "flows"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for file in ("dvc.yaml", "data/.gitignore", ".gitignore"):
        (project / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, project / file)
    make_raw(project / "calvin" / "raw")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["ci"]["raw"]["path"] = "calvin/raw"
    params["ci"]["env"]["differences"] = "allow"
    params["ci"]["convert"] |= {"shard_frames": 50, "chunk_frames": 25, "workers": 1}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    # Without the flow around the conversion, which would begin a server.
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("python -m flows.convert", "wam convert"))
    run(project, "git", "init", "--quiet")
    run(project, "git", "config", "user.name", "t")
    run(project, "git", "config", "user.email", "t@example.org")
    run(project, "dvc", "init", "--quiet")
    for stage in ("collect@ci", "index@ci", "convert@ci", "export@ci"):
        run(project, "dvc", "repro", "--quiet", "--single-item", stage)
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", "made")
    return project


def test_a_clone_pulls_what_it_needs_and_nothing_else(project: Path, tmp_path: Path) -> None:
    clone, remote = tmp_path / "clone", tmp_path / "remote"
    run(project, "dvc", "remote", "add", "--local", "--default", "shared", str(remote))
    run(project, "dvc", "push", "--quiet", "convert@ci")
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "remote", "add", "--local", "--default", "shared", str(remote))
    run(clone, "dvc", "pull", "--quiet", "convert@ci")
    assert "intact" in wam(clone, "inspect", "data/ci/store", "--verify")
    assert not (clone / "data" / "ci" / "shards").exists()
    found = [
        {path.name: path.read_bytes() for path in (place / "data/ci/store").rglob("*.json")}
        for place in (project, clone)
    ]
    assert found[0] == found[1] != {}


def test_an_experiment_in_a_copy_needs_no_raw_frames(project: Path) -> None:
    """They are at a relative path, which leads nowhere there; what was made of them is kept."""
    setting = "ci.export.sequences_per_shard=2"
    output = run(project, "dvc", "exp", "run", "--temp", "--set-param", setting, "export@ci")
    assert "Ran experiment" in output
    assert "calvin/raw is not here, what was made of it is kept" in output.replace("\n", " ")
    setting = "ci.convert.zstd_level=3"
    output = run(
        project, "dvc", "exp", "run", "--temp", "-S", setting, "convert@ci", succeeds=False
    )
    assert "raw frames are not here" in output.replace("\n", " ")
    assert "an absolute raw.path" in output.replace("\n", " ")
