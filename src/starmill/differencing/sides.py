"""One image of a pair as the matching sees it: pixels, variance, unusable pixels, seeing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from starmill.differencing.seeing import Seeing

__all__ = ["Side", "flux_ratio", "sky_noise"]


@dataclass(frozen=True)
class Side:
    """The arrays of one image of a pair.

    Attributes
    ----------
    image, variance : (ny, nx) float32 arrays
        Any finite value at bad pixels.
    bad : (ny, nx) bool array
        Unusable pixels.
    seeing : Seeing
    hidden : (ny, nx) bool array, optional
        Good pixels that the kernel fit must not see.
    """

    image: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    seeing: Seeing
    hidden: np.ndarray | None = None

    @property
    def unfit(self):
        """Pixels that the kernel fit must not see, ``(ny, nx)`` bool."""
        return self.bad if self.hidden is None else self.bad | self.hidden


def flux_ratio(reference, target, cell=16):
    """Return the ratio of the light of both images, target over reference.

    Parameters
    ----------
    reference, target : Side
    cell : int
        Side of the cells in which light is added, pixels; much larger than the PSF.

    Returns
    -------
    ratio : float
        1 when there is too little light.
    """
    good = ~(reference.bad | target.bad)
    ny, nx = (max(side // cell, 1) * cell for side in good.shape)
    if ny > good.shape[0] or nx > good.shape[1]:
        return 1.0

    def cells(image):
        return image[:ny, :nx].reshape(ny // cell, cell, nx // cell, cell).mean(axis=(1, 3), dtype=np.float64)

    clean = cells(good.astype(np.float32)) > 0.999  # a saturated star would bias the ratio
    if clean.sum() < 10:
        return 1.0
    means = [cells(np.where(good, side.image, 0)) for side in (reference, target)]
    light = [(image - median_filter(image, 7, mode="nearest"))[clean] for image in means]  # without the sky
    bright = light[0] >= np.percentile(light[0], 97)
    positive = bright & (light[0] > 0)
    if not positive.any():
        return 1.0
    return float(np.clip(np.median(light[1][positive] / light[0][positive]), 1e-6, 1e6))


def sky_noise(target, reference):
    """Return the median variance of the target and of the reference."""
    medians = [float(np.median(side.variance[::5, ::5][~side.bad[::5, ::5]])) for side in (target, reference)]
    return medians[0], medians[1]
