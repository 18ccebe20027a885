"""What torch says of this machine, as JSON: ``python -m flows.doctor.torch_report``.

In a process of its own, because a broken build may end its process (an instruction that this CPU lacks, a missing
library) or hang in a driver.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 30.0
# What decides speed here, of some fifty that torch knows.
FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "sve")
# The commonest case: what training and serving ask for.
_HEAD_DIM, _TOKENS = 64, 1024


class TorchReport(NamedTuple):
    """What torch finds and Lacewing chooses by itself."""

    version: str
    built_for: str
    """``CPU``, or the toolkit: ``CUDA 13.0``, ``ROCm 7.0``."""
    gpu: str
    """Name of the first GPU that torch can use; empty: none."""
    capability: tuple[int, int]
    gpu_gigabytes: float
    no_gpu_because: str
    """Why a build for GPUs finds none; empty if it finds one, or is for CPUs."""
    cpu_features: tuple[str, ...]
    cores: int
    """Physical ones that this process may use."""
    threads: int
    """What a training takes with ``trainer.threads=0``."""
    precision: str
    kernels: str
    """Who computes attention and loss; empty if ``LACEWING_KERNELS`` cannot be obeyed."""
    kernels_fault: str


class BrokenTorchError(Exception):
    """torch cannot be imported or does not answer; the message says how it ended."""


def ask(timeout_seconds: float = TIMEOUT_SECONDS) -> TorchReport:
    """The report of a new process; raises ``BrokenTorchError`` if there is none."""
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise BrokenTorchError(f"`import torch` did not end within {timeout_seconds:.0f} s") from None
    if done.returncode < 0:
        raise BrokenTorchError(f"`import torch` was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        last = (done.stderr.strip() or "without a word").splitlines()[-1]
        raise BrokenTorchError(f"`import torch` failed: {last[:300]}")
    fields = json.loads(done.stdout.splitlines()[-1])
    return TorchReport(
        **fields | {"capability": tuple(fields["capability"]), "cpu_features": tuple(fields["cpu_features"])}
    )


def report() -> TorchReport:
    """Ask the torch of this process."""
    import torch

    from components.training.config import TrainerConfig
    from components.training.precision import chosen_device, chosen_precision
    from components.training.threads import set_threads

    there = torch.cuda.is_available()
    gpu = torch.cuda.get_device_properties(0) if there else None
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    device = chosen_device()
    precision = chosen_precision("auto", device)
    kernels, kernels_fault = _kernels(device, precision)
    return TorchReport(
        version=torch.__version__,
        built_for=_built_for(torch.version),
        gpu=gpu.name if gpu else "",
        capability=(gpu.major, gpu.minor) if gpu else (0, 0),
        gpu_gigabytes=gpu.total_memory / 1e9 if gpu else 0.0,
        no_gpu_because="" if there else _no_gpu(),
        cpu_features=tuple(name for name in FEATURES if capabilities.get(name)),
        cores=_physical_cores(),
        threads=set_threads(TrainerConfig()),
        precision=precision,
        kernels=kernels,
        kernels_fault=kernels_fault,
    )


def _physical_cores() -> int:
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def _built_for(version: Any) -> str:
    if version.cuda:
        return f"CUDA {version.cuda}"
    return f"ROCm {version.hip}" if getattr(version, "hip", None) else "CPU"


def _no_gpu() -> str:
    """torch's own words; it checks silently, and says what it met only when CUDA is used."""
    import torch

    if not (torch.version.cuda or torch.version.hip):
        return ""
    try:
        torch.zeros(1, device="cuda")
    except (AssertionError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    return "torch finds no device"


def _kernels(device: Any, precision: str) -> tuple[str, str]:
    from components.core.errors import InputError
    from components.model import ops
    from components.training.precision import compute_dtype

    try:
        chosen = ops.chosen(device, compute_dtype(precision), _HEAD_DIM, _TOKENS)
    except InputError as error:
        return "", str(error)
    return "; ".join(f"{operation} by {words}" for operation, words in chosen.items()), ""


if __name__ == "__main__":
    print(json.dumps(report()._asdict()))
