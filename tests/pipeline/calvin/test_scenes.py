from pathlib import Path

import numpy as np
import pytest

from pipeline.calvin import metadata
from pipeline.calvin.scenes import block_order, canonical_blocks, episode_scenes
from wam.errors import WamError

ORDERS = {  # docs/calvin.md 1.3
    "A": ["pink", "blue", "red"],
    "B": ["red", "blue", "pink"],
    "C": ["blue", "red", "pink"],
    "D": ["red", "blue", "pink"],
}
EPISODES = [(0, 100), (100, 150), (150, 300)]


@pytest.mark.parametrize("scene", ORDERS)
def test_blocks_come_in_one_order_and_the_rest_stays(scene: str) -> None:
    assert block_order(scene) == ORDERS[scene]
    blocks = {"red": np.full(6, 1.0), "blue": np.full(6, 2.0), "pink": np.full(6, 3.0)}
    fixed = np.arange(0.1, 0.7, 0.1)
    state = np.concatenate([fixed, *(blocks[colour] for colour in ORDERS[scene])])
    expected = np.concatenate([fixed, blocks["red"], blocks["blue"], blocks["pink"]])
    np.testing.assert_array_equal(canonical_blocks(state, scene), expected)
    states = np.stack([state, state + 10])
    np.testing.assert_array_equal(canonical_blocks(states, scene)[1], expected + 10)


def test_bad_states_and_scenes_are_refused() -> None:
    with pytest.raises(WamError, match=r"scene_obs: shape \(23,\)"):
        canonical_blocks(np.zeros(23), "A")
    with pytest.raises(WamError, match="unknown scene 'E'"):
        canonical_blocks(np.zeros(24), "E")


def test_scene_info_counts_where_it_names_several_scenes(tmp_path: Path) -> None:
    metadata.write_recording_config(tmp_path, metadata.Recording("B", "egl"))
    ranges = {"calvin_scene_B": (0, 99), "calvin_scene_A": (100, 149), "calvin_scene_C": (160, 299)}
    metadata.write_scene_info(tmp_path, ranges)
    assert episode_scenes(tmp_path, EPISODES) == ["B", "A", None]


@pytest.mark.parametrize(
    ("recorded", "info", "expected"),
    [("D", "A", "D"), ("D", None, "D"), (None, "A", "A"), (None, None, None)],
)
def test_one_scene_is_the_recordings(
    tmp_path: Path, recorded: str | None, info: str | None, expected: str | None
) -> None:
    if recorded:
        metadata.write_recording_config(tmp_path, metadata.Recording(recorded, "egl"))
    if info:
        metadata.write_scene_info(tmp_path, {f"calvin_scene_{info}": (0, 299)})
    assert episode_scenes(tmp_path, EPISODES) == [expected] * 3
