"""One image of a pair as the matching sees it: pixels, variance, unusable pixels, seeing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from starmill.datamodel.geometry import Box
from starmill.differencing.seeing import Seeing
from starmill.differencing.wings import RingLight
from starmill.errors import AlgorithmError

__all__ = ["Side", "discs", "flux_ratio", "sky_noise", "with_some_seeing"]


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
    _rings: dict[int, RingLight] = field(default_factory=dict, init=False, repr=False, compare=False)

    def ring_light(self, core_half_width: int) -> RingLight:
        """Return what rings outside a kernel core carry of this image; kept for the next image of the same template."""
        if core_half_width not in self._rings:
            self._rings[core_half_width] = RingLight.of(self.image, self.bad, core_half_width)
        return self._rings[core_half_width]

    @property
    def unfit(self) -> NDArray[np.bool_]:
        """Pixels that the kernel fit must not see, ``(ny, nx)`` bool."""
        return self.bad if self.hidden is None else self.bad | self.hidden


def flux_ratio(reference: Side, target: Side, cell: int = 16) -> float:
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

    def cells(image: NDArray[np.floating]) -> NDArray[np.floating]:
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


def sky_noise(target: Side, reference: Side) -> tuple[float, float]:
    """Return the median variance of the target and of the reference."""
    medians = [float(np.median(side.variance[::5, ::5][~side.bad[::5, ::5]])) for side in (target, reference)]
    return medians[0], medians[1]


def discs(box: Box, x: NDArray[Any], y: NDArray[Any], radius: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels whose centres are inside any of some discs.

    Parameters
    ----------
    box : Box
        Of the image.
    x, y : (n,) arrays
        Centres, parent frame; they may be outside.
    radius : (n,) array
        Pixels.

    Returns
    -------
    inside : (ny, nx) bool array
    """
    inside = np.zeros(box.shape, bool)
    for a, b, r in zip(x - box.x0, y - box.y0, radius, strict=True):
        top, left = (max(int(np.ceil(c - r)), 0) for c in (b, a))
        part = np.s_[top : max(int(b + r) + 1, 0), left : max(int(a + r) + 1, 0)]
        v, u = np.indices(inside[part].shape)
        inside[part] |= (u + left - a) ** 2 + (v + top - b) ** 2 <= r**2
    return inside


def with_some_seeing(sides: dict[str, Side]) -> dict[str, Side]:
    """Return the images of a pair, one without a measurable object with the seeing of the other.

    Parameters
    ----------
    sides : dict of str to Side

    Raises
    ------
    AlgorithmError
        When neither has an object.
    """
    known = [side.seeing for side in sides.values() if np.isfinite(side.seeing.sigma)]
    if not known:
        ny, nx = next(iter(sides.values())).bad.shape
        raise AlgorithmError(
            "neither image has an object from which the seeing can be measured; give psf_fwhm",
            numbers={"height": ny, "width": nx, "signal_to_noise_needed": 5},
        )
    return {
        name: side if np.isfinite(side.seeing.sigma) else replace(side, seeing=replace(known[0], stars=0))
        for name, side in sides.items()
    }
