"""Random draws from explicit generators: one for a whole batch, one per row, or one per task.

With one generator per row an episode's noise belongs to the episode: the same start with the same
seed sees the same draws whatever else is in the batch. So with tasks, whichever are trained.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wam.config import TASKS


@dataclass(frozen=True)
class RankGenerator:
    """The part of one of ``world_size`` processes in the draws of a single one.

    All draw for the rows of all and keep their own, so that the rows see the same noise however
    many processes share them.
    """

    generator: torch.Generator
    rank: int
    world_size: int


Generators = torch.Generator | Sequence[torch.Generator] | RankGenerator
"""A generator for the whole draw, one per row of its first axis, or a share of the rows."""


def uniform(
    shape: Sequence[int], generator: Generators, device: torch.device | str
) -> torch.Tensor:
    """float32 draws from [0, 1) of ``shape``, made by ``generator`` and moved to ``device``.

    Raises ValueError if a sequence of generators does not match ``shape[0]``.
    """
    return _draw(torch.rand, shape, generator, device)


def normal(shape: Sequence[int], generator: Generators, device: torch.device | str) -> torch.Tensor:
    """float32 draws from N(0, 1) of ``shape``; otherwise as :func:`uniform`."""
    return _draw(torch.randn, shape, generator, device)


def row_generators(
    seeds: Sequence[int], device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator per row, seeded with the given numbers."""
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


def task_generator(
    seed: int, task: str, device: torch.device | str = "cpu", part: int = 0
) -> torch.Generator:
    """The generator of ``task`` under a stage's ``seed``; ``part`` tells uses of one task apart."""
    return _generator([seed, TASKS.index(task), part], device)


def shared_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of what a stage makes for all its tasks together."""
    return _generator([seed, len(TASKS), 0], device)


@contextlib.contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Modules built inside have weights that depend on ``generator`` alone.

    torch's initialisers draw from the global generator, which is put back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def _generator(key: list[int], device: torch.device | str) -> torch.Generator:
    words = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def _draw(draw, shape, generator, device) -> torch.Tensor:  # type: ignore[no-untyped-def]
    if isinstance(generator, RankGenerator):
        rows, *rest = shape
        all_rows = _draw(draw, (rows * generator.world_size, *rest), generator.generator, device)
        return all_rows[generator.rank * rows : (generator.rank + 1) * rows]
    if isinstance(generator, torch.Generator):
        noise = draw(tuple(shape), generator=generator, device=generator.device)
        return noise.to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a draw of {shape[0]} rows")
    rows = [draw(tuple(shape[1:]), generator=row, device=row.device) for row in generator]
    return torch.stack(rows).to(device)
