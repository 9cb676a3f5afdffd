"""The training loop of the world model: batches, updates, records, checkpoints.

A run that is killed and started again goes on from its last checkpoint, and on a CPU ends with the
same bits as one that was never interrupted.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from wam.batch import Batch
from wam.checkpoint import load_training_state, save_training_state
from wam.config import WorldModelTraining
from wam.errors import WamError
from wam.journal import Journal
from wam.random import uniform
from wam.rssm import RssmState
from wam.world_model import WorldModel

CHECKPOINT_FILE = "training.pt"
METRICS_FILE = "metrics.jsonl"
VALIDATION_FILE = "validation.jsonl"

_MAX_SKIPPED_IN_A_ROW = 20

Record = dict[str, float]


class Batches(Protocol):
    """An endless stream of batches whose rows continue from one batch to the next."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch delivered, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position."""
        ...


class Outcome(NamedTuple):
    """What a finished training amounts to."""

    updates: int
    frames: int
    skipped_updates: int
    frames_per_s: float


class Trainer:
    """Trains ``model`` on ``batches`` and keeps its records and checkpoints in ``directory``.

    ``action_scale`` is the weight of the inverse-dynamics loss; 0 trains a plain DreamerV2 model.
    ``validate()`` returns the figures of the current model and must not use the trainer's
    randomness.
    """

    def __init__(
        self,
        model: WorldModel,
        batches: Batches,
        training: WorldModelTraining,
        *,
        action_scale: float,
        directory: Path,
        device: torch.device,
        validate: Callable[[], Record] | None = None,
    ) -> None:
        self._model = model.to(device).train()
        self._batches = batches
        self._training = training
        self._action_scale = action_scale
        self._device = device
        self._validate = validate
        self._checkpoint = directory / CHECKPOINT_FILE
        self._metrics = Journal(directory / METRICS_FILE)
        self._validation = Journal(directory / VALIDATION_FILE)
        self._optimizer = torch.optim.AdamW(
            parameter_groups(model, training.weight_decay),
            lr=training.lr,
            eps=training.adam_eps,
            fused=True,
        )
        self._noise = torch.Generator(device).manual_seed(training.seed)
        self._resets = torch.Generator().manual_seed(training.seed + 1)
        self._state = model.initial(training.batch, device)
        self._sums: dict[str, torch.Tensor] = {}
        self._summed = 0
        self._skipped = self._skipped_in_a_row = 0
        self._seconds = 0.0
        self.step = 0
        self._restore()

    def run(
        self, on_step: Callable[[int, Record | None], None] = lambda step, record: None
    ) -> Outcome:
        """Train up to the configured number of updates.

        ``on_step(step, record)`` is called after each update, with the record where one was
        written. Raises WamError if update after update is not finite.
        """
        training = self._training
        while self.step < training.updates:
            start = time.perf_counter()
            self._update(next(self._batches))
            self.step += 1
            last = self.step == training.updates
            record = self._log() if last or self.step % training.log_every == 0 else None
            self._seconds += time.perf_counter() - start
            if self._validate and (last or self.step % training.validate_every == 0):
                self._validation.append({"step": self.step, **self._validate()})
            if last or self.step % training.checkpoint_every == 0:
                self._save()
            on_step(self.step, record)
        return Outcome(self.step, self._frames, self._skipped, self._frames_per_s)

    def _update(self, batch: Batch) -> None:
        training = self._training
        batch = batch.to(self._device, non_blocking=True)
        chance = uniform(batch.is_first.shape, self._resets, self._device)
        batch = batch._replace(is_first=batch.is_first | (chance < training.reset_probability))
        with self._autocast():
            loss, metrics, state = self._model.loss(
                batch, self._state, self._noise, self._scheduled_action_scale()
            )
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), training.grad_clip)
        if not torch.isfinite(norm):
            self._skip()
            return
        self._optimizer.step()
        self._state = state
        self._skipped_in_a_row = 0
        self._summed += 1
        for name, value in {**metrics, "grad_norm": norm}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _skip(self) -> None:
        """Leave out an update whose gradient is not finite, and what its batch did to the state."""
        self._state = self._model.initial(self._training.batch, self._device)
        self._skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            raise WamError(
                f"train_world_model: gradients of {_MAX_SKIPPED_IN_A_ROW} updates in a row are not "
                f"finite (step {self.step + 1}); lower train_world_model.lr or check the data"
            )

    def _scheduled_action_scale(self) -> float:
        """The inverse-dynamics weight of this update, rising linearly during the warm-up."""
        warmup = self._training.action_warmup * self._training.updates
        return self._action_scale * min(1.0, (self.step + 1) / max(warmup, 1.0))

    def _autocast(self) -> torch.autocast:
        precision = self._training.precision
        enabled = precision == "bf16" or (precision == "auto" and self._device.type == "cuda")
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled)

    def _log(self) -> Record:
        """Write the means since the last record."""
        means = {name: float(value) / self._summed for name, value in self._sums.items()}
        record = {
            "step": self.step,
            "frames": self._frames,
            **means,
            "skipped_updates": self._skipped,
            "frames_per_s": round(self._frames_per_s, 1),
        }
        self._sums, self._summed = {}, 0
        self._metrics.append(record)
        return record

    @property
    def _frames(self) -> int:
        return self.step * self._training.batch * self._training.window

    @property
    def _frames_per_s(self) -> float:
        return self._frames / self._seconds if self._seconds else 0.0

    def _save(self) -> None:
        save_training_state(
            self._checkpoint,
            {
                "step": self.step,
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "noise": self._noise.get_state(),
                "resets": self._resets.get_state(),
                "state": self._state._asdict(),
                "sums": self._sums,
                "summed": self._summed,
                "skipped": [self._skipped, self._skipped_in_a_row],
                "seconds": self._seconds,
                "batches": self._batches.state_dict(),
            },
        )

    def _restore(self) -> None:
        """Go back to the last checkpoint and forget what was recorded after it."""
        saved = load_training_state(self._checkpoint)
        if saved is not None:
            self.step = saved["step"]
            self._model.load_state_dict(saved["model"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self._noise.set_state(saved["noise"])
            self._resets.set_state(saved["resets"])
            self._state = RssmState(**{k: v.to(self._device) for k, v in saved["state"].items()})
            self._sums = {name: value.to(self._device) for name, value in saved["sums"].items()}
            self._summed = saved["summed"]
            self._skipped, self._skipped_in_a_row = saved["skipped"]
            self._seconds = saved["seconds"]
            self._batches.load_state_dict(saved["batches"])
        self._metrics.rewind(self.step)
        self._validation.rewind(self.step)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: decay for matrices and kernels, none for biases and LayerNorm."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
