"""The one reading of a 7-d relative action that simulator and world model share.

x, y, z in units of 2 cm, Euler differences in units of 0.05 rad, gripper -1 (close) or +1 (open)
(docs/calvin.md 1.4, docs/algorithm.md 1.4).
"""

import torch

NULL_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
"""What "led to" the first frame of an episode: no motion, gripper open."""


def executable(action: torch.Tensor) -> torch.Tensor:
    """``action`` float32 [..., 7] with the motion clamped to [-1, 1] and the gripper made -1 or +1.

    A gripper value of 0 or more opens, as at CALVIN's evaluation. Policies act through this
    function in imagination and in simulation, so that the world model never sees a command that it
    was not trained on.
    """
    motion = action[..., :6].clamp(-1.0, 1.0)
    gripper = torch.where(action[..., 6:] >= 0, 1.0, -1.0)
    return torch.cat([motion, gripper], dim=-1)
