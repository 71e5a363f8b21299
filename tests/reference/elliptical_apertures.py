"""Slow, obvious sums in an ellipse: many points per pixel, and a double loop for correlated noise."""

from __future__ import annotations

import numpy as np


def coverage(shape, ellipse, n=41):
    """Part of every pixel inside the ellipse (x, y, a, b, theta)."""
    yy, xx = np.indices(shape)
    step = (np.arange(n) + 0.5) / n - 0.5
    c, s = np.cos(ellipse[4]), np.sin(ellipse[4])
    out = np.zeros(shape)
    for dy in step:
        for dx in step:
            u, v = xx + dx - ellipse[0], yy + dy - ellipse[1]
            out += ((c * u + s * v) / ellipse[2]) ** 2 + ((c * v - s * u) / ellipse[3]) ** 2 <= 1
    return out / n**2


def correlated_variance(weights, rms, correlation):
    """Variance of the weighted sum of pixels."""
    half = correlation.shape[0] // 2
    pixels = np.argwhere(weights > 0)
    total = 0.0
    for p in pixels:
        for q in pixels:
            dy, dx = p - q
            if abs(dy) <= half and abs(dx) <= half:
                total += (
                    weights[tuple(p)] * weights[tuple(q)] * rms[tuple(p)] * rms[tuple(q)]
                    * correlation[half + dy, half + dx]
                )  # fmt: skip
    return total
