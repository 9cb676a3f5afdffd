"""What code and documents cite is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dvc.rwlock
import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
SOURCES = [
    path
    for folder in ("wam", "pipeline", "flows", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
]
CITATION = re.compile(r"docs/(\w+)\.md ((?:\d+(?:\.\d+)*(?:, | and | to )?)+)")


def sections(name: str) -> set[str]:
    """Numbers of the headings of a document."""
    text = (ROOT / "docs" / f"{name}.md").read_text()
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", text, re.MULTILINE))


def citations(path: Path) -> list[tuple[str, str]]:
    """Document and section of everything that a file cites, also over the end of a line."""
    text = re.sub(r"\n\s*#?\s*", " ", path.read_text())
    return [
        (document, number)
        for document, numbers in CITATION.findall(text)
        for number in re.findall(r"\d+(?:\.\d+)*", numbers)
    ]


def test_every_cited_section_is_there() -> None:
    known = {name: sections(name) for name in ("algorithm", "calvin")}
    cited = [(path, *found) for path in [*SOURCES, *PAGES] for found in citations(path)]
    assert len(cited) > 80
    assert not [entry for entry in cited if entry[2] not in known[entry[1]]]


def test_no_document_is_cited_that_is_not_here() -> None:
    unknown = re.compile(r"\b(?:algorithm|CALVIN)[ \n#]+contract\b|\bcontract \d")
    assert not [path for path in [*SOURCES, *PAGES] if unknown.search(path.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_defects_that_are_held_off_have_the_tests_that_are_named() -> None:
    section = (ROOT / "docs" / "algorithm.md").read_text().split("## 10. ")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("|")][2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.rsplit("|", 2)[1])}
    tests = {
        node.name.removeprefix("test_")
        for path in SOURCES
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(named) > 20
    assert named <= tests


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_modules_and_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"\b(?:wam|pipeline|flows|tests|benchmarks)/[\w/]+\.py\b", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`((?:wam|pipeline|flows)(?:\.[a-z]\w*)+)", text):
        folder = ROOT / name.replace(".", "/")
        places = (folder, folder.with_suffix(".py"), folder.parent.with_suffix(".py"))
        assert any(place.exists() for place in places), name


def strings(path: Path) -> Iterator[str]:
    """The texts of a module, with a NUL for everything that is put into them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_messages_that_are_explained_are_said() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text().split("## Messages")[1]
    told: list[str] = []
    for line in text.splitlines():
        if line.startswith("| `"):
            told += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    assert len(told) > 8
    modules = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "wam").rglob("*.py")]
    said = [text for path in [*modules, Path(dvc.rwlock.__file__)] for text in strings(path)]
    assert [m for m in told if not any(m.strip(". ") in text for text in said)] == []
