"""Stage ``report``: the results of a profile as tables, and as one page to look at."""

import dataclasses
import shutil

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import digest, read_manifest, write_json
from pipeline.evaluation.results import merge, transfers
from pipeline.params import Profile
from pipeline.report import facts, sections, tables, world_model
from pipeline.report.page import PAGE, render
from pipeline.report.sources import manifest
from wam.config import VARIANTS


def run(profile: Profile, layout: Layout) -> None:
    """Write ``layout.results`` (summary, tables, curves) and ``layout.report``, print the table.

    What has not been computed is shown as such. Raises WamError if nothing was evaluated at all.
    """
    directories = [layout.evaluation(name) for name in facts.EVALUATIONS]
    if not any(manifest(directory) for directory in directories):
        read_manifest(directories[0], "evaluate")
    inputs = facts.fingerprints(layout)  # which compares all files with their digests
    results = merge(directories, profile.tasks, VARIANTS)
    elsewhere = transfers(layout, profile.tasks)
    if elsewhere:
        inputs["transfers"] = digest({world: found.rows for world, found in elsewhere.items()})
    params = dataclasses.asdict(profile)
    selection = sections.selection(layout, profile.tasks)
    notes = [*tables.notes(results), *([selection] if selection else [])]

    def make_results(target: Build) -> None:
        path = target.directory
        write_json(path / "summary.json", results.rows)
        moved = {world: tables.metrics(found) for world, found in elsewhere.items()}
        metrics = tables.metrics(results)
        write_json(path / "metrics.json", {**metrics, **({"transfer": moved} if moved else {})})
        if evaluated := world_model.result(layout):
            write_json(path / world_model.RESULT_FILE, evaluated)
        for variant in VARIANTS:
            curve = layout.world_model(variant) / "learning_curve.csv"
            if curve.is_file():
                shutil.copyfile(curve, path / f"learning_curve_{variant}.csv")
        (path / "table.md").write_text(tables.markdown(results, notes, elsewhere))
        (path / "table.txt").write_text(tables.plain(results, notes, elsewhere))

    def make_page(target: Build) -> None:
        (target.directory / PAGE).write_text(render(profile, layout, results, elsewhere))

    build(layout.results, make_results, stage="results", params=params, inputs=inputs)
    build(layout.report, make_page, stage="report", params=params, inputs=inputs)
    console.console.print((layout.results / "table.txt").read_text(), end="")
    console.done("report", str(layout.report / PAGE))
