"""The store as data sets of the LeRobot library, format v3.0 (``wam export --format lerobot``).

One data set per split, so that nobody trains on validation frames by accident. An episode is an
episode of play. Images are PNG inside the Parquet files, not video: nothing is lost, and any single
frame can be read.
"""

from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.calvin.listing import load_index
from pipeline.lerobot.data import FILE_MB, plan, write_files
from pipeline.lerobot.meta import CODEBASE_VERSION, write_meta
from pipeline.lerobot.split import LeRobotSplit
from pipeline.store.open import open_store
from wam.errors import WamError

STAGE = "export --format lerobot"


def export_lerobot(layout: Layout, output: Path) -> None:
    """Export ``layout.store`` to ``output``, one LeRobot data set per split.

    An interrupted export goes on with the first data file that is missing. Raises WamError if the
    store or the index is incomplete, or ``output`` holds anything but an earlier export.
    """
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        raise WamError('LeRobot data sets need pyarrow; run: pip install "wam[lerobot]"') from None
    index = load_index(layout.index)
    stores = {split: open_store(store_path(layout.store, split)) for split in SPLITS}
    manifests.check_replaceable(output, STAGE)

    def make(target: Build) -> None:
        target.manifest["splits"] = {}
        for split, store in stores.items():
            windows = index.splits[split].windows
            if windows is None:
                directory = index.splits[split].directory
                console.warn(f"{directory}: no language annotations; every frame is play")
            target.manifest["splits"][split] = _write(LeRobotSplit.of(store, windows or []), target)

    build(
        output,
        make,
        stage=STAGE,
        params={"codebase_version": CODEBASE_VERSION, "file_mb": FILE_MB},
        inputs={
            "index": manifests.fingerprint(layout.index, "index"),
            "store": manifests.fingerprint(layout.store, "convert", deep=False),
        },
    )
    splits = manifests.read_manifest(output, STAGE)["splits"]
    counts = ", ".join(
        f"{content['num_frames']:,} {split} frames" for split, content in splits.items()
    )
    console.done("export", f"{counts} as LeRobot data sets at {output}")


def _write(split: LeRobotSplit, target: Build) -> dict[str, Any]:
    """Write one data set; its entry in the manifest."""
    files = plan(split)
    images = write_files(split, files, target)
    write_meta(split, files, images, target.directory / split.store.split)
    return {
        "num_frames": split.store.num_frames,
        "num_episodes": len(split.store.episodes),
        "num_tasks": len(split.tasks),
        "num_files": len(files),
        "attributes": split.store.attrs,
    }
