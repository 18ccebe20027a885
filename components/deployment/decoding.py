"""One prompt being continued: a key-value cache, the text so far, and a ``step`` that does a bounded piece of work.

The same arithmetic as ``components.model.generate``, cut into steps so that many prompts can take turns.
"""

import secrets
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.deployment.text_stream import Detokenizer, StopMatcher
from components.model.generate import Sampling, choose
from components.model.transformer import KeyValueCache, Transformer

# A long prompt is read in pieces of this many tokens, so that others are not kept waiting for all of it, and so that
# scoring it (``echo`` with ``logprobs``) never holds more rows of the vocabulary than this.
PREFILL_TOKENS = 256

FinishReason = Literal["stop", "length"]


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
    """Same seed, same prompt, same model: same text. ``None`` draws a seed."""
    stops: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    logprobs: int | None = None
    """Return each token's log-probability with this many alternatives; ``None``: no tokens, text only."""
    echo: bool = False
    """Return the prompt in front of the answer."""


@dataclass(frozen=True)
class ScoredToken:
    """One token and its natural log-probability under the model, temperature not applied, ``<CALL>`` masked."""

    id: int
    logprob: float | None
    """``None`` for the first token of a prompt, which nothing precedes."""
    alternatives: tuple[tuple[int, float], ...]
    """Likeliest tokens at this place, best first."""
    offset: int
    """Characters of the returned text before this token."""


@dataclass(frozen=True)
class Piece:
    """What one step adds to the answer."""

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    finish: FinishReason | None = None


class Decoding:
    """State of one request between its steps."""

    def __init__(self, model: Transformer, tokenizer: TextTokenizer, request: Request) -> None:
        """Raises ``InputError`` if the prompt is empty, has ids outside the vocabulary or fills the context."""
        self.request = request
        self.generated = 0
        self._model, self._tokenizer = model, tokenizer
        room = _room(request.prompt, model)
        self._sampling = Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed if request.seed is not None else secrets.randbits(63),
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            stop_ids=frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id}),
            suppress_ids=frozenset({tokenizer.call_id}),  # alone, the model has nobody to call
        )
        self._suppressed = torch.tensor(sorted(self._sampling.suppress_ids), device=model.output_weight.device)
        self._generator = torch.Generator().manual_seed(self._sampling.seed)
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(request.stops)
        self._unread = request.prompt
        self._cache: KeyValueCache | None = None  # made when the first step needs it, not while waiting for a turn
        self._characters = 0  # of the returned text, what is held back included
        self._shown = 0
        self._held: list[ScoredToken] = []

    def step(self) -> Piece:
        """Read up to ``PREFILL_TOKENS`` of the prompt, or write one token. Call until ``Piece.finish`` is set."""
        text = ""
        if self._cache is None:
            self._cache = KeyValueCache.for_model(
                self._model, capacity=len(self.request.prompt) + self._sampling.max_tokens
            )
            text = self._begin()
        start = self._cache.length
        ids, self._unread = self._unread[:PREFILL_TOKENS], self._unread[PREFILL_TOKENS:]
        hidden = self._model(torch.tensor([ids], device=self._suppressed.device), cache=self._cache)[0]
        if self.generated == 0 and self.request.echo and self.request.logprobs is not None:
            self._score_prompt(start, hidden)
        if self._unread:
            return self._piece(text)
        return self._write(text, self._log_probabilities(hidden[-1:])[0])

    def _begin(self) -> str:
        """Take note of the prompt's text, and return it if it is to be echoed.

        Also a prompt that is not echoed passes the detokeniser: it may end inside a character.
        """
        self._offsets: list[int] = []
        pieces: list[str] = []
        for id in self.request.prompt:
            self._offsets.append(self._characters)
            pieces.append(self._detokenizer.push(self._tokenizer.token_bytes(id)))
            self._characters += len(pieces[-1])
        if not self.request.echo:
            self._characters = 0
            return ""
        if self.request.logprobs is not None:
            self._held.append(ScoredToken(self.request.prompt[0], None, (), 0))
        self._shown = self._characters
        return "".join(pieces)

    def _score_prompt(self, start: int, hidden: Float[Tensor, "seq width"]) -> None:
        """Hold the prompt's tokens that these hidden states predict: row i is about token ``start + i + 1``."""
        stop = start + hidden.shape[0] + 1
        targets = self.request.prompt[start + 1 : stop]
        if targets:
            rows = self._log_probabilities(hidden[: len(targets)])
            self._held += self._scored(rows, targets, self._offsets[start + 1 : stop])

    def _write(self, text: str, log_probabilities: Float[Tensor, "vocab"]) -> Piece:
        """Choose the next token and turn what it completes into a piece that begins with ``text``."""
        token = choose(log_probabilities.cpu(), self._sampling, self._generator)
        self._unread = [token]
        self.generated += 1
        if self.request.logprobs is not None:
            self._held += self._scored(log_probabilities[None], [token], [self._characters])
        characters = self._detokenizer.push(self._tokenizer.token_bytes(token))
        self._characters += len(characters)
        shown = self._matcher.push(characters)
        self._shown += len(shown)
        if self._matcher.stopped:  # tokens that lie in the stop string are not part of the answer
            return self._piece(text + shown, "stop")
        if token in self._sampling.stop_ids:
            return self._last(text + shown, "stop")
        if self.generated == self._sampling.max_tokens:
            return self._last(text + shown, "length")
        return self._piece(text + shown)

    def _piece(self, text: str, finish: FinishReason | None = None) -> Piece:
        """A piece with the tokens whose text has been shown."""
        shown = sum(token.offset < self._shown for token in self._held)  # offsets never fall
        tokens, self._held = tuple(self._held[:shown]), self._held[shown:]
        return Piece(text, tokens, finish)

    def _last(self, text: str, finish: FinishReason) -> Piece:
        """The last piece, with everything that was held back."""
        return Piece(text + self._matcher.finish(), tuple(self._held), finish)

    def _log_probabilities(self, hidden: Float[Tensor, "seq width"]) -> Float[Tensor, "seq vocab"]:
        logits = self._model.logits(hidden[None])[0].float()
        return logits.index_fill_(1, self._suppressed, float("-inf")).log_softmax(dim=-1)

    def _scored(self, rows: Float[Tensor, "seq vocab"], ids: list[int], offsets: list[int]) -> list[ScoredToken]:
        """Tokens ``ids`` under the distributions ``rows``."""
        chosen = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])[:, 0].tolist()
        best = rows.topk(min(self.request.logprobs or 0, rows.shape[1]), dim=-1)
        alternatives = [
            tuple(zip(row_ids, row_values, strict=True))
            for row_ids, row_values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return [ScoredToken(*fields) for fields in zip(ids, chosen, alternatives, offsets, strict=True)]


def _room(prompt: list[int], model: Transformer) -> int:
    """Tokens that can be written after ``prompt``; at least one."""
    context = model.config.context_length
    if not prompt:
        raise InputError("the prompt is empty: give at least one character or one token id")
    if foreign := [id for id in prompt if not 0 <= id < model.vocab_size]:
        raise InputError(f"token id {foreign[0]} is not in the vocabulary: ids go from 0 to {model.vocab_size - 1}")
    if len(prompt) >= context:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens, but the context of {context} must also hold at least one token of "
            f"the answer: shorten the prompt to {context - 1} tokens"
        )
    return context - len(prompt)
