"""How many CPU threads a training process uses."""

import os

import psutil
import torch

from components.training.config import TrainerConfig


def set_threads(config: TrainerConfig) -> int:
    """Apply ``trainer.threads``; returns the number. The caller's ``OMP_NUM_THREADS`` beats the automatic choice.

    Hyper-threads share the vector units that training lives on, so only physical cores count. Denormal numbers are
    flushed to zero: late in training they slow CPU products down and mean nothing.
    """
    torch.set_flush_denormal(True)
    if config.threads:
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _cores() // config.devices))
    return torch.get_num_threads()


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)
