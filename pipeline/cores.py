"""On how many cores this process may run."""

import os


def available_cores() -> int:
    """Those that the system leaves to it, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
