"""Charge that already sits in a pixel pushes later charge into its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import AlgorithmError, InputError

__all__ = ["BrighterFatterFit", "correct_brighter_fatter", "kernel_from_covariances"]


@dataclass(frozen=True)
class BrighterFatterFit:
    """Result of :func:`correct_brighter_fatter`.

    Attributes
    ----------
    correction : (ny, nx) float32 array, electron
        To be added to the image.
    iterations : int
    change : float, electron
        Sum of absolute changes in the last iteration.
    converged : bool
    """

    correction: np.ndarray
    iterations: int
    change: float
    converged: bool


def correct_brighter_fatter(
    image: NDArray[Any],
    kernel: NDArray[Any],
    *,
    max_iterations: int = 10,
    threshold: float = 1000.0,
    conserve_flux: bool = True,
) -> BrighterFatterFit:
    """Undo the brighter-fatter effect with a scalar kernel.

    Iterates ``F <- image + C(F)`` with ``C = div(F grad(K * F)) / 2``; K * F is a convolution.

    Parameters
    ----------
    image : (ny, nx) array, electron
        Bad pixels should be interpolated; NaN counts as zero.
    kernel : (k, k) array, 1/electron
        Odd side.
    max_iterations : int
    threshold : float, electron
        The iteration ends when the sum of absolute changes is below it.
    conserve_flux : bool
        Move charge across pixel faces, so that none is lost (the flux of a face is taken with the
        mean charge of its two pixels). False: the expanded form ``[grad F . grad(K*F) + F lap(K*F)] / 2``
        with central differences, which loses flux around undersampled peaks.

    Returns
    -------
    fit : BrighterFatterFit
        The outer half-kernel border has zero correction.

    References
    ----------
    Coulton et al. 2018, AJ 155, 258, equations 20-22.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise InputError(f"a brighter-fatter kernel is square with an odd side, this one is {kernel.shape}")
    from scipy.signal import fftconvolve  # takes a second to import, and few frames need it

    start = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    border = kernel.shape[0] // 2
    if min(start.shape) <= 2 * border + 2:
        raise AlgorithmError(
            "the image is too small for the brighter-fatter kernel",
            numbers={"rows": start.shape[0], "columns": start.shape[1], "kernel": kernel.shape[0]},
        )
    inner = (slice(border, -border or None), slice(border, -border or None))
    current, change, steps = start, np.inf, 0
    correction = np.zeros_like(start)
    for steps in range(1, max_iterations + 1):  # noqa: B007
        potential = fftconvolve(current, kernel, mode="same")
        correction = np.zeros_like(start)
        if conserve_flux:  # faces between inner pixels only: no charge crosses the border
            correction[inner] = _face_fluxes(current[inner], potential[inner])
        else:
            correction[inner] = _expanded(current, potential)[inner]
        change = float(np.abs(start + correction - current).sum())
        current = start + correction
        if change < threshold:
            break
    return BrighterFatterFit(correction.astype(np.float32), steps, change, change < threshold)


def kernel_from_covariances(
    covariances: NDArray[Any], mean: float, *, max_iterations: int = 10000, tolerance: float = 5e-14
) -> NDArray[Any]:
    """Brighter-fatter kernel from the covariances of flats.

    Solves ``laplacian K = -C / (2 mu^2)`` with K = 0 outside by successive over-relaxation, after
    making the right side sum to zero, as charge is conserved.

    Parameters
    ----------
    covariances : (n, n) array, electron^2
        Quarter of the symmetric covariances, lag (0, 0) first, with the photon noise ``mu`` already
        subtracted from the zero lag.
    mean : float, electron
        Level of the flats.
    max_iterations, tolerance : int, float

    Returns
    -------
    kernel : (2 n - 1, 2 n - 1) array, 1/electron

    References
    ----------
    Coulton et al. 2018, AJ 155, 258, section 4.
    """
    quarter = np.asarray(covariances, np.float64)
    source = -_full(quarter) / (2 * mean**2)
    centre = source.shape[0] // 2
    source[centre, centre] -= source.sum()
    padded = np.zeros((source.shape[0] + 2, source.shape[1] + 2))
    n = source.shape[0]
    radius = (np.cos(np.pi / (n + 1)) + np.cos(np.pi / (n + 1))) / 2  # spectral radius of Jacobi's iteration
    omega = 2 / (1 + np.sqrt(1 - radius**2))
    checker = np.indices(source.shape).sum(axis=0) % 2
    scale = np.abs(source).sum() or 1.0
    for _ in range(max_iterations):
        total = 0.0
        for colour in (0, 1):
            neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
            residual = np.where(checker == colour, neighbours - 4 * padded[1:-1, 1:-1] - source, 0.0)
            padded[1:-1, 1:-1] += omega * residual / 4
            total += np.abs(residual).sum()
        if total <= tolerance * scale:
            break
    return padded[1:-1, 1:-1].copy()


def _face_fluxes(charge: NDArray[np.floating], potential: NDArray[np.floating]) -> NDArray[np.floating]:
    result = np.zeros_like(charge)
    across_x = 0.25 * (charge[:, 1:] + charge[:, :-1]) * np.diff(potential, axis=1)
    across_y = 0.25 * (charge[1:] + charge[:-1]) * np.diff(potential, axis=0)
    result[:, :-1] += across_x
    result[:, 1:] -= across_x
    result[:-1] += across_y
    result[1:] -= across_y
    return result


def _expanded(charge: NDArray[np.floating], potential: NDArray[np.floating]) -> NDArray[np.floating]:
    gy, gx = np.gradient(charge)
    py, px = np.gradient(potential)
    laplacian = np.zeros_like(charge)
    laplacian[1:-1] += potential[2:] - 2 * potential[1:-1] + potential[:-2]
    laplacian[:, 1:-1] += potential[:, 2:] - 2 * potential[:, 1:-1] + potential[:, :-2]
    return 0.5 * (gx * px + gy * py + charge * laplacian)


def _full(quarter: NDArray[np.floating]) -> NDArray[np.floating]:
    half = np.concatenate([quarter[:0:-1], quarter], axis=0)
    return np.concatenate([half[:, :0:-1], half], axis=1)
