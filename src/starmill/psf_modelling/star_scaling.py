"""Weights of star stamps, and the linear fit of a PSF model to each star: flux, shift, background, size, ellipticity.

The model of a star to first order around the PSF image ``M``::

    D = F M - F (sx dM/dx + sy dM/dy) + b - F [ s (2M + x.grad M) + g1 (x dM/dx - y dM/dy) + g2 (x dM/dy + y dM/dx) ]

``s`` is the relative excess in size, ``(g1, g2)`` the excess in reduced shear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starmill.kernels.psf_fit import scale_normals, star_residuals, star_weights

if TYPE_CHECKING:
    from starmill.psf_modelling.candidates import StarStamps


_SYSTEMATIC = 0.02  # model error in the weights, so that one bright star does not rule


@dataclass(frozen=True)
class StarScales:
    """How each star differs from the PSF model at its place.

    Attributes
    ----------
    flux, flux_err : (n,) float64, electron
    shift_x, shift_y : (n,) float64, pixel
        True centre minus the position that was used.
    background : (n,) float64, electron
    size, g1, g2 : (n,) float64
        Relative excess in size and excess in shear; zero when they were not fitted.
    shape_err : (n,) float64
        Error of ``size``, ``g1``, ``g2``.
    reduced_chi2 : (n,) float64
    residual : (n, size, size) float32, electron
        Data minus flux x model, shifted to first order, minus background; zero in unusable pixels.
    """

    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    shift_x: NDArray[np.float64]
    shift_y: NDArray[np.float64]
    background: NDArray[np.float64]
    size: NDArray[np.float64]
    g1: NDArray[np.float64]
    g2: NDArray[np.float64]
    shape_err: NDArray[np.float64]
    reduced_chi2: NDArray[np.float64]
    residual: NDArray[np.float32]


def stamp_weights(stamps: StarStamps, systematic: float = 0.0) -> NDArray[np.floating]:
    """Return 1/variance of the stamps, the signal taken from the 3 x 3 mean of the data.

    Parameters
    ----------
    stamps : StarStamps
    systematic : float
        Relative error of the model added in quadrature, so that one bright star does not rule.

    Returns
    -------
    weights : (n, size, size) float32, 1/electron**2
        Zero for unusable pixels.
    """
    data = np.where(stamps.good, stamps.images, np.float32(0.0))
    signal = np.maximum(ndimage.uniform_filter(data, (0, 3, 3), mode="constant"), np.float32(0.0))
    variance = stamps.sky_variance[:, None, None].astype(np.float32) + np.float32(stamps.gain_slope) * signal
    variance += (np.float32(systematic) * signal) ** 2
    return np.where(stamps.good, 1 / variance, np.float32(0.0))


def model_weights(
    stamps: StarStamps, models: NDArray[np.floating], flux: NDArray[np.floating], systematic: float = 0.0
) -> NDArray[np.floating]:
    """Return 1/variance of the stamps for stars of known flux.

    Parameters
    ----------
    stamps : StarStamps
    models : (n, size, size) float32
        PSF of unit sum at the position of each star.
    flux : (n,) array, electron
    systematic : float
        Relative error of the model added in quadrature.

    Returns
    -------
    weights : (n, size, size) float32, 1/electron**2
        Zero for unusable pixels.
    """
    weights = np.empty(models.shape, dtype=np.float32)
    flux = np.nan_to_num(np.asarray(flux, dtype=np.float64))
    star_weights(models, stamps.good, flux, stamps.sky_variance, stamps.gain_slope, systematic, weights)
    return weights


def core_flux(stamps: StarStamps, models: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a flux for each star from the usable pixels of its core, (n,) float64, electron."""
    half = stamps.size // 2
    core = np.s_[:, half - 3 : half + 4, half - 3 : half + 4]
    good, image, model = stamps.good[core], stamps.images[core], models[core]
    signal = np.where(good, image * model, 0.0).sum(axis=(1, 2), dtype=np.float64)
    power = np.where(good, model * model, 0.0).sum(axis=(1, 2), dtype=np.float64)
    return signal / np.maximum(power, 1e-30)


def fit_star_scales(
    stamps: StarStamps,
    models: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    fit_shape: bool = False,
) -> StarScales:
    """Fit the PSF model to each star, linearly.

    Parameters
    ----------
    stamps : StarStamps
    models : (n, size, size) float32
        PSF of unit sum at the position of each star.
    weights : (n, size, size) float32, 1/electron**2
        Zero for unusable pixels.
    fit_shape : bool
        Also fit size and shear (three more terms); flux, shift and background are those of the fit without them.

    Returns
    -------
    scales : StarScales
    """
    n = len(stamps)
    normal, right = np.zeros((n, 7, 7)), np.zeros((n, 7))
    n_terms = 7 if fit_shape else 4
    scale_normals(stamps.images, models, weights, stamps.dx, stamps.dy, n_terms, normal, right)
    normal += np.tril(normal, -1).transpose(0, 2, 1)
    solution, covariance = _solve(normal[:, :4, :4], right[:, :4])
    flux = solution[:, 0]
    safe_flux = np.where(np.abs(flux) > 0, flux, np.nan)
    shift_x, shift_y = solution[:, 1] / safe_flux, solution[:, 2] / safe_flux
    residual = np.empty(models.shape, dtype=np.float32)
    chi2, used = np.zeros(n), np.zeros(n, dtype=np.int64)
    known = [np.nan_to_num(value) for value in (flux, shift_x, shift_y, solution[:, 3])]
    star_residuals(stamps.images, models, stamps.good, weights, *known, residual, chi2, used)
    shape, shape_err = np.zeros((n, 3)), np.zeros(n)
    if fit_shape:
        full, full_covariance = _solve(normal, right)
        shape = full[:, 4:] / safe_flux[:, None]
        shape_err = _error(full_covariance[:, 4, 4]) / np.abs(safe_flux)
    return StarScales(
        flux=flux,
        flux_err=_error(covariance[:, 0, 0]),
        shift_x=shift_x,
        shift_y=shift_y,
        background=solution[:, 3],
        size=shape[:, 0],
        g1=shape[:, 1],
        g2=shape[:, 2],
        shape_err=shape_err,
        reduced_chi2=chi2 / np.maximum(used - 4, 1),
        residual=residual,
    )


def scale_and_mask(
    stamps: StarStamps,
    models: NDArray[np.floating],
    flux: NDArray[np.floating] | None,
    *,
    mask_outliers: bool = False,
    fit_shape: bool = False,
    n_sigma: float = 5.0,
) -> tuple[StarScales, NDArray[np.floating], StarStamps]:
    """Scale the model to each star and mask pixels that do not fit.

    Parameters
    ----------
    stamps : StarStamps
    models : (n, size, size) float32
    flux : (n,) array or None, electron
        From an earlier round, for the weights.
    mask_outliers, fit_shape : bool
    n_sigma : float
        A pixel is masked, with its four neighbours, when it is further off than this many standard deviations
        (noise, and a tenth of the star's signal there).

    Returns
    -------
    scales : StarScales
    weights : (n, size, size) float32
        For the scaled model; zero in unusable pixels.
    stamps : StarStamps
        With the outlying pixels no longer good.
    """
    flux = core_flux(stamps, models) if flux is None else flux
    weights = model_weights(stamps, models, flux, _SYSTEMATIC)
    if mask_outliers:
        first = fit_star_scales(stamps, models, weights)
        tolerance = model_weights(stamps, models, first.flux, 0.1)
        outlying = first.residual**2 * tolerance > n_sigma**2
        stamps = replace(stamps, good=stamps.good & ~_grown(outlying))
        weights = np.where(stamps.good, weights, np.float32(0.0))
    return fit_star_scales(stamps, models, weights, fit_shape=fit_shape), weights, stamps


def _grown(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow masks by the four neighbours of each pixel."""
    out = where.copy()
    out[:, 1:] |= where[:, :-1]
    out[:, :-1] |= where[:, 1:]
    out[:, :, 1:] |= where[:, :, :-1]
    out[:, :, :-1] |= where[:, :, 1:]
    return out


def _solve(
    normal: NDArray[np.floating], right: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Solve the small systems and return solutions and covariances; singular ones give NaN."""
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", normal), 1e-300))
    scaled = normal / (scale[:, :, None] * scale[:, None, :])
    scaled = scaled + 1e-10 * np.eye(normal.shape[1])
    determinant = np.linalg.det(scaled)
    singular = ~np.isfinite(determinant) | (np.abs(determinant) < 1e-14)
    scaled[singular] = np.eye(normal.shape[1])
    inverse = np.linalg.inv(scaled) / (scale[:, :, None] * scale[:, None, :])
    inverse[singular] = np.nan
    return np.einsum("nij,nj->ni", inverse, right), inverse


def _error(variance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the square root of variances; NaN where a nearly singular fit left none that is positive."""
    return np.sqrt(np.where(variance > 0, variance, np.nan))
