"""How the row kernels are cut: a table, measured offline, in place of autotuning.

An autotuner would need a driver at the first call, tune again in every process, and round differently from run to run.
To add a row: ``python -m kernels.bench`` on that GPU, and the reason for it beside the row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class RowConfig(NamedTuple):
    """One program's share of a row of logits."""

    block: int  # columns at a time, a power of two
    warps: int


# 4096 columns in 8 warps are 16 a thread: 32 bytes of bf16, two of the widest loads. Wider blocks spill in backward.
_DEFAULT = RowConfig(block=4096, warps=8)
# (major compute capability, bytes per logit). sm 9 is a starting point by arithmetic, not yet a measurement.
_TABLE = {
    (9, 2): RowConfig(block=4096, warps=8),
    (9, 4): RowConfig(block=4096, warps=8),
    (9, 8): RowConfig(block=1024, warps=4),
}


def row_config(logits: torch.Tensor) -> RowConfig:
    """For these logits, where they are. No wider than they need: the interpreter pays for every lane."""
    major = torch.cuda.get_device_capability(logits.device)[0] if logits.is_cuda else 0
    config = _TABLE.get((major, logits.element_size()), _DEFAULT)
    return config._replace(block=min(config.block, 1 << (logits.shape[1] - 1).bit_length()))
