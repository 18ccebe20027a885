from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import InputError
from components.data.shards import ShardSet, Split
from components.training.loader import (
    IGNORED,
    TrainingBatches,
    TrainingOrder,
    ValidationBatches,
    document_starts,
    shuffled,
    training_order,
)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6))
def test_an_epoch_visits_every_window_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(shuffled(index, size, seed, epoch) for index in range(size)) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(shuffled(i, 50, seed, epoch) for i in range(50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_neighbours_do_not_stay_together() -> None:
    order = [shuffled(index, 10_000, seed=1, epoch=0) for index in range(10_000)]
    jumps = np.abs(np.diff(order))
    assert np.mean(jumps) == pytest.approx(10_000 / 3, rel=0.05)  # as of a random permutation
    assert abs(np.corrcoef(order, range(10_000))[0, 1]) < 0.05


def test_a_corpus_of_a_billion_windows_costs_no_memory() -> None:
    places = {shuffled(index, 10**9, seed=0, epoch=0) for index in range(1000)}
    assert len(places) == 1000
    assert max(places) > 9e8


@settings(max_examples=60, deadline=None)
@given(
    windows=st.integers(1, 100),
    ranks=st.integers(1, 4),
    micro=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    step=st.integers(0, 300),
    seed=st.integers(0, 99),
)
def test_a_step_has_the_same_windows_however_it_is_divided(
    windows: int, ranks: int, micro: int, accumulation: int, step: int, seed: int
) -> None:
    batch_size = ranks * micro * accumulation
    whole = TrainingOrder(windows, batch_size, batch_size, seed)
    divided = TrainingOrder(windows, batch_size, micro, seed, ranks)
    pieces = [divided.micro_batches(step, rank) for rank in range(ranks)]
    assert all(len(piece) == accumulation and all(len(row) == micro for row in piece) for piece in pieces)
    together = [window for piece in pieces for row in piece for window in row]
    assert Counter(together) == Counter(whole.micro_batches(step, 0)[0])


@settings(max_examples=40, deadline=None)
@given(windows=st.integers(3, 60), batch_size=st.integers(1, 3), seed=st.integers(0, 99), stop=st.integers(1, 40))
def test_the_order_depends_on_the_step_alone_not_on_where_the_run_began(
    windows: int, batch_size: int, seed: int, stop: int
) -> None:
    order = TrainingOrder(windows, batch_size, 1, seed)
    uninterrupted = [order.micro_batches(step, 0) for step in range(stop)]
    for start in range(stop):
        assert [order.micro_batches(step, 0) for step in range(start, stop)] == uninterrupted[start:]


def test_an_interrupted_epoch_goes_on_with_the_same_tokens(shards: ShardSet) -> None:
    split = shards.splits["train"]
    order = training_order(split, 32, batch_size=4, micro_batch_size=2, seed=3, ranks=1)
    whole = list(TrainingBatches(split, order, 32, shards.boundary_id, rank=0, start_step=0, stop_step=9))
    rest = list(TrainingBatches(split, order, 32, shards.boundary_id, rank=0, start_step=5, stop_step=9))
    assert len(whole) == 18
    for expected, batch in zip(whole[10:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected[:3], batch[:3], strict=True))


def test_windows_hold_the_tokens_of_the_split_and_targets_are_the_next_ones(shards: ShardSet) -> None:
    split = shards.splits["train"]
    order = training_order(split, 32, batch_size=4, micro_batch_size=4, seed=0, ranks=1)
    batch = next(iter(TrainingBatches(split, order, 32, shards.boundary_id, rank=0, start_step=0, stop_step=1)))
    for row, window in enumerate(order.micro_batches(0, 0)[0]):
        stored = split.slice(window * 32, window * 32 + 33).astype(np.int64)
        np.testing.assert_array_equal(batch.tokens[row].numpy(), stored[:-1])
        np.testing.assert_array_equal(batch.targets[row].numpy(), stored[1:])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_document_starts_point_at_the_nearest_boundary_before(tokens: list[int]) -> None:
    (starts,) = document_starts(np.array([tokens]), boundary_id=0)
    for position, start in enumerate(starts):
        before = [index for index in range(position + 1) if tokens[index] == 0]
        assert start == (before[-1] if before else 0)


def test_training_rows_are_whole_so_every_token_counts_as_one_that_is_learned_from(shards: ShardSet) -> None:
    split, length = shards.splits["train"], 32
    windows = (split.n_tokens - 1) // length
    order = training_order(split, length, batch_size=windows, micro_batch_size=windows, seed=0, ranks=1)
    (epoch,) = TrainingBatches(split, order, length, shards.boundary_id, rank=0, start_step=0, stop_step=1)
    assert epoch.targets.numel() == windows * length
    assert (epoch.targets >= 0).all()


def test_validation_reads_the_whole_split_once_and_pads_what_is_missing(shards: ShardSet) -> None:
    split = shards.splits["validation"]
    batches = list(ValidationBatches(split, 32, shards.boundary_id, batch_size=4, batches=10**6))
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    np.testing.assert_array_equal(targets[targets != IGNORED].numpy(), split.slice(1, split.n_tokens).astype(np.int64))
    assert all(batch.tokens.min() >= 0 for batch in batches)
    shares = [
        list(ValidationBatches(split, 32, shards.boundary_id, batch_size=4, batches=5, rank=rank, ranks=2))
        for rank in range(2)
    ]
    assert sum(len(share) for share in shares) == 5


def test_a_corpus_smaller_than_one_batch_says_what_it_has_what_is_needed_and_what_to_change(shards: ShardSet) -> None:
    split = shards.splits["train"]
    with pytest.raises(InputError) as error:
        training_order(split, 256, batch_size=4096, micro_batch_size=16, seed=0, ranks=1)
    message = str(error.value)
    assert f"{split.n_tokens:,} tokens" in message
    assert f"{4096 * 256 + 1:,}" in message
    assert "trainer.batch_size" in message
    assert "model.context_length" in message


def test_an_empty_validation_split_is_refused(shards: ShardSet) -> None:
    split = shards.splits["validation"]
    empty = Split(split.folder, "validation", 1, 0, 0, split.shard_tokens, split.dtype)
    with pytest.raises(InputError, match="validation split has 1 tokens"):
        ValidationBatches(empty, 32, 0, batch_size=4, batches=1)


class FewBits:
    """A bit for every token whose position or id is odd, of one split."""

    fill = False

    def __init__(self, split: Split, by_id: bool) -> None:
        tokens = split.slice(0, split.n_tokens)
        self.bits = (tokens if by_id else np.arange(split.n_tokens)) % 2 == 1

    def slice(self, split: str, start: int, stop: int) -> np.ndarray:
        return self.bits[start:stop]


def test_labels_come_with_the_targets_they_belong_to_and_padding_has_none(shards: ShardSet) -> None:
    split = shards.splits["validation"]
    columns = {"factual": FewBits(split, by_id=True), "judged": FewBits(split, by_id=False)}
    batches = ValidationBatches(split, 32, shards.boundary_id, batch_size=4, batches=10**6, columns=columns)
    factual, judged, targets = [], [], []
    for batch in batches:
        assert batch.columns["factual"].shape == batch.columns["judged"].shape == batch.targets.shape
        factual.append(batch.columns["factual"].flatten())
        judged.append(batch.columns["judged"].flatten())
        targets.append(batch.targets.flatten())
    rows, known = torch.cat(targets), torch.cat(targets) != IGNORED
    assert not known.all()
    assert torch.equal(torch.cat(factual), known & (rows % 2 == 1))
    # Position p of the split is target p - 1: the first token is never predicted.
    assert torch.equal(torch.cat(judged)[known], torch.arange(1, split.n_tokens) % 2 == 1)
    assert not torch.cat(judged)[~known].any()


def test_without_labels_batches_have_none(shards: ShardSet) -> None:
    batch = next(iter(ValidationBatches(shards.splits["validation"], 32, shards.boundary_id, 4, 1)))
    assert not batch.columns
