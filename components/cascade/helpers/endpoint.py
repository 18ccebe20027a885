"""Any OpenAI-compatible server as a helper: vLLM, llama-server, another Lacewing, a service.

Text crosses, so the server may have any vocabulary. Calls that ask for the same are one request with a list of prompts.
The text of a request leaves this machine if the server is elsewhere: a warning says so once, and secrets and personal
data are replaced before, see ``redaction``.
"""

import logging
import os
import time
from collections.abc import Sequence

from components.cascade.config import HelperConfig, Redact, ReturnUnit
from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.helpers.redaction import Redaction
from components.cascade.reply_unit import first_unit
from components.clients.errors import EndpointError, MalformedError, StatusError, UnreachableError
from components.clients.openai import OpenAIClient

API_KEY = "LACEWING_HELPER_API_KEY"

_WORD_TOKENS = 8  # a word seldom takes more of any model; the rest of it can be asked for again
_TAIL_CHARACTERS = 16_000  # of a text, what is sent: about what a context of 4,096 tokens holds
_RESPONSE_BYTES = 64_000  # for each prompt; an answer to 16 tokens has far less than one kilobyte
_CHECK_SECONDS = 10.0  # a server that has just been started may need a moment

logger = logging.getLogger(__name__)


class EndpointHelper:
    """``POST {url}/completions``, greedy. Thread-safe: connections are kept and shared."""

    def __init__(
        self, url: str, model: str = "", timeout_seconds: float = 2.0, api_key: str = "", redact: Redact = "auto"
    ) -> None:
        """
        Arguments:
            url: base, up to and including ``/v1``.
            model: which one to ask; empty: the first that the server lists.
            timeout_seconds: for a whole request, connecting and reading included.
            api_key: sent as bearer token; never written anywhere.
            redact: whether secrets and personal data are replaced; ``auto``: if the server is on another machine.
        """
        self._url = url.rstrip("/")
        self._model = model
        self._timeout_seconds = timeout_seconds
        self._client = OpenAIClient(self._url, api_key, _RESPONSE_BYTES)
        if self._client.has_password:
            raise HelperError(f"helper.url must not hold a user or password; set {API_KEY} instead")
        self._redacts = redact == "on" or (redact == "auto" and not self._client.is_on_this_machine)

    @classmethod
    def from_config(cls, config: HelperConfig) -> "EndpointHelper":
        """As ``config`` says, with the key from the environment."""
        return cls(config.url, config.name, config.timeout_seconds, os.environ.get(API_KEY, ""), config.redact)

    @property
    def name(self) -> str:
        return f"endpoint {self._url}" + (f" {self._model}" if self._model else "")

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """One reply or error for each call; calls with the same unit and length go together."""
        groups: dict[tuple[ReturnUnit, int], list[int]] = {}
        for place, call in enumerate(calls):
            groups.setdefault((call.unit, call.max_tokens), []).append(place)
        answers: dict[int, Reply | HelperError] = {}
        deadline = time.monotonic() + self._timeout_seconds
        for places in groups.values():
            answers |= zip(places, self._group([calls[place] for place in places], deadline), strict=True)
        return [answers[place] for place in range(len(calls))]

    def forget(self, session: str) -> None:
        """The server keeps what it likes: requests are independent."""

    def check(self) -> None:
        """Ask for one token; raises ``HelperError`` with what to do if none comes."""
        if not self._client.is_on_this_machine:
            hidden = "without secrets and personal data" if self._redacts else "as it is"
            logger.warning(
                "text of requests will be sent to the helper at %s, on another machine, %s", self._client.host, hidden
            )
        deadline = time.monotonic() + max(_CHECK_SECONDS, self._timeout_seconds)
        served = self._served(deadline)
        if self._model and served and self._model not in served:
            raise HelperError(
                f"the helper at {self._url} has no model {self._model!r}; it has {', '.join(served)}. Set helper.name"
            )
        self._model = self._model or next(iter(served), "")
        try:
            self._completed(["The"], 1, deadline)
        except EndpointError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _group(self, calls: Sequence[Call], deadline: float) -> list[Reply] | list[HelperError]:
        unit, limit = calls[0].unit, calls[0].max_tokens
        limit = {"token": 1, "word": min(limit, _WORD_TOKENS), "entity": limit}[unit]
        redactions = [Redaction() for _ in calls]
        # Hidden before the end is cut out of it: half a secret is not recognised as one.
        texts = [
            each.hide(call.text) if self._redacts else call.text for each, call in zip(redactions, calls, strict=True)
        ]
        # Models write the space before a word together with the word: one that is there already is asked for again.
        prompts = [_tail(text).rstrip(" ") or text for text in texts]
        began = time.perf_counter()
        try:
            found, tokens = self._completed(prompts, limit, deadline)
        except EndpointError as error:
            return [self._error(_unquoted(error))] * len(calls)
        seconds = time.perf_counter() - began
        return [
            Reply(
                _fitted(each.restore(text), call, prompt), tokens // len(calls) + (place < tokens % len(calls)), seconds
            )
            for place, (each, text, call, prompt) in enumerate(zip(redactions, found, calls, prompts, strict=True))
        ]

    def _served(self, deadline: float) -> list[str]:
        """Names of the server's models; none if it does not tell."""
        try:
            return self._client.models(deadline)
        except (StatusError, MalformedError):
            return []
        except EndpointError as error:
            raise self._error(error) from error

    def _completed(self, prompts: list[str], max_tokens: int, deadline: float) -> tuple[list[str], int]:
        """Continuations of ``prompts``, and how many tokens they took together."""
        return self._client.complete(prompts, max_tokens, deadline, model=self._model, stop=["\n"])

    def _error(self, error: EndpointError) -> HelperError:
        """What happened, and what to do."""
        advice = ""
        if isinstance(error, UnreachableError):
            advice = ": start it, set helper.url to where it listens, or take another helper with helper.kind"
        elif isinstance(error, StatusError):
            advice = f": {_advice(error.status)}"
        return HelperError(f"the helper at {self._url} {error}{advice}")


def _unquoted(error: EndpointError) -> EndpointError:
    """``error`` without what the server said, which may be what it was asked: errors of helpers are logged."""
    return StatusError(error.status, "") if isinstance(error, StatusError) else error


def _advice(status: int) -> str:
    if status in (401, 403):
        return f"set {API_KEY} to a key that it accepts"
    if status == 404:
        return (
            "helper.url is the base, usually ending in /v1, of a server that has /completions, and helper.name a model "
            "that it serves"
        )
    if 300 <= status < 400:
        return "redirects are not followed, set helper.url to where it leads"
    return "see its log"


def _tail(text: str) -> str:
    if len(text) <= _TAIL_CHARACTERS:
        return text
    tail = text[-_TAIL_CHARACTERS:]
    return tail[tail.find(" ") + 1 :]


def _fitted(text: str, call: Call, prompt: str) -> str:
    """What of ``text``, which continues ``prompt``, continues the call: one unit, without a space that is there."""
    text = text.rstrip("\ufffd")  # a token may end inside a character
    if prompt and call.text[-1:] == " ":
        text = text.lstrip(" ")
    return first_unit(text, call.unit)[0]
