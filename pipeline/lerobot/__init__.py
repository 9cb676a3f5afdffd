"""The store as data sets of the LeRobot library, format v3.0 (``wam export --format lerobot``).

One data set per split, so that nobody trains on validation frames by accident. An episode is an
episode of play. Images are PNG inside the Parquet files, not video: nothing is lost, and any single
frame can be read.
"""

import shutil
from pathlib import Path
from typing import Any

from pipeline import artifacts, console, raw
from pipeline.index import load_index
from pipeline.layout import SPLITS, Layout
from pipeline.lerobot.data import FILE_MB, RECORDS, plan, write_files
from pipeline.lerobot.labels import label_frames
from pipeline.lerobot.meta import CODEBASE_VERSION, write_meta
from pipeline.lerobot.split import Split
from pipeline.store import open_store
from pipeline.store_group import store_path
from wam.errors import WamError

STAGE = "export --format lerobot"


def run(layout: Layout, output: Path) -> None:
    """Export ``layout.store`` to ``output``, one LeRobot data set per split.

    An interrupted run goes on with the first data file that is missing. Raises WamError if the
    store or the index is incomplete, the raw annotations that the index tells of are gone, or
    ``output`` holds anything but an earlier export.
    """
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        raise WamError('LeRobot data sets need pyarrow; run: pip install "wam[lerobot]"') from None
    index = load_index(layout.index)
    stores = {split: open_store(store_path(layout.store, split)) for split in SPLITS}
    artifacts.check_replaceable(output, STAGE)
    with artifacts.building(
        output,
        stage=STAGE,
        params={"codebase_version": CODEBASE_VERSION, "file_mb": FILE_MB},
        inputs={
            "index": artifacts.fingerprint(layout.index, "index"),
            "store": artifacts.fingerprint(layout.store, "convert"),
        },
    ) as (partial, manifest):
        manifest["splits"] = {}
        for split, store in stores.items():
            directory = Path(index.splits[split].directory)
            annotations = []
            if index.splits[split].annotations is None:
                console.warn(f"{directory}: no language annotations; every frame is play")
            else:
                annotations = raw.read_annotations(directory)
            labels = label_frames(store, annotations)
            manifest["splits"][split] = _write(Split(store, labels), partial / split)
        for split in stores:
            shutil.rmtree(partial / split / RECORDS)
    counts = ", ".join(
        f"{content['num_frames']:,} {split} frames" for split, content in manifest["splits"].items()
    )
    console.done("export", f"{counts} as LeRobot data sets at {output}")


def _write(split: Split, directory: Path) -> dict[str, Any]:
    """Write one data set; its entry in the manifest."""
    files = plan(split)
    write_meta(split, files, write_files(split, files, directory), directory)
    return {
        "num_frames": split.store.num_frames,
        "num_episodes": len(split.store.episodes),
        "num_tasks": len(split.labels.tasks),
        "num_files": len(files),
        "attributes": split.store.attrs,
    }
