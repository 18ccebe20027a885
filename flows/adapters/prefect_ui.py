"""Prefect for the flows: tasks, progress bars, tables, pages and lines in the log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

from flows import console
from flows.adapters.prefect_outage import attempt
from flows.adapters.prefect_states import task_ended

Result = TypeVar("Result")

UPDATE_SECONDS = 3.0


class ProgressBar:
    """A Prefect progress artifact, created with the first event and updated every few seconds."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._id: UUID | None = None
        self._updated = 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        """Show the progress that ``event`` reports, if it reports any."""
        if "progress" not in event or time.monotonic() - self._updated < UPDATE_SECONDS:
            return
        percent, message = min(100.0, 100 * float(event["progress"])), str(event.get("message", ""))
        attempt(lambda: self._show(percent, message))

    def finish(self) -> None:
        if self._id is not None:
            attempt(lambda: self._show(100.0, "done"))

    def _show(self, percent: float, message: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        self._updated = time.monotonic()
        text = f"{self.stage}: {message}" if message else self.stage
        if self._id is None:
            created = create_progress_artifact(percent, key=f"{self.stage}-progress", description=text)
            assert isinstance(created, UUID)
            self._id = created
        else:
            update_progress_artifact(self._id, percent, description=text)


def tell(message: str) -> None:
    """One line of progress, on the terminal and in the run's log in Prefect."""
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    console.say(message)
    with suppress(MissingContextError):
        get_run_logger().info(message)


@contextmanager
def progress(stage: str) -> Iterator[ProgressBar]:
    """A progress bar that is filled when the block ends without an error."""
    bar = ProgressBar(stage)
    yield bar
    bar.finish()


def table(key: str, facts: Iterable[tuple[str, str]], description: str) -> None:
    """Publish facts as a table of two columns. It is markdown: Prefect's own tables show ten rows at a time."""
    page(key, markdown_table(facts), description)


def markdown_table(facts: Iterable[tuple[str, str]]) -> str:
    """A table of two columns, whose addresses can be clicked."""
    cells = [(name, value.replace("|", "\\|").replace("\n", " ")) for name, value in facts]
    return "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {_linked(value)} |" for name, value in cells)])


def _linked(value: str) -> str:
    return f"[{value}]({value})" if value.startswith("http") else value


def page(key: str, markdown: str, description: str) -> None:
    """Publish a page of markdown, for example the report of a model."""
    from prefect.artifacts import create_markdown_artifact

    attempt(lambda: create_markdown_artifact(markdown, key=key, description=description))


def flow_run_id() -> str:
    """Id of the Prefect run that this code is part of; empty outside of one."""
    if "prefect" not in sys.modules:
        return ""
    from prefect.runtime import flow_run

    return str(flow_run.id or "")


def is_from_deployment() -> bool:
    """Whether this code is a run of a deployment: started in the form, by a schedule or through Prefect's API."""
    if "prefect" not in sys.modules:
        return False
    from prefect.runtime import deployment

    return deployment.id is not None


def run_as_task(
    action: Callable[[], Result],
    *,
    name: str,
    run_name: str,
    retries: int,
    retry_on: type[Exception],
    kept: Callable[[], str],
) -> Result:
    """Do ``action`` as a task of the flow's Prefect run; errors of the kind ``retry_on`` are tried again.

    ``kept`` says what is left of an interrupted action. Prefect's own result cache is off and nothing is persisted:
    what was made lies in the workspace.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.schemas.objects import State, TaskRun

    def worth_retrying(task: Any, run: TaskRun, state: State[Any]) -> bool:
        return isinstance(state.result(raise_on_failure=False), retry_on)

    stopped: list[BaseException] = []
    decorated = task(
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=2,
        retry_condition_fn=worth_retrying,
    )(lambda: task_ended(action, retry_on, kept, stopped))
    state: State[Any] = decorated(return_state=True)
    if stopped:
        raise stopped[0]
    result: Result = state.result()
    return result
