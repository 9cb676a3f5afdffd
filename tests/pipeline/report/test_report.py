"""The report of a run whose artifacts are made up but shaped like the stages' own."""

import html.parser
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import Agreement, Difference, PolicyName, merge, trained_apart
from pipeline.evaluation.statistics import Estimate, wilson
from pipeline.params import Profile
from pipeline.pictures import clips
from pipeline.pictures.strip import write_film_strip
from pipeline.stages import extract, report
from pipeline.stages.evaluate import EvaluationJob, summarise
from pipeline.tools.results import run as show_results
from tests.pipeline.artifact import artifact, remade
from wam.config import VARIANTS
from wam.errors import WamError
from wam.tasks import FIXTURES

RATES = {
    (None, "expert"): 1.0,
    (None, "zero"): 0.02,
    ("wam", "bc"): 0.62,
    ("wam", "ppo"): 0.86,
    ("dreamerv2", "bc"): 0.48,
    ("dreamerv2", "ppo"): 0.7,
}


def make_run(profile: Profile, layout: Layout, starts: int = 29) -> None:
    """Everything after ``extract`` that the report reads."""
    rng = np.random.default_rng(0)
    for name in ("controls", *VARIANTS):
        with artifact(layout.evaluation(name), renderer="tiny") as directory:
            _evaluation(directory, name, profile, starts, rng)
    with artifact(layout.world_model_evaluation) as directory:
        _world_model_evaluation(directory)
    for variant in VARIANTS:
        with artifact(layout.world_model(variant), params={"device": "cpu"}) as directory:
            _world_model(directory, variant, rng)
        for place in (layout.policy, layout.reward, layout.finetune):
            with artifact(place(variant)) as directory:
                for task in profile.tasks:
                    _task(directory / task, place.__name__, profile, rng)


def _evaluation(
    directory: Path, name: str, profile: Profile, starts: int, rng: np.random.Generator
) -> None:
    rollouts, summary = [], []
    for (variant, stage), rate in RATES.items():
        if (variant or "controls") != name:
            continue
        for task in profile.tasks:
            seeds = profile.finetune.seeds if stage == "ppo" else (0,)
            for seed in seeds:
                job = EvaluationJob(variant, task, stage, seed)
                outcomes = rng.random(starts) < rate
                rows = [
                    {**job._asdict(), "frame_id": frame, "success": bool(success), "steps": 40}
                    for frame, success in enumerate(outcomes)
                ]
                if variant:
                    for row in rows:
                        views = (bool(row["success"] ^ (rng.random() < 0.1)) for _ in range(3))
                        row |= dict(zip(("recognised", "replayed", "imagined"), views, strict=True))
                rollouts += rows
                summary.append(summarise(job, rows))
            if stage != "zero":
                static = pictures(8)
                path = directory / f"{task}-{stage}.webp"
                clips.write_clip(path, static, static[:, ::-1], f"{task} {stage}", True)
    write(directory / "rollouts.json", rollouts)
    write(directory / "summary.json", summary)


def _world_model(directory: Path, variant: str, rng: np.random.Generator) -> None:
    steps = np.arange(10, 301, 10)
    journal = [
        {
            "step": int(step),
            "image_loss": 900 * np.exp(-step / 80) + 60 + rng.normal(0, 4),
            "kl": 6 * (1 - np.exp(-step / 60)) + rng.normal(0, 0.2),
            "psnr_static": 26 - 12 * np.exp(-step / 70),
            **({"action_loss": 0.6 * np.exp(-step / 100) + 0.1} if variant == "wam" else {}),
        }
        for step in steps
    ]
    write_records(directory / "metrics.jsonl", journal)
    figures = {"posterior_psnr": 25.4, "open_loop_psnr": 22.3, "kl": 5.9, "updates": 300}
    figures |= {"frames": 153_600, "frames_per_s": 410.0}
    if variant == "wam":
        figures |= {"id_mae": 0.113, "gripper_accuracy": 0.97}
    write(directory / "summary.json", figures)
    for camera in ("static", "gripper"):
        images = pictures(11)
        rows = {"real": images, "posterior": images, "open loop": images}
        headings = ["given", *(f"+{t}" for t in range(2, 22, 2))]
        write_film_strip(directory / f"film_{camera}.png", rows, headings)


def _world_model_evaluation(directory: Path) -> None:
    curve = [
        {
            "horizon": t,
            "psnr_static": 25 - 0.1 * t,
            "psnr_gripper": 22 - 0.12 * t,
            "ssim_static": 0.9 - 0.002 * t,
            "ssim_gripper": 0.8 - 0.004 * t,
        }
        for t in range(1, 21)
    ]
    write(directory / "open_loop.json", {variant: curve for variant in VARIANTS})
    quality = [
        {
            "measure": measure,
            "camera": camera,
            "horizon": horizon,
            "wam": {"mean": 22.1, "std": 2.2},
            "dreamerv2": {"mean": 21.7, "std": 2.3},
            "difference": {"value": 0.4, "low": 0.1, "high": 0.7},
        }
        for measure in ("psnr", "ssim", "posterior_psnr")
        for camera in ("static", "gripper", "both")
        for horizon in ((None,) if measure == "posterior_psnr" else (None, 1, 5, 10))
    ]
    scores = {"r2": [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], "r2_mean": 0.5, "gripper_accuracy": 0.97}
    scores |= {"gripper_balanced_accuracy": 0.96, "gripper_majority": 0.61, "mae": [0.1] * 6}
    result = {
        "sequences": 20,
        "steps": 20,
        "quality": quality,
        "perceptual": {
            "lpips": {"computed": True},
            "st_lpips": {"computed": True},
            "fvd": {"computed": True, **{v: {"both": 11.5} for v in VARIANTS}},
        },
        "probe_pairs": 2000,
        "probe": {name: {"linear": scores, "mlp": scores} for name in ("untrained", *VARIANTS)},
        "action_faithfulness": {variant: scores for variant in VARIANTS},
        "scene_probe": {
            variant: {
                view: {name: 0.42 + 0.1 * place for place, name in enumerate(FIXTURES)}
                for view in ("embedding", "latent", "first_latent")
            }
            for variant in VARIANTS
        },
    }
    write(directory / "world_model.json", result)


def _task(directory: Path, kind: str, profile: Profile, rng: np.random.Generator) -> None:
    if kind == "policy":
        journal = [
            {
                "step": step,
                "train_loss": 0.9 * np.exp(-step / 600) + 0.1,
                "validation_loss": 0.8 * np.exp(-step / 600) + 0.2,
            }
            for step in range(100, 2501, 100)
        ]
        write_records(directory / "metrics.jsonl", journal)
    elif kind == "reward":
        figures = {"precision_imagined": 0.91, "recall_imagined": 0.84}
        figures |= {"missed_windows_imagined": 0.07, "false_alarm_windows_imagined": None}
        figures |= {"precision_real": 0.97, "recall_real": 0.93}
        write(directory / "summary.json", {**figures, "calibrated_on": "validation"})
    else:
        for seed in profile.finetune.seeds:
            journal = [
                {"step": i, "explored_success": 0.6 + 0.3 * i / 20 + rng.normal(0, 0.03)}
                for i in range(1, 21)
            ]
            write_records(directory / f"seed-{seed}" / "metrics.jsonl", journal)
            final = {
                "imagined_success_first": 0.5 + 0.2 * rng.random(),
                "imagined_success_last": 0.7 + 0.2 * rng.random(),
            }
            write(directory / f"seed-{seed}" / "summary.json", final)


def pictures(count: int) -> np.ndarray:
    """uint8 [count, 64, 64, 3]: a shaded ground with a dark square that moves."""
    ramp = np.linspace(120, 220, 64)
    frames = np.broadcast_to(ramp[None, :, None, None], (count, 64, 64, 3)).astype(np.uint8)
    for t, frame in enumerate(frames):
        frame[20:36, 4 * t : 4 * t + 16] = (40, 60, 90)
    return frames


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def profile(make_profile: Callable[..., Profile], raw_root: Path) -> Profile:
    made = make_profile(raw_root)
    return replace(made, finetune=replace(made.finetune, seeds=(0, 1, 2)))


@pytest.fixture(scope="module")
def run(profile: Profile, converted: Layout, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A reported run."""
    root = tmp_path_factory.mktemp("reported") / "demo"
    layout = Layout(Path(shutil.copytree(converted.root, root)))
    extract.run(profile, layout)
    make_run(profile, layout)
    report.run(profile, layout)
    return layout


class Reader(html.parser.HTMLParser):
    """Collects addresses, scripts and unbalanced tags."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use", "rect", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def read_page(layout: Layout) -> tuple[str, Reader]:
    text = (layout.report / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    return text, reader


def test_the_page_is_one_well_formed_file_without_network_or_scripts(run: Layout) -> None:
    text, reader = read_page(run)
    assert not reader.open
    assert "script" not in reader.tags
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert not re.search(r"url\((?!#)", text)
    assert [path.name for path in run.report.iterdir()] == ["index.html", "manifest.json"]


def test_the_page_has_every_part(run: Layout) -> None:
    text, reader = read_page(run)
    assert "not computed" not in re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert reader.tags.count("svg") >= 6
    media = [address for address in reader.addresses if address.startswith("data:image")]
    assert len(media) == 2 * 5 + 4, "clips of two tasks, film strips of two models and cameras"
    assert "embedded simulator" in text
    assert "96 frames" not in text
    assert "120 frames" in text


def test_it_shows_where_imagination_parts_from_simulation(run: Layout, profile: Profile) -> None:
    text, _ = read_page(run)
    rollouts = json.loads((run.evaluation("wam") / "rollouts.json").read_text())
    chosen = [row for row in rollouts if (row["task"], row["stage"]) == (profile.tasks[0], "ppo")]
    shares = [sum(row[name] for row in chosen) / len(chosen) for name in ("success", "imagined")]
    hits = sum(row["success"] and row["replayed"] for row in chosen)
    scores = [hits / sum(row[name] for row in chosen) for name in ("replayed", "success")]
    cells = [f"{share:.0%}" for share in shares] + [f"{scores[0]:.2f} / {scores[1]:.2f}"]
    assert "".join(f"<td>{cell}</td>" for cell in ("WAM PPO", *cells)) in text


def test_it_shows_how_classifiers_judge_frames_and_whole_windows(run: Layout) -> None:
    text, _ = read_page(run)
    assert "<td>0.91 / 0.84</td><td>0.97 / 0.93</td><td>7%</td><td>-</td>" in text


def test_the_world_models_are_compared(run: Layout) -> None:
    text, _ = read_page(run)
    cells = "<td>22.10 ± 2.20</td><td>21.70 ± 2.30</td><td>+0.40 [+0.10, +0.70]</td>"
    assert f"<td>PSNR (dB), both cameras</td>{cells}" in text
    assert f"<td>PSNR (dB), both cameras, step 10</td>{cells}" in text
    assert "<td>PSNR (dB), static camera, step 10</td>" not in text
    assert "<td>FVD</td><td>11.5</td><td>11.5</td>" in text
    assert "<td>untrained, linear</td><td>0.900</td>" in text
    shares = "".join(f"<td>{share}</td>" for share in ("0.42", "0.52", "0.62", "0.72", "0.82"))
    assert f"<td>WAM, latent of a first frame</td>{shares}" in text
    assert "".join(f"<th>R² {name}</th>" for name in FIXTURES) in text
    stored = json.loads((run.results / "world_model.json").read_text())
    assert stored["probe_pairs"] == 2000


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
    assert f"{100 * np.mean(pooled):.1f} [" in average.split("│")[4]
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


def test_the_table_can_be_shown_again(
    run: Layout, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    show_results(profile, run)
    assert "macro average" in capsys.readouterr().out


def test_a_report_made_twice_is_the_same(run: Layout, profile: Profile, tmp_path: Path) -> None:
    again = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    report.run(profile, again)
    assert read_page(again)[0] == read_page(run)[0]


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


def test_what_is_missing_is_not_invented(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path / "half")
    rng = np.random.default_rng(0)
    with artifact(layout.evaluation("controls"), renderer="tiny") as directory:
        _evaluation(directory, "controls", profile, 5, rng)
    report.run(profile, layout)
    text, reader = read_page(layout)
    for part in ("paired differences", "film strips", "classifier scores", "store"):
        assert f"{part}: not computed" in text
    assert text.count('<span class="none">not computed</span>') == 4 * 3
    assert not reader.open
    output = capsys.readouterr().out.splitlines()
    assert "half/report/index.html" in output[-1]
    assert not json.loads((layout.results / "metrics.json").read_text()).get("wam")


def test_nothing_evaluated_is_an_error(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(WamError, match="run 'wam evaluate' first"):
        report.run(profile, Layout(tmp_path))
    assert not list(tmp_path.iterdir())
