"""Bad input on the command line: one message that names it, exit status 1, nothing half-written."""

import importlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import yaml

from pipeline.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]

Damage = Callable[[Path], str]

OF_A_VARIANT = "train-world-model featurize train-reward train-policy finetune dream".split()
NEEDED = {
    **dict.fromkeys(OF_A_VARIANT, ("--variant", "wam")),
    "evaluate": ("--policies", "controls"),
    "compare": ("demo", "small"),
    "inspect": ("data",),
    "replay": ("trace.npz",),
    "study": ("--cell", "wam", "--seed", "0"),
}
"""What commands cannot do without."""


@pytest.fixture
def project(own_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose ``ci`` profile reads a data set that the test may damage."""
    profile = yaml.safe_load((ROOT / "params.yaml").read_text())["ci"]
    profile["raw"]["path"] = str(own_raw)
    profile["env"]["differences"] = "allow"
    profile["convert"] |= {"shard_frames": 50, "chunk_frames": 25, "workers": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"ci": profile}))
    monkeypatch.chdir(tmp_path)
    return own_raw


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``wam`` with ``arguments``, which has to fail; returns its output without line breaks."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "Traceback" not in output
    return output.replace("\n", "")


def missing_directory(raw: Path) -> str:
    raw.rename(raw.with_name("elsewhere"))
    return str(raw)


def missing_frame(raw: Path) -> str:
    (raw / "training" / "episode_0000117.npz").unlink()
    return "episode_0000117.npz"


def truncated_frame(raw: Path) -> str:
    path = raw / "training" / "episode_0000117.npz"
    path.write_bytes(path.read_bytes()[:500])
    return "episode_0000117.npz"


def wrong_shape(raw: Path) -> str:
    path = raw / "training" / "episode_0000117.npz"
    frame = dict(np.load(path))
    frame["robot_obs"] = np.zeros(14)
    np.savez_compressed(path, **frame)
    return "robot_obs"


@pytest.mark.parametrize("damage", [missing_directory, missing_frame, truncated_frame, wrong_shape])
def test_damaged_data_is_named_and_leaves_no_store(
    project: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    name = damage(project)
    try:
        main(["index", "--profile", "ci"])
    except SystemExit as stop:
        assert stop.code == 1
        output = capsys.readouterr().out.replace("\n", "")
    else:
        output = fails(["convert", "--profile", "ci"], capsys)
    assert name in output
    assert "Traceback" not in output
    assert not Path("data/ci/store").exists()


def test_an_unknown_profile_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown profile 'c1'" in fails(["index", "--profile", "c1"], capsys)


def test_an_unknown_parameter_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("actor_lr:", "actor_rl:"))
    assert "did you mean 'actor_lr'" in fails(["index", "--profile", "ci"], capsys)


@pytest.mark.parametrize(
    ("stage", "needed"),
    [
        (["convert"], "wam index"),
        (["export"], "wam convert"),
        (["train-world-model", "--variant", "wam"], "wam convert"),
        (["finetune", "--variant", "wam"], "run 'wam"),
        (["evaluate-world-model"], "run 'wam convert'"),
    ],
)
def test_a_stage_without_its_input_says_which_stage_makes_it(
    project: Path, capsys: pytest.CaptureFixture[str], stage: list[str], needed: str
) -> None:
    assert needed in fails([*stage, "--profile", "ci"], capsys)


def test_export_takes_a_format_and_a_directory(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    for stage in ("index", "convert", "export"):
        main([stage, "--profile", "ci"])
    assert Path("data/ci/shards/manifest.json").is_file()
    lerobot = ["export", "--profile", "ci", "--format", "lerobot"]
    main([*lerobot, "--output", "elsewhere"])
    assert Path("elsewhere/validation/meta/info.json").is_file()
    assert not Path("data/ci/lerobot").exists()
    assert "data: exists and is no earlier" in fails([*lerobot, "--output", "data"], capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_calls_its_module_with_its_options(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = COMMANDS[name]
    module = importlib.import_module(f"pipeline.{command.module}")
    run = create_autospec(module.run, return_value=None)
    monkeypatch.setattr(module, "run", run)
    main([name, *NEEDED.get(name, ())])
    run.assert_called_once()


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_command_explains_itself(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == 0
    assert f"wam {stage}" in capsys.readouterr().out


def test_a_mistyped_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, meant in (("train_world_model", "train-world-model"), ("finetun", "finetune")):
        with pytest.raises(SystemExit) as stop:
            main([typed, "--profile", "ci"])
        assert stop.value.code == 2
        expected = f"unknown command '{typed}'; did you mean '{meant}'?"
        assert expected in capsys.readouterr().err


def test_the_version_says_what_results_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"wam", "python", "torch", "numpy", "zarr"} <= lines.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    assert "train-world-model" in script
    assert "--profile" in script


def test_commands_work_below_the_root(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path.cwd()
    below = root / "docs" / "pictures"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    main(["index", "--profile", "ci"])
    assert (root / "data" / "ci" / "index" / "manifest.json").is_file()
    assert list(below.iterdir()) == []
    monkeypatch.chdir(root.root)
    assert "params.yaml: not found; run from the root" in fails(["index"], capsys)
