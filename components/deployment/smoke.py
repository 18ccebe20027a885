"""The smoke test: start the real server process on a free port, ask it a question, stop it.

It is asked once for a complete answer and once for a stream, which must agree. A cascade is asked without its helper
first, which depends on no third party, and then with it: the usage must add up, and at least one call must succeed. If
the question was not given, it is one at which the model asks, so that people see what the helper is there for.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from components.cascade.authors import AuthorSpan
from components.core.atomic import write_json
from components.core.errors import InputError, ServiceError
from components.core.parent import FOLLOW_PARENT
from components.core.run import Run
from components.data.prepared import PreparedData
from components.deployment.artifact import SmokeAnswer
from components.deployment.config import API_KEY, SmokeConfig
from components.deployment.showcase import asked_and_answered, marked, prompts_of, truth
from components.evaluation.artifacts import Scores
from components.model.bundle import Bundle

_LOG_TAIL_LINES = 20
_POLL_SECONDS = 0.1
_STOP_SECONDS = 15.0
_TOGETHER = 8  # prompts of one request, as many as the server decodes together
_MOST_PROMPTS = 64  # that are tried


class Reply(NamedTuple):
    """One answer of the server."""

    text: str
    finished: bool
    """Whether the model ended it, not the limit."""
    authors: list[AuthorSpan]
    """Who wrote what; empty without a helper."""
    usage: dict[str, Any]
    helper: str
    """Name of the helper; empty without one."""


def stage(
    run: Run,
    config: SmokeConfig,
    *,
    bundle: Bundle,
    prepared: PreparedData | None = None,
    assessment: Scores | None = None,
) -> SmokeAnswer:
    """Ask the bundle behind the real server, and keep what came back.

    Without ``config.prompt`` the question is taken from the answers and samples of ``assessment``. The facts of
    ``prepared``, if it has any, say whether the answer is true. Raises ``InputError`` if there is no question, and
    ``ServiceError`` with the end of the server's log if it does not start, answer, or agree with itself, or if its
    helper fails whenever it is called.
    """
    prompts = [config.prompt] if config.prompt else _known_prompts(assessment, bundle.asks)
    log = run.folder / SmokeAnswer.SERVER_LOG
    start = time.perf_counter()
    run.report(0.0, "starting the server")
    options = ["--name", bundle.name, "--threads", str(config.threads)]
    with server(bundle.folder, log, config.timeout_seconds, options) as url:
        ready = time.perf_counter()
        run.report(0.5, "asking")
        replies = _replies(url, config, bundle, prompts, log)
    reply = _checked(replies, log)
    calls = int(reply.usage["completion_tokens_details"]["calls"]) if reply.helper else 0
    run.report(1.0, f"answered with {calls} call(s)" if reply.helper else "answered")
    result = {"prompt": replies.prompt, "answer": reply.text, "model": bundle.name, "calls": calls}
    authors = [span._asdict() for span in reply.authors]
    write_json(run.folder / SmokeAnswer.ANSWER, {**result, "authors": authors, "usage": reply.usage})
    metrics = {
        "start_seconds": ready - start,
        "answer_seconds": replies.seconds,
        "completion_tokens": float(reply.usage["completion_tokens"]),
        "calls": float(calls),
    }
    return run.seal(metrics, result, _rows(replies.prompt, reply, len(prompts), prepared), view=SmokeAnswer)


def _rows(prompt: str, reply: Reply, prompts: int, prepared: PreparedData | None) -> list[tuple[str, str]]:
    """What people see: question and answer, who wrote what, and whether it is true."""
    rows = [("asked the served model", prompt), ("it answered", marked(reply.authors) or reply.text.strip())]
    if asked_and_answered(reply.authors):
        details = reply.usage["completion_tokens_details"]
        share = f"{details['helper_tokens']} of {reply.usage['completion_tokens']} tokens, {details['calls']} call(s)"
        rows.append((f"in {''.join(SmokeAnswer.MARKS)}", f"words of its helper ({reply.helper}): {share}"))
    elif reply.helper:
        tried = "this prompt" if prompts == 1 else f"none of {min(prompts, _MOST_PROMPTS)} prompts"
        rows.append(("its helper", f"wrote nothing: {tried} made the model ask and get an answer"))
    facts = prepared.fact_table if prepared is not None else None
    return [*rows, ("is it true", truth(prompt, reply.text, reply.finished, facts))]


class _Replies(NamedTuple):
    """What the server said to ``prompt``."""

    prompt: str
    plain: Reply
    seconds: float
    """How long this reply took."""
    streamed: str
    helped: Reply | None
    """With the helper, if there is one; the others are without."""


def _replies(url: str, cfg: SmokeConfig, bundle: Bundle, prompts: Sequence[str], log: Path) -> _Replies:
    alone = {"call_budget": 0} if bundle.asks else {}
    try:
        with httpx.Client(base_url=url, timeout=cfg.timeout_seconds, trust_env=False) as client:
            prompt = _asking(client, cfg, bundle.name, prompts) if bundle.asks and len(prompts) > 1 else prompts[0]
            began = time.perf_counter()
            (plain,) = _ask(client, _body(cfg, bundle.name, prompt, **alone))
            seconds = time.perf_counter() - began
            streamed = _ask_streaming(client, _body(cfg, bundle.name, prompt, **alone))
            helped = _ask(client, _body(cfg, bundle.name, prompt))[0] if bundle.asks else None
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise ServiceError(f"the server did not answer as it should: {error!r}\n{_tail(log)}") from error
    return _Replies(prompt, plain, seconds, streamed, helped)


def _asking(client: httpx.Client, cfg: SmokeConfig, name: str, prompts: Sequence[str]) -> str:
    """The first of ``prompts`` that the helper goes on with, else the first in whose answer it writes anything.

    If there is none either, the first of all.
    """
    helped = None
    for begin in range(0, min(len(prompts), _MOST_PROMPTS), _TOGETHER):
        together = list(prompts[begin : begin + _TOGETHER])
        for prompt, reply in zip(together, _ask(client, _body(cfg, name, together)), strict=True):
            if asked_and_answered(reply.authors[:1]):
                return prompt
            if helped is None and asked_and_answered(reply.authors):
                helped = prompt
    return helped or prompts[0]


def _checked(replies: _Replies, log: Path) -> Reply:
    """The answer to show; raises ``ServiceError`` where the replies contradict each other."""
    if (whole := replies.plain.text) != replies.streamed:
        raise ServiceError(
            f"the stream says {replies.streamed!r}, the plain answer {whole!r}; they must agree\n{_tail(log)}"
        )
    if replies.helped is None:
        return replies.plain
    if fault := _usage_fault(replies.helped.usage):
        usage = replies.helped.usage
        raise ServiceError(f"the cascade answered {replies.helped.text!r}, but {fault}: {usage}\n{_tail(log)}")
    return replies.helped


def _usage_fault(usage: dict[str, Any]) -> str | None:
    """What is wrong with the counts of a cascade's answer, in words."""
    details = usage["completion_tokens_details"]
    if details["small_tokens"] + details["helper_tokens"] != usage["completion_tokens"]:
        return "the tokens of both are not those of the answer"
    if details["calls"] > details["decisions"]:
        return "it called more often than it decided"
    if details["calls"] and details["failed_calls"] == details["calls"]:
        return "every call to its helper failed"
    return None


def _known_prompts(assessment: Scores | None, asks: bool) -> list[str]:
    if assessment is not None and (prompts := prompts_of(assessment, asks)):
        return prompts
    raise InputError("the smoke test has nothing to ask: give it a question with release.smoke.prompt='...'")


@contextmanager
def server(folder: Path, log: Path, timeout_seconds: float, options: list[str]) -> Iterator[str]:
    """Run the server for the bundle in ``folder`` on a free loopback port; yield its URL once it is healthy.

    Its output goes to ``log``. Raises ``ServiceError`` with the end of that log if it ends early or takes too long.
    """
    command = [
        sys.executable,
        "-m",
        "components.deployment.server",
        str(folder),
        "--port",
        "0",
        FOLLOW_PARENT,
        *options,
    ]
    environment = {name: value for name, value in os.environ.items() if name != API_KEY}  # the smoke test sends no key
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.PIPE
        )
    try:
        yield _healthy(process, log, time.monotonic() + timeout_seconds, timeout_seconds)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _healthy(process: subprocess.Popen[bytes], log: Path, deadline: float, timeout_seconds: float) -> str:
    """Wait for the line that names the address, then for ``/health`` there."""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceError(
                f"the server ended with exit code {process.returncode} before it was ready\n{_tail(log)}"
            )
        if match := re.search(r"^serving .* on (http://\S+)$", log.read_text(errors="replace"), re.MULTILINE):
            try:
                if httpx.get(f"{match[1]}/health", timeout=_POLL_SECONDS * 10, trust_env=False).is_success:
                    return match[1]
            except httpx.HTTPError:
                pass  # listening, but not answering yet
        time.sleep(_POLL_SECONDS)
    raise ServiceError(f"the server was not ready within {timeout_seconds:g} seconds\n{_tail(log)}")


def _body(cfg: SmokeConfig, name: str, prompt: str | list[str], **more: object) -> dict[str, object]:
    return {"model": name, "prompt": prompt, "max_tokens": cfg.max_tokens, "temperature": 0, **more}


def _ask(client: httpx.Client, question: dict[str, object]) -> list[Reply]:
    """The answers to one request, one for each of its prompts; the usage is that of all together."""
    answer = client.post("/v1/completions", json=question)
    if not answer.is_success:
        raise ValueError(f"HTTP {answer.status_code}: {answer.text}")
    body = answer.json()
    helper = str(body["cascade"]["helper"]) if "cascade" in body else ""
    return [
        Reply(
            str(choice["text"]),
            choice["finish_reason"] == "stop",
            [AuthorSpan(**span) for span in choice.get("authors", [])],
            dict(body["usage"]),
            helper,
        )
        for choice in body["choices"]
    ]


def _ask_streaming(client: httpx.Client, question: dict[str, object]) -> str:
    """The streamed answer put together; ``ValueError`` if the stream does not end with ``[DONE]``."""
    with client.stream("POST", "/v1/completions", json={**question, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    if not answer.is_success or lines[-1:] != ["[DONE]"]:
        raise ValueError(f"HTTP {answer.status_code}; the stream ends with {lines[-1:]}, not with [DONE]")
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return "\n".join(["server log:", *lines]) if lines else "the server logged nothing"
