"""From texts to the tokens that are predicted, and back to likelihoods: the same for every network in this process.

A text becomes stretches that fit the context. A context that is too long loses its beginning. A document, or a
continuation, that is longer than the context is read in windows of which each prediction has at least half a context
before it (see ``components.evaluation.likelihood``).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.core.errors import ArtifactError
from components.evaluation.likelihood import Window, windows
from components.evaluation.text_models.base import Likelihood, TokenScores
from components.evaluation.text_models.requests import Tokens
from components.model import ops

# Rows of the output layer at once: a table of this many rows and all words of the vocabulary must stay small.
OUTPUT_TILE = 128


@dataclass(frozen=True)
class Stretch:
    """Some tokens that fit the context, and the tokens that follow the last of them."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    """What follows each of the last ``len(targets)`` inputs."""

    @property
    def first(self) -> int:
        """The input from which the first target is predicted."""
        return len(self.inputs) - len(self.targets)


@dataclass(frozen=True)
class Predicted:
    """What a model says of the targets; one entry for each."""

    nats: Float[np.ndarray, " targets"]
    confidence: Float[np.ndarray, " targets"]
    """Probability of the likeliest token."""
    right: Bool[np.ndarray, " targets"]
    call: Float[np.ndarray, " targets"]

    def between(self, begin: int, end: int) -> "Predicted":
        return Predicted(self.nats[begin:end], self.confidence[begin:end], self.right[begin:end], self.call[begin:end])

    def cut(self, stretches: Sequence[Stretch]) -> list["Predicted"]:
        """The part of each, if they are these targets one after another."""
        ends = np.cumsum([0, *(len(stretch.targets) for stretch in stretches)]).tolist()
        return [self.between(begin, end) for begin, end in pairwise(ends)]


Predict = Callable[[Sequence[Stretch]], list[Predicted]]


def token_scores(
    predict: Predict,
    documents: Sequence[Sequence[int]],
    sizes: Sequence[Int[np.ndarray, " tokens"]],
    boundary: int,
    context_length: int,
) -> list[TokenScores]:
    """Every document after a boundary; ``sizes`` in bytes of its tokens."""
    cut = [window for number, ids in enumerate(documents) for window in windows(number, ids, boundary, context_length)]
    found: list[list[Predicted]] = [[] for _ in documents]
    for window, said in zip(cut, predict([_of_window(window) for window in cut]), strict=True):
        found[window.document].append(said)
    joined = [_joined(parts).between(0, len(ids)) for ids, parts in zip(documents, found, strict=True)]
    return [
        TokenScores(size, said.nats, said.confidence, said.right, said.call)
        for size, said in zip(sizes, joined, strict=True)
    ]


def likelihoods(predict: Predict, requests: Sequence[Tokens], context_length: int) -> list[Likelihood]:
    """Of every request that has a token."""
    cut = [_of_request(tokens, context_length) for tokens in requests]
    said = iter(predict([stretch for stretches in cut for stretch in stretches]))
    found = []
    for tokens, stretches in zip(requests, cut, strict=True):
        joined = _joined([next(said) for _ in stretches]).between(0, len(tokens.continuation))
        found.append(
            Likelihood(float(-joined.nats.sum()), bool(joined.right.all()), len(joined.nats), float(joined.call.sum()))
        )
    return found


def predictions(
    name: str,
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocab width"],
    targets: Sequence[int],
) -> Predicted:
    """What the output layer ``weight`` of a network that cannot call makes of ``hidden``.

    Raises ``ArtifactError`` if the model called ``name`` gives no finite likelihood.
    """
    gold = torch.tensor(targets, device=weight.device)
    parts = [_statistics(tile, weight, ids) for tile, ids in zip(_tiles(hidden), _tiles(gold), strict=True)]
    columns = (torch.cat(column)[: len(targets)].cpu().numpy() for column in zip(*parts, strict=True))
    said = Predicted(*columns)
    check_finite(name, said.nats)
    return said


def check_finite(name: str, nats: Float[np.ndarray, " tokens"]) -> None:
    """Raise ``ArtifactError`` if the model called ``name`` gives a likelihood that is NaN or infinite."""
    if not np.isfinite(nats).all():
        raise ArtifactError(
            f"the model {name} gives a likelihood that is not finite ({nats[~np.isfinite(nats)][0]}): its training "
            "diverged, or its weights are damaged. Train it again with a lower trainer.learning_rate, or give another "
            "model"
        )


def _tiles(rows: Tensor) -> Iterator[Tensor]:
    """The rows in tiles of exactly ``OUTPUT_TILE``; the last one is filled with zeros. Another shape has other bits."""
    for start in range(0, len(rows), OUTPUT_TILE):
        tile = rows[start : start + OUTPUT_TILE]
        missing = OUTPUT_TILE - len(tile)
        yield torch.cat((tile, tile.new_zeros(missing, *tile.shape[1:]))) if missing else tile


def _statistics(hidden: Tensor, weight: Tensor, gold: Tensor) -> tuple[Tensor, ...]:
    stats = ops.linear_token_stats(hidden, weight, gold, return_argmax=True)
    assert stats.argmax is not None
    others = stats.lse_x
    likeliest = (hidden.float() * weight[stats.argmax.long()].float()).sum(dim=-1)
    confidence = (likeliest - others).double().clamp_max(0.0).exp()
    nats = (others - stats.z_y).double()
    return nats, confidence, stats.argmax.long() == gold, torch.zeros_like(nats)


def _of_window(window: Window) -> Stretch:
    return Stretch(tuple(window.inputs.tolist()), tuple(window.targets[window.scored_from :].tolist()))


def _of_request(tokens: Tokens, context_length: int) -> list[Stretch]:
    row = [*tokens.context, *tokens.continuation]
    if len(tokens.continuation) <= context_length:
        inputs = tuple(row[:-1][-context_length:])
        return [Stretch(inputs, tokens.continuation)]
    stretches, first = [], len(tokens.context) - 1
    for window in windows(0, row[1:], row[0], context_length):
        begin = max(window.scored_from, first - window.start)
        if begin < len(window.targets):
            stretches.append(Stretch(tuple(window.inputs.tolist()), tuple(window.targets[begin:].tolist())))
    return stretches


def _joined(parts: Sequence[Predicted]) -> Predicted:
    return Predicted(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Predicted)))
