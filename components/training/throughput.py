"""Tokens per second and model FLOP utilisation, with the denominator stated."""

import time
from dataclasses import dataclass

import torch

# Dense bf16 peak in TFLOP/s by device name, from NVIDIA's data sheets (without sparsity). First match wins.
DATASHEET_TFLOPS = {
    "H200": 989.5,
    "H100 PCIe": 756.0,
    "H100": 989.5,
    "GH200": 989.5,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}
_PRODUCT_SIZE = 1024
_PRODUCT_SECONDS = 0.3


@dataclass(frozen=True)
class Peak:
    """The denominator of MFU."""

    flops_per_second: float
    source: str
    """The source of the number, for people."""


def peak(device: torch.device, dtype: torch.dtype, devices: int = 1) -> Peak:
    """Peak of the hardware: the data sheet for known GPUs in bf16, otherwise a matrix product measured here and now."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, tflops in DATASHEET_TFLOPS.items():
            if dtype == torch.bfloat16 and known in name:
                return Peak(tflops * 1e12 * devices, f"data sheet, dense bf16, {devices} x {name}")
    measured = measured_product(device, dtype)
    size = f"{_PRODUCT_SIZE}x{_PRODUCT_SIZE}x{_PRODUCT_SIZE}"
    threads = f" on {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    kind = str(dtype).removeprefix("torch.")
    return Peak(measured * devices, f"measured here: {kind} matrix product {size}{threads}")


def measured_product(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product: the best of the runs that fit in a third of a second."""
    left = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE, device=device).to(dtype)
    right = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE, device=device).to(dtype)
    seconds: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < _PRODUCT_SECONDS or len(seconds) < 3:
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * _PRODUCT_SIZE**3 / min(seconds)
