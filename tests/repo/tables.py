"""``python -m tests.repo.tables`` writes results into the documents that show them.

Between ``<!-- table: FILE -->`` and ``<!-- end of table -->`` stands the content of FILE, a path
within the repository: a number in a document comes from the run that made it.
"""

import argparse
import re
from pathlib import Path

from wam.reliability.atomic import replacing

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")))
_TABLE = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)


def filled(text: str, root: Path = ROOT) -> str:
    """``text`` with every table as its file has it. Raises FileNotFoundError without that file."""

    def table(found: re.Match[str]) -> str:
        content = (root / found[1]).read_text().strip()
        return f"<!-- table: {found[1]} -->\n{content}\n<!-- end of table -->"

    return _TABLE.sub(table, text)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text()
        if (after := filled(before)) != before:
            with replacing(path) as temporary:
                temporary.write_text(after)


if __name__ == "__main__":
    main()
