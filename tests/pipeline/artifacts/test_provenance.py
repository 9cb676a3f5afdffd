"""What counts as the code that made an artifact."""

import shutil
import tomllib
from pathlib import Path

import pytest

from pipeline.artifacts import provenance

ROOT = Path(__file__).parents[3]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
DATA = sorted(
    path.relative_to(ROOT)
    for package, patterns in SETUPTOOLS["package-data"].items()
    for pattern in patterns
    for path in (ROOT / package).glob(pattern)
)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one module and all package data, which the digest is of."""
    for path in (Path("wam/__init__.py"), *DATA):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    return tmp_path


def digest() -> str:
    """As a new process computes it."""
    return provenance.code_digest.__wrapped__()


@pytest.mark.parametrize("path", [Path("wam/__init__.py"), *DATA], ids=str)
def test_every_file_that_is_installed_counts(checkout: Path, path: Path) -> None:
    before = digest()
    with (checkout / path).open("a") as file:
        file.write("\n")
    assert digest() != before


def test_what_no_checkout_has_does_not_count(checkout: Path) -> None:
    before = digest()
    for name in ("__pycache__/a.cpython-311.pyc", ".style.css.swp", "style.css~"):
        path = checkout / "wam" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("a")
    assert digest() == before


@pytest.mark.parametrize(
    ("commit", "dirty", "words"),
    [
        ("0123456789abcdef", False, "0123456789"),
        ("0123456789abcdef", True, "0123456789, changed"),
        (None, None, "no commit"),
    ],
)
def test_the_commit_is_told_in_the_same_words(
    commit: str | None, dirty: bool | None, words: str
) -> None:
    assert provenance.commit_of({"commit": commit, "dirty": dirty}) == words
