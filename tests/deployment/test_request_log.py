"""The log of requests: a line for each, with what it cost and how it ended, and nothing that anybody said."""

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.deployment import log_lines
from components.deployment.config import LogFormat, ServeConfig
from components.deployment.engine import Engine
from components.deployment.keys import Client, Clients, KeyRecord
from components.deployment.page.origin import Origin
from components.deployment.request_log import REQUESTS
from components.deployment.server import create_app
from components.deployment.versions import Version, Versions
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact
from tests.deployment.process import messages, started, url_of
from tests.deployment.test_keys import digest

KEY = "k-unutterable"
HEADERS = {"Authorization": f"Bearer {KEY}"}
WORDS = st.text("abcdefghijklmnopqrstuvwxyzäß東京🚀", min_size=12, max_size=24)


@pytest.fixture(scope="module")
def client(asking: Bundle) -> Iterator[TestClient]:
    """A cascade in this process, which knows one key."""
    clients = Clients([Client(KeyRecord(name="search", sha256=digest(KEY)))])
    with Engine(asking.folder, threads=1) as engine:
        version = Version(engine, Origin(version="lacewing/3"))
        app = create_app(Versions(version), ServeConfig(model="asking"), clients)
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, headers=HEADERS) as client:
            yield client


@contextmanager
def logged(format: LogFormat = "json") -> Iterator[io.StringIO]:
    """What a server process would have written."""
    stream = io.StringIO()
    handler, requests = log_lines.handler_of(format, stream), logging.getLogger(REQUESTS)
    level = requests.level
    requests.setLevel(logging.INFO)
    logging.root.addHandler(handler)
    try:
        yield stream
    finally:
        logging.root.removeHandler(handler)
        requests.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_what_a_request_cost_and_how_it_ended(client: TestClient, fact: Fact) -> None:
    with logged() as stream:
        body = {"prompt": fact.prompt, "max_tokens": 6, "temperature": 0, "call_budget": 1.0}
        answer = client.post("/v1/completions", json=body)
    (line,) = lines(stream)
    usage = answer.json()["usage"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert 0 <= line.pop("queue_seconds") <= line.pop("first_token_seconds") <= line.pop("seconds") < 60
    identity = line.pop("id")
    assert answer.headers["x-request-id"] == identity == answer.json()["id"].removeprefix("cmpl-")
    assert line == {
        "level": "info",
        "event": "request",
        "method": "POST",
        "model": "asking",
        "version": "lacewing/3",
        "route": "/v1/completions",
        "status": 200,
        "key": "search",
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": 6,
        "calls": usage["completion_tokens_details"]["calls"],
        "failed_calls": usage["completion_tokens_details"]["failed_calls"],
        "finish_reason": "length",
        "client_gone": False,
    }
    assert line["calls"] > 0


def test_people_read_a_sentence(client: TestClient) -> None:
    with logged("text") as stream:
        client.post("/v1/completions", json={"prompt": ["One", "Two"], "max_tokens": 3, "call_budget": 0})
        client.get("/v1/nothing")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"\S+Z POST /v1/completions 200, search, \d+\+\d tokens, queued \S+ s, first token \S+ s, \S+ s, "
        r"(length|stop|length\+stop) \[\w{32}\]",
        first,
    )
    assert re.fullmatch(r"\S+Z GET other 404, search, \S+ s \[\w{32}\]", second)


def test_checks_that_pass_are_not_logged(client: TestClient) -> None:
    with logged() as stream:
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert client.get("/health", headers={"Host": "elsewhere.example"}).status_code == 403
    assert [(line["route"], line["status"]) for line in lines(stream)] == [("/v1/models", 200), ("other", 403)]


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(said=WORDS, secret=WORDS, seed=st.integers(0, 1000))
def test_nothing_that_was_said_and_no_key_is_ever_logged(client: TestClient, said: str, secret: str, seed: int) -> None:
    """Answers, refusals and failures of all kinds, with a text at every place that can hold one."""
    chat = {"messages": [{"role": "user", "content": said}], "max_tokens": 8, "seed": seed}
    wrong = {"Authorization": b"Bearer " + secret.encode()}
    with logged() as stream:
        whole = client.post("/v1/completions", json={"prompt": said, "max_tokens": 12, "seed": seed})
        assert whole.status_code == 200
        with client.stream("POST", "/v1/chat/completions", json={**chat, "stream": True, "user": secret}) as streamed:
            assert "[DONE]" in streamed.read().decode()
        refused = [
            client.post("/v1/completions", json={"prompt": said, "model": secret}),
            client.post("/v1/completions", json={"prompt": said, "stop": [said], secret: 1}),
            client.post("/v1/completions", json={"prompt": said, "temperature": said}),
            client.post("/v1/completions", content=f'{{"prompt": "{said}'.encode()),
            client.post("/v1/completions", json={"prompt": f"{said} " * 1000}),
            client.post("/v1/chat/completions", json={**chat, "tools": [{"name": said}]}),
            client.get(f"/v1/models/{said}?key={secret}"),
            client.get(f"/v1/{said}"),
            client.get("/v1/models", headers=wrong),  # type: ignore[arg-type]
            client.request("A" + said.encode("ascii", "ignore").decode().upper(), "/v1/models"),
        ]
        assert {answer.status_code // 100 for answer in refused} == {4}
    log = stream.getvalue()
    assert len(log.splitlines()) == 2 + len(refused)
    text = whole.json()["choices"][0]["text"]
    for hidden in (said, said.upper(), secret, KEY, *([text] if len(text.strip()) > 8 else [])):
        assert hidden not in log
        assert json.dumps(hidden).strip('"') not in log


def test_a_failure_is_logged_with_its_place_and_without_its_message(client: TestClient) -> None:
    def fail() -> None:
        raise KeyError("the diary says")

    for error, told in ((KeyError("the diary says"), False), (OSError(28, "No space left on device"), True)):
        with logged() as stream:
            try:
                try:
                    fail()
                except KeyError:
                    raise error from ValueError("dear diary")
            except Exception:
                logging.getLogger("components").exception("decoding failed")
        (line,) = lines(stream)
        assert line["message"] == "decoding failed"
        assert type(error).__name__ in line["exception"]
        assert "test_request_log.py" in line["exception"]
        assert "diary" not in stream.getvalue()
        assert ("No space left" in line["exception"]) == told


def test_a_client_that_leaves_is_logged_as_gone_and_a_shutdown_as_an_error(asking: Bundle) -> None:
    """The real process: its lines are JSON on standard error, since that is no terminal."""
    # Greedily, and the more a token has been written the likelier it is: a text that is drawn may end by itself.
    # Eight at a time, so that they take long.
    body = {"prompt": ["Once"] * 64, "max_tokens": 3000, "stream": True, "call_budget": 0}
    body |= {"temperature": 0, "presence_penalty": -2}
    with started(asking.folder, "--port", "0", "--shutdown-seconds", "1", LACEWING_API_KEY="") as process:
        url = url_of(process)
        with httpx.Client(trust_env=False) as client:
            with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                next(answer.iter_lines())
            with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                arriving = answer.iter_lines()
                next(arriving)
                threading.Timer(0.1, process.terminate).start()
                assert "shutting down" in list(arriving)[-2]
        time.sleep(0.1)
        _, log = process.communicate(timeout=30)
    # asyncio may say that the client which has left reads no more; nothing else is said.
    assert set(messages(log)) <= {"WARNING socket.send() raised exception."}
    gone, stopped = [each for each in map(json.loads, log.splitlines()) if each["event"] == "request"]
    assert (gone["status"], gone["client_gone"], gone["finish_reason"]) == (200, True, None)
    assert (stopped["client_gone"], stopped["finish_reason"]) == (False, "error")
    assert stopped["completion_tokens"] > 0
    assert stopped["key"] is None
