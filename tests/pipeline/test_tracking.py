import json
from pathlib import Path

import pytest

from pipeline.tracking import DVCLIVE, TENSORBOARD, Tracker
from wam.training.journal import Journal
from wam.training.trainer import METRICS_FILE, VALIDATION_FILE

pytest.importorskip("dvclive")
pytest.importorskip("tensorboard")


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / TENSORBOARD))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_both_show_what_the_journals_hold_even_after_a_kill(tmp_path: Path) -> None:
    metrics, validation = Journal(tmp_path / METRICS_FILE), Journal(tmp_path / VALIDATION_FILE)
    with Tracker(tmp_path, tmp_path / "log") as tracker:
        for step in (10, 20, 30):
            metrics.append({"step": step, "loss": float(step)})
            tracker.catch_up()
    # The run is killed and goes on from step 20.
    metrics.restore([one for one in metrics.records() if one["step"] <= 20])
    validation.append({"step": 20, "open_loop_psnr": 21.0})
    with Tracker(tmp_path, tmp_path / "log") as tracker:
        metrics.append({"step": 30, "loss": 31.0})
        tracker.catch_up()
        assert tracker.validation["open_loop_psnr"] == 21.0
    expected = [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert scalars(tmp_path / "log") == {
        "train/loss": expected,
        "validation/open_loop_psnr": [(20, 21.0)],
    }
    lines = (tmp_path / "log" / DVCLIVE / "plots/metrics/train/loss.tsv").read_text().splitlines()
    assert [tuple(map(float, line.split("\t"))) for line in lines[1:]] == expected
    summary = json.loads((tmp_path / "log" / DVCLIVE / "metrics.json").read_text())
    assert summary["train"]["loss"] == 31.0
