"""Whether raw frames are of the simulator's world, before anything is trained on them."""

from pathlib import Path

from pipeline.calvin import metadata, on_disk
from pipeline.calvin.scenes import episode_scenes
from pipeline.evaluation.worlds import checked
from pipeline.params.profile import Env


def check_recording(validation: Path, env: Env) -> None:
    """As :func:`checked`, for the raw frames below ``validation``."""
    recording = metadata.read_recording_config(validation)
    table = on_disk.read_episodes(validation)
    scenes = episode_scenes(validation, [(first, last + 1) for first, last in table.tolist()])
    data = {
        "renderer": recording.renderer,
        "robot_model": recording.robot_model,
        "scene_source": recording.scene_source,
        "scenes": sorted({scene for scene in scenes if scene is not None}),
    }
    checked(data, env.simulator(static_size=0, gripper_size=0), env)
