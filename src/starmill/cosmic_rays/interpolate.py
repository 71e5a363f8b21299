"""Replacement of bad pixels by linear prediction from their good neighbours.

The prediction is that of least error for a field with the correlation rho(d) = exp(-d**2 / (4 sigma**2)),
white noise seen through a Gaussian point-spread function, whose mean is not known: the weights
w = C^-1 (c + lambda 1), with C_ij = rho(x_i - x_j), c_i = rho(x_i - x_0), and lambda such that the weights sum to
one (ordinary kriging; Press, Rybicki 1992, ApJ 398, 169, give the same estimator for time series).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError
from starmill.kernels import defects as kernel

LONGEST_RUN = 22  # beyond, the ends do not feel each other: exp(-(11 / 2)**2) = 7e-14
EDGE_MARGIN = 6


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Result of filling bad pixels.

    Attributes
    ----------
    image, variance : (ny, nx) float32 arrays
        New arrays; ``variance`` is None when none was given.
    filled : (ny, nx) bool array
        Pixels whose value was predicted. Bad pixels of a row without any good pixel are not among them; they
        hold the fallback value.
    n_runs : int
        Number of runs of bad pixels that were filled.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    filled: NDArray[np.bool_]
    n_runs: int


def prediction_weights(
    positions: NDArray[np.float64], target: NDArray[np.float64] | float, sigma: float = 1.0
) -> NDArray[np.float64]:
    """Weights of good pixels in the best prediction of a bad one.

    Parameters
    ----------
    positions : (n,) or (n, dimensions) array, pixels
        The good pixels.
    target : float or (dimensions,) array, pixels
        The bad pixel.
    sigma : float, pixels
        Width of the point-spread function.

    Returns
    -------
    weights : (n,) array
        Their sum is one.
    """
    points = np.asarray(positions, dtype=np.float64)
    points = points.reshape(len(points), -1)
    offsets = points[:, None, :] - points[None, :, :]
    correlation = np.exp(-np.sum(offsets**2, axis=-1) / (4 * sigma**2))
    towards = np.exp(-np.sum((points - np.asarray(target)) ** 2, axis=-1) / (4 * sigma**2))
    solved = np.linalg.solve(correlation, np.column_stack([towards, np.ones(len(points))]))
    multiplier = (1.0 - solved[:, 0].sum()) / solved[:, 1].sum()
    return solved[:, 0] + multiplier * solved[:, 1]


@lru_cache(maxsize=8)
def run_weights(sigma: float = 1.0, longest: int = LONGEST_RUN, spacing: float = 1.0) -> NDArray[np.float64]:
    """Weights for every pattern of neighbours of a run of bad pixels.

    Parameters
    ----------
    sigma : float, pixels
        Width of the point-spread function.
    longest : int
        Longest run in the table.
    spacing : float, pixels
        Distance of successive pixels (sqrt(2) along a diagonal).

    Returns
    -------
    table : (3, 3, longest + 1, longest, 4) array
        ``table[n_left, n_right, length, place]`` are the weights of the pixels (second left, first left, first
        right, second right) of the run.
    """
    table = np.zeros((3, 3, longest + 1, longest, 4))
    for n_left in range(3):
        for n_right in range(3):
            if n_left + n_right == 0:
                continue
            for length in range(1, longest + 1):
                places = [-2, -1, length, length + 1]
                use = list(range(2 - n_left, 2 + n_right))
                positions = np.array([places[i] for i in use], dtype=np.float64) * spacing
                for place in range(length):
                    table[n_left, n_right, length, place, use] = prediction_weights(
                        positions, place * spacing, sigma
                    )
    table.setflags(write=False)
    return table


def interpolate_rows(
    image: NDArray[np.floating],
    bad: NDArray[np.bool_],
    variance: NDArray[np.floating] | None = None,
    *,
    sigma: float = 1.0,
    fallback: float = 0.0,
    fallback_at_edge: bool = False,
) -> Interpolation:
    """Fill bad pixels from up to two good neighbours on each side in their row.

    Parameters
    ----------
    image : (ny, nx) array
        Pixels that are not finite are never used as neighbours; they are only replaced where ``bad``.
    bad : (ny, nx) bool array
        Pixels to replace.
    variance : (ny, nx) array, optional
        Variance plane; filled with the same weights, never below zero.
    sigma : float, pixels
        Width of the point-spread function; 1 gives the usual coefficients for well sampled images.
    fallback : float
        Value of bad pixels in rows without any good pixel, and far from the data at an edge.
    fallback_at_edge : bool
        Of runs that touch the edge and are longer than 6 pixels, predict only the 6 next to the data, the
        others take ``fallback``; otherwise all are predicted from the one side.

    Returns
    -------
    interpolation : Interpolation

    Notes
    -----
    Runs longer than 22 pixels take the constant weights of the middle of such a run away from their ends.
    """
    if image.shape != bad.shape or (variance is not None and variance.shape != image.shape):
        shape = None if variance is None else variance.shape
        raise InputError(
            f"image {image.shape}, bad pixels {bad.shape} and variance {shape} have different shapes"
        )
    new_image = np.array(image, dtype=np.float32)
    new_variance = np.empty((0, 0), np.float32) if variance is None else np.array(variance, dtype=np.float32)
    unusable = bad | ~np.isfinite(new_image)
    if variance is not None:
        unusable |= ~np.isfinite(new_variance)
    filled = np.zeros(image.shape, bool)
    margin = EDGE_MARGIN if fallback_at_edge else 0
    n_runs = kernel.interpolate_rows(
        new_image, new_variance, unusable, run_weights(float(sigma)), margin, float(fallback), filled
    )
    untouched = unusable & ~bad
    if untouched.any():
        new_image[untouched] = image[untouched]
        filled &= bad
        if variance is not None:
            new_variance[untouched] = variance[untouched]
    if variance is not None:
        new_variance[filled] = np.maximum(new_variance[filled], 0.0)
    return Interpolation(new_image, None if variance is None else new_variance, filled, int(n_runs))


def interpolate_flagged(
    image: NDArray[np.float32],
    mask: NDArray[np.int32],
    variance: NDArray[np.float32] | None,
    *,
    bits: int,
    set_bits: int,
    sigma: float = 1.0,
    fallback: float = 0.0,
) -> int:
    """Fill flagged pixels in place: :func:`interpolate_rows` without copies, for frames with few bad pixels.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
        All pixels finite. Changed; the variance may be None.
    mask : (ny, nx) int32 array
        Pixels with any of ``bits`` are replaced; those that were predicted get ``set_bits``.
    bits, set_bits : int
    sigma : float, pixels
        Width of the point-spread function.
    fallback : float
        Value of flagged pixels in rows without any good pixel.

    Returns
    -------
    n_runs : int
        Number of runs filled.
    """
    if image.shape != mask.shape or (variance is not None and variance.shape != image.shape):
        shape = None if variance is None else variance.shape
        raise InputError(f"image {image.shape}, mask {mask.shape} and variance {shape} have different shapes")
    noise = np.empty((0, 0), np.float32) if variance is None else variance
    return int(
        kernel.repair_flagged(
            image, noise, mask, int(bits), int(set_bits), run_weights(float(sigma)), float(fallback)
        )
    )
