r"""Convolution of stamps with a separable kernel basis, for the normal matrix of a kernel fit.

Every basis image is :math:`B_i(u, v) = g_i(u)\, h_{m(i)}(v)`: many share the horizontal factor, so a stamp is
filtered along x once per distinct factor and along y once per basis image. A stamp is worked as one long line,
because rows of some thirty pixels are too short for vector loops; sums that run over a row end are dropped.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit

TAPS = 7
"""Filters are padded with zeros to a multiple of this number of taps."""


@fast_njit
def _add_taps(line, taps, first, stride, out):
    """Add seven taps of a filter along a line whose steps are ``stride`` elements."""
    a0, a1, a2, a3 = taps[first], taps[first + 1], taps[first + 2], taps[first + 3]
    a4, a5, a6 = taps[first + 4], taps[first + 5], taps[first + 6]
    n = out.size
    f = first * stride
    r0, r1, r2 = line[f : f + n], line[f + stride : f + stride + n], line[f + 2 * stride : f + 2 * stride + n]
    r3, r4 = line[f + 3 * stride : f + 3 * stride + n], line[f + 4 * stride : f + 4 * stride + n]
    r5, r6 = line[f + 5 * stride : f + 5 * stride + n], line[f + 6 * stride : f + 6 * stride + n]
    for x in range(n):
        out[x] += a0 * r0[x] + a1 * r1[x] + a2 * r2[x] + a3 * r3[x] + a4 * r4[x] + a5 * r5[x] + a6 * r6[x]


@fast_njit
def convolve_stamp(stamp, width, horizontal, horizontal_index, vertical, out):
    """Convolve one stamp with every basis image.

    Parameters
    ----------
    stamp : (size + width - 1, size + width - 1) float32 array
        Pixels with a border of half a kernel; no NaN.
    width : int
        Width of the kernel in pixels.
    horizontal : (m, k) float32 array
        The distinct horizontal factors, in correlation order (flipped), padded to ``k``, a multiple of ``TAPS``.
    horizontal_index : (n,) int64 array
        Which one each basis image takes.
    vertical : (n, k) float32 array
        Vertical factors, in correlation order, padded.
    out : (n, size, size) float32 array
        Overwritten.
    """
    m, k = horizontal.shape
    n, size = out.shape[0], out.shape[1]
    tall = size + width - 1
    flat = np.zeros(tall * tall + k, np.float32)
    for y in range(tall):
        for x in range(tall):
            flat[y * tall + x] = stamp[y, x]
    line = np.empty(tall * tall, np.float32)
    filtered = np.zeros((m, (tall + k) * size), np.float32)
    for i in range(m):
        line[:] = np.float32(0.0)
        for v in range(0, k, TAPS):
            _add_taps(flat, horizontal[i], v, 1, line)
        for y in range(tall):
            for x in range(size):
                filtered[i, y * size + x] = line[y * tall + x]
    for i in range(n):
        image = out[i].reshape(size * size)
        image[:] = np.float32(0.0)
        for u in range(0, k, TAPS):
            _add_taps(filtered[horizontal_index[i]], vertical[i], u, size, image)
