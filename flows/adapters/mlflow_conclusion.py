"""What the run of a flow says at its end: headline figures, reports, data sets, and the version that came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.core.artifact import Artifact
from flows.adapters.mlflow_connection import MAX_TAG_CHARACTERS
from flows.adapters.mlflow_sender import Sender
from flows.adapters.mlflow_stage_run import data_sets, reports

# What people read. The tables and records beside them are files of the stages' own runs.
PAGE_TYPES = {".md", ".png", ".html"}


@dataclass(frozen=True)
class Conclusion:
    """What became of a flow."""

    metrics: Mapping[str, float]
    """The figures by which flows are compared."""
    artifacts: Sequence[Artifact]
    """The results of its stages, made now or before."""
    page: str = ""
    """The closing table in markdown."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """More facts, for example the verdict of the gate."""
    bundle: str = ""
    """Key of the bundle that the flow has registered."""


def send_conclusion(sender: Sender, run_id: str, conclusion: Conclusion) -> None:
    """Complete the run of a flow with its conclusion."""
    from mlflow.entities import LoggedModelOutput, Metric

    client = sender.connection.client
    now = int(_latest(conclusion.artifacts) * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in conclusion.metrics.items()]
    client.log_batch(run_id, metrics=metrics, synchronous=True)
    sender.tags(run_id, dict(conclusion.tags))
    if conclusion.page:
        client.set_tag(run_id, "mlflow.note.content", conclusion.page[:MAX_TAG_CHARACTERS])
    for artifact in conclusion.artifacts:
        for page in _pages(artifact):
            client.log_artifact(run_id, str(page), artifact_path=artifact.stage)
        if found := data_sets(artifact, "training"):
            client.log_inputs(run_id, datasets=found)
    if conclusion.bundle:
        released = f"tags.`lacewing.key` = '{conclusion.bundle}'"
        found = client.search_logged_models([sender.connection.experiment_id], released)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0) for model in found[:1]])


def _pages(artifact: Artifact) -> list[Path]:
    return [path for path in reports(artifact) if path.suffix in PAGE_TYPES]


def _latest(artifacts: Sequence[Artifact]) -> float:
    return max((artifact.record.created.timestamp() for artifact in artifacts), default=0.0)
