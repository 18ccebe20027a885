"""``pieces``: what each decision wrote of a stream, over HTTP; nothing changes for who does not ask for them."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import httpx
import pytest

from components.cascade.decoding import Author, CascadeToken, Outcome
from components.deployment.pieces import Piece, PieceQueue
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact
from tests.deployment.process import started, url_of

PATHS = ("/v1/completions", "/v1/chat/completions")


@pytest.fixture(scope="module")
def cascade(asking: Bundle) -> Iterator[httpx.Client]:
    """Client of a server whose model asks the fact table at half of its decisions."""
    with (
        started(asking.folder, "--port", "0", "--name", "asking") as process,
        httpx.Client(base_url=url_of(process), timeout=60.0, trust_env=False) as client,
    ):
        yield client


def _chunks(client: httpx.Client, path: str, prompt: str, **body: Any) -> list[dict[str, Any]]:
    given = {"prompt": prompt} if path == PATHS[0] else {"messages": [{"role": "user", "content": prompt}]}
    request = {"temperature": 0, "max_tokens": 24, "stream": True, "stream_options": {"include_usage": True}}
    answer = client.post(path, json={**request, **given, **body})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def _text(choice: dict[str, Any]) -> str:
    return str(choice["text"] if "text" in choice else choice["delta"].get("content", ""))


@pytest.mark.parametrize("path", PATHS)
def test_pieces_are_the_answer_and_add_up_to_the_usage(cascade: httpx.Client, fact: Fact, path: str) -> None:
    *chunks, usage = _chunks(cascade, path, fact.prompt, pieces=True)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    pieces = [piece for choice in choices for piece in choice.get("pieces", [])]
    text = "".join(map(_text, choices))
    assert "".join(piece["text"] for piece in pieces) == text
    spans = choices[-1]["authors"]
    helper = "".join(piece["text"] for piece in pieces if piece["author"] == "helper")
    assert helper == "".join(span["text"] for span in spans if span["author"] == "helper")
    details = usage["usage"]["completion_tokens_details"]
    assert len(pieces) == details["decisions"]
    assert sum(piece["call"] != "none" for piece in pieces) == details["calls"] > 0
    assert sum(piece["tokens"] for piece in pieces) == usage["usage"]["completion_tokens"]
    assert all(0.0 <= piece["call_probability"] <= 1.0 for piece in pieces)
    assert all(0.0 <= piece["helper_seconds"] <= piece["seconds"] for piece in pieces)
    asked = [piece for piece in pieces if piece["call"] == "answered"]
    assert {piece["author"] for piece in asked} == {"helper"}
    if path == PATHS[0]:
        assert pieces[0]["text"] == fact.value, "the whole reply is one piece"


@pytest.mark.parametrize("path", PATHS)
def test_nothing_changes_for_who_does_not_ask(cascade: httpx.Client, fact: Fact, path: str) -> None:
    plain, with_pieces = (_chunks(cascade, path, fact.prompt, **body) for body in ({}, {"pieces": True}))
    assert "pieces" not in json.dumps(plain)
    for chunk in with_pieces:
        for choice in chunk["choices"]:
            choice.pop("pieces", None)
    kept = [[chunk["choices"], chunk["usage"]] for chunk in with_pieces]
    expected = [[chunk["choices"], chunk["usage"]] for chunk in plain]
    written = [["".join(map(_text, choices)) for choices, _ in chunks] for chunks in (kept, expected)]
    assert "".join(written[0]) == "".join(written[1])
    assert kept[-2:] == expected[-2:]


def test_an_echoed_prompt_and_a_stop_string_are_in_no_piece(cascade: httpx.Client, fact: Fact) -> None:
    *chunks, _ = _chunks(cascade, PATHS[0], fact.prompt, pieces=True, echo=True, stop=[fact.value[-3:]])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    pieces = [piece for choice in choices for piece in choice["pieces"]]
    assert "".join(map(_text, choices)) == fact.prompt + fact.value[:-3]
    assert "".join(piece["text"] for piece in pieces) == fact.value[:-3]


def test_pieces_are_refused_by_name_without_a_stream(cascade: httpx.Client, fact: Fact) -> None:
    answer = cascade.post(PATHS[0], json={"prompt": fact.prompt, "pieces": True})
    assert answer.status_code == 400
    assert "pieces is only allowed with stream=true" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_pieces_are_refused_by_name_without_a_helper(client: httpx.Client, path: str) -> None:
    given: dict[str, Any] = {"prompt": "x"} if path == PATHS[0] else {"messages": [{"role": "user", "content": "x"}]}
    answer = client.post(path, json={**given, "stream": True, "pieces": True})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "pieces", "unsupported_value")
    assert error["message"].endswith("so only false is possible: leave it out; got true")


def test_the_document_knows_pieces(cascade: httpx.Client) -> None:
    schemas = cascade.get("/openapi.json").json()["components"]["schemas"]
    for name in ("CompletionRequest", "ChatRequest"):
        assert "what single decisions wrote" in schemas[name]["properties"]["pieces"]["description"]
    assert set(schemas["Piece"]["properties"]) == {field.name for field in fields(Piece)}


def _token(author: Author = "small", call: Outcome = "none", logprob: float | None = -1.0) -> CascadeToken:
    return CascadeToken(7, author, 0.25, 0.5, 0.1, logprob, call)


def test_a_piece_waits_until_all_of_its_text_may_be_shown() -> None:
    queue = PieceQueue()
    queue.push(_token(), "ab")
    queue.push(_token("helper", "answered"), " cd")
    queue.push(_token("helper", "answered", logprob=None), "ef")  # the rest of the reply
    assert [piece.text for piece in queue.shown(3, ended=False)] == ["ab"]
    (reply,) = queue.shown(4, ended=False)
    assert (reply.text, reply.author, reply.call, reply.helper_seconds) == (" cdef", "helper", "answered", 0.1)


def test_a_piece_that_a_stop_string_cuts_comes_at_the_end() -> None:
    queue = PieceQueue()
    queue.push(_token(), "ab")
    queue.push(_token(), "cd")
    assert queue.shown(1, ended=False) == ()
    assert [piece.text for piece in queue.shown(2, ended=True)] == ["ab", "c"]


def test_a_piece_without_text_is_not_lost_where_nothing_is_sent() -> None:
    queue = PieceQueue()
    queue.push(_token(call="failed"), "")
    assert queue.shown(0, ended=False) == ()
    queue.push(_token(), "東")
    assert [(piece.text, piece.call) for piece in queue.shown(1, ended=False)] == [("", "failed"), ("東", "none")]
