"""Dipoles: a positive and a negative point source side by side, left by motion or misregistration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import least_squares

__all__ = ["Dipole", "fit_dipole"]


@dataclass(frozen=True)
class Dipole:
    """Two point sources of opposite sign.

    Attributes
    ----------
    positive, negative : (x, y)
        Array positions of the poles, pixels.
    positive_flux, negative_flux : float
        Image unit; the second is below zero for a dipole.
    chi2, chi2_single : float
        Reduced chi2 of the dipole and of the better single source.
    is_dipole : bool
        Both fluxes are significant, of opposite sign, within a factor 3 of each other, and the fit is better
        than one source.
    """

    positive: tuple
    negative: tuple
    positive_flux: float
    negative_flux: float
    chi2: float
    chi2_single: float
    is_dipole: bool

    @property
    def separation(self) -> float:
        """Distance between the poles, pixels."""
        return float(np.hypot(self.positive[0] - self.negative[0], self.positive[1] - self.negative[1]))

    @property
    def angle(self) -> float:
        """Direction from the negative to the positive pole, radian counter-clockwise from +x."""
        return float(np.arctan2(self.positive[1] - self.negative[1], self.positive[0] - self.negative[0]))

    @property
    def flux(self) -> float:
        """Mean of the absolute fluxes of the poles."""
        return (abs(self.positive_flux) + abs(self.negative_flux)) / 2


def fit_dipole(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf_image: NDArray[np.floating],
    start: list[float] | tuple[int, int, int, int],
    *,
    fwhm: float,
    significance: float = 5.0,
) -> Dipole:
    """Fit positions and fluxes of two point sources.

    Parameters
    ----------
    difference, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
    psf_image : (m, m) array
        PSF of the difference.
    start : (x, y, x, y)
        First positions of the positive and of the negative pole, array indices.
    fwhm : float
        Pixels; poles move at most this far from the start.
    significance : float
        Least flux over error of each pole.

    Returns
    -------
    dipole : Dipole
    """
    start = np.asarray(start, np.float64)
    box = _fit_box(difference.shape, start, fwhm)
    y, x = np.mgrid[box]
    good = ~bad[box] & (variance[box] > 0)
    weight = np.where(good, 1 / np.sqrt(np.where(good, variance[box], 1)), 0)
    data = (np.where(good, difference[box], 0) * weight).ravel()
    half = psf_image.shape[0] // 2

    def profiles(positions: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.stack([
            (map_coordinates(psf_image, [y - b + half, x - a + half], order=3) * weight).ravel()
            for a, b in positions.reshape(-1, 2)
        ])  # fmt: skip

    def residual(positions: NDArray[np.floating]) -> NDArray[np.floating]:
        design = profiles(positions)
        return data - np.linalg.lstsq(design.T, data, rcond=None)[0] @ design

    found = least_squares(residual, start, bounds=(start - fwhm, start + fwhm), x_scale=0.1).x
    design = profiles(found)
    flux = np.linalg.lstsq(design.T, data, rcond=None)[0]
    error = np.sqrt(np.diag(np.linalg.pinv(design @ design.T)))
    dof = max(int(good.sum()) - 6, 1)
    chi2 = float(np.sum((data - flux @ design) ** 2) / dof)
    single = min(
        float(np.sum((data - (row @ data) / max(row @ row, 1e-30) * row) ** 2) / dof)
        for row in profiles(start)
    )
    ratio = abs(flux[0]) / max(abs(flux[1]), 1e-30)
    is_dipole = bool(
        flux[0] > significance * error[0]
        and -flux[1] > significance * error[1]
        and 1 / 3 < ratio < 3
        and chi2 < single
    )
    return Dipole(
        (float(found[0]), float(found[1])), (float(found[2]), float(found[3])), float(flux[0]), float(flux[1]), chi2,
        single, is_dipole,
    )  # fmt: skip


def _fit_box(shape: tuple[int, int], start: NDArray[np.floating], fwhm: float) -> tuple[slice, slice]:
    reach = 2 * fwhm
    left, right = min(start[0], start[2]) - reach, max(start[0], start[2]) + reach
    bottom, top = min(start[1], start[3]) - reach, max(start[1], start[3]) + reach
    return np.s_[
        max(int(bottom), 0) : min(int(top) + 2, shape[0]), max(int(left), 0) : min(int(right) + 2, shape[1])
    ]  # fmt: skip
