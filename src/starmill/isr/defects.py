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
    margin = smoothing // 2 + 1
    every = _sampling(flat.size)
    sample: list[NDArray[Any]] = []
    rows: list[NDArray[Any]] = []
    columns: list[NDArray[Any]] = []
    ratios: list[NDArray[Any]] = []
    for y0, y1 in row_bands(ny, 128):  # in bands, and of the ratio only what may count: little memory
        first, last = max(0, y0 - margin), min(ny, y1 + margin)
        part = flat[first:last]
        valid = np.isfinite(part) if mask is None else np.isfinite(part) & ~mask[first:last]
        smooth = ndimage.uniform_filter(
            np.where(valid, part, 0.0).astype(np.float64), smoothing, mode="nearest"
        )
        area = ndimage.uniform_filter(valid.astype(np.float64), smoothing, mode="nearest")
        usable = valid & (area > 0) & (smooth > 0)
        found = np.divide(part * area, smooth, out=np.ones(part.shape), where=usable)
        ratio = found[y0 - first : y1 - first].astype(np.float32)
        sampled = slice(-y0 % every, None, every)
        sample.append(ratio[sampled, ::every][valid[y0 - first : y1 - first][sampled, ::every]])
        y, x = np.nonzero(ratio < minimum)
        rows.append(y + y0)
        columns.append(x)
        ratios.append(ratio[y, x])
    sigma = _statistics(np.concatenate(sample))[1]
    low = np.concatenate(ratios) < min(minimum, 1 - n_sigma * sigma)
    bad = np.zeros((ny, nx), bool)
    bad[np.concatenate(rows)[low], np.concatenate(columns)[low]] = True
    return bad


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
        The same array when there is nothing to fill.
    """
    columns = np.flatnonzero(np.count_nonzero(bad, axis=0) >= minimum_pixels)
    if not len(columns):
        return bad
    filled = bad.copy()
    for x in columns:
        rows = np.flatnonzero(bad[:, x])
        gaps = np.diff(rows)
        for start, gap in zip(rows[:-1], gaps, strict=True):
            if 1 < gap <= bridge + 1:
                filled[start : start + gap, x] = True
    return filled


def _sampling(size: int) -> int:
    """Return the step by which about a million pixels are taken of an image."""
    return max(1, int(np.sqrt(size / 1e6)))


def _centre_and_sigma(image: NDArray[Any], mask: NDArray[Any] | None) -> tuple[float, float]:
    """Return median and scatter of about a million valid pixels."""
    every = _sampling(image.size)
    values = image[::every, ::every]
    valid = np.isfinite(values) if mask is None else np.isfinite(values) & ~mask[::every, ::every]
    return _statistics(values[valid])


def _statistics(values: NDArray[Any]) -> tuple[float, float]:
    if len(values) < 100:
        raise AlgorithmError(
            "too few valid pixels to find defects", numbers={"pixels": len(values), "needed": 100}
        )
    return median_and_sigma(values)
