"""Where and in which precision held-out text is scored: as the model was trained, unless told otherwise."""

from contextlib import AbstractContextManager, nullcontext

import torch

from components.core.errors import InputError
from components.training.precision import chosen_precision


def scoring_device(requested: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``; raises ``InputError`` for a GPU that is not there."""
    if requested == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but torch sees no GPU; use 'auto' or 'cpu'")
    return torch.device("cuda" if requested != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a model of fp32 weights computes in ``precision``: ``auto``, ``bf16-mixed``, ``32-true``."""
    if chosen_precision(precision, device) == "bf16-mixed":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
