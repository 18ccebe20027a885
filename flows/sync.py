"""Sends to MLflow and DVC what could not be sent before. The folders of the workspace are the record."""

from components.core.artifact import Artifact
from components.core.errors import LacewingError, ServiceError
from components.core.record_digest import intact
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters import dvc
from flows.adapters.mlflow_abandoned import close_abandoned
from flows.adapters.mlflow_conclusion import Conclusion
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_runs import FlowTracker
from flows.adapters.tracking_record import TrackingRecord
from flows.console import Row
from flows.headlines import headline_metrics
from flows.workspace import sealed_artifacts


def sync(tracking: TrackingConfig, versioning: VersioningConfig) -> list[Row]:
    """Push unpushed versions, close runs of ended processes, then send those that MLflow does not have; a row for each.

    Bytes go first: a run names the version of the data it used. Raises ``ServiceError`` naming what still could not be
    sent, after everything else has been.
    """
    artifacts = list(sealed_artifacts())
    pushed, unpushed = _push(artifacts, versioning)
    closed, unclosed = _close(tracking)
    sent, unsent = ([], []) if unclosed else _send(artifacts, tracking)
    if failures := [*unpushed, *unclosed, *unsent]:
        done = ", ".join(name for name, _ in [*pushed, *closed, *sent]) or "nothing"
        raise ServiceError("; ".join(failures) + f". Sent: {done}. Run `lacewing sync` again later for the rest.")
    return [*pushed, *closed, *sent] or [("nothing to send", "MLflow and the DVC remote have everything")]


def _push(artifacts: list[Artifact], cfg: VersioningConfig) -> tuple[list[Row], list[str]]:
    versioned = [artifact for artifact in artifacts if (artifact.folder / dvc.VERSIONS).exists()]
    if not cfg.push or not versioned:
        return [], []
    store = dvc.DvcStore(cfg)
    pushed: list[Row] = []
    try:
        there = set(store.names())
        for artifact in versioned:
            if dvc.name_of(artifact) not in there:
                store.push(artifact, store.add(intact(artifact)))
                pushed.append((dvc.name_of(artifact), f"pushed to {store.remote}"))
    except LacewingError as error:
        return pushed, [str(error)]
    return pushed, []


def _send(artifacts: list[Artifact], cfg: TrackingConfig) -> tuple[list[Row], list[str]]:
    """Send each run under the flow that made its artifact, so that runs which belong together stay together."""
    trackers: dict[str, FlowTracker] = {}
    flows: dict[str, list[Artifact]] = {}
    sent: list[Row] = []
    for artifact in artifacts:
        made_by = TrackingRecord.read(artifact.folder).latest()
        flow, flow_run, title = (made_by.flow, made_by.flow_run, made_by.title) if made_by else ("sync", "", "")
        tracker = trackers.setdefault(flow_run, FlowTracker(cfg, flow, flow_run, title=title))
        flows.setdefault(flow_run, []).append(artifact)
        if tracker.upload(artifact, certain=True):
            sent.append((f"{artifact.stage} {artifact.key[:16]}", f"sent to {tracker.connection.address}"))
        if tracker.failure:  # the others would meet the same
            return sent, [str(tracker.failure)]
    for flow_run, tracker in trackers.items():
        tracker.conclude(Conclusion(headline_metrics(flows[flow_run]), flows[flow_run]))
        tracker.end()
    return sent, [str(tracker.failure) for tracker in trackers.values() if tracker.failure]


def _close(cfg: TrackingConfig) -> tuple[list[Row], list[str]]:
    """End the runs that killed processes have left open."""
    connection = Connection(cfg)
    if not cfg.uri and (file := connection.database_file) and not file.exists():
        return [], []  # nothing has ever been sent from here
    try:
        with connection.explained():
            return [(f"run {name}", "closed: its process had ended") for name in close_abandoned(connection)], []
    except ServiceError as error:
        return [], [str(error)]
