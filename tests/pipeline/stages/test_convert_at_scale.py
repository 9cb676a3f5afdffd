"""Conversion on a Dask cluster: few jobs at a time, and nothing is lost when it is killed."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import workers
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build
from pipeline.artifacts.layout import Layout, store_path
from pipeline.calvin import listing, on_disk, small_files
from pipeline.params import Profile, load_profile
from pipeline.stages import convert, index
from pipeline.store.group import create_arrays
from pipeline.store.shard_job import write_shard
from tests.pipeline.artifact import content

REPOSITORY = Path(__file__).parents[3]
MakeProfile = Callable[..., Profile]
FRAMES = {"training": 3000, "validation": 200}


def test_the_scheduler_knows_few_jobs_at_a_time(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    from distributed import Client

    settings = replace(make_profile(raw_root).convert, shard_frames=8)
    found = listing.load_index(converted.index)
    arrays = convert.store_arrays(found.splits["training"], settings)
    jobs = convert.plan(found, arrays, Build(tmp_path), settings)
    assert len(jobs) == 25
    for name, split in found.splits.items():
        create_arrays(store_path(tmp_path, name), arrays, split.num_frames, settings)
    known = []
    with Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as client:
        for record in workers.map_dask(client, write_shard, jobs):
            assert record.num_frames == 8
            known.append(len(client.futures))
    assert len(known) == 25
    assert max(known) <= 2 + 1  # the finished one is still held


def test_an_existing_scheduler_writes_the_same_bytes(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    layout = Layout(tmp_path)
    shutil.copytree(converted.index, layout.index)
    profile = make_profile(raw_root)
    with LocalCluster(
        processes=False, n_workers=2, threads_per_worker=1, protocol="tcp", dashboard_address=None
    ) as cluster:
        settings = replace(profile.convert, dask_address=cluster.scheduler_address)
        convert.run(replace(profile, convert=settings), layout)
    assert content(layout.store) == content(converted.store)


@pytest.fixture
def project(raw_root: Path, tmp_path: Path) -> Path:
    """A working directory with a profile ``many`` of a few thousand tiny frames, indexed."""
    first_id = 0
    for split, count in FRAMES.items():
        directory = tmp_path / "raw" / split
        directory.mkdir(parents=True)
        sources = itertools.cycle(sorted((raw_root / split).glob("episode_*.npz")))
        for frame_id, source in zip(range(first_id, first_id + count), sources, strict=False):
            os.link(source, on_disk.frame_path(directory, frame_id))
        middle, last = first_id + count // 2, first_id + count - 1
        table = np.array([(first_id, middle), (middle + 1, last)])
        small_files.write_npy(directory / on_disk.EPISODE_TABLE, table)
        first_id += count
    profile = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["ci"]
    profile["raw"]["path"] = str(tmp_path / "raw")
    profile["env"]["differences"] = "allow"
    profile["tasks"] = []
    profile["convert"] |= {"shard_frames": 100, "chunk_frames": 25, "workers": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"many": profile}))
    layout = Layout(tmp_path / "data" / "many")
    index.run(load_profile("many", tmp_path / "params.yaml"), layout)
    return tmp_path


def start(project: Path) -> subprocess.Popen[bytes]:
    """``wam convert`` in a process group of its own."""
    command = [sys.executable, "-m", "pipeline", "convert", "--profile", "many"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True)


def written(partial: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of the files of every shard that has a record, by their place in the store."""
    found = {}
    for record in (
        manifests.read_json(path) for path in (partial / ".work" / "records").glob("*.json")
    ):
        for name in record["files"]:
            directory = partial / f"{record['split']}.zarr" / name
            (file,) = directory.glob(f"c.{record['index']}*")
            found[file.relative_to(partial)] = (file.stat().st_ino, file.stat().st_mtime_ns)
    return found


@pytest.mark.slow
def test_killed_cluster_goes_on_with_the_missing_shards(project: Path, tmp_path: Path) -> None:
    layout = Layout(project / "data" / "many")
    partial = layout.store.with_name("store.partial")
    process = start(project)
    deadline = time.monotonic() + 120
    while not any((partial / ".work" / "records").glob("*.json")):
        assert process.poll() is None, "the conversion ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = written(partial)
    num_files = sum(1 for _ in partial.glob("*.zarr/rgb_static/c.*"))
    assert 0 < len(finished)
    assert num_files < 32, "nothing was left to do"
    assert not layout.store.exists()

    assert start(project).wait(timeout=300) == 0
    for file, identity in finished.items():
        found = (layout.store / file).stat()
        assert (found.st_ino, found.st_mtime_ns) == identity, f"{file} was written again"
    assert not partial.exists()

    profile = load_profile("many", project / "params.yaml")
    alone = Layout(tmp_path / "alone")
    shutil.copytree(layout.index, alone.index)
    convert.run(replace(profile, convert=replace(profile.convert, workers=1)), alone)
    assert content(layout.store) == content(alone.store)
