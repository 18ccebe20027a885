# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Backward pass of attention in Triton. Equals

    p = exp2(scale * log2(e) * query @ key^T - lse), 0 where not visible    # [B, H, T, T], never made
    delta = (grad_out * out).sum(-1)
    ds = p * (grad_out @ value^T - delta)
    grad_query = scale * ds @ key
    grad_key = scale * ds^T @ query        # summed over the query heads that share the key
    grad_value = p^T @ grad_out            # likewise

(FlashAttention-2, Dao 2023, section 3.1). Two kernels, each of which owns what it writes: one program per tile of
queries for grad_query, which leaves delta behind for the other, one program per tile of keys for grad_key and
grad_value. The scores are computed twice (7 products instead of 5); in return nothing is added atomically: two runs
agree to the last bit, and the heads of a group are summed in registers.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.configurations import Configuration, Tiles
from kernels.attention.descriptors import described
from kernels.attention.forward import accumulator
from kernels.attention.spans import (
    both_loaded,
    key_span,
    masked_count,
    masked_first,
    of_head,
    of_head_in_both,
    row_span,
    scores_of,
    tile,
)
from kernels.interpreter import dot, tile_offset
from kernels.launch import on_device_of

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _meet_keys(
    dq,
    q,
    key_value,
    first,
    do,
    lse,
    delta,
    rows,
    starts,
    length,
    SCALE: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    MASKED: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
):
    """Add to grad_query what the keys of the tile at ``first`` contribute. Only MASKED ones may pass the row's end."""
    k, v = both_loaded(key_value, first, length, KEYS, q.shape[1], not MASKED, DESCRIBED)
    scores = scores_of(q, k, rows, starts, first, dq.dtype, MASKED, MASKED and DOCUMENTS)
    p = tl.exp2(scores * SCALE - lse[:, None])
    dp = dot(do, tl.trans(v), tl.zeros([q.shape[0], KEYS], dq.dtype))
    ds = p * (dp - delta[:, None])
    return dot(ds.to(k.dtype), k, dq)


@triton.jit
def _grad_query(
    grad_out,
    query,
    key,
    value,
    out,
    lse,
    delta,
    grad_query,
    doc_start,
    grad_out_strides,
    query_strides,
    key_strides,
    value_strides,
    heads,
    length,
    SCALE: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
    ACC: tl.constexpr,  # noqa: N803
):
    tiles = tl.cdiv(length, ROWS)
    first = (tiles - 1 - tl.program_id(0) % tiles) * ROWS  # the same order as forward, for the same reasons
    batch = tl.program_id(0) // tiles // heads
    head = tl.program_id(0) // tiles % heads
    rows = first + tl.arange(0, ROWS)
    inside = rows < length

    query = of_head(query, batch, head, query_strides)
    grad_out = of_head(grad_out, batch, head, grad_out_strides)
    strides = (length * heads * HEAD_DIM, heads * HEAD_DIM, HEAD_DIM)  # of what forward made
    out = of_head(out, batch, head, strides)
    key_value = of_head_in_both(key, value, batch, head // GROUP, key_strides, value_strides, DESCRIBED)
    of_rows = tile_offset(tl.program_id(0) // tiles, length) + rows

    q = tl.load(tile(query, first, query_strides[1], ROWS, HEAD_DIM), mask=inside[:, None], other=0.0)
    do = tl.load(tile(grad_out, first, grad_out_strides[1], ROWS, HEAD_DIM), mask=inside[:, None], other=0.0)
    o = tl.load(tile(out, first, heads * HEAD_DIM, ROWS, HEAD_DIM), mask=inside[:, None], other=0.0)
    row_delta = tl.sum(o.to(ACC) * do.to(ACC), 1)
    tl.store(delta + of_rows, row_delta, mask=inside)
    row_lse = tl.load(lse + of_rows, mask=inside, other=float("inf"))  # p is 0 in rows that are not there

    starts = rows
    if DOCUMENTS:
        doc_start += tile_offset(batch, length)
        starts = tl.minimum(tl.load(doc_start + rows, mask=inside, other=0), rows)
    bounds = key_span(doc_start, first, length, ROWS, KEYS, DOCUMENTS)

    dq = tl.zeros([ROWS, HEAD_DIM], ACC)
    for number in tl.range(0, masked_count(bounds, KEYS)):
        dq = _meet_keys(
            dq, q, key_value, masked_first(bounds, number, KEYS), do, row_lse, row_delta, rows, starts, length,
            SCALE * LOG2_E, KEYS, MASKED=True, DOCUMENTS=DOCUMENTS, DESCRIBED=DESCRIBED,
        )  # fmt: skip
    for begin in tl.range(bounds[1], bounds[2], KEYS):
        begin = tl.multiple_of(begin, KEYS)
        dq = _meet_keys(
            dq, q, key_value, begin, do, row_lse, row_delta, rows, starts, length,
            SCALE * LOG2_E, KEYS, MASKED=False, DOCUMENTS=DOCUMENTS, DESCRIBED=DESCRIBED,
        )  # fmt: skip
    grad_query = of_head(grad_query, batch, head, strides)
    grad_query = tile(grad_query, first, heads * HEAD_DIM, ROWS, HEAD_DIM)
    tl.store(grad_query, (dq * SCALE).to(q.dtype), mask=inside[:, None])


@triton.jit
def _meet_rows(
    dk,
    dv,
    k,
    v,
    query_grad_out,
    lse,
    delta,
    keys,
    ends,
    first,
    length,
    SCALE: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
):
    """Add to grad_key and grad_value what the tile of queries from ``first`` on of one head contributes; transposed."""
    rows = first + tl.arange(0, ROWS)
    q, do = both_loaded(query_grad_out, first, length, ROWS, k.shape[1], False, DESCRIBED)
    row_lse = tl.load(lse + rows, mask=rows < length, other=float("inf"))  # p is 0 in rows that are not there
    row_delta = tl.load(delta + rows, mask=rows < length, other=0.0)
    scores = dot(k, tl.trans(q), tl.zeros([k.shape[0], ROWS], dk.dtype))
    scores = tl.where(rows[None, :] >= keys[:, None], scores, float("-inf"))
    if DOCUMENTS:
        scores = tl.where(rows[None, :] < ends[:, None], scores, float("-inf"))
    p = tl.exp2(scores * SCALE - row_lse[None, :])
    dv = dot(p.to(do.dtype), do, dv)
    dp = dot(v, tl.trans(do), tl.zeros([k.shape[0], ROWS], dk.dtype))
    ds = p * (dp - row_delta[None, :])
    dk = dot(ds.to(q.dtype), q, dk)
    return dk, dv


@triton.jit
def _grad_key_value(
    grad_out,
    query,
    key,
    value,
    lse,
    delta,
    grad_key,
    grad_value,
    doc_end,
    grad_out_strides,
    query_strides,
    key_strides,
    value_strides,
    kv_heads,
    length,
    SCALE: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
    DESCRIBED: tl.constexpr,  # noqa: N803
    ACC: tl.constexpr,  # noqa: N803
):
    tiles = tl.cdiv(length, KEYS)
    first = tl.program_id(0) % tiles * KEYS  # the first keys are met by the most queries: they start first
    batch = tl.program_id(0) // tiles // kv_heads
    kv_head = tl.program_id(0) // tiles % kv_heads
    keys = first + tl.arange(0, KEYS)
    inside = keys < length

    key = of_head(key, batch, kv_head, key_strides)
    value = of_head(value, batch, kv_head, value_strides)
    k = tl.load(tile(key, first, key_strides[1], KEYS, HEAD_DIM), mask=inside[:, None], other=0.0)
    v = tl.load(tile(value, first, value_strides[1], KEYS, HEAD_DIM), mask=inside[:, None], other=0.0)

    ends = keys
    if DOCUMENTS:
        doc_end += tile_offset(batch, length)
        ends = tl.load(doc_end + keys, mask=inside, other=0)
    low, high = row_span(doc_end, first, length, ROWS, KEYS, DOCUMENTS)

    dk = tl.zeros([KEYS, HEAD_DIM], ACC)
    dv = tl.zeros([KEYS, HEAD_DIM], ACC)
    for member in tl.range(0, GROUP):
        head = kv_head * GROUP + member
        of_rows = tile_offset(batch * kv_heads * GROUP + head, length)
        query_grad_out = of_head_in_both(query, grad_out, batch, head, query_strides, grad_out_strides, DESCRIBED)
        for begin in tl.range(low, high, ROWS):
            begin = tl.multiple_of(begin, ROWS)
            dk, dv = _meet_rows(
                dk, dv, k, v, query_grad_out, lse + of_rows, delta + of_rows, keys, ends,
                begin, length, SCALE * LOG2_E, ROWS, DOCUMENTS=DOCUMENTS, DESCRIBED=DESCRIBED,
            )  # fmt: skip

    to = tile_offset(batch, length * kv_heads * HEAD_DIM) + tile_offset(kv_head, HEAD_DIM)
    tl.store(
        tile(grad_key + to, first, kv_heads * HEAD_DIM, KEYS, HEAD_DIM), (dk * SCALE).to(k.dtype), mask=inside[:, None]
    )
    tl.store(tile(grad_value + to, first, kv_heads * HEAD_DIM, KEYS, HEAD_DIM), dv.to(v.dtype), mask=inside[:, None])


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    doc_start: Tensor | None,
    doc_end: Tensor | None,
    scale: float,
    configuration: Configuration,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(grad_query, grad_key, grad_value)``, contiguous, of what ``forward`` gave; ``out`` and ``lse`` are its own."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if grad_out.stride(3) != 1:  # the gradient of a sum is one number, expanded
        grad_out = grad_out.contiguous()
    grads = tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))
    delta = query.new_empty((batch, heads, length), dtype=accumulator(query))
    if query.numel() == 0:
        return grads  # type: ignore[return-value]
    strides = [tensor.stride()[:3] for tensor in (grad_out, query, key, value)]
    constants = {
        "SCALE": scale,
        "GROUP": heads // kv_heads,
        "HEAD_DIM": head_dim,
        "DOCUMENTS": doc_start is not None,
        "ACC": tl.float64 if query.dtype == torch.float64 else tl.float32,
    }
    with on_device_of(query):
        tiles = configuration.grad_query
        met = described(key, value, tiles.keys) if tiles.described else None
        _grad_query[(batch * heads * triton.cdiv(length, tiles.rows),)](
            grad_out,
            query,
            *(met or (key, value)),
            out,
            lse,
            delta,
            grads[0],
            doc_start,
            *strides,
            heads,
            length,
            **constants,
            **_cut(tiles, met),
        )
        tiles = configuration.grad_key_value
        met = described(grad_out, query, tiles.rows) if tiles.described else None
        _grad_key_value[(batch * kv_heads * triton.cdiv(length, tiles.keys),)](
            *(met or (grad_out, query)),
            key,
            value,
            lse,
            delta,
            grads[1],
            grads[2],
            doc_end,
            *strides,
            kv_heads,
            length,
            **constants,
            **_cut(tiles, met),
        )
    return grads  # type: ignore[return-value]


def _cut(tiles: Tiles, met: tuple[object, object] | None) -> dict[str, int | bool]:
    """The arguments of a launch that tiles decide."""
    return {
        "ROWS": tiles.rows,
        "KEYS": tiles.keys,
        "DESCRIBED": met is not None,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
