"""Sizes of what is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of one attention call. ``mean_document``: mean length in tokens; ``None`` for one document a row."""

    batch: int
    seq: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.bfloat16
    mean_document: int | None = None
    equal_documents: bool = False

    def __str__(self) -> str:
        heads = f"H{self.heads}" if self.heads == self.kv_heads else f"H{self.heads}:{self.kv_heads}"
        kind = "equal" if self.equal_documents else "mean"
        documents = f" docs {kind} {self.mean_document}" if self.mean_document else ""
        return f"B{self.batch} T{self.seq} {heads} D{self.head_dim}{documents}"

    @property
    def config(self) -> dict[str, object]:
        """For the CSV file."""
        fields = {name: getattr(self, name) for name in ("batch", "heads", "kv_heads", "head_dim", "mean_document")}
        return {**fields, "dtype": str(self.dtype).removeprefix("torch."), "equal": self.equal_documents}

    @property
    def forward_flops(self) -> float:
        return 2.0 * self.batch * self.heads * self.seq**2 * self.head_dim


@dataclass(frozen=True)
class LossShape:
    """Rows, width, vocabulary. The weight has ``padded`` rows, a multiple of 128 with which products are fast."""

    rows: int
    width: int
    vocab: int
    padded: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"N{self.rows} D{self.width} V{self.vocab}" + (f" in {self.padded}" if self.padded > self.vocab else "")

    @property
    def config(self) -> dict[str, object]:
        """For the CSV file."""
        fields = {name: getattr(self, name) for name in ("rows", "width", "vocab", "padded")}
        return {**fields, "dtype": str(self.dtype).removeprefix("torch.")}
