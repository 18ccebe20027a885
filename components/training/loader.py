"""Packed training batches whose order is a pure function of (seed, step, rank).

Nothing about the order is stored: a resumed run asks for the batch of its next step and gets the one that an
uninterrupted run would have seen, in the middle of an epoch as at its start. The training split is cut into windows of
the context length; every epoch visits each window once, in an order of its own. The order is computed one window at a
time by a small Feistel cipher (a bijection by construction), so a corpus of billions of windows needs no permutation
in memory.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import IterableDataset

from components.core.errors import InputError
from components.data.shards import Split

IGNORED = -100
_ROUNDS = 4


class Batch(NamedTuple):
    """What a training step needs."""

    tokens: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch seq"]
    """The token after each; ``IGNORED`` where there is none."""
    document_start: Int[Tensor, "batch seq"]
    """Index in the row of the boundary token that opens each token's document (0 for one cut by the window)."""
    columns: dict[str, Shaped[Tensor, "batch seq *shape"]] = {}  # noqa: RUF012 - a tuple's default, never written to
    """What else is known of each target, by the names of the columns that the loader was given."""


class TokenColumn(Protocol):
    """A value for every token of every split: a bit, a number, or a row of numbers."""

    @property
    def fill(self) -> float:
        """The value where there is no token."""

    def slice(self, split: str, start: int, stop: int) -> Shaped[np.ndarray, "tokens *shape"]:
        """The values of tokens ``[start, stop)``."""


TokenColumns = Mapping[str, TokenColumn]
"""Columns by name. A value belongs to its token; in a batch it stands where that token is the target."""


class Alter(Protocol):
    """Changes training batches, each in a way that depends on its place alone: a resumed run sees the same."""

    def __call__(self, batch: Batch, *place: int) -> Batch:
        """``place`` is the optimizer step, the rank and the micro-batch."""


def shuffled(index: int, size: int, seed: int, epoch: int) -> int:
    """Position ``index`` of a permutation of ``range(size)`` that depends on ``seed`` and ``epoch``.

    A Feistel network permutes the next power of four; values beyond ``size`` are permuted again until they fall inside
    ("cycle walking", Black and Rogaway 2002, method 2), which keeps it a bijection and takes under four walks on
    average.
    """
    assert 0 <= index < size, (index, size)
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    value = index
    while True:
        left, right = value >> half_bits, value & mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (mixed(seed, epoch, round_number, right) & mask)
        value = left << half_bits | right
        if value < size:
            return value


def mixed(*numbers: int) -> int:
    """64 bits that depend on every one of ``numbers`` and look like chance."""
    content = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class TrainingOrder:
    """Which windows make up which batch."""

    windows: int
    """Windows in the training split."""
    batch_size: int
    """Windows per optimizer step over all ranks."""
    micro_batch_size: int
    """Windows per forward pass of one rank."""
    seed: int
    ranks: int = 1

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """Window numbers of every forward pass of ``rank`` in optimizer step ``step`` (from 0).

        The windows of a step do not depend on how it is divided into ranks and micro-batches.
        """
        first = step * self.batch_size
        positions = range(first + rank * self.micro_batch_size, first + self.batch_size)
        stride = self.ranks * self.micro_batch_size
        return [
            [self._window(position) for position in range(start, start + self.micro_batch_size)]
            for start in positions[::stride]
        ]

    def windows_of(self, step: int) -> list[int]:
        """Window numbers of optimizer step ``step`` (from 0), over all ranks and forward passes."""
        first = step * self.batch_size
        return [self._window(position) for position in range(first, first + self.batch_size)]

    def _window(self, position: int) -> int:
        epoch, index = divmod(position, self.windows)
        return shuffled(index, self.windows, self.seed, epoch)


def training_order(
    split: Split, context_length: int, batch_size: int, micro_batch_size: int, seed: int, ranks: int
) -> TrainingOrder:
    """The order for a training split; raises ``InputError`` if it does not fill one batch."""
    windows = max(0, split.n_tokens - 1) // context_length
    if windows < batch_size:
        needed = batch_size * context_length + 1
        raise InputError(
            f"the training split has {split.n_tokens:,} tokens, but one batch needs {needed:,} "
            f"({batch_size} sequences of {context_length} tokens, and one more to predict): "
            "add text, or lower trainer.batch_size or model.context_length"
        )
    return TrainingOrder(windows, batch_size, micro_batch_size, seed, ranks)


class TrainingBatches(IterableDataset[Batch]):
    """Every micro-batch of one rank from optimizer step ``start_step`` up to ``stop_step``."""

    def __init__(
        self,
        split: Split,
        order: TrainingOrder,
        context_length: int,
        boundary_id: int,
        rank: int,
        start_step: int,
        stop_step: int,
        columns: TokenColumns = MappingProxyType({}),
        alter: Alter | None = None,
    ) -> None:
        self.split = split
        self.order = order
        self.context_length = context_length
        self.boundary_id = boundary_id
        self.rank = rank
        self.steps = range(start_step, stop_step)
        self.columns = columns
        self.alter = alter

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            for part, windows in enumerate(self.order.micro_batches(step, self.rank)):
                batch = packed(self.split, windows, self.context_length, self.boundary_id, self.columns)
                yield batch if self.alter is None else self.alter(batch, step, self.rank, part)


class ValidationBatches(IterableDataset[Batch]):
    """The first windows of the validation split, in order and without shuffling, the last one padded.

    With several ranks each takes every ``ranks``-th batch.
    """

    def __init__(
        self,
        split: Split,
        context_length: int,
        boundary_id: int,
        batch_size: int,
        batches: int,
        rank: int = 0,
        ranks: int = 1,
        columns: TokenColumns = MappingProxyType({}),
    ) -> None:
        if split.n_tokens < 2:
            raise InputError(
                f"the {split.name} split has {split.n_tokens} tokens, at least 2 are needed: add documents, or raise "
                "its share of the data"
            )
        windows = -(-(split.n_tokens - 1) // context_length)
        self.split = split
        self.context_length = context_length
        self.boundary_id = boundary_id
        self.columns = columns
        starts = range(0, windows, batch_size)[:batches]
        self.batches = [list(range(start, min(start + batch_size, windows))) for start in starts][rank::ranks]

    def __iter__(self) -> Iterator[Batch]:
        for windows in self.batches:
            yield packed(self.split, windows, self.context_length, self.boundary_id, self.columns)


def packed(
    split: Split,
    windows: list[int],
    context_length: int,
    boundary_id: int,
    columns: TokenColumns = MappingProxyType({}),
) -> Batch:
    """Read windows: window ``w`` holds tokens ``[w * T, w * T + T]``, the last one only as a target.

    Beyond the end of the split, inputs are boundary tokens and targets ``IGNORED``, whose columns are filled.
    """
    rows = np.full((len(windows), context_length + 1), IGNORED, dtype=np.int64)
    for row, window in zip(rows, windows, strict=True):
        start = window * context_length
        tokens = split.slice(start, min(start + context_length + 1, split.n_tokens))
        row[: len(tokens)] = tokens
    inputs = np.where(rows == IGNORED, boundary_id, rows)[:, :-1]
    return Batch(
        torch.from_numpy(np.ascontiguousarray(inputs)),
        torch.from_numpy(np.ascontiguousarray(rows[:, 1:])),
        torch.from_numpy(document_starts(inputs, boundary_id)),
        {name: _of_targets(column, split, windows, context_length) for name, column in columns.items()},
    )


def _of_targets(
    column: TokenColumn, split: Split, windows: list[int], context_length: int
) -> Shaped[Tensor, "batch seq *shape"]:
    """The values of the targets of these windows; they belong to tokens, and a target is the token after."""
    starts = [window * context_length + 1 for window in windows]
    given = [column.slice(split.name, start, min(start + context_length, split.n_tokens)) for start in starts]
    rows = np.full((len(windows), context_length, *given[0].shape[1:]), column.fill, dtype=given[0].dtype)
    for row, values in zip(rows, given, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(rows)


def document_starts(tokens: Int[np.ndarray, "batch seq"], boundary_id: int) -> Int[np.ndarray, "batch seq"]:
    """For every token the index of the boundary that opens its document.

    A boundary ends one document as a target and opens the next as an input: what follows it is predicted from it, and
    text is scored and generated the same way.
    """
    positions = np.where(tokens == boundary_id, np.arange(tokens.shape[1]), 0)
    starts: Int[np.ndarray, "batch seq"] = np.maximum.accumulate(positions, axis=1)
    return starts
