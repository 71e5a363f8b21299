"""Slow, obvious twins of the kernels in ``starmill.kernels.lanczos``."""

import numpy as np


def weights(fraction, order, kaiser):
    """Weights of the taps ``-order + 1 ... order`` for a point ``fraction`` right of tap 0."""
    t = fraction - (np.arange(2 * order) - order + 1)
    if kaiser:
        window = np.i0(6.8 * np.sqrt(np.clip(1 - (t / order) ** 2, 0, None)))
        w = np.where(np.abs(t) < order, np.sinc(t) * window, 0)
    else:
        w = np.where(np.abs(t) < order, np.sinc(t) * np.sinc(t / order), 0)
    return w / w.sum()


def sampling_matrix(offset, size, grid, step, order, kaiser=True):
    """Weights that sample a grid of ``step`` points per pixel at the pixels of a star, (size, grid)."""
    matrix = np.zeros((size, grid))
    for i in range(size):
        position = (i - size // 2 - offset) * step
        first = int(np.floor(position))
        for k, w in enumerate(weights(position - first, order, kaiser)):
            g = first - order + 1 + k + grid // 2
            if 0 <= g < grid:
                matrix[i, g] += w * step
    return matrix


def shifted(image, dx, dy, order, kaiser=False):
    """One image shifted by (dx, dy)."""
    ny, nx = image.shape
    along_y = sampling_matrix(dy, ny, ny, 1, order, kaiser) if ny % 2 else None
    along_x = sampling_matrix(dx, nx, nx, 1, order, kaiser)
    return along_y @ image @ along_x.T
