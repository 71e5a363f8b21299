"""How far the variance plane is from the scatter of the sky."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.detection.filters import Smoothed
from starmill.errors import AlgorithmError
from starmill.numerics.statistics import quantiles

__all__ = ["IQR_TO_SIGMA", "smoothed_noise_scale", "variance_scale"]

IQR_TO_SIGMA = 0.741301109  # interquartile range of a Gaussian to its standard deviation
MIN_SAMPLE = 20  # fewer values say nothing about a width


def _width(values: NDArray[Any], what: str) -> float:
    """Return the standard deviation of a Gaussian with the same interquartile range."""
    n = int(np.count_nonzero(np.isfinite(values)))
    if n < MIN_SAMPLE:
        raise AlgorithmError(
            f"too few {what} to measure the noise", numbers={"found": n, "needed": MIN_SAMPLE}
        )
    low, high = quantiles(values, [0.25, 0.75])
    return float(IQR_TO_SIGMA * (high - low))


def variance_scale(image: NDArray[Any], variance: NDArray[Any], good: NDArray[np.bool_]) -> float:
    """Return the factor by which the variance must be multiplied to match the scatter of the sky.

    Parameters
    ----------
    image, variance : (ny, nx) arrays
        Background subtracted.
    good : (ny, nx) bool array
        Sky pixels: no source, no defect.

    Returns
    -------
    factor : float
        Square of the robust width of image / sqrt(variance); when that is zero, of the image over the median variance.

    Raises
    ------
    AlgorithmError
        When there are too few sky pixels.
    """
    usable = good & (variance > 0) & np.isfinite(image)
    sky, noise = np.asarray(image)[usable], np.asarray(variance)[usable]
    factor = _width(sky / np.sqrt(noise), "sky pixels") ** 2
    if factor > 0:
        return factor
    return _width(sky, "sky pixels") ** 2 / float(np.median(noise))


def smoothed_noise_scale(
    smoothed: Smoothed, positions: NDArray[np.int64], origin: tuple[int, int] = (0, 0)
) -> tuple[float, float]:
    """Return true noise over formal noise of the smoothed image, and its level, at sky positions.

    Parameters
    ----------
    smoothed : Smoothed
        With variance.
    positions : (n, 2) int array
        x, y of empty places, parent frame.
    origin : (x0, y0)
        Parent-frame position of the first pixel.

    Returns
    -------
    scale : float
        Robust width of the values at the positions over the median of their formal errors.
    level : float
        Median of the values, unit of the image.

    Raises
    ------
    AlgorithmError
        When too few positions have data.
    """
    if smoothed.variance is None:
        raise AlgorithmError(
            "the noise cannot be compared without a variance", numbers={"positions": len(positions)}
        )
    x, y = positions[:, 0] - origin[0], positions[:, 1] - origin[1]
    values, errors = smoothed.image[y, x], np.sqrt(smoothed.variance[y, x])
    good = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    width = _width(values[good], "sky positions")
    return width / float(np.median(errors[good])), float(np.median(values[good]))
