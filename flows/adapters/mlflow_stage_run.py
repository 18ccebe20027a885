"""The run of one stage in MLflow, made while the stage works or afterwards from its folder, by the same code.

Metrics are sent in batches, about one request a second; a request per value would be 20 a second at best.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.core.artifact import RECORD, REPORT, Artifact
from components.core.identity import RecordedIdentity, digest_json, leaves
from components.core.run import EVENTS
from flows.adapters import dvc
from flows.adapters.mlflow_connection import ERROR, MAX_TAG_CHARACTERS
from flows.adapters.mlflow_sender import Sender
from flows.adapters.tracking_record import TrackedRun, TrackingRecord

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

FLUSH_SECONDS = 1.0
MAX_METRICS = 1000  # in one request, by MLflow's own limit
# What people look at: reports at the top of the artifact. Weights and data lie in folders or are larger.
REPORT_TYPES = {".md", ".png", ".svg", ".html", ".json", ".jsonl"}
MAX_REPORT_BYTES = 5_000_000
# Parts of an artifact that are data sets, by their contract names.
DATA_SETS = ("raw", "shards")

Event = Mapping[str, Any]
Status = Literal["FINISHED", "FAILED", "KILLED"]
Inputs = Callable[[], Iterable[Artifact]]


class Origin:
    """The flow that a stage belongs to: its name, the id of its execution, and its parent run, made at first need.

    ``title`` is the name of the parent run.
    """

    def __init__(self, flow: str, flow_run: str, title: str, parent: Callable[[], str]) -> None:
        self.flow, self.flow_run, self.title, self.parent = flow, flow_run, title, parent

    def names(self) -> dict[str, str]:
        """Tags by which the runs of one flow are found."""
        return {
            "lacewing.flow": self.flow,
            "lacewing.flow_run": self.flow_run,
            "mlflow.source.name": f"lacewing {self.flow}",
            "mlflow.source.type": "LOCAL",
        }


class StageTracker:
    """Follows one stage: its run is created at the first event, so that the stage does not wait for MLflow to load."""

    def __init__(
        self, sender: Sender, origin: Origin, folder: Path, identity: RecordedIdentity, inputs: Inputs
    ) -> None:
        self.sender, self.origin, self.folder, self.identity = sender, origin, folder, identity
        self.connection = sender.connection
        self.run_id = ""
        self._inputs = inputs
        self._name = f"{identity.stage} {identity.key[:8]}"
        self._started = time.time()
        self._flushed = 0.0
        self._metrics: list[tuple[str, float, float, int]] = []  # name, value, time, step
        self._last: dict[str, tuple[int, float]] = {}  # highest step of each metric, and when
        # The interrupted run of the same key is continued: one training, one curve.
        known = TrackingRecord.read(folder).at(self.connection)
        self._known_run_id = known.run_id if known and not known.complete else ""
        self._record(self._known_run_id, complete=False)

    def take(self, event: Event) -> None:
        """Accept one line of ``events.jsonl``; metrics are sent in batches, about once a second."""
        for name, value in event.get("metrics", {}).items():
            step = int(event.get("step") or 0)
            self._metrics.append((name, float(value), float(event["time"]), step))
            self._last[name] = max((step, float(event["time"])), self._last.get(name, (0, 0.0)))
        if len(self._metrics) >= MAX_METRICS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.sender.attempt(self._name, self._flush)

    def replay(self) -> None:
        """Take everything that ``events.jsonl`` holds."""
        events = list(read_events(self.folder / EVENTS))
        self._started = min([self._started, *(event["time"] for event in events)])
        for event in events:
            self.take(event)

    def finish(self, artifact: Artifact) -> None:
        """Send final metrics and reports of the sealed artifact and end the run."""
        self.sender.attempt(self._name, lambda: self._finish(artifact))

    def stop(self, status: Status, reason: str = "") -> None:
        """End the run of a stage that has failed or was stopped."""
        self.sender.attempt(self._name, lambda: self._stop(status, reason))

    def send_output_versions(self) -> None:
        """Record the DVC versions of this stage's own data, which are known only after the stage has ended."""
        if self.run_id and (self.folder / dvc.VERSIONS).exists():
            self.connection.client.log_inputs(self.run_id, datasets=data_sets(Artifact.open(self.folder), "output"))

    def _open(self) -> str:
        if not self.run_id:
            tags = self._tags()
            if self._known_run_id and self.sender.has(self._known_run_id):
                self.run_id = self._known_run_id
                self.sender.reopen(self.run_id, tags)
            else:
                self.run_id = self.connection.create_run(self._name, tags, self._started)
            self._record(self.run_id, complete=False)
            self.sender.parameters(self.run_id, self.identity.config)
            stage = self.identity.stage
            if given := [found for artifact in self._inputs() for found in data_sets(artifact, stage)]:
                self.connection.client.log_inputs(self.run_id, datasets=given)
        return self.run_id

    def _tags(self) -> dict[str, str]:
        """Tags to find the run by: the parts of the stage's key, and the flow that it belongs to."""
        identity = self.identity
        return {
            **self.origin.names(),
            "mlflow.parentRunId": self.origin.parent(),
            "lacewing.role": "stage",
            "lacewing.stage": identity.stage,
            "lacewing.key": identity.key,
            **identity_tags(identity),
        }

    def _flush(self) -> None:
        from mlflow.entities import Metric

        run_id = self._open()
        self._flushed = time.monotonic()
        while batch := self._metrics[:MAX_METRICS]:
            metrics = [Metric(name, value, int(at * 1000), step) for name, value, at, step in batch]
            self.connection.client.log_batch(run_id, metrics=metrics, synchronous=True)
            del self._metrics[: len(batch)]  # only after they have arrived

    def _finish(self, artifact: Artifact) -> None:
        created = artifact.record.created.timestamp()
        for name, value in artifact.metrics.items():
            # MLflow shows the value with the highest step, then time (in ms), then value: it must be this one.
            step, at = self._last.get(name, (0, 0.0))
            self._metrics.append((name, value, max(created, at + 0.001), step))
        self._flush()
        client = self.connection.client
        for report in reports(artifact):
            client.log_artifact(self.run_id, str(report))
            if report.name == REPORT:
                client.set_tag(self.run_id, "mlflow.note.content", report.read_text()[:MAX_TAG_CHARACTERS])
        facts = {name: value for name, value in leaves(artifact.details) if isinstance(value, str)}
        self.sender.tags(self.run_id, {f"lacewing.details.{name}": text for name, text in facts.items()})
        client.set_terminated(self.run_id, "FINISHED", end_time=int(created * 1000))
        self._record(self.run_id, complete=True)

    def _stop(self, status: Status, reason: str) -> None:
        self._flush()
        self.sender.tags(self.run_id, {ERROR: reason})
        self.connection.client.set_terminated(self.run_id, status)

    def _record(self, run_id: str, complete: bool) -> None:
        entry = TrackedRun(
            uri=self.connection.address,
            experiment=self.connection.cfg.experiment,
            run_id=run_id,
            flow=self.origin.flow,
            flow_run=self.origin.flow_run,
            title=self.origin.title,
            complete=complete,
        )
        TrackingRecord.read(self.folder).put(self.folder, entry)


def identity_tags(identity: RecordedIdentity) -> dict[str, str]:
    """The parts of a key as tags, of runs and of registered models."""
    return {
        "lacewing.config_digest": digest_json(identity.config)[:16],
        "lacewing.inputs": json.dumps(identity.inputs),
        "lacewing.code": digest_json(identity.code)[:16],
        "lacewing.environment": json.dumps(identity.environment),
    }


def reports(artifact: Artifact) -> list[Path]:
    """The files of an artifact that people read: reports, plots and small tables at its top, and its record."""
    names = [
        name
        for name, file in artifact.record.files.items()
        if "/" not in name and Path(name).suffix in REPORT_TYPES and file.bytes <= MAX_REPORT_BYTES
    ]
    return [artifact.folder / name for name in (*names, RECORD)]


def read_events(path: Path) -> Iterator[Event]:
    """Every complete line of ``events.jsonl``; a line that a killed process left unfinished is skipped."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def data_sets(artifact: Artifact, context: str) -> list["DatasetInput"]:
    """The data sets of an artifact as MLflow inputs. MLflow knows no DVC source; a plain entity carries it as well."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    versions = {version.path: version for version in dvc.recorded(artifact)}
    found = []
    for part in DATA_SETS:
        if version := versions.get(part):
            source = {"artifact": dvc.name_of(artifact), **version.model_dump(include={"path", "md5", "remote"})}
            data_set = Dataset(f"{artifact.stage}/{part}", version.md5, "dvc", json.dumps(source))
        elif any(name.startswith(f"{part}/") for name in artifact.record.files):
            source = {"artifact": dvc.name_of(artifact), "path": part}
            data_set = Dataset(f"{artifact.stage}/{part}", artifact.key, "lacewing", json.dumps(source))
        else:
            continue
        found.append(DatasetInput(data_set, [InputTag("mlflow.data.context", context)]))
    return found
