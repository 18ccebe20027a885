"""Served as a cascade: who wrote what, what it cost, how often it may ask, and what happens when nobody answers."""

import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from openai import OpenAI

from components.core.errors import InputError, LacewingError, ServiceError
from components.deployment.decoding import Delta, Request, ScoredToken
from components.deployment.engine import Engine, Generation
from components.deployment.server import main
from components.deployment.smoke import server as server_process
from components.model.bundle import Bundle
from components.model.generate import Sampling, generate
from tests.deployment.conftest import Delegated, Fact, counts

PATIENCE_SECONDS = 60.0


# --- the fact table, over HTTP


@pytest.fixture(scope="module")
def cascade(asking: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """HTTP client of the real server process, whose model asks the fact table at half of its decisions."""
    log: Path = tmp_path_factory.mktemp("server") / "server.log"
    with (
        server_process(asking.folder, log, 120.0, ["--name", "asking", "--threads", "1"]) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def alone(asking: Bundle) -> Iterator[Engine]:
    """The same bundle without its helper."""
    with Engine(asking.folder, threads=1, call_budget=0.0) as engine:
        yield engine


def _complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"temperature": 0, "max_tokens": 12, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _chunks(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with client.stream("POST", path, json={"temperature": 0, **body, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_answer_states_the_fact_and_says_who_wrote_it(cascade: httpx.Client, fact: Fact) -> None:
    body = _complete(cascade, prompt=fact.prompt, logprobs=1)
    (choice,) = body["choices"]
    assert choice["text"].startswith(fact.value)
    assert body["cascade"] == {"degraded": False, "helper": "fact table"}
    usage, scores = body["usage"], choice["logprobs"]
    details = usage["completion_tokens_details"]
    assert details["small_tokens"] + details["helper_tokens"] == usage["completion_tokens"] == 12
    assert 1 <= details["calls"] <= 6, "half of 12 tokens"
    assert details["failed_calls"] == 0
    assert scores["authors"].count("helper") == details["helper_tokens"]
    assert sum(logprob is not None for logprob in scores["token_logprobs"]) == details["decisions"]
    written = "".join(
        token for token, author in zip(scores["tokens"], scores["authors"], strict=True) if author == "helper"
    )
    assert written.startswith(fact.value)
    assert len({len(values) for values in scores.values()}) == 1
    assert all(0.0 <= probability <= 1.0 for probability in scores["call_probabilities"])
    assert scores["seconds"][0] > 0.0
    assert "<CALL>" not in choice["text"]
    assert "<CALL>" not in scores["tokens"]


@pytest.mark.parametrize("limit", [{"call_budget": 0}, {"max_calls": 0}, {"call_budget": 0.0, "temperature": 1.3}])
def test_without_calls_it_is_token_for_token_the_plain_model(
    cascade: httpx.Client, alone: Engine, fact: Fact, limit: dict[str, float]
) -> None:
    body = _complete(cascade, prompt=fact.prompt, logprobs=0, max_tokens=30, seed=5, **limit)
    sampling = Sampling(
        temperature=limit.get("temperature", 0.0),
        max_tokens=30,
        seed=5,
        suppress_ids=frozenset({alone.tokenizer.call_id}),
    )
    plain = [step.token for step in generate(alone.model, alone.tokenizer.encode(fact.prompt), sampling)]
    asked = _ask(alone, Request(alone.tokenizer.encode(fact.prompt), 30, sampling.temperature, seed=5, logprobs=0))
    assert [token.id for token in asked.tokens] == plain
    assert body["choices"][0]["text"] == asked.text
    details = body["usage"]["completion_tokens_details"]
    assert (details["calls"], details["helper_tokens"], details["small_tokens"]) == (0, 0, 30)
    assert set(body["choices"][0]["logprobs"]["authors"]) == {"small"}


def test_a_request_sets_its_own_limits(cascade: httpx.Client, fact: Fact) -> None:
    def calls(**limits: float) -> int:
        usage = _complete(cascade, prompt=fact.prompt, max_tokens=20, **limits)["usage"]
        return int(usage["completion_tokens_details"]["calls"])

    assert calls(max_calls=1) == 1
    assert calls(call_budget=0.1) <= 2
    assert calls(call_budget=1.0) > calls(call_budget=0.5) > calls(call_budget=0.1) > 0


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_stream_says_the_same_as_the_whole_answer(cascade: httpx.Client, fact: Fact, temperature: float) -> None:
    body = {"prompt": fact.prompt, "max_tokens": 20, "logprobs": 2, "temperature": temperature, "seed": 3, "echo": True}
    whole = _complete(cascade, **body)
    *chunks, usage = _chunks(cascade, "/v1/completions", {**body, "stream_options": {"include_usage": True}})
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    for name in ("tokens", "token_logprobs", "text_offset", "authors", "call_probabilities"):
        together = [value for choice in choices for value in choice["logprobs"][name]]
        expected = whole["choices"][0]["logprobs"][name]
        assert together == (expected if name in ("tokens", "authors") else pytest.approx(expected, abs=1e-3))
    assert [("cascade" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["cascade"] == whole["cascade"]
    assert counts(usage["usage"]) == counts(whole["usage"])
    assert whole["choices"][0]["text"].startswith(fact.prompt + fact.value)


def test_a_chat_answer_names_the_author_of_every_token(cascade: httpx.Client, fact: Fact) -> None:
    body = {
        "messages": [{"role": "user", "content": fact.prompt}],
        "max_tokens": 10,
        "logprobs": True,
        "temperature": 0,
    }
    whole = cascade.post("/v1/chat/completions", json=body).json()
    scores = whole["choices"][0]["logprobs"]["content"]
    details = whole["usage"]["completion_tokens_details"]
    assert len(scores) == whole["usage"]["completion_tokens"]
    assert all({"author", "call_probability", "seconds"} < set(score) for score in scores)
    assert sum(score["author"] == "helper" for score in scores) == details["helper_tokens"]
    *_, last = _chunks(cascade, "/v1/chat/completions", body)
    assert last["cascade"] == whole["cascade"]


def _check_authors(authors: list[dict[str, Any]], text: str, fact: Fact) -> None:
    """The helper's word is marked as the helper's, and the spans make up the answer."""
    assert "".join(span["text"] for span in authors) == text
    assert all(one["end"] == other["start"] for one, other in pairwise(authors))
    assert all(span["end"] - span["start"] == len(span["text"]) for span in authors)
    assert authors[0]["author"] == "helper"
    assert authors[0]["text"].startswith(fact.value)


def test_an_answer_says_who_wrote_which_characters_without_being_asked(cascade: httpx.Client, fact: Fact) -> None:
    (choice,) = _complete(cascade, prompt=fact.prompt)["choices"]
    assert choice["logprobs"] is None
    _check_authors(choice["authors"], choice["text"], fact)
    *chunks, last = _chunks(cascade, "/v1/completions", {"prompt": fact.prompt, "max_tokens": 12})
    assert last["choices"][0]["authors"] == choice["authors"]
    assert all("authors" not in chunk["choices"][0] for chunk in chunks)


def test_the_authors_of_an_echoed_prompt_are_left_out(cascade: httpx.Client, fact: Fact) -> None:
    (choice,) = _complete(cascade, prompt=fact.prompt, echo=True)["choices"]
    start = choice["authors"][0]["start"]
    assert choice["text"][:start] == fact.prompt
    _check_authors(choice["authors"], choice["text"][start:], fact)


def test_a_chat_answer_says_who_wrote_which_characters(cascade: httpx.Client, fact: Fact) -> None:
    body = {"messages": [{"role": "user", "content": fact.prompt}], "max_tokens": 12, "temperature": 0}
    (choice,) = cascade.post("/v1/chat/completions", json=body).json()["choices"]
    assert "".join(span["text"] for span in choice["authors"]) == choice["message"]["content"]
    assert "helper" in {span["author"] for span in choice["authors"]}
    *chunks, last = _chunks(cascade, "/v1/chat/completions", body)
    assert last["choices"][0]["authors"] == choice["authors"]
    assert all("authors" not in chunk["choices"][0] for chunk in chunks)


def test_openais_client_reads_answers_with_authors(cascade: httpx.Client, fact: Fact) -> None:
    with OpenAI(base_url=f"{cascade.base_url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="asking", prompt=fact.prompt, max_tokens=12, temperature=0)
        stream = client.completions.create(
            model="asking", prompt=fact.prompt, max_tokens=12, temperature=0, stream=True
        )
        chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(chunk.text for chunk in chunks) == answer.choices[0].text
    assert answer.choices[0].model_extra is not None
    assert chunks[-1].model_extra == answer.choices[0].model_extra
    _check_authors(answer.choices[0].model_extra["authors"], answer.choices[0].text, fact)


def test_a_stop_string_ends_the_answer_within_a_reply(cascade: httpx.Client, fact: Fact) -> None:
    body = _complete(cascade, prompt=fact.prompt, stop=fact.value[3:6], logprobs=0)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == (fact.value[:3], "stop")
    assert choice["authors"] == [{"author": "helper", "start": 0, "end": 3, "text": fact.value[:3]}]
    details = body["usage"]["completion_tokens_details"]
    assert details["small_tokens"] + details["helper_tokens"] == body["usage"]["completion_tokens"]


def test_several_prompts_share_one_usage(cascade: httpx.Client, fact: Fact) -> None:
    prompts = [fact.prompt, fact.prompt[:9], fact.prompt]
    each = [_complete(cascade, prompt=prompt) for prompt in prompts]
    together = _complete(cascade, prompt=prompts)
    assert [choice["text"] for choice in together["choices"]] == [body["choices"][0]["text"] for body in each]
    for name, count in together["usage"]["completion_tokens_details"].items():
        assert count == sum(body["usage"]["completion_tokens_details"][name] for body in each)


def test_metrics_count_calls_and_their_time(cascade: httpx.Client, fact: Fact) -> None:
    def metrics() -> dict[str, float]:
        lines = cascade.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    before = metrics()
    details = _complete(cascade, prompt=fact.prompt)["usage"]["completion_tokens_details"]
    after = metrics()
    for name, expected in (
        ("lacewing_calls_total", details["calls"]),
        ("lacewing_failed_calls_total", 0),
        ("lacewing_discarded_calls_total", 0),
        ("lacewing_empty_calls_total", details["empty_calls"]),
        ("lacewing_helper_tokens_total", details["helper_tokens"]),
        ("lacewing_decisions_total", details["decisions"]),
        ("lacewing_handover_seconds_count", details["calls"]),
        ("lacewing_degraded_answers_total", 0),
    ):
        assert after[name] - before[name] == expected, name
    assert after["lacewing_handover_seconds_sum"] > before["lacewing_handover_seconds_sum"]


def test_the_model_card_says_whom_it_asks(cascade: httpx.Client) -> None:
    card = cascade.get("/v1/models").json()["data"][0]
    assert (card["helper"], card["call_budget"]) == ("fact table", 0.5)


# --- a helper that is slow, down or talking nonsense


class Neighbour(ThreadingHTTPServer):
    """An OpenAI-compatible server on a real socket that behaves as it is told."""

    daemon_threads = True
    mood: Literal["answer", "hang", "nonsense", "error"] = "answer"

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _NeighbourHandler)
        self.leaving = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def stop(self) -> None:
        self.leaving.set()
        self.shutdown()
        self.server_close()


class _NeighbourHandler(BaseHTTPRequestHandler):
    server: Neighbour

    def do_GET(self) -> None:
        self._send({"data": [{"id": "neighbour"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        mood = self.server.mood
        if mood == "hang":
            self.server.leaving.wait(PATIENCE_SECONDS)
            return
        if mood == "error":
            self.send_error(500)
            return
        text = "\x00\x07 <CALL>" if mood == "nonsense" else " Prague"
        self._send({"choices": [{"index": i, "text": text} for i in range(len(prompts))], "usage": {}})

    def _send(self, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """Not on stderr."""


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    server = Neighbour()
    yield server
    server.stop()


TIMEOUT_SECONDS = 0.25
FAILURES_BEFORE_REST = 2


def _asking(delegated: Delegated, folder: Path, url: str, **helper: object) -> Path:
    """A bundle whose model asks the server at ``url``."""
    settings = {
        "kind": "endpoint",
        "url": url,
        "timeout_seconds": TIMEOUT_SECONDS,
        "failures_before_rest": FAILURES_BEFORE_REST,
        **helper,
    }
    return delegated.bundle(folder, budget=0.5, helper=settings).folder


def _whole(items: "queue.SimpleQueue[Delta | LacewingError]") -> Delta:
    text, tokens = "", list[ScoredToken]()
    while True:
        item = items.get(timeout=PATIENCE_SECONDS)
        if isinstance(item, LacewingError):
            raise item
        text += item.text
        tokens += item.tokens
        if item.finish is not None:
            return Delta(text, tuple(tokens), item.finish, item.degraded)


def _begin(engine: Engine, request: Request) -> tuple[Generation, "queue.SimpleQueue[Delta | LacewingError]"]:
    items: queue.SimpleQueue[Delta | LacewingError] = queue.SimpleQueue()
    (generation,) = engine.submit([(request, items.put)])
    return generation, items


def _ask(engine: Engine, request: Request) -> Delta:
    return _whole(_begin(engine, request)[1])


def _request(engine: Engine, max_tokens: int = 20, **settings: Any) -> Request:
    return Request(engine.tokenizer.encode("The capital is"), max_tokens, 0.0, logprobs=0, **settings)


def test_a_helper_that_answers_is_heard(delegated: Delegated, neighbour: Neighbour, tmp_path: Path) -> None:
    with Engine(_asking(delegated, tmp_path, neighbour.url), threads=1) as engine:
        assert engine.helper is not None
        assert engine.helper.name == f"endpoint {neighbour.url} neighbour"
        answer = _ask(engine, _request(engine))
    assert answer.text.startswith(" Prague")
    assert not answer.degraded


def test_several_questions_at_once_change_no_answer(asking: Bundle, fact: Fact) -> None:
    """A stop string may lie in a reply, in what was written ahead of one, or nowhere."""
    with Engine(asking.folder, threads=1) as waiting, Engine(asking.folder, threads=1, questions_at_once=4) as ahead:
        greedy = Request(waiting.tokenizer.encode(fact.prompt), 30, 0.0, logprobs=0)
        for settings in ({}, {"temperature": 1.0, "seed": 3}, {"stops": (fact.value[3:6],)}, {"stops": ("e",)}):
            request = replace(greedy, **settings)  # type: ignore[arg-type]
            expected, found = _ask(waiting, request), _ask(ahead, request)
            assert (found.text, found.finish, found.authors) == (expected.text, expected.finish, expected.authors)


@pytest.mark.parametrize("mood", ["hang", "nonsense", "error", "down"])
def test_a_helper_that_fails_in_mid_answer_costs_nothing_but_its_help(
    delegated: Delegated, neighbour: Neighbour, tmp_path: Path, mood: Any
) -> None:
    folder = _asking(delegated, tmp_path, neighbour.url)
    with Engine(folder, threads=1) as engine, Engine(folder, threads=1, call_budget=0.0) as alone:
        generation, items = _begin(engine, _request(engine, 30))
        first = items.get(timeout=PATIENCE_SECONDS)
        if mood == "down":
            neighbour.stop()
        else:
            neighbour.mood = mood
        began = time.perf_counter()
        assert isinstance(first, Delta)
        rest = _whole(items)
        seconds = time.perf_counter() - began
        # Ever so many failures, then the helper rests and calls cost nothing.
        assert seconds < (FAILURES_BEFORE_REST + 2) * TIMEOUT_SECONDS + 1.0
        assert rest.degraded
        assert generation.summary.failed_calls >= FAILURES_BEFORE_REST
        assert generation.summary.small_tokens + generation.summary.helper_tokens == 30
        assert len(generation.helper_calls) == generation.summary.calls
        # Where the help failed, the small model's own token stands.
        tokens = [*first.tokens, *rest.tokens]
        last = max(at for at, token in enumerate(tokens) if token.origin and token.origin.author == "helper")
        context = [*_request(engine).prompt, *(token.id for token in tokens[: last + 1])]
        own = _ask(alone, Request(context, len(tokens) - last - 1, 0.0, logprobs=0))
        assert [token.id for token in tokens[last + 1 :]] == [token.id for token in own.tokens]


def test_while_one_waits_for_the_helper_the_others_go_on(
    delegated: Delegated, neighbour: Neighbour, tmp_path: Path
) -> None:
    with Engine(_asking(delegated, tmp_path, neighbour.url, timeout_seconds=30.0), threads=1) as engine:
        neighbour.mood = "hang"
        waiting, items = _begin(engine, _request(engine))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting.summary.calls == 0:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert _ask(engine, _request(engine, 30, max_calls=0)).finish == "length"
        assert items.empty()
        waiting.cancel()
        assert engine.active == 0
        began = time.monotonic()
    assert time.monotonic() - began < 5.0, "closing does not wait for a helper that hangs"


def test_a_server_does_not_start_without_the_helper_that_it_needs(
    delegated: Delegated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _asking(delegated, tmp_path, "http://127.0.0.1:9/v1")
    assert main([str(folder), "--port", "0", "--threads", "1"]) == ServiceError.exit_code
    said = capsys.readouterr().err
    assert "the helper that this model asks is not there" in said
    for advice in ("127.0.0.1:9/v1 cannot be reached", "start it", "call_budget=0", "helper_required=false"):
        assert advice in said


def test_a_server_told_not_to_ask_needs_no_helper(delegated: Delegated, tmp_path: Path) -> None:
    folder = _asking(delegated, tmp_path, "http://127.0.0.1:9/v1")
    with Engine(folder, threads=1, call_budget=0.0) as engine:
        assert engine.helper is None
        assert not _ask(engine, _request(engine)).degraded


def test_a_plain_model_has_no_call_budget(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"call_budget=0\.2, but the bundle in .* is a plain model"):
        Engine(bundle.folder, threads=1, call_budget=0.2)


def test_a_helper_that_comes_later_is_taken_up(delegated: Delegated, neighbour: Neighbour, tmp_path: Path) -> None:
    port, url = neighbour.server_port, neighbour.url
    neighbour.stop()
    folder = _asking(delegated, tmp_path, url, rest_seconds=0.05)
    with Engine(folder, threads=1, helper_required=False) as engine:
        assert engine.helper is not None
        first = _ask(engine, _request(engine))
        assert first.degraded
        assert {token.origin.author for token in first.tokens if token.origin} == {"small"}
        arrived = Neighbour(port)
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (answer := _ask(engine, _request(engine))).degraded:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            arrived.stop()
    assert answer.text.startswith(" Prague")
