import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wam.errors import WamError
from wam.proprio import ProprioNormalizer, from_robot_obs


def robot_obs(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-np.pi, np.pi, (count, 15))


def test_rot6d_is_the_first_two_rows_of_the_fixed_axis_rotation() -> None:
    values = robot_obs(50)
    rot6d = from_robot_obs(values)[:, 3:9]
    rows = Rotation.from_euler("xyz", values[:, 3:6]).as_matrix()[:, :2]
    np.testing.assert_allclose(rot6d, rows.reshape(-1, 6), atol=1e-6)


def test_rot6d_is_orthonormal_and_continuous_where_angles_wrap() -> None:
    rows = from_robot_obs(robot_obs(50))[:, 3:9].reshape(-1, 2, 3).astype(np.float64)
    np.testing.assert_allclose(
        rows @ rows.swapaxes(1, 2), np.tile(np.eye(2), (50, 1, 1)), atol=1e-6
    )
    before, after = np.zeros((2, 15))
    before[3:6], after[3:6] = np.pi - 1e-4, -np.pi + 1e-4
    np.testing.assert_allclose(from_robot_obs(before), from_robot_obs(after), atol=1e-3)


def test_other_dimensions_are_passed_through_in_order() -> None:
    values = robot_obs(4)
    proprio = from_robot_obs(values)
    assert proprio.dtype == np.float32
    np.testing.assert_allclose(proprio[:, :3], values[:, :3], rtol=1e-6)
    np.testing.assert_allclose(proprio[:, 9:], values[:, 6:], rtol=1e-6)


def test_normalizer_maps_statistics_to_unit_range_and_survives_its_dict() -> None:
    minimum, maximum = np.linspace(-1, 0, 18), np.linspace(1, 5, 18)
    maximum[4] = minimum[4]  # a constant dimension keeps its unit
    normalizer = ProprioNormalizer.from_dict(ProprioNormalizer(minimum, maximum).to_dict())
    np.testing.assert_allclose(normalizer(minimum), np.zeros(18), atol=1e-6)
    expected = np.ones(18)
    expected[4] = 0
    np.testing.assert_allclose(normalizer(maximum), expected, atol=1e-6)
    assert normalizer(maximum + 1)[4] == pytest.approx(1.0)
    assert normalizer(maximum + 1)[0] > 1.0  # not clipped


def test_bad_input_is_named() -> None:
    with pytest.raises(WamError, match="robot_obs"):
        from_robot_obs(np.zeros((3, 14)))
    with pytest.raises(WamError, match="proprio_max"):
        ProprioNormalizer.from_dict({"proprio_min": [0.0] * 18})
