"""Products of matrices that stay in the cache, compiled by Numba.

The right matrix lies in panels, ``[panels, inputs, TILE]``: the columns that are computed side by side. The sum of
every output begins with what is there and goes through the inputs one by one, whatever other rows are computed with it.
The sums of up to six rows stay in registers, so that each number that is read of a panel is used so often.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call"
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from components.model.compiled.basics import TILE, ZERO, Array, compiled


def _tile_product(count: int) -> Any:
    """Of ``count`` neighbouring rows of the left matrix and one panel: added to what the output holds, or put there."""

    @intrinsic  # type: ignore[misc]
    def multiply_tile(_: Any, rows: Any, first: Any, panel: Any, out: Any, column: Any, add: Any) -> Any:
        signature = types.void(rows, types.int64, panel, out, types.int64, types.boolean)
        vector, byte = ir.VectorType(ir.FloatType(), TILE), ir.IntType(8).as_pointer()
        first_lane = ir.Constant(ir.VectorType(ir.IntType(32), TILE), None)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right, to = (
                context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 2, 3)
            )
            (by_row, by_input), (by_line, _), (by_output, _) = (
                cgutils.unpack_tuple(builder, each.strides) for each in (left, right, to)
            )
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{TILE}f32"
            )

            def number(value: int) -> Any:
                return ir.Constant(ir.IntType(64), value)

            def place(array: Any, offset: Any, kind: Any) -> Any:
                return builder.bitcast(builder.gep(builder.bitcast(array.data, byte), [offset]), kind.as_pointer())

            row = [builder.add(arguments[1], number(at)) for at in range(count)]
            begin = builder.mul(arguments[4], number(4))
            places = [place(to, builder.add(builder.mul(at, by_output), begin), vector) for at in row]
            held = [builder.load(at, align=4) for at in places]
            nothing = ir.Constant(vector, [0.0] * TILE)
            starts = [builder.select(arguments[5], each, nothing) for each in held]
            totals = [cgutils.alloca_once_value(builder, each) for each in starts]
            offsets = [builder.mul(at, by_row) for at in row]
            with cgutils.for_range(builder, cgutils.unpack_tuple(builder, left.shape)[1]) as loop:
                weights = builder.load(place(right, builder.mul(loop.index, by_line), vector), align=4)
                step = builder.mul(loop.index, by_input)
                for total, offset in zip(totals, offsets, strict=True):
                    factor = builder.load(place(left, builder.add(offset, step), ir.FloatType()))
                    one = builder.insert_element(ir.Constant(vector, None), factor, ir.Constant(ir.IntType(32), 0))
                    factors = builder.shuffle_vector(one, one, first_lane)
                    builder.store(builder.call(multiply_add, [factors, weights, builder.load(total)]), total)
            for total, at in zip(totals, places, strict=True):
                builder.store(builder.load(total), at, align=4)
            return context.get_dummy_value()

        return signature, generate

    return multiply_tile


_six_rows, _four_rows, _three_rows, _two_rows, _one_row = (_tile_product(count) for count in (6, 4, 3, 2, 1))

_MATRIX, _PANELS = types.Array(types.float32, 2, "A"), types.Array(types.float32, 3, "A")
PUT, ADD = False, True


@compiled(signature=types.void(_MATRIX, _PANELS, _MATRIX, types.boolean))
def multiply(rows: Array, panels: Array, out: Array, add: bool) -> None:
    """``out = rows @ panels``, or ``out += rows @ panels``; all of it fp32.

    Shapes: rows ``[rows, inputs]`` with any strides, panels ``[panels, inputs, TILE]``, out ``[rows, panels * TILE]``;
    the last dimension of these two has no gaps.
    """
    for number in range(len(panels)):
        panel, column, r = panels[number], number * TILE, 0
        while r < len(rows):
            left = len(rows) - r
            if left > 8 or left == 6:
                _six_rows(rows, r, panel, out, column, add)
                r += 6
            elif left >= 4:  # eight rows are twice four, as the sums of two alone would wait for each other
                _four_rows(rows, r, panel, out, column, add)
                r += 4
            elif left == 3:
                _three_rows(rows, r, panel, out, column, add)
                r += 3
            elif left == 2:
                _two_rows(rows, r, panel, out, column, add)
                r += 2
            else:
                _one_row(rows, r, panel, out, column, add)
                r += 1


@compiled()
def put_in_panels(rows: Array, factor: np.float32, panels: Array) -> None:
    """``rows * factor`` as the right side of a product; shapes ``[inputs, outputs]`` and ``[panels, inputs, TILE]``.

    Columns that ``rows`` has not are zero.
    """
    inputs, outputs = rows.shape
    for r in range(inputs):
        for panel in range(len(panels)):
            for lane in range(TILE):
                column = panel * TILE + lane
                panels[panel, r, lane] = rows[r, column] * factor if column < outputs else ZERO


@compiled()
def put_transposed(rows: Array, panels: Array) -> None:
    """``rows.T`` as the right side of a product; shapes ``[outputs, inputs]`` and ``[panels, inputs, TILE]``."""
    outputs, inputs = rows.shape
    for panel in range(len(panels)):
        for lane in range(TILE):
            column = panel * TILE + lane
            for i in range(inputs):
                panels[panel, i, lane] = rows[column, i] if column < outputs else ZERO
