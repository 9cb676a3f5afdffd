"""The results of a profile as one page to look at."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import plain
from pipeline.evaluation.compatibility import mismatch
from pipeline.evaluation.results import VARIANT_NAMES, Results, trained_apart
from pipeline.evaluation.worlds import WORLD_NAMES
from pipeline.params import Profile
from pipeline.report import facts, figures, sections, world_model
from pipeline.report.published import PAPER, published
from pipeline.report.sources import manifest
from pipeline.report.tables import Transfers, about_intervals, verdict
from wam.config import CHUNK, VARIANTS

PAGE = "index.html"


def render(profile: Profile, layout: Layout, results: Results, transfers: Transfers) -> str:
    """The page as HTML: one file without scripts that loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("index.html.jinja")
    return template.render(_content(profile, layout, results, transfers))


def _content(
    profile: Profile, layout: Layout, results: Results, transfers: Transfers
) -> dict[str, Any]:
    tasks, seeds = profile.tasks, profile.finetune.seeds
    found = facts.stores(layout)
    evaluated = world_model.result(layout)
    return {
        "name": layout.root.name,
        "profile": profile,
        "chunk": CHUNK,
        "looks": sections.looks(profile),
        "results": results,
        "verdict": verdict(results),
        "published": published(tasks),
        "paper": PAPER,
        "transfers": {WORLD_NAMES[world]: found for world, found in transfers.items()},
        "colour": figures.colour,
        "simulated": [VARIANT_NAMES[variant] for variant in facts.tuned_in_simulator(layout)],
        "notices": _notices(layout, found) + facts.kept_clones(layout, profile),
        "intervals": about_intervals(results),
        "selection": sections.selection(layout, tasks),
        "charts": {
            "success": figures.success_bars(results),
            "world_model": sections.world_model_curves(layout),
            "open_loop": world_model.curves(layout),
            "cloning": sections.cloning(layout, tasks),
            "finetuning": sections.finetuning(layout, tasks, seeds),
            "imagined": figures.imagined_against_simulated(results),
            "trust": figures.trust(results),
        },
        "clips": sections.clips(layout, tasks),
        "films": sections.films(layout),
        "validation": sections.validation(layout),
        "rewards": sections.rewards(layout, tasks, profile.finetune.min_imagined_precision),
        "agreement": sections.agreement(results),
        "open_loop": evaluated,
        "quality": evaluated and world_model.quality(evaluated),
        "not_computed": evaluated and world_model.not_computed(evaluated),
        "probes": evaluated and world_model.probes(evaluated),
        "responses": evaluated and world_model.responses(evaluated),
        "scene_probes": evaluated and world_model.scene_probes(evaluated),
        "data": facts.data(layout, found),
        "demos": facts.demos(layout, tasks),
        "provenance": facts.provenance(profile, layout, found),
        "fingerprints": facts.fingerprints(layout),
        "made_by": facts.made_by(layout),
        "settings": yaml.safe_dump(plain(asdict(profile)), sort_keys=False),
    }


def _notices(layout: Layout, found: dict[str, Any]) -> list[str]:
    """How variants were trained apart, and where policies saw other images than the store's."""
    apart = trained_apart({v: manifest(layout.world_model(v)) for v in VARIANTS})
    used = [entry for variant in VARIANTS if (entry := manifest(layout.evaluation(variant)))]
    differences = [mismatch(store.attrs, entry) for store in found.values() for entry in used]
    return ([apart] if apart else []) + [
        f"{text[0].upper()}{text[1:]}: policies saw other images than they learned from."
        for text in dict.fromkeys(differences)
        if text is not None
    ]
