"""Everything that a check can say: ``findings.csv`` has severity, expectation and advice by name.

Texts there have gaps, ``{usual}``, for what differs between data sets.
"""

import csv
from pathlib import Path
from typing import Any

from pipeline.calvin.finding import Finding, Severity

with Path(__file__).with_name("findings.csv").open(encoding="utf-8", newline="") as _file:
    TABLE: dict[str, dict[str, Any]] = {row["check"]: row for row in csv.DictReader(_file)}


def finding(
    check: str,
    file: str,
    found: str,
    count: int = 1,
    *,
    severity: Severity | None = None,
    **gaps: Any,
) -> Finding:
    """The finding ``check`` of the table on ``file``, the first of ``count``; ``gaps`` by name.

    ``severity`` is another one than the table's.
    """
    row = TABLE[check]
    return Finding(
        check=check,
        severity=severity or row["severity"],
        file=file,
        found=found,
        count=count,
        expected=row["expected"].format(**gaps),
        advice=row["advice"].format(**gaps),
    )
