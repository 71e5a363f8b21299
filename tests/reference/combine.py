"""Slow twin of ``starmill.kernels.combine``: one pixel at a time, float64."""

import numpy as np


def combine_pixel(values, n_sigma, iterations, floor, variances=None):
    """Clipped mean, variance of the mean and number of values of one pixel; ``values`` are the valid ones."""
    values = np.asarray(values, np.float64)
    if values.size == 0:
        return 0.0, 0.0, 0
    quartile1, centre, quartile3 = np.percentile(values, [25, 50, 75])
    sigma = 0.741301109 * (quartile3 - quartile1) if variances is None else np.sqrt(np.min(variances))
    inside = np.ones(values.size, bool)
    for iteration in range(iterations):
        half = n_sigma * max(sigma, floor)
        if iteration:
            half = max(half, abs(centre) * 1e-6)
        inside = np.abs(values - centre) <= half
        centre = values[inside].mean() if inside.any() else 0.0
        sigma = values[inside].std(ddof=1) if inside.sum() > 1 else 0.0
    n = inside.sum()
    if n == 0:
        return 0.0, 0.0, 0
    if variances is not None:
        return centre, np.asarray(variances)[inside].sum() / n**2, n
    return centre, (sigma**2 if n > 1 else floor**2) / n, n
