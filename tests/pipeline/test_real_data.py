"""The steps of docs/real-data.md, with frames of CALVIN's own scene in CALVIN's full layout."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("pybullet")

from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.artifacts.manifests import read_json
from pipeline.calvin import language, metadata, on_disk
from pipeline.calvin.fields import VECTORS
from pipeline.params import Profile, load_profile
from pipeline.stages import collect, convert, evaluate, extract, index
from pipeline.store.open import open_store
from wam.errors import WamError

FIRST = {"training": 53_819, "validation": 0}
"""Ids of D's first frames."""
GAP = 1_000
FRAMES = 400
TASKS = ("close_drawer", "open_drawer")


@pytest.fixture(scope="module")
def assets() -> Path:
    directory = Path(__file__).resolve().parents[3] / "shared" / "calvin_assets"
    if not directory.is_dir():
        pytest.skip(f"CALVIN's assets are not at {directory}")
    return directory


@pytest.fixture(scope="module")
def task_D_D(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play in CALVIN's own scene, as its recorder would have left it. Read only."""
    ci = load_profile("ci")
    layout = Layout(tmp_path_factory.mktemp("recorded"))
    profile = replace(
        ci,
        env=replace(ci.env, assets=str(assets)),
        collect=replace(
            ci.collect,
            training_frames=2 * FRAMES,
            validation_frames=FRAMES,
            episode_frames=FRAMES,
            static_size=200,
            gripper_size=84,
        ),
    )
    collect.run(profile, layout)
    for split in SPLITS:
        _as_recorded(layout.raw / split, FIRST[split])
    return layout.raw


def _as_recorded(directory: Path, first: int) -> None:
    """Give the frames CALVIN's ids, gaps, and all that lies beside them."""
    ids: dict[int, int] = {}
    episodes = on_disk.read_episodes(directory).tolist()
    for row, (start, stop) in enumerate(episodes):
        moved = first + row * (FRAMES + GAP)
        ids |= {start + at: moved + at for at in range(stop - start + 1)}
    for old, new in sorted(ids.items(), reverse=first > 0):
        on_disk.frame_path(directory, old).rename(on_disk.frame_path(directory, new))
    metadata.write_split(directory, [(ids[start], ids[stop]) for start, stop in episodes])
    windows = [
        replace(window, start=ids[window.start], stop=ids[window.stop - 1] + 1)
        for window in language.read_annotations(directory)
    ]
    language.write_annotations(directory, windows)
    usual = directory / language.ANNOTATIONS.parent
    shutil.copytree(usual, usual.with_name("lang_paraphrase-MiniLM-L3-v2"))
    (directory / metadata.SCENE_INFO).unlink(missing_ok=True)
    if first:
        metadata.write_scene_info(directory, {"calvin_scene_D": (0, 611_098)})
    recorder: dict[str, Any] = {
        "seed": 0,
        "use_vr": True,
        "cameras": {
            name: {"_target_": f"calvin_env.camera.{name}", "width": size, "height": size}
            for name, size in (("static", 200), ("gripper", 84))
        },
        "env": {"_target_": "calvin_env.envs", "use_egl": False, "use_scene_info": True},
        "robot": {"_target_": "calvin_env.robot", "use_nullspace": True},
        "scene": {"objects": {"fixed": {"table": {"file": "calvin_table_D/calvin_table_D.urdf"}}}},
    }
    (directory / metadata.RECORDING).write_text(yaml.safe_dump(recorder))
    for extra in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (directory / metadata.RECORDING).with_name(extra).write_text("{}\n")


@pytest.fixture
def paper(task_D_D: Path) -> Profile:
    """The profile with ``raw.path`` set and nothing else, on one core."""
    profile = load_profile("paper")
    return replace(
        profile,
        tasks=TASKS,
        raw=replace(profile.raw, path=str(task_D_D)),
        env=replace(profile.env, workers=1),
        convert=replace(profile.convert, workers=1),
        extract=replace(profile.extract, play_starts_per_task=5),
        evaluate=replace(profile.evaluate, max_episodes=2, clips=False),
    )


def test_the_path_alone_is_refused_before_anything_is_made(
    paper: Profile, task_D_D: Path, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    for lazy in (False, True):
        with pytest.raises(WamError, match=r"^env: .*scene_source unknown.*embedded.*env\.assets"):
            collect.run(paper, layout, lazy=lazy)
    with pytest.raises(WamError, match=r"^env: .*scene_source"):
        index.run(paper, layout)
    assert not layout.root.exists()


def test_from_the_recorders_files_to_the_first_figures(
    paper: Profile, assets: Path, task_D_D: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "calvin_assets").symlink_to(assets)
    profile = replace(paper, env=replace(paper.env, assets="~/calvin_assets", renderer="tiny"))
    layout = Layout(tmp_path / "data")
    collect.run(profile, layout)
    index.run(profile, layout)
    convert.run(profile, layout)
    extract.run(profile, layout)
    training = open_store(layout.store / "training.zarr")
    assert training.attrs["scene"] == "D"
    assert training.attrs["source_image_shapes"]["rgb_static"] == [200, 200, 3]
    starts = (FIRST["training"], FIRST["training"] + FRAMES + GAP)
    expected = [start + at for start in starts for at in range(FRAMES)]
    np.testing.assert_array_equal(training.frame_ids, expected)
    last = on_disk.frame_path(task_D_D / "training", expected[-1])
    frame = on_disk.read_frame(last, VECTORS)
    for name, values in frame.items():
        stored = training.read(name)[-1]
        np.testing.assert_array_equal(stored, values.astype(stored.dtype))
    # The held-out states are those of the simulator that the policies will meet.
    evaluate.run(profile, layout, "controls")
    summary = read_json(layout.evaluation("controls") / "summary.json")
    successes = {(row["task"], row["stage"]): row["successes"] for row in summary}
    for task in TASKS:
        assert successes[task, "expert"] > successes[task, "zero"] == 0
    assert {row["differs_from_data"] for row in summary} == {None}


def test_a_download_in_parts_is_used_as_far_as_it_goes(
    paper: Profile, assets: Path, task_D_D: Path, tmp_path: Path
) -> None:
    root = tmp_path / "task_D_D"
    shutil.copytree(task_D_D, root)
    start = FIRST["training"] + FRAMES + GAP
    for frame_id in range(start + 300, start + FRAMES):
        on_disk.frame_path(root / "training", frame_id).unlink()
    profile = replace(
        paper,
        tasks=(),
        raw=replace(paper.raw, path=str(root)),
        env=replace(paper.env, assets=str(assets), renderer="tiny"),
    )
    layout = Layout(tmp_path / "data")
    with pytest.raises(WamError) as caught:
        index.run(profile, layout)
    advice = yaml.safe_load(str(caught.value).partition("convert.frames: ")[2])
    assert advice == {"training": [[FIRST["training"], start + 299]]}
    ranges = {split: tuple(map(tuple, listed)) for split, listed in advice.items()}
    index.run(replace(profile, convert=replace(profile.convert, frames=ranges)), layout)
