"""Flow runs of other processes as subflows of the run that started them."""

import os
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_API_URL

_TASK_RUN, _SERVER = "WAM_PARENT_TASK_RUN", "WAM_PARENT_SERVER"


def for_subflows() -> dict[str, str]:
    """The environment by which a process started in a task run knows its parent."""
    context, server = TaskRunContext.get(), PREFECT_API_URL.value()
    if context is None or server is None:
        return {}
    return {_TASK_RUN: str(context.task_run.id), _SERVER: server}


def subflow_run(flow: Flow[Any, Any], parameters: dict[str, Any]) -> FlowRun | None:
    """A run of ``flow`` below the task run that started this process.

    None if none did, or one of another server, which this one knows nothing of.
    """
    parent = os.environ.get(_TASK_RUN)
    if parent is None or os.environ.get(_SERVER) != PREFECT_API_URL.value():
        return None
    with get_client(sync_client=True) as client:
        return client.create_flow_run(flow, parameters=parameters, parent_task_run_id=UUID(parent))
