import subprocess
from pathlib import Path

import pytest

from benchmarks import jobs
from pipeline.params import load_profile

LOCK = """schema: '2.0'
stages:
  report@ci:
    cmd: wam report --profile ci
    outs:
    - path: data/ci/results
      hash: md5
      md5: {digest}.dir
  index@ci:
    cmd: wam index --profile ci
    outs:
    - path: data/ci/index
      hash: md5
      md5: 8c.dir
  report@demo:
    cmd: wam report --profile demo
    outs:
    - path: data/demo/results
      hash: md5
      md5: 7d.dir
"""


def test_runs_are_told_apart_by_their_outputs(tmp_path: Path) -> None:
    def lock(digest: str) -> tuple[tuple[str, str], ...]:
        (tmp_path / "dvc.lock").write_text(LOCK.format(digest=digest))
        return jobs.outputs(tmp_path, "ci")

    assert lock("a") == (("data/ci/index", "8c.dir"), ("data/ci/results", "a.dir"))
    assert lock("a") != lock("b")


def test_the_share_is_that_of_the_fastest_runs() -> None:
    times = {
        "one_worker": [60.0, 48.0],
        "serial": [40.0, 50.0, 42.0],
        "side_by_side": [30.0, 24.0, 60.0],
    }
    assert jobs.figures(times, 20) == {
        "one_worker_s": 48.0,
        "one_worker_s_median": 54.0,
        "serial_s": 40.0,
        "serial_s_median": 42.0,
        "side_by_side_s": 24.0,
        "side_by_side_s_median": 30.0,
        "share_of_one_worker": 0.5,
        "share_of_serial": 0.6,
        "outputs": 20,
    }


def test_a_way_left_out_has_no_share() -> None:
    times = {"serial": [40.0], "side_by_side": [30.0]}
    assert jobs.figures(times, 20) == {
        "serial_s": 40.0,
        "serial_s_median": 40.0,
        "side_by_side_s": 30.0,
        "side_by_side_s_median": 30.0,
        "share_of_serial": 0.75,
        "outputs": 20,
    }
    assert not {key for key in jobs.figures({"serial": [40.0]}, 20) if key.startswith("share")}


def test_clones_stay_where_they_are_to_be_kept(tmp_path: Path) -> None:
    with jobs.scratch("serial", None) as removed, jobs.scratch("serial", tmp_path / "k") as kept:
        assert removed.is_dir()
    assert not removed.exists()
    assert kept.is_dir() and kept.parent == tmp_path / "k"


@pytest.mark.skipif(not (jobs.ROOT / ".git").exists(), reason="no git repository")
def test_a_share_shortens_every_length(tmp_path: Path) -> None:
    jobs.clone(tmp_path / "wam", "ci", 0.5)
    committed = tmp_path / "params.yaml"
    show = ["git", "show", f"HEAD:{committed.name}"]
    told = subprocess.run(show, cwd=jobs.ROOT, check=True, capture_output=True).stdout
    committed.write_bytes(told)
    places = committed, tmp_path / "wam" / committed.name
    whole, half = (load_profile("ci", place) for place in places)
    for section, name in jobs.LENGTHS:
        long, short = (getattr(getattr(one, section), name) for one in (whole, half))
        assert short == (long and max(1, round(long / 2)))
    assert half.evaluate == whole.evaluate
