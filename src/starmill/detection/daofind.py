"""DAOFIND: peaks of a map convolved with a Gaussian of zero sum, their sharpness and roundness.

References
----------
Stetson 1987, PASP 99, 191, section III.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate, maximum_filter

__all__ = ["daofind_peaks", "daofind_shapes"]


def _kernels(fwhm: float) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixels of the kernel, the Gaussian on them, and the kernel (fits a Gaussian over a constant)."""
    sigma = fwhm / 2.3548200450309493
    half = max(2, int(1.5 * sigma))
    xx, yy = np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1))
    radius2 = xx**2 + yy**2
    inside = (radius2 <= (1.5 * sigma) ** 2) | (radius2 <= 4.0)
    gaussian = np.exp(-0.5 * radius2 / sigma**2) * inside
    n = inside.sum()
    kernel = (gaussian - gaussian.sum() / n) / (np.sum(gaussian**2) - gaussian.sum() ** 2 / n)
    return inside, gaussian, np.where(inside, kernel, 0.0)


def daofind_peaks(
    image: NDArray[Any], fwhm: float, threshold: float, *,
    sharpness: tuple[float, float], roundness: tuple[float, float],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Find local maxima of the height of the best-fitting Gaussian.

    Parameters
    ----------
    image : (ny, nx) array
        Finite values.
    fwhm : float, pixel
    threshold : float
        Lowest height is this times the noise of the convolved over that of the original map.
    sharpness, roundness : (low, high)
        Allowed ranges.

    Returns
    -------
    x, y : (n,) int64 arrays, in reading order
    """
    inside, _, kernel = _kernels(fwhm)
    image = np.asarray(image, np.float64)
    height = correlate(image, kernel, mode="constant")
    level = threshold * np.sqrt(np.sum(kernel**2))
    top = (height == maximum_filter(height, footprint=inside, mode="constant", cval=0.0)) & (height > level)
    y, x = np.nonzero(top)
    if x.size == 0:
        return x, y
    shapes = daofind_shapes(image, x, y, fwhm)
    keep = (shapes["sharpness"] > sharpness[0]) & (shapes["sharpness"] < sharpness[1])
    for name in ("roundness1", "roundness2"):
        keep &= (shapes[name] > roundness[0]) & (shapes[name] < roundness[1])
    return x[keep], y[keep]


def daofind_shapes(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], fwhm: float
) -> dict[str, NDArray[np.float64]]:
    """Sharpness and roundness of DAOFIND at pixel positions.

    Parameters
    ----------
    image : (ny, nx) array
        Finite values.
    x, y : (n,) int arrays
    fwhm : float, pixel

    Returns
    -------
    shapes : dict of (n,) arrays
        ``sharpness``: central pixel above the mean of the others, over the height of the convolved peak;
        ``roundness1``: fourfold asymmetry; ``roundness2``: difference of the heights of the marginal Gaussians
        over their mean, times two.
    """
    inside, gaussian, kernel = _kernels(fwhm)
    half = kernel.shape[0] // 2
    offset = np.arange(-half, half + 1)
    padded = np.pad(np.asarray(image, np.float64), half)
    index = np.asarray(y)[:, None] + np.arange(2 * half + 1), np.asarray(x)[:, None] + np.arange(2 * half + 1)
    cut = padded[index[0][:, :, None], index[1][:, None, :]]
    height = np.einsum("kij,ij->k", cut, kernel)
    others = inside.copy()
    others[half, half] = False
    mean = np.einsum("kij,ij->k", cut, others.astype(float)) / others.sum()
    safe = np.where(height == 0, np.nan, height)
    heights = [_marginal_height(cut.sum(axis=axis), gaussian.sum(axis=axis - 1), offset) for axis in (1, 2)]
    total = heights[0] + heights[1]
    return {
        "sharpness": (cut[:, half, half] - mean) / safe,
        "roundness1": _fourfold(cut * inside, half),
        "roundness2": 2.0 * (heights[0] - heights[1]) / np.where(total == 0, np.nan, total),
    }


def _marginal_height(
    marginal: NDArray[np.float64], shape: NDArray[np.float64], offset: NDArray[Any]
) -> NDArray[np.float64]:
    """Least-squares height of a Gaussian of known width over a constant, triangular weights."""
    weight = (offset.max() + 1 - np.abs(offset)).astype(float)
    weight /= weight.sum()
    mean_shape = np.sum(weight * shape)
    scatter = np.sum(weight * shape**2) - mean_shape**2
    return (marginal @ (weight * shape) - mean_shape * (marginal @ weight)) / scatter


def _fourfold(cut: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Sum over quadrants with alternating signs, over the sum of absolute values, times two."""
    sign = np.zeros(cut.shape[1:])
    sign[: half + 1, half + 1 :] = sign[half:, :half] = -1
    sign[:half, : half + 1] = sign[half + 1 :, half:] = 1
    total = np.abs(cut).sum(axis=(1, 2)) - np.abs(cut[:, half, half])
    return 2.0 * np.einsum("kij,ij->k", cut, sign) / np.where(total == 0, np.nan, total)
