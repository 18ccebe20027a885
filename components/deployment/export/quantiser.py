"""Rounding of matrices to GGUF's block formats, by llama.cpp's own quantiser, and back.

Blocks lie along a row: 32 weights for q8_0, 256 for the k-quants. A matrix whose rows are no multiple of a format's
block takes the next finer format that fits, q8_0 and then f16, as llama.cpp does it.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from components.core.errors import InputError
from components.deployment.export.config import Precision

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_FALLBACKS: dict[Precision, tuple[Precision, ...]] = {
    "q4_k": ("q8_0", "f16"),
    "q5_k": ("q8_0", "f16"),
    "q6_k": ("q8_0", "f16"),
    "q8_0": ("f16",),
}


def quantization_type(precision: Precision) -> "GGMLQuantizationType":
    """GGUF's name of a precision."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[precision.upper()]


def fitting(precision: Precision, row: int) -> Precision:
    """The precision for a matrix whose rows hold ``row`` weights."""
    from gguf import GGML_QUANT_SIZES

    candidates = (precision, *_FALLBACKS.get(precision, ()))
    return next(each for each in candidates if row % GGML_QUANT_SIZES[quantization_type(each)][0] == 0)


def rounded(matrix: Float[np.ndarray, "rows columns"], precision: Precision) -> np.ndarray[Any, Any]:
    """``matrix`` as GGUF stores it: numbers of that type, or the bytes of its blocks ``[rows, bytes]``.

    Raises ``InputError`` for a k-quant if llama.cpp is not installed.
    """
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    if precision.endswith("_k"):
        return _by_llama_cpp(matrix, precision)
    from gguf.quants import quantize

    return quantize(matrix, quantization_type(precision))


def restored(stored: np.ndarray[Any, Any], precision: Precision) -> Float[np.ndarray, "rows columns"]:
    """What an engine reads of it, in fp32."""
    from gguf.quants import dequantize

    return dequantize(stored, quantization_type(precision))


def _by_llama_cpp(matrix: Float[np.ndarray, "rows columns"], precision: Precision) -> UInt8[np.ndarray, "rows bytes"]:
    from gguf import GGML_QUANT_SIZES

    kind = quantization_type(precision)
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = matrix.shape
    stored = np.empty((rows, columns // block * size), dtype=np.uint8)
    _quantise_chunk()(kind.value, matrix.ctypes.data, stored.ctypes.data, 0, rows, columns, None)
    return stored


@cache
def _quantise_chunk() -> Callable[..., int]:
    """``ggml_quantize_chunk(type, source, target, first row, rows, columns, importance)`` of ggml.h."""
    try:
        from xllamacpp import xllamacpp
    except ImportError as error:
        raise InputError(
            "k-quants are made by llama.cpp's own quantiser, which is not installed: pip install 'lacewing[gguf]', or "
            "choose precision=q8_0, which needs nothing"
        ) from error
    function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    function.restype = ctypes.c_size_t
    return function
