"""What a frozen world model knows: fresh probes of actions and of the scene's state.

Of actions: probes of a_t on visual embeddings [v_t; v_{t+1}]. The training loss of the
inverse-dynamics head does not tell, because the head also reads proprioception, which nearly
contains the action (docs/algorithm.md 2.6). These probes see images alone.

Of the scene: probes of the joints and lights on embeddings and on latents. What a latent does not
say, neither a reward classifier nor a policy can know.

N = pairs, I = input, O = target, V = visual embedding, F = feature.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from wam.actions import executable
from wam.batch import Batch
from wam.config import ACTION_SIZE, FILTERING, POSITION_STEP_M, PROPRIO_SIZE, Filtering
from wam.randomness import row_generators, seeded
from wam.world_model.filtering import filter_embeddings, first_state
from wam.world_model.model import WorldModel

Probe = Callable[[torch.Tensor], torch.Tensor]
"""Predicted targets [N, O] of inputs [N, I]."""

MOTION = ACTION_SIZE - 1
"""The continuous dimensions come first, the gripper command is the last."""

_ROWS_AT_ONCE = 10
_HELD_BACK = 0.2
"""Share of the training pairs that chooses the penalty, or the epoch at which to stop."""
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the squared weights, relative to the variance of an input."""
_SETTLED = 10
"""Frames after which a filter that began from nothing has seen the scene."""
_EVERY = 5
_HIDDEN = 256
_EPOCHS = 20
_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2


class FramePairs(NamedTuple):
    """What a probe sees, and what it has to tell."""

    inputs: torch.Tensor
    """float32 [N, I]"""
    target: torch.Tensor
    """float32 [N, O]"""


def neighbours(visual: torch.Tensor, action: torch.Tensor, mask: torch.Tensor) -> FramePairs:
    """Frames of ``visual`` [T, B, V] with the next one, and ``action`` [T, B, 7] between them.

    Only where ``mask`` [T-1, B] is set. Windows stay together and in their order, so that the first
    pairs are the first windows'.
    """
    inputs = torch.cat([visual[:-1], visual[1:]], dim=-1)
    by_row = mask.T
    return FramePairs(inputs.transpose(0, 1)[by_row], action[:-1].transpose(0, 1)[by_row])


@torch.no_grad()
def embed_windows(model: WorldModel, windows: Batch, device: torch.device) -> torch.Tensor:
    """Embeddings [T, B, E] of ``windows`` [T, B] on ``device``, a few rows at a time."""
    parts = []
    for rows in windows.split(_ROWS_AT_ONCE):
        part = rows.to(device)
        parts.append(model.embed(part.rgb_static, part.rgb_gripper, part.proprio)[1])
    return torch.cat(parts, dim=1)


def action_pairs(embedding: torch.Tensor, windows: Batch) -> FramePairs:
    """The :func:`neighbours` of ``windows`` [T, B] in the visual part of their ``embedding``."""
    visual = embedding[..., :-PROPRIO_SIZE]
    return neighbours(visual, windows.action.to(visual.device), windows.id_mask.to(visual.device))


class SceneViews(NamedTuple):
    """The same frames as an encoder and as the latent see them, with the state of the scene."""

    embedding: FramePairs
    """inputs [N, V], images alone"""
    latent: FramePairs
    """inputs [N, F], filtered for some frames"""
    first_latent: FramePairs
    """inputs [M, F], of the first frame of every window, filtered from nothing"""


@torch.no_grad()
def scene_views(
    model: WorldModel,
    embedding: torch.Tensor,
    windows: Batch,
    scene: torch.Tensor,
    seed: int,
    filtering: Filtering = FILTERING,
) -> SceneViews:
    """Every fifth frame of ``windows`` [T, B] from the tenth on, and the first.

    ``embedding`` [T, B, E] is theirs, ``scene`` float32 [T, B, O] the state to be told. Windows
    stay together and in their order.
    """
    later = slice(min(_SETTLED, len(scene) - 1), None, _EVERY)
    device, rows = embedding.device, embedding.shape[1]
    action, is_first = windows.action.to(device), windows.is_first.to(device)
    random = row_generators(range(seed, seed + rows), device)
    feature = filter_embeddings(
        model, embedding, action, is_first, random, filtering, lag=_lag(windows, device)
    ).feature
    visual, latent, settled = (
        _by_window(frames[later])
        for frames in (embedding[..., :-PROPRIO_SIZE], feature, scene.to(device))
    )
    first = FramePairs(feature[0], scene[0].to(device))
    return SceneViews(FramePairs(visual, settled), FramePairs(latent, settled), first)


@torch.no_grad()
def imagined_views(
    model: WorldModel,
    embedding: torch.Tensor,
    windows: Batch,
    scene: torch.Tensor,
    seed: int,
    horizons: Iterable[int],
    filtering: Filtering = FILTERING,
) -> dict[int, FramePairs]:
    """Inputs [B, F] imagined so many steps behind the first frame of every window, by horizon.

    Arguments as those of :func:`scene_views`; the actions are the recorded ones. Horizons beyond
    the windows are left out.
    """
    device, rows = embedding.device, embedding.shape[1]
    random = row_generators(range(seed, seed + rows), device)
    lag = _lag(windows, device)
    start = first_state(model, embedding[0], random, filtering, lag).feature
    reached = [horizon for horizon in horizons if horizon < len(scene)]
    if not reached:
        return {}
    imagined = model.imagine(start, windows.action[: max(reached)].to(device), random)
    return {t: FramePairs(imagined[t - 1], scene[t].to(device)) for t in reached}


@torch.no_grad()
def action_response(
    model: WorldModel,
    hand: Probe,
    embedding: torch.Tensor,
    windows: Batch,
    seed: int,
    steps: int,
    filtering: Filtering = FILTERING,
) -> dict[str, float]:
    """How much of the commanded motion the imagined hand makes in so many steps; 1 is all of it.

    ``hand`` tells the TCP's position (m) [B, 3] from features. ``own``: the recorded actions of
    every window; ``others``: those of another window from the same first frame. A model that knows
    plans and not what actions do follows its own and ignores the others'. The slope of a regression
    through 0 over windows and axes; arguments else as those of :func:`imagined_views`.
    """
    device, rows = embedding.device, embedding.shape[1]
    lag = _lag(windows, device)
    action = windows.action[: min(steps, len(windows.action) - 1)].to(device)
    response = {}
    for name, given in (("own", action), ("others", action.roll(1, dims=1))):
        random = row_generators(range(seed, seed + rows), device)
        start = first_state(model, embedding[0], random, filtering, lag).feature
        moved = hand(model.imagine(start, given, random)[-1]) - hand(start)
        told = POSITION_STEP_M * executable(given)[..., :3].sum(0)
        response[name] = float((moved * told).sum() / told.square().sum().clamp_min(1e-9))
    return response


def _lag(windows: Batch, device: torch.device) -> torch.Tensor | None:
    return None if windows.first_lag is None else windows.first_lag.to(device)


class Standardized(nn.Module):
    """Layers between inputs and targets that have mean 0 and variance 1 over the training pairs.

    So every dimension counts alike, however small its changes are.
    """

    def __init__(self, pairs: FramePairs, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        for name, values in pairs._asdict().items():
            self.register_buffer(f"{name}_mean", values.mean(0))
            # What never changes carries nothing and must not be blown up where it does, elsewhere.
            scale = values.std(0, correction=0)
            self.register_buffer(f"{name}_scale", torch.where(scale > 1e-6, scale, 1.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predicted targets [N, O] of ``inputs`` [N, I]."""
        output = self.layers(self.standardize("inputs", inputs))
        return output * self.get_buffer("target_scale") + self.get_buffer("target_mean")

    def standardize(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """``inputs`` or ``target`` as the layers see them."""
        return (values - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_scale")

    def error(self, pairs: FramePairs) -> torch.Tensor:
        """Mean squared error of the standardised targets."""
        output = self.layers(self.standardize("inputs", pairs.inputs))
        return F.mse_loss(output, self.standardize("target", pairs.target))


def fit_linear(pairs: FramePairs) -> Probe:
    """Ridge regression in closed form; the penalty is the best one for the pairs held back."""
    fitted, judging = _split(pairs)
    errors = [_error(probe, judging) for probe in _ridge(fitted, _PENALTIES)]
    return _ridge(pairs, [_PENALTIES[errors.index(min(errors))]])[0]


def fit_mlp(pairs: FramePairs, generator: torch.Generator) -> Probe:
    """One hidden layer of 256, trained with AdamW on squared errors.

    The weights of the epoch that is best for the pairs held back; before the first one the mean
    target is predicted. ``generator`` (of the CPU) draws the initial weights and the order of the
    pairs.
    """
    fitted, judging = _split(pairs)
    width = pairs.inputs.shape[1]
    with seeded(generator):
        first, last = nn.Linear(width, _HIDDEN), nn.Linear(_HIDDEN, pairs.target.shape[1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    probe = Standardized(fitted, nn.Sequential(first, nn.ELU(), last)).to(pairs.inputs.device)
    optimizer = torch.optim.AdamW(probe.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    best, least = _copy(probe), _error(probe, judging)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(fitted.inputs), generator=generator)
        for rows in order.to(pairs.inputs.device).split(_BATCH):
            optimizer.zero_grad(set_to_none=True)
            probe.error(FramePairs(fitted.inputs[rows], fitted.target[rows])).backward()
            optimizer.step()
        if (error := _error(probe, judging)) < least:
            best, least = _copy(probe), error
    probe.load_state_dict(best)
    return probe.requires_grad_(False)


def score(prediction: torch.Tensor, action: torch.Tensor) -> dict[str, Any]:
    """How well actions [N, 7] are predicted.

    ``r2``: explained share of the variance of each of the six motion dimensions (0 for a dimension
    that never changes), and ``r2_mean``, their mean; ``mae`` of the six; ``gripper_accuracy``,
    its ``gripper_balanced_accuracy`` (mean over the commands that occur), and
    ``gripper_majority``, the accuracy of always naming the more frequent command.
    """
    motion, predicted = action[:, :MOTION].double(), prediction[:, :MOTION].double()
    r2 = explained(predicted, motion)
    opens = action[:, MOTION] >= 0
    right = ((prediction[:, MOTION] >= 0) == opens).double()
    per_command = [right[rows].mean() for rows in (opens, ~opens) if rows.any()]
    share = float(opens.double().mean())
    return {
        "r2": r2.tolist(),
        "r2_mean": float(r2.mean()),
        "mae": (motion - predicted).abs().mean(0).tolist(),
        "gripper_accuracy": float(right.mean()),
        "gripper_balanced_accuracy": float(torch.stack(per_command).mean()),
        "gripper_majority": max(share, 1.0 - share),
    }


def explained(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """R2 float64 [O]: share of the variance of each dimension that ``prediction`` [N, O] explains.

    0 for a dimension of ``target`` [N, O] that never changes.
    """
    target = target.double()
    residual = (target - prediction.double()).square().sum(0)
    total = (target - target.mean(0)).square().sum(0)
    return torch.where(total > 0, 1.0 - residual / total, 0.0)


def _by_window(frames: torch.Tensor) -> torch.Tensor:
    """[B * T, ...] of ``frames`` [T, B, ...], window by window."""
    return frames.transpose(0, 1).flatten(0, 1)


def _split(pairs: FramePairs) -> tuple[FramePairs, FramePairs]:
    """The pairs to fit and those held back: the last ones, hence of other windows."""
    first = round(len(pairs.inputs) * (1.0 - _HELD_BACK))
    return FramePairs(*(field[:first] for field in pairs)), FramePairs(
        *(field[first:] for field in pairs)
    )


@torch.no_grad()
def _error(probe: Standardized, pairs: FramePairs) -> float:
    return float(probe.error(pairs))


def _copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def _ridge(pairs: FramePairs, penalties: Sequence[float]) -> list[Standardized]:
    """A linear probe per penalty, from one decomposition of the inputs' covariance."""
    count, width = pairs.inputs.shape
    outputs = pairs.target.shape[1]
    layers = [nn.Linear(width, outputs, bias=False) for _ in penalties]
    probes = [Standardized(pairs, layer).requires_grad_(False) for layer in layers]
    inputs, target = (
        probes[0].standardize(name, values).double() for name, values in pairs._asdict().items()
    )
    values, vectors = torch.linalg.eigh(inputs.T @ inputs / count)
    projected = vectors.T @ (inputs.T @ target / count)
    for penalty, layer in zip(penalties, layers, strict=True):
        weight = vectors @ (projected / (values.clamp_min(0.0) + penalty).unsqueeze(1))
        layer.weight.copy_(weight.T)
    return [probe.to(pairs.inputs.device) for probe in probes]
