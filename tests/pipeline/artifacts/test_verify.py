"""Every kind of file of an artifact, damaged on purpose."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.layout import Layout
from pipeline.artifacts.verify import verify
from pipeline.params import Profile
from pipeline.stages import export, extract
from pipeline.store.array_reader import ArrayReader
from pipeline.store.open import verify_store
from wam.errors import WamError


@pytest.fixture
def layout(
    converted: Layout, raw_root: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> Layout:
    """Index, store, shards and demonstrations that a test may damage."""
    layout = Layout(tmp_path)
    shutil.copytree(converted.index, layout.index)
    shutil.copytree(converted.store, layout.store)
    profile = make_profile(raw_root)
    export.run(profile, layout)
    extract.run(profile, layout)
    return layout


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_in_any_file_is_found(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    for directory in (layout.store, layout.shards, layout.demos):
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        assert len(files) > 1
        for path in files:
            at = int(rng.integers(path.stat().st_size))
            flip(path, at)
            name = str(path.relative_to(directory))
            if name == "manifest.json":
                with pytest.raises(WamError, match=r"manifest\.json: (damaged|not valid|lists no)"):
                    verify(directory)
            else:
                (damage,) = verify(directory).damages
                assert (damage.file, damage.problem) == (name, "checksum differs")
            flip(path, at)
        assert verify(directory).damages == []


def test_all_damages_are_named(layout: Layout) -> None:
    (layout.shards / "training" / "training-000001.tar").unlink()
    flip(layout.shards / "validation" / "validation-000000.tar", 700)
    path = layout.shards / "validation" / "validation-000001.tar"
    path.write_bytes(path.read_bytes()[:1000])
    verdict = verify(layout.shards)
    assert verdict.num_files == 5
    missing, differs, short = verdict.damages
    assert (missing.file, missing.problem) == ("training/training-000001.tar", "missing")
    assert (differs.file, differs.problem) == (
        "validation/validation-000000.tar",
        "checksum differs",
    )
    assert short.file == "validation/validation-000001.tar"
    assert short.problem.startswith("1,000 bytes instead of ")


def test_of_a_damaged_shard_rows_and_episodes_are_told(layout: Layout) -> None:
    flip(layout.store / "training.zarr" / "scene_obs" / "c.2.0", 30)
    flip(layout.store / "training.zarr" / "rgb_static" / "zarr.json", 30)
    flip(layout.store / "validation.zarr" / "rgb_static" / "c.0.0.0.0", 30)
    flip(layout.store / "validation.zarr" / "episodes" / "c.0.0", 30)
    problems = {damage.file: damage.problem for damage in verify_store(layout.store).damages}
    assert problems == {
        "training.zarr/rgb_static/zarr.json": "checksum differs",
        "training.zarr/scene_obs/c.2.0": "checksum differs; scene_obs, shard 2: rows 64 to 95, "
        "episodes 1 to 2",
        "validation.zarr/episodes/c.0.0": "checksum differs",
        "validation.zarr/rgb_static/c.0.0.0.0": "checksum differs; rgb_static, shard 0: "
        "rows 0 to 31",
    }


@pytest.mark.parametrize("name", ["rgb_static/c.1.0.0.0", "robot_obs/c.1.0", "frame_id/c.1"])
def test_a_flipped_byte_never_reaches_a_reader(
    converted: Layout, tmp_path: Path, name: str
) -> None:
    """Either the read fails and names the shard, or the byte was none of the data's."""
    root = Path(shutil.copytree(converted.store, tmp_path / "store"))
    path = root / "training.zarr" / name
    intact = ArrayReader(path.parent)[:]
    positions = np.linspace(0, path.stat().st_size - 1, 200).astype(int).tolist()
    num_found = 0
    for at in positions:
        flip(path, at)
        try:
            values = ArrayReader(path.parent)[:]
        except WamError as error:
            assert str(error).startswith(f"{path}: ")
            num_found += 1
        else:
            np.testing.assert_array_equal(values, intact)
        flip(path, at)
    assert num_found > 0.9 * len(positions)
