"""Causal attention over packed documents in fp32 on a CPU, with its gradients, compiled by Numba.

Equals ``softmax(q @ k.T / sqrt(head)) @ v`` of the tokens that a query sees. As in FlashAttention (arXiv:2205.14135),
scores live in the cache only: what is kept for backward is one number for a query and a head, so memory grows with the
length and not with its square. A block of queries leaves out earlier documents and later tokens, but for those in one
tile with what it sees. On one thread this takes half of the time of torch's products (``block_attention.py``), which
cost too much a call for blocks so small.

Results depend neither on other rows nor on the number of threads. Each way is one operator, which a compiler leaves as
it is.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call,override,attr-defined"
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.model.compiled.threads import arrays, in_parallel

# Lines of a block's matrix, its queries times the heads of a group: few, so that a block sees little of what is later
# than its first query; enough to read keys and values seldom.
LINES = 48

_SIGNATURE = "Tensor query, Tensor key, Tensor value, Tensor start"
torch.library.define("lacewing::compiled_attention", f"({_SIGNATURE}) -> (Tensor, Tensor)")
torch.library.define(
    "lacewing::compiled_attention_backward",
    f"(Tensor upstream, {_SIGNATURE}, Tensor log_totals) -> (Tensor, Tensor, Tensor)",
)


def compiled_attention(
    query: Float[Tensor, "batch seq heads head"],
    key: Float[Tensor, "batch seq kv_heads head"],
    value: Float[Tensor, "batch seq kv_heads head"],
    start: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq heads head"]:
    """For every query head the mixed values; gradients reach query, key and value.

    Arguments:
        start: index of the first token of each token's document, int32; may have one row for all.
    """
    mixed: Tensor = _Attention.apply(query, key, value, start)
    return mixed


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, *given: Tensor) -> Tensor:
        mixed: Tensor
        mixed, log_totals = torch.ops.lacewing.compiled_attention(*given)
        context.save_for_backward(*given, log_totals)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *torch.ops.lacewing.compiled_attention_backward(upstream, *context.saved_tensors), None


@torch.library.impl("lacewing::compiled_attention", "cpu")
def _forward(query: Tensor, key: Tensor, value: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    from components.model.compiled import attention_loops as loops  # Numba takes a while to import

    given = arrays(query, key, value, start.expand(len(query), -1))
    mixed, log_totals = query.new_empty(query.shape), query.new_empty(query.shape[:3])
    in_parallel(loops.forward, _jobs(key), _block(query, key), *given, *arrays(mixed, log_totals))
    return mixed, log_totals


@torch.library.register_fake("lacewing::compiled_attention")
def _forward_fake(query: Tensor, key: Tensor, value: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3])


@torch.library.impl("lacewing::compiled_attention_backward", "cpu")
def _backward(
    upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, start: Tensor, log_totals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from components.model.compiled import attention_loops as loops

    given = arrays(upstream, query, key, value, start.expand(len(query), -1), log_totals)
    gradients = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
    in_parallel(loops.backward, _jobs(key), _block(query, key), *given, *arrays(*gradients))
    return gradients


@torch.library.register_fake("lacewing::compiled_attention_backward")
def _backward_fake(
    upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, start: Tensor, log_totals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _jobs(key: Tensor) -> int:
    """Rows times key heads: no two of them write to the same gradient."""
    return key.shape[0] * key.shape[2]


def _block(query: Tensor, key: Tensor) -> int:
    """Queries in a block."""
    return max(1, LINES * key.shape[2] // query.shape[2])
