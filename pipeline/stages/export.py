"""Stage ``export``: the store as WebDataset tars, or as LeRobot data sets."""

from pathlib import Path
from typing import Literal

from pipeline.artifacts.layout import Layout
from pipeline.lerobot.write import export_lerobot
from pipeline.params import Profile
from pipeline.webdataset.write import export_webdataset

Format = Literal["webdataset", "lerobot"]


def run(
    profile: Profile, layout: Layout, format: Format = "webdataset", output: Path | None = None
) -> None:
    """Export ``layout.store`` to ``output``, by default ``layout.shards`` or ``layout.lerobot``.

    Raises WamError if the store is incomplete, or ``output`` holds anything but an earlier export.
    """
    if format == "lerobot":
        export_lerobot(layout, output or layout.lerobot)
    else:
        export_webdataset(profile, layout.store, output or layout.shards)
