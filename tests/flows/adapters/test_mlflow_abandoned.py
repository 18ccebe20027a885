"""Runs of killed processes do not stay ``RUNNING``; runs of living ones do."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters.databases import open_runs
from flows.adapters.mlflow_connection import ERROR, PROCESS, Connection
from flows.adapters.mlflow_runs import FlowTracker
from flows.adapters.mlflow_stage_run import read_events
from flows.owner import is_gone, this_process
from flows.sync import sync
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("database")

KILLED_FLOW = """
import os, signal
from pathlib import Path
from components.core.artifact import Artifact
from conf.services import TrackingConfig
from flows.adapters.mlflow_runs import FlowTracker

artifact = Artifact.open(Path({folder!r}))
tracker = FlowTracker(TrackingConfig(), "pipeline", title="killed")
tracker.stage(artifact.folder, artifact.record.identity).take({{"time": 1.0, "step": 1, "metrics": {{"loss": 1.0}}}})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(model: Artifact) -> None:
    """A flow that was killed within a stage: its own run and that of the stage are open."""
    code = KILLED_FLOW.format(folder=str(model.folder))
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == -9, process.stderr
    assert set(statuses().values()) == {"RUNNING"}


def statuses() -> dict[str, str]:
    connection = Connection(TrackingConfig())
    runs = connection.client.search_runs([connection.experiment_id])
    return {run.info.run_name: run.info.status for run in runs}


def test_they_are_seen_in_the_database_without_mlflow(killed: None, database: Path) -> None:
    found = open_runs(database, "mlflow")
    assert {name for name, _ in found} == {name for name, status in statuses().items() if status == "RUNNING"}
    assert all(is_gone(process) for _, process in found)


def test_sync_closes_them_and_says_so(killed: None, model: Artifact) -> None:
    (model.folder / "artifact.json").unlink()  # the stage had not ended: there is nothing to send
    rows = [row for row in sync(TrackingConfig(), VersioningConfig()) if row[0].startswith("run ")]
    assert sorted(rows) == [
        ("run killed", "closed: its process had ended"),
        (f"run pretrain {model.key[:8]}", "closed: its process had ended"),
    ]
    assert "RUNNING" not in statuses().values()
    assert statuses()["killed"] == "KILLED"
    assert sync(TrackingConfig(), VersioningConfig())[0][0] == "nothing to send"


def test_the_next_flow_closes_them_while_it_goes_on_with_the_stage(killed: None, model: Artifact) -> None:
    flow = FlowTracker(TrackingConfig(), "pipeline", title="again")
    with flow.closing(), flow.following(model.folder, model.record.identity, []) as stage:
        for event in read_events(model.folder / "events.jsonl"):
            stage.take(event)
        assert statuses() == {"killed": "KILLED", "again": "RUNNING", f"pretrain {model.key[:8]}": "RUNNING"}
        stage.finish(model)
    assert statuses() == {"killed": "KILLED", "again": "FINISHED", f"pretrain {model.key[:8]}": "FINISHED"}
    run = flow.connection.client.get_run(stage.run_id)
    assert ERROR not in run.data.tags, "it has been continued, and nothing is wrong with it"
    assert run.data.tags[PROCESS] == this_process()


def test_a_flow_that_has_nothing_to_send_closes_them_too(killed: None) -> None:
    with FlowTracker(TrackingConfig(), "release").closing():
        pass
    assert "RUNNING" not in statuses().values()


def test_runs_that_may_be_alive_stay_open(workspace: Path) -> None:
    connection = Connection(TrackingConfig())
    elsewhere = f"another machine {this_process()}"
    connection.create_run("alive", {})
    connection.create_run("elsewhere", {PROCESS: elsewhere})
    connection.create_run("says nothing", {PROCESS: ""})
    assert sync(TrackingConfig(), VersioningConfig())[0][0] == "nothing to send"
    assert set(statuses().values()) == {"RUNNING"}
