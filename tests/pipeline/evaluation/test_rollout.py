"""Roll-outs in the real simulator where every episode needs a process of its own."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pybullet")

from pipeline.evaluation.rollout import Agent, Experience, Outcome, execute, roll_out, run_control
from tests.pipeline.small_run import CONFIG
from tests.wam.button import PIXELS, STATES, episodes, processes, recorded
from wam.config import CHUNK, PROPRIO_SIZE, Filtering
from wam.envs.episode import Episode
from wam.envs.pool import EnvPool
from wam.policy.network import DiffusionMlp
from wam.policy.policy import DiffusionPolicy
from wam.proprio import ProprioNormalizer
from wam.randomness import Generators
from wam.world_model.model import WorldModel

COUNT, STEPS = 5, 30
NEVER = 3
"""The episode whose LED is on already, so that the button puts it out."""


class Pressing:
    """Samples from a network, and goes down."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._policy = DiffusionPolicy(DiffusionMlp(CONFIG.feature, (32, 32, 32), 4, 8))

    def act(
        self, feature: torch.Tensor, generator: Generators, ddim_steps: int | None = None
    ) -> torch.Tensor:
        chunk = self._policy.act(feature, generator, ddim_steps) * 0.1
        chunk[..., 2] -= 0.4
        chunk[..., 6] = -1.0
        return chunk


class Steady:
    """Always does the same, and remembers on what."""

    def __init__(self) -> None:
        self.features: list[torch.Tensor] = []

    def act(
        self, feature: torch.Tensor, generator: Generators, ddim_steps: int | None = None
    ) -> torch.Tensor:
        self.features.append(feature)
        return torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]).expand(len(feature), CHUNK, 7)


@pytest.fixture(scope="module")
def starts() -> list[Episode]:
    made = episodes(COUNT)
    made[NEVER].scene_obs[5] = 1.0
    return made


@pytest.fixture(scope="module")
def agent() -> Agent:
    normalizer = ProprioNormalizer(np.zeros(PROPRIO_SIZE), np.ones(PROPRIO_SIZE))
    model, filtering = WorldModel(CONFIG, seed=1), Filtering("sample", burn_in=1)
    return Agent(model, normalizer, Pressing(), filtering, torch.device("cpu"))  # type: ignore[arg-type]


def lived(experience: Experience) -> Sequence[torch.Tensor]:
    """All that an experience says of its episodes while they lasted."""
    told = [experience.first, experience.decisions]
    for decision, chunk in enumerate(experience.chunks):
        lasted = experience.decisions > decision
        told += [chunk[lasted], experience.features[decision][lasted]]
    return told


def same(one: Outcome, other: Outcome) -> None:
    for mine, theirs in zip(
        (one.success, one.steps, *one.actions),
        (other.success, other.steps, *other.actions),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_outcomes_do_not_depend_on_how_many_processes_run_at_a_time(
    agent: Agent, starts: list[Episode], tmp_path: Path
) -> None:
    ended: list[tuple[int, int]] = []

    def tally(*more: int) -> None:
        ended.append(more)  # type: ignore[arg-type]

    with EnvPool(PIXELS, 2) as pool:
        outcome, experience = roll_out(agent, pool, starts, STEPS, tally)
    assert outcome.success.tolist() == [row != NEVER for row in range(COUNT)]
    assert len(set(outcome.steps.tolist())) > 1
    assert outcome.steps[NEVER] == STEPS
    told = np.sum(ended, axis=0).tolist()
    assert told == [COUNT, COUNT - 1]
    for workers in (1, 2, COUNT + 1):
        log = tmp_path / str(workers)
        ended.clear()
        with EnvPool(partial(recorded, log), workers, fresh_processes=True) as pool:
            grouped, seen = roll_out(agent, pool, starts, STEPS, tally)
        same(grouped, outcome)
        assert len(seen.chunks) == len(experience.chunks)
        pairs = zip(lived(seen), lived(experience), strict=True)
        assert all(torch.equal(mine, usual) for mine, usual in pairs)
        assert np.sum(ended, axis=0).tolist() == told
        pids, most = processes(log)
        assert len(pids) == len(set(pids)) == COUNT
        assert most == min(workers, COUNT)


def test_an_aftermath_changes_no_outcome(agent: Agent, starts: list[Episode]) -> None:
    going_on = [start._replace(aftermath=8) for start in starts]
    ended: list[tuple[int, int]] = []
    with EnvPool(PIXELS, 2) as pool:
        outcome, experience = roll_out(agent, pool, starts, STEPS, lambda *more: None)
        again, longer = roll_out(agent, pool, going_on, STEPS, lambda *more: ended.append(more))
        short, cut = roll_out(agent, pool, going_on, int(outcome.steps[0]), lambda *more: None)
    same(again, outcome)
    assert np.sum(ended, axis=0).tolist() == [COUNT, COUNT - 1]
    more = (longer.decisions - experience.decisions).tolist()
    assert more[NEVER] == 0
    assert {value for row, value in enumerate(more) if row != NEVER} <= {2}
    until = int(experience.decisions[0]) - 1
    assert torch.equal(longer.features[:until, 0], experience.features[:until, 0])
    # An episode that succeeds in its last step has no time for an aftermath.
    assert short.success[0]
    assert cut.decisions[0] == experience.decisions[0]


def test_an_agent_that_looks_once_acts_on_what_it_predicts(
    agent: Agent, starts: list[Episode]
) -> None:
    policies = Steady(), Steady()
    modes = [agent._replace(policy=each, filtering=Filtering("mode")) for each in policies]  # type: ignore[arg-type]
    with EnvPool(PIXELS, 2) as pool:
        _, seeing = roll_out(modes[0], pool, starts, 12, lambda *more: None)
        _, blind = roll_out(modes[1]._replace(look_every=0), pool, starts, 12, lambda *more: None)
    # The same is done and seen, but one acts on the frames and the other on what it expects.
    assert torch.equal(blind.features, seeing.features)
    seen, expected = (torch.stack(each.features) for each in policies)
    assert torch.equal(seen, torch.cat([seeing.first[None], seeing.features[:-1]]))
    actions = torch.cat(list(blind.chunks), dim=1)[:, :-CHUNK].transpose(0, 1)
    given = blind.first, actions, torch.Generator(), "mode"
    told = agent.world_model.imagine(*given)[CHUNK - 1 :: CHUNK]  # type: ignore[arg-type]
    torch.testing.assert_close(expected, torch.cat([blind.first[None], told]))
    assert not torch.equal(expected, seen)


def test_what_was_done_once_is_executed_without_looking(
    agent: Agent, starts: list[Episode], tmp_path: Path
) -> None:
    with EnvPool(PIXELS, 2) as pool:
        outcome, experience = roll_out(agent, pool, starts, STEPS, lambda *more: None)
    for make, workers in ((STATES, 2), (STATES, COUNT), (partial(recorded, tmp_path / "log"), 2)):
        with EnvPool(make, workers, fresh_processes=make is not STATES) as pool:
            success = execute(pool, starts, experience.chunks, STEPS)
        np.testing.assert_array_equal(success, outcome.success)
    with EnvPool(STATES, 2) as pool:
        assert not execute(pool, starts, experience.chunks, int(min(outcome.steps)) - 1).any()
        assert execute(pool, starts, experience.chunks, int(outcome.steps[0]))[0]


def test_controls_go_through_the_groups_too(starts: list[Episode], tmp_path: Path) -> None:
    ended: list[int] = []
    with EnvPool(PIXELS, 2) as pool:
        usual = run_control("expert", pool, starts, STEPS, lambda *more: None)
    with EnvPool(partial(recorded, tmp_path / "log"), 2, fresh_processes=True) as pool:
        grouped = run_control("expert", pool, starts, STEPS, lambda *more: ended.append(more[0]))
    same(grouped, usual)
    assert usual.success.sum() == COUNT - 1
    assert ended == [2, 2, 1]
    assert processes(tmp_path / "log")[1] == 2
