"""The versions of a roll-out that the benchmark compares compute the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import imagination as benchmark
from pipeline.params import Profile, load_profile

ENVS, DECISIONS = 6, 5


@pytest.fixture(scope="module")
def profile() -> Profile:
    profile = load_profile("ci", Path(__file__).parents[2] / "params.yaml")
    world_model = replace(
        profile.world_model,
        cnn_depth=4,
        visual_embedding=16,
        decoder_channels=16,
        deter=24,
        stoch=4,
        classes=6,
        hidden=20,
    )
    finetune = replace(profile.finetune, max_decisions=3)
    return replace(profile, world_model=world_model, finetune=finetune)


@pytest.mark.parametrize("rows", [ENVS, 1])
def test_a_roll_out_through_numpy_is_that_of_the_package(profile: Profile, rows: int) -> None:
    parts = benchmark.make_parts(profile, torch.device("cpu"))
    ours = benchmark.batched(profile, parts, ENVS, DECISIONS)
    theirs = benchmark.through_numpy(profile, parts, ENVS, DECISIONS, rows)
    # Episodes of both ends, or the comparison would say nothing about the resets.
    assert ours.terminated.any() and ours.truncated.any()
    for name, values in theirs._asdict().items():
        expected = getattr(ours, name).numpy()
        if name in ("reward", "truncated"):
            np.testing.assert_array_equal(values, expected, err_msg=name)
        else:
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert torch.equal(ours.terminated, ours.reward > 0)


def test_half_of_the_starts_are_successes(profile: Profile) -> None:
    parts = benchmark.make_parts(profile, torch.device("cpu"))
    assert parts.classifier.success(parts.starts).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_the_benchmark_takes_a_profiles_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--profile", "demo", "--rounds", "1", "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratio_vs_stepwise"] > 1
