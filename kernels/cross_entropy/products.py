"""Products of the output layer, by whichever library is fast for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernels import onednn

if TYPE_CHECKING:
    from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``."""
    return onednn.product(a, b) if onednn.chosen(a, b) else torch.mm(a, b)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b`` for an fp32 ``total`` and narrower operands, without rounding between the chunks.

    On CUDA cuBLAS adds in fp32; a CPU rounds each product once.
    """
    if onednn.chosen(a, b):
        total.add_(onednn.product(a, b))
    elif a.dtype == total.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(torch.mm(a, b))
