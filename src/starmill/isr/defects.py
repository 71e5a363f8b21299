"""Bad pixels from master darks and flats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starmill.errors import AlgorithmError
from starmill.numerics.statistics import median_and_sigma

__all__ = ["bright_defects", "dark_defects", "fill_bad_columns"]


def bright_defects(
    dark: NDArray[Any], mask: NDArray[Any] | None = None, *, n_sigma: float = 4.8, minimum_rate: float = 0.0
) -> NDArray[np.bool_]:
    """Hot pixels: far above the typical dark current.

    Parameters
    ----------
    dark : (ny, nx) array, electron/s
        Master dark.
    mask : (ny, nx) bool array, optional
        True on pixels without a value.
    n_sigma : float
        In scatters (MAD) of the dark frame.
    minimum_rate : float, electron/s
        Never flag pixels below this excess.

    Returns
    -------
    bad : (ny, nx) bool array
    """
    valid = np.isfinite(dark) if mask is None else np.isfinite(dark) & ~mask
    centre, sigma = _centre_and_sigma(dark, valid)
    return valid & (dark - centre > max(n_sigma * sigma, minimum_rate))


def dark_defects(
    flat: NDArray[Any],
    mask: NDArray[Any] | None = None,
    *,
    minimum: float = 0.8,
    n_sigma: float = 5.0,
    smoothing: int = 31,
) -> NDArray[np.bool_]:
    """Insensitive pixels: far below their surroundings in a flat.

    Parameters
    ----------
    flat : (ny, nx) array, dimensionless
        Master flat.
    mask : (ny, nx) bool array, optional
        True on pixels without a value.
    minimum : float
        Ratio to the smooth flat below which a pixel is bad.
    n_sigma : float
        It must also lie this many scatters below.
    smoothing : int, pixels
        Width of the box mean that stands for the surroundings.

    Returns
    -------
    bad : (ny, nx) bool array
    """
    valid = np.isfinite(flat) if mask is None else np.isfinite(flat) & ~mask
    weight = valid.astype(np.float64)
    smooth = ndimage.uniform_filter(np.where(valid, flat, 0.0).astype(np.float64), smoothing, mode="nearest")
    area = ndimage.uniform_filter(weight, smoothing, mode="nearest")
    usable = valid & (area > 0) & (smooth > 0)
    ratio = np.divide(flat * area, smooth, out=np.ones(flat.shape), where=usable)
    sigma = _centre_and_sigma(ratio, usable)[1]
    return usable & (ratio < min(minimum, 1 - n_sigma * sigma))


def fill_bad_columns(bad: NDArray[Any], *, minimum_pixels: int = 50, bridge: int = 30) -> NDArray[np.bool_]:
    """Fill the gaps of columns that are bad on and off.

    Parameters
    ----------
    bad : (ny, nx) bool array
    minimum_pixels : int
        Bad pixels a column must have.
    bridge : int
        Gaps of good pixels up to this length are filled in such columns.

    Returns
    -------
    bad : (ny, nx) bool array
    """
    filled = bad.copy()
    for x in np.flatnonzero(bad.sum(axis=0) >= minimum_pixels):
        rows = np.flatnonzero(bad[:, x])
        gaps = np.diff(rows)
        for start, gap in zip(rows[:-1], gaps, strict=True):
            if 1 < gap <= bridge + 1:
                filled[start : start + gap, x] = True
    return filled


def _centre_and_sigma(image, valid):
    values = image[valid]
    if values.size < 100:
        raise AlgorithmError(
            "too few valid pixels to find defects", numbers={"pixels": values.size, "needed": 100}
        )
    return median_and_sigma(values)
