"""YAML of unknown origin: what ``yaml.safe_load`` gives, or one short sentence.

A few hundred bytes of aliases spell out gigabytes, nesting exhausts the stack, and of two values of
the same key the first is lost without a word. Here all of that ends in a WamError.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.untrusted.text import MISFITS
from wam.errors import WamError

MOST_CHARACTERS = 1 << 18
_MOST_NODES = 50_000
"""With every alias spelled out; long texts count as several."""
_CHARACTERS_PER_NODE = 32
_DEEPEST = 40
_LONGEST_NUMBER = 1000
"""Characters of a scalar that is not text; Python refuses to print much longer numbers."""
_SHOWN = 60


def load(text: str, where: Path | str) -> Any:
    """The only document of ``text``, which is empty (None) or holds plain data.

    Raises WamError naming ``where`` and the line if it is not YAML, too large with its aliases
    spelled out, too deep, refers to itself, or has a key twice in one mapping.
    """
    if len(text) > MOST_CHARACTERS:
        raise WamError(
            f"{where}: has {len(text):,} characters; expected at most {MOST_CHARACTERS:,}"
        )
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark or error.context_mark)
        problem = (error.problem or error.context or "unreadable").splitlines()[0]
        raise WamError(f"{where}: not valid YAML ({place}{_shown(problem)})") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "reason", None) or "characters that YAML does not allow"
        raise WamError(f"{where}: not valid YAML ({_shown(problem)})") from None
    except _Refused as error:
        raise WamError(f"{where}: {_place(error.mark)}{error}") from None
    except MISFITS as error:  # of a scalar that is not of the type of its tag
        kind = type(error).__name__
        raise WamError(
            f"{where}: not valid YAML (a value that is not of its type: {kind})"
        ) from None


class _Refused(Exception):
    """Valid YAML that is not read."""

    def __init__(self, mark: Any, message: str) -> None:
        super().__init__(message)
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """Counts nodes while they are composed: nothing is constructed of a document that is refused.

    PyYAML's own parser keeps no stack of calls, so that nesting is harmless up to here.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._num_nodes = 0
        self._nodes_of: dict[int, int] = {}
        """By the identity of a finished node: how many it stands for."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self._depth == _DEEPEST:
            raise _Refused(event.start_mark, f"nested deeper than {_DEEPEST} levels")
        before = self._num_nodes
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._nodes_of:
                raise _Refused(event.start_mark, f"*{_shown(str(event.anchor))} holds itself")
            self._count(self._nodes_of[id(node)], event.start_mark)
        else:
            self._count(1, event.start_mark)
            self._nodes_of[id(node)] = self._num_nodes - before
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        is_text = node.tag == self.DEFAULT_SCALAR_TAG
        if not is_text and len(node.value) > _LONGEST_NUMBER:
            raise _Refused(node.start_mark, f"a number of {len(node.value):,} characters")
        self._count(len(node.value) // _CHARACTERS_PER_NODE, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        found: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in found:
                    raise _Refused(key.start_mark, f"key {_shown(key.value)!r} is there twice")
                found.add((key.tag, key.value))
        return node

    def _count(self, nodes: int, mark: Any) -> None:
        self._num_nodes += nodes
        if self._num_nodes > _MOST_NODES:
            raise _Refused(mark, f"more than {_MOST_NODES:,} values with all aliases spelled out")


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark is not None else ""


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
