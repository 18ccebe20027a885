import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from components.core.artifact import Artifact
from components.core.errors import ServiceError
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters import dvc
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_runs import FlowTracker
from flows.adapters.mlflow_stage_run import read_events
from flows.adapters.tracking_record import TrackingRecord
from flows.promotion import Registry
from flows.sync import sync

pytestmark = pytest.mark.usefixtures("database")


def a_flow(**kwargs: object) -> FlowTracker:
    tags = {"lacewing.preset": "world"}
    parameters = {"model": {"layers": 2}, "data": {"sources": ["a", "b"]}}
    return FlowTracker(TrackingConfig(**kwargs), "pipeline", tags=tags, parameters=parameters)


def client_of(cfg: TrackingConfig) -> MlflowClient:
    return Connection(cfg).client


def run_of(artifact: Artifact, cfg: TrackingConfig):
    entry = TrackingRecord.read(artifact.folder).at(Connection(cfg))
    assert entry is not None
    return client_of(cfg).get_run(entry.run_id)


def test_import_of_flows_is_light_and_sets_the_switches(tmp_path):
    code = (
        "import sys, time, os; t = time.perf_counter(); import flows; print(time.perf_counter() - t);"
        "print(sorted({'prefect', 'mlflow', 'dvc', 'torch', 'pydantic'} & set(sys.modules)));"
        "print(os.environ['DO_NOT_TRACK'], os.environ['PREFECT_HOME'], os.environ['MLFLOW_LOGGING_LEVEL'])"
    )
    env = {"PATH": os.environ["PATH"], "LACEWING_WORKSPACE": str(tmp_path), "MLFLOW_LOGGING_LEVEL": "DEBUG"}
    seconds, heavy, switches = subprocess.check_output([sys.executable, "-c", code], env=env, text=True).splitlines()
    assert heavy == "[]"
    assert float(seconds) < 0.5
    assert switches == f"true {tmp_path}/prefect DEBUG"  # what the user has set stays


def test_the_first_run_of_a_workspace_makes_the_database(model, database):
    database.unlink()
    assert FlowTracker(TrackingConfig(), "pipeline").upload(model)
    assert run_of(model, TrackingConfig()).info.status == "FINISHED"


def test_flow_has_one_parent_and_a_nested_run_per_stage_with_figures_parameters_tags_and_reports(
    workspace, make_artifact, model
):
    report = make_artifact("assess", {"report.md": "# Fine", "loss.svg": "<svg/>", "documents.npy": b"x"}, events=2)
    flow = a_flow()
    with flow.closing():
        for artifact in (model, report):
            with flow.following(artifact.folder, artifact.record.identity, []) as follower:
                for event in read_events(artifact.folder / "events.jsonl"):
                    follower.take(event)
                follower.finish(artifact)
    client = flow.connection.client
    parent = client.get_run(flow.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"model.layers": "2", "data.sources": '["a", "b"]'}
    assert parent.data.tags["lacewing.preset"] == "world"
    run = run_of(model, TrackingConfig())
    assert run.data.tags["mlflow.parentRunId"] == flow.run_id
    assert run.data.tags["lacewing.key"] == model.key
    assert json.loads(run.data.tags["lacewing.environment"]) == {"torch": "2.13.0"}
    assert run.data.params == {"model.layers": "2", "model.name": "quick", "trainer.seeds": "[1, 2]"}
    assert run.info.status == "FINISHED"
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert len(curve) == 31
    assert run.data.metrics["loss"] == 3.5, "the final value is the latest one"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["artifact.json", "history.jsonl"]
    run = run_of(report, TrackingConfig())
    assert run.data.tags["mlflow.note.content"] == "# Fine"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"artifact.json", "loss.svg", "report.md"}
    assert (workspace / "mlartifacts").is_dir()


def test_words_in_an_artifacts_details_become_tags_of_its_run(workspace, make_artifact):
    details = {"precision": "32-true", "vocab_size": 320, "ops": {"attention": "Triton kernel"}, "list": ["a"]}
    model = make_artifact("pretrain", {"model/model.safetensors": b"w"}, details=details)
    assert FlowTracker(TrackingConfig(), "pipeline").upload(model)
    tags = run_of(model, TrackingConfig()).data.tags
    assert {name: text for name, text in tags.items() if name.startswith("lacewing.details.")} == {
        "lacewing.details.precision": "32-true",
        "lacewing.details.ops.attention": "Triton kernel",
    }


def test_events_are_sent_in_batches_while_the_stage_runs(workspace, make_artifact, monkeypatch):
    artifact = make_artifact("pretrain", {"a": "b"}, events=2500)
    sizes: list[int] = []
    flow = FlowTracker(TrackingConfig(), "pretrain")
    send = flow.connection.client.log_batch
    monkeypatch.setattr(
        flow.connection.client, "log_batch", lambda *a, **k: (sizes.append(len(k.get("metrics", ()))), send(*a, **k))
    )
    follower = flow.stage(artifact.folder, artifact.record.identity)
    events = list(read_events(artifact.folder / "events.jsonl"))
    started = time.monotonic()
    for event in events:
        follower.take(event)
    assert time.monotonic() - started < 20
    assert sum(sizes) >= 1000, "metrics are visible before the stage ends"
    follower.finish(artifact)
    assert sum(sizes) == 2500
    assert max(sizes) <= 1000
    assert len(sizes) < 30
    assert len(flow.connection.client.get_metric_history(follower.run_id, "loss")) == 2500


def test_data_set_is_an_input_with_its_dvc_digest(data, model):
    versions = {version.path: version for version in dvc.ensure_versioned(data, VersioningConfig())}
    flow = FlowTracker(TrackingConfig(), "pipeline")
    flow.upload(data)
    flow.upload(model)
    flow.close("FINISHED")
    inputs = {item.dataset.name: item for item in run_of(model, TrackingConfig()).inputs.dataset_inputs}
    shards = inputs["prepare/shards"]
    assert (shards.dataset.digest, shards.dataset.source_type) == (versions["shards"].md5, "dvc")
    source = {"artifact": f"prepare-{data.key}", "path": "shards", "md5": versions["shards"].md5}
    assert json.loads(shards.dataset.source) == {**source, "remote": versions["shards"].remote}
    assert [(tag.key, tag.value) for tag in shards.tags] == [("mlflow.data.context", "pretrain")]
    outputs = run_of(data, TrackingConfig()).inputs.dataset_inputs
    assert {item.dataset.digest for item in outputs} == {versions["raw"].md5, versions["shards"].md5}


def test_data_set_without_dvc_is_named_by_its_key(data, model):
    flow = FlowTracker(TrackingConfig(), "pipeline")
    flow.upload(model)
    digests = {item.dataset.digest for item in run_of(model, TrackingConfig()).inputs.dataset_inputs}
    assert digests == {data.key}


@pytest.mark.parametrize(("error", "status"), [(ValueError("bad weights"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_stage_that_does_not_end_well_ends_its_run_and_the_flows(model, error, status):
    flow = a_flow()
    started = []

    def run() -> None:
        with (
            flow.closing(),
            flow.following(model.folder, model.record.identity, []) as follower,
        ):
            started.append(follower)
            follower.take({"time": 1.0, "step": 1, "metrics": {"loss": 1.0}})
            raise error

    with pytest.raises(type(error)):
        run()
    (follower,) = started
    client = flow.connection.client
    assert client.get_run(follower.run_id).info.status == status
    assert client.get_run(flow.run_id).info.status == status
    assert client.get_run(follower.run_id).data.metrics == {"loss": 1.0}
    if status == "FAILED":
        assert client.get_run(follower.run_id).data.tags["lacewing.error"] == "bad weights"


def test_an_interrupted_stage_goes_on_in_the_same_run_without_doubling_its_curve(model):
    events = list(read_events(model.folder / "events.jsonl"))
    first = FlowTracker(TrackingConfig(), "pipeline").stage(model.folder, model.record.identity)
    for event in events[:20]:
        first.take(event)
    first.stop("KILLED")
    second_flow = FlowTracker(TrackingConfig(), "pipeline")
    second = second_flow.stage(model.folder, model.record.identity)
    for event in events:
        second.take(event)
    second.finish(model)
    assert second.run_id == first.run_id
    run = run_of(model, TrackingConfig())
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == second_flow.run_id
    assert len(client_of(TrackingConfig()).get_metric_history(run.info.run_id, "loss")) == 31


def test_a_tracked_artifact_is_not_sent_twice(model):
    assert FlowTracker(TrackingConfig(), "pipeline").upload(model)
    again = FlowTracker(TrackingConfig(), "pipeline")
    assert not again.upload(model)
    assert again.run_id == "", "a flow that has nothing to say makes no run"


def test_a_flow_that_skips_everything_does_not_load_mlflow(model):
    FlowTracker(TrackingConfig(), "pipeline").upload(model)
    code = (
        "import sys; from pathlib import Path; from components.core.artifact import Artifact;"
        "from conf.services import TrackingConfig; from flows.adapters.mlflow_runs import FlowTracker;"
        "tracker = FlowTracker(TrackingConfig(), 'pipeline');"
        f"print(tracker.upload(Artifact.open(Path({str(model.folder)!r})))); tracker.close('FINISHED');"
        "print('mlflow' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parents[3])
    assert output.split() == ["False", "False"]


def test_half_a_line_of_a_killed_process_is_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": 1, "progress": 0.5}\n{"time": 2, "met')
    assert list(read_events(path)) == [{"time": 1, "progress": 0.5}]


def test_unreachable_mlflow_lets_the_flow_finish_and_says_once_what_to_resend(model, data, closed_port, capsys):
    uri = f"http://127.0.0.1:{closed_port}"
    flow = a_flow(uri=uri)
    started = time.monotonic()
    with flow.closing():
        for artifact in (data, model):
            with flow.following(artifact.folder, artifact.record.identity, []) as follower:
                for event in read_events(artifact.folder / "events.jsonl"):
                    follower.take(event)
                follower.finish(artifact)
        assert "did not answer" in flow.where()
    assert time.monotonic() - started < 15
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    for word in (uri, f"prepare {data.key[:8]}", f"pretrain {model.key[:8]}", "lacewing sync"):
        assert word in warnings[0]
    entry = TrackingRecord.read(model.folder).at(flow.connection)
    assert entry is not None
    assert (entry.complete, entry.flow) == (False, "pipeline")


def test_a_server_that_never_answers_does_not_hold_the_flow(model):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        flow = FlowTracker(TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=1), "x")
        started = time.monotonic()
        flow.upload(model)
    assert isinstance(flow.failure, ServiceError)
    assert time.monotonic() - started < 20


def test_unreachable_database_fails_fast_and_its_password_is_not_shown(model, closed_port):
    flow = FlowTracker(TrackingConfig(uri=f"postgresql://lacewing:secret@127.0.0.1:{closed_port}/mlflow"), "pipeline")
    started = time.monotonic()
    flow.upload(model)
    assert time.monotonic() - started < 5
    assert f"127.0.0.1:{closed_port}" in str(flow.failure)
    assert "secret" not in str(flow.failure)
    assert "secret" not in (model.folder / "tracking.json").read_text()


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "htp://localhost:5000"])
def test_an_address_mlflow_cannot_use_is_refused_at_once(uri):
    with pytest.raises(ValueError, match="sqlite://"):
        TrackingConfig(uri=uri)


def test_a_deleted_experiment_is_explained(model):
    connection = Connection(TrackingConfig())
    connection.client.delete_experiment(connection.experiment_id)
    flow = FlowTracker(TrackingConfig(), "pipeline")
    flow.upload(model)
    assert "has been deleted" in str(flow.failure)


@pytest.fixture
def mlflow_server(workspace: Path) -> Iterator[str]:
    """A real ``mlflow server`` process over the workspace's database, as `lacewing up` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{workspace}/mlflow.db"]
    command += ["--artifacts-destination", (workspace / "mlartifacts").as_uri()]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert process.poll() is None, "mlflow server ended"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_tracking_sync_and_registry_work_through_a_real_server(mlflow_server, make_bundle, model, data):
    """In an experiment made through SQLite, with files beside the database, and in one made by the server."""
    sync(TrackingConfig(), VersioningConfig())
    bundles = [make_bundle("a"), make_bundle("b")]
    for experiment in ("lacewing", "made by the server"):
        cfg = TrackingConfig(uri=mlflow_server, experiment=experiment, registered_model=experiment)
        sync(cfg, VersioningConfig())
        run = run_of(model, cfg)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["loss"] == 3.5
        assert len(client_of(cfg).get_metric_history(run.info.run_id, "loss")) == 31
        files = {file.path for file in client_of(cfg).list_artifacts(run.info.run_id)}
        assert files == {"artifact.json", "history.jsonl"}
        registry = Registry(cfg)
        assert registry.champion() is None
        first, second = (registry.register(bundle) for bundle in bundles)
        assert registry.register(bundles[0]).number == first.number
        registry.promote(first.number, "first")
        registry.promote(second.number, "better")
        assert registry.rolled_back(bundles[1].key) is None
        logged = client_of(cfg).get_logged_model(second.tags["lacewing.model_id"])
        assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": experiment, "version": 2}], "linked once"
        assert {metric.key for metric in logged.metrics} == bundles[1].metrics.keys()
        assert logged.artifact_location.startswith("file:" if experiment == "lacewing" else "mlflow-artifacts:")
    for bundle in bundles:  # another machine: nothing local
        shutil.rmtree(bundle.folder)
    for experiment in ("lacewing", "made by the server"):
        registry = Registry(TrackingConfig(uri=mlflow_server, experiment=experiment, registered_model=experiment))
        champion = registry.champion()
        assert champion is not None
        assert champion.key == bundles[1].key
        assert (champion.folder / "model.safetensors").read_text() == "b" * 100
        shutil.rmtree(champion.folder)
        assert registry.rollback().number == 1
        assert registry.resolve("champion").key == bundles[0].key
