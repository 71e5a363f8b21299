"""Background of a difference on a mesh of small cells: structure that no polynomial over the field follows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["smooth_mesh"]

SCALES = (4.0, 2.0, 1.0)
"""Widths of the Gaussians that join neighbouring cells, in cells; the widest first."""

NEEDED = 3.0
"""Standard errors by which a smaller width must predict left-out cells better."""

_CAP = 25.0  # chi2 of a cell beyond which it is an outlier, whatever its value


def smooth_mesh(
    values: NDArray[np.floating], errors: NDArray[np.floating], *, forced: bool = False
) -> tuple[NDArray[np.floating] | None, float]:
    """Smooth the cell means of a difference with the widest window that predicts left-out cells as well as any.

    Parameters
    ----------
    values, errors : (ny, nx) arrays
        Means of the cells and their standard errors; NaN where a cell has too few pixels.
    forced : bool
        Use the widest window when none predicts left-out cells better than zero does.

    Returns
    -------
    smooth : (ny, nx) array or None
        NaN where no cell is near. None when zero predicts the cells as well: there is nothing to subtract.
    scale : float
        Width of the window in cells; infinite for None.

    Notes
    -----
    Local linear regression (Cleveland 1979) with Gaussian windows: no bias on slopes nor at the edge of the field, and
    the error of a cell that is left out follows from its own weight. A cell that its neighbours do not predict within
    five robust standard deviations (a source broader than a cell) is left out of the final one.
    """
    known = np.isfinite(values) & (errors > 0)
    weight = np.where(known, 1 / np.where(known, errors, 1) ** 2, 0)
    data = np.where(known, values, 0)
    if not known.any():
        return None, np.inf
    best, chosen = np.minimum(data[known] ** 2 * weight[known], _CAP), SCALES[0] if forced else None
    for scale in SCALES:
        chi2 = _left_out(data, weight, known, scale)[known] ** 2
        gain = best - np.minimum(chi2, _CAP)
        if gain.mean() > NEEDED * gain.std() / np.sqrt(max(len(gain), 1)):
            best, chosen = np.minimum(chi2, _CAP), scale
    if chosen is None:
        return None, np.inf
    pull = _left_out(data, weight, known, chosen)
    spread = max(1.0, 1.4826 * np.median(np.abs(pull[known])))  # MAD to sigma
    weight = np.where(np.abs(pull) < 5 * spread, weight, 0)
    return _local_line(data, weight, chosen)[0], chosen


def _left_out(
    data: NDArray[np.floating], weight: NDArray[np.floating], known: NDArray[np.bool_], scale: float
) -> NDArray[np.floating]:
    """Return (cell - prediction of the others) / error of every cell; 0 where nothing is known."""
    smooth, leverage = _local_line(data, weight, scale)
    rest = np.maximum(1 - leverage, 1e-3)
    return np.where(known & np.isfinite(smooth), (data - smooth) / rest * np.sqrt(weight), 0)


def _local_line(
    data: NDArray[np.floating], weight: NDArray[np.floating], scale: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the local linear regression on a grid and the weight of every cell in its own value."""
    y, x = (np.arange(n, dtype=float) for n in data.shape)
    y = y[:, None]

    def total(image: NDArray[np.floating]) -> NDArray[np.floating]:
        return gaussian_filter(image, scale, mode="constant", truncate=4.0)

    sums = {
        (i, j): total(weight * x**i * y**j) for i in range(3) for j in range(3) if i + j <= 2
    }  # of powers about the corner; shifted to every cell below
    first = {(i, j): total(weight * data * x**i * y**j) for i, j in ((0, 0), (1, 0), (0, 1))}
    s00 = sums[0, 0]
    s10, s01 = sums[1, 0] - x * s00, sums[0, 1] - y * s00
    s20 = sums[2, 0] - 2 * x * sums[1, 0] + x**2 * s00
    s02 = sums[0, 2] - 2 * y * sums[0, 1] + y**2 * s00
    s11 = sums[1, 1] - x * sums[0, 1] - y * sums[1, 0] + x * y * s00
    right = np.stack([first[0, 0], first[1, 0] - x * first[0, 0], first[0, 1] - y * first[0, 0]], axis=-1)
    matrix = np.stack([s00, s10, s01, s10, s20, s11, s01, s11, s02], axis=-1).reshape(*data.shape, 3, 3)
    near = s00 > 1e-3 * np.max(s00)  # less than a thousandth of a full window is no neighbourhood
    ridge = (
        1e-3 * scale**2 * s00[..., None] * np.array([0.0, 1.0, 1.0])
    )  # a slope along one line of cells is not known
    matrix = np.where(near[..., None, None], matrix + ridge[..., None] * np.eye(3), np.eye(3))
    row = np.linalg.solve(matrix, np.broadcast_to(np.eye(3)[:, :1], (*data.shape, 3, 1)))[..., 0]
    own = 1 / (2 * np.pi * scale**2)
    return np.where(near, np.sum(row * right, axis=-1), np.nan), np.where(near, own * row[..., 0] * weight, 0)
