"""The study in words: what every comparison says, and the figures behind it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.evaluation.results import POLICY_STAGES
from pipeline.evaluation.statistics import CONFIDENCE, Estimate
from pipeline.report.tables import markdown_table
from pipeline.study.across_seeds import mean_over_seeds
from pipeline.study.outcomes import Outcome

PRIMARY = "bc"
ENDPOINTS = {
    PRIMARY: "BC success",
    "ppo": "PPO success",
    "gain": "PPO - BC",
    "dream_auc": "area under ROC of BC's dreams",
    "replayed_auc": "area under ROC of BC's dreams, with what follows a success",
    "action_probe_r2": "visual action probe R²",
    "scene_latent_r2": "scene probe R², latents",
    "scene_imagined_r2": "scene probe R², 16 imagined steps",
    "open_loop_psnr": "open-loop PSNR (dB)",
}
"""One figure per run each, in the order of docs/study.md. The first area is that of runs whose
roll-outs ended with their success, and is made no more."""
_SHARES = ("bc", "ppo", "gain")
"""Told in points."""
_STAGES = (
    ("bc", POLICY_STAGES["bc"], ""),
    ("ppo", POLICY_STAGES["ppo"], ""),
    ("gain", ENDPOINTS["gain"], "+"),
)
"""A policy's figures, their names and their sign."""


def primary(differences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the primary endpoint, one of every comparison."""
    return [one for one in differences if one["endpoint"] == PRIMARY]


def pair_name(one: Mapping[str, Any]) -> str:
    """Of a comparison: what is subtracted from what."""
    return f"{one['first']} - {one['second']}"


def missing_runs(unfinished: Mapping[str, int], count: int) -> str:
    """How many of ``count`` runs the cells have whose runs are not all there."""
    return ", ".join(f"{cell} {finished} of {count}" for cell, finished in unfinished.items())


def write_tables(content: Mapping[str, Any], found: Sequence[Outcome]) -> str:
    """Markdown of the summary ``content`` of the runs ``found``: what they say first."""
    parts = [_verdicts(content), _interactions(content), _by_seed(content), _by_task(found)]
    parts += [_secondary(content), list(_notes(content, found))]
    return _joined(parts)


def write_verdicts(content: Mapping[str, Any]) -> str:
    """Of these tables the first, the study in a minute."""
    return _joined([_verdicts(content), [*_legend(content), *_missing(content)]])


def _joined(parts: Sequence[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _verdicts(content: Mapping[str, Any]) -> list[str]:
    """The primary endpoint of every comparison, and what PPO brings every cell."""
    rows = [
        [
            f"{pair_name(one)}: {ENDPOINTS[PRIMARY]}",
            *_row(PRIMARY, one),
            _probability(one["p_holm"]),
            _told(PRIMARY, one["bootstrap"]),
            verdict(one),
        ]
        for one in primary(content["differences"])
    ]
    rows += [
        [f"{one['cell']}: {ENDPOINTS['gain']}", *_row("gain", one), "", "", verdict(one)]
        for one in content["gains"]
    ]
    if not rows:
        return []
    header = [*_header("difference"), f"p, Holm over {content['compared']}", "two-level bootstrap"]
    return markdown_table([*header, "successes"], rows)


def verdict(one: Mapping[str, Any]) -> str:
    """What a difference says of further seeds, and where it says less than its interval."""
    estimate = Estimate(**one["difference"])
    if one["p"] is None:
        return "no spread, cannot be told"
    if estimate.low <= 0 <= estimate.high:
        return "no difference shown"
    answer = "more" if estimate.low > 0 else "fewer"
    # Seeds share their starts: that these are lucky for one side no spread of seeds shows.
    wider = one.get("bootstrap")
    if wider and wider["low"] <= 0 <= wider["high"]:
        answer += ", from these starts"
    corrected = one.get("p_holm")
    if corrected is not None and corrected > 1 - CONFIDENCE:
        return f"{answer}, were it compared alone"
    return f"**{answer}**"


def _interactions(content: Mapping[str, Any]) -> list[str]:
    if not content["interactions"]:
        return []
    return markdown_table(
        _header("one difference of BC success minus another"),
        [
            [
                " - ".join(f"({first} - {second})" for first, second in one["compared"]),
                *_row(PRIMARY, one),
            ]
            for one in content["interactions"]
        ],
    )


def _by_seed(content: Mapping[str, Any]) -> list[str]:
    seeds = [str(seed) for seed in content["seeds"]]
    return markdown_table(
        ["success % by seed", *seeds, "mean [95 % over seeds]"],
        [
            [
                f"{cell} {label}",
                *(f"{100 * by_seed[s]:{sign}.1f}" if s in by_seed else "-" for s in seeds),
                _mean(list(by_seed.values()), sign),
            ]
            for cell, own in content["cells"].items()
            for name, label, sign in _STAGES
            if (by_seed := own["figures"][name])
        ],
    )


def _by_task(found: Sequence[Outcome]) -> list[str]:
    tasks = found[0].run.profile.tasks
    cells = dict.fromkeys(one.run.cell for one in found)
    rows = []
    for cell in cells:
        runs = [one for one in found if one.run.cell == cell]
        for stage, label, _ in _STAGES:
            told = [one.success[stage] for one in runs if stage in one.success]
            if told:
                by_task = [[success[task].mean() for success in told] for task in tasks]
                rows.append([f"{cell} {label}", *(f"{100 * sum(x) / len(x):.1f}" for x in by_task)])
    return markdown_table(["success % by task, mean over seeds", *tasks], rows)


def _secondary(content: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{pair_name(one)}: {ENDPOINTS[one['endpoint']]}",
            *_row(one["endpoint"], one),
            _told(one["endpoint"], one["bootstrap"]) if one["bootstrap"] else "",
        ]
        for one in content["differences"]
        if one["endpoint"] != PRIMARY
    ]
    if not rows:
        return []
    header = _header("difference in what else is looked at")
    return markdown_table([*header, "two-level bootstrap"], rows)


def _notes(content: Mapping[str, Any], found: Sequence[Outcome]) -> Iterator[str]:
    yield from _legend(content)
    yield f"Runs made at commit {', '.join(content['commits'])}.  "
    held_out = {one.run.cell: one.run.profile.reward.calibration == "windows" for one in found}
    if not all(held_out.values()):
        but = ", ".join(cell for cell, apart in held_out.items() if apart)
        yield (
            "Classifiers are calibrated on the validation demonstrations, whose first frames are "
            "these starts: areas of dreams and PPO are not wholly held out, clones are"
            + (f" (in {but} all is).  " if but else ".  ")
        )
    yield from _missing(content)


def _legend(content: Mapping[str, Any]) -> Iterator[str]:
    if primary(content["differences"]):
        yield (
            "Intervals, p and the smallest difference that four in five such studies would show "
            "are of a comparison alone. In bold stands what remains after Holm's correction for "
            f"all {content['compared']} that are declared; what PPO brings is not corrected.  "
        )


def _missing(content: Mapping[str, Any]) -> Iterator[str]:
    if content["unfinished"]:
        missing = missing_runs(content["unfinished"], len(content["seeds"]))
        yield f"Not told, as runs are missing: {missing}.  "


def _header(what: str) -> list[str]:
    """That of :func:`_row`, and of a column before it."""
    return [what, "seeds", "[95 %, Student over seeds]", "smallest that would be seen alone", "p"]


def _row(endpoint: str, one: Mapping[str, Any]) -> list[str]:
    """How many pairs, their difference, the smallest that would be seen, and p."""
    smallest = one["smallest_seen"]
    return [
        str(one["pairs"]),
        _told(endpoint, one["difference"]),
        "" if smallest is None else _number(endpoint, smallest),
        _probability(one["p"]),
    ]


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


def _number(endpoint: str, value: float) -> str:
    return f"{100 * value:.1f} points" if endpoint in _SHARES else f"{value:.3f}"


def _probability(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
