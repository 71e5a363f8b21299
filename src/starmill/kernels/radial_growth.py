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
SLOPE_BINS = 3  # of both sides
SLOPE_REACH = 0.15
FIRST_REACH = 0.4  # part of the largest radius that is tried first


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
def _slope(histogram, b, end):
    """Mean light per pixel of radius around bin ``b``; up to it the bins hold light, beyond steps of it until ``end``."""
    wide = max(SLOPE_BINS, int(SLOPE_REACH * b))
    first, last = max(b - wide, 0), min(b + wide, end)
    total = 0.0
    for k in range(first, b + 1):
        total += histogram[k]
    light = histogram[b]
    for k in range(b + 1, last + 1):
        light += histogram[k]
        total += light
    return total * BINS_PER_PIXEL / (last - first + 1)


@njit
def radii_of_light(pixels, x, y, target, reach):
    """Radius of the circle that holds a given flux, and how fast the flux grows there.

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
    slope : (n,) float64 array
        Derivative of the flux by the radius, the mean over SLOPE_REACH of the radius (at least SLOPE_BINS bins) on
        both sides; flux unit per pixel.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    radius = np.full(n, np.nan)
    slope = np.full(n, np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    largest = 0.0
    for i in range(n):
        if math.isfinite(reach[i]):
            largest = max(largest, reach[i])
    histogram = np.zeros(int((largest + 2.0) * BINS_PER_PIXEL) + 2)
    for i in pixels.order:
        if not (math.isfinite(x[i] + y[i] + reach[i]) and target[i] > 0.0 and reach[i] > 1.0):
            continue
        show_source(pixels, i, saved)
        near = max(FIRST_REACH * reach[i], min(reach[i], 6.0))  # nearly always far enough
        while True:
            used = histogram[: int((near + 2.0) * BINS_PER_PIXEL) + 2]
            _growth(pixels.image[:, :nx], x[i], y[i], near, used)
            radius[i], slope[i] = _reached(used, int((near - 1.0) * BINS_PER_PIXEL), target[i])
            if near >= reach[i] or (1 + SLOPE_REACH) * radius[i] + SLOPE_BINS / BINS_PER_PIXEL < near - 1.0:
                break
            near = reach[i]
        hide_source(pixels, i, saved)
    return radius, slope


@njit
def _reached(histogram, last, target):
    """Return the radius within which the first ``last`` bins reach a flux, and the slope there; NaN when they do not.

    The bins passed on the way turn from steps of light into light.
    """
    flux = 0.0
    rate = 0.0
    for b in range(last):
        rate += histogram[b]
        histogram[b] = rate
        if flux + rate >= target:
            # the light inside a bin is even in the area
            inner, outer = b * b, (b + 1) * (b + 1)
            radius = math.sqrt(inner + (target - flux) / rate * (outer - inner)) / BINS_PER_PIXEL
            return radius, _slope(histogram, b, last)
        flux += rate
    return math.nan, math.nan
