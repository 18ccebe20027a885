"""Any server that speaks OpenAI's protocol: vLLM, llama-server, a service, another Lacewing.

Built on the package ``openai``, which takes half a second to import: it is imported when a client is made, so that
processes that never ask an endpoint do not pay for it. The package retries nothing here (``resilience`` does), and
``transport`` adds what it does not promise: a time-out for the whole answer and a limit on its size.
"""

import ipaddress
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from components.clients.errors import EndpointError, LateError, MalformedError, StatusError, UnreachableError

_MESSAGE_CHARACTERS = 200
_LISTED_MODELS_BYTES = 1 << 18
# A server may have penalties of its own, as ours does; then temperature 0 alone is not greedy.
_GREEDY = {"temperature": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

T = TypeVar("T")


class Echo(NamedTuple):
    """A prompt as a server read it, and what it wrote after it; the lists have an entry for each token."""

    text: str
    offsets: list[int]
    """Where each token begins, in characters of ``text``."""
    logprobs: list[float | None]
    """Natural log-probability of each; the first has none."""
    best: list[float | None]
    """The same of the likeliest token in its place."""


class Sampled(NamedTuple):
    """A continuation that was drawn."""

    text: str
    tokens: int
    """Of the server; of several continuations that it counts together, an equal share."""
    ended: bool
    """Whether the server ended it, and not the limit of tokens."""
    logprob: float | None
    """Mean natural log-probability of its tokens; ``None`` where the server does not tell."""


class OpenAIClient:
    """Completions and chats, greedy unless told otherwise. Thread-safe: connections are kept and shared.

    Its methods raise ``EndpointError``; a ``deadline`` is of ``time.monotonic`` and covers connecting and reading. An
    empty ``model`` leaves the choice to the server.
    """

    def __init__(self, url: str, api_key: str = "", response_bytes: int = 1 << 20) -> None:
        """
        Arguments:
            url: base, up to and including ``/v1``.
            api_key: sent as bearer token; never written anywhere. No environment variable is read in its place.
            response_bytes: the largest answer that is read, for each prompt of a request.
        """
        import openai

        from components.clients.transport import http_client

        self._api_key = api_key
        self._response_bytes = response_bytes
        self._openai: Any = openai
        self._client = openai.OpenAI(
            base_url=url.rstrip("/"),
            api_key=api_key or "none",  # the package insists on one; the transport sends only what was given
            max_retries=0,
            http_client=http_client(api_key),
        )
        # The package imports its resources at their first use, which would count against the first time-out.
        self._completions: Any = self._client.completions.with_raw_response
        self._chats: Any = self._client.chat.completions.with_raw_response
        self._models: Any = self._client.models.with_raw_response

    @property
    def host(self) -> str:
        return self._client.base_url.host

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the address is loopback, so that no text leaves the machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def has_password(self) -> bool:
        """Whether the address holds a user or a password."""
        return bool(self._client.base_url.userinfo)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def models(self, deadline: float) -> list[str]:
        """Names of the models that the server lists."""
        content = self._answer(self._models.list, deadline, _LISTED_MODELS_BYTES)
        return _read("list of models", content, lambda answer: [str(card["id"]) for card in answer["data"]])

    def complete(
        self,
        prompts: list[str],
        max_tokens: int,
        deadline: float,
        *,
        model: str = "",
        stop: list[str] | None = None,
        presence_penalty: float = 0.0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> tuple[list[str], int]:
        """Continuations of ``prompts``, and how many tokens they took together."""
        body = {**_drawing(max_tokens, temperature, top_p, seed), "presence_penalty": presence_penalty}
        content = self._continued(prompts, deadline, model, stop=stop or self._openai.omit, **body)
        return _read("completion", content, lambda answer: _completions(answer, len(prompts)))

    def sample(
        self,
        prompts: list[str],
        max_tokens: int,
        deadline: float,
        *,
        model: str = "",
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        logprobs: bool = True,
    ) -> list[Sampled]:
        """Continuations of ``prompts`` with what the server tells of them.

        A server need not know ``seed``, and few give the same text twice.
        """
        body = _drawing(max_tokens, temperature, top_p, seed) | ({"logprobs": 0} if logprobs else {})
        content = self._continued(prompts, deadline, model, **body)
        return _read("completion", content, lambda answer: _samples(answer, len(prompts)))

    def echo(self, prompts: list[str], deadline: float, *, model: str = "") -> list["Echo | None"]:
        """The prompts as the server reads them, with the likeliest token beside each; ``None`` where it tells nothing.

        One token more is asked for, as servers insist on it; it is the last of each.
        """
        content = self._continued(prompts, deadline, model, max_tokens=1, echo=True, logprobs=1, **_GREEDY)
        return _read("scored prompt", content, lambda answer: _echoes(answer, len(prompts)))

    def chat(self, message: str, max_tokens: int, deadline: float, *, model: str = "") -> str:
        """The answer to ``message``."""
        content = self._answer(
            self._chats.create,
            deadline,
            self._response_bytes,
            model=model or self._openai.omit,
            messages=[{"role": "user", "content": message}],
            max_tokens=max_tokens,
            **_GREEDY,
        )
        return _read("chat completion", content, lambda answer: _text(answer["choices"][0]["message"]["content"]))

    def _continued(self, prompts: list[str], deadline: float, model: str, **body: Any) -> bytes:
        return self._answer(
            self._completions.create,
            deadline,
            self._response_bytes * len(prompts),
            model=model or self._openai.omit,
            prompt=prompts if len(prompts) > 1 else prompts[0],
            **body,
        )

    def _answer(self, ask: Callable[..., Any], deadline: float, n_bytes: int, **body: Any) -> bytes:
        """The body of what the server answers, read as it is: the package takes any JSON for an answer."""
        from components.clients.transport import Bounds, bounded

        left = deadline - time.monotonic()
        if left <= 0:
            raise LateError("had no time left to answer")
        try:
            with bounded(Bounds(deadline, n_bytes)):
                return bytes(ask(**body, timeout=left).content)
        except self._openai.APITimeoutError as error:
            raise LateError("did not answer in time") from error
        except self._openai.APIStatusError as error:
            raise StatusError(error.status_code, self._said(error.response.content)) from error
        except self._openai.APIConnectionError as error:
            raise UnreachableError(f"cannot be reached ({error.__cause__ or error})") from error

    def _said(self, content: bytes) -> str:
        """The beginning of what a server said, without our key."""
        said = content.decode("utf-8", "replace")[:_MESSAGE_CHARACTERS]
        return said.replace(self._api_key, "***") if self._api_key else said


def _drawing(max_tokens: int, temperature: float, top_p: float, seed: int) -> dict[str, Any]:
    body = {"max_tokens": max_tokens, **_GREEDY}
    return body | ({"temperature": temperature, "top_p": top_p, "seed": seed} if temperature else {})


def _read(kind: str, content: bytes, read: Callable[[Any], T]) -> T:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EndpointError(f"answered with no {kind}: its answer is not JSON") from error
    try:
        return read(answer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        # What cannot be read as a number may be text that was asked about; the others name what is missing.
        reason = type(error).__name__ if isinstance(error, ValueError) else repr(error)
        raise MalformedError(f"answered with no {kind} ({reason})") from error


def _completions(answer: Any, prompts: int) -> tuple[list[str], int]:
    texts = {choice["index"]: choice["text"] for choice in answer["choices"]}
    tokens = int((answer.get("usage") or {}).get("completion_tokens", 0))
    return [_text(texts[place]) for place in range(prompts)], max(0, tokens)


def _samples(answer: Any, prompts: int) -> list[Sampled]:
    choices = {choice["index"]: choice for choice in answer["choices"]}
    _, together = _completions(answer, prompts)
    return [_sample(choices[place], together // prompts) for place in range(prompts)]


def _sample(choice: Any, share: int) -> Sampled:
    told = (choice.get("logprobs") or {}).get("token_logprobs") or []
    scores = [float(value) for value in told if value is not None]  # a cascade's helper gives no probabilities
    ended = choice.get("finish_reason") != "length"
    return Sampled(_text(choice["text"]), len(told) or share, ended, sum(scores) / len(scores) if scores else None)


def _echoes(answer: Any, prompts: int) -> list[Echo | None]:
    choices = {choice["index"]: choice for choice in answer["choices"]}
    return [_echo(choices[place]) for place in range(prompts)]


def _echo(choice: Any) -> Echo | None:
    scores = choice.get("logprobs") or {}
    if not scores.get("token_logprobs") or not scores.get("text_offset"):
        return None
    own = [None if value is None else float(value) for value in scores["token_logprobs"]]
    tops = scores.get("top_logprobs") or [None] * len(own)
    best = [
        max([float(value) for value in (top or {}).values()], default=score)
        for top, score in zip(tops, own, strict=True)
    ]
    return Echo(_text(choice["text"]), [int(place) for place in scores["text_offset"]], own, best)


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise MalformedError("answered with a completion that is not text")
    return said
