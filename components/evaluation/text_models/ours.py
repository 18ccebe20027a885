"""Models of this platform: an artifact of a training, or a bundle as it is served.

Likelihoods are the small model's own, with ``<CALL>`` left out of the softmax and its mass apart. What a bundle writes
goes through its cascade, which asks the helper. Texts that share a context are read together, the context once, and a
result does not depend on what else is asked or on ``batch_tokens`` (see ``components.model.prefix_tree``). A context
stands at the beginning of a document, after the boundary token.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, islice
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.cascade.calibration import NEVER_CALLS
from components.cascade.config import CascadeConfig
from components.cascade.decoding import CascadeRequest, CascadeStep
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.evaluation.autocast import scoring_device
from components.evaluation.gate.served import ServedModel, served
from components.evaluation.likelihood import Window, windows
from components.evaluation.text_models.base import Continuation, Likelihood, TokenScores, Written
from components.evaluation.text_models.finite import check_finite
from components.evaluation.text_models.requests import Tokens, encoded
from components.model import ops
from components.model.bundle import Bundle
from components.model.generate import text_sampling
from components.model.prefix_tree import Segment, read_segments, tiles
from components.training.trained import TrainedModel

BATCH_TOKENS = 8192
# Rows of the output layer at once: a table of this many rows and all words of the vocabulary must stay small.
_OUTPUT_TILE = 128
_WRITTEN_TOGETHER = 16


@dataclass(frozen=True)
class _Targets:
    """What some predictions say of the tokens that really follow; one entry for each."""

    nats: Float[np.ndarray, " rows"]
    confidence: Float[np.ndarray, " rows"]
    right: Bool[np.ndarray, " rows"]
    call: Float[np.ndarray, " rows"]

    def between(self, begin: int, end: int) -> "_Targets":
        return _Targets(self.nats[begin:end], self.confidence[begin:end], self.right[begin:end], self.call[begin:end])


@dataclass(frozen=True, eq=False)
class _Piece:
    """Predictions that belong together: the end of a context, and the tokens after it."""

    context: Segment
    first: int
    """Token of the context from which the first target is predicted."""
    after: Segment | None
    """What follows the context, but for the last target, from which nothing is predicted."""
    targets: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.context.ids) + (len(self.after.ids) if self.after is not None else 0)


@dataclass
class LacewingModel:
    """A ``TextModel`` over our own network."""

    name: str
    identity: str
    served: ServedModel
    batch_tokens: int = BATCH_TOKENS
    """Tokens in one forward pass; costs memory, changes no result."""
    held: ExitStack = field(default_factory=ExitStack)
    """What ``close`` gives back."""

    @classmethod
    def of_training(
        cls, artifact: TrainedModel, name: str, device: str = "auto", batch_tokens: int = BATCH_TOKENS
    ) -> Self:
        """The model of a training, plain or taught to call; it has no helper. Raises ``ArtifactError`` if damaged."""
        model = artifact.load(scoring_device(device))
        tokenizer = TextTokenizer.load(artifact.model_folder)
        ready = ServedModel(model, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0))
        return cls(name, artifact.content, ready, batch_tokens)

    @classmethod
    def of_bundle(cls, bundle: Bundle, name: str, device: str = "auto", batch_tokens: int = BATCH_TOKENS) -> Self:
        """A bundle with its helper.

        Raises ``ArtifactError`` if it is damaged and ``HelperMissingError`` if its helper cannot be opened.
        """
        with ExitStack() as stack:
            ready = stack.enter_context(served(bundle, scoring_device(device)))
            return cls(name, bundle.content, ready, batch_tokens, stack.pop_all())

    @property
    def context_length(self) -> int:
        return self.served.model.config.context_length

    def close(self) -> None:
        self.held.close()

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        tokenizer = self.served.tokenizer
        documents = tokenizer.encode_batch(list(texts))
        cut = [
            window
            for number, ids in enumerate(documents)
            for window in windows(number, ids, tokenizer.end_of_text_id, self.context_length)
        ]
        found: list[list[_Targets]] = [[] for _ in documents]
        for window, targets in zip(cut, self._predicted([_read_window(window) for window in cut]), strict=True):
            found[window.document].append(targets)
        return [self._document(ids, parts) for ids, parts in zip(documents, found, strict=True)]

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        tokenizer = self.served.tokenizer
        tokens = encoded(requests, tokenizer.encode_batch, [tokenizer.end_of_text_id])
        for request, each in zip(requests, tokens, strict=True):
            if not each.continuation:
                raise InputError(f"the continuation {request.text!r} after {request.context[-60:]!r} has no token")
        contexts: dict[tuple[int, ...], Segment] = {}
        short = [len(each.continuation) <= self.context_length for each in tokens]
        pieces = [_piece(each, self.context_length, contexts) for each, fits in zip(tokens, short, strict=True) if fits]
        scored = iter(self._predicted(pieces))
        return [
            _likelihood(next(scored)) if fits else self._long(each) for each, fits in zip(tokens, short, strict=True)
        ]

    def write(
        self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str] = (), presence_penalty: float = 0.0
    ) -> list[Written]:
        tokenizer = self.served.tokenizer
        sampling = text_sampling(tokenizer.special, max_tokens, presence_penalty=presence_penalty)
        room = max(1, self.context_length - max_tokens)
        requests = [
            CascadeRequest([tokenizer.end_of_text_id, *ids][-room:], sampling)
            for ids in tokenizer.encode_batch([prompt.rstrip(" ") for prompt in prompts])
        ]
        writing = _Writing(self.served, stop)
        try:
            return writing.all(requests)
        finally:
            writing.decoding.close()

    def _document(self, ids: Sequence[int], parts: Sequence[_Targets]) -> TokenScores:
        said = _joined(parts).between(0, len(ids))  # without the boundary at the end
        sizes = np.array([len(self.served.tokenizer.token_bytes(id)) for id in ids], dtype=np.int64)
        return TokenScores(sizes, said.nats, said.confidence, said.right, said.call)

    def _long(self, tokens: Tokens) -> Likelihood:
        """A continuation that does not fit the context, read in windows as documents are."""
        row, first = [*tokens.context, *tokens.continuation], len(tokens.context) - 1
        pieces = []
        for window in windows(0, row[1:], row[0], self.context_length):
            begin = max(window.scored_from, first - window.start)
            if begin < len(window.targets):
                pieces.append(_read_window(replace(window, scored_from=begin)))
        joined = _joined(self._predicted(pieces))
        return _likelihood(joined.between(0, len(tokens.continuation)))  # without the boundary at the end

    def _predicted(self, pieces: Sequence[_Piece]) -> list[_Targets]:
        """What the model says of the targets of each piece."""
        done: dict[int, _Targets] = {}
        for batch in _batches(pieces, self.batch_tokens):
            done |= zip(batch, self._read([pieces[number] for number in batch]), strict=True)
        return [done[number] for number in range(len(pieces))]

    @torch.inference_mode()
    def _read(self, pieces: Sequence[_Piece]) -> list[_Targets]:
        segments = dict.fromkeys(piece.context for piece in pieces)  # each once, before what follows it
        segments |= dict.fromkeys(piece.after for piece in pieces if piece.after is not None)
        hidden = read_segments(self.served.model, list(segments))
        starts = dict(zip(segments, accumulate((len(each.ids) for each in segments), initial=0), strict=False))
        rows: list[int] = []
        for piece in pieces:
            start = starts[piece.context]
            rows += range(start + piece.first, start + len(piece.context.ids))
            if piece.after is not None:
                rows += range(starts[piece.after], starts[piece.after] + len(piece.after.ids))
        said = self._targets(hidden[rows], [id for piece in pieces for id in piece.targets])
        ends = list(accumulate(len(piece.targets) for piece in pieces))
        return [said.between(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _targets(self, hidden: Float[Tensor, "rows width"], targets: Sequence[int]) -> _Targets:
        weight, call_id = self.served.model.output_weight, self.served.tokenizer.call_id
        gold = torch.tensor(targets, device=weight.device)
        parts = [
            _statistics(tile, weight, ids, call_id)
            for tile, ids in zip(tiles(hidden, _OUTPUT_TILE), tiles(gold, _OUTPUT_TILE), strict=True)
        ]
        columns = (torch.cat(column)[: len(targets)].cpu().numpy() for column in zip(*parts, strict=True))
        said = _Targets(*columns)
        check_finite(self.name, said.nats)
        return said


def _statistics(hidden: Tensor, weight: Tensor, gold: Tensor, call_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stats = ops.linear_token_stats(hidden, weight, gold, call_id=call_id, return_argmax=True)
    assert stats.z_c is not None
    assert stats.argmax is not None
    likeliest = (hidden.float() * weight[stats.argmax.long()].float()).sum(dim=-1)
    confidence = (likeliest - stats.lse_x).double().clamp_max(0.0).exp()
    call = torch.sigmoid((stats.z_c - stats.lse_x).double())
    return stats.nll_excl.double(), confidence, stats.argmax.long() == gold, call


def _read_window(window: Window) -> _Piece:
    root = Segment(tuple(window.inputs.tolist()))
    return _Piece(root, window.scored_from, None, tuple(window.targets[window.scored_from :].tolist()))


def _piece(tokens: Tokens, context_length: int, contexts: dict[tuple[int, ...], Segment]) -> _Piece:
    """A request whose context keeps its end where it is too long; equal contexts are one segment."""
    inputs = [*tokens.context, *tokens.continuation[:-1]][-context_length:]
    cut = len(inputs) - len(tokens.continuation) + 1
    context, after = tuple(inputs[:cut]), tuple(inputs[cut:])
    if cut == 1 and after:  # nothing but the boundary: not worth a segment of its own
        return _Piece(Segment(tuple(inputs)), 0, None, tokens.continuation)
    shared = contexts.setdefault(context, Segment(context))
    return _Piece(shared, cut - 1, Segment(after, shared) if after else None, tokens.continuation)


def _batches(pieces: Sequence[_Piece], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of the pieces that are read together: those of one context, and others of like length."""
    members: dict[Segment, list[int]] = {}
    for number, piece in enumerate(pieces):
        members.setdefault(piece.context, []).append(number)
    batch: list[int] = []
    size = 0
    for context in sorted(members, key=lambda context: -len(context.ids)):
        size += len(context.ids)
        for number in members[context]:
            own = pieces[number].tokens - len(context.ids)
            if batch and size + own > batch_tokens:
                yield batch
                batch, size = [], len(context.ids)
            batch.append(number)
            size += own
    if batch:
        yield batch


def _joined(parts: Sequence[_Targets]) -> _Targets:
    return _Targets(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(_Targets)))


def _likelihood(said: _Targets) -> Likelihood:
    return Likelihood(float(-said.nats.sum()), bool(said.right.all()), len(said.nats), float(said.call.sum()))


class _Writing:
    """Prompts that are answered side by side, each until it meets a stop text."""

    def __init__(self, served: ServedModel, stop: Sequence[str]) -> None:
        self.decoding = served.cascade.decoding()
        self._tokenizer, self._stop = served.tokenizer, [each.encode() for each in stop if each]
        self._text: dict[int, bytes] = {}
        self._tokens: dict[int, int] = {}
        self._written: dict[int, Written] = {}

    def all(self, requests: Sequence[CascadeRequest]) -> list[Written]:
        """The answers in the order of the requests; raises the error of the first that fails."""
        waiting = iter(requests)
        while len(self._written) < len(requests):
            for request in islice(waiting, _WRITTEN_TOGETHER - self.decoding.active):
                number = self.decoding.add(request)
                self._text[number], self._tokens[number] = b"", 0
            for step in self.decoding.step():
                if step.error is not None:
                    raise step.error
                self._take(step)
        return [self._written[number] for number in range(len(requests))]

    def _take(self, step: CascadeStep) -> None:
        number = step.request
        ids = [token.id for token in step.tokens]
        self._text[number] += b"".join(map(self._tokenizer.token_bytes, ids))
        self._tokens[number] += len(ids)
        text = self._text[number]
        ends = [place for place in map(text.find, self._stop) if place >= 0]
        if not ends and step.finish is None:
            return
        summary = step.summary or self.decoding.summary(number)
        kept = text[: min(ends, default=len(text))].decode("utf-8", "replace")
        self._written[number] = Written(kept, self._tokens[number], summary.calls)
        self.decoding.cancel(number)
