"""Which held-out documents are scored: a fixed shuffle of the test split, cut at a number of documents and tokens.

The shuffle does not depend on the limits, so a larger budget scores a superset of the same documents, and two models
are always compared on the same ones.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from components.core.errors import InputError
from components.data.shards import ShardSet, Split

TEST_SPLIT = "test"
_SHUFFLE_SEED = 0


def held_out(shards: ShardSet) -> Split:
    """The test split; raises ``InputError`` if it holds no document."""
    split = shards.splits.get(TEST_SPLIT)
    if split is None or split.n_documents == 0:
        raise InputError(
            "the test split holds no document, so the model cannot be judged: give more documents "
            "(every document falls into one split as a whole) or set data.test_fraction higher"
        )
    return split


def chosen(tokens: Int[np.ndarray, " documents"], max_documents: int, max_tokens: int) -> Int[np.ndarray, " chosen"]:
    """Ascending indices of the documents to score, given their lengths; at least one."""
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(tokens))
    within = int(np.searchsorted(np.cumsum(tokens[order]), max_tokens, side="right"))
    return np.sort(order[: max(1, min(within, max_documents))])


def first_shuffled(count: int, limit: int) -> Sequence[int]:
    """Ascending indices of ``limit`` items out of ``count``, by the same kind of fixed shuffle."""
    return sorted(np.random.default_rng(_SHUFFLE_SEED).permutation(count)[:limit].tolist())
