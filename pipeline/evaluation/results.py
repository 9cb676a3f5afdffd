"""Roll-outs of all policies as one table: success per task, averages and paired differences."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import MANIFEST, SUMMARY, read_json
from pipeline.evaluation.statistics import Estimate, success_difference, success_rate
from pipeline.evaluation.worlds import WORLDS
from wam.config import VARIANTS
from wam.envs.settings import World
from wam.errors import WamError
from wam.tasks import RULES, Move

_STAYED_M = 0.005
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
FILMED = {"first start": "", "first failure": "-failure"}
"""Which roll-outs of a policy become clips, in the order of their starts, and how the file's name
ends. A first start that fails is the first failure too, and filmed once."""


class PolicyName(NamedTuple):
    """A column of the table."""

    variant: str | None
    """None for the controls"""
    stage: str

    @property
    def label(self) -> str:
        return f"{VARIANT_NAMES.get(self.variant or '', '')} {POLICY_STAGES[self.stage]}".strip()


class Cell(NamedTuple):
    """Success of one policy on one task."""

    frame_ids: list[int]
    """The starts"""
    outcomes: np.ndarray
    """bool [starts, seeds]"""
    rate: Estimate

    @property
    def successes(self) -> int:
        return int(self.outcomes.sum())

    @property
    def episodes(self) -> int:
        return self.outcomes.size

    @property
    def seeds(self) -> int:
        return self.outcomes.shape[1]


class Agreement(NamedTuple):
    """How far classifier and world model agree with the simulator about a policy's roll-outs.

    Every figure is over roll-outs, or over their replays in imagination: the same actions from the
    same first feature. None where undefined.
    """

    recognised_precision: float | None
    """Of the successes that the classifier sees in the real roll-out's filtered features"""
    recognised_recall: float | None
    replayed_auc: float | None
    """Area under the ROC curve: how probably the dreams of a success score higher than those of a
    failure"""
    replayed_balanced_accuracy: float | None
    """Of the verdict of most replays: mean share of right ones among successes and failures"""
    replayed_bias: float
    """Success rate of the replays minus that of the roll-outs"""
    phantom_moves: float | None
    """Of the roll-outs in which the door or drawer stayed, the share whose dreams move it by half
    of what the task asks for"""
    false_alarms: float | None
    """Share of the failures' replays that succeed"""
    misses: float | None
    """Share of the successes' replays that fail"""
    imagined_success: float
    """Share of the starts from which the policy succeeds when it acts in imagination itself"""
    executed_success: float
    """Share of the starts from which what it does there succeeds in the simulator, not looked at"""
    dreams_true: float | None
    """Of the starts with imagined success, the share with executed success"""


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
    """Pooled over seeds, in the order of tasks and policies"""

    @property
    def evaluated(self) -> tuple[PolicyName, ...]:
        """The policies with a result on some task."""
        found = {policy for _, policy in self.cells}
        return tuple(policy for policy in self.policies if policy in found)

    @property
    def num_seeds(self) -> int:
        """The most seeds that any policy was trained with."""
        return max((cell.seeds for cell in self.cells.values()), default=0)

    @property
    def table(self) -> dict[str, dict[PolicyName, Estimate]]:
        """Success rates by task, and the macro average where there are several tasks."""
        rows: dict[str, dict[PolicyName, Estimate]] = {task: {} for task in self.tasks}
        for (task, policy), cell in self.cells.items():
            rows[task][policy] = cell.rate
        return rows | ({"macro average": self.macro} if len(self.tasks) > 1 else {})


def merge(evaluations: list[Path], tasks: tuple[str, ...], variants: tuple[str, ...]) -> Results:
    """The results of the complete evaluation directories among ``evaluations``.

    Raises WamError where policies to be compared, or their seeds, started from different states.
    """
    complete = [directory for directory in evaluations if (directory / SUMMARY).is_file()]
    rows, rollouts = (
        [
            row
            for directory in complete
            for row in read_json(directory / file)
            if row["task"] in tasks
        ]
        for file in (SUMMARY, "rollouts.json")
    )
    made = {(row["variant"], row["stage"]) for row in rows}
    tuned = {v: next((s for s in FINETUNED.values() if (v, s) in made), "ppo") for v in variants}
    policies = (
        *(PolicyName(variant, stage) for variant in variants for stage in ("bc", tuned[variant])),
        PolicyName(None, "expert"),
        PolicyName(None, "zero"),
    )
    grouped = defaultdict(list)
    for rollout in rollouts:
        grouped[rollout["task"], PolicyName(rollout["variant"], rollout["stage"])].append(rollout)
    cells = {key: _cell(group) for key, group in grouped.items()}
    by_policy = {
        policy: [cells[task, policy] for task in tasks]
        for policy in policies
        if all((task, policy) in cells for task in tasks)
    }
    macro = {
        policy: success_rate([cell.outcomes for cell in row]) for policy, row in by_policy.items()
    }
    stages = ("bc", *FINETUNED.values())
    pairs = [(PolicyName("wam", stage), PolicyName("dreamerv2", stage)) for stage in stages]
    pairs += [(PolicyName(v, tuned[v]), PolicyName(v, "bc")) for v in variants]
    differences = [
        _difference(tasks, pair, [by_policy[policy] for policy in pair])
        for pair in pairs
        if by_policy.keys() >= set(pair)
    ]
    agreement = {
        (task, policy): found
        for task in tasks
        for policy in policies
        if (found := agreement_of(grouped.get((task, policy), ())))
    }
    return Results(tasks, policies, rows, cells, macro, differences, agreement)


def transfers(layout: Layout, tasks: tuple[str, ...]) -> dict[World, Results]:
    """The results of ``wam evaluate --in``, by world; worlds in which nothing ran are absent.

    So are, with a warning, those of other policies, starts or settings than have been evaluated
    here since.
    """
    found = {}
    for world in WORLDS:
        places = []
        for name in ("controls", *VARIANTS):
            place = layout.transfer(world, name)
            if not (place / SUMMARY).is_file():
                continue
            if _made_of(place) == _made_of(layout.evaluation(name)):
                places.append(place)
            else:
                console.warn(
                    f"{place}: of other policies, starts or settings than "
                    f"{layout.evaluation(name)}, and left out; run 'wam evaluate --policies {name} "
                    f"--in {world}' again"
                )
        if places:
            found[world] = merge(places, tasks, VARIANTS)
    return found


def _made_of(evaluation: Path) -> Any:
    """What was evaluated there, from which starts and how; None without a manifest."""
    if not (evaluation / MANIFEST).is_file():
        return None
    manifest = read_json(evaluation / MANIFEST)
    settings = {**manifest.get("params", {}).get("evaluate", {}), "clips": None}
    if not settings.get("look_every_of"):  # where there was none, no task looked otherwise
        settings.pop("look_every_of", None)
    return manifest.get("inputs"), settings


def agreement_of(rollouts: Sequence[Mapping[str, Any]]) -> Agreement | None:
    """The figures of ``rollouts``; None for none, and for a control's, which have no verdicts.

    Raises WamError for roll-outs of an earlier version, which executed no dreams.
    """
    if not rollouts or not all("imagined" in rollout for rollout in rollouts):
        return None
    if not all("executed" in rollout for rollout in rollouts):
        raise WamError(
            f"{rollouts[0]['task']}: roll-outs without 'executed', of an earlier version; "
            "run 'wam evaluate' again"
        )
    names = ("success", "recognised", "replayed", "replayed_score", "imagined", "executed")
    success, recognised, replayed, score, imagined, executed = (
        np.array([rollout[name] for rollout in rollouts], float) for name in names
    )
    alarms, hits = replayed[success == 0], replayed[success == 1]
    auc = balanced = None
    if len(alarms) and len(hits):
        better = mannwhitneyu(score[success == 1], score[success == 0]).statistic
        auc = float(better) / (len(hits) * len(alarms))
        balanced = float((hits > 0.5).mean() + (alarms <= 0.5).mean()) / 2
    right = (success * recognised).sum()
    return Agreement(
        recognised_precision=_share(right, recognised.sum()),
        recognised_recall=_share(right, success.sum()),
        replayed_auc=auc,
        replayed_balanced_accuracy=balanced,
        replayed_bias=float((replayed - success).mean()),
        phantom_moves=_phantom_moves(rollouts),
        false_alarms=_share(alarms.sum(), len(alarms)),
        misses=_share((1 - hits).sum(), len(hits)),
        imagined_success=float(imagined.mean()),
        executed_success=float(executed.mean()),
        dreams_true=_share((imagined * executed).sum(), imagined.sum()),
    )


def _phantom_moves(rollouts: Sequence[Mapping[str, Any]]) -> float | None:
    """None for what cannot be moved, or always was."""
    if "moved" not in rollouts[0]:
        return None
    rule = RULES[rollouts[0]["task"]]
    assert isinstance(rule, Move)
    half = abs(rule.distance) / 2
    dreamt = [row["dreamt"] > half for row in rollouts if row["moved"] < _STAYED_M]
    return _share(sum(dreamt), len(dreamt))


def _share(count: float, whole: float) -> float | None:
    return float(count / whole) if whole else None


def _cell(rollouts: Sequence[Mapping[str, Any]]) -> Cell:
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
    outcomes = np.array([[seed[frame] for seed in by_seed.values()] for frame in frame_ids])
    return Cell(frame_ids, outcomes, success_rate([outcomes]))


def _difference(
    tasks: Sequence[str], pair: tuple[PolicyName, PolicyName], sides: Sequence[Sequence[Cell]]
) -> Difference:
    """``sides`` of the pair by task. Raises WamError unless they started from the same states."""
    for task, a, b in zip(tasks, *sides, strict=True):
        if a.frame_ids != b.frame_ids:
            raise WamError(
                f"{task}: {pair[0].label} and {pair[1].label} were evaluated from different "
                "starts; evaluate them again"
            )
    first, second = ([cell.outcomes for cell in side] for side in sides)
    seeds = [min(cell.seeds for cell in side) for side in sides]
    return Difference(*pair, success_difference(first, second), (seeds[0], seeds[1]))


def trained_apart(manifests: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What the world models' training differs in beside the head, as a sentence; None if nothing.

    ``manifests`` by variant; one that is empty is compared with none.
    """
    params = {VARIANT_NAMES[v]: made.get("params", {}) for v, made in manifests.items() if made}
    settings = {
        "precision": [p.get("train_world_model", {}).get("precision") for p in params.values()],
        "device": [p.get("device") for p in params.values()],
    }
    parts = []
    for setting, values in settings.items():
        if len(set(values)) > 1:
            said = (f"{value or 'unknown'} ({n})" for n, value in zip(params, values, strict=True))
            parts.append(f"{setting} {' and '.join(said)}")
    if not parts:
        return None
    return (
        f"The world models were trained with {', '.join(parts)}: what differs between the variants "
        "is not the inverse-dynamics head alone."
    )
