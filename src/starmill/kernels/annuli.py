"""Sums and robust statistics in ellipses and annuli around many sources."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source
from starmill.kernels.statistics import CLIPPED_MEAN, CLIPPED_VARIANCE, MEDIAN, N_SUMMARY, summarize


@njit
def _ellipse_rows(shape, y, qxx, qyy, qxy, limit):
    """First and last row that rho <= limit reaches inside an image."""
    half = limit * np.sqrt(qxx / (qxx * qyy - qxy * qxy))
    return max(int(np.ceil(y - half)), 0), min(int(np.floor(y + half)), shape[0] - 1)


@njit
def _ellipse_columns(nx, x, dy, qxx, qyy, qxy, limit):
    """First and last column of one row that rho <= limit reaches (first after last: none)."""
    disc = (qxy * dy) ** 2 - qxx * (qyy * dy * dy - limit * limit)
    if disc < 0.0:
        return 1, 0
    half = np.sqrt(disc) / qxx
    middle = x - qxy * dy / qxx
    return max(int(np.ceil(middle - half)), 0), min(int(np.floor(middle + half)), nx - 1)


@njit
def first_moment_radii(pixels, x, y, inverse, limit):
    """Mean elliptical radius of the light, sum(rho I) / sum(I) over rho <= limit.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Array index; NaN is left out.
    inverse : (n, 3) float64 array
        xx, yy, xy of the inverse of the second moments: rho**2 = xx dx**2 + yy dy**2 + 2 xy dx dy.
    limit : float
        Largest rho.

    Returns
    -------
    radius : (n,) float64 array
        In units of rho; NaN when the sum of the light is not positive.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    radius = np.full(n, np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    for i in range(n):
        qxx, qyy, qxy = inverse[i, 0], inverse[i, 1], inverse[i, 2]
        if not (np.isfinite(x[i] + y[i]) and qxx > 0.0 and qxx * qyy > qxy * qxy):
            continue
        show_source(pixels, i, saved)
        y0, y1 = _ellipse_rows(pixels.mask.shape, y[i], qxx, qyy, qxy, limit)
        total = 0.0
        moment = 0.0
        for yy in range(y0, y1 + 1):
            dy = yy - y[i]
            first, last = _ellipse_columns(nx, x[i], dy, qxx, qyy, qxy, limit)
            row = pixels.image[yy]
            for xx in range(first, last + 1):
                dx = xx - x[i]
                value = row[xx]
                total += value
                moment += value * np.sqrt(qxx * dx * dx + (2.0 * qxy * dx + qyy * dy) * dy)
        hide_source(pixels, i, saved)
        if total > 0.0:
            radius[i] = moment / total
    return radius


@njit
def annulus_statistics(pixels, x, y, inner, outer, bad_bits, n_sigma, n_iterations):
    """Clipped mean and scatter of the pixels in an annulus around every source.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Array index.
    inner, outer : (n,) float64 array
        Radii, pixels.
    bad_bits : int
        Pixels with any of these mask bits are left out.
    n_sigma : float
    n_iterations : int

    Returns
    -------
    mean, scatter : (n,) float64 array
        NaN without good pixels.
    count : (n,) int64 array
        Good pixels.
    """
    n = x.size
    ny, nx = pixels.mask.shape
    mean = np.full(n, np.nan)
    scatter = np.full(n, np.nan)
    count = np.zeros(n, np.int64)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    summary = np.empty(N_SUMMARY)
    widest = 0.0
    for i in range(n):
        if np.isfinite(outer[i]):
            widest = max(widest, outer[i])
    size = int((2.0 * widest + 3.0) ** 2)
    values = np.empty(size + 1, np.float32)
    work = np.empty(size + 1, np.float32)
    for i in pixels.order:
        if not (np.isfinite(x[i] + y[i] + inner[i] + outer[i]) and abs(x[i]) < 1e9 and abs(y[i]) < 1e9):
            continue
        show_source(pixels, i, saved)
        k = 0
        low = inner[i] * inner[i]
        high = outer[i] * outer[i]
        for yy in range(
            max(int(np.ceil(y[i] - outer[i])), 0), min(int(np.floor(y[i] + outer[i])), ny - 1) + 1
        ):
            dy2 = (yy - y[i]) ** 2
            row = pixels.image[yy]
            flags = pixels.mask[yy]
            half = np.sqrt(max(high - dy2, 0.0))
            for xx in range(max(int(np.ceil(x[i] - half)), 0), min(int(np.floor(x[i] + half)), nx - 1) + 1):
                values[k] = row[xx]
                k += ((xx - x[i]) ** 2 + dy2 >= low) & ((flags[xx] & bad_bits) == 0)
        hide_source(pixels, i, saved)
        count[i] = k
        if k > 0:
            summarize(values, k, n_sigma, n_iterations, work, summary)
            mean[i] = summary[CLIPPED_MEAN]
            scatter[i] = np.sqrt(summary[CLIPPED_VARIANCE])
    return mean, scatter, count


@njit
def ellipse_median_variance(pixels, x, y, inverse, limit, bad_bits, max_radius):
    """Median variance of the good pixels in an ellipse around every source (NaN without any).

    Arguments as :func:`first_moment_radii`; ``bad_bits`` as :func:`annulus_statistics`;
    ``max_radius`` bounds the ellipse, pixels.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    out = np.full(n, np.nan)
    size = int((2.0 * max_radius + 3.0) ** 2)
    values = np.empty(size + 1, np.float32)
    work = np.empty(size + 1, np.float32)
    summary = np.empty(N_SUMMARY)
    for i in pixels.order:
        qxx, qyy, qxy = inverse[i, 0], inverse[i, 1], inverse[i, 2]
        if not (np.isfinite(x[i] + y[i]) and qxx > 0.0 and qxx * qyy > qxy * qxy):
            continue
        extent = np.sqrt(max(qxx, qyy) / (qxx * qyy - qxy * qxy))
        reach = min(limit, max_radius / extent)
        k = 0
        y0, y1 = _ellipse_rows(pixels.mask.shape, y[i], qxx, qyy, qxy, reach)
        for yy in range(y0, y1 + 1):
            first, last = _ellipse_columns(nx, x[i], yy - y[i], qxx, qyy, qxy, reach)
            row = pixels.variance[yy]
            flags = pixels.mask[yy]
            for xx in range(first, last + 1):
                values[k] = row[xx]
                k += (flags[xx] & bad_bits) == 0
        if k > 0:
            summarize(values, k, 3.0, 0, work, summary)
            out[i] = summary[MEDIAN]
    return out


@njit
def blended_sums(pixels, original, x, y, inverse, limit):
    """Gaussian-weighted flux of every source alone and with its neighbours.

    Parameters
    ----------
    pixels : SourcePixels
    original : (ny, nx) float32 array
        The image with all sources; may hold NaN, which counts as zero.
    x, y, inverse, limit
        As :func:`first_moment_radii`.

    Returns
    -------
    sums : (n, 4) float64 array
        Sum of w I of the source alone and with its neighbours, and the same of abs(I)
        less what noise of the variance gives; NaN where not measured.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    out = np.full((n, 4), np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    for i in pixels.order:
        qxx, qyy, qxy = inverse[i, 0], inverse[i, 1], inverse[i, 2]
        if not (np.isfinite(x[i] + y[i]) and qxx > 0.0 and qxx * qyy > qxy * qxy):
            continue
        show_source(pixels, i, saved)
        y0, y1 = _ellipse_rows(pixels.mask.shape, y[i], qxx, qyy, qxy, limit)
        raw_child = 0.0
        raw_parent = 0.0
        abs_child = 0.0
        abs_parent = 0.0
        for yy in range(y0, y1 + 1):
            dy = yy - y[i]
            first, last = _ellipse_columns(nx, x[i], dy, qxx, qyy, qxy, limit)
            for xx in range(first, last + 1):
                dx = xx - x[i]
                w = np.exp(-0.5 * (qxx * dx * dx + (2.0 * qxy * dx + qyy * dy) * dy))
                child = np.float64(pixels.image[yy, xx])
                parent = np.float64(original[yy, xx])
                if not np.isfinite(parent):
                    parent = 0.0
                sigma = np.sqrt(np.float64(pixels.variance[yy, xx]))
                raw_child += w * child
                raw_parent += w * parent
                abs_child += w * _unbiased_magnitude(child, sigma)
                abs_parent += w * _unbiased_magnitude(parent, sigma)
        hide_source(pixels, i, saved)
        out[i, 0] = raw_child
        out[i, 1] = raw_parent
        out[i, 2] = abs_child
        out[i, 3] = abs_parent
    return out


@njit
def _unbiased_magnitude(value, sigma):
    """Absolute value less the mean that noise alone gives to an absolute value."""
    size = abs(value)
    if size > 6.0 * sigma:
        return size
    # mean of |N(0, sigma)| = sigma sqrt(2 / pi), faded out for significant values
    return size - sigma * 0.7978845608028654 * np.exp(-0.5 * (size / sigma) ** 2) if sigma > 0.0 else size
