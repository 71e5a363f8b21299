"""Slow twins of starmill.kernels.moments."""

import numpy as np


def weight(shape, cx, cy, wxx, wyy, wxy):
    """Gaussian weight on the pixels of an image, with the limits of the kernel."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dx, dy = x - cx, y - cy
    det = wxx * wyy - wxy**2
    rho2 = (wyy * dx**2 - 2 * wxy * dx * dy + wxx * dy**2) / det
    radius = 4 * np.sqrt(max(wxx, wyy))
    box = (x >= int(cx - radius - 0.5)) & (x <= int(cx + radius + 0.5))
    box &= (y >= int(cy - radius - 0.5)) & (y <= int(cy + radius + 0.5))
    return np.where(box & (rho2 <= 14), np.exp(-rho2 / 2), 0), dx, dy


def weighted_sums(image, cx, cy, wxx, wyy, wxy):
    w, dx, dy = weight(image.shape, cx, cy, wxx, wyy, wxy)
    wi = w * image
    return np.array([
        wi.sum(), (wi * dx).sum(), (wi * dy).sum(), (wi * dx**2).sum(), (wi * dy**2).sum(),
        (wi * dx * dy).sum(),
    ])  # fmt: skip


def adaptive_moments(image, cx, cy, iterations=100):
    """Iterate the matched weight until the moments stop changing."""
    w = np.diag([1.5, 1.5])
    for _ in range(iterations):
        s = weighted_sums(image, cx, cy, w[0, 0], w[1, 1], w[0, 1])
        m = np.array([[s[3], s[5]], [s[5], s[4]]]) / s[0]
        w = np.linalg.inv(np.linalg.inv(m) - np.linalg.inv(w))
    return w[0, 0], w[1, 1], w[0, 1], 2 * s[0]
