"""Which optimiser trains which weights of a world model, and how they decay."""

import torch
from torch import nn

from wam.config import WorldModelTraining
from wam.training.muon import Muon
from wam.world_model.model import WorldModel


def optimizers(model: WorldModel, training: WorldModelTraining) -> list[torch.optim.Optimizer]:
    """AdamW for what :class:`Muon` does not train; its groups know their relative rate.

    Matrices and kernels decay, biases and LayerNorm do not, except with ``compat: diwa``, where
    everything does (docs/algorithm.md 2.8).
    """
    images = _image_weights(model) if training.image_optimizer == "muon" else []
    taken = {id(p) for p in images}
    others = [p for p in model.parameters() if id(p) not in taken]
    decays_all = training.compat == "diwa"
    decaying = [p for p in others if p.ndim > 1 or decays_all]
    spared = [p for p in others if p.ndim <= 1 and not decays_all]
    adamw = torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": training.weight_decay, "relative_lr": 1.0},
            {"params": spared, "weight_decay": 0.0, "relative_lr": 1.0},
        ],
        lr=training.lr,
        eps=training.adam_eps,
        fused=True,
    )
    if not images:
        return [adamw]
    muon = Muon(
        [{"params": images, "relative_lr": training.muon_lr / training.lr}],
        lr=training.muon_lr,
        weight_decay=training.weight_decay,
    )
    return [adamw, muon]


def _image_weights(model: WorldModel) -> list[nn.Parameter]:
    """Matrices and kernels of what turns images into embeddings and latents into images."""
    parts = model.encoder, model.decoder, model.embedding_seed
    return [p for part in parts if part is not None for p in part.parameters() if p.ndim > 1]
