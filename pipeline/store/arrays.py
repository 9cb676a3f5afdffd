"""The arrays of a store: names, dtypes, shapes, meanings."""

from dataclasses import dataclass

from pipeline.calvin.fields import CAMERAS, DEPTHS, VECTORS
from wam.config import PROPRIO_SIZE

SCHEMA_VERSION = 3
"""Version of the store's layout; a reader refuses any other."""


@dataclass(frozen=True)
class StoreArray:
    """One row per frame."""

    dtype: str
    shape: tuple[int, ...]
    """Shape of a row."""
    meaning: str

    @property
    def is_image(self) -> bool:
        """Whether a row is an image or larger, so that the file of a shard has chunks."""
        return len(self.shape) > 1


def dimension_names(name: str, array: StoreArray) -> tuple[str, ...]:
    """What Zarr and xarray call the axes of the array ``name``, rows included.

    xarray wants a dimension to have one size in all arrays of a group. So images share their axes
    with those of the same camera, and any other array has its own.
    """
    if camera := _CAMERA_OF.get(name):
        return (FRAME, f"{camera}_height", f"{camera}_width", "channel")[: 1 + len(array.shape)]
    if array.is_image:
        return (FRAME, *(f"{name}_axis_{axis}" for axis in range(1, 1 + len(array.shape))))
    return (FRAME, f"{name}_element")[: 1 + len(array.shape)]


ROW_ARRAYS: dict[str, StoreArray] = {
    **{
        name: StoreArray(dtype, VECTORS[name].shape, VECTORS[name].meaning)
        for name, dtype in (
            ("actions", "float32"),
            ("rel_actions", "float32"),
            ("robot_obs", "float64"),
            ("scene_obs", "float64"),
        )
    },
    "proprio": StoreArray(
        "float32",
        (PROPRIO_SIZE,),
        "position (m), rot6d, gripper width (m), joints (rad), gripper command; not normalised",
    ),
    "frame_id": StoreArray("int64", (), "id of the raw frame"),
}
"""What every store holds besides its images."""
STATISTICS_OF = ("actions", "rel_actions", "robot_obs", "scene_obs", "proprio")
"""The arrays whose range, mean and standard deviation the conversion computes."""
FRAME = "frame"
"""The axis along which the rows of all arrays but two lie."""
_CAMERA_OF = {name: name.partition("_")[2] for name in (*CAMERAS, *DEPTHS.values())}
"""Which camera an image is from: static or gripper."""
MEANINGS = {
    "rgb_static": "static camera, RGB, top row first",
    "rgb_gripper": "wrist camera, RGB, top row first",
    "depth_static": "static camera, depth along the optical axis (m), top row first",
    "depth_gripper": "wrist camera, depth along the optical axis (m), top row first",
}
"""Of the images."""
EPISODES = "episodes"
"""int64 [E, 2]: first row and one past the last row of every episode."""
EPISODE_SCENE = "episode_scene"
"""int8 [E]: place of every episode's scene in the attribute ``scenes``, -1 where it is unknown."""
TABLE_DIMENSIONS = {EPISODES: ("episode", "start_stop"), EPISODE_SCENE: ("episode",)}
"""Names of the axes of those two."""
OWN_ARRAYS = (*CAMERAS, *DEPTHS.values(), *ROW_ARRAYS, EPISODES, EPISODE_SCENE)
"""All names that mean something in a store."""

SIMULATOR_ATTRIBUTES = ("backend", "renderer", "robot_model", "scene_source")
"""What is recorded with every frame and result; None where a recording does not say."""
