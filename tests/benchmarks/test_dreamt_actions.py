"""What untrained models dream, executed in the real simulator; the artifacts are another test's."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pybullet")

from benchmarks import dreamt_actions
from pipeline.artifacts.layout import Layout
from pipeline.params import Profile
from pipeline.stages import evaluate
from tests.pipeline.stages.test_evaluate import TASK, inputs, layout, profile, store

__all__ = ["inputs", "layout", "profile", "store"]  # fixtures


@pytest.mark.slow
def test_dreams_of_both_policies_are_executed(
    profile: Profile,
    layout: Layout,
    store: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dreamt_actions, "open_store", lambda path: SimpleNamespace(attrs=store))
    evaluate.run(profile, layout, "wam")
    rows = list(dreamt_actions.found(profile, layout, "wam", [TASK]))
    assert [(row["task"], row["stage"]) for row in rows] == [(TASK, "bc"), (TASK, "ppo")]
    for row in rows:
        assert row["starts"] == 2
        assert all(row[name] in (0, 0.5, 1) for name in ("dreamt", "executed", "seeing"))
        assert (row["true_dreams"] is None) == (row["dreamt"] == 0)
