"""What a look at a few frames tells before all of them are read, hours later."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.calvin import metadata, on_disk
from pipeline.calvin.conformance.scenes import contradicted
from pipeline.calvin.fields import VECTORS
from pipeline.calvin.frame_checks import check_frame
from pipeline.calvin.npz import Kind
from pipeline.calvin.stretches import Stretch
from wam.errors import WamError

_LOOKS = 200
_ODD, _FEW = 0.05, 40
"""Share of impossible states beyond which a scene is the wrong one, of at least so many: Bullet
lets bodies overlap now and then, and the look is short."""


def look(
    directory: Path,
    episodes: Sequence[Stretch],
    scenes: Sequence[str | None],
    kinds: Mapping[str, Kind],
    digits: int,
    cameras: Sequence[str],
    *,
    skip_invalid: bool,
) -> None:
    """Check some frames of the ``episodes``, spread evenly over them, and the scenes' names.

    Raises WamError as the conversion would for an invalid frame, unless such are skipped, and for a
    scene in which the states of its frames cannot occur.
    """
    lengths = np.array([stop - start for start, stop in episodes])
    stops = lengths.cumsum()
    rows = np.unique(np.linspace(0, stops[-1] - 1, _LOOKS).astype(np.int64))
    places = np.searchsorted(stops, rows, side="right")
    states: dict[str, list[np.ndarray]] = defaultdict(list)
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        frame_id = episodes[place][0] + row - int(stops[place] - lengths[place])
        path = on_disk.frame_path(directory, frame_id, digits)
        try:
            frame = check_frame(path, kinds, (*cameras, *VECTORS))
        except WamError:
            if not skip_invalid:
                raise
            continue
        scene = scenes[place]
        if scene is not None:
            states[scene].append(frame["scene_obs"])
    for scene, seen in states.items():
        if len(seen) >= _FEW and (problem := contradicted(np.stack(seen), scene, _ODD)):
            found, expected = problem
            raise WamError(
                f"{directory}: {metadata.SCENE_INFO} or {metadata.RECORDING} names {found}; "
                f"expected {expected}. Correct the file: convert.scenes and the evaluation go by it"
            )
