"""Success classifier on latent features: the reward of imagined episodes.

An encoder with a supervised contrastive loss and a classification head (DiWA, arXiv:2508.03645;
docs/algorithm.md 5). The decision threshold is part of the saved model.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wam.config import PROPRIO_SIZE, RewardConfig
from wam.weights import load_module

_PLACES = 256
"""As many are kept."""
NEVER = -30.0
"""Margin of a success that is out of reach."""


def hand(feature: torch.Tensor) -> torch.Tensor:
    """The hand [..., 3] in a ``feature`` [..., F] of states that carry proprioception."""
    return feature[..., -PROPRIO_SIZE:][..., :3]


class SuccessClassifier(nn.Module):
    """Success of the task in a latent state.

    With several heads success needs all of them: the probability is the smallest one.
    """

    temperature: torch.Tensor
    threshold: torch.Tensor
    places: torch.Tensor
    reach: torch.Tensor

    def __init__(self, config: RewardConfig, feature: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(feature, config.encoder_hidden),
            nn.ReLU(),
            nn.Linear(config.encoder_hidden, config.embedding),
        )
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(config.embedding, config.head_hidden),
                nn.ReLU(),
                nn.Linear(config.head_hidden, 2),
            )
            for _ in range(config.heads)
        )
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_buffer("places", torch.zeros(_PLACES, 3))
        self.register_buffer("reach", torch.tensor(0.0))

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding [B, U] and logits [heads, B, 2] of ``feature`` [B, F]."""
        embedding = self.encoder(feature)
        return embedding, torch.stack([head(embedding) for head in self.heads])

    @torch.no_grad()
    def margin(self, feature: torch.Tensor) -> torch.Tensor:
        """Logit of success [...] of the least certain head, not calibrated.

        Very low where the hand is out of ``reach`` of all ``places``.
        """
        rows = feature.flatten(0, -2)
        _, logits = self(rows)
        margin = (logits[..., 1] - logits[..., 0]).amin(0)
        if self.reach > 0:
            away = torch.cdist(hand(rows), self.places).amin(-1) > self.reach
            margin = margin.masked_fill(away, NEVER)
        return margin.unflatten(0, feature.shape[:-1])

    @torch.no_grad()
    def believe_at(self, places: torch.Tensor, reach: float) -> None:
        """Believe in success only within ``reach`` of one of the ``places`` [P, 3] of hands."""
        chosen = torch.linspace(0, len(places) - 1, _PLACES, device=places.device).round().long()
        self.places.copy_(places[chosen])
        self.reach.fill_(reach)

    def probability(self, feature: torch.Tensor) -> torch.Tensor:
        """Calibrated probability of success [...] for ``feature`` [..., F]."""
        return torch.sigmoid(self.margin(feature) / self.temperature)

    def success(self, feature: torch.Tensor) -> torch.Tensor:
        """bool [...]: the probability reaches the threshold."""
        return self.probability(feature) >= self.threshold


def contrastive_loss(
    embedding: torch.Tensor, label: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Supervised contrastive loss of ``embedding`` [B, U] with ``label`` [B] (arXiv:2004.11362).

    Averaged over the anchors that have another sample of their class; 0 if there is none.
    """
    unit = functional.normalize(embedding, dim=-1)
    similarity = unit @ unit.T / temperature
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    positive = (label.unsqueeze(0) == label.unsqueeze(1)) & ~itself
    count = positive.sum(1)
    anchors = count > 0
    if not anchors.any():
        return embedding.sum() * 0.0
    per_anchor = -(log_share * positive).sum(1)[anchors] / count[anchors]
    return per_anchor.mean()


def classifier_loss(
    model: SuccessClassifier,
    feature: torch.Tensor,
    label: torch.Tensor,
    weight: torch.Tensor,
    config: RewardConfig,
) -> torch.Tensor:
    """Contrastive plus weighted cross-entropy loss (docs/algorithm.md 5.1)."""
    embedding, logits = model(feature)
    target = label.long().expand(len(model.heads), -1)
    entropy = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    weights = weight.repeat(len(model.heads))
    return (
        config.contrastive_scale * contrastive_loss(embedding, label, config.temperature)
        + config.cross_entropy_scale * (entropy * weights).sum() / weights.sum()
    )


def reward_description(config: RewardConfig, feature: int) -> dict[str, Any]:
    """What ``config.json`` of a saved classifier says, for :func:`load_reward`."""
    return {"kind": "reward", "feature": feature, "reward": asdict(config)}


def load_reward(directory: Path, device: torch.device) -> SuccessClassifier:
    """The classifier saved in ``directory``, in evaluation mode.

    Raises WamError if the directory holds no classifier or tensors of other shapes.
    """
    model, _ = load_module(directory, _described, "a reward classifier, of kind 'reward'")
    return model.to(device)


def _described(description: dict[str, Any]) -> SuccessClassifier:
    if description["kind"] != "reward":
        raise ValueError(description["kind"])
    return SuccessClassifier(RewardConfig(**description["reward"]), description["feature"])
