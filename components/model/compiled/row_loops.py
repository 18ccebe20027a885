"""The loops of ``row_operations.py``, compiled by Numba. Rows from ``first`` to ``last`` are computed; all is fp32."""

# mypy: disable-error-code="untyped-decorator,no-untyped-call"
import math

import numpy as np

from components.model.compiled.basics import ONE, ZERO, Array, compiled, dot, exp

PART = 128
"""Rows whose shares of a weight's gradient are summed together, whatever the number of threads."""
_MOST = np.float32(88.0)
"""The largest number that ``exp`` takes."""


@compiled()
def norm_row(row: Array, weight: Array, epsilon: np.float32, normed: Array) -> np.float32:
    """RMSNorm of one row; ``normed`` may be longer. Returns what the row was multiplied by, besides the weight."""
    width = len(weight)
    scale: np.float32 = ONE / np.float32(math.sqrt(dot(row, row) / np.float32(width) + epsilon))
    for i in range(width):
        normed[i] = row[i] * scale * weight[i]
    return scale


@compiled()
def silu(x: np.float32) -> np.float32:
    """x * sigmoid(x)."""
    active: np.float32 = x / (ONE + exp(min(-x, _MOST)))
    return active


@compiled()
def norm(first: int, last: int, rows: Array, weight: Array, epsilon: np.float32, normed: Array, inverse: Array) -> None:
    """RMSNorm; ``inverse`` ``[rows]`` is for what each row was multiplied by, besides the weight."""
    for r in range(first, last):
        inverse[r] = norm_row(rows[r], weight, epsilon, normed[r])


@compiled("reassoc")
def _along(upstream: Array, weight: Array, row: Array) -> np.float32:
    total = ZERO
    for i in range(len(row)):
        total += upstream[i] * weight[i] * row[i]
    return total


@compiled()
def norm_gradient(
    first: int,
    last: int,
    upstream: Array,
    rows: Array,
    weight: Array,
    inverse: Array,
    of_rows: Array,
    of_weight: Array,
) -> None:
    """For parts of ``PART`` rows; the weight's gradient of each, ``[parts, width]``, begins with zeros."""
    width = len(weight)
    for part in range(first, last):
        total = of_weight[part]
        for r in range(part * PART, min((part + 1) * PART, len(rows))):
            up, row, out, scale = upstream[r], rows[r], of_rows[r], inverse[r]
            # The derivative of row * scale takes from up * weight what points along the row itself.
            share = _along(up, weight, row) * scale * scale / np.float32(width)
            for i in range(width):
                out[i] = scale * (up[i] * weight[i] - row[i] * share)
            for i in range(width):
                total[i] += up[i] * row[i] * scale


@compiled()
def rotate(
    first: int, last: int, heads: Array, cosine: Array, sine: Array, direction: np.float32, turned: Array
) -> None:
    """Turn every head of a row by the angle of its place, or back (``direction`` -1).

    Shapes: heads and turned ``[rows, heads, head]``, cosine and sine ``[places, head]``; after the last place comes the
    first again.
    """
    _, count, head = heads.shape
    half = head // 2
    for r in range(first, last):
        place = r % len(cosine)
        for h in range(count):
            given, out = heads[r, h], turned[r, h]
            for i in range(half):
                out[i] = given[i] * cosine[place, i] + given[half + i] * sine[place, i] * direction
            for i in range(half):
                at = half + i
                out[at] = given[at] * cosine[place, at] + given[i] * sine[place, at] * direction


@compiled()
def swiglu(first: int, last: int, gate: Array, up: Array, out: Array) -> None:
    """silu(gate) * up."""
    for r in range(first, last):
        g, u, o = gate[r], up[r], out[r]
        for i in range(len(g)):
            o[i] = silu(g[i]) * u[i]


@compiled()
def swiglu_gradients(
    first: int, last: int, upstream: Array, gate: Array, up: Array, of_gate: Array, of_up: Array
) -> None:
    for r in range(first, last):
        a, g, u, of_g, of_u = upstream[r], gate[r], up[r], of_gate[r], of_up[r]
        for i in range(len(g)):
            share = ONE / (ONE + exp(min(-g[i], _MOST)))
            of_u[i] = a[i] * g[i] * share
            of_g[i] = a[i] * u[i] * share * (ONE + g[i] * (ONE - share))
