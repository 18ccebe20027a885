# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What the kernels need so that Triton's interpreter computes what the GPU computes.

``dot(a, b, acc)`` equals ``acc + a.to(acc.dtype) @ b.to(acc.dtype)``: products of the given operands, summed in the
accumulator's precision.
"""

import triton
import triton.language as tl

from kernels.dispatch import interpreted

INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def dot(a, b, acc):
    """``acc + a @ b``, summed in the dtype of ``acc``; fp32 operands are multiplied in full (``ieee``, never tf32).

    The interpreter keeps bfloat16 as uint16 and multiplies the bit patterns as if they were integers: its product is
    silently wrong by a factor of 1e9 and more (triton issues 11584, 5424; seen in 3.6 and 3.9). So under the
    interpreter, and only there, bfloat16 operands are widened to float32 first, which is exact.
    """
    if INTERPRETED:
        if a.dtype == tl.bfloat16:
            a = a.to(tl.float32)
        if b.dtype == tl.bfloat16:
            b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def tile_offset(index, stride):
    """``index * stride`` in 64 bits: in 32 bits, which Triton gives to both, row 65536 of stride 50304 is negative."""
    return index.to(tl.int64) * stride
