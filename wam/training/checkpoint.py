"""Models and training states on disk: safetensors and JSON, nothing that could run code.

Every file is written under a temporary name and renamed, so that a killed process leaves either the
old or the new one.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from wam.config import WorldModelConfig
from wam.errors import WamError
from wam.proprio import ProprioNormalizer
from wam.reliability.atomic import replacing
from wam.reliability.finite import non_finite
from wam.reliability.json_files import read_json
from wam.training.journal import Journal
from wam.world_model.model import WorldModel

Module = TypeVar("Module", bound=nn.Module)

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_STRUCTURE = "structure"
_DIGEST = "digest"
"""Entries of a file's header: of what the tensors of a training state are parts, and the digest of
that and of all tensors."""
_SAVE_EVERY_S = 20.0


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
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, {name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def load_tensors(
    directory: Path, device: torch.device | str = "cpu", name: str = MODEL_FILE
) -> dict[str, torch.Tensor]:
    """The tensors saved in ``directory``. Raises WamError for a missing or damaged file."""
    path = directory / name
    if not path.is_file():
        raise WamError(f"{path}: not found; run the stage that makes it")
    try:
        _, tensors = _read(path)
    except (SafetensorError, ValueError) as error:
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


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and plain values to one safetensors file.

    The structure lies in the file's header as JSON.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_take_apart(state, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, tensors, structure)


def load_training_state(path: Path) -> dict[str, Any] | None:
    """What :func:`save_training_state` wrote, on the CPU; None where there is no such file.

    Tuples come back as lists. Raises WamError if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        header, tensors = _read(path)
        return _put_together(json.loads(header[_STRUCTURE]), tensors.__getitem__)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WamError(
            f"{path}: damaged checkpoint ({error}); delete it to go on from an earlier one, "
            "or from the beginning"
        ) from None


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors of a file, on the CPU; ValueError if they are not what was written."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if header.get(_DIGEST) != _digest(header.get(_STRUCTURE, ""), tensors):
        raise ValueError("checksum differs" if _DIGEST in header else "it has no checksum")
    return header, tensors


def _write(path: Path, tensors: dict[str, torch.Tensor], structure: str = "") -> None:
    header = {_STRUCTURE: structure} if structure else {}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {**header, _DIGEST: _digest(structure, tensors)})
        except SafetensorError as error:
            # What the system said (no space left, a quota) is in the text alone.
            raise WamError(f"{path}: cannot be written ({error})") from None


def _digest(structure: str, tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.blake2b(structure.encode(), digest_size=16)
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _take_apart(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON, its tensors moved to ``tensors``. Keys of dicts may be any plain value."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _take_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_take_apart(item, tensors) for item in value]}
    return value


def _put_together(value: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensor(name)
        case {"dict": items}:
            return {key: _put_together(item, tensor) for key, item in items}
        case {"list": items}:
            return [_put_together(item, tensor) for item in items]
    return value


class Checkpoints:
    """The last ``keep`` training states of a run, in ``directory``."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after ``step`` and delete what is too old."""
        save_training_state(self._directory / f"step-{step:09d}.safetensors", state)
        for path in self._paths()[: -self._keep]:
            path.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The newest state; None if there is none. Raises WamError if it is damaged."""
        paths = self._paths()
        return load_training_state(paths[-1]) if paths else None

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("step-*.safetensors"))


class StateFile:
    """The last state of a short training with the records of its ``journal``, in ``path``."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path, self._journal = path, journal
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state, None if there is none; the journal then holds the records of that time.

        Raises WamError if the file is damaged.
        """
        state = load_training_state(self._path)
        self._journal.restore(state.pop("records") if state else [])
        return state

    @property
    def due(self) -> bool:
        """Whether the last state is so old that losing it would be noticed."""
        return time.monotonic() - self._saved_at >= _SAVE_EVERY_S

    def save(self, state: dict[str, Any]) -> None:
        """Write the state in the place of the last one."""
        save_training_state(self._path, {**state, "records": self._journal.records()})
        self._saved_at = time.monotonic()


def world_model_config(
    model: WorldModel, variant: str, normalizer: ProprioNormalizer, **more: Any
) -> dict[str, Any]:
    """What :func:`load_world_model` needs to know beside the weights."""
    return {"model": asdict(model.config), "variant": variant, **normalizer.to_dict(), **more}


def load_world_model(
    directory: Path, device: torch.device | str
) -> tuple[WorldModel, ProprioNormalizer]:
    """The frozen world model in ``directory``, ready for use, and its proprioception statistics.

    Raises WamError for missing, damaged or inconsistent files.
    """
    model, config = load_module(directory, _world_model, "a world model")
    try:
        normalizer = ProprioNormalizer.from_dict(config)
    except (KeyError, TypeError, ValueError) as error:
        raise WamError(f"{directory / CONFIG_FILE}: no statistics ({error})") from None
    return model.to(device), normalizer


def _world_model(config: dict[str, Any]) -> WorldModel:
    sizes = dict(config["model"])
    sizes["id_hidden"] = tuple(sizes["id_hidden"])
    return WorldModel(WorldModelConfig(**sizes))
