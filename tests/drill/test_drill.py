"""The drill in short: a few faults in every stage that is quick enough."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.drill.__main__ import table
from tests.drill.kills import Trial, spread

REPOSITORY = Path(__file__).parents[2]
STAGES = [
    "collect",
    "index",
    "convert",
    "export",
    "export lerobot",
    "extract",
    "train-world-model wam",
    "featurize wam",
    "train-reward wam",
    "train-policy wam",
    "finetune wam",
]


@pytest.mark.slow
def test_no_fault_loses_anything_or_goes_unnoticed() -> None:
    pytest.importorskip("pybullet")
    pytest.importorskip("pyarrow")
    # A process of its own: it forks, which the threads of other tests would not survive.
    options = ["--parts", "kills", "--most", "4", "--random", "1", "--stages", *STAGES]
    drill = subprocess.run(
        [sys.executable, "-m", "tests.drill", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert drill.returncode == 0, drill.stdout + drill.stderr


def test_the_last_operations_are_always_among_the_chosen() -> None:
    assert list(spread(3, None)) == [0, 1, 2]
    chosen = list(spread(100, 10))
    assert chosen == sorted(set(chosen)) and len(chosen) == 10
    assert chosen[5:] == [95, 96, 97, 98, 99]


def test_the_table_counts_what_went_well() -> None:
    trials = [
        Trial("index", "killed", "1", ()),
        Trial("index", "killed", "2", ("left: x",)),
        Trial("convert", "disk full", "1", ()),
    ]
    assert table(trials) == (
        "| stage | killed | disk full |\n"
        "| --- | ---: | ---: |\n"
        "| index | 1/2 |  |\n"
        "| convert |  | 1/1 |\n"
        "| all | 1/2 | 1/1 |\n"
    )
