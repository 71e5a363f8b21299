"""Slow twin of the kernels of defects.py."""

import numpy as np


def interpolate_row(row, bad, weights):
    """Fill every run of bad pixels of a row from the one or two adjacent good pixels on each side."""
    out = np.array(row, np.float64)
    x = 0
    while x < len(row):
        if not bad[x]:
            x += 1
            continue
        start = x
        while x < len(row) and bad[x]:
            x += 1
        positions = []
        for first, step in ((start - 1, -1), (x, 1)):
            for k in (first, first + step):
                if not 0 <= k < len(row) or bad[k]:
                    break
                positions.append(k)
        for k in range(start, x):
            if positions:
                out[k] = np.dot(weights(np.array(positions, float), float(k)), row[positions])
    return out
