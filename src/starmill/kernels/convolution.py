"""Separable convolution of image, variance and mask rows.

    S(y, x) = sum_kl gy_k gx_l ok(y-k, x-l) I(y-k, x-l) / W(y, x),
    W(y, x) = sum_kl gy_k gx_l ok(y-k, x-l),
    V_S(y, x) = sum_kl gy_k^2 gx_l^2 ok V / W^2,

with ``ok`` = 0 for missing pixels and outside the image. Where nothing is missing W is one and
this is the ordinary convolution.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit

SEGMENT = 128  # pixels looked at together when searching for missing pixels or set bits
LARGEST = np.float32(3.0e38)  # |value| above it (also inf; NaN compares false) counts as not finite


@fast_njit
def _all_usable(image, variance, mask, missing_bits, use_mask, use_variance):
    """Tell whether no pixel of a stretch needs :func:`_clean_row`; zero times NaN or infinity is NaN."""
    total = np.float32(0.0)
    for x in range(image.shape[0]):
        total += image[x] * np.float32(0.0)
    if use_variance:
        for x in range(image.shape[0]):
            total += variance[x] * np.float32(0.0)
    bits = np.int32(0)
    if use_mask:
        for x in range(image.shape[0]):
            bits |= mask[x]
    return total == np.float32(0.0) and (bits & missing_bits) == 0


@njit
def _clean_row(image, variance, mask, missing_bits, keep_bits, use_mask, use_variance, out_i, out_v, out_w):
    """Copy one row with missing pixels set to zero; return how many are missing."""
    n_missing = 0
    for x in range(image.shape[0]):
        value = image[x]
        ok = abs(value) <= LARGEST
        if use_variance:
            ok = ok and (abs(variance[x]) <= LARGEST)
        if use_mask:
            bits = mask[x]
            ok = ok and (((bits & missing_bits) == 0) or ((bits & keep_bits) != 0))
        out_i[x] = value if ok else np.float32(0.0)
        out_w[x] = np.float32(1.0) if ok else np.float32(0.0)
        if use_variance:
            out_v[x] = variance[x] if ok else np.float32(0.0)
        n_missing += 0 if ok else 1
    return n_missing


@fast_njit
def _sum_runs(flat, starts, shift, taps, first, last, out):
    """Weighted sum of runs of a flat array: of taps[k] flat[starts[k] + shift + x] over first <= k < last.

    The odd ones are done first, then four, then eight a pass, so that ``out`` is written but a few times.
    """
    n = np.uint64(out.shape[0])
    few = (last - first - 1) % 4 + 1
    k = first
    a0 = taps[k]
    a1 = taps[k + 1] if few > 1 else np.float32(0.0)
    a2 = taps[k + 2] if few > 2 else np.float32(0.0)
    a3 = taps[k + 3] if few > 3 else np.float32(0.0)
    p0 = np.uint64(starts[k] + shift)
    p1 = np.uint64(starts[k + min(1, few - 1)] + shift)
    p2 = np.uint64(starts[k + min(2, few - 1)] + shift)
    p3 = np.uint64(starts[k + few - 1] + shift)
    for x in range(n):
        out[x] = a0 * flat[p0 + x] + a1 * flat[p1 + x] + a2 * flat[p2 + x] + a3 * flat[p3 + x]
    k += few
    if (last - k) % 8:
        a0, a1, a2, a3 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
        p0, p1 = np.uint64(starts[k] + shift), np.uint64(starts[k + 1] + shift)
        p2, p3 = np.uint64(starts[k + 2] + shift), np.uint64(starts[k + 3] + shift)
        for x in range(n):
            out[x] += a0 * flat[p0 + x] + a1 * flat[p1 + x] + a2 * flat[p2 + x] + a3 * flat[p3 + x]
        k += 4
    while k < last:
        a0, a1, a2, a3 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
        a4, a5, a6, a7 = taps[k + 4], taps[k + 5], taps[k + 6], taps[k + 7]
        p0, p1 = np.uint64(starts[k] + shift), np.uint64(starts[k + 1] + shift)
        p2, p3 = np.uint64(starts[k + 2] + shift), np.uint64(starts[k + 3] + shift)
        p4, p5 = np.uint64(starts[k + 4] + shift), np.uint64(starts[k + 5] + shift)
        p6, p7 = np.uint64(starts[k + 6] + shift), np.uint64(starts[k + 7] + shift)
        for x in range(n):
            total = a0 * flat[p0 + x] + a1 * flat[p1 + x] + a2 * flat[p2 + x] + a3 * flat[p3 + x]
            total += a4 * flat[p4 + x] + a5 * flat[p5 + x] + a6 * flat[p6 + x] + a7 * flat[p7 + x]
            out[x] += total
        k += 8


@njit
def _normalise_row(weight, minimum, use_variance, out_i, out_v):
    """Divide by the summed weight; NaN and infinite variance where too little of the kernel is left."""
    for x in range(out_i.shape[0]):
        w = weight[x]
        if w < np.float32(0.999999):
            if w < minimum:
                out_i[x] = np.nan
                if use_variance:
                    out_v[x] = np.inf
            else:
                out_i[x] /= w
                if use_variance:
                    out_v[x] /= w * w


@njit
def _copy(row, out):
    """Copy a row (an array assignment takes seconds to compile)."""
    for x in range(row.shape[0]):
        out[x] = row[x]


@njit
def _load_row(image, variance, mask, y, missing_bits, keep_bits, half, ring_i, ring_v, ring_w, flagged):
    """Put a cleaned row into its place of the ring; note which segments miss pixels."""
    nx = image.shape[1]
    use_variance = variance.shape[0] > 0
    use_mask = mask.shape[0] > 0
    slot = y % ring_i.shape[0]
    for s in range(flagged.shape[1]):
        a, b = s * SEGMENT, min(nx, (s + 1) * SEGMENT)
        v_row = variance[y, a:b] if use_variance else image[y, a:b]
        m_row = mask[y, a:b] if use_mask else mask.reshape(-1)
        out_v = ring_v[slot, half + a : half + b] if use_variance else ring_v[slot]
        out_i, out_w = ring_i[slot, half + a : half + b], ring_w[slot, half + a : half + b]
        if _all_usable(image[y, a:b], v_row, m_row, missing_bits, use_mask, use_variance):
            _copy(image[y, a:b], out_i)
            if use_variance:
                _copy(v_row, out_v)
            if flagged[slot, s]:
                out_w[:] = np.float32(1.0)
            flagged[slot, s] = False
            continue
        n_missing = _clean_row(
            image[y, a:b], v_row, m_row, missing_bits, keep_bits, use_mask, use_variance, out_i, out_v, out_w
        )
        flagged[slot, s] = n_missing > 0


@njit
def _weigh(
    ring_w,
    starts,
    steps,
    taps_x,
    taps_y,
    first,
    last,
    minimum,
    use_variance,
    a,
    b,
    column,
    weight,
    out_i,
    out_v,
):
    """Normalise pixels ``a:b`` of a row."""
    reach = b - a + taps_x.shape[0] - 1
    _sum_runs(ring_w, starts, a, taps_y, first, last, column[:reach])
    _sum_runs(column, steps, 0, taps_x, 0, taps_x.shape[0], weight[: b - a])
    _normalise_row(
        weight[: b - a], minimum, use_variance, out_i[a:b], out_v[a:b] if use_variance else out_i[a:b]
    )


@njit
def _stretch_to_weigh(flagged, order, first, last, s, half, nx):
    """Return the pixels around a segment with missing pixels in one of the rows; an empty stretch without any."""
    for k in range(first, last):
        if flagged[order[k], s]:
            return max(0, s * SEGMENT - half), min(nx, (s + 1) * SEGMENT + half)
    return 0, 0


@njit
def _taps(kernel):
    """Reverse a kernel, for a sum over shifted views, and square it."""
    n = kernel.shape[0]
    taps, squares = np.empty(n, np.float32), np.empty(n, np.float32)
    for k in range(n):
        taps[k] = kernel[n - 1 - k]
        squares[k] = taps[k] * taps[k]
    return taps, squares


@njit
def convolve_separable_band(
    image, variance, mask, missing_bits, keep_bits, kernel_x, kernel_y, min_weight, y0, y1, out_i, out_v
):
    """Compute rows ``y0:y1`` of the mask-aware separable convolution.

    Parameters
    ----------
    image : (ny, nx) float32 array
        Non-finite pixels are missing.
    variance : (ny, nx) or (0, 0) float32 array
        Empty when there is none; ``out_v`` is then not touched.
    mask : (ny, nx) or (0, 0) int32 array
        Pixels with one of ``missing_bits`` and none of ``keep_bits`` are missing.
    missing_bits, keep_bits : int
        Bit masks.
    kernel_x, kernel_y : (2 h + 1,) float32 array
        Sum one.
    min_weight : float
        Smallest fraction of the kernel that must fall on usable pixels.
    y0, y1 : int
        Rows to compute.
    out_i, out_v : (ny, nx) float32 array
        Written in rows ``y0:y1``.
    """
    ny, nx = image.shape
    hx, hy = kernel_x.shape[0] // 2, kernel_y.shape[0] // 2
    use_variance = variance.shape[0] > 0
    n_ring = 2 * hy + 1
    width = nx + 2 * hx
    taps_x, squares_x = _taps(kernel_x)
    taps_y, squares_y = _taps(kernel_y)
    ring_i = np.zeros((n_ring, width), np.float32)
    ring_v = np.zeros((n_ring, width if use_variance else 1), np.float32)
    ring_w = np.zeros((n_ring, width), np.float32)
    ring_w[:, hx : hx + nx] = np.float32(1.0)
    flagged = np.zeros((n_ring, (nx + SEGMENT - 1) // SEGMENT), np.bool_)
    column, weight = np.empty(width, np.float32), np.empty(nx, np.float32)
    order, starts, starts_v = (
        np.empty(n_ring, np.int64),
        np.empty(n_ring, np.int64),
        np.empty(n_ring, np.int64),
    )
    steps, n_taps = np.arange(2 * hx + 1), taps_x.shape[0]
    flat_i, flat_v, flat_w = ring_i.ravel(), ring_v.ravel(), ring_w.ravel()
    loaded = max(y0 - hy, 0)
    for y in range(y0, y1):
        while loaded < min(y + hy + 1, ny):
            _load_row(
                image, variance, mask, loaded, missing_bits, keep_bits, hx, ring_i, ring_v, ring_w, flagged
            )
            loaded += 1
        first, last = max(0, hy - y), min(n_ring, ny - y + hy)
        for k in range(first, last):
            order[k] = (y - hy + k) % n_ring
            starts[k] = order[k] * width
            starts_v[k] = order[k] * ring_v.shape[1]
        _sum_runs(flat_i, starts, 0, taps_y, first, last, column)
        _sum_runs(column, steps, 0, taps_x, 0, n_taps, out_i[y])
        if use_variance:
            _sum_runs(flat_v, starts_v, 0, squares_y, first, last, column)
            _sum_runs(column, steps, 0, squares_x, 0, n_taps, out_v[y])
        # the parts near missing pixels and near the border
        begin, end = 0, nx if first > 0 or last < n_ring else min(hx, nx)
        row_v = out_v[y] if use_variance else out_i[y]
        for s in range(flagged.shape[1] + 1):
            if s < flagged.shape[1]:
                a, b = _stretch_to_weigh(flagged, order, first, last, s, hx, nx)
            else:
                a, b = max(nx - hx, 0), nx
            if b == 0:
                continue
            if a > end:
                _weigh(flat_w, starts, steps, taps_x, taps_y, first, last, np.float32(min_weight), use_variance, begin, end,
                       column, weight, out_i[y], row_v)  # fmt: skip
                begin = a
            end = max(end, b)
        _weigh(flat_w, starts, steps, taps_x, taps_y, first, last, np.float32(min_weight), use_variance, begin, nx, column,
               weight, out_i[y], row_v)  # fmt: skip


@njit
def spread_mask_band(mask, half_x, half_y, y0, y1, out):
    """Spread the mask over a (2 half_y + 1) x (2 half_x + 1) box by OR, rows ``y0:y1``.

    Only segments of a row with a set bit are worked on, so a clean mask costs one reading pass.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    half_x, half_y : int
        Half sizes of the box.
    y0, y1 : int
        Rows to compute.
    out : (ny, nx) int32 array
        Must be zero in rows ``y0:y1``.
    """
    ny, nx = mask.shape
    row_or = np.zeros(nx, np.int32)
    for source in range(max(0, y0 - half_y), min(ny, y1 + half_y)):
        row = mask[source]
        for s0 in range(0, nx, SEGMENT):
            s1 = min(nx, s0 + SEGMENT)
            lo, hi = max(0, s0 - half_x), min(nx, s1 + half_x)
            bits = np.int32(0)
            for x in range(lo, hi):
                bits |= row[x]
            if bits == 0:
                continue
            row_or[s0:s1] = 0
            for dx in range(-half_x, half_x + 1):
                a, b = max(s0, -dx), min(s1, nx - dx)
                if a >= b:
                    continue
                shifted = row[a + dx : b + dx]
                target = row_or[a:b]
                for x in range(b - a):
                    target[x] |= shifted[x]
            for y in range(max(y0, source - half_y), min(y1, source + half_y + 1)):
                target = out[y, s0:s1]
                found = row_or[s0:s1]
                for x in range(s1 - s0):
                    target[x] |= found[x]
