"""Which windows of play show the same moments: what is held out must share none with the rest."""

import torch


def stretches(start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
    """Number (int64 [W]) of the stretch of play that each window [start, stop) lies in.

    Windows (int64 [W], rows) that share frames, themselves or through others between them, lie in
    one stretch. Stretches are numbered from 0 in the order of their rows.
    """
    order = start.argsort(stable=True)
    furthest = stop[order].cummax(0).values
    begins = torch.ones(len(start), dtype=torch.int64)
    begins[1:] = start[order][1:] >= furthest[:-1]
    return torch.empty_like(begins).index_copy(0, order, begins.cumsum(0) - 1)
