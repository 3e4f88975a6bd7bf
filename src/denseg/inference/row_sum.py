# SPDX-License-Identifier: Apache-2.0
"""The one inner loop of lattice filtering, in vector registers: a weighted sum of rows of a table.

numba's compiler unrolls short loops into scalar instructions and cannot know that input and output are different
arrays; written as vector instructions of the compiler's own language this loop is five times as fast, on any processor.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["LANES", "sum_rows"]

LANES = 8
"""Rows are whole multiples of this many 32-bit floats."""


def _sum_rows(  # noqa: PLR0913 - the operands of one instruction
    typing_context: Any,
    result: Any,
    row: Any,
    base: Any,
    base_row: Any,
    values: Any,
    indices: Any,
    weights: Any,
    first: Any,
    last: Any,
) -> Any:
    """Set ``result[row] = base[base_row] + sum(weights[i] * values[indices[i]] for i in range(first, last))``.

    All tables are C-contiguous float32 with rows of one length, a multiple of ``LANES``; indices are int32 and within
    the table. ``result[row]`` may be ``base[base_row]``, but no row of ``values``.

    Args:
        typing_context: Numba's.
        result: ``(A, K)``.
        row: Of ``result``.
        base: ``(B, K)``.
        base_row: Of ``base``.
        values: ``(C, K)``.
        indices: 1-D.
        weights: 1-D.
        first: First index.
        last: Index after the last.

    Returns:
        Signature and code generator, as numba's extension interface asks for.
    """
    signature = types.void(result, row, base, base_row, values, indices, weights, first, last)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = {
            place: context.make_array(signature.args[place])(context, builder, arguments[place])
            for place in (0, 2, 4, 5, 6)
        }
        word, real = ir.IntType(64), ir.FloatType()
        vector = ir.VectorType(real, LANES)

        def as_word(place: int) -> Any:
            return context.cast(builder, arguments[place], signature.args[place], types.int64)

        def address(place: int, index: Any, offset: Any) -> Any:
            pointer = builder.gep(arrays[place].data, [builder.add(builder.mul(index, width), offset)])
            return builder.bitcast(pointer, vector.as_pointer())

        width = builder.extract_value(arrays[0].shape, 1)
        blocks = builder.udiv(width, ir.Constant(word, LANES))
        total = cgutils.alloca_once(builder, vector)  # type: ignore[no-untyped-call]
        multiply_add = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, ir.FunctionType(vector, [vector, vector, vector]), f"llvm.fmuladd.v{LANES}f32"
        )
        nothing, zeros = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
        with cgutils.for_range(builder, blocks, intp=word) as block:
            offset = builder.mul(block.index, ir.Constant(word, LANES))
            builder.store(builder.load(address(2, as_word(3), offset), align=4), total)
            with cgutils.for_range_slice(builder, as_word(7), as_word(8), ir.Constant(word, 1), word) as (index, _):
                chosen = builder.sext(builder.load(builder.gep(arrays[5].data, [index])), word)
                weight = builder.load(builder.gep(arrays[6].data, [index]))
                spread = builder.shuffle_vector(
                    builder.insert_element(nothing, weight, ir.Constant(ir.IntType(32), 0)), nothing, zeros
                )
                row_part = builder.load(address(4, chosen, offset), align=4)
                builder.store(builder.call(multiply_add, [spread, row_part, builder.load(total)]), total)
            builder.store(builder.load(total), address(0, as_word(1), offset), align=4)
        return context.get_dummy_value()

    return signature, generate


sum_rows: Any = intrinsic(_sum_rows)
"""``sum_rows(result, row, base, base_row, values, indices, weights, first, last)`` in compiled code."""
