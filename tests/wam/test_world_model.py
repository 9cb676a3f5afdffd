from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from wam.assessment import assess, predict
from wam.batch import Batch
from wam.config import WorldModelConfig
from wam.images import psnr, to_signed
from wam.world_model import WorldModel


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch(square_world: Callable) -> Batch:
    return next(square_world(batch=3, window=5))


def loss(model: WorldModel, batch: Batch, action_scale: float = 0.0):  # type: ignore[no-untyped-def]
    rows = batch.proprio.shape[1]
    return model.loss(batch, model.initial(rows, "cpu"), generator(), action_scale)


def test_image_loss_is_half_the_sum_over_pixels_channels_and_cameras(
    tiny_model: WorldModel, batch: Batch
) -> None:
    _, metrics, _ = loss(tiny_model, batch)
    _, embedding = tiny_model.embed(batch.rgb_static, batch.rgb_gripper, batch.proprio)
    observed = tiny_model.observe(
        embedding, batch.prev_action, batch.is_first, tiny_model.initial(3, "cpu"), generator()
    )
    images = (to_signed(batch.rgb_static), to_signed(batch.rgb_gripper))
    predicted = tiny_model.decode(observed.states.feature)
    expected = sum(
        ((prediction - image) ** 2).sum()
        for prediction, image in zip(predicted, images, strict=True)
    )
    torch.testing.assert_close(metrics["image_loss"], 0.5 * expected / 15, rtol=1e-4, atol=0)


def test_training_psnr_is_that_of_the_images(tiny_model: WorldModel, batch: Batch) -> None:
    with torch.no_grad():
        tiny_model.decoder.seed.weight.zero_()  # every image 0 in [-1, 1]: no clamping involved
    _, metrics, _ = loss(tiny_model, batch)
    image = to_signed(batch.rgb_static)
    expected = psnr(torch.zeros_like(image), image).mean()
    torch.testing.assert_close(metrics["psnr_static"], expected, rtol=1e-4, atol=0)


def test_the_objective_is_the_weighted_sum_of_its_terms(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    model = WorldModel(replace(tiny_config, kl_scale=3.0, image_scale=0.5))
    total, metrics, _ = loss(model, batch, action_scale=7.0)
    expected = 3 * metrics["kl_loss"] + 0.5 * metrics["image_loss"] + 7 * metrics["action_loss"]
    torch.testing.assert_close(total.detach(), expected)
    torch.testing.assert_close(metrics["loss"], expected)


def test_the_inverse_dynamics_target_is_the_action_that_led_to_the_next_frame(
    tiny_model: WorldModel, batch: Batch
) -> None:
    """An oracle that reads the true displacement has no error; shifted by one frame it has."""
    tiny_model.inverse_dynamics.forward = lambda embedding: batch.prev_action[1:]
    _, metrics, _ = loss(tiny_model, batch, action_scale=1.0)
    assert metrics["action_loss"] == 0
    assert metrics["gripper_accuracy"] == 1
    tiny_model.inverse_dynamics.forward = lambda embedding: batch.prev_action[:-1]
    _, metrics, _ = loss(tiny_model, batch, action_scale=1.0)
    assert metrics["action_loss"] > 0.1


def test_a_pseudo_reset_hides_nothing_from_the_inverse_dynamics(
    tiny_model: WorldModel, batch: Batch
) -> None:
    reset = batch._replace(is_first=torch.ones_like(batch.is_first))
    _, plain, _ = loss(tiny_model, batch, action_scale=1.0)
    _, hidden, _ = loss(tiny_model, reset, action_scale=1.0)
    assert plain["action_loss"] == hidden["action_loss"]
    assert torch.isfinite(hidden["kl_loss"])
    assert plain["kl_loss"] != hidden["kl_loss"]


def test_the_variants_differ_in_one_weight(tiny_model: WorldModel, batch: Batch) -> None:
    total, metrics, _ = loss(tiny_model, batch, action_scale=0.0)
    total.backward()
    assert "action_loss" not in metrics
    with_gradient = {name for name, p in tiny_model.named_parameters() if p.grad is not None}
    without = {name for name, _ in tiny_model.named_parameters()} - with_gradient
    assert without == {
        name for name, _ in tiny_model.named_parameters() if name.startswith("inverse_dynamics")
    }
    tiny_model.zero_grad()
    total, _, _ = loss(tiny_model, batch, action_scale=1000.0)
    total.backward()
    assert all(p.grad is not None and p.grad.any() for p in tiny_model.parameters())


def test_the_state_is_carried_from_batch_to_batch(tiny_model: WorldModel, batch: Batch) -> None:
    """Two half windows with carried state see what one whole window sees."""
    _, _, last = loss(tiny_model, batch)
    halves = []
    for start, stop in ((0, 2), (2, 5)):
        part = Batch(*(field[start:stop] for field in batch[:-1]), batch.id_mask[start : stop - 1])
        halves.append(part)
    noise = generator()
    state = tiny_model.initial(3, "cpu")
    for half in halves:
        _, _, state = tiny_model.loss(half, state, noise, 0.0)
    torch.testing.assert_close(state.deter, last.deter, atol=1e-5, rtol=1e-5)
    assert torch.equal(state.stoch, last.stoch)
    assert not state.deter.requires_grad


def test_imagine_steps_through_the_actions(tiny_model: WorldModel, batch: Batch) -> None:
    start = tiny_model.initial(3, "cpu")
    states = tiny_model.imagine(start, batch.action, generator())
    assert states.deter.shape == (5, 3, 32)
    noise, state = generator(), start
    for t in range(5):
        state = tiny_model.imagine_step(state, batch.action[t], noise)
        assert torch.equal(state.feature, states.feature[t])
    assert torch.equal(tiny_model.split(states.feature).stoch, states.stoch)


def test_predictions_start_from_the_given_frame_and_see_no_later_one(
    tiny_model: WorldModel, batch: Batch
) -> None:
    (part,) = predict(tiny_model, batch, 0, torch.device("cpu"))
    torch.testing.assert_close(part.open_loop["static"][0], part.posterior["static"][0])
    changed = batch._replace(rgb_static=batch.rgb_static.clone())
    changed.rgb_static[1:] = 0
    (other,) = predict(tiny_model, changed, 0, torch.device("cpu"))
    assert torch.equal(part.open_loop["gripper"], other.open_loop["gripper"])
    assert not torch.equal(part.posterior["gripper"], other.posterior["gripper"])


def test_assessment_does_not_depend_on_how_rows_are_grouped(
    tiny_model: WorldModel, square_world: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = next(square_world(batch=5, window=4))
    whole = assess(tiny_model, windows, 3, torch.device("cpu"))
    monkeypatch.setattr("wam.assessment._ROWS_AT_ONCE", 2)
    grouped = assess(tiny_model, windows, 3, torch.device("cpu"))
    assert whole == pytest.approx(grouped, rel=1e-3)
    assert whole["posterior_psnr"] == pytest.approx(
        (whole["posterior_psnr_static"] + whole["posterior_psnr_gripper"]) / 2
    )
