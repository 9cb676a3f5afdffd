"""From camera images to latent features: the one path of demonstrations and evaluation.

Shapes: T time, B rows (episodes), S posterior draws per row, E embedding, F feature.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from wam.actions import executable
from wam.config import ACTION_SIZE, FILTERING, Filtering
from wam.randomness import Generators, RankGenerator, uniform
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState


class Observation(NamedTuple):
    """What the world model sees of a step, [B, ...]; or of a sequence, [T, B, ...]."""

    rgb_static: torch.Tensor
    """uint8 [B, 64, 64, 3]"""
    rgb_gripper: torch.Tensor
    """uint8 [B, 64, 64, 3]"""
    proprio: torch.Tensor
    """float32 [B, 18], normalised"""


class OnlineFilter:
    """Latent states of B episodes that advance together, one environment step at a time.

    With one generator per row an episode's features do not depend on which others run beside it.
    Everything is kept on the world model's device.

    A policy may ``look_every`` so many frames only (0: at the first one alone): what it acts on,
    ``feature``, goes on with what the prior predicts in between. ``seen`` is of every frame.
    """

    def __init__(
        self,
        world_model: WorldModel,
        generator: Generators,
        filtering: Filtering = FILTERING,
        look_every: int = 1,
    ) -> None:
        self._world_model, self._generator, self._filtering = world_model, generator, filtering
        self._look_every = look_every
        self._seen: RssmState | None = None

    @property
    def feature(self) -> torch.Tensor:
        """float32 [B, F] behind the last step, of what was looked at.

        Raises RuntimeError before the first reset.
        """
        return self._states()[1].feature

    @property
    def seen(self) -> torch.Tensor:
        """float32 [B, F] of the last observation. Raises RuntimeError before the first reset."""
        return self._states()[0].feature

    def reset(self, observation: Observation) -> torch.Tensor:
        """Feature [B, F] of each episode's first observation, from the zero state."""
        self._seen = self._acting = self._first(observation, self._generator)
        self._age = torch.zeros(len(self._seen.deter), dtype=torch.int64)
        return self.feature

    def restart(
        self, rows: Sequence[int], observation: Observation, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """Feature [B, F] once the episodes of ``rows`` begin anew with ``observation`` [R, ...].

        From now on they draw from ``generators``. Raises ValueError if the rows share a generator.
        """
        states = self._states()
        if isinstance(self._generator, torch.Generator | RankGenerator):
            raise ValueError("single rows restart only with one generator per row")
        own = list(self._generator)
        for row, generator in zip(rows, generators, strict=True):
            own[row] = generator
        self._generator = own
        fresh = self._first(observation, generators)
        index = torch.tensor(rows, device=fresh.deter.device)
        self._seen, self._acting = (
            RssmState(
                *(old.index_copy(0, index, new) for old, new in zip(state, fresh, strict=True))
            )
            for state in states
        )
        self._age[rows] = 0
        return self.feature

    @torch.no_grad()
    def step(self, observation: Observation, action: torch.Tensor) -> torch.Tensor:
        """Feature [B, F] after ``action`` [B, 7] led to ``observation``."""
        seen, acting = self._states()
        _, embedding = self._world_model.embed(*observation)
        first = torch.zeros(len(action), dtype=torch.bool, device=action.device)
        self._age += 1

        def after(state: RssmState, looks: torch.Tensor | None = None) -> RssmState:
            given = self._world_model, state, embedding, action, first
            return filter_step(*given, self._generator, self._filtering, looks)

        self._seen = self._acting = after(seen)
        if self._look_every != 1:
            looks = first
            if self._look_every:
                looks = (self._age % self._look_every == 0).to(action.device)
            self._acting = after(acting, looks)
        return self.feature

    def _states(self) -> tuple[RssmState, RssmState]:
        """What has seen every frame, and what is acted on."""
        if self._seen is None:
            raise RuntimeError("reset the filter first")
        return self._seen, self._acting

    @torch.no_grad()
    def _first(self, observation: Observation, generator: Generators) -> RssmState:
        _, embedding = self._world_model.embed(*observation)
        return first_state(self._world_model, embedding, generator, self._filtering)


@torch.no_grad()
def filter_embeddings(
    world_model: WorldModel,
    embedding: torch.Tensor,
    action: torch.Tensor,
    is_first: torch.Tensor,
    generator: Generators,
    filtering: Filtering = FILTERING,
    draws: int = 1,
    glimpses: Sequence[float] | None = None,
    lag: torch.Tensor | None = None,
) -> RssmState:
    """Posterior states of sequences whose images were embedded before, several draws per row.

    ``embedding`` [T, B, E]; ``action`` float32 [T, B, 7], ``action[t]`` executed after frame t.
    ``is_first`` bool [T, B] resets a row wherever set, so that rows may begin at different times.
    The result is [T, S * B, ...], draw by draw: the same numbers as an :class:`OnlineFilter` fed
    with the same frames and generators. With ``glimpses``, a chance for each draw, its rows look at
    a frame with that chance and at first frames; where they do not look, the state goes on with
    what the prior predicts. ``lag`` float32 [B, 6] is how far each row's hand is behind its target
    in first frames, for sequences that begin in the middle of play and states that carry
    proprioception; without it the hand is there at rest, as in an episode's first frame.
    """
    rows, device = embedding.shape[1], embedding.device
    if lag is not None:
        lag = lag.repeat(draws, 1)
    state = world_model.initial(rows * draws, device)
    if glimpses is not None:
        chance = torch.tensor(glimpses, device=device).repeat_interleave(rows)
    states = []
    for t in range(len(embedding)):
        prev_action = (action[t - 1] if t else torch.zeros_like(action[0])).repeat(draws, 1)
        seen, first = embedding[t].repeat(draws, 1), is_first[t].repeat(draws)
        looks = None
        if glimpses is not None:
            looks = first | (uniform((rows * draws,), generator, device) < chance)
        given = state, seen, prev_action, first, generator, filtering, looks, lag
        state = filter_step(world_model, *given)
        states.append(state)
    return RssmState(*(torch.stack(part) for part in zip(*states, strict=True)))


@torch.no_grad()
def first_state(
    world_model: WorldModel,
    embedding: torch.Tensor,
    generator: Generators,
    filtering: Filtering,
    lag: torch.Tensor | None = None,
) -> RssmState:
    """Posterior state [B, ...] of first frames ``embedding`` [B, E], from the zero state.

    For ``lag`` [B, 6] see :func:`filter_embeddings`.
    """
    first = torch.ones(len(embedding), dtype=torch.bool, device=embedding.device)
    nothing = torch.zeros(len(embedding), ACTION_SIZE, device=embedding.device)
    start = world_model.initial(len(embedding), embedding.device)
    return filter_step(world_model, start, embedding, nothing, first, generator, filtering, lag=lag)


def filter_step(
    world_model: WorldModel,
    state: RssmState,
    embedding: torch.Tensor,
    prev_action: torch.Tensor,
    is_first: torch.Tensor,
    generator: Generators,
    filtering: Filtering,
    looks: torch.Tensor | None = None,
    lag: torch.Tensor | None = None,
) -> RssmState:
    """The next posterior state [B, ...]; ``prev_action`` is taken as the robot executes it.

    Rows with ``is_first`` [B] see their frame ``burn_in`` times more, as if the arm rested there.
    Rows without ``looks`` [B], if that is given, go on with what the prior predicts. For ``lag``
    [B, 6] see :func:`filter_embeddings`.
    """
    sample = filtering.sample
    state = world_model.filter_step(
        state, executable(prev_action), embedding, is_first, generator, sample, looks, lag
    )
    if not (filtering.burn_in and is_first.any()):
        return state
    rested, never, action = state, torch.zeros_like(is_first), resting_action(embedding)
    for _ in range(filtering.burn_in):
        rested = world_model.filter_step(rested, action, embedding, never, generator, sample)
    pairs = zip(rested, state, strict=True)
    return RssmState(*(torch.where(is_first.unsqueeze(-1), *pair) for pair in pairs))


def resting_action(embedding: torch.Tensor) -> torch.Tensor:
    """The action [..., 7] of an arm that rests in a frame of ``embedding`` [..., E].

    No motion, and the gripper command that its proprioception, the embedding's end, tells.
    """
    action = torch.zeros(*embedding.shape[:-1], ACTION_SIZE, device=embedding.device)
    # Normalised, commands are 0 and 1.
    action[..., -1] = torch.where(embedding[..., -1] > 0.5, 1.0, -1.0)
    return action
