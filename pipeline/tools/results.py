"""``wam results``: the results table of a finished run."""

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import read_manifest
from pipeline.params import Profile


def run(profile: Profile, layout: Layout) -> None:
    """Print the table that the stage ``report`` left. Raises WamError if there is none.

    Without tasks there is nothing to print.
    """
    if not profile.tasks:
        return
    read_manifest(layout.results, "report")
    console.console.print((layout.results / "table.txt").read_text(), end="")
