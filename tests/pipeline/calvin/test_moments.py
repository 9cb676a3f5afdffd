import json

import numpy as np
import pytest

from pipeline.calvin.moments import Moments


def test_two_parts_in_closed_form() -> None:
    merged = Moments.of(np.array([[1.0], [3.0]])).merged(Moments.of(np.array([[8.0]])))
    assert merged.count == 3
    assert (merged.minimum, merged.maximum, merged.mean) == (1.0, 8.0, 4.0)
    assert merged.squares == pytest.approx(26.0)
    assert merged.std == pytest.approx(np.sqrt(26 / 3))


@pytest.mark.parametrize("part", [1, 7, 250, 1000])
def test_parts_agree_with_the_whole_far_from_zero(part: int) -> None:
    rows = np.random.default_rng(0).normal([0.0, 1000.0], [1.0, 1e-3], (1000, 2))
    merged = Moments.of(rows[:part])
    for start in range(part, len(rows), part):
        merged = merged.merged(Moments.of(rows[start : start + part]))
    assert merged.count == 1000
    np.testing.assert_array_equal(merged.minimum, rows.min(0))
    np.testing.assert_array_equal(merged.maximum, rows.max(0))
    np.testing.assert_allclose(merged.mean, rows.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(merged.std, rows.std(0), rtol=1e-9)


def test_json_keeps_every_bit() -> None:
    moments = Moments.of(np.random.default_rng(1).normal(size=(20, 3)))
    again = Moments.from_dict(json.loads(json.dumps(moments.to_dict())))
    assert again.count == moments.count
    for name in ("minimum", "maximum", "mean", "squares"):
        np.testing.assert_array_equal(getattr(again, name), getattr(moments, name))
