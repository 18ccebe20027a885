"""Causal grouped-query attention over packed documents. Equals, in plain PyTorch,

    key, value = (tensor.repeat_interleave(heads // kv_heads, dim=2) for tensor in (key, value))
    scores = scale * einsum("bqhd,bkhd->bhqk", query, key)
    scores = scores.masked_fill(~(doc_start[q] <= k <= q), -inf)
    out = einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)

without the [T, T] matrix: documents cost two numbers per token (kernels.documents), and pairs of tokens from
different documents are skipped, not computed and masked: at 8192 tokens in documents of 1024, 7 of 8 tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.arguments import HEAD_DIMS, check_tensors, checked_bounds, checked_scale, missing_kernel
from kernels.attention.op import TritonAttention
from kernels.attention.reference import attention_reference, visible
from kernels.dispatch import Implementation, constant_when_compiled, requested, resolved
from kernels.documents import doc_end_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["HEAD_DIMS", "attention", "attention_reference", "obstacle"]

WORTHWHILE = 128
"""Tokens in a row below which ``auto`` leaves attention to PyTorch."""


def obstacle(query: Float[Tensor, "B T H D"], *_: Tensor) -> str | None:
    """Why the Triton kernels cannot compute such a call to ``attention``, whose first arguments it takes; None if
    they can.

    Only dtype, device and head dimension decide, and the three tensors share them.
    """
    return missing_kernel(query.device, query.dtype, query.shape[-1])


def attention(
    query: Float[Tensor, "B T H D"],
    key: Float[Tensor, "B T KV D"],
    value: Float[Tensor, "B T KV D"],
    doc_start: Int[Tensor, "B T"] | None = None,
    doc_end: Int[Tensor, "B T"] | None = None,
    *,
    scale: float | None = None,
    impl: Implementation | None = None,
) -> Float[Tensor, "B T H D"]:
    """Each token's mix of the values that it may see: those of its document that are not ahead of it.

    Arguments:
        query: H heads of D numbers. Any strides, but the last dimension is contiguous: parts of a fused projection
            are taken as they are.
        key, value: KV heads, each shared by H / KV consecutive query heads. Same dtype and device as query; under
            autocast all three are first cast to its dtype.
        doc_start: index of the first token of each token's document, int32 (int64 is cast); without it, each row is
            one document.
        doc_end: the index after the last token of each token's document; made from ``doc_start`` if not given, so
            give it where many layers share it. ``kernels.documents.doc_bounds`` makes both.
        scale: factor of the scores; 1 / sqrt(D) by default.
        impl: who computes; see ``kernels.dispatch``. PyTorch is ``scaled_dot_product_attention``. ``auto`` takes
            Triton on CUDA for documents in bf16 or fp16 of 128 tokens or more, else PyTorch, and says once why.

    Returns [B, T, H, D] in the dtype of query; empty where B or T is 0. Differentiable once, deterministic in Triton.

    Raises ``ValueError`` for arguments that do not fit together, naming the one, what was given and what is allowed;
    and where Triton is asked for by name and has no kernel (see ``obstacle``).
    """
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (_autocast(tensor) for tensor in (query, key, value))
    check_tensors(query, key, value)
    scale = checked_scale(scale, query.shape[3])
    doc_start, doc_end = checked_bounds(doc_start, doc_end, query)
    _, length, _, head_dim = query.shape
    if _computes(impl, query.device, query.dtype, head_dim, _short(length), doc_start is not None) == "triton":
        if doc_start is not None and doc_end is None:
            doc_end = doc_end_of(doc_start)
        return TritonAttention.apply(query, key, value, doc_start, doc_end, scale)  # type: ignore[no-any-return, no-untyped-call]
    return _attention_torch(query, key, value, doc_start, scale)


def _short(length: int) -> bool:
    # An if: torch.compile, which may not know the length, holds the graph to the outcome.
    if length < WORTHWHILE:  # noqa: SIM103
        return True
    return False


def _attention_torch(query: Tensor, key: Tensor, value: Tensor, doc_start: Tensor | None, scale: float) -> Tensor:
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=None if doc_start is None else visible(query.shape[1], doc_start, query.device),
        is_causal=doc_start is None,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


def _autocast(tensor: Tensor) -> Tensor:
    """What autocast does to the arguments of ``scaled_dot_product_attention``: it casts all but fp64."""
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


def _no_gain(dtype: torch.dtype, *, short: bool, documents: bool) -> str | None:
    """Why the Triton kernels, though they can, are not expected to be faster than PyTorch's; None if they are."""
    if dtype == torch.float32:
        return "attention in float32 does without tensor cores"
    if short:
        return f"attention over fewer than {WORTHWHILE} tokens is too little to gain on"
    if not documents:
        return "attention without documents has nothing to skip, and nothing measured says it is faster"
    return None


@constant_when_compiled
def _computes(
    impl: Implementation | None, device: torch.device, dtype: torch.dtype, head_dim: int, short: bool, documents: bool
) -> str:
    """Decided once per compiled graph: what ``using`` and the environment say when it is traced stays with it."""
    why_not = missing_kernel(device, dtype, head_dim)
    if requested(impl) == "auto":
        why_not = why_not or _no_gain(dtype, short=short, documents=documents)
    return resolved(impl, device, why_not)
