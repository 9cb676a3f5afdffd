"""The simulator as the environment of PPO, compared with one that is stepped by hand."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch

pytest.importorskip("pybullet")

from tests.wam.button import HOLD, PIXELS, episodes
from wam import proprio
from wam.actions import executable
from wam.config import CHUNK, FILTERING, PROPRIO_SIZE, Filtering, Sampling, WorldModelConfig
from wam.distractors import disturbed
from wam.envs.controls import CONTROLS
from wam.envs.episode import Episode
from wam.envs.filtered import FilteredPool
from wam.envs.oracle import PREDICATES
from wam.envs.pool import EnvPool
from wam.envs.simulated import SimulatedEnv
from wam.errors import WamError
from wam.policy.network import DiffusionMlp
from wam.policy.policy import FinetunedPolicy
from wam.ppo.imagination import Transition
from wam.ppo.ppo import collect
from wam.proprio import ProprioNormalizer
from wam.randomness import Generators, uniform
from wam.world_model.filtering import Observation, OnlineFilter
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState

CPU = torch.device("cpu")
NORMALIZER = ProprioNormalizer(np.zeros(PROPRIO_SIZE), np.ones(PROPRIO_SIZE))
PRESS = (0.0, 0.0, -0.4375, 0.0, 0.0, 0.0, -1.0)


@pytest.fixture(scope="module")
def starts() -> list[Episode]:
    return episodes(3)


@pytest.fixture(scope="module")
def pools() -> Iterator[tuple[EnvPool, EnvPool]]:
    """A pool with one worker and one with two."""
    with EnvPool(PIXELS, 1) as one, EnvPool(PIXELS, 2) as two:
        yield one, two


class Transparent:
    """A world model whose feature shows all that it was told: the observation now, and since the
    episode's first frame the number of steps, the sum of actions and, if sampled, of noise.
    """

    def __init__(self, *, distractors: bool = False) -> None:
        self.config = WorldModelConfig(distractors=distractors)

    def initial(self, rows: int, device: torch.device) -> RssmState:
        return RssmState(torch.zeros(rows, PROPRIO_SIZE + 2), torch.full((rows, 9), torch.nan))

    def embed(
        self, rgb_static: torch.Tensor, rgb_gripper: torch.Tensor, values: torch.Tensor
    ) -> tuple[None, torch.Tensor]:
        brightness = [rgb.float().mean((1, 2, 3)) for rgb in (rgb_static, rgb_gripper)]
        return None, torch.cat([values, torch.stack(brightness, 1)], 1)

    def filter_step(
        self,
        state: RssmState,
        prev_action: torch.Tensor,
        embedding: torch.Tensor,
        is_first: torch.Tensor,
        generator: Generators,
        sample: Sampling,
        seen: torch.Tensor | None,
        lag: torch.Tensor | None,
    ) -> RssmState:
        assert seen is None, "nothing here looks less than at every frame"
        assert lag is None, "episodes begin at rest"
        rows = len(embedding)
        noise = uniform((rows, 1), generator, CPU) * (sample == "sample")
        told = torch.cat([torch.ones(rows, 1), prev_action, noise], 1)
        begun = torch.cat([torch.zeros(rows, 8), noise], 1)
        return RssmState(embedding, torch.where(is_first[:, None], begun, state.stoch + told))


class Watched(FilteredPool):
    """Remembers every episode that began."""

    def start(self, begun: Sequence[Episode]) -> None:
        self.begun = list(begun)
        super().start(begun)

    def restart(self, begun: Mapping[int, Episode]) -> None:
        self.begun += begun.values()
        super().restart(begun)


def watch(pool: EnvPool, filtering: Filtering = FILTERING, *, distractors: bool = False) -> Watched:
    model = Transparent(distractors=distractors)
    return Watched(pool, model, NORMALIZER, filtering, CPU)  # type: ignore[arg-type]


def make_env(
    filtered: FilteredPool, starts: list[Episode], envs: int, max_decisions: int = 4
) -> SimulatedEnv:
    random = torch.Generator().manual_seed(5)
    return SimulatedEnv(filtered, starts, envs, max_decisions, random)


def chunk(*rows: tuple[float, ...]) -> torch.Tensor:
    """float32 [B, 4, 7]: one action per row, held."""
    return torch.tensor(rows).unsqueeze(1).repeat(1, CHUNK, 1)


def by_hand(
    start: Episode, action: tuple[float, ...], steps: int, *, distractors: bool = False
) -> tuple[torch.Tensor, int | None]:
    """Features [steps + 1, F] of holding ``action``, and the first step behind which it is done."""
    env = PIXELS()
    online = OnlineFilter(Transparent(), torch.Generator(), Filtering("mode"))  # type: ignore[arg-type]

    def see(observation: dict[str, np.ndarray], time: int = 0) -> Observation:
        values = NORMALIZER(proprio.from_robot_obs(observation["robot_obs"]))
        images = [observation["rgb_static"], observation["rgb_gripper"]]
        if distractors:
            images = [disturbed(i, start.seed, time, camera) for camera, i in enumerate(images)]
        arrays = (*images, values)
        return Observation(*(torch.from_numpy(array.copy()).unsqueeze(0) for array in arrays))

    observation, first = env.reset(
        options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs}
    )
    features, done = [online.reset(see(observation))], None
    for step in range(1, steps + 1):
        observation, _, _, _, info = env.step(np.array(action))
        features.append(online.step(see(observation, step), torch.tensor([action])))
        if done is None and PREDICATES[start.task](first, info):
            done = step
    env.close()
    return torch.cat(features), done


def test_rewards_ends_and_states_are_those_of_a_simulator_stepped_by_hand(
    pools: tuple[EnvPool, EnvPool], starts: list[Episode]
) -> None:
    pressed, done = by_hand(starts[0], PRESS, 16)
    held, never = by_hand(starts[0], HOLD, 16)
    assert done is not None and never is None
    last = (done - 1) // CHUNK + 1
    assert 1 < last < 4
    assert done % CHUNK, "the success should lie inside a chunk"
    env = make_env(watch(pools[1], Filtering("mode")), starts[:1], 2)
    assert torch.equal(env.reset(), torch.stack([pressed[0], held[0]]))
    age = 0
    for decision in range(1, 7):
        feature, reward, terminated, truncated, active = env.step(chunk(PRESS, HOLD))
        assert active.all()
        age += 1
        succeeded = age == last
        assert terminated.tolist() == [succeeded, False]
        assert reward.tolist() == [float(succeeded), 0.0]
        assert truncated.tolist() == [False, decision == 4]
        # Returned is the state before the reset, current is the one behind it.
        assert torch.equal(feature[0], pressed[done if succeeded else CHUNK * age])
        assert torch.equal(feature[1], held[CHUNK * (decision if decision <= 4 else decision - 4)])
        assert torch.equal(env.feature[0], pressed[0] if succeeded else feature[0])
        assert torch.equal(env.feature[1], held[0] if decision == 4 else feature[1])
        age = 0 if succeeded else age


def test_finished_environments_begin_at_any_start_with_a_seed_of_their_own(
    pools: tuple[EnvPool, EnvPool], starts: list[Episode]
) -> None:
    filtered = watch(pools[1])
    env = make_env(filtered, starts, 3, max_decisions=1)
    env.reset()
    for _ in range(4):
        assert env.step(chunk(HOLD, HOLD, HOLD)).truncated.all()
    for number, episode in enumerate(filtered.begun[-3:]):
        first = by_hand(episode, HOLD, 0)[0][0]
        assert torch.equal(env.feature[number, :-1], first[:-1])
    assert len(filtered.begun) == 15
    assert len({episode.seed for episode in filtered.begun}) == 15
    assert {id(episode.robot_obs) for episode in filtered.begun} == {
        id(start.robot_obs) for start in starts
    }


def test_distractors_are_an_episodes_own_and_move_with_its_frames(
    pools: tuple[EnvPool, EnvPool], starts: list[Episode]
) -> None:
    seen = [by_hand(start, HOLD, 2 * CHUNK, distractors=True)[0] for start in starts]
    plain = by_hand(starts[0], HOLD, 0)[0]
    assert not torch.equal(seen[0][0], plain[0])
    filtered = watch(pools[1], Filtering("mode"), distractors=True)
    hold = chunk(HOLD, HOLD, HOLD)
    filtered.start(starts)
    for age in (0, CHUNK):
        assert torch.equal(filtered.feature, torch.stack([own[age] for own in seen]))
        if not age:
            filtered.step(hold)
    filtered.restart({1: starts[0]})
    assert torch.equal(filtered.feature[1], seen[0][0])
    filtered.step(hold)
    expected = torch.stack([seen[0][2 * CHUNK], seen[0][CHUNK], seen[2][2 * CHUNK]])
    assert torch.equal(filtered.feature, expected)


def test_an_experts_chunks_succeed(pools: tuple[EnvPool, EnvPool], starts: list[Episode]) -> None:
    pools[0].start(starts[:1])
    expert = pools[0].follow(CONTROLS["expert"], 40)
    assert expert.success.all()
    actions = expert.actions[0, : expert.steps[0]].astype(np.float32)
    env = make_env(watch(pools[0]), starts[:1], 1, max_decisions=18)
    env.reset()
    rest = -len(actions) % CHUNK
    padded = np.concatenate([actions, np.tile(actions[-1:], (rest, 1))])
    rewards = [
        env.step(torch.from_numpy(padded[None, at : at + CHUNK])).reward.item()
        for at in range(0, len(padded), CHUNK)
    ]
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_experience_does_not_depend_on_the_number_of_workers(
    pools: tuple[EnvPool, EnvPool], starts: list[Episode]
) -> None:
    def experience(pool: EnvPool) -> list[Transition]:
        env = make_env(watch(pool), starts, 3, max_decisions=2)
        random = torch.Generator().manual_seed(1)
        env.reset()
        return [
            env.step(executable(torch.rand(3, CHUNK, 7, generator=random) * 2 - 1))
            for _ in range(4)
        ]

    one, two = (experience(pool) for pool in pools)
    for first, second in zip(one, two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert one[1].truncated.any()


def test_ppo_collects_from_it(
    pools: tuple[EnvPool, EnvPool], starts: list[Episode], tiny_model: WorldModel
) -> None:
    env = make_env(FilteredPool(pools[1], tiny_model, NORMALIZER, FILTERING, CPU), starts, 2)
    feature = env.reset().shape[1]
    base, actor = (DiffusionMlp(feature, (8,), 4, 4) for _ in range(2))
    rollout = collect(env, FinetunedPolicy(base, actor, 2), 2, 0.1, torch.Generator())
    assert rollout.feature.shape == (2, 2, feature)
    assert torch.equal(rollout.feature[1], rollout.next_feature[0])


def test_it_has_to_be_reset_first_and_needs_starts(
    pools: tuple[EnvPool, EnvPool], starts: list[Episode]
) -> None:
    env = make_env(watch(pools[0]), starts, 2)
    with pytest.raises(RuntimeError, match="reset the environments first"):
        env.step(chunk(HOLD, HOLD))
    with pytest.raises(WamError, match="no start states"):
        make_env(watch(pools[0]), [], 2)
