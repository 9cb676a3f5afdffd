"""Flow runs of other processes as subflows of the run that started them."""

import os
from typing import Any
from uuid import UUID, uuid4

from prefect import Flow, Task
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_API_URL
from prefect.states import Pending

_FLOW_RUN, _SERVER = "WAM_PARENT_FLOW_RUN", "WAM_PARENT_SERVER"


def for_subflows() -> dict[str, str]:
    """The environment by which a process started in a task run knows the flow run above."""
    context, server = TaskRunContext.get(), PREFECT_API_URL.value()
    if context is None or context.task_run.flow_run_id is None or server is None:
        return {}
    return {_FLOW_RUN: str(context.task_run.flow_run_id), _SERVER: server}


def subflow_run(flow: Flow[Any, Any], parameters: dict[str, Any]) -> FlowRun | None:
    """A run of ``flow`` below the flow run in which this process was started.

    None if it was started in none, or in one of another server, which this one knows nothing of.
    """
    parent = os.environ.get(_FLOW_RUN)
    if parent is None or os.environ.get(_SERVER) != PREFECT_API_URL.value():
        return None
    with get_client(sync_client=True) as client:
        # As Prefect does for subflows of one process: a task run of its own stands for the subflow
        # in its parent, and follows its states.
        place = client.create_task_run(
            Task(flow.fn, name=flow.name), UUID(parent), str(uuid4()), state=Pending()
        )
        return client.create_flow_run(
            flow, parameters=parameters, parent_task_run_id=place.id, state=Pending()
        )
