"""What people see in Prefect: a progress bar while a stage runs, a table when it has ended, reports as pages."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from components.core.durations import duration
from flows import console

if TYPE_CHECKING:
    from flows.stage import Outcome

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
        self._show(min(100.0, 100 * float(event["progress"])), str(event.get("message", "")))

    def finish(self) -> None:
        if self._id is not None:
            self._show(100.0, "done")

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
    """One line about what is going on: on the terminal, and in the run's log in Prefect."""
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


def stage_table(stage: str, outcome: "Outcome") -> None:
    """Publish what became of a stage as a Prefect table artifact."""
    from prefect.artifacts import create_table_artifact

    record = outcome.artifact.record
    facts = {
        "status": outcome.status,
        "reason": outcome.reason,
        "time": duration(outcome.seconds),
        "key": record.identity.key,
        "folder": str(outcome.artifact.folder),
        **{name: f"{value:,.6g}" for name, value in record.metrics.items()},
        **{name: str(value) for name, value in record.details.items() if isinstance(value, str | int | float | bool)},
    }
    create_table_artifact(
        [{"what": name, "value": value} for name, value in facts.items()],
        key=f"{stage}-result",
        description=f"{stage}: {outcome.status}, {outcome.reason}",
    )


def page(key: str, markdown: str, description: str) -> None:
    """Publish a page of markdown, for example the report of a model."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(markdown, key=key, description=description)
