"""Products of fp32 matrices by oneDNN, on CPUs where torch's own are slow.

torch multiplies fp32 matrices on an x86 CPU by MKL, which runs its AVX2 code on every processor that is not Intel's.
On an AMD EPYC with AVX-512, oneDNN takes 0.4 to 0.5 of its time, and 0.85 to 0.95 where both may use AVX2 only. The
maker decides, and not a trial: so the same machine always rounds in the same way.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_CPUINFO = Path("/proc/cpuinfo")


def chosen(a: Tensor, b: Tensor) -> bool:
    """Whether ``product`` is the way to multiply these. A compiler chooses for itself."""
    return (
        a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and mkl_is_slow()
    )


@cache
def mkl_is_slow() -> bool:
    """Whether this is an x86 processor that MKL does not know, as far as Linux says."""
    if not (torch._C._has_mkldnn and torch._C.has_mkl and _CPUINFO.exists()):
        return False
    lines = (line.partition(":") for line in _CPUINFO.read_text().splitlines())
    maker = next((value.strip() for name, _, value in lines if name.strip() == "vendor_id"), "GenuineIntel")
    return maker != "GenuineIntel"


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices.

    oneDNN wants the left one in rows. Of two that are not, as for the gradient of a weight, the narrower is copied.
    That costs more than oneDNN gains without AVX-512: there torch multiplies these.
    """
    if a.is_contiguous():
        return _times_transposed(a, b.T)
    if b.T.is_contiguous():
        return _times_transposed(b.T, a).T
    if not _has_avx512():
        return torch.mm(a, b)
    return _times_transposed(a, b.T) if len(a) <= b.shape[1] else _times_transposed(b.T, a).T


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _times_transposed(rows: Tensor, weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, weight, None, "none", [], "")
    return result
