"""Reading JSON that may have been damaged, or written by somebody else."""

import json
from pathlib import Path
from typing import Any, TypeVar

from wam.errors import WamError

JsonType = TypeVar("JsonType")

_NAMES: dict[type, str] = {dict: "an object", list: "a list"}


def read_json(path: Path, kind: type[JsonType] | None = None) -> Any:
    """The content of a JSON file, an object or a list if ``kind`` is dict or list.

    Raises WamError naming a missing or damaged file, or one with another kind of content.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WamError(f"{path}: not found") from None
    except RecursionError:
        raise WamError(f"{path}: nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of too many digits
        raise WamError(f"{path}: not valid JSON ({error})") from None
    if kind is not None and not isinstance(content, kind):
        found = type(content).__name__
        raise WamError(f"{path}: expected {_NAMES[kind]}, found a {found}")
    return content
