"""States of a training, from which it goes on: safetensors files, as those of weights."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wam.errors import WamError
from wam.training.journal import Journal
from wam.weights import read_file, write_file

_SAVE_EVERY_S = 20.0


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and plain values to one safetensors file.

    The structure lies in the file's header as JSON.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_take_apart(state, tensors))
    write_file(path, tensors, structure)


def load_training_state(path: Path) -> dict[str, Any] | None:
    """What :func:`save_training_state` wrote, on the CPU; None where there is no such file.

    Tuples come back as lists. Raises WamError if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        tensors, structure = read_file(path)
        return _put_together(json.loads(structure), tensors.__getitem__)
    except (KeyError, TypeError, ValueError) as error:
        raise WamError(
            f"{path}: damaged checkpoint ({error}); delete it to go on from an earlier one, "
            "or from the beginning"
        ) from None


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
