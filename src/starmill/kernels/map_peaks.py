"""Pixels of a map that exceed their eight neighbours, and means of the map around them."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit


@fast_njit
def any_above(row, limit):
    """Tell whether a row has a value above the limit; without a branch per pixel, so that it is quick."""
    count = 0
    for i in range(row.size):
        count += row[i] > limit
    return count > 0


@njit
def maxima_above(image, limit):
    """List the pixels above ``limit`` that exceed all neighbours; of equal neighbours the first in reading order.

    Parameters
    ----------
    image : (ny, nx) float32 array
        No NaN. Beyond the edge there is nothing that could exceed a pixel.
    limit : float32

    Returns
    -------
    places : (n, 2) int64 array
        y, x in reading order.
    """
    ny, nx = image.shape
    places, n = np.empty((256, 2), np.int64), 0
    for y in range(ny):
        if not any_above(image[y], limit):
            continue
        for x in range(nx):
            value = image[y, x]
            if not value > limit:
                continue
            top = True
            for j in range(max(y - 1, 0), min(y + 2, ny)):
                for i in range(max(x - 1, 0), min(x + 2, nx)):
                    before = j < y or (j == y and i < x)
                    if image[j, i] > value or (before and image[j, i] == value):
                        top = False
            if top:
                if n == places.shape[0]:
                    longer = np.empty((2 * n, 2), np.int64)
                    longer[:n] = places
                    places = longer
                places[n, 0], places[n, 1] = y, x
                n += 1
    return places[:n].copy()


@njit
def means_around(image, valid, x, y, kernel, step, out):
    """Weighted mean of the valid pixels around each position.

    Parameters
    ----------
    image : (ny, nx) float32 array
    valid : (ny, nx) bool array
    x, y : (n,) int64
        Pixels inside the map.
    kernel : (2 h + 1,) float32
        Weight along each axis, for every ``step``-th pixel.
    step : int
    out : (n,) float64, filled
        NaN where no pixel is valid.
    """
    ny, nx = image.shape
    half = kernel.size // 2
    for k in range(x.size):
        total, weight = 0.0, 0.0
        for j in range(-half, half + 1):
            row = y[k] + j * step
            if row < 0 or row >= ny:
                continue
            row_total, row_weight = 0.0, 0.0
            for i in range(-half, half + 1):
                column = x[k] + i * step
                if 0 <= column < nx and valid[row, column]:
                    row_total += kernel[half + i] * image[row, column]
                    row_weight += kernel[half + i]
            total += kernel[half + j] * row_total
            weight += kernel[half + j] * row_weight
        out[k] = total / weight if weight > 0.0 else np.nan
