"""Separable convolution of image, variance and mask rows.

    S(y, x) = sum_kl gy_k gx_l ok(y-k, x-l) I(y-k, x-l) / W(y, x),
    W(y, x) = sum_kl gy_k gx_l ok(y-k, x-l),
    V_S(y, x) = sum_kl gy_k^2 gx_l^2 ok V / W^2,

with ``ok`` = 0 for missing pixels and outside the image. Where nothing is missing W is one and
this is the ordinary convolution.
"""

from __future__ import annotations

import numpy as np

from ._jit import fast_njit, njit

LARGEST = np.float32(3.0e38)  # |value| above it (also inf; NaN compares false) counts as not finite


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
def _sum_rows(ring, first, taps, order, out):
    """Weighted sum of ring rows, four rows a pass."""
    n = taps.shape[0]
    out[:] = np.float32(0.0)
    k = first
    while k + 4 <= n:
        r0 = ring[order[k]]
        r1 = ring[order[k + 1]]
        r2 = ring[order[k + 2]]
        r3 = ring[order[k + 3]]
        a0, a1, a2, a3 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
        for x in range(out.shape[0]):
            out[x] += a0 * r0[x] + a1 * r1[x] + a2 * r2[x] + a3 * r3[x]
        k += 4
    while k < n:
        r0 = ring[order[k]]
        a0 = taps[k]
        for x in range(out.shape[0]):
            out[x] += a0 * r0[x]
        k += 1


@fast_njit
def _sum_shifts(row, taps, out):
    """Weighted sum of shifted views of one padded row, four shifts a pass."""
    n = taps.shape[0]
    m = out.shape[0]
    out[:] = np.float32(0.0)
    k = 0
    while k + 4 <= n:
        r0 = row[k : k + m]
        r1 = row[k + 1 : k + 1 + m]
        r2 = row[k + 2 : k + 2 + m]
        r3 = row[k + 3 : k + 3 + m]
        a0, a1, a2, a3 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
        for x in range(m):
            out[x] += a0 * r0[x] + a1 * r1[x] + a2 * r2[x] + a3 * r3[x]
        k += 4
    while k < n:
        r0 = row[k : k + m]
        a0 = taps[k]
        for x in range(m):
            out[x] += a0 * r0[x]
        k += 1


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
def convolve_separable_band(
    image, variance, mask, missing_bits, keep_bits, kernel_x, kernel_y, min_weight, y0, y1, out_i, out_v
):
    """Rows ``y0:y1`` of the mask-aware separable convolution.

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
    use_mask = mask.shape[0] > 0
    n_ring = 2 * hy + 1
    width = nx + 2 * hx
    taps_x = kernel_x[::-1].copy()
    taps_y = kernel_y[::-1].copy()
    squares_x = taps_x * taps_x
    squares_y = taps_y * taps_y
    ring_i = np.zeros((n_ring, width), np.float32)
    ring_v = np.zeros((n_ring, width if use_variance else 1), np.float32)
    ring_w = np.zeros((n_ring, width), np.float32)
    missing = np.zeros(n_ring, np.int64)
    column = np.empty(width, np.float32)
    weight = np.empty(nx, np.float32)
    inside_x = np.zeros(width, np.float32)
    inside_x[hx : hx + nx] = np.float32(1.0)
    weight_x = np.empty(nx, np.float32)
    _sum_shifts(inside_x, taps_x, weight_x)
    order = np.empty(n_ring, np.int64)
    minimum = np.float32(min_weight)
    loaded = max(y0 - hy, 0)
    for y in range(y0, y1):
        while loaded < min(y + hy + 1, ny):
            slot = loaded % n_ring
            v_row = variance[loaded] if use_variance else image[loaded]
            m_row = mask[loaded] if use_mask else mask.reshape(-1)
            out_v_row = ring_v[slot, hx : hx + nx] if use_variance else ring_v[slot]
            missing[slot] = _clean_row(
                image[loaded], v_row, m_row, missing_bits, keep_bits, use_mask, use_variance,
                ring_i[slot, hx : hx + nx], out_v_row, ring_w[slot, hx : hx + nx],
            )  # fmt: skip
            loaded += 1
        first = max(0, hy - y)
        last = min(n_ring, ny - y + hy)
        any_missing = False
        weight_y = np.float32(0.0)
        for k in range(first, last):
            order[k] = (y - hy + k) % n_ring
            any_missing = any_missing or missing[order[k]] > 0
            weight_y += taps_y[k]
        _sum_rows(ring_i, first, taps_y[:last], order, column)
        _sum_shifts(column, taps_x, out_i[y])
        if use_variance:
            _sum_rows(ring_v, first, squares_y[:last], order, column)
            _sum_shifts(column, squares_x, out_v[y])
        if any_missing:
            _sum_rows(ring_w, first, taps_y[:last], order, column)
            _sum_shifts(column, taps_x, weight)
            _normalise_row(weight, minimum, use_variance, out_i[y], out_v[y])
        elif first > 0 or last < n_ring:
            for x in range(nx):
                weight[x] = weight_x[x] * weight_y
            _normalise_row(weight, minimum, use_variance, out_i[y], out_v[y])
        else:
            ends = min(hx, nx)
            _normalise_row(weight_x[:ends], minimum, use_variance, out_i[y, :ends], out_v[y, :ends])
            start = max(nx - hx, ends)
            _normalise_row(weight_x[start:], minimum, use_variance, out_i[y, start:], out_v[y, start:])


SEGMENT = 128  # pixels looked at together when searching for set bits


@njit
def spread_mask_band(mask, half_x, half_y, y0, y1, out):
    """OR of the mask over a (2 half_y + 1) x (2 half_x + 1) box, rows ``y0:y1``.

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
