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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from components.core.artifact import Artifact
from components.core.atomic import write_json
from components.core.errors import InputError, ServiceError
from components.core.run import Run
from components.deployment.config import API_KEY, SmokeConfig

SERVER_LOG = "server.log"
_LOG_TAIL_LINES = 20
_POLL_SECONDS = 0.1
_STOP_SECONDS = 15.0


def stage(run: Run, cfg: SmokeConfig, bundle: Artifact, *assessed: Artifact) -> Artifact:
    """Ask the bundle behind the real server; ``answer.json`` holds what came back.

    Without ``cfg.prompt`` the question is taken from the answers and samples of the ``assessed`` model. Raises
    ``InputError`` if there is none, and ``ServiceError`` with the end of the server's log if it does not start, answer,
    or agree with itself, or if its helper fails whenever it is called.
    """
    cfg = cfg if cfg.prompt else cfg.model_copy(update={"prompt": _known_prompt(assessed)})
    log = run.folder / SERVER_LOG
    name = str(bundle.details["name"])
    asks = (bundle.details.get("delegation") or {}).get("helper", "none") != "none"
    alone = {"call_budget": 0} if asks else {}
    start = time.perf_counter()
    run.report(0.0, "starting the server")
    with server(bundle.folder, log, cfg.timeout_seconds, ["--name", name, "--threads", str(cfg.threads)]) as url:
        ready = time.perf_counter()
        run.report(0.5, f"asking: {cfg.prompt}")
        try:
            with httpx.Client(base_url=url, timeout=cfg.timeout_seconds, trust_env=False) as client:
                answer, usage = _ask(client, _body(cfg, name, **alone))
                asked = time.perf_counter()
                streamed = _ask_streaming(client, _body(cfg, name, **alone))
                helped = _ask(client, _body(cfg, name)) if asks else None
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise ServiceError(f"the server did not answer as it should: {error!r}\n{_tail(log)}") from error
    if streamed != answer:
        raise ServiceError(f"the stream says {streamed!r}, the plain answer {answer!r}; they must agree\n{_tail(log)}")
    if helped is not None:
        answer, usage = helped
        if fault := _usage_fault(usage):
            raise ServiceError(f"the cascade answered {answer!r}, but {fault}: {usage}\n{_tail(log)}")
    calls = int(usage["completion_tokens_details"]["calls"]) if helped is not None else 0
    run.report(1.0, f"answered with {calls} call(s)" if helped is not None else "answered")
    result = {"prompt": cfg.prompt, "answer": answer, "model": name, "calls": calls}
    write_json(run.folder / "answer.json", {**result, "usage": usage})
    metrics = {
        "start_seconds": ready - start,
        "answer_seconds": asked - ready,
        "completion_tokens": float(usage["completion_tokens"]),
        "calls": float(calls),
    }
    return run.seal(metrics, result)


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


def _known_prompt(assessed: Sequence[Artifact]) -> str:
    for artifact, name in ((artifact, name) for artifact in assessed for name in ("answers.jsonl", "samples.jsonl")):
        path = artifact.folder / name
        rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        if prompt := next((str(row["prompt"]) for row in rows if row.get("correct", True)), ""):
            return prompt
    raise InputError("the smoke test has nothing to ask: give it a question with release.smoke.prompt='...'")


@contextmanager
def server(folder: Path, log: Path, timeout_seconds: float, options: list[str]) -> Iterator[str]:
    """Run the server for the bundle in ``folder`` on a free loopback port; yield its URL once it is healthy.

    Its output goes to ``log``. Raises ``ServiceError`` with the end of that log if it ends early or takes too long.
    """
    command = [sys.executable, "-m", "components.deployment.server", str(folder), "--port", "0", *options]
    environment = {name: value for name, value in os.environ.items() if name != API_KEY}  # the smoke test sends no key
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
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


def _ask(client: httpx.Client, question: dict[str, object]) -> tuple[str, dict[str, Any]]:
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
