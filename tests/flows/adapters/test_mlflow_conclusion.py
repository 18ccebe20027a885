"""Runs of flows can be compared at a glance: a name, headline figures, reports, data sets and the version."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from conf.compose import compose_project, digest
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters.mlflow_conclusion import Conclusion
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_pages import experiment_page, run_page, view_tags
from flows.adapters.mlflow_runs import FlowTracker
from flows.execution import run_title
from flows.headlines import headline_metrics
from flows.promotion import Registry
from flows.sync import sync
from tests.flows.conftest import MakeArtifact

pytestmark = pytest.mark.usefixtures("database")


def test_the_title_tells_preset_changes_and_settings_apart() -> None:
    plain, changed = compose_project("world"), compose_project("world", ["trainer.max_steps=5"])
    assert run_title("world", [], plain) == f"world {digest(plain)[:8]}"
    assert run_title("world", ["trainer.max_steps=5"], changed) == f"world trainer.max_steps=5 {digest(changed)[:8]}"
    many = run_title("world", [f"data.sources=[{'x' * 50}]" for _ in range(9)], plain)
    assert len(many) < 150
    assert many.endswith(f"... {digest(plain)[:8]}")


def test_the_run_of_a_flow_says_what_became_of_it(
    model: Artifact, data: Artifact, make_artifact: MakeArtifact, make_bundle: Callable[[str], Artifact]
) -> None:
    report = make_artifact(
        "assess",
        {"report.md": "# Fine", "loss.png": b"\x89PNG", "answers.jsonl": "{}\n"},
        metrics={"bits_per_byte": 1.25, "perplexity": 9.0},
    )
    flow = FlowTracker(TrackingConfig(), "pipeline", title="world 1a2b3c4d")
    artifacts = [data, model, report]
    with flow.closing():
        for artifact in artifacts:
            flow.upload(artifact)
        version = Registry(TrackingConfig()).register(make_bundle("a"))
        tags = {"lacewing.gate": "first model"}
        flow.conclude(Conclusion(headline_metrics(artifacts), artifacts, "| table |", tags, version.key))
    client = flow.connection.client
    run = client.get_run(flow.run_id)
    assert run.info.run_name == "world 1a2b3c4d"
    assert run.data.metrics == {"pretraining/loss": 3.5, "pretraining/parameters": 1000, "assess/bits_per_byte": 1.25}
    assert run.data.tags["mlflow.note.content"] == "| table |"
    assert run.data.tags["lacewing.gate"] == "first model"
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"prepare/raw", "prepare/shards"}
    assert {file.path for file in client.list_artifacts(flow.run_id, "assess")} == {
        "assess/report.md",
        "assess/loss.png",
    }
    (output,) = run.outputs.model_outputs
    assert client.get_logged_model(output.model_id).tags["lacewing.key"] == version.key
    assert run.info.status == "FINISHED"


def test_a_flow_that_mlflow_missed_gets_its_title_and_figures_by_sync(
    model: Artifact, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    away = FlowTracker(TrackingConfig(uri=f"http://127.0.0.1:{closed_port}"), "pipeline", title="world 1a2b3c4d")
    with away.closing():
        away.upload(model)
    sync(TrackingConfig(), VersioningConfig())
    connection = Connection(TrackingConfig())
    (flow,) = connection.client.search_runs([connection.experiment_id], "run_name = 'world 1a2b3c4d'")
    assert flow.data.tags["lacewing.role"] == "flow"
    assert flow.data.metrics["pretraining/loss"] == 3.5


def test_an_experiment_has_a_view_of_its_runs_also_one_that_was_made_before(workspace: Path) -> None:
    client = Connection(TrackingConfig()).client
    client.create_experiment("old", artifact_location=(workspace / "mlartifacts").as_uri())
    for name in ("old", "new"):
        connection = Connection(TrackingConfig(experiment=name))
        assert client.get_experiment(connection.experiment_id).tags.items() >= view_tags().items()


def test_addresses_of_pages_say_that_models_are_trained_here() -> None:
    runs = "http://127.0.0.1:5000/#/experiments/1/runs"
    assert experiment_page("http://127.0.0.1:5000/", "1").startswith(f"{runs}?")
    assert run_page("http://127.0.0.1:5000", "1", "abc") == f"{runs}/abc?workflowType=machine_learning"
    assert "workflowType=machine_learning" in experiment_page("http://127.0.0.1:5000/", "1")
