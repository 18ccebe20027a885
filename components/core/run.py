"""What a stage is given: a folder of its own, its identity, and two ways to speak to the outside."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from components.core.acceptance import Acceptance
from components.core.artifact import LOCAL, Artifact, Rows
from components.core.identity import RecordedIdentity

EVENTS = "events.jsonl"

View = TypeVar("View", bound=Artifact)

LogMetrics = Callable[[Mapping[str, float], int | None], None]
ReportProgress = Callable[[float, str], None]


def _silent_log(metrics: Mapping[str, float], step: int | None = None) -> None:
    pass


def _silent_report(fraction: float, message: str = "") -> None:
    pass


@dataclass(frozen=True)
class Run:
    """One execution of one stage. The stage writes only inside ``folder``.

    ``log(metrics, step)`` records metrics (step ``None`` for metrics of the whole stage);
    ``report(fraction, message)`` says how far the stage is, between 0 and 1.
    """

    folder: Path
    identity: RecordedIdentity
    log: LogMetrics = field(default=_silent_log)
    report: ReportProgress = field(default=_silent_report)
    accepted: tuple[Acceptance, ...] = ()
    """What people have vouched for among the artifacts that this one is made from."""

    @overload
    def seal(self, metrics: dict[str, float], details: dict[str, Any] | None = None, rows: Rows = ()) -> Artifact: ...

    @overload
    def seal(
        self, metrics: dict[str, float], details: dict[str, Any] | None = None, rows: Rows = (), *, view: type[View]
    ) -> View: ...

    def seal(
        self,
        metrics: dict[str, float],
        details: dict[str, Any] | None = None,
        rows: Rows = (),
        *,
        view: type[Artifact] = Artifact,
    ) -> Artifact:
        """Finish the stage: record metrics, details and the digest of every file.

        Arguments:
            metrics: final metrics.
            details: facts that are not metrics.
            rows: what people see of this stage in the closing table.
            view: the class as which the artifact is returned.
        """
        return view.seal(self.folder, self.identity, metrics, details, rows, self.accepted)

    @classmethod
    def local(cls, folder: Path, stage: str = LOCAL, config: Mapping[str, Any] | None = None) -> "Run":
        """A run without adapters, for tests and notebooks; later stages read ``config`` in its record."""
        folder.mkdir(parents=True, exist_ok=True)
        identity = RecordedIdentity(
            stage=stage, key="0" * 32, config=dict(config or {}), inputs={}, code={}, environment={}
        )
        return cls(folder, identity)

    @classmethod
    def recorded(cls, folder: Path, identity: RecordedIdentity, accepted: tuple[Acceptance, ...] = ()) -> "Run":
        """A run whose metrics and progress are appended to ``events.jsonl``, one JSON object a line.

        The file is how a stage in another process speaks to the flow, and how an interrupted upload is repeated.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / EVENTS

        def append(event: dict[str, Any]) -> None:
            # One short write in append mode: a reader may see half a line for a moment, never a mixed one.
            with path.open("a") as file:
                file.write(json.dumps({"time": time.time(), **event}) + "\n")

        def log(metrics: Mapping[str, float], step: int | None = None) -> None:
            append({"step": step, "metrics": {name: float(value) for name, value in metrics.items()}})

        def report(fraction: float, message: str = "") -> None:
            append({"progress": fraction, "message": message})

        return cls(folder, identity, log, report, accepted)
