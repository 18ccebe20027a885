"""Servers that answer, refuse, trickle, flood and hang, all on loopback; and our own."""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from components.cascade.config import HelperConfig
from components.cascade.helpers.base import HelperError, Reply
from components.cascade.helpers.endpoint import API_KEY, EndpointHelper
from components.cascade.helpers.resilience import ResilientHelper
from components.deployment.config import ServeConfig
from components.deployment.engine import Engine
from components.deployment.server import create_app, listen
from components.deployment.versions import Version, Versions
from tests.cascade.helpers.conftest import call
from tests.clients.server import Handler, Server
from tests.deployment.conftest import bundle, engine, stages

__all__ = ["bundle", "engine", "stages"]  # fixtures

SECRET = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def fault(helper: EndpointHelper) -> str:
    (reply,) = helper.answer([call("She was born in")])
    assert isinstance(reply, HelperError)
    return str(reply)


def test_it_asks_greedily_for_no_more_than_the_unit_needs(server: Server) -> None:
    helper = EndpointHelper(server.url)
    for unit, most in (("token", 1), ("word", 8), ("entity", 16)):
        (reply,) = helper.answer([call("She was born in", unit)])  # type: ignore[arg-type]
        body = server.bodies.pop()
        assert server.paths.pop() == "/v1/completions"
        greedy = {"temperature": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        assert body == {"prompt": "She was born in", "max_tokens": most, **greedy, "stop": ["\n"]}
        assert isinstance(reply, Reply)
        assert reply.text == (" Brackwater, where" if unit == "token" else " Brackwater")
        assert reply.tokens == 3


def test_calls_that_ask_for_the_same_are_one_request_and_come_back_in_order(server: Server) -> None:
    server.complete = lambda prompt: f" {prompt.upper()}x"
    helper = EndpointHelper(server.url)
    replies = helper.answer([call("a"), call("b", "entity"), call("c")])
    assert [body["prompt"] for body in server.bodies] == [["a", "c"], "b"]
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [" Ax", " Bx", " Cx"]
    for _ in range(5):
        helper.answer([call("d")])
    assert len(server.connections) == 1  # one connection for all


def test_a_space_that_is_there_is_not_written_twice(server: Server) -> None:
    (reply,) = EndpointHelper(server.url).answer([call("She was born in ")])
    assert isinstance(reply, Reply)
    assert (server.bodies[0]["prompt"], reply.text) == ("She was born in", "Brackwater")


def test_the_end_of_a_long_text_is_sent(server: Server) -> None:
    EndpointHelper(server.url).answer([call("Łódź " * 30_000 + "was")])
    prompt = server.bodies[0]["prompt"]
    assert len(prompt) <= 16_000
    assert prompt.startswith("Łódź ")
    assert prompt.endswith("was")


def test_half_a_character_at_the_end_is_left_out(server: Server) -> None:
    server.complete = lambda prompt: " Łód\ufffd"
    (reply,) = EndpointHelper(server.url).answer([call("in", "token")])
    assert isinstance(reply, Reply)
    assert reply.text == " Łód"


def test_the_key_is_sent_and_written_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(API_KEY, SECRET)
    caplog.set_level(logging.DEBUG)
    helper = EndpointHelper.from_config(HelperConfig(kind="endpoint", url=server.url))
    helper.check()
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    server.act = lambda handler: handler.send({"error": f"wrong key {SECRET}"}, 401)
    message = fault(helper)
    assert API_KEY in message
    assert SECRET not in message + helper.name + repr(vars(helper)["_url"]) + caplog.text


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(HelperError, match=API_KEY):
        EndpointHelper("http://user:password@127.0.0.1/v1")


def test_the_check_finds_the_model(server: Server) -> None:
    helper = EndpointHelper(server.url)
    helper.check()
    assert server.bodies[0]["model"] == "large"
    assert helper.name == f"endpoint {server.url} large"
    with pytest.raises(HelperError, match=r"no model 'other'; it has large\. Set helper\.name"):
        EndpointHelper(server.url, "other").check()


def test_a_server_without_a_list_of_models_will_do(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda handler: handler.send({"detail": "?"}, 404))
    EndpointHelper(server.url).check()
    assert "model" not in server.bodies[0]


def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    helper = EndpointHelper(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(HelperError, match=rf"127\.0\.0\.1:{port}/v1 cannot be reached .*start it.*helper\.url"):
        helper.check()
    assert "cannot be reached" in fault(helper)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda handler: handler.send({"error": "full"}, 503), "503"),
        (lambda handler: handler.send({"error": "?"}, 404), r"helper\.url"),
        (lambda handler: handler.send(b"", 302), "redirects are not followed"),
        (lambda handler: handler.send(b"<html>"), "not JSON"),
        (lambda handler: handler.send(b"[" * 20_000), "not JSON"),
        (lambda handler: handler.send({"choices": []}), "no completion"),
        (lambda handler: handler.send({"choices": [{"index": 0, "text": None}]}), "not text"),
        (lambda handler: handler.send([1]), "no completion"),
        (lambda handler: handler.send(b"x" * 1_000_000), "more than 64,000 bytes"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "cannot be reached"),
    ],
)
def test_what_is_no_answer_is_an_error(server: Server, act: Callable[[Handler], None], said: str) -> None:
    server.act = act
    message = fault(EndpointHelper(server.url))
    assert re.search(said, message), message
    assert server.url in message


@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_is_logged_of_a_server_that_repeats_its_question_is_not_the_question(
    server: Server, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    def repeat(handler: Handler) -> None:
        prompt = server.bodies[-1]["prompt"]
        usage = {"completion_tokens": prompt}
        handler.send({"error": prompt, "choices": [{"index": 0, "text": prompt}], "usage": usage}, status)

    server.act = repeat
    config = HelperConfig(kind="endpoint", url=server.url, retries=0, failures_before_rest=1)
    helper = ResilientHelper(EndpointHelper.from_config(config), config)
    with caplog.at_level(logging.WARNING):
        (reply,) = helper.answer([call("my diary says")])
    assert isinstance(reply, HelperError)
    assert "left alone" in caplog.text
    assert "diary" not in caplog.text + str(reply)


def test_neither_silence_nor_a_trickle_takes_longer_than_the_time_out(server: Server) -> None:
    for act in (lambda handler: handler.trickle(0.05), lambda handler: time.sleep(1)):
        server.act = act
        began = time.monotonic()
        assert "in time" in fault(EndpointHelper(server.url, timeout_seconds=0.2))
        assert time.monotonic() - began < 0.5


def test_guarded_a_broken_server_costs_nothing_after_a_while_and_comes_back(server: Server) -> None:
    config = HelperConfig(
        kind="endpoint", url=server.url, timeout_seconds=0.2, retries=1, failures_before_rest=2, rest_seconds=0.3
    )
    helper = ResilientHelper(EndpointHelper.from_config(config), config)
    server.act = lambda handler: handler.send({"error": "down"}, 500)
    for _ in range(6):
        (reply,) = helper.answer([call("in")])
        assert isinstance(reply, HelperError)
    assert len(server.bodies) == 4  # two calls, each tried twice; then it was left alone
    server.act = None
    time.sleep(0.32)
    (reply,) = helper.answer([call("in")])
    assert isinstance(reply, Reply)
    assert reply.text == " Brackwater"


def test_our_own_server_can_be_the_helper(engine: Engine) -> None:
    """Another vocabulary than the caller's: only text crosses."""
    with listen("127.0.0.1", 0) as listener:
        app = create_app(Versions(Version(engine)), ServeConfig(model="tiny"))
        # Without its lifespan: the engine is closed by its fixture.
        web = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=web.run, args=([listener],), daemon=True)
        thread.start()
        helper = EndpointHelper(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout_seconds=10)
        helper.check()
        assert helper.name.endswith("tiny")
        texts = ["The history of the", "She was born in", "Größe"]
        together = helper.answer([call(text, "entity") for text in texts])
        alone = [helper.answer([call(text, "entity")])[0] for text in texts]
        assert [each.text for each in together] == [each.text for each in alone]  # type: ignore[union-attr]
        assert all(isinstance(each, Reply) and 1 <= each.tokens <= 16 for each in alone)
        web.should_exit = True
        thread.join(5)


def test_that_text_leaves_the_machine_is_said(caplog: pytest.LogCaptureFixture) -> None:
    helper = EndpointHelper("http://helper.invalid/v1", timeout_seconds=0.1)
    with pytest.raises(HelperError):
        helper.check()
    assert "text of requests will be sent to the helper at helper.invalid, on another machine" in caplog.text
