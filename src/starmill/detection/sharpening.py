"""Peaks that the smoothing of the detection has merged, found on a sharpened image.

Two stars one FWHM apart have two peaks on the image but one on the smoothed image. Inside the footprints
the image is filtered with a narrow minus a wide Gaussian, which is the second derivative of the light at the
scale of the point-spread function, and significant maxima of the response become peaks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.detection.footprints import sort_peaks
from starmill.errors import InputError
from starmill.kernels.sharpening import sharp_peaks

__all__ = ["sharpen_peaks", "sharpening_stencil"]


def sharpening_stencil(sigma: float, narrow: float = 0.5, wide: float = 0.6) -> NDArray[np.float64]:
    """Return a narrow minus a wide Gaussian.

    Parameters
    ----------
    sigma : float, pixel
        Of the point-spread function.
    narrow, wide : float
        Sigmas of the two Gaussians in units of ``sigma``.

    Returns
    -------
    stencil : (size, size) array
        Sum zero; each Gaussian has sum one.
    """
    half = max(2, int(np.ceil(2.5 * wide * sigma)))
    r2 = np.add.outer(np.arange(-half, half + 1) ** 2, np.arange(-half, half + 1) ** 2)
    first, second = (np.exp(-0.5 * r2 / (factor * sigma) ** 2) for factor in (narrow, wide))
    return first / first.sum() - second / second.sum()


def sharpen_peaks(
    image: NDArray[Any],
    variance: NDArray[Any],
    footprints: FootprintSet,
    sigma: float,
    *,
    smoothed: NDArray[np.float32] | None = None,
    smoothed_variance: NDArray[np.float32] | None = None,
    avoid: NDArray[np.bool_] | None = None,
    origin: tuple[int, int] = (0, 0),
    n_sigma: float = 4.0,
    depth: float = 0.01,
    min_separation: float = 1.2,
) -> FootprintSet:
    """Replace peaks by two or more significant peaks of the sharpened image near them.

    Parameters
    ----------
    image, variance : (ny, nx) arrays
        Not smoothed, background subtracted.
    footprints : FootprintSet
        As detected, before growth; inside the image.
    sigma : float, pixel
        Of the point-spread function.
    smoothed, smoothed_variance : (ny, nx) float32 arrays, optional
        Give value and significance of the new peaks; the image itself when not given.
    avoid : (ny, nx) bool array, optional
        Pixels that do not show the sky as it is, such as saturated ones: no new peak within 1.5 FWHM of them.
    origin : (x0, y0)
        Parent-frame position of the first pixel.
    n_sigma : float
        Significance of the drop of the response between two peaks.
    depth : float
        Smallest drop, as a part of the response of the brighter peak.
    min_separation : float
        A new peak belongs to an old one within this multiple of the FWHM.

    Returns
    -------
    footprints : FootprintSet
    """
    if sigma <= 0:
        raise InputError(f"the sigma of the point-spread function must be positive, it is {sigma}")
    if not len(footprints):
        return footprints
    image = np.ascontiguousarray(image, np.float32)
    variance = np.ascontiguousarray(variance, np.float32)
    shift = np.array([origin[1], origin[0], origin[0]], np.int32)
    local = footprints.spans - shift
    box = Box.from_shape(image.shape)
    if len(local) and not (
        (local.min(0) >= 0).all() and local[:, 0].max() < box.height and local[:, 2].max() < box.width
    ):
        raise InputError("footprints reach outside the image")
    fwhm = 2.3548 * sigma
    found = sharp_peaks(
        image, variance, np.ascontiguousarray(local), footprints.span_offsets, sharpening_stencil(sigma),
        n_sigma, depth, 4.0 * fwhm,
    )  # fmt: skip
    if avoid is not None:
        found = found[~_near_avoided(avoid, found[:, 1], found[:, 2], int(np.ceil(1.5 * fwhm)))]
    owner, y, x = found.T
    new = np.zeros(len(found), PEAK_DTYPE)
    new["x"], new["y"] = x + origin[0], y + origin[1]
    new["value"] = (image if smoothed is None else smoothed)[y, x]
    error = np.sqrt((variance if smoothed_variance is None else smoothed_variance)[y, x])
    with np.errstate(divide="ignore", invalid="ignore"):
        new["significance"] = new["value"] / error
    old_owner = np.repeat(np.arange(len(footprints)), footprints.n_peaks)
    keep, added = _choose(footprints.peaks, old_owner, new, owner, min_separation * fwhm)
    peaks, offsets = sort_peaks(
        np.concatenate([old_owner[keep], owner[added]]),
        np.concatenate([footprints.peaks[keep], new[added]]),
        len(footprints),
    )
    return FootprintSet(footprints.spans, footprints.span_offsets, peaks, offsets)


def _near_avoided(
    avoid: NDArray[np.bool_], y: NDArray[np.int64], x: NDArray[np.int64], reach: int
) -> NDArray[np.bool_]:
    """Tell which pixels have one to avoid within a square of half side ``reach``."""
    near = np.zeros(len(y), bool)
    for dy in range(-reach, reach + 1):
        rows = np.clip(y + dy, 0, avoid.shape[0] - 1)
        for dx in range(-reach, reach + 1):
            near |= avoid[rows, np.clip(x + dx, 0, avoid.shape[1] - 1)]
    return near


def _choose(
    old: NDArray[Any],
    old_owner: NDArray[np.int64],
    new: NDArray[Any],
    new_owner: NDArray[np.int64],
    radius: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which old and which new peaks stay.

    An old peak gives way to the new peaks for which it is the nearest within the radius, if they are at least two;
    a single one is the same source, whose old position is less noisy.
    """
    if not len(new) or not len(old):
        return np.ones(len(old), bool), np.ones(len(new), bool)
    far = 4.0 * radius  # footprints are put into layers of a third dimension
    tree = cKDTree(np.c_[old["x"], old["y"], far * old_owner])
    distance, nearest = tree.query(np.c_[new["x"], new["y"], far * new_owner])
    near = distance <= radius
    claims = np.bincount(nearest[near], minlength=len(old))
    return claims < 2, ~near | (claims[nearest] >= 2)
