"""`lacewing up`: three services, one form, the same code and configuration as on the command line."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.conftest import Place, Up, free_port, running_platform

pytestmark = [pytest.mark.slow]

OVERRIDES = ["data.world.entities=200", "data.vocab_size=1024"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_platform(tmp_path_factory.mktemp("up")) as up:
        yield up


def summary_of(api: str, flow_run_id: str) -> str:
    found = httpx.post(
        f"{api}/artifacts/filter",
        json={"artifacts": {"key": {"any_": ["summary"]}}, "flow_runs": {"id": {"any_": [flow_run_id]}}},
        timeout=30,
    ).json()
    return str(found[0]["data"])


def config_digest(summary: str) -> str:
    return summary.split("**config digest** |")[1].split("|")[0].strip()


def started(api: str, deployment: str, overrides: list[str]) -> dict[str, Any]:
    """A run as the form makes it. Prefect answers 503 while its database is busy: whoever asks, asks again."""
    address = f"{api}/deployments/{deployment}/create_flow_run"
    deadline = time.monotonic() + 60
    while True:
        answer = httpx.post(address, json={"parameters": {"preset": "world", "overrides": overrides}}, timeout=60)
        if answer.status_code < 500 or time.monotonic() > deadline:
            assert answer.is_success, answer.text
            created: dict[str, Any] = answer.json()
            return created
        time.sleep(1)


def test_a_run_from_the_form_is_the_run_from_the_command_line(
    up: Up,
) -> None:
    place, _, prefect, mlflow = up
    api = f"{prefect}/api"
    deployments = {item["name"]: item for item in httpx.post(f"{api}/deployments/filter", json={}).json()}
    assert {"pipeline-world", "pipeline-text", "pipeline-pydoc", "pretrain"} <= deployments.keys()
    assert httpx.get(f"{mlflow}/health").text == "OK"

    prepare = deployments["prepare"]
    form = prepare["parameter_openapi_schema"]
    assert set(form["properties"]) == {"preset", "overrides"}
    created = started(api, prepare["id"], OVERRIDES)
    deadline = time.monotonic() + 240
    state = "PENDING"
    while state not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") and time.monotonic() < deadline:
        time.sleep(1)
        state = httpx.get(f"{api}/flow_runs/{created['id']}").json()["state"]["type"]
    assert state == "COMPLETED", (place.workspace / "logs" / "worker.log").read_text()[-3000:]

    typed = place.run("prepare", *OVERRIDES)  # finds the running server by itself, so it shows in the same UI
    assert typed.returncode == 0, typed.stderr
    assert "prepare    skipped" in typed.stderr
    runs = httpx.post(f"{api}/flow_runs/filter", json={"sort": "START_TIME_DESC"}).json()
    assert len(runs) == 2
    digests = {config_digest(summary_of(api, run["id"])) for run in runs}
    assert len(digests) == 1


def test_a_forbidden_override_from_the_form_fails_with_the_reason(
    up: Up,
) -> None:
    _, _, prefect, _ = up
    api = f"{prefect}/api"
    pipeline = next(d for d in httpx.post(f"{api}/deployments/filter", json={}).json() if d["name"] == "pipeline-world")
    created = started(api, pipeline["id"], ["trainer.learning_rate=${oc.env:HOME}"])
    deadline = time.monotonic() + 120
    run: dict[str, Any] = {}
    while time.monotonic() < deadline:
        time.sleep(1)
        run = httpx.get(f"{api}/flow_runs/{created['id']}").json()
        if run["state"]["type"] == "FAILED":
            break
    assert run["state"]["type"] == "FAILED"
    assert "may not interpolate" in run["state"]["message"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.sources=['/etc/**/*.txt']", "/texts (form.data_roots)"),
        pytest.param("data.sources=['http://localhost:1/a.txt']", "no public address", marks=pytest.mark.soak),
        pytest.param("tracking.uri=sqlite:////var/tmp/elsewhere.db", "form.write_roots", marks=pytest.mark.soak),
        pytest.param("model.layers=100000", "at least 295.2 GB", marks=pytest.mark.soak),
        pytest.param("trainer.learning_rate=inf", "not a finite number", marks=pytest.mark.soak),
    ],
)
def test_the_form_may_not_ask_what_the_command_line_may(up: Up, override: str, words: str) -> None:
    _, _, prefect, _ = up
    api = f"{prefect}/api"
    pipeline = next(d for d in httpx.post(f"{api}/deployments/filter", json={}).json() if d["name"] == "pipeline-world")
    created = started(api, pipeline["id"], [override])
    deadline = time.monotonic() + 120
    state: dict[str, Any] = {"type": "PENDING"}
    while state["type"] not in ("FAILED", "COMPLETED", "CRASHED") and time.monotonic() < deadline:
        time.sleep(1)
        state = httpx.get(f"{api}/flow_runs/{created['id']}").json()["state"]
    assert state["type"] == "FAILED"
    assert words in state["message"]


def test_ctrl_c_stops_everything(up: Up) -> None:
    place, process, prefect, mlflow = up
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0
    _, alive = psutil.wait_procs(below, timeout=20)
    assert alive == []
    for address in (prefect, mlflow):
        with pytest.raises(httpx.TransportError):
            httpx.get(address)
    assert not (place.workspace / "up.json").exists()
    assert place.outside_connections() == []
    for name in ("mlflow", "prefect", "flows.deployments"):
        assert name in place.watched_commands()


@pytest.mark.soak
def test_a_killed_one_takes_its_services_with_it_and_the_next_one_starts(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("killed-up")
    place = Place(folder / "workspace", folder / "sockets.log")
    ports = [f"prefect_port={free_port()}", f"mlflow_port={free_port()}"]
    first = place.start("up", *ports, output=folder / "first.log")
    wait_for_addresses(first, folder / "first.log")
    services = psutil.Process(first.pid).children(recursive=True)
    assert len(services) >= 4  # MLflow's has a child of its own
    refused = place.run("up", *ports)
    assert refused.returncode == 6
    assert f"process {first.pid}" in refused.stderr

    first.kill()
    first.wait()
    second = place.start("up", *ports, output=folder / "second.log")
    try:
        _, alive = psutil.wait_procs(services, timeout=130)
        assert alive == []
        wait_for_addresses(second, folder / "second.log")
        assert "an earlier `lacewing up` was killed" in (folder / "second.log").read_text()
        # A service that is killed ends the others, and leaves no child of its own behind.
        mlflow = next(each for each in psutil.Process(second.pid).children() if "mlflow" in " ".join(each.cmdline()))
        mlflow.kill()
        assert second.wait(130) == 6
        assert place.processes() == []
        assert "mlflow ended by itself" in (folder / "second.log").read_text()
    finally:
        for process in place.processes():
            process.kill()


def wait_for_addresses(process: "subprocess.Popen[bytes]", output: Path) -> None:
    """Wait until this ``lacewing up`` has printed its addresses."""
    deadline = time.monotonic() + 300
    while "lacewing is up" not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.3)
