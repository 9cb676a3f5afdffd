"""Frames of the embedded simulator in CALVIN's own sizes, for the benchmarks of the data engine."""

import argparse
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts.layout import Layout
from pipeline.calvin.fields import CAMERAS, VECTORS
from pipeline.params import Profile, load_profile
from pipeline.stages import collect, convert, index
from turns import PARAMS

NEEDED = (*CAMERAS, *VECTORS)
"""What conversion takes from a frame."""
WINDOW, BATCH = 50, 8
"""What random windows are read in."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many frames, and where they are kept."""
    parser.add_argument("--frames", type=int, default=2000, help="training frames to record")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the recorded frames here and use them again"
    )


def record(root: Path, frames: int) -> Profile:
    """A profile whose raw frames and store lie below ``root``; they are made unless they are there.

    200x200 and 84x84 pixels, with depth.
    """
    base = load_profile("ci", PARAMS)
    settings = replace(
        base.collect,
        training_frames=frames,
        validation_frames=frames // 4,
        episode_frames=frames // 4,
        static_size=200,
        gripper_size=84,
        depth=True,
    )
    layout = Layout(root)
    collect.run(replace(base, collect=settings), layout)
    profile = replace(
        base,
        tasks=(),
        env=replace(base.env, differences="allow"),  # nobody acts in a world here
        collect=settings,
        raw=replace(base.raw, path=str(layout.raw)),
        convert=replace(base.convert, shard_frames=500),
    )
    index.run(profile, layout)
    convert.run(profile, layout, map)
    return profile


def raw_frames(layout: Layout) -> list[Path]:
    """The training frames in order."""
    return sorted((layout.raw / "training").glob("episode_*.npz"))


def size_of(directory: Path) -> int:
    """Bytes of all files below ``directory``."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
