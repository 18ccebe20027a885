"""The pictures of the README and the guides, taken from a real run: ``make screenshots``.

Starts ``lacewing up`` in the workspace, starts the pipeline through the API as the form does, and takes pictures of the
run, its reports, the form and the registered model with headless Chromium. The picture of who wrote what is copied from
the run's cascade artifact. Needs Debian's chromium and chromium-driver.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from components.evaluation.factuality.artifacts import CascadeAssessment
from flows.workspace import workspace_folder

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1440, 900
# A page of these UIs goes on loading after the document is complete.
SETTLE_SECONDS = 8
RUN_TIMEOUT_SECONDS = 900


def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with platform() as (prefect, mlflow), browser() as driver:
        run_id, deployment_id = finished_pipeline_run(prefect)
        for name, address in {
            "prefect-run": f"{prefect}/runs/flow-run/{run_id}",
            "prefect-report": f"{prefect}/artifacts/artifact/{page_of(prefect, 'cascade-report')}",
            "prefect-form": f"{prefect}/deployments/deployment/{deployment_id}/run",
            "mlflow-model": f"{mlflow}/#/models/lacewing",
        }.items():
            driver.get(address)
            time.sleep(SETTLE_SECONDS)
            driver.save_screenshot(str(IMAGES / f"{name}.png"))
            print(f"{name}.png  {address}")
    shutil.copyfile(newest_texts(), IMAGES / "who-wrote-what.png")


@contextmanager
def platform() -> Iterator[tuple[str, str]]:
    """``lacewing up`` on free ports; yields the addresses of Prefect and MLflow."""
    ports = [free_port(), free_port()]
    command = [str(Path(sys.executable).with_name("lacewing")), "up"]
    process = subprocess.Popen([*command, f"prefect_port={ports[0]}", f"mlflow_port={ports[1]}"])
    try:
        while not (workspace_folder() / "up.json").exists():
            if process.poll() is not None:
                raise SystemExit("lacewing up ended before it was up")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium without background requests; its log holds what the pages ask the network for."""
    options = Options()
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for switch in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--window-size={WIDTH},{HEIGHT}",
        "--force-device-scale-factor=1",
    ):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def finished_pipeline_run(prefect: str) -> tuple[str, str]:
    """Start the default pipeline through the API and wait for it; returns the ids of the run and its deployment."""
    api = f"{prefect}/api"
    deployments: list[dict[str, Any]] = httpx.post(f"{api}/deployments/filter", json={}).json()
    deployment = next(item for item in deployments if item["name"] == "pipeline-world")
    run = httpx.post(f"{api}/deployments/{deployment['id']}/create_flow_run", json={}).json()
    deadline = time.monotonic() + RUN_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        state = httpx.get(f"{api}/flow_runs/{run['id']}").json()["state"]["type"]
        if state == "COMPLETED":
            return run["id"], deployment["id"]
        if state in ("FAILED", "CRASHED", "CANCELLED"):
            break
        time.sleep(2)
    raise SystemExit(f"the run ended as {state}: {prefect}/runs/flow-run/{run['id']}")


def page_of(prefect: str, key: str) -> str:
    """Id of the newest page of that key."""
    body = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    found: list[dict[str, Any]] = httpx.post(f"{prefect}/api/artifacts/filter", json=body).json()
    return str(found[0]["id"])


def newest_texts() -> Path:
    """The picture of the newest cascade assessment in the workspace."""
    pictures = (workspace_folder() / "artifacts" / "cascade").glob(f"*/{CascadeAssessment.TEXTS_PNG}")
    return max(pictures, key=lambda path: path.stat().st_mtime)


def free_port() -> int:
    """A loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
