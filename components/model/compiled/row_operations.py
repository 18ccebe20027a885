"""RMSNorm, rotary positions and SwiGLU in fp32 on a CPU, each one pass over memory forward and one back.

torch's own take several, and autograd keeps what lies between. A compiler fuses such passes by itself, and a GPU has
kernels for them: there the plain formulas stay. Results do not depend on the number of threads.
"""

# mypy: disable-error-code="no-untyped-call,override"
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.compiled.threads import arrays, in_parallel


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
        from components.model.compiled import row_loops  # Numba takes a while to import

        rows = hidden.reshape(-1, hidden.shape[-1]).contiguous()
        normed, inverse = torch.empty_like(rows), rows.new_empty(len(rows))
        given = *arrays(rows, weight), np.float32(epsilon)
        in_parallel(row_loops.norm, len(rows), *given, *arrays(normed, inverse))
        context.save_for_backward(rows, weight, inverse)
        return normed.view(hidden.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from components.model.compiled import row_loops

        rows, weight, inverse = context.saved_tensors
        parts = -(-len(rows) // row_loops.PART)
        gradient, of_weight = torch.empty_like(rows), rows.new_zeros(parts, len(weight))
        given = arrays(upstream.reshape(rows.shape), rows, weight, inverse)
        in_parallel(row_loops.norm_gradient, parts, *given, *arrays(gradient, of_weight))
        return gradient.view(upstream.shape), of_weight.sum(0), None


def rotate(
    heads: Float[Tensor, "*batch heads head"],
    cosine: Float[Tensor, "*places 1 head"],
    sine: Float[Tensor, "*places 1 head"],
) -> Float[Tensor, "*batch heads head"]:
    """``heads * cosine + swapped(heads) * sine``, where the two halves of a head are swapped and opposite in sign."""
    turned: Tensor = _Rotation.apply(heads, cosine, sine)
    return turned


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        context.save_for_backward(cosine, sine)
        return _rotated(heads, cosine, sine, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = context.saved_tensors
        return _rotated(upstream, cosine, sine, -1), None, None


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    from components.model.compiled import row_loops

    count, head = heads.shape[-2:]
    turned = heads.new_empty(heads.shape)
    tables = arrays(cosine.reshape(-1, head), sine.reshape(-1, head))
    given, out = arrays(heads.reshape(-1, count, head), turned.view(-1, count, head))
    in_parallel(row_loops.rotate, len(given), given, *tables, np.float32(direction), out)
    return turned


def swiglu(gate: Float[Tensor, "*rows width"], up: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """``F.silu(gate) * up`` (arXiv:2002.05202)."""
    active: Tensor = _SwiGLU.apply(gate, up)
    return active


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, gate: Tensor, up: Tensor) -> Tensor:
        from components.model.compiled import row_loops

        context.save_for_backward(gate, up)
        active = gate.new_empty(gate.shape)
        given = _rows(gate, up, active)
        in_parallel(row_loops.swiglu, len(given[0]), *given)
        return active

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from components.model.compiled import row_loops

        gradients = upstream.new_empty(upstream.shape), upstream.new_empty(upstream.shape)
        given = _rows(upstream, *context.saved_tensors, *gradients)
        in_parallel(row_loops.swiglu_gradients, len(given[0]), *given)
        return gradients


def _rows(*tensors: Tensor) -> list[Any]:
    return arrays(*(tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors))
