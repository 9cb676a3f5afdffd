"""Proprioception in the state: seen where there is a frame, else where commands lead the arm."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wam import proprio
from wam.batch import Batch
from wam.config import FILTERING, WorldModelConfig
from wam.proprio import ProprioNormalizer
from wam.world_model.assessment import predict
from wam.world_model.filtering import filter_embeddings
from wam.world_model.model import WorldModel
from wam.world_model.probe import action_response, imagined_views, scene_views
from wam.world_model.proprio_state import Arm, ArmMotion, lags
from wam.world_model.rssm import RssmState

T, B = 5, 3
STEP = np.array([0.02] * 3 + [0.05] * 3)
FOLLOW = np.diag([0.3, 0.35, 0.45, 0.5, 0.4, 0.4])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def robot_obs(pose: np.ndarray, command: np.ndarray) -> np.ndarray:
    """An arm at ``pose`` [N, 6], whose last gripper ``command`` [N] was this."""
    rest = np.full((len(pose), 8), 0.1)
    return np.concatenate([pose, rest, command[:, None]], axis=1)


class RecordedArm:
    """Episodes of an arm that moves by a fixed part of its lag, wherever it is."""

    def __init__(self, episodes: int, frames: int) -> None:
        rng = np.random.default_rng(3)
        shape = episodes, frames
        self.action = rng.uniform(-1, 1, (*shape, 7))
        self.action[..., 6] = np.sign(self.action[..., 6])
        pose, lag = np.zeros((*shape, 6)), np.zeros((*shape, 6))
        # Beside a half turn, where Euler angles jump.
        home = np.array([0, -0.1, 0.5, np.pi, 0, 1.5])
        pose[:, 0] = home + rng.uniform(-0.1, 0.1, (episodes, 6))
        for t in range(1, frames):
            urge = lag[:, t - 1] + self.action[:, t, :6]
            moved = urge @ FOLLOW
            pose[:, t], lag[:, t] = pose[:, t - 1] + STEP * moved, urge - moved
        pose[..., 3:] = (pose[..., 3:] + np.pi) % (2 * np.pi) - np.pi
        self.lag = lag
        flat = robot_obs(pose.reshape(-1, 6), self.action[..., 6].ravel())
        self.proprio = proprio.from_robot_obs(flat).reshape(*shape, 18)
        rows = self.proprio.reshape(-1, 18)
        self.normalizer = ProprioNormalizer(rows.min(0), rows.max(0))
        first = np.zeros(shape, bool)
        first[:, 0] = True
        self.motion = ArmMotion(
            torch.from_numpy(rows),
            torch.from_numpy(self.action.reshape(-1, 7)).float(),
            torch.from_numpy(first.ravel()),
        )

    def embedding(self, episodes: int, frames: int) -> torch.Tensor:
        """Of the first frames [frames, episodes, 50]; images are noise."""
        shown = torch.from_numpy(self.normalizer(self.proprio[:episodes, :frames]))
        visual = torch.rand(episodes, frames, 32, generator=generator(1))
        return torch.cat([visual, shown], dim=-1).transpose(0, 1)

    def actions(self, episodes: int, frames: int) -> torch.Tensor:
        """What led to the first frames, float32 [frames, episodes, 7]."""
        return torch.from_numpy(self.action[:episodes, :frames]).float().transpose(0, 1)


@pytest.fixture(scope="module")
def arm() -> RecordedArm:
    return RecordedArm(episodes=20, frames=30)


@pytest.fixture
def model(tiny_config: WorldModelConfig, arm: RecordedArm) -> WorldModel:
    model = WorldModel(replace(tiny_config, latent="probabilities", proprio_state=True), seed=1)
    assert model.rssm.proprio is not None
    model.rssm.proprio.calibrate(arm.normalizer, arm.motion)
    return model


def test_how_the_arm_follows_is_learned_from_play(model: WorldModel, arm: RecordedArm) -> None:
    state = model.rssm.proprio
    assert state is not None
    torch.testing.assert_close(state.follow, torch.tensor(FOLLOW).float(), atol=1e-3, rtol=0)
    lag = torch.from_numpy(arm.lag.reshape(-1, 6)).float()
    torch.testing.assert_close(lags(arm.motion), lag, atol=1e-3, rtol=0)


def test_an_untaught_hand_goes_where_the_arm_would(model: WorldModel, arm: RecordedArm) -> None:
    """Thirty steps after a first frame: place, direction, lag and gripper, without another look."""
    frames = 30
    embedding, action = arm.embedding(B, frames), arm.actions(B, frames)
    first = torch.ones(B, dtype=torch.bool)
    state = model.filter_step(model.initial(B, "cpu"), action[0], embedding[0], first, generator())
    feature = model.imagine(state.feature, action[1:], generator())
    shown = 4 * (embedding[1:, :, -18:] - 0.5)
    torch.testing.assert_close(feature[..., -18:], shown, atol=0.02, rtol=0)
    lag = torch.from_numpy(arm.lag[:B, 1:frames]).float().transpose(0, 1)
    torch.testing.assert_close(feature[..., -24:-18], lag, atol=0.02, rtol=0)
    assert model.config.feature == feature.shape[-1]


def test_the_network_is_told_to_millimetres_where_a_free_hand_gets_to(
    model: WorldModel, arm: RecordedArm
) -> None:
    state = model.rssm.proprio
    assert state is not None
    shown, action = state.shown(arm.embedding(B, 3)), arm.actions(B, 3)
    lag = torch.from_numpy(arm.lag[:B, :3]).float().transpose(0, 1)
    now, later = (Arm(shown.pose[t], lag[t], shown.rest[t]) for t in (1, 2))
    told = state.ahead(now, action[2])
    # Sines of waves of 32, 16, 8 and 4 cm of x, y and z, then their cosines.
    sines, cosines = told.view(B, 2, 4, 3).unbind(1)
    for row, wave in enumerate((0.32, 0.16, 0.08, 0.04)):
        phase = later.pose[:, :3] * 2 * np.pi / wave
        torch.testing.assert_close(sines[:, row], phase.sin(), atol=2e-2, rtol=0)
        torch.testing.assert_close(cosines[:, row], phase.cos(), atol=2e-2, rtol=0)
    raised = now._replace(pose=now.pose + torch.tensor([0, 0, 0.003, 0, 0, 0]))
    assert ((state.ahead(raised, action[2]) - told).norm(dim=-1) > 0.5).all()


def test_a_window_is_filtered_as_step_by_step(model: WorldModel, arm: RecordedArm) -> None:
    embedding, action = arm.embedding(B, T), arm.actions(B, T)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2, 1] = True
    start = model.initial(B, "cpu")
    seen = torch.ones(T, B, dtype=torch.bool)
    observed = model.rssm.observe(embedding, action, is_first, start, generator(), seen=seen)
    state = start
    for t in range(T):
        state = model.filter_step(state, action[t], embedding[t], is_first[t], generator())
        torch.testing.assert_close(observed.states.feature[t], state.feature)
    assert observed.arm is not None
    # The prediction of a frame comes from the state before, whatever the frame shows.
    before = RssmState(*(part[2] for part in observed.states))
    imagined = model.imagine_step(before, action[3], generator())
    torch.testing.assert_close(observed.arm[3], imagined.stoch[:, -24:])


def test_a_seen_hand_is_behind_by_what_it_has_not_done(model: WorldModel, arm: RecordedArm) -> None:
    embedding, action = arm.embedding(B, T), arm.actions(B, T)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[0] = True
    start = model.initial(B, "cpu")
    observed = model.rssm.observe(embedding, action, is_first, start, generator())
    lag = torch.from_numpy(arm.lag[:B, :T]).float().transpose(0, 1)
    torch.testing.assert_close(observed.states.stoch[..., -24:-18], lag, atol=1e-3, rtol=0)
    # A row that begins in the middle of an episode is told.
    is_first[2] = True
    told = model.rssm.observe(embedding, action, is_first, start, generator(), lag=lag)
    torch.testing.assert_close(told.states.stoch[..., -24:-18], lag, atol=1e-3, rtol=0)
    untold = model.rssm.observe(embedding, action, is_first, start, generator())
    assert torch.equal(untold.states.stoch[2, :, -24:-18], torch.zeros(B, 6))


def test_a_sequence_from_the_middle_of_play_is_told_its_lag(
    model: WorldModel, arm: RecordedArm
) -> None:
    begin, frames = 4, 25
    embedding = arm.embedding(B, begin + frames)[begin:]
    action = arm.actions(B, begin + frames + 1)[begin + 1 :]  # what follows each frame
    is_first = torch.zeros(frames, B, dtype=torch.bool)
    is_first[0] = True
    lag = torch.from_numpy(arm.lag[:B, begin : begin + frames]).float().transpose(0, 1)
    given = model, embedding, action, is_first, generator(), FILTERING, 2
    feature = filter_embeddings(*given, lag=lag[0]).feature
    both = lag.repeat(1, 2, 1)
    torch.testing.assert_close(feature[..., -24:-18], both, atol=1e-3, rtol=0)
    imagined = model.imagine(feature[0], action[:-1].repeat(1, 2, 1), generator())
    torch.testing.assert_close(imagined[-1, :, -18:], feature[-1, :, -18:], atol=0.05, rtol=0)
    state = model.rssm.proprio
    assert state is not None
    # Untold, the hand of a dream misses its place by what nobody knew.
    rested = filter_embeddings(*given).feature
    assert not rested[0, :, -24:-18].any()
    untold = model.imagine(rested[0], action[:-1].repeat(1, 2, 1), generator())
    assert (untold[-1, :, -18:] - feature[-1, :, -18:]).abs().max() > 0.1


def test_windows_of_play_are_imagined_from_where_the_hand_is_led(
    model: WorldModel, arm: RecordedArm
) -> None:
    begin, frames = 4, 25
    embedding = arm.embedding(B, begin + frames)[begin:]
    action = arm.actions(B, begin + frames + 1)[begin + 1 :]
    is_first = torch.arange(frames).unsqueeze(1).expand(-1, B) == 0
    unread = torch.empty(0, B)
    lag = torch.from_numpy(arm.lag[:B, begin]).float().unsqueeze(0)
    windows = Batch(unread, unread, unread, unread, action, is_first, unread, lag=lag)
    scene = torch.zeros(frames, B, 1)
    shown = 4 * (embedding[-1, :, -18:] - 0.5)
    missed = []
    for told in (windows, windows._replace(lag=lag[:0])):
        views = imagined_views(model, embedding, told, scene, 0, [frames - 1])
        missed.append((views[frames - 1].inputs[:, -18:] - shown).abs().max())
    assert missed[0] < 0.05 < 0.1 < missed[1]


def test_whatever_is_measured_on_windows_of_play_knows_the_lag(model: WorldModel) -> None:
    frames = 12
    images = torch.randint(0, 256, (2, frames, B, 64, 64, 3), generator=generator()).byte()
    seen = torch.rand(frames, B, 18, generator=generator())
    action = torch.rand(frames, B, 7, generator=generator(1)) - 0.5
    is_first = torch.arange(frames).unsqueeze(1).expand(-1, B) == 0
    mask = torch.ones(frames - 1, B, dtype=torch.bool)
    untold = Batch(*images, seen, action, action, is_first, mask)
    windows = untold._replace(lag=torch.full((1, B, 6), 0.5))
    _, embedding = model.embed(*images, seen)
    scene = torch.zeros(frames, B, 1)

    def hand(feature: torch.Tensor) -> torch.Tensor:
        return feature[..., -18:-15]

    def measured(told: Batch) -> list[torch.Tensor]:
        (part,) = predict(model, told, 0, torch.device("cpu"))
        views = scene_views(model, embedding, told, scene, 0)
        given = embedding, told, 0, 8
        response = action_response(model, hand, *given)  # type: ignore[arg-type]
        return [
            part.kl,
            *part.posterior.values(),
            *part.open_loop.values(),
            views.latent.inputs,
            views.first_latent.inputs,
            torch.tensor(list(response.values())),
        ]

    for one, other in zip(measured(windows), measured(untold), strict=True):
        assert not torch.equal(one, other)
    for one, other in zip(measured(windows), measured(windows), strict=True):
        assert torch.equal(one, other)


def test_a_blind_hand_is_the_predicted_one(model: WorldModel, arm: RecordedArm) -> None:
    embedding, action = arm.embedding(B, T), arm.actions(B, T)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    seen = torch.ones(T, B, dtype=torch.bool)
    seen[1:, 0] = False
    observed = model.rssm.observe(
        embedding, action, is_first, model.initial(B, "cpu"), generator(), seen=seen
    )
    assert observed.arm is not None
    torch.testing.assert_close(observed.states.stoch[1:, 0, -24:], observed.arm[1:, 0])
    shown = 4 * (embedding[1:, 1, -18:] - 0.5)
    torch.testing.assert_close(observed.states.stoch[1:, 1, -18:], shown, atol=1e-4, rtol=0)


def test_gradients_are_finite_before_anything_was_seen(tiny_config: WorldModelConfig) -> None:
    """The zero state of a model that was not calibrated has no direction."""
    model = WorldModel(replace(tiny_config, latent="probabilities", proprio_state=True), seed=1)
    is_first = torch.ones(T, B, dtype=torch.bool)
    embedding = torch.full((T, B, 50), 0.5).requires_grad_()
    start = model.initial(B, "cpu")
    observed = model.rssm.observe(embedding, torch.zeros(T, B, 7), is_first, start, generator())
    assert observed.arm is not None
    (observed.states.feature.sum() + observed.arm.sum()).backward()
    assert embedding.grad is not None and embedding.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
