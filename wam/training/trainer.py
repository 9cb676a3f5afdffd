"""The training loop of the world model: batches, updates, records, checkpoints.

A run that is killed and started again goes on from its last checkpoint, and on a CPU ends with the
same bits as one that was never interrupted. Ctrl-C and SIGTERM leave a checkpoint first.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wam.batch import Batch
from wam.config import WorldModelTraining
from wam.distributed import ALONE, Ranks, all_rows, mean_over_ranks
from wam.errors import WamError
from wam.randomness import Generators, RankGenerator, uniform
from wam.reliability.finite import check_weights
from wam.reliability.interruption import deferred
from wam.training.checkpoint import Checkpoints
from wam.training.cuda_graph import GraphedPasses
from wam.training.journal import Journal
from wam.training.optimizers import optimizers
from wam.training.precision import Precision, choose
from wam.training.schedule import cosine
from wam.weights import load_tensors, save_tensors
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState

CHECKPOINTS = "checkpoints"
BEST_FILE = "best.safetensors"
METRICS_FILE = "metrics.jsonl"
VALIDATION_FILE = "validation.jsonl"
BEST_BY = "open_loop_psnr"
"""The validation figure by which the best weights are chosen."""

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


class TrainingOutcome(NamedTuple):
    """What a finished training amounts to."""

    updates: int
    frames: int
    skipped_updates: int


class Trainer:
    """Trains ``model`` on ``batches`` and keeps its records in ``directory``, as well as its
    checkpoints, unless ``checkpoints`` names another place for these.

    ``action_scale`` is the weight of the inverse-dynamics loss; 0 trains a plain DreamerV2 model.
    ``validate()`` returns the figures of the current model and must not use the trainer's
    randomness. Each of several ``ranks`` is given its own rows of every batch; together they do
    what a single process does with all rows, and the first one writes the files. A single process
    on a GPU launches its updates as a CUDA graph, unless ``graphs`` is False.

    Raises WamError if the last checkpoint is damaged, or of a later update than the run has.
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
        checkpoints: Path | None = None,
        validate: Callable[[], Record] | None = None,
        ranks: Ranks = ALONE,
        graphs: bool = True,
    ) -> None:
        self._model = model.to(device).train()
        # Nothing trains the head without its loss.
        model.inverse_dynamics.requires_grad_(bool(action_scale))
        self._objective: nn.Module = _Objective(model)
        if ranks.world_size > 1:
            self._objective = DistributedDataParallel(self._objective)
        self._batches = batches
        self._training = training
        self._action_scale = action_scale
        self._device = device
        self._validate = validate
        self._ranks = ranks
        self._graphs = graphs and device.type == "cuda" and ranks.world_size == 1
        self._graphed: GraphedPasses | None = None
        self._rows = training.batch // ranks.world_size
        self._directory = directory
        self._checkpoints = Checkpoints(
            checkpoints or directory / CHECKPOINTS, training.keep_checkpoints
        )
        self._metrics = Journal(directory / METRICS_FILE)
        self._validation = Journal(directory / VALIDATION_FILE)
        self._optimizers = optimizers(self._model, training)
        self._noise = torch.Generator(device).manual_seed(training.seed)
        self._resets = torch.Generator().manual_seed(training.seed + 1)
        self._state = model.initial(self._rows, device)
        self._sums: dict[str, torch.Tensor] = {}
        self._summed = 0
        self._skipped = self._skipped_in_a_row = 0
        self._seconds = 0.0
        self._best: Record = {}
        self.step = 0
        self.updates = training.updates
        """Updates of the whole run, unless ``minutes`` end it before."""
        if training.frames is not None:
            self.updates = min(self.updates, -(-training.frames // self._frames_per_update))
        self.precision = choose(training.precision, device)
        """What the networks compute in."""
        self._restore()

    def run(
        self, on_step: Callable[[int, Record | None], None] = lambda step, record: None
    ) -> TrainingOutcome:
        """Train up to the configured number of updates or frames, or out of time.

        ``on_step(step, record)`` is called after each update, with the record where one was
        written. Raises WamError if update after update is not finite, or the weights are not, and
        Interrupted, after a checkpoint, if the process is asked to end.
        """
        training = self._training
        with deferred() as asked:
            if self.step and self.step % training.validate_every == 0:
                self._judge_if_missing()  # the run was asked to end before it could be done
            while not self._finished:
                start = time.perf_counter()
                self._update(next(self._batches))
                self.step += 1
                self._seconds = self._agreed(self._seconds + time.perf_counter() - start)
                last = self._finished
                stop = self._any(asked()) and not last
                record = self._log() if last or self.step % training.log_every == 0 else None
                if self._validate and not stop:
                    if last or self.step % training.validate_every == 0:
                        self._check_weights()
                        self._judge(self._validate())
                if stop or last or self.step % training.checkpoint_every == 0:
                    self._save()
                on_step(self.step, record)
                if stop:
                    break
            else:
                # A run that was to be longer has no figures of its end.
                self._judge_if_missing()
        return TrainingOutcome(self.step, self._frames, self._skipped)

    def use_best(self) -> int:
        """Give the model the weights of its best validation; the update that they are from."""
        tensors = load_tensors(self._directory, self._device, BEST_FILE)
        self._model.load_state_dict(tensors)
        return int(self._best["step"])

    @property
    def _finished(self) -> bool:
        minutes = self._training.minutes
        out_of_time = minutes is not None and self._seconds >= 60 * minutes
        return self.step >= self.updates or (self.step > 0 and out_of_time)

    def _agreed(self, seconds: float) -> float:
        """The same time for all ranks where it decides when to stop: none may go on alone."""
        if self._training.minutes is None:
            return seconds
        return float(mean_over_ranks(torch.tensor(seconds, device=self._device)))

    def _any(self, asked: bool) -> bool:
        """Whether any rank was asked to end: then all of them do."""
        if self._ranks.world_size == 1:
            return asked
        return float(mean_over_ranks(torch.tensor(float(asked), device=self._device))) > 0

    def _update(self, batch: Batch) -> None:
        training = self._training
        batch = self._with_resets(batch.to(self._device, non_blocking=True))
        action_scale = self._scheduled_action_scale()
        if self._graphs and self._graphed is None:
            self._graphed = GraphedPasses(
                self._passes, batch, self._state, action_scale, self._noise
            )
        passes = self._graphed or self._passes
        metrics, state = passes(batch, self._state, action_scale)
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), training.grad_clip)
        if not torch.isfinite(norm):
            self._skip()
            return
        lr = self._scheduled_lr()
        with self.precision.autocast(self._device):
            for optimizer in self._optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["relative_lr"] * lr
                optimizer.step()
        self._state = state
        self._skipped_in_a_row = 0
        self._summed += 1
        metrics |= {"grad_norm": norm, "clipped": (norm > training.grad_clip).float()}
        metrics["reset_share"] = batch.is_first.float().mean()
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _passes(
        self, batch: Batch, state: RssmState, action_scale: float | torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], RssmState]:
        """Leave the gradients of a batch; its metrics and the state after it."""
        training = self._training
        self._model.zero_grad()
        with self.precision.autocast(self._device):
            loss, metrics, last = self._objective(
                batch,
                state,
                self._share(self._noise),
                action_scale,
                training.compat != "diwa",
                training.image_frames,
            )
        loss.backward()
        return metrics, last

    def _with_resets(self, batch: Batch) -> Batch:
        """The batch with pseudo-resets, each frame's with the same chance."""
        steps, rows = batch.is_first.shape
        chance = uniform((rows, steps), self._share(self._resets), self._device).t()
        return batch._replace(is_first=batch.is_first | (chance < self._training.reset_probability))

    def _share(self, generator: torch.Generator) -> Generators:
        """What this process takes of the draws of ``generator``."""
        if self._ranks.world_size == 1:
            return generator
        return RankGenerator(generator, *self._ranks)

    def _skip(self) -> None:
        """Leave out an update whose gradient is not finite, and what its batch did to the state."""
        self._state = self._model.initial(self._rows, self._device)
        self._skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            raise WamError(
                f"train_world_model: gradients of {_MAX_SKIPPED_IN_A_ROW} updates in a row are not "
                f"finite (step {self.step + 1}); lower train_world_model.lr or check the data"
            )

    def _check_weights(self) -> None:
        """An update may be too large although its gradient is finite."""
        advice = "lower train_world_model.lr or train_world_model.muon_lr"
        check_weights(self._model, f"train_world_model, update {self.step}", advice)

    def _scheduled_lr(self) -> float:
        """The learning rate of this update."""
        training = self._training
        if training.lr_final is None:
            return training.lr
        done = self.step / self.updates
        if training.minutes is not None:
            done = max(done, min(1.0, self._seconds / (60 * training.minutes)))
        return cosine(training.lr, training.lr_final, done)

    def _scheduled_action_scale(self) -> float:
        """The inverse-dynamics weight of this update, rising linearly during the warm-up."""
        warmup = max(self._training.action_warmup, 1)
        return self._action_scale * min(1.0, (self.step + 1) / warmup)

    def _log(self) -> Record:
        """Write the means since the last record."""
        means = {
            name: float(mean_over_ranks(value)) / self._summed for name, value in self._sums.items()
        }
        record = {
            "step": self.step,
            "frames": self._frames,
            **means,
            "skipped_updates": self._skipped,
        }
        self._sums, self._summed = {}, 0
        if self._writes:
            self._metrics.append(record)
        return record

    def _judge_if_missing(self) -> None:
        judged = [record["step"] for record in self._validation.records()]
        if self._validate and self._writes and self.step not in judged:
            self._judge(self._validate())

    def _judge(self, figures: Record) -> None:
        """Note the figures of a validation, and keep the weights if they are the best so far."""
        if not self._writes:
            return
        self._validation.append({"step": self.step, **figures})
        if BEST_BY in figures and figures[BEST_BY] > self._best.get(BEST_BY, float("-inf")):
            self._best = {"step": self.step, BEST_BY: figures[BEST_BY]}
            save_tensors(self._directory / BEST_FILE, self._model.state_dict())

    @property
    def _writes(self) -> bool:
        return self._ranks.rank == 0

    @property
    def _frames_per_update(self) -> int:
        return self._training.batch * self._training.window

    @property
    def _frames(self) -> int:
        return self.step * self._frames_per_update

    @property
    def seconds(self) -> float:
        """Spent in updates, those of earlier processes of the run too."""
        return self._seconds

    @property
    def frames_per_s(self) -> float:
        """Of all updates so far."""
        return self._frames / self._seconds if self._seconds else 0.0

    def _save(self) -> None:
        self._check_weights()
        state = {name: all_rows(value) for name, value in self._state._asdict().items()}
        if not self._writes:
            return
        self._checkpoints.save(
            self.step,
            {
                "step": self.step,
                "model": self._model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
                "noise": self._noise.get_state(),
                "resets": self._resets.get_state(),
                "state": state,
                "sums": self._sums,
                "summed": self._summed,
                "skipped": [self._skipped, self._skipped_in_a_row],
                "seconds": self._seconds,
                "batches": self._batches.state_dict(),
                "precision": self.precision.name,
                "best": self._best,
                "records": [self._metrics.records(), self._validation.records()],
            },
        )

    def _restore(self) -> None:
        """Go back to the last checkpoint, and with it the records."""
        saved = self._checkpoints.latest()
        metrics, validation = ([], []) if saved is None else saved["records"]
        if saved is not None:
            own = slice(self._ranks.rank * self._rows, (self._ranks.rank + 1) * self._rows)
            self.step = saved["step"]
            if self.step > self.updates:
                raise WamError(
                    f"train_world_model.updates: the begun training is at update {self.step}, "
                    f"beyond the {self.updates} that are set; set at least as many, or move "
                    f"{self._directory} away to begin anew"
                )
            self._model.load_state_dict(saved["model"])
            for optimizer, state in zip(self._optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self._noise.set_state(saved["noise"])
            self._resets.set_state(saved["resets"])
            self._state = RssmState(
                **{name: value[own].to(self._device) for name, value in saved["state"].items()}
            )
            self._sums = {name: value.to(self._device) for name, value in saved["sums"].items()}
            self._summed = saved["summed"]
            self._skipped, self._skipped_in_a_row = saved["skipped"]
            self._seconds = saved["seconds"]
            self._batches.load_state_dict(saved["batches"])
            self.precision = Precision(saved["precision"])
            self._best = saved["best"]
        if self._writes:
            self._metrics.restore(metrics)
            self._validation.restore(validation)


class _Objective(nn.Module):
    """The model with its loss as ``forward``, which is what distributed training wraps."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> Any:
        return self.model.loss(*arguments)
