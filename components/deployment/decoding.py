"""One request on its way to an answer: from its prompt to the cascade's request, from the cascade's tokens to text.

The cascade (``components.cascade.decoding``) decodes all requests together. This module holds the state of one request:
the characters that its tokens complete, its stop strings, the text that is held back, and the scores of an echoed
prompt.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from components.cascade.authors import AuthorSpan, author_spans
from components.cascade.decoding import (
    Author,
    CascadeRequest,
    CascadeStep,
    CascadeSummary,
    CascadeToken,
    FinishReason,
)
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.deployment.pieces import Piece, PieceQueue
from components.deployment.prompt_times import HelperCall
from components.deployment.protocol import SamplingRequest
from components.deployment.text_stream import Detokenizer, StopMatcher
from components.model.decoder import Guide
from components.model.sampling import Sampling
from components.model.transformer import KeyValueCache, Transformer

# A scored prompt (``echo`` with ``logprobs``) is read in parts of this many tokens, so that other requests do not wait
# for all of it, and so that no more rows of logits than this are in memory.
PREFILL_TOKENS = 256


class ContextLengthError(InputError):
    """The prompt leaves no room for an answer."""


@dataclass(frozen=True)
class Request:
    """What to continue and how. Checked when it is made into a ``Decoding``."""

    prompt: list[int]
    """Ids of the prompt."""
    max_tokens: int | None = None
    """Longest answer in tokens; ``None``: as long as the context allows. It is always clipped to the context."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that hold this share of the probability."""
    seed: int | None = None
    """The same seed, prompt and model give the same text, whatever else is in the batch. (Elsewhere than on a CPU,
    rounding may depend on that.) ``None`` draws a seed."""
    stops: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    logprobs: int | None = None
    """Return each token's log-probability with this many alternatives; ``None``: no tokens, text only."""
    echo: bool = False
    """Return the prompt in front of the answer."""
    call_budget: float | None = None
    """Share of the decisions that may become calls; ``None``: as the server has it."""
    max_calls: int | None = None
    """A further limit to the calls."""
    presence_penalty: float | None = None
    """Taken off the logit of each token that the answer holds already; ``None``: as the bundle has it."""
    frequency_penalty: float = 0.0
    """The same once for every time that the answer holds the token."""
    top_k: int = 0
    """Sample among this many likeliest tokens; 0: among all."""
    min_p: float = 0.0
    """Sample among tokens that are at least this many times as probable as the likeliest."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that prompt or answer hold, and multiplies the negative ones."""
    guide: Guide | None = None
    """Which tokens the answer may go on with; of this request only."""
    on_begin: Callable[[], None] | None = field(default=None, compare=False)
    """Called once the request has its place in the batch, from the thread that answers it."""
    adapter: str = ""
    """Which of the server's adapters answers; empty: the model alone."""


def request_of(
    body: SamplingRequest,
    prompt: list[int],
    max_tokens: int | None,
    logprobs: int | None = None,
    echo: bool = False,
    guide: Guide | None = None,
    adapter: str = "",
) -> Request:
    """What ``body`` asks for ``prompt``; the two endpoints word the other settings differently."""
    return Request(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stops=tuple(body.stop),
        logprobs=logprobs,
        echo=echo,
        call_budget=body.call_budget,
        max_calls=body.max_calls,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        guide=guide,
        adapter=adapter,
    )


@dataclass(frozen=True)
class Origin:
    """The origin of a token of an answer."""

    author: Author
    """Who wrote it."""
    call_probability: float
    """P(CALL) at the decision that it comes from."""
    seconds: float
    """Time of that decision, including the helper's answer; 0 for the further tokens of a reply."""


@dataclass(frozen=True)
class ScoredToken:
    """One token and its natural log-probability under the model, temperature not applied, ``<CALL>`` masked."""

    id: int
    logprob: float | None
    """``None`` for the first token of a prompt, which nothing precedes, and within a helper's reply."""
    alternatives: tuple[tuple[int, float], ...]
    """Likeliest tokens at this place, best first."""
    offset: int
    """Characters of the returned text before this token."""
    origin: Origin | None = None
    """``None`` for tokens of a prompt."""


@dataclass(frozen=True)
class Delta:
    """What one step adds to the answer."""

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    finish: FinishReason | None = None
    degraded: bool = False
    """Set together with ``finish``: whether a call failed."""
    authors: tuple[AuthorSpan, ...] = ()
    """Set together with ``finish``: who wrote which characters of the whole answer, an echoed prompt left out."""
    pieces: tuple[Piece, ...] = ()
    """What single decisions wrote of ``text``, an echoed prompt left out."""


class Decoding:
    """The state of one request while the cascade answers it."""

    def __init__(
        self, model: Transformer, tokenizer: TextTokenizer, request: Request, presence_penalty: float = 0.0
    ) -> None:
        """Raises ``InputError`` if the prompt is empty, has ids that cannot be read, fills the context or would have to
        be scored with an adapter.

        ``presence_penalty``: of a request that does not set its own.
        """
        self.request = request
        self.summary = CascadeSummary()
        """The cascade's counts so far."""
        self.helper_calls: list[HelperCall] = []
        """What came of each call, and how long it took."""
        self._model, self._tokenizer = model, tokenizer
        if request.adapter and request.echo and request.logprobs is not None:
            raise InputError(
                f"echo with logprobs scores the prompt, which only the model without the adapter {request.adapter!r} "
                "can do here: leave out one of the two, or serve the merged model"
            )
        room = answer_room(request.prompt, model.config.context_length, model.vocab_size, tokenizer.call_id)
        self._sampling = Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed if request.seed is not None else secrets.randbits(63),
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            stop_ids=frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id}),
            suppress_ids=frozenset({tokenizer.call_id}),
            presence_penalty=_presence_penalty(request, presence_penalty),
            frequency_penalty=request.frequency_penalty,
            top_k=request.top_k,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
        )
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(request.stops)
        self._unsent = ""  # of an echoed prompt
        self._offsets: list[int] = []
        self._characters = 0  # of the returned text, what is held back included
        self._shown = 0
        self._held: list[ScoredToken] = []
        self._written: list[tuple[Author, str]] = []
        self._pieces = PieceQueue()
        self.cache: KeyValueCache | None = None
        """The part of a scored prompt that has been read."""

    @property
    def generated(self) -> int:
        """Tokens written, those in a stop string included."""
        return self.summary.small_tokens + self.summary.helper_tokens

    @property
    def cascade_request(self) -> CascadeRequest:
        """The same for the cascade."""
        request = self.request
        return CascadeRequest(
            request.prompt,
            self._sampling,
            request.call_budget,
            request.max_calls,
            request.logprobs or 0,
            request.guide,
            request.adapter,
        )

    def begin(self) -> None:
        """Process the text of the prompt: even a prompt that is not echoed may end inside a character."""
        if self.request.on_begin is not None:
            self.request.on_begin()
        deltas: list[str] = []
        for id in self.request.prompt:
            self._offsets.append(self._characters)
            deltas.append(self._detokenizer.push(self._tokenizer.token_bytes(id)))
            self._characters += len(deltas[-1])
        if not self.request.echo:
            self._characters = 0
            if self.request.guide is not None:
                self._detokenizer = Detokenizer()  # it completes no character that the prompt began
            return
        self._unsent = "".join(deltas)
        self._shown = self._characters
        if self.request.logprobs is not None:
            self._held.append(ScoredToken(self.request.prompt[0], None, (), 0))

    @property
    def to_score(self) -> bool:
        """Whether part of the prompt waits to be scored. Its last token predicts the answer: the cascade reads it."""
        read = self.cache.length if self.cache is not None else 0
        return self.request.echo and self.request.logprobs is not None and read < len(self.request.prompt) - 1

    @torch.inference_mode()
    def score(self) -> Delta:
        """Read and score up to ``PREFILL_TOKENS`` of the prompt."""
        prompt = self.request.prompt
        if self.cache is None:  # made when it is needed, not while waiting for a turn
            self.cache = KeyValueCache.for_model(self._model, capacity=len(prompt) - 1)
        start = self.cache.length
        stop = min(start + PREFILL_TOKENS, len(prompt) - 1)
        ids = torch.tensor([prompt[start:stop]], device=self._model.output_weight.device)
        logits = self._model.logits(self._model(ids, cache=self.cache))[0].float()
        logits[:, self._tokenizer.call_id] = float("-inf")
        # Row i is about token start + i + 1.
        self._held += self._scored(
            logits.log_softmax(dim=-1), prompt[start + 1 : stop + 1], self._offsets[start + 1 : stop + 1]
        )
        return self._delta("")

    def take(self, step: CascadeStep) -> Delta:
        """Turn the tokens of one step into what they add to the answer; ``finish`` is set also at a stop string."""
        shown = ""
        for token in step.tokens:
            shown += self._push(token)
            if self._matcher.stopped:  # tokens that lie in the stop string are not part of the answer
                return self._delta(shown, "stop")
        if step.finish is not None:
            return self._last(shown + self._matcher.finish(), step.finish)
        return self._delta(shown)

    def _push(self, token: CascadeToken) -> str:
        """What can be shown now that ``token`` has come."""
        if token.call != "none" and token.logprob is not None:  # the first token of the call's outcome
            self.helper_calls.append(HelperCall(token.call, token.helper_seconds, time.perf_counter()))
        if self.request.logprobs is not None:
            origin = Origin(token.author, token.call_probability, token.seconds)
            self._held.append(ScoredToken(token.id, token.logprob, token.alternatives, self._characters, origin))
        characters = self._detokenizer.push(self._tokenizer.token_bytes(token.id))
        self._characters += len(characters)
        self._written.append((token.author, characters))
        self._pieces.push(token, characters)
        shown = self._matcher.push(characters)
        self._shown += len(shown)
        return shown

    def _delta(self, text: str, finish: FinishReason | None = None) -> Delta:
        """A delta with the tokens whose text has been shown."""
        shown = sum(token.offset < self._shown for token in self._held)  # offsets never fall
        tokens, self._held = self._held[:shown], self._held[shown:]
        return self._sent(text, tokens, finish)

    def _last(self, text: str, finish: FinishReason) -> Delta:
        """The last delta, with everything that was held back."""
        self._shown = self._characters
        return self._sent(text, self._held, finish)

    def _sent(self, text: str, tokens: list[ScoredToken], finish: FinishReason | None) -> Delta:
        pieces = self._pieces.shown(len(text), ended=finish is not None)
        text, self._unsent = self._unsent + text, ""
        if finish is None:
            return Delta(text, tuple(tokens), pieces=pieces)
        return Delta(text, tuple(tokens), finish, self.summary.degraded, tuple(self._authors()), pieces)

    def _authors(self) -> list[AuthorSpan]:
        """Who wrote what is shown of the answer."""
        written = sum(len(characters) for _, characters in self._written)
        return author_spans(self._written, start=self._characters - written, end=self._shown)

    def _scored(self, rows: Float[Tensor, "seq vocab"], ids: list[int], offsets: list[int]) -> list[ScoredToken]:
        """Tokens ``ids`` under the distributions ``rows``."""
        chosen = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])[:, 0].tolist()
        best = rows.topk(min(self.request.logprobs or 0, rows.shape[1]), dim=-1)
        alternatives = [
            tuple(zip(row_ids, row_values, strict=True))
            for row_ids, row_values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return [ScoredToken(*fields) for fields in zip(ids, chosen, alternatives, offsets, strict=True)]


def _presence_penalty(request: Request, default: float) -> float:
    """The model's own is against loops, which a schema ends; it would also be against the quotes of JSON."""
    if request.presence_penalty is not None:
        return request.presence_penalty
    return default if request.guide is None else 0.0


def answer_room(prompt: list[int], context: int, vocab_size: int, call_id: int) -> int:
    """Tokens that can be written after ``prompt`` in a context of so many tokens; at least one.

    Raises ``InputError`` if the prompt is empty, has ids that cannot be read or fills the context.
    """
    if not prompt:
        raise InputError("the prompt is empty: give at least one character or one token id")
    if foreign := [id for id in prompt if not 0 <= id < vocab_size]:
        raise InputError(f"token id {foreign[0]} is not in the vocabulary: ids go from 0 to {vocab_size - 1}")
    if call_id in prompt:
        raise InputError(f"token id {call_id} is <CALL>, which the model may predict but never reads: leave it out")
    if len(prompt) >= context:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens, but the context of {context} must also hold at least one token of "
            f"the answer: shorten the prompt to {context - 1} tokens"
        )
    return context - len(prompt)
