"""Variance of images that come without one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import AlgorithmError
from starmill.kernels.pixel_limits import poisson_variance

__all__ = ["PoissonVariance", "image_variance"]


class PoissonVariance:
    """Variance of an image from its own pixels, computed for the parts that are asked for: no plane is kept.

    Parameters
    ----------
    image : (ny, nx) array
        Counts above zero light.
    gain : float
        Electrons per count.
    floor : float
        Variance of a pixel without light, counts squared; also that of pixels that are not finite.
    """

    ndim = 2

    def __init__(self, image: NDArray[np.floating], gain: float, floor: float) -> None:
        self.image, self.gain, self.floor = image, np.float32(gain), np.float32(floor)
        self.shape = image.shape

    def __getitem__(self, part: tuple[Any, ...]) -> NDArray[np.floating]:
        """Return the variance of a part of the image as an array."""
        counts = np.asarray(self.image[part], np.float32)
        out = np.empty(counts.shape, np.float32)
        poisson_variance(np.atleast_2d(counts), self.gain, self.floor, np.atleast_2d(out))
        return out


def image_variance(
    image: NDArray[np.floating], bad: NDArray[np.bool_], *, gain: float = np.nan, read_noise: float = 0.0
) -> NDArray[np.floating]:
    """Return a variance plane from the gain, or from the scatter of the sky when the gain is not known.

    Parameters
    ----------
    image : (ny, nx) array
        May be sky-subtracted; NaN only where ``bad``.
    bad : (ny, nx) bool array
    gain : float
        Electrons per unit; NaN when unknown.
    read_noise : float
        Electrons.

    Returns
    -------
    variance : (ny, nx) float32 array
        The measured scatter of the sky plus the Poisson noise of the light above it, smoothed over 3 x 3 pixels
        so that it does not know the noise of its own pixel. Never below the scatter of the sky: an image whose
        sky was subtracted keeps the noise of that sky.
    """
    from scipy.ndimage import uniform_filter  # a quarter of a second that Poisson variances do not need

    good = ~bad & np.isfinite(image)
    if good.sum() < 100:
        raise AlgorithmError(
            "too few pixels to measure the noise", numbers={"usable": int(good.sum()), "needed": 100}
        )
    clean = np.where(good, image, 0).astype(np.float32)
    sky = float(np.median(clean[good]))
    spread = _pixel_scatter(clean, good)
    if not spread > 0:
        raise AlgorithmError(
            "the image has no noise: its sky is constant", numbers={"sky": sky, "usable": int(good.sum())}
        )
    floor = max(float(spread) ** 2, (read_noise / gain) ** 2 if np.isfinite(gain) else 0.0)
    if not (np.isfinite(gain) and gain > 0):
        return np.full(image.shape, floor, np.float32)
    light = uniform_filter(np.where(good, clean - np.float32(sky), 0), 3)
    return (np.float32(floor) + np.maximum(light, 0) / np.float32(gain)).astype(np.float32)


def _pixel_scatter(image: NDArray[np.floating], good: NDArray[np.bool_]) -> float:
    """Return the scatter of one pixel from differences of pixels five apart: neither gradients nor sources count."""
    pair = good[4:, 3:] & good[:-4, :-3]
    values = (image[4:, 3:] - image[:-4, :-3])[pair] / np.sqrt(2)
    for _ in range(5):
        low, high = np.percentile(values, [15.87, 84.13])
        spread = (high - low) / 2
        near = np.abs(values) < 3 * spread
        if near.all() or not near.any():
            break
        values = values[near]
    return float(spread) / 0.99  # what is lost by clipping at three standard deviations
