r"""Sums in ellipses, and the noise of such sums when neighbouring pixels are correlated.

With weights w_i (the part of pixel i inside the ellipse), local rms s_i and correlation rho by lag, the variance of
the sum is  \sum_ij w_i w_j s_i s_j rho(r_i - r_j).
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.gaussians import add_source
from starmill.kernels.overlap import ellipse_overlap


@njit
def listed_overlap(image, x, y, a, b, theta, xs, ys, weights):
    """List the pixels that an ellipse touches; returns (listed, area off the map or without data)."""
    ny, nx = image.shape
    cos, sin = math.cos(theta), math.sin(theta)
    half_x, half_y = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
    n, missing = 0, 0.0
    for j in range(math.floor(y - half_y), math.ceil(y + half_y) + 1):
        for i in range(math.floor(x - half_x), math.ceil(x + half_x) + 1):
            w = ellipse_overlap(i - x, j - y, a, b, cos, sin)
            if w <= 0.0:
                continue
            if i < 0 or j < 0 or i >= nx or j >= ny or not math.isfinite(image[j, i]):
                missing += w
                continue
            xs[n], ys[n], weights[n] = i, j, w
            n += 1
    return n, missing


@njit
def correlated_variance(xs, ys, weights, n, rms, correlation):
    """Variance of the weighted sum of the first ``n`` listed pixels."""
    half_y, half_x = correlation.shape[0] // 2, correlation.shape[1] // 2
    variance = 0.0
    for p in range(n):
        s = weights[p] * rms[ys[p], xs[p]]
        variance += s * s * correlation[half_y, half_x]
        for q in range(p):
            dy, dx = ys[p] - ys[q], xs[p] - xs[q]
            if abs(dy) <= half_y and abs(dx) <= half_x:
                lag = correlation[half_y + dy, half_x + dx]
                variance += 2.0 * s * weights[q] * rms[ys[q], xs[q]] * lag
    return variance


@njit
def ellipse_photometry(image, rms, correlation, own, ellipses, with_noise, out):
    """Sum an image, plus one Gaussian of its own, in an ellipse around every source.

    Parameters
    ----------
    image : (ny, nx) float
        Map minus background minus all sources; NaN is no data.
    rms : (ny, nx) float
        Local standard deviation of a pixel.
    correlation : (2h + 1, 2h + 1) float64
        Noise correlation by lag.
    own : (n, 6) float64
        The source itself, put back before summing; see :mod:`starmill.kernels.gaussians`.
    ellipses : (n, 5) float64
        x, y, semi-axes a and b (pixels), theta of ``a`` (radians).
    with_noise : bool
        Whether the variance is wanted; its cost grows with the fourth power of the radius.
    out : (n, 4) float64, filled
        Sum, its variance, area with data, area without data.
    """
    for k in range(ellipses.shape[0]):
        x, y, a, b, theta = ellipses[k]
        if not (math.isfinite(x) and math.isfinite(y) and a > 0.0 and b > 0.0 and math.isfinite(theta)):
            out[k] = np.nan
            continue
        side = 2.0 * max(a, b) + 4.0
        room = int(side * side)
        xs, ys = np.empty(room, np.int64), np.empty(room, np.int64)
        weights = np.empty(room)
        n, missing = listed_overlap(image, x, y, a, b, theta, xs, ys, weights)
        values = np.empty(n)
        for p in range(n):
            values[p] = image[ys[p], xs[p]]
        add_source(xs[:n], ys[:n], own[k], values)
        total, area = 0.0, 0.0
        for p in range(n):
            total += weights[p] * values[p]
            area += weights[p]
        out[k, 0], out[k, 2], out[k, 3] = total, area, missing
        out[k, 1] = np.nan
        if with_noise:
            out[k, 1] = max(0.0, correlated_variance(xs, ys, weights, n, rms, correlation))
