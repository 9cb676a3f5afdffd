"""How a setting changes in the course of a training."""

import math


def cosine(start: float, end: float, done: float) -> float:
    """The value between ``start`` and ``end`` when the share ``done`` in [0, 1] is over."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
