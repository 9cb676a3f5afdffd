"""The stages between the world model and the evaluation, on small made-up artifacts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build
from pipeline.artifacts.layout import Layout
from pipeline.finetuning import ensemble, task
from pipeline.latents.demonstrations import Demo, TaskDemos
from pipeline.latents.features import SplitFeatures, TaskFeatures, load_features, save_features
from pipeline.params import Features, Profile, load_profile
from pipeline.stages import finetune, train_policy, train_reward
from pipeline.stages.featurize import CONTEXT_FRAMES, FeatureMaker
from tests.pipeline.artifact import artifact, content
from wam.actions import executable
from wam.config import Filtering, WorldModelConfig
from wam.errors import WamError
from wam.policy import cloning
from wam.policy.network import DiffusionPolicy, FinetunedPolicy, load_policy
from wam.ppo.disagreement import MAX_EXCESS, load_ensemble, mean_disagreement, transitions
from wam.proprio import ProprioNormalizer
from wam.reliability.interruption import Interrupted
from wam.reward import training
from wam.reward.classifier import load_reward
from wam.training.checkpoint import save_model, world_model_config
from wam.world_model.filtering import Observation, filter_sequence
from wam.world_model.model import WorldModel

TASK = "close_drawer"
VARIANT = "wam"
CPU = torch.device("cpu")
CONFIG = WorldModelConfig(
    cnn_depth=4,
    visual_embedding=16,
    decoder_channels=16,
    deter=16,
    stoch=4,
    classes=4,
    hidden=16,
    id_hidden=(8,),
)


def random_features(shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    deter = torch.rand(*shape, CONFIG.deter, generator=random).half().float()
    classes = torch.randint(CONFIG.classes, (*shape, CONFIG.stoch), generator=random)
    one_hot = torch.nn.functional.one_hot(classes, CONFIG.classes).float().flatten(-2)
    return torch.cat([deter, one_hot], dim=-1)


def make_split(demos: int, random: torch.Generator) -> SplitFeatures:
    """Demonstrations of 20 frames, the last five successes, told by the first feature."""
    frames = demos * 20
    label = (torch.arange(frames) % 20) >= 15
    posterior, imagined = (random_features((2, frames), random) for _ in range(2))
    posterior[..., 0] = imagined[..., 0] = label.float()
    return SplitFeatures(
        posterior=posterior,
        imagined=imagined,
        context=random_features((frames,), random),
        action=executable(torch.rand(frames, 7, generator=random) * 2 - 1),
        label=label,
        scene_obs=torch.zeros(frames, 24),
        length=torch.full((demos,), 20),
    )


def make_features() -> TaskFeatures:
    random = torch.Generator().manual_seed(0)
    return TaskFeatures(
        training=make_split(6, random),
        validation=make_split(3, random),
        play_starts=random_features((2, 5), random),
        training_play=make_split(4, random),
        validation_play=make_split(2, random),
    )


@pytest.fixture
def profile() -> Profile:
    profile = load_profile("ci", Path(__file__).parents[3] / "params.yaml")
    return replace(
        profile,
        device="cpu",
        world_model=CONFIG,
        policy=replace(profile.policy, updates=20, warmup=2, log_every=10, hidden=(16,)),
        reward=replace(profile.reward, epochs=6, lr=1e-2),
        finetune=replace(profile.finetune, envs=4, steps=3, iterations=4, minibatch=30),
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    model = WorldModel(CONFIG)
    normalizer = ProprioNormalizer(np.zeros(18), np.ones(18))
    with artifact(layout.world_model(VARIANT), "train-world-model") as directory:
        save_model(directory, model, world_model_config(model, VARIANT, normalizer))
    with artifact(layout.features(VARIANT), "featurize") as directory:
        save_features(directory / TASK, make_features(), CONFIG.deter, CONFIG.classes)
    return layout


@pytest.fixture
def trained(profile: Profile, layout: Layout) -> Layout:
    """Up to the fine-tuning."""
    train_reward.run(profile, layout, VARIANT)
    train_policy.run(profile, layout, VARIANT)
    return layout


def test_stored_features_come_back_as_they_were(tmp_path: Path) -> None:
    features = make_features()
    save_features(tmp_path / TASK, features, CONFIG.deter, CONFIG.classes)
    loaded = load_features(tmp_path, TASK)
    for split in ("training", "validation", "training_play", "validation_play"):
        for name, value in vars(getattr(features, split)).items():
            assert torch.equal(getattr(getattr(loaded, split), name), value), name
    assert torch.equal(loaded.play_starts, features.play_starts)
    assert loaded.size == CONFIG.feature
    assert loaded.training.first.tolist() == [0, 20, 40, 60, 80, 100]


def test_features_without_context_are_complete(tmp_path: Path) -> None:
    features = make_features()
    features = replace(features, training=replace(features.training, context=None))
    save_features(tmp_path / TASK, features, CONFIG.deter, CONFIG.classes)
    assert load_features(tmp_path, TASK).training.context is None


def test_missing_features_are_named(tmp_path: Path) -> None:
    with pytest.raises(WamError, match=r"features\.safetensors"):
        load_features(tmp_path, TASK)


def test_training_stages_leave_loadable_models_and_figures(trained: Layout) -> None:
    classifier = load_reward(trained.reward(VARIANT) / TASK, CPU)
    features = load_features(trained.features(VARIANT), TASK)
    assert classifier.success(features.validation.imagined).shape == (2, 60)
    figures = manifests.read_json(trained.reward(VARIANT) / "summary.json")[TASK]
    assert figures["precision_imagined"] >= 0.95
    assert figures["target_reached"]
    assert figures["missed_windows_imagined"] == 0
    assert figures["false_alarm_windows_imagined"] is None  # every made-up window succeeds
    policy = load_policy(trained.policy(VARIANT) / TASK, CPU)
    assert isinstance(policy, DiffusionPolicy)
    figures = manifests.read_json(trained.policy(VARIANT) / "summary.json")[TASK]
    assert figures["windows"] == 6 * 17
    lines = (trained.policy(VARIANT) / TASK / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20]


def test_fine_tuning_leaves_both_networks_and_an_unchanged_world_model(
    profile: Profile, trained: Layout
) -> None:
    finetune.run(profile, trained, VARIANT)
    output = trained.finetune(VARIANT)
    policy = load_policy(output / TASK / "seed-0", CPU)
    assert isinstance(policy, FinetunedPolicy)
    base = load_policy(trained.policy(VARIANT) / TASK, CPU).base
    for left, right in zip(policy.base.parameters(), base.parameters(), strict=True):
        assert torch.equal(left, right)
    weights = manifests.read_json(output / manifests.MANIFEST)["world_model_weights"]
    assert weights["before"] == weights["after"]
    figures = manifests.read_json(output / "summary.json")[TASK]
    assert 0 <= figures["imagined_success_last"] <= 1
    assert not (output / TASK / "seed-0" / "checkpoint.safetensors").exists()


def test_held_out_starts_are_watched_beside_the_training_ones(
    profile: Profile, trained: Layout
) -> None:
    settings = replace(profile.finetune, validate_every=3)
    finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    directory = trained.finetune(VARIANT) / TASK / "seed-0"
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    watched = [
        (record["step"], record["training_starts_success"], record["held_out_starts_success"])
        for record in map(json.loads, lines)
        if "held_out_starts_success" in record
    ]
    assert [step for step, *_ in watched] == [3, 4]
    summary = manifests.read_json(directory / "summary.json")
    assert summary["imagined_success_last"] == watched[-1][1]
    assert summary["held_out_imagined_success_last"] == watched[-1][2]


@pytest.mark.parametrize(
    ("first", "now", "starts", "warns"),
    [
        ((0.5, 0.5), (0.9, 0.5), 400, True),
        ((0.5, 0.5), (0.9, 0.85), 400, False),
        ((0.9, 0.5), (0.9, 0.5), 400, False),  # apart from the beginning is no sign of PPO's
        ((0.5, 0.5), (0.7, 0.5), 20, False),  # within what twenty starts can tell
        ((0.5, None), (0.9, None), 0, False),
    ],
)
def test_a_warning_when_only_training_starts_improve(
    first: tuple, now: tuple, starts: int, warns: bool
) -> None:
    sides = (task.ImaginedSuccess(*side) for side in (first, now))
    assert (task.overfitting(*sides, starts) is not None) == warns


class Killed(Exception):
    pass


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "group": {"advantage": "group", "group": 2, "max_decisions": 3},
    "curriculum": {"start_curriculum": 0.9},
    "disagreement": {"disagreement_scale": 0.1, "disagreement_heads": 3},
    "all": {
        "advantage": "group",
        "group": 2,
        "max_decisions": 3,
        "start_curriculum": 0.5,
        "disagreement_scale": 0.1,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_killed_fine_tuning_goes_on_and_ends_as_if_it_had_not_been(
    profile: Profile,
    trained: Layout,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    profile = replace(profile, finetune=replace(profile.finetune, **options))
    finetune.run(profile, trained, VARIANT)
    done = trained.finetune(VARIANT)
    whole = (done / TASK / "seed-0" / "model.safetensors").read_bytes()
    records = (done / TASK / "seed-0" / "metrics.jsonl").read_text()
    done.rename(done.with_name("whole"))
    train_iteration = task.Dppo.train_iteration

    def dying(dppo: task.Dppo, *args: object) -> object:
        if dppo.iteration == 3:
            raise Killed
        return train_iteration(dppo, *args)

    settings = replace(profile.finetune, checkpoint_every=2)
    profile = replace(profile, finetune=settings)
    monkeypatch.setattr(task.Dppo, "train_iteration", dying)
    with pytest.raises(Killed):
        finetune.run(profile, trained, VARIANT)
    assert not done.exists()
    monkeypatch.undo()
    started = []

    def counting(dppo: task.Dppo, *args: object) -> object:
        started.append(dppo.iteration)
        return train_iteration(dppo, *args)

    monkeypatch.setattr(task.Dppo, "train_iteration", counting)
    finetune.run(profile, trained, VARIANT)
    assert started == [2, 3]
    assert (done / TASK / "seed-0" / "model.safetensors").read_bytes() == whole
    assert (done / TASK / "seed-0" / "metrics.jsonl").read_text() == records


def test_the_curriculum_moves_the_starts_in_demonstrations_back(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = []
    start_from = task.LatentEnv.start_from

    def watching(env: task.LatentEnv, starts: list[torch.Tensor]) -> None:
        placed.append([len(kind) for kind in starts])
        assert not starts[0][:, 0].any()  # the label: no success is a start
        start_from(env, starts)

    monkeypatch.setattr(task.LatentEnv, "start_from", watching)
    settings = replace(profile.finetune, start_curriculum=0.5)
    finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    # Two draws of six demonstrations, with 15 frames before the success; two draws of five frames
    # of play. The first entry is the environment before any training.
    assert placed == [[12, 10], [12 * 3, 10], [12 * 9, 10], [12, 10], [12, 10]]
    path = trained.finetune(VARIANT) / TASK / "seed-0" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["start_position"] for record in records] == [0.8, 0.4, None, None]


def test_a_curriculum_without_a_way_to_success_names_the_task(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = load_features(trained.features(VARIANT), TASK)
    never = replace(features.training, label=torch.zeros(120, dtype=torch.bool))
    monkeypatch.setattr(finetune, "load_features", lambda *_: replace(features, training=never))
    settings = replace(profile.finetune, start_curriculum=0.5)
    with pytest.raises(WamError, match=rf"{TASK}: finetune\.start_curriculum"):
        finetune.run(replace(profile, finetune=settings), trained, VARIANT)


def test_an_ensemble_is_trained_once_and_always_the_same(
    profile: Profile, trained: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Build(tmp_path)

    def fit() -> bytes:
        source = trained.features(VARIANT)
        ensemble.fit_ensemble(target, "ensemble", source, profile, CONFIG, CPU)
        return (tmp_path / "ensemble" / "model.safetensors").read_bytes()

    first = fit()
    (tmp_path / "ensemble" / manifests.SUMMARY).unlink()  # as if killed at the very end
    assert fit() == first
    monkeypatch.delattr(ensemble, "train_ensemble")
    assert fit() == first


def test_disagreement_costs_reward_and_stays_with_the_run(
    profile: Profile, trained: Layout
) -> None:
    settings = replace(profile.finetune, disagreement_scale=0.5, disagreement_heads=3, seeds=(0, 1))
    finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    output = trained.finetune(VARIANT)
    trained_ensemble = load_ensemble(output / finetune.ENSEMBLE, CPU)
    features = load_features(trained.features(VARIANT), TASK).training
    data = transitions(
        features.posterior, features.action, features.length, CONFIG.stoch, CONFIG.classes
    )
    assert trained_ensemble.sizes == (CONFIG.feature, CONFIG.stoch, CONFIG.classes, 3)
    assert mean_disagreement(trained_ensemble, data) == pytest.approx(1, rel=1e-4)
    figures = manifests.read_json(output / finetune.ENSEMBLE / "summary.json")
    assert figures["transitions"] == 2 * 6 * 19
    assert figures["disagreement_validation"] > 0 and figures["disagreement_imagined"] > 0
    for seed in (0, 1):
        path = output / TASK / f"seed-{seed}" / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(0 < record["penalty"] <= 0.5 * MAX_EXCESS for record in records)
    assert manifests.read_json(output / "summary.json")[TASK]["penalty"] > 0


def test_without_options_the_records_say_nothing_of_them(profile: Profile, trained: Layout) -> None:
    finetune.run(profile, trained, VARIANT)
    path = trained.finetune(VARIANT) / TASK / "seed-0" / "metrics.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    assert not set(record) & {"start_position", "penalty"}
    assert not (trained.finetune(VARIANT) / finetune.ENSEMBLE).exists()


@pytest.mark.parametrize("precision", [0.5, None])
def test_an_imprecise_reward_warns_or_stops(
    profile: Profile, trained: Layout, precision: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = trained.reward(VARIANT)
    summary = manifests.read_json(directory / "summary.json")
    summary[TASK]["precision_imagined"] = precision
    manifests.write_json(directory / "summary.json", summary)
    finetune.check_rewards(directory, profile)
    assert TASK in capsys.readouterr().out
    stopping = replace(profile, finetune=replace(profile.finetune, gate="stop"))
    with pytest.raises(WamError, match="min_imagined_precision"):
        finetune.check_rewards(directory, stopping)


def test_a_changed_world_model_invalidates_the_result(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_iteration = task.Dppo.train_iteration

    def damaging(dppo: task.Dppo, env: object, generator: torch.Generator) -> object:
        env._dynamics.rssm.cell.bias_hh[0] += 1  # type: ignore[attr-defined]
        return train_iteration(dppo, env, generator)  # type: ignore[arg-type]

    monkeypatch.setattr(task.Dppo, "train_iteration", damaging)
    with pytest.raises(WamError, match="weights changed"):
        finetune.run(profile, trained, VARIANT)
    output = trained.finetune(VARIANT)
    assert not output.exists()
    assert not (output.with_name(f"{VARIANT}.partial") / TASK / "seed-0").exists()


def test_imagination_imports_no_simulator() -> None:
    blocked = ("pybullet", "gymnasium", "wam.envs.pool")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); import pipeline.stages.finetune"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imagination_does_without_the_simulator(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pybullet", "gymnasium", "wam.envs.pool"):
        monkeypatch.setitem(sys.modules, name, None)
    finetune.run(profile, trained, VARIANT)
    output = trained.finetune(VARIANT)
    assert manifests.read_json(output / manifests.MANIFEST)["environment"] == "world_model"
    assert manifests.read_json(output / "summary.json")[TASK]["environment"] == "world_model"


def test_a_missing_input_names_the_stage_that_makes_it(profile: Profile, layout: Layout) -> None:
    with pytest.raises(WamError, match="wam train-reward"):
        finetune.run(profile, layout, VARIANT)


class FakeStore:
    """Rows in memory."""

    def __init__(self, split: str, frames: int, seed: int) -> None:
        self.split = split
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (2, frames, 64, 64, 3), dtype=np.uint8)
        scene = np.zeros((frames, 24))
        scene[:, 1] = 0.2  # the drawer is open, until the task closes it
        self.arrays = {
            "rgb_static": images[0],
            "rgb_gripper": images[1],
            "proprio": rng.random((frames, 18), dtype=np.float32),
            "rel_actions": rng.uniform(-1, 1, (frames, 7)).astype(np.float32),
            "scene_obs": scene,
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.arrays[name][start:stop]

    def proprio_normalizer(self) -> ProprioNormalizer:
        return ProprioNormalizer(np.zeros(18), np.ones(18))


def test_featurizing_filters_every_demonstration_from_its_first_frame() -> None:
    stores = {
        "training": FakeStore("training", 60, 0),
        "validation": FakeStore("validation", 30, 1),
    }
    stores["training"].arrays["scene_obs"][24:, 1] = 0.0
    model = WorldModel(CONFIG).eval()
    settings = Features(draws=2, sample="mode", burn_in=0, context=True, seed=0)
    demos = TaskDemos(
        training=[Demo(start=20, stop=30, episode_start=5), Demo(40, 47, 40)],
        validation=[Demo(3, 12, 0)],
        starts=[],
        imagination_starts=[7, 50],
        training_play=[Demo(22, 28, 5)],
        validation_play=[],
    )
    maker = FeatureMaker(model, stores, settings, CPU)  # type: ignore[arg-type]
    features = maker.task_features(TASK, demos)
    training = features.training
    assert training.posterior.shape == (2, 17, CONFIG.feature)
    assert training.length.tolist() == [10, 7]
    # Closed from row 24 on; the second demonstration begins with a closed drawer.
    assert training.label.tolist() == [False] * 4 + [True] * 6 + [False] * 7
    assert features.validation.context is None

    def expected(store: FakeStore, start: int, stop: int) -> torch.Tensor:
        rows = [
            torch.from_numpy(store.read(name, start, stop)).unsqueeze(1)
            for name in ("rgb_static", "rgb_gripper", "proprio", "rel_actions")
        ]
        random = torch.Generator()
        states = filter_sequence(model, Observation(*rows[:3]), rows[3], random, Filtering("mode"))
        return states.feature[:, 0]

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    store = stores["training"]
    for draw in range(2):
        check(training.posterior[draw, :10], expected(store, 20, 30))
        check(training.posterior[draw, 10:], expected(store, 40, 47))
    assert training.context is not None
    assert CONTEXT_FRAMES > 15
    check(training.context[:10], expected(store, 5, 30)[15:])
    check(training.context[10:], expected(store, 40, 47))
    check(features.validation.posterior[0], expected(stores["validation"], 3, 12))
    play = features.training_play
    check(play.posterior[1], expected(stores["training"], 22, 28))
    assert play.label.tolist() == [False, False, True, True, True, True]
    assert features.validation_play.posterior.shape == (2, 0, CONFIG.feature)
    for index, row in enumerate((7, 50)):
        check(features.play_starts[0, index], expected(store, row, row + 1)[0])
    # Imagination starts at the first feature of each demonstration and takes its actions.
    check(training.imagined[:, [0, 10]], training.posterior[:, [0, 10]])
    state = model.split(training.posterior[1, 10:11])
    predicted = model.imagine_step(state, training.action[10:11], torch.Generator())
    check(training.imagined[1, 11, : CONFIG.deter], predicted.deter[0])
    assert torch.equal(training.action[..., 6].abs(), torch.ones(17))


@pytest.mark.parametrize(
    ("stage", "place", "step", "steps", "stopped_at"),
    [
        (train_reward, "reward", (training, "_epoch"), 6, 2),
        (train_policy, "policy", (cloning, "learning_rate"), 20, 7),
        (finetune, "finetune", (task.Dppo, "train_iteration"), 4, 3),
    ],
)
def test_a_stage_that_is_asked_to_end_saves_its_last_step_and_goes_on_from_there(
    profile: Profile,
    trained: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Any,
    place: str,
    step: tuple[Any, str],
    steps: int,
    stopped_at: int,
) -> None:
    profile = replace(profile, finetune=replace(profile.finetune, seeds=(0,), checkpoint_every=100))
    whole = Layout(Path(shutil.copytree(trained.root, tmp_path / "whole")))
    own = Layout(Path(shutil.copytree(trained.root, tmp_path / "stopped")))
    for layout in (whole, own):
        shutil.rmtree(getattr(layout, place)(VARIANT), ignore_errors=True)
    stage.run(profile, whole, VARIANT)
    take_step = getattr(*step)
    taken = 0

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*arguments)

    monkeypatch.setattr(*step, counted)
    with pytest.raises(Interrupted) as stopped:
        stage.run(profile, own, VARIANT)
    assert stopped.value.signum == signal.SIGTERM
    assert taken == stopped_at
    stage.run(profile, own, VARIANT)
    assert taken == steps, "no step is taken twice"
    outputs = [getattr(layout, place)(VARIANT) for layout in (whole, own)]
    assert content(outputs[1]) == content(outputs[0])


def test_more_iterations_go_on_from_where_a_killed_run_ended(
    profile: Profile, trained: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(iterations: int, seeds: tuple[int, ...]) -> Profile:
        settings = replace(profile.finetune, iterations=iterations, seeds=seeds)
        return replace(profile, finetune=settings)

    whole = Layout(Path(shutil.copytree(trained.root, tmp_path / "whole")))
    finetune.run(of(4, (0, 1)), whole, VARIANT)
    write_json = manifests.write_json

    def killed(path: Path, value: Any) -> None:
        if path.parent.name == f"{VARIANT}.partial" and path.name == manifests.SUMMARY:
            raise Killed
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_json", killed)
        with pytest.raises(Killed):
            finetune.run(of(2, (0,)), trained, VARIANT)
    finetune.run(of(4, (0, 1)), trained, VARIANT)
    for seed in (0, 1):
        weights = [
            load_file(layout.finetune(VARIANT) / TASK / f"seed-{seed}" / "model.safetensors")
            for layout in (whole, trained)
        ]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_that_is_longer_than_asked_for_is_not_passed_off_as_shorter(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(profile.finetune, checkpoint_every=1)
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise Killed

        patch.setattr(task, "save_model", killed)
        with pytest.raises(Killed):
            finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    shorter = replace(profile, finetune=replace(settings, iterations=2))
    with pytest.raises(WamError, match="at iteration 4, beyond the 2 that are set"):
        finetune.run(shorter, trained, VARIANT)
