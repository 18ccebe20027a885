"""LoRA's layer, computed with few products: PEFT's own makes two more over all tokens, and casts around them.

In training a layer sees many tokens at once. Then it is cheap to add the product of the thin matrices to the frozen one
first: forward is one dense product. Backward needs no gradient of the dense matrix, which is a third of what training
all weights costs, only two thin products for each thin matrix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.lora import Linear
from torch import Tensor
from torch.autograd.function import once_differentiable

from components.model import ops


class SummedLinear(Linear):  # type: ignore[misc]
    """``x @ (weight + scale * left @ right).T``: PEFT's layer for an adapter without dropout, whatever its start."""

    def forward(self, x: Float[Tensor, "*batch in"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch out"]:
        (name,) = self.active_adapters
        weight = self.base_layer.weight
        plain = not (self.disable_adapters or self.merged or args or kwargs)
        if not plain or _fewer_thin(x, weight):
            theirs: Tensor = super().forward(x, *args, **kwargs)
            return theirs
        left, right = self.lora_B[name].weight, self.lora_A[name].weight
        ours: Tensor = _SummedProduct.apply(x, weight, left, right, self.scaling[name])  # type: ignore[no-untyped-call]
        return ours


def _fewer_thin(x: Tensor, weight: Tensor) -> bool:
    """Whether two thin products of these tokens need fewer operations than the sum does, as in generation."""
    tokens = x.numel() // x.shape[-1]
    return tokens * (weight.shape[0] + weight.shape[1]) < weight.numel()


class _SummedProduct(torch.autograd.Function):
    """The sum is made again for backward, so that no second copy of all weights waits for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, left: Tensor, right: Tensor, scale: float) -> Tensor:
        dtype = ops.compute_dtype(x)
        ctx.scale, ctx.dtypes = scale, (x.dtype, dtype)
        x = x.to(dtype)
        ctx.save_for_backward(x, weight, left, right)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, _sum(weight, left, right, scale).to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, left, right = ctx.saved_tensors
        given, dtype = ctx.dtypes
        with torch.autocast(x.device.type, enabled=False):
            rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
            # A few long rows times a matrix: times a few short columns, it takes up to twenty times as long in fp32.
            of_left = F.linear(inputs, right.to(dtype)).T @ rows
            of_right = F.linear(rows, left.T.to(dtype).contiguous()).T @ inputs
            of_x = gradient @ _sum(weight, left, right, ctx.scale).to(dtype) if ctx.needs_input_grad[0] else None
        return (
            None if of_x is None else of_x.to(given),
            None,
            of_left.T.to(left.dtype) * ctx.scale,
            of_right.to(right.dtype) * ctx.scale,
            None,
        )


def _sum(
    weight: Float[Tensor, "out in"], left: Float[Tensor, "out rank"], right: Float[Tensor, "rank in"], scale: float
) -> Float[Tensor, "out in"]:
    return torch.addmm(weight.to(left.dtype), left, right, alpha=scale)
