"""Memory for what runs side by side: a stage begins where there is room beside those that run."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator

import psutil

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.decoded import FRAME_BYTES
from pipeline.params import Profile

_STAGE_BYTES = 1_500_000_000
"""Python, PyTorch, models of ``small``'s size and batches, in one process and its workers."""
_KEEPING = ("train_world_model", "study")
"""The stages that keep decoded frames (``loader.cache: ram``)."""


def stage_bytes(stage: str, profile: Profile, layout: Layout) -> int:
    """About as much memory as ``stage`` takes, as DVC calls it; of a store that is there."""
    kept = 0
    metadata = store_path(layout.store, "training") / "zarr.json"
    if stage.startswith(_KEEPING) and profile.loader.cache == "ram" and metadata.is_file():
        kept = manifests.read_json(metadata)["attributes"]["num_frames"]
    return _STAGE_BYTES + kept * FRAME_BYTES


class Room:
    """The memory that was free when nothing of ours ran."""

    def __init__(self, free: Callable[[], int] | None = None) -> None:
        self._free = free or (lambda: int(psutil.virtual_memory().available))
        self._changed = threading.Condition()
        self._taken: list[int] = []
        self._all = 0

    def fits(self, size: int, taken: Collection[int]) -> bool:
        """Whether there are ``size`` bytes beside those that others took: alone always."""
        if not taken:
            self._all = self._free()
        return not taken or sum(taken) + size <= self._all

    @contextlib.contextmanager
    def of(self, size: int, say: Callable[[str], None]) -> Iterator[None]:
        """Take so many bytes in a thread of its own, as soon as they fit beside other threads'."""
        with self._changed:
            if not self.fits(size, self._taken):
                say(waiting(size))
                self._changed.wait_for(lambda: self.fits(size, self._taken))
            self._taken.append(size)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(size)
                self._changed.notify_all()


def waiting(size: int) -> str:
    """What is told of a stage that could begin and does not."""
    return f"waits until another stage has ended: no room beside it for {size / 1e9:.1f} GB"
