"""Elliptical Moffat and Gaussian models of the PSF whose shape varies smoothly over the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.field import ConstantField
from starmill.datamodel.psf_models import MoffatPsf
from starmill.errors import AlgorithmError
from starmill.kernels.psf_fit import fit_profiles
from starmill.psf_modelling.spatial_fit import fit_parameter_fields, supported_order
from starmill.psf_modelling.star_scaling import stamp_weights

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.psf_modelling.candidates import StarStamps


_N_FOR_BETA = 100  # the brightest stars fix the wings, more add only time
_FIT_RADIUS = 8.0  # in sigma; wings further out hardly change the shape


@dataclass(frozen=True)
class ProfileFit:
    """Elliptical profiles fitted to stars one by one.

    Attributes
    ----------
    peak : (n,) float64, electron
    dx, dy : (n,) float64, pixel
        Centre relative to the centre of the central pixel.
    cxx, cyy, cxy : (n,) float64, pixel**2
        Inverse of the quadratic form of the profile: ``t = (dx, dy) C^-1 (dx, dy)``.
    background : (n,) float64, electron
    beta : float
        Moffat exponent shared by all stars; infinity for a Gaussian.
    reduced_chi2 : (n,) float64
    converged : (n,) bool
    flux : (n,) float64, electron
        Integral of the profile.
    """

    peak: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    cxx: NDArray[np.float64]
    cyy: NDArray[np.float64]
    cxy: NDArray[np.float64]
    background: NDArray[np.float64]
    beta: float
    reduced_chi2: NDArray[np.float64]
    converged: NDArray[np.bool_]

    @property
    def flux(self) -> NDArray[np.float64]:
        """Integral of each profile, electron."""
        area = np.sqrt(np.maximum(self.cxx * self.cyy - self.cxy**2, 0.0))
        shape = 2.0 * np.pi if np.isinf(self.beta) else np.pi / (self.beta - 1.0)
        return self.peak * area * shape


def fit_star_profiles(
    stamps: StarStamps,
    sigma: float,
    *,
    profile: str = "moffat",
    beta: float | None = None,
    radius: float | None = None,
    systematic: float = 0.02,
    max_iterations: int = 30,
) -> ProfileFit:
    """Fit an elliptical profile with a constant background to each star.

    Parameters
    ----------
    stamps : StarStamps
    sigma : float, pixel
        First guess of the width.
    profile : {'moffat', 'gaussian'}
    beta : float, optional
        Moffat exponent; fitted on the brightest stars (median) when absent.
    radius : float, pixel, optional
        Pixels further from the central pixel are not used; 8 ``sigma`` when absent.
    systematic : float
        Relative model error in the weights.
    max_iterations : int

    Returns
    -------
    fit : ProfileFit
    """
    weights = stamp_weights(stamps, systematic=systematic)
    if radius is None:
        radius = _FIT_RADIUS * sigma
    if radius < stamps.size // 2:
        half = stamps.size // 2
        yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
        weights = np.where(xx * xx + yy * yy <= radius * radius, weights, np.float32(0.0))
    gaussian = profile == "gaussian"
    start = _start_parameters(stamps, sigma, gaussian, 3.0 if beta is None else beta)
    if not gaussian and beta is None:
        order = np.argsort(start[:, 0])[::-1][:_N_FOR_BETA]
        trial = start[order].copy()
        _, _, converged = _run_fit(stamps.images[order], weights[order], trial, False, True, max_iterations)
        if converged.any():
            start[:, 7] = np.median(trial[converged, 7])
            start[:, 3:6] *= np.median(trial[converged, 3] + trial[converged, 5]) / np.median(
                start[order, 3] + start[order, 5]
            )
    chi2, used, converged = _run_fit(stamps.images, weights, start, gaussian, False, max_iterations)
    determinant = start[:, 3] * start[:, 5] - start[:, 4] ** 2
    return ProfileFit(
        peak=start[:, 0],
        dx=start[:, 1],
        dy=start[:, 2],
        cxx=start[:, 5] / determinant,
        cyy=start[:, 3] / determinant,
        cxy=-start[:, 4] / determinant,
        background=start[:, 6],
        beta=np.inf if gaussian else float(np.exp(start[0, 7])),
        reduced_chi2=chi2 / np.maximum(used - 7, 1),
        converged=converged & (start[:, 0] > 0),
    )


def _start_parameters(stamps: StarStamps, sigma: float, gaussian: bool, beta: float) -> NDArray[np.floating]:
    """Return the (n, 8) start values of the fit."""
    half = stamps.size // 2
    core = np.where(stamps.good, stamps.images, 0.0)[:, half - 1 : half + 2, half - 1 : half + 2]
    start = np.zeros((len(stamps), 8))
    start[:, 0] = np.maximum(core.max(axis=(1, 2)), 1e-3)
    start[:, 1], start[:, 2] = stamps.dx, stamps.dy
    if gaussian:
        q = 1.0 / sigma**2
    else:
        fwhm = 2.3548 * sigma  # Gaussian width to full width at half maximum
        q = 4.0 * (2.0 ** (1.0 / beta) - 1.0) / fwhm**2
    start[:, 3] = start[:, 5] = q
    start[:, 7] = np.log(beta)
    return start


def _run_fit(
    images: NDArray[np.floating],
    weights: NDArray[np.floating],
    parameters: NDArray[np.floating],
    gaussian: bool,
    fit_beta: bool,
    max_iterations: int,
) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.bool_]]:
    n = len(images)
    chi2, used, converged = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.bool_)
    images = np.ascontiguousarray(images, np.float32)
    weights = np.ascontiguousarray(weights, np.float32)
    fit_profiles(images, weights, parameters, gaussian, fit_beta, max_iterations, chi2, used, converged)
    return chi2, used, converged


def fit_moffat_psf(
    stamps: StarStamps,
    box: Box,
    sigma: float,
    *,
    profile: str = "moffat",
    size: int | None = None,
    order: int = 2,
    radius: float | None = None,
    min_stars: int = 1,
) -> tuple[MoffatPsf, ProfileFit, NDArray[np.bool_]]:
    """Fit an elliptical Moffat or Gaussian PSF with smooth spatial variation.

    Parameters
    ----------
    stamps : StarStamps
    box : Box
        Where the PSF is meant to be used.
    sigma : float, pixel
        First guess of the width.
    profile : {'moffat', 'gaussian'}
    size : int, optional
        Side of the PSF images; that of the stamps when absent.
    order : int
        Largest total Chebyshev order of the three shape parameters, lowered for few stars.
    radius : float, pixel, optional
        Fit radius.
    min_stars : int
        Fewer converged fits raise an error.

    Returns
    -------
    psf : MoffatPsf
    fit : ProfileFit
    used : (n,) bool
        Stars that the spatial fit kept.

    Raises
    ------
    AlgorithmError
        Too few fits converged.
    """
    fit = fit_star_profiles(stamps, sigma, profile=profile, radius=radius)
    usable = fit.converged & (np.hypot(fit.dx - stamps.dx, fit.dy - stamps.dy) < max(2.0, sigma))
    if usable.sum() < max(min_stars, 1):
        raise AlgorithmError(
            f"the {profile} fit converged for {int(usable.sum())} of {len(stamps)} stars, {min_stars} are needed",
            numbers={"stars": len(stamps), "converged": int(usable.sum()), "needed": min_stars},
        )
    snr2 = fit.peak**2 / (stamps.sky_variance + stamps.gain_slope * np.maximum(fit.peak, 0))
    weights = np.where(usable, 1.0 / (1.0 / np.maximum(snr2, 1e-9) + 0.01**2), 0.0)
    area = np.sqrt(fit.cxx * fit.cyy - fit.cxy**2)
    per_area = 8.0 * np.log(2.0) if np.isinf(fit.beta) else 4.0 * (2.0 ** (1.0 / fit.beta) - 1.0)
    trace = fit.cxx + fit.cyy
    values = np.stack([np.sqrt(per_area * area), (fit.cxx - fit.cyy) / trace, 2.0 * fit.cxy / trace], axis=1)
    fields, kept = fit_parameter_fields(
        values, weights, stamps.x, stamps.y, box, supported_order(int(usable.sum()), order)
    )
    position = (float(np.mean(stamps.x[kept])), float(np.mean(stamps.y[kept])))
    psf = MoffatPsf(*fields, ConstantField(box, fit.beta), size or stamps.size, average_position=position)
    return psf, fit, kept
