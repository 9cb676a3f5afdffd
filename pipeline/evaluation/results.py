"""Roll-outs of all policies as one table: success per task, averages and paired differences."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts.manifests import read_json
from pipeline.evaluation.statistics import Estimate, success_difference, success_rate
from wam.errors import WamError

VARIANT_NAMES = {"wam": "WAM", "dreamerv2": "DreamerV2"}
POLICY_STAGES = {
    "expert": "Expert",
    "zero": "Zero action",
    "bc": "BC",
    "ppo": "PPO",
    "ppo_simulator": "PPO (simulator)",
}
FINETUNED = {"world_model": "ppo", "simulator": "ppo_simulator"}
"""Stage of a fine-tuned policy by ``finetune.environment``: what the simulator tuned is no result
of imagination and never shares its name."""


class PolicyName(NamedTuple):
    """A column of the table."""

    variant: str | None
    """None for the controls"""
    stage: str

    @property
    def label(self) -> str:
        return f"{VARIANT_NAMES.get(self.variant or '', '')} {POLICY_STAGES[self.stage]}".strip()


class Cell(NamedTuple):
    """Success of one policy on one task, over starts and seeds."""

    successes: int
    starts: int
    seeds: int
    rate: Estimate

    @property
    def episodes(self) -> int:
        return self.starts * self.seeds


class Agreement(NamedTuple):
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

    first: PolicyName
    second: PolicyName
    estimate: Estimate
    seeds: tuple[int, int]
    """Of PPO, of either side. World model and cloned policy are one each."""

    @property
    def scope(self) -> str:
        """What the interval speaks of."""
        if self.seeds == (1, 1):
            return "these two trained models"
        if min(self.seeds) > 1:
            counts = " and ".join(str(count) for count in dict.fromkeys(self.seeds))
            return f"{counts} seeds of PPO on one world model and clone each"
        return f"{max(self.seeds)} seeds of PPO against one trained model"

    @property
    def reading(self) -> str:
        """What the interval shows, and of what: never of what was trained once only."""
        if self.estimate.low <= 0 <= self.estimate.high:
            return "no difference shown: the interval contains 0"
        more = self.first if self.estimate.low > 0 else self.second
        verb = "differ" if self.seeds == (1, 1) else "differ in the mean"
        return f"{self.scope} {verb}: {more.label} succeeds more often"


@dataclass(frozen=True)
class Results:
    """Everything that was rolled out; absent combinations are absent, never zero."""

    tasks: tuple[str, ...]
    policies: tuple[PolicyName, ...]
    rows: list[dict[str, Any]]
    """One per variant, task, stage and seed, as in ``summary.json``"""
    cells: dict[tuple[str, PolicyName], Cell]
    macro: dict[PolicyName, Estimate]
    """Only of policies with a result on every task"""
    differences: list[Difference]
    agreement: dict[tuple[str, PolicyName], Agreement]
    """Pooled over seeds"""

    @property
    def num_seeds(self) -> int:
        """The most seeds that any policy was trained with."""
        return max((cell.seeds for cell in self.cells.values()), default=0)


def merge(evaluations: list[Path], tasks: tuple[str, ...], variants: tuple[str, ...]) -> Results:
    """The results of the complete evaluation directories among ``evaluations``.

    Raises WamError where policies to be compared, or their seeds, started from different states.
    """
    rows: list[dict[str, Any]] = []
    rollouts: list[dict[str, Any]] = []
    for directory in evaluations:
        if (directory / "summary.json").is_file():
            rows += read_json(directory / "summary.json")
            rollouts += read_json(directory / "rollouts.json")
    rows = [row for row in rows if row["task"] in tasks]
    rollouts = [rollout for rollout in rollouts if rollout["task"] in tasks]
    tuned = {variant: _finetuned(rows, variant) for variant in variants}
    policies = (
        PolicyName(None, "expert"),
        PolicyName(None, "zero"),
        *(PolicyName(variant, stage) for variant in variants for stage in ("bc", tuned[variant])),
    )
    grouped = defaultdict(list)
    for rollout in rollouts:
        grouped[rollout["task"], PolicyName(rollout["variant"], rollout["stage"])].append(rollout)
    outcomes = {key: _outcomes(group) for key, group in grouped.items()}
    cells = {
        key: Cell(int(table.sum()), len(table), table.shape[1], success_rate([table]))
        for key, (_, table) in outcomes.items()
    }
    macro = {
        policy: success_rate([outcomes[task, policy].table for task in tasks])
        for policy in policies
        if all((task, policy) in cells for task in tasks)
    }
    stages = ("bc", *FINETUNED.values())
    pairs = [(PolicyName("wam", stage), PolicyName("dreamerv2", stage)) for stage in stages]
    pairs += [
        (PolicyName(variant, tuned[variant]), PolicyName(variant, "bc")) for variant in variants
    ]
    differences = [
        _difference(outcomes, tasks, first, second)
        for first, second in pairs
        if first in macro and second in macro
    ]
    agreement = {key: found for key, group in grouped.items() if (found := agreement_of(group))}
    return Results(tasks, policies, rows, cells, macro, differences, agreement)


def agreement_of(rollouts: Sequence[Mapping[str, Any]]) -> Agreement | None:
    """The figures of ``rollouts``; None for those of a control, which say nothing about it."""
    if not all("imagined" in rollout for rollout in rollouts):
        return None
    return Agreement(
        *_precision_and_recall(rollouts, "recognised"),
        *_precision_and_recall(rollouts, "replayed"),
        sum(rollout["imagined"] for rollout in rollouts) / len(rollouts),
    )


def _precision_and_recall(
    rollouts: Sequence[Mapping[str, Any]], verdict: str
) -> tuple[float | None, float | None]:
    hits = sum(rollout["success"] and rollout[verdict] for rollout in rollouts)
    claimed = sum(rollout[verdict] for rollout in rollouts)
    successes = sum(rollout["success"] for rollout in rollouts)
    return hits / claimed if claimed else None, hits / successes if successes else None


def _finetuned(rows: list[dict[str, Any]], variant: str) -> str:
    """Stage of the variant's fine-tuned policy; that of imagination where there is none."""
    found = {row["stage"] for row in rows if row["variant"] == variant}
    return next((stage for stage in FINETUNED.values() if stage in found), "ppo")


class _Outcomes(NamedTuple):
    """Of one policy on one task."""

    frame_ids: list[int]
    table: np.ndarray
    """bool [starts, seeds]"""


def _outcomes(rollouts: Sequence[Mapping[str, Any]]) -> _Outcomes:
    """Raises WamError unless every seed was rolled out from the same starts."""
    by_seed: dict[int, dict[int, bool]] = defaultdict(dict)
    for rollout in rollouts:
        by_seed[rollout["seed"]][rollout["frame_id"]] = rollout["success"]
    frame_ids = sorted(set().union(*by_seed.values()))
    if any(len(successes) != len(frame_ids) for successes in by_seed.values()):
        label = PolicyName(rollouts[0]["variant"], rollouts[0]["stage"]).label
        raise WamError(
            f"{rollouts[0]['task']}, {label}: seeds were evaluated from different starts; "
            "evaluate them again"
        )
    table = [[successes[frame] for successes in by_seed.values()] for frame in frame_ids]
    return _Outcomes(frame_ids, np.array(table))


def _difference(
    outcomes: Mapping[tuple[str, PolicyName], _Outcomes],
    tasks: Sequence[str],
    first: PolicyName,
    second: PolicyName,
) -> Difference:
    """Raises WamError unless both were rolled out from the same starts."""
    sides = [[outcomes[task, policy] for task in tasks] for policy in (first, second)]
    for task, a, b in zip(tasks, *sides, strict=True):
        if a.frame_ids != b.frame_ids:
            raise WamError(
                f"{task}: {first.label} and {second.label} were evaluated from different starts; "
                "evaluate them again"
            )
    tables = [[found.table for found in side] for side in sides]
    seeds = [min(table.shape[1] for table in side) for side in tables]
    return Difference(first, second, success_difference(*tables), (seeds[0], seeds[1]))


def trained_apart(manifests: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What the world models' training differs in beside the head, as a sentence; None if nothing.

    ``manifests`` by variant; one that is empty is compared with none.
    """
    found = {variant: manifest.get("params", {}) for variant, manifest in manifests.items()}
    settings = {
        "precision": {v: p.get("train_world_model", {}).get("precision") for v, p in found.items()},
        "device": {v: p.get("device") for v, p in found.items()},
    }
    parts = []
    for name, values in settings.items():
        known = {v: value or "unknown" for v, value in values.items() if manifests[v]}
        if len(set(known.values())) > 1:
            said = (f"{value} ({VARIANT_NAMES[variant]})" for variant, value in known.items())
            parts.append(f"{name} {' and '.join(said)}")
    if not parts:
        return None
    return (
        f"The world models were trained with {', '.join(parts)}: what differs between the variants "
        "is not the inverse-dynamics head alone."
    )


def percent(estimate: Estimate) -> str:
    """``58.6 [41-75]``"""
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f}-{100 * estimate.high:.0f}]"


def points(estimate: Estimate) -> str:
    """``+12.1 [+3.0, +21.5]``, a difference in percentage points."""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
