import pytest
import torch

from tests.wam.policy.small_policy import make_feature, make_network
from wam.config import PolicyConfig
from wam.errors import WamError
from wam.policy.network import ResidualMlp, build_network


def parameters(module: torch.nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())


def test_paper_sizes_have_the_paper_number_of_parameters() -> None:
    assert parameters(build_network(PolicyConfig(), 2048)) == pytest.approx(1.612e6, rel=0.005)
    assert parameters(ResidualMlp(2048, (256, 256, 256), 1)) == pytest.approx(0.656e6, rel=0.005)


def test_an_even_number_of_widths_is_refused() -> None:
    with pytest.raises(WamError, match="odd number"):
        ResidualMlp(4, (8, 8), 1)


def test_the_first_layer_in_parts_is_one_layer_on_all_inputs() -> None:
    network = make_network(0)
    noisy, feature = torch.randn(10, 28), make_feature(10)
    k = torch.arange(10)
    half = torch.exp(-torch.log(torch.tensor(1e4)) * torch.arange(8) / 7)
    angle = k.unsqueeze(1) * half
    step = network.time(torch.cat([angle.sin(), angle.cos()], dim=1))
    parts = (network.from_chunk, network.from_step, network.from_feature)
    weight = torch.cat([part.weight for part in parts], dim=1)
    inputs = torch.cat([noisy, step, feature], dim=1)
    whole = network.body(inputs @ weight.T + network.from_feature.bias)
    torch.testing.assert_close(network(noisy, k, feature), whole, atol=1e-5, rtol=1e-5)
