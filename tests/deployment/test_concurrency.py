"""Two hundred clients at once: each gets the answer that it would have got alone."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from components.model.bundle import Bundle
from tests.deployment.conftest import SENTENCES, Fact
from tests.deployment.process import drained, started, url_of

CLIENTS = 200


@pytest.fixture(scope="module")
def client(asking: Bundle) -> Iterator[httpx.Client]:
    """Of a cascade with places for all clients."""
    options = ("--port", "0", "--max-concurrent-requests", "16", "--max-queued-requests", str(CLIENTS))
    limits = httpx.Limits(max_connections=CLIENTS)
    with started(asking.folder, *options) as process:
        drained(process)
        with httpx.Client(base_url=url_of(process), timeout=120.0, trust_env=False, limits=limits) as client:
            yield client


def _request(number: int, fact: Fact) -> dict[str, Any]:
    """No two are alike: text, length, sampling, calls, whole or streamed."""
    return {
        "prompt": f"{number}. {SENTENCES[number % len(SENTENCES)][: 20 + number]} {fact.prompt}",
        "max_tokens": 6 + number % 7,
        "temperature": 0.8 if number % 3 == 0 else 0,
        "seed": number,
        "call_budget": (0.0, 0.5, 1.0)[number % 3],
        "stream": number % 2 == 0,
    }


def _answer(client: httpx.Client, body: dict[str, Any]) -> tuple[str, Any]:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        (choice,) = answer.json()["choices"]
        return choice["text"], choice["authors"]
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines]
    return "".join(choice["text"] for choice in choices), choices[-1]["authors"]


@pytest.mark.slow
def test_two_hundred_answers_at_once_are_those_of_one_after_another(client: httpx.Client, fact: Fact) -> None:
    bodies = [_request(number, fact) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as threads:
        together = list(threads.map(lambda body: _answer(client, body), bodies))
    alone = [_answer(client, body) for body in bodies]
    assert together == alone
    assert len({text for text, _ in alone}) > CLIENTS // 2, "the answers tell the clients apart"
