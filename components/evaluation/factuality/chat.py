"""Any OpenAI-compatible server that answers a message: vLLM, llama-server, a service.

One total time-out for a question with all its tries. After several failures in a row the server is asked no more, so
that a run ends although its judge has died; every question without an answer is an error to count, never an answer.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from components.core.errors import ServiceError
from components.evaluation.config import JudgeConfig

API_KEY = "LACEWING_JUDGE_API_KEY"

_MOST_BYTES = 1 << 20
_MESSAGE_CHARACTERS = 200
_PAUSE_SECONDS = 0.2  # before another try, doubled each time
_FAILURES_BEFORE_REST = 10

logger = logging.getLogger(__name__)


class ChatError(ServiceError):
    """No usable answer."""


class Chat:
    """``POST {url}/chat/completions``, temperature 0. Thread-safe."""

    def __init__(self, config: JudgeConfig, api_key: str | None = None) -> None:
        """``api_key``: a bearer token, never written anywhere; ``None`` takes that of the environment, if any."""
        self._config = config
        self._url = config.url.rstrip("/")
        self._key = os.environ.get(API_KEY, "") if api_key is None else api_key
        if httpx.URL(self._url).userinfo:
            raise ChatError(f"judge.url must not hold a user or password; set {API_KEY} instead")
        # Neither proxies nor ~/.netrc: what the environment happens to hold shall not decide where text and key go.
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {}, trust_env=False
        )
        self._in_a_row = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._config.name or self._url

    def ask(self, message: str, max_tokens: int) -> str:
        """The answer; raises ``ChatError`` if none comes."""
        if self._in_a_row >= _FAILURES_BEFORE_REST:
            raise ChatError(f"the judge at {self._url} failed {self._in_a_row} times in a row and is asked no more")
        deadline = time.monotonic() + self._config.timeout_seconds
        pause = _PAUSE_SECONDS
        for attempt in range(1 + self._config.retries):
            try:
                answer = self._answer(message, max_tokens, deadline)
            except ChatError as error:
                if attempt == self._config.retries or time.monotonic() + pause >= deadline:
                    self._note(failed=True)
                    raise error
                time.sleep(pause)
                pause *= 2
            else:
                self._note(failed=False)
                return answer
        raise AssertionError("the last try returns or raises")

    def ask_all(self, messages: Sequence[str], max_tokens: int) -> list[str | ChatError]:
        """An answer or an error for each, several asked at the same time."""

        def answer(message: str) -> str | ChatError:
            try:
                return self.ask(message, max_tokens)
            except ChatError as error:
                return error

        with ThreadPoolExecutor(self._config.parallel) as threads:
            return list(threads.map(answer, messages))

    def check(self) -> None:
        """Ask something now; raises ``ChatError`` with what to do if the server does not answer."""
        self.ask("Say yes.", 4)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _note(self, failed: bool) -> None:
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failed else 0
            if self._in_a_row == _FAILURES_BEFORE_REST:
                logger.warning(
                    "the judge at %s failed %d times in a row and is asked no more", self._url, self._in_a_row
                )

    def _answer(self, message: str, max_tokens: int, deadline: float) -> str:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": message}],
            "max_tokens": max_tokens,
            "temperature": 0.0,
        }
        if self._config.name:
            body["model"] = self._config.name
        try:
            answer = json.loads(self._post(body, deadline))["choices"][0]["message"]["content"]
        except (ValueError, RecursionError, KeyError, IndexError, TypeError) as error:
            raise ChatError(f"the judge at {self._url} answered with no chat completion ({error!r})") from error
        if not isinstance(answer, str):
            raise ChatError(f"the judge at {self._url} answered with a completion that is no text")
        return answer

    def _post(self, body: dict[str, Any], deadline: float) -> bytes:
        content = bytearray()
        left = max(0.01, deadline - time.monotonic())
        try:
            with self._client.stream("POST", f"{self._url}/chat/completions", json=body, timeout=left) as response:
                for part in response.iter_bytes():
                    content += part
                    if len(content) > _MOST_BYTES:
                        raise ChatError(f"the judge at {self._url} sent more than {_MOST_BYTES:,} bytes")
                    if time.monotonic() > deadline:  # the client's own time-out is per read: a trickle never meets it
                        raise ChatError(f"the judge at {self._url} did not answer in time")
        except httpx.TimeoutException as error:
            raise ChatError(f"the judge at {self._url} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ChatError(
                f"the judge at {self._url} cannot be reached ({error or type(error).__name__}): start it, set "
                "facts.factscore.judge.url to where it listens, or take judge.kind=local"
            ) from error
        if not response.is_success:
            said = content.decode("utf-8", "replace")[:_MESSAGE_CHARACTERS]
            if self._key:
                said = said.replace(self._key, "***")
            raise ChatError(
                f"the judge at {self._url} answered {response.status_code} ({said!r}): judge.url is the base, usually "
                f"ending in /v1, of a server with /chat/completions, judge.name a model it serves, {API_KEY} its key"
            )
        return bytes(content)
