"""Causal grouped-query attention over packed documents, in plain PyTorch: what every other file here must equal.

Written to be read and to be exact (in float64 to the last digits), not to be fast: it makes the [T, T] matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def attention_reference(
    query: Float[Tensor, "B T H D"],
    key: Float[Tensor, "B T KV D"],
    value: Float[Tensor, "B T KV D"],
    doc_start: Int[Tensor, "B T"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Tensor, "B T H D"]:
    """``softmax(scale * Q K^T) V`` over the keys of one's document that are not ahead. Arguments: see ``attention``."""
    group = query.shape[2] // key.shape[2]
    key, value = (tensor.repeat_interleave(group, dim=2) for tensor in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * (query.shape[3] ** -0.5 if scale is None else scale)
    scores = scores.masked_fill(~visible(query.shape[1], doc_start, query.device), -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), value)


def visible(
    length: int, doc_start: Int[Tensor, "B T"] | None, device: torch.device | None = None
) -> Bool[Tensor, "B 1 T T"]:
    """May query q see key k? True for ``doc_start[q] <= k <= q``. Without documents B is 1."""
    position = torch.arange(length, device=device)
    causal = (position[None, :] <= position[:, None])[None, None]
    return causal if doc_start is None else causal & (position >= doc_start[:, None, :, None])
