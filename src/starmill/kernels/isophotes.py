"""Flux and moments of the pixels of a source above an isophote of the lightly smoothed image."""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

SMOOTHED_NOISE = 0.375  # noise of the image smoothed with the weights 1 2 1 over that of a pixel
TOGETHER = 2.0  # sum of 1 - sqrt(1 - r) along a row, r the correlation of the smoothed noise


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
def _add_row(spreads, v0, v1, v2, v3, v4, dy):
    """Add sums of V dx**j over a row, j = 0 ... 4, to those of V dx**j dy**k, (5, 5), j + k up to 4."""
    power = 1.0
    for k in range(5):
        spreads[0, k] += v0 * power
        if k < 4:
            spreads[1, k] += v1 * power
        if k < 3:
            spreads[2, k] += v2 * power
        if k < 2:
            spreads[3, k] += v3 * power
        if k < 1:
            spreads[4, k] += v4 * power
        power *= dy


@njit
def _variances(spreads, mx, my, sums, errors):
    """Fill in ``errors`` of :func:`isophotal_sums` from the sums of V dx**j dy**k about any point.

    ``mx``, ``my`` is the mean position from that point, ``sums`` what was found for the source.
    """
    flux2 = sums[0] * sums[0]
    central = np.empty((5, 5))
    for j in range(5):
        for k in range(5 - j):
            total = 0.0
            x_factor = 1.0  # binomial coefficient times a power of -mx
            for a in range(j + 1):
                y_factor = x_factor
                for b in range(k + 1):
                    total += y_factor * spreads[j - a, k - b]
                    y_factor *= -my * (k - b) / (b + 1)
                x_factor *= -mx * (j - a) / (a + 1)
            central[j, k] = total / flux2
    xx, yy, xy = sums[5], sums[6], sums[7]
    errors[0] = central[2, 0]
    errors[1] = central[0, 2]
    errors[2] = central[4, 0] - 2.0 * xx * central[2, 0] + xx * xx * central[0, 0]
    errors[3] = central[0, 4] - 2.0 * yy * central[0, 2] + yy * yy * central[0, 0]
    errors[4] = central[2, 2] - 2.0 * xy * central[1, 1] + xy * xy * central[0, 0]
    errors[5] = central[1, 1]


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
    errors : (n, 6) float64 array
        Variances of mean x and y, pixel**2, and of xx, yy, xy, pixel**4, covariance of mean x and y; NaN when the
        flux is not positive.

    Notes
    -----
    For given pixels, noise n moves the mean of f over the light to first order by sum(n (f - <f>)) / flux, so that

        var(<f>) = sum(V (f - <f>)**2) / flux**2,

    where f is dx for the position (Bertin & Arnouts 1996, ERRX2) and dx**2 from the mean for xx; moving the mean
    changes no central moment to first order. The noise of the smoothed image, s, also decides which pixels near the
    isophote t count. A pixel of smoothed value m counts with the probability p = Phi((m - t) / s), and p (1 - p)
    integrates to s / sqrt(pi) over m: the same as 1 / pi within s sqrt(pi) / 2 of the isophote. There V is
    larger by t**2 / pi for each of the :data:`TOGETHER` pixels along the isophote that come and go together, and, as
    half of the pixels that are smoothed count themselves, by t V / (s sqrt(pi)) for what both kinds of noise share.
    """
    n = pixels.span_offsets.size - 1
    nx = pixels.mask.shape[1]
    flat = pixels.image.ravel()
    flat_variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    bottom = pixels.mask.shape[0] - 1
    column, smooth = np.empty(nx + 2), np.empty(nx)
    sums = np.zeros((n, 8))
    errors = np.full((n, 6), np.nan)
    spreads = np.empty((5, 5))
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    limit2 = n_sigma * n_sigma
    near = 0.5 * math.sqrt(math.pi) * SMOOTHED_NOISE
    inner2, outer2 = max(n_sigma - near, 0.0) ** 2, (n_sigma + near) ** 2
    flicker = TOGETHER * limit2 / math.pi + n_sigma / (SMOOTHED_NOISE * math.sqrt(math.pi))
    for i in pixels.order:
        show_source(pixels, i, saved)
        flux = mx = my = mxx = myy = mxy = 0.0
        area = 0
        spreads[:] = 0.0
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
            v0 = v1 = v2 = v3 = v4 = 0.0
            for k in range(np.uint64(length)):
                value = smooth[k]
                spread = np.float64(flat_variance[here + k])
                if value <= 0.0 or value * value < inner2 * spread:
                    continue
                dx = np.float64(np.int64(k) + first - x0)
                share = flicker if value * value < outer2 * spread else 0.0
                if value * value >= limit2 * spread:
                    share += 1.0
                    light = np.float64(flat[here + k])
                    flux += light
                    area += 1
                    mx += light * dx
                    my += light * dy
                    mxx += light * dx * dx
                    myy += light * dy * dy
                    mxy += light * dx * dy
                noise = share * spread
                second_power = noise * dx * dx
                v0 += noise
                v1 += noise * dx
                v2 += second_power
                v3 += second_power * dx
                v4 += second_power * dx * dx
            _add_row(spreads, v0, v1, v2, v3, v4, dy)
        hide_source(pixels, i, saved)
        sums[i, 0], sums[i, 1], sums[i, 2] = flux, spreads[0, 0], area
        if flux > 0.0:
            mx, my = mx / flux, my / flux
            sums[i, 3], sums[i, 4] = x0 + mx, y0 + my
            sums[i, 5] = mxx / flux - mx * mx
            sums[i, 6] = myy / flux - my * my
            sums[i, 7] = mxy / flux - mx * my
            _variances(spreads, mx, my, sums[i], errors[i])
        else:
            sums[i, 3:] = math.nan
    return sums, errors
