"""Bad pixels from master darks and flats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starmill.errors import AlgorithmError
from starmill.numerics.statistics import median_and_sigma
from starmill.numerics.tiles import row_bands

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
    centre, sigma = _centre_and_sigma(dark, mask)
    bad = dark > np.float32(centre + max(n_sigma * sigma, minimum_rate))
    return bad if mask is None else bad & ~mask


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
    ny, nx = flat.shape
    ratio = np.ones((ny, nx), np.float32)
    margin = smoothing // 2 + 1
    for y0, y1 in row_bands(ny, 512):  # in bands, so that one image more is held in memory, not six
        first, last = max(0, y0 - margin), min(ny, y1 + margin)
        part = flat[first:last]
        valid = np.isfinite(part) if mask is None else np.isfinite(part) & ~mask[first:last]
        smooth = ndimage.uniform_filter(
            np.where(valid, part, 0.0).astype(np.float64), smoothing, mode="nearest"
        )
        area = ndimage.uniform_filter(valid.astype(np.float64), smoothing, mode="nearest")
        usable = valid & (area > 0) & (smooth > 0)
        found = np.divide(part * area, smooth, out=np.ones(part.shape), where=usable)
        ratio[y0:y1] = found[y0 - first : y1 - first]
    sigma = _centre_and_sigma(ratio, mask)[1]
    return np.asarray(ratio < min(minimum, 1 - n_sigma * sigma))


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


def _centre_and_sigma(image: NDArray[Any], mask: NDArray[Any] | None) -> tuple[float, float]:
    """Return median and scatter of about a million valid pixels."""
    every = max(1, int(np.sqrt(image.size / 1e6)))
    values = image[::every, ::every]
    valid = np.isfinite(values) if mask is None else np.isfinite(values) & ~mask[::every, ::every]
    if np.count_nonzero(valid) < 100:
        raise AlgorithmError(
            "too few valid pixels to find defects", numbers={"pixels": int(valid.sum()), "needed": 100}
        )
    return median_and_sigma(values[valid])
