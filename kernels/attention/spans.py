# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Which tiles a tile meets, and which of them need a mask; the part of attention that both directions share.

In plain PyTorch, over ``visible`` of reference.py for the tile of queries [m0, m1): the first and last + 1 tile of
keys that have any visible pair, and between them the tiles whose pairs are all visible:

    doc_start[m0] ...            skipped before: other documents
    low .. middle                documents are tested: the tile's later queries may be of later documents
    middle .. diagonal           every pair is visible, no mask
    diagonal .. high             causality and documents are tested, and the row may end

The masked tiles of both parts are met in one loop, and the others in a second: chained loops for the three parts make
ptxas serialise Hopper's matrix products (C7515) and cost a hundred registers. The tile of keys [n0, n1) meets the
queries from n0 up to the end of its last document, all masked: with a second loop for the others its kernel spills.

Bounds come from memory, so they are clamped to the row: whatever they hold, nothing outside is read.
"""

import triton
import triton.language as tl

from kernels.interpreter import dot, tile_offset


@triton.jit
def key_span(
    doc_start,
    first_row,
    length,
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
):
    """``(low, middle, diagonal, high)`` of the keys that the queries from ``first_row`` on meet.

    ``doc_start`` points to the bounds of this batch row.
    """
    diagonal = first_row // KEYS * KEYS
    high = tl.minimum(first_row + ROWS, length)
    if DOCUMENTS:
        earliest = tl.maximum(tl.minimum(tl.load(doc_start + first_row), first_row), 0)
        latest = tl.maximum(tl.load(doc_start + high - 1), earliest)
        low = earliest // KEYS * KEYS
        middle = tl.minimum(tl.cdiv(latest, KEYS) * KEYS, diagonal)
    else:
        low = first_row * 0
        middle = low
    return low, middle, diagonal, high


@triton.jit
def row_span(
    doc_end,
    first_key,
    length,
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
):
    """``(low, high)`` of the queries that meet the keys from ``first_key`` on.

    ``doc_end`` points to the bounds of this batch row.
    """
    low = first_key // ROWS * ROWS
    if DOCUMENTS:
        last_key = tl.minimum(first_key + KEYS, length) - 1
        high = tl.maximum(tl.minimum(tl.load(doc_end + last_key), length), first_key)
    else:
        high = first_key * 0 + length
    return low, high


@triton.jit
def masked_count(bounds, SIZE: tl.constexpr):  # noqa: N803
    """How many of the tiles between these four ``bounds`` need a mask: those of the first part and of the last."""
    return (bounds[1] - bounds[0]) // SIZE + tl.cdiv(bounds[3] - bounds[2], SIZE)


@triton.jit
def masked_first(bounds, number, SIZE: tl.constexpr):  # noqa: N803
    """Where the masked tile of this number begins."""
    of_first_part = (bounds[1] - bounds[0]) // SIZE
    first = tl.where(number < of_first_part, bounds[0] + number * SIZE, bounds[2] + (number - of_first_part) * SIZE)
    return tl.multiple_of(first, SIZE)


@triton.jit
def of_head(base, batch, head, strides):
    """Pointer to the first token of one head of [B, T, H, D] with these strides of B, T and H."""
    return base + tile_offset(batch, strides[0]) + tile_offset(head, strides[2])


@triton.jit
def tile(base, first, stride_t, SIZE: tl.constexpr, HEAD_DIM: tl.constexpr):  # noqa: N803
    """Pointers [SIZE, HEAD_DIM] to the tokens from ``first`` on of the head at ``base``."""
    return (
        base + tile_offset(first, stride_t) + tl.arange(0, SIZE)[:, None] * stride_t + tl.arange(0, HEAD_DIM)[None, :]
    )


@triton.jit
def of_head_in_both(one, other, batch, head, one_strides, other_strides, DESCRIBED: tl.constexpr):  # noqa: N803
    """One head of two tensors, as ``both_loaded`` takes it; DESCRIBED: the tensors are given as descriptors."""
    if DESCRIBED:
        pair = one, other, batch, head
    else:
        one, other = of_head(one, batch, head, one_strides), of_head(other, batch, head, other_strides)
        pair = one, other, one_strides[1], other_strides[1]
    return pair


@triton.jit
def both_loaded(
    pair,
    first,
    length,
    SIZE: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    WHOLE: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
):
    """The tiles from ``first`` on of the two heads of a pair (``of_head_in_both``).

    Zeros for tokens from ``length`` on, of which a WHOLE tile has none.
    """
    if DESCRIBED:
        one = pair[0].load([pair[2], pair[3], first, 0]).reshape(SIZE, HEAD_DIM)
        other = pair[1].load([pair[2], pair[3], first, 0]).reshape(SIZE, HEAD_DIM)
    elif WHOLE:
        one = tl.load(tile(pair[0], first, pair[2], SIZE, HEAD_DIM))
        other = tl.load(tile(pair[1], first, pair[3], SIZE, HEAD_DIM))
    else:
        tokens = first + tl.arange(0, SIZE)
        one = tile(pair[0], first, pair[2], SIZE, HEAD_DIM)
        other = tile(pair[1], first, pair[3], SIZE, HEAD_DIM)
        one = tl.load(one, mask=(tokens < length)[:, None], other=0.0)
        other = tl.load(other, mask=(tokens < length)[:, None], other=0.0)
    return one, other


@triton.jit
def scores_of(q, k, rows, starts, first, ACC: tl.constexpr, CAUSAL: tl.constexpr, DOCUMENTS: tl.constexpr):  # noqa: N803
    """``q @ k^T`` for the keys from ``first`` on; -inf where a query does not see one, being later or of a document
    before its own."""
    keys = first + tl.arange(0, k.shape[0])
    scores = dot(q, tl.trans(k), tl.zeros([q.shape[0], k.shape[0]], ACC))
    if CAUSAL:
        scores = tl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
    if DOCUMENTS:
        scores = tl.where(keys[None, :] >= starts[:, None], scores, float("-inf"))
    return scores
