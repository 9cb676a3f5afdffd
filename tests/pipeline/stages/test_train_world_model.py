"""The stage on the tiny data set: what it leaves behind, and that it goes on after a kill."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import read_json, read_manifest
from pipeline.params import Profile
from pipeline.stages import train_world_model
from pipeline.store.open import open_store
from tests.pipeline.artifact import content
from wam import device as devices
from wam.batch import Batch
from wam.errors import WamError
from wam.reliability.interruption import Interrupted
from wam.training.journal import Journal
from wam.training.refinement import Refiner
from wam.training.trainer import Trainer
from wam.world_model.load import load_world_model
from wam.world_model.model import WorldModel


@pytest.fixture
def profile(raw_root: Path, make_profile: Callable[..., Profile]) -> Profile:
    base = make_profile(raw_root)
    return replace(
        base,
        world_model=replace(base.world_model, cnn_depth=2, visual_embedding=16, deter=16),
        train_world_model=replace(
            base.train_world_model,
            batch=2,
            window=8,
            updates=6,
            checkpoint_every=2,
            validate_every=3,
            log_every=2,
        ),
        evaluate_world_model=replace(
            base.evaluate_world_model, open_loop_sequences=3, open_loop_steps=12
        ),
    )


@pytest.fixture
def layout(converted: Layout, tmp_path: Path) -> Layout:
    """A profile of its own that shares the read-only store."""
    layout = Layout(tmp_path / "data")
    shutil.copytree(converted.store, layout.store)
    return layout


def test_the_artifact_is_complete(profile: Profile, layout: Layout) -> None:
    train_world_model.run(profile, layout, "wam")
    directory = layout.world_model("wam")
    assert sorted(path.name for path in directory.iterdir()) == [
        "best.safetensors",
        "config.json",
        "film_gripper.png",
        "film_static.png",
        "learning_curve.csv",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
        "summary.json",
        "validation.jsonl",
    ]
    model, normalizer = load_world_model(directory, "cpu")
    assert model.config == profile.world_model
    store = open_store(layout.store / "training.zarr")
    assert normalizer.to_dict() == store.proprio_normalizer().to_dict()
    summary = read_json(directory / "summary.json")
    assert summary["updates"] == 6 and summary["frames"] == 6 * 2 * 8
    assert {"posterior_psnr", "open_loop_psnr", "kl", "id_mae", "gripper_accuracy"} <= set(summary)
    curve = (directory / "learning_curve.csv").read_text().splitlines()
    assert len(curve) == 1 + len(Journal(directory / "metrics.jsonl").records()) == 4
    with Image.open(directory / "film_static.png") as film:
        assert film.width > film.height > 3 * 128


def test_equal_runs_leave_equal_bytes(
    profile: Profile,
    layout: Layout,
    converted: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DVC's hash of the model, and with it that of everything made of it, is that of the first.

    So it is where a stage is given more threads, which is up to who runs it.
    """
    assert profile.train_world_model.threads == 1
    again = Layout(tmp_path / "again")
    shutil.copytree(converted.store, again.store)
    computing, loss = set(), WorldModel.loss

    def watched(*given: Any, **named: Any) -> Any:
        computing.add(torch.get_num_threads())
        return loss(*given, **named)

    monkeypatch.setattr(WorldModel, "loss", watched)
    files = []
    for place, given in ((layout, 1), (again, 3)):
        with devices.threads(given):
            train_world_model.run(profile, place, "wam")
            assert torch.get_num_threads() == given
        directory = place.world_model("wam")
        files.append(
            {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        )
        assert read_json(place.log("wam") / "speed.json")["frames_per_s"] > 0
    assert computing == {1}
    assert files[0].keys() == files[1].keys()
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []


def test_the_baseline_differs_in_the_action_scale_only(profile: Profile, layout: Layout) -> None:
    train_world_model.run(profile, layout, "dreamerv2")
    directory = layout.world_model("dreamerv2")
    config = read_json(directory / "config.json")
    assert config["variant"] == "dreamerv2"
    expected = json.loads(json.dumps(asdict(profile.world_model)))
    assert config["model"] == {**expected, "action_scale": 0.0}
    assert "id_mae" not in read_json(directory / "summary.json")
    tensors = load_file(directory / "model.safetensors")
    assert any(name.startswith("inverse_dynamics") for name in tensors)


def test_a_killed_stage_goes_on_and_ends_the_same(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_world_model.run(profile, layout, "wam")
    directory = layout.world_model("wam")
    expected = load_file(directory / "model.safetensors")
    summary = read_json(directory / "summary.json")
    shutil.rmtree(directory)

    class Killed(Exception):
        pass

    update = Trainer._update
    seen: list[int] = []

    def fragile(self: Trainer, batch: object) -> None:
        seen.append(self.step)
        if len(seen) == 6:
            raise Killed
        update(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_update", fragile)
    with pytest.raises(Killed):
        train_world_model.run(profile, layout, "wam")
    assert not directory.exists()
    train_world_model.run(profile, layout, "wam")
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5]  # from the checkpoint at step 4
    found = load_file(directory / "model.safetensors")
    assert all((value == found[name]).all() for name, value in expected.items())
    again = read_json(directory / "summary.json")
    assert again == summary
    assert read_manifest(directory, "train-world-model")["params"]["variant"] == "wam"


def test_the_shards_suffice(profile: Profile, exported: Layout, tmp_path: Path) -> None:
    """Without the store; the validation windows and the normaliser are the store's."""
    layouts = {reader: Layout(tmp_path / reader) for reader in ("windows", "shards")}
    shutil.copytree(exported.store, layouts["windows"].store)
    shutil.copytree(exported.shards, layouts["shards"].shards)
    summaries = {}
    for reader, layout in layouts.items():
        loader = replace(profile.loader, reader=reader, cache="memmap", workers=2)
        train_world_model.run(replace(profile, loader=loader), layout, "wam")
        assert not layout.world_model("wam").with_name("wam.partial").exists()
        summaries[reader] = read_json(layout.world_model("wam") / "summary.json")
    _, normalizer = load_world_model(layouts["shards"].world_model("wam"), "cpu")
    store = open_store(exported.store / "training.zarr")
    assert normalizer.to_dict() == store.proprio_normalizer().to_dict()
    assert summaries["shards"].keys() == summaries["windows"].keys()
    assert all(any(layout.cache.iterdir()) for layout in layouts.values())


def test_a_missing_store_is_named(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(WamError, match=r"training\.zarr: no store here"):
        train_world_model.run(profile, Layout(tmp_path), "wam")
    assert list(tmp_path.iterdir()) == []


def test_windows_longer_than_the_episodes_are_refused(profile: Profile, layout: Layout) -> None:
    settings = replace(profile.evaluate_world_model, open_loop_steps=200)
    with pytest.raises(WamError, match="longer than every episode"):
        train_world_model.run(replace(profile, evaluate_world_model=settings), layout, "wam")
    assert not layout.root.joinpath("world_model").exists()


def test_a_training_that_is_asked_to_end_saves_its_last_update_and_goes_on_from_there(
    profile: Profile, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = replace(
        profile, train_world_model=replace(profile.train_world_model, checkpoint_every=100)
    )
    whole = Layout(Path(shutil.copytree(layout.root, tmp_path / "whole")))
    train_world_model.run(profile, whole, "wam")
    seen = ask_to_end(monkeypatch, Trainer, lambda trainer, _: trainer.step)
    with pytest.raises(Interrupted):
        train_world_model.run(profile, layout, "wam")
    assert seen == [0, 1, 2]
    train_world_model.run(profile, layout, "wam")
    assert seen == [0, 1, 2, 3, 4, 5]
    assert content(layout.world_model("wam")) == content(whole.world_model("wam"))


def test_a_second_stage_that_is_asked_to_end_goes_on_from_there(
    profile: Profile, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refinement = replace(
        profile.refine_world_model, updates=5, batch=3, window=6, components=4, log_every=2
    )
    model = replace(
        profile.world_model,
        latent="probabilities",
        proprio_state=True,
        embedding_image_scale=1.0,
        seed_match_scale=1.0,
        view_reach=5,
    )
    profile = replace(profile, world_model=model, refine_world_model=refinement)
    whole = Layout(Path(shutil.copytree(layout.root, tmp_path / "whole")))
    train_world_model.run(profile, whole, "wam")
    records = Journal(whole.world_model("wam") / train_world_model.REFINEMENT_FILE).records()
    assert [record["step"] for record in records] == [2, 4, 5]
    assert "proprio_loss" in records[0]
    seen = ask_to_end(monkeypatch, Refiner, lambda _, number: number)
    with pytest.raises(Interrupted):
        train_world_model.run(profile, layout, "wam")
    train_world_model.run(profile, layout, "wam")
    assert seen == [1, 2, 3, 4, 5]
    assert content(layout.world_model("wam")) == content(whole.world_model("wam"))
    trained, normalizer = load_world_model(layout.world_model("wam"), "cpu")
    assert (trained.rssm.get_buffer("proprio.step") > 0).all()
    # Only a model that was calibrated to the store knows its units.
    span = trained.rssm.get_buffer("proprio.span")
    torch.testing.assert_close(span, torch.from_numpy(normalizer.span).float())
    assert not (span == 1).all()


def ask_to_end(
    monkeypatch: pytest.MonkeyPatch, kind: type, number: Callable[[Any, Any], int]
) -> list[int]:
    """Ask the process to end in the third ``_update`` of a ``kind``; the ``number`` of each."""
    update = kind._update  # type: ignore[attr-defined]
    seen: list[int] = []

    def counted(self: Any, argument: Any) -> None:
        seen.append(number(self, argument))
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, argument)

    monkeypatch.setattr(kind, "_update", counted)
    return seen


def kill_at_the_end(profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is killed when all its updates are made."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_world_model, "save_model", killed)
        train_world_model.run(profile, layout, "wam")


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every": 1},
        {"checkpoint_every": 1},
        {"keep_checkpoints": 1},
        {"validate_every": 1},
        {"updates": 8},
        {"minutes": 1e-9},
    ],
)
def test_what_shapes_no_weights_may_change_even_after_the_last_update(
    profile: Profile,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, float],
) -> None:
    """The kinds of settings that a user changes to go on with a training."""
    seen: list[int] = []
    update = Trainer._update

    def counted(self: Trainer, batch: Batch) -> None:
        seen.append(self.step)
        update(self, batch)

    monkeypatch.setattr(Trainer, "_update", counted)

    kill_at_the_end(profile, layout, monkeypatch)
    settings = replace(profile.train_world_model, **changes)  # type: ignore[arg-type]
    train_world_model.run(replace(profile, train_world_model=settings), layout, "wam")
    assert seen == list(range(max(6, settings.updates)))
    assert [path.name for path in (layout.root / "world_model").iterdir()] == ["wam"]
    summary = read_json(layout.world_model("wam") / "summary.json")
    assert summary["updates"] == settings.updates


def test_another_learning_rate_begins_anew_and_keeps_what_was_done(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at_the_end(profile, layout, monkeypatch)
    settings = replace(profile.train_world_model, lr=0.01)
    train_world_model.run(replace(profile, train_world_model=settings), layout, "wam")
    (aside,) = (layout.root / "world_model").glob("wam.set-aside-*")
    assert len(list((aside / ".work" / "checkpoints").iterdir())) == 2


def test_fewer_updates_than_were_made_are_refused(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at_the_end(profile, layout, monkeypatch)
    settings = replace(profile.train_world_model, updates=3)
    with pytest.raises(WamError, match="at update 6, beyond the 3 that are set"):
        train_world_model.run(replace(profile, train_world_model=settings), layout, "wam")
