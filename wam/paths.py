"""Paths as people write them into settings."""

from pathlib import Path

from wam.errors import WamError


def expanded(text: str | Path, setting: str) -> Path:
    """``text`` with ``~`` replaced. Raises WamError naming ``setting`` if it cannot be."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise WamError(f"{setting}: {text}: {error}") from None
