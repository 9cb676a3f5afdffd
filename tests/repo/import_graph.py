"""Which module of this repository imports which, read from the sources without importing any."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGES = ("wam", "pipeline", "flows")

Graph = Mapping[str, set[str]]
"""Names of modules, each with those that it imports, inside functions as well."""


def read_imports(root: Path, *, for_types: bool = True) -> dict[str, set[str]]:
    """The graph of all modules below ``root``; a package counts as its ``__init__``.

    ``for_types``: with what is imported under ``if TYPE_CHECKING``, which no process ever runs.
    """
    modules = {
        _name(path.relative_to(root)): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    return {
        name: set(_imported(ast.parse(path.read_text()), modules.keys(), for_types)) - {name}
        for name, path in modules.items()
    }


def reachable(graph: Graph, start: Iterable[str], left_out: Iterable[str] = ()) -> set[str]:
    """``start`` and all that it imports, directly or not, but for what is ``left_out``.

    A package that is left out takes everything in it along.
    """
    closed = tuple(left_out)
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found and not any(f"{name}.".startswith(f"{out}.") for out in closed):
            found.add(name)
            waiting += graph[name]
    return found


def cycles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or not; empty if there are none."""
    reach = {name: reachable(graph, graph[name]) for name in graph}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST, modules: Iterable[str], for_types: bool) -> Iterable[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from {inner if inner in modules else node.module}.intersection(modules)
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names}.intersection(modules)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            if for_types:
                yield from _imported(node, modules, for_types)
        else:
            yield from _imported(node, modules, for_types)
