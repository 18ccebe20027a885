"""The gateway over HTTP, with real servers on both sides."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from components.deployment.gateway.engine import GatewayEngine
from components.deployment.gateway.server import create_app, main
from components.deployment.traces import Traced
from components.deployment.versions import Version, Versions
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact
from tests.deployment.export.llama_cpp import LlamaCpp
from tests.deployment.gateway.conftest import settings
from tests.deployment.test_traces import Collected, attributes


def client_of(bundle: Bundle, url: str, **more: object) -> TestClient:
    cfg = settings(url, **more)
    return TestClient(
        create_app(Versions(Version(GatewayEngine(bundle.folder, cfg))), cfg), base_url="http://127.0.0.1"
    )


@pytest.fixture(scope="module")
def gateway(calling: Bundle, upstream: LlamaCpp) -> Iterator[TestClient]:
    with client_of(calling, f"{upstream.server.listening_address}/v1", piece_tokens=5) as client:
        yield client


def complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"temperature": 0, "max_tokens": 20, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def streamed(client: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", path, json={"temperature": 0, "max_tokens": 20, **body, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_says_who_wrote_what(gateway: TestClient, fact: Fact) -> None:
    body = complete(gateway, prompt=fact.prompt, call_budget=1.0)
    (choice,) = body["choices"]
    assert choice["authors"][0] == {"author": "helper", "start": 0, "end": len(fact.value), "text": fact.value}
    assert "".join(span["text"] for span in choice["authors"]) == choice["text"]
    assert body["cascade"] == {"degraded": False, "helper": "fact table"}
    details = body["usage"]["completion_tokens_details"]
    assert details["small_tokens"] + details["helper_tokens"] == body["usage"]["completion_tokens"] == 20


def test_a_stream_is_the_answer_in_pieces(gateway: TestClient, fact: Fact) -> None:
    whole = complete(gateway, prompt=fact.prompt, call_budget=0.5)
    chunks = streamed(gateway, "/v1/completions", prompt=fact.prompt, call_budget=0.5)
    assert len(chunks) > 3
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["authors"] == whole["choices"][0]["authors"]


def test_prompts_of_one_request_are_answered_as_each_alone(gateway: TestClient, fact: Fact) -> None:
    prompts = [fact.prompt, "The town of", "In 1902"]
    together = complete(gateway, prompt=prompts, call_budget=0.5)
    alone = [complete(gateway, prompt=prompt, call_budget=0.5) for prompt in prompts]
    assert [choice["text"] for choice in together["choices"]] == [each["choices"][0]["text"] for each in alone]
    assert together["usage"]["total_tokens"] == sum(each["usage"]["total_tokens"] for each in alone)
    assert "lacewing_calls_total" in gateway.get("/metrics").text


def test_a_trace_holds_its_calls_too(gateway: TestClient, fact: Fact) -> None:
    collected = Collected()
    with_traces = TestClient(Traced(gateway.app, collected.traces), base_url="http://127.0.0.1")
    details = complete(with_traces, prompt=fact.prompt, call_budget=0.5)["usage"]["completion_tokens_details"]
    spans = collected.taken()
    assert {span.name for span in spans} == {"queue", "decode", "helper call", "POST /v1/completions"}
    outcomes = [attributes(span)["lacewing.call.outcome"] for span in spans if span.name == "helper call"]
    assert len(outcomes) == details["calls"] > 0
    assert set(outcomes) <= {"answered", "empty"}


def test_it_speaks_chat_and_stops_at_texts(gateway: TestClient) -> None:
    said = {"messages": [{"role": "user", "content": "Who was Ada?"}]}
    body = gateway.post("/v1/chat/completions", json={"temperature": 0, "max_tokens": 20, **said}).json()
    text = body["choices"][0]["message"]["content"]
    parts = streamed(gateway, "/v1/chat/completions", **said)
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == text
    stop = text[5:8]
    cut = gateway.post("/v1/chat/completions", json={"temperature": 0, "max_tokens": 20, **said, "stop": [stop]}).json()
    assert cut["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("parameter", "value", "advice"),
    [
        ("repetition_penalty", 1.2, "leave it out"),
        ("logprobs", 1, "leave it out"),
        ("echo", True, "leave it out"),
        ("response_format", {"type": "json_object"}, "leave it out"),
    ],
)
def test_what_is_not_passed_on_is_refused_by_name(
    gateway: TestClient, parameter: str, value: object, advice: str
) -> None:
    answer = gateway.post("/v1/completions", json={"prompt": "The", "temperature": 0, parameter: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (parameter, "unsupported_value")
    assert advice in error["message"]


def test_clients_that_set_nothing_get_a_drawn_text(gateway: TestClient, fact: Fact) -> None:
    """OpenAI's default temperature is 1."""
    body = {"prompt": fact.prompt, "max_tokens": 12, "call_budget": 0.5}
    first, same, other = (
        gateway.post("/v1/completions", json={**body, "seed": seed}).json()["choices"][0]["text"] for seed in (1, 1, 2)
    )
    assert first == same != other


def test_a_longer_prompt_than_the_server_holds_is_refused(gateway: TestClient) -> None:
    """The model's context is 4096, llama.cpp's was started with 256."""
    answer = gateway.post("/v1/completions", json={"prompt": [1] * 256, "temperature": 0})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_the_helper_may_be_another_llama_cpp(calling: Bundle, upstream: LlamaCpp, fact: Fact) -> None:
    url = f"{upstream.server.listening_address}/v1"
    with client_of(calling, url, helper=url) as client:
        body = complete(client, prompt=fact.prompt, call_budget=1.0)
    details = body["usage"]["completion_tokens_details"]
    assert url.removesuffix("/v1").removeprefix("http://") in body["cascade"]["helper"]
    assert details["helper_tokens"] > 0
    assert details["helper_model_tokens"] > 0
    # This helper is as random as the model, and some of its replies are half a character.
    assert details["failed_calls"] < details["calls"]


def test_without_its_helper_it_goes_on_and_says_so(calling: Bundle, upstream: LlamaCpp, fact: Fact) -> None:
    url = f"{upstream.server.listening_address}/v1"
    down = {"helper": "http://127.0.0.1:9/v1", "helper_required": False}
    with client_of(calling, url, **down) as client:
        body = complete(client, prompt=fact.prompt, call_budget=0.5)
        alone = complete(client, prompt=fact.prompt, call_budget=0.0)
    details = body["usage"]["completion_tokens_details"]
    assert body["cascade"]["degraded"]
    assert details["failed_calls"] == details["calls"] > 0
    assert body["choices"][0]["text"] == alone["choices"][0]["text"]


def test_the_process_ends_with_the_reason(calling: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://127.0.0.1:9/v1"
    assert main([str(calling.folder), "--settings", settings(url, port=0).model_dump_json()]) == 6
    assert capsys.readouterr().err.startswith(f"error: the server at {url} cannot be reached")
