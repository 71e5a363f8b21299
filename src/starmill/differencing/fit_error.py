"""Variance of a difference image that comes from the uncertainty of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, oaconvolve

from starmill.datamodel.field import ConstantField
from starmill.datamodel.geometry import Box
from starmill.datamodel.spatial_kernel import SpatialKernel
from starmill.differencing.subtract import convolve_image

if TYPE_CHECKING:
    from starmill.differencing.kernel_fit import KernelFit


__all__ = ["fit_variance", "kernel_error_modes"]


def kernel_error_modes(fit: KernelFit, x: float, y: float, *, modes: int = 3) -> NDArray[np.floating]:
    """Return the largest independent errors of the kernel at a position.

    Parameters
    ----------
    fit : KernelFit
    x, y : float
        Parent frame.
    modes : int
        Number of images returned at most.

    Returns
    -------
    images : (modes, size, size) array
        One standard deviation each; the covariance of the kernel's pixels is nearly the sum of their outer products.
    """
    model = fit.model
    image, _ = model.columns
    row = model.design_at(np.array([x]), np.array([y]))[0]
    # coefficients of the basis images at the position are sums of groups of coefficients times spatial terms
    gather = (image[None, :] == model.images[:, None]) * row[None, :]
    covariance = gather @ fit.covariance @ gather.T
    flat = model.basis.images[model.images].reshape(len(model.images), -1)
    values, vectors = np.linalg.eigh(covariance)
    roots = (vectors * np.sqrt(np.maximum(values, 0))).T @ flat
    _, sizes, directions = np.linalg.svd(roots, full_matrices=False)
    side = model.basis.size
    return (sizes[:modes, None] * directions[:modes]).reshape(-1, side, side)


def fit_variance(
    reference: NDArray[np.floating],
    bad: NDArray[np.bool_],
    fit: KernelFit,
    box: Box,
    *,
    modes: int = 3,
    prefilter: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Return the variance of the matched reference due to the kernel's uncertainty.

    Parameters
    ----------
    reference : (ny, nx) array
        The image that is convolved, bad pixels filled.
    bad : (ny, nx) bool array
    fit : KernelFit
    box : Box
        Of the image; the modes are those at its centre.
    modes : int
        Number of modes.
    prefilter : (m, m) array, optional
        Whitening filter that the difference was convolved with.

    Returns
    -------
    variance : (ny, nx) float32 array
        Zero on the sky; significant on bright stars only.
    """
    thin = reference[::5, ::5][~bad[::5, ::5]]
    light = reference - np.float32(np.median(thin) if len(thin) else 0)
    if prefilter is not None:
        light[bad] = 0
    total = np.zeros(reference.shape, np.float32)
    for image in kernel_error_modes(fit, *box.center, modes=modes):
        if prefilter is None:
            field = ConstantField(Box.from_shape(reference.shape), 1.0)
            error = convolve_image(light, SpatialKernel(image[None], [field]), bad=bad).image
        else:  # the filter is wide: Fourier transforms are faster
            error = oaconvolve(light, fftconvolve(image, prefilter).astype(np.float32), mode="same")
        total += np.square(error, out=error)
    return total
