"""Latent features of demonstrations, from frames in memory."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.batches.embedded import read_arm_motion
from pipeline.latents.demonstrations import Demo, TaskDemos
from pipeline.params import Features
from pipeline.stages.featurize import CONTEXT_FRAMES, FeatureMaker
from tests.pipeline.small_run import CONFIG, CPU, TASK
from tests.wam.world_model.sequences import filter_sequence
from wam.config import Filtering
from wam.proprio import ProprioNormalizer
from wam.world_model.filtering import Observation, OnlineFilter
from wam.world_model.model import WorldModel
from wam.world_model.proprio_state import lags


class FakeStore:
    """Rows in memory."""

    def __init__(self, split: str, frames: int, seed: int) -> None:
        self.split, self.num_frames = split, frames
        self.episodes = np.array([[0, frames]])
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (2, frames, 64, 64, 3), dtype=np.uint8)
        scene = np.zeros((frames, 24))
        scene[:, 1] = 0.2  # the drawer is open, until the task closes it
        self.arrays = {
            "rgb_static": images[0],
            "rgb_gripper": images[1],
            "proprio": rng.random((frames, 18), dtype=np.float32),
            "rel_actions": rng.uniform(-1, 1, (frames, 7)).astype(np.float32),
            "scene_obs": scene,
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.arrays[name][start:stop]

    def proprio_normalizer(self) -> ProprioNormalizer:
        return ProprioNormalizer(np.zeros(18), np.ones(18))


def test_featurizing_filters_every_demonstration_from_its_first_frame() -> None:
    stores = {
        "training": FakeStore("training", 60, 0),
        "validation": FakeStore("validation", 30, 1),
    }
    stores["training"].arrays["scene_obs"][24:, 1] = 0.0
    model = WorldModel(CONFIG).eval()
    settings = Features(
        draws=2, sample="mode", burn_in=0, context=True, glimpses=(1.0, 0.0), seed=0
    )
    demos = TaskDemos(
        training=[Demo(start=20, stop=30, episode_start=5), Demo(40, 47, 40)],
        validation=[Demo(3, 12, 0)],
        starts=[],
        imagination_starts=[7, 50],
        training_play=[Demo(22, 28, 5)],
        validation_play=[],
    )
    maker = FeatureMaker(model, stores, settings, CPU)  # type: ignore[arg-type]
    features = maker.task_features(TASK, demos)
    training = features.training
    assert training.posterior.shape == (2, 17, CONFIG.feature)
    assert training.length.tolist() == [10, 7]
    # Closed from row 24 on; the second demonstration begins with a closed drawer.
    assert training.label.tolist() == [False] * 4 + [True] * 6 + [False] * 7
    assert features.validation.context is None

    def expected(store: FakeStore, start: int, stop: int) -> torch.Tensor:
        rows = [
            torch.from_numpy(store.read(name, start, stop)).unsqueeze(1)
            for name in ("rgb_static", "rgb_gripper", "proprio", "rel_actions")
        ]
        random = torch.Generator()
        states = filter_sequence(model, Observation(*rows[:3]), rows[3], random, Filtering("mode"))
        return states.feature[:, 0]

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    store = stores["training"]
    for draw in range(2):
        check(training.posterior[draw, :10], expected(store, 20, 30))
        check(training.posterior[draw, 10:], expected(store, 40, 47))
    assert training.context is not None
    assert CONTEXT_FRAMES > 15
    check(training.context[:10], expected(store, 5, 30)[15:])
    check(training.context[10:], expected(store, 40, 47))
    # One copy looks at every frame, one at the first alone.
    assert training.glimpsed is not None
    check(training.glimpsed[0], training.posterior[0])
    state, blind = model.split(training.posterior[0, 10:11]), training.glimpsed[1, 10:]
    check(blind[0], state.feature[0])
    for frame in range(1, 7):
        action = training.action[9 + frame : 10 + frame]
        state = model.imagine_step(state, action, torch.Generator(), "mode")
        check(blind[frame], state.feature[0])
    assert features.validation.glimpsed is None
    check(features.validation.posterior[0], expected(stores["validation"], 3, 12))
    play = features.training_play
    check(play.posterior[1], expected(stores["training"], 22, 28))
    assert play.label.tolist() == [False, False, True, True, True, True]
    assert features.validation_play.posterior.shape == (2, 0, CONFIG.feature)
    for index, row in enumerate((7, 50)):
        check(features.play_starts[0, index], expected(store, row, row + 1)[0])
    # Imagination starts at the first feature of each demonstration and takes its actions.
    check(training.imagined[:, [0, 10]], training.posterior[:, [0, 10]])
    state = model.split(training.posterior[1, 10:11])
    predicted = model.imagine_step(state, training.action[10:11], torch.Generator())
    check(training.imagined[1, 11, : CONFIG.deter], predicted.deter[0])
    assert torch.equal(training.action[..., 6].abs(), torch.ones(17))


def test_demonstrations_that_begin_on_the_way_are_told_the_lag() -> None:
    stores = {"training": FakeStore("training", 60, 0), "validation": FakeStore("validation", 9, 1)}
    for store in stores.values():  # an arm that hardly moves, and is never too far behind to tell
        proprio = store.arrays["proprio"]
        store.arrays["proprio"] = proprio[:1] + 1e-3 * proprio
    model = WorldModel(replace(CONFIG, proprio_state=True)).eval()
    settings = Features(draws=2, sample="mode", burn_in=2, context=True, glimpses=(0.5,), seed=0)
    demos = TaskDemos(
        training=[Demo(start=20, stop=30, episode_start=5), Demo(40, 47, 0)],
        validation=[Demo(3, 9, 0)],
        starts=[],
        imagination_starts=[7],
        training_play=[Demo(22, 28, 0)],
        validation_play=[],
    )
    maker = FeatureMaker(model, stores, settings, CPU)  # type: ignore[arg-type]
    features = maker.task_features(TASK, demos)
    lag = lags(read_arm_motion(stores["training"]))  # type: ignore[arg-type]
    training = features.training
    assert training.start.tolist() == [20, 40] and features.play_start_rows.tolist() == [7]
    for split in (training, features.training_play):
        told = split.posterior[:, split.first, -24:-18]
        torch.testing.assert_close(told[0], lag[split.start], atol=2e-3, rtol=2e-3)
        assert torch.equal(told[0], told[1])
        assert torch.equal(split.imagined[:, split.first], split.posterior[:, split.first])
    # So are the copies for cloning; an episode that is imagined begins at rest.
    assert training.context is not None and training.glimpsed is not None
    for copy in (training.context, training.glimpsed[0]):
        hands = copy[training.first, -24:-18]
        torch.testing.assert_close(hands, lag[training.start], atol=2e-3, rtol=2e-3)
    # With all that is filtered from the first frame: nothing of it may know the lag.
    for split, rows, starts in (
        ("training", [20, 40], features.demo_starts),
        ("validation", [3], features.validation_starts),
        ("training", [7], features.play_starts),
    ):
        for index, row in enumerate(rows):
            images = [
                torch.from_numpy(stores[split].read(name, row, row + 1))
                for name in ("rgb_static", "rgb_gripper", "proprio")
            ]
            episode = OnlineFilter(model, torch.Generator(), settings.filtering)
            begun = episode.reset(Observation(*images)).expand(2, -1)
            torch.testing.assert_close(starts[:, index], begun, atol=1e-5, rtol=1e-5)
            assert not begun[:, -24:-18].any()
