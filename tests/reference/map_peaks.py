"""Slow, obvious maxima and means."""

from __future__ import annotations

import numpy as np


def maxima_above(image, limit):
    """Look at every pixel and its neighbours; a pixel that equals an earlier one is not a maximum."""
    found = []
    padded = np.pad(image, 1, constant_values=-np.inf)
    for y, x in zip(*np.nonzero(image > limit), strict=True):
        box = padded[y : y + 3, x : x + 3].ravel()
        if (box[:4] < image[y, x]).all() and (box[5:] <= image[y, x]).all():
            found.append((y, x))
    return np.array(found).reshape(-1, 2)


def mean_around(image, valid, x, y, kernel, step):
    """Mean with the weights of the outer product of a kernel with itself."""
    half = kernel.size // 2
    total = weight = 0.0
    for j in range(-half, half + 1):
        for i in range(-half, half + 1):
            row, column = y + j * step, x + i * step
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1] and valid[row, column]:
                w = float(kernel[half + i]) * float(kernel[half + j])
                total, weight = total + w * image[row, column], weight + w
    return total / weight if weight else np.nan
