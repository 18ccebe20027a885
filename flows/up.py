"""``lacewing up``: one Prefect server, one MLflow server and one worker, on loopback, until Ctrl-C."""

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
from typing import NamedTuple

from components.core.atomic import write_json
from components.core.errors import ServiceError
from components.core.parent import STOP_TIMEOUT_SECONDS
from conf.compose import DEFAULT_PRESET, Preset, choices
from conf.schema import UpConfig
from flows import console
from flows.adapters import dvc
from flows.adapters.mlflow_pages import runs_page
from flows.adapters.prefect_runs import close_abandoned
from flows.adapters.prefect_server import API_URL, PrefectServer, server_is_chosen
from flows.addresses import address_file, running
from flows.catalogue import flows
from flows.form import FORM
from flows.ports import ensure_free, is_loopback, wait_until_answers
from flows.sole_up import sole_up
from flows.workspace import make_workspace, workspace_folder

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
        """End the process as Ctrl-C does, and what it has left behind: a killed one could not stop its own children."""
        if self.running():
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def up(config: UpConfig) -> int:
    """Start the three services, say where they are, and wait; Ctrl-C or SIGTERM stops all of them.

    They also stop when this process is killed; an ``up`` that is started meanwhile waits for their end.
    """
    _warn_if_reachable(config.host)
    make_workspace()
    dvc.initialize()
    prefect, mlflow = _addresses(config)
    api = {API_URL: f"{prefect}/api", "PREFECT_UI_API_URL": f"{prefect}/api"}
    form = {FORM: config.form.model_dump_json()}

    with ExitStack() as stack:
        # Both by hand: a background job of a shell starts with SIGINT ignored, and its children inherit that.
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, _interrupt))
        lock = stack.enter_context(sole_up())
        address_file().unlink(missing_ok=True)  # left by one that was killed
        ensure_free(config.host, config.prefect_port, "prefect_port")
        ensure_free(config.host, config.mlflow_port, "mlflow_port")
        servers = [
            _start(stack, "prefect", _prefect_command(config), api, lock),
            _start(stack, "mlflow", _mlflow_command(config), {}, lock),
        ]
        _wait_for(servers[0], f"{prefect}/api/health", config)
        _wait_for(servers[1], f"{mlflow}/health", config)
        worker = _start(stack, "worker", ["flows.deployments", "--sole-worker"], api | form, lock)
        _wait_for_deployments(worker, f"{prefect}/api", config)
        write_json(address_file(), {"prefect": prefect, "mlflow": mlflow, "pid": os.getpid()})
        stack.callback(address_file().unlink, missing_ok=True)
        console.show_table("lacewing is up; Ctrl-C stops it", [("Prefect", prefect), ("MLflow", runs_page(mlflow))])
        try:
            return _watch([*servers, worker])
        except KeyboardInterrupt:
            console.say("stopping")
            return 0


class Server(NamedTuple):
    """The Prefect server of a command: its process, if this command has started it, and whether it is the workspace's
    own."""

    process: PrefectServer | None
    own: bool


def find_server() -> Server:
    """Decide on the Prefect server: the chosen one, that of ``lacewing up`` in this workspace, or else a new one."""
    if server_is_chosen():
        return Server(None, own=False)
    if address := running("prefect"):
        os.environ[API_URL] = f"{address}/api"
        return Server(None, own=True)
    return Server(PrefectServer(), own=True)


def close_abandoned_runs() -> list[console.Row]:
    """Close runs in Prefect whose process has gone; returns a row if there were any."""
    if not (Path(os.environ["PREFECT_HOME"]) / "prefect.db").exists() and not server_is_chosen():
        return []
    server = find_server()
    if server.process:
        server.process.wait()
    closed = close_abandoned(server.own)
    return [("closed in Prefect", f"{', '.join(closed)}: killed before they ended")] if closed else []


def _warn_if_reachable(host: str) -> None:
    if not is_loopback(host):
        console.warn(
            f"{host} is reachable from other machines, and neither Prefect nor MLflow asks for a password: anyone may "
            "start runs, read and delete them"
        )


def _addresses(config: UpConfig) -> tuple[str, str]:
    return f"http://{config.host}:{config.prefect_port}", f"http://{config.host}:{config.mlflow_port}"


def _prefect_command(config: UpConfig) -> list[str]:
    return ["flows.adapters.prefect_ui_server", config.host, str(config.prefect_port)]


def _mlflow_command(config: UpConfig) -> list[str]:
    # Four workers and eight job processes are the default: two gigabytes for one person's runs.
    place = ["--host", config.host, "--port", str(config.mlflow_port), "--workers", "1"]
    return ["flows.adapters.mlflow_server", *place]


def _start(stack: ExitStack, name: str, module: list[str], environment: Mapping[str, str], lock: int) -> Service:
    """Start a module, with its arguments, so that it ends with this process however this one ends."""
    log = workspace_folder() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "components.core.parent", *module],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
            pass_fds=[lock],
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
    """The worker is ready when all its deployments have been registered."""
    import httpx

    presets = [preset.value for preset in Preset]
    expected = {name for entry in flows().values() for name in entry.deployments(presets, DEFAULT_PRESET, choices)}
    deadline = time.monotonic() + config.startup_timeout_seconds
    while worker.running() and time.monotonic() < deadline:
        found = httpx.post(f"{api}/deployments/filter", json={}, timeout=10).json()
        ready = {deployment["name"] for deployment in found if deployment["status"] == "READY"}
        if expected <= ready:
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
