"""Runs in MLflow: one parent per flow, one nested run per stage, always reconstructible from the artifact folder.

The folder is the record, and MLflow is a view of it: the run of a stage is made from ``events.jsonl``,
``artifact.json`` and the reports. So nothing is lost while MLflow cannot be reached. The flow continues, says once what
was not sent, and ``lacewing sync`` sends it later with the same code. ``tracking.json`` in the folder remembers which
run is whose.
"""

import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.core.artifact import Artifact
from components.core.errors import LacewingError, ServiceError
from components.core.identity import RecordedIdentity
from conf.services import TrackingConfig
from flows import console
from flows.adapters.mlflow_abandoned import close_abandoned
from flows.adapters.mlflow_conclusion import Conclusion, send_conclusion
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_pages import run_page
from flows.adapters.mlflow_sender import Sender
from flows.adapters.mlflow_stage_run import Origin, StageTracker, Status
from flows.adapters.mlflow_web import web_address
from flows.adapters.tracking_record import TrackingRecord
from flows.endings import NotWorthwhileError
from flows.workspace import artifacts_with_content


class FlowTracker:
    """The parent run of one execution of a flow, made at first need, and the runs of its stages.

    Args:
        cfg: where MLflow is.
        flow: name of the flow.
        flow_run: id of its execution; by it the parent run of an earlier attempt is found again.
        tags: more facts about the execution.
        parameters: its configuration.
        title: name of the parent run; without one it is called as the flow.
    """

    def __init__(
        self,
        cfg: TrackingConfig,
        flow: str,
        flow_run: str = "",
        tags: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        title: str = "",
    ) -> None:
        self.sender = Sender(cfg)
        self.origin = Origin(flow, flow_run or uuid.uuid4().hex, title or flow, self.parent)
        self.tags = dict(tags or {})
        self.parameters = parameters or {}
        self.run_id = ""
        self._made = False
        self._stages: list[StageTracker] = []
        self._lock = threading.RLock()

    @property
    def connection(self) -> Connection:
        return self.sender.connection

    @property
    def failure(self) -> LacewingError | None:
        """Why nothing more is sent; ``None`` while MLflow answers."""
        return self.sender.failure

    def parent(self) -> str:
        """Id of the flow's run: the one that an earlier attempt has made, else a new one."""
        with self._lock:
            if not self.run_id:
                mine = f"tags.`lacewing.flow_run` = '{self.origin.flow_run}' AND tags.`lacewing.role` = 'flow'"
                experiment = self.connection.experiment_id
                if found := self.connection.client.search_runs([experiment], mine, max_results=1):
                    self.run_id = found[0].info.run_id
                else:
                    tags = {**self.origin.names(), "lacewing.role": "flow", **self.tags}
                    self.run_id = self.connection.create_run(self.origin.title, tags)
                    self._made = True
                    self.sender.parameters(self.run_id, self.parameters)
                close_abandoned(self.connection)
            return self.run_id

    def stage(self, folder: Path, identity: RecordedIdentity, inputs: Iterable[Artifact] | None = None) -> StageTracker:
        """Track the stage that is being made in ``folder``; inputs that are not given are found in the workspace."""

        def found() -> Iterable[Artifact]:
            return artifacts_with_content(identity.inputs.values()) if inputs is None else inputs

        tracker = StageTracker(self.sender, self.origin, folder, identity, found)
        with self._lock:
            self._stages.append(tracker)
        return tracker

    @contextmanager
    def following(self, folder: Path, identity: RecordedIdentity, inputs: Iterable[Artifact]) -> Iterator[StageTracker]:
        """Track one stage; a block that does not end well ends the stage's MLflow run as failed or killed."""
        tracker = self.stage(folder, identity, inputs)
        try:
            yield tracker
        except NotWorthwhileError as reason:
            tracker.stop("KILLED", str(reason))
            raise
        except Exception as error:
            tracker.stop("FAILED", str(error))
            raise
        except BaseException as error:
            tracker.stop("KILLED", type(error).__name__)
            raise

    def upload(self, artifact: Artifact, certain: bool = False) -> bool:
        """Send a sealed artifact from its folder alone, unless that has been done; returns whether it was sent now.

        Args:
            artifact: what to send.
            certain: ask MLflow whether it still has the run, instead of trusting ``tracking.json``.
        """
        entry = TrackingRecord.read(artifact.folder).at(self.connection)
        if entry and entry.complete and not (certain and self._has_lost(entry.run_id, artifact)):
            return False
        tracker = self.stage(artifact.folder, artifact.record.identity)
        tracker.replay()
        tracker.finish(artifact)
        return self.failure is None

    def conclude(self, conclusion: Conclusion) -> None:
        """Let the parent run say what became of the flow; a flow that has sent nothing has no run, and gets none."""
        if self.run_id:
            self.sender.attempt(
                "the results of the flow", lambda: send_conclusion(self.sender, self.run_id, conclusion)
            )

    def end(self, status: Status | None = None) -> None:
        """End the parent run; without a status, only if this tracker has made it, as finished."""
        if self.run_id:
            ended = status or ("FINISHED" if self._made else None)
            self.sender.attempt("the end of the flow", lambda: self._end(ended))

    def close(self, status: Status) -> None:
        """End the parent run, and say once what could not be sent."""
        self.end(status)
        if not self.run_id and not self.failure and "mlflow" in sys.modules:
            # The flow had nothing to say: it neither loads MLflow for this nor complains if that does not answer.
            with suppress(ServiceError), self.connection.explained():
                close_abandoned(self.connection)
        if isinstance(self.failure, ServiceError):  # a full disk ends the flow, and is told then
            console.warn(
                f"{self.failure}. Not sent to it: {', '.join(dict.fromkeys(self.sender.unsent))}. "
                "Nothing is lost, the results are on disk; `lacewing sync` sends them once MLflow is back."
            )

    @contextmanager
    def closing(self) -> Iterator[None]:
        """End the flow's run after the block, as finished, failed or killed, whatever happens."""
        status: Status = "FINISHED"
        try:
            yield
        except Exception:
            status = "FAILED"
            raise
        except BaseException:  # Ctrl-C, SIGTERM, a cancelled Prefect run
            status = "KILLED"
            raise
        finally:
            self.close(status)

    def where(self) -> str:
        """Where a person finds the run: a link for a server, the command that shows it for a database."""
        connection = self.connection
        if self.failure:
            return f"MLflow at {connection.address} did not answer; `lacewing sync` sends the runs later"
        if server := web_address(connection):
            return run_page(server, connection.experiment_id, self.run_id) if self.run_id else server
        run_name = f", run {self.run_id}" if self.run_id else ""
        return f"MLflow {connection.database_file or connection.address}{run_name}: `lacewing up` shows it"

    def _end(self, status: Status | None) -> None:
        for tracker in self._stages:
            tracker.send_output_versions()
        if status:
            self.connection.client.set_terminated(self.run_id, status)

    def _has_lost(self, run_id: str, artifact: Artifact) -> bool:
        lost: list[bool] = []
        self.sender.attempt(artifact.stage, lambda: lost.append(not self.sender.has(run_id)))
        return lost == [True]
