"""A small training in a process of its own.

``python -m tests.wam.training.training_process DIRECTORY UPDATES``

Started by torchrun, several of them share the rows of its batches.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from tests.wam.conftest import TINY, SquareWorld
from wam import distributed
from wam.batch import Batch
from wam.config import WorldModelTraining
from wam.distributed import Ranks
from wam.training.trainer import Trainer
from wam.world_model.model import WorldModel

BATCH, WINDOW = 4, 5


class Share:
    """One rank's rows of a world's batches."""

    def __init__(self, batches: SquareWorld, ranks: Ranks) -> None:
        self._batches = batches
        rows = BATCH // ranks.world_size
        self._own = slice(ranks.rank * rows, (ranks.rank + 1) * rows)

    def __next__(self) -> Batch:
        batch = next(self._batches)
        id_mask = batch.id_mask.clone()
        id_mask[1:, 0] = False  # ranks have different numbers of pairs
        return Batch(*(field[:, self._own] for field in batch._replace(id_mask=id_mask)))

    def state_dict(self) -> dict[str, Any]:
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches.load_state_dict(state)


def train(directory: Path, updates: int) -> None:
    training = WorldModelTraining(
        precision="fp32",
        batch=BATCH,
        window=WINDOW,
        updates=updates,
        lr=1e-3,
        reset_probability=0.1,
        checkpoint_every=3,
        validate_every=5,
        log_every=1,
    )
    with distributed.joined() as ranks:
        model = WorldModel(TINY, seed=1)
        Trainer(
            model,
            Share(SquareWorld(BATCH, WINDOW), ranks),
            training,
            action_scale=1000.0,
            directory=directory,
            device=torch.device("cpu"),
            validate=lambda: {"open_loop_psnr": float(model.rssm.cell.bias_hh.detach().sum())},
            ranks=ranks,
        ).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), int(sys.argv[2]))
