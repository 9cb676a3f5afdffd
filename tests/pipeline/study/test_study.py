"""The study: settings of its runs, and runs of it from the world model to the table."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.dvc_stages import study_graph
from pipeline.params import load_profile
from pipeline.params.study import SEEDED, load_study, run_stages, study_run
from pipeline.study.tables import verdict
from wam.errors import WamError

ROOT = Path(__file__).parents[3]
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def params(tmp_path: Path) -> Callable[[Edit], Path]:
    """Writes the repository's ``params.yaml`` after an edit of its study."""

    def write(edit: Edit = lambda study: None) -> Path:
        content = yaml.safe_load((ROOT / "params.yaml").read_text())
        edit(content["study"])
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def test_the_seed_of_a_run_is_that_of_everything_that_is_trained() -> None:
    study = load_study(ROOT / "params.yaml")
    profile = study_run(study, "wam", 3, ROOT / "params.yaml").profile
    base = load_profile(study.base, ROOT / "params.yaml")
    for section in SEEDED:
        assert getattr(profile, section).seed == 3
    for shared in ("collect", "evaluate_world_model"):
        assert getattr(profile, shared) == getattr(base, shared)
    assert profile.evaluate == replace(base.evaluate, look_every=1, look_every_of={})


def test_cells_differ_in_what_they_say_alone() -> None:
    path = ROOT / "params.yaml"
    study = load_study(path)
    first, second = (study_run(study, name, 0, path) for name in ("wam", "wam_images"))
    assert first.profile.world_model.proprioception
    assert not second.profile.world_model.proprioception
    assert first.profile.train_world_model == second.profile.train_world_model
    assert first.layout.root != second.layout.root
    assert first.layout.store == second.layout.store == Path("data") / study.base / "store"


def test_clones_are_fine_tuned_for_the_seeds_that_are_named(params: Callable[..., Path]) -> None:
    path = params(lambda study: study["set"].update(finetune={"seeds": [0, 2]}))
    study = load_study(path)
    assert study_run(study, "wam", 2, path).profile.finetune.seeds == (2,)
    assert study_run(study, "wam", 1, path).profile.finetune.seeds == ()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.update(seeds=[1, 1]), "study.seeds: names one twice"),
        (lambda s: s.update(seeds=[]), "study.seeds"),
        (lambda s: s.update(base="demmo"), "unknown profile 'demmo'; did you mean 'demo'"),
        (lambda s: s["compare"].append(["wam", "wm"]), "no cell 'wm'; known: wam, dreamerv2"),
        (lambda s: s["cells"]["wam"].update(variant="wma"), "study.cells.wam.variant = 'wma'"),
        (
            lambda s: s["cells"]["wam"].update(set={"world_model": {"kl_scal": 1.0}}),
            r"cells.wam.world_model: unknown parameter 'kl_scal'; did you mean 'kl_scale'",
        ),
        (
            lambda s: s["cells"]["wam"].update(set={"collect": {"seed": 1}}),
            r"study\.cells\.wam\.set: 'collect' is the base's",
        ),
        (lambda s: s["set"].update(policy=3), r"study\.set\.policy: expected settings, got 3"),
        (lambda s: s["set"].update(tasks=[]), r"wam.tasks: \[\]; a study evaluates policies"),
        (lambda s: s["set"].update(policy={"seed": 9}), "policy.seed: is that of the run"),
        (lambda s: s["set"].update(finetune={"seeds": None}), "wam.finetune.seeds = None"),
        (lambda s: s["set"].update(finetune={"seeds": [77]}), "expected some of study.seeds"),
        (
            lambda s: s["cells"]["wam"].update(set={"tasks": ["open_drawer"]}),
            "'tasks' are the study's, the same in all runs",
        ),
        (
            lambda s: s["cells"]["wam"].update(set={"evaluate": {"look_every": 0}}),
            r"study\.compare: 'wam' and 'dreamerv2' differ in 'evaluate'; what is compared is",
        ),
        (
            lambda s: s["cells"]["wam"].update(set={"policy": 3}),
            r"study\.cells\.wam\.set\.policy: expected settings, got 3",
        ),
        (
            lambda s: s["set"].update(policy={"updates": date(2026, 1, 2)}),
            r"study\.set\.policy\.updates = .*\(quote dates\)",
        ),
        (
            lambda s: s["cells"].update({date(2026, 1, 2): {"variant": "wam", "set": {}}}),
            r"study\.cells = .*\(quote dates\)",
        ),
        (lambda s: s["compare"].append(["wam", "wam"]), "compare: 'wam' with itself"),
        (lambda s: s["interactions"].append(["wam", "wam"]), "interactions: 'wam' with itself"),
        (
            lambda s: s["interactions"].append(["wam", "dreamerv2"]),
            r"study\.interactions: 0 comparisons of 'compare' begin with 'dreamerv2'; expected one",
        ),
        (
            lambda s: s["compare"].append(["wam", "dreamerv2_images"]),
            "2 comparisons of 'compare' begin with 'wam'",
        ),
        (lambda s: s.update(base="study"), "unknown profile 'study'"),
        (lambda s: s["cells"].update({"../up": {"variant": "wam", "set": {}}}), "study.cells"),
    ],
)
def test_what_is_wrong_is_named(params: Callable[..., Path], edit: Edit, message: str) -> None:
    with pytest.raises(WamError, match=message):
        load_study(params(edit))


def test_a_file_that_was_written_again_is_read_again(params: Callable[..., Path]) -> None:
    load_study(params())
    assert load_study(params(lambda study: study["seeds"].append(7))).seeds[-1] == 7


def test_runs_share_no_settings() -> None:
    path = ROOT / "params.yaml"
    study = load_study(path)
    base = load_profile(study.base, path)
    assert study_run(study, "wam_images", 3, path).profile.world_model != base.world_model
    assert load_profile(study.base, path) == base


def test_the_study_is_no_profile() -> None:
    with pytest.raises(WamError, match="unknown profile 'study'"):
        load_profile("study", ROOT / "params.yaml")


def test_dvc_knows_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study()
    graph = study_graph(study.base, run_stages(study))
    runs = [name for name in graph if name.startswith("study@")]
    assert len(runs) == len(study.cells) * len(study.seeds)
    assert graph["study_report"] == set(runs)
    assert all(f"convert@{study.base}" in graph[name] for name in runs)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a study of two cells and two seeds, as small as studies get."""
    pytest.importorskip("pybullet")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    base = content["ci"]
    base["env"]["workers"] = 1
    base["collect"] |= {"training_frames": 800}
    base["parallel"]["workers"] = 1
    base["convert"] |= {"shard_frames": 50, "chunk_frames": 25, "workers": 1}
    base["extract"] |= {"demos_per_task": 2, "play_starts_per_task": 2}
    base["world_model"] |= {"cnn_depth": 2, "visual_embedding": 16, "deter": 16, "hidden": 16}
    base["train_world_model"] |= {"updates": 2, "validate_every": 2, "action_warmup": 0}
    base["policy"] |= {"updates": 2, "warmup": 1, "log_every": 1}
    base["finetune"] |= {"iterations": 1, "steps": 2, "critic_warmup": 0}
    base["evaluate"] |= {"max_steps": 8, "max_episodes": 2, "clips": False}
    study = {
        "base": "ci",
        "seeds": [0, 1],
        "set": {"finetune": {"seeds": [1]}},
        "cells": {
            "wam": {"variant": "wam", "set": {}},
            "images": {"variant": "dreamerv2", "set": {"world_model": {"proprioception": False}}},
        },
        "compare": [["wam", "images"], ["images", "wam"]],
        "interactions": [["wam", "images"]],
    }
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"ci": base, "study": study}, sort_keys=False)
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_study_runs_from_the_store_to_the_table(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("collect", "index", "convert"):
        main([stage, "--profile", "ci"])
    main(["study", "--cell", "wam", "--seed", "0"])
    with pytest.raises(SystemExit):
        main(["study-report"])
    output = capsys.readouterr().out.replace("\n", "")
    assert "no cell has all of its 2 runs (wam 1 of 2, images 0 of 2)" in output
    main(["study", "--cell", "wam", "--seed", "1"])
    main(["study", "--cell", "images", "--seed", "0"])
    main(["study-report"])
    results = project / "data" / "study" / "results"
    # Half a cell is not looked at.
    early = json.loads((results / "summary.json").read_text())
    assert (list(early["cells"]), early["unfinished"]) == (["wam"], {"images": 1})
    assert early["differences"] == []
    assert "Not told, as runs are missing: images 1 of 2." in (results / "table.md").read_text()
    main(["study", "--cell", "images", "--seed", "1"])
    main(["study-report"])
    summary = json.loads((results / "summary.json").read_text())
    with (results / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    clones = [row for row in rows if row["name"] == "bc"]
    assert len(clones) == 4
    assert {row["episodes"] for row in clones} == {"2"}
    # Only the named seed is fine-tuned: too few pairs for an interval.
    assert [row["seed"] for row in rows if row["name"] == "ppo"] == ["1", "1"]
    found = {one["endpoint"]: one for one in summary["differences"] if one["first"] == "wam"}
    assert "ppo" not in found
    assert found["bc"]["pairs"] == 2
    by_seed = [summary["cells"][cell]["figures"]["bc"] for cell in ("wam", "images")]
    expected = np.mean([by_seed[0][seed] - by_seed[1][seed] for seed in ("0", "1")])
    assert found["bc"]["difference"]["value"] == pytest.approx(expected)
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["bc_difference"]["wam - images"] == pytest.approx(expected)
    assert metrics["ppo"].keys() == metrics["bc"].keys() == {"wam", "images"}
    (interaction,) = summary["interactions"]
    assert interaction["difference"]["value"] == pytest.approx(2 * expected)
    assert interaction["compared"] == [["wam", "images"], ["images", "wam"]]
    table = (results / "table.md").read_text()
    assert "| wam - images: BC success | 2 |" in table
    assert table.startswith((results / "verdicts.md").read_text().split("\n\n")[0])
    assert "| (wam - images) - (images - wam) | 2 |" in table
    wanted = [row for row in clones if row["cell"] == "wam"]
    share = np.mean([int(row["value"]) / int(row["episodes"]) for row in wanted])
    assert f"| wam BC | {100 * share:.1f} |\n" in table
    assert (results / "differences.svg").read_text().count("<svg") == 1
    # Everything is there: nothing is done twice.
    capsys.readouterr()
    main(["study", "--cell", "wam", "--seed", "0"])
    assert capsys.readouterr().out.count("nothing to do") == 8
    # The study is told from its small files alone, and only of the settings that they are of.
    shutil.rmtree(project / "data" / "study" / "runs")
    main(["study-report"])
    path = project / "data" / "study" / "outcomes" / "wam-1.json"
    intact = path.read_text()
    for change, message in (
        (lambda content: content["settings"]["policy"].update(updates=3), "settings of 'policy'"),
        (lambda content: content["success"]["bc"]["close_drawer"].pop(), "damaged (2 starts"),
        (lambda content: content["frame_ids"].update(close_drawer=[1, 2]), "from other starts"),
    ):
        content = json.loads(intact)
        change(content)
        path.write_text(json.dumps(content))
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["study-report"])
        output = capsys.readouterr().out.replace("\n", "")
        assert "outcomes/wam-1.json" in output
        assert message in output


@pytest.mark.parametrize(
    ("interval", "bootstrap", "corrected", "told"),
    [
        ((0.02, 0.04), (0.01, 0.05), 0.01, "**more**"),
        ((-0.04, -0.02), (-0.05, -0.01), 0.01, "**fewer**"),
        ((-0.01, 0.04), (0.01, 0.05), 0.2, "no difference shown"),
        # Seeds that agree to the point, but on few starts.
        ((0.02, 0.04), (-0.02, 0.08), 0.01, "**more, from these starts**"),
        # One of many comparisons.
        ((0.02, 0.04), (0.01, 0.05), 0.06, "more, were it compared alone"),
        ((0.02, 0.04), None, None, "**more**"),
    ],
)
def test_a_difference_says_no_more_than_it_shows(
    interval: tuple[float, float],
    bootstrap: tuple[float, float] | None,
    corrected: float | None,
    told: str,
) -> None:
    def estimate(bounds: tuple[float, float]) -> dict[str, float]:
        return {"value": sum(bounds) / 2, "low": bounds[0], "high": bounds[1]}

    one: dict[str, Any] = {"difference": estimate(interval), "p": 0.01, "p_holm": corrected}
    assert verdict(one | {"bootstrap": bootstrap and estimate(bootstrap)}) == told
    assert verdict(one | {"p": None}) == "no spread, cannot be told"
