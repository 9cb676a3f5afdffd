import time

import pytest
import torch

from wam.precision import Precision, choose

CPU = torch.device("cpu")


def test_a_setting_is_followed_without_a_trial() -> None:
    def trial() -> None:
        raise AssertionError

    assert choose("bf16", CPU, trial).name == "bf16"
    assert choose("fp32", CPU, trial) == Precision("fp32", "as set")


@pytest.mark.parametrize(("slow", "expected"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_cpu_with_bf16_takes_what_is_faster(
    monkeypatch: pytest.MonkeyPatch, slow: str, expected: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def trial() -> None:
        name = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
        time.sleep(0.03 if name == slow else 0.001)

    chosen = choose("auto", CPU, trial)
    assert chosen.name == expected
    assert "times the speed" in chosen.reason


def test_a_cpu_without_bf16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    chosen = choose("auto", CPU, lambda: pytest.fail("tried"))
    assert chosen == Precision("fp32", "this CPU (AVX2) has no fast bf16")
