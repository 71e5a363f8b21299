r"""Sums of products over runs of pixels that stay in vector registers.

A loop over rows cannot tell the compiler to keep the sums of a run of pixels in registers while all taps of a
kernel pass; written as vector instructions it can: one unaligned load of sixteen pixels serves one multiply-add for
each of several filters. On machines with narrower registers the compiler splits the vectors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "LONG_RUN",
    "SHORT_RUN",
    "correlate_long_run_by_four",
    "correlate_long_run_by_two",
    "correlate_short_run_by_four",
    "correlate_short_run_by_two",
]

LANES = 16
"""Pixels of one vector: 512 bits of float32."""
LONG_RUN, SHORT_RUN = 4 * LANES, 2 * LANES
"""Pixels of a run."""

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ORDER = ir.VectorType(ir.IntType(32), LANES)


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _vector_at(builder: Any, pointer: Any, offset: int) -> Any:
    return builder.bitcast(builder.gep(pointer, [ir.Constant(_INDEX, offset)]), _VECTOR.as_pointer())


def _spread(builder: Any, pointer: Any) -> Any:
    """Return a vector of one number."""
    empty = ir.Constant(_VECTOR, ir.Undefined)
    vector = builder.insert_element(empty, builder.load(pointer), ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(vector, empty, ir.Constant(_ORDER, [0] * LANES))


def _emit(
    builder: Any, pixels: Any, strides: Any, taps: Any, shape: Any, vectors: int, filters: int
) -> list[Any]:
    """Write the loops over the taps; return the places of the sums, those of the first filter first."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(filters * vectors)]
    for place in sums:
        builder.store(zero, place)
    rows, columns = shape
    with cgutils.for_range(builder, rows) as vertical:
        row = builder.gep(pixels, [builder.mul(vertical.index, strides[0])])
        first = builder.mul(vertical.index, columns)
        with cgutils.for_range(builder, columns) as horizontal:
            tap = builder.gep(taps, [builder.add(first, horizontal.index)])
            start = builder.gep(row, [builder.mul(horizontal.index, strides[1])])
            runs = [builder.load(_vector_at(builder, start, i * LANES), align=4) for i in range(vectors)]
            for f in range(filters):
                place = builder.mul(strides[2], ir.Constant(_INDEX, f))
                factor = _spread(builder, builder.gep(tap, [place]))
                for i, run in enumerate(runs):
                    place = sums[f * vectors + i]
                    builder.store(builder.call(add, [factor, run, builder.load(place)]), place)
    return sums


def _correlation(vectors: int, filters: int) -> Any:
    @intrinsic
    def correlate_run(
        typing_context,
        pixels,
        first,
        stride,
        step,
        taps,
        tap,
        plane,
        rows,
        columns,
        out,
        place,
    ):
        whole = types.intp
        signature = types.void(pixels, whole, whole, whole, taps, *(whole,) * 4, out, whole)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pixels, taps, out = (_data(context, builder, signature.args[i], values[i]) for i in (0, 4, 9))
            start = builder.gep(pixels, [values[1]])
            strides, shape = (*values[2:4], values[6]), values[7:9]
            taps, out = builder.gep(taps, [values[5]]), builder.gep(out, [values[10]])
            for i, total in enumerate(_emit(builder, start, strides, taps, shape, vectors, filters)):
                builder.store(builder.load(total), _vector_at(builder, out, i * LANES), align=4)
            return context.get_dummy_value()

        return signature, generate

    return correlate_run


correlate_long_run_by_four = _correlation(4, 4)
"""Correlate ``LONG_RUN`` pixels with four filters at once.

``correlate_long_run_by_four(pixels, first, stride, step, taps, tap, plane, rows, columns, out, place)`` writes, for
every filter ``f`` and ``j < LONG_RUN``, to ``out[place + f * LONG_RUN + j]`` the sum over ``u, v`` of
``taps[tap + f * plane + u * columns + v] * pixels[first + u * stride + v * step + j]``.
All arrays are contiguous float32; indices are not checked. Sixteen sums stay in registers.
"""
correlate_long_run_by_two = _correlation(4, 2)
"""As ``correlate_long_run_by_four`` with two filters."""
correlate_short_run_by_four = _correlation(2, 4)
"""As ``correlate_long_run_by_four`` for ``SHORT_RUN`` pixels."""
correlate_short_run_by_two = _correlation(2, 2)
"""As ``correlate_short_run_by_four`` with two filters."""
