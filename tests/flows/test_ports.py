"""What listens where."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.ports import is_loopback


@pytest.mark.parametrize(
    ("host", "here_only"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_only_loopback_stays_on_this_machine(host: str, here_only: bool) -> None:
    assert is_loopback(host) is here_only


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_up_warns_if_others_can_reach_it(host: str, workspace: Path) -> None:
    with socket.socket() as taken:  # so that the command ends at once
        taken.bind((host, 0))
        taken.listen()
        command = ["up", f"host={host}", f"prefect_port={taken.getsockname()[1]}"]
        done = subprocess.run([sys.executable, "-m", "flows.cli", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 6, done.stderr
    assert ("0.0.0.0 is reachable from other machines" in done.stderr) is (host == "0.0.0.0")
