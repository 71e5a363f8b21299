"""Slow, obvious convolution with missing pixels."""

from __future__ import annotations

import numpy as np


def convolve_separable(image, variance, missing, kernel_x, kernel_y, min_weight):
    """Weighted sums pixel by pixel in float64; NaN and infinity where the weight is below the minimum."""
    ny, nx = image.shape
    hx, hy = len(kernel_x) // 2, len(kernel_y) // 2
    out, out_variance = np.full((ny, nx), np.nan), np.full((ny, nx), np.inf)
    for y in range(ny):
        for x in range(nx):
            total = total_variance = weight = 0.0
            for dy in range(-hy, hy + 1):
                for dx in range(-hx, hx + 1):
                    sy, sx = y - dy, x - dx
                    if 0 <= sy < ny and 0 <= sx < nx and not missing[sy, sx]:
                        k = float(kernel_y[dy + hy]) * float(kernel_x[dx + hx])
                        total += k * image[sy, sx]
                        total_variance += k**2 * variance[sy, sx]
                        weight += k
            if weight >= min_weight:
                out[y, x], out_variance[y, x] = total / weight, total_variance / weight**2
    return out, out_variance


def spread_mask(mask, half_x, half_y):
    """OR over a box, pixel by pixel."""
    out = np.zeros_like(mask)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            box = mask[max(0, y - half_y) : y + half_y + 1, max(0, x - half_x) : x + half_x + 1]
            out[y, x] = np.bitwise_or.reduce(box.ravel())
    return out
