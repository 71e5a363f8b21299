r"""Sums of products over runs of pixels that stay in vector registers.

A loop over rows cannot tell the compiler to keep the sums of a run of pixels in registers while all taps of a
kernel pass; written as vector instructions it can: per tap one unaligned load and two multiply-adds for sixteen
pixels. On machines with narrower registers the compiler splits the vectors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LONG_RUN", "SHORT_RUN", "correlate_long_run", "correlate_short_run"]

LANES = 16
"""Pixels of one vector: 512 bits of float32."""
LONG_RUN, SHORT_RUN = 4 * LANES, 2 * LANES
"""Pixels of a run. Eight sums (a value and a slope of four vectors) hide the delay of a multiply-add."""

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


def _emit(builder: Any, pixels: Any, stride: Any, taps: Any, slopes: Any, shape: Any, vectors: int) -> list[Any]:
    """Write the loops over the taps; return the places of the sums, values first."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(2 * vectors)]
    for place in sums:
        builder.store(zero, place)
    rows, columns = shape
    with cgutils.for_range(builder, rows) as vertical:
        row = builder.gep(pixels, [builder.mul(vertical.index, stride)])
        first = builder.mul(vertical.index, columns)
        with cgutils.for_range(builder, columns) as horizontal:
            tap = builder.add(first, horizontal.index)
            factors = [_spread(builder, builder.gep(array, [tap])) for array in (taps, slopes)]
            start = builder.gep(row, [horizontal.index])
            for i in range(vectors):
                run = builder.load(_vector_at(builder, start, i * LANES), align=4)
                for place, factor in zip((sums[i], sums[vectors + i]), factors, strict=True):
                    builder.store(builder.call(add, [factor, run, builder.load(place)]), place)
    return sums


def _correlation(vectors: int) -> Any:
    @intrinsic
    def correlate_run(typing_context, pixels, first, stride, taps, slopes, rows, columns, out):  # noqa: ANN001, ANN202, ARG001, PLR0917
        signature = types.void(pixels, types.intp, types.intp, taps, slopes, types.intp, types.intp, out)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kinds = signature.args
            pixels, taps, slopes, out = (_data(context, builder, kinds[i], values[i]) for i in (0, 3, 4, 7))
            start = builder.gep(pixels, [values[1]])
            sums = _emit(builder, start, values[2], taps, slopes, (values[5], values[6]), vectors)
            for i, place in enumerate(sums):
                builder.store(builder.load(place), _vector_at(builder, out, i * LANES), align=4)
            return context.get_dummy_value()

        return signature, generate

    return correlate_run


correlate_long_run = _correlation(4)
"""Correlate ``LONG_RUN`` pixels with two kernels at once.

``correlate_long_run(pixels, first, stride, taps, slopes, rows, columns, out)`` writes, for ``j < LONG_RUN``,
``out[j] = sum_uv taps[u * columns + v] * pixels[first + u * stride + v + j]`` and the same with ``slopes`` to
``out[LONG_RUN + j]``. All arrays are contiguous float32 and one-dimensional; indices are not checked.
"""
correlate_short_run = _correlation(2)
"""As ``correlate_long_run`` for ``SHORT_RUN`` pixels."""
