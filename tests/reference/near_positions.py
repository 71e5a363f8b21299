"""All distances at once."""

from __future__ import annotations

import numpy as np


def mark_near(x, y, other_x, other_y, skip, distance):
    """Compare every position with every other one."""
    near = np.hypot(np.subtract.outer(x, other_x), np.subtract.outer(y, other_y)) <= distance
    near[np.arange(len(x))[skip >= 0], skip[skip >= 0]] = False
    return near.any(axis=1)
