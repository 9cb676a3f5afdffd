"""A fine-tuning that was killed goes on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.finetuning import task
from pipeline.params import Profile
from pipeline.stages import finetune
from tests.pipeline.small_run import TASK, VARIANT, Killed
from wam.errors import WamError

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
