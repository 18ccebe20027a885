"""The server of one command: it answers, and it does not outlive the command, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.adapters import prefect_server

STARTS_ONE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs, and with them this test
from flows.adapters.prefect_server import PrefectServer
from flows.ports import answers
import os
from flows.workspace import make_workspace
make_workspace()
server = PrefectServer()
server.wait()
assert answers(os.environ["PREFECT_API_URL"] + "/health")
assert "prefect" not in sys.modules, "the flow's process need not import the server"
print(server._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_server_answers_and_ends_with_its_command(workspace: Path, number: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        assert command.stdout is not None
        server = int(command.stdout.readline())
        assert psutil.pid_exists(server)
        command.send_signal(number)
        command.wait(30)
        deadline = time.monotonic() + 30
        while psutil.pid_exists(server):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        command.kill()
        command.wait()


def test_a_server_that_somebody_has_chosen_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name in (prefect_server.API_URL, "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert not prefect_server.server_is_chosen()
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    assert not prefect_server.server_is_chosen()
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://elsewhere/api"\n')
    assert prefect_server.server_is_chosen()
    (tmp_path / "prefect.toml").unlink()
    monkeypatch.setenv(prefect_server.API_URL, "http://elsewhere/api")
    assert prefect_server.server_is_chosen()


PROFILES = """
active = "ephemeral"
[profiles.ephemeral]
PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"
[profiles.team]
PREFECT_API_URL = "http://elsewhere/api"
"""


def test_a_profile_without_an_address_chooses_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect would start a server of its own for it, and that one outlives a flow that is killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in (prefect_server.API_URL, "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "profiles.toml").write_text(PROFILES)
    assert not prefect_server.server_is_chosen()
    monkeypatch.setenv("PREFECT_PROFILE", "team")
    assert prefect_server.server_is_chosen()


@pytest.mark.parametrize(("value", "chosen"), [("true", False), ("false", True)])
def test_a_temporary_server_that_is_allowed_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, chosen: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv(prefect_server.API_URL, raising=False)
    monkeypatch.setenv("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", value)
    assert prefect_server.server_is_chosen() == chosen
