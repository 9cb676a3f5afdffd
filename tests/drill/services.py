"""Deaths of Dask workers and schedulers and of Prefect servers: the tests of these, as trials."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from tests.drill.kills import Trial

_REPOSITORY = Path(__file__).parents[2]
_TESTS = {
    "Dask": "tests/pipeline/test_workers.py",
    "Dask, local cluster": "tests/pipeline/stages/test_convert_at_scale.py",
    "Prefect": "tests/flows/test_convert.py",
}


def trials(project: Path) -> Iterator[Trial]:
    """A trial per test, in processes of their own."""
    report = project / "services.xml"
    for service, tests in _TESTS.items():
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", tests]
        subprocess.run(command, cwd=_REPOSITORY, capture_output=True, check=False)
        for case in ElementTree.parse(report).iter("testcase"):
            wrong = tuple(str(found.get("message")) for kind in _WRONG for found in case.iter(kind))
            yield Trial(service, "a service that dies", str(case.get("name")), wrong)


_WRONG = ("failure", "error", "skipped")
