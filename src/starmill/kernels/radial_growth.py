"""Radii that hold a given part of the light of many sources, from radial histograms.

The light of a pixel is spread evenly over the radii that it covers: pixels near the centre are cut into small squares,
farther out the pixel is as good as one pixel wide in radius. One pass over the pixels gives the growth curve of a source at
an eighth of a pixel.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

BINS_PER_PIXEL = 8
FINE_RADIUS = 3.0  # pixels; nearer pixels are cut into FINE x FINE squares
FINE = 3


@njit
def _add_light(histogram, radius, half, value):
    """Spread light evenly over radius - half ... radius + half, as steps of its derivative."""
    first = max(radius - half, 0.0) * BINS_PER_PIXEL
    last = (radius + half) * BINS_PER_PIXEL
    i, j = int(first), int(last)
    density = value / (last - first)
    # linear inside the first and the last bin: the light in a bin is the integral of the even spread
    histogram[i] += density * (i + 1 - first)
    histogram[i + 1] += density * (first - i)
    histogram[j] -= density * (j + 1 - last)
    histogram[j + 1] -= density * (last - j)


@njit
def _growth(image, x, y, reach, histogram):
    """Fill the derivative of the radial histogram of one source."""
    ny, nx = image.shape
    for b in range(histogram.size):
        histogram[b] = 0.0
    limit2 = (reach - 0.5) * (reach - 0.5)
    for yy in range(max(math.ceil(y - reach), 0), min(math.floor(y + reach), ny - 1) + 1):
        dy = yy - y
        for xx in range(max(math.ceil(x - reach), 0), min(math.floor(x + reach), nx - 1) + 1):
            dx = xx - x
            r2 = dx * dx + dy * dy
            if r2 > limit2:
                continue
            value = np.float64(image[yy, xx])
            if r2 > FINE_RADIUS * FINE_RADIUS:
                _add_light(histogram, math.sqrt(r2), 0.5, value)
                continue
            for j in range(FINE):
                sy = dy + (j - (FINE - 1) / 2) / FINE
                for k in range(FINE):
                    sx = dx + (k - (FINE - 1) / 2) / FINE
                    _add_light(histogram, math.sqrt(sx * sx + sy * sy), 0.5 / FINE, value / (FINE * FINE))


@njit
def radii_of_light(pixels, x, y, target, reach):
    """Radius of the circle that holds a given flux.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Centres, array index; NaN is left out.
    target : (n,) float64 array
        Flux to reach.
    reach : (n,) float64 array
        Largest radius, pixels.

    Returns
    -------
    radius : (n,) float64 array
        NaN when the flux is not positive or not reached.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    radius = np.full(n, np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    largest = 0.0
    for i in range(n):
        if math.isfinite(reach[i]):
            largest = max(largest, reach[i])
    histogram = np.zeros(int((largest + 2.0) * BINS_PER_PIXEL) + 2)
    for i in pixels.order:
        if not (math.isfinite(x[i] + y[i] + reach[i]) and target[i] > 0.0 and reach[i] > 1.0):
            continue
        last = int((reach[i] - 1.0) * BINS_PER_PIXEL)
        used = histogram[: int((reach[i] + 2.0) * BINS_PER_PIXEL) + 2]
        show_source(pixels, i, saved)
        _growth(pixels.image[:, :nx], x[i], y[i], reach[i], used)
        hide_source(pixels, i, saved)
        flux = 0.0
        rate = 0.0
        for b in range(last):
            rate += used[b]
            if flux + rate >= target[i]:
                # the light inside a bin is even in the area
                inner, outer = b * b, (b + 1) * (b + 1)
                radius[i] = math.sqrt(inner + (target[i] - flux) / rate * (outer - inner)) / BINS_PER_PIXEL
                break
            flux += rate
    return radius
