"""Training that has lost itself in NaN or infinity ends in a sentence, and leaves no weights."""

from collections.abc import Mapping

import torch
from torch import nn

from wam.errors import WamError


def non_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first of ``tensors`` that holds NaN or infinity; None if there is none.

    It waits for the device once, however many there are.
    """
    floating = {name: value for name, value in tensors.items() if value.is_floating_point()}
    if not floating:
        return None
    finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    return next((name for name, good in zip(floating, finite, strict=True) if not good), None)


def check_weights(module: nn.Module, when: str, advice: str) -> None:
    """Raises WamError, which says ``when`` and gives ``advice``, if a weight is NaN or infinite.

    So are all weights for good after an update with a loss that was: an optimiser takes it in.
    """
    if name := non_finite(module.state_dict()):
        raise WamError(f"{when}: {name} is not finite any more; {advice}")
