"""``lacewing up``: one Prefect server, one MLflow server and one worker, on loopback, until Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from components.core.atomic import write_json
from components.core.errors import ServiceError
from conf.schema import UpConfig
from flows import console
from flows.adapters.mlflow_pages import runs_page
from flows.ports import answers, ensure_free, wait_until_answers
from flows.workspace import make_workspace, workspace_folder

STOP_TIMEOUT_SECONDS = 120  # a worker passes the stop on to a training run, which saves a checkpoint
LOG_TAIL_LINES = 15


@dataclass
class Service:
    """A child process with a log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def running(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def stop(self) -> None:
        if not self.running():
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def up(config: UpConfig) -> int:
    """Start the three services, say where they are, and wait; Ctrl-C or SIGTERM stops all of them."""
    ensure_free(config.host, config.prefect_port, "prefect_port")
    ensure_free(config.host, config.mlflow_port, "mlflow_port")
    make_workspace()
    prefect, mlflow = _addresses(config)
    api = {"PREFECT_API_URL": f"{prefect}/api", "PREFECT_UI_API_URL": f"{prefect}/api"}

    with ExitStack() as stack:
        # Both by hand: a background job of a shell starts with SIGINT ignored, and its children inherit that.
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, _interrupt))
        servers = [
            _start(stack, "prefect", _prefect_command(config), api),
            _start(stack, "mlflow", _mlflow_command(config), {}),
        ]
        _wait_for(servers[0], f"{prefect}/api/health", config)
        _wait_for(servers[1], f"{mlflow}/health", config)
        worker = _start(stack, "worker", [sys.executable, "-m", "flows.deployments"], api)
        _wait_for_deployments(worker, f"{prefect}/api", config)
        write_json(_address_file(), {"prefect": prefect, "mlflow": mlflow, "pid": os.getpid()})
        stack.callback(_address_file().unlink, missing_ok=True)
        console.show_table("lacewing is up; Ctrl-C stops it", [("Prefect", prefect), ("MLflow", runs_page(mlflow))])
        try:
            return _watch([*servers, worker])
        except KeyboardInterrupt:
            console.say("stopping")
            return 0


def use_running_server() -> None:
    """If ``lacewing up`` runs in this workspace, let flows started here appear in its UI."""
    if "PREFECT_API_URL" in os.environ or not _address_file().exists():
        return
    api = json.loads(_address_file().read_text())["prefect"] + "/api"
    if answers(f"{api}/health"):
        os.environ["PREFECT_API_URL"] = api


def _addresses(config: UpConfig) -> tuple[str, str]:
    return f"http://{config.host}:{config.prefect_port}", f"http://{config.host}:{config.mlflow_port}"


def _address_file() -> Path:
    return workspace_folder() / "up.json"


def _prefect_command(config: UpConfig) -> list[str]:
    place = ["--host", config.host, "--port", str(config.prefect_port)]
    return [sys.executable, "-m", "prefect", "server", "start", *place]


def _mlflow_command(config: UpConfig) -> list[str]:
    # Four workers and eight job processes are the default: two gigabytes for one person's runs.
    place = ["--host", config.host, "--port", str(config.mlflow_port), "--workers", "1"]
    return [sys.executable, "-m", "flows.adapters.mlflow_server", *place]


def _start(stack: ExitStack, name: str, command: list[str], environment: Mapping[str, str]) -> Service:
    log = workspace_folder() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    service = Service(name, process, log)
    stack.callback(service.stop)
    return service


def _wait_for(service: Service, url: str, config: UpConfig) -> None:
    if not wait_until_answers(url, config.startup_timeout_seconds, service.running):
        raise ServiceError(
            f"{service.name} did not answer at {url} within {config.startup_timeout_seconds} s "
            f"({'still starting' if service.running() else 'it ended'}); its log {service.log} ends:\n{service.tail()}"
        )


def _wait_for_deployments(worker: Service, api: str, config: UpConfig) -> None:
    """The worker is ready when its last deployment has been registered."""
    import httpx

    deadline = time.monotonic() + config.startup_timeout_seconds
    while worker.running() and time.monotonic() < deadline:
        found = httpx.post(f"{api}/deployments/filter", json={}, timeout=10).json()
        if any(deployment["name"] == "any-preset" and deployment["status"] == "READY" for deployment in found):
            return
        time.sleep(0.5)
    raise ServiceError(f"the worker did not register its deployments; its log {worker.log} ends:\n{worker.tail()}")


def _watch(services: list[Service]) -> int:
    while True:
        for service in services:
            if not service.running():
                raise ServiceError(f"{service.name} ended by itself; its log {service.log} ends:\n{service.tail()}")
        time.sleep(0.5)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
