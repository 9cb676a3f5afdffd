"""How good a world model is on fixed windows: filtering, prediction, inverse dynamics.

Open loop = filter the first frame from the zero state, then predict the rest from the recorded
actions alone, one prior sample per step (docs/algorithm.md 8.1). Frame 0, which is given, is not
counted.

T = time, B = rows.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from wam.batch import Batch
from wam.config import CAMERA_NAMES, FILTERING, Filtering
from wam.images import psnr, to_signed
from wam.randomness import row_generators
from wam.world_model.filtering import first_state
from wam.world_model.inverse_dynamics import action_error, gripper_accuracy, spans
from wam.world_model.model import WorldModel
from wam.world_model.rssm import kl_divergence

_ROWS_AT_ONCE = 10


class Predictions(NamedTuple):
    """Images [T, B, 3, 64, 64] in [-1, 1] per camera of some windows, and the latents' KL.

    ``open_loop`` starts with the reconstruction of the given frame.
    """

    batch: Batch
    real: dict[str, torch.Tensor]
    posterior: dict[str, torch.Tensor]
    open_loop: dict[str, torch.Tensor]
    kl: torch.Tensor
    """nats [T, B]"""
    inverse_dynamics: torch.Tensor
    """Actions between frames that lie K apart, [T-K, B, K, 7]"""


@torch.no_grad()
def predict(
    model: WorldModel,
    windows: Batch,
    seed: int,
    device: torch.device,
    filtering: Filtering = FILTERING,
) -> Iterator[Predictions]:
    """Predictions for ``windows`` [T, B], a few rows at a time.

    Open loop they start from what ``filtering`` makes of the first frame.

    Each row's noise depends on ``seed`` and its position only, so that two models are compared
    under the same draws.
    """
    for number, part in enumerate(windows.split(_ROWS_AT_ONCE)):
        batch = part.to(device)
        rows = batch.proprio.shape[1]
        first = seed + number * _ROWS_AT_ONCE
        seeds = range(first, first + rows)
        _, embedding = model.embed(batch.rgb_static, batch.rgb_gripper, batch.proprio)
        observed = model.observe(
            embedding,
            batch.prev_action,
            batch.is_first,
            model.initial(rows, device),
            row_generators(seeds),
            lag=None if batch.first_lag is None else batch.lag.expand(len(embedding), -1, -1),
        )
        feature = observed.states.feature
        random = row_generators(seeds)
        start = first_state(model, embedding[0], random, filtering, batch.first_lag).feature
        imagined = model.imagine(start, batch.action[:-1], random)
        predicted = torch.cat([start.unsqueeze(0), imagined])
        images = (batch.rgb_static, batch.rgb_gripper)
        yield Predictions(
            batch,
            dict(zip(CAMERA_NAMES, (to_signed(image) for image in images), strict=True)),
            dict(zip(CAMERA_NAMES, model.decode(feature), strict=True)),
            dict(zip(CAMERA_NAMES, model.decode(predicted), strict=True)),
            kl_divergence(observed.posterior_logits, observed.prior_logits),
            model.actions_between(embedding),
        )


def assess(
    model: WorldModel,
    windows: Batch,
    seed: int,
    device: torch.device,
    show_first: Callable[[Predictions], None] = lambda part: None,
) -> dict[str, float]:
    """Figures of ``model`` on ``windows``, averaged over rows and time.

    ``posterior_psnr`` and ``open_loop_psnr`` in dB (mean of the cameras, and each camera's own),
    ``kl`` in nats per frame and, where the inverse-dynamics head is trained, its ``id_mae`` (mean
    absolute error of an action dimension) and ``gripper_accuracy``. ``show_first`` is given the
    predictions for the first rows.
    """
    rows = windows.proprio.shape[1]
    sums: dict[str, torch.Tensor] = {}
    for number, part in enumerate(predict(model, windows, seed, device)):
        if number == 0:
            show_first(part)
        figures = {"kl": part.kl.mean()}
        for camera in CAMERA_NAMES:
            real = part.real[camera]
            figures[f"posterior_psnr_{camera}"] = psnr(part.posterior[camera], real).mean()
            open_loop = psnr(part.open_loop[camera][1:], real[1:])
            figures[f"open_loop_psnr_{camera}"] = open_loop.mean()
        if model.config.action_scale:
            target, mask = spans(part.batch.action, part.batch.id_mask, model.config.id_steps)
            figures["id_mae"] = action_error(part.inverse_dynamics, target, mask).mean()
            figures["gripper_accuracy"] = gripper_accuracy(part.inverse_dynamics, target, mask)
        share = part.kl.shape[1] / rows
        for name, value in figures.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + share * value
    result = {name: float(value) for name, value in sums.items()}
    for kind in ("posterior_psnr", "open_loop_psnr"):
        result[kind] = sum(result[f"{kind}_{camera}"] for camera in CAMERA_NAMES) / len(
            CAMERA_NAMES
        )
    return result
