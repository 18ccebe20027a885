"""Misspelt words in training batches: read, never learnt, and the same again after an interruption."""

import re

import numpy as np
import pytest
import torch

from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.training.loader import IGNORED, Batch, document_starts, packed
from components.training.misspelt_words import MisspeltWords

LENGTH = 48


@pytest.fixture(scope="module")
def tokenizer(prepared: PreparedData) -> TextTokenizer:
    return prepared.tokenizer()


@pytest.fixture(scope="module")
def batch(prepared: PreparedData) -> Batch:
    shards = prepared.shards()
    whole = packed(shards.splits["train"], list(range(12)), LENGTH, shards.boundary_id)
    return whole._replace(columns={"id": whole.targets.clone()})


def words_of(tokenizer: TextTokenizer, ids: torch.Tensor) -> list[str]:
    return tokenizer.decode(ids.tolist()).split()


def test_words_in_lower_case_change_by_a_letter_and_all_others_stay(tokenizer: TextTokenizer, batch: Batch) -> None:
    altered = MisspeltWords(tokenizer, rate=0.5, seed=1)(batch, 0)
    changed = 0
    for before, after in zip(batch.tokens, altered.tokens, strict=True):
        pairs = list(zip(words_of(tokenizer, before), words_of(tokenizer, after), strict=False))[:-2]
        for old, new in pairs:  # the last words may be cut
            if old != new:
                changed += 1
                assert re.match(r"[a-z]{3,}", old), (old, new)
                assert abs(len(old) - len(new)) <= 1
    assert changed > 20


def test_what_is_misspelt_is_no_target_and_all_else_is_predicted_as_before(
    tokenizer: TextTokenizer, batch: Batch
) -> None:
    altered = MisspeltWords(tokenizer, rate=0.3, seed=1)(batch, 0)
    assert altered.tokens.shape == altered.targets.shape == batch.tokens.shape
    followed = altered.targets[:, :-1]
    known = followed != IGNORED
    assert 0.5 < known.float().mean() < 1
    assert torch.equal(followed[known], altered.tokens[:, 1:][known])
    for before, after in zip(batch.targets.tolist(), altered.targets.tolist(), strict=True):
        rest = iter(before)
        assert all(target in rest for target in after if target != IGNORED)  # a subsequence: nothing new is learnt


def test_columns_and_documents_go_with_their_tokens(tokenizer: TextTokenizer, batch: Batch) -> None:
    altered = MisspeltWords(tokenizer, rate=0.3, seed=1)(batch, 0)
    known = altered.targets != IGNORED
    assert torch.equal(altered.columns["id"][known], altered.targets[known])
    starts = document_starts(altered.tokens.numpy(), tokenizer.special.end_of_text)
    assert np.array_equal(altered.document_start.numpy(), starts)


def test_the_place_in_the_training_decides_what_is_misspelt(tokenizer: TextTokenizer, batch: Batch) -> None:
    alter = MisspeltWords(tokenizer, rate=0.3, seed=1)
    first, again, later = alter(batch, 4, 0, 0), MisspeltWords(tokenizer, 0.3, 1)(batch, 4, 0, 0), alter(batch, 5, 0, 0)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, later.tokens)


def test_a_padded_end_stays_padded(tokenizer: TextTokenizer, prepared: PreparedData) -> None:
    shards = prepared.shards()
    split = shards.splits["validation"]
    last = packed(split, [split.n_tokens // LENGTH], LENGTH, shards.boundary_id)
    altered = MisspeltWords(tokenizer, rate=0.3, seed=1)(last, 0)
    assert (altered.targets[last.targets == IGNORED][-1:] == IGNORED).all()
    assert (altered.tokens >= 0).all()
