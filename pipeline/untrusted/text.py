"""Values of unknown origin: checked, and shown in messages without taking them over."""

from typing import Any

import numpy as np

from wam.errors import WamError

MAX_ID = 10**18 - 1
"""Highest frame id; all of one more digit would not fit into 64 bits."""
MISFITS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What code raises that follows instructions which do not fit together."""
_SHOWN = 80
_LONGEST_NUMBER = 10**20


def shown(value: Any) -> str:
    """A short value as it is, any other by its type or its beginning."""
    if isinstance(value, str):
        return ascii(shortened(value))
    if value is None or isinstance(value, float | bool):
        return str(value)
    if isinstance(value, int) and abs(value) < _LONGEST_NUMBER:
        return str(value)
    return f"of type {type(value).__name__}"


def shortened(text: str) -> str:
    """``text``, or its beginning."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_text(what: str, value: Any, longest: int) -> None:
    """Raise WamError if ``value`` is no text that can be written as UTF-8, or too long a one."""
    if not isinstance(value, str):
        raise WamError(f"{what} is {shown(value)}; expected a text")
    if len(value) > longest:
        raise WamError(f"{what} has {len(value):,} characters; expected at most {longest:,}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise WamError(f"{what} is {shown(value)}; expected valid Unicode")


def id_pair(what: str, pair: Any) -> tuple[int, int]:
    """Two frame ids. Raises WamError for anything that is not two whole numbers of 18 digits."""
    if isinstance(pair, np.ndarray):
        pair = pair.tolist()
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise WamError(f"{what} is {shown(pair)}; expected two frame ids")
    for value in pair:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole or isinstance(value, bool) or abs(value) > MAX_ID:
            raise WamError(f"{what} holds {shown(value)}; expected frame ids from 0 to {MAX_ID}")
    return int(pair[0]), int(pair[1])
