"""Gain and read noise from pairs of flats and of biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from starmill.errors import AlgorithmError, InputError
from starmill.numerics.statistics import clipped_statistics, mesh_statistics

__all__ = ["PhotonTransfer", "fit_photon_transfer", "flat_pair_points", "read_noise_from_pairs"]


@dataclass(frozen=True)
class PhotonTransfer:
    """Result of :func:`fit_photon_transfer`.

    Attributes
    ----------
    gain, gain_err : float, electron/adu
    read_noise : float, electron
    a00 : float, 1/adu
        Relative change of a pixel's effective area per collected adu (brighter-fatter); zero for
        the linear model, negative when pixels that hold more charge collect less.
    turnoff : float, adu
        Highest mean level that was used.
    used : (n,) bool array
        Points that survived clipping.
    """

    gain: float
    gain_err: float
    read_noise: float
    a00: float
    turnoff: float
    used: np.ndarray


def read_noise_from_pairs(
    frames: Sequence[NDArray[Any]], *, mask: NDArray[Any] | None = None, n_sigma: float = 5.0
) -> float:
    """Read noise in adu from the clipped scatter of differences of consecutive frames over sqrt 2.

    Parameters
    ----------
    frames : list of (ny, nx) arrays, adu
        At least two biases. NaN is ignored.
    mask : (ny, nx) bool array, optional
        True on pixels not to use.
    n_sigma : float
        Wide enough that the clip does not bias a Gaussian, narrow enough for outlier pixels.

    Returns
    -------
    read_noise : float, adu
        Median over the pairs.
    """
    if len(frames) < 2:
        raise InputError(f"the read noise needs at least two frames, {len(frames)} given")
    noise = []
    for first, second in pairwise(frames):
        difference = np.asarray(first, np.float32) - np.asarray(second, np.float32)
        statistics = clipped_statistics(difference, mask, n_sigma=n_sigma, n_iterations=5)
        noise.append(statistics.clipped_std / np.sqrt(2.0))
    return float(np.median(noise))


def flat_pair_points(
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    mask: NDArray[Any] | None = None,
    cell: int = 64,
    n_sigma: float = 5.0,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean and noise variance in square cells of two flats of nearly the same level.

    In each cell the second flat is scaled to the first (r = m1 / m2), so that illumination and
    pixel response cancel: ``var(f1 - r f2) = m1 (1 + r) / gain + (1 + r^2) sigma^2``.

    Parameters
    ----------
    first, second : (ny, nx) arrays, adu
        Above bias and overscan.
    mask : (ny, nx) bool array, optional
        True on pixels not to use.
    cell : int, pixels
    n_sigma : float

    Returns
    -------
    mean, variance, weight : (n,) arrays, adu, adu^2, number of pixels
        ``variance = var(f1 - r f2) / (1 + r)``, for which ``variance = mean / gain + sigma^2
        (1 + r^2) / (1 + r)``; the last factor is one for equal levels. Cells with less than half
        of their pixels valid are left out.

    Notes
    -----
    The linear dependence of the mean on position inside a cell is the same in both flats after
    scaling, so cells may lie on an illumination gradient.
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    ny, nx = first.shape
    edges = {"y_edges": _edges(ny, cell), "x_edges": _edges(nx, cell), "n_sigma": n_sigma}
    mean1 = mesh_statistics(first, mask, **edges)
    mean2 = mesh_statistics(second, mask, **edges)
    ratio = np.where(mean2.clipped_mean > 0, mean1.clipped_mean / mean2.clipped_mean, 1.0)
    widths = np.diff(edges["x_edges"]), np.diff(edges["y_edges"])
    factor = np.repeat(np.repeat(ratio, widths[1], axis=0), widths[0], axis=1).astype(np.float32)
    scatter = mesh_statistics(first - factor * second, mask, **edges)
    area = np.outer(widths[1], widths[0])
    good = (scatter.n_kept > 0.5 * area) & (mean1.clipped_mean > 0) & (area >= 0.25 * cell * cell)
    variance = scatter.clipped_std**2 / (1 + ratio)
    return mean1.clipped_mean[good], variance[good], scatter.n_kept[good].astype(np.float64)


def fit_photon_transfer(
    mean: ArrayLike,
    variance: ArrayLike,
    weight: ArrayLike,
    read_noise: float,
    *,
    model: str = "linear",
    n_sigma: float = 5.0,
    iterations: int = 5,
) -> PhotonTransfer:
    """Gain from the growth of the noise with the level.

    Parameters
    ----------
    mean, variance, weight : (n,) arrays, adu, adu^2, number of pixels
        From :func:`flat_pair_points`, any number of pairs together.
    read_noise : float, adu
        From biases; flats alone determine it badly.
    model : str
        ``linear``: ``v = mu / g + n``. ``exponential``: ``v = (exp(2 a00 mu g) - 1) / (2 a00 g^2) + n``
        with a00 < 0 for the brighter-fatter effect; needs levels over a wide range.
    n_sigma, iterations : float, int
        Points further than this from the fit are clipped.

    Returns
    -------
    transfer : PhotonTransfer

    References
    ----------
    Janesick 2001, *Scientific Charge-Coupled Devices*, section 2.2; Astier et al. 2019, A&A 629,
    A36, equation 16 (exponential model).
    """
    mean, variance, weight = (np.asarray(values, np.float64) for values in (mean, variance, weight))
    if model not in ("linear", "exponential"):
        raise InputError(f"the photon transfer model is 'linear' or 'exponential', not {model!r}")
    used = np.isfinite(mean) & np.isfinite(variance) & (mean > 0) & (variance > read_noise**2)
    needed = 3 if model == "linear" else 10
    parameters = np.array([np.nan, 0.0])
    covariance = np.full((2, 2), np.nan)
    for _ in range(iterations):
        if used.sum() < needed:
            raise AlgorithmError(
                "too few flat cells for the gain", numbers={"cells": int(used.sum()), "needed": needed}
            )
        parameters, covariance = _fit(mean[used], variance[used], weight[used], read_noise, model)
        expected = _model(parameters, mean, read_noise)
        error = expected * np.sqrt(2.0 / np.maximum(weight, 1))  # of a variance from n Gaussian values
        keep = used & (np.abs(variance - expected) <= n_sigma * error)
        if keep.sum() < needed or np.array_equal(keep, used):
            break
        used = keep
    gain = float(parameters[0])
    return PhotonTransfer(
        gain, float(np.sqrt(covariance[0, 0])), float(read_noise * gain), float(parameters[1]),
        float(mean[used].max()), used,
    )  # fmt: skip


def _fit(
    mean: NDArray[np.floating],
    variance: NDArray[np.floating],
    weight: NDArray[np.floating],
    read_noise: float,
    model: str,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    start = np.median(mean / (variance - read_noise**2))
    spread = variance * np.sqrt(2.0 / weight)
    if model == "linear":
        # One parameter: least squares of v - n = mu / g in closed form.
        w = 1 / spread**2
        slope = np.sum(w * mean * (variance - read_noise**2)) / np.sum(w * mean**2)
        gain = 1 / slope
        return np.array([gain, 0.0]), np.diag([gain**4 / np.sum(w * mean**2), 0.0])
    unit = 1 / (start * mean.max())

    def residual(p: NDArray[np.floating]) -> NDArray[np.floating]:
        return (_model((p[0], p[1] * unit), mean, read_noise) - variance) / spread

    solution = least_squares(residual, [start, -1e-3], x_scale=[start, 1e-2])
    covariance = np.linalg.inv(solution.jac.T @ solution.jac)
    return np.array([solution.x[0], solution.x[1] * unit]), covariance * np.outer([1, unit], [1, unit])


def _model(
    parameters: NDArray[np.floating] | tuple[float, float], mean: NDArray[np.floating], read_noise: float
) -> NDArray[np.floating]:
    gain, a00 = parameters
    exponent = 2 * a00 * mean * gain
    growth = np.where(np.abs(exponent) > 1e-9, np.expm1(exponent) / np.where(exponent == 0, 1, exponent), 1.0)
    return mean / gain * growth + read_noise**2


def _edges(length: int, cell: int) -> NDArray[np.integer]:
    count = max(1, length // cell)
    return np.linspace(0, length, count + 1).astype(np.int64)
