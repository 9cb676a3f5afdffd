"""Where the time of a training goes: parts of an update, and waiting for batches."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from wam import device as devices
from wam.batch import Batch
from wam.training.trainer import Batches
from wam.world_model.model import WorldModel


class Clock:
    """Gives the time since the last mark to a part of the update."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._updates: list[dict[str, float]] = [{}]
        self._last = devices.now(device)

    def mark(self, part: str) -> None:
        time_s = devices.now(self._device)
        update = self._updates[-1]
        update[part] = update.get(part, 0.0) + 1000 * (time_s - self._last)
        self._last = time_s

    def start_update(self) -> None:
        self.mark("rest")
        self._updates.append({})

    def watch(self, model: WorldModel) -> list[torch.utils.hooks.RemovableHandle]:
        """Mark the parts of ``model.loss`` and of the update that uses it."""
        model.loss = self._around(model.loss, "to_device", "decoder_and_losses")  # type: ignore[method-assign]
        model.rssm.observe = self._around(model.rssm.observe, "rest", "rssm")  # type: ignore[method-assign]
        return [
            model.encoder.register_forward_pre_hook(lambda *_: self.mark("to_device")),
            model.encoder.register_forward_hook(lambda *_: self.mark("encoder")),
            register_optimizer_step_pre_hook(lambda *_: self.mark("backward")),
            register_optimizer_step_post_hook(lambda *_: self.mark("optimizer")),
        ]

    def medians(self, warm_up: int) -> dict[str, float]:
        """Milliseconds of each part; the first ``warm_up`` updates do not count."""
        measured = self._updates[1 + warm_up :]
        return {
            part: round(statistics.median(update.get(part, 0.0) for update in measured), 2)
            for part in measured[0]
        }

    def _around(self, function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def marked(*arguments: Any, **options: Any) -> Any:
            self.mark(before)
            result = function(*arguments, **options)
            self.mark(after)
            return result

        return marked


class TimedBatches:
    """``batches``, whose delivery starts an update of the ``clock``."""

    def __init__(self, batches: Batches, clock: Clock) -> None:
        self._batches, self._clock = batches, clock
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __next__(self) -> Batch:
        self._clock.start_update()
        batch = next(self._batches)
        self._clock.mark("loader")
        return batch


class WaitingTime:
    """``batches``, and how long they were waited for."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self._seconds = batches, 0.0
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self._batches)
        self._seconds += time.perf_counter() - start
        return batch

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
