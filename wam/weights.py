"""Weights on disk: safetensors and JSON, nothing that could run code.

Every file is written under a temporary name and renamed, so that a killed process leaves either the
old or the new one, and carries a digest of what is in it.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from wam.errors import WamError
from wam.reliability.atomic import replacing
from wam.reliability.finite import non_finite
from wam.reliability.json_files import read_json

Module = TypeVar("Module", bound=nn.Module)

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_STRUCTURE = "structure"
_DIGEST = "digest"
"""Entries of a file's header: what its tensors are parts of, and the digest of that and of them."""


def save_model(directory: Path, module: nn.Module, config: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` into ``directory``.

    Raises WamError as :func:`save_tensors` does.
    """
    save_tensors(directory / MODEL_FILE, module.state_dict())
    with replacing(directory / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write ``tensors`` to the safetensors file ``path``.

    Raises WamError, and leaves the file as it was, if one of them is not finite.
    """
    if name := non_finite(tensors):
        raise WamError(f"{path}: not written, as {name} holds NaN or infinity")
    write_file(path, {name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def load_tensors(
    directory: Path, device: torch.device | str = "cpu", name: str = MODEL_FILE
) -> dict[str, torch.Tensor]:
    """The tensors saved in ``directory``. Raises WamError for a missing or damaged file."""
    path = directory / name
    if not path.is_file():
        raise WamError(f"{path}: not found; run the stage that makes it")
    try:
        tensors, _ = read_file(path)
    except ValueError as error:
        raise WamError(f"{path}: damaged ({error}); run the stage that makes it again") from None
    return {name: value.to(device) for name, value in tensors.items()}


def load_module(
    directory: Path, make: Callable[[dict[str, Any]], Module], what: str
) -> tuple[Module, dict[str, Any]]:
    """The module that ``make`` builds of the configuration in ``directory``, with its weights.

    It comes frozen and in evaluation mode, with its configuration. ``make`` is tried without memory
    first, so that no configuration asks for more than its weights have. Raises WamError, which
    says that it should be ``what``, for missing, damaged or inconsistent files.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise WamError(f"{path}: not found; run the stage that makes it")
    config = read_json(path, dict)
    try:
        with torch.device("meta"):
            expected = make(config).state_dict()
    except WamError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise WamError(f"{path}: not that of {what} ({repr(e)[:200]})") from None
    tensors = load_tensors(directory)
    for name in sorted(expected.keys() | tensors.keys()):
        shapes = [
            "missing" if value is None else tuple(value.shape)
            for value in (tensors.get(name), expected.get(name))
        ]
        if shapes[0] != shapes[1]:
            raise WamError(
                f"{directory / MODEL_FILE}: does not fit its configuration: {name} is "
                f"{shapes[0]}, expected {shapes[1]}"
            )
    module = make(config)
    module.load_state_dict(tensors)
    return module.requires_grad_(False).eval(), config


def write_file(path: Path, tensors: dict[str, torch.Tensor], structure: str = "") -> None:
    """Write ``tensors``, which are on the CPU, and a text that says what they are parts of.

    Raises WamError if the system does not let it.
    """
    header = {_STRUCTURE: structure} if structure else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {**header, _DIGEST: _digest(structure, tensors)})
        except SafetensorError as error:
            # What the system said (no space left, a quota) is in the text alone.
            raise WamError(f"{path}: cannot be written ({error})") from None


def read_file(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """What :func:`write_file` was given. Raises ValueError if it is not what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(error) from None
    structure = header.get(_STRUCTURE, "")
    if header.get(_DIGEST) != _digest(structure, tensors):
        raise ValueError("checksum differs" if _DIGEST in header else "it has no checksum")
    return tensors, structure


def _digest(structure: str, tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.blake2b(structure.encode(), digest_size=16)
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
