"""Proprioception as a part of the state: seen where a frame is seen, else moved by the action.

A recurrent model that has to rebuild the hand from what it dreams learns the plans of its play
rather than what actions do, and knows no place where the play never went. Here the arm follows its
commands by a law fitted to the play, and a network only adds what the hand meets on the way.

Relative actions move a *target* that the arm follows with a lag (docs/calvin.md 2.3). How far the
hand is behind, the *lag*, decides its next motion as much as the action does, and no frame shows
it; it follows from the commands and what has been seen of the hand. The state carries it too.

Shapes: H = hidden, P = 18 numbers of proprioception, Q = 6 of a pose (position in m, Euler angles
in rad), R = 9 other numbers of proprioception, A = 7 action, M = 24 numbers of a state's end.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from wam.config import POSE_SIZE, POSITION_STEP_M, PROPRIO_SIZE, ROTATION_STEP_RAD
from wam.proprio import ProprioNormalizer

_SPREAD = 4.0
"""Normalised values in [0, 1] become [-2, 2]: centimetres are small beside what networks read."""
_FREE = 4.0
"""Actions that a hand in the open may be behind; one further behind is held by something."""
_FARTHEST = 10.0
"""Largest lag that a state tells, 20 cm: nothing that a robot records is out of all scale."""
_RIDGE = 1e-6
_PLACED = 9
"""Numbers of proprioception that follow from the pose: position and rot6d."""
_TINY = 1e-9
_WAVES_M = (0.32, 0.16, 0.08, 0.04)
PLACE_SIZE = 3 * 2 * len(_WAVES_M)
"""Of a place as :meth:`ProprioState.ahead` tells it."""


class ArmMotion(NamedTuple):
    """The arm in all frames of a split, in their order."""

    proprio: torch.Tensor
    """float32 [N, P], in physical units"""
    prev_action: torch.Tensor
    """float32 [N, A], what led to the frame"""
    is_first: torch.Tensor
    """bool [N], first frames of episodes: there the arm is where its target is"""


class Arm(NamedTuple):
    """What a state knows of the arm."""

    pose: torch.Tensor
    """float32 [..., Q]"""
    lag: torch.Tensor
    """float32 [..., Q], how far the hand is behind its target, in units of an action"""
    rest: torch.Tensor
    """float32 [..., R], gripper width, joints and last gripper command, as states hold them"""


@torch.no_grad()
def lags(motion: ArmMotion) -> torch.Tensor:
    """Lag float32 [N, Q] behind every action of ``motion``, in units of an action."""
    pose = _pose(motion.proprio.double())
    moved = _difference(pose, pose.roll(1, 0)) / _steps().to(pose.device)
    change = motion.prev_action[:, :POSE_SIZE] - moved
    total = change.masked_fill(motion.is_first.unsqueeze(-1), 0.0).cumsum(0)
    episode = motion.is_first.cumsum(0) - 1
    return _bounded(total - total[motion.is_first][episode]).float()


class ProprioState(nn.Module):
    """The end of states, float32 [..., M]: the lag, then ``4 (p - 0.5)`` of the normalised
    proprioception p."""

    minimum: torch.Tensor
    span: torch.Tensor
    follow: torch.Tensor
    step: torch.Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.correction = nn.Linear(hidden, POSE_SIZE + PROPRIO_SIZE - _PLACED)
        self.register_buffer("minimum", torch.zeros(PROPRIO_SIZE))
        self.register_buffer("span", torch.ones(PROPRIO_SIZE))
        self.register_buffer("follow", torch.eye(POSE_SIZE))
        self.register_buffer("step", _steps(), persistent=False)

    @torch.no_grad()
    def calibrate(self, normalizer: ProprioNormalizer, motion: ArmMotion) -> None:
        """Learn the units of proprioception, and how the arm follows its target, from ``motion``.

        The motion of one step is linear in the lag, by least squares over the frames in which
        nothing holds the hand.
        """
        self.minimum.copy_(torch.from_numpy(normalizer.minimum))
        self.span.copy_(torch.from_numpy(normalizer.span))
        pose = _pose(motion.proprio.double())
        moved = _difference(pose[1:], pose[:-1])[~motion.is_first[1:]] / self.step
        behind = lags(motion)
        urge = (behind[:-1] + motion.prev_action[1:, :POSE_SIZE])[~motion.is_first[1:]].double()
        free = (urge.abs() < _FREE).all(-1)
        # By normal equations with a little ridge: an arm that never turned has none of its own.
        square = urge[free].T @ urge[free] + _RIDGE * free.sum() * torch.eye(POSE_SIZE)
        self.follow.copy_(torch.linalg.solve(square, urge[free].T @ moved[free]))
        # To begin with nothing is in the way.
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def shown(self, embedding: torch.Tensor) -> Arm:
        """What an embedding [..., E] shows, whose last numbers are the normalised proprioception.

        No frame shows a lag: it is 0.
        """
        return self._arm(_SPREAD * (embedding[..., -PROPRIO_SIZE:] - 0.5), None)

    def read(self, held: torch.Tensor) -> Arm:
        """The arm of what states hold [..., M]."""
        return self._arm(held[..., -PROPRIO_SIZE:], held[..., :POSE_SIZE])

    def held(self, arm: Arm) -> torch.Tensor:
        """What states hold of ``arm``, [..., M]."""
        placed = torch.cat([arm.pose[..., :3], _rot6d(arm.pose[..., 3:])], dim=-1)
        return torch.cat([arm.lag, self._scaled(placed, slice(_PLACED)), arm.rest], dim=-1)

    def seen(
        self,
        last: Arm,
        action: torch.Tensor,
        shown: Arm,
        is_first: torch.Tensor,
        lag: torch.Tensor | None = None,
    ) -> Arm:
        """The arm once ``action`` [..., A] has led from ``last`` to what is ``shown``.

        Where ``is_first`` [...] the lag is that of ``lag`` [..., Q], or none.
        """
        moved = _difference(shown.pose, last.pose) / self.step
        behind = last.lag + action[..., :POSE_SIZE] - moved
        at_first = shown.lag if lag is None else lag
        return shown._replace(lag=torch.where(is_first.unsqueeze(-1), at_first, _bounded(behind)))

    def predicted(self, last: Arm, action: torch.Tensor, hidden: torch.Tensor) -> Arm:
        """What ``last`` becomes by ``action`` [..., A].

        ``hidden`` [..., H], of the prior behind the action, corrects it.
        """
        correction = self.correction(hidden).float()
        urge, moved = self._freely(last, action)
        moved = moved + correction[..., :POSE_SIZE]
        command = self._scaled(action[..., POSE_SIZE:], slice(-1, None))
        rest = torch.cat([last.rest[..., :-1], command], dim=-1) + correction[..., POSE_SIZE:]
        return Arm(last.pose + self.step * moved, _bounded(urge - moved), rest)

    def ahead(self, last: Arm, action: torch.Tensor) -> torch.Tensor:
        """Where the hand of ``last`` gets to by ``action`` [..., A] if nothing is in its way.

        Sines and cosines [..., 24] of the position in waves of 32 to 4 cm: a button is pressed
        within millimetres, which a network would have to tell apart in numbers that span a table.
        The law's own error is far smaller. Only for the network that moves the state: policies
        that read waves learn their few demonstrations by heart (docs/learning.md).
        """
        place = last.pose + self.step * self._freely(last, action)[1]
        phase = torch.cat([place[..., :3] * (2 * math.pi / wave) for wave in _WAVES_M], dim=-1)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def _freely(self, last: Arm, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far ``action`` and the lag ask the arm to go, and how far it gets, [..., Q] each."""
        urge = last.lag + action[..., :POSE_SIZE]
        return urge, urge @ self.follow

    def _scaled(self, values: torch.Tensor, place: slice) -> torch.Tensor:
        """Physical ``values`` of the numbers at ``place`` as states hold them."""
        return _SPREAD * ((values - self.minimum[place]) / self.span[place] - 0.5)

    def _arm(self, proprio: torch.Tensor, lag: torch.Tensor | None) -> Arm:
        placed = self.span[:_PLACED] * (proprio[..., :_PLACED] / _SPREAD + 0.5)
        pose = _pose(self.minimum[:_PLACED] + placed)
        return Arm(pose, torch.zeros_like(pose) if lag is None else lag, proprio[..., _PLACED:])


def choose(condition: torch.Tensor, arm: Arm, other: Arm) -> Arm:
    """``arm`` where ``condition`` [...], else ``other``."""
    pairs = zip(arm, other, strict=True)
    return Arm(*(torch.where(condition.unsqueeze(-1), *pair) for pair in pairs))


def _steps() -> torch.Tensor:
    """What an action of 1 adds to the target's pose, float32 [Q]."""
    return torch.tensor([POSITION_STEP_M] * 3 + [ROTATION_STEP_RAD] * 3)


def _bounded(lag: torch.Tensor) -> torch.Tensor:
    return lag.clamp(-_FARTHEST, _FARTHEST)


def _pose(proprio: torch.Tensor) -> torch.Tensor:
    """Position and Euler angles [..., Q] of physical proprioception [..., P]; the inverse of
    :func:`wam.proprio.rotation_matrix`."""
    first, second = proprio[..., 3:6], proprio[..., 6:9]
    third = torch.linalg.cross(first, second)
    across = (first[..., 0].square() + second[..., 0].square() + _TINY).sqrt()
    angles = [
        torch.atan2(third[..., 1], third[..., 2] + _TINY),
        torch.atan2(-third[..., 0], across),
        torch.atan2(second[..., 0], first[..., 0] + _TINY),
    ]
    return torch.cat([proprio[..., :3], torch.stack(angles, dim=-1)], dim=-1)


def _rot6d(euler: torch.Tensor) -> torch.Tensor:
    """The first two rows of the rotation matrix [..., 6] of Euler angles [..., 3]."""
    (ca, cb, cc), (sa, sb, sc) = euler.cos().unbind(-1), euler.sin().unbind(-1)
    first = cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa
    second = sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa
    return torch.stack([*first, *second], dim=-1)


def _difference(pose: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``pose`` - ``other`` [..., Q], by the shorter turn."""
    gap = pose - other
    turn = torch.remainder(gap[..., 3:] + math.pi, 2 * math.pi) - math.pi
    return torch.cat([gap[..., :3], turn], dim=-1)
