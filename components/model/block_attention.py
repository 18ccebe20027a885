"""Causal attention over packed documents on a CPU, block of queries by block of queries, with its gradients.

Equals, for scores that are scaled and have ``mask`` added, ``softmax(q @ k.T) @ v``. A block of queries takes part in
products only with the keys from the first document of its queries up to its own end: the rest is masked anyway. What
lies between the products is done where a block is still in the cache. The probabilities are kept for backward.

One operator each way, for torch.compile cannot trace how the documents of a batch lie.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call,override,attr-defined"
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernels.dispatch import constant_when_compiled

# Queries in a block: fp32 is bound by the products, so it leaves out as much as it can; bf16 by the number of calls.
BLOCK_QUERIES = {torch.float32: 64, torch.bfloat16: 256}

_SIGNATURE = "Tensor query, Tensor key, Tensor value, Tensor start, Tensor mask, int block, int rows"
torch.library.define("lacewing::block_attention", f"({_SIGNATURE}, bool keep) -> (Tensor, Tensor)")
torch.library.define(
    "lacewing::block_attention_backward",
    f"(Tensor upstream, Tensor probabilities, {_SIGNATURE}) -> (Tensor, Tensor, Tensor)",
)


def block_attention(
    query: Float[Tensor, "batch seq heads head"],
    key: Float[Tensor, "batch seq kv_heads head"],
    value: Float[Tensor, "batch seq kv_heads head"],
    start: Int[Tensor, "batch seq"],
    mask: Float[Tensor, "batch 1 seq seq"],
) -> Float[Tensor, "batch seq heads head"]:
    """For every query head the mixed values. All in fp32 or all in bf16; gradients reach query, key and value.

    Arguments:
        start: index of the first token of each token's document; may have one row for all.
        mask: the same and causality, to be added to the scores; may have one row for all.
    """
    keep = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    block = BLOCK_QUERIES[query.dtype]
    mixed: Tensor = _BlockAttention.apply(query, key, value, start, mask, block, _rows_at_once(), keep)
    return mixed


@constant_when_compiled
def _rows_at_once() -> int:
    """One row alone leaves out most, but its products are too small for many threads."""
    return max(1, torch.get_num_threads() // 4)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, *arguments: Any) -> Tensor:
        mixed: Tensor
        mixed, probabilities = torch.ops.lacewing.block_attention(*arguments)
        context.save_for_backward(probabilities, *arguments[:5])
        context.sizes = arguments[5:7]
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = torch.ops.lacewing.block_attention_backward(upstream, *context.saved_tensors, *context.sizes)
        return *gradients, *(None,) * 5


class _Tile(NamedTuple):
    """Some rows of the batch and a block of their queries."""

    matrices: slice
    """Rows and key heads, of which there is one matrix each."""
    queries: slice
    """Positions and the heads of a group, of which there is one line each."""
    keys: slice
    masked: tuple[slice, slice, slice]
    """Rows, queries and keys of the mask that hide something."""
    from_key: int
    """The first of the tile's keys that the mask hides from some query."""


class _Heads:
    """The shapes of one call. Queries of a group are lines of one matrix, so keys and values are never repeated."""

    def __init__(self, query: Tensor, key: Tensor, start: Tensor, block: int, rows: int) -> None:
        self.batch, self.seq, heads, self.head = query.shape
        self.kv_heads = key.shape[2]
        self.group = heads // self.kv_heads
        self._block, self._rows = block, min(rows, self.batch)
        begins = range(0, self.seq, block)
        self._first = start[:, list(begins)].expand(self.batch, -1).tolist()
        ends = [min(begin + block, self.seq) - 1 for begin in begins]
        self._last = start[:, ends].expand(self.batch, -1).tolist()

    def queries(self, tensor: Tensor) -> Float[Tensor, "matrices lines head"]:
        """Queries, or what has their shape. No copy if there is one key head."""
        grouped = tensor.reshape(self.batch, self.seq, self.kv_heads, self.group, self.head).transpose(1, 2)
        return grouped.reshape(self.batch * self.kv_heads, self.seq * self.group, self.head)

    def keys(self, tensor: Tensor) -> Float[Tensor, "matrices seq head"]:
        return tensor.transpose(1, 2).reshape(self.batch * self.kv_heads, self.seq, self.head)

    def as_queries(self, matrices: Tensor) -> Float[Tensor, "batch seq heads head"]:
        grouped = matrices.view(self.batch, self.kv_heads, self.seq, self.group, self.head).transpose(1, 2)
        return grouped.reshape(self.batch, self.seq, self.kv_heads * self.group, self.head)

    def as_keys(self, matrices: Tensor) -> Float[Tensor, "batch seq kv_heads head"]:
        return matrices.view(self.batch, self.kv_heads, self.seq, self.head).transpose(1, 2).contiguous()

    def tiles(self) -> Iterator[_Tile]:
        for row in range(0, self.batch, self._rows):
            rows = slice(row, min(row + self._rows, self.batch))
            for number, begin in enumerate(range(0, self.seq, self._block)):
                end = min(begin + self._block, self.seq)
                low = min(first[number] for first in self._first[rows])
                divided = max(last[number] for last in self._last[rows]) > low
                yield _Tile(
                    slice(rows.start * self.kv_heads, rows.stop * self.kv_heads),
                    slice(begin * self.group, end * self.group),
                    slice(low, end),
                    (rows, slice(begin, end), slice(low if divided else begin, end)),
                    0 if divided else begin - low,
                )

    def room(self, tile: _Tile) -> tuple[int, int, int]:
        """The shape of a tile's scores."""
        return tuple(each.stop - each.start for each in tile[:3])  # type: ignore[return-value]

    def hide(self, scores: Tensor, tile: _Tile, mask: Tensor) -> None:
        """Add the mask to the scores of a tile."""
        rows, queries, keys = tile.masked
        mask = mask[rows, :, queries, keys]
        by_query = scores.view(-1, self.kv_heads, mask.shape[2], self.group, scores.shape[2])
        by_query[..., tile.from_key :].add_(mask[:, :, :, None])


def _kept(query: Tensor, block: int) -> int:
    """Elements that the probabilities of all blocks have if every row is one document: no more with several."""
    batch, seq, heads, _ = query.shape
    return batch * heads * (seq * (seq + block) // 2)


@torch.library.impl("lacewing::block_attention", "cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    start: Tensor,
    mask: Tensor,
    block: int,
    rows: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", enabled=False):
        heads, mask = _Heads(query, key, start, block, rows), mask.expand(len(query), -1, -1, -1)
        q, k, v = heads.queries(query), heads.keys(key), heads.keys(value)
        mixed, kept = torch.empty_like(q), query.new_empty(_kept(query, block) if keep else 0)
        unused, used = query.new_empty(()), 0
        for tile in heads.tiles():
            shape = heads.room(tile)
            count = shape[0] * shape[1] * shape[2]
            scores = kept[used : used + count].view(shape) if keep else query.new_empty(shape)
            lines, keys = q[tile.matrices, tile.queries], k[tile.matrices, tile.keys]
            torch.baddbmm(unused, lines, keys.mT, beta=0, alpha=heads.head**-0.5, out=scores)
            heads.hide(scores, tile, mask)
            torch.softmax(scores, -1, out=scores)
            torch.bmm(scores, v[tile.matrices, tile.keys], out=mixed[tile.matrices, tile.queries])
            used += count
        return heads.as_queries(mixed), kept


@torch.library.register_fake("lacewing::block_attention")
def _forward_fake(
    query: Tensor, key: Tensor, value: Tensor, start: Tensor, mask: Tensor, block: int, rows: int, keep: bool
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(_kept(query, block) if keep else 0)


@torch.library.impl("lacewing::block_attention_backward", "cpu")
def _backward(
    upstream: Tensor,
    probabilities: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    start: Tensor,
    mask: Tensor,
    block: int,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast("cpu", enabled=False):
        heads = _Heads(query, key, start, block, rows)
        g, q, k, v = heads.queries(upstream), heads.queries(query), heads.keys(key), heads.keys(value)
        g_q, g_k, g_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        unused, used, scale = query.new_empty(()), 0, heads.head**-0.5
        for tile in heads.tiles():
            shape = heads.room(tile)
            count = shape[0] * shape[1] * shape[2]
            p = probabilities[used : used + count].view(shape)
            lines, keys = (tile.matrices, tile.queries), (tile.matrices, tile.keys)
            g_v[keys].baddbmm_(p.mT, g[lines])
            g_p = torch.bmm(g[lines], v[keys].mT)
            torch.ops.aten._softmax_backward_data.out(g_p, p, -1, p.dtype, grad_input=g_p)
            torch.baddbmm(unused, g_p, k[keys], beta=0, alpha=scale, out=g_q[lines])
            g_k[keys].baddbmm_(g_p.mT, q[lines], alpha=scale)
            used += count
        return heads.as_queries(g_q), heads.as_keys(g_k), heads.as_keys(g_v)


@torch.library.register_fake("lacewing::block_attention_backward")
def _backward_fake(
    upstream: Tensor, probabilities: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
