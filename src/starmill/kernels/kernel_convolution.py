r"""Convolution with a kernel that changes smoothly over the image.

The kernel is given on the nodes of a grid and interpolated linearly between them, so

.. math:: O(x, y) = \sum_{u,v} \left[(1 - t)\, K_b(u, v; y) + t\, K_{b+1}(u, v; y)\right] I(x - v, y - u)

for :math:`x` between the nodes :math:`b` and :math:`b+1`, with :math:`t` the fraction of the way. The two sums
over ``(u, v)`` share every load of the image; a row is worked in runs of one node spacing, seven taps a pass.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit

TAPS = 7
"""Kernel rows are padded with zeros to a multiple of this number of taps."""


@fast_njit
def convolve_constant(padded, taps, out):
    """Convolve rows with one kernel.

    Parameters
    ----------
    padded : (ny + k - 1, >= nx + kx - 1) float32 array
        The image with a border of half a kernel; no NaN.
    taps : (k, kx) float32 array
        The kernel in correlation order (flipped), ``kx`` a multiple of ``TAPS``.
    out : (ny, nx) float32 array
        Overwritten.
    """
    k, kx = taps.shape
    rows, nx = out.shape
    for y in range(rows):
        acc = out[y]
        for j in range(nx):
            acc[j] = np.float32(0.0)
        for u in range(k):
            row = padded[y + u]
            for v in range(0, kx, 7):
                a0, a1, a2, a3 = taps[u, v], taps[u, v + 1], taps[u, v + 2], taps[u, v + 3]
                a4, a5, a6 = taps[u, v + 4], taps[u, v + 5], taps[u, v + 6]
                r = row[v : v + nx + 6]  # one view: several would be tested for overlap with acc in every run
                for j in range(nx):
                    acc[j] += (
                        a0 * r[j] + a1 * r[j + 1] + a2 * r[j + 2] + a3 * r[j + 3]
                        + a4 * r[j + 4] + a5 * r[j + 5] + a6 * r[j + 6]
                    )  # fmt: skip


@fast_njit
def convolve_varying(padded, nodes, node_row, row_fraction, spacing, out):
    """Convolve rows with a kernel interpolated between nodes.

    Parameters
    ----------
    padded : (ny + k - 1, >= nx + kx - 1) float32 array
        The image with a border of half a kernel; no NaN.
    nodes : (node rows, node columns, k, kx) float32 array
        Kernels in correlation order at columns ``0, spacing, 2 spacing, ...``; ``kx`` a multiple of ``TAPS``.
        The last column lies at or beyond ``nx - 1``.
    node_row, row_fraction : (ny,) arrays of int64 and float32
        Row ``y`` takes the kernel ``(1 - f) nodes[r] + f nodes[r + 1]``.
    spacing : int
        Pixels between node columns.
    out : (ny, nx) float32 array
        Overwritten.
    """
    rows, nx = out.shape
    columns, k, kx = nodes.shape[1], nodes.shape[2], nodes.shape[3]
    at_row = np.empty((columns, k, kx), np.float32)
    flat = at_row.reshape(columns * k * kx)
    value = np.empty(spacing, np.float32)
    slope = np.empty(spacing, np.float32)
    step = np.float32(1.0 / spacing)
    for y in range(rows):
        low = nodes[node_row[y]].reshape(columns * k * kx)
        high = nodes[node_row[y] + 1].reshape(columns * k * kx)
        fraction = row_fraction[y]
        for j in range(flat.size):
            flat[j] = low[j] + fraction * (high[j] - low[j])
        for b in range(columns - 1):
            x0 = b * spacing
            width = min(spacing, nx - x0)
            for j in range(width):
                value[j] = np.float32(0.0)
                slope[j] = np.float32(0.0)
            for u in range(k):
                row = padded[y + u]
                ka, kb = at_row[b, u], at_row[b + 1, u]
                for v in range(0, kx, 7):
                    a0, a1, a2, a3, a4, a5, a6 = (
                        ka[v],
                        ka[v + 1],
                        ka[v + 2],
                        ka[v + 3],
                        ka[v + 4],
                        ka[v + 5],
                        ka[v + 6],
                    )
                    b0, b1, b2, b3 = kb[v] - a0, kb[v + 1] - a1, kb[v + 2] - a2, kb[v + 3] - a3
                    b4, b5, b6 = kb[v + 4] - a4, kb[v + 5] - a5, kb[v + 6] - a6
                    s = x0 + v
                    r = row[s : s + width + 6]
                    for j in range(width):
                        value[j] += (
                            a0 * r[j] + a1 * r[j + 1] + a2 * r[j + 2] + a3 * r[j + 3]
                            + a4 * r[j + 4] + a5 * r[j + 5] + a6 * r[j + 6]
                        )  # fmt: skip
                        slope[j] += (
                            b0 * r[j] + b1 * r[j + 1] + b2 * r[j + 2] + b3 * r[j + 3]
                            + b4 * r[j + 4] + b5 * r[j + 5] + b6 * r[j + 6]
                        )  # fmt: skip
            target = out[y, x0 : x0 + width]
            for j in range(width):
                target[j] = value[j] + np.float32(j) * step * slope[j]


@fast_njit
def correlate_rows(rows, taps, out):
    """Correlate every row with one short filter: ``out[y, x] = sum_v taps[v] rows[y, x + v]``.

    Parameters
    ----------
    rows : (ny, >= nx + k - 1) float32 array
    taps : (k,) float32 array
        ``k`` a multiple of ``TAPS``.
    out : (ny, nx) float32 array
        Overwritten.
    """
    ny, nx = out.shape
    for y in range(ny):
        acc = out[y]
        row = rows[y]
        for j in range(nx):
            acc[j] = np.float32(0.0)
        for v in range(0, taps.size, 7):
            a0, a1, a2, a3, a4, a5, a6 = (
                taps[v], taps[v + 1], taps[v + 2], taps[v + 3], taps[v + 4], taps[v + 5], taps[v + 6]
            )  # fmt: skip
            r = row[v : v + nx + 6]
            for j in range(nx):
                acc[j] += (
                    a0 * r[j] + a1 * r[j + 1] + a2 * r[j + 2] + a3 * r[j + 3]
                    + a4 * r[j + 4] + a5 * r[j + 5] + a6 * r[j + 6]
                )  # fmt: skip


@fast_njit
def add_columns(rows, nodes, node_row, row_fraction, spacing, out):
    """Add a vertical filter that varies over the image: ``out[y, x] += sum_u w_u(x, y) rows[y + u, x]``.

    Parameters
    ----------
    rows : (ny + k - 1, nx) float32 array
    nodes : (node rows, node columns, k) float32 array
        The filter at columns ``0, spacing, 2 spacing, ...``, linear in between; ``k`` a multiple of 3.
    node_row, row_fraction : (ny,) arrays of int64 and float32
        Row ``y`` takes the filter ``(1 - f) nodes[r] + f nodes[r + 1]``.
    spacing : int
        Pixels between node columns.
    out : (ny, nx) float32 array
        Added to.
    """
    ny, nx = out.shape
    columns, k = nodes.shape[1], nodes.shape[2]
    value = np.empty(spacing, np.float32)
    slope = np.empty(spacing, np.float32)
    at_row = np.empty((columns, k), np.float32)
    step = np.float32(1.0 / spacing)
    for y in range(ny):
        low, high, fraction = nodes[node_row[y]], nodes[node_row[y] + 1], row_fraction[y]
        for b in range(columns):
            for u in range(k):
                at_row[b, u] = low[b, u] + fraction * (high[b, u] - low[b, u])
        for b in range(columns - 1):
            x0 = b * spacing
            width = min(spacing, nx - x0)
            taps, ends = at_row[b], at_row[b + 1]
            for j in range(width):
                value[j] = np.float32(0.0)
                slope[j] = np.float32(0.0)
            for u in range(0, k, 3):
                a0, a1, a2 = taps[u], taps[u + 1], taps[u + 2]
                b0, b1, b2 = ends[u] - a0, ends[u + 1] - a1, ends[u + 2] - a2
                r0 = rows[y + u, x0 : x0 + width]
                r1 = rows[y + u + 1, x0 : x0 + width]
                r2 = rows[y + u + 2, x0 : x0 + width]
                for j in range(width):
                    value[j] += a0 * r0[j] + a1 * r1[j] + a2 * r2[j]
                    slope[j] += b0 * r0[j] + b1 * r1[j] + b2 * r2[j]
            target = out[y, x0 : x0 + width]
            for j in range(width):
                target[j] += value[j] + np.float32(j) * step * slope[j]


@njit
def spread_bad(x, y, weight, kernels, spacing, lost):
    """Add, around every bad input pixel, the share of the kernel that it takes from each output pixel.

    Parameters
    ----------
    x, y : (n,) int64 arrays
        Bad pixels of the image that is convolved.
    weight : (n,) float32 array
        Normally 1.
    kernels : (node rows, node columns, k, k) float32 array
        Absolute kernels divided by the sum of their absolute values, in convolution order; the nearest is used.
    spacing : int
        Pixels between nodes in both directions.
    lost : (ny, nx) float32 array
        Added to: the share of the sum of absolute kernel values that falls on bad pixels.
    """
    ny, nx = lost.shape
    k = kernels.shape[2]
    half = k // 2
    for i in range(x.size):
        a = min((y[i] + spacing // 2) // spacing, kernels.shape[0] - 1)
        b = min((x[i] + spacing // 2) // spacing, kernels.shape[1] - 1)
        kernel = kernels[a, b]
        for u in range(k):
            yy = y[i] + u - half
            if yy < 0 or yy >= ny:
                continue
            for v in range(k):
                xx = x[i] + v - half
                if 0 <= xx < nx:
                    lost[yy, xx] += weight[i] * kernel[u, v]


@njit
def mark_squares(x, y, half_width, out):
    """Set a square around every pixel of a list.

    Parameters
    ----------
    x, y : (n,) int64 arrays
    half_width : int
    out : (ny, nx) bool array
        Set to True.
    """
    ny, nx = out.shape
    for i in range(x.size):
        left, right = max(x[i] - half_width, 0), min(x[i] + half_width + 1, nx)
        for v in range(max(y[i] - half_width, 0), min(y[i] + half_width + 1, ny)):
            for u in range(left, right):
                out[v, u] = True


@njit
def block_peaks(image, bad, block, border, x, y):
    """Find the brightest good pixel of every block that is not below its eight neighbours.

    Parameters
    ----------
    image : (ny, nx) float32 array
        No NaN.
    bad : (ny, nx) bool array
    block : int
        Side of a block.
    border : int
        Pixels nearer to an edge are not taken; at least 1.
    x, y : (blocks,) int64 arrays
        Overwritten from the start.

    Returns
    -------
    n : int
        Number of peaks written.
    """
    ny, nx = image.shape
    n = 0
    for top in range(0, ny - block + 1, block):
        for left in range(0, nx - block + 1, block):
            best, at_y, at_x = np.float32(-np.inf), -1, -1
            for v in range(top, top + block):
                row, flags = image[v], bad[v]
                for u in range(left, left + block):
                    if row[u] > best and not flags[u]:
                        best, at_y, at_x = row[u], v, u
            if at_y < border or at_y >= ny - border or at_x < border or at_x >= nx - border:
                continue
            peak = True
            for v in range(at_y - 1, at_y + 2):
                for u in range(at_x - 1, at_x + 2):
                    peak = peak and image[v, u] <= best
            if peak:
                x[n], y[n] = at_x, at_y
                n += 1
    return n
