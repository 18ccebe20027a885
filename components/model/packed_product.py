"""Products of few rows with a fixed matrix, whose result for a row does not depend on the other rows.

oneDNN multiplies two to three times faster than ``F.linear`` if it may lay the matrix out in its own way first (on an
AMD EPYC with AVX-512, 8 rows by 32,768 x 192 in fp32: 1.0 instead of 2.8 ms). torch compiles frozen models to the same
two operators. It sums in an order that does not depend on the number of rows as long as there are at least two, which
``F.linear`` does not promise: so a text does not change with what else is in its batch.

To call oneDNN takes some 20 microseconds, which is several times what a small matrix takes. In fp32, small ones are
multiplied by ``compiled.forward_pass.CompiledProduct`` instead, which does not look at the number of rows either.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from components.model.compiled.forward_pass import CompiledProduct, compilable
from components.model.projection import Projection

Product = Callable[[Float[Tensor, "rows inputs"]], Float[Tensor, "rows outputs"]]
ProductWith = Callable[[Float[Tensor, "rows inputs"], Float[Tensor, "rows outputs"]], Float[Tensor, "rows outputs"]]
"""Takes what its result is combined with too."""


def product(weight: Float[Tensor, "outputs inputs"]) -> Product:
    """``x @ weight.T`` for this matrix as it is now. Takes the memory of the matrix once more where it is laid out."""
    weight = weight.detach()
    if compilable(weight):
        return CompiledProduct(weight)
    if not _packable(weight):
        return lambda rows: F.linear(rows, weight)
    packed = _packed(weight)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: multiply(rows, packed, None, "none", [], "")


def product_with(weight: Float[Tensor, "outputs inputs"], how: Literal["add", "mul"]) -> ProductWith:
    """``product`` whose result is added to another matrix or multiplied by it, number by number, in the same pass."""
    weight = weight.detach()
    if not _packable(weight):
        combine = torch.add if how == "add" else torch.mul
        return lambda rows, other: combine(F.linear(rows, weight), other)
    packed = _packed(weight)
    multiply = torch.ops.mkldnn._linear_pointwise.binary
    return lambda rows, other: multiply(rows, other, packed, None, how)


def joint_product(layers: Sequence[nn.Module]) -> Product:
    """The outputs of several layers with the same input, side by side.

    Layers that are more than a matrix (adapters, say) are called as they are.
    """
    plain = [layer.weight.detach() for layer in layers if type(layer) is Projection]
    if len(plain) == len(layers):
        return product(torch.cat(plain))
    return lambda rows: torch.cat([layer(rows) for layer in layers], dim=-1)


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def _packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
