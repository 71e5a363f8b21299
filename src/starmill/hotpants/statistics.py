"""Statistics of a difference image."""

from __future__ import annotations

import numpy as np

from starmill.differencing.subtract import BAND
from starmill.hotpants.inputs import TOUCHED, UNUSABLE
from starmill.kernels.pixel_limits import difference_sums
from starmill.numerics.tiles import map_tiles, row_bands

__all__ = ["difference_statistics", "touched_factor"]


def touched_factor(pulls, mask):
    """Return 1, or for touched pixels the ratio of their scatter to that of good pixels when above 1."""
    touched = ((mask & TOUCHED) > 0) & ((mask & UNUSABLE) == 0)
    good = mask == 0
    if touched.sum() < 20 or good.sum() < 20:
        return np.float32(1)
    widths = [np.subtract(*np.percentile(pulls[where], [84.13, 15.87])) / 2 for where in (touched, good)]
    return np.where(touched, np.float32(max(1.0, widths[0] / widths[1])), np.float32(1))


def difference_statistics(difference, noise, mask, clip):
    """Return the statistics of the pixels without any flag, or of all usable ones when there are too few."""
    for refused in (np.uint16(0xFFFF), np.uint16(UNUSABLE)):
        sums = np.zeros((len(row_bands(len(mask), BAND)), 6))

        def add(item, refused=refused, sums=sums):
            rows = slice(*item[1])
            bits = np.asarray(mask[rows], np.uint16)
            difference_sums(difference[rows], noise[rows], bits, refused, np.float32(clip), sums[item[0]])

        map_tiles(add, enumerate(row_bands(len(mask), BAND)))
        n, noise_sum, chi2, near, total, squares = sums.sum(axis=0)
        if n >= 10:
            break
    mean = total / max(near, 1)
    return {
        "diff_mean": mean, "diff_std": float(np.sqrt(max(squares / max(near, 1) - mean**2, 0))),
        "noise_mean": noise_sum / n, "x2norm": chi2 / n, "nx2norm": int(n),
    }  # fmt: skip
