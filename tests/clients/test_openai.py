"""What the client adds to the package ``openai``: bounds on an answer, and requests that tell nothing of us."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from components.clients.errors import EndpointError, LateError, MalformedError, StatusError, UnreachableError
from components.clients.openai import OpenAIClient
from tests.clients.server import Handler, Server

GREEDY = {"temperature": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def soon() -> float:
    return time.monotonic() + 5


def test_completions_come_back_in_order_with_their_cost(server: Server) -> None:
    server.complete = str.upper
    assert OpenAIClient(server.url).complete(["a", "b"], 4, soon()) == (["A", "B"], 6)
    assert server.bodies == [{"prompt": ["a", "b"], "max_tokens": 4, **GREEDY}]


def test_a_chat_is_one_message(server: Server) -> None:
    server.say = lambda message: f"{message}!"
    assert OpenAIClient(server.url).chat("Yes", 4, soon(), model="large") == "Yes!"
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Yes"}]
    assert server.bodies[0]["model"] == "large"


def test_models_are_listed(server: Server) -> None:
    assert OpenAIClient(server.url + "/").models(soon()) == ["large"]


def test_nothing_of_the_environment_or_the_machine_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "stranger")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: stranger\nX-Stranger: stranger")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    OpenAIClient(server.url).chat("Yes", 4, soon())
    OpenAIClient(server.url, "ours").chat("Yes", 4, soon())
    without, with_key = server.headers
    assert "stranger" not in str(server.headers)
    assert not [name for name in with_key if name.startswith("X-")]
    assert "Authorization" not in without
    assert with_key["Authorization"] == "Bearer ours"


def test_nothing_is_tried_again_by_itself(server: Server) -> None:
    server.act = lambda handler: handler.send({"error": "busy"}, 503)
    with pytest.raises(StatusError, match="answered 503") as caught:
        OpenAIClient(server.url).chat("Yes", 4, soon())
    assert caught.value.status == 503
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_has_a_deadline_and_a_size_whatever_its_status(server: Server, status: int) -> None:
    client = OpenAIClient(server.url, response_bytes=1000)
    server.act = lambda handler: handler.trickle(0.05, status)
    began = time.monotonic()
    with pytest.raises(LateError, match="did not answer in time"):
        client.chat("Yes", 4, began + 0.2)
    assert time.monotonic() - began < 0.6
    server.act = lambda handler: handler.send(b"x" * 100_000, status)
    with pytest.raises(EndpointError, match="sent more than 1,000 bytes"):
        client.chat("Yes", 4, soon())
    with pytest.raises(EndpointError, match="sent more than 3,000 bytes"):
        client.complete(["a", "b", "c"], 4, soon())


def test_a_deadline_that_has_passed_asks_nobody(server: Server) -> None:
    with pytest.raises(LateError, match="no time left"):
        OpenAIClient(server.url).chat("Yes", 4, time.monotonic() - 1)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda handler: handler.send([1]), MalformedError),
        (lambda handler: handler.send({"choices": [{"index": 0, "text": 7}]}), MalformedError),
        (lambda handler: handler.send(b"<html>"), EndpointError),
        (lambda handler: handler.send(b"", 307), StatusError),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), UnreachableError),
    ],
)
def test_errors_tell_what_the_server_did(
    server: Server, act: Callable[[Handler], object], error: type[EndpointError]
) -> None:
    server.act = act
    with pytest.raises(error):
        OpenAIClient(server.url).complete(["a"], 4, soon())


def test_the_package_is_not_imported_before_a_client_is_made() -> None:
    code = (
        "import sys, components.cascade.helpers.endpoint, components.evaluation.factuality.chat\n"
        "sys.exit(bool({'openai', 'httpx2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
