import shutil
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, ServiceError
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters import dvc
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_runs import FlowTracker
from flows.adapters.mlflow_stage_run import DATA_SETS
from flows.adapters.tracking_record import TrackingRecord
from flows.sync import sync

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def versions(tmp_path: Path) -> VersioningConfig:
    return VersioningConfig(remote=str(tmp_path / "mounted" / "remote"))


@pytest.fixture
def missed(data, model, versions, tmp_path, workspace, migrated_database):
    """A flow that ran while neither MLflow nor the remote could be reached; both are back now."""
    (tmp_path / "mounted").write_text("not a folder")
    away = workspace / "away"
    away.write_text("not a folder")
    cfg = TrackingConfig(uri=f"sqlite:///{away}/mlflow.db")
    flow = FlowTracker(cfg, "pipeline", flow_run="f1")
    dvc.ensure_versioned(data, versions)
    for artifact in (data, model):
        flow.upload(artifact)
    flow.close("FINISHED")
    assert flow.failure
    (tmp_path / "mounted").unlink()
    away.unlink()
    away.mkdir()
    shutil.copy(migrated_database, away / "mlflow.db")
    return cfg


def test_a_damaged_note_of_the_run_is_named_with_what_to_do(model: Artifact) -> None:
    path = model.folder / "tracking.json"
    path.write_text('{"runs": [{"uri": 1}]}')
    with pytest.raises(ArtifactError, match=rf"{path} is damaged: runs\.0\.uri: .*string.*Delete it"):
        TrackingRecord.read(model.folder)


def test_what_was_missed_is_sent_under_the_flow_it_belongs_to(missed, data, model, versions):
    rows = dict(sync(missed, versions))
    assert set(rows) == {f"prepare-{data.key}", f"prepare {data.key[:16]}", f"pretrain {model.key[:16]}"}
    connection = Connection(missed)
    runs = [
        connection.client.get_run(entry.run_id)
        for a in (data, model)
        if (entry := TrackingRecord.read(a.folder).at(connection))
    ]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert all(f"{connection.workspace}/mlartifacts" in run.info.artifact_uri for run in runs)
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert len(parents) == 1
    parent = connection.client.get_run(parents.pop())
    assert parent.data.tags["lacewing.flow_run"] == "f1"
    assert parent.info.status == "FINISHED"
    digests = {item.dataset.digest for item in runs[1].inputs.dataset_inputs}
    assert {v.md5 for v in dvc.recorded(data) if v.path in DATA_SETS} == digests
    assert all(v.pushed for v in dvc.recorded(data))
    times = connection.client.get_metric_history(runs[1].info.run_id, "loss")
    assert min(point.timestamp for point in times) >= runs[1].info.start_time


def test_nothing_is_sent_twice(missed, versions, data, model):
    sync(missed, versions)
    assert sync(missed, versions) == [("nothing to send", "MLflow and the DVC remote have everything")]
    assert len(Connection(missed).client.search_runs([Connection(missed).experiment_id])) == 3


def test_what_is_still_away_is_named_and_the_rest_is_sent(missed, versions, data, model, closed_port):
    away = TrackingConfig(uri=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(ServiceError, match=rf"{closed_port}.*Sent: prepare-{data.key}"):
        sync(away, versions)
    assert all(v.pushed for v in dvc.recorded(data))


def test_an_unreachable_remote_does_not_keep_runs_from_being_sent(missed, versions, data, model, tmp_path):
    (tmp_path / "mounted").write_text("away again")
    with pytest.raises(ServiceError, match=rf"remote.*Sent: prepare {data.key[:16]}, pretrain {model.key[:16]}"):
        sync(missed, versions)


def test_a_store_that_was_emptied_is_filled_again(missed, versions, data, model):
    sync(missed, versions)
    connection = Connection(missed)
    for run in connection.client.search_runs([connection.experiment_id]):
        connection.client.delete_run(run.info.run_id)
    assert len(sync(missed, versions)) == 2


def test_another_address_gets_everything_too(missed, versions, data, model):
    sync(missed, versions)
    assert len(sync(TrackingConfig(), versions)) == 2
    assert len(TrackingRecord.read(model.folder).runs) == 2


def test_an_unfinished_folder_is_not_sent(missed, versions, model):
    (model.folder / "artifact.json").unlink()
    assert not any(name.startswith("pretrain") for name, _ in sync(missed, versions))


def test_an_altered_artifact_is_not_pushed_as_if_it_were_the_one(missed, versions, data):
    (data.folder / "shards/train.bin").write_bytes(b"zz" * 500)
    with pytest.raises(ServiceError, match=r"train\.bin was altered"):
        sync(missed, versions)


def test_an_empty_workspace_has_nothing_to_send(workspace):
    assert sync(TrackingConfig(), VersioningConfig())[0][0] == "nothing to send"
