"""The stage on two random models and a tiny data set."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.layout import Layout, store_path
from pipeline.artifacts.manifests import read_json
from pipeline.batches.embedded import read_arm_motion
from pipeline.batches.order import fixed_windows
from pipeline.params import Profile
from pipeline.stages import evaluate_world_model
from pipeline.store.open import open_store
from tests.pipeline.artifact import remade
from wam.config import VARIANTS
from wam.errors import WamError
from wam.tasks import FIXTURES
from wam.world_model.proprio_state import lags


@pytest.fixture
def layout(tiny_models: tuple[Profile, Layout], tmp_path: Path) -> Layout:
    """A profile of its own that shares the read-only models."""
    layout = Layout(tmp_path / "tiny")
    shutil.copytree(tiny_models[1].root, layout.root)
    return layout


def evaluated(profile: Profile, layout: Layout) -> dict:
    evaluate_world_model.run(profile, layout)
    return read_json(layout.world_model_evaluation / "world_model.json")


def test_both_variants_are_measured_on_the_same_sequences(
    tiny_models: tuple[Profile, Layout], layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    profile, _ = tiny_models
    result = evaluated(profile, layout)
    rows = {(row["measure"], row["camera"], row["horizon"]): row for row in result["quality"]}
    for measure in ("psnr", "ssim"):
        for camera in ("static", "gripper", "both"):
            found = {horizon for m, c, horizon in rows if (m, c) == (measure, camera)}
            assert found == {None, 1, 5, 10}
    curves = read_json(layout.world_model_evaluation / "open_loop.json")
    for variant in VARIANTS:
        assert [record["horizon"] for record in curves[variant]] == list(range(1, 12))
        everything = rows["psnr", "static", None]
        mean = np.mean([record["psnr_static"] for record in curves[variant]])
        assert everything[variant]["mean"] == pytest.approx(mean)
        tenth = rows["ssim", "gripper", 10][variant]
        assert tenth["mean"] == pytest.approx(curves[variant][9]["ssim_gripper"])
        assert tenth["std"] == pytest.approx(curves[variant][9]["ssim_gripper_std"])
        assert ("posterior_psnr", "both", None) in rows
    difference = everything["difference"]
    assert difference["value"] == pytest.approx(
        everything["wam"]["mean"] - everything["dreamerv2"]["mean"]
    )
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert set(result["probe"]) == {"untrained", *VARIANTS}
    assert result["probe_pairs"] == profile.evaluate_world_model.probe_sequences * 11
    for kind in ("linear", "mlp"):
        assert len(result["probe"]["wam"][kind]["r2"]) == 6
    assert set(result["action_faithfulness"]) == set(VARIANTS)
    assert all(set(slopes) == {"own", "others"} for slopes in result["action_response"].values())
    for views in result["scene_probe"].values():
        assert set(views) == {"embedding", "latent", "first_latent", "imagined_4"}
        assert all(
            set(shares) == {*FIXTURES, "hand x", "hand y", "hand z"} for shares in views.values()
        )
    output = capsys.readouterr().out
    for name in ("lpips", "fvd"):
        assert not result["perceptual"][name]["computed"]
        assert f"{name}: not computed: {result['perceptual'][name]['why']}" in output
    metrics = read_json(layout.world_model_evaluation / "metrics.json")
    assert metrics["wam"]["psnr"] == rows["psnr", "both", None]["wam"]["mean"]
    assert metrics["wam"]["psnr_10"] == rows["psnr", "both", 10]["wam"]["mean"]


def test_windows_of_play_are_told_the_lag(
    tiny_models: tuple[Profile, Layout], layout: Layout
) -> None:
    settings = tiny_models[0].evaluate_world_model
    windows, _ = evaluate_world_model._play(layout, "validation", 3, settings, distractors=False)
    store = open_store(store_path(layout.store, "validation"))
    starts = fixed_windows(store.episodes, settings.open_loop_steps + 1, 3, settings.seed)
    expected = lags(read_arm_motion(store))[torch.from_numpy(starts)]
    assert windows.first_lag is not None
    assert torch.equal(windows.first_lag, expected)


def test_variants_trained_in_other_precisions_are_named(
    tiny_models: tuple[Profile, Layout], layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one sequence is no sample of others."""
    for variant, precision in zip(VARIANTS, ("fp32", "bf16"), strict=True):
        params = {"device": "cuda", "train_world_model": {"precision": precision}}
        remade(layout.world_model(variant), params=params)
    profile = tiny_models[0]
    settings = replace(profile.evaluate_world_model, open_loop_sequences=1)
    result = evaluated(replace(profile, evaluate_world_model=settings), layout)
    assert {row["difference"] for row in result["quality"]} == {None}
    output = " ".join(capsys.readouterr().out.split())
    assert "The world models were trained with precision " in output
    assert "these two trained models" in output


def test_a_model_does_not_differ_from_itself(
    tiny_models: tuple[Profile, Layout], layout: Layout
) -> None:
    """The same sequences, the same random numbers: nothing is left of the difference."""
    shutil.rmtree(layout.world_model("dreamerv2"))
    shutil.copytree(layout.world_model("wam"), layout.world_model("dreamerv2"))
    result = evaluated(tiny_models[0], layout)
    assert all(row["difference"]["low"] == 0 for row in result["quality"])
    assert all(row["difference"]["high"] == 0 for row in result["quality"])
    assert result["probe"]["wam"] == result["probe"]["dreamerv2"] != result["probe"]["untrained"]


def test_the_same_settings_give_the_same_result(
    tiny_models: tuple[Profile, Layout], layout: Layout
) -> None:
    profile, _ = tiny_models
    first = evaluated(profile, layout)
    assert evaluated(profile, layout) == first
    settings = replace(profile.evaluate_world_model, seed=1)
    assert evaluated(replace(profile, evaluate_world_model=settings), layout) != first


def test_a_missing_model_is_named(tiny_models: tuple[Profile, Layout], layout: Layout) -> None:
    shutil.rmtree(layout.world_model("dreamerv2"))
    with pytest.raises(WamError, match=r"dreamerv2: .* run 'wam train-world-model'"):
        evaluate_world_model.run(tiny_models[0], layout)
    assert not layout.world_model_evaluation.parent.exists()
