"""Stages begin beside each other where memory has room for all of them."""

import json
import threading
from pathlib import Path

import pytest

from pipeline.artifacts.layout import Layout
from pipeline.dvc_stages import run_in_order
from pipeline.params import load_profile
from pipeline.room import Room, stage_bytes, waiting

SIDE_BY_SIDE = {name: frozenset[str]() for name in ("large", "larger", "small")}
SIZES = {"large": 5, "larger": 6, "small": 4}


def test_alone_everything_fits_and_beside_others_what_was_free_when_nothing_ran() -> None:
    free = iter([10, 12])
    room = Room(lambda: next(free))
    assert room.fits(50, [])
    assert not room.fits(3, [8])
    assert room.fits(2, [8])
    assert room.fits(1, [])
    assert room.fits(4, [8]), "by then more was free"


def test_a_stage_that_does_not_fit_lets_others_go_first() -> None:
    room, both, order = Room(lambda: 9), threading.Barrier(2, timeout=20), []

    def run(stage: str) -> None:
        order.append(stage)
        if stage != "larger":
            both.wait()

    def fits(stage: str, running: object) -> bool:
        assert not isinstance(running, str)
        return room.fits(SIZES[stage], [SIZES[other] for other in running])  # type: ignore[attr-defined]

    assert run_in_order(SIDE_BY_SIDE, 3, run, lambda: None, fits) == {}
    assert order[-1] == "larger"


def test_threads_wait_for_each_other() -> None:
    room, told, inside = Room(lambda: 9), [], threading.Event()
    leave, active = threading.Event(), threading.Semaphore(1)

    def first() -> None:
        with room.of(5, told.append), active:
            inside.set()
            assert leave.wait(20)

    def second() -> None:
        with room.of(6, told.append):
            assert active.acquire(blocking=False), "the first has left"

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    while not told:
        threads[1].join(0.01)
    leave.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert told == [waiting(6)]


def test_training_keeps_the_frames_of_its_store(tmp_path: Path) -> None:
    profile, layout = load_profile("demo"), Layout(tmp_path)
    before = stage_bytes("train_world_model@demo-wam", profile, layout)
    store = layout.store / "training.zarr"
    store.mkdir(parents=True)
    metadata = {"attributes": {"num_frames": 30_000}}
    (store / "zarr.json").write_text(json.dumps(metadata))
    kept = stage_bytes("train_world_model@demo-wam", profile, layout) - before
    assert kept == pytest.approx(30_000 * (2 * 64 * 64 * 3 + 4 * (18 + 7)))
    assert stage_bytes("study@wam-0", profile, layout) == before + kept
    assert stage_bytes("train_policy@demo-wam", profile, layout) == before
