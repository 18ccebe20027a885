from pathlib import Path

import numpy as np
import pytest

from components.core.errors import InputError
from components.data.shards import ShardSet, ShardWriter
from components.evaluation.heldout import chosen, first_shuffled, held_out

LENGTHS = np.random.default_rng(0).integers(10, 500, size=200)


def test_the_choice_keeps_both_limits_and_uses_them_up() -> None:
    by_documents = chosen(LENGTHS, max_documents=30, max_tokens=10**9)
    assert len(set(by_documents.tolist())) == 30
    by_tokens = chosen(LENGTHS, max_documents=200, max_tokens=10_000)
    assert 9_500 < LENGTHS[by_tokens].sum() <= 10_000
    assert chosen(LENGTHS, 10**6, 10**9).tolist() == list(range(200))


def test_a_larger_budget_scores_a_superset_of_the_same_documents() -> None:
    small, large = chosen(LENGTHS, 20, 10**9), chosen(LENGTHS, 90, 10**9)
    assert set(small) < set(large)
    assert small.tolist() == chosen(LENGTHS, 20, 10**9).tolist() == sorted(small)


def test_the_choice_is_not_the_beginning_of_the_corpus() -> None:
    assert chosen(LENGTHS, 50, 10**9).max() > 150
    assert max(first_shuffled(200, 50)) > 150


def test_one_document_is_scored_even_if_it_exceeds_the_budget() -> None:
    assert chosen(np.array([1000]), 5, max_tokens=10).tolist() == [0]


@pytest.mark.parametrize("splits", [["train"], ["train", "validation"]])
def test_a_corpus_without_test_documents_is_refused_with_the_way_out(tmp_path: Path, splits: list[str]) -> None:
    with ShardWriter(tmp_path, 320, 0) as writer:
        for split in splits:
            writer.add(split, [5, 6, 7], 3)
    with pytest.raises(InputError, match=r"test split holds no document.*give more documents"):
        held_out(ShardSet.open(tmp_path))
