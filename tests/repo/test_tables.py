from pathlib import Path

import pytest

from tests.repo.checkout import changed
from tests.repo.tables import DOCUMENTS, ROOT, filled


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_of_documents_are_those_of_the_results(document: str) -> None:
    if changed("data"):
        pytest.skip("own results lie in data/: documents show those that are in git")
    text = (ROOT / document).read_text()
    assert filled(text) == text, "run: python -m tests.repo.tables"


def test_the_readme_shows_what_the_demo_measured() -> None:
    assert "<!-- table: data/demo/results/table.md -->" in (ROOT / "README.md").read_text()


def test_only_what_lies_between_the_marks_is_written(tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("| new |\n")
    text = "a\n<!-- table: table.md -->\n| old |\n<!-- end of table -->\nb\n"
    assert filled(text, tmp_path) == text.replace("old", "new")
    with pytest.raises(FileNotFoundError):
        filled(text.replace("table.md", "missing.md"), tmp_path)
