"""Results and tables of a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import Agreement, Difference, PolicyName, merge
from pipeline.evaluation.statistics import Estimate, wilson
from pipeline.params import Profile
from pipeline.stages import report
from pipeline.stages.evaluate import EvaluationJob, summarise
from pipeline.tools.results import run as show_results
from tests.pipeline.report.made_up import write
from wam.errors import WamError


def test_the_summary_lists_every_pass(run: Layout, profile: Profile) -> None:
    rows = json.loads((run.results / "summary.json").read_text())
    assert len(rows) == len(profile.tasks) * (2 + 2 * (1 + 3))
    keys = {"variant", "task", "stage", "seed", "successes", "episodes"}
    keys |= {"success_rate", "ci_low", "ci_high"}
    for row in rows:
        assert set(row) == keys | (set(Agreement._fields) if row["variant"] else set())
    assert {row["variant"] for row in rows} == {None, "wam", "dreamerv2"}


def test_tables_pool_seeds_and_average_tasks(run: Layout, profile: Profile) -> None:
    rows = json.loads((run.results / "summary.json").read_text())
    pooled = []
    for task in profile.tasks:
        chosen = [r for r in rows if (r["variant"], r["stage"], r["task"]) == ("wam", "ppo", task)]
        assert len(chosen) == 3
        pooled.append(sum(r["successes"] for r in chosen) / sum(r["episodes"] for r in chosen))
    text = (run.results / "table.txt").read_text()
    average = next(line for line in text.splitlines() if line.startswith("macro average"))
    assert f"{100 * np.mean(pooled):.1f} [" in average.split("│")[2]
    assert "WAM PPO - DreamerV2 PPO: " in text
    assert "| macro average |" in (run.results / "table.md").read_text()
    metrics = json.loads((run.results / "metrics.json").read_text())
    assert metrics["wam"]["ppo"] == pytest.approx(np.mean(pooled))


def rolled_out(directory: Path, outcomes: dict[tuple[str | None, str], np.ndarray]) -> list[Path]:
    """An evaluation of one task whose policies' outcomes are [starts, seeds]."""
    rollouts, summary = [], []
    for (variant, stage), table in outcomes.items():
        for seed, column in enumerate(table.T):
            job = EvaluationJob(variant, "turn_on_led", stage, seed)
            rows = [
                {**job._asdict(), "frame_id": frame, "success": bool(success)}
                for frame, success in enumerate(column)
            ]
            rollouts += rows
            summary.append(summarise(job, rows))
    write(directory / "rollouts.json", rollouts)
    write(directory / "summary.json", summary)
    return [directory]


def test_the_same_outcomes_of_three_seeds_are_no_three_times_as_many(tmp_path: Path) -> None:
    once = np.arange(29)[:, None] < 20
    places = rolled_out(tmp_path, {("wam", "bc"): once, ("wam", "ppo"): np.repeat(once, 3, axis=1)})
    results = merge(places, ("turn_on_led",), ("wam",))
    cell = results.cells["turn_on_led", PolicyName("wam", "ppo")]
    assert (cell.successes, cell.episodes, cell.seeds) == (60, 87, 3)
    assert cell.rate == pytest.approx(wilson(20, 29))
    assert results.macro[PolicyName("wam", "ppo")] == pytest.approx(
        results.macro[PolicyName("wam", "bc")]
    )


def test_what_started_elsewhere_is_not_compared(tmp_path: Path) -> None:
    outcomes = np.arange(29)[:, None] < 20
    policies = {("wam", "bc"): outcomes, ("wam", "ppo"): outcomes[:28]}
    with pytest.raises(WamError, match="WAM PPO and WAM BC were evaluated from different starts"):
        merge(rolled_out(tmp_path, policies), ("turn_on_led",), ("wam",))
    places = rolled_out(tmp_path, {("wam", "ppo"): np.repeat(outcomes, 2, axis=1)})
    rollouts = json.loads((tmp_path / "rollouts.json").read_text())
    write(tmp_path / "rollouts.json", rollouts[:-1])
    with pytest.raises(WamError, match="WAM PPO: seeds were evaluated from different starts"):
        merge(places, ("turn_on_led",), ("wam",))


@pytest.mark.parametrize(
    ("seeds", "low", "reading"),
    [
        ((1, 1), 0.1, "these two trained models differ: WAM PPO succeeds more often"),
        ((1, 1), -0.1, "no difference shown: the interval contains 0"),
        ((1, 1), -0.5, "these two trained models differ: DreamerV2 PPO succeeds more often"),
        (
            (3, 3),
            0.1,
            "3 seeds of PPO on one world model and clone each differ in the mean: "
            "WAM PPO succeeds more often",
        ),
        (
            (3, 1),
            0.1,
            "3 seeds of PPO against one trained model differ in the mean: "
            "WAM PPO succeeds more often",
        ),
    ],
)
def test_a_difference_is_one_of_what_was_trained(
    seeds: tuple[int, int], low: float, reading: str
) -> None:
    policies = PolicyName("wam", "ppo"), PolicyName("dreamerv2", "ppo")
    estimate = Estimate(low + 0.15, low, low + 0.3)
    assert Difference(*policies, estimate, seeds).reading == reading


def test_the_table_can_be_shown_again(
    run: Layout, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    show_results(profile, run)
    assert "macro average" in capsys.readouterr().out


def test_nothing_evaluated_is_an_error(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(WamError, match="run 'wam evaluate' first"):
        report.run(profile, Layout(tmp_path))
    assert not list(tmp_path.iterdir())
