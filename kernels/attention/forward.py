# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Forward pass of attention in Triton. Equals

    scores = scale * query @ key^T, -inf where not visible    # [B, H, T, T], never made
    out = softmax(scores) @ value
    lse = log2(sum(exp(scores)))                              # [B, H, T], base 2, for the backward pass

The online softmax of FlashAttention-2 (Dao 2023, section 3.1): one program per query head and tile of queries walks
over the tiles of keys with a running maximum. Everything is in base 2, where the GPU has its exponential, and the
scale is applied to the fp32 scores, not to the bf16 queries, which would round once more.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.configurations import Tiles
from kernels.attention.descriptors import described
from kernels.attention.spans import (
    both_loaded,
    key_span,
    masked_count,
    masked_first,
    of_head,
    of_head_in_both,
    scores_of,
    tile,
)
from kernels.interpreter import dot, tile_offset
from kernels.launch import on_device_of

# Where the running maximum starts. Finite, so that a query that has met only masked keys (scores of -inf) subtracts
# -inf - LOWEST = -inf and gets exp2(-inf) = 0, where a start at -inf would give -inf - -inf = NaN.
LOWEST = tl.constexpr(-3e38)


@triton.jit
def _meet(
    acc,
    total,
    peak,
    q,
    key_value,
    first,
    rows,
    starts,
    length,
    SCALE: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    MASKED: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
):
    """Take the tile of keys from ``first`` on into the running sums. Only a MASKED one may pass the row's end."""
    k, v = both_loaded(key_value, first, length, KEYS, q.shape[1], not MASKED, DESCRIBED)
    scores = scores_of(q, k, rows, starts, first, acc.dtype, MASKED, MASKED and DOCUMENTS)
    higher = tl.maximum(peak, tl.max(scores, 1) * SCALE)
    p = tl.exp2(scores * SCALE - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(p, 1)
    acc = dot(p.to(v.dtype), v, acc * shrink[:, None])
    return acc, total, higher


@triton.jit
def _forward(
    query,
    key,
    value,
    out,
    lse,
    doc_start,
    query_strides,
    key_strides,
    value_strides,
    heads,
    length,
    SCALE: tl.constexpr,  # noqa: N803  scale * log2(e)
    GROUP: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
    ACC: tl.constexpr,  # noqa: N803
):
    # One axis, as the others hold 65535 programs. Tiles of a head are neighbours, and so are the heads that share keys:
    # they find them in L2. Of a head's tiles the last comes first: it meets the most keys.
    tiles = tl.cdiv(length, ROWS)
    first = (tiles - 1 - tl.program_id(0) % tiles) * ROWS
    batch = tl.program_id(0) // tiles // heads
    head = tl.program_id(0) // tiles % heads
    rows = first + tl.arange(0, ROWS)

    query = of_head(query, batch, head, query_strides)
    key_value = of_head_in_both(key, value, batch, head // GROUP, key_strides, value_strides, DESCRIBED)
    q = tl.load(tile(query, first, query_strides[1], ROWS, HEAD_DIM), mask=(rows < length)[:, None], other=0.0)
    starts = rows
    if DOCUMENTS:
        doc_start += tile_offset(batch, length)
        # A token sees itself whatever its bounds say, so that no row is empty.
        starts = tl.minimum(tl.load(doc_start + rows, mask=rows < length, other=0), rows)
    bounds = key_span(doc_start, first, length, ROWS, KEYS, DOCUMENTS)

    acc = tl.zeros([ROWS, HEAD_DIM], ACC)
    total = tl.zeros([ROWS], ACC)
    peak = tl.full([ROWS], LOWEST, ACC)
    for number in tl.range(0, masked_count(bounds, KEYS)):
        acc, total, peak = _meet(
            acc, total, peak, q, key_value, masked_first(bounds, number, KEYS), rows, starts, length, SCALE, KEYS,
            MASKED=True, DOCUMENTS=DOCUMENTS, DESCRIBED=DESCRIBED,
        )  # fmt: skip
    for begin in tl.range(bounds[1], bounds[2], KEYS):
        begin = tl.multiple_of(begin, KEYS)
        acc, total, peak = _meet(
            acc, total, peak, q, key_value, begin, rows, starts, length, SCALE, KEYS,
            MASKED=False, DOCUMENTS=DOCUMENTS, DESCRIBED=DESCRIBED,
        )  # fmt: skip

    o = of_head(out, batch, head, (length * heads * HEAD_DIM, heads * HEAD_DIM, HEAD_DIM))
    o = tile(o, first, heads * HEAD_DIM, ROWS, HEAD_DIM)
    tl.store(o, (acc / total[:, None]).to(out.dtype.element_ty), mask=(rows < length)[:, None])
    lse += tile_offset(tl.program_id(0) // tiles, length)
    tl.store(lse + rows, peak + tl.log2(total), mask=rows < length)


def forward(
    query: Tensor, key: Tensor, value: Tensor, doc_start: Tensor | None, scale: float, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    """``(out [B,T,H,D], lse [B,H,T])``, both contiguous; ``lse`` is base 2, fp32 (fp64 for fp64)."""
    batch, length, heads, head_dim = query.shape
    out = query.new_empty(query.shape)
    lse = query.new_empty((batch, heads, length), dtype=accumulator(query))
    programs = batch * heads * triton.cdiv(length, tiles.rows)
    if not programs:
        return out, lse
    met = described(key, value, tiles.keys) if tiles.described else None
    with on_device_of(query):
        _forward[(programs,)](
            query,
            *(met or (key, value)),
            out,
            lse,
            doc_start,
            query.stride()[:3],
            key.stride()[:3],
            value.stride()[:3],
            heads,
            length,
            SCALE=scale * math.log2(math.e),
            GROUP=heads // key.shape[2],
            HEAD_DIM=head_dim,
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            DOCUMENTS=doc_start is not None,
            DESCRIBED=met is not None,
            ACC=tl.float64 if query.dtype == torch.float64 else tl.float32,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return out, lse


def accumulator(tensor: Tensor) -> torch.dtype:
    """What sums are held in: fp32, and fp64 for fp64, which only the interpreter's gradient checks use."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
