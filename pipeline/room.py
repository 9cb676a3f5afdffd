"""Memory for what runs side by side: a stage begins where there is room beside those that run."""

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import psutil

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.decoded import FRAME_BYTES
from pipeline.params import Profile, load_profile
from pipeline.params.study import Study, run_stages, study_run
from wam.errors import WamError

_STAGE_BYTES = 1_500_000_000
"""Python, PyTorch, models of ``small``'s size and batches, in one process and its workers."""
_KEEPING = ("train_world_model", "study")
"""The stages that keep decoded frames (``loader.cache: ram``)."""
_CGROUP = Path("/sys/fs/cgroup")


def stage_bytes(stage: str, profile: Profile, layout: Layout) -> int:
    """About as much memory as ``stage`` takes, as DVC calls it; of a store that is there."""
    kept = 0
    if stage.split("@")[0] in _KEEPING and profile.loader.cache == "ram":
        # What is wrong with a store its stage will say.
        with contextlib.suppress(WamError, OSError, LookupError, TypeError):
            metadata = manifests.read_json(store_path(layout.store, "training") / "zarr.json")
            share = profile.train_world_model.data_share
            kept = math.ceil(share * metadata["attributes"]["num_frames"])
    return _STAGE_BYTES + kept * FRAME_BYTES


def study_bytes(study: Study) -> Callable[[str], int]:
    """:func:`stage_bytes` by the stage alone, of a run by its own settings.

    Raises WamError as :func:`study_run`.
    """
    runs = {name: study_run(study, *which) for name, which in run_stages(study).items()}
    own = {name: (run.profile, run.layout) for name, run in runs.items()}
    base = load_profile(study.base), Layout.of(study.base)
    return lambda stage: stage_bytes(stage, *own.get(stage, base))


def free_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that is free on this machine, or in this container."""
    free = int(psutil.virtual_memory().available)
    # Without a limit, or where there are no such files, it is the machine's.
    with contextlib.suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        rows = (row.split() for row in (cgroup / "memory.stat").read_text().splitlines())
        free = min(free, limit - next(int(size) for name, size in rows if name == "anon"))
    return free


class Room:
    """The memory that was free when nothing of ours ran."""

    def __init__(self, free: Callable[[], int] = free_bytes) -> None:
        self._free = free
        self._changed = threading.Condition()
        self._taken: list[int] = []
        self._all = 0
        self._closed = False

    def fits(self, size: int, taken: Collection[int]) -> bool:
        """Whether there are ``size`` bytes beside those that others took: alone always."""
        if not taken:
            self._all = self._free()
        return not taken or sum(taken) + size <= self._all

    @contextlib.contextmanager
    def of(self, size: int, say: Callable[[str], None]) -> Iterator[None]:
        """Take so many bytes in a thread of its own, as soon as they fit beside other threads'.

        Raises WamError if the room is closed before.
        """

        def goes_on() -> bool:
            return self._closed or self.fits(size, self._taken)

        with self._changed:
            if not goes_on():
                say(waiting(size))
                self._changed.wait_for(goes_on)
            if self._closed:
                raise WamError("interrupted before it began")
            self._taken.append(size)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(size)
                self._changed.notify_all()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Open it; closed by what interrupts the block, so that nobody waits to begin."""
        self._closed = False
        try:
            yield
        except BaseException:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            raise


def waiting(size: int) -> str:
    """What is told of a stage that could begin and does not."""
    return f"waits until another stage has ended: no room beside it for {size / 1e9:.1f} GB"
