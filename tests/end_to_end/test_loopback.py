"""Nothing leaves the machine: every connection of a pipeline, of ``serve`` and of ``up``, as the kernel sees it.

The audit hook of ``tests/audit`` sees what Python code asks for; the tests of these commands look at that. strace sees
what native code and detached processes do as well.
"""

import ipaddress
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import COMMAND, Place, free_port
from tests.end_to_end.test_chaos import PATIENCE_SECONDS, PIPELINE_SECONDS, TINY

STRACE = ["strace", "-DDD", "-f", "--seccomp-bpf", "-q", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')
DNS = 53  # a resolver on this machine asks others


def strace_works() -> bool:
    """Whether strace is installed and may trace, which containers often forbid."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"], capture_output=True)
    return tried.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not strace_works(), reason="needs Debian's strace, and the right to trace"),
]


class Traced:
    """Commands under strace, in one workspace. Signals reach them, because the tracer is not their parent."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        log, output = self.folder / f"{arguments[0]}.strace", self.folder / f"{arguments[0]}.log"
        with output.open("wb") as file:
            return subprocess.Popen(
                [*STRACE, "-o", str(log), COMMAND, *arguments],
                env=self.place.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def printed(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text(errors="replace")

    def wait_for(self, words: str, command: str, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while words not in self.printed(command):
            assert process.poll() is None, self.printed(command)
            assert time.monotonic() < deadline, self.printed(command)
            time.sleep(0.3)

    def calls(self, command: str) -> list[str]:
        """The system calls that name an internet address."""
        lines = (self.folder / f"{command}.strace").read_text(errors="replace").splitlines()
        return [line for line in lines if ADDRESS.search(line)]


def leaves_the_machine(call: str) -> bool:
    found = ADDRESS.search(call)
    assert found is not None
    port, *addresses = found.groups()
    address = ipaddress.ip_address("".join(filter(None, addresses)))
    address = getattr(address, "ipv4_mapped", None) or address
    return int(port) == DNS or not (address.is_loopback or address.is_unspecified)


def test_addresses_are_read_as_strace_writes_them() -> None:
    call = '7 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("140.82.121.4")}, 16) = 0'
    assert leaves_the_machine(call)
    assert not leaves_the_machine(call.replace("140.82.121.4", "127.0.0.1"))
    assert leaves_the_machine(call.replace("140.82.121.4", "127.0.0.53").replace("443", "53"))
    call = "connect(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "
    assert leaves_the_machine(call + '"2606:50c0::1", &sin6_addr), sin6_scope_id=0}, 28)')
    assert not leaves_the_machine(call + '"::1", &sin6_addr), sin6_scope_id=0}, 28)')


@pytest.mark.parametrize("used", ["a pipeline and serve", "up and its form"])
def test_no_system_call_reaches_another_machine(tmp_path: Path, used: str) -> None:
    traced = Traced(Place(tmp_path / "workspace", tmp_path / "sockets.log"), tmp_path)
    try:
        (use_form if used == "up and its form" else run_and_serve)(traced)
    finally:
        for process in traced.place.processes():
            process.kill()
    calls = [call for log in tmp_path.glob("*.strace") for call in traced.calls(log.stem)]
    assert len(calls) > 20, "hardly a connection: was it traced?"
    assert [call for call in calls if leaves_the_machine(call)] == []
    assert traced.place.outside_connections() == []


def run_and_serve(traced: Traced) -> None:
    pipeline = traced.start("pipeline", *TINY)
    assert pipeline.wait(PIPELINE_SECONDS) == 0, traced.printed("pipeline")
    port = free_port()
    server = traced.start("serve", "model=champion", f"port={port}")
    traced.wait_for("serving champion on", "serve", server)
    body = {"model": "champion", "prompt": "The", "max_tokens": 8, "call_budget": 0.5}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200, answer.text
    server.send_signal(signal.SIGTERM)
    server.wait(60)


def use_form(traced: Traced) -> None:
    prefect, mlflow = free_port(), free_port()
    up = traced.start("up", f"prefect_port={prefect}", f"mlflow_port={mlflow}")
    traced.wait_for("lacewing is up", "up", up)
    api = f"http://127.0.0.1:{prefect}/api"
    for page in (f"http://127.0.0.1:{prefect}/", f"http://127.0.0.1:{mlflow}/"):
        assert httpx.get(page, follow_redirects=True, timeout=60).status_code == 200
    deployments = httpx.post(f"{api}/deployments/filter", json={}, timeout=60).json()
    prepare = next(each for each in deployments if each["name"] == "prepare")
    body = {"parameters": {"preset": "world", "overrides": TINY[:2]}}
    run = httpx.post(f"{api}/deployments/{prepare['id']}/create_flow_run", json=body, timeout=60).json()
    deadline = time.monotonic() + PATIENCE_SECONDS
    state = ""
    while state != "COMPLETED":
        assert state not in ("FAILED", "CRASHED"), traced.printed("up")
        assert time.monotonic() < deadline, state
        time.sleep(1)
        state = httpx.get(f"{api}/flow_runs/{run['id']}", timeout=60).json()["state"]["type"]
    up.send_signal(signal.SIGINT)
    assert up.wait(130) == 0
