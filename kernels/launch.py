"""Where a kernel is launched."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Within the block, kernels are launched where ``tensor`` is.

    Triton launches on the current device, which need not be that of the tensors: its program would be handed addresses
    of another GPU's memory.
    """
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
