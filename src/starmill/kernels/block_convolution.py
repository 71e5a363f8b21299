r"""Convolution with a kernel that is constant in square blocks, and the search for stamps in grid cells.

.. math:: O(x, y) = \sum_{u,v} K_b(u, v)\, I(x - v, y - u)

with one kernel for each block ``b`` and double precision sums: the way of the original programs, kept for
comparison with them.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def convolve_blocks(image, variance, mask, kernels, step, squared, out, out_variance, out_mask, good):
    """Convolve image and variance block by block and gather the masks below the kernel.

    Parameters
    ----------
    image, variance : (ny, nx) float64 arrays
        Finite.
    mask : (ny, nx) int32 array
    kernels : (rows, columns, k, k) float64 array
        One for each block of ``step`` pixels; the first block starts at ``(k // 2, k // 2)``.
    step : int
    squared : bool
        Convolve the variance with the square of the kernel, otherwise with the kernel.
    out, out_variance : (ny, nx) float64 arrays
        Written except in a border of ``k // 2``.
    out_mask : (ny, nx) int32 array
        Written: the union of the masks below the kernel.
    good : (ny, nx) float64 array
        Written: share of ``sum(abs(kernel))`` that falls on pixels without the bit 0x80; 1 where no mask is below.
    """
    ny, nx = image.shape
    rows, columns, k, _ = kernels.shape
    half = k // 2
    acc, acc_variance = np.empty(step), np.empty(step)
    for b in range(rows):
        for c in range(columns):
            kernel = kernels[b, c]
            x0 = half + c * step
            width = min(step, nx - half - x0)
            for y in range(half + b * step, min(half + (b + 1) * step, ny - half)):
                for j in range(width):
                    acc[j] = 0.0
                    acc_variance[j] = 0.0
                for u in range(k):
                    row, noise = image[y + half - u], variance[y + half - u]
                    for v in range(k):
                        tap = kernel[u, v]
                        power = tap * tap if squared else tap
                        left = x0 + half - v
                        r, n = row[left : left + width], noise[left : left + width]
                        for j in range(width):
                            acc[j] += tap * r[j]
                            acc_variance[j] += power * n[j]
                for j in range(width):
                    out[y, x0 + j] = acc[j]
                    out_variance[y, x0 + j] = acc_variance[j]
            _gather_mask(mask, kernel, x0, half + b * step, step, out_mask, good)


@njit
def _gather_mask(mask, kernel, x0, y0, step, out_mask, good):
    """Union of masks and the share of the kernel on good pixels, for one block."""
    ny, nx = mask.shape
    k = kernel.shape[0]
    half = k // 2
    y1, x1 = min(y0 + step, ny - half), min(x0 + step, nx - half)
    touched = False
    for y in range(y0 - half, y1 + half):
        for x in range(x0 - half, x1 + half):
            if mask[y, x] != 0:
                touched = True
    total = 0.0
    for u in range(k):
        for v in range(k):
            total += abs(kernel[u, v])
    for y in range(y0, y1):
        for x in range(x0, x1):
            union, clean = 0, 0.0
            if touched:
                for u in range(k):
                    for v in range(k):
                        flag = mask[y + half - u, x + half - v]
                        union |= flag
                        if flag & 0x80 == 0:
                            clean += abs(kernel[u, v])
            else:
                clean = total
            out_mask[y, x] = union
            good[y, x] = clean / total if total > 0 else 0.0


@njit
def stamp_vectors(cut, horizontal, vertical, minus_first, out):
    """Convolve one stamp with every image of a separable basis.

    Columns are summed in single precision, from the last tap to the first, rows in double: the rounding of the
    original program decides which of two equally good stamps its fit keeps.

    Parameters
    ----------
    cut : (n + k - 1, n + k - 1) float64 array
    horizontal, vertical : (m, k) float64 arrays
        Factors of the basis images.
    minus_first : (m,) bool array
        Results from which the first is subtracted.
    out : (m, n, n) float64 array
        Overwritten.
    """
    m, k = horizontal.shape
    n, wide = out.shape[1], cut.shape[1]
    columns = np.empty((n, wide), np.float32)
    for b in range(m):
        for y in range(n):
            row = columns[y]
            for x in range(wide):
                row[x] = np.float32(0.0)
            for u in range(k):
                tap, source = vertical[b, k - 1 - u], cut[y + u]
                for x in range(wide):
                    row[x] = np.float32(np.float64(row[x]) + source[x] * tap)
            for x in range(n):
                total = 0.0
                for v in range(k):
                    total += row[x + k - 1 - v] * horizontal[b, v]
                out[b, y, x] = total
        if minus_first[b]:
            for y in range(n):
                for x in range(n):
                    out[b, y, x] -= out[0, y, x]


@njit
def search_cell(image, mask, cell, refuse, own, sky, width, limit, threshold, half, most, found):
    """Find bright objects of one grid cell, brightest levels first.

    Parameters
    ----------
    image : (ny, nx) array
    mask : (ny, nx) int32 array
        Boxes of accepted objects are marked with ``own``, but for the first row and column of the cell, which the original
        program leaves to the cell before.
    cell : (4,) int array
        ``x0, y0, x1, y1``, last pixels exclusive; an object is searched, judged and marked inside it.
    refuse : int
        Pixels with one of these bits are neither peak nor part of a stamp.
    own : int
    sky, width : float
        Level and scatter of the sky in the cell.
    limit : float
        A pixel at or above it spoils a stamp.
    threshold : float
        Faintest peak and faintest pixel of the score, in ``width`` above ``sky``.
    half : int
        Half width of a stamp.
    most : int
        Stop after this many.
    found : (most, 3) float64 array
        Overwritten: x, y and score (sum of the pixels above the threshold).

    Returns
    -------
    n : int
        Number of objects.
    """
    x0, y0, x1, y1 = cell[0], cell[1], cell[2], cell[3]
    floor = sky + threshold * width
    share, n, last = 0.9, 0, False
    while not last and n < most:
        level = sky + (limit - sky) * share
        if level <= floor or share <= 0:
            level, last = floor, True
        for y in range(y0, y1):
            for x in range(x0, x1):
                if n >= most or image[y, x] <= level or mask[y, x] & refuse != 0:
                    continue
                px, py = climb(image, mask, cell, refuse, x, y, half)
                if score_box(image, mask, cell, refuse, px, py, half, limit, floor, found[n]):
                    n += 1
                    for v in range(max(py - half, y0 + 1), min(py + half + 1, y1)):
                        for u in range(max(px - half, x0 + 1), min(px + half + 1, x1)):
                            mask[v, u] |= own
        share -= 0.2
    return n


@njit
def climb(image, mask, cell, refuse, x, y, half):
    """Return the brightest pixel of a box around a pixel that is not refused."""
    best, bx, by = -np.inf, x, y
    for v in range(max(y - half, cell[1]), min(y + half + 1, cell[3])):
        for u in range(max(x - half, cell[0]), min(x + half + 1, cell[2])):
            if mask[v, u] & refuse == 0 and image[v, u] > best:
                best, bx, by = image[v, u], u, v
    return bx, by


@njit
def score_box(image, mask, cell, refuse, x, y, half, limit, floor, out):
    """Put position and score of a stamp in ``out``; false when a pixel of its box is refused or too bright."""
    total = 0.0
    for v in range(max(y - half, cell[1]), min(y + half + 1, cell[3])):
        for u in range(max(x - half, cell[0]), min(x + half + 1, cell[2])):
            if mask[v, u] & refuse != 0 or image[v, u] >= limit:
                return False
            if image[v, u] > floor:
                total += image[v, u]
    out[0], out[1], out[2] = x, y, total
    return True
