import pytest
import torch

from wam.training.precision import Precision, choose

CPU = torch.device("cpu")


@pytest.mark.parametrize("setting", ["bf16", "fp32"])
def test_a_setting_is_followed(setting: str) -> None:
    assert choose(setting, CPU) == Precision(setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_equal_settings_compute_alike_on_every_cpu(
    monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert choose("auto", CPU) == Precision("fp32")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_computes_in_bf16_where_it_has_it(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert choose("auto", torch.device("cuda")) == Precision(expected)  # type: ignore[arg-type]
