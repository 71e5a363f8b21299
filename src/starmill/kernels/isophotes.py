"""Flux and moments of the pixels of a source above an isophote of the lightly smoothed image."""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source


@njit
def _smoothed(image, y, x):
    """Image under the weights 1 2 1, 2 4 2, 1 2 1 (sum one); the border repeats itself."""
    ny, nx = image.shape
    total = 0.0
    for dy in range(-1, 2):
        row = image[min(max(y + dy, 0), ny - 1)]
        left, right = max(x - 1, 0), min(x + 1, nx - 1)
        total += (2.0 - abs(dy)) * (row[left] + 2.0 * row[x] + row[right])
    return total / 16.0


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
    image = pixels.image[:, :nx]
    sums = np.zeros((n, 8))
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    limit2 = n_sigma * n_sigma
    for i in range(n):
        show_source(pixels, i, saved)
        flux = error2 = mx = my = mxx = myy = mxy = 0.0
        area = 0
        s0 = pixels.span_offsets[i]
        x0 = y0 = 0
        if pixels.span_offsets[i + 1] > s0:
            y0, x0 = pixels.spans[s0, 0], pixels.spans[s0, 1]
        for s in range(s0, pixels.span_offsets[i + 1]):
            y = pixels.spans[s, 0]
            row_variance = pixels.variance[y]
            dy = np.float64(y - y0)
            for x in range(pixels.spans[s, 1], pixels.spans[s, 2] + 1):
                value = _smoothed(image, y, x)
                if value <= 0.0 or value * value < limit2 * row_variance[x]:
                    continue
                light = np.float64(image[y, x])
                dx = np.float64(x - x0)
                flux += light
                error2 += row_variance[x]
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
