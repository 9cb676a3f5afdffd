"""Random draws from explicit generators: one for a whole batch, or one per row.

With one generator per row an episode's noise belongs to the episode: the same start with the same
seed sees the same draws whatever else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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
