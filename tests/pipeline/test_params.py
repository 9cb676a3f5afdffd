import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from annotated_types import Interval
from dvc.utils.hydra import apply_overrides

from pipeline.artifacts.layout import Layout
from pipeline.params import Profile, load_profile
from wam.errors import WamError

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"


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
        (("finetune", "actor_lr"), -1.0, "ci.finetune.actor_lr = -1.0: input should be greater"),
        (("tasks",), ["close_draw"], "close_draw"),
        (("env", "backend"), "mujoco", "ci.env.backend = 'mujoco': input should be 'embedded'"),
        (("policy",), 3, "expected a section"),
        (("policy", "batch"), 0, "ci.policy.batch = 0: input should be greater than or"),
        (
            ("world_model", "id_steps"),
            16,
            "window=16: needs at least 17, one more than world_model",
        ),
        (("world_model", "id_input"), "proprio", "ci.world_model.id_input = 'proprio'"),
        (("train_world_model", "compat"), "lumos", "input should be 'none' or 'diwa'"),
        (("train_world_model", "lr"), 0.0, "lr = 0.0: input should be greater than"),
        (("train_world_model", "image_optimizer"), "sgd", "input should be 'adamw' or 'muon'"),
        (
            ("train_world_model", "image_frames"),
            0.0,
            "image_frames = 0.0: input should be greater than 0",
        ),
        (
            ("train_world_model", "image_frames"),
            1.5,
            "image_frames = 1.5: input should be less than or",
        ),
        (("train_world_model", "minutes"), -1.0, "minutes = -1.0: input should be greater than 0"),
        (("convert", "shard_frames"), 1010, "not a multiple of chunk_frames=25; use 1025"),
        (
            ("convert", "image_size"),
            32,
            "image_size = 32: input should be greater than or equal to 64",
        ),
        (("convert", "cameras"), [], "ci.convert.cameras = []: list should have at least 1 item"),
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
        (("evaluate", "look_every_of"), {"lift": 1}, "ci.evaluate.look_every_of.lift"),
        (("tasks",), ["lift"], "ci.tasks[0] = 'lift': input should be"),
        (("raw", "annotations"), "a/b", "ci.raw.annotations = 'a/b': string should match"),
        (("world_model", "seed_match_scale"), 1.0, "match without embedding_image_scale"),
        (("world_model", "view_reach"), 8, "needs embedding_image_scale and proprioception"),
        (("finetune", "advantage"), "grpo", "ci.finetune.advantage = 'grpo': input should be"),
        (("finetune", "start_curriculum"), 1.5, "ci.finetune.start_curriculum = 1.5: input"),
        (("finetune", "start_curriculum"), -0.5, "start_curriculum = -0.5: input should be"),
        (
            ("finetune", "disagreement_scale"),
            float("inf"),
            "disagreement_scale = inf: input should be a finite",
        ),
        (("finetune", "disagreement_heads"), 0, "disagreement_heads = 0: input should be"),
        (("finetune", "group"), 0, "ci.finetune.group = 0: input should be greater"),
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


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("train_world_model", "lr"), "1e-4", "(YAML takes 1e-4 for text: write 1.0e-4)"),
        (("train_world_model", "lr_final"), 0.5, "lr_final=0.5 is more than lr=0.001, from which"),
        (("finetune", "seeds"), [1, 1], "ci.finetune.seeds: names 1 twice"),
        (("finetune", "seeds"), [0, 2**64], "ci.finetune.seeds[1] = 18446744073709551616: input"),
        (("finetune", "critic_hidden"), [8, 8], "critic_hidden=[8, 8]: needs an odd number"),
        (("finetune", "clip_base"), 0.5, "ci.finetune.clip_base=0.5 is more than clip_max=0.01"),
        (
            ("policy", "hidden"),
            [8, 9, 8],
            "ci.policy.hidden=[8, 9, 8]: needs an odd number of equal",
        ),
        (("env", "workers"), True, "ci.env.workers = True: input should be a valid integer"),
        (("tasks",), ["turn_on_led", "turn_on_led"], "ci.tasks: names turn_on_led twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(params, keys: tuple, value: object, message: str) -> None:
    with pytest.raises(WamError) as error:
        load_profile("ci", params(*keys, value=value))
    assert message in str(error.value)


def test_many_classes_and_categoricals_need_too_much_memory(params) -> None:
    params("world_model", "classes", value=256)
    with pytest.raises(WamError, match="stoch=4096 times classes=256 is more than 65536"):
        load_profile("ci", params("world_model", "stoch", value=4096))


def test_messages_are_short(params) -> None:
    with pytest.raises(WamError) as error:
        load_profile("ci", params("raw", "path", value=["x" * 100] * 400))
    assert len(str(error.value).partition("params.yaml")[2]) < 250


def numbers_without_range(kind: object, where: str) -> list[str]:
    """Where ``kind``, the type of a setting, allows any number."""
    if kind in (int, float):
        return [where]
    if get_origin(kind) is Annotated:
        inner, *limits = get_args(kind)
        if inner in (int, float):
            bounded = [one for one in limits if isinstance(one, Interval)]
            closed = [
                one
                for one in bounded
                if (one.ge is not None or one.gt is not None)
                and (one.le is not None or one.lt is not None)
            ]
            return [] if closed else [where]
        return numbers_without_range(inner, where)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return [
            found
            for field in fields(kind)
            for found in numbers_without_range(hints[field.name], f"{where}.{field.name}")
        ]
    if get_origin(kind) is Literal:
        return []
    return [found for part in get_args(kind) for found in numbers_without_range(part, where)]


def test_every_number_has_a_smallest_and_a_largest_value() -> None:
    assert numbers_without_range(Profile, "profile") == []
    assert numbers_without_range(tuple[int, ...] | None, "a") == ["a"]


@pytest.mark.parametrize("name", ["../../outside", "/tmp/x", ".", ".a", "a/b", "a\n", "", "a" * 65])
def test_no_profile_leads_out_of_its_directory(name: str) -> None:
    for take in (load_profile, Layout.of):
        with pytest.raises(WamError, match="expected up to 64 letters, digits"):
            take(name)
    assert Layout.of("my-own_profile.2").root == Path("data/my-own_profile.2")


def test_dvc_changes_the_lines_that_it_is_told_to(tmp_path: Path) -> None:
    """And no others, nor another profile: ``dvc exp run -S`` writes the file anew."""
    before = PARAMS.read_text()
    path = tmp_path / "params.yaml"
    path.write_text(before)
    apply_overrides(path, ["small.extract.demos_per_task=3", "study.seeds=[0, 1]"])
    change = difflib.ndiff(before.splitlines(), path.read_text().splitlines())
    changed = [line for line in change if line[0] in "+-"]
    assert changed == [
        "-     demos_per_task: 50",
        "+     demos_per_task: 3",
        "-   - 2",
        "-   - 3",
        "-   - 4",
    ]


def test_no_value_of_a_profile_lies_in_another_one() -> None:
    tokens = yaml.scan(PARAMS.read_text())
    assert not [one for one in tokens if isinstance(one, yaml.AnchorToken | yaml.AliasToken)]
