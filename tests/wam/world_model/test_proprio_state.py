"""Proprioception in the state: seen where there is a frame, else where the action says."""

from dataclasses import replace

import pytest
import torch

from wam.config import WorldModelConfig
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState

T, B = 5, 3
SPAN = torch.tensor([0.4, 0.5, 0.2])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(tiny_config: WorldModelConfig) -> WorldModel:
    model = WorldModel(replace(tiny_config, latent="probabilities", proprio_state=True), seed=1)
    assert model.rssm.proprio is not None
    model.rssm.proprio.calibrate(SPAN)
    return model


def test_an_untaught_hand_goes_exactly_where_relative_actions_say(model: WorldModel) -> None:
    embedding = torch.rand(B, 50, generator=generator(1))
    first = torch.ones(B, dtype=torch.bool)
    action = torch.rand(T, B, 7, generator=generator(2)) * 2 - 1
    state = model.filter_step(model.initial(B, "cpu"), action[0], embedding, first, generator())
    position = embedding[:, -18:-15]
    torch.testing.assert_close(state.feature[:, -18:-15], 4 * (position - 0.5))
    feature = model.imagine(state.feature, action, generator())[-1]
    moved = position + 0.02 * action[..., :3].sum(0) / SPAN
    torch.testing.assert_close(feature[:, -18:-15], 4 * (moved - 0.5))
    torch.testing.assert_close(feature[:, -15:], state.feature[:, -15:])
    assert model.config.feature == feature.shape[-1]


def test_a_window_is_filtered_as_step_by_step(model: WorldModel) -> None:
    embedding = torch.rand(T, B, 50, generator=generator(1))
    action = torch.rand(T, B, 7, generator=generator(2)) * 2 - 1
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2, 1] = True
    start = model.initial(B, "cpu")
    seen = torch.ones(T, B, dtype=torch.bool)
    observed = model.rssm.observe(embedding, action, is_first, start, generator(), seen=seen)
    state = start
    for t in range(T):
        state = model.filter_step(state, action[t], embedding[t], is_first[t], generator())
        torch.testing.assert_close(observed.states.feature[t], state.feature)
    assert observed.proprio is not None
    # The prediction of a frame comes from the state before, whatever the frame shows.
    before = RssmState(*(part[2] for part in observed.states))
    imagined = model.imagine_step(before, action[3], generator())
    torch.testing.assert_close(observed.proprio[3], imagined.stoch[:, -18:])


def test_a_blind_hand_is_the_predicted_one(model: WorldModel) -> None:
    embedding = torch.rand(T, B, 50, generator=generator(1))
    action = torch.rand(T, B, 7, generator=generator(2)) * 2 - 1
    is_first = torch.zeros(T, B, dtype=torch.bool)
    seen = torch.ones(T, B, dtype=torch.bool)
    seen[1:, 0] = False
    observed = model.rssm.observe(
        embedding, action, is_first, model.initial(B, "cpu"), generator(), seen=seen
    )
    assert observed.proprio is not None
    assert torch.equal(observed.states.stoch[1:, 0, -18:], observed.proprio[1:, 0])
    assert torch.equal(observed.states.stoch[1:, 1, -18:], 4 * (embedding[1:, 1, -18:] - 0.5))
