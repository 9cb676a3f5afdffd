"""Append-only training records: one JSON object per line, put back when a run resumes."""

import json
from pathlib import Path
from typing import Any

from wam.errors import WamError
from wam.reliability.atomic import replacing


class Journal:
    """The file ``path`` of records that each have a ``step``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record and hand it to the operating system."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def restore(self, records: list[dict[str, Any]]) -> None:
        """Hold ``records`` alone, which a checkpoint has kept, whatever the file has become."""
        if not records and not self._path.is_file():
            return
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records))

    def records(self) -> list[dict[str, Any]]:
        """All complete records, oldest first; empty where there is no file.

        Raises WamError naming the first line that is no record.
        """
        return self.since(0)[0]

    def since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """The complete records from byte ``position`` on, and the position behind them.

        Raises WamError as :meth:`records` does.
        """
        if not self._path.is_file():
            return [], position
        with self._path.open("rb") as file:
            file.seek(position)
            lines = [line for line in file if line.endswith(b"\n")]
        records = [self._record(line, number) for number, line in enumerate(lines, start=1)]
        return records, position + sum(map(len, lines))

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record["step"], int | float):
                return record
        except (ValueError, KeyError, RecursionError):
            pass
        raise WamError(f"{self._path}: line {number} is no record with a step; the file is damaged")
