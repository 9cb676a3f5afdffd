"""A training whose updates are launched as a CUDA graph is the training without one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wam.checkpoint import Checkpoints
from wam.config import WorldModelConfig, WorldModelTraining
from wam.journal import Journal
from wam.train import CHECKPOINTS, METRICS_FILE, Trainer
from wam.world_model import WorldModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TRAINING = WorldModelTraining(
    batch=4,
    window=6,
    updates=8,
    reset_probability=0.2,
    action_warmup=0.5,
    image_frames=0.5,
    checkpoint_every=3,
    log_every=1,
    precision="fp32",
)


@pytest.fixture
def train(tiny_config: WorldModelConfig, square_world: Callable) -> Callable[..., list[dict]]:
    def run(
        directory: Path,
        *,
        graphs: bool,
        action_scale: float = 1000.0,
        stop_after: int | None = None,
    ) -> list[dict]:
        directory.mkdir(exist_ok=True)
        trainer = Trainer(
            WorldModel(tiny_config, seed=1),
            square_world(TRAINING.batch, TRAINING.window),
            TRAINING,
            action_scale=action_scale,
            directory=directory,
            device=torch.device("cuda"),
            graphs=graphs,
        )

        def on_step(step: int, record: object) -> None:
            if step == stop_after:
                raise KeyboardInterrupt

        if stop_after is None:
            trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run(on_step)
        return Journal(directory / METRICS_FILE).records()

    return run


@pytest.mark.parametrize("action_scale", [0.0, 1000.0])
def test_same_figures_update_by_update(
    train: Callable, tmp_path: Path, action_scale: float
) -> None:
    plain = train(tmp_path / "plain", graphs=False, action_scale=action_scale)
    graphed = train(tmp_path / "graphed", graphs=True, action_scale=action_scale)
    assert_same(graphed, plain)


def test_an_interrupted_run_goes_on_with_the_same_draws(train: Callable, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", graphs=True)
    train(tmp_path / "parts", graphs=True, stop_after=5)
    parts = train(tmp_path / "parts", graphs=True)
    assert_same(parts, whole)
    noise = [
        Checkpoints(tmp_path / name / CHECKPOINTS, keep=2).latest()["noise"]  # type: ignore[index]
        for name in ("whole", "parts")
    ]
    assert torch.equal(*noise)


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """Up to the order in which a GPU adds: a wrong draw changes the first figures by percents."""
    assert [record["step"] for record in found] == list(range(1, TRAINING.updates + 1))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("loss", "kl", "image_loss", "reset_share", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=5e-3), (ours["step"], name)
