"""RMSNorm and rotary positions on a CPU, with gradients in fewer passes over memory than autograd makes of them.

A compiler fuses such passes by itself, and a GPU has kernels for them: there the plain formulas stay.
"""

# mypy: disable-error-code="no-untyped-call,override"
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Rows are divided so that what lies between two passes is still in the cache.
_ROWS = 1024


def worthwhile(tensor: Tensor) -> bool:
    """Whether these functions are for ``tensor``."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not torch.compiler.is_compiling()


def rms_norm(
    hidden: Float[Tensor, "*rows width"], weight: Float[Tensor, " width"], epsilon: float
) -> Float[Tensor, "*rows width"]:
    """``F.rms_norm(hidden, weight.shape, weight, epsilon)``."""
    normed: Tensor = _RmsNorm.apply(hidden, weight, epsilon)
    return normed


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        size = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        inverse = size.square_().div_(rows.shape[1]).add_(epsilon).rsqrt_()
        normed = torch.empty_like(rows)
        for some, scale, out in zip(rows.split(_ROWS), inverse.split(_ROWS), normed.split(_ROWS), strict=True):
            torch.mul(some, scale, out=out).mul_(weight)
        context.save_for_backward(rows, weight, inverse)
        return normed.view(hidden.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, inverse = context.saved_tensors
        gradient, of_weight = torch.empty_like(rows), torch.zeros_like(weight)
        parts = (each.split(_ROWS) for each in (rows, inverse, upstream.reshape(rows.shape), gradient))
        for some, scale, up, out in zip(*parts, strict=True):
            # d(some * scale) / d(some) takes from ``up * weight`` what points along the row itself.
            along = some * scale
            product = along * up
            of_weight += product.sum(0)
            share = torch.mv(product, weight).div_(-rows.shape[1])
            torch.mul(up, weight, out=out).addcmul_(along, share[:, None]).mul_(scale)
        return gradient.view(upstream.shape), of_weight, None


def rotate(
    heads: Float[Tensor, "*batch head"], cosine: Float[Tensor, "*places head"], sine: Float[Tensor, "*places head"]
) -> Float[Tensor, "*batch head"]:
    """``heads * cosine + swapped(heads) * sine``, where the two halves of a head are swapped and opposite in sign."""
    turned: Tensor = _Rotation.apply(heads, cosine, sine)
    return turned


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        context.save_for_backward(cosine, sine)
        return _rotated(heads, cosine, sine)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = context.saved_tensors
        return _rotated(upstream, cosine, -sine), None, None


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    turned = heads * cosine
    turned[..., :half].addcmul_(heads[..., half:], sine[..., :half])
    turned[..., half:].addcmul_(heads[..., :half], sine[..., half:])
    return turned
