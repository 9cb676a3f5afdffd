import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calvin.stretches import SHORTEST, long_enough, stretches


@given(st.sets(st.integers(0, 60)))
def test_stretches_are_the_runs_of_what_is_there(ids: set[int]) -> None:
    found = stretches(np.array(sorted(ids), np.int64))
    assert [at for start, stop in found for at in range(start, stop)] == sorted(ids)
    assert all(start - 1 not in ids and stop not in ids for start, stop in found)


def test_short_stretches_are_left_out() -> None:
    assert long_enough([(0, SHORTEST), (100, 99 + SHORTEST)]) == [(0, SHORTEST)]
