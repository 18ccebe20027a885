"""Which number format to compute in, and which device to compute on."""

import torch

from components.core.errors import InputError


def chosen_device(requested: str = "auto") -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``; raises ``InputError`` if a GPU is asked for and absent."""
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise InputError("trainer.device is cuda, but PyTorch finds no GPU here: use trainer.device=cpu (or auto)")
    return torch.device("cuda" if available and requested != "cpu" else "cpu")


def chosen_precision(requested: str = "auto", device: torch.device | None = None) -> str:
    """``bf16-mixed`` or ``32-true``: the one asked for, or for ``auto`` bf16 where the hardware multiplies in it.

    On a CPU without bf16 instructions it is emulated and several times slower than fp32.
    """
    if requested != "auto":
        return requested
    return "bf16-mixed" if has_native_bf16(device or chosen_device()) else "32-true"


def has_native_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices of bf16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype matrix products are made in under ``precision``."""
    return torch.bfloat16 if precision == "bf16-mixed" else torch.float32
