"""What a check has to say."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""``error``: the pipeline cannot or must not use the data; ``warning``: something is wrong, but
harmless or handled; ``note``: good to know."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One way in which a data set differs from CALVIN's format, and all places that show it."""

    check: str
    severity: Severity
    file: str
    """The first file that shows it, relative to the inspected directory."""
    found: str
    expected: str
    advice: str
    count: int = 1
    """How many frames, rows or windows show it; ``found`` is the first."""

    def __str__(self) -> str:
        more = f" (and {self.count - 1:,} more)" if self.count > 1 else ""
        return f"{self.file}: {self.found}{more}; expected {self.expected}. {self.advice}"
