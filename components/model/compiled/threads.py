"""Compiled loops on torch's tensors, and on several threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def arrays(*tensors: Tensor) -> list[Any]:
    """CPU tensors as compiled loops take them; those with gaps are copied, so only the others can be written to."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def in_parallel(loop: Callable[..., None], jobs: int, *arguments: Any) -> None:
    """Call ``loop(first, last, *arguments)`` for all of ``range(jobs)``, on as many threads as torch uses.

    ``loop`` must not hold Python's lock, and no job may write where another does.
    """
    parts = min(torch.get_num_threads(), jobs)
    if parts <= 1:
        loop(0, jobs, *arguments)
        return
    borders = [jobs * part // parts for part in range(parts + 1)]
    first, *others = pairwise(borders)
    waiting = [_workers(parts - 1).submit(loop, *each, *arguments) for each in others]
    loop(*first, *arguments)
    for each in waiting:
        each.result()


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    # Denormal numbers as in the training thread (``components.training.threads``): a mode of each thread.
    return ThreadPoolExecutor(count, "compiled", torch.set_flush_denormal, (True,))


# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_workers.cache_clear)
