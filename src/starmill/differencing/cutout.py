"""Kernel of a cutout around one object: all pixels are fitted, those that changed are found and left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, uniform_filter

from starmill.datamodel.geometry import Box
from starmill.datamodel.psf import adaptive_moments
from starmill.differencing.kernel_basis import KernelBasis
from starmill.differencing.kernel_fit import KernelFit, KernelModel, fit_kernel
from starmill.differencing.seeing import Seeing, measure_seeing
from starmill.differencing.selection import thinned_images
from starmill.differencing.sides import Side, flux_ratio
from starmill.differencing.spatial_terms import SpatialTerms
from starmill.differencing.stamp_system import build_stamp_system
from starmill.differencing.stamps import StampSet, stamps_at
from starmill.differencing.subtract import convolve_image, subtract_convolved
from starmill.errors import AlgorithmError

__all__ = ["CutoutFit", "fit_cutout"]

DEGREES = (0, 2)
"""Highest degrees of the basis, one after the other."""

MODEL_ERROR = 0.1
"""Share of its light by which the model may be wrong where nothing changed."""

_ROUNDS = 6
_FAINT = 10.0  # signal-to-noise of the brightest 3 x 3 pixels
_LIMIT = 5.0  # standard deviations of a mean of 3 x 3 pixels: one in a million by chance


@dataclass(frozen=True)
class CutoutFit:
    """A kernel from all pixels of a small image.

    Attributes
    ----------
    stamps : StampSet
        One stamp, the whole cutout but its border.
    fit : KernelFit
    changed : (ny, nx) bool array
        Pixels that were left out because they differ.
    scale_error : float
        Relative error of the kernel sum without the brightest compact object: large when the scale rests on one
        object, whose own change would not be seen, or when that object and the others do not agree.
    light : float
        Signal-to-noise of the brightest 3 x 3 pixels of the matched reference.
    variance_scale : float
        At most 1: scatter over expected variance of what did not change. A coadd that was given the gain of one frame has
        less noise than its variance says.
    seeing : Seeing
        Of the target; measured on what changed when that is a bright point source and there are few stars.
    """

    stamps: StampSet
    fit: KernelFit
    changed: NDArray[np.bool_]
    scale_error: float
    light: float
    variance_scale: float
    seeing: Seeing


def fit_cutout(
    reference: Side,
    target: Side,
    basis: KernelBasis,
    box: Box,
    *,
    match_sigma: float,
    few_stars: int = 5,
    fixed_seeing: bool = False,
) -> CutoutFit:
    """Fit one kernel to all pixels of a cutout, without those that changed.

    Parameters
    ----------
    reference, target : Side
    basis : KernelBasis
    box : Box
        Of the cutout, parent frame.
    match_sigma : float
        See :func:`~starmill.differencing.stamp_system.build_stamp_system`.
    few_stars : int
        The seeing of a target with fewer stars is measured on what changed, if possible.
    fixed_seeing : bool
        Keep the seeing of the target.

    Returns
    -------
    found : CutoutFit

    Notes
    -----
    A model of few parameters, Gaussians alone, cannot follow a new source: its residual is where the source is. These
    pixels are left out, and the fit is repeated until they no longer change, then with a richer basis. Residuals of a
    tenth of the light are allowed: a stricter limit takes the bright star that tells the scale for something that
    changed.
    """
    ny, nx = target.image.shape
    half, border = (min(ny, nx) - 1) // 2 - basis.half_width, basis.half_width
    stamps = stamps_at([nx // 2], [ny // 2], (ny, nx), half_width=half, margin=border)
    changed = np.zeros((ny, nx), bool)
    for degree in DEGREES:
        images = thinned_images(basis, degree)
        fit = _solve(reference, target, changed, stamps, basis, images, box, match_sigma)
        for _ in range(_ROUNDS):
            best = fit
            difference, variance, bad, light = _residual(reference, target, changed, best, box)
            new = _changed_pixels(difference, variance, bad, changed, MODEL_ERROR * light)
            if (new == changed).all():
                break
            changed = new
            fit = _solve(reference, target, changed, stamps, basis, images, box, match_sigma)
        if _brightness(light, variance, bad) < _FAINT:
            break  # there is no light to tell the shape of the kernel from
    without = changed | _brightest(light, bad | changed, 2 * basis.half_width)
    try:
        rest = _solve(
            reference, target, without, stamps, basis, thinned_images(basis, DEGREES[0]), box, match_sigma
        )
        scale_error = _disagreement(rest, best)
    except AlgorithmError:
        scale_error = np.inf
    unchanged = ~(bad | changed)
    low, high = np.percentile((difference / np.sqrt(variance))[unchanged], [15.87, 84.13])
    variance_scale = min(float(high - low) / 2, 1.0) ** 2
    best = replace(best, covariance=best.covariance * variance_scale)
    seeing = target.seeing
    if not fixed_seeing and seeing.stars < few_stars:
        seeing = _seeing_of_change(difference, variance, bad, changed) or seeing
    if seeing is not target.seeing and _is_extended(light, bad | changed, seeing.sigma):
        scale_error = 0.0  # a galaxy does not vary as a whole
    return CutoutFit(
        stamps, best, changed, float(scale_error), _brightness(light, variance, bad), variance_scale, seeing
    )


def _solve(
    reference: Side,
    target: Side,
    changed: NDArray[np.bool_],
    stamps: StampSet,
    basis: KernelBasis,
    images: NDArray[np.integer],
    box: Box,
    match_sigma: float,
) -> KernelFit:
    """Fit a constant kernel to the pixels that did not change."""
    model = KernelModel(basis, SpatialTerms(box, 0), SpatialTerms(box, 0), images)
    hidden = replace(target, hidden=target.unfit | changed)

    def solve(noise_correction: float | None) -> KernelFit:
        system = build_stamp_system(
            reference.image, target.image, reference.variance, target.variance, reference.bad, hidden.unfit, stamps, basis,
            match_sigma=match_sigma, scale=flux_ratio(reference, target), origin=(box.x0, box.y0),
            noise_correction=noise_correction,
        )  # fmt: skip
        return fit_kernel(system, model, minimum=1)

    try:
        return solve(None)
    except AlgorithmError:
        return solve(0.0)  # with little light the matrix without its noise part is not positive


def _residual(
    reference: Side, target: Side, changed: NDArray[np.bool_], fit: KernelFit, box: Box
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    """Return the difference without its median, its variance, unusable pixels, and the light of the model."""
    convolved = convolve_image(
        reference.image, fit.kernel, variance=reference.variance, bad=reference.bad, origin=(box.x0, box.y0)
    )
    difference, variance = subtract_convolved(convolved, target.image, target.variance)
    bad = target.bad | reference.bad | (convolved.lost > 0.01)
    used = ~(bad | changed)
    if used.sum() < 50:  # fewer cannot hold a star
        raise AlgorithmError(
            "almost all pixels of the cutout differ or are unusable",
            numbers={"unusable": int(bad.sum()), "changed": int(changed.sum()), "pixels": bad.size},
        )
    light = np.abs(convolved.image - np.median(convolved.image[used]))
    return difference - np.median(difference[used]), variance, bad, light


def _changed_pixels(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    changed: NDArray[np.bool_],
    model_error: NDArray[np.floating] | float,
) -> NDArray[np.bool_]:
    """Return the pixels around significant means of 3 x 3 pixels of the difference."""
    pull = np.where(bad, 0, difference / np.sqrt(np.maximum(variance + model_error**2, 1e-30)))
    share = np.maximum(uniform_filter((~bad).astype(float), 3), 1 / 9)
    mean = 3 * uniform_filter(pull, 3) / np.sqrt(share)
    used = ~(bad | changed)
    width = max(1.0, 1.4826 * np.median(np.abs(mean[used])))  # MAD to sigma
    return binary_dilation((np.abs(mean) > _LIMIT * width) & ~bad, np.ones((3, 3)))


def _brightest(light: NDArray[np.floating], bad: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Return the disc around the brightest pixel of the model."""
    smooth = uniform_filter(np.where(bad, 0, light), 3)
    y, x = np.unravel_index(np.argmax(smooth), smooth.shape)
    v, u = np.indices(light.shape)
    return np.hypot(u - x, v - y) <= radius


def _is_extended(light: NDArray[np.floating], bad: NDArray[np.bool_], sigma: float) -> bool:
    """Tell whether the brightest object of the model is broader than the PSF."""
    smooth = uniform_filter(np.where(bad, 0, light), 3)
    y, x = np.unravel_index(np.argmax(smooth), smooth.shape)
    reach = int(np.ceil(4 * sigma))
    cut = light[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
    if cut.shape != (2 * reach + 1, 2 * reach + 1):
        return False
    xx, yy, xy = adaptive_moments(cut[None].astype(np.float64))[0]
    return bool(np.sqrt(np.sqrt(max(xx * yy - xy**2, 0))) > 1.3 * sigma)


def _disagreement(rest: KernelFit, best: KernelFit) -> float:
    """Return by how much two kernel sums differ when that is more than three errors, else the error; relative."""
    error = np.sqrt(max(rest.covariance[0, 0], 0)) / max(abs(rest.coefficients[0]), 1e-30)
    apart = abs(rest.coefficients[0] / best.coefficients[0] - 1)
    return apart if apart > 3 * error else error


def _brightness(light: NDArray[np.floating], variance: NDArray[np.floating], bad: NDArray[np.bool_]) -> float:
    """Return the largest signal-to-noise of 3 x 3 pixels of the model."""
    good = ~bad
    mean = uniform_filter(np.where(good, light, 0), 3) / np.sqrt(
        uniform_filter(np.where(good, variance, 0), 3) + 1e-30
    )
    return float(3 * mean[good].max())


def _seeing_of_change(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    changed: NDArray[np.bool_],
) -> Seeing | None:
    """Return the seeing of the brightest point source among what changed, or None."""
    at = changed & ~bad
    if not at.any():
        return None
    sign = np.sign(difference[at].sum()) or 1.0
    try:
        return measure_seeing(
            np.where(changed, sign * difference, 0).astype(np.float32), variance, bad, threshold=10
        )
    except AlgorithmError:
        return None
