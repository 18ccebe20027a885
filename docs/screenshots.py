"""The pictures of the README and the guides, taken from a real run: ``make screenshots``.

Starts ``lacewing up`` in the workspace, starts the pipeline through the API as the form does, and takes pictures of the
run, its reports, the form, the registered model and the page of its server with headless Chromium. The picture of who
wrote what is copied from the run's cascade artifact. Needs Debian's chromium and chromium-driver.

``python docs/screenshots.py page`` takes the picture of the page only, of the champion in the workspace.
"""

import base64
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
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from components.evaluation.factuality.artifacts import CascadeAssessment
from flows.ports import answers
from flows.workspace import workspace_folder

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1440, 900
PAGE_WIDTH = 1200
PAGE_SECONDS = 60
# A page of these UIs goes on loading after the document is complete.
SETTLE_SECONDS = 8
RUN_TIMEOUT_SECONDS = 900


def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    if sys.argv[1:] == ["page"]:
        with browser() as driver:
            picture_of_the_page(driver)
        return
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
        picture_of_the_page(driver)
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


def picture_of_the_page(driver: webdriver.Chrome) -> None:
    """What ``lacewing serve`` shows of the champion, after it has continued the last of its prompts."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    lacewing = str(Path(sys.executable).with_name("lacewing"))
    process = subprocess.Popen([lacewing, "serve", "model=champion", f"port={port}"])
    try:
        while not answers(f"{address}/health"):
            if process.poll() is not None:
                raise SystemExit("lacewing serve ended before it answered")
            time.sleep(0.5)
        size = {"width": PAGE_WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(address)
        wait = WebDriverWait(driver, PAGE_SECONDS)
        wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#examples button"))[-1].click()
        wait.until(lambda page: page.find_element(By.ID, "detail").text)  # a hint at the end
        helper = driver.find_element(By.CSS_SELECTOR, "#written .helper")
        ActionChains(driver).move_to_element(helper).perform()
        height = driver.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": PAGE_WIDTH, "height": height, "scale": 1}
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        (IMAGES / "page.png").write_bytes(base64.b64decode(taken["data"]))
        print(f"page.png  {address}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


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
