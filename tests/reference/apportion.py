"""Slow, obvious sharing of pixels."""

from __future__ import annotations

import numpy as np


def shares(templates):
    """Templates (n, ny, nx) over their sum; zero where no template is."""
    total = templates.sum(0)
    return np.divide(templates, total, out=np.zeros_like(templates), where=total > 0)


def shares_with_stray(templates, inside, peaks, takes):
    """Pixels without a template are shared by 1 / (1 + r^2) from the peaks that take some."""
    out = shares(templates)
    empty = inside & (templates.sum(0) == 0)
    for y, x in zip(*np.nonzero(empty), strict=True):
        weight = np.array(
            [t / (1 + (y - py) ** 2 + (x - px) ** 2) for (py, px), t in zip(peaks, takes, strict=True)]
        )
        out[:, y, x] = weight / weight.sum()
    return out
