"""Answers by a JSON schema: whatever the model would rather say, what has stopped is JSON of that schema."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade, CascadeRequest
from components.core.errors import InputError
from components.deployment.config import ServeConfig
from components.deployment.engine import Engine
from components.deployment.grammar import MOST_LEVELS, Grammars
from components.deployment.server import create_app
from components.deployment.versions import Version, Versions
from components.model.bundle import Bundle
from components.model.sampling import Sampling
from tests.fakes import Told, calibration, speaker, start, tokenizer

WORK = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bridge", "lighthouse"]},
        "year": {"type": "integer", "minimum": 1800, "maximum": 1999},
        "rivers": {"type": "array", "items": {"enum": ["Elbe", "größte"]}, "maxItems": 2},
    },
    "required": ["kind", "year", "rivers"],
    "additionalProperties": False,
}
TOKENS = tokenizer()


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[TestClient]:
    """A model with random weights, whose greedy text goes on and on: only the grammar ends it."""
    with (
        Engine(bundle.folder, threads=1) as engine,
        TestClient(
            create_app(Versions(Version(engine)), ServeConfig(model="tiny")), base_url="http://127.0.0.1"
        ) as client,
    ):
        yield client


def schema_format(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "work", "strict": True, "schema": schema}}


def chat(client: TestClient, schema: object, **more: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": "Which?"}], "temperature": 0, "max_tokens": 120}
    answer = client.post("/v1/chat/completions", json={**said, "response_format": schema_format(schema), **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(temperature=st.sampled_from([0.0, 0.7, 2.0]), seed=st.integers(0, 9999), most=st.integers(1, 150))
def test_what_has_stopped_is_of_the_schema(client: TestClient, temperature: float, seed: int, most: int) -> None:
    (choice,) = chat(client, WORK, temperature=temperature, seed=seed, max_tokens=most)["choices"]
    if choice["finish_reason"] == "stop":
        jsonschema.validate(json.loads(choice["message"]["content"]), WORK)
    else:
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"].startswith('{"kind":"'[:most])


def test_it_does_stop_and_a_stream_and_several_prompts_say_the_same(client: TestClient, engine: Engine) -> None:
    """The third prompt ends inside a character, which the answer must not complete."""
    tokens = engine.tokenizer
    half = next(id for id in range(tokens.vocab_size) if tokens.token_bytes(id) == "🚀".encode()[:1])
    the, size = tokens.encode("The"), tokens.encode("Größe")
    body: dict[str, Any] = {"prompt": [the, size, [*the, half]], "max_tokens": 120, "temperature": 0}
    body["response_format"] = schema_format(WORK)
    whole = client.post("/v1/completions", json=body).json()
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop"] * 3
    texts = ["", "", ""]
    for choice in whole["choices"]:
        jsonschema.validate(json.loads(choice["text"]), WORK)
    for line in client.post("/v1/completions", json={**body, "stream": True}).text.split("\n\n"):
        if line.startswith("data: {"):
            (part,) = json.loads(line.removeprefix("data: "))["choices"]
            texts[part["index"]] += part["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_a_free_answer_beside_it_is_as_it_is_alone(client: TestClient, engine: Engine) -> None:
    """Other rows of the batch keep their tokens and their probabilities."""
    body = {"prompt": "The", "max_tokens": 20, "temperature": 0, "logprobs": 1}
    alone = client.post("/v1/completions", json=body).json()["choices"]
    cascade = engine._cascade.decoding()
    guided = Sampling(temperature=0.0, max_tokens=20, stop_ids=frozenset({engine.tokenizer.end_of_text_id}))
    ids = engine.tokenizer.encode("The")
    cascade.add(CascadeRequest(ids, guided, guide=Grammars(engine.tokenizer).guide(WORK)))
    free = cascade.add(CascadeRequest(ids, Sampling(temperature=0.0, max_tokens=20), alternatives=1))
    tokens = [token for _ in range(20) for step in cascade.step() if step.request == free for token in step.tokens]
    assert [token.logprob for token in tokens] == alone[0]["logprobs"]["token_logprobs"]


def test_any_object_is_an_object(client: TestClient) -> None:
    said = {"messages": [{"role": "user", "content": "Which?"}], "temperature": 1.0, "seed": 1, "max_tokens": 40}
    answer = client.post("/v1/chat/completions", json={**said, "response_format": {"type": "json_object"}}).json()
    assert answer["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"type": "object", "if": {}, "then": {}}, r'"if"'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {}, "x-guidance": {"lenient": True}}, '"not"'),
        ({"enum": []}, "[Uu]nsatisfiable"),
        ({"minimum": 5, "maximum": 3, "type": "integer"}, "minimum"),
        ({"$ref": "#"}, "nothing satisfies it"),
        ({"$ref": "http://example.com/schema"}, "example.com"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"const": "\ud800"}, "cannot be read"),
        ({"enum": ["x" * 70_000]}, "65,536"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(client: TestClient, schema: object, words: str) -> None:
    body = {"prompt": "The", "response_format": schema_format(schema)}
    answer = client.post("/v1/completions", content=json.dumps(body), headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "response_format", "unsupported_value")
    assert re.search(words, error["message"]), error["message"]


@pytest.mark.parametrize("levels", [MOST_LEVELS, 5000])
def test_a_deeply_nested_schema_is_refused_before_it_is_read(levels: int) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    with pytest.raises(InputError, match="nested"):
        Grammars(TOKENS).guide(schema)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stop": ["}"]}, "stop"),
        ({"echo": True}, "echo"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_what_would_spoil_the_json_is_refused_by_name(client: TestClient, more: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/completions", json={"prompt": "The", "response_format": schema_format({}), **more})
    assert answer.status_code == 400
    assert param in answer.json()["error"]["message"]


def test_tokens_may_be_taken_back() -> None:
    """Who guesses ahead and is wrong tells the guide no more than what stands there now."""
    guide, fresh = (Grammars(TOKENS).guide(WORK) for _ in range(2))
    one, other = (TOKENS.encode(f'{{"kind":"{kind}","ye') for kind in ("bridge", "lighthouse"))
    for written in (one, other[:5], one[:3], other, []):
        expected = fresh.another().allowed(written)
        assert np.array_equal(guide.allowed(written), expected)
    assert guide.accepts(one[:2], one[2:])
    assert not guide.accepts(one[:2], [*one[2:], TOKENS.call_id])


def test_replies_of_a_helper_are_taken_only_if_the_schema_allows_them() -> None:
    """A helper that may write anywhere: what fits is its own, the rest counts as failed, and the JSON is whole."""
    model = speaker(TOKENS)
    helper = Told(lambda call: "bridge" if call.text.endswith('"kind":"') else " nonsense")
    config = CascadeConfig(budget=1.0, unit="word")
    cascade = Cascade(model, TOKENS, helper, calibration(0.0, 0.0), config)
    ends = frozenset({TOKENS.end_of_text_id, TOKENS.im_end_id})
    request = CascadeRequest(
        start(TOKENS, "It was"),
        Sampling(temperature=0.0, max_tokens=100, stop_ids=ends),
        guide=Grammars(TOKENS).guide(WORK),
    )
    with torch.inference_mode():
        (answer,) = cascade.answers([request])
    text = TOKENS.decode(answer.ids)
    assert answer.finish == "stop"
    jsonschema.validate(json.loads(text), WORK)
    assert json.loads(text)["kind"] == "bridge"
    assert answer.summary.helper_tokens > 0
    assert answer.summary.calls == answer.summary.decisions
    assert answer.summary.failed_calls >= answer.summary.calls - answer.summary.helper_tokens > 0
