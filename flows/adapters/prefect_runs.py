"""The runs in Prefect: each names its process, and runs whose process has gone are closed.

A process that is killed cannot tell Prefect, so its run would stay *Running* for ever. Prefect keeps with a run what
executes it (``infrastructure_pid``); here that is a record of ``flows.owner``.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from components.core.errors import ServiceError
from flows.adapters.prefect_outage import attempt
from flows.owner import is_gone, this_process

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

# A flow names its process as soon as it runs; one that was killed before is recognised by its age.
NAMING_TIMEOUT = timedelta(minutes=1)
PAGE = 200
MESSAGE = "The process of this run was killed. Run the same command again: it goes on where this one ended."


def name_process(flow: Any, flow_run: "FlowRun", state: Any) -> None:
    """Hook for a run that begins: record its process."""
    from prefect.client.orchestration import get_client

    def record() -> None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, infrastructure_pid=this_process())

    attempt(record)


def close_abandoned(own_server: bool, without_workers: bool = False) -> list[str]:
    """Mark runs as crashed whose process has gone, and their tasks with them; returns the names of these runs.

    Args:
        own_server: the server is the workspace's own. On another one, a run that names no process may be anybody's.
        without_workers: no worker of this server runs at the moment, so that whatever one had begun has ended.

    Raises ``ServiceError`` if the server does not answer.
    """
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            abandoned = [run for run in _unfinished(client) if _is_abandoned(run, own_server, without_workers)]
            for run in abandoned:
                _close(client, run)
    except httpx.TransportError as error:
        address = os.environ.get("PREFECT_API_URL", "the address in its settings")
        raise ServiceError(
            f"Prefect's server at {address} does not answer ({error!r}): start it, or choose none, and a flow brings "
            "its own"
        ) from error
    return [run.name for run in abandoned]


def _unfinished(client: "SyncPrefectClient") -> "Iterator[FlowRun]":
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    start = 0
    while page := client.read_flow_runs(flow_run_filter=unfinished, limit=PAGE, offset=start):
        yield from page
        start += len(page)


def _is_abandoned(run: "FlowRun", own_server: bool, without_workers: bool) -> bool:
    if run.infrastructure_pid:
        return is_gone(run.infrastructure_pid)
    if not own_server:
        return False
    if run.deployment_id and (without_workers or run.state_type == "PENDING"):
        return without_workers  # a pending one waits for a worker, however long that takes
    begun = run.start_time or run.created
    return begun is not None and datetime.now(UTC) - begun > NAMING_TIMEOUT


def _close(client: "SyncPrefectClient", run: "FlowRun") -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Crashed

    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    for task in tasks:
        if task.state is None or not task.state.is_final():
            client.set_task_run_state(task.id, Crashed(message=MESSAGE), force=True)
    client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
