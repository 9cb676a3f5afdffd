"""What page and tables say about how the compared models were trained and chosen."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import Difference, PolicyName, Results, trained_apart
from pipeline.evaluation.statistics import Estimate
from pipeline.params import Profile
from pipeline.report.tables import verdict
from pipeline.stages import report
from tests.pipeline.artifact import remade
from tests.pipeline.report.page import read_page
from wam.config import VARIANTS


def test_no_method_is_called_better(run: Layout) -> None:
    text, _ = read_page(run)
    table = (run.results / "table.txt").read_text()
    for words in (text, table, (run.results / "table.md").read_text()):
        assert not re.search("(BC|PPO) is better", words)
        assert "World models and cloned policies are one each" in words
    assert "points (these two trained models)" in table
    assert "points (3 seeds of PPO on one world model and clone each)" in table
    assert "points (3 seeds of PPO against one trained model)" in table
    reading = "3 seeds of PPO on one world model and clone each differ in the mean: WAM PPO"
    assert f"{reading} succeeds more often" in text


def test_it_says_that_classifiers_were_chosen_on_the_starts(
    run: Layout, profile: Profile, tmp_path: Path
) -> None:
    words = "Not entirely held out: epoch and threshold of 4 reward classifiers (WAM and DreamerV2)"
    assert words in read_page(run)[0]
    assert words in (run.results / "table.txt").read_text()
    layout = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    for variant in VARIANTS:
        for task in profile.tasks:
            path = layout.reward(variant) / task / "summary.json"
            path.write_text(path.read_text().replace("validation", "training"))
        remade(layout.reward(variant))
    report.run(profile, layout)
    assert "Not entirely held out" not in read_page(layout)[0]
    assert "Not entirely held out" not in (layout.results / "table.txt").read_text()


def test_another_world_stands_under_the_table(
    run: Layout, profile: Profile, tmp_path: Path
) -> None:
    assert "Not the world of the data" not in (run.results / "table.txt").read_text()
    layout = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    path = layout.evaluation("wam") / "summary.json"
    rows = json.loads(path.read_text())
    difference = "the data was made with scene A, the simulator runs with scene D"
    path.write_text(json.dumps([{**row, "differs_from_data": difference} for row in rows]))
    remade(layout.evaluation("wam"))
    report.run(profile, layout)
    for table in ("table.txt", "table.md"):
        assert f"Not the world of the data: {difference}." in (layout.results / table).read_text()


def test_the_page_begins_with_what_came_out(run: Layout) -> None:
    page, table = read_page(run)[0], (run.results / "table.md").read_text()
    header = page[: page.index("</header>")]
    for question in ("Does PPO in imagination help? WAM ", "Does the inverse-dynamics head help? "):
        assert question in header
        assert table.index(question) < table.index("| macro average")
    summary = json.loads((run.results / "summary.json").read_text())
    assert {row["stage"] for row in summary} >= {"bc", "ppo"}


@pytest.mark.parametrize(
    ("estimate", "answer"),
    [
        (Estimate(0.1, 0.05, 0.15), "WAM yes, +10.0 points [+5.0 to +15.0]"),
        (Estimate(0.1, -0.05, 0.25), "WAM not shown, +10.0 points [-5.0 to +25.0]"),
        (Estimate(-0.1, -0.15, -0.05), "WAM no, it harms, -10.0 points [-15.0 to -5.0]"),
    ],
)
def test_the_verdict_follows_the_interval(estimate: Estimate, answer: str) -> None:
    pair = PolicyName("wam", "ppo"), PolicyName("wam", "bc")
    results = Results((), (), [], {}, {}, [Difference(*pair, estimate, (1, 1))], {})
    scope = "(these two trained models)."
    assert verdict(results) == [f"Does PPO in imagination help? {answer} {scope}"]
    pair = PolicyName("wam", "ppo_simulator"), PolicyName("wam", "bc")
    results = Results((), (), [], {}, {}, [Difference(*pair, estimate, (1, 1))], {})
    assert verdict(results) == [f"Does PPO in the simulator help? {answer} {scope}"]


def test_results_of_another_world_are_a_table_of_their_own(
    run: Layout, profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before_it = (run.results / "table.txt").read_text()
    layout = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    moved = layout.transfer("assets", "wam")
    shutil.copytree(layout.evaluation("wam"), moved)
    rows = json.loads((moved / "summary.json").read_text())
    (moved / "summary.json").write_text(
        json.dumps([{**row, "differs_from_data": "the data is <ours>"} for row in rows])
    )
    remade(moved)
    report.run(profile, layout)
    for name in ("table.txt", "table.md"):
        before, after = ((each.results / name).read_text() for each in (run, layout))
        assert after.startswith(before)
        added = after.removeprefix(before)
        assert "success % [95 % interval] in CALVIN's scene files" in added
        assert "WAM PPO" in added
        assert "DreamerV2" not in added
        assert "Not the world of the data: the data is <ours>." in added
    page = read_page(layout)[0]
    assert "The same policies and starts in CALVIN&#39;s scene files" in page
    assert "the data is &lt;ours&gt;" in page
    assert "transfer to CALVIN&#39;s scene files · wam" in page
    metrics = json.loads((layout.results / "metrics.json").read_text())
    assert metrics["transfer"]["assets"]["wam"] == metrics["wam"]
    capsys.readouterr()
    inputs = json.loads((layout.evaluation("wam") / "manifest.json").read_text())["inputs"]
    for change in (
        {"inputs": {"policy": "an earlier one"}},
        {"inputs": inputs, "params": {"evaluate": {"look_every": 0}}},
    ):
        remade(moved, **change)
        report.run(profile, layout)
        assert "of other policies, starts or settings than" in capsys.readouterr().out
        assert (layout.results / "table.txt").read_text() == before_it


def trained_as(precision: str | None, device: str) -> dict[str, Any]:
    section = {} if precision is None else {"precision": precision}
    return {"params": {"device": device, "train_world_model": section}}


@pytest.mark.parametrize(
    ("manifests", "words"),
    [
        ((trained_as("fp32", "cpu"), trained_as("fp32", "cpu")), None),
        ((trained_as("fp32", "cpu"), {}), None),
        (
            (trained_as("bf16", "cuda"), trained_as("fp32", "cuda")),
            "trained with precision bf16 (WAM) and fp32 (DreamerV2): what",
        ),
        (
            (trained_as("fp32", "cuda"), trained_as(None, "cpu")),
            "precision fp32 (WAM) and unknown (DreamerV2), device cuda (WAM) and cpu (DreamerV2):",
        ),
    ],
)
def test_variants_trained_in_other_ways_are_named(
    manifests: tuple[dict[str, Any], ...], words: str | None
) -> None:
    notice = trained_apart(dict(zip(("wam", "dreamerv2"), manifests, strict=True)))
    assert (notice is None) == (words is None)
    assert (words or "") in (notice or "")


def test_the_page_says_how_the_variants_training_differs(
    run: Layout, profile: Profile, tmp_path: Path
) -> None:
    layout = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    for variant, precision in zip(VARIANTS, ("fp32", "bf16"), strict=True):
        remade(layout.world_model(variant), **trained_as(precision, "cuda"))
    shutil.rmtree(layout.report)
    report.run(profile, layout)
    notice = "The world models were trained with precision "
    assert notice in read_page(layout)[0]
    assert notice not in read_page(run)[0]


def test_a_result_of_the_simulator_never_passes_for_one_of_imagination(
    run: Layout, profile: Profile, tmp_path: Path
) -> None:
    layout = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    for variant in VARIANTS:
        remade(layout.finetune(variant), environment="simulator")
        directory = layout.evaluation(variant)
        for name in ("summary.json", "rollouts.json"):
            path = directory / name
            path.write_text(path.read_text().replace('"ppo"', '"ppo_simulator"'))
        remade(directory)
    report.run(profile, layout)
    usual = (run.results / "table.txt").read_text()
    table = (layout.results / "table.txt").read_text()
    header, old = table.splitlines()[0], usual.splitlines()[0]
    assert header.count("PPO (simulator)") == header.count("PPO") == old.count("PPO") == 2
    assert "WAM PPO (simulator) - DreamerV2 PPO (simulator): " in table
    assert re.findall(r"[\d.]+ \[", table) == re.findall(r"[\d.]+ \[", usual)
    assert "ppo_simulator" in json.loads((layout.results / "metrics.json").read_text())["wam"]
    text, _ = read_page(layout)
    assert "WAM and DreamerV2: policies were fine-tuned in the simulator" in text
    assert "PPO in the simulator" in text
    assert "PPO in imagination</h3>" not in text
    assert "fine-tuned in the simulator" not in read_page(run)[0]
