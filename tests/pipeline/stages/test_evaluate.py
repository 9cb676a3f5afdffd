"""Evaluation in the real simulator with untrained models, from two starts of one task."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pybullet")

from pipeline.artifacts.layout import Layout
from pipeline.evaluation import bench, jobs
from pipeline.latents.demonstrations import Start
from pipeline.params import Profile, load_profile
from pipeline.pictures import clips
from pipeline.stages import evaluate
from tests.pipeline.artifact import artifact, remade
from tests.pipeline.dask_cluster import Cluster, cluster
from wam.config import PROPRIO_SIZE
from wam.envs.settings import SimulatorConfig
from wam.envs.simulator import renderer
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError
from wam.policy.network import build_network
from wam.policy.policy import DiffusionPolicy, FinetunedPolicy, policy_description
from wam.proprio import ProprioNormalizer
from wam.reward.classifier import SuccessClassifier, reward_description
from wam.tasks import LED
from wam.weights import save_model
from wam.world_model.load import world_model_config
from wam.world_model.model import WorldModel

__all__ = ["cluster"]  # a fixture

TASK = "turn_on_led"
STEPS = 30


@pytest.fixture(scope="module")
def profile() -> Profile:
    ci = load_profile("ci", Path(__file__).parents[3] / "params.yaml")
    return replace(
        ci,
        device="cpu",
        tasks=(TASK,),
        parallel=replace(ci.parallel, workers=1),
        evaluate=replace(ci.evaluate, max_steps=STEPS, max_episodes=None, clips=True),
    )


@pytest.fixture(scope="module")
def inputs(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Demonstrations, an untrained world model and untrained policies."""
    layout = Layout(tmp_path_factory.mktemp("evaluation"))
    env = PlayTableEnv(cameras=False)
    starts = []
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        state = {name: observation[name].tolist() for name in ("robot_obs", "scene_obs")}
        starts.append({"frame_id": 7 * seed, **state})
    env.close()
    task = {"training": [], "validation": [], "starts": starts}
    task |= {"imagination_starts": [], "training_play": [], "validation_play": []}
    with artifact(layout.demos) as directory:
        content = {"digest": "0", "tasks": {TASK: task}}
        (directory / "demos.json").write_text(json.dumps(content))
    model = WorldModel(profile.world_model, seed=1)
    with artifact(layout.world_model("wam")) as directory:
        normalizer = ProprioNormalizer(np.zeros(PROPRIO_SIZE), np.ones(PROPRIO_SIZE))
        save_model(directory, model, world_model_config(model, "wam", normalizer))
    torch.manual_seed(0)
    feature = profile.world_model.feature
    base, actor = (build_network(profile.policy, feature) for _ in range(2))
    with artifact(layout.policy("wam")) as directory:
        description = policy_description(profile.policy, feature)
        save_model(directory / TASK, DiffusionPolicy(base), description)
    with artifact(layout.reward("wam")) as directory:
        classifier = SuccessClassifier(profile.reward, feature)
        save_model(directory / TASK, classifier, reward_description(profile.reward, feature))
    with artifact(layout.finetune("wam")) as directory:
        description = policy_description(profile.policy, feature, 3)
        for seed in profile.finetune.seeds:
            tuned = FinetunedPolicy(base, actor, 3)
            save_model(directory / TASK / f"seed-{seed}", tuned, description)
    return layout


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    attrs = {
        "renderer": "tiny",
        "robot_model": "light",
        "scene_source": "embedded",
        "source_image_shapes": {"rgb_static": [64, 64, 3], "rgb_gripper": [64, 64, 3]},
    }
    monkeypatch.setattr(evaluate, "open_store", lambda path: SimpleNamespace(attrs=attrs))
    return attrs


@pytest.fixture
def layout(inputs: Layout, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(inputs.root, tmp_path / "data")))


def read(layout: Layout, name: str, file: str) -> Any:
    return json.loads((layout.evaluation(name) / file).read_text())


def test_the_expert_succeeds_and_holding_still_does_not(profile: Profile, layout: Layout) -> None:
    evaluate.run(profile, layout, "controls")
    summary = {row["stage"]: row for row in read(layout, "controls", "summary.json")}
    assert summary["expert"]["success_rate"] == 1
    assert summary["zero"]["successes"] == 0
    assert summary["zero"]["episodes"] == 2
    assert summary["expert"]["ci_low"] == pytest.approx(0.342, abs=1e-3)
    assert summary["expert"]["variant"] is None
    rollouts = read(layout, "controls", "rollouts.json")
    assert [row["frame_id"] for row in rollouts] == [0, 7, 0, 7]
    assert all(row["steps"] < STEPS for row in rollouts[:2])
    assert all(row["steps"] == STEPS for row in rollouts[2:])
    assert read(layout, "controls", "metrics.json")["expert"] == {TASK: 1.0, "average": 1.0}
    clip = Image.open(layout.evaluation("controls") / f"{TASK}-expert.webp")
    assert clip.n_frames > 3
    origin = {
        "backend": "embedded",
        "renderer": "tiny",
        "robot_model": "light",
        "scene_source": "embedded",
    }
    assert origin.items() <= read(layout, "controls", "manifest.json").items()
    assert origin.items() <= summary["zero"].items()


def test_a_variant_is_evaluated_before_and_after_ppo(profile: Profile, layout: Layout) -> None:
    short = replace(profile.evaluate, max_steps=10, look_every_of={TASK: 0})
    with patch.object(bench, "roll_out", wraps=bench.roll_out) as rolled:
        evaluate.run(replace(profile, evaluate=short), layout, "wam")
    given = [(call.args[0], start) for call in rolled.mock_calls for start in call.args[2]]
    assert {(one.look_every, start.aftermath) for one, start in given} == {(0, jobs.AFTERMATH)}
    assert read(layout, "wam", "manifest.json")["params"]["aftermath"] == jobs.AFTERMATH
    rows = read(layout, "wam", "summary.json")
    assert [(row["variant"], row["stage"], row["seed"]) for row in rows] == [
        ("wam", "bc", profile.policy.seed),
        *(("wam", "ppo", seed) for seed in profile.finetune.seeds),
    ]
    assert all(0 <= row["imagined_success"] <= 1 for row in rows)
    assert all(-1 <= row["replayed_bias"] <= 1 for row in rows)
    rollouts = read(layout, "wam", "rollouts.json")
    seen = ("recognised", "imagined", "executed")
    assert {type(row[name]) for row in rollouts for name in seen} == {bool}
    assert all(0 <= row["replayed"] <= 1 for row in rollouts)
    clips = sorted(path.name for path in layout.evaluation("wam").glob("*.webp"))
    assert clips == [f"{TASK}-bc.webp", f"{TASK}-ppo.webp"]


def test_the_first_failure_is_filmed_too(profile: Profile, layout: Layout) -> None:
    """From where the light is on already no one turns it on."""
    content = json.loads((layout.demos / "demos.json").read_text())
    content["tasks"][TASK]["starts"][1]["scene_obs"][LED] = 1.0
    shutil.rmtree(layout.demos)
    with artifact(layout.demos) as directory:
        (directory / "demos.json").write_text(json.dumps(content))
    evaluate.run(profile, layout, "controls")
    rollouts = read(layout, "controls", "rollouts.json")[:2]
    assert [row["success"] for row in rollouts] == [True, False]
    films = {
        path.name: Image.open(path).n_frames
        for path in layout.evaluation("controls").glob("*.webp")
    }
    assert films.keys() == {f"{TASK}-expert.webp", f"{TASK}-expert-failure.webp"}
    assert films[f"{TASK}-expert-failure.webp"] == STEPS // 2 + 1


def test_all_clips_of_a_policy_are_of_its_first_seed(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose first start's failure is not followed by that of another seed."""
    filmed: list[clips.Take] = []
    monkeypatch.setattr(evaluate.clips, "film", lambda _, takes: filmed.extend(takes) or takes)
    (task,) = json.loads((layout.demos / "demos.json").read_text())["tasks"].values()
    starts = {TASK: [Start(**start) for start in task["starts"]]}
    action = [[0.0] * 7]
    parts = {
        evaluate.EvaluationJob("wam", TASK, "ppo", seed): {
            "actions": dict.fromkeys(rows, action),
            "rollouts": [{"success": False}, {"success": False}],
        }
        for seed, rows in ((3, ("0",)), (4, ("0", "1")))
    }
    simulator = profile.env.simulator(static_size=64, gripper_size=64)
    evaluate._film(layout.root, simulator, 1, parts, starts)
    assert [take.path.name for take in filmed] == [f"{TASK}-ppo.webp"]


def test_what_the_simulator_fine_tuned_is_labelled_so(profile: Profile, layout: Layout) -> None:
    remade(layout.finetune("wam"), environment="simulator")
    short = replace(profile.evaluate, max_steps=4, max_episodes=1)
    evaluate.run(replace(profile, evaluate=short), layout, "wam")
    stages = {row["stage"] for row in read(layout, "wam", "summary.json")}
    assert stages == {"bc", "ppo_simulator"} == set(read(layout, "wam", "metrics.json"))
    clips = sorted(path.name for path in layout.evaluation("wam").glob("*.webp"))
    assert clips == [f"{TASK}-bc.webp", f"{TASK}-ppo_simulator.webp"]
    job = evaluate.EvaluationJob("wam", TASK, "ppo_simulator", 0)
    assert job.label == "WAM PPO (simulator)"


def outcome(layout: Layout) -> Any:
    parts = sorted((layout.evaluation("wam") / "parts").iterdir())
    return [json.loads(part.read_text()) for part in parts]


def test_outcomes_depend_neither_on_workers_nor_on_interruption(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = replace(profile.evaluate, max_steps=10, clips=False)
    one = replace(profile, evaluate=quick, env=replace(profile.env, workers=1))
    two = replace(profile, evaluate=quick, env=replace(profile.env, workers=2))
    evaluate.run(one, layout, "wam")
    expected = outcome(layout)
    assert expected[0]["actions"] != expected[1]["actions"], "fine-tuning has no effect"

    other = Layout(Path(shutil.copytree(layout.root, tmp_path / "other")))
    shutil.rmtree(other.evaluation("wam"))
    written = []

    def fail_after_one(path: Path, value: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_json(path, value)

    write_json = evaluate.write_json
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "write_json", fail_after_one)
        evaluate.run(two, other, "wam")
    assert not other.evaluation("wam").exists()
    before = written[0].stat().st_mtime_ns
    evaluate.run(two, other, "wam")
    assert outcome(other) == expected
    kept = other.evaluation("wam") / "parts" / written[0].name
    assert kept.stat().st_mtime_ns == before


def test_a_process_for_every_episode_changes_nothing(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = replace(profile.evaluate, max_steps=6)
    profile = replace(profile, evaluate=short, env=replace(profile.env, workers=1))
    other = Layout(Path(shutil.copytree(layout.root, tmp_path / "other")))
    evaluate.run(profile, layout, "wam")
    monkeypatch.setattr(SimulatorConfig, "one_per_process", True)
    evaluate.run(profile, other, "wam")
    assert outcome(other) == outcome(layout)
    clips = [sorted(place.evaluation("wam").glob("*.webp")) for place in (layout, other)]
    assert [path.read_bytes() for path in clips[0]] == [path.read_bytes() for path in clips[1]]
    assert len(clips[0]) == 2


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({}, None),
        ({"renderer": "egl"}, "made with renderer egl, the simulator runs with renderer tiny"),
        (
            {"robot_model": None, "scene_source": None},
            "made with robot_model unknown, scene_source unknown, "
            "the simulator runs with robot_model light, scene_source embedded",
        ),
    ],
)
def test_another_world_than_the_datas_is_refused_or_stands_in_every_row(
    profile: Profile,
    layout: Layout,
    store: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    attrs: dict[str, Any],
    words: str | None,
) -> None:
    store |= attrs
    quick = replace(profile.evaluate, max_steps=4, max_episodes=1, clips=False)
    profile = replace(profile, evaluate=quick)
    if words is not None:
        for name in ("wam", "controls"):
            with pytest.raises(WamError, match=words):
                evaluate.run(profile, layout, name)
        profile = replace(profile, env=replace(profile.env, differences="allow"))
    evaluate.run(profile, layout, "wam")
    output = capsys.readouterr().out
    assert output.count("the simulator runs with") == (words is not None)
    for row in read(layout, "wam", "summary.json"):
        assert row["scene"] == "D"
        assert (words is None) == (row["differs_from_data"] is None)
        assert (words or "") in (row["differs_from_data"] or "")


def test_auto_follows_the_data(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, "try_egl", lambda: pytest.fail("EGL is tried"))
    quick = replace(profile.evaluate, max_steps=2, max_episodes=1, clips=False)
    auto = replace(profile, evaluate=quick, env=replace(profile.env, renderer="auto"))
    evaluate.run(auto, layout, "controls")
    assert read(layout, "controls", "manifest.json")["renderer"] == "tiny"


def test_without_the_simulator_the_message_says_what_to_install(
    profile: Profile, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable[..., Any] = lambda name: None  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(WamError, match=r'pip install "wam\[sim\]"'):
        evaluate.run(profile, layout, "controls")


def test_a_missing_input_names_the_stage_that_makes_it(profile: Profile, layout: Layout) -> None:
    shutil.rmtree(layout.finetune("wam"))
    with pytest.raises(WamError, match="run 'wam finetune' first"):
        evaluate.run(profile, layout, "wam")
    assert not list(layout.root.glob("evaluation/*"))


def test_a_task_without_starts_is_refused(profile: Profile, layout: Layout) -> None:
    file = layout.demos / "demos.json"
    content = json.loads(file.read_text())
    content["tasks"][TASK]["starts"] = []
    file.write_text(json.dumps(content))
    remade(layout.demos)
    with pytest.raises(WamError, match=f"no held-out start of {TASK}"):
        evaluate.run(profile, layout, "controls")


def test_the_seed_of_an_episode_belongs_to_its_start() -> None:
    seeds = {
        jobs.episode_seed(0, task, frame) for task in (TASK, "open_drawer") for frame in (1, 2)
    }
    assert len(seeds) == 4
    assert jobs.episode_seed(0, TASK, 1) == jobs.episode_seed(0, TASK, 1)


def test_in_another_world_the_same_starts_are_kept_apart(
    profile: Profile, layout: Layout, store: dict[str, Any], tmp_path: Path
) -> None:
    evaluate.run(profile, layout, "controls")
    store["scene_source"] = "calvin"  # as if the data were another's
    evaluate.run(profile, layout, "controls", world="embedded")
    moved = layout.transfer("embedded", "controls")
    rollouts = [
        json.loads((path / "rollouts.json").read_text())
        for path in (layout.evaluation("controls"), moved)
    ]
    assert rollouts[0] == rollouts[1]
    summary = json.loads((moved / "summary.json").read_text())
    assert all("scene_source calvin" in row["differs_from_data"] for row in summary)
    with pytest.raises(WamError, match=r"--in assets: needs --assets DIR"):
        evaluate.run(profile, layout, "controls", world="assets")
    with pytest.raises(WamError, match=r"nowhere.*not found; env.assets must be"):
        evaluate.run(profile, layout, "controls", "assets", tmp_path / "nowhere")
    with pytest.raises(WamError, match=r"--assets: the embedded scene has none"):
        evaluate.run(profile, layout, "controls", "embedded", tmp_path)
    with pytest.raises(WamError, match=r"--assets: needs --in"):
        evaluate.run(profile, layout, "controls", assets=tmp_path)


def test_in_calvins_scene_if_its_files_are_here(profile: Profile, layout: Layout) -> None:
    assets = Path(__file__).resolve().parents[4] / "shared" / "calvin_assets"
    if not assets.is_dir():
        pytest.skip(f"CALVIN's assets are not at {assets}")
    evaluate.run(profile, layout, "controls", "assets", assets)
    summary = json.loads((layout.transfer("assets", "controls") / "summary.json").read_text())
    assert {row["scene_source"] for row in summary} == {"calvin"}
    assert {row["stage"]: row["successes"] for row in summary} == {"expert": 2, "zero": 0}


@pytest.mark.slow
def test_policies_side_by_side_have_the_same_outcomes(
    profile: Profile, layout: Layout, tmp_path: Path, cluster: Cluster
) -> None:
    quick = replace(profile.evaluate, max_steps=8, clips=False)
    found = []
    for number, parallel in enumerate(({"workers": 1}, {"workers": 2})):
        own = Layout(Path(shutil.copytree(layout.root, tmp_path / str(number))))
        parallel = replace(profile.parallel, **parallel)
        evaluate.run(replace(profile, evaluate=quick, parallel=parallel), own, "wam")
        files = sorted(own.evaluation("wam").rglob("*.json"))
        found.append({p.name: p.read_bytes() for p in files if p.name != "manifest.json"})
    assert found[0] == found[1]
    assert {"turn_on_led-bc-0.json", "rollouts.json"} <= found[0].keys()
    cluster.add_worker()  # whose process is a daemon
    parallel = replace(profile.parallel, dask_address=cluster.address)
    with pytest.raises(WamError, match=r"daemons .*--no-nanny"):
        evaluate.run(replace(profile, evaluate=quick, parallel=parallel), layout, "wam")
