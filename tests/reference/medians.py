"""Slow twins of the kernels of medians.py."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def _inside(image, half, values):
    """Values inside, and the image itself near the edge."""
    out = image.copy()
    out[half : image.shape[0] - half, half : image.shape[1] - half] = values
    return out


def window_median(image, half):
    """Median of the square window; pixels near the edge keep their value."""
    side = 2 * half + 1
    if min(image.shape) < side:
        return image.copy()
    return _inside(image, half, np.median(sliding_window_view(image, (side, side)), axis=(2, 3)))


def separable_median(image, half):
    """Median of the medians of the rows of the window; pixels near the edge keep their value."""
    side = 2 * half + 1
    if min(image.shape) < side:
        return image.copy()
    rows = np.median(sliding_window_view(image, (side, side)), axis=3)
    return _inside(image, half, np.median(rows, axis=2))
