"""Flux and moments of the pixels of a source above an isophote of the lightly smoothed image."""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source


@fast_njit
def _smooth_run(flat, above, middle, below, n, nx, x0, column, out):
    """Image of a run of pixels under the weights 1 2 1, 2 4 2, 1 2 1 (sum one); the border repeats itself.

    Parameters
    ----------
    flat : (ny * stride,) float32 array
    above, middle, below : int
        Where the three rows begin.
    n : int
        Pixels of the run.
    nx : int
        Columns of the image.
    x0 : int
        First column of the run.
    column : (n + 2,) float64 array
        Scratch: sums of the three rows.
    out : (n,) float64 array
        Written.
    """
    start = max(x0 - 1, 0)
    skipped = np.uint64(start - (x0 - 1))
    stop = min(x0 + n + 1, nx)
    a, b, c = np.uint64(above + start), np.uint64(middle + start), np.uint64(below + start)
    for k in range(np.uint64(stop - start)):
        column[k + skipped] = (
            np.float64(flat[a + k]) + 2.0 * np.float64(flat[b + k]) + np.float64(flat[c + k])
        )
    if x0 == 0:
        column[0] = column[1]
    if x0 + n == nx:
        column[n + 1] = column[n]
    one, two = np.uint64(1), np.uint64(2)
    for k in range(np.uint64(n)):
        out[k] = (column[k] + 2.0 * column[k + one] + column[k + two]) / 16.0


@njit
def isophotal_sums(pixels, n_sigma):
    """Sum over the pixels of each source whose smoothed value is above a multiple of the noise of a pixel.

    Parameters
    ----------
    pixels : SourcePixels
    n_sigma : float

    Returns
    -------
    sums : (n, 8) float64 array
        Flux and its variance, number of pixels, then mean x and y (array index) and central moments xx, yy, xy of
        the light; the moments are NaN when the flux is not positive.
    """
    n = pixels.span_offsets.size - 1
    nx = pixels.mask.shape[1]
    flat = pixels.image.ravel()
    flat_variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    bottom = pixels.mask.shape[0] - 1
    column, smooth = np.empty(nx + 2), np.empty(nx)
    sums = np.zeros((n, 8))
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    limit2 = n_sigma * n_sigma
    for i in pixels.order:
        show_source(pixels, i, saved)
        flux = error2 = mx = my = mxx = myy = mxy = 0.0
        area = 0
        s0 = pixels.span_offsets[i]
        x0 = y0 = 0
        if pixels.span_offsets[i + 1] > s0:
            y0, x0 = pixels.spans[s0, 0], pixels.spans[s0, 1]
        for s in range(s0, pixels.span_offsets[i + 1]):
            y, first = np.int64(pixels.spans[s, 0]), np.int64(pixels.spans[s, 1])
            length = pixels.spans[s, 2] + 1 - first
            middle = y * stride
            _smooth_run(
                flat,
                max(y - 1, 0) * stride,
                middle,
                min(y + 1, bottom) * stride,
                length,
                nx,
                first,
                column,
                smooth,
            )
            dy = np.float64(y - y0)
            here = np.uint64(middle + first)
            for k in range(np.uint64(length)):
                value = smooth[k]
                spread = np.float64(flat_variance[here + k])
                if value <= 0.0 or value * value < limit2 * spread:
                    continue
                light = np.float64(flat[here + k])
                dx = np.float64(np.int64(k) + first - x0)
                flux += light
                error2 += spread
                area += 1
                mx += light * dx
                my += light * dy
                mxx += light * dx * dx
                myy += light * dy * dy
                mxy += light * dx * dy
        hide_source(pixels, i, saved)
        sums[i, 0], sums[i, 1], sums[i, 2] = flux, error2, area
        if flux > 0.0:
            mx /= flux
            my /= flux
            sums[i, 3], sums[i, 4] = x0 + mx, y0 + my
            sums[i, 5] = mxx / flux - mx * mx
            sums[i, 6] = myy / flux - my * my
            sums[i, 7] = mxy / flux - mx * my
        else:
            for k in range(3, 8):
                sums[i, k] = math.nan
    return sums
