"""Calls of attention for tests: inputs, the exact answer, and how far from it one may be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.attention import attention, attention_reference
from kernels.attention.configurations import Configuration, Tiles
from kernels.dispatch import interpreted
from kernels.documents import doc_bounds

DEVICE = "cpu" if interpreted() else "cuda"
NAMES = ("out", "grad_query", "grad_key", "grad_value")

SMALL = Configuration(Tiles(32, 32), Tiles(32, 32), Tiles(32, 32))
"""Tiles that cut 64 tokens into several."""
TALL = Configuration(Tiles(64, 16), Tiles(64, 16), Tiles(64, 16))
FLAT = Configuration(Tiles(16, 64), Tiles(16, 64), Tiles(16, 64))

Bounds = tuple[Tensor, Tensor] | tuple[None, None]


def tensors(
    batch: int, length: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, seed: int = 0
) -> list[Tensor]:
    """Query, key and value with gradients, and a gradient of the result."""
    random = torch.Generator().manual_seed(seed)
    query, key, value, grad = (
        torch.randn(batch, length, count, head_dim, generator=random, dtype=torch.float64).to(DEVICE, dtype)
        for count in (heads, kv_heads, kv_heads, heads)
    )
    return [query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), grad]


def packed(length: int, *rows: Sequence[int]) -> Bounds:
    """Bounds of rows whose documents start at the given tokens."""
    boundary = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, starts in zip(boundary, rows, strict=True):
        row[list(starts)] = True
    return doc_bounds(boundary.to(DEVICE))


def results(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, bounds: Bounds = (None, None), impl: str = "triton"
) -> list[Tensor]:
    """The result of attention and its three gradients."""
    out = attention(query, key, value, *bounds, impl=impl)  # type: ignore[arg-type]
    return [out, *torch.autograd.grad(out, (query, key, value), grad)]


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    bounds: Bounds = (None, None),
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """The same from plain PyTorch, computed in ``dtype`` (by default that of the inputs)."""
    leaves = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in (query, key, value)]
    out = attention_reference(*leaves, bounds[0])
    return [out, *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def check(query: Tensor, key: Tensor, value: Tensor, grad: Tensor, bounds: Bounds = (None, None)) -> None:
    """Triton may be at most twice as far from the fp64 answer as plain PyTorch in the same dtype, in the worst entry.

    Plus the rounding of the answer itself, at the size of its largest entry, and that of the fp32 sums, for answers
    that are 0 because large terms cancel. The interpreter casts to bfloat16 by cutting bits off, where a GPU rounds:
    twice the error, so twice the allowance.
    """
    allowance = 4.0 if interpreted() and query.dtype == torch.bfloat16 else 2.0
    exact = reference(query, key, value, grad, bounds, torch.float64)
    plain = reference(query, key, value, grad, bounds)
    for name, ours, theirs, answer in zip(NAMES, results(query, key, value, grad, bounds), plain, exact, strict=True):
        assert ours.shape == answer.shape, name
        assert ours.dtype == query.dtype, name
        error, baseline = ((tensor.double() - answer).abs().max().item() for tensor in (ours, theirs))
        floor = torch.finfo(query.dtype).eps * answer.abs().max().item() + 1e-6
        assert error <= allowance * (baseline + floor), f"{name}: error {error:.2e}, PyTorch's {baseline:.2e}"
