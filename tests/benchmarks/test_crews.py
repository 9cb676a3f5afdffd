from pathlib import Path

import pytest

from benchmarks import crews


@pytest.mark.slow
def test_two_crews_are_compared(tmp_path: Path) -> None:
    parsed = crews._parser().parse_args(["--profile", "ci", "--tasks", "2", "--seeds", "2"])
    profile = crews._profile(parsed)
    result = crews.compare(profile, tmp_path, workers=2, rounds=1)
    assert (result["tasks"], result["seeds"], result["workers"]) == (2, 2, 2)
    assert result["ratio_workers"] > 0
    assert result["seconds_per_part"]["PPO"] > 0
