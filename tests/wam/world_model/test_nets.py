import pytest
import torch
import torch.nn.functional as F

from wam.config import WorldModelConfig
from wam.images import psnr, to_rgb, to_signed
from wam.world_model.model import WorldModel
from wam.world_model.nets import ImageDecoder, ImageEncoder, initialize, merge_phases, pixel_phases


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def within(value: float, expected: float, share: float = 0.005) -> bool:
    return abs(value - expected) <= share * expected


@pytest.fixture(scope="module")
def paper_model() -> WorldModel:
    return WorldModel(WorldModelConfig())


def test_parameters_at_paper_size(paper_model: WorldModel) -> None:
    encoder, rssm, decoder = paper_model.encoder, paper_model.rssm, paper_model.decoder
    assert within(count(encoder.static), 1.551e6)
    assert within(count(encoder.fusion, encoder.norm), 4.723e6)
    assert within(count(rssm), 12.918e6)
    assert within(count(decoder.seed), 3.147e6)
    assert within(count(decoder.gripper), 8.005e6)
    assert within(count(encoder, rssm, decoder), 39.9e6)
    assert within(count(paper_model.inverse_dynamics), 1.73e6)


def test_sizes_at_paper_size(paper_model: WorldModel) -> None:
    image = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8)
    visual, embedding = paper_model.embed(image, image, torch.zeros(1, 2, 18))
    assert visual.shape == (1, 2, 1536)
    assert embedding.shape == (1, 2, 1554)
    assert paper_model.inverse_dynamics.layers[0].in_features == 3108
    state = paper_model.initial(2, "cpu")
    assert state.feature.shape == (2, 2048)
    deter = torch.arange(2048.0).expand(2, -1)
    assert torch.equal(paper_model.split(deter).deter, deter[:, :1024])  # h first
    assert [image.shape for image in paper_model.decode(state.feature)] == [(2, 3, 64, 64)] * 2


def test_spatial_chain_of_the_encoder() -> None:
    encoder = ImageEncoder(4)
    sizes = [64]
    image = torch.zeros(1, 3, 64, 64)
    for convolution in encoder.convolutions:
        image = convolution(image)
        sizes.append(image.shape[-1])
    assert sizes == [64, 31, 14, 6, 2]
    assert encoder(torch.zeros(5, 3, 64, 64)).shape == (5, 128)


def test_decoder_equals_the_plain_transposed_convolutions() -> None:
    decoder = ImageDecoder(24, 4)
    initialize(decoder, torch.Generator().manual_seed(0))
    for name, bias in decoder.named_parameters():
        if "bias" in name:
            torch.nn.init.uniform_(bias, generator=torch.Generator().manual_seed(2))
    seed = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    image, sizes = seed[:, :, None, None], [1]
    for layer in (decoder.first, decoder.second, decoder.third):
        image = F.elu(layer(image))
        sizes.append(image.shape[-1])
    image = decoder.fourth(image)
    assert [*sizes, image.shape[-1]] == [1, 5, 13, 30, 64]
    torch.testing.assert_close(decoder(seed), image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder.phases(seed), pixel_phases(image), atol=1e-5, rtol=1e-5)


def test_pixel_phases_are_every_other_pixel_and_merge_again() -> None:
    image = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    phases = pixel_phases(image)
    assert torch.equal(phases[:, 6:9], image[:, :, 1::2, 0::2])
    assert torch.equal(phases[:, 3:6], image[:, :, 0::2, 1::2])
    assert torch.equal(merge_phases(phases), image)


def test_initial_values_follow_the_seed_and_leave_global_randomness_alone(
    tiny_config: WorldModelConfig,
) -> None:
    before = torch.random.get_rng_state()
    first, again = WorldModel(tiny_config, seed=3), WorldModel(tiny_config, seed=3)
    other = WorldModel(tiny_config, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.decoder.seed.weight, other.decoder.seed.weight)
    recurrent = first.rssm.cell.weight_hh
    torch.testing.assert_close(
        recurrent.T @ recurrent, torch.eye(recurrent.shape[1]), atol=1e-5, rtol=0
    )
    assert not first.rssm.cell.bias_ih.any()


def test_images_are_scaled_once_and_only_from_uint8() -> None:
    rgb = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    image = to_signed(rgb)
    assert image.shape == (1, 3, 16, 16)
    assert image.min() == -1 and image.max() == 1
    assert torch.equal(to_rgb(image), rgb)
    with pytest.raises(ValueError, match="uint8"):
        to_signed(rgb.float())


def test_psnr_of_a_constant_offset_and_of_equal_images() -> None:
    target = torch.zeros(2, 3, 8, 8)
    prediction = target.clone()
    prediction[0] += 0.2  # 0.1 on the [0, 1] scale: 20 dB
    torch.testing.assert_close(psnr(prediction, target), torch.tensor([20.0, 60.0]))
    assert psnr(torch.full((3, 8, 8), 5.0), torch.ones(3, 8, 8)) == 60  # clamped first
