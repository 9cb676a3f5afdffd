"""``wam inspect PATH``: what an artifact holds, as a table."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline import artifacts, index, raw
from pipeline.console import console
from pipeline.extract import DEMOS_FILE, load_demos
from pipeline.layout import SPLITS
from pipeline.schema import EPISODES, STORE_ARRAYS
from pipeline.store import open_store
from wam.errors import WamError

Rows = list[tuple[str, Any]]

_MODEL, _CONFIG = "model.safetensors", "config.json"


def run(path: Path) -> None:
    """Print what ``path`` holds. Raises WamError if it is absent, unknown or damaged."""
    title, rows = describe(path)
    table = Table(title=f"{title}  {path}", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, _text(value))
    console.print(table)


def describe(path: Path) -> tuple[str, Rows]:
    """Kind of the artifact at ``path`` and what there is to say about it."""
    if not path.exists():
        raise WamError(f"{path}: not found")
    for title, matches, rows in _KINDS:
        if matches(path):
            return title, rows(path)
    raise WamError(
        f"{path}: not an artifact of wam; expected CALVIN frames, an index, a store or .zarr, "
        "shards, demos, a directory with config.json and model.safetensors, or a summary.json"
    )


def _describe_raw(path: Path) -> Rows:
    rows: Rows = []
    for split in SPLITS:
        if (path / split).is_dir():
            rows += _describe_split(path / split, f"{split} ")
    return rows


def _describe_split(path: Path, prefix: str = "") -> Rows:
    found = index.index_split(path, path.name, "size", skip_episodes=True)
    first = raw.frame_path(path, found.episodes[0][0], found.digits)
    arrays = raw.describe_frame(first)
    return [
        (f"{prefix}frames", f"{found.num_frames:,} in {len(found.episodes)} episodes"),
        *((f"{prefix}{key}", f"{a['dtype']} {tuple(a['shape'])}") for key, a in arrays.items()),
        (f"{prefix}scene, renderer", f"{found.scene}, {found.renderer}"),
        (f"{prefix}annotations", found.annotations),
        (f"{prefix}stray frames", found.num_stray),
        (f"{prefix}incomplete episodes", len(found.findings)),
    ]


def _describe_index(path: Path) -> Rows:
    found = index.load_index(path)
    rows: Rows = [("raw", found.raw), ("verify", found.verify)]
    for name, split in found.splits.items():
        rows += [
            (f"{name} frames", f"{split.num_frames:,} in {len(split.episodes)} episodes"),
            (f"{name} images", {key: str(value) for key, value in split.image_shapes.items()}),
            (f"{name} scene, renderer", f"{split.scene}, {split.renderer}"),
            (f"{name} annotations", split.annotations),
            (f"{name} stray frames", split.num_stray),
            (f"{name} dropped episodes", len(split.findings)),
            (f"{name} digest", split.digest),
        ]
    return rows


def _describe_store(path: Path) -> Rows:
    manifest = artifacts.read_manifest(path, "convert")
    rows: Rows = [
        ("source", manifest["source"]),
        ("source digest", manifest["source_digest"]),
        ("parameters", manifest["params"]),
        ("versions", manifest["versions"]),
    ]
    for split in manifest["splits"]:
        rows += [(f"{split} {name}", text) for name, text in _describe_zarr(path / f"{split}.zarr")]
    return rows


def _describe_zarr(path: Path) -> Rows:
    store = open_store(path)
    rows: Rows = [
        ("frames", f"{store.num_frames:,} in {len(store.episodes)} episodes"),
        ("scene, renderer", f"{store.attrs['scene']}, {store.attrs['renderer']}"),
    ]
    for name in (*STORE_ARRAYS, EPISODES):
        array = store.array(name)
        stored = sum(file.stat().st_size for file in (path / name).iterdir())
        ratio = stored / max(array.nbytes, 1)
        rows.append(
            (name, f"{array.dtype} {array.shape}, {stored / 1e6:.2f} MB, {ratio:.0%} of raw")
        )
    return rows


def _describe_shards(path: Path) -> Rows:
    manifest = artifacts.read_manifest(path, "export")
    rows: Rows = [("parameters", manifest["params"])]
    for split, content in manifest["splits"].items():
        stored = sum((path / split / tar["name"]).stat().st_size for tar in content["tars"])
        rows.append(
            (
                split,
                f"{content['num_frames']:,} frames in {content['num_sequences']:,} sequences, "
                f"{len(content['tars'])} tars, {stored / 1e6:.2f} MB",
            )
        )
    return rows


def _describe_demos(path: Path) -> Rows:
    demos = load_demos(path if path.is_dir() else path.parent)
    rows: Rows = [("digest", demos.digest)]
    for task, found in demos.tasks.items():
        lengths = [demo.stop - demo.start for demo in found.training]
        rows.append(
            (
                task,
                f"{len(found.training)} training ({min(lengths)} to {max(lengths)} frames), "
                f"{len(found.validation)} validation, {len(found.starts)} starts, "
                f"{len(found.imagination_starts)} imagination starts",
            )
        )
    return rows


def _describe_model(path: Path) -> Rows:
    shapes = _tensor_shapes(path / _MODEL)
    num_parameters = sum(math.prod(shape) for shape in shapes.values())
    config = artifacts.read_json(path / _CONFIG)
    rows: Rows = [("parameters", f"{num_parameters:,} in {len(shapes)} tensors")]
    if isinstance(config, dict):
        rows += sorted((str(key), value) for key, value in config.items())
    return rows


def _describe_results(path: Path) -> Rows:
    content = artifacts.read_json(path if path.is_file() else path / "summary.json")
    if isinstance(content, dict):
        return list(content.items())
    return [
        (
            " ".join(str(row.get(key, "-")) for key in ("variant", "task", "stage", "seed")),
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
                if key not in ("variant", "task", "stage", "seed")
            ),
        )
        for row in content
    ]


def _describe_stage(path: Path) -> Rows:
    manifest = artifacts.read_json(path / artifacts.MANIFEST)
    parts = sorted(item.name for item in path.iterdir() if item.name != artifacts.MANIFEST)
    return [*manifest.items(), ("contains", ", ".join(parts))]


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes from the header of a safetensors file, without loading a tensor."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    except FileNotFoundError:
        raise WamError(f"{path}: not found; the model is incomplete") from None
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise WamError(f"{path}: not a valid safetensors file ({error})") from None


def _made_by(stage: str) -> Callable[[Path], bool]:
    def matches(path: Path) -> bool:
        manifest = path / artifacts.MANIFEST
        return manifest.is_file() and artifacts.read_json(manifest).get("stage") == stage

    return matches


_KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Rows]], ...] = (
    ("index", _made_by("index"), _describe_index),
    ("store", _made_by("convert"), _describe_store),
    ("split of a store", lambda path: path.suffix == ".zarr", _describe_zarr),
    ("WebDataset shards", _made_by("export"), _describe_shards),
    ("demonstrations", _made_by("extract"), _describe_demos),
    ("demonstrations", lambda path: path.name == DEMOS_FILE, _describe_demos),
    ("model", lambda path: (path / _CONFIG).is_file(), _describe_model),
    ("results", lambda path: path.name == "summary.json", _describe_results),
    ("results", lambda path: (path / "summary.json").is_file(), _describe_results),
    ("stage output", lambda path: (path / artifacts.MANIFEST).is_file(), _describe_stage),
    (
        "CALVIN frames",
        lambda path: any((path / split / raw.EPISODE_TABLE).is_file() for split in SPLITS),
        _describe_raw,
    ),
    ("CALVIN split", lambda path: (path / raw.EPISODE_TABLE).is_file(), _describe_split),
)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "-" if value is None else str(value)
