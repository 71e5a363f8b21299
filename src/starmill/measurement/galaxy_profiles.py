"""Sersic profiles and PSFs as mixtures of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import gamma, gammaincinv

Float = NDArray[np.float64]

INDICES = np.array([0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6])
PSF_SCALES = np.array([0.6, 1.2, 2.8, 8.0])  # variances of the PSF's Gaussians over its second moments


def sersic_profile(r: Float, n: float) -> Float:
    """Surface brightness of a Sersic profile of total flux 1 and half-light radius 1.

    Parameters
    ----------
    r : array
        Radius over the half-light radius.
    n : float
        Index: 0.5 Gaussian, 1 exponential, 4 de Vaucouleurs.
    """
    b = gammaincinv(2 * n, 0.5)
    total = 2 * np.pi * n * b ** (-2 * n) * gamma(2 * n)
    return np.exp(-b * r ** (1 / n)) / total


@dataclass(frozen=True)
class ProfileMixtures:
    """Sersic profiles as sums of Gaussians with common variances.

    Attributes
    ----------
    log_indices : (n_indices,) array
    variances : (n_gaussians,) array
        In units of the squared half-light radius.
    table : (n_indices, n_gaussians) array
        Amplitudes; each row sums to 1.
    """

    log_indices: Float
    variances: Float
    table: Float

    def profile(self, r: Float, index: int) -> Float:
        """Return the surface brightness of row ``index`` of the table."""
        return np.exp(-(r[:, None] ** 2) / (2 * self.variances)) @ (
            self.table[index] / (2 * np.pi * self.variances)
        )


@lru_cache(maxsize=1)
def profile_mixtures() -> ProfileMixtures:
    """Fit the mixtures: non-negative least squares of the light per logarithm of the radius."""
    r = np.geomspace(2e-3, 60, 400)
    variances = np.geomspace(2e-4, 50, 12)
    design = np.exp(-(r[:, None] ** 2) / (2 * variances)) / (2 * np.pi * variances)
    table = np.zeros((len(INDICES), len(variances)))
    for row, n in enumerate(INDICES):
        if n == 0.5:  # a Gaussian: its half-light radius is 1.1774 sigma
            continue
        weight = r**2  # light in a ring of constant logarithmic width
        target = sersic_profile(r, float(n)) * weight
        everything = np.vstack([design * weight[:, None], np.full((1, len(variances)), 1.0)])
        amplitudes, _ = nnls(everything, np.append(target, 1.0))
        amplitudes[amplitudes < 1e-4 * amplitudes.sum()] = 0
        table[row] = amplitudes / amplitudes.sum()
    gaussian = 1 / (2 * np.log(2))
    variances = np.append(variances, gaussian)
    table = np.column_stack([table, np.zeros(len(INDICES))])
    table[0, -1] = 1.0
    used = np.argsort(variances)
    used = used[(table > 0).any(0)[used]]
    return ProfileMixtures(np.log(INDICES), variances[used], np.ascontiguousarray(table[:, used]))


def fit_psf_mixtures(kernels: Float, moments: Float) -> Float:
    """Fit PSF images by concentric Gaussians of the same shape.

    Parameters
    ----------
    kernels : (n, size, size) array
        Centred on the central pixel, sum 1.
    moments : (n, 3) array, pixel**2
        Adaptive moments of the kernels.

    Returns
    -------
    psf : (n, 3 + n_psf) array
        Moments and amplitudes of Gaussians of variances :data:`PSF_SCALES` times the moments.
    """
    n, size, _ = kernels.shape
    d = np.arange(size) - size // 2
    out = np.empty((n, 3 + len(PSF_SCALES)))
    out[:, :3] = moments
    for i in range(n):
        xx, yy, xy = moments[i]
        det = xx * yy - xy**2
        rho2 = (yy * d[None, :] ** 2 - 2 * xy * d[None, :] * d[:, None] + xx * d[:, None] ** 2) / det
        design = np.exp(-rho2.ravel()[:, None] / (2 * PSF_SCALES)) / (2 * np.pi * np.sqrt(det) * PSF_SCALES)
        # a weak pull to a single Gaussian keeps the amplitudes small when the PSF is one
        ridge = 1e-6 * np.eye(len(PSF_SCALES))
        target = design.T @ kernels[i].ravel() + 1e-6 * (PSF_SCALES == 1.2)
        out[i, 3:] = np.linalg.solve(design.T @ design + ridge, target)
    return out
