"""The border of attention: every argument is looked at here, and trusted beyond.

Shapes, dtypes, strides and devices are known on the host, so no check waits for the GPU. What the bounds of documents
*hold* is looked at on the CPU only; on the GPU, bounds that no document has give numbers that mean nothing, but stay
finite and read nothing outside the tensors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.dispatch import unavailable
from kernels.documents import doc_end_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

HEAD_DIMS = (16, 32, 64, 128)
"""Head dimensions that the Triton kernels take."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise ``ValueError`` unless these are query [B,T,H,D], key and value [B,T,KV,D] that belong together."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        axes = "[B, T, H, D]" if name == "query" else "[B, T, KV, D]"
        if tensor.ndim != 4:
            raise ValueError(f"{name} has shape {list(tensor.shape)}; allowed is {axes}")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}; allowed are {', '.join(map(str, DTYPES))}")
        if tensor.dtype != query.dtype:
            raise ValueError(f"{name} is {tensor.dtype} and query is {query.dtype}; allowed is one dtype for all three")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device} and query on {query.device}; allowed is one device for all")
        if tensor.stride(3) != 1 and tensor.shape[3] > 1 and tensor.numel() > 0:
            raise ValueError(
                f"{name} has stride {tensor.stride(3)} in its last dimension; allowed is 1 (the other strides are free)"
            )
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if key.shape != (batch, length, kv_heads, head_dim):
        raise ValueError(
            f"key has shape {list(key.shape)}; allowed beside query {list(query.shape)} "
            f"is [{batch}, {length}, KV, {head_dim}]"
        )
    if value.shape != key.shape:
        raise ValueError(f"value has shape {list(value.shape)}; allowed is that of key, {list(key.shape)}")
    if kv_heads == 0 or heads == 0 or heads % kv_heads:
        raise ValueError(
            f"query has {heads} heads and key {kv_heads}; allowed is a multiple of key's, and at least one"
        )
    if head_dim == 0:
        raise ValueError("query has head dimension 0; allowed is at least 1")


def checked_scale(scale: float | None, head_dim: int) -> float:
    """The factor of the scores, by default ``1 / sqrt(head_dim)``. ``ValueError`` unless positive and finite."""
    if scale is None:
        return float(head_dim**-0.5)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}; allowed is a positive finite number")
    return float(scale)


def checked_bounds(
    doc_start: Int[Tensor, "B T"] | None, doc_end: Int[Tensor, "B T"] | None, query: Float[Tensor, "B T H D"]
) -> tuple[Int[Tensor, "B T"] | None, Int[Tensor, "B T"] | None]:
    """The bounds as contiguous int32; or ``ValueError``."""
    if doc_start is None:
        if doc_end is not None:
            raise ValueError("doc_end is given without doc_start; allowed are both, doc_start alone, or neither")
        return None, None
    for name, bound in (("doc_start", doc_start), ("doc_end", doc_end)):
        if bound is None:
            continue
        if bound.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} is {bound.dtype}; allowed are torch.int32 and torch.int64")
        if bound.shape != query.shape[:2]:
            raise ValueError(f"{name} has shape {list(bound.shape)}; allowed is [B, T] = {list(query.shape[:2])}")
        if bound.device != query.device:
            raise ValueError(f"{name} is on {bound.device} and query on {query.device}; allowed is one device for all")
    doc_start = doc_start.to(torch.int32).contiguous()
    doc_end = None if doc_end is None else doc_end.to(torch.int32).contiguous()
    if doc_start.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(doc_start, doc_end)
    return doc_start, doc_end


def _check_values(doc_start: Tensor, doc_end: Tensor | None) -> None:
    """Are these the bounds of contiguous documents? Each token's start is its predecessor's, or itself."""
    position = torch.arange(doc_start.shape[1], dtype=torch.int32)
    continues = (doc_start == doc_start.roll(1, dims=1)) & (position > 0)
    if not ((doc_start == position) | continues).all():
        raise ValueError(
            "doc_start does not hold the starts of contiguous documents; allowed is, for each token, its own index "
            "or what its predecessor has (kernels.documents.doc_bounds makes it from flags)"
        )
    if doc_end is not None and not torch.equal(doc_end, doc_end_of(doc_start)):
        raise ValueError(
            "doc_end does not fit doc_start; allowed is the index after the last token of each token's document "
            "(kernels.documents.doc_end_of makes it from doc_start)"
        )


def missing_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why there is no Triton kernel for this; None if there is one."""
    if head_dim not in HEAD_DIMS:
        allowed = ", ".join(map(str, HEAD_DIMS))
        return f"attention has no kernel for head dimension {head_dim} (there are kernels for {allowed})"
    if dtype not in DTYPES or (dtype == torch.float64 and device.type == "cuda"):
        return f"attention has no kernel for {dtype} on {device.type}"
    return unavailable(device)
