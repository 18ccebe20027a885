"""What people see at ``/``, in headless Chromium, from the real server process of a small real cascade."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from docs.screenshots import browser
from tests.deployment.conftest import CONTEXT_LENGTH, Delegated, Fact
from tests.deployment.process import started, url_of
from tests.deployment.test_page import MLFLOW, assessed

pytestmark = pytest.mark.browser

PATIENCE_SECONDS = 60.0
KEY = "sécret 1"
LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA, text of ordinary size

# The contrast of an element's text with what is behind it.
CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
let behind = arguments[0];
while (behind && (channels(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
const colours = [getComputedStyle(arguments[0]).color, getComputedStyle(behind).backgroundColor];
const [dark, light] = colours.map((colour) => luminance(channels(colour))).sort((a, b) => a - b);
return (light + 0.05) / (dark + 0.05);
"""


class Page:
    """The page in a browser, and what it has asked the network for."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        self.complaints: list[str] = []

    def open(self) -> None:
        self.driver.get(self.url)
        self.wait(lambda: self.one("origin").text or self.one("key-dialog").is_displayed(), "the page has loaded")

    def one(self, id: str) -> WebElement:
        return self.driver.find_element(By.ID, id)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def ask(self, prompt: str, tokens: int = 16) -> None:
        """Write to the end, with the button."""
        self.put("max-tokens", tokens)
        self.one("prompt").clear()
        self.one("prompt").send_keys(prompt)
        self.one("write").click()
        self.finished()

    def put(self, id: str, value: object) -> None:
        """What a person does with a field that may be folded away."""
        self.driver.execute_script(
            "arguments[0].value = arguments[1];"
            "for (const event of ['input', 'change']) arguments[0].dispatchEvent(new Event(event, { bubbles: true }));",
            self.one(id),
            str(value),
        )

    def finished(self) -> None:
        self.wait(lambda: "tokens per second" in self.one("figures").text, "there are figures")
        self.wait(lambda: not self.one("stop").is_enabled(), "the answer has ended")

    def figure(self, name: str) -> str:
        """What stands under ``name``."""
        boxes = (
            "[...document.querySelectorAll('dl div')].map((box) => [...box.children].map((each) => each.textContent))"
        )
        return {box[0]: box[1] for box in self.driver.execute_script(f"return {boxes}")}[name]  # which change: at once

    def written(self) -> str:
        return str(self.one("written").get_property("textContent"))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
            time.sleep(0.05)

    def asked_hosts(self) -> set[str]:
        """Hosts that the page has asked for anything."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return {urlsplit(each["request"]["url"]).netloc for each in sent if each["request"]["url"].startswith("http")}


@pytest.fixture(scope="module")
def folder(delegated: Delegated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that asks the fact table and has prompts to try."""
    root = tmp_path_factory.mktemp("page")
    made = delegated._replace(assessment=assessed(root / "assess", 3, 1))
    return made.bundle(root / "bundle", budget=0.5).folder


@contextmanager
def opened(folder: Path, *options: str, **environment: str) -> Iterator[Page]:
    with started(folder, "--port", "0", *options, **environment) as process, browser() as driver:
        page = Page(driver, url_of(process))
        page.open()
        yield page


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Page]:
    options = ["--model-version", "lacewing version 3", "--model-page", MLFLOW, "--price-per-call", "0.5"]
    with opened(folder, *options, LACEWING_API_KEY="") as page:
        yield page


@pytest.fixture
def page(served: Page) -> Iterator[Page]:
    """The page as it is first seen; afterwards it must not have complained, nor asked anybody else."""
    served.open()
    yield served
    severe = [entry for entry in served.driver.get_log("browser") if entry["level"] != "INFO"]
    assert severe == []
    assert served.asked_hosts() <= {urlsplit(served.url).netloc}


def test_an_answer_streams_and_shows_who_wrote_it_by_colour_and_by_a_line(page: Page, fact: Fact) -> None:
    page.ask(fact.prompt)
    marked = page.all("#written .helper")
    assert marked[0].text == fact.value.strip()
    assert page.written().startswith(fact.value)
    own = page.all("#written [data-piece]:not(.helper, .unanswered)")[0]
    assert marked[0].value_of_css_property("color") != own.value_of_css_property("color")
    assert "underline" in marked[0].value_of_css_property("text-decoration-line")
    assert own.value_of_css_property("text-decoration-line") == "none"
    assert page.one("given").text == fact.prompt
    assert page.figure("tokens") == "16"
    calls = int(page.figure("calls"))
    assert 1 <= calls <= 8, "half of 16 tokens"
    assert float(page.figure("cost")) == calls * 0.5
    assert int(page.figure("of these by the helper")) >= len(marked)


def test_pointing_at_a_word_shows_p_call_and_its_author(page: Page, fact: Fact) -> None:
    page.ask(fact.prompt)
    marked = page.all("#written .helper")[0]
    ActionChains(page.driver).move_to_element(marked).perform()
    told = page.one("detail").text
    assert fact.value.strip() in told
    assert "Written by the helper (fact table)." in told
    assert re.search(r"P\(CALL\) [\d.]+\s%", told)
    page.all("#strip [data-piece]")[-1].click()
    assert page.one("detail").text != told
    assert len(page.all("#written .selected")) == 1


def test_the_slider_changes_the_calls_and_writes_again(page: Page, fact: Fact) -> None:
    mark = page.one("mark").get_property("offsetLeft")
    assert page.one("budget-value").text == "50 %"
    page.ask(fact.prompt)
    before = page.written()
    page.one("budget").send_keys(Keys.HOME)
    assert page.one("budget-value").text == "0 %"
    page.wait(lambda: page.written() and page.figure("calls") == "0", "no calls")
    page.finished()
    assert page.written() != before
    assert page.all("#written .helper") == []
    assert "writes alone" in page.one("budget-note").text
    assert page.one("mark").get_property("offsetLeft") == mark
    page.one("budget").send_keys(Keys.END)
    page.wait(lambda: int(page.figure("calls")) > 8, "more calls than at the bundled budget")
    page.finished()


def test_stop_ends_the_answer_on_the_server_too(page: Page, fact: Fact) -> None:
    def metric(name: str) -> float:
        text = httpx.get(f"{page.url}/metrics", trust_env=False).text
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]

    before = metric("lacewing_generated_tokens_total")
    page.put("max-tokens", CONTEXT_LENGTH)
    page.one("prompt").send_keys(fact.prompt)
    page.one("write").click()
    page.wait(lambda: len(page.all("#written [data-piece]")) > 5, "some words")
    assert metric("lacewing_active_requests") == 1
    page.one("stop").click()
    page.wait(lambda: page.one("notice").text == "Stopped.", "it says so")
    page.wait(lambda: metric("lacewing_active_requests") == 0, "the server has stopped too")
    assert metric("lacewing_generated_tokens_total") - before < CONTEXT_LENGTH / 2
    shown = len(page.all("#written [data-piece]"))
    time.sleep(0.5)
    assert len(page.all("#written [data-piece]")) == shown


def test_everything_can_be_done_with_the_keyboard(page: Page, fact: Fact) -> None:
    def focused() -> str:
        return str(page.driver.switch_to.active_element.get_attribute("id") or "example")

    def press(*keys: str) -> None:
        page.driver.switch_to.active_element.send_keys(*keys)

    press(Keys.TAB)
    assert focused() == "prompt"
    page.put("max-tokens", 16)
    press(fact.prompt, Keys.CONTROL + Keys.ENTER)
    page.finished()
    seen = []
    while focused() != "answer":
        press(Keys.TAB)
        seen.append(focused())
        assert len(seen) < 20, seen
    assert {"example", "write", "budget"} <= set(seen)
    told = []
    for _ in range(3):
        press(Keys.ARROW_RIGHT)
        told.append(page.one("detail").text)
    assert len(set(told)) == 3
    press(Keys.ARROW_LEFT)
    assert page.one("detail").text == told[1]
    outline = page.driver.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid", "the focus can be seen"
    assert page.one("written").get_attribute("aria-live") == "polite"
    assert page.one("written").get_attribute("aria-busy") == "false"


def test_an_example_is_written_at_once_and_the_model_is_named_with_a_link(page: Page) -> None:
    page.put("max-tokens", 4)
    examples = page.all("#examples button")
    assert [each.text for each in examples] == ["Question 0", "Question 1", "Question 2", "Text 0"]
    examples[2].click()
    page.finished()
    assert page.one("given").text == "Question 2"
    link = page.one("origin").find_element(By.TAG_NAME, "a")
    assert (link.text, link.get_attribute("href")) == ("lacewing version 3", MLFLOW)
    assert "(world)" in page.one("origin").text


def test_a_wrong_setting_is_unfolded_and_not_sent(page: Page, fact: Fact) -> None:
    page.one("prompt").send_keys(fact.prompt)
    page.put("temperature", 3)
    page.one("write").click()
    assert page.one("temperature").is_displayed()
    assert page.driver.switch_to.active_element == page.one("temperature")
    assert page.one("figures").text == ""


def test_a_message_is_answered_too(page: Page) -> None:
    page.put("kind", "/v1/chat/completions")
    page.ask("Who founded it?", tokens=6)
    assert page.figure("tokens") == "6"
    assert len(page.all("#strip [data-piece]")) >= 1


def test_text_never_becomes_markup(page: Page) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    page.ask(hostile, tokens=4)
    assert page.one("given").text == hostile
    assert page.all("#answer img, #answer b") == []
    assert page.driver.title != "taken"
    blocked = page.driver.execute_script(
        "try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name }"
    )
    assert blocked == "TypeError"
    refused = [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] != "INFO"]
    assert all("requires 'TrustedHTML'" in each for each in refused)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(page: Page, fact: Fact, scheme: str, width: int, tmp_path: Path) -> None:
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    try:
        page.open()
        page.ask(fact.prompt, tokens=400)  # more bars than a phone has pixels
        page.driver.execute_script("document.getElementById('settings').open = true")
        page.driver.save_screenshot(str(tmp_path / f"{scheme}-{width}.png"))
        assert page.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        for selector in (
            "#given", "#written .helper", "#written [data-piece]:not(.helper)", ".legend", ".note", ".figures dt",
            "#detail", "#write", "#examples button", "#origin a", "summary", ".small-fields label", "#max-tokens",
        ):  # fmt: skip
            contrast = page.driver.execute_script(CONTRAST, page.all(selector)[0])
            assert contrast >= LEAST_CONTRAST, f"{selector}: {contrast:.2f}"
        assert page.driver.execute_script(
            "return getComputedStyle(document.querySelector('#written'), '::after').animationName"
        ) in ("none", "")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_server_with_a_key_asks_for_it_and_it_stays_out_of_the_address(folder: Path, fact: Fact) -> None:
    with opened(folder, LACEWING_API_KEY=KEY) as page:
        assert page.one("key-dialog").is_displayed()
        page.one("key").send_keys(Keys.ESCAPE)
        page.one("write").click()
        page.wait(lambda: page.one("key-dialog").is_displayed(), "it is asked for when it is needed")
        page.one("key").send_keys("wrong", Keys.ENTER)
        page.wait(lambda: "asks for its key" in page.one("notice").text, "a wrong key is told")
        page.wait(lambda: page.one("key-dialog").is_displayed(), "it is asked for again")
        page.one("key").send_keys(KEY, Keys.ENTER)
        page.wait(lambda: page.one("origin").text, "the page knows the model")
        page.ask(fact.prompt)
        assert page.all("#written .helper")
        assert "cret" not in page.driver.current_url
        page.open()
        assert not page.one("key-dialog").is_displayed(), "kept in the tab"


def test_a_helper_that_is_away_is_told_in_words(delegated: Delegated, tmp_path: Path, fact: Fact) -> None:
    endpoint = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "name": "away", "retries": 0}
    folder = delegated.bundle(tmp_path, budget=0.5, helper=endpoint).folder
    with opened(folder, "--helper-required", "false", LACEWING_API_KEY="") as page:
        page.ask(fact.prompt)
        assert "The helper did not answer every call" in page.one("notice").text
        assert page.all("#written .unanswered")
        assert page.all("#written .helper") == []


def test_a_busy_server_is_told_in_words_and_so_is_one_that_is_gone(folder: Path, fact: Fact) -> None:
    limits = ["--max-concurrent-requests", "1", "--max-queued-requests", "1"]
    with started(folder, "--port", "0", *limits, LACEWING_API_KEY="") as process, browser() as driver:
        page = Page(driver, url_of(process))
        page.open()
        body = {"prompt": [fact.prompt] * 2, "max_tokens": CONTEXT_LENGTH, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{page.url}/v1/completions", json=body, timeout=60.0, trust_env=False) as busy:
            lines = busy.iter_lines()  # kept: httpx closes the answer with it
            next(lines)
            page.one("prompt").send_keys(fact.prompt)
            page.one("write").click()
            page.wait(lambda: "the server is busy" in page.one("notice").text, "busy")
        process.kill()
        process.wait()
        page.one("write").click()
        page.wait(lambda: "cannot be reached" in page.one("notice").text, "gone")


def test_a_plain_model_needs_no_budget(client: httpx.Client) -> None:
    with browser() as driver:
        page = Page(driver, str(client.base_url).rstrip("/"))
        page.open()
        page.ask("The history of", tokens=8)
        assert page.figure("tokens") == "8"
        assert page.written()
        for id in ("budget-field", "marked-legend", "bars"):
            assert not page.one(id).is_displayed()
