"""What a run is, and whether the work of one is of use to another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts.manifests import digest


@dataclass(frozen=True)
class Identity:
    """What a run is: equal identities give equal results, but for those times that are recorded."""

    stage: str
    params: dict[str, Any]
    """JSON-like"""
    inputs: dict[str, str]
    free: frozenset[str] = frozenset()
    """Names of parameters that shape nothing."""
    growing: frozenset[str] = frozenset()
    """Names of those that may change while the work is not complete: how long it is (a number), or
    of which parts it consists (a list that may become longer)."""

    def record(self) -> dict[str, Any]:
        """As it is kept in ``run.json``, and in the manifest."""
        return {"stage": self.stage, "params": self.params, "inputs": self.inputs}

    @property
    def key(self) -> str:
        """The same for all runs of which one can go on with the work of another."""
        return digest(self._leaves(self.record(), fixed=True))[:8]

    def change(self, record: Any, *, complete: bool) -> str | None:
        """Why the work of the run called ``record`` is not that of this one; None if it is."""
        if not (isinstance(record, dict) and {"stage", "params", "inputs"} <= record.keys()):
            return "it is not known what it was begun with"
        old, new = (self._leaves(one, fixed=False) for one in (record, self.record()))
        for name in sorted(old.keys() | new.keys()):
            before, now = old.get(name), new.get(name)
            grows = name in self.growing and not complete and _covers(before, now)
            if before != now and not grows:
                return f"{name} was {_short(before)}, is {_short(now)} now"
        return None

    def _leaves(self, record: Mapping[str, Any], *, fixed: bool) -> dict[str, Any]:
        left_out = self.free | (self.growing if fixed else frozenset())
        content = {name: record[name] for name in ("stage", "params", "inputs")}
        return {
            name.removeprefix("params."): value
            for name, value in flat(content)
            if name.removeprefix("params.") not in left_out
        }


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by their names, joined with dots."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _covers(before: Any, now: Any) -> bool:
    """Whether work begun for ``before`` is of use for ``now``."""
    if isinstance(before, list) and isinstance(now, list):
        return all(part in now for part in before)
    return not isinstance(before, list) and not isinstance(now, list)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
