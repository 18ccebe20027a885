"""Runs whose process was killed are closed; all others are left alone. On a real server of Prefect."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.adapters import prefect_runs
from flows.adapters.databases import damage, open_runs, schema_age
from flows.adapters.prefect_runs import close_abandoned, name_process
from flows.owner import this_process

pytestmark = [pytest.mark.slow]

GONE = "from flows.owner import this_process; print(this_process())"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a server with an empty database."""
    from flows.adapters.prefect_server import PrefectServer

    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("prefect")
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{home / 'prefect.db'}")
        patch.setenv("PREFECT_API_URL", "")
        server = PrefectServer()
        server.wait()
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}), get_client(sync_client=True) as made:
            yield made
        server.stop()


@pytest.fixture(scope="module")
def gone() -> str:
    """The record of a process that has ended."""
    return subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True, check=True).stdout.strip()


def running(client: Any, owner: str = "") -> UUID:
    """A run in the state *Running*, with one task, begun by the process ``owner``."""
    from prefect import flow, task
    from prefect.states import Running

    @flow(name="pipeline")
    def pipeline() -> None: ...

    @task(name="pretrain")
    def pretrain() -> None: ...

    run = client.create_flow_run(pipeline, state=Running())
    client.create_task_run(pretrain, run.id, dynamic_key="0", state=Running())
    if owner:
        client.update_flow_run(run.id, infrastructure_pid=owner)
    return UUID(str(run.id))


def state(client: Any, run: UUID) -> str:
    return str(client.read_flow_run(run).state_type.value)


def test_a_run_is_closed_if_its_process_has_gone(client: Any, gone: str) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    killed, alive = running(client, gone), running(client, this_process())
    elsewhere = running(client, "another-machine:4711")
    assert close_abandoned(own_server=False) == [client.read_flow_run(killed).name]
    assert [state(client, run) for run in (killed, alive, elsewhere)] == ["CRASHED", "RUNNING", "RUNNING"]
    assert "Run the same command again" in client.read_flow_run(killed).state.message
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[killed])))
    assert [task.state_type.value for task in tasks] == ["CRASHED"]
    assert close_abandoned(own_server=False) == []


def test_a_run_without_a_name_is_closed_on_our_own_server_and_after_a_while(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running(client)
    assert close_abandoned(own_server=True) == []
    monkeypatch.setattr(prefect_runs, "NAMING_TIMEOUT", timedelta(0))
    assert close_abandoned(own_server=False) == []
    assert close_abandoned(own_server=True) == [client.read_flow_run(run).name]
    assert state(client, run) == "CRASHED"


def test_a_flow_names_its_process(client: Any, tmp_path: Path) -> None:
    run = running(client)
    name_process(None, client.read_flow_run(run), None)
    assert client.read_flow_run(run).infrastructure_pid == this_process()
    assert close_abandoned(own_server=True) == []


def test_open_runs_are_seen_in_the_database_without_prefect(client: Any) -> None:
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    run = running(client, this_process())
    assert (client.read_flow_run(run).name, this_process()) in open_runs(database, "prefect")
    assert schema_age(database, "prefect") == "current"
    assert damage(database) == ""
