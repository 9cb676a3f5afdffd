import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.calvin import on_disk, small_files, stretches
from pipeline.params import Profile
from pipeline.stages import convert, index
from pipeline.store.open import open_store, verify_store
from pipeline.store.shard_job import ShardJob, ShardRecord
from wam.errors import WamError
from wam.proprio import from_robot_obs

MakeProfile = Callable[..., Profile]
WriteShard = Callable[[ShardJob], ShardRecord]


def test_rows_equal_the_frames(raw_root: Path, converted: Layout) -> None:
    for split in ("training", "validation"):
        store = open_store(converted.store / f"{split}.zarr")
        images = {name: store.read(name) for name in ("rgb_static", "rgb_gripper")}
        vectors = {n: store.read(n) for n in ("rel_actions", "actions", "robot_obs", "scene_obs")}
        proprio = store.read("proprio")
        assert len(store.frame_ids) == store.num_frames
        for row, frame_id in enumerate(store.frame_ids.tolist()):
            path = on_disk.frame_path(raw_root / split, frame_id)
            frame = on_disk.read_frame(path, [*images, *vectors])
            for name, stored in images.items():
                expected = cv2.resize(frame[name], (64, 64), interpolation=cv2.INTER_AREA)
                np.testing.assert_array_equal(stored[row], expected)
            for name, stored in vectors.items():
                np.testing.assert_array_equal(stored[row], frame[name].astype(stored.dtype))
            np.testing.assert_array_equal(proprio[row], from_robot_obs(frame["robot_obs"]))


def test_store_has_episodes_statistics_and_source(converted: Layout) -> None:
    training = open_store(converted.store / "training.zarr")
    validation = open_store(converted.store / "validation.zarr")
    np.testing.assert_array_equal(training.episodes, [[0, 40], [40, 80], [80, 120]])
    np.testing.assert_array_equal(
        training.rows_of_frame_ids(np.array([100, 179, 239])), [0, 79, 119]
    )
    with pytest.raises(WamError, match="frame 190 is not in the store"):
        training.rows_of_frame_ids(np.array([100, 190]))
    proprio = training.read("proprio")
    for store in (training, validation):
        normalizer = store.proprio_normalizer()
        np.testing.assert_array_equal(normalizer.minimum, proprio.min(0))
        np.testing.assert_array_equal(normalizer.maximum, proprio.max(0))
    assert (training.attrs["renderer"], training.attrs["scene"]) == ("tiny", "D")
    assert (training.attrs["robot_model"], training.attrs["scene_source"]) == ("light", None)
    plain = zarr.open_group(converted.store / "training.zarr", mode="r")
    assert plain["rgb_static"].shape == (120, 64, 64, 3)
    assert verify_store(converted.store).damages == []


def test_bytes_do_not_depend_on_workers(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(converted.index, layout.index)
    convert.run(make_profile(raw_root, workers=2), layout)
    assert _digests(layout.store) == _digests(converted.store)


def test_interrupted_conversion_writes_only_missing_shards(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(converted.index, layout.index)
    written = []

    def interrupted(write: WriteShard, jobs: Sequence[ShardJob]) -> Iterator[ShardRecord]:
        for job in list(jobs)[:3]:
            written.append((job.split, job.index))
            yield write(job)
        raise KeyboardInterrupt

    def complete(write: WriteShard, jobs: Sequence[ShardJob]) -> Iterator[ShardRecord]:
        for job in jobs:
            written.append((job.split, job.index))
            yield write(job)

    with pytest.raises(KeyboardInterrupt):
        convert.run(make_profile(raw_root), layout, run_jobs=interrupted)
    assert not layout.store.exists()
    convert.run(make_profile(raw_root), layout, run_jobs=complete)
    assert sorted(written) == sorted(set(written)), "no shard was written twice"
    assert _digests(layout.store) == _digests(converted.store)


def test_killed_conversion_goes_on(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    shutil.copytree(converted.index, layout.index)
    # Every job hangs after the second shard, so that the kill always finds the same state.
    script = tmp_path / "hang.py"
    script.write_text(
        "import sys, time\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from pipeline.stages import convert\n"
        "from pipeline.artifacts.layout import Layout\n"
        "from pipeline.params import load_profile\n"
        "def jobs_then_hang(write, jobs):\n"
        "    yield write(jobs[0])\n"
        "    yield write(jobs[1])\n"
        "    time.sleep(600)\n"
        "p = load_profile('ci', Path(sys.argv[1]))\n"
        "p = replace(p, convert=replace(p.convert, shard_frames=32, chunk_frames=8))\n"
        "convert.run(p, Layout(Path(sys.argv[2])), run_jobs=jobs_then_hang)\n"
    )
    repository = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, script, repository / "params.yaml", layout.root], cwd=repository
    )
    records = layout.store.with_name("store.partial") / ".work" / "records"
    deadline = time.monotonic() + 60
    while len(list(records.glob("*.json")) if records.exists() else []) < 2:
        assert process.poll() is None, "the conversion ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not layout.store.exists()
    started = []

    def counting(write: WriteShard, jobs: Sequence[ShardJob]) -> Iterator[ShardRecord]:
        started.extend(jobs)
        return map(write, jobs)

    convert.run(make_profile(raw_root), layout, run_jobs=counting)
    assert len(started) == 7 - 2
    assert _digests(layout.store) == _digests(converted.store)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def _change(key: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with np.load(path) as archive:
            frame = dict(archive)
        if value is None:
            del frame[key]
        else:
            frame[key] = value(frame[key]) if callable(value) else value
        np.savez_compressed(path, allow_pickle=False, **frame)

    return change


def _set(at: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.where(np.arange(len(array)) == at, value, array)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, "truncated or damaged"),
    "flipped byte": (_flip_a_byte, "damaged|missing|shape|finite|expected"),
    "missing key": (_change("robot_obs", None), "robot_obs is missing"),
    "wrong image shape": (
        _change("rgb_gripper", np.zeros((84, 84, 3), np.uint8)),
        r"rgb_gripper has shape \(84, 84, 3\); other frames have \(72, 80, 3\)",
    ),
    "wrong image dtype": (_change("rgb_static", np.zeros((64, 64, 3))), "rgb_static is float64"),
    "wrong vector shape": (_change("rel_actions", np.zeros(6)), r"rel_actions has shape \(6,\)"),
    "integer vector": (_change("actions", np.zeros(7, int)), "actions is int64"),
    "not a number": (_change("scene_obs", _set(7, np.nan)), r"scene_obs\[7\] is nan"),
    "infinite": (_change("robot_obs", _set(0, np.inf)), r"robot_obs\[0\] is inf"),
    "out of range": (_change("rel_actions", _set(2, 1.5)), r"rel_actions\[2\] is 1.5; expected -1"),
    "no gripper command": (_change("actions", _set(6, 0)), r"actions\[6\] is 0; expected -1 or 1 "),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_bad_frame_is_named_and_leaves_no_store(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, kind: str
) -> None:
    damage, message = DAMAGE[kind]
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    damage(on_disk.frame_path(own_raw / "training", 150))
    with pytest.raises(WamError, match=rf"training/episode_0000150.npz: .*({message})"):
        convert.run(make_profile(own_raw), layout)
    assert not layout.store.exists()
    # So few frames are all looked at before.
    with pytest.raises(WamError, match=rf"training/episode_0000150.npz: .*({message})"):
        index.run(make_profile(own_raw), Layout(tmp_path / "other"))


def test_error_in_a_worker_process_arrives_as_one_message(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    _truncate(on_disk.frame_path(own_raw / "validation", 60))
    with pytest.raises(WamError, match=r"validation/episode_0000060.npz: truncated") as caught:
        convert.run(make_profile(own_raw, workers=2), layout)
    assert type(caught.value) is WamError
    assert not layout.store.exists()


def test_skip_episode_keeps_what_is_whole_and_says_why(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "SHORTEST", 10)
    for frame_id in (170, 151, 152):
        _truncate(on_disk.frame_path(own_raw / "training", frame_id))
    profile = make_profile(own_raw, on_error="skip-episode")
    layout = Layout(tmp_path / "data")
    index.run(profile, layout)
    convert.run(profile, layout)
    training = open_store(layout.store / "training.zarr")
    kept = [(100, 140), (140, 151), (153, 170), (200, 240)]
    np.testing.assert_array_equal(training.frame_ids, [at for one in kept for at in range(*one)])
    np.testing.assert_array_equal(training.episodes, [[0, 40], [40, 51], [51, 68], [68, 108]])
    (damaged,) = manifests.read_json(layout.store / convert.FINDINGS)["damaged_episodes"]
    assert (damaged["episode"], damaged["num_lost"]) == ([140, 180], 3)
    assert damaged["kept"] == [[140, 151], [153, 170]]
    assert damaged["file"].endswith("episode_0000151.npz")
    # The store is the one that the data without those frames would give.
    table = [[start, stop - 1] for start, stop in kept]
    small_files.write_npy(own_raw / "training" / on_disk.EPISODE_TABLE, np.array(table))
    other = Layout(tmp_path / "other")
    index.run(profile, other)
    convert.run(profile, other)
    arrays = {k: v for k, v in _digests(layout.store).items() if not k.endswith(".json")}
    assert arrays == {k: v for k, v in _digests(other.store).items() if not k.endswith(".json")}


def test_every_episode_invalid_is_an_error(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    profile = make_profile(own_raw, on_error="skip-episode")
    layout = Layout(tmp_path / "data")
    index.run(profile, layout)
    for frame_id in (10, 60):
        _truncate(on_disk.frame_path(own_raw / "validation", frame_id))
    with pytest.raises(WamError, match="nothing is left of any episode"):
        convert.run(profile, layout)
    assert not layout.store.exists()


def test_unknown_scheduler_is_an_error(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    from dataclasses import replace

    profile = make_profile(raw_root)
    profile = replace(profile, convert=replace(profile.convert, dask_address="nonsense://1:2"))
    layout = Layout(tmp_path)
    shutil.copytree(converted.index, layout.index)
    with pytest.raises(WamError, match=r"convert\.dask_address: no Dask scheduler"):
        convert.run(profile, layout)


def test_incomplete_store_is_refused(converted: Layout, tmp_path: Path) -> None:
    path = tmp_path / "training.zarr"
    with pytest.raises(WamError, match="no store here; run 'wam convert'"):
        open_store(path)
    shutil.copytree(converted.store / "training.zarr", path)
    with pytest.raises(WamError, match=r"incomplete store \(no manifest\.json\)"):
        open_store(path)
    shutil.copy(converted.store / "manifest.json", tmp_path)
    assert open_store(path).num_frames == 120
    shard = path / "rgb_static" / "c.1.0.0.0"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(WamError, match=r"rgb_static/c\.1\.0\.0\.0: [\d,]+ bytes instead of [\d,]+"):
        open_store(path)
    shard.unlink()
    with pytest.raises(WamError, match=r"rgb_static/c\.1\.0\.0\.0: missing"):
        open_store(path)
    shard.write_bytes(content)
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"num_frames": 120', '"num_frames": 121'))
    with pytest.raises(WamError, match=r"training\.zarr/zarr\.json: checksum differs"):
        open_store(path)


def test_damaged_shard_is_named(converted: Layout, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(converted.store, root)
    shard = root / "training.zarr" / "rgb_static" / "c.1.0.0.0"
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(bytes(content))
    (damage,) = verify_store(root).damages
    assert damage.file == "training.zarr/rgb_static/c.1.0.0.0"
    assert damage.problem.endswith("rgb_static, shard 1: rows 32 to 63, episodes 0 to 1")
    store = open_store(root / "training.zarr")
    with pytest.raises(WamError, match=r"rgb_static/c\.1\.0\.0\.0: damaged between rows 32 and 40"):
        store.read("rgb_static", 32, 40)


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
