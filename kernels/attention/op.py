"""The Triton kernels as ``torch.library`` operators, and autograd around them. Equals ``attention_reference``.

The operators are opaque to ``torch.compile``, which sees one node forward and one backward. Autograd stands outside,
as a plain ``autograd.Function``: ``custom_op`` with ``register_autograd`` does the same at several times the cost per
call. Triton itself is imported by the first call that computes, so that machines without it never miss it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention.configurations import chosen

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FORWARD = "lacewing::attention_forward"
BACKWARD = "lacewing::attention_backward"

torch.library.define(
    FORWARD, "(Tensor query, Tensor key, Tensor value, Tensor? doc_start, float scale) -> (Tensor, Tensor)"
)
torch.library.define(
    BACKWARD,
    "(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, Tensor? doc_start, "
    "Tensor? doc_end, float scale) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl(FORWARD, ("cpu", "cuda"))
def _forward(
    query: Tensor, key: Tensor, value: Tensor, doc_start: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    from kernels.attention.forward import forward

    tiles = chosen(query, documents=doc_start is not None).forward
    return forward(query, key, value, doc_start, scale, tiles)


@torch.library.register_fake(FORWARD)  # type: ignore[untyped-decorator]
def _forward_fake(
    query: Tensor, key: Tensor, value: Tensor, doc_start: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = query.shape
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return query.new_empty(query.shape), query.new_empty((batch, heads, length), dtype=dtype)


@torch.library.impl(BACKWARD, ("cpu", "cuda"))
def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    doc_start: Tensor | None,
    doc_end: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from kernels.attention.backward import backward

    configuration = chosen(query, documents=doc_start is not None)
    return backward(grad_out, query, key, value, out, lse, doc_start, doc_end, scale, configuration)


@torch.library.register_fake(BACKWARD)  # type: ignore[untyped-decorator]
def _backward_fake(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    doc_start: Tensor | None,
    doc_end: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


class TritonAttention(torch.autograd.Function):
    """Keeps query, key, value, the result and one number per query and head; never the [T, T] matrix."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "B T H D"],
        key: Float[Tensor, "B T KV D"],
        value: Float[Tensor, "B T KV D"],
        doc_start: Int[Tensor, "B T"] | None,
        doc_end: Int[Tensor, "B T"] | None,
        scale: float,
    ) -> Float[Tensor, "B T H D"]:
        out, lse = torch.ops.lacewing.attention_forward(query, key, value, doc_start, scale)
        ctx.save_for_backward(query, key, value, out, lse, doc_start, doc_end)
        ctx.scale = scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_out: Float[Tensor, "B T H D"]) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, doc_start, doc_end = ctx.saved_tensors
        grads = torch.ops.lacewing.attention_backward(
            grad_out, query, key, value, out, lse, doc_start, doc_end, ctx.scale
        )
        return (*grads, None, None, None)
