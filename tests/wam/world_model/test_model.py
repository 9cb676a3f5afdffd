from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from wam.batch import Batch
from wam.config import WorldModelConfig
from wam.images import psnr, to_signed
from wam.world_model.assessment import assess, predict
from wam.world_model.model import WorldModel


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


def test_some_of_the_images_give_the_same_loss_on_average(
    tiny_model: WorldModel, batch: Batch
) -> None:
    with torch.no_grad():
        tiny_model.decoder.seed.weight.zero_()  # images do not depend on the latents' noise
    state = tiny_model.initial(3, "cpu")

    def image_losses(share: float, draws: int) -> torch.Tensor:
        random = generator(1)
        with torch.no_grad():
            found = [
                tiny_model.loss(batch, state, random, 0.0, image_frames=share)[1]["image_loss"]
                for _ in range(draws)
            ]
        return torch.stack(found)

    whole = image_losses(1.0, 1)
    some = image_losses(0.2, 200)
    assert len(some.unique()) > 50  # one frame of five per row, drawn anew every time
    error = some.std() / len(some) ** 0.5
    assert (some.mean() - whole).abs() < 4 * error
    # A share that rounds to every frame leaves none out, and none stands twice.
    torch.testing.assert_close(image_losses(0.99, 3), whole.expand(3), rtol=1e-5, atol=0)


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
    tiny_model.inverse_dynamics.forward = lambda *pair: batch.prev_action[1:].unsqueeze(2)
    _, metrics, _ = loss(tiny_model, batch, action_scale=1.0)
    assert metrics["action_loss"] == 0
    assert metrics["gripper_accuracy"] == 1
    tiny_model.inverse_dynamics.forward = lambda *pair: batch.prev_action[:-1].unsqueeze(2)
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
        part = Batch(*(field[start:stop] for field in batch[:6]), batch.id_mask[start : stop - 1])
        halves.append(part)
    noise = generator()
    state = tiny_model.initial(3, "cpu")
    for half in halves:
        _, _, state = tiny_model.loss(half, state, noise, 0.0)
    torch.testing.assert_close(state.deter, last.deter, atol=1e-5, rtol=1e-5)
    assert torch.equal(state.stoch, last.stoch)
    assert not state.deter.requires_grad


def test_imagine_steps_through_the_actions(tiny_model: WorldModel, batch: Batch) -> None:
    state = tiny_model.initial(3, "cpu")
    features = tiny_model.imagine(state.feature, batch.action, generator())
    assert features.shape == (5, 3, tiny_model.config.feature)
    noise = generator()
    for t in range(5):
        state = tiny_model.imagine_step(state, batch.action[t], noise)
        assert torch.equal(state.feature, features[t])


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
    monkeypatch.setattr("wam.world_model.assessment._ROWS_AT_ONCE", 2)
    grouped = assess(tiny_model, windows, 3, torch.device("cpu"))
    assert whole == pytest.approx(grouped, rel=1e-3)
    assert whole["posterior_psnr"] == pytest.approx(
        (whole["posterior_psnr_static"] + whole["posterior_psnr_gripper"]) / 2
    )


def action_loss(model: WorldModel, batch: Batch) -> torch.Tensor:
    return loss(model, batch, action_scale=1.0)[1]["action_loss"]


def test_a_visual_head_sees_no_proprioception(tiny_config: WorldModelConfig, batch: Batch) -> None:
    other = batch._replace(proprio=batch.proprio + 1)
    visual = WorldModel(replace(tiny_config, id_input="visual"))
    assert visual.inverse_dynamics.layers[0].in_features == 2 * tiny_config.visual_embedding
    assert action_loss(visual, batch) == action_loss(visual, other)
    whole = WorldModel(tiny_config)
    assert action_loss(whole, batch) != action_loss(whole, other)


def test_dropout_hides_the_proprioception_of_both_frames_of_a_pair(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    model = WorldModel(replace(tiny_config, id_input="proprio-dropout"))
    _, embedding = model.embed(batch.rgb_static, batch.rgb_gripper, batch.proprio)
    _, other = model.embed(batch.rgb_static, batch.rgb_gripper, batch.proprio + 1)
    keep = torch.tensor([[True, False, True]] * 4)
    equal = (model.actions_between(embedding, keep) == model.actions_between(other, keep)).all(-1)
    assert torch.equal(equal.squeeze(2), ~keep)
    # Training draws which pairs, assessment hides none.
    assert action_loss(model, batch) != action_loss(WorldModel(tiny_config), batch)
    assert torch.equal(
        model.actions_between(embedding), WorldModel(tiny_config).actions_between(embedding)
    )


def test_a_head_of_several_steps_predicts_all_actions_between(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    model = WorldModel(replace(tiny_config, id_steps=3))
    _, embedding = model.embed(batch.rgb_static, batch.rgb_gripper, batch.proprio)
    assert model.actions_between(embedding).shape == (2, 3, 3, 7)
    oracle = torch.stack([batch.action[k : k + 2] for k in range(3)], dim=2)
    model.inverse_dynamics.forward = lambda *pair: oracle  # type: ignore[method-assign]
    assert action_loss(model, batch) == 0


def test_every_option_trains(tiny_config: WorldModelConfig, batch: Batch) -> None:
    config = replace(tiny_config, gru="layernorm", unimix=0.01, free_nats=1.0, id_steps=2)
    model = WorldModel(config)
    loss(model, batch, action_scale=1.0)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_metrics_name_every_action_dimension(tiny_model: WorldModel, batch: Batch) -> None:
    _, metrics, _ = loss(tiny_model, batch, action_scale=2.0)
    errors = [metrics[f"id_mae_{name}"] for name in ("x", "y", "z", "roll", "pitch", "yaw")]
    mean = (sum(errors) + metrics["id_mae_gripper"]) / 7
    torch.testing.assert_close(mean, metrics["action_loss"])
    weighted = sum(metrics[f"weighted_{term}_loss"] for term in ("image", "kl", "action"))
    torch.testing.assert_close(weighted, metrics["loss"])


def test_images_from_the_embedding_are_one_more_term(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    """The rest of the model, and what it draws, is the same with and without them."""
    total, metrics, _ = loss(WorldModel(tiny_config), batch, action_scale=7.0)
    model = WorldModel(replace(tiny_config, embedding_image_scale=0.5))
    more, with_them, _ = loss(model, batch, action_scale=7.0)
    assert {name: with_them[name] for name in metrics if name != "loss"} == {
        name: value for name, value in metrics.items() if name != "loss"
    }
    torch.testing.assert_close(more, total + 0.5 * with_them["embedding_image_loss"])
    with torch.no_grad():
        model.embedding_seed.weight.zero_()  # type: ignore[union-attr]
        model.decoder.seed.weight.zero_()
    _, blank, _ = loss(model, batch)
    assert blank["embedding_image_loss"] == blank["image_loss"]


def test_images_from_the_embedding_reach_an_encoder_that_the_latent_does_not_ask(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    for scale, reached in ((0.0, False), (0.5, True)):
        model = WorldModel(replace(tiny_config, embedding_image_scale=scale, kl_scale=0.0))
        with torch.no_grad():
            model.decoder.seed.weight.zero_()  # the images do not depend on the latent
        loss(model, batch)[0].backward()
        gradient = next(model.encoder.static.parameters()).grad
        assert gradient is not None
        assert bool(gradient.any()) == reached


def test_a_view_is_drawn_of_the_windows_embedding_and_its_own_arm(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    """The window is one frame again and again, whichever of them is looked at."""
    model = WorldModel(replace(tiny_config, embedding_image_scale=0.5, view_reach=5))
    still = Batch(*(field[:1].expand_as(field) for field in batch[:6]), batch.id_mask)
    static, gripper, arm = batch.rgb_static[1:3], batch.rgb_gripper[1:3], batch.proprio[1:3]
    seen = still._replace(view_static=static, view_gripper=gripper, view_proprio=arm)
    _, embedding = model.embed(still.rgb_static[0], still.rgb_gripper[0], still.proprio[0])
    elsewhere = torch.cat(
        [embedding[..., : tiny_config.visual_embedding].expand(2, -1, -1), arm], -1
    )
    images = (to_signed(rgb.flatten(0, 1)) for rgb in (static, gripper))
    expected, _ = model._image_loss(model.shown(elsewhere.flatten(0, 1)), *images)
    total, metrics, _ = loss(model, seen)
    torch.testing.assert_close(metrics["embedding_image_loss"], expected.detach())
    with pytest.raises(ValueError, match="view_reach needs batches with views"):
        loss(model, still)
    total.backward()
    assert model.embedding_seed.arm.weight.grad.any()  # type: ignore[union-attr]


def test_the_seed_match_draws_the_latent_to_the_embedding_and_never_back(
    tiny_config: WorldModelConfig, batch: Batch
) -> None:
    plain = WorldModel(replace(tiny_config, embedding_image_scale=0.5))
    total, metrics, _ = loss(plain, batch)
    model = WorldModel(replace(tiny_config, embedding_image_scale=0.5, seed_match_scale=3.0))
    more, with_it, _ = loss(model, batch)
    assert {name: with_it[name] for name in metrics if name != "loss"} == {
        name: value for name, value in metrics.items() if name != "loss"
    }
    torch.testing.assert_close(more, total + 3.0 * with_it["seed_match_loss"])
    (more - total.detach()).backward()
    total.backward()
    gradients = [m.embedding_seed.weight.grad for m in (plain, model)]  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients)
    for name in ("posterior_out", "prior_out"):
        pair = [getattr(m.rssm, name).weight.grad for m in (plain, model)]
        assert torch.allclose(*pair) == (name == "prior_out"), name
