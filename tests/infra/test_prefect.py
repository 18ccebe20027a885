"""Prefect on PostgreSQL, as infra/ starts it: flows of two machines, a work pool, and a database that comes late."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import ROOT
from tests.infra.servers import (
    INFRA,
    ROOT_CERTIFICATE,
    START_SECONDS,
    Place,
    answers,
    free_port,
    health_of,
    proxy,
    running,
)

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.infra]

SMALL = ["data.world.entities=60", "data.vocab_size=512"]


@pytest.fixture(scope="module")
def prefect(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the API."""
    log = tmp_path_factory.mktemp("prefect") / "prefect.log"
    with running(place.command("prefect"), place.environment("prefect"), log, prefect_health(place)):
        yield place.translated("http://prefect:4200/api")


def prefect_health(place: Place) -> str:
    return place.translated(health_of("prefect").replace("127.0.0.1:4200", "prefect:4200"))


def machine(place: Place, workspace: Path) -> dict[str, str]:
    """The environment of a machine that shares the services."""
    return place.environment("worker") | {"LACEWING_WORKSPACE": str(workspace)}


def runs(prefect: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = httpx.post(f"{prefect}/flow_runs/filter", json={}, timeout=30).json()
    return found


def test_two_machines_share_one_prefect_and_prepare_the_same_data_at_once(
    place: Place, prefect: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "flows.cli", "prepare", *SMALL]
    with ExitStack() as stack:
        both = []
        for name in ("first", "second"):
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            environment = machine(place, tmp_path / name)
            both.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT))
        codes = [process.wait(600) for process in both]
    words = [(tmp_path / f"{name}.log").read_text() for name in ("first", "second")]
    assert codes == [0, 0], words
    assert [run["state_type"] for run in runs(prefect)] == ["COMPLETED"] * 2
    made = [
        sorted(path.parent.name for path in (tmp_path / name).glob("artifacts/prepare/*/artifact.json"))
        for name in ("first", "second")
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 1
    listed = subprocess.run(
        [sys.executable, "-m", "flows.cli", "data", "list"],
        env=machine(place, tmp_path / "third"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert f"prepare-{made[0][0]}" in listed.stdout, listed.stderr


def test_a_worker_of_the_work_pool_runs_what_the_form_asks(place: Place, prefect: str, tmp_path: Path) -> None:
    """The two commands are those of infra/kubernetes/base/worker.yaml."""
    manifest = next(iter(yaml.safe_load_all((INFRA / "kubernetes" / "base" / "worker.yaml").read_text())))
    pod = manifest["spec"]["template"]["spec"]
    register, start = pod["initContainers"][0]["command"], pod["containers"][0]["command"]
    port = free_port()
    environment = machine(place, tmp_path / "worker") | {"PREFECT_WORKER_WEBSERVER_PORT": str(port)}
    (tmp_path / "worker").mkdir()
    done = subprocess.run([sys.executable, *register[1:]], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pool = httpx.get(f"{prefect}/work_pools/lacewing", timeout=30).json()
    assert pool["type"] == "process"
    deployment = httpx.get(f"{prefect}/deployments/name/prepare/prepare", timeout=30).json()
    assert deployment.get("work_pool_name") == "lacewing", deployment
    health = f"http://127.0.0.1:{port}{pod['containers'][0]['livenessProbe']['httpGet']['path']}"
    command = [sys.executable, "-m", "prefect", *start[1:]]
    with running(command, environment, tmp_path / "worker.log", health):
        asked = httpx.post(
            f"{prefect}/deployments/{deployment['id']}/create_flow_run",
            json={"parameters": {"preset": "world", "overrides": SMALL}, "state": {"type": "SCHEDULED"}},
            timeout=30,
        )
        assert asked.status_code == 201, asked.text
        deadline = time.monotonic() + START_SECONDS
        while (state := httpx.get(f"{prefect}/flow_runs/{asked.json()['id']}", timeout=30).json())[
            "state_type"
        ] not in (
            "COMPLETED",
            "FAILED",
            "CRASHED",
        ):
            assert time.monotonic() < deadline, (tmp_path / "worker.log").read_text()[-3000:]
            time.sleep(1)
    assert state["state_type"] == "COMPLETED", (state["state"], (tmp_path / "worker.log").read_text()[-3000:])
    assert len(list((tmp_path / "worker").glob("artifacts/prepare/*/artifact.json"))) == 1


def test_a_machine_outside_works_through_the_proxy(place: Place, prefect: str, tmp_path: Path) -> None:
    """With the variables of the guide's section on a second host, over TLS, with the machine's password."""
    folder = tmp_path / "caddy"
    folder.mkdir()
    ports = {name: free_port() for name in ("prefect", "mlflow", "s3")}
    sites = {name: f"localhost:{number}" for name, number in ports.items()}
    places = {name: f"127.0.0.1:{number}" for name, number in place.ports.items()}
    before = len(runs(prefect))
    with proxy(folder, places, sites, "secret"):
        certificate = str(folder / ROOT_CERTIFICATE)
        trusted = dict.fromkeys(
            ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "PREFECT_API_SSL_CERT_FILE"), certificate
        )
        environment = machine(place, tmp_path / "outside") | trusted
        environment |= {
            "PREFECT_API_URL": f"https://{sites['prefect']}/api",
            "PREFECT_API_AUTH_STRING": "machine:secret",
            "LACEWING_TRACKING_URI": f"https://{sites['mlflow']}",
            "MLFLOW_TRACKING_USERNAME": "machine",
            "MLFLOW_TRACKING_PASSWORD": "secret",
            "AWS_ENDPOINT_URL": f"https://{sites['s3']}",
        }
        command = [sys.executable, "-m", "flows.cli", "prepare", "data.world.entities=61", "data.vocab_size=512"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Not sent" not in done.stderr, done.stderr
        assert "Not pushed" not in done.stderr, done.stderr
        wrong = subprocess.run(
            [*command[:3], "data", "list"],
            env=environment | {"AWS_ENDPOINT_URL": "https://localhost:1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert wrong.returncode != 0, "it was not this address that was asked"
    assert len(runs(prefect)) == before + 1
    assert {run["state_type"] for run in runs(prefect)} == {"COMPLETED"}


class Restarted:
    """A server that is started again when it ends, as Compose, Kubernetes and systemd do it; on a port of its own."""

    def __init__(self, place: Place, service: str, folder: Path) -> None:
        name = next(name for name in place.ports if name.startswith(f"{service}:"))
        own = Place()
        own.ports = {**place.ports, name: free_port()}
        self.command, self.environment = own.command(service), own.environment(service)
        self.health = own.translated(health_of(service).replace(f"127.0.0.1:{name.partition(':')[2]}", name))
        self.log, self.starts = folder / f"{service}.log", 0
        self.process: subprocess.Popen[bytes] | None = None

    def look(self) -> bool:
        """Start the server if it does not run; returns whether it answers."""
        if self.process is None or self.process.poll() is not None:
            self.starts += 1
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.log.parent,
                )
        return answers(self.health)

    def has_missed_its_database(self) -> bool:
        return re.search(r"refused|Connect call failed", self.log.read_text()) is not None

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def test_servers_that_start_before_their_database_come_up_with_it(place: Place, tmp_path: Path) -> None:
    place.postgres.stop()
    servers = [Restarted(place, service, tmp_path) for service in ("mlflow", "prefect")]
    try:
        deadline, stopped = time.monotonic() + START_SECONDS, True
        while sum(server.look() for server in servers) < len(servers):
            words = [server.log.read_text()[-2000:] for server in servers]
            assert time.monotonic() < deadline, words
            if stopped and all(server.has_missed_its_database() for server in servers):
                place.postgres.start()
                stopped = False
            time.sleep(1)
        assert not stopped, "a server said that it is well without its database"
    finally:
        for server in servers:
            server.stop()
        if stopped:
            place.postgres.start()
    print({server.log.stem: server.starts for server in servers})
