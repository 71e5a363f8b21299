r"""Convolution with a kernel that changes smoothly over the image.

The kernel is given on the nodes of a grid and interpolated linearly between them, so

.. math:: O(x, y) = \sum_{u,v} \left[(1 - t)\, K_b(u, v; y) + t\, K_{b+1}(u, v; y)\right] I(x - v, y - u)

for :math:`x` between the nodes :math:`b` and :math:`b+1`, with :math:`t` the fraction of the way: a value and a
slope for every pixel, two sums over ``(u, v)`` that share every load of the image.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.vector_runs import (
    LONG_RUN,
    SHORT_RUN,
    correlate_long_run_by_four,
    correlate_long_run_by_two,
    correlate_short_run_by_four,
)

__all__ = [
    "LONG_RUN",
    "SHORT_RUN",
    "block_peaks",
    "convolve_separable",
    "convolve_varying",
    "mark_squares",
    "padded_rows",
    "repair_pixels",
    "spread_bad",
]


@fast_njit
def convolve_varying(padded, nodes, node_row, row_fraction, spacing, out):
    """Convolve rows with a kernel interpolated between nodes.

    Parameters
    ----------
    padded : (>= ny + k, >= nx + k - 1 + LONG_RUN) contiguous float32 array
        The image with a border of half a kernel; no NaN. The last row and columns only have to be finite.
    nodes : (node rows, node columns, k, k) float32 array
        Kernels in correlation order (flipped) at columns ``0, spacing, 2 spacing, ...``. The last column lies at
        or beyond ``nx - 1``.
    node_row, row_fraction : (ny,) arrays of int64 and float32
        Row ``y`` takes the kernel ``(1 - f) nodes[r] + f nodes[r + 1]``.
    spacing : int
        Pixels between node columns; a multiple of ``LONG_RUN`` is fastest, others divide ``SHORT_RUN`` or are a
        multiple of it.
    out : (ny, nx) float32 array
        Overwritten.

    Notes
    -----
    Two rows are worked together, because a row of pixels then serves two rows of each kernel: value and slope for
    the upper row, and for the lower one with the taps shifted down by one row.
    """
    rows, nx = out.shape
    columns, k = nodes.shape[1], nodes.shape[2]
    n = (k + 1) * k
    taps = np.zeros((columns, 4, n), np.float32)
    flat = taps.reshape(taps.size)
    sums = np.empty(4 * LONG_RUN, np.float32)
    pixels, stride = padded.reshape(padded.size), padded.shape[1]
    long = spacing % LONG_RUN == 0
    run = LONG_RUN if long else min(SHORT_RUN, spacing)
    width = LONG_RUN if long else SHORT_RUN
    step = np.float32(1.0 / spacing)
    for y in range(0, rows, 2):
        below = min(y + 1, rows - 1)
        for i, at in ((0, y), (1, below)):
            r = node_row[at]
            _kernels_of_row(nodes[r], nodes[r + 1], row_fraction[at], step, i, taps)
        for x in range(0, nx, run):
            b = x // spacing
            first, tap = y * stride + x, 4 * b * n
            if long:
                correlate_long_run_by_four(pixels, first, stride, 1, flat, tap, n, k + 1, k, sums, 0)
            else:
                correlate_short_run_by_four(pixels, first, stride, 1, flat, tap, n, k + 1, k, sums, 0)
            _write_run(sums, width, np.float32(x - b * spacing), x, min(run, nx - x), y, below, out)


@fast_njit
def _write_run(sums, width, begin, x, n, y, below, out):
    """Write a run of two rows from its values and slopes."""
    for j in range(n):
        out[y, x + j] = sums[j] + (begin + np.float32(j)) * sums[width + j]
    if below > y:
        for j in range(n):
            out[below, x + j] = sums[2 * width + j] + (begin + np.float32(j)) * sums[3 * width + j]


@fast_njit
def convolve_separable(padded, horizontal, nodes, node_row, row_fraction, spacing, out):
    r"""Convolve rows with a kernel of low rank, :math:`K = \sum_r V_r(u; x, y)\, H_r(v)`.

    Parameters
    ----------
    padded : (>= ny + k, >= nx + k - 1 + LONG_RUN) contiguous float32 array
        As for :func:`convolve_varying`.
    horizontal : (rank, k) float32 array
        Horizontal factors in correlation order; their number is even.
    nodes : (node rows, node columns, k, rank) float32 array
        Vertical factors in correlation order at the nodes.
    node_row, row_fraction : (ny,) arrays of int64 and float32
        As for :func:`convolve_varying`.
    spacing : int
        Pixels between node columns, a multiple of ``LONG_RUN``.
    out : (ny, nx) float32 array
        Overwritten.

    Notes
    -----
    A column of runs is filtered along x into a buffer that stays in the cache, then along y. The cost per pixel is
    three instead of two times ``k`` products for each term, against two times ``k`` squared for the full kernel.
    """
    rows, nx = out.shape
    k, rank = nodes.shape[2], nodes.shape[3]
    tall, n, pairs = rows + k, (k + 1) * rank, rank // 2
    filtered = np.empty(tall * rank * LONG_RUN, np.float32)
    across = horizontal.reshape(horizontal.size)
    taps = np.zeros(((rows + 1) // 2, 2, 4, n), np.float32)
    flat = taps.reshape(taps.size)
    sums = np.empty(4 * LONG_RUN, np.float32)
    pixels, stride, tread = padded.reshape(padded.size), padded.shape[1], rank * LONG_RUN
    step = np.float32(1.0 / spacing)
    for x in range(0, nx, LONG_RUN):
        b = x // spacing
        if x == b * spacing:
            for y in range(rows):
                r = node_row[y]
                low, high = nodes[r, b : b + 2], nodes[r + 1, b : b + 2]
                _kernels_of_row(low, high, row_fraction[y], step, y % 2, taps[y // 2])
        for i in range(tall):
            for g in range(pairs):
                correlate_long_run_by_two(
                    pixels,
                    i * stride + x,
                    0,
                    1,
                    across,
                    2 * k * g,
                    k,
                    1,
                    k,
                    filtered,
                    i * tread + 2 * LONG_RUN * g,
                )
        for y in range(0, rows, 2):
            correlate_long_run_by_four(
                filtered, y * tread, tread, LONG_RUN, flat, 4 * n * y, n, k + 1, rank, sums, 0
            )
            begin = np.float32(x - b * spacing)
            _write_run(sums, LONG_RUN, begin, x, min(LONG_RUN, nx - x), y, min(y + 1, rows - 1), out)


@fast_njit
def _kernels_of_row(low, high, fraction, step, shift, taps):
    """Interpolate the kernels of all node columns between two node rows; write values and changes per pixel along x.

    The kernels are written ``shift`` rows down, as planes ``2 shift`` and ``2 shift + 1`` of every node.
    """
    columns, k, m = low.shape
    n, first = k * m, shift * m
    for b in range(columns):
        below, above = low[b].reshape(n), high[b].reshape(n)
        value = taps[b, 2 * shift, first : first + n]
        for i in range(n):
            value[i] = below[i] + fraction * (above[i] - below[i])
    for b in range(columns - 1):
        value, following = taps[b, 2 * shift, first : first + n], taps[b + 1, 2 * shift, first : first + n]
        slope = taps[b, 2 * shift + 1, first : first + n]
        for i in range(n):
            slope[i] = (following[i] - value[i]) * step


@njit
def padded_rows(image, bad, first, last, top, half, reach, fill, out):
    """Copy rows with a border that repeats the edge, bad pixels replaced by the mean of good ones near them.

    Parameters
    ----------
    image : (n, nx) float32 array
        Rows of the image, the first of which is row ``top``.
    bad : (n, nx) bool array
    first, last : int
        Rows wanted, without the border; those of the border beyond ``image`` repeat its first or last row.
    top : int
    half : int
        Width of the border.
    reach : int
        See :func:`repair_pixels`.
    fill : float32
        Value of a bad pixel without a good one near it.
    out : (>= last - first + 2 half, >= nx + 2 half) float32 array
        Overwritten; rows and columns beyond are set to zero.
    """
    n, nx = image.shape
    for i in range(last - first + 2 * half, len(out)):
        for x in range(out.shape[1]):
            out[i, x] = np.float32(0.0)
    for i in range(last - first + 2 * half):
        y = min(max(first - half + i - top, 0), n - 1)
        line, row, flags = out[i], image[y], bad[y]
        found = False
        for x in range(nx):
            line[half + x] = row[x]
            found |= flags[x]
        if found:
            for x in range(nx):
                if flags[x]:
                    line[half + x] = _neighbours(image, bad, x, y, reach, fill)
        for x in range(half):
            line[x] = line[half]
            line[half + nx + x] = line[half + nx - 1]
        for x in range(nx + 2 * half, line.size):
            line[x] = np.float32(0.0)


@njit
def _neighbours(image, bad, x, y, reach, fill):
    """Return the mean of the good pixels of a square, weighted by 1 / (1 + distance squared)."""
    ny, nx = image.shape
    total, weight = 0.0, 0.0
    for v in range(max(y - reach, 0), min(y + reach + 1, ny)):
        for u in range(max(x - reach, 0), min(x + reach + 1, nx)):
            if not bad[v, u]:
                share = 1.0 / (1.0 + (u - x) * (u - x) + (v - y) * (v - y))
                total += share * image[v, u]
                weight += share
    return np.float32(total / weight) if weight > 0 else fill


@njit
def repair_pixels(image, bad, reach, fill, out):
    """Write a copy of an image whose bad pixels have the mean of the good ones near them.

    Parameters
    ----------
    image : (ny, nx) float32 array
        May hold NaN or infinity at bad pixels only.
    bad : (ny, nx) bool array
    reach : int
        Half width of the square of neighbours.
    fill : float32
        Value of a bad pixel without a good one near it.
    out : (ny, nx) float32 array
        Overwritten.
    """
    ny, nx = image.shape
    for y in range(ny):
        line, row, flags = out[y], image[y], bad[y]
        for x in range(nx):
            line[x] = row[x]
            if flags[x]:
                line[x] = _neighbours(image, bad, x, y, reach, fill)


@njit
def spread_bad(x, y, kernels, spacing, first, lost):
    """Add, around every bad input pixel, the share of the kernel that it takes from each output pixel.

    Parameters
    ----------
    x, y : (n,) int64 arrays
        Bad pixels of the image that is convolved.
    kernels : (node rows, node columns, k, k) float32 array
        Absolute kernels divided by the sum of their absolute values, in convolution order; the nearest is used.
    spacing : int
        Pixels between nodes in both directions.
    first : int
        Row of the image that is the first row of ``lost``.
    lost : (rows, nx) float32 array
        Added to: the share of the sum of absolute kernel values that falls on bad pixels.
    """
    rows, nx = lost.shape
    k = kernels.shape[2]
    half = k // 2
    for i in range(x.size):
        a = min((y[i] + spacing // 2) // spacing, kernels.shape[0] - 1)
        b = min((x[i] + spacing // 2) // spacing, kernels.shape[1] - 1)
        kernel = kernels[a, b]
        for u in range(k):
            row = y[i] + u - half - first
            if row < 0 or row >= rows:
                continue
            for v in range(max(0, half - x[i]), min(k, nx + half - x[i])):
                lost[row, x[i] + v - half] += kernel[u, v]


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
def block_peaks(image, bad, first, last, block, border, x, y):
    """Find the brightest good pixel of every block that is not below its eight neighbours.

    Parameters
    ----------
    image : (ny, nx) float32 array
        No NaN.
    bad : (ny, nx) bool array
    first, last : int
        Blocks begin in these rows (``last`` is exclusive).
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
    for top in range(first, min(last, ny - block + 1), block):
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
