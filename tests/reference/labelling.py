"""Slow, obvious connected components."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label


def components(above):
    """8-connected components of a bool image, in the order of their first pixels, as sets of (y, x)."""
    numbers, n = label(above, structure=np.ones((3, 3), int))
    groups = {}
    for y, x in zip(*np.nonzero(numbers), strict=True):
        groups.setdefault(numbers[y, x], set()).add((int(y), int(x)))
    assert len(groups) == n
    return list(groups.values())


def pixels_of(spans, offsets):
    """Sets of (y, x) of each footprint given by spans."""
    return [
        {(int(y), x) for y, x0, x1 in spans[offsets[i] : offsets[i + 1]] for x in range(x0, x1 + 1)}
        for i in range(len(offsets) - 1)
    ]
