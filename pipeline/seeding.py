"""Random numbers that belong to one task of one stage, whatever other tasks run."""

import numpy as np
import torch

from wam.config import TASKS


def task_generator(
    seed: int, task: str, device: torch.device | str = "cpu", part: int = 0
) -> torch.Generator:
    """The generator of ``task`` under a stage's ``seed``; ``part`` tells uses of one task apart."""
    words = np.random.SeedSequence([seed, TASKS.index(task), part]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
