"""``total += a @ b`` without rounding between the chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """For an fp32 ``total`` and narrower operands. On CUDA cuBLAS adds in fp32; a CPU rounds each product once."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(torch.mm(a, b))
