"""What MLflow shows first, in a real browser: the table of runs, with a name and figures to compare them by."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.screenshots import browser
from flows.adapters.mlflow_pages import run_page, runs_page
from flows.ports import wait_until_answers
from tests.conftest import ROOT
from tests.end_to_end.conftest import free_port

pytestmark = [pytest.mark.slow, pytest.mark.browser]

MAKE_RUNS = """
from conf.services import TrackingConfig
from flows.adapters.mlflow_conclusion import Conclusion
from flows.adapters.mlflow_runs import FlowTracker

for changes, loss in (("", 1.5), ("trainer.max_steps=20 ", 2.5)):
    tracker = FlowTracker(TrackingConfig(), "pipeline", title=f"world {changes}1a2b3c4d")
    with tracker.closing():
        print(tracker.parent())
        tracker.conclude(Conclusion({"pretraining/loss": loss}, [], "| **pretraining: loss** | 1.5 |"))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real server over a workspace with two runs, as ``lacewing up`` starts it; its address and a run's id.

    The folder's name holds signs that mean something in an address.
    """
    workspace = tmp_path_factory.mktemp("pages") / "x #%?"
    environment = {**os.environ, "LACEWING_WORKSPACE": str(workspace)}
    run_id = subprocess.check_output([sys.executable, "-c", MAKE_RUNS], cwd=ROOT, env=environment, text=True).split()[0]
    port = free_port()
    command = [sys.executable, "-m", "flows.adapters.mlflow_server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--workers", "1"], cwd=ROOT, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        assert wait_until_answers(f"{address}/health", 180, lambda: process.poll() is None)
        yield address, run_id
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert {path.name for path in Path(workspace.parent).iterdir()} == {"x #%?"}


def shown(driver: object, *words: str, seconds: float = 60) -> str:
    """The text of the page once all ``words`` are on it."""
    deadline = time.monotonic() + seconds
    text = ""
    while time.monotonic() < deadline:
        text = driver.execute_script("return document.body.innerText")  # type: ignore[attr-defined]
        if all(word in text for word in words):
            return str(text)
        time.sleep(0.5)
    raise AssertionError(f"{words} not all on the page {driver.current_url}, which shows:\n{text}")  # type: ignore[attr-defined]


def test_the_table_of_runs_is_what_people_see_first(served: tuple[str, str]) -> None:
    address, run_id = served
    page = runs_page(address)
    experiment_id = page.split("/experiments/")[1].split("/")[0]
    with browser() as driver:
        driver.get(page)
        text = shown(driver, "world 1a2b3c4d", "world trainer.max_steps=20 1a2b3c4d", "pretraining/loss", "1.5", "2.5")
        assert "Model training" in text
        assert "No data available" not in text, "not the dashboard of traces"
        driver.get(run_page(address, experiment_id, run_id))
        shown(driver, "world 1a2b3c4d", "pretraining/loss", "1.5")
