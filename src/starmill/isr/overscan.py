"""The level of the electronics, measured on pixels that saw no light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from starmill.errors import AlgorithmError, InputError
from starmill.numerics.statistics import (
    clipped_statistics,
    median,
    robust_sigma,
    row_medians_and_sigmas,
)

if TYPE_CHECKING:
    from starmill.numerics.statistics import ClippedStatistics


__all__ = ["OVERSCAN_METHODS", "OverscanLevel", "fit_overscan"]

OVERSCAN_METHODS = (
    "median", "mean", "clipped_mean", "median_per_row", "mean_per_row",
    "polynomial", "chebyshev", "legendre", "spline",
)  # fmt: skip
"""One level for the amplifier, one for every row, or a smooth function of the row."""

_SERIES = {
    "polynomial": np.polynomial.Polynomial,
    "chebyshev": np.polynomial.Chebyshev,
    "legendre": np.polynomial.Legendre,
}


@dataclass(frozen=True)
class OverscanLevel:
    """Result of :func:`fit_overscan`.

    Attributes
    ----------
    level : (n_rows,) float32 array, adu
        What to subtract from each row.
    mean, median : float, adu
        Of the used overscan pixels.
    residual_sigma : float, adu
        Scatter (clipped) after subtraction of ``level``: the read noise as the frame shows it.
    rejected : int
        Pixels left out because they deviate too much or are not finite.
    """

    level: np.ndarray
    mean: float
    median: float
    residual_sigma: float
    rejected: int


def fit_overscan(
    overscan: NDArray[Any],
    *,
    method: str = "median",
    order: int = 1,
    skip: tuple[int, int] = (0, 0),
    max_deviation: float = 1000.0,
    n_sigma: float = 3.0,
    iterations: int = 3,
) -> OverscanLevel:
    """Level of every row of an amplifier from its overscan columns.

    Parameters
    ----------
    overscan : (n_rows, n_columns) array, adu
        Raw overscan; NaN is ignored. For parallel overscan pass the transposed array.
    method : str
        One of :data:`OVERSCAN_METHODS`. The series and the spline are fitted to the medians of the rows.
    order : int
        Degree of the series, or number of spline nodes.
    skip : (int, int)
        Leading and trailing columns not used (the first still hold charge deferred from the image).
    max_deviation : float, adu
        Pixels further than this from the median (of all for one level, of their row otherwise) are not used.
    n_sigma, iterations : float, int
        Clipping of ``clipped_mean`` and of the fits.

    Returns
    -------
    level : OverscanLevel

    Raises
    ------
    InputError
        Unknown method, or no column left.
    AlgorithmError
        No usable pixel, or fewer usable rows than coefficients.
    """
    if method not in OVERSCAN_METHODS:
        raise InputError(f"the overscan method is one of {', '.join(OVERSCAN_METHODS)}, not {method!r}")
    n_rows, n_columns = overscan.shape
    columns = overscan[:, skip[0] : n_columns - skip[1]]
    if columns.size == 0:
        raise InputError(f"no overscan pixel is left of {n_rows} x {n_columns} after skipping {skip} columns")
    values = columns.astype(np.float32)
    constant = method in ("median", "mean", "clipped_mean")
    centre = np.array([[median(values)]]) if constant else row_medians_and_sigmas(values)[0][:, None]
    values[~(np.abs(values - centre.astype(np.float32)) <= max_deviation)] = np.nan
    if np.isnan(values).all():
        raise AlgorithmError("no overscan pixel is usable", numbers={"pixels": columns.size, "usable": 0})
    rejected = int(np.count_nonzero(np.isnan(values)))
    statistics = clipped_statistics(values, n_sigma=n_sigma, n_iterations=iterations)
    level = _level(values, statistics, method, order, n_sigma, iterations)
    residual = values - level[:, None].astype(np.float32)
    return OverscanLevel(
        level.astype(np.float32),
        statistics.mean,
        statistics.median,
        clipped_statistics(residual, n_sigma=5.0).clipped_std,
        rejected,
    )


def _level(
    values: NDArray[np.floating],
    statistics: ClippedStatistics,
    method: str,
    order: int,
    n_sigma: float,
    iterations: int,
) -> NDArray[np.floating]:
    constant = {
        "median": statistics.median, "mean": statistics.mean, "clipped_mean": statistics.clipped_mean,
    }  # fmt: skip
    rows = np.arange(len(values))
    if method in constant:
        return np.full(len(values), constant[method])
    if method == "mean_per_row":
        counts = np.isfinite(values).sum(axis=1)
        per_row = np.where(
            counts > 0, np.nansum(values, axis=1, dtype=np.float64) / np.maximum(counts, 1), np.nan
        )
    else:
        per_row = row_medians_and_sigmas(values)[0]
    good = np.isfinite(per_row)
    if method in ("median_per_row", "mean_per_row"):
        return np.interp(rows, rows[good], per_row[good])
    return _smooth(rows, per_row, good, method, order, n_sigma, iterations)


def _smooth(
    rows: NDArray[np.integer],
    per_row: NDArray[np.floating],
    good: NDArray[np.bool_],
    method: str,
    order: int,
    n_sigma: float,
    iterations: int,
) -> NDArray[np.floating]:
    needed = order + 1 if method != "spline" else max(order, 2)
    fit = per_row
    for _ in range(max(iterations, 1)):
        if good.sum() < needed:
            raise AlgorithmError(
                "too few overscan rows for the fit", numbers={"rows": int(good.sum()), "needed": needed}
            )
        if method == "spline":
            fit = _spline(rows[good], per_row[good], max(order, 2), len(rows))
        else:
            fit = _SERIES[method].fit(rows[good], per_row[good], order, domain=[0, max(len(rows) - 1, 1)])(
                rows
            )
        residual = per_row - fit
        scatter = robust_sigma(residual[good])
        keep = np.isfinite(per_row) & (np.abs(residual) <= n_sigma * scatter)
        if scatter == 0 or np.array_equal(keep, good):
            break
        good = keep
    return fit


def _spline(
    rows: NDArray[np.integer], values: NDArray[np.floating], n_nodes: int, n_rows: int
) -> NDArray[np.floating]:
    edges = np.linspace(0, n_rows, n_nodes + 1)
    index = np.clip(np.searchsorted(edges, rows, side="right") - 1, 0, n_nodes - 1)
    used = np.unique(index)
    x = np.array([rows[index == k].mean() for k in used])
    y = np.array([np.median(values[index == k]) for k in used])
    every = np.arange(n_rows)
    if len(x) == 1:
        return np.full(n_rows, y[0])
    if len(x) == 2:
        return np.interp(every, x, y)
    return Akima1DInterpolator(x, y)(np.clip(every, x[0], x[-1]))
