"""Random numbers that belong to one task of one stage, whatever other tasks run, or to all."""

import numpy as np
import torch

from wam.config import TASKS


def task_generator(
    seed: int, task: str, device: torch.device | str = "cpu", part: int = 0
) -> torch.Generator:
    """The generator of ``task`` under a stage's ``seed``; ``part`` tells uses of one task apart."""
    return _generator([seed, TASKS.index(task), part], device)


def shared_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of what a stage makes for all its tasks together."""
    return _generator([seed, len(TASKS), 0], device)


def _generator(key: list[int], device: torch.device | str) -> torch.Generator:
    words = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
