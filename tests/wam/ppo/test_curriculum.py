import pytest
import torch

from wam.errors import WamError
from wam.ppo.curriculum import StartCurriculum, ways_to_success

LENGTH = torch.tensor([10, 4, 3, 5])
# The first succeeds at its last frame, the second never, the third at once, the fourth at its
# second frame and with a gap.
LABEL = torch.tensor([0] * 9 + [1] + [0] * 4 + [1] * 3 + [0, 1, 1, 0, 1]).bool()


def make_curriculum(iterations: float = 4) -> StartCurriculum:
    """Features that tell draw and frame."""
    frame = torch.arange(len(LABEL)).float()
    posterior = torch.stack([torch.stack([torch.full_like(frame, s), frame], 1) for s in range(2)])
    return StartCurriculum(posterior, LABEL, LENGTH, iterations)


def test_only_frames_before_a_first_success_count() -> None:
    assert ways_to_success(LABEL, LENGTH) == [(0, 9), (17, 18)]


def test_the_position_falls_linearly_until_the_curriculum_is_over() -> None:
    curriculum = make_curriculum(4)
    positions = [curriculum.position(iteration) for iteration in range(6)]
    assert positions == [pytest.approx(value) for value in (0.8, 0.6, 0.4, 0.2)] + [None, None]
    # A share of the iterations need not be a whole number of them.
    assert make_curriculum(0.5).position(0) == 0.8
    assert make_curriculum(0.5).position(1) is None


@pytest.mark.parametrize(
    ("position", "first"), [(0.8, 8), (0.5, 5), (4 / 9, 4), (0.1, 1), (0.0, 0), (0.99, 8)]
)
def test_starts_lie_between_the_position_and_the_success(position: float, first: int) -> None:
    # Nine frames lead to the success of the first demonstration, one to that of the fourth.
    frames = [*range(first, 9), 17]
    starts = make_curriculum().starts(position)
    assert starts[:, 1].tolist() == frames * 2
    assert starts[:, 0].tolist() == [0.0] * len(frames) + [1.0] * len(frames)


def test_demonstrations_without_a_way_to_success_are_refused() -> None:
    with pytest.raises(WamError, match=r"finetune\.start_curriculum"):
        StartCurriculum(torch.zeros(1, 4, 2), torch.zeros(4).bool(), torch.tensor([4]), 3)
