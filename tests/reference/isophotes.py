"""Slow, obvious sums above an isophote."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate


def isophotal_sums(image, variance, inside, n_sigma):
    """Flux, variance, area, mean x and y, central xx, yy, xy of the pixels of one footprint above the isophote.

    Then the variances of the last five and the covariance of x and y.
    """
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    smoothed = correlate(image.astype(float), weights, mode="nearest")
    level = smoothed / np.sqrt(variance)
    above = inside & (smoothed > 0) & (level >= n_sigma)
    y, x = np.nonzero(above)
    light = image[y, x].astype(float)
    flux = light.sum()
    mx, my = (light * x).sum() / flux, (light * y).sum() / flux
    dx, dy = x - mx, y - my
    moments = [(light * a * b).sum() / flux for a, b in ((dx, dx), (dy, dy), (dx, dy))]
    near = inside & (level > 0) & (np.abs(level - n_sigma) < 0.375 * np.sqrt(np.pi) / 2)
    noise = variance * (above + near * (2 * n_sigma**2 / np.pi + n_sigma / (0.375 * np.sqrt(np.pi))))
    dy, dx = (grid - mean for grid, mean in zip(np.indices(image.shape), (my, mx), strict=True))
    moved = [dx, dy, *(p - m for p, m in zip((dx * dx, dy * dy, dx * dy), moments, strict=True))]
    errors = [(noise * (part / flux) ** 2).sum() for part in moved]
    return np.array([flux, noise.sum(), len(x), mx, my, *moments]), np.array(
        [*errors, (noise * dx * dy).sum() / flux**2]
    )
