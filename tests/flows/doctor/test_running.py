"""`lacewing up` and its ports: who has them, and what a killed one leaves."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from conf.schema import ProjectConfig
from flows.doctor import running
from flows.owner import this_process
from tests.flows.test_sole_up import another

Up = Callable[[float], "subprocess.Popen[str]"]
GONE = "from flows.owner import this_process; print(this_process())"


@pytest.fixture
def up(workspace: Path) -> Iterator[Up]:
    """Starts an `up` in this workspace, with one service that lives so many seconds and no address yet."""
    workspace.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(service_seconds: float) -> "subprocess.Popen[str]":
        started.append(another(service_seconds))
        return started[-1]

    yield start
    for process in started:
        end(process)


def end(process: "subprocess.Popen[str]") -> None:
    """End an `up` and its service, which are a group of processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout and not process.stdout.closed:
        process.communicate()  # both hold the pipe


def test_a_held_port_is_a_warning_with_the_process_and_the_next_free_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = running.free_or_held({"up mlflow_port": port})
    assert found.state == "warning"
    assert f"{port} is held by process {os.getpid()} (" in found.found
    assert found.remedy.startswith("lacewing up mlflow_port=")
    assert int(found.remedy.rpartition("=")[2]) > port
    assert running.free_or_held({"up mlflow_port": port}).state == "ok"


def test_one_that_is_starting_is_told_from_one_that_was_killed(up: Up, workspace: Path) -> None:
    assert running.up().state == "ok"
    process = up(600)
    found = running.up()
    assert (found.state, f"it runs (process {process.pid})" in found.found) == ("warning", True)
    process.kill()
    process.wait()
    found = running.up()
    assert (found.state, found.remedy) == ("warning", f"fuser -k {workspace / 'up.lock'}")
    end(process)
    assert running.up().state == "ok"


def test_the_addresses_of_a_killed_one_are_a_warning(workspace: Path, closed_port: int) -> None:
    workspace.mkdir()
    path = workspace / "up.json"
    path.write_text(f'{{"prefect": "http://127.0.0.1:{closed_port}", "mlflow": "http://127.0.0.1:{closed_port}"}}')
    assert running.up().remedy == f"rm {path}"


def test_runs_of_killed_processes_are_counted(
    workspace: Path, settings: ProjectConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert running.abandoned_runs(settings) == running.ok("none in the databases of this workspace; 0 running")
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.execute("CREATE TABLE flow_run (name TEXT, infrastructure_pid TEXT, state_type TEXT)")
        rows = [("alive", this_process(), "RUNNING"), ("killed", gone, "RUNNING"), ("ended", gone, "COMPLETED")]
        database.executemany("INSERT INTO flow_run VALUES (?, ?, ?)", rows)
        database.commit()
    found = running.abandoned_runs(settings)
    assert (found.state, found.remedy) == ("warning", "lacewing sync")
    assert found.found == "1 count as running although their process has gone: killed"
