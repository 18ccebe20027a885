"""Who writes for a student: a model of this machine, or a server. Text crosses, so any tokenizer will do."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple, Protocol

from tenacity import retry_if_exception, wait_exponential

from components.cascade.helpers.redaction import Redaction
from components.clients.errors import EndpointError, LateError, MalformedError, StatusError, UnreachableError
from components.clients.openai import OpenAIClient
from components.clients.resilience import retrying
from components.core.errors import InputError, ServiceError
from components.evaluation.evaluate_config import EvaluateConfig
from components.evaluation.text_models.base import Continuation, Draw, TextModel, Written
from components.evaluation.text_models.opened import address, opened
from components.finetune.distill.config import WriteConfig, WriteSettings
from components.model.bundle import Bundle
from components.training.trained import TrainedModel

API_KEY = "LACEWING_TEACHER_API_KEY"

_RESPONSE_BYTES = 1 << 22  # of one text with its log-probabilities
_CHECK_SECONDS = 30.0
_PAUSE = wait_exponential(multiplier=0.25, max=30)  # seconds before another try
_BUSY = 429  # too many requests

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What follows a prompt."""

    text: str
    tokens: int
    ended: bool
    """Whether the teacher ended it."""
    logprob: float | None
    """Mean log-probability of its tokens in nats, if that is known."""


class Writer(Protocol):
    """A teacher that writes."""

    def answers(self, prompts: Sequence[str], seed: int) -> list[Answer]:
        """A text after each prompt. Raises ``ServiceError`` if a server does not answer, with what to do."""
        ...


@contextmanager
def opened_writer(config: WriteConfig, bundle: Bundle | None, trained: TrainedModel | None) -> Iterator[Writer]:
    """The teacher of ``config``, or the artifact if there is one, for the block.

    Raises ``InputError`` for what names no teacher or has too short a context, and ``ServiceError`` for a server that
    does not answer or refuses the key.
    """
    if (served := address(config.teacher)) is not None:
        with closing(ServedWriter(*served, config.ask)) as writer:
            writer.check()
            yield writer
        return
    given = EvaluateConfig(model=config.teacher, name="the teacher", device=config.device)
    with opened(given, bundle, trained) as model:
        yield LocalWriter(model, config.ask)


class LocalWriter:
    """A model of this machine; a bundle writes as it is served, with its helper."""

    def __init__(self, model: TextModel, ask: WriteSettings) -> None:
        if (asked := ask.prompt_tokens + ask.max_tokens) > model.context_length:
            raise InputError(
                f"the teacher reads {model.context_length} tokens, but finetune.distill.write asks for {asked} "
                f"(prompt_tokens={ask.prompt_tokens} and max_tokens={ask.max_tokens}): lower one of them"
            )
        self._model, self._ask = model, ask

    def answers(self, prompts: Sequence[str], seed: int) -> list[Answer]:
        ask = self._ask
        written = self._model.write(prompts, ask.max_tokens, draw=Draw(ask.temperature, ask.top_p, seed))
        likely = iter(mean_logprobs(self._model, prompts, [each.text for each in written]))
        return [self._answer(each, next(likely)) for each in written]

    def _answer(self, written: Written, logprob: float | None) -> Answer:
        return Answer(written.text, written.tokens, written.tokens < self._ask.max_tokens, logprob)


def mean_logprobs(model: TextModel, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """What ``model`` expects of each text after its prompt: nats per token, its own tokens; ``None`` of no text."""
    pairs = list(zip(prompts, texts, strict=True))
    found = iter(model.likelihoods([Continuation(prompt, text) for prompt, text in pairs if text.strip()]))
    return [(scored := next(found)).log_likelihood / scored.tokens if text.strip() else None for _, text in pairs]


class ServedWriter:
    """``POST {url}/completions`` of any OpenAI-compatible server."""

    def __init__(self, url: str, model: str, ask: WriteSettings) -> None:
        """``model``: which one to ask; empty: the first that the server lists."""
        self._url, self._model, self._ask = url.rstrip("/"), model, ask
        self._client = OpenAIClient(self._url, os.environ.get(API_KEY, ""), _RESPONSE_BYTES)
        if self._client.has_password:
            raise InputError(f"finetune.distill.teacher must not hold a user or password; set {API_KEY} instead")
        self._redacts = ask.redact == "on" or (ask.redact == "auto" and not self._client.is_on_this_machine)

    def check(self) -> None:
        """Find the model that is meant; raises ``ServiceError`` with what to do if the server cannot be asked."""
        if not self._client.is_on_this_machine:
            hidden = "without secrets and personal data" if self._redacts else "as they are"
            logger.warning(
                "beginnings of training documents are sent to the teacher at %s, on another machine, %s",
                self._client.host,
                hidden,
            )
        try:
            served = self._client.models(time.monotonic() + _CHECK_SECONDS)
        except MalformedError:
            served = []  # it does not list its models, and may well answer
        except StatusError as error:
            if error.status in (401, 403):
                raise self._failed(error) from error
            served = []
        except EndpointError as error:
            raise self._failed(error) from error
        if self._model and served and self._model not in served:
            raise InputError(
                f"the teacher at {self._url} has no model {self._model!r}; it has {', '.join(served)}: give "
                f"finetune.distill.teacher='{self._url}#NAME'"
            )
        self._model = self._model or next(iter(served), "")

    def answers(self, prompts: Sequence[str], seed: int) -> list[Answer]:
        ask = self._ask
        try:
            found = retrying(1 + ask.retries, float("inf"), _PAUSE, retry_if_exception(_may_pass))(
                self._asked, list(prompts), seed
            )
        except EndpointError as error:
            raise self._failed(error) from error
        return [Answer(*each) for each in found]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _asked(self, prompts: list[str], seed: int) -> list[Answer]:
        ask = self._ask
        redactions = [Redaction() for _ in prompts]
        sent = [each.hide(text) if self._redacts else text for each, text in zip(redactions, prompts, strict=True)]
        found = self._client.sample(
            sent,
            ask.max_tokens,
            time.monotonic() + ask.timeout_seconds,
            model=self._model,
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=seed,
            logprobs=ask.logprobs,
        )
        texts = [hidden.restore(each.text.rstrip("\ufffd")) for hidden, each in zip(redactions, found, strict=True)]
        return [Answer(text, each.tokens, each.ended, each.logprob) for text, each in zip(texts, found, strict=True)]

    def _failed(self, error: EndpointError) -> ServiceError:
        return ServiceError(f"the teacher at {self._url} {error}: {_advice(error)}")


def _may_pass(error: BaseException) -> bool:
    """Whether another try may help: a server that refuses a request will refuse it again."""
    if isinstance(error, StatusError):
        return error.status == _BUSY or error.status >= 500
    return isinstance(error, EndpointError) and not isinstance(error, MalformedError)


def _advice(error: EndpointError) -> str:
    if isinstance(error, UnreachableError):
        return "start it, or set finetune.distill.teacher to where it listens"
    if isinstance(error, LateError):
        return "ask for less at once (finetune.distill.write.texts_at_once), or wait longer (timeout_seconds)"
    if not isinstance(error, StatusError):
        return "see its log"
    if error.status in (401, 403):
        return f"set {API_KEY} to a key that it accepts"
    if error.status == 404:
        return (
            "finetune.distill.teacher is the base, usually ending in /v1, of a server that has /completions, and after "
            "# a model that it serves"
        )
    if error.status in (400, 422):
        return (
            "if it refuses logprobs, set finetune.distill.write.logprobs=false; if a text is too long for it, lower "
            "finetune.distill.write.max_tokens"
        )
    if 300 <= error.status < 400:
        return "redirects are not followed, set finetune.distill.teacher to where it leads"
    return "see its log"
