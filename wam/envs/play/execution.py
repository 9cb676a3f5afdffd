"""What scripted play reports about itself; needs no simulator."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Execution:
    """One task done in play. All numbers are frames of the episode."""

    task: str
    free: int
    """First frame after the previous task or miss."""
    approach: int
    """Frame at which the expert took over."""
    success: int
    """First frame in which the task is accomplished relative to ``approach``."""
    stop: int
    """One past a frame shortly after the success, in which it still holds."""
