"""The plain world model computes what ours does, and the benchmark's arithmetic is right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import plain_world_model
import world_model
from flops import forward_flops
from pipeline.params import load_profile
from wam.batch import Batch
from wam.config import WorldModelConfig
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState

CONFIG = WorldModelConfig(
    cnn_depth=4,
    visual_embedding=24,
    decoder_channels=40,
    deter=32,
    stoch=4,
    classes=6,
    hidden=28,
    id_hidden=(20, 16),
)
T, B = 6, 3


def random_batch(seed: int = 0) -> Batch:
    """Noise as observations; rows that start anew within the window and pairs that are left out."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, T, B, 64, 64, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (2, T, B, 7)).astype(np.float32)
    is_first = np.zeros((T, B), bool)
    is_first[0, 0] = is_first[3, 1] = True
    id_mask = np.ones((T - 1, B), bool)
    id_mask[2, 1] = False
    proprio = rng.uniform(-1, 1, (T, B, 18)).astype(np.float32)
    arrays = (*images, proprio, *actions, is_first, id_mask)
    return Batch(*(torch.from_numpy(array) for array in arrays))


def random_state(seed: int = 1) -> RssmState:
    rng = np.random.default_rng(seed)
    deter = torch.from_numpy(rng.uniform(-1, 1, (B, CONFIG.deter)).astype(np.float32))
    classes = torch.from_numpy(rng.integers(0, CONFIG.classes, (B, CONFIG.stoch)))
    return RssmState(deter, nn.functional.one_hot(classes, CONFIG.classes).float().flatten(1))


def as_sample(batch: Batch) -> plain_world_model.Sample:
    """``batch`` with the batch axis first and images as float32 [B, T, 3, 64, 64]."""
    sample = {name: value.transpose(0, 1) for name, value in batch._asdict().items()}
    for camera in ("rgb_static", "rgb_gripper"):
        sample[camera] = sample[camera].permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    return sample


def randomized(model: WorldModel) -> WorldModel:
    """``model`` with biases and norms that are not 0 and 1, so that they matter."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def plain_copy(model: WorldModel) -> plain_world_model.PlainWorldModel:
    """The plain version with the weights of ``model``."""
    plain = plain_world_model.PlainWorldModel(model.config)
    plain.load_state_dict(plain_weights(model))
    return plain


def plain_weights(model: WorldModel) -> dict[str, torch.Tensor]:
    """The parameters of ``model`` under the plain version's names.

    Two layers whose sum is taken are one layer there, and its CNN's features are [C, H, W].
    """
    rssm, decoder = model.rssm, model.decoder
    weights: dict[str, torch.Tensor] = {}

    def put(target: str, source: nn.Module) -> None:
        weights.update({f"{target}.{name}": value for name, value in source.state_dict().items()})

    for camera in ("static", "gripper"):
        for index, layer in enumerate(getattr(model.encoder, camera).convolutions):
            put(f"encoder_{camera}.{2 * index}", layer)
        image_decoder = getattr(decoder, camera)
        for index, name in enumerate(("first", "second", "third", "fourth")):
            put(f"decoder_{camera}.{2 * index}", getattr(image_decoder, name))
    put("fusion.0", model.encoder.fusion)
    put("fusion.1", model.encoder.norm)
    fusion = model.encoder.fusion.weight.detach()
    by_pixel = fusion.unflatten(1, (2, 2, 2, 8 * model.config.cnn_depth))
    weights["fusion.0.weight"] = by_pixel.permute(0, 1, 4, 2, 3).flatten(1)
    put("recurrent_input.0", rssm.input_stoch)
    put("recurrent_input.1", rssm.input_norm)
    put("gru", rssm.cell)
    put("prior.0", rssm.prior_deter)
    put("prior.1", rssm.prior_norm)
    put("prior.3", rssm.prior_out)
    put("posterior.0", rssm.posterior_deter)
    put("posterior.1", rssm.posterior_norm)
    put("posterior.3", rssm.posterior_out)
    for name, parts in (
        ("recurrent_input.0.weight", (rssm.input_stoch, rssm.input_action)),
        ("posterior.0.weight", (rssm.posterior_deter, rssm.posterior_embedding)),
    ):
        weights[name] = torch.cat([part.weight.detach() for part in parts], -1)
    put("decoder_input", decoder.seed)
    put("inverse_dynamics", model.inverse_dynamics.layers)
    return weights


def draws(seed: int) -> plain_world_model.Draw:
    """Draws from the same noise as ours: uniform numbers, inverted distribution functions."""
    noise = iter(torch.rand(T, B, CONFIG.stoch, generator=torch.Generator().manual_seed(seed)))

    def draw(logits: torch.Tensor) -> torch.Tensor:
        probabilities = logits.softmax(-1)
        below = probabilities.cumsum(-1) <= next(noise)[..., None]
        index = below.sum(-1).clamp_max(CONFIG.classes - 1)
        one_hot = nn.functional.one_hot(index, CONFIG.classes)
        return one_hot + probabilities - probabilities.detach()

    return draw


@pytest.mark.parametrize("profile", ["demo", "small", None])
def test_the_plain_version_has_as_many_parameters(profile: str | None) -> None:
    config = CONFIG
    if profile:
        config = world_model.as_in_the_papers(load_profile(profile)).world_model
    ours = WorldModel(config)
    plain = plain_world_model.PlainWorldModel(config)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, plain)]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_the_benchmark_compares_the_profiles_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--profile", "demo", "--rounds", "1", "--batch", "2", "--window", "4", "--json"]
    world_model.main([*given, "--data", str(tmp_path)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratio_vs_plain"] > 0
    assert result["frames_per_s_recipe"] > 0


def test_loss_state_and_gradients_are_those_of_the_plain_version() -> None:
    ours = randomized(WorldModel(CONFIG, seed=3))
    plain = plain_copy(ours)
    noise = torch.Generator().manual_seed(5)
    loss, metrics, last = ours.loss(random_batch(), random_state(), noise, CONFIG.action_scale)
    plain_loss, plain_last = plain.loss(as_sample(random_batch()), random_state(), draws(5))
    assert metrics["kl_loss"] > 0.1  # or the comparison would say nothing about it
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(last.deter, plain_last[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(last.stoch, plain_last[1], rtol=0, atol=1e-6)
    loss.backward()
    plain_loss.backward()
    with torch.no_grad():  # the gradients as weights, so that they can be told apart by name
        for parameter in ours.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    expected = {name: p.grad for name, p in plain.named_parameters()}
    for name, gradient in plain_weights(ours).items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_arithmetic_is_what_the_plain_version_does() -> None:
    plain = plain_world_model.PlainWorldModel(CONFIG)
    with FlopCounterMode(display=False) as counter:
        plain.loss(as_sample(random_batch()), plain.initial(B, torch.device("cpu")))
    parts = forward_flops(CONFIG)
    pairs = parts.pop("inverse_dynamics") * (T - 1) * B  # between frames: one fewer than frames
    assert counter.get_total_flops() == sum(parts.values()) * T * B + pairs


@pytest.mark.parametrize(
    ("part", "mflop"),
    [
        ("encoder", 128.0),
        ("fusion", 9.4),
        ("rssm", 25.8),
        ("decoder_linear", 6.3),
        ("decoder", 206.4),
        ("inverse_dynamics", 3.4),
    ],
)
def test_arithmetic_at_paper_size(part: str, mflop: float) -> None:
    assert forward_flops(WorldModelConfig())[part] / 1e6 == pytest.approx(mflop, abs=0.1)
