"""Slow twin of ``starmill.kernels.matched_moments``."""

import numpy as np


def matched_moments(images, r, max_iterations):
    """Return the moments ``xx, yy, xy`` of images whose samples lie at ``r`` along both axes, (n, 3)."""
    x, y = r[None, None, :], r[None, :, None]
    moments = np.tile([2.0, 2.0, 0.0], (len(images), 1))
    active = np.arange(len(images))
    for _ in range(max_iterations):
        xx, yy, xy = (moments[active, i, None, None] for i in range(3))
        det = xx * yy - xy**2
        weight = np.exp(-0.5 * (yy * x**2 - 2 * xy * x * y + xx * y**2) / det) * images[active]
        total = weight.sum((1, 2))
        with np.errstate(all="ignore"):
            m = np.stack([(weight * q).sum((1, 2)) / total for q in (x**2, y**2, x * y)], axis=1)
            dm = m[:, 0] * m[:, 1] - m[:, 2] ** 2
            # The object's moments follow from those of the product of two Gaussians: 1/m = 1/w + 1/object.
            a = m[:, 1] / dm - yy[:, 0, 0] / det[:, 0, 0]
            b = m[:, 0] / dm - xx[:, 0, 0] / det[:, 0, 0]
            c = -m[:, 2] / dm + xy[:, 0, 0] / det[:, 0, 0]
            d = a * b - c**2
            new = np.stack([b / d, a / d, -c / d], axis=1)
        good = np.isfinite(new).all(1) & (d > 0) & (a > 0) & (total > 0)
        new[~good] = np.nan
        change = np.abs(new - moments[active]).max(1)
        moments[active] = new
        scale = new[:, 0] + new[:, 1]
        active = active[good & (change > 1e-9 * scale)]
        if not len(active):
            return moments
    moments[active] = np.nan
    return moments
