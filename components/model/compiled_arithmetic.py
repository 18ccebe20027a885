"""What tokens of a small model cost on a CPU, compiled by Numba: products, norms, rotation, attention, SwiGLU.

torch takes three to ten microseconds to call an operator, and a pass over ten layers calls two hundred. Here a pass is
one call, and no Python runs in it.

Every number is made in the same way however many tokens there are. The sum of a product begins with what the output
holds and goes through the inputs one by one; only outputs and tokens are computed side by side. LLVM may join a product
and a sum to one operation (``contract``) but not change their order, except in one token's norm and attention, where
nothing depends on other tokens.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call"
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

TILE = 32 if "+avx512f" in (config.CPU_FEATURES or get_host_cpu_features()) else 16
"""Outputs of a product that are computed side by side; a matrix lies as ``[tiles, inputs, TILE]``. The sums of four
rows take half of the registers."""

Array = np.ndarray[Any, Any]
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_ROUNDS = np.float32(1.5 * 2**23)
"""Added to a number of less than 2^22, it leaves no place for what is behind the point."""


def _compiled(*more: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at the first call; the code is kept beside this file, or nowhere if nothing can be written there."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        options = {"fastmath": {"contract", *more}, "nogil": True, "error_model": "numpy"}
        try:
            found: Callable[..., Any] = njit(function, cache=True, **options)
        except RuntimeError:  # neither this folder nor the user's cache can be written to
            found = njit(function, **options)
        return found

    return compiled


@intrinsic  # type: ignore[misc]
def _as_float(_: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""
    signature = types.float32(types.int32)

    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return signature, generate


@_compiled()
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
    return (series * x * x + x + _ONE) * power


def _tile_product(count: int) -> Any:
    """Of ``count`` neighbouring rows, so that what is read of the matrix is used so often. Sums stay in registers."""

    @intrinsic  # type: ignore[misc]
    def add_tile(_: Any, rows: Any, first: Any, matrix: Any, tile: Any, sums: Any) -> Any:
        signature = types.void(rows, types.int64, matrix, types.int64, sums)
        vector = ir.VectorType(ir.FloatType(), TILE)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, w, out = (context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 2, 4))
            inputs, columns = (cgutils.unpack_tuple(builder, each.shape)[1] for each in (x, out))
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{TILE}f32"
            )

            def of_row(data: Any, width: Any, at: int) -> Any:
                number = builder.add(arguments[1], ir.Constant(ir.IntType(64), at))
                return builder.gep(data, [builder.mul(number, width)])

            lanes = ir.Constant(ir.IntType(64), TILE)
            line = builder.gep(w.data, [builder.mul(builder.mul(arguments[3], inputs), lanes)])
            begin = builder.mul(arguments[3], lanes)
            given = [of_row(x.data, inputs, at) for at in range(count)]
            places = [
                builder.bitcast(builder.gep(of_row(out.data, columns, at), [begin]), vector.as_pointer())
                for at in range(count)
            ]
            totals = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
            with cgutils.for_range(builder, inputs) as loop:
                of_input = builder.gep(line, [builder.mul(loop.index, lanes)])
                weights = builder.load(builder.bitcast(of_input, vector.as_pointer()), align=4)
                for total, row in zip(totals, given, strict=True):
                    factor = builder.load(builder.gep(row, [loop.index]))
                    one = builder.insert_element(ir.Constant(vector, None), factor, ir.Constant(ir.IntType(32), 0))
                    same = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), TILE), None))
                    builder.store(builder.call(multiply_add, [same, weights, builder.load(total)]), total)
            for total, place in zip(totals, places, strict=True):
                builder.store(builder.load(total), place, align=4)
            return context.get_dummy_value()

        return signature, generate

    return add_tile


_add_tile_of_four, _add_tile_of_two, _add_tile_of_one = _tile_product(4), _tile_product(2), _tile_product(1)


@_compiled()
def add_product(rows: Array, matrix: Array, sums: Array) -> None:
    """Add ``rows @ matrix`` to ``sums``.

    Shapes: rows ``[rows, inputs]``, matrix ``[tiles, inputs, TILE]``, sums ``[rows, tiles * TILE]``; all of it fp32,
    without gaps.
    """
    count = rows.shape[0]
    for tile in range(matrix.shape[0]):
        for r in range(0, count - 3, 4):
            _add_tile_of_four(rows, r, matrix, tile, sums)
        if count % 4 >= 2:
            _add_tile_of_two(rows, count - count % 4, matrix, tile, sums)
        if count % 2:
            _add_tile_of_one(rows, count - 1, matrix, tile, sums)


@_compiled("reassoc")
def _dot(a: Array, b: Array) -> np.float32:
    total = _ZERO
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_compiled()
def norm(hidden: Array, weight: Array, epsilon: np.float32, normed: Array) -> None:
    """RMSNorm of every row of ``hidden`` into ``normed``; both may have more columns than ``weight``."""
    width = len(weight)
    for t in range(len(hidden)):
        row = hidden[t, :width]
        scale = _ONE / math.sqrt(_dot(row, row) / np.float32(width) + epsilon)
        for i in range(width):
            normed[t, i] = row[i] * scale * weight[i]


@_compiled()
def _turn(head: Array, cosine: Array, sine: Array, turned: Array) -> None:
    half = len(cosine)
    for i in range(half):
        first, second = head[i], head[half + i]
        turned[i] = first * cosine[i] - second * sine[i]
        turned[half + i] = second * cosine[i] + first * sine[i]


@_compiled("reassoc")
def _attend(queries: Array, keys: Array, values: Array, of_head: int, end: int, mixed: Array, scores: Array) -> None:
    """One token's attention with one key head.

    Shapes: queries and mixed ``[group, head]``, keys and values ``[capacity, kv_heads, head]``, of which the first
    ``end`` are read; ``scores`` is room for a line of them.
    """
    group, head = queries.shape
    scale = _ONE / math.sqrt(np.float32(head))
    for g in range(group):
        highest = np.float32(-np.inf)
        for k in range(end):
            score = _ZERO
            for d in range(head):
                score += queries[g, d] * keys[k, of_head, d]
            scores[k] = score * scale
            highest = max(highest, scores[k])
        total = _ZERO
        for k in range(end):
            scores[k] = exp(scores[k] - highest)
            total += scores[k]
        mixed[g, :] = _ZERO
        for k in range(end):
            share = scores[k] / total
            for d in range(head):
                mixed[g, d] += share * values[k, of_head, d]


@_compiled()
def _mix(
    parts: Array, angle: tuple[Array, Array], keys: Array, values: Array, position: int, mixed: Array, room: Array
) -> None:
    """Store a token's keys and values, and mix the values that it sees.

    Shapes: parts ``[heads + 2 * kv_heads, head]``, its queries, keys and values; cosine and sine of its angle
    ``[head / 2]``; keys and values of its document ``[capacity, kv_heads, head]``; mixed ``[heads, head]``; room, for
    the turned queries and the scores, ``[heads * head + capacity]``.
    """
    heads, head = mixed.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    turned = room[: heads * head].reshape(heads, head)
    for h in range(heads):
        _turn(parts[h], angle[0], angle[1], turned[h])
    for h in range(kv_heads):
        _turn(parts[heads + h], angle[0], angle[1], keys[position, h])
        values[position, h, :] = parts[heads + kv_heads + h]
    for h in range(kv_heads):
        some = slice(h * group, (h + 1) * group)
        _attend(turned[some], keys, values, h, position + 1, mixed[some], room[heads * head :])


@_compiled()
def _activate(both: Array, active: Array, width: int) -> None:
    """SwiGLU: gate and up lie side by side in ``both``."""
    for t in range(len(both)):
        for i in range(width):
            gate = both[t, i]
            active[t, i] = gate / (_ONE + exp(min(-gate, np.float32(88.0)))) * both[t, width + i]


@_compiled()
def read_tokens(
    hidden: Array,
    places: Array,
    keys: Array,
    values: Array,
    cosine: Array,
    sine: Array,
    norms: Array,
    query_key_value: Array,
    output: Array,
    gate_up: Array,
    down: Array,
    widths: tuple[int, int, int],
    epsilon: np.float32,
) -> None:
    """Take tokens through all layers; ``hidden`` is changed, and keys and values are stored.

    Arguments:
        hidden: embeddings ``[tokens, at least width]``; columns beyond the width are zero and stay so.
        places: ``[tokens, 2]``: row of the cache and position of each, those of a row in order.
        keys, values: ``[layers, rows, capacity, kv_heads, head]``.
        cosine, sine: of the rotary angles, ``[context, head / 2]``.
        norms: ``[layers, 2, width]``, before attention and before the feed-forward half.
        query_key_value, output, gate_up, down: of every layer as ``add_product`` takes it.
        widths: of the attention, its heads together; of the hidden layer; number of query heads.
        epsilon: of the norms.
    """
    tokens = len(hidden)
    attention_width, hidden_width, heads = widths
    layers, _, capacity, kv_heads, head = keys.shape
    normed = np.zeros((tokens, query_key_value.shape[2]), dtype=np.float32)
    joint = np.empty((tokens, query_key_value.shape[1] * TILE), dtype=np.float32)
    mixed = np.zeros((tokens, output.shape[2]), dtype=np.float32)
    both = np.empty((tokens, gate_up.shape[1] * TILE), dtype=np.float32)
    active = np.zeros((tokens, down.shape[2]), dtype=np.float32)
    room = np.empty(heads * head + capacity, dtype=np.float32)
    for layer in range(layers):
        norm(hidden, norms[layer, 0], epsilon, normed)
        joint[:, :] = _ZERO
        add_product(normed, query_key_value[layer], joint)
        for t in range(tokens):
            row, position = places[t, 0], places[t, 1]
            parts = joint[t, : (heads + 2 * kv_heads) * head].reshape(heads + 2 * kv_heads, head)
            by_head = mixed[t, :attention_width].reshape(heads, head)
            angle = (cosine[position], sine[position])
            _mix(parts, angle, keys[layer, row], values[layer, row], position, by_head, room)
        add_product(mixed, output[layer], hidden)
        norm(hidden, norms[layer, 1], epsilon, normed)
        both[:, :] = _ZERO
        add_product(normed, gate_up[layer], both)
        _activate(both, active, hidden_width)
        add_product(active, down[layer], hidden)
