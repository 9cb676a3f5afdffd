"""The world model's loss and training compute what they did when ``golden.json`` was written.

After a change that is meant to alter them, ``python -m tests.wam.world_model.test_golden`` writes
it anew.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.wam import golden
from tests.wam.conftest import TINY, SquareWorld
from wam.config import WorldModelConfig, WorldModelTraining
from wam.training.journal import Journal
from wam.training.trainer import METRICS_FILE, Trainer
from wam.world_model.model import WorldModel

GOLDEN = Path(__file__).with_name("golden.json")
ROWS, WINDOW = 3, 5
TRAINING = WorldModelTraining(
    batch=ROWS,
    window=WINDOW,
    updates=3,
    lr=1e-3,
    action_warmup=2,
    reset_probability=0.1,
    precision="fp32",
    log_every=1,
)
MUON = replace(TRAINING, image_optimizer="muon", image_frames=0.5, lr_final=1e-4)
MORE_TERMS = replace(TINY, embedding_image_scale=0.5, seed_match_scale=0.1, id_steps=2)
OPTIONS: dict[str, tuple[WorldModelConfig, WorldModelTraining, float]] = {
    "wam": (TINY, TRAINING, 1000.0),
    "dreamerv2": (TINY, replace(TRAINING, compat="diwa"), 0.0),
    "more_terms": (MORE_TERMS, MUON, 1000.0),
    "visual": (replace(TINY, id_input="visual", gru="layernorm", unimix=0.01), TRAINING, 10.0),
    "dropout": (replace(TINY, id_input="proprio-dropout", free_nats=9.0), TRAINING, 10.0),
}


def figures(option: str) -> dict[str, float]:
    """Metrics of a loss and its gradients, records of some updates, and the trained weights."""
    config, training, action_scale = OPTIONS[option]
    model = WorldModel(config, seed=1)
    loss, metrics, last = model.loss(
        next(SquareWorld(ROWS, WINDOW)),
        model.initial(ROWS, "cpu"),
        torch.Generator().manual_seed(2),
        action_scale,
        image_frames=training.image_frames,
    )
    loss.backward()
    found = {f"loss.{name}": float(value) for name, value in metrics.items()}
    found["loss.last"] = golden.square_norm(last)
    for part, module in model.named_children():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        found[f"loss.gradient.{part}"] = golden.square_norm(gradients)
    for record in records(model, training, action_scale):
        found |= {f"update {record['step']}.{name}": value for name, value in record.items()}
    for part, module in model.named_children():
        found[f"weights.{part}"] = golden.square_norm(module.parameters())
    return found


def records(
    model: WorldModel, training: WorldModelTraining, action_scale: float
) -> list[dict[str, float]]:
    """Those of a training."""
    batches, cpu = SquareWorld(ROWS, WINDOW, seed=1), torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        Trainer(
            model, batches, training, action_scale=action_scale, directory=directory, device=cpu
        ).run()
        lines = Journal(directory / METRICS_FILE).records()
    return lines


@pytest.mark.parametrize("option", OPTIONS)
def test_loss_and_updates_compute_what_they_did(option: str) -> None:
    golden.check(GOLDEN, option, figures(option))


if __name__ == "__main__":
    golden.write(GOLDEN, OPTIONS, figures)
