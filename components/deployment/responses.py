"""OpenAI's answers, built from the engine's deltas: one class per endpoint."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from components.data.tokenizer import TextTokenizer
from components.deployment.decoding import Delta, ScoredToken
from components.deployment.protocol import (
    AssistantMessage,
    AuthorSpan,
    CascadeNote,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatTokenLogprob,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Piece,
    TokenLogprob,
    Usage,
)

# JSON has no minus infinity, which is the log-probability of a masked token that stands in a prompt.
LOWEST_LOGPROB = -9999.0


class Signature(NamedTuple):
    """What every answer says of itself and of its model."""

    request: str
    """Number of the request."""
    model: str
    """The name under which it is served."""
    fingerprint: str
    """The version that answers."""


class ResponseBuilder(Protocol):
    """How one endpoint spells its answer."""

    def whole(self, deltas: list[Delta], usage: Usage) -> BaseModel:
        """The answer in one body; one delta per prompt."""

    def chunks(self, index: int, delta: Delta) -> Iterator[BaseModel]:
        """The parts of a streamed answer for ``delta`` of prompt ``index``."""

    def only_text(self, delta: Delta) -> bool:
        """Whether the part for ``delta`` says nothing but its text."""

    def usage_chunk(self, usage: Usage) -> BaseModel:
        """The last part of a stream, if the client asked for it."""


class CompletionBuilder:
    """``/v1/completions``."""

    def __init__(
        self, signature: Signature, tokenizer: TextTokenizer, logprobs: bool, helper: str | None, pieces: bool = False
    ) -> None:
        """
        Arguments:
            request_id: the number of the request in the log.
            helper: which helper the model asks; ``None`` for a plain model, whose answers are OpenAI's only.
            pieces: whether the chunks of a stream say what each decision wrote.
        """
        self._base: dict[str, Any] = _base("cmpl", signature)
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._helper = helper
        self._pieces = pieces

    def whole(self, deltas: list[Delta], usage: Usage) -> Completion:
        choices = [self._choice(index, delta) for index, delta in enumerate(deltas)]
        return Completion(**self._base, choices=choices, usage=usage, cascade=_note(self._helper, deltas))

    def chunks(self, index: int, delta: Delta) -> Iterator[Completion]:
        note = _note(self._helper, [delta]) if delta.finish is not None else None
        yield Completion(**self._base, choices=[self._choice(index, delta)], cascade=note)

    def only_text(self, delta: Delta) -> bool:
        return _only_text(delta, self._pieces)

    def usage_chunk(self, usage: Usage) -> Completion:
        return Completion(**self._base, choices=[], usage=usage)

    def _choice(self, index: int, delta: Delta) -> CompletionChoice:
        logprobs = self._scores(delta.tokens) if self._logprobs else None
        return CompletionChoice(
            index=index,
            text=delta.text,
            logprobs=logprobs,
            finish_reason=delta.finish,
            authors=_authors(self._helper, delta),
            pieces=_pieces(delta) if self._pieces else None,
        )

    def _scores(self, tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
        lists = CompletionLogprobs()
        if self._helper is not None:
            origins = [token.origin for token in tokens]
            lists.authors = [origin.author if origin else None for origin in origins]
            lists.call_probabilities = [origin.call_probability if origin else None for origin in origins]
            lists.seconds = [origin.seconds if origin else None for origin in origins]
        for token in tokens:
            lists.tokens.append(token_text(self._tokenizer, token.id))
            lists.text_offset.append(token.offset)
            lists.token_logprobs.append(None if token.logprob is None else _finite(token.logprob))
            lists.top_logprobs.append(None if token.logprob is None else self._alternatives(token, token.logprob))
        return lists

    def _alternatives(self, token: ScoredToken, logprob: float) -> dict[str, float]:
        """The likeliest tokens, and the token itself whether it is one of them or not, as OpenAI has it."""
        scores = {**dict(token.alternatives), token.id: logprob}
        return {token_text(self._tokenizer, id): _finite(score) for id, score in scores.items()}


class ChatBuilder:
    """``/v1/chat/completions``."""

    def __init__(
        self, signature: Signature, tokenizer: TextTokenizer, logprobs: bool, helper: str | None, pieces: bool = False
    ) -> None:
        """``helper`` and ``pieces``: as for ``CompletionBuilder``."""
        self._base: dict[str, Any] = _base("chatcmpl", signature)
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._helper = helper
        self._pieces = pieces
        self._begun = False

    def whole(self, deltas: list[Delta], usage: Usage) -> ChatCompletion:
        (delta,) = deltas
        assert delta.finish is not None
        message = AssistantMessage(content=delta.text)
        choice = ChatChoice(
            message=message,
            logprobs=self._scores(delta.tokens),
            finish_reason=delta.finish,
            authors=_authors(self._helper, delta),
        )
        return ChatCompletion(**self._base, choices=[choice], usage=usage, cascade=_note(self._helper, deltas))

    def chunks(self, index: int, delta: Delta) -> Iterator[ChatChunk]:
        if not self._begun:
            self._begun = True
            yield self._chunk(ChatChunkChoice(delta=ChatDelta(role="assistant", content="")))
        pieces = _pieces(delta) if self._pieces else None
        if delta.text or delta.tokens or pieces:
            scores = self._scores(delta.tokens)
            yield self._chunk(ChatChunkChoice(delta=ChatDelta(content=delta.text), logprobs=scores, pieces=pieces))
        if delta.finish is not None:
            last = ChatChunkChoice(delta=ChatDelta(), finish_reason=delta.finish, authors=_authors(self._helper, delta))
            yield self._chunk(last, _note(self._helper, [delta]))

    def only_text(self, delta: Delta) -> bool:
        return _only_text(delta, self._pieces)

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        return ChatChunk(**self._base, choices=[], usage=usage)

    def _chunk(self, choice: ChatChunkChoice, note: CascadeNote | None = None) -> ChatChunk:
        return ChatChunk(**self._base, choices=[choice], cascade=note)

    def _scores(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs | None:
        if not self._logprobs:
            return None
        return ChatLogprobs(content=[self._scored(token) for token in tokens])

    def _scored(self, token: ScoredToken) -> ChatTokenLogprob:
        origin = asdict(token.origin) if self._helper is not None and token.origin is not None else {}
        return ChatTokenLogprob(
            **self._score(token.id, token.logprob).model_dump(),
            top_logprobs=[self._score(id, score) for id, score in token.alternatives],
            **origin,
        )

    def _score(self, id: int, logprob: float | None) -> TokenLogprob:
        return TokenLogprob(
            token=token_text(self._tokenizer, id),
            logprob=None if logprob is None else _finite(logprob),
            bytes=list(self._tokenizer.token_bytes(id)),
        )


def _base(kind: str, signature: Signature) -> dict[str, Any]:
    request, model, fingerprint = signature
    return {
        "id": f"{kind}-{request}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


def _note(helper: str | None, deltas: Sequence[Delta]) -> CascadeNote | None:
    if helper is None:
        return None
    return CascadeNote(degraded=any(delta.degraded for delta in deltas), helper=helper)


def _authors(helper: str | None, delta: Delta) -> list[AuthorSpan] | None:
    """Of a cascade only, once the answer has ended."""
    if helper is None or delta.finish is None:
        return None
    return [AuthorSpan(**span._asdict()) for span in delta.authors]


def _only_text(delta: Delta, pieces: bool) -> bool:
    return bool(delta.text) and not delta.tokens and delta.finish is None and not (pieces and delta.pieces)


def _pieces(delta: Delta) -> list[Piece]:
    return [Piece(**asdict(piece)) for piece in delta.pieces]


def token_text(tokenizer: TextTokenizer, id: int) -> str:
    """A token's text, or its bytes (``bytes:`` and hexadecimal escapes) if they are no whole characters.

    Two tokens never share a name: names are the keys of ``top_logprobs``.
    """
    if name := tokenizer.special.name(id):
        return name
    delta = tokenizer.token_bytes(id)
    try:
        return delta.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in delta)


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
