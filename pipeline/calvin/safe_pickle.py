"""Reading CALVIN's pickled ``.npy`` files without executing anything that they contain.

No unpickler runs. The instructions of a pickle are read one by one, and those that build plain
containers, strings, numbers and numpy arrays are followed here; any other is refused. What is
referred to twice stays one object, so that a few bytes cannot spell out gigabytes.
"""

import math
import os
import pickletools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.calvin.npz import SHORTEST_NPY, header_stop, parse_header
from pipeline.untrusted.regular_file import open_regular
from pipeline.untrusted.text import MISFITS, shortened, shown
from wam.errors import WamError

MOST_BYTES = 1 << 27
"""Of a file: the largest of CALVIN's are 24,000 embeddings of 1024 numbers, 100 MB."""
_MOST_INSTRUCTIONS = 1_500_000
"""CALVIN's 24,000 annotations take up to 500,000."""
_MAX_DEPTH = 20
_PLAIN_DTYPE = re.compile(r"[biufSU]\d{1,9}")


def load(path: Path) -> Any:
    """The object inside a pickled 0-d object array.

    Raises WamError if the file is missing or damaged, or asks for anything but plain data; nothing
    has been executed then.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return _load(_Bounded(file, os.fstat(file.fileno()).st_size))
    except FileNotFoundError:
        raise WamError(f"{path}: not found") from None
    except WamError:
        raise
    except (*MISFITS, EOFError, OSError) as error:
        problem = shortened(str(error) or type(error).__name__)
        raise WamError(f"{path}: refused or damaged pickle ({problem})") from None


class _Bounded:
    """As much of ``file`` as pickletools asks for, but never a buffer for more than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        if size > MOST_BYTES:
            raise ValueError(f"{size:,} bytes; expected at most {MOST_BYTES:,}")
        self._file = file
        self._left = size

    def read(self, count: int) -> bytes:
        content = self._file.read(min(count, self._left))
        self._left -= len(content)
        return content

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


def _load(file: _Bounded) -> Any:
    beginning = file.read(SHORTEST_NPY)
    header = parse_header(beginning + file.read(max(header_stop(beginning) - len(beginning), 0)))
    if not header.dtype.hasobject:
        raise ValueError("not a pickled object array")
    return _plain(_Machine().run(file))


class _Dtype:
    """Stands in for ``numpy.dtype``; knows numbers, strings and, as a container, objects."""

    __slots__ = ("name", "order")

    def __init__(self, description: Any, align: Any = False, copy: Any = True) -> None:
        if description in ("O", "O8"):
            self.name, self.order = "O", "|"
        elif isinstance(description, str) and _PLAIN_DTYPE.fullmatch(description):
            self.name, self.order = description, "="
        else:
            raise ValueError(f"dtype {_name(description)} is not allowed")

    def build(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise ValueError(f"byte order {_name(state[1])} is not allowed")
        self.order = state[1]

    def decode(self, buffer: Any, shape: tuple[int, ...]) -> np.ndarray:
        """A read-only view of ``buffer``."""
        if isinstance(buffer, str):  # of Python 2, whose strings are bytes
            buffer = buffer.encode("latin1")
        if self.name.startswith("U"):
            points = np.frombuffer(buffer, np.dtype(self.order + "u4"))
            if points.max(initial=0) > sys.maxunicode:
                raise ValueError("a character that Unicode does not have")
        return np.frombuffer(buffer, np.dtype(self.order + self.name)).reshape(shape)


class _Array:
    """Stands in for an array that is being rebuilt."""

    __slots__ = ("content",)

    def __init__(self, kind: Any, shape: Any, typecode: Any) -> None:
        if kind is not _NDARRAY:
            raise ValueError("only plain arrays are allowed")
        self.content: Any = None

    def build(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("not a plain array")
        if not isinstance(dtype, _Dtype):
            raise ValueError("not a plain array")
        if dtype.name == "O":
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise ValueError("object array of the wrong length")
            self.content = data[0] if shape == () else data
        elif math.prod(shape) == 0:
            self.content = np.zeros(shape, np.dtype(dtype.order + dtype.name))
        elif is_fortran:
            self.content = dtype.decode(data, shape[::-1]).T
        else:
            self.content = dtype.decode(data, shape)


def _scalar(dtype: Any, data: Any) -> Any:
    """Stands in for a numpy number or string."""
    if not isinstance(dtype, _Dtype) or dtype.name == "O":
        raise ValueError("not a plain number")
    return dtype.decode(data, (1,))[0].item()


def _latin1(text: Any, encoding: Any = None) -> bytes:
    """Stands in for ``_codecs.encode``, with which old protocols write bytes."""
    if not isinstance(text, str):
        raise ValueError("not plain bytes")
    return text.encode("latin1")


_NDARRAY = object()
"""Stands in for ``numpy.ndarray``, which pickles only name."""

_GLOBALS: dict[str, Any] = {
    "numpy dtype": _Dtype,
    "numpy ndarray": _NDARRAY,
    "_codecs encode": _latin1,
    **{
        f"numpy.{core}.multiarray {name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _Array), ("scalar", _scalar))
    },
}
_CALLABLE = (_Dtype, _latin1, _Array, _scalar)

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
"""Instructions whose argument is the value."""
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset(("PROTO", "FRAME"))


class _Machine:
    """The stack machine of pickles, as far as plain data need it."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: _Bounded) -> Any:
        """The object that the pickle in ``file`` describes, with stand-ins for arrays in it."""
        stack, memo = self._stack, self._memo
        instructions = pickletools.genops(file)  # type: ignore[arg-type]
        argument: Any
        for number, (opcode, argument, _) in enumerate(instructions):
            if number == _MOST_INSTRUCTIONS:
                raise ValueError(f"more than {_MOST_INSTRUCTIONS:,} instructions")
            name = opcode.name
            if name in _LITERALS:
                stack.append(argument)
            elif name in _GETS:
                stack.append(memo[int(argument)])
            elif name in _PUTS:
                memo[int(argument)] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name == "STOP":
                return stack.pop()
            elif name not in _IGNORED:
                self._follow(name, argument)
        raise EOFError

    def _follow(self, name: str, argument: Any) -> None:
        """One of the rarer instructions."""
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._taken(len(stack) - _TUPLES[name])))
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "LIST":
            stack.append(self._marked())
        elif name == "DICT":
            stack.append(_set_items({}, self._marked()))
        elif name in ("APPENDS", "APPEND"):
            values = self._marked() if name == "APPENDS" else self._taken(len(stack) - 1)
            _is(stack[-1], list).extend(values)
        elif name in ("SETITEMS", "SETITEM"):
            values = self._marked() if name == "SETITEMS" else self._taken(len(stack) - 2)
            _set_items(_is(stack[-1], dict), values)
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name == "STACK_GLOBAL":
            named, module = stack.pop(), stack.pop()
            stack.append(_global(f"{_is(module, str)} {_is(named, str)}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not any(function is allowed for allowed in _CALLABLE):
                raise ValueError(f"calling {_name(function)} is not allowed")
            stack.append(function(*_is(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            if type(stack[-1]) not in (_Dtype, _Array):
                raise ValueError(f"the state of {_name(stack[-1])} is not allowed")
            stack[-1].build(_is(state, tuple))
        elif name == "POP":
            stack.pop()
        else:
            raise ValueError(f"instruction {name} is not allowed")

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark off the stack."""
        return self._taken(self._marks.pop())

    def _taken(self, start: int) -> list[Any]:
        """Take all from place ``start`` on off the stack."""
        if not 0 <= start <= len(self._stack):
            raise IndexError("stack underflow")
        values = self._stack[start:]
        del self._stack[start:]
        return values


def _global(name: str) -> Any:
    if name not in _GLOBALS:
        raise ValueError(f"{shown(name.replace(' ', '.'))} is not allowed")
    return _GLOBALS[name]


def _set_items(target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Only these: to hash a tuple of tuples may take for ever.
        if not isinstance(key, str | int):
            raise ValueError(f"{_name(key)} as a key is not allowed")
        target[key] = value
    return target


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{_name(value)} where a {kind.__name__} is expected")
    return value


def _name(value: Any) -> str:
    return repr(value[:20]) if isinstance(value, str) else type(value).__name__.lstrip("_")


def _plain(value: Any) -> Any:
    """``value`` with every stand-in replaced by what it holds; sharing stays as it is."""
    done: dict[int, Any] = {}

    def convert(item: Any, depth: int) -> Any:
        if item is None or isinstance(item, str | bytes | bool | int | float | np.ndarray):
            return item
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if id(item) in done:
            if done[id(item)] is _UNFINISHED:
                raise ValueError("a value holds itself")
            return done[id(item)]
        done[id(item)] = _UNFINISHED
        if isinstance(item, _Array):
            result = convert(item.content, depth + 1)
        elif isinstance(item, dict):
            result = {key: convert(part, depth + 1) for key, part in item.items()}
        elif isinstance(item, list | tuple):
            result = type(item)([convert(part, depth + 1) for part in item])
        else:
            raise ValueError(f"{_name(item)} is not allowed")
        done[id(item)] = result
        return result

    return convert(value, 0)


_UNFINISHED = object()
