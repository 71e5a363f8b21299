"""Slow, obvious twins of the pieces of a box background."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import find_objects, label


def clip(values, n_sigma, n_iterations):
    """Mark what survives repeated clipping around the median."""
    keep = np.isfinite(values)
    for _ in range(n_iterations):
        inside = values[keep]
        smaller = keep & (np.abs(values - np.median(inside)) <= n_sigma * inside.std())
        if smaller.sum() == keep.sum():
            break
        keep = smaller
    return keep


def cut_out(free, sources, level, most, longest):
    """Clear the pixels where a Gaussian exceeds a part of its peak, which grows until the mask is small."""
    y, x = np.indices(free.shape)
    out = free.copy()
    for _, x0, y0, major, minor, theta in sources:
        c, s = np.cos(theta), np.sin(theta)
        u, v = c * (x - x0) + s * (y - y0), c * (y - y0) - s * (x - x0)
        unit = np.exp(-0.5 * ((u / major) ** 2 + (v / minor) ** 2))
        mine = level
        while mine <= 1.0:
            above = unit > mine
            pieces = find_objects(label(above, np.ones((3, 3)))[0])
            extents = [np.hypot(p[0].stop - p[0].start, p[1].stop - p[1].start) for p in pieces]
            if above.mean() <= most and max(extents, default=0.0) <= longest:
                break
            mine *= 2.0
        out &= ~(unit > mine)
    return out


def fill_gaps(image, width):
    """Gaussian mean of the known pixels around every gap; outside of the image counts as zero."""
    half = int(8 * width) // 2
    padded = np.pad(image, half)
    known = ~np.isnan(padded)
    offset = np.arange(-half, half + 1)
    weight = np.exp(-0.5 * np.add.outer(offset**2, offset**2) / width**2)
    out = image.copy()
    for y, x in np.argwhere(np.isnan(image)):
        window = slice(y, y + 2 * half + 1), slice(x, x + 2 * half + 1)
        out[y, x] = (weight * np.nan_to_num(padded[window])).sum() / (weight * known[window]).sum()
    return out


def polynomial(x, y, values, order):
    """Least-squares polynomial of a total order; returns a function of x and y."""

    def terms(x, y):
        return np.stack([x**i * y**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)

    solution = np.linalg.lstsq(terms(x, y), values, rcond=None)[0]
    return lambda x, y: terms(x, y) @ solution


def score(residual, values, n_terms, kind):
    """The published scores."""
    mean_square = np.mean(residual**2)
    if kind == "nmse":
        return mean_square / (np.mean(values**2) + 1e-12)
    if kind == "bic":
        return values.size * np.log(mean_square) + n_terms * np.log(values.size)
    return np.sum((residual / residual.std()) ** 2) / (values.size - n_terms)
