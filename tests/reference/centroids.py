"""Slow twins of starmill.kernels.centroids."""

import numpy as np
from scipy.ndimage import correlate


def smoothed_block(image, kernel, ix, iy):
    """3 x 3 pixels of the smoothed image around a pixel."""
    return correlate(image.astype(float), kernel, mode="constant")[iy - 1 : iy + 2, ix - 1 : ix + 2]


def block_maximum(m):
    """Quartic-corrected maximum of a 3 x 3 block."""

    def line(a, b, c):
        d, s = 2 * b - a - c, (c - a) / 2
        return s / d * (1 + 1.33 * (b - c) * (b - a) / (d * b))

    def parabola(r, t):
        return r[1] + t * ((r[2] - r[0]) / 2 + t * ((r[2] + r[0]) / 2 - r[1]))

    rows, columns = [line(*r) for r in m], [line(*c) for c in m.T]
    x = (m[1, 2] - m[1, 0]) / 2 / (2 * m[1, 1] - m[1, 0] - m[1, 2])
    y = (m[2, 1] - m[0, 1]) / 2 / (2 * m[1, 1] - m[0, 1] - m[2, 1])
    for _ in range(2):
        x, y = parabola(rows, y), parabola(columns, x)
    return x, y


def position_variance(image, variance, kernel, ix, iy, step=1e-3):
    """Variance of x by moving every pixel in turn (only for small images)."""
    total = 0.0
    scale = step * image.max()
    for j, i in np.ndindex(image.shape):
        moved = image.astype(float)
        moved[j, i] += scale
        up = block_maximum(smoothed_block(moved, kernel, ix, iy))[0]
        moved[j, i] -= 2 * scale
        down = block_maximum(smoothed_block(moved, kernel, ix, iy))[0]
        total += variance[j, i] * ((up - down) / (2 * scale)) ** 2
    return total


def windowed_centroid(image, x, y, sigma, iterations=50):
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    for _ in range(iterations):
        r2 = (xx - x) ** 2 + (yy - y) ** 2
        w = np.where(r2 < (4 * sigma) ** 2, np.exp(-r2 / (2 * sigma**2)), 0) * image
        x, y = x + 2 * (w * (xx - x)).sum() / w.sum(), y + 2 * (w * (yy - y)).sum() / w.sum()
    return x, y
