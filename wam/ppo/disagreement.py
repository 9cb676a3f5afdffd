"""Where imagination leaves the data: heads that agree on it and disagree elsewhere.

An ensemble of small networks predicts the classes of the next latent state from feature and action
(Plan2Explore, arXiv:2005.05960). In the place of a reward for novelty, its disagreement becomes a
penalty for it, as in MOPO (arXiv:2005.13239); docs/algorithm.md 9.1.
Shapes: H heads, B batch, M transitions, S draws, N frames of all demonstrations in a row,
D demonstrations, F feature, V categoricals, C classes.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from wam.config import ACTION_SIZE
from wam.errors import WamError
from wam.randomness import seeded
from wam.reliability.finite import check_weights
from wam.weights import load_module

HIDDEN = 256
"""Width of the two hidden layers of a head."""
EPOCHS = 10
BATCH = 256
LR = 1e-3
WEIGHT_DECAY = 1e-4
MAX_EXCESS = 10.0
"""Largest excess disagreement: a penalty stays finite, however far the state is from the data."""

_MIN_SCALE = 1e-12
"""Heads that agree altogether on the data."""
_ROWS = 4096
"""Transitions judged at once."""


class Transitions(NamedTuple):
    """Pairs of successive frames of demonstrations."""

    feature: torch.Tensor
    """float16 [M, F], the precision in which features are stored"""
    action: torch.Tensor
    """float32 [M, 7], executed in that state"""
    following: torch.Tensor
    """uint8 [M, V], classes of the state reached"""


class DisagreementEnsemble(nn.Module):
    """Predictions of the next latent state's classes, and how much they differ."""

    scale: torch.Tensor

    def __init__(self, feature: int, stoch: int, classes: int, heads: int) -> None:
        """``heads`` networks for features of size ``feature`` with V = ``stoch`` categoricals.

        Raises WamError for fewer than two heads, which cannot disagree.
        """
        super().__init__()
        if heads < 2:
            raise WamError(f"finetune.disagreement_heads={heads}: needs at least 2 to disagree")
        self.sizes = (feature, stoch, classes, heads)
        widths = (feature + ACTION_SIZE, HIDDEN, HIDDEN, stoch * classes)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(widths):
            bound = inputs**-0.5
            for values, rows in ((self.weights, inputs), (self.biases, 1)):
                values.append(torch.empty(heads, rows, outputs).uniform_(-bound, bound))
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, feature: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Logits [H, B, V, C] for ``feature`` [H, B, F] and ``action`` [H, B, 7], each head's own.

        H may be 1 in the arguments: then all heads see the same.
        """
        _, stoch, classes, heads = self.sizes
        hidden = torch.cat([feature, action], dim=-1).expand(heads, -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, functional.elu(hidden) if layer else hidden, weight)
        return hidden.unflatten(-1, (stoch, classes))

    @torch.no_grad()
    def disagreement(self, feature: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """float32 [...] for ``feature`` [..., F] and ``action`` [..., 7]; 1 is as on the data.

        The variance of a probability over the heads, summed over classes, averaged over the
        categoricals, and divided by its mean on the data of the training.
        """
        pairs = (feature.flatten(0, -2).split(_ROWS), action.flatten(0, -2).split(_ROWS))
        variances = []
        for some, theirs in zip(*pairs, strict=True):
            probabilities = self(some.float().unsqueeze(0), theirs.unsqueeze(0)).softmax(-1)
            variances.append(probabilities.var(0, correction=0).sum(-1).mean(-1))
        return (torch.cat(variances) / self.scale).unflatten(0, feature.shape[:-1])

    def excess(self, feature: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Disagreement above that on the data, between 0 and ``MAX_EXCESS``, [...]."""
        return (self.disagreement(feature, action) - 1).clamp(0, MAX_EXCESS)


def transitions(
    features: torch.Tensor,
    action: torch.Tensor,
    length: torch.Tensor,
    stoch: int,
    classes: int,
) -> Transitions:
    """The transitions within demonstrations of ``length`` [D] frames, in every draw.

    ``features`` float32 [S, N, F], ``action`` float32 [N, 7].
    """
    has_next = torch.ones(len(action), dtype=torch.bool)
    has_next[length.cumsum(0) - 1] = False
    row = has_next.nonzero().squeeze(1)
    latent = features[:, row + 1, -stoch * classes :].unflatten(-1, (stoch, classes))
    return Transitions(
        features[:, row].flatten(0, 1).half(),
        action[row].repeat(len(features), 1),
        latent.argmax(-1).flatten(0, 1).to(torch.uint8),
    )


def train_ensemble(
    data: Transitions,
    classes: int,
    heads: int,
    generator: torch.Generator,
    device: torch.device,
    epochs: int = EPOCHS,
) -> tuple[DisagreementEnsemble, float]:
    """An ensemble on ``device`` and its mean loss (nats per categorical) in the last epoch.

    Every head has its own initial weights and minibatches, drawn with replacement; ``generator``
    lives on the CPU. Raises WamError without any transition, or if weights are not finite.
    """
    count = len(data.action)
    if not count:
        raise WamError("demonstrations: none has two frames; nothing to learn transitions from")
    with seeded(generator):
        ensemble = DisagreementEnsemble(
            data.feature.shape[1], data.following.shape[1], classes, heads
        ).to(device)
    optimizer = torch.optim.AdamW(
        ensemble.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True
    )
    per_epoch = -(-count // BATCH)
    losses = []
    for _ in range(epochs * per_epoch):
        row = torch.randint(count, (heads, BATCH), generator=generator)
        feature, action, following = (values[row].to(device) for values in data)
        logits = ensemble(feature.float(), action)
        loss = functional.cross_entropy(logits.flatten(0, -2), following.long().flatten())
        optimizer.zero_grad()
        # As many times the mean as there are heads: each is trained as if it were alone.
        (heads * loss).backward()
        optimizer.step()
        losses.append(loss.detach())
    check_weights(ensemble, "the ensemble of finetune.disagreement_scale", "check the features")
    ensemble.requires_grad_(False).eval()
    ensemble.scale.fill_(max(mean_disagreement(ensemble, data), _MIN_SCALE))
    return ensemble, float(torch.stack(losses[-per_epoch:]).mean())


def mean_disagreement(ensemble: DisagreementEnsemble, data: Transitions) -> float:
    """Mean disagreement over transitions, wherever they lie."""
    device = ensemble.scale.device
    parts = zip(data.feature.split(_ROWS), data.action.split(_ROWS), strict=True)
    found = [ensemble.disagreement(some.to(device), theirs.to(device)) for some, theirs in parts]
    return float(torch.cat(found).mean())


def ensemble_description(ensemble: DisagreementEnsemble) -> dict[str, Any]:
    """What ``config.json`` of a saved ensemble says, for :func:`load_ensemble`."""
    feature, stoch, classes, heads = ensemble.sizes
    sizes = {"feature": feature, "stoch": stoch, "classes": classes, "heads": heads}
    return {"kind": "disagreement", **sizes}


def load_ensemble(directory: Path, device: torch.device) -> DisagreementEnsemble:
    """The ensemble saved in ``directory``, in evaluation mode.

    Raises WamError if the directory holds no ensemble or tensors of other shapes.
    """
    ensemble, _ = load_module(directory, _described, "an ensemble, of kind 'disagreement'")
    return ensemble.to(device)


def _described(description: dict[str, Any]) -> DisagreementEnsemble:
    if description["kind"] != "disagreement":
        raise ValueError(description["kind"])
    names = ("feature", "stoch", "classes", "heads")
    return DisagreementEnsemble(**{name: description[name] for name in names})
