"""Any OpenAI-compatible server that answers a message: vLLM, llama-server, a service.

One total time-out for a question with all its tries. After several failures in a row the server is asked no more, so
that a run ends although its judge has died; every question without an answer is an error to count, never an answer.
"""

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tenacity import retry_if_exception_type, wait_exponential

from components.clients.errors import EndpointError, StatusError, UnreachableError
from components.clients.openai import OpenAIClient
from components.clients.resilience import CircuitBreaker, RestingError, retrying
from components.core.errors import ServiceError
from components.evaluation.config import JudgeConfig

API_KEY = "LACEWING_JUDGE_API_KEY"

_PAUSE = wait_exponential(multiplier=0.2)  # before another try, doubled each time
_FAILURES_BEFORE_REST = 10
_REST_SECONDS = 365 * 86_400.0  # longer than any run

logger = logging.getLogger(__name__)


class ChatError(ServiceError):
    """No usable answer."""


class Chat:
    """``POST {url}/chat/completions``, temperature 0. Thread-safe."""

    def __init__(self, config: JudgeConfig, api_key: str | None = None) -> None:
        """``api_key``: a bearer token, never written anywhere; ``None`` takes that of the environment, if any."""
        self._config = config
        self._url = config.url.rstrip("/")
        self._client = OpenAIClient(self._url, os.environ.get(API_KEY, "") if api_key is None else api_key)
        if self._client.has_password:
            raise ChatError(f"judge.url must not hold a user or password; set {API_KEY} instead")
        self._breaker = CircuitBreaker(
            _FAILURES_BEFORE_REST, _REST_SECONDS, opened=self._warn_of_rest, closed=lambda: None
        )

    @property
    def name(self) -> str:
        return self._config.name or self._url

    def ask(self, message: str, max_tokens: int) -> str:
        """The answer; raises ``ChatError`` if none comes."""
        deadline = time.monotonic() + self._config.timeout_seconds
        ask = retrying(
            1 + self._config.retries, self._config.timeout_seconds, _PAUSE, retry_if_exception_type(EndpointError)
        )
        try:
            with self._breaker.calling():
                return ask(self._client.chat, message, max_tokens, deadline, model=self._config.name)
        except RestingError as error:
            raise ChatError(
                f"the judge at {self._url} failed {_FAILURES_BEFORE_REST} times in a row and is asked no more"
            ) from error
        except EndpointError as error:
            raise ChatError(f"the judge at {self._url} {error}{_advice(error)}") from error

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

    def _warn_of_rest(self, last: str) -> None:
        logger.warning(
            "the judge at %s failed %d times in a row and is asked no more; the last time it %s",
            self._url,
            _FAILURES_BEFORE_REST,
            last,
        )


def _advice(error: EndpointError) -> str:
    if isinstance(error, UnreachableError):
        return ": start it, set facts.factscore.judge.url to where it listens, or take judge.kind=local"
    if isinstance(error, StatusError):
        return (
            ": judge.url is the base, usually ending in /v1, of a server with /chat/completions, judge.name a model it "
            f"serves, {API_KEY} its key"
        )
    return ""
