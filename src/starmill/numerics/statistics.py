"""Robust statistics of samples and of the cells of an image: clipped moments, quantiles, median deviations.

Elements that are NaN or infinite, and pixels with a mask bit that is asked for, never count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starmill.kernels import statistics as kernel
from starmill.numerics.tiles import map_tiles

MAD_TO_SIGMA = 1.482602218505602  # sigma of a Gaussian from its median absolute deviation
ALL_BITS = -1
"""Bit mask that matches every mask plane."""


@dataclass(frozen=True, slots=True)
class ClippedStatistics:
    """Statistics of one sample; all in the unit of the values (variances in its square).

    ``n`` counts the good elements, ``n_masked`` the others, ``n_kept`` those inside the last clip window.
    Errors are those of a Gaussian sample: sigma / sqrt(n) for a mean, sqrt(pi / 2) times that for the
    median, sigma sqrt((n - 1) / 2) / n for a standard deviation. NaN where a number does not exist.
    """

    n: int
    n_masked: int
    n_kept: int
    mean: float
    mean_err: float
    variance: float
    std: float
    std_err: float
    median: float
    median_err: float
    iqr: float
    clipped_mean: float
    clipped_mean_err: float
    clipped_variance: float
    clipped_std: float
    clipped_std_err: float

    @property
    def n_clipped(self) -> int:
        """Good elements outside the last clip window."""
        return self.n - self.n_kept


@dataclass(frozen=True, slots=True)
class MeshStatistics:
    """Statistics of every cell of an image, arrays of shape (cells in y, cells in x).

    ``clipped_mean_err`` and ``median_err`` are standard errors. A cell without good pixels has ``n = 0``
    and NaN elsewhere.
    """

    n: NDArray[np.int64]
    n_kept: NDArray[np.int64]
    mean: NDArray[np.float64]
    mean_err: NDArray[np.float64]
    median: NDArray[np.float64]
    median_err: NDArray[np.float64]
    iqr: NDArray[np.float64]
    clipped_mean: NDArray[np.float64]
    clipped_mean_err: NDArray[np.float64]
    clipped_std: NDArray[np.float64]


def clipped_statistics(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    bits: int = ALL_BITS,
    n_sigma: float = 3.0,
    n_iterations: int = 3,
    variance: ArrayLike | None = None,
) -> ClippedStatistics:
    """Plain and sigma-clipped statistics of the good elements of an array of any shape.

    Parameters
    ----------
    values : array
        NaN and infinite elements are left out.
    mask : array of the same shape, optional
        Integer mask planes, or booleans with True for an element to leave out.
    bits : int
        Mask planes that exclude an element (all of them by default).
    n_sigma : float
        Half width of the clip window in standard deviations.
    n_iterations : int
        Passes. The first window is median +- n_sigma * 0.7413 * IQR, later ones mean +- n_sigma * std of
        what the last window held.
    variance : array of the same shape, optional
        Variance of every element; the errors of the means are then sqrt(sum of variances) / n.

    Returns
    -------
    statistics : ClippedStatistics
    """
    flat = _float_array(values).ravel()
    good = flat
    if mask is not None:
        excluded = (np.asarray(mask).ravel().astype(np.int64, copy=False) & bits) != 0
        good = np.ascontiguousarray(flat[~excluded])
    out = np.empty(kernel.N_SUMMARY)
    kernel.sample_statistics(good, float(n_sigma), int(n_iterations), out)
    n, median, iqr, n_kept, clipped_mean, clipped_variance, mean, plain_variance = out.tolist()
    mean_err, median_err = _mean_errors(plain_variance, n)
    clipped_mean_err, _ = _mean_errors(clipped_variance, n_kept)
    if variance is not None:
        noise = np.asarray(variance, dtype=np.float64).ravel()
        inside = np.isfinite(flat) if mask is None else np.isfinite(flat) & ~excluded
        mean_err = _error_from_variance(noise[inside])
        inside &= _clip_window(flat, inside, n_sigma, n_iterations)
        clipped_mean_err = _error_from_variance(noise[inside])
    return ClippedStatistics(
        n=int(n),
        n_masked=flat.size - int(n),
        n_kept=int(n_kept),
        mean=mean,
        mean_err=mean_err,
        variance=plain_variance,
        std=float(np.sqrt(plain_variance)),
        std_err=_std_error(plain_variance, n),
        median=median,
        median_err=median_err,
        iqr=iqr,
        clipped_mean=clipped_mean,
        clipped_mean_err=clipped_mean_err,
        clipped_variance=clipped_variance,
        clipped_std=float(np.sqrt(clipped_variance)),
        clipped_std_err=_std_error(clipped_variance, n_kept),
    )


def mesh_statistics(
    image: NDArray[np.floating],
    mask: NDArray[np.integer] | None = None,
    *,
    bits: int = ALL_BITS,
    y_edges: ArrayLike,
    x_edges: ArrayLike,
    n_sigma: float = 3.0,
    n_iterations: int = 3,
) -> MeshStatistics:
    """Clipped statistics of all cells of an image; rows of cells run in parallel.

    Parameters
    ----------
    image : (ny, nx) array
        NaN and infinite pixels are left out.
    mask : (ny, nx) int array, optional
        Pixels with any plane of ``bits`` are left out.
    y_edges, x_edges : (cells + 1,) int arrays
        Cell i holds the array rows ``y_edges[i] <= y < y_edges[i + 1]``, columns likewise.
    n_sigma, n_iterations
        As in :func:`clipped_statistics`.
    """
    image = _float_array(image)
    mask = np.zeros((1, 1), np.int32) if mask is None else np.asarray(mask)
    mask = np.broadcast_to(mask, image.shape) if mask.size == 1 else mask
    rows = np.asarray(y_edges, dtype=np.int64)
    columns = np.asarray(x_edges, dtype=np.int64)
    out = np.empty((rows.size - 1, columns.size - 1, kernel.N_SUMMARY))
    plane_bits = mask.dtype.type(bits) if mask.dtype != bool else True

    def row_of_cells(i: int) -> None:
        kernel.mesh_row_statistics(
            image, mask, plane_bits, rows[i], rows[i + 1], columns, float(n_sigma), int(n_iterations), out[i]
        )

    map_tiles(row_of_cells, range(rows.size - 1))
    n, n_kept = out[..., kernel.N_GOOD], out[..., kernel.N_CLIPPED_SAMPLE]
    mean_err, median_err = _mean_errors(out[..., kernel.VARIANCE], n)
    clipped_mean_err, _ = _mean_errors(out[..., kernel.CLIPPED_VARIANCE], n_kept)
    return MeshStatistics(
        n=n.astype(np.int64),
        n_kept=n_kept.astype(np.int64),
        mean=out[..., kernel.MEAN],
        mean_err=mean_err,
        median=out[..., kernel.MEDIAN],
        median_err=median_err,
        iqr=out[..., kernel.IQR],
        clipped_mean=out[..., kernel.CLIPPED_MEAN],
        clipped_mean_err=clipped_mean_err,
        clipped_std=np.sqrt(out[..., kernel.CLIPPED_VARIANCE]),
    )


def quantiles(values: ArrayLike, fractions: ArrayLike) -> NDArray[np.float64]:
    """Quantiles of the finite elements of an array, linear between order statistics; NaN without any."""
    flat = _float_array(values).reshape(1, -1)
    wanted = np.atleast_1d(np.asarray(fractions, dtype=np.float64))
    out = np.empty((1, wanted.size))
    kernel.row_quantiles(flat, wanted, out)
    return out[0]


def median(values: ArrayLike) -> float:
    """Median of the finite elements of an array; NaN without any."""
    return float(quantiles(values, 0.5)[0])


def median_and_sigma(values: ArrayLike) -> tuple[float, float]:
    """Median and 1.4826 times the median absolute deviation of the finite elements of an array."""
    centre, sigma = row_medians_and_sigmas(_float_array(values).reshape(1, -1))
    return float(centre[0]), float(sigma[0])


def robust_sigma(values: ArrayLike) -> float:
    """Return the standard deviation of a Gaussian with the same median absolute deviation (finite elements)."""
    return median_and_sigma(values)[1]


def row_medians_and_sigmas(
    values: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and 1.4826 times the median absolute deviation of every row of a 2-D array, NaN left out."""
    values = _float_array(values)
    out = np.empty((values.shape[0], 2))
    kernel.row_median_mad(values, out)
    return out[:, 0], MAD_TO_SIGMA * out[:, 1]


def _float_array(values: ArrayLike) -> NDArray[np.floating]:
    """Native float32 or float64, whichever holds the values; small integers become float32."""
    array = np.asarray(values)
    if array.dtype.kind in "bui" and array.dtype.itemsize <= 2:
        return array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _mean_errors(variance: ArrayLike, n: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Return standard errors of the mean and of the median of ``n`` elements of a Gaussian sample."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(np.divide(variance, n))
    if np.ndim(error) == 0:
        error = float(error)
    return error, np.sqrt(np.pi / 2) * error


def _std_error(variance: float, n: float) -> float:
    """Return the standard error of the standard deviation of ``n`` elements of a Gaussian sample."""
    return float(np.sqrt(variance * (n - 1) / 2) / n) if n > 0 else np.nan


def _error_from_variance(variance: NDArray[np.float64]) -> float:
    """Error of the mean of elements with known variances."""
    return float(np.sqrt(variance.sum()) / variance.size) if variance.size else np.nan


def _clip_window(
    flat: NDArray[np.floating], good: NDArray[np.bool_], n_sigma: float, n_iterations: int
) -> NDArray[np.bool_]:
    """Elements of the last clip window: one pass less gives its centre and width."""
    if n_iterations == 0:
        return good
    out = np.empty(kernel.N_SUMMARY)
    kernel.sample_statistics(np.ascontiguousarray(flat[good]), float(n_sigma), int(n_iterations) - 1, out)
    centre, sigma = out[kernel.CLIPPED_MEAN], np.sqrt(out[kernel.CLIPPED_VARIANCE])
    if n_iterations == 1:
        centre, sigma = out[kernel.MEDIAN], out[kernel.IQR] * kernel.IQR_TO_SIGMA
    return np.abs(flat - centre) <= n_sigma * sigma
