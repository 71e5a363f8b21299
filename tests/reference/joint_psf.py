"""Slow twin of starmill.kernels.joint_psf: a dense matrix."""

import numpy as np


def design(shape, stamps, x0, y0):
    """One column per source: its stamp in an empty image."""
    size = stamps.shape[1]
    out = np.zeros((len(stamps), *shape))
    for i, stamp in enumerate(stamps):
        for j, k in np.ndindex(size, size):
            if 0 <= y0[i] + j < shape[0] and 0 <= x0[i] + k < shape[1]:
                out[i, y0[i] + j, x0[i] + k] = stamp[j, k]
    return out.reshape(len(stamps), -1).T


def fit(image, variance, weight, stamps, x0, y0):
    """Fluxes and their errors by dense weighted least squares."""
    p = design(image.shape, stamps, x0, y0)
    w = weight.ravel().astype(float)
    inverse = np.linalg.inv(p.T @ (p * w[:, None]))
    flux = inverse @ (p.T @ (w * image.ravel()))
    spread = p.T @ (p * (w**2 * variance.ravel())[:, None])
    return flux, np.sqrt(np.diag(inverse @ spread @ inverse))
