# mypy: ignore-errors
"""Compile the row kernels for Hopper, GPU or not; print what each takes, and what its loop over a row waits for.

Run by test_ahead_of_time.py in a process of its own, as Triton decides at import whether it interprets. Prints for each
program: name, dtype, bytes of registers spilled, barriers and shuffles in its loops, and loads of 16 bytes.
"""

import re

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention.configurations import HOPPER
from kernels.bench.ahead_of_time import POINTERS, advice
from kernels.cross_entropy import rows
from kernels.cross_entropy.configurations import _TABLE

NUMBERS = {"stride": "i32", "out_stride": "i32", "width": "i32", "call": "i32", "ignored": "i32"}


def compiled(kernel, dtype: torch.dtype, *, everything: bool) -> str:
    """The program in PTX, for 50,304 columns and aligned tensors."""
    config = _TABLE[HOPPER[0], dtype.itemsize]
    constants = {
        "COLUMNS": 50304,
        "HAS_CALL": everything,
        "ARGMAX": everything,
        "ENTROPY": everything,
        "SUM": tl.float32,
        "BLOCK": config.block,
        "GROUP": rows.LOADED_BYTES // dtype.itemsize,
    }
    wide = dict.fromkeys(("logits", "out"), POINTERS[dtype]) | {"target": "*i64", "argmax_out": "*i32"}
    signature = {
        name: "constexpr" if name in constants else NUMBERS.get(name) or wide.get(name, "*fp32")
        for name in kernel.arg_names
    }
    unaligned = (*constants, "call", "ignored")
    aligned = {
        (number,): [["tt.divisibility", 16]] for number, name in enumerate(kernel.arg_names) if name not in unaligned
    }
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items() if name in kernel.arg_names}
    target = GPUTarget("cuda", HOPPER[0] * 10 + HOPPER[1], 32)
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(source, target=target, options={"num_warps": config.warps}).asm["ptx"]


def loops(ptx: str) -> str:
    """What is between a label and a branch back to it."""
    found = ""
    for label in re.finditer(r"^(\$L__BB\w+):", ptx, re.MULTILINE):
        back = re.search(rf"bra(\.uni)?\s+{re.escape(label[1])};", ptx[label.end() :])
        if back:
            found += ptx[label.end() : label.end() + back.start()]
    return found


def main() -> None:
    for kernel in (rows._measure, rows._differentiate):
        for dtype in (torch.bfloat16, torch.float32):
            ptx = compiled(kernel, dtype, everything=dtype == torch.bfloat16)
            spilled, _ = advice(ptx, re.search(r"\.target (\w+)", ptx)[1])
            repeated = loops(ptx)
            waits = repeated.count("bar.sync"), repeated.count("shfl.sync")
            whole = len(re.findall(r"ld\.global\S*\.v4", repeated or ptx))
            print(kernel.__name__, str(dtype).removeprefix("torch."), spilled, *waits, whole)


if __name__ == "__main__":
    main()
