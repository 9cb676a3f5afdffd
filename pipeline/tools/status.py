"""``wam status``: which stages of a profile are out of date, and why, in a line each."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.dvc_stages import chosen_stages, dvc_environment
from pipeline.params import Profile
from wam.errors import WamError

_MOST_SHOWN = 3


def run(profile: Profile, layout: Layout) -> None:
    """Print the state of every stage that the profile has. Raises WamError if DVC cannot tell."""
    graph = chosen_stages(layout.root.name, None, has_tasks=bool(profile.tasks))
    found = _ask_dvc(list(graph))
    table = Table(title=f"stages of {layout.root.name}", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    stale: set[str] = set()
    for name, needed in graph.items():
        entries = found.get(name, [])
        reasons = list(_reasons(entries))
        if _never_ran(entries):
            state = "not made yet"
        elif reasons:
            more = f" and {len(reasons) - _MOST_SHOWN} more" * (len(reasons) > _MOST_SHOWN)
            state = "out of date: " + ", ".join(reasons[:_MOST_SHOWN]) + more
        elif waiting := sorted(needed & stale):
            state = f"behind {', '.join(waiting)}"
        else:
            state = "up to date"
        if state != "up to date":
            stale.add(name)
        table.add_row(name.replace(f"@{layout.root.name}", "", 1).replace("-", " ", 1), state)
    console.console.print(table)
    if stale:
        console.done(
            "status",
            f"{len(stale)} of {len(graph)} stages to run: wam run --profile {layout.root.name}",
        )
    else:
        console.done("status", "everything is up to date")


def _ask_dvc(names: list[str]) -> dict[str, Any]:
    result = subprocess.run(
        ["dvc", "status", "--json", *names],
        capture_output=True,
        text=True,
        check=False,
        env=dvc_environment(),
    )
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise WamError(f"dvc status: {reason[0]}")
    content = json.loads(result.stdout)
    assert isinstance(content, dict)
    return content


def _never_ran(entries: list[Any]) -> bool:
    """Whether no output is there: then it does not matter what else changed."""
    outs = [e["changed outs"] for e in entries if isinstance(e, dict) and "changed outs" in e]
    return any(set(states.values()) == {"deleted"} for states in outs)


def _reasons(entries: list[Any]) -> Iterator[str]:
    """What changed, as DVC tells it: files by their state, settings by their keys."""
    for entry in entries:
        if not isinstance(entry, dict):
            continue  # "always changed": whether anything did, the stage itself finds out
        for kind, changes in entry.items():
            for name, state in changes.items():
                if isinstance(state, dict):
                    yield from (f"{key} {value}" for key, value in state.items())
                elif kind == "changed outs" and state == "not in cache":
                    yield f"{name} neither here nor in the cache"
                else:
                    yield f"{name} {state}"
