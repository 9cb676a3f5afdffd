from collections.abc import Sequence

import pytest
import torch

from tests.wam.world_model.sequences import filter_sequence
from wam.actions import executable
from wam.config import Filtering, WorldModelConfig
from wam.randomness import row_generators
from wam.world_model.filtering import Observation, OnlineFilter, filter_embeddings
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState

STEPS, ROWS = 5, 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world_model() -> WorldModel:
    config = WorldModelConfig(
        cnn_depth=4,
        visual_embedding=16,
        decoder_channels=16,
        deter=16,
        stoch=4,
        classes=4,
        hidden=16,
        id_hidden=(8,),
    )
    return WorldModel(config).eval()


@pytest.fixture(scope="module")
def recording() -> tuple[Observation, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, STEPS, ROWS, 64, 64, 3), generator=random).to(torch.uint8)
    observation = Observation(*images, torch.rand(STEPS, ROWS, 18, generator=random))
    return observation, torch.rand(STEPS, ROWS, 7, generator=random) * 2 - 1


def at(observation: Observation, t: int, rows: slice = slice(None)) -> Observation:
    return Observation(*(field[t, rows] for field in observation))


def test_online_and_offline_filter_agree_bit_for_bit(world_model, recording) -> None:
    observation, action = recording
    states = filter_sequence(world_model, observation, action, row_generators(range(ROWS)))
    online = OnlineFilter(world_model, row_generators(range(ROWS)))
    assert torch.equal(online.reset(at(observation, 0)), states.feature[0])
    for t in range(1, STEPS):
        feature = online.step(at(observation, t), action[t - 1])
        assert torch.equal(feature, states.feature[t])
        assert torch.equal(online.feature, feature)


def test_a_burn_in_looks_at_the_first_frame_again(world_model, recording) -> None:
    observation, action = recording
    filtering = Filtering(burn_in=3)
    states = filter_sequence(
        world_model, observation, action, row_generators(range(ROWS)), filtering
    )
    first = Observation(*(field[:1].expand(4, *field.shape[1:]) for field in observation))
    rest = torch.zeros(4, ROWS, 7)
    # Whatever the gripper was told last, it is told again.
    rest[..., 6] = torch.where(observation.proprio[0, :, -1] > 0.5, 1.0, -1.0)
    assert len(rest[..., 6].unique()) == 2
    looks = filter_sequence(world_model, first, rest, row_generators(range(ROWS)))
    assert torch.equal(states.feature[0], looks.feature[-1])
    online = OnlineFilter(world_model, row_generators(range(ROWS)), filtering)
    assert torch.equal(online.reset(at(observation, 0)), states.feature[0])
    feature = online.step(at(observation, 1), action[0])
    assert torch.equal(feature, states.feature[1])


def test_a_row_depends_on_its_own_frames_and_generator_only(world_model, recording) -> None:
    observation, action = recording
    states = filter_sequence(world_model, observation, action, row_generators(range(ROWS)))
    one = Observation(*(field[:, 2:] for field in observation))
    alone = filter_sequence(world_model, one, action[:, 2:], row_generators([2]))
    torch.testing.assert_close(alone.feature[:, 0], states.feature[:, 2], atol=1e-5, rtol=0)


def test_the_filter_sees_actions_as_the_robot_executes_them(world_model, recording) -> None:
    observation, action = recording
    fractional = action.clone()
    fractional[..., 6] *= 0.3
    fractional[..., 0] = 5.0
    clamped = action.clone()
    clamped[..., 0] = 1.0
    features = [
        filter_sequence(world_model, observation, given, torch.Generator().manual_seed(0)).feature
        for given in (fractional, clamped)
    ]
    assert torch.equal(*features)


@pytest.mark.parametrize("filtering", [Filtering("mode"), Filtering("mode", burn_in=3)])
def test_rows_may_begin_later_than_others(world_model, recording, filtering: Filtering) -> None:
    observation, action = recording
    embedding = world_model.embed(*observation)[1]
    is_first = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    is_first[0] = True
    is_first[2, 1] = True
    starts = torch.zeros(3, ROWS, dtype=torch.bool)
    starts[0] = True
    random = torch.Generator()
    mixed = filter_embeddings(world_model, embedding, action, is_first, random, filtering)
    late = filter_embeddings(world_model, embedding[2:], action[2:], starts, random, filtering)
    torch.testing.assert_close(mixed.feature[2:, 1], late.feature[:, 1], atol=1e-6, rtol=0)
    assert not torch.equal(mixed.feature[2:, 0], late.feature[:, 0])
    is_first[2, 1] = False
    alike = filter_embeddings(world_model, embedding, action, is_first, random, filtering)
    torch.testing.assert_close(mixed.feature[:, 0], alike.feature[:, 0], atol=1e-6, rtol=0)
    assert not torch.equal(mixed.feature[2:, 1], alike.feature[2:, 1])


def test_draws_are_repetitions_with_their_own_noise(world_model, recording) -> None:
    observation, action = recording
    embedding = world_model.embed(*observation)[1]
    is_first = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    is_first[0] = True
    random = torch.Generator().manual_seed(0)
    states = filter_embeddings(world_model, embedding, action, is_first, random, draws=2)
    assert states.feature.shape[:2] == (STEPS, 2 * ROWS)
    first, second = states.stoch.unflatten(1, (2, ROWS)).unbind(1)
    assert not torch.equal(first, second)
    # The first deterministic state comes from the zero state and no action: the same in all draws.
    deter = states.deter[0].unflatten(0, (2, ROWS))
    torch.testing.assert_close(deter[0], deter[1])


def test_glimpses_are_looks_at_some_frames_with_the_prior_between(world_model, recording) -> None:
    observation, action = recording
    embedding = world_model.embed(*observation)[1]
    is_first = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    is_first[0] = True
    filtering = Filtering("mode")

    def filtered(*chances: float) -> torch.Tensor:
        random, draws = torch.Generator().manual_seed(0), len(chances)
        given = embedding, action, is_first, random, filtering, draws, chances
        return filter_embeddings(world_model, *given).feature.unflatten(1, (draws, ROWS))

    every, never, some = filtered(1.0, 0.0, 0.5).unbind(1)
    seen = filter_sequence(world_model, observation, action, torch.Generator(), filtering).feature
    torch.testing.assert_close(every, seen)
    blind = world_model.imagine(seen[0], executable(action[:-1]), torch.Generator(), "mode")
    torch.testing.assert_close(never, torch.cat([seen[:1], blind]))
    # Up to its first look a row is as if it never looked, from then on as nothing else.
    # (To rounding: a row's products may depend on where in the batch it stands.)
    looks = ((some - never).abs() > 1e-4).any(-1).float().cummax(0).values
    assert looks[0].max() == 0 and 0 < looks[-1].mean()
    assert looks[1].mean() < 1 and not torch.equal(some, every)


@pytest.mark.parametrize("every", [0, 2])
def test_a_policy_may_look_now_and_then(world_model, recording, every: int) -> None:
    observation, action = recording
    filtering = Filtering("mode")
    online = OnlineFilter(world_model, torch.Generator(), filtering, every)
    whole = filter_sequence(world_model, observation, action, torch.Generator(), filtering)
    online.reset(at(observation, 0))
    state = RssmState(*(part[0] for part in whole))
    never = torch.zeros(ROWS, dtype=torch.bool)
    for t in range(1, STEPS):
        feature = online.step(at(observation, t), action[t - 1])
        executed = executable(action[t - 1])
        if every and t % every == 0:
            _, embedding = world_model.embed(*at(observation, t))
            state = world_model.filter_step(
                state, executed, embedding, never, torch.Generator(), "mode"
            )
        else:
            state = world_model.imagine_step(state, executed, torch.Generator(), "mode")
        torch.testing.assert_close(feature, state.feature)
        assert torch.equal(online.feature, feature)
        # What is not looked at is seen all the same.
        torch.testing.assert_close(online.seen, whole.feature[t])
        assert not torch.equal(online.seen, feature)


def test_rows_that_begin_anew_look_at_their_own_frames(world_model, recording) -> None:
    observation, action = recording

    def filtered(seeds: Sequence[int], begin: int = 0) -> OnlineFilter:
        online = OnlineFilter(world_model, row_generators(seeds), Filtering("sample"), 2)
        online.reset(at(observation, begin))
        return online

    def after(online: OnlineFilter, *times: int) -> list[torch.Tensor]:
        return [online.step(at(observation, t), action[t - 1]) for t in times]

    anew, going_on, fresh = filtered(range(ROWS)), filtered(range(ROWS)), filtered([0, 9, 0], 1)
    after(anew, 1), after(going_on, 1)
    anew.restart([1], at(observation, 1, slice(1, 2)), row_generators([9]))
    parts = zip(after(anew, 2, 3, 4), after(going_on, 2, 3, 4), after(fresh, 2, 3, 4), strict=True)
    for feature, usual, own in parts:
        torch.testing.assert_close(feature[1], own[1])
        torch.testing.assert_close(feature[[0, 2]], usual[[0, 2]])


def test_a_step_before_the_reset_is_refused(world_model, recording) -> None:
    observation, action = recording
    with pytest.raises(RuntimeError, match="reset"):
        OnlineFilter(world_model, torch.Generator()).step(at(observation, 0), action[0])


def test_single_rows_begin_anew_while_the_others_go_on(world_model, recording) -> None:
    observation, action = recording
    states = filter_sequence(world_model, observation, action, row_generators(range(ROWS)))
    online = OnlineFilter(world_model, row_generators(range(ROWS)))
    online.reset(at(observation, 0))
    online.step(at(observation, 1), action[0])
    # Rows 2 and 0 see their recordings from the start again, with their first random numbers.
    first = Observation(*(field[0, [2, 0]] for field in observation))
    feature = online.restart([2, 0], first, row_generators([2, 0]))
    torch.testing.assert_close(feature[[0, 2]], states.feature[0, [0, 2]], atol=1e-5, rtol=0)
    assert torch.equal(feature[1], states.feature[1, 1])
    mixed = Observation(*(torch.stack([f[1, 0], f[2, 1], f[1, 2]]) for f in observation))
    feature = online.step(mixed, torch.stack([action[0, 0], action[1, 1], action[0, 2]]))
    torch.testing.assert_close(feature[[0, 2]], states.feature[1, [0, 2]], atol=1e-5, rtol=0)
    assert torch.equal(feature[1], states.feature[2, 1])


def test_rows_that_share_a_generator_cannot_begin_anew(world_model, recording) -> None:
    online = OnlineFilter(world_model, torch.Generator())
    with pytest.raises(RuntimeError, match="reset the filter first"):
        online.restart([0], at(recording[0], 0, slice(1)), row_generators([0]))
    online.reset(at(recording[0], 0))
    with pytest.raises(ValueError, match="one generator per row"):
        online.restart([0], at(recording[0], 0, slice(1)), row_generators([0]))
