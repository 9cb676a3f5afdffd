"""The file of decoded frames: shared, checked, and never half there."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.batches.decoded import cache_file, joined, memory_mapped
from pipeline.store.frames import Frames
from wam.errors import WamError

NUM_FRAMES = 23


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "rgb_static": rng.integers(0, 256, (NUM_FRAMES, 64, 64, 3), dtype=np.uint8),
        "rgb_gripper": rng.integers(0, 256, (NUM_FRAMES, 64, 64, 3), dtype=np.uint8),
        "proprio": rng.random((NUM_FRAMES, 18), dtype=np.float32),
        "rel_actions": rng.random((NUM_FRAMES, 7), dtype=np.float32),
    }


def decode() -> Frames:
    return Frames.of_arrays(arrays())


def never() -> Frames:
    raise AssertionError("decoded again")


def open_in_another_process(path: Path) -> bool:
    return holds(memory_mapped(path, NUM_FRAMES, decode))


def holds(frames: Frames, start: int = 0, stop: int = NUM_FRAMES) -> bool:
    expected = arrays()
    images = np.empty((stop - start, 64, 64, 3), np.uint8)
    for name in ("rgb_static", "rgb_gripper"):
        getattr(frames, name)(start, images)
        if not (images == expected[name][start:stop]).all():
            return False
    return bool(
        (frames.proprio == expected["proprio"]).all()
        and (frames.rel_actions == expected["rel_actions"]).all()
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return cache_file(tmp_path / "cache", "training", "abc")


def test_made_once_and_shared(path: Path) -> None:
    assert holds(memory_mapped(path, NUM_FRAMES, decode))
    again = memory_mapped(path, NUM_FRAMES, never)
    assert holds(again)
    assert holds(again, 5, 12)
    assert [file.name for file in path.parent.iterdir()] == ["training.abc.npy"]


def test_it_is_a_plain_npy_file(path: Path) -> None:
    memory_mapped(path, NUM_FRAMES, decode)
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    for name, values in arrays().items():
        np.testing.assert_array_equal(records[name], values)


def test_processes_at_once_make_one_file(path: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        assert all(pool.map(open_in_another_process, [path] * 6))
    assert [file.name for file in path.parent.iterdir()] == ["training.abc.npy"]


def test_a_damaged_or_cut_off_file_is_made_anew(path: Path) -> None:
    memory_mapped(path, NUM_FRAMES, decode)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, 20, len(content) - 1, *rng.integers(0, len(content), 20).tolist()]:
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        assert holds(memory_mapped(path, NUM_FRAMES, decode))
        assert path.read_bytes() == content
    for length in (0, 10, 5000, len(content) - 1):
        path.write_bytes(content[:length])
        assert holds(memory_mapped(path, NUM_FRAMES, decode))
    path.write_bytes(content + b"more")
    assert holds(memory_mapped(path, NUM_FRAMES, decode))
    assert path.read_bytes() == content


def test_an_interrupted_write_leaves_no_cache(path: Path) -> None:
    class Killed(Exception):
        pass

    def fragile(start: int, target: np.ndarray) -> None:
        raise Killed

    with pytest.raises(Killed):
        memory_mapped(path, NUM_FRAMES, lambda: decode()._replace(rgb_gripper=fragile))
    assert not path.exists()
    assert list(path.parent.iterdir()) == []
    assert holds(memory_mapped(path, NUM_FRAMES, decode))
    assert [file.name for file in path.parent.iterdir()] == ["training.abc.npy"]


def test_older_versions_of_the_same_content_are_removed(path: Path) -> None:
    other = cache_file(path.parent, "validation", "old")
    older = cache_file(path.parent, "training", "old")
    mapped = memory_mapped(older, NUM_FRAMES, decode)
    memory_mapped(other, NUM_FRAMES, decode)
    memory_mapped(path, NUM_FRAMES, decode)
    assert {file.name for file in path.parent.iterdir()} == {path.name, other.name}
    assert holds(mapped), "who still has it open can go on"


def test_without_room_the_fix_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(WamError, match=r"0\.0 GB free.*set loader\.cache to none or ram"):
        memory_mapped(path, NUM_FRAMES, decode)
    assert not path.exists()


def test_joined_parts_follow_each_other() -> None:
    frames = decode()
    assert holds(joined([(frames, 0, NUM_FRAMES)]))
    parts = [(frames, 3, 9), (frames, 9, 10), (frames, 10, 20)]
    images = np.empty((17, 64, 64, 3), np.uint8)
    joined(parts).rgb_static(0, images)
    np.testing.assert_array_equal(images, arrays()["rgb_static"][3:20])


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from test_decoded import NUM_FRAMES, cache_file, decode, holds, memory_mapped\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "paths = [cache_file(Path(sys.argv[1]), f'tar{at}', 'abc') for at in range(60)]\n"
        "assert all([holds(memory_mapped(path, NUM_FRAMES, decode)) for path in paths])\n"
        "kept = [memory_mapped(path, NUM_FRAMES, decode) for path in paths]\n"
        "assert all(map(holds, kept))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
