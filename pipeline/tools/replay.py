"""``wam replay TRACE.npz``: how exactly the simulator repeats a recording of CALVIN's."""

import json
from pathlib import Path

from rich.table import Table

from pipeline.console import console
from wam.envs.simulator.quiet import quiet_import


def run(path: Path, assets: Path | None, *, as_json: bool) -> None:
    """Replay the trace in ``path`` in a fresh physics client and print the differences.

    Raises WamError for a missing or damaged trace, a missing asset or an unknown scene.
    """
    with quiet_import():
        from wam.envs import replay
    recorded = replay.load_trace(path)
    repeated = replay.replay(recorded, assets)
    gaps = {
        name: replay.difference(recorded, repeated, name) for name in ("robot_obs", "scene_obs")
    }
    if as_json:
        summary = {
            "scene": recorded.scene,
            "max_abs_robot_obs": float(gaps["robot_obs"].max()),
            "max_abs_scene_obs": float(gaps["scene_obs"].max()),
            "max_tcp_m": float(replay.tcp_distance(recorded, repeated).max()),
            "success_step": repeated.success_step,
            "recorded_success_step": recorded.success_step,
        }
        console.print(json.dumps(summary))
        return
    source = "CALVIN's assets" if assets else "the embedded scene"
    table = Table(
        title=f"{path.name}: {len(recorded.actions)} steps in scene {recorded.scene}, {source}",
        title_justify="left",
    )
    table.add_column("field")
    table.add_column("largest difference", justify="right")
    table.add_column("first differs at step", justify="right")
    for field, (name, places) in replay.FIELDS.items():
        gap = gaps[name][:, places].max(axis=1)
        first = next((str(step - 1) if step else "reset" for step in gap.nonzero()[0]), "never")
        table.add_row(field, f"{gap.max():.3g}", first)
    console.print(table)
    distance = replay.tcp_distance(recorded, repeated).max()
    console.print(f"largest distance of the TCP: {1000 * distance:.3g} mm")
    if recorded.task is not None:
        console.print(
            f"{recorded.task}: success at step {repeated.success_step}, "
            f"recorded at step {recorded.success_step}"
        )
