"""Reading CALVIN's pickled ``.npy`` files without executing anything that they contain.

Only plain containers, strings, numbers and numpy arrays come through. The names that numpy's
pickles call are answered by the inert stand-ins below, so that neither numpy's C unpickling nor any
other callable ever sees the file's bytes.
"""

import math
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wam.errors import WamError

_PLAIN_DTYPE = re.compile(r"[biufSU]\d+")
_MAX_DEPTH = 20


def load(path: Path) -> Any:
    """The object inside a pickled 0-d object array.

    Raises WamError if the file is missing or damaged, or asks for anything but plain data; nothing
    has been executed then.
    """
    try:
        with path.open("rb") as file:
            _check_header(file)
            return _plain(_Unpickler(file).load())
    except FileNotFoundError:
        raise WamError(f"{path}: not found") from None
    except _DAMAGED as error:
        raise WamError(f"{path}: refused or damaged pickle ({error})") from None


_DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


def _check_header(file: BinaryIO) -> None:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        _, _, dtype = np.lib.format.read_array_header_2_0(file)
    if not dtype.hasobject:
        raise pickle.UnpicklingError("not a pickled object array")


class _Dtype:
    """Stands in for ``numpy.dtype``; knows numbers, strings and, as a container, objects."""

    def __init__(self, description: str, align: Any = False, copy: Any = True) -> None:
        if description in ("O", "O8"):
            self.name, self.order = "O", "|"
        elif isinstance(description, str) and _PLAIN_DTYPE.fullmatch(description):
            self.name, self.order = description, "="
        else:
            raise pickle.UnpicklingError(f"dtype {description!r} is not allowed")

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {state[1]!r} is not allowed")
        self.order = state[1]

    def decode(self, buffer: Any, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(buffer, _Latin1):
            buffer = buffer.content
        flat = np.frombuffer(buffer, np.dtype(self.order + self.name), count=-1)
        return flat.copy() if shape == () else flat.reshape(shape).copy()


class _Array:
    """Stands in for an array that is being rebuilt."""

    def __init__(self, kind: Any, shape: Any, typecode: Any) -> None:
        if kind != _NDARRAY:
            raise pickle.UnpicklingError("only plain arrays are allowed")
        self.content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError("not a plain array")
        if dtype.name == "O":
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise pickle.UnpicklingError("object array of the wrong length")
            self.content = data[0] if shape == () else data
        elif math.prod(shape) == 0:
            self.content = np.zeros(shape, np.dtype(dtype.order + dtype.name))
        elif fortran:
            self.content = dtype.decode(data, tuple(reversed(shape))).T
        else:
            self.content = dtype.decode(data, tuple(shape))


class _Scalar:
    """Stands in for a numpy number or string."""

    def __init__(self, dtype: Any, data: Any) -> None:
        if not isinstance(dtype, _Dtype) or dtype.name == "O":
            raise pickle.UnpicklingError("not a plain number")
        self.content = dtype.decode(data, ())[0].item()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a number has no state")


class _Latin1:
    """Stands in for ``_codecs.encode``, with which old protocols write bytes."""

    def __init__(self, text: str, encoding: Any = None) -> None:
        self.content = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("bytes have no state")


_NDARRAY = "ndarray"
"""Stands in for ``numpy.ndarray``, which pickles only name; a string cannot be called."""

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NDARRAY,
    ("_codecs", "encode"): _Latin1,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _Array), ("scalar", _Scalar))
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return _ALLOWED[module, name]


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` with every stand-in replaced by what it holds."""
    if depth > _MAX_DEPTH:
        raise pickle.UnpicklingError("nested too deeply")
    if isinstance(value, _Array | _Scalar | _Latin1):
        return _plain(value.content, depth + 1)
    if isinstance(value, dict):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, depth + 1) for item in value)
    if value is None or isinstance(value, str | bytes | bool | int | float | np.ndarray):
        return value
    raise pickle.UnpicklingError(f"{type(value).__name__} is not allowed")
