"""Stages begin beside each other where memory has room for all of them."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.artifacts.layout import Layout
from pipeline.dvc_stages import run_in_order
from pipeline.params import load_profile
from pipeline.params.study import Cell, load_study
from pipeline.room import Room, free_bytes, stage_bytes, study_bytes, waiting
from wam.errors import WamError

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
    room, order = Room(lambda: 9), []
    inside, told = threading.Event(), threading.Event()

    def first() -> None:
        with room.of(5, order.append):
            inside.set()
            told.wait(20)
            order.append("the first leaves")

    def second() -> None:
        def say(words: str) -> None:
            order.append(words)
            told.set()

        assert inside.wait(20)
        with room.of(6, say):
            order.append("the second is in")

    run_together(first, second)
    assert order == [waiting(6), "the first leaves", "the second is in"]


def test_nobody_begins_in_a_room_that_was_closed() -> None:
    room, told, refused = Room(lambda: 9), threading.Event(), []

    def second() -> None:
        with pytest.raises(WamError, match="before it began"), room.of(6, lambda _: told.set()):
            pytest.fail("it was closed")
        refused.append(True)

    def first() -> None:
        with pytest.raises(KeyboardInterrupt), room.of(5, print), room.open():
            other = threading.Thread(target=second)
            other.start()
            told.wait(20)
            raise KeyboardInterrupt
        other.join(20)

    run_together(first)
    assert refused
    with room.open(), room.of(50, print):
        pass


def run_together(*functions: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(functions)) as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result(timeout=60)


@pytest.mark.parametrize(("limit", "expected"), [("3000", 1000), ("max", None), (None, None)])
def test_a_containers_limit_counts(
    tmp_path: Path, limit: str | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=70_000))
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.stat").write_text("file 900\nanon 2000\nkernel 5\n")
    assert free_bytes(tmp_path) == (expected or 70_000)


def write_store(layout: Layout, num_frames: int) -> Path:
    store = layout.store / "training.zarr"
    store.mkdir(parents=True)
    metadata = {"attributes": {"num_frames": num_frames}}
    (store / "zarr.json").write_text(json.dumps(metadata))
    return store


def test_training_keeps_the_frames_of_its_store(tmp_path: Path) -> None:
    profile, layout = load_profile("demo"), Layout(tmp_path)
    before = stage_bytes("train_world_model@demo-wam", profile, layout)
    store = write_store(layout, 30_000)
    kept = stage_bytes("train_world_model@demo-wam", profile, layout) - before
    assert kept == pytest.approx(30_000 * (2 * 64 * 64 * 3 + 4 * (18 + 7)))
    assert stage_bytes("study@wam-0", profile, layout) == before + kept
    for other in ("train_policy@demo-wam", "study_report"):
        assert stage_bytes(other, profile, layout) == before
    (store / "zarr.json").write_text("[]")
    assert stage_bytes("study@wam-0", profile, layout) == before


def test_training_on_a_share_of_the_play_keeps_that_share(tmp_path: Path) -> None:
    profile, layout = load_profile("demo"), Layout(tmp_path)
    stage = "train_world_model@demo-wam"
    nothing = stage_bytes(stage, profile, layout)
    write_store(layout, 30_000)
    quarter = replace(profile.train_world_model, data_share=0.25)
    kept = stage_bytes(stage, replace(profile, train_world_model=quarter), layout) - nothing
    assert 4 * kept == stage_bytes(stage, profile, layout) - nothing


def test_a_run_of_the_study_takes_what_its_own_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    study = load_study()
    cells = {
        "all": Cell(variant="wam", set={}),
        "half": Cell(variant="wam", set={"train_world_model": {"data_share": 0.5}}),
        "none": Cell(variant="wam", set={"loader": {"cache": "none"}}),
    }
    memory = study_bytes(replace(study, seeds=(0,), cells=cells, compare=()))
    runs = ("study@all-0", "study@half-0", "study@none-0")
    alone = memory("study_report")
    assert [memory(run) for run in runs] == [alone] * 3, "there is no store yet"
    write_store(Layout.of(study.base), 30_000)
    whole, half, none = (memory(run) - alone for run in runs)
    assert whole == 2 * half > 0
    assert none == 0
