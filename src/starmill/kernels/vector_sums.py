"""Sums over short runs of pixels, sixteen pixels at a time.

A loop over a run of a few dozen pixels spends its time in what the compiler leaves over after whole vectors, and in
sums that it does not keep in registers. Written as vector instructions a run of any length is a few vectors, the last
one with the pixels behind its end left out. Sums are float64. On machines with narrower registers the compiler splits
the vectors. No index is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "fit_stamp", "mix_runs", "weigh_columns"]

LANES = 16
"""Pixels of one vector."""

_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_INDEX, _SMALL = ir.IntType(64), ir.IntType(32)
_FLOATS, _DOUBLES, _ORDER = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _DOUBLE, _SMALL))


def _array(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value)


def _spread(builder: Any, value: Any, vector: Any) -> Any:
    """Return a vector of one number."""
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_SMALL, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_ORDER, [0] * LANES))


def _total(builder: Any, vector: Any) -> Any:
    """Return the sum of the lanes, halves added to halves."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [
            ir.Constant(ir.VectorType(_SMALL, width), list(range(first, first + width)))
            for first in (0, width)
        ]
        low, high = (builder.shuffle_vector(vector, vector, half) for half in halves)
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_SMALL, 0))


def _product(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b, flags=("contract",))


def _add_to(builder: Any, place: Any, value: Any) -> None:
    builder.store(builder.fadd(builder.load(place), value, flags=("contract",)), place)


@intrinsic
def weigh_columns(typing_context, image, first, stride, n_rows, dy, column, weight, ratio, step, least):
    """``weigh_columns(image, first, stride, n_rows, dy, column, weight, ratio, step, least)``: moments of columns.

    The weight of a column goes from row to row by ``weight *= ratio``, ``ratio *= step``: a Gaussian. ``image`` is a
    contiguous float32 or float64 array, ``first`` the flat index of the pixel in the first row and the first of ``LANES``
    columns, ``dy`` the offset of that row (float64), ``column``, ``weight`` and ``ratio`` hold ``LANES`` float64; weights
    below ``least`` count as zero. Indices are not checked. Returns the sums of w I, w I x, w I y, w I x**2, w I y**2
    and w I x y.
    """
    whole, real = types.intp, types.float64
    signature = types.UniTuple(real, 6)(
        image, whole, whole, whole, real, column, weight, ratio, real, real
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pixels = _array(context, builder, signature.args[0], values[0]).data
        lanes = [_array(context, builder, signature.args[i], values[i]).data for i in (5, 6, 7)]
        x, first_weight, first_ratio = (
            builder.load(builder.bitcast(a, _DOUBLES.as_pointer()), align=8) for a in lanes
        )
        step, least = (_spread(builder, values[i], _DOUBLES) for i in (8, 9))
        zero, one = (ir.Constant(_DOUBLES, [number] * LANES) for number in (0.0, 1.0))
        dy = _spread(builder, values[4], _DOUBLES)
        weight, ratio, offset, total, total_y, total_yy = (
            cgutils.alloca_once_value(builder, zero) for _ in range(6)
        )
        for place, start in (
            (weight, first_weight), (ratio, first_ratio), (offset, dy), (total, zero), (total_y, zero), (total_yy, zero),
        ):  # fmt: skip
            builder.store(start, place)
        single = signature.args[0].dtype == types.float32
        vector = _FLOATS if single else _DOUBLES
        start = builder.gep(pixels, [values[1]])
        with cgutils.for_range(builder, values[3]) as row:
            here = builder.bitcast(
                builder.gep(start, [builder.mul(row.index, values[2])]), vector.as_pointer()
            )
            value = builder.load(here, align=4 if single else 8)
            value = builder.fpext(value, _DOUBLES) if single else value
            w, r, y = (builder.load(place) for place in (weight, ratio, offset))
            kept = builder.fcmp_ordered(">=", w, least)
            light = builder.select(kept, _product(builder, w, value), zero)
            light_y = _product(builder, light, y)
            _add_to(builder, total, light)
            _add_to(builder, total_y, light_y)
            _add_to(builder, total_yy, _product(builder, light_y, y))
            builder.store(builder.fmul(w, r), weight)
            builder.store(builder.fmul(r, step), ratio)
            builder.store(builder.fadd(y, one), offset)
        s, sy, syy = (builder.load(place) for place in (total, total_y, total_yy))
        sx = builder.fmul(s, x)
        sums = (s, sx, sy, builder.fmul(sx, x), syy, builder.fmul(sy, x))
        totals = [_total(builder, lane) for lane in sums]
        return context.make_tuple(builder, signature.return_type, totals)

    return signature, generate


@intrinsic
def mix_runs(typing_context, source, start, step, weights, n_runs, target, place, n):
    """``mix_runs(source, start, step, weights, n_runs, target, place, n)``: sum of runs times weights.

    Writes to ``target[place + t]`` the sum of ``weights[k] * source[start + k * step + t]`` over ``k < n_runs``, for
    ``t < n``, rounded up to a multiple of ``LANES``; ``n_runs`` is a literal. All arrays are contiguous float64; indices
    are not checked.
    """
    if not isinstance(n_runs, types.IntegerLiteral):
        return None
    number, whole = n_runs.literal_value, types.intp
    signature = types.void(source, whole, whole, weights, n_runs, target, whole, whole)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pixels, factors, out = (
            _array(context, builder, signature.args[i], values[i]).data for i in (0, 3, 5)
        )
        runs, spread = [builder.gep(pixels, [values[1]])], []
        for k in range(number):
            factor = builder.load(builder.gep(factors, [ir.Constant(_INDEX, k)]))
            spread.append(_spread(builder, factor, _DOUBLES))
            runs.append(builder.gep(runs[-1], [values[2]]))
        out = builder.gep(out, [values[6]])
        step = ir.Constant(_INDEX, LANES)
        vectors = builder.sdiv(builder.add(values[7], ir.Constant(_INDEX, LANES - 1)), step)
        with cgutils.for_range(builder, vectors) as vector:
            done = builder.mul(vector.index, step)
            total = None
            for run, factor in zip(runs, spread, strict=False):
                pointer = builder.bitcast(builder.gep(run, [done]), _DOUBLES.as_pointer())
                part = _product(builder, factor, builder.load(pointer, align=8))
                total = part if total is None else builder.fadd(total, part, flags=("contract",))
            builder.store(total, builder.bitcast(builder.gep(out, [done]), _DOUBLES.as_pointer()), align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fit_stamp(typing_context, model, image, variance, mask, places, strides, bits, rows, columns):
    """``fit_stamp(model, image, variance, mask, places, strides, bits, rows, columns)``: sums of a linear fit.

    ``model`` is a contiguous float64 array, ``image`` and ``variance`` float32, ``mask`` int32; ``places`` and ``strides``
    are three integers, the first pixel and the length of a row in the model, in image and variance, and in the mask.
    Every row is read to a multiple of ``LANES``, which is not checked. Pixels with any of ``bits`` count as missing.
    Returns sum P, P**2, P I, P**2 V, with weights 1/V (zero where V is not positive) P**2, P I, I**2, and the number
    of pixels, eight float64.
    """
    whole, three = types.intp, types.UniTuple(types.intp, 3)
    signature = types.UniTuple(types.float64, 8)(
        model, image, variance, mask, three, three, types.int32, whole, whole
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = [_array(context, builder, signature.args[i], values[i]).data for i in range(4)]
        places, strides = (cgutils.unpack_tuple(builder, values[i]) for i in (4, 5))
        which = (0, 1, 1, 2)
        zero, one = (ir.Constant(_DOUBLES, [number] * LANES) for number in (0.0, 1.0))
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(8)]
        for place in sums:
            builder.store(zero, place)
        lanes, step = ir.Constant(_ORDER, list(range(LANES))), ir.Constant(_INDEX, LANES)
        none = ir.Constant(_ORDER, [0] * LANES)
        bits = _spread(builder, values[6], _ORDER)
        vectors = builder.sdiv(builder.add(values[8], ir.Constant(_INDEX, LANES - 1)), step)
        kinds = (_DOUBLES, _FLOATS, _FLOATS, _ORDER)
        with cgutils.for_range(builder, values[7]) as row, cgutils.for_range(builder, vectors) as vector:
            done = builder.mul(vector.index, step)
            loaded = []
            for pixels, k, kind in zip(data, which, kinds, strict=True):
                here = builder.add(builder.add(places[k], builder.mul(row.index, strides[k])), done)
                pointer = builder.bitcast(builder.gep(pixels, [here]), kind.as_pointer())
                loaded.append(builder.load(pointer, align=8 if kind is _DOUBLES else 4))
            p, value, spread, flags = loaded
            left = _spread(builder, builder.trunc(builder.sub(values[8], done), _SMALL), _ORDER)
            used = builder.and_(
                builder.icmp_signed("<", lanes, left),
                builder.icmp_signed("==", builder.and_(flags, bits), none),
            )
            _add_to(builder, sums[7], builder.select(used, one, zero))
            nothing = ir.Constant(_FLOATS, [0.0] * LANES)
            p = builder.select(used, p, zero)
            value, spread = (builder.select(used, item, nothing) for item in (value, spread))
            good = builder.fcmp_ordered(">", spread, nothing)
            inverse = builder.fdiv(ir.Constant(_FLOATS, [1.0] * LANES), spread)
            inverse = builder.select(good, inverse, nothing)
            value, spread, w = (builder.fpext(item, _DOUBLES) for item in (value, spread, inverse))
            pp, wp, wi = _product(builder, p, p), _product(builder, w, p), _product(builder, w, value)
            terms = (
                p, pp, _product(builder, p, value), _product(builder, pp, spread), _product(builder, wp, p),
                _product(builder, wp, value), _product(builder, wi, value),
            )  # fmt: skip
            for place, term in zip(sums, terms, strict=False):
                _add_to(builder, place, term)
        totals = [_total(builder, builder.load(place)) for place in sums]
        return context.make_tuple(builder, signature.return_type, totals)

    return signature, generate
