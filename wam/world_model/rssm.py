"""Recurrent state-space model with categorical latents (DreamerV2; docs/algorithm.md 2.2).

The current frame's embedding enters only the posterior of its own step; the recurrent state sees
the previous latent and the action that led to the frame.

Shape suffixes: T = time, B = batch, D = deterministic state, S = categorical variables, G = classes
of each, Z = S G, A = action, E = embedding, H = hidden, M = what states carry of the arm.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from wam.actions import NULL_ACTION
from wam.config import ACTION_SIZE, ARM_STATE_SIZE, Sampling
from wam.distributed import mean_over_ranks
from wam.randomness import Generators, uniform
from wam.world_model.nets import NORM_EPS
from wam.world_model.proprio_state import PLACE_SIZE, Arm, ProprioState, choose


class RssmState(NamedTuple):
    """Deterministic and stochastic part of the latent state."""

    deter: torch.Tensor
    """float32 [..., D]"""
    stoch: torch.Tensor
    """float32 [..., Z], S one-hot vectors of G classes, or S distributions over them; where states
    carry proprioception, that follows, [..., Z + 24] (``wam.world_model.proprio_state``)"""

    @property
    def feature(self) -> torch.Tensor:
        """f = [deter; stoch], [..., D + Z]."""
        return torch.cat(self, dim=-1)

    def detach(self) -> "RssmState":
        """The state without its history."""
        return RssmState(self.deter.detach(), self.stoch.detach())


class Observed(NamedTuple):
    """What filtering a window yields."""

    states: RssmState
    """posterior states [T, B, ...], prior ones where nothing was seen"""
    posterior_logits: torch.Tensor
    """float32 [T, B, S, G]"""
    prior_logits: torch.Tensor
    """float32 [T, B, S, G]"""
    arm: torch.Tensor | None = None
    """float32 [T, B, 24], the end of the state as predicted from the state before, where states
    carry these"""


class Rssm(nn.Module):
    """The recurrent core: one step of the deterministic state, posterior and prior over the latent.

    ``unimix`` is the share of a uniform distribution mixed into every categorical. With ``latent``
    "probabilities" states hold the distributions themselves; nothing is drawn.
    """

    null_action: torch.Tensor

    def __init__(
        self,
        *,
        embedding: int,
        deter: int,
        stoch: int,
        classes: int,
        hidden: int,
        unimix: float = 0.0,
        gru: Literal["plain", "layernorm"] = "plain",
        latent: Literal["one_hot", "probabilities"] = "one_hot",
        proprio_state: bool = False,
    ) -> None:
        super().__init__()
        self.deter, self.stoch, self.classes, self.unimix = deter, stoch, classes, unimix
        self.draws = latent == "one_hot"
        flat = stoch * classes
        self.proprio = ProprioState(hidden) if proprio_state else None
        self.carried = flat + (ARM_STATE_SIZE if proprio_state else 0)
        self.input_stoch = nn.Linear(self.carried, hidden)
        self.input_action = nn.Linear(ACTION_SIZE, hidden, bias=False)
        self.input_place = nn.Linear(PLACE_SIZE, hidden, bias=False) if proprio_state else None
        self.input_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.cell = (nn.GRUCell if gru == "plain" else LayerNormGRUCell)(hidden, deter)
        self.posterior_deter = nn.Linear(deter, hidden)
        self.posterior_embedding = nn.Linear(embedding, hidden, bias=False)
        self.posterior_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.posterior_out = nn.Linear(hidden, flat)
        self.prior_deter = nn.Linear(deter, hidden)
        self.prior_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.prior_out = nn.Linear(hidden, flat)
        self.register_buffer("null_action", torch.tensor(NULL_ACTION), persistent=False)

    @torch.no_grad()
    def remember(self, bias: float) -> None:
        """Add ``bias`` to what the plain cell's gates see before they keep the old state."""
        assert isinstance(self.cell, nn.GRUCell)
        self.cell.bias_hh[self.deter : 2 * self.deter] += bias

    def initial(self, batch: int, device: torch.device | str) -> RssmState:
        """The state before anything was seen: exact zeros."""
        return RssmState(
            torch.zeros(batch, self.deter, device=device),
            torch.zeros(batch, self.carried, device=device),
        )

    def filter_step(
        self,
        state: RssmState,
        prev_action: torch.Tensor,
        embedding: torch.Tensor,
        is_first: torch.Tensor,
        generator: Generators,
        sample: Sampling = "sample",
        seen: torch.Tensor | None = None,
        lag: torch.Tensor | None = None,
    ) -> RssmState:
        """Posterior state [B, ...] after ``prev_action`` [B, A] led to ``embedding`` [B, E].

        Rows with ``is_first`` [B] forget ``state`` and ``prev_action``: their result depends on the
        embedding alone. Where ``seen`` [B] is False the state goes on with the prior, as
        :meth:`imagine_step` does. Where states carry proprioception, ``lag`` [B, 6] is that of the
        hand in rows with ``is_first``; without it the hand is there at rest.
        """
        keep_B1 = (~is_first).unsqueeze(-1).to(state.deter.dtype)
        action_BA = self._null_where(prev_action, is_first)
        masked = RssmState(state.deter * keep_B1, state.stoch * keep_B1)
        deter_BD = self._advance(masked, action_BA, self.input_action(action_BA))
        believed_BSG = self._posterior(deter_BD, self.posterior_embedding(embedding))
        if seen is not None:
            hidden_BH = self._prior_hidden(deter_BD)
            believed_BSG = torch.where(seen[:, None, None], believed_BSG, self._prior(hidden_BH))
        noise_BS = self._noise(embedding.shape[0], generator, embedding.device, sample)
        stoch_BZ = self._draw(believed_BSG, noise_BS)
        if self.proprio is not None:
            shown, last = self.proprio.shown(embedding), self._arm(state)
            arm = self.proprio.seen(last, action_BA, shown, is_first, lag)
            if seen is not None:
                arm = choose(seen, arm, self.proprio.predicted(last, action_BA, hidden_BH))
            stoch_BZ = torch.cat([stoch_BZ, self.proprio.held(arm)], dim=-1)
        return RssmState(deter_BD, stoch_BZ)

    def observe(
        self,
        embedding: torch.Tensor,
        prev_action: torch.Tensor,
        is_first: torch.Tensor,
        state: RssmState,
        generator: Generators,
        sample: Sampling = "sample",
        reset_actions: bool = True,
        seen: torch.Tensor | None = None,
        lag: torch.Tensor | None = None,
    ) -> Observed:
        """Filter a window: ``embedding`` [T, B, E], ``prev_action`` [T, B, A], ``is_first`` [T, B].

        The same computation as T times :meth:`filter_step`, with everything that does not depend on
        the recurrent state done for all steps at once. The prior of step t is the prediction made
        before its frame was seen. Without ``reset_actions`` rows with ``is_first`` forget the state
        alone, as the reference does (docs/algorithm.md 1.7). Where ``seen`` [T, B] is False the
        state goes on with the prior; the posterior there is what the frame would have told. Where
        states carry proprioception, ``lag`` [T, B, 6] is that of the hand in rows with
        ``is_first``; without it the hand is there at rest.
        """
        steps, batch = embedding.shape[:2]
        keep_TB1 = (~is_first).unsqueeze(-1).to(state.deter.dtype).unbind()
        actions_TBA = self._null_where(prev_action, is_first) if reset_actions else prev_action
        action_TBH = self.input_action(actions_TBA).unbind()
        embedding_TBH = self.posterior_embedding(embedding).unbind()
        noise_TBS = [self._noise(batch, generator, embedding.device, sample) for _ in range(steps)]
        deters, stochs, posteriors, predicted = [], [], [], []
        if self.proprio is not None:
            arm = self._arm(state)
            shown = self.proprio.shown(embedding)
        for t in range(steps):
            masked = RssmState(state.deter * keep_TB1[t], state.stoch * keep_TB1[t])
            deter_BD = self._advance(masked, actions_TBA[t], action_TBH[t])
            posterior_BSG = self._posterior(deter_BD, embedding_TBH[t])
            if seen is not None or self.proprio is not None:
                hidden_BH = self._prior_hidden(deter_BD)
            believed_BSG = posterior_BSG
            if seen is not None:
                prior_BSG = self._prior(hidden_BH)
                believed_BSG = torch.where(seen[t, :, None, None], posterior_BSG, prior_BSG)
            stoch_BZ = self._draw(believed_BSG, noise_TBS[t])
            if self.proprio is not None:
                last, at_t = arm, Arm(*(part[t] for part in shown))
                lag_BQ = None if lag is None else lag[t]
                arm = self.proprio.seen(last, actions_TBA[t], at_t, is_first[t], lag_BQ)
                predicted.append(self.proprio.predicted(last, actions_TBA[t], hidden_BH))
                if seen is not None:
                    arm = choose(seen[t], arm, predicted[-1])
                stoch_BZ = torch.cat([stoch_BZ, self.proprio.held(arm)], dim=-1)
            state = RssmState(deter_BD, stoch_BZ)
            deters.append(deter_BD)
            stochs.append(state.stoch)
            posteriors.append(posterior_BSG)
        deter_TBD, stoch_TBZ = torch.stack(deters), torch.stack(stochs)
        arm_TBM = None
        if self.proprio is not None:
            arm_TBM = self.proprio.held(Arm(*map(torch.stack, zip(*predicted, strict=True))))
        prior_TBSG = self.prior_logits(deter_TBD)
        return Observed(
            RssmState(deter_TBD, stoch_TBZ), torch.stack(posteriors), prior_TBSG, arm_TBM
        )

    def imagine_step(
        self,
        state: RssmState,
        action: torch.Tensor,
        generator: Generators,
        sample: Sampling = "sample",
    ) -> RssmState:
        """Prior state [B, ...] predicted for ``action`` [B, A] taken in ``state``."""
        deter_BD = self._advance(state, action, self.input_action(action))
        noise_BS = self._noise(action.shape[0], generator, action.device, sample)
        hidden_BH = self._prior_hidden(deter_BD)
        stoch_BZ = self._draw(self._prior(hidden_BH), noise_BS)
        if self.proprio is not None:
            arm = self.proprio.predicted(self._arm(state), action, hidden_BH)
            stoch_BZ = torch.cat([stoch_BZ, self.proprio.held(arm)], dim=-1)
        return RssmState(deter_BD, stoch_BZ)

    def prior_logits(self, deter: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [..., S, G] of the latent predicted from ``deter`` [..., D]."""
        return self._prior(self._prior_hidden(deter))

    def _prior_hidden(self, deter: torch.Tensor) -> torch.Tensor:
        return F.elu(self.prior_norm(self.prior_deter(deter)))

    def _prior(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._logits(self.prior_out(hidden))

    def _arm(self, state: RssmState) -> Arm:
        assert self.proprio is not None
        return self.proprio.read(state.stoch[..., -ARM_STATE_SIZE:])

    def _null_where(self, action: torch.Tensor, is_first: torch.Tensor) -> torch.Tensor:
        """``action`` [..., A] with the null action in the rows of ``is_first`` [...]."""
        return torch.where(is_first.unsqueeze(-1), self.null_action, action)

    def _advance(
        self, state: RssmState, action_BA: torch.Tensor, action_BH: torch.Tensor
    ) -> torch.Tensor:
        """Next deterministic state [B, D], float32, from the action and its projection."""
        hidden_BH = self.input_stoch(state.stoch) + action_BH
        if self.proprio is not None and self.input_place is not None:
            ahead = self.proprio.ahead(self._arm(state), action_BA)
            hidden_BH = hidden_BH + self.input_place(ahead)
        return self.cell(F.elu(self.input_norm(hidden_BH)), state.deter).float()

    def _posterior(self, deter_BD: torch.Tensor, embedding_BH: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, S, G] of the latent given the projected embedding."""
        hidden_BH = self.posterior_deter(deter_BD) + embedding_BH
        return self._logits(self.posterior_out(F.elu(self.posterior_norm(hidden_BH))))

    def _logits(self, flat: torch.Tensor) -> torch.Tensor:
        """Normalised log-probabilities [..., S, G], float32 under any autocast."""
        logits = flat.float().unflatten(-1, (self.stoch, self.classes)).log_softmax(-1)
        if self.unimix:
            logits = torch.log((1 - self.unimix) * logits.exp() + self.unimix / self.classes)
        return logits

    def _noise(
        self, batch: int, generator: Generators, device: torch.device, sample: Sampling
    ) -> torch.Tensor | None:
        """One uniform number per categorical [B, S], or None for the mode."""
        if sample != "sample" or not self.draws:
            return None
        return uniform((batch, self.stoch), generator, device)

    def _draw(self, logits: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        if not self.draws:
            return logits.exp().flatten(-2)
        return StraightThrough.apply(logits, noise).flatten(-2)


class LayerNormGRUCell(nn.Module):
    """DreamerV2's cell: one LayerNorm over all gates, and the update gate nearly shut."""

    def __init__(self, inputs: int, deter: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter, eps=NORM_EPS)

    def forward(self, inputs: torch.Tensor, deter: torch.Tensor) -> torch.Tensor:
        """Next state [B, D] of ``inputs`` [B, H] and ``deter`` [B, D]."""
        gates = self.norm(self.gates(torch.cat([inputs, deter.to(inputs.dtype)], dim=-1)))
        reset, candidate, update = gates.float().chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * deter


class StraightThrough(torch.autograd.Function):
    """One-hot draw [..., G] from log-probabilities, with the gradient of the probabilities.

    ``noise`` [...] uniform in [0, 1) selects the class by inverting the distribution function, None
    takes the most probable class. One function instead of ``one_hot + probs - sg(probs)``: the
    value is exactly one-hot.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        probabilities = logits.exp()
        ctx.save_for_backward(probabilities)
        if noise is None:
            index = logits.argmax(-1, keepdim=True)
        else:
            distribution = probabilities.cumsum(-1)
            # Rounding may leave the last sum below the noise: compare the first G - 1 only.
            index = (distribution[..., :-1] <= noise.unsqueeze(-1)).sum(-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, index, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (probabilities,) = ctx.saved_tensors
        return gradient * probabilities, None


def kl_divergence(posterior: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """KL(posterior || prior) in nats, summed over S, of log-probabilities [..., S, G]: [...]."""
    return (posterior.exp() * (posterior - prior)).sum((-2, -1))


def kl_loss(
    posterior: torch.Tensor, prior: torch.Tensor, balance: float, free_nats: float
) -> torch.Tensor:
    """Scalar balanced KL (DreamerV2, eq. 2) of log-probabilities [T, B, S, G].

    ``balance`` is the weight of the term that trains the prior; each term is averaged over T and B
    and then floored at ``free_nats``.
    """
    trains_prior = kl_divergence(posterior.detach(), prior).mean()
    trains_posterior = kl_divergence(posterior, prior.detach()).mean()
    if free_nats:
        is_free = mean_over_ranks(trains_prior.detach()) < free_nats
        trains_prior = torch.where(is_free, free_nats, trains_prior)
        trains_posterior = torch.where(is_free, free_nats, trains_posterior)
    return balance * trains_prior + (1 - balance) * trains_posterior
