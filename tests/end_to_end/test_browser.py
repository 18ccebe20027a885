"""What a person sees: from the list of deployments to the registered model, in a real browser that asks nobody outside.

The pictures of the walk are in the test's temporary folder (``--basetemp`` chooses where).
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from docs.screenshots import browser
from tests.end_to_end.conftest import LOOPBACK, Place, Up, running_platform

pytestmark = [pytest.mark.slow, pytest.mark.browser]

TINY = [
    "data.world.entities=200",
    "data.vocab_size=1024",
    "model.width=64",
    "trainer.max_steps=12",
    "trainer.validate_every_steps=6",
    "delegation.max_steps=6",
    "calibrate.max_tokens=4000",
    "facts.max_tokens=4000",
    "facts.biographies=2",
    "facts.biography_tokens=16",
    "assess.questions.max_questions=4",
]
PAGE_SECONDS = 60.0
RUN_SECONDS = 800.0


class Walk:
    """A person with a browser, who keeps a picture of each page and a list of every address that was asked for."""

    def __init__(self, driver: Chrome, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures
        self.asked: list[str] = []

    def open(self, name: str, address: str, *words: str) -> None:
        """Go to a page and see these words on it."""
        self.driver.get(address)
        self.see(name, *words)

    def see(self, name: str, *words: str) -> None:
        """Wait for the words on the page, or in a page within it; then take a picture."""
        self._wait(lambda: all(word in self._text() for word in words), f"{words} on {self.driver.current_url}")
        time.sleep(1)  # what comes in with an animation
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self.asked.append(message["params"]["url"])

    def click(self, text: str) -> None:
        """Press the link or button that says exactly this."""
        self._wait(lambda: self._press(text), f"something to press that says {text!r}")

    def type(self, text: str) -> None:
        """Write into the field that was added last."""
        self._wait(lambda: self._write(text), "a field to write into")

    def search(self, text: str) -> None:
        """Write into the search field of the page."""
        self._wait(lambda: self._look_for(text), "a search field")

    def outside(self) -> set[str]:
        """Hosts beyond this machine that a page has asked, with what it wanted."""
        network = [address for address in self.asked if address.startswith(("http", "ws"))]
        assert len(network) > 100  # the log is not empty
        return {address for address in network if urlsplit(address).hostname not in LOOPBACK}

    def _press(self, text: str) -> bool:
        for element in self.driver.find_elements(By.XPATH, f"//*[text()[normalize-space()='{text}']]"):
            if element.is_displayed():
                element.click()
                return True
        return False

    def _write(self, text: str) -> bool:
        fields: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, "input[type=text], textarea")
        empty = [field for field in fields if field.is_displayed() and not field.get_attribute("value")]
        if empty:
            empty[-1].send_keys(text)
        return bool(empty)

    def _look_for(self, text: str) -> bool:
        fields = self.driver.find_elements(By.CSS_SELECTOR, "input[placeholder^=Search]")
        shown = [field for field in fields if field.is_displayed()]
        if shown:
            shown[0].send_keys(text)
        return bool(shown)

    def _text(self) -> str:
        self.driver.switch_to.default_content()
        text = str(self.driver.execute_script("return document.body.innerText"))
        for frame in self.driver.find_elements(By.TAG_NAME, "iframe"):
            self.driver.switch_to.frame(frame)
            text += str(self.driver.execute_script("return document.body ? document.body.innerText : ''"))
            self.driver.switch_to.default_content()
        return text

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PAGE_SECONDS
        while True:
            try:
                if condition():
                    return
            except WebDriverException:  # the page has just changed under our hands
                pass
            if time.monotonic() > deadline:
                self.driver.save_screenshot(str(self.pictures / "not-found.png"))
                raise AssertionError(f"no {what}; the page says:\n{self._text()[:3000]}")
            time.sleep(0.3)


class Api:
    """What the walk needs to know of Prefect besides its pages."""

    def __init__(self, prefect: str) -> None:
        self.address = f"{prefect}/api"

    def newest_run(self) -> dict[str, Any]:
        """The run that the form has just made; it may take the page a moment to ask for it."""
        body = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        deadline = time.monotonic() + PAGE_SECONDS
        while time.monotonic() < deadline:
            found: list[dict[str, Any]] = httpx.post(f"{self.address}/flow_runs/filter", json=body, timeout=60).json()
            if found:
                return found[0]
            time.sleep(0.3)
        raise AssertionError(f"no run {PAGE_SECONDS:.0f} s after the form was submitted")

    def start(self, deployment: str, *overrides: str) -> dict[str, Any]:
        found = httpx.post(f"{self.address}/deployments/filter", json={}, timeout=60).json()
        (wanted,) = [each for each in found if each["name"] == deployment]
        body = {"parameters": {"preset": "world", "overrides": list(overrides)}}
        address = f"{self.address}/deployments/{wanted['id']}/create_flow_run"
        run: dict[str, Any] = httpx.post(address, json=body, timeout=60).json()
        return run

    def ended(self, run: dict[str, Any]) -> dict[str, Any]:
        """The run's state, once it has one that is final."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            state: dict[str, Any] = httpx.get(f"{self.address}/flow_runs/{run['id']}", timeout=60).json()["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
            time.sleep(2)
        raise AssertionError(f"{run['name']} is still {state['name']} after {RUN_SECONDS:.0f} s")

    def page(self, key: str) -> dict[str, Any]:
        """The newest artifact of this key."""
        body = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        found: dict[str, Any] = httpx.post(f"{self.address}/artifacts/filter", json=body, timeout=60).json()[0]
        return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_platform(tmp_path_factory.mktemp("browser")) as up:
        yield up


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    with browser() as driver:
        yield Walk(driver, tmp_path)


def start_from_the_form(walk: Walk, prefect: str) -> None:
    walk.open("deployments", f"{prefect}/deployments", "23 Deployments", "evaluate", "finetune-chat", "delegate")
    assert "any-preset" not in walk._text()
    walk.search("pipeline")  # the page shows ten, by name
    walk.see("deployments-found", "pipeline-world", "pipeline-text", "pipeline-gsm8k")
    walk.click("pipeline-world")
    walk.click("Description")
    walk.see("deployment", "raw text to a served, registered model", "minutes on a laptop", "for example model=10m")
    walk.click("Run")
    walk.click("Custom run")
    walk.see("form", "Experiment to start from.", "Changes to it")
    for override in TINY:
        walk.click("Add item")
        walk.type(override)
    walk.see("form-filled")
    walk.click("Submit")


def look_at_the_result(walk: Walk, prefect: str, api: Api, run: dict[str, Any]) -> None:
    walk.open(
        "run", f"{prefect}/runs/flow-run/{run['id']}", "Completed", "pipeline-world", "pretrain   runs: first run"
    )
    result = f"{prefect}/artifacts/artifact/{api.page('pretrain-result')['id']}"
    walk.open("result", result, "parameters", "validation_loss", "vocab_size", "1,024")
    assert "e+" not in walk._text().split("flops_per_second_peak")[1].split("\n")[0]
    summary = f"{prefect}/artifacts/artifact/{api.page('summary')['id']}"
    walk.open("summary", summary, "bits per byte", "lacewing version 1, champion", "/#/experiments/")
    report = f"{prefect}/artifacts/artifact/{api.page('cascade-report')['id']}"
    walk.open("report", report, "What asking is worth", "Who wrote what, in all texts: texts.html")
    walk.driver.get(walk.driver.find_element(By.LINK_TEXT, "texts.html").get_attribute("href") or "")
    walk.see("texts", "written by the small model", "by the helper")


def look_at_mlflow(walk: Walk, mlflow: str, run_page: str) -> None:
    experiment = run_page.partition("/runs/")[0]
    walk.open("mlflow-experiment", f"{experiment}/runs", "world data.world.entities=200", "matching runs")
    walk.open("mlflow-run", run_page, "Finished")
    walk.open("mlflow-models", f"{mlflow}/#/models", "lacewing", "champion")
    walk.open("mlflow-model", f"{mlflow}/#/models/lacewing", "lacewing", "Version 1", "champion")
    walk.open("mlflow-version", f"{mlflow}/#/models/lacewing/versions/1", "Version 1", "champion")


def test_a_person_walks_from_a_form_to_a_registered_model_and_nobody_outside_is_asked(up: Up, walk: Walk) -> None:
    place, _, prefect, mlflow = up
    api = Api(prefect)
    start_from_the_form(walk, prefect)
    run = api.newest_run()
    state = api.ended(run)
    assert state["type"] == "COMPLETED", (place.workspace / "logs" / "worker.log").read_text()[-3000:]
    look_at_the_result(walk, prefect, api, run)
    run_page = api.page("summary")["data"].split(f"[{mlflow}")[1].split("]")[0]
    look_at_mlflow(walk, mlflow, mlflow + run_page)
    # The rest of Prefect's pages, in both of its interfaces; the new one asks outside unless it is forbidden.
    for name in ("dashboard", "runs", "flows", "work-pools", "artifacts", "automations", "events", "settings"):
        walk.open(name, f"{prefect}/{name}")
    for name in ("dashboard", f"runs/flow-run/{run['id']}", "deployments"):
        walk.open(f"v2-{name.partition('/')[0]}", f"{prefect}/v2/{name}", name.partition("/")[0].capitalize())
    assert walk.outside() == set()


def test_a_refused_model_says_so_at_the_top(up: Up, walk: Walk) -> None:
    prefect = up[2]
    api = Api(prefect)
    run = api.start("release", *TINY, "release.bundle.name=same-model-again")
    state = api.ended(run)
    assert (state["type"], state["name"]) == ("FAILED", "Refused")
    reason = "not shown to be better"
    walk.open("refused", f"{prefect}/runs/flow-run/{run['id']}", "Refused", f"{run['name']} – refused: {reason}")
    walk.open("refused-result", f"{prefect}/artifacts/artifact/{api.page('summary')['id']}", "refused", reason)


def test_a_mistyped_override_is_answered_with_one_sentence(up: Up, walk: Walk) -> None:
    prefect = up[2]
    api = Api(prefect)
    run = api.start("prepare", "data.vocab_sice=1024")
    assert api.ended(run)["type"] == "FAILED"
    walk.open("mistyped", f"{prefect}/runs/flow-run/{run['id']}", "Failed", "did you mean data.vocab_size", "ERROR")
    assert "Traceback" not in walk._text()


def unfinished(place: Place) -> list[Path]:
    """The events of trainings that have not ended."""
    events = place.workspace.glob("artifacts/pretrain/*/events.jsonl")
    return [path for path in events if not (path.parent / "artifact.json").exists()]


def test_a_cancelled_run_says_what_is_kept_and_how_to_go_on(up: Up, walk: Walk) -> None:
    place, _, prefect, _ = up
    api = Api(prefect)
    run = api.start("pretrain", *TINY, "trainer.max_steps=100000", "trainer.validate_every_steps=100000")
    deadline = time.monotonic() + RUN_SECONDS
    while not any('"loss"' in path.read_text() for path in unfinished(place)):
        assert time.monotonic() < deadline
        time.sleep(1)
    page = f"{prefect}/runs/flow-run/{run['id']}"
    walk.open("running", page, "Running")
    walk.click("Cancel")
    walk.see("cancel", "Cancel Flow Run")
    walk.click("Confirm")
    assert api.ended(run)["type"] == "CANCELLED"
    time.sleep(20)  # the runner's own last word comes some seconds after the end
    state = httpx.get(f"{api.address}/flow_runs/{run['id']}", timeout=60).json()["state"]
    assert state["message"].startswith("Cancelled at step ")
    assert state["message"].endswith(", checkpoint saved; run again to go on")
    walk.open("cancelled", page, "Cancelled", "cancelled at step")
    assert "Crash" not in walk._text()
