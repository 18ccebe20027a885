# mypy: ignore-errors
"""Compile the attention kernels for a GPU that need not be there; print what each program takes, and what ptxas says.

Run in a process of its own, as Triton decides at import whether it interprets. The tests ask about the table:

    python -m kernels.bench.ahead_of_time 9 0 bfloat16 64 1 4

prints for each kernel: name, bytes of shared memory, ``wgmma`` or ``-``, bytes of registers spilled, and the codes of
ptxas's advice about matrix products that it had to serialise (C7510 to C7515), or ``-``. Tuning asks about candidates
(``prefilter.py``): the same for each line of tiles on standard input (rows, keys, warps, stages, descriptors), of
the kernel that is named last.

    echo 128 64 4 3 1 | python -m kernels.bench.ahead_of_time 9 0 bfloat16 64 1 4 forward
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention import backward, forward
from kernels.attention.configurations import TABLE, Case, Configuration, Tiles

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
AS_FP32, AS_INT32 = ("lse", "delta"), ("doc_start", "doc_end")
MET = {
    "_forward": (("key", "value"), "keys"),
    "_grad_query": (("key", "value"), "keys"),
    "_grad_key_value": (("query", "grad_out"), "rows"),
}
"""What may be given as descriptors, and how many tokens of it a tile has."""


def compiled(kernel, tiles: Tiles, case: Case, group: int = 4):
    """The kernel as a launch with 16-byte aligned tensors and ``group`` heads for each key would compile it."""
    constants = {
        "SCALE": case.head_dim**-0.5,
        "GROUP": group,
        "HEAD_DIM": case.head_dim,
        "ROWS": tiles.rows,
        "KEYS": tiles.keys,
        "DOCUMENTS": case.documents,
        "DESCRIBED": tiles.described,
        "ACC": tl.float32,
    }
    if not case.documents:
        constants |= dict.fromkeys(AS_INT32)
    described = {}
    if tiles.described:
        met, size = MET[kernel.__name__]
        block = f"[1,1,{getattr(tiles, size)},{case.head_dim}]"
        described = dict.fromkeys(met, f"tensordesc<{POINTERS[case.dtype].removeprefix('*')}{block}>")
    signature, aligned = {}, {}
    for number, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in described:
            signature[name] = described[name]
            continue
        elif name.endswith("_strides"):
            signature[name] = ("i32",) * 3
            aligned |= {(number, place): [["tt.divisibility", 16]] for place in range(3)}
        elif name in ("heads", "kv_heads", "length"):
            signature[name] = "i32"
        else:
            signature[name] = "*fp32" if name in AS_FP32 else "*i32" if name in AS_INT32 else POINTERS[case.dtype]
        if name not in (*constants, "heads", "kv_heads") and not name.endswith("_strides"):
            aligned[(number,)] = [["tt.divisibility", 16]]
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items() if name in kernel.arg_names}
    target = GPUTarget("cuda", case.capability[0] * 10 + case.capability[1], 32)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    return triton.compile(ASTSource(kernel, signature, values, aligned), target=target, options=options)


def advice(ptx: str, target: str) -> tuple[int, str]:
    """Bytes that spill, and the codes of the advice, for a program in PTX."""
    from triton.backends.nvidia.compiler import get_ptxas

    architecture = int(target.removeprefix("sm_").rstrip("a"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        options = ["-v", f"--gpu-name={target}", "-o", f"{folder}/kernel.cubin"]
        command = [get_ptxas(architecture).path, *options, str(path)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    spilled = re.search(r"(\d+) bytes spill stores", told)
    assert spilled, told
    return int(spilled[1]), ",".join(sorted(set(re.findall(r"C751\d", told)))) or "-"


def report(kernel, tiles: Tiles, case: Case, group: int) -> str:
    """One line about a program, as the head of this file says."""
    program = compiled(kernel, tiles, case, group)
    ptx = program.asm["ptx"]
    told = advice(ptx, re.search(r"\.target (\w+)", ptx)[1])
    return " ".join(map(str, (kernel.__name__, program.metadata.shared, "wgmma" if "wgmma" in ptx else "-", *told)))


def main() -> None:
    major, minor, dtype, head_dim, documents, group, *part = sys.argv[1:]
    case = Case((int(major), int(minor)), getattr(torch, dtype), int(head_dim), documents == "1")
    entry: Configuration = TABLE[case]
    kernels = {
        "forward": (forward._forward, entry.forward),
        "grad_query": (backward._grad_query, entry.grad_query),
        "grad_key_value": (backward._grad_key_value, entry.grad_key_value),
    }
    if not part:
        for kernel, tiles in kernels.values():
            print(report(kernel, tiles, case, int(group)))
        return
    kernel, _ = kernels[part[0]]
    for line in sys.stdin:
        try:
            rows, keys, warps, stages, described = map(int, line.split())
            print(report(kernel, Tiles(rows, keys, warps, stages, bool(described)), case, int(group)), flush=True)
        except Exception as error:  # a candidate that the compiler refuses is an answer too
            print("refused", type(error).__name__, flush=True)


if __name__ == "__main__":
    main()
