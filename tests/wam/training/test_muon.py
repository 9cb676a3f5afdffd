"""Muon against the singular value decomposition and against PyTorch's own."""

import pytest
import torch
from torch import nn

from wam.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalising_keeps_the_directions_and_evens_out_their_sizes(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.T @ orthogonalized(matrix) @ right.T
    sizes = core.diagonal()
    assert sizes.min() > 0.5 and sizes.max() < 1.3
    assert (core - torch.diag(sizes)).abs().max() < 1e-4


def test_bfloat16_is_enough() -> None:
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    exact = orthogonalized(matrix)
    with torch.autocast("cpu", torch.bfloat16):
        rough = orthogonalized(matrix)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.03 * exact.norm()


def descend(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        noise = torch.randn(parameter.flatten(1).shape, generator=generator)
        parameter.grad = parameter.detach() + noise.view_as(parameter)
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9 has no Muon")
@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_matrices_move_as_with_pytorchs_own(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    descend(ours, Muon([ours], lr=0.02, weight_decay=0.1))
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    descend(theirs, reference)
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # it computes in bfloat16


@pytest.mark.parametrize("channels", [(3, 5), (5, 3)])
def test_a_kernel_moves_as_the_matrix_of_its_fewer_channels(channels: tuple[int, int]) -> None:
    start = torch.randn(*channels, 4, 4, generator=torch.Generator().manual_seed(0))
    axes = (0, 0) if channels[0] < channels[1] else (0, 1)
    kernel = nn.Parameter(start.clone(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.transpose(*axes).flatten(1).clone())
    kernel_muon, matrix_muon = (Muon([p], lr=0.02, weight_decay=0.1) for p in (kernel, matrix))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradient = torch.randn(start.shape, generator=generator)
        kernel.grad, matrix.grad = gradient, gradient.transpose(*axes).flatten(1)
        kernel_muon.step()
        matrix_muon.step()
    assert torch.allclose(kernel.transpose(*axes).flatten(1), matrix, atol=1e-6)
    assert not torch.allclose(kernel, start, atol=1e-3)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="not for vectors"):
        Muon([nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.0)
