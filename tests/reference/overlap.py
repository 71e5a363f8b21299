"""Slow twins of starmill.kernels.overlap: pixels cut into many parts."""

import numpy as np


def pixel_overlap(dx, dy, inside, parts=200):
    """Area of the unit pixel at (dx, dy) where ``inside(x, y)`` holds."""
    t = (np.arange(parts) + 0.5) / parts - 0.5
    x, y = np.meshgrid(dx + t, dy + t)
    return inside(x, y).mean()


def circle_overlap(dx, dy, r, parts=200):
    return pixel_overlap(dx, dy, lambda x, y: x**2 + y**2 < r**2, parts)


def ellipse_overlap(dx, dy, a, b, cos_t, sin_t, parts=200):
    def inside(x, y):
        u, v = cos_t * x + sin_t * y, -sin_t * x + cos_t * y
        return (u / a) ** 2 + (v / b) ** 2 < 1

    return pixel_overlap(dx, dy, inside, parts)


def ellipse_sums(image, variance, x, y, a, b, theta, parts=50):
    """Sums of w I, w**2 V and w over all pixels of the image."""
    ny, nx = image.shape
    w = np.zeros(image.shape)
    for j in range(ny):
        for i in range(nx):
            if np.hypot(i - x, j - y) < max(a, b) + 1:
                w[j, i] = ellipse_overlap(i - x, j - y, a, b, np.cos(theta), np.sin(theta), parts)
    return (w * image).sum(), (w**2 * variance).sum(), w.sum()
