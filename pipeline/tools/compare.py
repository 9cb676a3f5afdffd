"""``wam compare A B``: what differs between two artifacts, runs or profiles, and why."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline import console
from pipeline.artifacts.identity import flat
from pipeline.artifacts.manifests import (
    MANIFEST,
    SUMMARY,
    artifacts_below,
    content_digest,
    read_json,
)
from pipeline.params import load_profile
from wam.errors import WamError

_METRICS = "metrics.json"
_OF_THE_MACHINE = ("seconds", "_per_s", "peak_")
"""Parts of the names of figures that tell how it was made, not what."""
Change = tuple[Any, Any]


@dataclass(frozen=True)
class Pair:
    """An artifact that both sides have."""

    same_content: bool
    settings: dict[str, Change]
    """That differ, by their names with dots"""
    inputs: list[str]
    """Those whose content differs"""
    code: Change | None
    """Commits, where the code differs"""
    versions: dict[str, Change]
    figures: dict[str, Change]

    @property
    def causes(self) -> list[str]:
        """What can explain that the contents differ, in a word each."""
        named = {"settings": self.settings, "inputs": self.inputs, "code": self.code}
        return [name for name, found in {**named, "versions": self.versions}.items() if found]


def run(first: Path | str, second: Path | str, *, as_json: bool) -> None:
    """Print what differs between two directories, or two profiles by their names.

    Raises WamError where one is neither a profile of ``params.yaml`` nor a directory with
    artifacts, or both have none in common.
    """
    if isinstance(first, str) and isinstance(second, str):
        settings = _changes(*(dict(flat(asdict(load_profile(name)))) for name in (first, second)))
        if as_json:
            console.console.print(json.dumps({"settings": settings}, default=str))
            return
        _show(f"settings of {first} and {second}", settings, first, second)
        return
    sides = [_artifacts(Path(side)) for side in (first, second)]
    first, second = str(first), str(second)
    common = [name for name in sides[0] if name in sides[1]]
    if not common:
        raise WamError(f"{first} and {second} have no artifact in common to compare")
    pairs = {name: _pair(*(side[name] for side in sides)) for name in common}
    alone = [sorted(side.keys() - set(common)) for side in sides]
    if as_json:
        content = {
            "artifacts": {name: {**asdict(p), "causes": p.causes} for name, p in pairs.items()},
            "only_first": alone[0],
            "only_second": alone[1],
        }
        console.console.print(json.dumps(content, default=str))
        return
    _print(pairs, alone, first, second)


def _artifacts(root: Path) -> dict[str, Path]:
    """The artifacts below ``root``, which may be one itself, by their place: oldest first."""
    found = artifacts_below(root)
    if not found:
        raise WamError(
            f"{root}: no artifact; expected a directory that a stage left, one with several "
            "(data/demo, data/study/runs/wam/0), or two profiles of params.yaml"
        )
    return {str(path.relative_to(root)): path for path in found}


def _pair(first: Path, second: Path) -> Pair:
    manifests = [read_json(path / MANIFEST, dict) for path in (first, second)]
    params, inputs, versions, made = (
        [manifest.get(key) or {} for manifest in manifests]
        for key in ("params", "inputs", "versions", "provenance")
    )
    code = None
    if made[0].get("code") != made[1].get("code"):
        code = made[0].get("commit"), made[1].get("commit")
    return Pair(
        same_content=content_digest(manifests[0]) == content_digest(manifests[1]),
        settings=_changes(*(dict(flat(side)) for side in params)),
        inputs=list(_changes(*inputs)),
        code=code,
        versions=_changes(*versions),
        figures=_figures(first, second),
    )


def _figures(first: Path, second: Path) -> dict[str, Change]:
    """Numbers that both sides have and that differ; those of the headline where there are any."""
    for name in (_METRICS, SUMMARY):
        paths = [path / name for path in (first, second)]
        if all(path.is_file() for path in paths):
            contents = [read_json(path) for path in paths]
            if not all(isinstance(content, dict) for content in contents):
                continue
            sides = [
                {
                    key: value
                    for key, value in flat(content)
                    if isinstance(value, int | float)
                    and not any(part in key for part in _OF_THE_MACHINE)
                }
                for content in contents
            ]
            changed = _changes(*sides)
            return {key: pair for key, pair in changed.items() if None not in pair}
    return {}


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Change]:
    return {
        name: (first.get(name), second.get(name))
        for name in {**first, **second}
        if first.get(name) != second.get(name)
    }


def _print(pairs: Mapping[str, Pair], alone: list[list[str]], first: str, second: str) -> None:
    for name, pair in pairs.items():
        if pair.settings:
            _show(f"settings of {name}", pair.settings, first, second)
        if pair.figures:
            _show(f"figures of {name}", pair.figures, first, second, difference=True)
    equal = [name for name, pair in pairs.items() if pair.same_content]
    if equal:
        console.titled("equal", ", ".join(equal))
    begins: list[str] = []
    known: set[str] = set()
    for name, pair in pairs.items():
        if pair.same_content:
            continue
        causes = pair.causes or ["nothing that is recorded"]
        console.titled("differs", f"{name}: {', '.join(causes)}")
        # The report's settings are those of all stages, each of which is told where it comes first.
        own = {setting.split(".")[-1] for setting in pair.settings}
        if not begins or not own <= known:
            begins.append(f"{name} ({', '.join(causes)})")
        known |= own
    for side, names in zip((first, second), alone, strict=True):
        if names:
            console.titled(f"only {side}", ", ".join(names))
    commits = next((pair.code for pair in pairs.values() if pair.code), None)
    if commits:
        console.note(f"code: {' and '.join((commit or 'no commit')[:10] for commit in commits)}")
    if begins:
        console.done("compare", f"what differs begins at {'; '.join(begins)}")
    else:
        console.done("compare", "equal contents")


def _show(title: str, changes: Mapping[str, Change], *sides: str, difference: bool = False) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("", style="bold", overflow="fold")
    for side in (*sides, *(("difference",) if difference else ())):
        table.add_column(side, justify="right", overflow="fold")
    for name, (first, second) in changes.items():
        row = [_text(first), _text(second)]
        table.add_row(name, *row, *((f"{second - first:+.4g}",) if difference else ()))
    console.console.print(table)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)
