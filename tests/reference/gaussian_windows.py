"""Slow, obvious fit of one Gaussian to a square window."""

from __future__ import annotations

import numpy as np
from tests.reference.gaussian_groups import fit


def fit_window(image, start, half):
    """Least-squares Gaussian in the square of ``half`` pixels around the start position."""
    cy, cx = round(start[2]), round(start[1])
    y, x = (v.ravel() for v in np.mgrid[cy - half : cy + half + 1, cx - half : cx + half + 1])
    data = image[y, x]
    begin = np.array([data.max(), *start[1:]])
    return fit(x.astype(float), y.astype(float), data, np.eye(data.size), begin[None])[0]
