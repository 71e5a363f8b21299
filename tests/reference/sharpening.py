"""Slow, obvious peaks of a sharpened image."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate


def sharp_peaks(image, variance, pixels, stencil, n_sigma, depth):
    """Peaks of one footprint, a set of (y, x), away from the edge of a finite image; highest first."""
    response = correlate(image.astype(float), stencil)
    near = {(y + dy, x + dx) for y, x in pixels for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    known = np.full(image.shape, np.nan)
    for p in near:
        known[p] = response[p]
    tops = [
        (y, x)
        for y, x in pixels
        if known[y, x] > 0 and known[y, x] >= np.nanmax(known[y - 1 : y + 2, x - 1 : x + 2])
    ]
    kept = []
    for y, x in sorted(tops, key=lambda p: -known[p]):
        noise = np.sqrt(variance[y, x] * (stencil**2).sum())
        ok = known[y, x] >= n_sigma * noise
        for qy, qx in kept:
            steps = max(abs(qy - y), abs(qx - x))
            t = np.arange(steps + 1) / steps
            line = known[
                np.floor(y + (qy - y) * t + 0.5).astype(int), np.floor(x + (qx - x) * t + 0.5).astype(int)
            ]
            drop = known[y, x] - np.nan_to_num(line, nan=0.0).min()
            ok = ok and drop >= n_sigma * noise and drop >= depth * known[qy, qx]
        if ok:
            kept.append((y, x))
    return kept


def lowest_on_line(image, a, b):
    """Lowest value on the pixels of a straight line between two (y, x); NaN between the ends counts as zero."""
    steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]))
    inner = [
        image[tuple(np.floor(np.add(a, np.subtract(b, a) * k / steps) + 0.5).astype(int))]
        for k in range(1, steps)
    ]
    return min([image[a], image[b], *np.nan_to_num(inner, nan=0.0)])
