"""``wam run-study``: bring the study of ``params.yaml`` up to date, runs side by side."""

from pipeline import console
from pipeline.cores import available_cores
from pipeline.dvc_stages import shares, study_graph
from pipeline.params.study import Study, run_stages
from pipeline.room import study_bytes
from pipeline.tools.run import side_by_side


def run(study: Study, jobs: int | None) -> None:
    """Reproduce all runs and the report, ``jobs`` runs at a time (None: one per core).

    Raises WamError where a run fails, once those beside it have ended.
    """
    runs = run_stages(study)
    console.note(f"{len(study.cells)} cells x {len(study.seeds)} seeds on {study.base}")
    # Its first stages are the base's, which nobody else may run meanwhile.
    names = ["study", study.base]
    graph = study_graph(study.base, runs)
    side_by_side(names, graph, shares(jobs, most=available_cores()), study_bytes(study))
