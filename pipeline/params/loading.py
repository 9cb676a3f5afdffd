"""From ``params.yaml`` to a checked :class:`Profile`, or to one sentence that names the key.

Every field of every section has to be spelled out in the file, so that DVC sees each value that a
stage depends on.
"""

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.artifacts.layout import check_profile_name
from pipeline.params.profile import Profile
from pipeline.params.relations import contradictions
from pipeline.untrusted import bounded_yaml
from wam.errors import WamError

PARAMS_FILE = Path("params.yaml")
STUDY_KEY = "study"
"""The only top-level key that is no profile, see ``pipeline.params.study``."""
_MOST_SHOWN = 100
"""Characters of a value in a message."""
_MOST_LISTED = 600
"""And of all names that are known."""


def profile_names(path: Path = PARAMS_FILE) -> list[str]:
    """The profiles that ``path`` has. Raises WamError as :func:`load_profile`."""
    return [name for name in document(path) if name != STUDY_KEY]


def load_profile(name: str, path: Path = PARAMS_FILE) -> Profile:
    """The profile called ``name``.

    Raises WamError for a missing or unreadable file, an unknown profile, a missing or unknown key
    or a bad value; the message names the key and, where one is close, what was probably meant.
    """
    check_profile_name(name)
    profiles = {key: content for key, content in document(path).items() if key != STUDY_KEY}
    if name not in profiles:
        raise WamError(f"{path}: unknown profile '{name}'{_suggestion(name, profiles)}")
    return profile_of(profiles[name], f"{path}: {name}")


def profile_of(settings: Any, where: str) -> Profile:
    """The profile that ``settings``, as YAML has them, spell out. Raises WamError, which begins
    with ``where``, as :func:`load_profile`."""
    _check_keys(Profile, settings, where)
    try:
        # As JSON, in whose strict reading lists are tuples and mappings sections.
        profile = TypeAdapter(Profile).validate_json(json.dumps(settings))
    except ValidationError as error:
        raise WamError(f"{where}{sentence(error)}") from None
    for contradiction in contradictions(profile):
        raise WamError(f"{where}.{contradiction}")
    return profile


def document(path: Path) -> dict[Any, Any]:
    """All that ``path`` says, not to be changed: all who ask share it.

    Raises WamError if it cannot be read or is no mapping.
    """
    if not path.is_file():
        raise WamError(f"{path}: not found; run from the root of the repository")
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise WamError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None


@functools.lru_cache(maxsize=1)
def _parsed(text: str, path: Path) -> dict[Any, Any]:
    """Once per text: a study asks for it with every run."""
    content = bounded_yaml.load(text, path)
    if not isinstance(content, dict):
        raise WamError(f"{path}: expected a mapping of profiles, got {_shown(content)}")
    return content


def _check_keys(section: Any, mapping: Any, where: str) -> None:
    """Every key is there, none is unknown, and every value is one that JSON has."""
    if not isinstance(mapping, dict):
        raise WamError(f"{where}: expected a section, got {_shown(mapping)}")
    kinds = {field.name: field.type for field in fields(section)}
    for key, value in mapping.items():
        if key not in kinds:
            raise WamError(f"{where}: unknown parameter {_shown(key)}{_suggestion(key, kinds)}")
        if is_dataclass(kinds[key]):
            _check_keys(kinds[key], value, f"{where}.{key}")
        else:
            check_values(value, f"{where}.{key}")
    for key in kinds:
        if key not in mapping:
            raise WamError(f"{where}: missing parameter '{key}'")


def check_values(value: Any, where: str) -> None:
    """Raise WamError, which begins with ``where`` and the keys below it, for what JSON has not."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_values(inner, f"{where}.{_shortened(str(key), _MOST_SHOWN)}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        raise WamError(
            f"{where} = {_shown(value)}: input should be a number, text, true, false, "
            "null or a list of these (quote dates)"
        ) from None


def sentence(error: ValidationError) -> str:
    """The first of the errors, from the key on."""
    first = error.errors()[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    key = "".join(part[:_MOST_SHOWN] for part in parts)
    message = first["msg"].replace("Tuple", "List").replace(" after validation", "")
    message = message[0].lower() + message[1:]
    if first["type"] == "float_type" and isinstance(first["input"], str):
        message += " (YAML takes 1e-4 for text: write 1.0e-4)"
    return f"{key} = {_shown(first['input'])}: {message}"


def _shown(value: Any) -> str:
    return _shortened(repr(value), _MOST_SHOWN)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _suggestion(name: Any, known: Mapping[Any, Any]) -> str:
    names = [str(key) for key in known]
    if close := difflib.get_close_matches(str(name)[:_MOST_SHOWN], names, n=1, cutoff=0.5):
        return f"; did you mean '{close[0][:_MOST_SHOWN]}'?"
    return f"; known: {_shortened(', '.join(names), _MOST_LISTED)}"
