"""How many CPU threads a forward pass has."""

import os

import psutil


def forward_threads(asked: int) -> int:
    """``asked``, or if that is 0 one less than the physical cores that this process may use, and at least one.

    The cores are not for the model alone: the event loop sends and receives beside it, and often clients do on the same
    machine. A pass waits for its slowest thread, so one that has to share its core delays all. Returns 0, which changes
    nothing, if the environment says how many (``OMP_NUM_THREADS``).
    """
    if asked or "OMP_NUM_THREADS" in os.environ:
        return asked
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed) - 1)
