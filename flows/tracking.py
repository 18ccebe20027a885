"""Runs in MLflow: one parent per flow, one nested run per stage, always reconstructible from the artifact folder.

The folder is the record and MLflow a view of it: a stage's run is made from ``events.jsonl``, ``artifact.json`` and the
reports beside it. So nothing is lost when MLflow is away. The flow goes on, says once what was not sent, and
``lacewing sync`` sends it later by the same code. ``tracking.json`` in the folder remembers which run is whose.

Cost: figures are sent in batches, about one request a second; a call per figure would be 20 a second at best.
"""

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from components.core.artifact import RECORD, Artifact
from components.core.atomic import write_text
from components.core.errors import ServiceError
from components.core.identity import RecordedIdentity, digest_json, leaves
from components.core.run import EVENTS
from conf.services import TrackingConfig
from flows import console, versioning
from flows.connection import Connection
from flows.workspace import find_artifact

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

TRACKING = "tracking.json"
FLUSH_SECONDS = 1.0
# MLflow's own limits: entries in one request, characters in one value.
MAX_METRICS, MAX_PARAMETERS = 1000, 100
MAX_TAG_CHARACTERS, MAX_PARAMETER_CHARACTERS = 8000, 6000
# What people look at: reports at the top of the artifact. Weights and data lie in folders or are larger.
REPORT_TYPES = {".md", ".png", ".svg", ".html", ".json", ".jsonl"}
MAX_REPORT_BYTES = 5_000_000
# Parts of an artifact that are data sets, by their contract names.
DATA_SETS = ("raw", "shards")

Event = Mapping[str, Any]
Status = Literal["FINISHED", "FAILED", "KILLED"]


class FlowRun(Protocol):
    """What tracking needs to know of a flow's execution (see ``flows.stage.FlowRun``)."""

    flow: str
    preset: str
    overrides: list[str]
    config: Any

    @property
    def config_digest(self) -> str: ...


class TrackedRun(BaseModel):
    """The run that stands for an artifact at one MLflow address."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    uri: str
    """Address, without password."""
    experiment: str
    """Name of the experiment."""
    run_id: str = ""
    """Run of the stage; empty while MLflow has not answered yet."""
    flow: str = ""
    """Name of the flow that ran the stage."""
    flow_run: str = ""
    """Id of that flow's execution, by which its parent run is found again."""
    complete: bool = False
    """Whether everything has been sent."""


class TrackingRecord(BaseModel):
    """Contents of ``tracking.json``: one entry per address the artifact was sent to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: list[TrackedRun] = []

    @classmethod
    def read(cls, folder: Path) -> "TrackingRecord":
        path = folder / TRACKING
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def at(self, connection: Connection) -> TrackedRun | None:
        """The entry for this address and experiment."""
        place = (connection.address, connection.cfg.experiment)
        return next((run for run in self.runs if (run.uri, run.experiment) == place), None)

    def latest(self) -> TrackedRun | None:
        """The entry written last, whatever its address: which flow made the artifact."""
        return self.runs[-1] if self.runs else None

    def put(self, folder: Path, entry: TrackedRun) -> None:
        """Write the marker with ``entry`` in the place of the one for the same address."""
        others = [run for run in self.runs if (run.uri, run.experiment) != (entry.uri, entry.experiment)]
        write_text(folder / TRACKING, TrackingRecord(runs=[*others, entry]).model_dump_json(indent=2) + "\n")


class FlowTracker:
    """The parent run of one flow, made at first need, and the one place that knows whether MLflow answers.

    After the first failure nothing more is tried: a flow must not wait for the same dead server at every stage.
    """

    def __init__(
        self,
        cfg: TrackingConfig,
        flow: str,
        flow_run: str = "",
        tags: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.connection = Connection(cfg)
        self.flow = flow
        self.flow_run = flow_run or uuid.uuid4().hex
        self.tags = dict(tags or {})
        self.parameters = parameters or {}
        self.run_id = ""
        self.failure: ServiceError | None = None
        self._made = False
        self.unsent: list[str] = []
        self._followers: list[StageTracker] = []
        self._lock = threading.RLock()

    def parent(self) -> str:
        """Id of the flow's run: the one that an earlier attempt has made, else a new one."""
        with self._lock:
            if not self.run_id:
                client, experiment = self.connection.client, self.connection.experiment_id
                mine = f"tags.`lacewing.flow_run` = '{self.flow_run}' AND tags.`lacewing.role` = 'flow'"
                if found := client.search_runs([experiment], mine, max_results=1):
                    self.run_id = found[0].info.run_id
                else:
                    tags = {**self._names(), "lacewing.role": "flow", **self.tags}
                    self.run_id = client.create_run(experiment, tags=tags, run_name=self.flow).info.run_id
                    self._made = True
                    send_parameters(self.connection, self.run_id, self.parameters)
            return self.run_id

    def stage(self, folder: Path, identity: RecordedIdentity) -> "StageTracker":
        """Track the stage that is being made in ``folder``."""
        follower = StageTracker(self, folder, identity)
        with self._lock:
            self._followers.append(follower)
        return follower

    def upload(self, artifact: Artifact, certain: bool = False) -> bool:
        """Send a sealed artifact from its folder alone, unless that has been done; returns whether it was sent now.

        Args:
            artifact: what to send.
            certain: ask MLflow whether it still has the run, instead of trusting ``tracking.json``.
        """
        entry = TrackingRecord.read(artifact.folder).at(self.connection)
        if entry and entry.complete and not (certain and self._has_lost(entry.run_id, artifact)):
            return False
        follower = self.stage(artifact.folder, artifact.record.identity)
        follower.replay()
        follower.finish(artifact)
        return self.failure is None

    def end(self, status: Status | None = None) -> None:
        """End the parent run; without a status, only if this tracker has made it, as finished."""
        if self.run_id:
            self.attempt("the end of the flow", lambda: self._end(status or ("FINISHED" if self._made else None)))

    def close(self, status: Status) -> None:
        """End the parent run, and say once what could not be sent."""
        self.end(status)
        if self.failure:
            console.warn(
                f"{self.failure}. Not sent to it: {', '.join(dict.fromkeys(self.unsent))}. "
                "Nothing is lost, the results are on disk; `lacewing sync` sends them once MLflow is back."
            )

    def attempt(self, what: str, action: Callable[[], None]) -> None:
        """Do something with MLflow; a failure is remembered and ends all attempts, but is not raised."""
        if self.failure is None:
            try:
                with self.connection.explained():
                    action()
                return
            except ServiceError as error:
                self.failure = error
        self.unsent.append(what)

    def _end(self, status: Status | None) -> None:
        for follower in self._followers:
            follower.send_output_versions()
        if status:
            self.connection.client.set_terminated(self.run_id, status)

    def has(self, run_id: str) -> bool:
        """Whether MLflow has this run; somebody may have emptied or replaced the store."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.connection.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _has_lost(self, run_id: str, artifact: Artifact) -> bool:
        lost: list[bool] = []
        self.attempt(artifact.stage, lambda: lost.append(not self.has(run_id)))
        return lost == [True]

    def _names(self) -> dict[str, str]:
        return {
            "lacewing.flow": self.flow,
            "lacewing.flow_run": self.flow_run,
            "mlflow.source.name": f"lacewing {self.flow}",
            "mlflow.source.type": "LOCAL",
        }

    def stage_tags(self, identity: RecordedIdentity) -> dict[str, str]:
        """What a stage's run is found by: the parts of its key, and the flow it belongs to."""
        return {
            **self._names(),
            "mlflow.parentRunId": self.parent(),
            "lacewing.role": "stage",
            "lacewing.stage": identity.stage,
            "lacewing.key": identity.key,
            "lacewing.code": digest_json(identity.code)[:16],
            "lacewing.environment": json.dumps(identity.environment)[:MAX_TAG_CHARACTERS],
            "lacewing.config_digest": digest_json(identity.config)[:16],
            "lacewing.inputs": json.dumps(identity.inputs)[:MAX_TAG_CHARACTERS],
        }


class StageTracker:
    """Follows one stage: its run is opened with the first event, so that the stage does not wait for MLflow to load."""

    def __init__(self, flow: FlowTracker, folder: Path, identity: RecordedIdentity) -> None:
        self.flow, self.folder, self.identity = flow, folder, identity
        self.connection = flow.connection
        self.run_id = ""
        self._name = f"{identity.stage} {identity.key[:8]}"
        self._started = time.time()
        self._flushed = 0.0
        self._figures: list[tuple[str, float, float, int]] = []  # name, value, time, step
        self._last: dict[str, tuple[int, float]] = {}  # highest step of each figure, and when
        # The interrupted run of the same key is continued: one training, one curve.
        known = TrackingRecord.read(folder).at(self.connection)
        self._known_run_id = known.run_id if known and not known.complete else ""
        self._mark(self._known_run_id, complete=False)

    def take(self, event: Event) -> None:
        """Accept one line of ``events.jsonl``; figures are sent in batches, about once a second."""
        for name, value in event.get("metrics", {}).items():
            step = int(event.get("step") or 0)
            self._figures.append((name, float(value), float(event["time"]), step))
            self._last[name] = max((step, float(event["time"])), self._last.get(name, (0, 0.0)))
        if len(self._figures) >= MAX_METRICS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flow.attempt(self._name, self._flush)

    def replay(self) -> None:
        """Take everything that ``events.jsonl`` holds."""
        events = list(read_events(self.folder / EVENTS))
        self._started = min([self._started, *(event["time"] for event in events)])
        for event in events:
            self.take(event)

    def finish(self, artifact: Artifact) -> None:
        """Send final figures and reports of the sealed artifact and end the run."""
        self.flow.attempt(self._name, lambda: self._finish(artifact))

    def stop(self, status: Status, reason: str = "") -> None:
        """End the run of a stage that has failed or was stopped."""
        self.flow.attempt(self._name, lambda: self._stop(status, reason))

    def send_output_versions(self) -> None:
        """Record what DVC made of this stage's own data, known only after the stage has ended."""
        if self.run_id and (self.folder / versioning.VERSIONS).exists():
            self.connection.client.log_inputs(self.run_id, datasets=_data_sets(Artifact.open(self.folder), "output"))

    def _open(self) -> str:
        if not self.run_id:
            client, experiment = self.connection.client, self.connection.experiment_id
            tags = self.flow.stage_tags(self.identity)
            if self._known_run_id and self.flow.has(self._known_run_id):
                self.run_id = self._known_run_id
                client.update_run(self.run_id, status="RUNNING")
                send_tags(self.connection, self.run_id, tags)
            else:
                self.run_id = client.create_run(
                    experiment, start_time=int(self._started * 1000), tags=tags, run_name=self._name
                ).info.run_id
            self._mark(self.run_id, complete=False)
            send_parameters(self.connection, self.run_id, self.identity.config)
            if data_sets := self._inputs():
                client.log_inputs(self.run_id, datasets=data_sets)
        return self.run_id

    def _inputs(self) -> list["DatasetInput"]:
        found = (find_artifact(key) for key in self.identity.inputs.values())
        return [data_set for artifact in found if artifact for data_set in _data_sets(artifact, self.identity.stage)]

    def _flush(self) -> None:
        from mlflow.entities import Metric

        run_id = self._open()
        self._flushed = time.monotonic()
        while batch := self._figures[:MAX_METRICS]:
            metrics = [Metric(name, value, int(at * 1000), step) for name, value, at, step in batch]
            self.connection.client.log_batch(run_id, metrics=metrics, synchronous=True)
            del self._figures[: len(batch)]  # only after they have arrived

    def _finish(self, artifact: Artifact) -> None:
        created = artifact.record.created.timestamp()
        for name, value in artifact.metrics.items():
            # MLflow shows the value with the highest step, then time (in ms), then value: it must be this one.
            step, at = self._last.get(name, (0, 0.0))
            self._figures.append((name, value, max(created, at + 0.001), step))
        self._flush()
        client = self.connection.client
        for report in reports(artifact):
            client.log_artifact(self.run_id, str(report))
            if report.name == "report.md":
                client.set_tag(self.run_id, "mlflow.note.content", report.read_text()[:MAX_TAG_CHARACTERS])
        facts = {name: value for name, value in leaves(artifact.details) if isinstance(value, str)}
        send_tags(
            self.connection,
            self.run_id,
            {f"lacewing.details.{name}": text[:MAX_TAG_CHARACTERS] for name, text in facts.items()},
        )
        client.set_terminated(self.run_id, "FINISHED", end_time=int(created * 1000))
        self._mark(self.run_id, complete=True)

    def _stop(self, status: Status, reason: str) -> None:
        self._flush()
        send_tags(self.connection, self.run_id, {"lacewing.error": reason[:MAX_TAG_CHARACTERS]})
        self.connection.client.set_terminated(self.run_id, status)

    def _mark(self, run_id: str, complete: bool) -> None:
        entry = TrackedRun(
            uri=self.connection.address,
            experiment=self.connection.cfg.experiment,
            run_id=run_id,
            flow=self.flow.flow,
            flow_run=self.flow.flow_run,
            complete=complete,
        )
        TrackingRecord.read(self.folder).put(self.folder, entry)


def reports(artifact: Artifact) -> list[Path]:
    """The files of an artifact that people read: reports, plots and small tables at its top, and its record."""
    names = [
        name
        for name, file in artifact.record.files.items()
        if "/" not in name and Path(name).suffix in REPORT_TYPES and file.bytes <= MAX_REPORT_BYTES
    ]
    return [artifact.folder / name for name in (*names, RECORD)]


def read_events(path: Path) -> Iterator[Event]:
    """Every whole line of ``events.jsonl``; one that a killed process left unfinished is passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def send_parameters(connection: Connection, run_id: str, config: Mapping[str, Any]) -> None:
    """Record ``config`` as parameters with dotted names."""
    from mlflow.entities import Param

    # Values beyond MLflow's limit would be cut with a warning each; the whole config is in artifact.json.
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in leaves(config)}
    parameters = [Param(name, text[:MAX_PARAMETER_CHARACTERS]) for name, text in texts.items()]
    for start in range(0, len(parameters), MAX_PARAMETERS):
        connection.client.log_batch(run_id, params=parameters[start : start + MAX_PARAMETERS], synchronous=True)


def send_tags(connection: Connection, run_id: str, tags: Mapping[str, str]) -> None:
    """Set ``tags`` on a run in one request."""
    from mlflow.entities import RunTag

    connection.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()], synchronous=True)


def _data_sets(artifact: Artifact, context: str) -> list["DatasetInput"]:
    """The data sets of an artifact as MLflow inputs. MLflow knows no DVC source; a plain entity carries it as well."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    versions = {version.path: version for version in versioning.recorded(artifact)}
    data_sets = []
    for part in DATA_SETS:
        if version := versions.get(part):
            source = {"artifact": versioning.name_of(artifact), **version.model_dump(include={"path", "md5", "remote"})}
            data_set = Dataset(f"{artifact.stage}/{part}", version.md5, "dvc", json.dumps(source))
        elif any(name.startswith(f"{part}/") for name in artifact.record.files):
            source = {"artifact": versioning.name_of(artifact), "path": part}
            data_set = Dataset(f"{artifact.stage}/{part}", artifact.key, "lacewing", json.dumps(source))
        else:
            continue
        data_sets.append(DatasetInput(data_set, [InputTag("mlflow.data.context", context)]))
    return data_sets


def tracker_of(run: FlowRun) -> FlowTracker:
    """The one tracker of a flow's execution, made at its first use and kept with it."""
    kept: dict[str, Any] = vars(run)
    if "_tracker" not in kept:
        tags = {
            "lacewing.preset": run.preset,
            "lacewing.overrides": json.dumps(run.overrides)[:MAX_TAG_CHARACTERS],
            "lacewing.config_digest": run.config_digest,
        }
        parameters = run.config.model_dump(mode="json")
        kept["_tracker"] = FlowTracker(run.config.tracking, run.flow, _prefect_run_id(), tags, parameters)
    tracker: FlowTracker = kept["_tracker"]
    return tracker


@contextmanager
def closing(run: FlowRun) -> Iterator[FlowTracker]:
    """End the MLflow run of ``run`` after the block, as finished, failed or killed, whatever happens."""
    tracker = tracker_of(run)
    status: Status = "FINISHED"
    try:
        yield tracker
    except Exception:
        status = "FAILED"
        raise
    except BaseException:  # Ctrl-C, SIGTERM, a cancelled Prefect run
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


@contextmanager
def following(run: FlowRun, identity: RecordedIdentity, folder: Path) -> Iterator[StageTracker]:
    """Track one stage of ``run``; a block that does not end well ends the stage's MLflow run as failed or killed."""
    follower = tracker_of(run).stage(folder, identity)
    try:
        yield follower
    except Exception as error:
        follower.stop("FAILED", str(error))
        raise
    except BaseException as error:
        follower.stop("KILLED", type(error).__name__)
        raise


def ensure_tracked(run: FlowRun, artifact: Artifact) -> None:
    """Send a skipped stage's artifact if that could not be done when it was made."""
    tracker_of(run).upload(artifact)


def where(run: FlowRun) -> str:
    """Where a person finds the run: a link for a server, the command that shows it for a database."""
    tracker = tracker_of(run)
    if tracker.failure:
        return f"MLflow at {tracker.connection.address} did not answer; `lacewing sync` sends the runs later"
    if tracker.connection.uri.startswith("http"):
        page = f"/#/experiments/{tracker.connection.experiment_id}/runs/{tracker.run_id}" if tracker.run_id else ""
        return f"{tracker.connection.address.rstrip('/')}{page}"
    run_name = f", run {tracker.run_id}" if tracker.run_id else ""
    return f"MLflow {tracker.connection.address}{run_name}: `lacewing up` shows it"


def _prefect_run_id() -> str:
    if "prefect" not in sys.modules:
        return ""
    from prefect.runtime import flow_run

    return str(flow_run.id or "")
