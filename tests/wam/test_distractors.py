"""What disturbs images: an episode's light, shaking, squares."""

import numpy as np
import pytest

from wam.distractors import _scene, disturbed

SIDE = 64
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(60, 180, (SIDE, SIDE, 3), dtype=np.uint8)
GREY = np.full((SIDE, SIDE, 3), 120, np.uint8)


def test_an_image_is_always_disturbed_in_the_same_way() -> None:
    before = IMAGE.copy()
    one = disturbed(IMAGE, 5, 7, 0)
    assert one.dtype == np.uint8
    assert one.shape == IMAGE.shape
    np.testing.assert_array_equal(disturbed(IMAGE, 5, 7, 0), one)
    np.testing.assert_array_equal(IMAGE, before)
    for other in ((6, 7, 0), (5, 8, 0), (5, 7, 1)):
        assert (disturbed(IMAGE, *other) != one).any()


@pytest.mark.parametrize("episode", range(5))
def test_light_changes_the_hue_and_leaves_grey_and_brightness(episode: int) -> None:
    grey = disturbed(GREY, episode, 0, 0)
    changed = (np.abs(grey.astype(int) - 120) > 1).any(-1)
    assert changed.mean() < 3 * 12**2 / SIDE**2, "squares alone"
    red = np.zeros_like(GREY)
    red[...] = (140, 110, 100)
    seen = disturbed(red, episode, 0, 0)[~changed].reshape(-1, 3).astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.ptp(seen, axis=0).max() <= 1, "one light for the whole image"
    assert seen[0] @ luma == pytest.approx(np.array([140, 110, 100]) @ luma, abs=1.5)


def test_lights_are_of_all_hues() -> None:
    red = np.zeros_like(GREY)
    red[...] = (150, 100, 100)
    strongest = {
        int(np.median(disturbed(red, episode, 0, 0), axis=(0, 1)).argmax()) for episode in range(30)
    }
    assert strongest == {0, 1, 2}


def test_the_camera_shakes_by_at_most_two_pixels() -> None:
    dot = np.full((SIDE, SIDE, 3), 0, np.uint8)
    dot[30:34, 30:34] = 200
    places = []
    for time in range(200):
        seen = disturbed(dot, 1, time, 0)
        shown = np.argwhere((np.abs(seen.astype(int) - 200) <= 1).all(-1))
        if len(shown) == 16:  # no square before it
            places.append(shown.min(0) - 30)
    assert len(places) > 100
    assert np.abs(places).max() == 2
    assert len({tuple(place) for place in np.array(places).tolist()}) > 15


def test_squares_drift_and_stay_in_the_image() -> None:
    def square(time: int) -> np.ndarray:
        return (np.abs(disturbed(GREY, 2, time, 1).astype(int) - 120) > 1).any(-1)

    sides = np.rint(_scene(2, 1).sides * SIDE)
    areas = [square(time).sum() for time in range(300)]
    # Where none hides another all of every square shows: none is ever half outside.
    assert max(areas) == (sides**2).sum()
    assert min(areas) >= sides.max() ** 2
    assert np.mean(np.array(areas) == max(areas)) > 0.5
    assert (square(0) != square(40)).any()
    for time in range(299):
        # What a step uncovers is an edge of each square, two pixels wide at most.
        assert (square(time) & ~square(time + 1)).sum() <= 3 * 4 * 13
