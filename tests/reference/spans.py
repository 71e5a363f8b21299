"""Slow, obvious growth of regions."""

from __future__ import annotations

import numpy as np


def grown(inside, radius):
    """Pixels with dx^2 + dy^2 <= radius^2 from a set pixel."""
    out = np.zeros_like(inside)
    ny, nx = inside.shape
    for y, x in zip(*np.nonzero(inside), strict=True):
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                if dx * dx + dy * dy <= radius * radius and 0 <= y + dy < ny and 0 <= x + dx < nx:
                    out[y + dy, x + dx] = True
    return out
