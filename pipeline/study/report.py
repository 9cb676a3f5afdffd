"""Stage ``study-report``: what the runs of the study say together (docs/study.md)."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import STUDY_RESULTS
from pipeline.artifacts.manifests import file_digest, write_json
from pipeline.evaluation.results import FINETUNED, POLICY_STAGES
from pipeline.evaluation.statistics import Estimate
from pipeline.params.study import Study, study_run
from pipeline.report.tables import markdown_table
from pipeline.study.across_seeds import (
    mean_over_seeds,
    smallest_seen,
    two_level_bootstrap,
)
from pipeline.study.figure import write_figure
from pipeline.study.outcomes import Outcome, outcome_path, read_outcome
from wam.errors import WamError

STAGE = "study-report"
ENDPOINTS = {
    "bc": "BC success",
    "ppo": "PPO success",
    "gain": "PPO - BC",
    "dream_auc": "area under ROC of BC's dreams",
    "replayed_auc": "area under ROC of BC's dreams, with what follows a success",
    "action_probe_r2": "visual action probe R²",
    "scene_latent_r2": "scene probe R², latents",
    "scene_imagined_r2": "scene probe R², 16 imagined steps",
    "open_loop_psnr": "open-loop PSNR (dB)",
}
"""One figure per run each, in the order of docs/study.md: the first is the primary one. The first
area is that of runs whose roll-outs ended with their success, and is made no more."""
_SHARES = ("bc", "ppo", "gain")
"""Told in points."""


def run(study: Study) -> None:
    """Write ``data/study/results``: of every cell all of whose runs are finished.

    What half a cell says is not told: whoever looks at every run and stops where he likes what he
    sees finds differences that are none. Raises WamError if no cell is finished, or a run of a
    finished one is damaged or of other settings.
    """
    count = {cell: _count_finished(cell, study.seeds) for cell in study.cells}
    unfinished = {cell: n for cell, n in count.items() if n < len(study.seeds)}
    told = [cell for cell in study.cells if cell not in unfinished]
    if not told:
        raise WamError(
            f"no cell has all of its {len(study.seeds)} runs ({_counts(unfinished, study)}); "
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
        (path / "table.md").write_text(_markdown(study, content, found))
        write_figure(path / "pairs.svg", content, next(iter(ENDPOINTS)))

    build(STUDY_RESULTS, make, stage=STAGE, params=asdict(study), inputs=inputs)
    console.console.print((STUDY_RESULTS / "table.md").read_text(), markup=False, end="")
    if unfinished:
        console.warn(f"left out, as runs are missing: {_counts(unfinished, study)}")
    console.done(STAGE, str(STUDY_RESULTS))


def _count_finished(cell: str, seeds: Sequence[int]) -> int:
    return sum(outcome_path(cell, seed).is_file() for seed in seeds)


def _counts(finished: Mapping[str, int], study: Study) -> str:
    return ", ".join(f"{cell} {n} of {len(study.seeds)}" for cell, n in finished.items())


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
    return {
        "base": study.base,
        "seeds": study.seeds,
        "commits": sorted({one.commit for one in found}),
        "cells": cells,
        "unfinished": dict(unfinished),
        "differences": compared,
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
        "pairs": len(pairs),
        "difference": mean_over_seeds(differences)._asdict(),
        "bootstrap": bootstrap,
        "smallest_seen": smallest_seen(differences),
    }


def _in_order(found: Outcome, stage: str) -> list[np.ndarray]:
    return [found.success[stage][task] for task in found.run.profile.tasks]


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of every endpoint by cell, and the differences, for ``dvc metrics``."""
    means = {
        cell: {
            name: float(np.mean(list(by_seed.values())))
            for name, by_seed in own["figures"].items()
            if by_seed
        }
        for cell, own in content["cells"].items()
    }
    for one in content["differences"]:
        pair = means.setdefault(f"{one['first']} - {one['second']}", {})
        pair[one["endpoint"]] = one["difference"]["value"]
    return means


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


def _markdown(study: Study, content: Mapping[str, Any], found: Sequence[Outcome]) -> str:
    lines = [f"**{sentence}**\n" for sentence in verdicts(content)]
    lines += markdown_table(
        ["success % by seed", *map(str, study.seeds), "mean [95 % over seeds]"],
        [
            [
                f"{cell} {label}",
                *(
                    f"{100 * by_seed[str(s)]:{sign}.1f}" if str(s) in by_seed else "-"
                    for s in study.seeds
                ),
                _mean(list(by_seed.values()), sign),
            ]
            for cell, own in content["cells"].items()
            for name, label, sign in (
                ("bc", POLICY_STAGES["bc"], ""),
                ("ppo", POLICY_STAGES["ppo"], ""),
                ("gain", ENDPOINTS["gain"], "+"),
            )
            if (by_seed := own["figures"][name])
        ],
    )
    lines += [
        "",
        *markdown_table(
            [
                "difference [95 %, Student over pairs of seeds]",
                "pairs",
                "difference",
                "two-level bootstrap",
                "smallest that would be seen",
            ],
            [
                [
                    f"{one['first']} - {one['second']}: {ENDPOINTS[one['endpoint']]}",
                    str(one["pairs"]),
                    _told(one["endpoint"], one["difference"]),
                    _told(one["endpoint"], one["bootstrap"]) if one["bootstrap"] else "",
                    _size(one["endpoint"], one["smallest_seen"]),
                ]
                for one in content["differences"]
            ],
        ),
    ]
    lines += ["", f"Runs made at commit {', '.join(content['commits'])}.  "]
    held_out = {one.run.cell: one.run.profile.reward.calibration == "windows" for one in found}
    if not all(held_out.values()):
        but = ", ".join(cell for cell, apart in held_out.items() if apart)
        lines.append(
            "Classifiers are calibrated on the validation demonstrations, whose first frames are "
            "these starts: areas of dreams and PPO are not wholly held out, clones are"
            + (f" (in {but} all is).  " if but else ".  ")
        )
    if left_out := content["unfinished"]:
        lines.append(f"Not told, as runs are missing: {_counts(left_out, study)}.  ")
    return "\n".join(lines) + "\n"


def verdicts(content: Mapping[str, Any]) -> Iterator[str]:
    """The primary endpoint of every comparison as a sentence, and what PPO brings every cell."""
    primary = next(iter(ENDPOINTS))
    for one in content["differences"]:
        if one["endpoint"] != primary:
            continue
        estimate = Estimate(**one["difference"])
        names = f"{one['first']} against {one['second']}"
        told = f"{_told(primary, one['difference'])} over {one['pairs']} seeds"
        if not estimate.low <= 0 <= estimate.high:
            answer = "more" if estimate.low > 0 else "fewer"
            # Seeds share their starts: that these are lucky for one side no spread of seeds shows.
            wider = one["bootstrap"]
            limit = ""
            if wider["low"] <= 0 <= wider["high"]:
                limit = (
                    f"; on these starts, that is: drawn anew with the seeds they give "
                    f"{_told(primary, wider)}"
                )
            yield f"{names}: {answer} successes, {told}{limit}."
        else:
            seen = one["smallest_seen"]
            limit = (
                ""
                if seen is None
                else (
                    f"; a true difference of {100 * seen:.0f} points would have shown in four "
                    "of five such studies"
                )
            )
            yield f"{names}: no difference shown, {told}{limit}."
    for cell, own in content["cells"].items():
        gains = list(own["figures"]["gain"].values())
        if len(gains) < 2:
            continue
        gain = mean_over_seeds(gains)
        shown = "more successes" if gain.low > 0 else "fewer" if gain.high < 0 else "no gain shown"
        told = f"{_told('gain', gain._asdict())} over {len(gains)} seeds"
        yield f"{cell}, PPO in imagination against its clone: {shown}, {told}."


def _mean(values: Sequence[float], sign: str) -> str:
    if len(values) < 2:
        return "one seed"
    value, low, high = (100 * share for share in mean_over_seeds(values))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _told(endpoint: str, estimate: Mapping[str, float]) -> str:
    value = Estimate(**estimate)
    if endpoint in _SHARES:
        return f"{Estimate(*(100 * share for share in value)).signed('.1f')} points"
    return value.signed(".3f")


def _size(endpoint: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} points" if endpoint in _SHARES else f"{value:.3f}"
