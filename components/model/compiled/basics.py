"""What compiled code is made of: how Numba compiles it, e to the power of x, the product of two lines."""

# mypy: disable-error-code="untyped-decorator,no-untyped-call"
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

TILE = 32 if "+avx512f" in (config.CPU_FEATURES or get_host_cpu_features()) else 16
"""Columns in a panel. With the sums of six rows they take twelve registers of sixteen (AVX2), or of 32."""

Array = np.ndarray[Any, Any]
ZERO, ONE = np.float32(0.0), np.float32(1.0)
_ROUNDS = np.float32(1.5 * 2**23)
"""Added to a number of less than 2^22, it leaves no place for what is behind the point."""


def compiled(*more: str, signature: Any = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile with ``contract`` and ``more`` of LLVM's fast-math flags.

    At once for a ``signature``; without one at the first call, and anew for each kind of arguments. The code is kept
    beside this file, or nowhere if nothing can be written there.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        options = {"fastmath": {"contract", *more}, "nogil": True, "error_model": "numpy"}
        try:
            found: Callable[..., Any] = njit(signature, cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's cache can be written to
            found = njit(signature, **options)(function)
        return found

    return decorated


@intrinsic  # type: ignore[misc]
def _as_float(_: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""
    signature = types.float32(types.int32)

    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return signature, generate


@compiled()
def exp(x: np.float32) -> np.float32:
    """e to the power of ``x``, which is at most 88: that of the library is not computed for many at once.

    2^n times a polynomial, as in Cephes' ``expf``: wrong by at most two units of the last place.
    """
    if x < np.float32(-87.0):
        x = np.float32(-87.0)
    n = (x * np.float32(1.44269504088896341) + _ROUNDS) - _ROUNDS
    x -= n * np.float32(0.693359375)
    x -= n * np.float32(-2.12194440e-4)
    series = np.float32(1.9875691500e-4)
    series = series * x + np.float32(1.3981999507e-3)
    series = series * x + np.float32(8.3334519073e-3)
    series = series * x + np.float32(4.1665795894e-2)
    series = series * x + np.float32(1.6666665459e-1)
    series = series * x + np.float32(5.0000001201e-1)
    power: np.float32 = _as_float(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
    return (series * x * x + x + ONE) * power


@compiled("reassoc")
def dot(a: Array, b: Array) -> np.float32:
    """The sum of the products of two lines."""
    total = ZERO
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
