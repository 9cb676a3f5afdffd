"""The convert flow against a real, temporary Prefect server."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline import workers
from pipeline.artifacts.layout import Layout
from pipeline.calvin import on_disk
from pipeline.params import load_profile
from pipeline.stages import index
from pipeline.store.open import open_store, verify_store

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a profile ``tiny``, its raw frames and its index."""
    spec = importlib.util.spec_from_file_location(
        "tiny_data", REPOSITORY / "tests" / "pipeline" / "conftest.py"
    )
    assert spec is not None and spec.loader is not None
    tiny_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_data)
    tiny_data.make_raw(tmp_path / "raw")
    profile = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["ci"]
    profile["raw"]["path"] = str(tmp_path / "raw")
    profile["env"]["differences"] = "allow"
    profile["convert"] |= {"shard_frames": 32, "chunk_frames": 8, "workers": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"tiny": profile}))
    monkeypatch.chdir(tmp_path)
    index.run(load_profile("tiny"), Layout.of("tiny"))
    return tmp_path


def test_flow_maps_shards_over_dask_and_names_a_bad_frame(
    project: Path, prefect_server: None
) -> None:
    from prefect.client.orchestration import get_client

    from flows.convert import BAD_INPUT, convert_flow, task_runner

    layout = Layout.of("tiny")
    path = on_disk.frame_path(project / "raw" / "training", 150)
    good = path.read_bytes()
    path.write_bytes(good[:500])
    with workers.scheduler(load_profile("tiny").convert) as address:
        flow = convert_flow.with_options(task_runner=task_runner(address))
        state = flow("tiny", return_state=True)
    assert state.is_failed()
    assert state.name == BAD_INPUT
    assert state.message is not None
    assert "training/episode_0000150.npz: truncated" in state.message
    assert not layout.store.exists()

    path.write_bytes(good)
    with workers.scheduler(load_profile("tiny").convert) as address:
        flow = convert_flow.with_options(task_runner=task_runner(address))
        state = flow("tiny", return_state=True)
    assert state.is_completed()
    assert open_store(layout.store / "training.zarr").num_frames == 120
    assert verify_store(layout.store).damages == []
    with get_client(sync_client=True) as client:
        names = {run.name for run in client.read_task_runs(limit=200)}
        artifacts = {artifact.key for artifact in client.read_artifacts()}
    assert {f"shard-training-{number}" for number in range(4)} <= names
    assert {"tiny-convert", "tiny-store"} <= artifacts


def test_flow_in_one_thread_gives_the_same_bytes_as_no_flow(
    project: Path, prefect_server: None
) -> None:
    from flows.convert import convert_flow, task_runner
    from pipeline.stages import convert

    document = yaml.safe_load(Path("params.yaml").read_text())
    document["tiny"]["convert"]["workers"] = 1
    Path("params.yaml").write_text(yaml.safe_dump(document))
    profile, layout = load_profile("tiny"), Layout.of("tiny")
    flow = convert_flow.with_options(task_runner=task_runner(None))
    assert flow("tiny", return_state=True).is_completed()
    first = (layout.store / "manifest.json").read_bytes()
    shutil.rmtree(layout.store)
    convert.run(profile, layout)
    assert (layout.store / "manifest.json").read_bytes() == first


def test_a_conversion_is_a_subflow_of_the_run_that_asked_for_it(
    project: Path, prefect_server: None
) -> None:
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.settings import PREFECT_API_URL

    from flows.parent import for_subflows

    server = PREFECT_API_URL.value()
    assert server is not None
    ours = {"PREFECT_API_URL": server}

    @task
    def stage(environment: dict[str, str]) -> int:
        process = start(project, **for_subflows() | environment)
        said(process)
        return process.returncode

    @flow
    def asking(environment: dict[str, str]) -> int:
        return stage(environment)

    def below(environment: dict[str, str]) -> list[str]:
        """The flow runs below one of ``asking``, by the name of their flow."""
        state = asking(environment, return_state=True)
        assert state.result() == 0
        shutil.rmtree(Layout.of("tiny").store)
        parent = state.state_details.flow_run_id
        wanted = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [parent]}})
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=wanted)
            return [client.read_flow(run.flow_id).name for run in runs]

    assert below(ours) == ["convert"]
    assert below(ours | {"WAM_PARENT_SERVER": "http://127.0.0.1:1/api"}) == []


def said(process: subprocess.Popen[str]) -> list[str]:
    """All lines of a process, but for the notice of a busy machine."""
    lines = process.communicate()[0].splitlines()
    return [line for line in lines if not line.startswith("! waiting for Dask workers")]


def start(project: Path, **environment: str) -> subprocess.Popen[str]:
    """The command of the DVC stage, on a profile ``tiny``."""
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.convert", "--profile", "tiny"],
        cwd=project,
        env=kept | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("environment", "warning"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, "no server answers at PREFECT_API_URL"),
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api", "HTTP_PROXY": "nonsense://"}, "Prefect: "),
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "no temporary server starts"),
    ],
)
def test_without_a_server_the_conversion_does_without_prefect(
    environment: dict[str, str], warning: str, project: Path
) -> None:
    process = start(project, **environment)
    lines = said(process)
    assert process.returncode == 0
    assert len(lines) == 2
    assert warning in lines[0]
    assert verify_store(Layout.of("tiny").store).damages == []


def test_a_server_that_dies_is_one_line_and_the_conversion_goes_on(project: Path) -> None:
    layout = Layout.of("tiny")
    process = start(project)
    records = layout.store.with_name("store.partial") / ".work" / "records"
    while not any(records.glob("*.json")):
        assert process.poll() is None
    (server,) = [
        child
        for child in psutil.Process(process.pid).children()
        if any("uvicorn" in word for word in child.cmdline())
    ]
    server.kill()
    lines = said(process)
    assert process.returncode == 0
    assert "lost the server" in lines[0]
    assert len(lines) == 2
    assert verify_store(layout.store).damages == []


def test_a_proxy_is_not_between_us_and_a_server_of_this_machine(project: Path) -> None:
    process = start(project, HTTP_PROXY="http://127.0.0.1:1")
    lines = said(process)
    assert process.returncode == 0
    assert len(lines) == 1
