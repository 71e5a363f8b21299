"""Sums and robust statistics in ellipses and annuli around many sources."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source
from starmill.kernels.statistics import (
    CLIPPED_MEAN,
    CLIPPED_VARIANCE,
    IQR,
    IQR_TO_SIGMA,
    MEDIAN,
    N_SUMMARY,
    summarize,
)

MEDIAN_ERROR = 1.2533141373155001  # sqrt(pi / 2): error of a median over that of a mean, Gaussian scatter


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
    variance : (n,) float64 array
        Of the radius, sum(V (rho - radius)**2) / sum(I)**2, V the variance of a pixel.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    radius = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    flat = pixels.image.ravel()
    flat_variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    for i in pixels.order:
        qxx, qyy, qxy = inverse[i, 0], inverse[i, 1], inverse[i, 2]
        if not (np.isfinite(x[i] + y[i]) and qxx > 0.0 and qxx * qyy > qxy * qxy):
            continue
        show_source(pixels, i, saved)
        y0, y1 = _ellipse_rows(pixels.mask.shape, y[i], qxx, qyy, qxy, limit)
        total = moment = v0 = v1 = v2 = 0.0
        for yy in range(y0, y1 + 1):
            dy = yy - y[i]
            first, last = _ellipse_columns(nx, x[i], dy, qxx, qyy, qxy, limit)
            if first <= last:
                light, part, s0, s1, s2 = _row_moment(
                    flat,
                    flat_variance,
                    yy * stride + first,
                    last - first + 1,
                    first - x[i],
                    qxx,
                    2.0 * qxy * dy,
                    qyy * dy * dy,
                )
                total += light
                moment += part
                v0 += s0
                v1 += s1
                v2 += s2
        hide_source(pixels, i, saved)
        if total > 0.0:
            mean = moment / total
            radius[i] = mean
            variance[i] = (v2 - 2.0 * mean * v1 + mean * mean * v0) / (total * total)
    return radius, variance


@fast_njit
def _row_moment(flat, flat_variance, start, n, dx0, square, linear, constant):
    """Sum I, rho I, V, rho V and rho**2 V over ``n`` pixels of a row.

    rho**2 = square dx**2 + linear dx + constant, dx from dx0.
    """
    total = moment = v0 = v1 = v2 = 0.0
    first = np.uint64(start)
    for k in range(np.uint64(n)):
        dx = dx0 + np.float64(np.int64(k))
        value = np.float64(flat[first + k])
        rho2 = (square * dx + linear) * dx + constant
        rho2 = max(0.0, rho2)
        rho = np.sqrt(rho2)
        spread = np.float64(flat_variance[first + k])
        total += value
        moment += value * rho
        v0 += spread
        v1 += spread * rho
        v2 += spread * rho2
    return total, moment, v0, v1, v2


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
    """Median variance of the good pixels in an ellipse around every source, and its error.

    Arguments as :func:`first_moment_radii`; ``bad_bits`` as :func:`annulus_statistics`;
    ``max_radius`` bounds the ellipse, pixels.

    Returns
    -------
    found : (n, 2) float64 array
        Median and the standard error of it, from the interquartile range of the same pixels taken as
        independent; NaN without any pixel, the error NaN with a single one.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    out = np.full((n, 2), np.nan)
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
            out[i, 0] = summary[MEDIAN]
            if k > 1:
                out[i, 1] = MEDIAN_ERROR * IQR_TO_SIGMA * summary[IQR] / np.sqrt(k)
    return out


@njit
def _mark_own(pixels, i, x0, y0, width, own):
    """Set ``own`` (flat rows of ``width`` pixels from x0, y0) where source ``i`` has pixels of its own."""
    own[:] = False
    height = own.size // width
    for s in range(pixels.span_offsets[i], pixels.span_offsets[i + 1]):
        row = pixels.spans[s, 0] - y0
        if 0 <= row < height:
            first = max(pixels.spans[s, 1] - x0, 0)
            last = min(pixels.spans[s, 2] - x0, width - 1)
            for k in range(row * width + first, row * width + last + 1):
                own[k] = True


@njit
def blended_sums(pixels, original, original_variance, x, y, inverse, limit):
    """Gaussian-weighted flux of every source alone and with its neighbours, and what their errors need.

    Parameters
    ----------
    pixels : SourcePixels
    original, original_variance : (ny, nx) float32 array
        The image with all sources; may hold NaN, which counts as zero.
    x, y, inverse, limit
        As :func:`first_moment_radii`.

    Returns
    -------
    sums : (n, 4) float64 array
        Sum of w I of the source alone and with its neighbours, and the same of abs(I)
        less what noise of the variance gives; NaN where not measured.
    variances : (n, 6) float64 array
        Variance of the first sum, its covariance with the second, variance of the second; the same of the
        other pair. A pixel of the source is its share of the pixel of the image, with the noise of the image
        times the share; a pixel where a neighbour was replaced has noise of its own.
    moments : (n, 2, 5) float64 array
        Of both plain sums, with w I times dx, dy, dx**2, dy**2, dx dy: how they change with the weight.
    """
    n = x.size
    nx = pixels.mask.shape[1]
    out = np.full((n, 4), np.nan)
    errors = np.full((n, 6), np.nan)
    moments = np.full((n, 2, 5), np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    for i in pixels.order:
        qxx, qyy, qxy = inverse[i, 0], inverse[i, 1], inverse[i, 2]
        if not (np.isfinite(x[i] + y[i]) and qxx > 0.0 and qxx * qyy > qxy * qxy):
            continue
        y0, y1 = _ellipse_rows(pixels.mask.shape, y[i], qxx, qyy, qxy, limit)
        half = int(np.ceil(limit * np.sqrt(qyy / (qxx * qyy - qxy * qxy)))) + 1
        x0 = int(np.floor(x[i])) - half
        own = np.empty((2 * half + 2) * max(y1 - y0 + 1, 0), np.bool_)
        _mark_own(pixels, i, x0, y0, 2 * half + 2, own)
        show_source(pixels, i, saved)
        sums = np.zeros(20)
        for yy in range(y0, y1 + 1):
            dy = yy - y[i]
            first, last = _ellipse_columns(nx, x[i], dy, qxx, qyy, qxy, limit)
            for xx in range(first, last + 1):
                dx = xx - x[i]
                w = np.exp(-0.5 * (qxx * dx * dx + (2.0 * qxy * dx + qyy * dy) * dy))
                child = np.float64(pixels.image[yy, xx])
                parent = np.float64(original[yy, xx])
                spread = np.float64(original_variance[yy, xx])
                if not (np.isfinite(parent) and np.isfinite(spread)):
                    parent = spread = 0.0
                child_spread = np.float64(pixels.variance[yy, xx])
                sigma = np.sqrt(child_spread)
                for k in range(2):
                    light = w * child if k == 0 else w * parent
                    sums[k] += light
                    first_moment = light * dx
                    sums[10 + 5 * k] += first_moment
                    sums[11 + 5 * k] += light * dy
                    sums[12 + 5 * k] += first_moment * dx
                    sums[13 + 5 * k] += light * dy * dy
                    sums[14 + 5 * k] += first_moment * dy
                sums[2] += w * _unbiased_magnitude(child, sigma)
                sums[3] += w * _unbiased_magnitude(parent, sigma)
                share = 1.0
                apart = 0.0
                if child != parent:
                    if own[(yy - y0) * (2 * half + 2) + xx - x0]:
                        share = min(max(child / parent, 0.0), 1.0) if parent != 0.0 else 0.0
                    else:
                        share, apart = 0.0, child_spread
                w2 = w * w
                sums[4] += w2 * (share * share * spread + apart)
                sums[5] += w2 * share * spread
                sums[6] += w2 * spread
                w2 *= _magnitude_noise(parent, spread)
                sums[7] += w2 * (share * share * spread + apart)
                sums[8] += w2 * share * spread
                sums[9] += w2 * spread
        hide_source(pixels, i, saved)
        for k in range(4):
            out[i, k] = sums[k]
        for k in range(6):
            errors[i, k] = sums[4 + k]
        for k in range(10):
            moments[i, k // 5, k % 5] = sums[10 + k]
    return out, errors, moments


@njit
def _unbiased_magnitude(value, sigma):
    """Absolute value less the mean that noise alone gives to an absolute value."""
    size = abs(value)
    if size > 6.0 * sigma:
        return size
    # mean of |N(0, sigma)| = sigma sqrt(2 / pi), faded out for significant values
    return size - sigma * 0.7978845608028654 * np.exp(-0.5 * (size / sigma) ** 2) if sigma > 0.0 else size


@njit
def _magnitude_noise(value, variance):
    """Variance of the unbiased magnitude over that of the value: 1 for light, 0.676 in mean for noise alone.

    The mean of 1 - a exp(-z**2 / 2) over Gaussian z is 1 - a / sqrt(2); the variance of the unbiased magnitude of
    noise alone, 1 - 2 (2 / pi) / 2 + (2 / pi) / sqrt(3) - (1 - 1 / sqrt(2))**2 2 / pi, is 0.676.
    """
    if value * value > 36.0 * variance:
        return 1.0
    return 1.0 - 0.458 * np.exp(-0.5 * value * value / variance) if variance > 0.0 else 1.0
