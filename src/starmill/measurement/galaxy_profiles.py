"""Sersic profiles, composite profiles and PSFs as mixtures of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import gamma, gammaincinv

Float = NDArray[np.float64]

INDICES = np.array([0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6])
# of the Gaussians of a Sersic profile, in units of its squared half-light radius
VARIANCES = np.geomspace(1e-3, 60, 12)
COMPOSITE_VARIANCES = np.geomspace(1e-3, 60, 10)  # the same for the parts of a composite profile
# half-light radius of the de Vaucouleurs part of a composite profile over that of the exponential part
BULGE = float(np.sqrt(COMPOSITE_VARIANCES[0] / COMPOSITE_VARIANCES[1]))
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
    """A family of profiles as sums of Gaussians with common variances.

    Attributes
    ----------
    log_indices : (n_indices,) array
        Parameter of the rows of the table: ln of the Sersic index, or the mix of a composite profile.
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


def _sersic_amplitudes(n: float, variances: Float = VARIANCES) -> Float:
    """Fit a Sersic profile by Gaussians: non-negative least squares of the light per ln r."""
    r = np.geomspace(2e-3, 60, 400)
    weight = r**2  # light in a ring of constant logarithmic width
    design = np.exp(-(r[:, None] ** 2) / (2 * variances)) / (2 * np.pi * variances) * weight[:, None]
    everything = np.vstack([design, np.full((1, len(variances)), 1.0)])
    amplitudes, _ = nnls(everything, np.append(sersic_profile(r, n) * weight, 1.0))
    amplitudes[amplitudes < 1e-4 * amplitudes.sum()] = 0
    return np.asarray(amplitudes / amplitudes.sum())


def _sorted_mixtures(parameters: Float, variances: Float, table: Float) -> ProfileMixtures:
    """Return the mixtures with ascending variances, without Gaussians that no row uses."""
    used = np.argsort(variances)
    used = used[(table > 0).any(0)[used]]
    return ProfileMixtures(parameters, variances[used], np.ascontiguousarray(table[:, used]))


GAUSSIAN = 1 / (2 * np.log(2))  # variance of the profile of index 0.5 over its squared half-light radius


@lru_cache(maxsize=1)
def profile_mixtures() -> ProfileMixtures:
    """Return the Sersic profiles of INDICES."""
    table = np.zeros((len(INDICES), len(VARIANCES) + 1))
    for row, n in enumerate(INDICES):
        if n == 0.5:
            table[row, -1] = 1.0
        else:
            table[row, :-1] = _sersic_amplitudes(float(n))
    return _sorted_mixtures(np.log(INDICES), np.append(VARIANCES, GAUSSIAN), table)


@lru_cache(maxsize=1)
def composite_mixtures() -> ProfileMixtures:
    """Return the composite profiles: a Gaussian (mix -1), an exponential (0), a de Vaucouleurs profile (1).

    Profiles between two of them are their sums, the mix is the share of the light. Radii are in units of the
    half-light radius of the exponential and of the Gaussian; that of the de Vaucouleurs part is :data:`BULGE`.
    """
    table = np.zeros((3, len(COMPOSITE_VARIANCES) + 2))
    table[0, -1] = 1.0
    table[1, 1:-1] = _sersic_amplitudes(1.0, COMPOSITE_VARIANCES)
    table[2, :-2] = _sersic_amplitudes(
        4.0, COMPOSITE_VARIANCES
    )  # one place lower in a geometric series: a smaller radius
    variances = np.concatenate([[COMPOSITE_VARIANCES[0] * BULGE**2], COMPOSITE_VARIANCES, [GAUSSIAN]])
    return _sorted_mixtures(np.array([-1.0, 0.0, 1.0]), variances, table)


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
