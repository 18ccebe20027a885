"""Prefect on PostgreSQL, as infra/ starts it: flows of two machines, a work pool, and a database that comes late."""

import os
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
from tests.infra.servers import INFRA, START_SECONDS, Place, answers, health_of, running

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
    port = place.ports["prefect:4200"] + 1 if place.ports["prefect:4200"] < 65535 else 20000
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


def test_servers_that_start_before_their_database_come_up_with_it(place: Place, tmp_path: Path) -> None:
    """Compose, Kubernetes and systemd start again what has ended; so does this."""
    place.postgres.stop()
    services = {
        "mlflow": place.translated(health_of("mlflow").replace("127.0.0.1:5000", "mlflow:5000")),
        "prefect": prefect_health(place),
    }
    ports = {name: place.ports[name] for name in ("mlflow:5000", "prefect:4200")}
    place.ports |= {name: port + 1 for name, port in ports.items()}
    services = {
        name: address.replace(str(ports[key]), str(place.ports[key]))
        for (name, address), key in zip(services.items(), ports, strict=True)
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    ended = dict.fromkeys(services, 0)
    try:
        deadline, database = time.monotonic() + START_SECONDS, time.monotonic() + 20
        while waiting := [name for name, address in services.items() if not answers(address)]:
            assert time.monotonic() < deadline, [(tmp_path / f"{name}.log").read_text()[-2000:] for name in waiting]
            for name in waiting:
                process = processes.get(name)
                if process is None or process.poll() is not None:
                    ended[name] += process is not None
                    with (tmp_path / f"{name}.log").open("ab") as log:
                        processes[name] = subprocess.Popen(
                            place.command(name),
                            env=place.environment(name),
                            stdout=log,
                            stderr=log,
                            start_new_session=True,
                            cwd=tmp_path,
                        )
            if database and time.monotonic() > database:
                place.postgres.start()
                database = 0.0
            time.sleep(1)
        assert not database, "a server said that it is well without its database"
    finally:
        for process in processes.values():
            os.killpg(process.pid, 9)
            process.wait()
        place.ports |= ports
        if database:
            place.postgres.start()
