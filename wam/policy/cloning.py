"""Behaviour cloning of a diffusion policy on the latents of demonstrations.

Shapes: S posterior draws, N frames of all demonstrations in a row, W windows, F feature, A = 28.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wam.config import CHUNK, PolicyConfig
from wam.errors import WamError
from wam.policy.diffusion import Schedule
from wam.policy.network import CHUNK_VALUES, DiffusionMlp, build_network
from wam.randomness import seeded
from wam.reliability.finite import check_weights
from wam.reliability.interruption import deferred
from wam.training.checkpoint import StateFile
from wam.training.schedule import cosine


class ChunkDataset(NamedTuple):
    """All (feature, next four actions) pairs of a set of demonstrations."""

    features: torch.Tensor
    """float32 [S, N, F], filtered from each demonstration's own first frame, with looks at every
    frame or at some"""
    context: torch.Tensor | None
    """float32 [N, F], filtered with the preceding play; None: not recorded"""
    chunks: torch.Tensor
    """float32 [W, A]"""
    rows: torch.Tensor
    """int64 [W], the frame of each window"""


def chunk_dataset(
    features: torch.Tensor,
    context: torch.Tensor | None,
    actions: torch.Tensor,
    lengths: torch.Tensor,
) -> ChunkDataset:
    """The windows of demonstrations with ``lengths`` frames each; ``actions`` float32 [N, 7].

    A window starts at every frame that has itself and three more frames of its demonstration.
    """
    starts: list[torch.Tensor] = []
    first = 0
    for length in lengths.tolist():
        starts.append(torch.arange(first, first + max(length - CHUNK + 1, 0)))
        first += length
    rows = torch.cat(starts) if starts else torch.zeros(0, dtype=torch.int64)
    chunks = actions[rows.unsqueeze(1) + torch.arange(CHUNK)].reshape(-1, CHUNK_VALUES)
    return ChunkDataset(features, context, chunks, rows)


def cloning_loss(
    network: DiffusionMlp,
    schedule: Schedule,
    feature: torch.Tensor,
    chunk: torch.Tensor,
    k: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the predicted noise (DDPM, arXiv:2006.11239, eq. 14)."""
    predicted = network(schedule.add_noise(chunk, noise, k), k, feature)
    return functional.mse_loss(predicted, noise)


def clone(
    config: PolicyConfig,
    training: ChunkDataset,
    validation: ChunkDataset,
    generator: torch.Generator,
    device: torch.device,
    log: Callable[[dict[str, float]], None],
    state: dict[str, Any] | None = None,
    checkpoint: StateFile | None = None,
) -> DiffusionMlp:
    """A network trained for ``config.updates`` steps, with exponentially averaged weights.

    ``checkpoint`` is given the state now and then, and when the process is asked to end, before
    Interrupted is raised; with a ``state`` that it was given the training goes on from there, with
    the same result.

    ``log`` receives ``step``, ``train_loss`` (mean since the last call), ``validation_loss`` (of
    the averaged weights, on fixed noise; absent without validation windows) and ``lr``.
    ``generator`` lives on the CPU. Raises WamError if no demonstration has room for a window, or if
    weights are not finite, which is looked at before every record and every state.
    """
    if not len(training.rows):
        raise WamError(f"demonstrations: none has {CHUNK} frames; nothing to clone")
    with seeded(generator):
        network = build_network(config, training.features.shape[-1]).to(device)
    schedule = Schedule(config.diffusion_steps).to(device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    averaged = cast(DiffusionMlp, average.module)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    held_out = _held_out(validation, config, generator, device)
    losses: list[torch.Tensor] = []
    first = 1
    if state is not None:
        first = state["update"] + 1
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        losses = [loss.to(device) for loss in state["losses"]]
    batches = _batches(training, config, generator, device)
    with deferred() as asked:
        for update in range(first, config.updates + 1):
            lr = learning_rate(config, update)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = cloning_loss(network, schedule, *next(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(network)
            losses.append(loss.detach())
            if update % config.log_every == 0 or update == config.updates:
                _check(network, update)
                record = {"step": update, "train_loss": float(torch.stack(losses).mean()), "lr": lr}
                if held_out is not None:
                    with torch.no_grad():
                        loss = cloning_loss(averaged, schedule, *held_out)
                    record["validation_loss"] = float(loss)
                log(record)
                losses.clear()
            stop = asked()
            if checkpoint and (stop or checkpoint.due):
                _check(network, update)
                checkpoint.save(
                    {
                        "update": update,
                        "network": network.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": generator.get_state(),
                        "losses": losses,
                    }
                )
            if stop:
                break
    return averaged.eval()


def _check(network: DiffusionMlp, update: int) -> None:
    check_weights(network, f"train-policy, update {update}", "lower policy.lr")


def learning_rate(config: PolicyConfig, update: int) -> float:
    """Linear warm-up from ``lr_final`` to ``lr``, then a cosine that ends at ``lr_final``."""
    if update <= config.warmup:
        return config.lr_final + (config.lr - config.lr_final) * update / config.warmup
    done = (update - config.warmup) / max(config.updates - config.warmup, 1)
    return cosine(config.lr, config.lr_final, done)


def _batches(
    data: ChunkDataset, config: PolicyConfig, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless draws of (feature, chunk, k, noise)."""
    pool = data.features.to(device)
    if data.context is not None:
        pool = torch.cat([pool, data.context.unsqueeze(0).to(device)])
    rows, chunks = data.rows.to(device), data.chunks.to(device)
    draws, size = len(data.features), config.batch
    while True:
        window = torch.randint(len(data.rows), (size,), generator=generator)
        draw = torch.randint(draws, (size,), generator=generator)
        if data.context is not None:
            from_context = torch.rand(size, generator=generator) < config.context_probability
            draw[from_context] = draws
        k = torch.randint(config.diffusion_steps, (size,), generator=generator)
        noise = torch.randn(size, CHUNK_VALUES, generator=generator)
        window, draw, k, noise = (value.to(device) for value in (window, draw, k, noise))
        yield pool[draw, rows[window]], chunks[window], k, noise


def _held_out(
    data: ChunkDataset, config: PolicyConfig, generator: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, ...] | None:
    """Fixed (feature, chunk, k, noise) of every validation window, or None without any."""
    count = len(data.rows)
    if not count:
        return None
    k = torch.randint(config.diffusion_steps, (count,), generator=generator)
    noise = torch.randn(count, CHUNK_VALUES, generator=generator)
    batch = (data.features[0, data.rows], data.chunks, k, noise)
    return tuple(value.to(device) for value in batch)
