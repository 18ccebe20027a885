"""Tile shapes of the attention kernels, by GPU, dtype and head dimension: a table, read and never tuned at run time.

``triton.autotune`` is avoided on purpose: it measures again in every process, and its choice, so the rounding of the
results, may differ between runs.

To add an entry: time candidates on the GPU itself with ``with trying(configuration): ...`` (``python -m kernels.bench``
prints what to compare), run ``pytest tests/kernels`` there, whose sweep takes every configuration of this table, and
write the winner under its key. No documents and documents have keys of their own: short documents want smaller tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from kernels.dispatch import interpreted


@dataclass(frozen=True)
class Tiles:
    """How one kernel cuts up its work."""

    rows: int
    """Queries in a tile."""
    keys: int
    """Keys in a tile."""
    warps: int = 4
    stages: int = 2
    """Depth of the software pipeline: tiles on their way from memory at once."""
    described: bool = False
    """Are the tiles that a program meets loaded through tensor descriptors (TMA, from compute capability 9.0 on), where
    their tensors are aligned? Else, and where they are not, through a pointer for every number."""


@dataclass(frozen=True)
class Configuration:
    """Tiles of the three kernels."""

    forward: Tiles
    grad_query: Tiles
    grad_key_value: Tiles


@dataclass(frozen=True)
class Case:
    """What a configuration is for."""

    capability: tuple[int, int]
    """Compute capability of the GPU; (0, 0) is the interpreter."""
    dtype: torch.dtype
    head_dim: int
    documents: bool


INTERPRETER = (0, 0)
AMPERE = (8, 0)
HOPPER = (9, 0)
HALF = (torch.bfloat16, torch.float16)


def _table() -> dict[Case, Configuration]:
    """Every case, starting points first, so that a measured entry below them replaces its starting point."""
    table: dict[Case, Configuration] = {}

    def enter(
        capability: tuple[int, int],
        dtypes: tuple[torch.dtype, ...],
        head_dims: tuple[int, ...],
        entry: Configuration,
        *,
        documents: tuple[bool, ...] = (False, True),
    ) -> None:
        for dtype in dtypes:
            for head_dim in head_dims:
                for packed in documents:
                    table[Case(capability, dtype, head_dim, packed)] = entry

    # Hopper: near the defaults of PyTorch's FlexAttention on H100 (torch 2.13), where no registers spill and ptxas does
    # not serialise the matrix products (tests/kernels/attention/test_ahead_of_time.py). Unmeasured here.
    wide = Tiles(rows=128, keys=128, warps=8, stages=3)
    enter(
        HOPPER,
        HALF,
        (16, 32),
        Configuration(wide, Tiles(rows=64, keys=64, warps=4, stages=3), Tiles(rows=64, keys=64, warps=4, stages=3)),
    )
    # Descriptors take 12 to 85 registers fewer for all but one of these programs (D128 in grad_key_value).
    backward = Tiles(128, 64, warps=8, stages=3, described=True), Tiles(64, 128, warps=8, stages=3, described=True)
    enter(HOPPER, HALF, (64,), Configuration(Tiles(128, 128, warps=8, stages=3, described=True), *backward))
    # Half the keys waste half as much at the edges of documents.
    narrow = Tiles(128, 64, warps=4, stages=3, described=True)
    enter(HOPPER, HALF, (64,), Configuration(narrow, *backward), documents=(True,))
    broad = Tiles(128, 64, warps=8, stages=3, described=True), Tiles(128, 64, warps=8, stages=2, described=True)
    enter(HOPPER, HALF, (128,), Configuration(*broad, Tiles(32, 128, warps=8, stages=2, described=True)))

    # Any other GPU, fitting the 99 KB of shared memory that the smallest (8.6, 8.9, 12.0) give a program. Unmeasured.
    square = Tiles(rows=64, keys=64)
    enter(AMPERE, HALF, (16, 32, 64), Configuration(Tiles(rows=128, keys=64), square, square))
    enter(
        AMPERE,
        HALF,
        (128,),
        Configuration(Tiles(rows=64, keys=64), Tiles(rows=64, keys=32), Tiles(rows=32, keys=64)),
    )

    # fp32 is multiplied in full, without tensor cores: for checks, not for speed.
    small = Tiles(rows=32, keys=32, stages=1)
    for capability in (HOPPER, AMPERE):
        enter(capability, (torch.float32,), (16, 32, 64, 128), Configuration(small, small, small))

    # The interpreter pays per tile, whatever its size.
    enter(INTERPRETER, (*HALF, torch.float32, torch.float64), (16, 32, 64, 128), Configuration(square, square, square))
    return table


TABLE = _table()

_tried: Configuration | None = None


@contextmanager
def trying(configuration: Configuration) -> Iterator[None]:
    """Within the block, attention uses ``configuration`` whatever the table says: for tuning and for tests.

    It holds for every thread, since on a GPU ``backward()`` runs in one of its own.
    """
    global _tried
    before, _tried = _tried, configuration
    try:
        yield
    finally:
        _tried = before


def chosen(query: torch.Tensor, *, documents: bool) -> Configuration:
    """The configuration for such queries: the one that is tried, else the table's for this GPU, else that of 8.0."""
    if _tried is not None:
        return _tried
    capability = INTERPRETER if interpreted() else _capability(query.device)
    case = Case(capability, query.dtype, query.shape[-1], documents)
    return TABLE.get(case) or TABLE[Case(AMPERE, query.dtype, query.shape[-1], documents)]


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
