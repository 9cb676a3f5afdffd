"""Probes find what is there, and nothing where there is nothing."""

from collections.abc import Callable

import pytest
import torch

from wam.batch import Batch
from wam.config import FILTERING, WorldModelConfig
from wam.randomness import row_generators
from wam.world_model.filtering import first_state
from wam.world_model.model import WorldModel
from wam.world_model.probe import (
    FramePairs,
    SceneViews,
    action_pairs,
    action_response,
    embed_windows,
    explained,
    fit_linear,
    fit_mlp,
    imagined_views,
    neighbours,
    scene_views,
    score,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CPU = torch.device("cpu")


def embed_pairs(model: WorldModel, windows: Batch) -> FramePairs:
    return action_pairs(embed_windows(model, windows, CPU), windows)


def views_of(model: WorldModel, windows: Batch, scene: torch.Tensor) -> SceneViews:
    return scene_views(model, embed_windows(model, windows, CPU), windows, scene, 0)


def noise(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=generator(seed))


def planted(inputs: torch.Tensor) -> FramePairs:
    """Motion is linear in the inputs, the gripper command the sign of a linear function."""
    action = inputs @ noise(inputs.shape[1], 7, seed=9) + 0.3
    action[:, 6] = torch.where(action[:, 6] >= 0, 1.0, -1.0)
    return FramePairs(inputs, action)


@pytest.mark.parametrize(("fit", "least"), [(fit_linear, 0.999), (fit_mlp, 0.95)])
def test_a_planted_linear_map_is_found(fit: Callable, least: float) -> None:
    # Inputs of any scale: probes see them standardised.
    scale = torch.logspace(-3, 3, 12)
    learned, judged = (planted(noise(count, 12, seed)) for count, seed in ((3000, 1), (800, 2)))
    arguments = (generator(),) if fit is fit_mlp else ()
    probe = fit(FramePairs(learned.inputs * scale, learned.target), *arguments)
    scores = score(probe(judged.inputs * scale), judged.target)
    assert min(scores["r2"]) > least
    assert scores["gripper_accuracy"] > 0.93


@pytest.mark.parametrize("fit", [fit_linear, lambda pairs: fit_mlp(pairs, generator())])
def test_nothing_is_found_in_noise(fit: Callable) -> None:
    learned, judged = (
        FramePairs(noise(count, 20, seed), planted(noise(count, 20, seed + 50)).target)
        for count, seed in ((3000, 1), (800, 2))
    )
    scores = score(fit(learned)(judged.inputs), judged.target)
    assert max(scores["r2"]) < 0.02
    assert min(scores["r2"]) > -0.1
    assert scores["gripper_balanced_accuracy"] == pytest.approx(0.5, abs=0.05)


def test_only_the_nonlinear_probe_finds_a_product() -> None:
    def product(inputs: torch.Tensor) -> FramePairs:
        return FramePairs(inputs, (inputs[:, :1] * inputs[:, 1:2]).expand(-1, 7).contiguous())

    learned, judged = product(noise(8000, 4, 1)), product(noise(800, 4, 2))
    linear = score(fit_linear(learned)(judged.inputs), judged.target)
    nonlinear = score(fit_mlp(learned, generator())(judged.inputs), judged.target)
    assert linear["r2_mean"] < 0.05
    assert nonlinear["r2_mean"] > 0.8


def test_ridge_agrees_with_least_squares_where_there_is_enough_data() -> None:
    inputs = noise(4000, 6, 1)
    pairs = FramePairs(inputs, inputs @ noise(6, 7, 2) + noise(4000, 7, 3))
    ones = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    expected = ones @ torch.linalg.lstsq(ones, pairs.target).solution
    torch.testing.assert_close(fit_linear(pairs)(inputs), expected, atol=5e-3, rtol=0)


def test_the_same_seed_gives_the_same_probe() -> None:
    pairs = planted(noise(600, 5, 1))
    first, again, other = (fit_mlp(pairs, generator(seed))(pairs.inputs) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_scores_of_known_predictions() -> None:
    action = torch.zeros(4, 7)
    action[:, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    action[:, 6] = torch.tensor([1.0, 1.0, 1.0, -1.0])
    perfect = score(action, action)
    assert perfect["r2"] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert perfect["gripper_accuracy"] == perfect["gripper_balanced_accuracy"] == 1.0
    guess = torch.zeros(4, 7)
    guess[:, 0] = 2.5
    scores = score(guess, action)
    assert scores["r2"][0] == 0.0
    assert scores["mae"][0] == 1.0
    assert scores["gripper_accuracy"] == scores["gripper_majority"] == 0.75
    assert scores["gripper_balanced_accuracy"] == 0.5


def test_pairs_are_neighbours_with_the_action_between_them() -> None:
    visual = torch.arange(6.0).reshape(3, 2, 1)
    action = torch.arange(6.0).reshape(3, 2, 1).expand(3, 2, 7)
    mask = torch.tensor([[True, True], [False, True]])
    pairs = neighbours(visual, action, mask)
    assert pairs.inputs.tolist() == [[0, 2], [1, 3], [3, 5]]
    assert pairs.target[:, 0].tolist() == [0, 1, 3]


def test_the_probe_sees_images_alone(tiny_model: WorldModel, square_world: Callable) -> None:
    windows = next(square_world(batch=12, window=4))
    pairs = embed_pairs(tiny_model, windows)
    assert pairs.inputs.shape == (36, 2 * tiny_model.config.visual_embedding)
    blind = windows._replace(proprio=torch.zeros_like(windows.proprio))
    assert torch.equal(pairs.inputs, embed_pairs(tiny_model, blind).inputs)
    torch.testing.assert_close(pairs.target[:3], windows.action[:3, 0])


def test_a_random_encoder_tells_of_what_the_images_show(
    tiny_model: WorldModel, square_world: Callable
) -> None:
    """The square moves by the first two dimensions and shines with the last; no other is seen."""
    world = square_world(batch=200, window=12)
    learned, judged = (embed_pairs(tiny_model, next(world)) for _ in range(2))
    scores = score(fit_mlp(learned, generator())(judged.inputs), judged.target)
    assert min(scores["r2"][:2]) > 0.1 > 0.0 > max(scores["r2"][2:])
    assert scores["gripper_accuracy"] > 0.9


def test_views_of_the_scene_are_the_frames_whose_state_they_are_paired_with(
    tiny_model: WorldModel, square_world: Callable
) -> None:
    windows = next(square_world(batch=12, window=21))
    frame, row = torch.meshgrid(torch.arange(21.0), torch.arange(12.0), indexing="ij")
    views = views_of(tiny_model, windows, torch.stack([frame, row], -1))
    expected = [[t, b] for b in range(12) for t in (10, 15, 20)]
    assert views.embedding.target.tolist() == views.latent.target.tolist() == expected
    assert views.first_latent.target.tolist() == [[0, b] for b in range(12)]
    visual, _ = tiny_model.embed(windows.rgb_static, windows.rgb_gripper, windows.proprio)
    places = torch.tensor(expected).long().T
    torch.testing.assert_close(views.embedding.inputs, visual[places[0], places[1]])
    size = tiny_model.config.feature
    assert views.latent.inputs.shape == (36, size)
    assert views.first_latent.inputs.shape == (12, size)


def test_imagined_views_are_so_many_actions_behind_the_first_frame(
    tiny_model: WorldModel, square_world: Callable
) -> None:
    windows = next(square_world(batch=5, window=9))
    frame, row = torch.meshgrid(torch.arange(9.0), torch.arange(5.0), indexing="ij")
    scene = torch.stack([frame, row], -1)
    embedding = embed_windows(tiny_model, windows, CPU)
    found = imagined_views(tiny_model, embedding, windows, scene, 3, (2, 8, 9))
    assert list(found) == [2, 8]
    assert found[8].target.tolist() == [[8, b] for b in range(5)]
    random = row_generators(range(3, 8))
    start = first_state(tiny_model, embedding[0], random, FILTERING).feature
    expected = tiny_model.imagine(start, windows.action[:8], random)
    for horizon, pairs in found.items():
        torch.testing.assert_close(pairs.inputs, expected[horizon - 1])


def test_a_view_of_the_scene_tells_where_the_square_is(
    tiny_model: WorldModel, square_world: Callable
) -> None:
    """Its place is in every image, and what was never seen is in none."""
    world = square_world(batch=60, window=21)
    pairs = []
    for windows in (next(world), next(world)):
        bright = windows.rgb_static.float().mean(-1)
        column = (bright * torch.arange(64.0)).sum((-1, -2)) / bright.sum((-1, -2))
        hidden = noise(21 * 60, 1, seed=len(pairs)).reshape(21, 60)
        scene = torch.stack([column, hidden], -1)
        pairs.append(views_of(tiny_model, windows, scene).embedding)
    learned, judged = pairs
    place, nothing = explained(fit_linear(learned)(judged.inputs), judged.target).tolist()
    assert place > 0.5
    assert nothing < 0.1


@pytest.mark.parametrize("fit", [fit_linear, lambda pairs: fit_mlp(pairs, generator())])
def test_an_input_that_the_pairs_never_show_is_not_blown_up(fit: Callable) -> None:
    inputs = noise(400, 6, seed=3)
    inputs[:, 5] = 0.0
    probe = fit(FramePairs(inputs, inputs[:, :1] + 0.5 * inputs[:, 1:2]))
    elsewhere = noise(100, 6, seed=4)
    elsewhere[:, 5] = 1.0
    target = elsewhere[:, :1] + 0.5 * elsewhere[:, 1:2]
    assert float(explained(probe(elsewhere), target)) > 0.5


class Obeying(WorldModel):
    """Its hand, the first three numbers of a feature, makes a share of every motion."""

    share = 0.5

    def imagine(self, feature, actions, generator, sample="sample"):  # type: ignore[no-untyped-def]
        moved = feature.repeat(len(actions), 1, 1)
        moved[..., :3] += self.share * 0.02 * actions[..., :3].cumsum(0)
        return moved


def test_the_response_is_the_share_of_the_commanded_motion(
    tiny_config: WorldModelConfig, square_world: Callable
) -> None:
    windows = next(square_world(6, 12))
    model = Obeying(tiny_config, seed=1)
    embedding = embed_windows(model, windows, CPU)
    found = action_response(model, lambda feature: feature[:, :3], embedding, windows, 0, 8)
    assert found == pytest.approx({"own": 0.5, "others": 0.5}, rel=1e-4)
