"""The outer flow: Prefect decides when, DVC decides what is stale.

One task per DVC stage, each ``dvc --wait-for-lock repro --single-item STAGE``. Nothing runs beside
DVC, so a deployment run leaves the same ``dvc.lock`` as ``dvc repro``.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed, State

from pipeline.artifacts.layout import Layout
from pipeline.params import load_profile
from wam.errors import WamError

DVC_FILE = Path("dvc.yaml")


def stage_names(profile: str, only: str | None = None) -> list[str]:
    """DVC stage names of ``profile`` in the order of ``dvc.yaml``, which is a topological one.

    ``only`` keeps one stage, for all variants (``train_world_model``) or for one
    (``train_world_model@demo-wam``). Raises WamError where it names nothing.
    """
    document = yaml.safe_load(DVC_FILE.read_text())
    variants = next(entry["variants"] for entry in document["vars"] if "variants" in entry)
    names = []
    for stage, definition in document["stages"].items():
        if "variant" in definition["matrix"]:
            names += [f"{stage}@{profile}-{variant}" for variant in variants]
        else:
            names.append(f"{stage}@{profile}")
    if only is None:
        return names
    chosen = [name for name in names if only in (name, name.split("@")[0])]
    if not chosen:
        known = ", ".join(document["stages"])
        raise WamError(
            f"stage '{only}' is not in {DVC_FILE} for profile '{profile}'; known: {known}"
        )
    return chosen


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def reproduce_stage(stage: str, force: bool = False) -> State[Any] | None:
    """Bring one DVC stage up to date, streaming its output to the run's log."""
    logger = get_run_logger()
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    if force:
        command.append("--force")
    # The stage's own commands (wam, python) have to be those of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    last = ""
    with subprocess.Popen(
        command,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for raw_line in process.stdout:
            line = raw_line.rstrip()
            if line and not line.startswith(
                ("To track the changes", "\tgit add", "To enable auto")
            ):
                logger.info(line)
                last = line
    if not process.returncode:
        return None
    message = f"stage {stage} failed with status {process.returncode}: {last}"
    if "is not a git repository" in last:
        message += "; 'dvc config --local core.no_scm true' lets DVC do without git"
    return Failed(message=message)


@contextlib.contextmanager
def _turn(profile: str) -> Iterator[None]:
    """Waits for a ``make run`` or flow of the same profile, and makes others wait.

    ``--wait-for-lock`` does not: it waits for DVC itself, but not for a stage that another DVC
    runs, whose outputs are busy.
    """
    path = Path(".dvc") / "tmp" / f"run-{profile}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            get_run_logger().info("waiting for another run of profile '%s' ...", profile)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            get_run_logger().warning("%s: no locks on this file system (%s)", path, error.strerror)
        yield


@flow(name="reproduce", flow_run_name="{profile}", persist_result=False)
def reproduce(
    profile: str = "demo", stage: str | None = None, force: bool = False
) -> State[Any] | None:
    """Bring a profile up to date, or one stage of it.

    Args:
        profile: top-level key of ``params.yaml``.
        stage: one stage of ``dvc.yaml``, such as ``convert`` or ``finetune``; all if left out.
        force: run stages even where nothing changed.
    """
    try:
        load_profile(profile)
        names = stage_names(profile, stage)
    except WamError as error:
        return Failed(message=str(error))
    with _turn(profile):
        for name in names:
            state = reproduce_stage(name, force=force, return_state=True)
            if not state.is_completed():
                return Failed(message=state.message)
    table = Layout.of(profile).results / "table.md"
    if stage is None and table.is_file():
        create_markdown_artifact(
            key=f"results-{profile.replace('_', '-')}", markdown=table.read_text()
        )
    return None
