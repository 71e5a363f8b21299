r"""Convolution of stamps with a separable kernel basis.

Every basis image is :math:`B_i(u, v) = g_i(u)\, h_{m(i)}(v)`: many share the horizontal factor, so a stamp is
filtered along x once per distinct factor and along y once per basis image.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit


@fast_njit
def convolve_stamp(stamp, horizontal, horizontal_index, vertical, out):
    """Convolve one stamp with every basis image.

    Parameters
    ----------
    stamp : (size + k - 1, size + k - 1) float32 array
        Pixels with a border of half a kernel; no NaN.
    horizontal : (m, k) float32 array
        The distinct horizontal factors, in correlation order (flipped).
    horizontal_index : (n,) int64 array
        Which one each basis image takes.
    vertical : (n, k) float32 array
        Vertical factors, in correlation order.
    out : (n, size, size) float32 array
        Overwritten.
    """
    m, k = horizontal.shape
    n, size = out.shape[0], out.shape[1]
    tall = stamp.shape[0]
    filtered = np.zeros((m, tall, size), np.float32)
    for i in range(m):
        for y in range(tall):
            row = stamp[y]
            acc = filtered[i, y]
            for v in range(k):
                tap = horizontal[i, v]
                shifted = row[v : v + size]
                for x in range(size):
                    acc[x] += tap * shifted[x]
    for i in range(n):
        source = filtered[horizontal_index[i]]
        for y in range(size):
            acc = out[i, y]
            for x in range(size):
                acc[x] = np.float32(0.0)
            for u in range(k):
                tap = vertical[i, u]
                row = source[y + u]
                for x in range(size):
                    acc[x] += tap * row[x]
