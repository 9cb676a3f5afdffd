"""Stage ``report``: the results of a profile as tables, and as one page to look at."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import read_manifest, write_json
from pipeline.evaluation.origin import mismatch
from pipeline.evaluation.statistics import Estimate
from pipeline.params import Profile
from pipeline.report import facts, figures, sections, world_model
from pipeline.report.results import (
    NAMES,
    Policy,
    Results,
    merge,
    percent,
    points,
    trained_apart,
)
from pipeline.report.sources import manifest
from wam.config import CHUNK, VARIANTS

PAGE = "index.html"
_HERE = Path(__file__).parent

_EMBEDDED = (
    "These numbers come from the embedded simulator and its own scripted play, not from CALVIN's "
    "data and simulator: compare them with each other, not with published CALVIN results."
)
_MIXED = (
    "The data is not this simulator's own, but policies were evaluated in the embedded simulator "
    "with its own assets: these are not CALVIN results."
)

_UPPER_BOUND = (
    "policies were fine-tuned in the simulator with the task oracle's reward, as an upper bound "
    "(finetune.environment): these are not results of PPO in imagination."
)


def run(profile: Profile, layout: Layout) -> None:
    """Write ``layout.results`` (summary, tables) and ``layout.report`` (the page), print the table.

    What has not been computed is shown as such. Raises WamError if nothing was evaluated at all.
    """
    directories = [layout.evaluation(name) for name in facts.evaluations()]
    if not any(manifest(directory) for directory in directories):
        read_manifest(directories[0], "evaluate")
    inputs = facts.fingerprints(layout)  # which compares all files with their digests
    results = merge(directories, profile.tasks, VARIANTS)
    params = dataclasses.asdict(profile)
    selection = sections.selection(layout, VARIANTS, profile.tasks)
    notes = [*_notes(results), *([selection] if selection else [])]

    def make_results(target: Build) -> None:
        path = target.directory
        write_json(path / "summary.json", results.rows)
        write_json(path / "metrics.json", _metrics(results))
        if (evaluated := world_model.result(layout)) is not None:
            write_json(path / world_model.RESULT_FILE, evaluated)
        (path / "table.md").write_text(_markdown(results, notes))
        (path / "table.txt").write_text(_plain(results, notes))

    def make_page(target: Build) -> None:
        (target.directory / PAGE).write_text(render(profile, layout, results))

    build(layout.results, make_results, stage="results", params=params, inputs=inputs)
    build(layout.report, make_page, stage="report", params=params, inputs=inputs)
    console.console.print((layout.results / "table.txt").read_text(), end="")
    console.done("report", str(layout.report / PAGE))


def render(profile: Profile, layout: Layout, results: Results) -> str:
    """The page as HTML: one file without network addresses or scripts."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Markup((_HERE / "style.css").read_text())
    template = environment.get_template("index.html.jinja")
    return template.render(page=_page(profile, layout, results), css=css)


def _page(profile: Profile, layout: Layout, results: Results) -> dict[str, Any]:
    variants, tasks, seeds = VARIANTS, profile.tasks, profile.finetune.seeds
    name = layout.root.name
    found = facts.stores(layout)
    evaluated = world_model.result(layout)
    charts = {
        "success": figures.success_bars(results) if results.cells else None,
        "world_model": sections.world_model_curves(layout, variants),
        "open_loop": world_model.curves(layout),
        "cloning": sections.cloning(layout, variants, tasks),
        "finetuning": sections.finetuning(layout, variants, tasks, seeds),
        "imagined": sections.imagined_against_simulated(results),
    }
    return {
        "profile": name,
        "tags": _tags(profile, results),
        "notices": _notices(profile, layout, found),
        "ppo_in_simulator": bool(facts.tuned_in_simulator(layout)),
        "tiles": _tiles(results),
        "max_steps": profile.evaluate.max_steps,
        "chunk": CHUNK,
        "policies": [{"label": p.label, "colour": figures.colour(p)} for p in results.policies],
        "rows": _rows(results),
        "intervals": _about_intervals(results),
        "selection": sections.selection(layout, variants, tasks),
        "differences": _differences(results),
        "figures": {key: Markup(svg) if svg else None for key, svg in charts.items()},
        "clips": sections.clips(layout, variants, tasks),
        "validation": sections.validation(layout, variants),
        "films": sections.films(layout, variants),
        "rewards": sections.rewards(layout, variants, tasks),
        "links": sections.links(results),
        "quality": world_model.quality(evaluated),
        "not_computed": world_model.not_computed(evaluated),
        "probes": world_model.probes(evaluated),
        "scene_probes": world_model.scene_probes(evaluated),
        "open_loop": evaluated,
        "data": facts.data(layout, found),
        "demos": facts.demos(layout, tasks),
        "provenance": facts.provenance(profile, name, layout, found),
        "artifacts": facts.artifacts(layout),
        "settings": yaml.safe_dump(_plain_values(dataclasses.asdict(profile)), sort_keys=False),
    }


def _tags(profile: Profile, results: Results) -> list[tuple[str, str]]:
    episodes = sum(row["episodes"] for row in results.rows)
    seeds = len(profile.finetune.seeds)
    return [
        ("tasks", str(len(profile.tasks))),
        ("simulated episodes", f"{episodes:,}"),
        ("PPO seeds", str(seeds)),
        ("world-model updates", f"{profile.train_world_model.updates:,}"),
        ("simulator", _simulator(profile)),
    ]


def _notices(profile: Profile, layout: Layout, found: dict[str, Any]) -> list[str]:
    notices = []
    if profile.env.scene_source == "embedded":
        notices.append(_EMBEDDED if profile.raw.path is None else _MIXED)
    if simulated := facts.tuned_in_simulator(layout):
        names = " and ".join(NAMES[variant] for variant in simulated)
        notices.append(f"{names}: {_UPPER_BOUND}")
    if apart := trained_apart({v: manifest(layout.world_model(v)) for v in VARIANTS}):
        notices.append(apart)
    used = [entry for variant in VARIANTS if (entry := manifest(layout.evaluation(variant)))]
    differences = [mismatch(store.attrs, entry) for store in found.values() for entry in used]
    return notices + [
        f"{text[0].upper()}{text[1:]}: policies saw other images than they learned from."
        for text in dict.fromkeys(differences)
        if text is not None
    ]


def _simulator(profile: Profile) -> str:
    if profile.env.backend == "calvin_env":
        return "calvin_env"
    return "embedded" if profile.env.scene_source == "embedded" else "CALVIN assets"


def _tiles(results: Results) -> list[dict[str, Any]]:
    """Macro averages of all policies, the world models first."""
    ordered = sorted(results.policies, key=lambda policy: policy.variant is None)
    tiles = []
    for policy in ordered:
        estimate = results.macro.get(policy)
        tile = {"name": policy.label, "colour": figures.colour(policy), "value": "", "unit": " %"}
        if estimate:
            tile["value"] = f"{100 * estimate.value:.1f}"
            tile["detail"] = f"{100 * estimate.low:.0f} to {100 * estimate.high:.0f} % (95 %)"
        else:
            tile["detail"] = "not computed"
        tiles.append(tile)
    return tiles


def _rows(results: Results) -> list[dict[str, Any]]:
    def cell(estimate: Estimate, policy: Policy, detail: str) -> dict[str, Any]:
        return {"estimate": estimate, "colour": figures.colour(policy), "detail": detail}

    rows = []
    for task in results.tasks:
        cells = []
        for policy in results.policies:
            found = results.cells.get((task, policy))
            detail = f" · {found.successes}/{found.episodes}" if found else ""
            if found and found.seeds > 1:
                detail += f", {found.seeds} seeds"
            cells.append(cell(found.rate, policy, detail) if found else None)
        rows.append({"name": task.replace("_", " "), "cells": cells, "total": False})
    if len(results.tasks) > 1:
        averages = [
            cell(results.macro[policy], policy, "") if policy in results.macro else None
            for policy in results.policies
        ]
        rows.append({"name": "macro average", "cells": averages, "total": True})
    return rows


def _differences(results: Results) -> list[dict[str, str]]:
    rows = []
    for difference in results.differences:
        estimate = difference.estimate
        sign = "plus" if estimate.low > 0 else "minus" if estimate.high < 0 else ""
        rows.append(
            {
                "name": f"{difference.first.label} - {difference.second.label}",
                "value": f"{100 * estimate.value:+.1f} points",
                "interval": f"{100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}",
                "sign": sign,
                "reading": difference.reading,
            }
        )
    return rows


def _metrics(results: Results) -> dict[str, dict[str, float]]:
    """Macro averages for ``dvc metrics``: policy -> success rate."""
    return {
        policy.variant or "controls": {
            other.stage: estimate.value
            for other, estimate in results.macro.items()
            if other.variant == policy.variant
        }
        for policy in results.macro
    }


def _body(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table as text."""
    header = ["success % [95 % interval]", *(policy.label for policy in results.policies)]
    body = []
    for task in results.tasks:
        cells = (results.cells.get((task, policy)) for policy in results.policies)
        body.append([task, *("-" if cell is None else percent(cell.rate) for cell in cells)])
    if len(results.tasks) > 1:
        averages = (results.macro.get(policy) for policy in results.policies)
        body.append(["macro average", *("-" if a is None else percent(a) for a in averages)])
    return header, body


def _about_intervals(results: Results) -> str:
    """What the intervals speak of."""
    if results.num_seeds == 1:
        return (
            "Intervals speak of the trained models at hand, over start states: there is one of "
            "each, and none says what training with another seed would give."
        )
    return (
        "Intervals speak of start states and, where a policy has several seeds of PPO (up to "
        f"{results.num_seeds}), of PPO with other seeds. World models and cloned policies are one "
        "each: no interval says what training those with another seed would give."
    )


def _notes(results: Results) -> list[str]:
    differences = (
        f"{one.first.label} - {one.second.label}: {points(one.estimate)} points ({one.scope})"
        for one in results.differences
    )
    return [*differences, _about_intervals(results)]


def _markdown(results: Results, notes: Sequence[str]) -> str:
    header, body = _body(results)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return table + "".join(f"\n{note}  " for note in notes) + "\n"


def _plain(results: Results, notes: Sequence[str]) -> str:
    header, body = _body(results)
    table = Table(show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for index, row in enumerate(body):
        table.add_row(*row, end_section=index == len(results.tasks) - 1)
    buffer = io.StringIO()
    Console(file=buffer, width=200, color_system=None, markup=False).print(table)
    return buffer.getvalue() + "".join(f"{note}\n" for note in notes)


def _plain_values(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_values(inner) for inner in value]
    return value
