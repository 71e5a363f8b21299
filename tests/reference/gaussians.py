"""Slow, obvious elliptical Gaussians: values, and derivatives by finite differences."""

from __future__ import annotations

import numpy as np


def covariance(source):
    """2 x 2 covariance of (peak, x, y, sigma_major, sigma_minor, theta)."""
    c, s = np.cos(source[5]), np.sin(source[5])
    turn = np.array([[c, -s], [s, c]])
    return turn @ np.diag([source[3] ** 2, source[4] ** 2]) @ turn.T


def value(source, x, y):
    """Value at positions."""
    inverse = np.linalg.inv(covariance(source))
    d = np.stack([np.asarray(x, float) - source[1], np.asarray(y, float) - source[2]])
    return source[0] * np.exp(-0.5 * np.einsum("i...,ij,j...->...", d, inverse, d))


def image(shape, sources):
    """Sum of all sources on all pixels."""
    yy, xx = np.indices(shape)
    return sum((value(source, xx, yy) for source in sources), np.zeros(shape))


def derivatives(source, x, y, step=1e-5):
    """d/d(peak, x, y, a, b, c), with a, b, c the covariance in the frame of the axes."""
    c, s = np.cos(source[5]), np.sin(source[5])
    turn = np.array([[c, -s], [s, c]])

    def at(peak, cx, cy, a, b, cross):
        inverse = np.linalg.inv(turn @ np.array([[a, cross], [cross, b]]) @ turn.T)
        d = np.stack([x - cx, y - cy])
        return peak * np.exp(-0.5 * np.einsum("i...,ij,j...->...", d, inverse, d))

    start = np.array([source[0], source[1], source[2], source[3] ** 2, source[4] ** 2, 0.0])
    rows = []
    for k in range(6):
        low, high = start.copy(), start.copy()
        low[k] -= step
        high[k] += step
        rows.append((at(*high) - at(*low)) / (2 * step))
    return np.array(rows)
