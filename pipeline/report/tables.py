"""The results as text: Markdown, a table for the terminal, figures for ``dvc metrics``."""

import io
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.results import FINETUNED, POLICY_STAGES, VARIANT_NAMES, Results
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.worlds import WORLD_NAMES
from wam.envs.settings import World

Transfers = Mapping[World, Results]
"""Results of the same policies in other worlds."""


def metrics(results: Results) -> dict[str, dict[str, float]]:
    """Macro averages for ``dvc metrics``: success rates, and how far dreams agree with them.

    ``auc`` is over the tasks that had successes and failures, and left out where none had.
    """
    found: dict[str, dict[str, float]] = {}
    for policy, estimate in results.macro.items():
        own = found.setdefault(policy.variant or "controls", {})
        own[policy.stage] = estimate.value
        dreams = [dream for (_, other), dream in results.agreement.items() if other == policy]
        if dreams:
            own[f"{policy.stage}_dream_bias"] = fmean(dream.replayed_bias for dream in dreams)
        areas = [dream.replayed_auc for dream in dreams if dream.replayed_auc is not None]
        if areas:
            own[f"{policy.stage}_dream_auc"] = fmean(areas)
    return found


def _body(results: Results, world: World | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table as text; that of another ``world`` has what ran there alone."""
    place = f" in {WORLD_NAMES[world]}" if world else ""
    policies = results.evaluated if world else results.policies
    header = [f"success % [95 % interval]{place}", *(policy.label for policy in policies)]
    body = [
        [name, *(_percent(rates.get(policy)) for policy in policies)]
        for name, rates in results.table.items()
    ]
    return header, body


def _percent(rate: Estimate | None) -> str:
    """``58.6 [41-75]``, "-" where there is none."""
    if rate is None:
        return "-"
    return f"{100 * rate.value:.1f} [{100 * rate.low:.0f}-{100 * rate.high:.0f}]"


def about_intervals(results: Results) -> str:
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


def verdict(results: Results) -> list[str]:
    """What came out, a sentence per question; empty where nothing can be compared."""
    tuned, heads = [], []
    for one in results.differences:
        value, low, high = (100 * share for share in one.estimate)
        answer = "yes" if low > 0 else "no, it harms" if high < 0 else "not shown"
        figures = f"{answer}, {value:+.1f} points [{low:+.1f} to {high:+.1f}]"
        if one.first.variant == one.second.variant:
            name = VARIANT_NAMES[one.first.variant or ""]
            tuned.append((one.first, f"{name} {figures} ({one.scope})"))
        else:
            heads.append(f"after {POLICY_STAGES[one.first.stage]} {figures}")
    said = []
    for stage in dict.fromkeys(policy.stage for policy, _ in tuned):
        where = "in the simulator" if stage == FINETUNED["simulator"] else "in imagination"
        answers = "; ".join(text for policy, text in tuned if policy.stage == stage)
        said.append(f"Does PPO {where} help? {answers}.")
    if heads:
        said.append(
            f"Does the inverse-dynamics head help? {'; '.join(heads)}: of one trained world model "
            "each, which says nothing of trainings with other seeds."
        )
    return said


def notes(results: Results) -> list[str]:
    """The differences in percentage points, and what the intervals speak of."""
    differences = []
    for one in results.differences:
        points = Estimate(*(100 * share for share in one.estimate)).signed(".1f")
        label = f"{one.first.label} - {one.second.label}"
        differences.append(f"{label}: {points} points ({one.scope})")
    return [*_told(results), *differences, about_intervals(results)]


def _told(results: Results) -> list[str]:
    worlds = [row.get("differs_from_data") for row in results.rows]
    return [f"Not the world of the data: {world}." for world in dict.fromkeys(worlds) if world]


def markdown(results: Results, notes: Sequence[str], transfers: Transfers) -> str:
    """What came out, the table of ``results`` with ``notes`` below, then one per other world."""
    text = "".join(f"**{sentence}**\n\n" for sentence in verdict(results))
    text += _markdown(*_body(results), notes)
    for world, found in transfers.items():
        text += "\n" + _markdown(*_body(found, world), _told(found))
    return text


def _markdown(header: list[str], body: list[list[str]], notes: Sequence[str]) -> str:
    table = "".join(f"{line}\n" for line in markdown_table(header, body))
    return table + "".join(f"\n{note}  " for note in notes) + "\n"


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *body)]


def plain(results: Results, notes: Sequence[str], transfers: Transfers) -> str:
    """As :func:`markdown`, for the terminal."""
    text = _plain(*_body(results), [*verdict(results), *notes], len(results.tasks))
    for world, found in transfers.items():
        text += "\n" + _plain(*_body(found, world), _told(found), len(found.tasks))
    return text


def _plain(header: list[str], body: list[list[str]], notes: Sequence[str], num_tasks: int) -> str:
    table = Table(show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for index, row in enumerate(body):
        table.add_row(*row, end_section=index == num_tasks - 1)
    buffer = io.StringIO()
    Console(file=buffer, width=200, color_system=None, markup=False).print(table)
    return buffer.getvalue() + "".join(f"{note}\n" for note in notes)
