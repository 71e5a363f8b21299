"""How noise of the pixels changes adaptive moments: higher moments of the light and scatter of the weighted sums."""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.moments import EXPONENT_LIMIT


@njit
def moment_noise(images, variance, found, axes):
    """Add up, for a stack of stamps, what the covariances of adaptive moments and of the fourth moment are made of.

    In the frame u = dx / a, v = (dy - b u) / c the matched weight is w = exp(-(u**2 + v**2) / 2); < > is the mean with
    the weight w I and V the variance of a pixel.

    Parameters
    ----------
    images, variance : (n, size, size) array
    found : (n, 7) float64 array
        As :func:`~starmill.kernels.moments.centred_moments` gives it; NaN is left out.
    axes : (n, 3) float64 array
        a, b, c of every source, pixels.

    Returns
    -------
    means : (n, 8) float64 array
        <u**4>, <u**3 v>, <u**2 v**2>, <u v**3>, <v**4>, then <rho**4 u**2>, <rho**4 v**2>, <rho**4 u v>.
    scatter : (n, 4, 4) float64 array
        sum(V (w g)(w g)') / sum(w I)**2 with g = (u**2 - 1/2, v**2 - 1/2, u v, rho**4 - q), q the fourth moment.
    """
    n, ny, nx = images.shape
    means = np.full((n, 8), np.nan)
    scatter = np.full((n, 4, 4), np.nan)
    sums = np.empty(8)
    noise = np.empty((4, 4))
    g = np.empty(4)
    for i in range(n):
        a, b, c = axes[i, 0], axes[i, 1], axes[i, 2]
        cx, cy, q = found[i, 4], found[i, 5], found[i, 6]
        if not (math.isfinite(cx + cy + q + b) and a > 0.0 and c > 0.0):
            continue
        sums[:] = 0.0
        noise[:] = 0.0
        total = 0.0
        half_x, half_y = math.sqrt(EXPONENT_LIMIT) * a, math.sqrt(EXPONENT_LIMIT * (b * b + c * c))
        for y in range(max(math.ceil(cy - half_y), 0), min(math.floor(cy + half_y), ny - 1) + 1):
            for x in range(max(math.ceil(cx - half_x), 0), min(math.floor(cx + half_x), nx - 1) + 1):
                u = (x - cx) / a
                v = (y - cy - b * u) / c
                uu, vv, uv = u * u, v * v, u * v
                rho2 = uu + vv
                if rho2 > EXPONENT_LIMIT:
                    continue
                weight = math.exp(-0.5 * rho2)
                light = weight * np.float64(images[i, y, x])
                spread = weight * weight * np.float64(variance[i, y, x])
                rho4 = rho2 * rho2
                total += light
                sums[0] += light * uu * uu
                sums[1] += light * uu * uv
                sums[2] += light * uu * vv
                sums[3] += light * uv * vv
                sums[4] += light * vv * vv
                sums[5] += light * rho4 * uu
                sums[6] += light * rho4 * vv
                sums[7] += light * rho4 * uv
                g[0], g[1], g[2], g[3] = uu - 0.5, vv - 0.5, uv, rho4 - q
                for j in range(4):
                    for k in range(j + 1):
                        noise[j, k] += spread * g[j] * g[k]
        if total > 0.0:
            for k in range(8):
                means[i, k] = sums[k] / total
            for j in range(4):
                for k in range(j + 1):
                    scatter[i, j, k] = scatter[i, k, j] = noise[j, k] / (total * total)
    return means, scatter
