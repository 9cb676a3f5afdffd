"""Training of the success classifier (docs/algorithm.md 5.2).

Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, F feature.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch

from wam.config import RewardConfig
from wam.errors import WamError
from wam.randomness import seeded
from wam.reliability.finite import check_weights
from wam.reliability.interruption import deferred
from wam.reward.calibration import average_precision, scored
from wam.reward.classifier import SuccessClassifier, classifier_loss
from wam.reward.labelled import LabelledFeatures, successes
from wam.training.checkpoint import StateFile

NEAR_MISS_FRAMES = 8
"""Frames before the first success of a demonstration that weigh more."""
PATIENCE = 10
"""Epochs without a better validation score after which training stops."""


def balanced_rows(
    label: torch.Tensor, length: torch.Tensor, negatives: int, generator: torch.Generator
) -> torch.Tensor:
    """Rows int64 [M] of one epoch: per demonstration ``negatives`` frames without success, and its
    successes, of those at most as many.

    Both are drawn without replacement, all of them where a demonstration has fewer.
    """
    rows: list[torch.Tensor] = []
    first = 0
    for frames in label.split(length.tolist()):
        for kind in (frames, ~frames):
            found = torch.nonzero(kind).squeeze(1)
            if len(found) > negatives:
                found = found[torch.randperm(len(found), generator=generator)[:negatives]]
            rows.append(found + first)
        first += len(frames)
    return torch.cat(rows)


def frame_weights(label: torch.Tensor, length: torch.Tensor, near_miss: float) -> torch.Tensor:
    """Weight of every frame, float32 [N]: ``near_miss`` just before a success, 1 elsewhere."""
    weight = torch.ones(len(label))
    for first, success, _ in successes(label, length):
        weight[max(first, success - NEAR_MISS_FRAMES) : success] = near_miss
    return weight


def train_classifier(
    config: RewardConfig,
    training: LabelledFeatures,
    validation: LabelledFeatures,
    generator: torch.Generator,
    device: torch.device,
    log: Callable[[dict[str, float]], None],
    state: dict[str, Any] | None = None,
    checkpoint: StateFile | None = None,
) -> SuccessClassifier:
    """A classifier with the weights of its best epoch, not calibrated yet.

    ``checkpoint`` is given the state now and then, and when the process is asked to end, before
    Interrupted is raised; with a ``state`` that it was given the training goes on from there, with
    the same result.

    The best epoch has the highest area under the precision-recall curve on ``validation``, the mean
    of real and imagined features. ``log`` receives ``step`` (epoch), ``loss``, ``auprc_real`` and
    ``auprc_imagined``. Raises WamError if the training labels are all equal, or if weights are not
    finite after an epoch.
    """
    if training.label.all() or not training.label.any():
        raise WamError(
            f"demonstrations: {int(training.label.sum())} of {len(training.label)} frames are "
            "successes; a classifier needs both kinds (more demonstrations, or other annotations)"
        )
    with seeded(generator):
        model = SuccessClassifier(config, training.real.shape[-1]).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    weight = frame_weights(training.label, training.length, config.near_miss_weight)
    best, best_epoch = float("-inf"), 0
    best_weights = copy.deepcopy(model.state_dict())
    first = 1
    if state is not None:
        first = state["epoch"] + 1
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        best, best_epoch, best_weights = state["best"], state["best_epoch"], state["best_weights"]
    with deferred() as asked:
        for epoch in range(first, config.epochs + 1):
            losses: list[torch.Tensor] = []
            for feature, label, row_weight in _epoch(training, weight, config, generator):
                loss = classifier_loss(
                    model, feature.to(device), label.to(device), row_weight.to(device), config
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            check_weights(model, f"train-reward, epoch {epoch}", "lower reward.lr")
            real, imagined = (
                average_precision(*scored(model, features, validation.label, device))
                for features in (validation.real, validation.imagined)
            )
            log(
                {
                    "step": epoch,
                    "loss": float(torch.stack(losses).mean()),
                    "auprc_real": real,
                    "auprc_imagined": imagined,
                }
            )
            if (real + imagined) / 2 > best:
                best, best_epoch = (real + imagined) / 2, epoch
                best_weights = copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= PATIENCE:
                break
            stop = asked()
            if checkpoint and (stop or checkpoint.due):
                checkpoint.save(
                    {
                        "epoch": epoch,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": generator.get_state(),
                        "best": best,
                        "best_epoch": best_epoch,
                        "best_weights": best_weights,
                    }
                )
            if stop:
                break
    model.load_state_dict(best_weights)
    return model.eval()


def _epoch(
    data: LabelledFeatures,
    weight: torch.Tensor,
    config: RewardConfig,
    generator: torch.Generator,
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Shuffled batches (feature, label, weight) of real and imagined frames.

    Each demonstration uses one posterior draw, chosen anew.
    """
    features, rows = [], []
    for source in (data.real, data.imagined):
        draw = torch.randint(len(source), data.length.shape, generator=generator)
        chosen = balanced_rows(data.label, data.length, config.negatives_per_demo, generator)
        features.append(source[draw.repeat_interleave(data.length)[chosen], chosen])
        rows.append(chosen)
    row = torch.cat(rows)
    order = torch.randperm(len(row), generator=generator)
    feature, row = torch.cat(features)[order], row[order]
    parts = (feature, data.label[row], weight[row])
    return list(zip(*(part.split(config.batch) for part in parts), strict=True))
