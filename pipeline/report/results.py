"""Roll-outs of all policies as one table: success per task, averages and paired differences."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts import read_json
from pipeline.metrics import Estimate, macro_average, paired_difference, wilson

NAMES = {"wam": "WAM", "dreamerv2": "DreamerV2"}
STAGES = {
    "expert": "Expert",
    "zero": "Zero action",
    "bc": "BC",
    "ppo": "PPO",
    "ppo_simulator": "PPO (simulator)",
}
FINETUNED = {"world_model": "ppo", "simulator": "ppo_simulator"}
"""Stage of a fine-tuned policy by ``finetune.environment``: what the simulator tuned is no result
of imagination and never shares its name."""

_BOOTSTRAP_SEED = 0


class Policy(NamedTuple):
    """A column of the table."""

    variant: str | None
    """None for the controls"""
    stage: str

    @property
    def label(self) -> str:
        return f"{NAMES.get(self.variant or '', '')} {STAGES[self.stage]}".strip()


class Cell(NamedTuple):
    """Success of one policy on one task, pooled over seeds."""

    successes: int
    episodes: int
    seeds: int
    rate: Estimate


class Links(NamedTuple):
    """How far classifier and world model agree with the simulator about a policy's roll-outs.

    Every figure is over roll-outs; None where undefined.
    """

    recognised_precision: float | None
    """Of the successes that the classifier sees in the real roll-out's filtered features"""
    recognised_recall: float | None
    replayed_precision: float | None
    """Of those that it sees where the same actions are imagined from the first feature"""
    replayed_recall: float | None
    imagined_success: float
    """Share of the starts from which the policy succeeds when it acts in imagination itself"""


class Difference(NamedTuple):
    """Macro average of ``first - second`` over the same starts."""

    first: Policy
    second: Policy
    estimate: Estimate


@dataclass(frozen=True)
class Results:
    """Everything that was rolled out; absent combinations are absent, never zero."""

    tasks: tuple[str, ...]
    policies: tuple[Policy, ...]
    rows: list[dict[str, Any]]
    """One per variant, task, stage and seed, as in ``summary.json``"""
    cells: dict[tuple[str, Policy], Cell]
    macro: dict[Policy, Estimate]
    """Only of policies with a result on every task"""
    differences: list[Difference]
    links: dict[tuple[str, Policy], Links]
    """Pooled over seeds"""


def merge(evaluations: list[Path], tasks: tuple[str, ...], variants: tuple[str, ...]) -> Results:
    """The results of the complete evaluation directories among ``evaluations``."""
    rows: list[dict[str, Any]] = []
    rollouts: list[dict[str, Any]] = []
    for directory in evaluations:
        if (directory / "summary.json").is_file():
            rows += read_json(directory / "summary.json")
            rollouts += read_json(directory / "rollouts.json")
    rows = [row for row in rows if row["task"] in tasks]
    tuned = {variant: _finetuned(rows, variant) for variant in variants}
    policies = (
        Policy(None, "expert"),
        Policy(None, "zero"),
        *(Policy(variant, stage) for variant in variants for stage in ("bc", tuned[variant])),
    )
    cells = _pool(rows)
    macro = {
        policy: macro_average([cells[task, policy].rate for task in tasks])
        for policy in policies
        if all((task, policy) in cells for task in tasks)
    }
    stages = ("bc", *FINETUNED.values())
    pairs = [(Policy("wam", stage), Policy("dreamerv2", stage)) for stage in stages]
    pairs += [(Policy(variant, tuned[variant]), Policy(variant, "bc")) for variant in variants]
    differences = [
        Difference(first, second, _difference(rollouts, tasks, first, second))
        for first, second in pairs
        if first in macro and second in macro
    ]
    grouped = defaultdict(list)
    for rollout in rollouts:
        grouped[rollout["task"], Policy(rollout["variant"], rollout["stage"])].append(rollout)
    links = {key: found for key, group in grouped.items() if (found := link_figures(group))}
    return Results(tasks, policies, rows, cells, macro, differences, links)


def link_figures(rollouts: Sequence[Mapping[str, Any]]) -> Links | None:
    """The figures of ``rollouts``; None for those of a control, which say nothing about it."""
    if not all("imagined" in rollout for rollout in rollouts):
        return None
    return Links(
        *_precision_and_recall(rollouts, "recognised"),
        *_precision_and_recall(rollouts, "replayed"),
        sum(rollout["imagined"] for rollout in rollouts) / len(rollouts),
    )


def _precision_and_recall(
    rollouts: Sequence[Mapping[str, Any]], link: str
) -> tuple[float | None, float | None]:
    hits = sum(rollout["success"] and rollout[link] for rollout in rollouts)
    claimed = sum(rollout[link] for rollout in rollouts)
    successes = sum(rollout["success"] for rollout in rollouts)
    return hits / claimed if claimed else None, hits / successes if successes else None


def _finetuned(rows: list[dict[str, Any]], variant: str) -> str:
    """Stage of the variant's fine-tuned policy; that of imagination where there is none."""
    found = {row["stage"] for row in rows if row["variant"] == variant}
    return next((stage for stage in FINETUNED.values() if stage in found), "ppo")


def _pool(rows: list[dict[str, Any]]) -> dict[tuple[str, Policy], Cell]:
    groups = defaultdict(list)
    for row in rows:
        groups[row["task"], Policy(row["variant"], row["stage"])].append(row)
    cells = {}
    for key, group in groups.items():
        successes = sum(row["successes"] for row in group)
        episodes = sum(row["episodes"] for row in group)
        cells[key] = Cell(successes, episodes, len(group), wilson(successes, episodes))
    return cells


def _difference(
    rollouts: list[dict[str, Any]], tasks: tuple[str, ...], first: Policy, second: Policy
) -> Estimate:
    sides = []
    for policy in (first, second):
        outcomes: dict[tuple[str, int], list[bool]] = defaultdict(list)
        for rollout in rollouts:
            if (rollout["variant"], rollout["stage"]) == policy:
                outcomes[rollout["task"], rollout["frame_id"]].append(rollout["success"])
        sides.append(
            [
                np.array([np.mean(outcomes[key]) for key in sorted(outcomes) if key[0] == task])
                for task in tasks
            ]
        )
    return paired_difference(sides[0], sides[1], np.random.default_rng(_BOOTSTRAP_SEED))


def percent(estimate: Estimate) -> str:
    """``58.6 [41-75]``"""
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f}-{100 * estimate.high:.0f}]"


def points(estimate: Estimate) -> str:
    """``+12.1 [+3.0, +21.5]``, a difference in percentage points."""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
