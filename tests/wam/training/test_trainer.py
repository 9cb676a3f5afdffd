from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from wam.batch import Batch
from wam.config import WorldModelConfig, WorldModelTraining
from wam.errors import WamError
from wam.images import psnr_of_mse, to_signed
from wam.training.checkpoint import Checkpoints
from wam.training.journal import Journal
from wam.training.trainer import BEST_FILE, CHECKPOINTS, METRICS_FILE, Trainer
from wam.weights import load_tensors
from wam.world_model.assessment import assess
from wam.world_model.model import WorldModel

CPU = torch.device("cpu")
SHORT = WorldModelTraining(
    batch=3,
    window=4,
    updates=8,
    lr=1e-3,
    action_warmup=4,
    reset_probability=0.1,
    precision="fp32",
    checkpoint_every=3,
    validate_every=4,
    log_every=2,
)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def trainer(tiny_config: WorldModelConfig, square_world: Callable) -> Callable[..., Trainer]:
    def make(directory: Path, training: WorldModelTraining = SHORT, **options) -> Trainer:  # type: ignore[no-untyped-def]
        model = WorldModel(tiny_config, seed=1)
        options.setdefault("batches", square_world(training.batch, training.window))
        options.setdefault("action_scale", 1000.0)
        options.setdefault("device", CPU)
        return Trainer(
            model,
            training=training,
            directory=directory,
            validate=lambda: {"weight": model.rssm.cell.weight_hh.detach().abs().sum().item()},
            **options,
        )

    return make


def final_state(directory: Path) -> dict:
    state = Checkpoints(directory / CHECKPOINTS, keep=2).latest()
    assert state is not None
    return state


def records(directory: Path) -> list[dict]:
    return Journal(directory / METRICS_FILE).records()


@pytest.mark.parametrize("killed_after", [2, 3, 5, 7])
@pytest.mark.parametrize("image_optimizer", ["adamw", "muon"])
def test_an_interrupted_run_ends_with_the_same_bits(
    trainer: Callable,
    tmp_path: Path,
    killed_after: int,
    image_optimizer: Literal["adamw", "muon"],
) -> None:
    training = replace(SHORT, image_optimizer=image_optimizer)

    def kill(step: int, record: dict | None) -> None:
        if step == killed_after:
            raise Killed

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    outcome = trainer(whole, training).run()
    with pytest.raises(Killed):
        trainer(parts, training).run(kill)
    resumed = trainer(parts, training)
    assert resumed.step == killed_after // 3 * 3
    assert resumed.run()[:3] == outcome[:3]
    expected, found = final_state(whole), final_state(parts)
    for name, value in expected["model"].items():
        assert torch.equal(value, found["model"][name]), name
    for ours, theirs in zip(expected["optimizers"], found["optimizers"], strict=True):
        for index, moments in ours["state"].items():
            for name, value in moments.items():
                assert torch.equal(value, theirs["state"][index][name])
    assert torch.equal(expected["noise"], found["noise"])
    assert expected["batches"] == found["batches"]
    assert records(whole) == records(parts)
    validations = [Journal(d / "validation.jsonl").records() for d in (whole, parts)]
    assert validations[0] == validations[1]
    assert [record["step"] for record in validations[0]] == [4, 8]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GRAPHED = replace(
    SHORT, batch=4, window=6, lr=3e-4, reset_probability=0.2, image_frames=0.5, log_every=1
)


def assert_same_figures(found: Path, expected: Path) -> None:
    """Up to the order in which a GPU adds: a wrong draw changes the first figures by percents."""
    assert [record["step"] for record in records(found)] == list(range(1, GRAPHED.updates + 1))
    for ours, theirs in zip(records(found), records(expected), strict=True):
        for name in ("loss", "kl", "image_loss", "reset_share", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=5e-3), (ours["step"], name)


@needs_gpu
@pytest.mark.parametrize("action_scale", [0.0, 1000.0])
def test_a_cuda_graph_computes_the_same_figures(
    trainer: Callable, tmp_path: Path, action_scale: float
) -> None:
    plain, graphed = tmp_path / "plain", tmp_path / "graphed"
    for directory in (plain, graphed):
        directory.mkdir()
        graphs = directory is graphed
        options = {"action_scale": action_scale, "device": torch.device("cuda"), "graphs": graphs}
        trainer(directory, GRAPHED, **options).run()
    assert_same_figures(graphed, plain)


@needs_gpu
def test_an_interrupted_run_with_a_cuda_graph_goes_on_with_the_same_draws(
    trainer: Callable, tmp_path: Path
) -> None:
    def kill(step: int, record: dict | None) -> None:
        if step == 5:
            raise Killed

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    device = torch.device("cuda")
    trainer(whole, GRAPHED, device=device).run()
    with pytest.raises(Killed):
        trainer(parts, GRAPHED, device=device).run(kill)
    trainer(parts, GRAPHED, device=device).run()
    assert_same_figures(parts, whole)
    assert torch.equal(final_state(whole)["noise"], final_state(parts)["noise"])


def test_the_learning_rate_is_constant_or_follows_a_cosine(
    trainer: Callable, tmp_path: Path
) -> None:
    def rates(name: str, training: WorldModelTraining, seconds: float = 0.0) -> list[float]:
        (tmp_path / name).mkdir()
        made = trainer(tmp_path / name, training)
        made._seconds = seconds
        found = []
        made.run(lambda step, record: found.append(made._optimizers[0].param_groups[0]["lr"]))
        return found

    assert rates("constant", SHORT) == [SHORT.lr] * 8
    decaying = replace(SHORT, lr_final=1e-4)
    expected = [1e-4 + 9e-4 * (1 + np.cos(np.pi * step / 8)) / 2 for step in range(8)]
    assert rates("cosine", decaying) == pytest.approx(expected)
    # Where the time will be over first, it is what the rate follows.
    late = rates("minutes", replace(decaying, minutes=1000.0), seconds=30_000.0)
    assert late[0] == pytest.approx(5.5e-4, rel=1e-3)


def test_a_finished_run_does_nothing_more(trainer: Callable, tmp_path: Path) -> None:
    trainer(tmp_path).run()
    before = records(tmp_path)
    again = trainer(tmp_path)
    assert again.step == SHORT.updates
    assert again.run().updates == SHORT.updates
    assert records(tmp_path) == before


def test_records_have_the_loss_terms(trainer: Callable, tmp_path: Path) -> None:
    trainer(tmp_path).run()
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert lines[-1]["frames"] == 8 * 3 * 4
    for name in ("loss", "image_loss", "kl_loss", "action_loss", "psnr_static", "grad_norm"):
        assert np.isfinite(lines[-1][name])


def test_half_precision_stays_inside_the_networks(trainer: Callable, tmp_path: Path) -> None:
    trainer(tmp_path, replace(SHORT, precision="bf16", updates=4)).run()
    saved = final_state(tmp_path)
    assert {value.dtype for value in saved["state"].values()} == {torch.float32}
    assert {value.dtype for value in saved["model"].values()} == {torch.float32}
    whole = tmp_path / "fp32"
    whole.mkdir()
    trainer(whole, replace(SHORT, precision="fp32", updates=4)).run()
    losses = [records(directory)[-1]["loss"] for directory in (tmp_path, whole)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


class Poisoned:
    """Batches of which some have no finite gradient."""

    def __init__(self, batches, bad: set[int]) -> None:  # type: ignore[no-untyped-def]
        self._batches, self._bad, self._count = batches, bad, 0

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._count += 1
        if self._count in self._bad:
            batch = batch._replace(proprio=torch.full_like(batch.proprio, torch.nan))
        return batch

    def state_dict(self) -> dict[str, int]:
        return self._batches.state_dict()


def test_updates_that_are_not_finite_are_skipped_and_counted(
    trainer: Callable, square_world: Callable, tmp_path: Path
) -> None:
    outcome = trainer(tmp_path, batches=Poisoned(square_world(3, 4), {2, 5})).run()
    assert outcome.skipped_updates == 2
    assert records(tmp_path)[-1]["skipped_updates"] == 2
    saved = final_state(tmp_path)
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert all(torch.isfinite(value).all() for value in saved["state"].values())
    assert {int(m["step"]) for m in saved["optimizers"][0]["state"].values()} == {6}


def test_a_run_that_only_fails_ends_with_an_explanation(
    trainer: Callable, square_world: Callable, tmp_path: Path
) -> None:
    training = replace(SHORT, updates=50)
    batches = Poisoned(square_world(3, 4), set(range(100)))
    with pytest.raises(WamError, match="20 updates in a row"):
        trainer(tmp_path, training, batches=batches).run()


@pytest.mark.parametrize("validate_every", [1, 100])
def test_weights_that_are_not_finite_are_neither_judged_nor_kept(
    trainer: Callable, tmp_path: Path, validate_every: int
) -> None:
    training = replace(SHORT, lr=float("inf"), validate_every=validate_every, checkpoint_every=1)
    with pytest.raises(WamError, match=r"update 1: .* is not finite any more; lower train_world_m"):
        trainer(tmp_path, training).run()
    assert Checkpoints(tmp_path / CHECKPOINTS, keep=2).latest() is None
    assert not (tmp_path / BEST_FILE).exists()


def test_the_last_checkpoints_are_kept(trainer: Callable, tmp_path: Path) -> None:
    trainer(tmp_path, replace(SHORT, keep_checkpoints=2)).run()
    names = sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())
    assert names == ["step-000000006.safetensors", "step-000000008.safetensors"]


def test_a_damaged_checkpoint_is_named_and_an_earlier_one_serves(
    trainer: Callable, tmp_path: Path
) -> None:
    trainer(tmp_path).run()
    last = tmp_path / CHECKPOINTS / "step-000000008.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(WamError, match=r"step-000000008\.safetensors: damaged checkpoint"):
        trainer(tmp_path)
    last.unlink()
    assert trainer(tmp_path).step == 6


def test_frames_or_minutes_may_end_a_run_earlier(trainer: Callable, tmp_path: Path) -> None:
    some, short = tmp_path / "some", tmp_path / "short"
    some.mkdir()
    short.mkdir()
    outcome = trainer(some, replace(SHORT, frames=3 * 4 * 4 + 1)).run()
    assert outcome.updates == 5 and records(some)[-1]["step"] == 5
    outcome = trainer(short, replace(SHORT, minutes=1e-9)).run()
    assert outcome.updates == 1
    assert trainer(short, replace(SHORT, minutes=1e-9)).run().updates == 1


def test_the_best_weights_are_those_of_the_best_validation(
    tiny_config: WorldModelConfig, square_world: Callable, tmp_path: Path
) -> None:
    scores = iter([1.0, 5.0, 3.0, 2.0])
    model = WorldModel(tiny_config, seed=1)
    seen = []

    def validate() -> dict[str, float]:
        seen.append(model.rssm.cell.weight_hh.detach().clone())
        return {"open_loop_psnr": next(scores)}

    trainer = Trainer(
        model,
        square_world(3, 4),
        replace(SHORT, validate_every=2),
        action_scale=0.0,
        directory=tmp_path,
        device=CPU,
        validate=validate,
    )
    trainer.run()
    assert trainer.use_best() == 4
    assert torch.equal(model.rssm.cell.weight_hh, seen[1])
    best = load_tensors(tmp_path, name=BEST_FILE)
    assert torch.equal(best["rssm.cell.weight_hh"], seen[1])


def test_compatibility_changes_what_a_reset_does(trainer: Callable, tmp_path: Path) -> None:
    losses = []
    for compat in ("none", "diwa"):
        directory = tmp_path / compat
        directory.mkdir()
        trainer(directory, replace(SHORT, compat=compat, reset_probability=0.5, updates=2)).run()
        losses.append(records(directory)[-1]["kl_loss"])
    assert losses[0] != losses[1]


def test_the_world_model_learns(
    tiny_config: WorldModelConfig, square_world: Callable, tmp_path: Path
) -> None:
    """After 200 updates: posterior 2 dB over the mean image, actions better than their mean."""
    training = replace(
        SHORT, batch=8, window=6, updates=200, lr=3e-3, action_warmup=10, reset_probability=0.01
    )
    config = replace(tiny_config, cnn_depth=8, deter=64, stoch=8, classes=8, visual_embedding=64)
    model = WorldModel(replace(config, decoder_channels=64, hidden=64))
    world = square_world(8, 6)
    Trainer(model, world, training, action_scale=1000.0, directory=tmp_path, device=CPU).run()
    held_out = next(square_world(16, 8, seed=1))
    figures = assess(model, held_out, 0, CPU)
    image = to_signed(held_out.rgb_static)
    mean_image = image.mean((0, 1))
    baseline = psnr_of_mse(((image - mean_image) / 2).square().mean((-3, -2, -1))).mean()
    assert figures["posterior_psnr_static"] > float(baseline) + 2
    action = held_out.action[:-1]
    predict_mean = (action - action.mean((0, 1))).abs().mean()
    assert figures["id_mae"] < 0.8 * float(predict_mean)
