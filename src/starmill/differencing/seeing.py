"""Size of the point-spread function of an image, measured on its bright objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from starmill.datamodel.psf import adaptive_moments, shift_images
from starmill.differencing.convolve import repair_bad
from starmill.differencing.stamps import choose_stamps
from starmill.errors import AlgorithmError

__all__ = ["Seeing", "bright_positions", "extend_profile", "faint_seeing", "measure_seeing"]

NARROWEST = 0.55  # pixels; an object whose light is in one pixel is a hot pixel or a cosmic ray


@dataclass(frozen=True)
class Seeing:
    """Mean PSF of an image.

    Attributes
    ----------
    sigma : float
        Determinant radius of the adaptive moments, pixels.
    psf_image : (m, m) array
        Total light 1, of which the image holds nearly all.
    stars : int
        Objects that were averaged.
    """

    sigma: float
    psf_image: np.ndarray
    stars: int


def measure_seeing(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    *,
    half_width: int = 12,
    threshold: float = 20.0,
) -> Seeing:
    """Measure the mean PSF of an image on those of its bright objects that have the most common size.

    Parameters
    ----------
    image, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
    half_width : int
        Of the PSF image; reduced on small images.
    threshold : float
        Signal-to-noise of the central pixel.

    Returns
    -------
    seeing : Seeing

    Raises
    ------
    AlgorithmError
        When no object can be measured.
    """
    half_width = max(4, min(half_width, min(image.shape) // 6))
    stamps = choose_stamps(
        image, image, bad, variance, half_width=half_width, margin=0, per_cell=5, threshold=threshold
    )
    cuts, moments = _centred_cutouts(repair_bad(image, bad), bad, stamps.x, stamps.y, half_width)
    if not len(cuts):
        raise AlgorithmError(
            "no object from which the seeing can be measured", numbers={"stamps": len(stamps), "usable": 0}
        )
    sigma = np.sqrt(np.sqrt(np.maximum(moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2, 1e-4)))
    # stars have one size; galaxies, blends and cosmic rays have many: take the most crowded part of the sizes
    pixels = sigma < NARROWEST
    if not pixels.all():
        cuts, sigma = cuts[~pixels], sigma[~pixels]
    width = 0.12 + 0.3 / np.sqrt(len(sigma))
    crowd = np.array([(np.abs(np.log(sigma / s)) < width).sum() for s in sigma])
    largest = sigma[crowd == crowd.max()]
    middle = np.median(largest)
    # between two crowds of equal number there may be no object
    nearest = largest[np.argmin(np.abs(largest - middle))]
    reference = middle if abs(np.log(nearest / middle)) < width else nearest
    stars = np.abs(np.log(sigma / reference)) < width
    psf_image = extend_profile(np.median(cuts[stars], axis=0))
    return Seeing(float(np.median(sigma[stars])), psf_image, int(stars.sum()))


def faint_seeing(
    image: NDArray[np.floating], variance: NDArray[np.floating], bad: NDArray[np.bool_]
) -> Seeing:
    """Return the seeing of the faint objects of a small image, which counts as of no stars; NaN when there are none.

    Parameters
    ----------
    image, variance, bad : (ny, nx) arrays
        As in :func:`measure_seeing`.
    """
    try:
        return replace(measure_seeing(image, variance, bad, threshold=5.0), stars=0)
    except AlgorithmError:
        return Seeing(np.nan, np.zeros((1, 1)), 0)


def extend_profile(stack: NDArray[np.floating], *, half_width: int = 25) -> NDArray[np.floating]:
    """Extend a stacked star to larger radii with a Moffat profile and normalise its total light to 1.

    A stack is noisy and its zero level uncertain where a star is faint, yet several per cent of the light are
    there: a profile normalised to its own sum would make every flux too small by as much.

    Parameters
    ----------
    stack : (m, m) array
        Centred star, any scale, a small constant may be left.
    half_width : int
        Of the result.

    Returns
    -------
    psf_image : (2 half_width + 1, 2 half_width + 1) array
        Its sum is the share of the light inside the box, slightly below 1.
    """
    if not (np.isfinite(stack).all() and stack.max() > 0):
        raise AlgorithmError("the mean star has no light", numbers={"peak": float(np.max(stack))})
    small = stack.shape[0] // 2
    y, x = np.mgrid[-half_width : half_width + 1, -half_width : half_width + 1]
    r2 = (x**2 + y**2).astype(np.float64)
    inner = np.s_[half_width - small : half_width + small + 1, half_width - small : half_width + small + 1]
    weight = 1 / np.sqrt(np.maximum(stack, 0) + 1e-3 * stack.max())

    def profile(parameters: NDArray[np.floating], at: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.exp(parameters[0]) * (1 + at / np.exp(parameters[1])) ** -np.clip(parameters[2], 1.5, 8)

    def residual(parameters: NDArray[np.floating]) -> NDArray[np.floating]:
        return ((profile(parameters, r2[inner]) + parameters[3] * stack.max() - stack) * weight).ravel()

    sigma2 = max((stack > stack.max() / 2).sum() / (2 * np.pi * np.log(2)), 0.5)
    start = [np.log(stack.max()), np.log(5 * sigma2), 3.0, 0.0]
    found = least_squares(residual, start).x
    beta = float(np.clip(found[2], 1.5, 8))
    full = profile(found, r2)
    full[inner] = np.where(r2[inner] <= (0.8 * small) ** 2, stack - found[3] * stack.max(), full[inner])
    outside = (
        np.pi
        * np.exp(found[0] + found[1])
        / (beta - 1)
        * (1 + half_width**2 / np.exp(found[1])) ** (1 - beta)
    )
    return full / (
        full.sum() + 0.8 * outside
    )  # about a fifth of what is outside the circle is in the corners


def _centred_cutouts(
    image: NDArray[np.floating],
    bad: NDArray[np.bool_],
    x: NDArray[np.integer],
    y: NDArray[np.integer],
    half_width: int,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return cutouts of unit core flux centred on the central pixel, and their adaptive moments."""
    side = 2 * half_width + 1
    cuts = []
    for column, row in zip(x, y, strict=True):
        part = np.s_[row - half_width : row + half_width + 1, column - half_width : column + half_width + 1]
        cut = np.asarray(image[part], np.float64)
        core = bad[row - 2 : row + 3, column - 2 : column + 3]
        if (
            cut.shape != (side, side) or core.any() or bad[part].mean() > 0.05
        ):  # a few repaired pixels do no harm
            continue
        border = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]])
        cut = cut - np.median(border)
        shift = _centroid_offset(cut)
        if shift is None or cut[half_width - 2 : half_width + 3, half_width - 2 : half_width + 3].sum() <= 0:
            continue
        cuts.append(shift_images(cut, -shift[0], -shift[1]))
    cuts = np.array(cuts).reshape(-1, side, side)
    moments = adaptive_moments(cuts) if len(cuts) else np.empty((0, 3))
    good = np.isfinite(moments).all(axis=1)
    cuts, moments = cuts[good], moments[good]
    core = cuts[:, half_width - 3 : half_width + 4, half_width - 3 : half_width + 4].sum(axis=(1, 2))
    positive = core > 0
    return cuts[positive] / core[positive][:, None, None], moments[positive]


def _centroid_offset(cut: NDArray[np.floating]) -> tuple[float, float] | None:
    """Return the offset (x, y) of the Gaussian-weighted centroid from the central pixel; None when it runs away."""
    half = cut.shape[0] // 2
    at = np.arange(-half, half + 1)
    dx = dy = 0.0
    for _ in range(20):
        weight = (
            np.exp(-0.125 * ((at[None, :] - dx) ** 2 + (at[:, None] - dy) ** 2)) * cut
        )  # sigma of 2 pixels
        total = weight.sum()
        if total <= 0:
            return None
        step_x = 2 * ((weight.sum(axis=0) @ at) / total - dx)
        step_y = 2 * ((weight.sum(axis=1) @ at) / total - dy)
        dx, dy = dx + step_x, dy + step_y
        if max(abs(dx), abs(dy)) > 1.5:
            return None
        if max(abs(step_x), abs(step_y)) < 1e-4:
            break
    return dx, dy


def bright_positions(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    *,
    threshold: float = 20.0,
    per_cell: int = 8,
) -> NDArray[np.floating]:
    """Return centroids of bright objects, brightest first, ``(n, 2)`` array positions x, y.

    Parameters
    ----------
    image, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
    threshold : float
        Signal-to-noise of the central pixel.
    per_cell : int
        Objects in each cell of a 10 by 10 grid.
    """
    stamps = choose_stamps(
        image, image, bad, variance, half_width=6, margin=0, per_cell=per_cell, threshold=threshold
    )
    found = []
    for x, y, signal in zip(stamps.x, stamps.y, stamps.signal_to_noise, strict=True):
        cut = np.asarray(image[y - 6 : y + 7, x - 6 : x + 7], np.float64)
        border = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]])
        offset = _centroid_offset(cut - np.median(border))
        if offset is not None:
            found.append((signal, x + offset[0], y + offset[1]))
    found = np.array(sorted(found, reverse=True)).reshape(-1, 3)
    return found[:, 1:]
