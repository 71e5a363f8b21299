r"""Weights of stamps and their convolution with a separable kernel basis, for the normal matrix of a kernel fit.

Every basis image is :math:`B_i(u, v) = g_i(u)\, h_{m(i)}(v)`: many share the horizontal factor, so a stamp is
filtered along x once per distinct factor and along y once per basis image, two filters at a time.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.statistics import quickselect
from starmill.kernels.vector_runs import (
    LONG_RUN,
    SHORT_RUN,
    correlate_long_run_by_two,
    correlate_short_run_by_two,
)

__all__ = ["convolve_stamp", "sparse_level", "stamp_weights", "weigh_design"]


@fast_njit
def convolve_stamp(stamp, horizontal, horizontal_index, vertical, out):
    """Convolve one stamp with every basis image.

    Parameters
    ----------
    stamp : (size + k - 1, size + k - 1) float32 array
        Pixels with a border of half a kernel; no NaN.
    horizontal : (m, k) float32 array
        The distinct horizontal factors, in correlation order (flipped).
    horizontal_index : (n,) int64 array
        Which one each basis image takes; equal ones follow each other.
    vertical : (n, k) float32 array
        Vertical factors, in correlation order.
    out : (n, size, size) float32 array
        Overwritten.
    """
    m, k = horizontal.shape
    n, size = out.shape[0], out.shape[1]
    tall = size + k - 1
    stride, width = tall + SHORT_RUN, -(-size // SHORT_RUN) * SHORT_RUN
    flat = np.zeros(tall * stride + LONG_RUN, np.float32)
    for y in range(tall):
        for x in range(tall):
            flat[y * stride + x] = stamp[y, x]
    plane = tall * width + LONG_RUN  # the last run may read beyond the last row
    filtered = np.zeros((m + 1) * plane, np.float32)
    taps, sums = horizontal.reshape(m * k), np.empty(2 * LONG_RUN, np.float32)
    for i in range(0, m, 2):
        both = k if i + 1 < m else 0
        for y in range(tall):
            for x in range(0, width, SHORT_RUN):
                correlate_short_run_by_two(flat, y * stride + x, 0, 1, taps, i * k, both, 1, k, sums, 0)
                first = i * plane + y * width + x
                for j in range(SHORT_RUN):
                    filtered[first + j] = sums[j]
                    filtered[first + plane + j] = sums[SHORT_RUN + j]
    taps, line = vertical.reshape(n * k), np.empty((2, size * width + LONG_RUN), np.float32)
    i = 0
    while i < n:
        pair = i + 1 < n and horizontal_index[i + 1] == horizontal_index[i]
        both = k if pair else 0
        first = horizontal_index[i] * plane
        for x in range(0, size * width, LONG_RUN):
            correlate_long_run_by_two(filtered, first + x, width, 0, taps, i * k, both, k, 1, sums, 0)
            for j in range(LONG_RUN):
                line[0, x + j], line[1, x + j] = sums[j], sums[LONG_RUN + j]
        for f in range(2 if pair else 1):
            for y in range(size):
                for x in range(size):
                    out[i + f, y, x] = line[f, y * width + x]
        i += 2 if pair else 1


@njit
def sparse_level(image, weights, step):
    """Return the median of every ``step``-th pixel of every ``step``-th row that has a weight, 0 without any.

    Parameters
    ----------
    image : (ny, nx) float32 array
    weights : (ny, nx) float64 array
    step : int
    """
    ny, nx = image.shape
    values = np.empty(((ny + step - 1) // step) * ((nx + step - 1) // step), np.float32)
    n = 0
    for y in range(0, ny, step):
        for x in range(0, nx, step):
            if weights[y, x] > 0:
                values[n] = image[y, x]
                n += 1
    return quickselect(values, n, n // 2) if n else np.float32(0.0)


@njit
def stamp_weights(
    reference_variance, target_variance, bad_reference, bad_target, scale, profile, norm, reach, weights
):
    """Write the inverse variances of the pixels of a stamp, 0 for those that are not used.

    Parameters
    ----------
    reference_variance : (size + 2 b, size + 2 b) float32 array
        Of the image that is convolved, with a border of half a kernel.
    target_variance : (size, size) float32 array
    bad_reference : (size + 2 b, size + 2 b) bool array
    bad_target : (size, size) bool array
    scale : float
        Kernel sum.
    profile : (2 r + 1,) float64 array
        One-dimensional factor of the filter of the reference's variance, ``r`` at most ``b``; with a single value
        the mean of the eight neighbours is taken instead, as for the target.
    norm : float
        The filtered variance is multiplied by this.
    reach : int
        Half width of the square of pixels that a bad reference pixel spoils; at most ``b``.
    weights : (size, size) float64 array
        Overwritten.

    Returns
    -------
    n : int
        Pixels with a weight.

    Notes
    -----
    A variance made from the data goes up with the noise of its own pixel; used as a weight it would bias every
    mean low. The neighbours are as good an estimate and do not know that noise.
    """
    size, tall = target_variance.shape[0], reference_variance.shape[0]
    border, half = (tall - size) // 2, profile.size // 2
    clean = np.empty((tall, tall), np.float32)
    along_x, along_y = np.zeros((tall, size), np.float32), np.zeros((size, size), np.float32)
    spoilt, any_bad = np.zeros((size, size), np.bool_), False
    for y in range(tall):
        for x in range(tall):
            clean[y, x] = np.float32(0.0) if bad_reference[y, x] else reference_variance[y, x]
            any_bad |= bad_reference[y, x]
    if any_bad:
        _spread(bad_reference, border, reach, spoilt)
    if half > 0:
        for i in range(profile.size):
            factor, u = np.float32(profile[i] * norm), border + i - half
            for y in range(tall):
                for x in range(size):
                    along_x[y, x] += factor * clean[y, u + x]
        for i in range(profile.size):
            factor, u = np.float32(profile[i] * scale * scale), border + i - half
            for y in range(size):
                for x in range(size):
                    along_y[y, x] += factor * along_x[u + y, x]
    n = 0
    for y in range(size):
        for x in range(size):
            weights[y, x] = 0.0
            if bad_target[y, x] or spoilt[y, x]:
                continue
            noise = np.float64(along_y[y, x])
            if half == 0:
                noise = scale * scale * norm * _mean_of_neighbours(clean, y + border, x + border)
            variance = _mean_of_neighbours(target_variance, y, x) + noise
            if variance > 0:
                weights[y, x] = 1 / variance
                n += 1
    return n


@njit
def _spread(bad, border, reach, out):
    """Set the pixels of the inner part within a square of half width ``reach`` of a bad one."""
    size = out.shape[0]
    for y in range(border - reach, border + size + reach):
        for x in range(border - reach, border + size + reach):
            if bad[y, x]:
                for v in range(max(y - border - reach, 0), min(y - border + reach + 1, size)):
                    for u in range(max(x - border - reach, 0), min(x - border + reach + 1, size)):
                        out[v, u] = True


@njit
def _mean_of_neighbours(image, y, x):
    """Return the mean of the eight neighbours; those outside are the edge's."""
    ny, nx = image.shape
    total = 0.0
    for v in range(y - 1, y + 2):
        for u in range(x - 1, x + 2):
            if v != y or u != x:
                total += image[min(max(v, 0), ny - 1), min(max(u, 0), nx - 1)]
    return total / 8


@njit
def weigh_design(convolved, minus_first, target, roots, design):
    """Write the weighted columns of the least-squares problem of a stamp.

    Parameters
    ----------
    convolved : (n, pixels) float32 array
        The reference convolved with every basis image.
    minus_first : (n,) bool array
        Images from which the first was subtracted.
    target : (pixels,) float32 array
        Any finite value where the weight is 0.
    roots : (pixels,) float64 array
        Square roots of the weights.
    design : (n + 2, pixels) float64 array
        Overwritten: convolved images, target, constant, all times ``roots``.
    """
    n, pixels = convolved.shape
    for i in range(n):
        row, out = convolved[i], design[i]
        if minus_first[i]:
            first = convolved[0]
            for p in range(pixels):
                out[p] = roots[p] * (np.float64(row[p]) - np.float64(first[p]))
        else:
            for p in range(pixels):
                out[p] = roots[p] * row[p]
    for p in range(pixels):
        design[n, p] = roots[p] * target[p]
        design[n + 1, p] = roots[p]
