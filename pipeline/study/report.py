"""Stage ``study-report``: what the runs of the study say together (docs/study.md)."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import STUDY_RESULTS
from pipeline.artifacts.manifests import file_digest, write_json
from pipeline.evaluation.results import FINETUNED
from pipeline.params.study import Study, study_run
from pipeline.study.across_seeds import (
    holm,
    mean_over_seeds,
    p_value,
    smallest_seen,
    two_level_bootstrap,
)
from pipeline.study.figure import write_figure
from pipeline.study.outcomes import Outcome, outcome_path, read_outcome
from pipeline.study.tables import (
    ENDPOINTS,
    PRIMARY,
    missing_runs,
    pair_name,
    primary,
    write_tables,
    write_verdicts,
)
from wam.errors import WamError

STAGE = "study-report"


def run(study: Study) -> None:
    """Write ``data/study/results``: of every cell all of whose runs are finished.

    What half a cell says is not told: whoever looks at every run and stops where he likes what he
    sees finds differences that are none. Raises WamError if no cell is finished, or a run of a
    finished one is damaged or of other settings.
    """
    count = {cell: _count_finished(cell, study.seeds) for cell in study.cells}
    unfinished = {cell: n for cell, n in count.items() if n < len(study.seeds)}
    missing = missing_runs(unfinished, len(study.seeds))
    told = [cell for cell in study.cells if cell not in unfinished]
    if not told:
        raise WamError(
            f"no cell has all of its {len(study.seeds)} runs ({missing}); "
            "'wam run-study' does all that are missing"
        )
    runs = [study_run(study, cell, seed) for cell in told for seed in study.seeds]
    found = [read_outcome(one) for one in runs]
    for one in found:
        if one.frame_ids != found[0].frame_ids:
            path = outcome_path(one.run.cell, one.run.seed)
            raise WamError(f"{path}: from other starts than the other runs; evaluate it again")
    inputs = {path.stem: file_digest(path) for path in (outcome_path(r.cell, r.seed) for r in runs)}
    content = _summary(study, found, unfinished)

    def make(target: Build) -> None:
        path = target.directory
        write_json(path / "summary.json", content)
        write_json(path / "metrics.json", _metrics(content))
        (path / "runs.csv").write_text(_runs(found))
        (path / "table.md").write_text(write_tables(content, found))
        (path / "verdicts.md").write_text(write_verdicts(content))
        write_figure(path / "differences.svg", content)

    build(STUDY_RESULTS, make, stage=STAGE, params=asdict(study), inputs=inputs)
    console.console.print((STUDY_RESULTS / "verdicts.md").read_text(), markup=False, end="")
    if unfinished:
        console.warn(f"left out, as runs are missing: {missing}")
    console.done(STAGE, str(STUDY_RESULTS))


def _count_finished(cell: str, seeds: Sequence[int]) -> int:
    return sum(outcome_path(cell, seed).is_file() for seed in seeds)


def _summary(
    study: Study, found: Sequence[Outcome], unfinished: Mapping[str, int]
) -> dict[str, Any]:
    """Everything that was found, by cell and by comparison."""
    by_cell: dict[str, dict[int, Outcome]] = defaultdict(dict)
    for one in found:
        by_cell[one.run.cell][one.run.seed] = one
    cells = {
        cell: {
            "variant": study.cells[cell].variant,
            "set": study.cells[cell].set,
            "figures": {
                name: {str(s): one.figures[name] for s, one in own.items() if name in one.figures}
                for name in ENDPOINTS
            },
        }
        for cell, own in by_cell.items()
    }
    compared = []
    for first, second in study.compare:
        if unfinished.keys() & {first, second}:
            continue
        for name in ENDPOINTS:
            pairs = {
                seed: (one.figures[name], other.figures[name])
                for seed, one in by_cell[first].items()
                if (other := by_cell[second][seed]) and name in one.figures.keys() & other.figures
            }
            if len(pairs) < 2:
                continue
            compared.append(_compared(first, second, name, pairs, by_cell))
    told = primary(compared)
    # Corrected for all that were declared: what is not run yet would have been told as well.
    undone = len(study.compare) - len(told)
    corrected = holm([pair["p"] for pair in told] + [None] * undone)
    for pair, p in zip(told, corrected, strict=False):
        pair["p_holm"] = p
    return {
        "base": study.base,
        "seeds": study.seeds,
        "commits": sorted({one.commit for one in found}),
        "compared": len(study.compare),
        "cells": cells,
        "unfinished": dict(unfinished),
        "differences": compared,
        "gains": _gains(cells),
        "interactions": _interactions(study.interactions, told),
    }


def _compared(
    first: str,
    second: str,
    name: str,
    pairs: Mapping[int, tuple[float, float]],
    by_cell: Mapping[str, Mapping[int, Outcome]],
) -> dict[str, Any]:
    differences = [one - other for one, other in pairs.values()]
    bootstrap = None
    if name in ("bc", *FINETUNED.values()):
        sides = [
            {seed: _in_order(by_cell[cell][seed], name) for seed in pairs}
            for cell in (first, second)
        ]
        bootstrap = two_level_bootstrap(*sides)._asdict()
    return {
        "first": first,
        "second": second,
        "endpoint": name,
        "by_seed": {str(seed): one - other for seed, (one, other) in pairs.items()},
        **_told_by(differences),
        "bootstrap": bootstrap,
    }


def _told_by(differences: Sequence[float]) -> dict[str, Any]:
    """What so many differences, one per seed, say of further seeds."""
    return {
        "pairs": len(differences),
        "difference": mean_over_seeds(differences)._asdict(),
        "p": p_value(differences),
        "smallest_seen": smallest_seen(differences),
    }


def _gains(cells: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What PPO in imagination brings the clones of every cell where more than one seed has it."""
    by_cell = {cell: own["figures"]["gain"] for cell, own in cells.items()}
    return [
        {"cell": cell, "by_seed": by_seed, **_told_by(list(by_seed.values()))}
        for cell, by_seed in by_cell.items()
        if len(by_seed) > 1
    ]


def _interactions(
    wanted: Sequence[tuple[str, str]], told: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of two comparisons, named by their first cells: how much larger the first's difference is."""
    by_first = {one["first"]: one for one in told}
    found = []
    for first, second in wanted:
        if not {first, second} <= by_first.keys():
            continue
        sides = [by_first[name]["by_seed"] for name in (first, second)]
        shared = [sides[0][seed] - sides[1][seed] for seed in sides[0] if seed in sides[1]]
        if len(shared) > 1:
            compared = [
                [by_first[name][side] for side in ("first", "second")] for name in (first, second)
            ]
            found.append({"compared": compared, **_told_by(shared)})
    return found


def _in_order(found: Outcome, stage: str) -> list[np.ndarray]:
    return [found.success[stage][task] for task in found.run.profile.tasks]


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """For ``dvc metrics``: every cell's mean success, and the primary differences."""
    success = {
        stage: {
            cell: float(np.mean(list(by_seed.values())))
            for cell, own in content["cells"].items()
            if (by_seed := own["figures"][stage])
        }
        for stage in (PRIMARY, "ppo")
    }
    differences = {
        pair_name(one): one["difference"]["value"] for one in primary(content["differences"])
    }
    return {**success, f"{PRIMARY}_difference": differences}


def _runs(found: Sequence[Outcome]) -> str:
    """A line per run and task, and one for the run's figures, to be read by anything."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cell", "variant", "seed", "name", "task", "value", "episodes"])
    for one in found:
        own = [one.run.cell, one.run.variant, one.run.seed]
        for stage, by_task in one.success.items():
            for task, success in by_task.items():
                writer.writerow([*own, stage, task, int(success.sum()), len(success)])
        for name, value in one.figures.items():
            if name not in one.success:
                writer.writerow([*own, name, "", f"{value:.6g}", ""])
    return text.getvalue()
