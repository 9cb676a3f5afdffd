import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.calvin import on_disk
from pipeline.cli import main
from pipeline.params import Profile
from pipeline.stages import export, extract
from pipeline.tools import inspect
from wam.errors import WamError


def test_every_artifact_is_described(
    raw_root: Path,
    converted: Layout,
    make_profile: Callable[..., Profile],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = Layout(tmp_path)
    layout.index.symlink_to(converted.index)
    layout.store.symlink_to(converted.store)
    export.run(make_profile(raw_root), layout)
    extract.run(make_profile(raw_root), layout)
    model = tmp_path / "model"
    model.mkdir()
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(5)}, model / "model.safetensors")
    manifests.write_json(model / "config.json", {"variant": "wam"})
    summary = tmp_path / "results" / "summary.json"
    manifests.write_json(summary, [{"variant": "wam", "task": "open_drawer", "success_rate": 0.5}])
    expected = {
        layout.index: ("index", "close_drawer 3"),
        layout.store: ("store", "float64 (120, 24)"),
        layout.store / "training.zarr": ("split of a store", "D, tiny"),
        layout.shards: ("WebDataset shards", "120 frames in 9 sequences, 3 tars"),
        layout.demos: ("demonstrations", "2 training (32 to 32 frames)"),
        model: ("model", "17 in 2 tensors"),
        summary: ("results", "success_rate 0.5"),
        summary.parent: ("results", "success_rate 0.5"),
        model / "model.safetensors": ("tensors", "17 in 2 tensors"),
        raw_root / "training" / "episode_0000100.npz": ("frame", "uint8 (64, 64, 3), "),
        layout.demos / "manifest.json": ("facts", "extract"),
        layout.root: ("profile", "export, "),
    }
    for path, (kind, text) in expected.items():
        found = inspect.describe(path)
        assert found.kind == kind
        assert any(text in inspect._text(value) for value in found.facts.values()), path
        assert inspect.run(path, None, as_json=False)
        assert kind in capsys.readouterr().out
        assert inspect.run(path, None, as_json=True)
        assert json.loads(capsys.readouterr().out)["kind"] == kind


def test_an_artifact_says_what_it_was_made_from(converted: Layout) -> None:
    facts = inspect.describe(converted.store).facts
    index = manifests.fingerprint(converted.index, "index")
    assert facts["made from"] == {"index": index}
    assert re.fullmatch(r"(\w{10}(, changed)?|no commit), \d{4}-\d\d-\d\d .* UTC", facts["made"])
    part = inspect.describe(converted.store / "training.zarr").facts
    assert part["made from"] == {"index": index}


def test_what_is_unfinished_in_a_profile_is_told(converted: Layout, tmp_path: Path) -> None:
    layout = Layout(Path(shutil.copytree(converted.root, tmp_path / "demo")))
    (layout.root / "policy" / "wam.partial").mkdir(parents=True)
    shutil.copytree(layout.index, layout.root / "index.set-aside-01234567")
    facts = inspect.describe(layout.root).facts
    assert list(facts) == ["index", "store", "policy/wam.partial"]
    assert facts["policy/wam.partial"] == "begun, and to be gone on with"


def test_a_damaged_manifest_is_named(converted: Layout, tmp_path: Path) -> None:
    layout = Layout(Path(shutil.copytree(converted.root, tmp_path / "demo")))
    path = layout.store / "manifest.json"
    content = manifests.read_json(path)
    message = r"store/manifest\.json: (damaged|lists no checksums)"
    for change in ({"files": []}, {"provenance": None}, {"manifest_digest": 3}):
        manifests.write_json(path, {**content, **change})
        for place in (layout.root, layout.store, layout.store / "training.zarr"):
            with pytest.raises(WamError, match=message):
                inspect.describe(place)
    manifests.write_json(path, {"stage": "convert"})
    with pytest.raises(WamError, match=message):
        inspect.describe(layout.root)


@pytest.mark.parametrize("content", [[], 3, {"files": [1]}, {"stage": 3}])
def test_manifests_of_other_programs_are_none(
    converted: Layout, tmp_path: Path, content: object
) -> None:
    layout = Layout(Path(shutil.copytree(converted.root, tmp_path / "demo")))
    foreign = layout.root / "foreign"
    manifests.write_json(foreign / "manifest.json", content)
    assert list(inspect.describe(layout.root).facts) == ["index", "store"]
    with pytest.raises(WamError, match="foreign: not an artifact of wam"):
        inspect.describe(foreign)
    manifests.write_json(foreign / "own.json", {"a": 1})
    assert inspect.describe(foreign / "own.json").facts == {"a": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [([0.5, 1], {"entries": [0.5, 1]}), (3, {"entries": 3}), ({"a": 0.5}, {"a": 0.5})],
)
def test_results_without_rows_are_told_as_they_are(
    tmp_path: Path, content: object, expected: dict[str, object]
) -> None:
    manifests.write_json(tmp_path / "summary.json", content)
    assert inspect.describe(tmp_path).facts == expected
    assert inspect.run(tmp_path, None, as_json=False)


def test_facts_of_raw_frames(raw_root: Path) -> None:
    facts = inspect.describe(raw_root, None).facts
    assert list(facts) == ["training", "validation"]
    training = facts["training"]
    assert (training["frames"], training["episodes"]) == (120, 3)
    assert training["frame_ids"] == {"first": 100, "last": 239}
    assert training["arrays"]["rgb_gripper"] == "uint8 (72, 80, 3)"
    assert training["tasks"] == {"close_drawer": 3, "turn_on_led": 3}
    assert training["renderer"] == "tiny"
    assert training["blocks"] == {"D": ["red", "blue", "pink"]}
    assert inspect.describe(raw_root / "training", None).facts["training"] == training


def test_defects_are_printed_by_severity_and_exit_with_1(
    own_raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny data set's actions are no CALVIN actions; that is a defect of its own."""
    on_disk.frame_path(own_raw / "training", 117).unlink()
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(own_raw), "--frames", "all"])
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "training/episode_0000117.npz: frame missing inside an episode" in output
    assert output.index("errors (") < output.index("warnings (") < output.index("notes (")
    with pytest.raises(SystemExit):
        main(["inspect", str(own_raw), "--frames", "9", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["facts"]["validation"]["frames"] == 80
    missing = [found for found in content["findings"] if found["check"] == "missing-frames"]
    assert [found["file"] for found in missing] == ["training/episode_0000117.npz"]


@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_data_set_without_a_split_is_not_usable(own_raw: Path, split: str) -> None:
    shutil.rmtree(own_raw / split)
    found = inspect.describe(own_raw)
    assert not found.is_usable
    assert ["error"] == [f.severity for f in found.findings if f.file == f"{split}/"]


def test_frames_without_a_table_are_still_recognised(own_raw: Path) -> None:
    for split in ("training", "validation"):
        (own_raw / split / on_disk.EPISODE_TABLE).unlink()
    checks = {found.check for found in inspect.describe(own_raw).findings}
    assert "episode-table-missing" in checks


def test_checksums_are_recomputed_on_verify(
    converted: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(converted.store, tmp_path / "store"))
    main(["inspect", str(store), "--verify"])
    num_files = len([path for path in store.rglob("*") if path.is_file()]) - 1
    assert f"{num_files} of {num_files} files" in capsys.readouterr().out
    (store / "training.zarr/rgb_gripper/c.3.0.0.0").unlink()
    damaged = store / "validation.zarr/robot_obs/c.0.0"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(store), "--verify"])
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "errors (2)" in output
    assert (
        "training.zarr/rgb_gripper/c.3.0.0.0: missing; rgb_gripper, shard 3: rows 96 to 119, "
        "episodes 2 to 2" in output
    )
    assert "validation.zarr/robot_obs/c.0.0: checksum differs" in output
    with pytest.raises(SystemExit):
        main(["inspect", str(store / "validation.zarr"), "--verify", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [found["file"] for found in content["findings"]] == ["validation.zarr/robot_obs/c.0.0"]


def test_what_has_no_checksums_cannot_be_verified(
    raw_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(raw_root), "--verify"])
    assert stop.value.code == 1
    assert "no manifest.json here that lists checksums" in capsys.readouterr().out


@pytest.mark.parametrize("frames", ["0", "-3", "some"])
def test_a_bad_number_of_frames_is_refused(
    frames: str, raw_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", str(raw_root), f"--frames={frames}"])
    assert "neither a positive number nor 'all'" in capsys.readouterr().err


def test_unknown_and_missing_paths_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="not an artifact"):
        inspect.describe(tmp_path)
    with pytest.raises(WamError, match="not found"):
        inspect.describe(tmp_path / "nothing")
    model = tmp_path / "model"
    model.mkdir()
    manifests.write_json(model / "config.json", {})
    (model / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(WamError, match="not a valid safetensors file"):
        inspect.describe(model)
