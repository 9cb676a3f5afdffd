"""Muon: momentum steps whose matrices are orthogonalised (K. Jordan et al., 2024).

Adam divides every weight's step by its own gradients' size. Muon replaces the momentum of a whole
matrix by the nearest matrix with orthogonal rows or columns, so that directions in which gradients
are small and consistent (a block on the table) move as far as those of large gradients (the arm).
Steps are scaled to the size of Adam's (arXiv:2502.16982, section 2.2), so that learning rates and
weight decay mean the same.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic Newton-Schulz iteration: steep at 0, singular values end between 0.7 and 1.2."""
_ITERATIONS = 5
_ADAM_RMS = 0.2
"""Root mean square of Adam's steps, in units of the learning rate."""
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for ``params`` of two and more dimensions.

    The rows of a kernel's matrix are the fewer of its input and output channels, its columns are
    all else: orthogonalising is cubic in the rows. Raises ValueError for a vector.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if any(p.ndim < 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon is for matrices and kernels, not for vectors")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            momentum, lr = group["momentum"], group["lr"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                average = state["momentum"].lerp_(gradient, 1 - momentum)
                kernel = _fewer_first(gradient.lerp(average, momentum))
                matrix = kernel.flatten(1)
                scale = _ADAM_RMS * max(matrix.shape) ** 0.5
                direction = orthogonalized(matrix).view_as(kernel)
                parameter.mul_(1 - lr * group["weight_decay"])
                _fewer_first(parameter).add_(direction, alpha=-lr * scale)


def _fewer_first(kernel: torch.Tensor) -> torch.Tensor:
    """A view of a kernel whose first axis is the shorter of the first two; a matrix as it is."""
    swap = kernel.ndim > 2 and kernel.shape[0] > kernel.shape[1]
    return kernel.transpose(0, 1) if swap else kernel


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest matrix to ``matrix`` [R, C] whose shorter side is orthonormal, in float32.

    Its products are computed in the precision of autocast: bfloat16 is enough.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + _EPS)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide is matrix else x.T).float()
