"""A matrix of the model. In fp32 on a CPU it is multiplied by oneDNN where that is faster (``kernels.onednn``)."""

# mypy: disable-error-code="no-untyped-call,override"
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels import onednn


class Projection(nn.Linear):
    """``nn.Linear`` without a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, hidden: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        if torch.is_autocast_enabled(hidden.device.type) or not onednn.chosen(hidden, self.weight):
            return super().forward(hidden)
        product: Tensor = _Product.apply(hidden.reshape(-1, self.in_features), self.weight)
        return product.view(*hidden.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(rows, weight)
        return onednn.product(rows, weight.T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = context.saved_tensors
        of_rows, of_weight = context.needs_input_grad
        return (
            onednn.product(upstream, weight) if of_rows else None,
            onednn.product(upstream.T, rows) if of_weight else None,
        )
