"""Slow, obvious sums above an isophote."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate


def isophotal_sums(image, variance, inside, n_sigma):
    """Flux, variance, area, mean x and y, central xx, yy, xy of the pixels of one footprint above the isophote."""
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    smoothed = correlate(image.astype(float), weights, mode="nearest")
    y, x = np.nonzero(inside & (smoothed > 0) & (smoothed >= n_sigma * np.sqrt(variance)))
    light = image[y, x].astype(float)
    flux = light.sum()
    mx, my = (light * x).sum() / flux, (light * y).sum() / flux
    dx, dy = x - mx, y - my
    moments = [(light * a * b).sum() / flux for a, b in ((dx, dx), (dy, dy), (dx, dy))]
    return np.array([flux, variance[y, x].sum(), len(x), mx, my, *moments])
