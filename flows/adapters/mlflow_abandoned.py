"""Runs that were left open: their process was killed before it could say how they ended."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flows.adapters.mlflow_connection import ERROR, PROCESS, Connection
from flows.owner import is_gone

if TYPE_CHECKING:
    from mlflow.entities import Run


def close_abandoned(connection: Connection) -> list[str]:
    """End every run of the experiment whose process has ended; returns their names.

    A run of another machine, or one that says nothing of its process, is left alone.
    """
    abandoned = [run for run in _running(connection) if is_gone(run.data.tags.get(PROCESS, ""))]
    for run in abandoned:
        connection.client.set_tag(run.info.run_id, ERROR, "its process ended before it could close this run")
        connection.client.set_terminated(run.info.run_id, "KILLED")
    return [run.info.run_name for run in abandoned]


def _running(connection: Connection) -> Iterator["Run"]:
    page, token = None, None
    while page is None or token:
        query = "attributes.status = 'RUNNING'"
        page = connection.client.search_runs([connection.experiment_id], query, page_token=token)
        token = page.token
        yield from page
