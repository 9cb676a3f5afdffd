"""An update's forward and backward pass as one CUDA graph.

The RSSM's loop over time launches thousands of small kernels, which takes a CPU longer than a GPU
computes. A graph is recorded once and then launched whole (docs/performance.md).
"""

from collections.abc import Callable

import torch

from wam.batch import Batch
from wam.world_model.rssm import RssmState

_WARM_UP_PASSES = 3

Passes = Callable[
    [Batch, RssmState, float | torch.Tensor], tuple[dict[str, torch.Tensor], RssmState]
]
"""Computes gradients of a batch that continues from a state, given the action scale.

Returns metrics and the state after the batch; must not wait for the device.
"""


class GraphedPasses:
    """``passes`` as recorded with ``batch``; all later batches have its shape.

    The draws from ``noise`` are those that ``passes`` itself would make. The gradients and the
    state that a call returns lie where the next call writes.
    """

    def __init__(
        self,
        passes: Passes,
        batch: Batch,
        state: RssmState,
        action_scale: float,
        noise: torch.Generator,
    ) -> None:
        device = batch.is_first.device
        self._batch = Batch(*(field.clone() for field in batch))
        self._state = RssmState(*(part.clone() for part in state))
        # A weight of 0 leaves its term out: such a pass has no place for another weight.
        self._action_scale: float | torch.Tensor = action_scale and torch.tensor(
            action_scale, device=device
        )
        inputs = self._batch, self._state, self._action_scale
        drawn = noise.get_state()
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_PASSES):
                passes(*inputs)
        current.wait_stream(side)
        noise.set_state(drawn)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(noise)
        # Other threads go on copying batches to the device.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._metrics, self._last = passes(*inputs)

    def __call__(
        self, batch: Batch, state: RssmState, action_scale: float
    ) -> tuple[dict[str, torch.Tensor], RssmState]:
        for own, given in zip((*self._batch, *self._state), (*batch, *state), strict=True):
            own.copy_(given)
        if isinstance(self._action_scale, torch.Tensor):
            self._action_scale.fill_(action_scale)
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}, self._last
