"""Slow twin of ``starmill.kernels.moment_noise``, of one stamp."""

import numpy as np


def moment_noise(image, variance, found, axes):
    a, b, c = axes
    dy, dx = np.indices(image.shape) - np.array([found[5], found[4]])[:, None, None]
    u = dx / a
    v = (dy - b * u) / c
    rho2 = u**2 + v**2
    weight = np.where(rho2 <= 14, np.exp(-0.5 * rho2), 0)
    light = weight * image / (weight * image).sum()
    terms = [u**4, u**3 * v, u**2 * v**2, u * v**3, v**4, rho2**2 * u**2, rho2**2 * v**2, rho2**2 * u * v]
    g = np.array([u**2 - 0.5, v**2 - 0.5, u * v, rho2**2 - found[6]])
    noise = variance * (weight / (weight * image).sum()) ** 2
    return [(light * term).sum() for term in terms], np.einsum("iyx,jyx,yx->ij", g, g, noise)
