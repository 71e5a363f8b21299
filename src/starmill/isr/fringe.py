"""Interference fringes of the night sky in thin detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starmill.errors import AlgorithmError
from starmill.numerics.statistics import robust_sigma

__all__ = ["FringeFit", "fit_fringes", "subtract_fringes"]


@dataclass(frozen=True)
class FringeFit:
    """Result of :func:`fit_fringes`.

    Attributes
    ----------
    amplitudes : (n,) array
        Factor of every fringe frame.
    pedestal : float, electron
    rms : float, electron
        Scatter of the kept samples.
    used : int
        Samples that survived clipping.
    """

    amplitudes: np.ndarray
    pedestal: float
    rms: float
    used: int


def fit_fringes(
    image: NDArray[Any],
    fringes: Sequence[NDArray[Any]],
    mask: NDArray[Any] | None = None,
    *,
    samples: int = 30000,
    small: int = 3,
    large: int = 30,
    n_sigma: float = 3.0,
    iterations: int = 20,
    seed: int = 0,
) -> FringeFit:
    """Amplitudes of fringe frames in an image.

    At random positions the median of a large box is subtracted from the median of a small one, in
    the image and in every fringe frame; the amplitudes are a clipped least-squares fit of these
    contrasts.

    Parameters
    ----------
    image : (ny, nx) array, electron
    fringes : list of (ny, nx) arrays
    mask : (ny, nx) bool array, optional
        True on pixels not to use (detected sources too).
    samples : int
    small, large : int
        Half sizes of the boxes, pixels.
    n_sigma, iterations : float, int
    seed : int
        Of the positions; use the exposure's number.

    Returns
    -------
    fit : FringeFit
    """
    ny, nx = image.shape
    if min(ny, nx) <= 2 * large + 1:
        raise AlgorithmError(
            "the image is too small for fringes", numbers={"rows": ny, "columns": nx, "box": large}
        )
    rng = np.random.default_rng(seed)
    x = rng.integers(large, nx - large, samples)
    y = rng.integers(large, ny - large, samples)
    science = _contrast(np.where(mask, np.nan, image) if mask is not None else image, x, y, small, large)
    templates = np.stack([_contrast(fringe, x, y, small, large) for fringe in fringes], axis=1)
    design = np.column_stack([templates, np.ones(samples)])
    good = np.isfinite(science) & np.isfinite(design).all(axis=1)
    solution, rms = np.zeros(design.shape[1]), np.nan
    for _ in range(iterations):
        if good.sum() < 10 * design.shape[1]:
            raise AlgorithmError(
                "too few samples for the fringe fit",
                numbers={"samples": int(good.sum()), "needed": 10 * design.shape[1]},
            )
        solution = np.linalg.lstsq(design[good], science[good], rcond=None)[0]
        residual = science - design @ solution
        rms = robust_sigma(residual[good])
        keep = good & (np.abs(residual) <= n_sigma * rms)
        if rms == 0 or np.array_equal(keep, good):
            break
        good = keep
    return FringeFit(solution[:-1], float(solution[-1]), float(rms), int(good.sum()))


def subtract_fringes(
    image: NDArray[Any], fringes: Sequence[NDArray[Any]], amplitudes: ArrayLike
) -> NDArray[np.float32]:
    """Return ``image - sum_k amplitudes[k] fringes[k]``, float32, electron."""
    result = np.array(image, np.float32)
    for amplitude, fringe in zip(amplitudes, fringes, strict=True):
        result -= np.float32(amplitude) * fringe
    return result


def _contrast(
    image: NDArray[np.floating],
    x: NDArray[np.integer],
    y: NDArray[np.integer],
    small: int,
    large: int,
    batch: int = 500,
) -> NDArray[np.floating]:
    values = np.empty(x.size)
    offsets = {half: np.arange(-half, half + 1) for half in (small, large)}
    every = slice(None, None, max(1, large // 8))  # a sixteenth of the large box is enough for its median
    for start in range(0, x.size, batch):
        part = slice(start, start + batch)
        levels = []
        for half, step in ((small, slice(None)), (large, every)):
            offset = offsets[half][step]
            rows = y[part, None, None] + offset[None, :, None]
            columns = x[part, None, None] + offset[None, None, :]
            pixels = image[rows, columns].reshape(len(rows), -1)
            levels.append(_row_medians(pixels))
        values[part] = levels[0] - levels[1]
    return values


def _row_medians(pixels: NDArray[np.floating]) -> NDArray[np.floating]:
    finite = np.isfinite(pixels)
    medians = np.full(len(pixels), np.nan)
    complete = finite.all(axis=1)
    if complete.any():
        medians[complete] = np.median(pixels[complete], axis=1)
    for row in np.flatnonzero(~complete & (finite.sum(axis=1) > pixels.shape[1] // 2)):
        medians[row] = np.median(pixels[row, finite[row]])
    return medians
