"""The real server process over HTTP: OpenAI's responses, streams, errors, metrics, and its life as a process."""

import json
import math
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from components.core.errors import InputError, ServiceError
from components.deployment.engine import Engine
from components.deployment.server import listen, main
from components.deployment.text_stream import Detokenizer
from components.model.bundle import Bundle
from components.model.generate import Sampling, generate
from tests.deployment.conftest import CONTEXT_LENGTH, SENTENCES, VOCAB_SIZE, counts
from tests.deployment.process import PATIENCE_SECONDS, messages, started, url_of

PROMPT = "The history of"
USER = [{"role": "user", "content": "Who designed the lighthouse?"}]


def _complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"model": "tiny", "prompt": PROMPT, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Chunks of a stream; it must be well-formed and end with [DONE]."""
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = "".join(answer.iter_text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def _figure(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


# --- answers


def test_a_completion_has_openais_shape_and_the_models_text(client: httpx.Client, engine: Engine) -> None:
    body = _complete(client, max_tokens=12)
    prompt = engine.tokenizer.encode(PROMPT)
    suppress = frozenset({engine.tokenizer.call_id})
    steps = generate(engine.model, prompt, Sampling(temperature=0.0, max_tokens=12, suppress_ids=suppress))
    expected = Detokenizer().push(b"".join(engine.tokenizer.token_bytes(step.token) for step in steps))
    assert body["id"].startswith("cmpl-")
    assert abs(body["created"] - time.time()) < 60
    assert {key: body[key] for key in ("object", "model")} == {"object": "text_completion", "model": "tiny"}
    assert counts(body["usage"]) == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 12,
        "total_tokens": len(prompt) + 12,
    }
    (choice,) = body["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert choice["text"] == expected


def test_penalties_change_what_is_written_and_no_probability(client: httpx.Client) -> None:
    plain = _complete(client, max_tokens=30, logprobs=0)["choices"][0]
    assert (
        _complete(client, max_tokens=30, presence_penalty=0, frequency_penalty=0)["choices"][0]["text"] == plain["text"]
    )
    for penalty in ("presence_penalty", "frequency_penalty"):
        other = _complete(client, max_tokens=30, logprobs=0, **{penalty: 2})["choices"][0]
        assert other["text"] != plain["text"]
        assert other["logprobs"]["token_logprobs"][0] == pytest.approx(plain["logprobs"]["token_logprobs"][0])
    assert client.get("/v1/models").json()["data"][0]["presence_penalty"] == 0.0


def test_the_default_length_is_openais(client: httpx.Client) -> None:
    assert _complete(client)["usage"]["completion_tokens"] == 16


def test_a_request_without_a_model_gets_the_one_that_is_served(client: httpx.Client) -> None:
    assert client.post("/v1/completions", json={"prompt": PROMPT}).json()["model"] == "tiny"


def test_null_means_not_given(client: httpx.Client) -> None:
    body = _complete(client, max_tokens=None, stop=None, seed=None, logprobs=None, stream=None, n=None, user=None)
    assert body["usage"]["completion_tokens"] == 16


NO_OP = {
    "n": 1,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "user": "somebody",
    "stream_options": {"include_usage": False},
}
NO_OP_CHAT = {
    **NO_OP,
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "functions": [],
    "function_call": "none",
    "store": False,
    "metadata": {"run": "7"},
    "service_tier": "auto",
    "reasoning_effort": "none",
}


def test_a_parameter_that_changes_nothing_is_accepted(client: httpx.Client) -> None:
    assert _complete(client, **NO_OP, best_of=1, suffix="")["choices"] == _complete(client)["choices"]
    body = {"messages": USER, "max_tokens": 5, "temperature": 0}
    plain, full = (client.post("/v1/chat/completions", json={**body, **more}) for more in ({}, NO_OP_CHAT))
    assert full.status_code == 200, full.text
    assert full.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize("temperature", [1e-39, 5e-324, 1e-9])
def test_a_temperature_of_almost_nothing_is_greedy(client: httpx.Client, temperature: float) -> None:
    assert _complete(client, temperature=temperature)["choices"] == _complete(client)["choices"]


@pytest.mark.parametrize("prompt", SENTENCES)
def test_a_stream_says_the_same_as_the_whole_answer(client: httpx.Client, prompt: str) -> None:
    body = {"prompt": prompt, "max_tokens": 40, "temperature": 1.3, "seed": 5, "stop": ["\n\n"], "logprobs": 1}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]
    chunks = _events(client, "/v1/completions", body)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [value for choice in choices for value in choice["logprobs"][name]] == whole["logprobs"][name]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_last_in_a_stream_that_asks_for_it(client: httpx.Client) -> None:
    body = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0, "stream_options": {"include_usage": True}}
    *chunks, last = _events(client, "/v1/completions", body)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5


def test_several_prompts_are_answered_in_order_and_streamed_by_index(client: httpx.Client) -> None:
    prompts = SENTENCES[:3]
    alone = [_complete(client, prompt=prompt)["choices"][0]["text"] for prompt in prompts]
    together = _complete(client, prompt=prompts)["choices"]
    assert [(choice["index"], choice["text"]) for choice in together] == list(enumerate(alone))
    streamed = ["", "", ""]
    for chunk in _events(client, "/v1/completions", {"prompt": prompts, "temperature": 0}):
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == alone


def test_text_and_its_token_ids_are_the_same_prompt(client: httpx.Client, engine: Engine) -> None:
    ids = engine.tokenizer.encode(PROMPT)
    expected = _complete(client)["choices"][0]["text"]
    assert _complete(client, prompt=ids)["choices"][0]["text"] == expected
    assert _complete(client, prompt=[ids])["choices"][0]["text"] == expected


def test_the_evaluation_harness_reads_likelihoods_of_token_id_prompts(client: httpx.Client, engine: Engine) -> None:
    """The request and the arithmetic of lm-eval's ``local-completions``, against the model itself."""
    contexts = [engine.tokenizer.encode(text) for text in ("The harbour begins", "東京の")]
    continuations = [engine.tokenizer.encode(text) for text in (" with the lighthouse", "港は古い。")]
    pairs = list(zip(contexts, continuations, strict=True))
    body = {
        "model": "tiny",
        "prompt": [context + continuation for context, continuation in pairs],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = client.post("/v1/completions", json=body).json()["choices"]
    for choice, (context, continuation) in zip(choices, pairs, strict=True):
        scores = choice["logprobs"]
        assert len({len(values) for values in scores.values()}) == 1
        found = scores["token_logprobs"][len(context) : -1]
        best = [max(top.values()) for top in scores["top_logprobs"][len(context) : -1]]
        with torch.inference_mode():
            ids = torch.tensor([context + continuation])
            logits = engine.model.logits(engine.model(ids))[0, len(context) - 1 : -1]
            logits[:, engine.tokenizer.call_id] = float("-inf")
            expected = logits.log_softmax(dim=-1)
        assert len(found) == len(continuation)
        own = expected[torch.arange(len(continuation)), torch.tensor(continuation)]
        assert found == pytest.approx(own.tolist(), abs=1e-3)
        assert best == pytest.approx(expected.max(dim=-1).values.tolist(), abs=1e-3)
        greedy = [int(id) for id in expected.argmax(dim=-1)]
        assert [a == b for a, b in zip(found, best, strict=True)] == [
            a == b for a, b in zip(greedy, continuation, strict=True)
        ]


def test_every_token_has_a_name_of_its_own(client: httpx.Client) -> None:
    scores = _complete(client, prompt="東", max_tokens=5, logprobs=20)["choices"][0]["logprobs"]
    assert all(len(top) in (20, 21) for top in scores["top_logprobs"])


def test_a_chat_completion_has_openais_shape(client: httpx.Client, engine: Engine) -> None:
    body = client.post(
        "/v1/chat/completions",
        json={
            "model": "tiny",
            "messages": USER,
            "max_tokens": 9,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 2,
        },
    ).json()
    prompt = engine.tokenizer.encode_chat(USER)
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert counts(body["usage"]) == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 9,
        "total_tokens": len(prompt) + 9,
    }
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["role"]) == (0, "length", "assistant")
    assert _complete(client, prompt=prompt, max_tokens=9)["choices"][0]["text"] == choice["message"]["content"]
    scores = choice["logprobs"]["content"]
    assert len(scores) == 9
    for score in scores:
        assert set(score) == {"token", "logprob", "bytes", "top_logprobs"}
        assert score["logprob"] == score["top_logprobs"][0]["logprob"] <= 0
        assert math.isfinite(score["logprob"])


def test_a_chat_stream_names_the_role_then_the_text_then_the_end(client: httpx.Client) -> None:
    body = {"messages": USER, "max_completion_tokens": 9, "temperature": 0}
    whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    chunks = _events(client, "/v1/chat/completions", body)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == whole["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_chat_content_may_come_in_text_parts(client: httpx.Client) -> None:
    parts = [{"type": "text", "text": "Who designed "}, {"type": "text", "text": "the lighthouse?"}]
    body = {"max_tokens": 5, "temperature": 0}
    plain = client.post("/v1/chat/completions", json={**body, "messages": USER}).json()
    in_parts = client.post("/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": parts}]})
    assert in_parts.json()["choices"] == plain["choices"]


def test_the_models_are_listed(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert (card["id"], card["object"], card["context_length"]) == ("tiny", "model", CONTEXT_LENGTH)
    assert client.get("/v1/models/tiny").json() == card


# --- errors

GOOD = {"model": "tiny", "prompt": PROMPT}
GOOD_CHAT = {"model": "tiny", "messages": USER}
REFUSALS = [
    # request, status, parameter, code, words in the message
    ({**GOOD, "model": "gpt-9"}, 404, "model", "model_not_found", "'gpt-9' is not served here; this server has 'tiny'"),
    ({**GOOD, "prompt": ""}, 400, "prompt", "invalid_value", "the prompt is empty"),
    ({**GOOD, "prompt": []}, 400, "prompt", "invalid_value", "empty"),
    ({**GOOD, "prompt": [""]}, 400, "prompt", "invalid_value", "empty"),
    ({**GOOD, "prompt": [[]]}, 400, "prompt", "invalid_value", "empty"),
    ({**GOOD, "prompt": 7}, 400, "prompt", "invalid_value", "a text, a list of texts, a list of token ids"),
    ({**GOOD, "prompt": ["a", 1]}, 400, "prompt", "invalid_value", "not a mixture"),
    ({**GOOD, "prompt": [[1, "a"]]}, 400, "prompt", "invalid_value", "token ids must be integers"),
    ({**GOOD, "prompt": [True]}, 400, "prompt", "invalid_value", "must be a text"),
    ({**GOOD, "prompt": [VOCAB_SIZE]}, 400, "prompt", "invalid_value", f"ids go from 0 to {VOCAB_SIZE - 1}"),
    ({**GOOD, "prompt": [-1]}, 400, "prompt", "invalid_value", "token id -1"),
    ({**GOOD, "prompt": [7, 4]}, 400, "prompt", "invalid_value", "<CALL>, which the model may predict but never reads"),
    ({**GOOD, "call_budget": -0.1}, 400, "call_budget", "invalid_value", "greater than or equal to 0; got -0.1"),
    ({**GOOD, "call_budget": 1.1}, 400, "call_budget", "invalid_value", "less than or equal to 1; got 1.1"),
    ({**GOOD, "call_budget": "often"}, 400, "call_budget", "invalid_value", "valid number; got 'often'"),
    ({**GOOD, "max_calls": -1}, 400, "max_calls", "invalid_value", "greater than or equal to 0; got -1"),
    ({**GOOD, "max_calls": 1.5}, 400, "max_calls", "invalid_value", "integer"),
    ({**GOOD, "call_budget": 0.2}, 400, "call_budget", "unsupported_value", "plain model that has no helper"),
    ({**GOOD_CHAT, "max_calls": 3}, 400, "max_calls", "unsupported_value", "only 0 is possible: leave it out; got 3"),
    ({**GOOD, "prompt": ["a"] * 9}, 400, "prompt", "invalid_value", "at most 8"),
    ({"model": "tiny"}, 400, "prompt", "missing_required_parameter", "prompt is required"),
    ({**GOOD, "prompt": None}, 400, "prompt", "missing_required_parameter", "prompt is required"),
    (
        {**GOOD, "prompt": [7] * (CONTEXT_LENGTH + 1)},
        400,
        "prompt",
        "context_length_exceeded",
        f"{CONTEXT_LENGTH + 1} tokens, but the context of {CONTEXT_LENGTH}",
    ),
    ({**GOOD, "prompt": "word " * CONTEXT_LENGTH * 4}, 400, "prompt", "context_length_exceeded", "shorten the prompt"),
    ({**GOOD, "max_tokens": 0}, 400, "max_tokens", "invalid_value", "greater than or equal to 1; got 0"),
    ({**GOOD, "max_tokens": -5}, 400, "max_tokens", "invalid_value", "got -5"),
    ({**GOOD, "max_tokens": "many"}, 400, "max_tokens", "invalid_value", "valid integer; got 'many'"),
    ({**GOOD, "max_tokens": 2.5}, 400, "max_tokens", "invalid_value", "integer"),
    ({**GOOD, "temperature": -0.1}, 400, "temperature", "invalid_value", "got -0.1"),
    ({**GOOD, "temperature": 2.1}, 400, "temperature", "invalid_value", "less than or equal to 2; got 2.1"),
    ({**GOOD, "temperature": "hot"}, 400, "temperature", "invalid_value", "valid number; got 'hot'"),
    ({**GOOD, "top_p": 0}, 400, "top_p", "invalid_value", "greater than 0"),
    ({**GOOD, "top_p": 1.5}, 400, "top_p", "invalid_value", "got 1.5"),
    ({**GOOD, "n": 2}, 400, "n", "unsupported_value", "only 1 is supported; send several prompts"),
    ({**GOOD, "best_of": 3}, 400, "best_of", "unsupported_value", "only 1 is supported"),
    ({**GOOD, "presence_penalty": 3}, 400, "presence_penalty", "invalid_value", "less than or equal to 2; got 3"),
    ({**GOOD, "frequency_penalty": -3}, 400, "frequency_penalty", "invalid_value", "greater than or equal to -2"),
    ({**GOOD, "top_k": -1}, 400, "top_k", "invalid_value", "greater than or equal to 0"),
    ({**GOOD, "min_p": 1.1}, 400, "min_p", "invalid_value", "less than or equal to 1"),
    ({**GOOD, "repetition_penalty": 1e-300}, 400, "repetition_penalty", "invalid_value", "equal to 0.1"),
    ({**GOOD_CHAT, "repetition_penalty": 11}, 400, "repetition_penalty", "invalid_value", "less than or equal to 10"),
    ({**GOOD, "logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_value", "only {} is supported"),
    ({**GOOD, "suffix": "end"}, 400, "suffix", "unsupported_value", "only continues text"),
    ({**GOOD, "logprobs": 21}, 400, "logprobs", "invalid_value", "less than or equal to 20"),
    ({**GOOD, "logprobs": True}, 400, "logprobs", "invalid_value", "valid integer"),
    ({**GOOD, "stop": [""]}, 400, "stop", "invalid_value", "none of them empty; got ['']"),
    ({**GOOD, "stop": ["a"] * 17}, 400, "stop", "invalid_value", "at most 16"),
    ({**GOOD, "stop": 3}, 400, "stop", "invalid_value", "a text or a list of texts"),
    ({**GOOD, "seed": 2**64}, 400, "seed", "invalid_value", "less than"),
    ({**GOOD, "colour": "red"}, 400, "colour", "unknown_parameter", "colour is not a parameter"),
    ({**GOOD_CHAT, "messages": []}, 400, "messages", "invalid_value", "at least 1 item"),
    ({**GOOD_CHAT, "messages": "hello"}, 400, "messages", "invalid_value", "list"),
    ({**GOOD_CHAT, "messages": [{"role": "user", "content": ""}]}, 400, "messages", "empty_prompt", "all messages are"),
    (
        {**GOOD_CHAT, "messages": [{"role": "wizard", "content": "hi"}]},
        400,
        "messages.0.role",
        "invalid_value",
        "'user' or 'assistant'; got 'wizard'",
    ),
    (
        {**GOOD_CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
        400,
        "messages.0.content.0.type",
        "invalid_value",
        "'text'",
    ),
    (
        {**GOOD_CHAT, "messages": [{"role": "user"}]},
        400,
        "messages.0.content",
        "missing_required_parameter",
        "required",
    ),
    ({**GOOD_CHAT, "max_tokens": 0}, 400, "max_tokens", "invalid_value", "got 0"),
    ({**GOOD_CHAT, "max_completion_tokens": -1}, 400, "max_completion_tokens", "invalid_value", "got -1"),
    ({**GOOD_CHAT, "n": 3}, 400, "n", "unsupported_value", "only 1 is supported"),
    (
        {**GOOD_CHAT, "response_format": {"type": "xml"}},
        400,
        "response_format",
        "invalid_value",
        "'text', 'json_object', 'json_schema'",
    ),
    ({**GOOD_CHAT, "tools": [{"type": "function"}]}, 400, "tools", "unsupported_value", "only [] is supported"),
    ({**GOOD_CHAT, "tool_choice": "required"}, 400, "tool_choice", "unsupported_value", "only 'none' or 'auto' is"),
    ({**GOOD_CHAT, "store": True}, 400, "store", "unsupported_value", "this server keeps nothing"),
    ({**GOOD_CHAT, "top_logprobs": 2}, 400, None, "invalid_value", "only allowed with logprobs=true"),
    (
        {**GOOD_CHAT, "messages": [{"role": "user", "content": "word " * CONTEXT_LENGTH * 4}]},
        400,
        "prompt",
        "context_length_exceeded",
        "shorten the prompt",
    ),
]


@pytest.mark.parametrize(
    ("body", "status", "param", "code", "words"), REFUSALS, ids=lambda value: str(value)[:40].replace("\n", " ")
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_bad_request_is_refused_in_openais_words(
    client: httpx.Client, body: dict[str, Any], status: int, param: str | None, code: str, words: str, stream: bool
) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    _assert_refused(client.post(path, json={**body, "stream": stream}), status, param, code, words)


def test_stream_options_without_a_stream_are_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={**GOOD, "stream_options": {"include_usage": True}})
    _assert_refused(answer, 400, None, "invalid_value", "only allowed with stream=true")


def _assert_refused(answer: httpx.Response, status: int, param: str | None, code: str, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code), error
    assert words in error["message"], error


JSON = {"Content-Type": "application/json"}
NOT_JSON = [
    (b'{"prompt": "a",', "invalid_json"),
    (b"", "invalid_body"),
    (b"[1, 2]", "invalid_body"),
    (b'"text"', "invalid_body"),
    (b"\xff\xfe\xfd", "invalid_body"),
    (b'{"prompt": ' + b"[" * 100_000, "invalid_body"),
    (b'{"prompt": "\\ud800"}', "invalid_value"),
    (b'{"prompt": "a", "stop": "\\udfff"}', "invalid_value"),
    (b'{"prompt": "a", "temperature": NaN}', "invalid_value"),
    (b'{"prompt": "a", "temperature": 1e999}', "invalid_value"),
    (b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", "invalid_body"),
]


@pytest.mark.parametrize(("content", "code"), NOT_JSON, ids=lambda value: str(value)[:30])
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, content: bytes, code: str) -> None:
    answer = client.post("/v1/completions", content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == code, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_form_is_refused_with_the_header_that_is_missing(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", data={"prompt": "a"})
    _assert_refused(answer, 400, None, "invalid_body", "Content-Type: application/json")


def test_an_absurd_length_is_clipped_like_any_other(client: httpx.Client) -> None:
    body = _complete(client, prompt=[7] * (CONTEXT_LENGTH - 2), max_tokens=10**30)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


def test_unknown_routes_and_methods_are_refused_in_the_same_shape(client: httpx.Client) -> None:
    _assert_refused(client.get("/v2/completions"), 404, None, "unknown_url", "GET /v2/completions")
    _assert_refused(client.get("/v1/completions"), 405, None, "method_not_allowed", "use POST")
    _assert_refused(client.delete("/v1/models"), 405, None, "method_not_allowed", "use GET")
    _assert_refused(client.get("/v1/models/other"), 404, "model", "model_not_found", "'other'")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_limit_is_refused(client: httpx.Client, announced: bool) -> None:
    content = b'{"prompt": "' + b"a" * 4_000_001 + b'"}'
    deltas = (content[at : at + 65536] for at in range(0, len(content), 65536))
    answer = client.post("/v1/completions", content=content if announced else deltas, headers=JSON)
    assert answer.status_code == 413, answer.text
    assert "4,000,000 bytes" in answer.json()["error"]["message"]


def test_a_full_server_says_so_and_recovers(client: httpx.Client) -> None:
    """Eight places are taken by one request of eight prompts; then it goes away."""
    body = {"prompt": [PROMPT] * 8, "max_tokens": CONTEXT_LENGTH, "temperature": 0, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as busy:
        lines = busy.iter_lines()
        next(lines)
        refused = client.post("/v1/completions", json=GOOD)
        _assert_refused(refused, 503, None, "server_overloaded", "try again")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
    _wait_for_an_idle_engine(client)
    assert client.post("/v1/completions", json=GOOD).status_code == 200


# --- several clients


def _wait_for_an_idle_engine(client: httpx.Client) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _figure(client, "lacewing_active_requests") + _figure(client, "lacewing_queued_requests") > 0:
        assert time.monotonic() < deadline, "the engine does not come to rest"
        time.sleep(0.02)


def test_requests_at_the_same_time_do_not_mix(client: httpx.Client) -> None:
    alone = [_complete(client, prompt=prompt, max_tokens=60)["choices"][0]["text"] for prompt in SENTENCES]
    with ThreadPoolExecutor(len(SENTENCES)) as threads:
        found = list(
            threads.map(lambda prompt: _complete(client, prompt=prompt, max_tokens=60)["choices"][0]["text"], SENTENCES)
        )
    assert found == alone


def test_streams_move_on_together(client: httpx.Client) -> None:
    """A short stream that begins while a long one runs ends long before it."""
    with client.stream(
        "POST",
        "/v1/completions",
        json={"prompt": PROMPT, "max_tokens": CONTEXT_LENGTH, "temperature": 0, "stream": True},
    ) as long:
        lines = long.iter_lines()
        next(lines)
        assert len(_events(client, "/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "temperature": 0})) <= 3
        assert _figure(client, "lacewing_active_requests") == 1
    _wait_for_an_idle_engine(client)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_gives_its_place_free(client: httpx.Client, stream: bool) -> None:
    before = _figure(client, "lacewing_generated_tokens_total")
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    body = json.dumps({"prompt": PROMPT, "max_tokens": CONTEXT_LENGTH, "temperature": 0, "stream": stream}).encode()
    with socket.create_connection((host, port)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _figure(client, "lacewing_active_requests") == 0:
            assert time.monotonic() < deadline
    _wait_for_an_idle_engine(client)
    written = _figure(client, "lacewing_generated_tokens_total") - before
    assert written < CONTEXT_LENGTH - 100, "it went on writing after the client had left"


# --- metrics, health


def test_metrics_count_requests_tokens_and_times(client: httpx.Client, engine: Engine) -> None:
    def metrics() -> list[float]:
        names = (
            "lacewing_requests_total",
            "lacewing_prompt_tokens_total",
            "lacewing_generated_tokens_total",
            "lacewing_time_to_first_token_seconds_count",
            "lacewing_request_seconds_count",
        )
        return [_figure(client, name) for name in names]

    before = metrics()
    _complete(client, max_tokens=7)
    after = metrics()
    # The reading of the metrics is a request too; each metric is one reading further than the last time.
    assert [b - a for a, b in zip(before, after, strict=True)] == [6, len(engine.tokenizer.encode(PROMPT)), 7, 1, 6]
    assert 'lacewing_requests_total{route="/v1/completions",status="200"}' in client.get("/metrics").text
    assert _figure(client, "process_cpu_seconds_total") > 0


def test_unknown_paths_do_not_become_metrics(client: httpx.Client) -> None:
    client.get("/secret-path")
    client.get("/v1/models/secret-name")
    text = client.get("/metrics").text
    assert "secret" not in text
    assert 'route="other",status="404"' in text


def test_health_names_the_model(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok", "model": "tiny", "version": "tiny"}


# --- the process


def test_a_key_is_asked_for_if_there_is_one_and_ctrl_c_ends_the_server_in_order(bundle: Bundle) -> None:
    with started(bundle.folder, "--port", "0", LACEWING_API_KEY="s3cret") as process:
        with httpx.Client(base_url=url_of(process), timeout=PATIENCE_SECONDS, trust_env=False) as client:
            assert client.get("/health").status_code == 200
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
                refused = client.get("/v1/models", headers=headers)
                _assert_refused(refused, 401, None, "invalid_api_key", "Authorization: Bearer")
            allowed = {"Authorization": "Bearer s3cret"}
            assert client.get("/v1/models", headers=allowed).json()["data"][0]["id"] == "champion"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, messages(errors)) == (0, [])


def test_an_open_address_without_a_key_is_refused(bundle: Bundle) -> None:
    with started(bundle.folder, "--port", "0", "--host", "0.0.0.0", LACEWING_API_KEY="") as process:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == InputError.exit_code
    assert "0.0.0.0 is reachable from other machines, so anyone could use the server: set LACEWING_API_KEY" in errors


def test_sigterm_ends_even_a_stream_on_an_open_address(bundle: Bundle) -> None:
    options = ("--port", "0", "--shutdown-seconds", "1", "--host", "0.0.0.0")
    body = {"prompt": PROMPT, "max_tokens": CONTEXT_LENGTH, "temperature": 0, "stream": True}
    with (
        started(bundle.folder, *options, LACEWING_API_KEY="s3cret") as process,
        httpx.Client(base_url=url_of(process), timeout=PATIENCE_SECONDS, trust_env=False) as client,
    ):
        key = {"Authorization": "Bearer s3cret"}
        with client.stream("POST", "/v1/completions", json=body, headers=key) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)
    assert process.returncode == 0


def test_a_taken_port_is_named_with_a_way_out(bundle: Bundle) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with started(bundle.folder, "--port", str(port)) as process:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == ServiceError.exit_code
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in errors
    assert "choose another with port=" in errors
    assert "Traceback" not in errors


def test_tokens_are_sent_at_once_instead_of_waiting_for_the_last_ones_receipt() -> None:
    """Nagle's algorithm would add some 40 ms to every answer on a connection that is kept open."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ServiceError, match=r"cannot listen on 203\.0\.113\.7 port 0"):
        listen("203.0.113.7", 0)


def test_a_bad_option_is_refused_with_its_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--port", "70000"]) == InputError.exit_code
    assert "--port 70000: Input should be less than or equal to 65535" in capsys.readouterr().err
