"""Where documents packed into one row begin and end: all that attention needs to keep them apart.

Packed documents are contiguous, so two numbers per token say everything that a [T, T] mask would, in O(T) memory and
with shapes that never change (no recompilation when the documents do). Made once per batch, shared by all layers:

    starts at: the last boundary at or before me        ends before: the first boundary after me, or the row's end
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


def doc_bounds(boundary: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """First index of each token's document, and the index after its last token.

    Arguments:
        boundary: true on the first token of each document. A row begins a document whether or not its first token
            says so.

    Returns ``(doc_start, doc_end)``, int32, on the device of ``boundary`` and without waiting for it. ``doc_end`` is
    exclusive: token t sees exactly the keys ``doc_start[t] <= k <= t`` and is seen by ``t <= q < doc_end[t]``.

    Raises ``ValueError`` if ``boundary`` is not a boolean matrix.
    """
    if boundary.ndim != 2 or boundary.dtype != torch.bool:
        raise ValueError(f"boundary is {boundary.dtype} {list(boundary.shape)}; allowed is torch.bool [B, T]")
    if boundary.numel() == 0:  # cummax refuses to look along an empty dimension
        empty = torch.empty(boundary.shape, dtype=torch.int32, device=boundary.device)
        return empty, empty.clone()
    doc_start = torch.where(boundary, _positions(boundary), 0).cummax(dim=1).values
    return doc_start, doc_end_of(doc_start)


def doc_end_of(doc_start: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The index after the last token of each token's document, int32, from the index of its first token.

    Raises ``ValueError`` if ``doc_start`` is not a matrix of int32 or int64.
    """
    if doc_start.ndim != 2 or doc_start.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"doc_start is {doc_start.dtype} {list(doc_start.shape)}; allowed is torch.int32 or torch.int64 [B, T]"
        )
    if doc_start.numel() == 0:
        return torch.empty(doc_start.shape, dtype=torch.int32, device=doc_start.device)
    position, length = _positions(doc_start), doc_start.shape[1]
    starts_here = torch.where(doc_start == position, position, length)
    # A token's document ends where the next one starts: look one to the right, then carry it leftwards.
    following = torch.cat([starts_here[:, 1:], torch.full_like(position[:, :1], length).expand(len(doc_start), 1)], 1)
    return following.flip(1).cummin(dim=1).values.flip(1)


def _positions(like: Tensor) -> Int[Tensor, "1 T"]:
    return torch.arange(like.shape[1], dtype=torch.int32, device=like.device)[None]
