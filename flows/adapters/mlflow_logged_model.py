"""The logged model that stands for a bundle in MLflow: its files, its metrics, the data they come from, its versions.

Made once for each bundle. What an earlier attempt has begun is found by the bundle's key and completed.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.artifact import Artifact
from components.core.identity import leaves
from flows.adapters.mlflow_connection import Connection, limited
from flows.adapters.mlflow_flavor import write_model
from flows.adapters.mlflow_stage_run import data_sets
from flows.workspace import artifacts_with_content

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Metric

KEY = "lacewing.key"
# The metrics of these stages were measured on the prepared data; those without such a beginning describe the files.
MEASURED_ON_DATA = ("training.", "assessment.", "cascade.")
# Facts of a bundle that its page lists as parameters; the whole manifest lies among the files.
SHOWN = ("name", "shape", "architecture", "parameters", "vocab_size", "context_length", "training_tokens", "delegation")


def logged_model(connection: Connection, bundle: Artifact, run_id: str) -> "LoggedModel":
    """The finished logged model of ``bundle``, which the run ``run_id`` has made."""
    client = connection.client
    model = _begun(connection, bundle, run_id)
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write_model(folder, bundle, model.model_id, run_id)
            client.log_model_artifacts(model.model_id, str(folder))
        _measure(connection, bundle, run_id, model.model_id)
        _name_as_output(connection, run_id, model.model_id)
        model = client.finalize_logged_model(model.model_id, "READY")
    return model


def link_version(connection: Connection, model_id: str, name: str, number: int) -> None:
    """Let the logged model's page name a version of the registered model, in the way MLflow's own server does it."""
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    known = json.loads(connection.client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    version = {"name": name, "version": str(number)}
    if version not in [{**each, "version": str(each["version"])} for each in known]:
        connection.client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*known, version])})


def describe_model(connection: Connection, model_id: str, text: str) -> None:
    """Write the description on the logged model's page."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    connection.client.set_logged_model_tags(model_id, limited({MLFLOW_RUN_NOTE: text}))


def _begun(connection: Connection, bundle: Artifact, run_id: str) -> "LoggedModel":
    experiment = connection.experiment_id
    if found := connection.client.search_logged_models([experiment], f"tags.`{KEY}` = '{bundle.key}'"):
        return found[0]
    return connection.client.create_logged_model(
        experiment,
        name=str(bundle.details.get("name", connection.cfg.registered_model)),
        source_run_id=run_id,
        tags={KEY: bundle.key},
        params=limited(_shown(bundle)),
        model_type="lacewing-bundle",
    )


def _shown(bundle: Artifact) -> dict[str, str]:
    facts = {name: bundle.details[name] for name in SHOWN if bundle.details.get(name) is not None}
    return {name: str(value) for name, value in leaves(facts)}


def _measure(connection: Connection, bundle: Artifact, run_id: str, model_id: str) -> None:
    """Metrics of the model; those that were measured on the prepared data name it, so that its page shows the data."""
    prepared = artifacts_with_content([bundle.record.identity.inputs.get("prepared", "")])
    inputs = [found for artifact in prepared for found in data_sets(artifact, bundle.stage)]
    if inputs:
        connection.client.log_inputs(run_id, datasets=inputs)
    shards = next((each for each in inputs if each.dataset.name.endswith("/shards")), None)
    metrics = [
        _metric(bundle, name, run_id, model_id, shards if name.startswith(MEASURED_ON_DATA) else None)
        for name in bundle.metrics
    ]
    connection.client.log_batch(run_id, metrics=metrics, synchronous=True)


def _metric(bundle: Artifact, name: str, run_id: str, model_id: str, data: "DatasetInput | None") -> "Metric":
    from mlflow.entities import Metric

    named: dict[str, Any] = (
        {"dataset_name": data.dataset.name, "dataset_digest": data.dataset.digest} if data is not None else {}
    )
    made = int(bundle.record.created.timestamp() * 1000)
    return Metric(name, bundle.metrics[name], made, 0, model_id=model_id, run_id=run_id, **named)


def _name_as_output(connection: Connection, run_id: str, model_id: str) -> None:
    """Let the page of the run show the model that it made."""
    from mlflow.entities import LoggedModelOutput

    outputs = connection.client.get_run(run_id).outputs
    if outputs is None or model_id not in [each.model_id for each in outputs.model_outputs]:
        connection.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
