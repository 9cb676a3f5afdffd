from pathlib import Path

import pytest
import yaml

from pipeline.params import load_profile
from wam.errors import WamError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path):
    """Write ``params.yaml`` with one value of the ci profile changed; returns its path."""
    document = {"ci": yaml.safe_load((ROOT / "params.yaml").read_text())["ci"]}

    def write(*keys: str, value: object) -> Path:
        section = document["ci"]
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def test_values_arrive_typed(params) -> None:
    profile = load_profile("ci", params("finetune", "iterations", value=7))
    assert profile.finetune.iterations == 7
    assert profile.policy.hidden == (64, 64, 64)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("finetune", "iteration"), 3, "unknown parameter 'iteration'; did you mean 'iterations'?"),
        (("finetun",), {}, "unknown parameter 'finetun'; did you mean 'finetune'?"),
        (("finetune", "iterations"), "many", "ci.finetune.iterations = 'many'"),
        (("collect", "training_frames"), 0, "ci.collect.training_frames = 0"),
        (("finetune", "actor_lr"), -1.0, "ci.finetune.actor_lr = -1.0: must not be negative"),
        (("tasks",), ["close_draw"], "close_draw"),
        (("env", "backend"), "mujoco", "ci.env.backend = 'mujoco': input should be 'embedded'"),
        (("policy",), 3, "expected a section"),
        (("policy", "batch"), 0, "ci.policy.batch = 0: must be positive"),
        (
            ("world_model", "id_steps"),
            16,
            "window=16: needs at least 17, one more than world_model",
        ),
        (("world_model", "id_input"), "proprio", "ci.world_model.id_input = 'proprio'"),
        (("train_world_model", "compat"), "lumos", "input should be 'none' or 'diwa'"),
        (("train_world_model", "lr"), 0.0, "lr=0.0: must be positive"),
        (("train_world_model", "image_optimizer"), "sgd", "input should be 'adamw' or 'muon'"),
        (("train_world_model", "image_frames"), 0.0, "image_frames=0.0: a share"),
        (("train_world_model", "image_frames"), 1.5, "image_frames=1.5: a share"),
        (("train_world_model", "minutes"), -1.0, "minutes = -1.0: must not be negative"),
        (("convert", "shard_frames"), 1010, "not a multiple of chunk_frames=125; use 1125"),
        (("convert", "image_size"), 32, "image_size=32: needs at least 64"),
        (("convert", "cameras"), [], "ci.convert.cameras: must not be empty"),
        (("convert", "cameras"), ["rgb_top"], "input should be 'rgb_static' or 'rgb_gripper'"),
        (("convert", "scenes"), ["A", "C", "A"], "ci.convert.scenes: names A twice"),
        (("convert", "extra_keys"), ["proprio"], "'proprio' is not the name of a further array"),
        (("convert", "extra_keys"), ["../x"], "'../x' is not the name of a further array"),
        (("convert", "frames"), {"training": [[5, 2]]}, "frames.training: [5, 2] is reversed"),
        (("convert", "frames"), {"validation": [[0, 5], [5, 9]]}, "[5, 9] is reversed, or not"),
        (("convert", "frames"), {"test": [[0, 5]]}, "ci.convert.frames.test"),
        (("finetune", "finetuned_steps"), 11, "more than policy.diffusion_steps=10"),
        (("evaluate", "ddim_steps"), 11, "more than policy.diffusion_steps=10"),
        (("evaluate", "ddim_steps"), 1, "none would be among the last 5 of 10"),
        (("tasks",), [], "must not be empty"),
        (("world_model", "seed_match_scale"), 1.0, "match without embedding_image_scale"),
        (("finetune", "advantage"), "grpo", "ci.finetune.advantage = 'grpo': input should be"),
        (("finetune", "start_curriculum"), 1.5, "ci.finetune.start_curriculum=1.5: a share"),
        (("finetune", "start_curriculum"), -0.5, "start_curriculum = -0.5: must not be negative"),
        (("finetune", "disagreement_scale"), float("inf"), "disagreement_scale=inf: expected a"),
        (("finetune", "disagreement_heads"), 0, "disagreement_heads = 0: must be positive"),
        (("finetune", "group"), 0, "ci.finetune.group = 0: must be positive"),
    ],
)
def test_a_bad_value_is_named(params, keys: tuple[str, ...], value: object, message: str) -> None:
    with pytest.raises(WamError) as error:
        load_profile("ci", params(*keys, value=value))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"group": 1}, "ci.finetune.group=1: needs at least 2"),
        ({"envs": 8}, "ci.finetune.envs=8 is not a multiple of group=5"),
        ({"steps": 20}, "ci.finetune.steps=20 is not a multiple of max_decisions=18"),
    ],
)
def test_groups_need_whole_groups_and_episodes(params, changed: dict, message: str) -> None:
    for key, value in {"advantage": "group", "envs": 10, "steps": 36, **changed}.items():
        path = params("finetune", key, value=value)
    with pytest.raises(WamError) as error:
        load_profile("ci", path)
    assert message in str(error.value)
    assert load_profile("ci", params("finetune", "advantage", value="gae"))


def test_one_head_cannot_disagree(params) -> None:
    assert load_profile("ci", params("finetune", "disagreement_heads", value=1))
    with pytest.raises(WamError, match=r"ci\.finetune\.disagreement_heads=1: needs at least 2"):
        load_profile("ci", params("finetune", "disagreement_scale", value=0.1))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    del document["ci"]["policy"]["lr"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(WamError, match=r"ci\.policy: missing parameter 'lr'"):
        load_profile("ci", path)


def test_an_unknown_profile_is_named_with_the_nearest() -> None:
    with pytest.raises(WamError, match="unknown profile 'dmo'; did you mean 'demo'"):
        load_profile("dmo", ROOT / "params.yaml")
