"""Tensor descriptors: whole tiles that the tensor memory accelerator of Hopper and later GPUs fetches by itself.

A tile loaded through pointers costs registers for addresses and masks; through a descriptor, one thread asks for the
tile. Equals, for the descriptor of ``key`` [B, T, H, D]

    key[batch, first : first + tokens, head]    # zeros where there is no token

Descriptors are made on the host with the launch, so that no memory has to be allocated for them on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.dispatch import say_once

if TYPE_CHECKING:
    from torch import Tensor

CAPABILITY = (9, 0)
"""Of the first GPUs that have the hardware."""
ALIGNMENT = 16
"""Bytes of which the address and the strides of a described tensor are multiples."""


def described(one: Tensor, other: Tensor, tokens: int) -> tuple[TensorDescriptor, TensorDescriptor] | None:
    """Descriptors of two tensors [B, T, H, D] for tiles of ``tokens`` tokens of one head, of size [1, 1, tokens, D].

    None, which is said once, if the hardware cannot take one of them as it lies in memory.
    """
    for tensor in (one, other):
        why_not = obstacle(tensor)
        if why_not is not None:
            say_once(f"attention loads tiles through pointers, because {why_not}")
            return None
    return _descriptor(one, tokens), _descriptor(other, tokens)


def obstacle(tensor: Tensor) -> str | None:
    """Why no descriptor can be made of this tensor [B, T, H, D], the last dimension of which is contiguous."""
    if tensor.is_cuda and torch.cuda.get_device_capability(tensor.device) < CAPABILITY:
        return "the GPU is older than compute capability {}.{}".format(*CAPABILITY)
    if tensor.data_ptr() % ALIGNMENT:
        return f"a tensor begins at an address that is no multiple of {ALIGNMENT} bytes"
    strides = [stride * tensor.element_size() for stride in tensor.stride()[:3]]
    if any(stride <= 0 or stride % ALIGNMENT for stride in strides):
        return f"a tensor has strides of {strides} bytes; descriptors take positive multiples of {ALIGNMENT}"
    return None


def _descriptor(tensor: Tensor, tokens: int) -> TensorDescriptor:
    batch, length, heads, head_dim = tensor.shape
    of_batch, of_token, of_head, _ = tensor.stride()
    # Dimensions of one come first: Triton then takes the tile for the matrix that it is.
    shape, strides = [batch, heads, length, head_dim], [of_batch, of_head, of_token, 1]
    return TensorDescriptor(tensor, shape, strides, [1, 1, tokens, head_dim])
