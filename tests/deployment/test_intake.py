"""Large requests: refused before they cost anything, while everybody else is answered."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from components.data.special_tokens import END_OF_TEXT
from components.deployment.engine import Engine
from tests.deployment.conftest import SENTENCES, counts

# On a quiet machine both are a few hundredths of a second; tests may share theirs with others.
REFUSAL_SECONDS = 3.0
HEALTH_SECONDS = 2.0
SIZE = 3_900_000
JSON = {"Content-Type": "application/json"}


def _repeated(before: str, item: str, after: str) -> bytes:
    return (before + item * ((SIZE - len(before + after)) // len(item)) + after).encode()


HUGE = {
    "one long word": _repeated('{"prompt": "', "a", '"}'),
    "words": _repeated('{"prompt": "', "word, ", '"}'),
    "token ids": _repeated('{"prompt": [', "7,", "7]}"),
    "short prompts": _repeated('{"prompt": [', '"a",', '"a"]}'),
    "lists": _repeated('{"prompt": [', "[7],", "[7]]}"),
    "brackets": _repeated('{"prompt": ', "[", ""),
    "parameters": _repeated('{"prompt": "a"', ',"b":1', "}"),
    "stops": _repeated('{"prompt": "a", "stop": [', '"b",', '"b"]}'),
}
HUGE_CHAT = {
    "a message": _repeated('{"messages": [{"role": "user", "content": "', "word ", '"}]}'),
    "messages": _repeated('{"messages": [', '{"role": "user", "content": ""},', '{"role": "user", "content": "a"}]}'),
}


def chunks(body: bytes) -> Iterator[bytes]:
    """The body in parts, so that its size is not announced and only its content can be judged."""
    for start in range(0, len(body), 1 << 20):
        yield body[start : start + (1 << 20)]


@pytest.mark.parametrize("name", [*HUGE, *HUGE_CHAT])
def test_a_huge_request_is_refused_at_once_and_health_is_answered_meanwhile(client: httpx.Client, name: str) -> None:
    path, body = ("/v1/completions", HUGE[name]) if name in HUGE else ("/v1/chat/completions", HUGE_CHAT[name])
    slowest, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            slowest[0] = max(slowest[0], _seconds(lambda: client.get("/health").raise_for_status()))

    def ask(_: int) -> float:
        answers: list[httpx.Response] = []
        seconds = _seconds(lambda: answers.append(client.post(path, content=chunks(body), headers=JSON)))
        assert answers[0].status_code == 400, answers[0].text
        assert len(answers[0].text) < 1000
        return seconds

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as threads:
            seconds = list(threads.map(ask, range(4)))
    finally:
        done.set()
        watcher.join()
    assert max(seconds) < REFUSAL_SECONDS
    assert slowest[0] < HEALTH_SECONDS


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_a_body_larger_than_any_answer_is_refused_before_it_is_read(client: httpx.Client, engine: Engine) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=10) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {SIZE}\r\n\r\n".encode())
        answer = ""
        while "}" not in answer and (received := connection.recv(65536)):  # head and body may come apart
            answer += received.decode()
    assert answer.startswith("HTTP/1.1 400")
    assert "the body has 3,900,000 bytes, but this server takes at most" in answer
    assert f"its context is {engine.context_length} tokens" in answer


def test_a_huge_prompt_is_refused_in_words(client: httpx.Client) -> None:
    for name in ("one long word", "token ids"):
        for body in (HUGE[name], chunks(HUGE[name])):
            error = client.post("/v1/completions", content=body, headers=JSON).json()["error"]
            assert error["code"] == "context_length_exceeded"
            assert "shorten the prompt" in error["message"]
    body = b'{"prompt": "a", "stop": ' + b"[" * 30_000
    error = client.post("/v1/completions", content=body, headers=JSON).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_body", None)


def test_the_bound_by_bytes_refuses_no_prompt_that_fits(client: httpx.Client, engine: Engine) -> None:
    longest = max(range(engine.tokenizer.vocab_size), key=lambda id: len(engine.tokenizer.token_bytes(id)))
    word = engine.tokenizer.token_bytes(longest).decode()
    fits = word * (engine.context_length - 2)
    assert len(engine.tokenizer.encode(fits)) < engine.context_length
    answer = client.post("/v1/completions", json={"prompt": fits, "max_tokens": 1})
    assert answer.status_code == 200, answer.text


def test_values_are_counted_outside_of_strings_only(client: httpx.Client) -> None:
    """Commas, brackets and quotes of a text are no values of the body."""
    prompt = '[{,"\\' * 100
    assert client.post("/v1/completions", json={"prompt": [prompt] * 8, "max_tokens": 1}).status_code == 200


# --- the document boundary


def _prompt_tokens(client: httpx.Client, prompt: str) -> int:
    answer = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens"])


def test_the_boundarys_text_at_the_beginning_of_a_prompt_is_the_boundary(client: httpx.Client, engine: Engine) -> None:
    ids = [engine.tokenizer.end_of_text_id, *engine.tokenizer.encode(SENTENCES[0])]
    body = {"max_tokens": 8, "temperature": 0, "logprobs": 1, "echo": True}
    spelled = client.post("/v1/completions", json={**body, "prompt": END_OF_TEXT + SENTENCES[0]}).json()
    given = client.post("/v1/completions", json={**body, "prompt": ids}).json()
    assert spelled["choices"] == given["choices"]
    assert counts(spelled["usage"]) == counts(given["usage"])
    assert spelled["choices"][0]["logprobs"]["tokens"][0] == END_OF_TEXT
    assert _prompt_tokens(client, END_OF_TEXT) == 1


@pytest.mark.parametrize("prompt", ["a" + END_OF_TEXT, " " + END_OF_TEXT, "<|im_start|>user", "<CALL>", "<|pad|>"])
def test_special_tokens_anywhere_else_are_text(client: httpx.Client, engine: Engine, prompt: str) -> None:
    ids = engine.tokenizer.encode(prompt)
    assert not set(ids) & set(engine.tokenizer.special.ids.values())
    assert _prompt_tokens(client, prompt) == len(ids)


def test_only_the_first_boundary_counts(client: httpx.Client, engine: Engine) -> None:
    assert _prompt_tokens(client, END_OF_TEXT * 2) == 1 + len(engine.tokenizer.encode(END_OF_TEXT))


def test_a_chat_message_cannot_spell_the_boundary(client: httpx.Client, engine: Engine) -> None:
    messages = [{"role": "user", "content": END_OF_TEXT}]
    body = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()
    ids = engine.tokenizer.encode_chat(messages)
    assert body["usage"]["prompt_tokens"] == len(ids)
    assert engine.tokenizer.end_of_text_id not in ids


def test_the_evaluation_harness_may_send_texts(client: httpx.Client, engine: Engine) -> None:
    """lm-eval with ``tokenized_requests=False``: an empty context is the boundary's text, and it counts one token."""
    body = {"prompt": END_OF_TEXT + " the lighthouse", "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    scores = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    continuation = engine.tokenizer.encode(" the lighthouse")
    assert len(scores["token_logprobs"]) == 1 + len(continuation) + 1
    assert scores["token_logprobs"][0] is None
    assert all(logprob <= 0 for logprob in scores["token_logprobs"][1:])


# --- memory


def test_huge_requests_do_not_grow_the_server(client: httpx.Client) -> None:
    def megabytes() -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes ")) / 1e6

    for body in HUGE.values():
        client.post("/v1/completions", content=body, headers=JSON)
    before = megabytes()
    for _ in range(3):
        for body in HUGE.values():
            client.post("/v1/completions", content=body, headers=JSON)
    assert megabytes() - before < 100
