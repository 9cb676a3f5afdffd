"""Second stage of a world model's training: a recurrent model that can go on without looking.

Encoder and images stay as they are; embeddings are made once, so that an update costs a fraction of
one with images. Every row goes blind now and then: its state follows the prior, as in imagination,
and has to tell the frame all the same. An error of the dream is thereby trained on the states that
dreams reach, over tens of steps, where the objective of DreamerV2 knows errors of one step alone
(docs/world-model.md, "Going on without looking").

Shapes: N frames of play in a row, T time, B batch rows, E embedding, F feature, U decoder channels,
C components and 18 numbers of proprioception.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from wam.config import PROPRIO_SIZE, Refinement
from wam.randomness import seeded
from wam.reliability.finite import check_weights
from wam.reliability.interruption import deferred
from wam.training.checkpoint import StateFile
from wam.training.schedule import cosine
from wam.world_model.filtering import resting_action
from wam.world_model.model import WorldModel
from wam.world_model.rssm import Observed, RssmState, kl_loss

_WARMUP = 100
_FINAL_LR = 0.01
"""Share of the learning rate that is left at the end."""
_GRAD_CLIP = 1000.0
_FINE = 5.0
"""Errors of predicted proprioception count so many times: what is carried on has to be exact."""
_LEAST_SCALE = 1e-3
"""Standard deviation below which a number counts as constant."""


class EmbeddedPlay(NamedTuple):
    """Frames of a split, from its first on, as the frozen encoder sees them."""

    embedding: torch.Tensor
    """float32 [N, E]"""
    prev_action: torch.Tensor
    """float32 [N, 7], what led to the frame"""
    is_first: torch.Tensor
    """bool [N], first frames of episodes"""
    lag: torch.Tensor | None = None
    """float32 [N, 6], how far the hand is behind its commands, where states carry that"""

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "EmbeddedPlay":
        """With ``change`` made to every field that is there."""
        lag = None if self.lag is None else change(self.lag)
        return EmbeddedPlay(
            change(self.embedding), change(self.prev_action), change(self.is_first), lag
        )


class FrameTarget:
    """What a state has to tell of a frame: the same for every frame and every update.

    The leading principal components of the visual embedding and the proprioception, all with mean 0
    and variance 1 over the play.
    """

    def __init__(self, embedding: torch.Tensor, components: int) -> None:
        visual, proprio = embedding[:, :-PROPRIO_SIZE], embedding[:, -PROPRIO_SIZE:]
        mean = visual.mean(0)
        centred = (visual - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        scale = values[-components:].clamp_min(0).sqrt().clamp_min(_LEAST_SCALE)
        self._mean = mean
        self._axes = (vectors[:, -components:] / scale).float()
        self._proprio_mean = proprio.mean(0)
        self._proprio_scale = proprio.std(0, correction=0).clamp_min(_LEAST_SCALE)

    def __call__(self, embedding: torch.Tensor) -> torch.Tensor:
        """float32 [..., C + 18] of ``embedding`` [..., E]."""
        visual, proprio = embedding[..., :-PROPRIO_SIZE], embedding[..., -PROPRIO_SIZE:]
        told = (proprio - self._proprio_mean) / self._proprio_scale
        return torch.cat([(visual - self._mean) @ self._axes, told], dim=-1)


class Refiner:
    """Trains ``model.rssm``, and the layer that hands its states to the decoder, on ``play``.

    The rows of a batch walk through the play side by side and keep their state from update to
    update, but for those that begin anew with every window: ``config.first_looks`` of them, the
    last ones, see one frame for half of the window and then nothing. ``log`` receives ``step`` and
    the means of the losses since the last call.
    """

    def __init__(
        self, model: WorldModel, play: EmbeddedPlay, config: Refinement, device: torch.device
    ) -> None:
        assert model.embedding_seed is not None, "pipeline.params holds profiles to this"
        self._model, self._config, self._device = model.to(device), config, device
        self._play = play.each(lambda field: field.to(device))
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._target = FrameTarget(self._play.embedding, config.components)
        with seeded(torch.Generator().manual_seed(config.seed)):
            self._tell = nn.Linear(model.config.feature, config.components + PROPRIO_SIZE)
        self._tell.to(device)
        self._trained = nn.ModuleList([model.rssm, model.decoder.seed, self._tell])
        self._optimizer = torch.optim.AdamW(
            self._trained.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        rows = torch.rand(config.batch, generator=self._generator, device=device)
        self._position = (rows * len(play.is_first)).long()
        self._state = model.initial(config.batch, device)
        self._blind = torch.zeros(config.batch, dtype=torch.bool, device=device)
        # Of the rows with first looks: how many, frames since the last look, and where they rest.
        self._begin = round(config.first_looks * config.batch)
        last_look = config.window // 2 - 1
        self._ahead = torch.arange(config.window, device=device).unsqueeze(1) - last_look
        begins = torch.arange(config.batch, device=device) >= config.batch - self._begin
        self._rests = begins & (self._ahead <= 0)
        self._sums: dict[str, torch.Tensor] = {}

    def run(self, log: Callable[[dict[str, float]], None], checkpoint: StateFile) -> None:
        """Train to the end, from the state in ``checkpoint`` if there is one.

        Raises WamError if weights are not finite, and Interrupted, after a checkpoint, if the
        process is asked to end.
        """
        config = self._config
        first = self._restore(checkpoint.load())
        self._model.requires_grad_(False)
        self._trained.requires_grad_(True)
        with deferred() as asked:
            for update in range(first, config.updates + 1):
                self._update(update)
                if update % config.log_every == 0 or update == config.updates:
                    self._check(update)
                    count = (update - 1) % config.log_every + 1
                    means = {name: float(value) / count for name, value in self._sums.items()}
                    log({"step": update, **means})
                    self._sums.clear()
                stop = asked()
                if stop or checkpoint.due:
                    self._check(update)
                    checkpoint.save(self._snapshot(update))
                if stop:
                    break
        self._model.requires_grad_(True)

    def _update(self, update: int) -> None:
        config = self._config
        rate = cosine(config.lr, _FINAL_LR * config.lr, (update - 1) / config.updates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * min(1.0, update / _WARMUP)
        embedding, prev_action, is_first, lag = self._next_batch()
        seen = self._sight(is_first)
        observed = self._model.rssm.observe(
            embedding, prev_action, is_first, self._state, self._generator, seen=seen, lag=lag
        )
        losses = self._losses(observed, embedding, is_first)
        total = torch.stack(list(losses.values())).sum()
        self._optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self._trained.parameters(), _GRAD_CLIP)
        self._optimizer.step()
        self._state = RssmState(*(part[-1].detach() for part in observed.states))
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0) + loss.detach()

    def _losses(
        self, observed: Observed, embedding: torch.Tensor, is_first: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The weighted terms of the objective, each averaged over T and B."""
        model, weights = self._model, self._model.config
        feature = observed.states.feature
        with torch.no_grad():
            shown, target = model.shown(embedding), self._target(embedding)
        kl = kl_loss(
            observed.posterior_logits, observed.prior_logits, weights.kl_balance, weights.free_nats
        )
        match = 0.5 * (model.decoder.seed(feature) - shown).square().sum(-1).mean()
        told = 0.5 * (self._tell(feature) - target).square().sum(-1).mean()
        losses = {
            "kl_loss": weights.kl_scale * kl,
            "seed_match_loss": weights.seed_match_scale * match,
            "target_loss": self._config.target_scale * told,
        }
        if observed.arm is not None and model.rssm.proprio is not None:
            arm = model.rssm.proprio
            error = (observed.arm - arm.held(arm.shown(embedding)))[..., -PROPRIO_SIZE:]
            known = (~is_first).unsqueeze(-1)
            square = (_FINE * error).square() * known
            losses["proprio_loss"] = self._config.target_scale * 0.5 * square.sum(-1).mean()
        return losses

    def _next_batch(self) -> EmbeddedPlay:
        """The next window [T, B, ...] of every row, with resets among the first frames.

        The last rows rest at a random frame, and go on from there.
        """
        config, play = self._config, self._play
        steps = torch.arange(config.window, device=self._device).unsqueeze(1)
        rows = (self._position + steps) % len(play.is_first)
        self._position = (self._position + config.window) % len(play.is_first)
        reset = self._uniform(config.window) < config.reset_probability
        if self._begin:
            start = (self._uniform(1)[0, : self._begin] * len(play.is_first)).long()
            rows[:, -self._begin :] = (start + self._ahead.clamp_min(0)) % len(play.is_first)
            reset[:, -self._begin :] = False
            reset[0, -self._begin :] = True
        window = play.each(lambda field: field[rows])
        resting = resting_action(window.embedding)
        return window._replace(
            prev_action=torch.where(self._rests.unsqueeze(-1), resting, window.prev_action),
            is_first=window.is_first & ~self._rests | reset,
        )

    def _sight(self, is_first: torch.Tensor) -> torch.Tensor:
        """bool [T, B]: who sees. A row sees its first frame, then goes blind and sees in turns."""
        config, seen = self._config, []
        for chance, first in zip(self._uniform(config.window), is_first, strict=True):
            stays = chance >= config.sight_probability
            goes = chance < config.blind_probability
            self._blind = torch.where(self._blind, stays, goes) & ~first
            seen.append(~self._blind)
        sight = torch.stack(seen)
        if self._begin:
            sight[:, -self._begin :] = (self._rests | is_first)[:, -self._begin :]
        return sight

    def _uniform(self, steps: int) -> torch.Tensor:
        shape = steps, self._config.batch
        return torch.rand(shape, generator=self._generator, device=self._device)

    def _check(self, update: int) -> None:
        advice = "lower refine_world_model.lr"
        check_weights(self._trained, f"refine_world_model, update {update}", advice)

    def _snapshot(self, update: int) -> dict[str, Any]:
        return {
            "update": update,
            "trained": self._trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "position": self._position,
            "state": self._state._asdict(),
            "blind": self._blind,
            "sums": self._sums,
        }

    def _restore(self, saved: dict[str, Any] | None) -> int:
        """Go back to a state; the update that comes next."""
        if saved is None:
            return 1
        self._trained.load_state_dict(saved["trained"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._generator.set_state(saved["generator"])
        self._position = saved["position"].to(self._device)
        self._state = RssmState(**{k: v.to(self._device) for k, v in saved["state"].items()})
        self._blind = saved["blind"].to(self._device)
        self._sums = {name: value.to(self._device) for name, value in saved["sums"].items()}
        return int(saved["update"]) + 1
