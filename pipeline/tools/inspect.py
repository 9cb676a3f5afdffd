"""``wam inspect PATH``: what an artifact holds, as a table, and what is wrong with it."""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from safetensors import SafetensorError, safe_open

from pipeline.artifacts import manifests
from pipeline.artifacts.provenance import commit_of
from pipeline.artifacts.verify import verify as verify_artifact
from pipeline.calvin import conformance, listing, on_disk
from pipeline.calvin.finding import SEVERITIES, Finding
from pipeline.console import console, done, titled
from pipeline.latents.demonstrations import DEMOS_FILE, load_demos
from pipeline.lerobot import write as lerobot
from pipeline.store.arrays import EPISODES
from pipeline.store.open import open_store, verify_store
from wam.errors import WamError

Rows = Iterator[tuple[str, Any]]

_MODEL, _CONFIG = "model.safetensors", "config.json"
_RAW = "CALVIN frames"
_COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}


@dataclass(frozen=True)
class Description:
    """What there is to say about an artifact."""

    kind: str
    facts: dict[str, Any]
    """Of every split by its name where there are splits of raw frames; else by what they say."""
    findings: list[Finding] = field(default_factory=list)
    """Where raw frames differ from CALVIN's format, or files from their checksums."""

    @property
    def is_usable(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


def run(path: Path, frames: int | None, *, as_json: bool, verify: bool = False) -> bool:
    """Print what ``path`` holds; whether it is free of errors.

    ``frames`` is how many raw frames per split are looked at, None for all; ``verify`` recomputes
    the checksums of an artifact. Raises WamError if the path is absent or unknown, or an artifact
    of ours is damaged and not verified.
    """
    # Standard output is for the JSON alone: the progress bar goes elsewhere.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        description = describe(path, frames, verify=verify)
    if as_json:
        content = {"path": str(path), **asdict(description)}
        console.print(json.dumps(content, default=str))
        return description.is_usable
    is_raw = description.kind == _RAW
    table = Table(title=f"{description.kind}  {path}", title_justify="left", show_header=is_raw)
    table.add_column(style="bold", no_wrap=True)
    if is_raw:
        _fill_by_split(table, description.facts)
    else:
        table.add_column(overflow="fold")
        for name, value in description.facts.items():
            table.add_row(name, _text(value))
    console.print(table)
    if is_raw or verify:
        _print_findings(description.findings)
    return description.is_usable


def describe(
    path: Path, frames: int | None = conformance.SAMPLE, *, verify: bool = False
) -> Description:
    """Kind of the artifact at ``path``, its facts and all findings.

    Raw frames are always checked, files of an artifact on ``verify`` only.
    """
    if not path.exists():
        raise WamError(f"{path}: not found")
    if verify:
        facts, findings = _verify(path)
        if findings:
            return Description("damaged artifact", facts, findings)
    else:
        facts = {}
    for kind, matches, rows in _KINDS:
        if matches(path):
            made = _made(path)  # first, as it finds damage of which rows know nothing
            return Description(kind, dict(rows(path)) | made | facts)
    if conformance.find_splits(path):
        survey = conformance.read_survey(path, frames)
        return Description(_RAW, conformance.describe(survey), conformance.judge(survey))
    raise WamError(
        f"{path}: not an artifact of wam; expected CALVIN frames or one of them, a profile's "
        "directory, what a stage left there (index, store or .zarr, shards, demos, models, "
        "results), a .safetensors or .json file"
    )


def _verify(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What the checksums say of the artifact that ``path`` is, or is a part of."""
    is_split = path.suffix == ".zarr"
    root = path.parent if is_split or path.is_file() else path
    is_store = is_split or _made_by("convert")(path)
    verdict = verify_store(path) if is_store else verify_artifact(root)
    stage = manifests.read_json(root / manifests.MANIFEST)["stage"]
    findings = [
        Finding(
            check="checksum",
            severity="error",
            file=damage.file,
            found=damage.problem,
            expected="what its stage wrote",
            advice=f"Run stage {stage} again.",
        )
        for damage in verdict.damages
    ]
    num_intact = verdict.num_files - len(findings)
    text = f"{num_intact:,} of {verdict.num_files:,} files, {verdict.num_bytes / 1e6:,.2f} MB"
    return {"intact": text}, findings


def _fill_by_split(table: Table, facts: dict[str, dict[str, Any]]) -> None:
    """A column per split of raw frames."""
    for split in facts:
        table.add_column(split, overflow="fold")
    for name in next(iter(facts.values())):
        if name != "arrays":
            values = (_text(fact[name]) for fact in facts.values())
            table.add_row(name.replace("_", " "), *values)
    for key in dict.fromkeys(key for fact in facts.values() for key in fact["arrays"]):
        table.add_row(key, *(_text(fact["arrays"].get(key)) for fact in facts.values()))


def _print_findings(findings: list[Finding]) -> None:
    for severity in SEVERITIES:
        chosen = [finding for finding in findings if finding.severity == severity]
        if chosen:
            titled(f"{severity}s ({len(chosen)})", style=f"bold {_COLOURS[severity]}")
        for finding in chosen:
            titled(f"  {finding.check}", str(finding))
    if all(finding.severity == "note" for finding in findings):
        done("inspect", "no error and no warning")


def _index(path: Path) -> Rows:
    found = listing.load_index(path)
    yield "raw", found.raw
    yield "verify", found.verify
    for name, split in found.splits.items():
        yield f"{name} frames", f"{split.num_frames:,} in {len(split.episodes)} episodes"
        yield f"{name} images", {key: str(value) for key, value in split.image_shapes.items()}
        yield f"{name} scene, renderer", f"{split.scene}, {split.renderer}"
        yield f"{name} annotations", split.annotations
        yield f"{name} stray frames", split.num_stray
        yield f"{name} damaged episodes", len(split.damaged)
        yield f"{name} digest", split.digest


def _store(path: Path) -> Rows:
    manifest = manifests.read_manifest(path, "convert")
    yield "source", manifest["source"]
    yield "source digest", manifest["source_digest"]
    yield "parameters", manifest["params"]
    yield "versions", manifest["versions"]
    for split in manifest["splits"]:
        for name, text in _zarr(path / f"{split}.zarr"):
            yield f"{split} {name}", text


def _zarr(path: Path) -> Rows:
    store = open_store(path)
    yield "frames", f"{store.num_frames:,} in {len(store.episodes)} episodes"
    yield "scene, renderer", f"{store.attrs['scene']}, {store.attrs['renderer']}"
    for name in (*store.arrays, EPISODES):
        array = store.reader(name)
        stored = sum(file.stat().st_size for file in (path / name).iterdir())
        ratio = stored / max(math.prod(array.shape) * array.dtype.itemsize, 1)
        yield name, f"{array.dtype} {array.shape}, {stored / 1e6:.2f} MB, {ratio:.0%} of raw"


def _shards(path: Path) -> Rows:
    manifest = manifests.read_manifest(path, "export")
    yield "parameters", manifest["params"]
    for split, content in manifest["splits"].items():
        yield (
            split,
            f"{content['num_frames']:,} frames in {content['num_sequences']:,} sequences, "
            f"{len(content['tars'])} tars, {_size(path, manifest, split)}",
        )


def _lerobot(path: Path) -> Rows:
    manifest = manifests.read_manifest(path, lerobot.STAGE)
    yield "format", f"LeRobotDataset {manifest['params']['codebase_version']}"
    for split, content in manifest["splits"].items():
        yield (
            split,
            f"{content['num_frames']:,} frames in {content['num_episodes']:,} episodes, "
            f"{content['num_tasks']:,} tasks, {content['num_files']} data files, "
            f"{_size(path, manifest, split)}",
        )


def _size(path: Path, manifest: dict[str, Any], folder: str) -> str:
    names = (name for name in manifest["files"] if name.startswith(f"{folder}/"))
    return f"{sum((path / name).stat().st_size for name in names) / 1e6:.2f} MB"


def _demos(path: Path) -> Rows:
    demos = load_demos(path if path.is_dir() else path.parent)
    yield "digest", demos.digest
    for task, found in demos.tasks.items():
        lengths = [demo.stop - demo.start for demo in found.training]
        yield (
            task,
            f"{len(found.training)} training ({min(lengths)} to {max(lengths)} frames), "
            f"{len(found.validation)} validation, {len(found.starts)} starts, "
            f"{len(found.imagination_starts)} imagination starts",
        )


def _model(path: Path) -> Rows:
    shapes = _tensor_shapes(path / _MODEL)
    num_parameters = sum(math.prod(shape) for shape in shapes.values())
    yield "parameters", f"{num_parameters:,} in {len(shapes)} tensors"
    config = manifests.read_json(path / _CONFIG)
    if isinstance(config, dict):
        yield from sorted(config.items())


def _results(path: Path) -> Rows:
    file = path if path.is_file() else path / manifests.SUMMARY
    content = manifests.read_json(file)
    if not (isinstance(content, list) and all(isinstance(row, dict) for row in content)):
        yield from _json(file)
        return
    of = ("variant", "task", "stage", "seed")
    for row in content:
        yield (
            " ".join(str(row.get(key, "-")) for key in of),
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
                if key not in of
            ),
        )


def _profile(path: Path) -> Rows:
    """Every artifact in the order in which they were made."""
    for artifact in manifests.artifacts_below(path):
        manifest = manifests.verified_manifest(artifact)
        size = sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6
        text = f"{manifest['stage']}, {_origin(artifact, manifest)}, {size:.2f} MB"
        yield str(artifact.relative_to(path)), text
    for partial in sorted(at for place in manifests.PLACES for at in path.glob(f"{place}.partial")):
        yield str(partial.relative_to(path)), "begun, and to be gone on with"


def _frame(path: Path) -> Rows:
    """Kind and range of every array of a frame."""
    _, kinds = on_disk.examine_frame(path, ())
    for name, values in on_disk.read_frame(path, kinds).items():
        text = f"{values.dtype} {values.shape}"
        if values.size and values.dtype.kind in "biuf":
            low, high = (float(edge) for edge in (values.min(), values.max()))
            text += f", {low:g} to {high:g}"
            if values.ndim == 1:
                text += f": {[round(float(value), 4) for value in values]}"
        yield name, text


def _tensors(path: Path) -> Rows:
    shapes = _tensor_shapes(path)
    total = sum(math.prod(shape) for shape in shapes.values())
    yield "numbers", f"{total:,} in {len(shapes)} tensors, {path.stat().st_size / 1e6:.2f} MB"
    yield from shapes.items()


def _json(path: Path) -> Rows:
    content = manifests.read_json(path)
    yield from content.items() if isinstance(content, dict) else [("entries", content)]


def _made(path: Path) -> dict[str, Any]:
    """By which code, when and from what; of the artifact that ``path`` is, or is a part of."""
    for directory in (path, *path.parents[:3]):
        if manifests.stage_of(directory):
            manifest = manifests.verified_manifest(directory)
            return {
                "made by": manifest["provenance"]["command"],
                "made": _origin(directory, manifest),
                "made from": manifest["inputs"],
            }
    return {}


def _origin(artifact: Path, manifest: dict[str, Any]) -> str:
    """Commit and date."""
    when = datetime.fromtimestamp((artifact / manifests.MANIFEST).stat().st_mtime, UTC)
    return f"{commit_of(manifest['provenance'])}, {when:%Y-%m-%d %H:%M} UTC"


def _stage(path: Path) -> Rows:
    yield from manifests.read_json(path / manifests.MANIFEST).items()
    parts = sorted(item.name for item in path.iterdir() if item.name != manifests.MANIFEST)
    yield "contains", ", ".join(parts)


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes from the header of a safetensors file, without loading a tensor."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}
    except FileNotFoundError:
        raise WamError(f"{path}: not found; the model is incomplete") from None
    except SafetensorError as error:
        raise WamError(f"{path}: not a valid safetensors file ({error})") from None


def _has(name: str) -> Callable[[Path], bool]:
    return lambda path: (path / name).is_file()


def _made_by(stage: str) -> Callable[[Path], bool]:
    return lambda path: manifests.stage_of(path) == stage


_KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Rows]], ...] = (
    ("index", _made_by("index"), _index),
    ("store", _made_by("convert"), _store),
    ("split of a store", lambda path: path.suffix == ".zarr", _zarr),
    ("WebDataset shards", _made_by("export"), _shards),
    ("LeRobot data sets", _made_by(lerobot.STAGE), _lerobot),
    ("demonstrations", _made_by("extract"), _demos),
    ("demonstrations", lambda path: path.name == DEMOS_FILE, _demos),
    ("model", _has(_CONFIG), _model),
    ("results", lambda path: path.name == manifests.SUMMARY, _results),
    ("results", _has(manifests.SUMMARY), _results),
    ("stage output", lambda path: manifests.stage_of(path) is not None, _stage),
    ("frame", lambda path: path.suffix == ".npz", _frame),
    ("tensors", lambda path: path.suffix == ".safetensors", _tensors),
    ("facts", lambda path: path.is_file() and path.suffix == ".json", _json),
    ("profile", lambda path: path.is_dir() and bool(manifests.artifacts_below(path)), _profile),
)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key} {_text(item)}" for key, item in value.items()]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
