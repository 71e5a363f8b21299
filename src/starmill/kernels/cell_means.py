"""Clipped, weighted means of the cells of a difference image."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.statistics import quickselect

__all__ = ["clipped_cell_means"]


@njit
def clipped_cell_means(image, variance, bad, top, bottom, left, right, step, minimum, out):
    """Return the weighted mean, and its error, of the pixels within three standard deviations of each cell.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
        Values at bad pixels have no influence.
    bad : (ny, nx) bool array
    top, bottom, left, right : (n,) int64 arrays
        Cells, ends exclusive.
    step : int
        Every ``step``-th pixel of every ``step``-th row is taken.
    minimum : float
        Least share of good pixels.
    out : (n, 2) float64 array
        Overwritten; NaN for a cell with too few pixels.

    Notes
    -----
    The weight of a pixel is made from the variances of its eight neighbours: a variance made from the pixel itself
    knows its noise and would bias the mean low.
    """
    size = 1
    for c in range(top.size):
        size = max(size, (bottom[c] - top[c] + step - 1) // step * ((right[c] - left[c] + step - 1) // step))
    values, work = np.empty(size, np.float32), np.empty(size, np.float32)
    weights = np.empty(size, np.float32)
    for c in range(top.size):
        n, total = 0, 0
        for y in range(top[c], bottom[c], step):
            for x in range(left[c], right[c], step):
                total += 1
                if bad[y, x]:
                    continue
                spread = _neighbour_variance(variance, bad, y, x)
                if spread > 0:
                    values[n], work[n], weights[n] = image[y, x], image[y, x], np.float32(1.0 / spread)
                    n += 1
        out[c, 0] = out[c, 1] = np.nan
        if n >= max(10.0, minimum * total):
            _clipped_mean(values, weights, n, quickselect(work, n, n // 2), out[c])


@njit
def _neighbour_variance(variance, bad, y, x):
    """Return the mean variance of the good pixels among the eight neighbours; 0 without any."""
    ny, nx = variance.shape
    total, n = 0.0, 0
    for v in range(max(y - 1, 0), min(y + 2, ny)):
        for u in range(max(x - 1, 0), min(x + 2, nx)):
            if (v != y or u != x) and not bad[v, u]:
                total += variance[v, u]
                n += 1
    return total / n if n else 0.0


@njit
def _clipped_mean(values, weights, n, center, out):
    """Iterate the mean of the values within three standard deviations of it; ``out`` gets the mean and its error."""
    for _ in range(5):
        total, weight, largest, near = 0.0, 0.0, 0.0, 0
        for i in range(n):
            away = values[i] - center
            if away * away * weights[i] < 9.0:
                total += weights[i] * away
                weight += weights[i]
                largest = max(largest, weights[i])
                near += 1
        if near < 10:
            return
        step = total / weight
        center += step
        out[0], out[1] = center, 1 / np.sqrt(weight)
        if step * step * largest < 1e-6:
            return
