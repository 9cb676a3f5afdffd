"""The page of a report."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import Agreement, agreement_of
from pipeline.params import Profile
from pipeline.report import sections
from pipeline.report.published import PAPER, published
from pipeline.stages import report
from tests.pipeline.artifact import artifact
from tests.pipeline.report.made_up import make_evaluation
from tests.pipeline.report.page import read_page
from wam.config import TASKS
from wam.tasks import FIXTURES

POLICIES = ("WAM BC", "WAM PPO", "DreamerV2 BC", "DreamerV2 PPO")


def test_the_page_is_one_well_formed_file_without_network_or_scripts(run: Layout) -> None:
    text, reader = read_page(run)
    assert not reader.open
    assert "script" not in reader.tags
    loaded = [address for address in reader.addresses if address != PAPER]
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert not re.search(r"url\((?!#)", text)
    assert [path.name for path in run.report.iterdir()] == ["index.html", "manifest.json"]


def test_the_page_has_every_part(run: Layout, profile: Profile) -> None:
    text, reader = read_page(run)
    assert "not computed" not in re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert reader.tags.count("svg") >= 6
    media = [address for address in reader.addresses if address.startswith("data:image")]
    assert len(media) == 2 * 7 + 4, "clips of two tasks, film strips of two models and cameras"
    task = text.split("<h3>close drawer</h3>")[1].split("</div>")[0]
    shown = re.findall('alt="close_drawer, ([^"]*)"', task)
    first = [f"{name}, first start" for name in ("Expert", *POLICIES)]
    assert shown == first + [f"{name}, first failure" for name in ("WAM BC", "DreamerV2 BC")]
    assert "embedded simulator" in text
    assert f"in chunks of 4, {sections.looks(profile)}." in text
    assert "96 frames" not in text
    assert "120 frames" in text


@pytest.mark.parametrize(("every", "words"), [(1, "every frame"), (16, "every 16"), (0, "alone")])
def test_it_says_what_policies_looked_at(profile: Profile, every: int, words: str) -> None:
    others = {"close_drawer": 8, "turn_on_led": 8, "open_drawer": every}
    given = replace(profile.evaluate, look_every=every, look_every_of=others)
    tasks = ("open_drawer", "turn_on_led")
    told = sections.looks(replace(profile, evaluate=given, tasks=tasks))
    assert words in told
    assert told.endswith(" (turn on led: with a look every 8 frames)")


def test_it_shows_where_imagination_parts_from_simulation(run: Layout, profile: Profile) -> None:
    text, _ = read_page(run)
    rollouts = json.loads((run.evaluation("wam") / "rollouts.json").read_text())
    chosen = [row for row in rollouts if (row["task"], row["stage"]) == (profile.tasks[0], "ppo")]
    shares = [sum(row[name] for row in chosen) / len(chosen) for name in ("success", "imagined")]
    figures = agreement_of(chosen)
    assert figures is not None and figures.replayed_auc is not None
    cells = [f"{share:.0%}" for share in shares]
    cells += [f"{figures.executed_success:.0%}", f"{figures.dreams_true:.0%}"]
    cells += [f"{figures.replayed_auc:.2f}", f"{figures.replayed_balanced_accuracy:.2f}"]
    cells += [f"{100 * figures.replayed_bias:+.0f}"]
    assert "".join(f"<td>{cell}</td>" for cell in ("WAM PPO", *cells)) in text
    assert "agreement of imagination and simulator" in text


def test_the_papers_figures_stand_apart(run: Layout) -> None:
    """The counts, which were decoded, give the means that the paper prints."""
    text, _ = read_page(run)
    assert "<td>close drawer</td><td>89.7 % (26/29)</td><td>96.6 % (28/29)</td>" in text
    assert "<td>mean of all eight</td><td>61.7 %</td><td>92.8 %</td>" in text
    rows = published(TASKS)
    for column, mean in list(rows[-1].items())[1:4]:
        rates = [float(row[column].split(" %")[0]) for row in rows[:-1]]
        assert len(rates) == 8
        assert np.mean(rates) == pytest.approx(float(mean.removesuffix(" %")), abs=0.1)


def test_it_shows_how_classifiers_judge_frames_and_whole_windows(run: Layout) -> None:
    text, _ = read_page(run)
    assert "<td>0.91 / 0.84</td><td>0.97 / 0.93</td><td>7%</td><td>-</td><td></td>" in text


def test_warnings_stand_beside_the_numbers_that_they_concern(
    run: Layout, profile: Profile, tmp_path: Path
) -> None:
    layout = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    finetune = replace(profile.finetune, min_imagined_precision=0.95)
    report.run(replace(profile, finetune=finetune), layout)
    text, _ = read_page(layout)
    warning = "imagined precision below 95%: PPO may fool it"
    assert (
        f"<td>0.91 / 0.84</td><td>0.97 / 0.93</td><td>7%</td><td>-</td><td>{warning}</td>" in text
    )
    for figures, words in (
        ((0.9, 0.05), ""),
        ((0.6, 0.05), "cannot tell successes from failures"),
        ((0.9, -0.2), "dreams too badly"),
        ((None, 0.2), "dreams too well"),
    ):
        found = Agreement(
            None, None, figures[0], None, figures[1], None, None, None, 0.5, 0.5, None
        )
        assert sections._distrust(found) == words


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
    assert "<td>97%</td>" in text and "<td>63%</td>" in text
    stored = json.loads((run.results / "world_model.json").read_text())
    assert stored["probe_pairs"] == 2000


def test_a_report_made_twice_is_the_same(run: Layout, profile: Profile, tmp_path: Path) -> None:
    again = Layout(Path(shutil.copytree(run.root, tmp_path / run.root.name)))
    report.run(profile, again)
    assert read_page(again)[0] == read_page(run)[0]


def test_what_is_missing_is_not_invented(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path / "half")
    rng = np.random.default_rng(0)
    with artifact(layout.evaluation("controls"), renderer="tiny") as directory:
        make_evaluation(directory, "controls", profile, 5, rng)
    report.run(profile, layout)
    text, reader = read_page(layout)
    for part in ("paired differences", "film strips", "classifier scores", "store"):
        assert f"{part}: not computed" in text
    assert text.count('<span class="none">not computed</span>') == 4 * 3
    assert not reader.open
    output = capsys.readouterr().out.splitlines()
    assert "half/report/index.html" in output[-1]
    assert not json.loads((layout.results / "metrics.json").read_text()).get("wam")
