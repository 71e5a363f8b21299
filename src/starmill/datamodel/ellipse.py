"""Ellipses of second moments: for apertures, region files and pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ellipse_axes"]


def ellipse_axes(
    moments: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the one-sigma semi-axes and direction of second moments.

    Parameters
    ----------
    moments : (n, 3) array, pixel**2
        xx, yy, xy.

    Returns
    -------
    a, b : (n,) array, pixels
        NaN where the moments are not those of an ellipse.
    theta : (n,) array
        Direction of ``a``, radians counter-clockwise from +x.
    """
    xx, yy, xy = moments.T
    half = 0.5 * (xx + yy)
    spread = np.hypot(0.5 * (xx - yy), xy)
    with np.errstate(invalid="ignore"):
        a, b = np.sqrt(half + spread), np.sqrt(np.where(half > spread, half - spread, np.nan))
    return np.where(np.isfinite(b), a, np.nan), b, 0.5 * np.arctan2(2 * xy, xx - yy)
