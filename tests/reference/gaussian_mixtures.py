"""Slow twin of starmill.kernels.gaussian_mixtures: the sum of Gaussians written out."""

import numpy as np


def draw(x, y, theta, amplitudes, variances, psf_moments, psf_amplitudes, psf_scales, shape):
    """Image of unit flux; ``theta`` and ``psf_moments`` are xx, yy, xy."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    d = np.stack([xx - x, yy - y])
    out = np.zeros(shape)
    t = np.array([[theta[0], theta[2]], [theta[2], theta[1]]])
    m = np.array([[psf_moments[0], psf_moments[2]], [psf_moments[2], psf_moments[1]]])
    for a, v in zip(amplitudes, variances, strict=True):
        for b, s in zip(psf_amplitudes, psf_scales, strict=True):
            c = v * t + s * m
            rho2 = np.einsum("iyx,ij,jyx->yx", d, np.linalg.inv(c), d)
            out += a * b * np.exp(-rho2 / 2) / (2 * np.pi * np.sqrt(np.linalg.det(c)))
    return out
