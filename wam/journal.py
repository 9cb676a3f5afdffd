"""Append-only training records: one JSON object per line, cut back when a run resumes."""

import json
from pathlib import Path
from typing import Any

from wam.atomic import replacing


class Journal:
    """The file ``path`` of records that each have a ``step``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record and hand it to the operating system."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def rewind(self, step: int) -> None:
        """Forget records after ``step``: the run goes on from there. A torn last line goes too."""
        if not self._path.is_file():
            return
        kept = [record for record in self.records() if record["step"] <= step]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def records(self) -> list[dict[str, Any]]:
        """All complete records, oldest first; empty where there is no file."""
        return self.since(0)[0]

    def since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """The complete records from byte ``position`` on, and the position behind them."""
        if not self._path.is_file():
            return [], position
        with self._path.open("rb") as file:
            file.seek(position)
            lines = [line for line in file if line.endswith(b"\n")]
        return [json.loads(line) for line in lines], position + sum(map(len, lines))
