from pathlib import Path

from tests.repo.import_graph import cycles, reachable, read_imports

FILES = {
    "wam/__init__.py": "",
    "wam/a.py": (
        "import wam.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from wam import c\n"
    ),
    "wam/b.py": "import os\ndef late():\n    from wam.inner.d import thing\n",
    "wam/c.py": "from wam.a import x\n",
    "wam/inner/__init__.py": "",
    "wam/inner/d.py": "",
}


def made(root: Path, for_types: bool) -> dict[str, set[str]]:
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return read_imports(root, for_types=for_types)


def test_modules_are_found_wherever_they_are_imported(tmp_path: Path) -> None:
    graph = made(tmp_path, for_types=True)
    assert graph["wam.a"] == {"wam.b", "wam.c"}
    assert graph["wam.b"] == {"wam.inner.d"}
    assert made(tmp_path, for_types=False)["wam.a"] == {"wam.b"}


def test_reachable_stops_at_what_is_left_out(tmp_path: Path) -> None:
    graph = made(tmp_path, for_types=False)
    assert reachable(graph, ["wam.a"]) == {"wam.a", "wam.b", "wam.inner.d"}
    assert reachable(graph, ["wam.a"], ["wam.inner"]) == {"wam.a", "wam.b"}


def test_a_cycle_through_types_is_a_cycle(tmp_path: Path) -> None:
    assert cycles(made(tmp_path, for_types=True)) == [["wam.a", "wam.c"]]
    assert cycles(made(tmp_path, for_types=False)) == []
