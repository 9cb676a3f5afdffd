"""Scalars of a training for those who look at them: DVCLive and TensorBoard.

``metrics.jsonl`` and ``validation.jsonl`` are the records; both are made from them, and anew when a
killed run goes on, so that nothing is there twice.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any, Self

from pipeline import console
from wam.training.journal import Journal
from wam.training.trainer import METRICS_FILE, VALIDATION_FILE

DVCLIVE, TENSORBOARD = "dvclive", "tensorboard"


class Tracker:
    """Follows the journals in ``directory`` and shows them in ``log``.

    Says so where a library is not installed.
    """

    def __init__(self, directory: Path, log: Path) -> None:
        self._journals = {
            "train": Journal(directory / METRICS_FILE),
            "validation": Journal(directory / VALIDATION_FILE),
        }
        self._seen = dict.fromkeys(self._journals, 0)
        self.validation: dict[str, Any] = {}
        """The last record of a validation; empty before the first."""
        self._live = self._writer = None
        for name in (DVCLIVE, TENSORBOARD):
            shutil.rmtree(log / name, ignore_errors=True)
            if importlib.util.find_spec(name) is None:
                console.warn(f"{name} is not installed: no scalars for it (wam[pipeline] has it)")
        if importlib.util.find_spec(DVCLIVE):
            from dvclive import Live

            self._live = Live(str(log / DVCLIVE), save_dvc_exp=False, dvcyaml=None, report=None)
        if importlib.util.find_spec(TENSORBOARD):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(log / TENSORBOARD))
        self.catch_up()

    def catch_up(self) -> None:
        """Show what was recorded since the last call."""
        for kind, journal in self._journals.items():
            records, self._seen[kind] = journal.since(self._seen[kind])
            for record in records:
                self._show(kind, record)
            if kind == "validation" and records:
                self.validation = records[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()
        if self._live:
            self._live.end()

    def _show(self, kind: str, record: dict[str, Any]) -> None:
        step = record["step"]
        for name, value in record.items():
            if name == "step":
                continue
            if self._writer:
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            if self._live:
                self._live.step = step
                self._live.log_metric(f"{kind}/{name}", value)
        if self._live:
            self._live.make_summary()
