"""The loops of ``attention.py``, compiled by Numba.

A job is one row of the batch and one key head. Its queries go in blocks; a block's queries and the heads of the group
are the lines of one matrix, and its scores a matrix of which the keys from the block's first document to its own end
are the columns. Those are few enough to stay in the cache until the block is done. Products of the whole block compute
scores that nobody sees, later tokens' and other documents': these become zeros.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call"
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from components.model.compiled.basics import ONE, TILE, ZERO, Array, compiled, dot, exp
from components.model.compiled.products import ADD, PUT, multiply, put_in_panels, put_transposed

_NOWHERE = np.float32(-np.inf)
_LEAST = np.float32(-80.0)
"""A probability below e^-80 of the largest is zero: what it would be multiplied to is too small for a normal number,
and some processors are slow where numbers are not normal."""
_GAP = 16
"""Numbers between two lines of scores, without which the same columns of all lines would share a few lines of cache."""


@intrinsic  # type: ignore[misc]
def _largest(_: Any, line: Any) -> Any:
    """The largest of whole tiles of numbers: LLVM would compare one by one, as it may not change how a NaN passes."""
    signature = types.float32(line)
    vector, place = ir.VectorType(ir.FloatType(), TILE), ir.VectorType(ir.IntType(32), TILE)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        tiles = builder.udiv(cgutils.unpack_tuple(builder, array.shape)[0], ir.Constant(ir.IntType(64), TILE))
        largest = cgutils.alloca_once_value(builder, ir.Constant(vector, [-math.inf] * TILE))
        numbers = builder.bitcast(array.data, vector.as_pointer())

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        with cgutils.for_range(builder, tiles) as loop:
            some = builder.load(builder.gep(numbers, [loop.index]), align=4)
            builder.store(larger(some, builder.load(largest)), largest)
        found, apart = builder.load(largest), TILE
        while apart > 1:
            apart //= 2
            others = ir.Constant(place, [(lane + apart) % TILE for lane in range(TILE)])
            found = larger(builder.shuffle_vector(found, found, others), found)
        return builder.extract_element(found, ir.Constant(ir.IntType(32), 0))

    return signature, generate


@compiled()
def _fill(line: Array, begin: int, end: int, value: np.float32) -> None:
    for k in range(begin, end):
        line[k] = value


@compiled("reassoc")
def _exponentials(line: Array, shift: np.float32) -> np.float32:
    """Put ``exp(line - shift)`` in place; returns the sum."""
    total = ZERO
    for k in range(len(line)):
        below = line[k] - shift
        power = exp(below)
        line[k] = ZERO if below < _LEAST else power
        total += line[k]
    return total


@compiled()
def _probabilities(line: Array, begin: int, end: int) -> np.float32:
    """Softmax of the scores from ``begin`` to ``end`` in place, zeros elsewhere; returns the logarithm of the total."""
    _fill(line, 0, begin, _NOWHERE)
    _fill(line, end, len(line), _NOWHERE)
    largest = _largest(line)
    total = _exponentials(line, largest)
    share = ONE / total
    for k in range(len(line)):
        line[k] *= share
    log_total: np.float32 = largest + np.float32(math.log(total))
    return log_total


@compiled()
def _probabilities_again(line: Array, begin: int, end: int, log_total: np.float32) -> None:
    """The same, where the logarithm of the total is known."""
    _fill(line, 0, begin, _NOWHERE)
    _fill(line, end, len(line), _NOWHERE)
    _exponentials(line, log_total)


@compiled()
def _gather(heads: Array, begin: int, end: int, first: int, factor: np.float32, lines: Array) -> None:
    """The lines of a block: positions from ``begin`` of ``heads`` ``[seq, heads, head]``, heads from ``first``."""
    group = len(lines) // (end - begin)
    for s in range(begin, end):
        for g in range(group):
            for d in range(heads.shape[2]):
                lines[(s - begin) * group + g, d] = heads[s, first + g, d] * factor


@compiled()
def _scatter(lines: Array, begin: int, end: int, first: int, heads: Array) -> None:
    """The way back."""
    group = len(lines) // (end - begin)
    for s in range(begin, end):
        for g in range(group):
            for d in range(heads.shape[2]):
                heads[s, first + g, d] = lines[(s - begin) * group + g, d]


@compiled()
def forward(
    first: int,
    last: int,
    block: int,
    query: Array,
    key: Array,
    value: Array,
    start: Array,
    mixed: Array,
    log_totals: Array,
) -> None:
    """Mix values for the jobs from ``first`` to ``last``; shapes as in ``compiled_attention``.

    Arguments:
        block: number of queries in a block.
        mixed: for the result, ``[batch, seq, heads, head]``.
        log_totals: logarithms of the sums of the exponentials of every query's scores, ``[batch, seq, heads]``.
    """
    _, seq, heads, head = query.shape
    group, tiles, panels = heads // key.shape[2], -(-seq // TILE), -(-head // TILE)
    scale = ONE / np.float32(math.sqrt(head))
    keys = np.empty((tiles, head, TILE), dtype=np.float32)
    values = np.zeros((panels, tiles * TILE, TILE), dtype=np.float32)
    lines_room = np.empty((block * group, head), dtype=np.float32)
    out_room = np.empty((block * group, panels * TILE), dtype=np.float32)
    apart = tiles * TILE + _GAP
    room = np.empty((block * group, apart), dtype=np.float32)
    flat = room.ravel()
    for job in range(first, last):
        b, h = job // key.shape[2], job % key.shape[2]
        put_transposed(key[b, :, h], keys)
        put_in_panels(value[b, :, h], ONE, values)
        for begin in range(0, seq, block):
            end = min(begin + block, seq)
            from_tile, to_tile = start[b, begin] // TILE, -(-end // TILE)
            low, width, count = from_tile * TILE, (to_tile - from_tile) * TILE, (end - begin) * group
            lines, out = lines_room[:count], out_room[:count]
            _gather(query[b], begin, end, h * group, scale, lines)
            scores = room[:count, :width]
            multiply(lines, keys[from_tile:to_tile], scores, PUT)
            for i in range(count):
                s, g = begin + i // group, h * group + i % group
                line = flat[i * apart : i * apart + width]
                log_totals[b, s, g] = _probabilities(line, start[b, s] - low, s + 1 - low)
            multiply(scores, values[:, low : low + width], out, PUT)
            _scatter(out, begin, end, h * group, mixed[b])


@compiled()
def _to_slopes(
    room: Array, slopes_room: Array, apart: int, width: int, begin: int, low: int, start: Array, log_totals: Array
) -> None:
    """Turn a block's scores into probabilities, and the gradients of these into those of the scores.

    Shapes: both rooms hold lines of ``width`` numbers ``apart`` from each other; log_totals ``[queries, group]``.
    """
    queries, group = log_totals.shape
    for q in range(queries):
        s = begin + q
        for g in range(group):
            place = (q * group + g) * apart
            line, slopes = room[place : place + width], slopes_room[place : place + width]
            _probabilities_again(line, start[s] - low, s + 1 - low, log_totals[q, g])
            mean = dot(line, slopes)
            for k in range(width):
                slopes[k] = line[k] * (slopes[k] - mean)


@compiled()
def backward(
    first: int,
    last: int,
    block: int,
    upstream: Array,
    query: Array,
    key: Array,
    value: Array,
    start: Array,
    log_totals: Array,
    of_query: Array,
    of_key: Array,
    of_value: Array,
) -> None:
    """The gradients for the jobs from ``first`` to ``last``, given that of what was mixed (``upstream``)."""
    _, seq, heads, head = query.shape
    group, tiles, panels = heads // key.shape[2], -(-seq // TILE), -(-head // TILE)
    scale, most, apart = ONE / np.float32(math.sqrt(head)), block * group, tiles * TILE + _GAP
    keys, values = np.empty((tiles, head, TILE), dtype=np.float32), np.empty((tiles, head, TILE), dtype=np.float32)
    key_panels = np.zeros((panels, tiles * TILE, TILE), dtype=np.float32)
    lines_room = np.empty((2, most, head), dtype=np.float32)
    panels_room = np.empty((2, panels, most, TILE), dtype=np.float32)
    out_room = np.empty((most, panels * TILE), dtype=np.float32)
    room = np.empty((2, most, apart), dtype=np.float32)
    sums = np.empty((2, tiles * TILE, panels * TILE), dtype=np.float32)
    for job in range(first, last):
        b, h = job // key.shape[2], job % key.shape[2]
        put_transposed(key[b, :, h], keys)
        put_transposed(value[b, :, h], values)
        put_in_panels(key[b, :, h], scale, key_panels)
        sums.fill(ZERO)
        for begin in range(0, seq, block):
            end = min(begin + block, seq)
            from_tile, to_tile = start[b, begin] // TILE, -(-end // TILE)
            low, width, count = from_tile * TILE, (to_tile - from_tile) * TILE, (end - begin) * group
            lines, ups = lines_room[0, :count], lines_room[1, :count]
            _gather(query[b], begin, end, h * group, scale, lines)
            _gather(upstream[b], begin, end, h * group, ONE, ups)
            probabilities = room[0, :count, :width]
            slopes = room[1, :count, :width]
            multiply(lines, keys[from_tile:to_tile], probabilities, PUT)
            multiply(ups, values[from_tile:to_tile], slopes, PUT)
            totals = log_totals[b, begin:end, h * group : (h + 1) * group]
            _to_slopes(room[0].ravel(), room[1].ravel(), apart, width, begin, low, start[b], totals)
            multiply(slopes, key_panels[:, low : low + width], out_room[:count], PUT)
            _scatter(out_room[:count], begin, end, h * group, of_query[b])
            put_in_panels(lines, ONE, panels_room[0, :, :count])
            put_in_panels(ups, ONE, panels_room[1, :, :count])
            multiply(slopes.T, panels_room[0, :, :count], sums[0, low : low + width], ADD)
            multiply(probabilities.T, panels_room[1, :, :count], sums[1, low : low + width], ADD)
        _scatter(sums[0, :seq], 0, seq, h, of_key[b])
        _scatter(sums[1, :seq], 0, seq, h, of_value[b])
