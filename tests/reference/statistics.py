"""Slow twins of the kernels of statistics.py."""

from itertools import pairwise

import numpy as np


def quantile(values, fraction):
    """Linear interpolation of order statistics, after a full sort."""
    ordered = np.sort(np.asarray(values, np.float64))
    position = fraction * (len(ordered) - 1)
    lower = int(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (position - lower) * (ordered[upper] - ordered[lower])


def summary(values, n_sigma, n_iterations):
    """n, median, IQR, n kept, clipped mean, clipped variance, mean, variance of the finite values."""
    good = np.asarray(values, np.float64)
    good = good[np.isfinite(good)]
    if good.size == 0:
        return np.array([0, np.nan, np.nan, 0, np.nan, np.nan, np.nan, np.nan])
    median = quantile(good, 0.5)
    iqr = quantile(good, 0.75) - quantile(good, 0.25)
    variance = good.var(ddof=1) if good.size > 1 else np.nan
    centre, sigma = median, 0.741301109 * iqr
    if iqr == 0 and good.size > 1:
        sigma = np.sqrt(variance)
    for _ in range(n_iterations):
        kept = good[np.abs(good - centre) <= n_sigma * sigma]
        centre = kept.mean()
        clipped_variance = kept.var(ddof=1) if kept.size > 1 else np.nan
        sigma = np.sqrt(clipped_variance) if kept.size > 1 else 0.0
    return np.array([good.size, median, iqr, kept.size, centre, clipped_variance, good.mean(), variance])


def mesh_row(image, mask, bits, y0, y1, x_edges, n_sigma, n_iterations):
    """Summaries of one row of cells."""
    rows = []
    for a, b in pairwise(x_edges):
        cell = image[y0:y1, a:b]
        rows.append(summary(cell[(mask[y0:y1, a:b] & bits) == 0], n_sigma, n_iterations))
    return np.array(rows)


def median_mad(values):
    """Median and median absolute deviation of the finite values."""
    good = np.asarray(values, np.float64)
    good = good[np.isfinite(good)]
    if good.size == 0:
        return np.nan, np.nan
    centre = quantile(good, 0.5)
    return centre, quantile(np.abs(good - centre), 0.5)
