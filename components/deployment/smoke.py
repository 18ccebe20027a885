"""The smoke test: start the real server process on a free port, ask it a question, stop it.

It is asked once for a complete answer and once for a stream, which must agree. A cascade is asked without its helper
first, which depends on no third party, and then with it: the usage must add up, and at least one call must succeed.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from components.core.atomic import write_json
from components.core.errors import InputError, ServiceError
from components.core.parent import FOLLOW_PARENT
from components.core.run import Run
from components.deployment.artifact import SmokeAnswer
from components.deployment.config import API_KEY, SmokeConfig
from components.evaluation.artifacts import Scores
from components.model.bundle import Bundle

_LOG_TAIL_LINES = 20
_POLL_SECONDS = 0.1
_STOP_SECONDS = 15.0

Reply = tuple[str, dict[str, Any]]


def stage(run: Run, config: SmokeConfig, *, bundle: Bundle, assessment: Scores | None = None) -> SmokeAnswer:
    """Ask the bundle behind the real server, and keep what came back.

    Without ``config.prompt`` the question is taken from the answers and samples of ``assessment``. Raises
    ``InputError`` if there is none, and ``ServiceError`` with the end of the server's log if it does not start, answer,
    or agree with itself, or if its helper fails whenever it is called.
    """
    config = config if config.prompt else config.model_copy(update={"prompt": _known_prompt(assessment)})
    log = run.folder / SmokeAnswer.SERVER_LOG
    start = time.perf_counter()
    run.report(0.0, "starting the server")
    options = ["--name", bundle.name, "--threads", str(config.threads)]
    with server(bundle.folder, log, config.timeout_seconds, options) as url:
        ready = time.perf_counter()
        run.report(0.5, f"asking: {config.prompt}")
        replies = _replies(url, config, bundle, log)
    answer, usage, calls = _checked(replies, log)
    run.report(1.0, f"answered with {calls} call(s)" if replies.helped is not None else "answered")
    result = {"prompt": config.prompt, "answer": answer, "model": bundle.name, "calls": calls}
    write_json(run.folder / SmokeAnswer.ANSWER, {**result, "usage": usage})
    metrics = {
        "start_seconds": ready - start,
        "answer_seconds": replies.asked - ready,
        "completion_tokens": float(usage["completion_tokens"]),
        "calls": float(calls),
    }
    rows = [("asked the served model", config.prompt), ("it answered", answer)]
    return run.seal(metrics, result, rows, view=SmokeAnswer)


class _Replies(NamedTuple):
    """What the server said, and when the first reply was there."""

    plain: Reply
    asked: float
    streamed: str
    helped: Reply | None
    """With the helper, if there is one; the others are without."""


def _replies(url: str, cfg: SmokeConfig, bundle: Bundle, log: Path) -> _Replies:
    alone = {"call_budget": 0} if bundle.asks else {}
    try:
        with httpx.Client(base_url=url, timeout=cfg.timeout_seconds, trust_env=False) as client:
            plain = _ask(client, _body(cfg, bundle.name, **alone))
            asked = time.perf_counter()
            streamed = _ask_streaming(client, _body(cfg, bundle.name, **alone))
            helped = _ask(client, _body(cfg, bundle.name)) if bundle.asks else None
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise ServiceError(f"the server did not answer as it should: {error!r}\n{_tail(log)}") from error
    return _Replies(plain, asked, streamed, helped)


def _checked(replies: _Replies, log: Path) -> tuple[str, dict[str, Any], int]:
    """The answer, its usage and its calls; raises ``ServiceError`` where the replies contradict each other."""
    answer, usage = replies.plain
    if replies.streamed != answer:
        raise ServiceError(
            f"the stream says {replies.streamed!r}, the plain answer {answer!r}; they must agree\n{_tail(log)}"
        )
    if replies.helped is None:
        return answer, usage, 0
    answer, usage = replies.helped
    if fault := _usage_fault(usage):
        raise ServiceError(f"the cascade answered {answer!r}, but {fault}: {usage}\n{_tail(log)}")
    return answer, usage, int(usage["completion_tokens_details"]["calls"])


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


def _known_prompt(assessment: Scores | None) -> str:
    """A question that the model answered right, or else the start of a held-out text."""
    if assessment is not None:
        right = [answer.prompt for answer in assessment.answers() if answer.correct and answer.prompt]
        if prompts := right or [sample.prompt for sample in assessment.samples() if sample.prompt]:
            return prompts[0]
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


def _body(cfg: SmokeConfig, name: str, **more: object) -> dict[str, object]:
    return {"model": name, "prompt": cfg.prompt, "max_tokens": cfg.max_tokens, "temperature": 0, **more}


def _ask(client: httpx.Client, question: dict[str, object]) -> Reply:
    answer = client.post("/v1/completions", json=question)
    if not answer.is_success:
        raise ValueError(f"HTTP {answer.status_code}: {answer.text}")
    body = answer.json()
    return str(body["choices"][0]["text"]), dict(body["usage"])


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
