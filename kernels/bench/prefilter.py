"""Which tiles of attention are worth timing: those that compile without register spills and serialised products.

The compiler needs no GPU, so many candidates are compiled at once, each in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

from kernels.attention.configurations import AMPERE, HOPPER, Case, Tiles

SHARED_MEMORY = {HOPPER: 227 * 1024, AMPERE: 99 * 1024}
"""Bytes that a program may take: on H100 and H200, and on the smallest GPU that the careful entries are for."""


def survivors(case: Case, part: str, candidates: Sequence[Tiles], group: int, processes: int = 0) -> list[Tiles]:
    """The candidates for one kernel (``forward``, ``grad_query``, ``grad_key_value``) that are worth timing.

    Arguments:
        case: what is computed, and on which GPU.
        group: query heads for each key.
        processes: compilers at once; 0 takes one for each core.

    Raises ``RuntimeError`` if a compiler's process fails.
    """
    workers = min(processes or os.cpu_count() or 1, len(candidates))
    shares = [candidates[worker::workers] for worker in range(workers)]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        told = pool.map(lambda share: _told(case, part, share, group), shares)
        kept = {tiles for share, lines in zip(shares, told, strict=True) for tiles in _kept(case, share, lines)}
    return [tiles for tiles in candidates if tiles in kept]


def _told(case: Case, part: str, candidates: Sequence[Tiles], group: int) -> list[str]:
    dtype = str(case.dtype).removeprefix("torch.")
    asked = [*map(str, case.capability), dtype, str(case.head_dim), str(int(case.documents)), str(group), part]
    run = subprocess.run(
        [sys.executable, "-m", "kernels.bench.ahead_of_time", *asked],
        input="".join(" ".join(str(int(number)) for number in astuple(tiles)) + "\n" for tiles in candidates),
        env={**os.environ, "TRITON_INTERPRET": "0"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    lines = run.stdout.splitlines()
    if run.returncode or len(lines) != len(candidates):
        raise RuntimeError(f"the compiler's process ended with {run.returncode}: {run.stderr[-500:]}")
    return lines


def _kept(case: Case, candidates: Sequence[Tiles], lines: Sequence[str]) -> list[Tiles]:
    room = SHARED_MEMORY.get(case.capability, SHARED_MEMORY[AMPERE])
    kept = []
    for tiles, line in zip(candidates, lines, strict=True):
        name, *figures = line.split()
        if name == "refused":
            continue
        shared, _, spilled, serialised = figures
        if int(shared) <= room and spilled == "0" and serialised == "-":
            kept.append(tiles)
    return kept
