"""A model behind an OpenAI-compatible server as a ``TextModel``.

Likelihoods come from ``/v1/completions`` with ``echo`` and ``logprobs``. A server that does not echo log-probabilities
cannot be scored and is refused; it can still write. One that does not answer ends the evaluation with ``ServiceError``,
and the next one goes on from there.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from components.clients.errors import EndpointError, StatusError
from components.clients.openai import Echo, OpenAIClient
from components.core.errors import InputError, ServiceError
from components.core.identity import digest_json
from components.evaluation.evaluate_config import EndpointConfig
from components.evaluation.text_models.base import GREEDY, Continuation, Draw, Likelihood, TokenScores, Written
from components.evaluation.text_models.predicted import check_finite

Item = TypeVar("Item")

API_KEY = "LACEWING_EVALUATE_API_KEY"
# A server that cannot echo says so by one of these.
_REFUSED = (400, 404, 405, 422, 501)


@dataclass
class EndpointModel:
    """A ``TextModel`` over HTTP."""

    name: str
    url: str
    model: str = ""
    """Which one to ask; empty leaves the choice to the server."""
    config: EndpointConfig = field(default_factory=EndpointConfig)

    def __post_init__(self) -> None:
        self._client = OpenAIClient(self.url, os.environ.get(API_KEY, ""))
        if self._client.has_password:
            raise InputError(f"evaluate.model must not hold a user or password; set {API_KEY} instead")

    @property
    def identity(self) -> str:
        return digest_json([self.url, self.model])

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def close(self) -> None:
        self._client.close()

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        parts = [(number, part) for number, text in enumerate(texts) for part in self._parts(text)]
        scored = self._scored([part for _, part in parts])
        found: list[list[_Scored]] = [[] for _ in texts]
        for (number, _), each in zip(parts, scored, strict=True):
            found[number].append(each)
        return [self._joined(each) for each in found]

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        for request in requests:
            if not request.text:
                raise InputError(f"the continuation '' after {request.context[-60:]!r} has no token")
        return [
            Likelihood(-float(np.sum(each.nats)), all(each.right), len(each.nats)) for each in self._scored(requests)
        ]

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        """The tokens of one request are shared equally among its answers: servers tell their sum."""
        written: list[Written] = []
        for group in _groups(prompts, self.config.parallel_texts):
            asked = [self.config.start + prompt for prompt in group]
            try:
                texts, tokens = self._client.complete(
                    asked,
                    max_tokens,
                    self._deadline(),
                    model=self.model,
                    stop=list(stop),
                    presence_penalty=presence_penalty,
                    temperature=draw.temperature,
                    top_p=draw.top_p,
                    seed=draw.seed + len(written),
                )
            except EndpointError as error:
                raise self._failed(error) from error
            written += [Written(text, tokens // len(group)) for text in texts]
        return written

    def _parts(self, text: str) -> Iterator[Continuation]:
        """A document in parts that the server takes, each after half as much of what comes before it."""
        longest = self.config.max_characters
        half = max(1, longest // 2)
        yield Continuation("", text[:longest])
        for start in range(longest, len(text), half):
            yield Continuation(text[start - half : start], text[start : start + half])

    def _scored(self, requests: Sequence[Continuation]) -> list["_Scored"]:
        found: list[_Scored] = []
        for group in _groups(requests, self.config.parallel_texts):
            prompts = [self.config.start + request.context + request.text for request in group]
            try:
                echoes = self._client.echo(prompts, self._deadline(), model=self.model)
            except StatusError as error:
                if error.status not in _REFUSED:
                    raise self._failed(error) from error
                longest = f"set evaluate.endpoint.max_characters below {self.config.max_characters:,}"
                raise self._refused(f"it {error}. If a text is too long for it, {longest}") from error
            except EndpointError as error:
                raise self._failed(error) from error
            found += [self._read(request, echo) for request, echo in zip(group, echoes, strict=True)]
        return found

    def _read(self, request: Continuation, echo: Echo | None) -> "_Scored":
        """The tokens of the continuation; one that begins in the context's last spaces belongs to it."""
        whole = request.context + request.text
        if echo is None:
            raise self._refused("it answers without log-probabilities")
        begin = len(self.config.start) if echo.text.startswith(self.config.start + whole) else 0
        if not echo.text[begin:].startswith(whole):
            raise self._refused(f"it does not repeat the prompt: {echo.text[:60]!r} for {whole[:60]!r}")
        first, end = begin + len(request.context.rstrip()), begin + len(whole)
        places = [place for place, offset in enumerate(echo.offsets) if first <= offset < end]
        if begin == 0 and self.config.start and places and places[0] == 0:
            places = places[1:]  # the start token, spelled as nothing
        edges = [*(echo.offsets[place] for place in places[1:]), end]
        logprobs = [echo.logprobs[place] for place in places]
        if not places or None in logprobs:
            raise self._refused(
                f"it gives no probability to the first token of {whole[:60]!r}: set evaluate.endpoint.start to the "
                "text of the token that starts a document there, such as <s> or <|endoftext|>"
            )
        starts = [len(request.context) + begin, *edges[:-1]]
        return _Scored(
            [len(echo.text[a:b].encode()) for a, b in zip(starts, edges, strict=True)],
            [-float(value) for value in logprobs if value is not None],
            [float(echo.best[place] or 0.0) for place in places],
        )

    def _joined(self, parts: Sequence["_Scored"]) -> TokenScores:
        nats = np.array([value for part in parts for value in part.nats])
        check_finite(self.name, nats)
        best = np.array([value for part in parts for value in part.best])
        sizes = np.array([size for part in parts for size in part.sizes], dtype=np.int64)
        return TokenScores(sizes, nats, np.exp(best), nats <= -best, np.zeros(len(nats)))

    def _deadline(self) -> float:
        return time.monotonic() + self.config.timeout_seconds

    def _refused(self, reason: str) -> InputError:
        return InputError(
            f"the server at {self.url} cannot be scored: {reason}. Likelihoods need /v1/completions with echo and "
            "logprobs, which vLLM and `lacewing serve` have; without them a model can only be given tasks in which it "
            "writes"
        )

    def _failed(self, error: EndpointError) -> ServiceError:
        return ServiceError(
            f"the server at {self.url} {error}. What was scored before is kept: when it answers, run the same command "
            "again"
        )


def _groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True)
class _Scored:
    """The tokens of one continuation."""

    sizes: list[int]
    nats: list[float]
    best: list[float]

    @property
    def right(self) -> list[bool]:
        return [nats <= -best for nats, best in zip(self.nats, self.best, strict=True)]
