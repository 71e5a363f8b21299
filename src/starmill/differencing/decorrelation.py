r"""Whitening of a difference image.

Convolution of the reference correlates its noise. Multiplied in Fourier space by

.. math:: \hat\phi = \sqrt{\frac{\sigma_t^2 + \kappa^2 \sigma_r^2}{\sigma_t^2 + \sigma_r^2 |\hat K|^2}}

(:math:`\sigma_t, \sigma_r` noise of the target and of the reference, :math:`\kappa` the kernel sum) the
difference has white noise of variance :math:`\sigma_t^2 + \kappa^2 \sigma_r^2`, and its PSF is that of the
target convolved with :math:`\phi`.

References
----------
Kaiser 2001 (Pan-STARRS note); Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27; Reiss & Lupton 2016, LSST DMTN-021.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import fftconvolve

from starmill.differencing.convolve import KernelNodes, repair_bad
from starmill.differencing.sides import sky_noise
from starmill.differencing.subtract import convolve_with_nodes

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.datamodel.spatial_kernel import SpatialKernel
    from starmill.differencing.kernel_fit import KernelFit
    from starmill.differencing.sides import Side


__all__ = [
    "central_filter", "correlation_excess", "prefiltered", "score_excess", "spike_image", "whiten", "whitened",
    "whitening_filter",
]  # fmt: skip

_FACTOR_ERROR = 1e-5  # of the absolute sum of a filter; the difference is not more accurate itself


def whitening_filter(
    kernel_image: NDArray[np.floating],
    variance_target: float,
    variance_reference: float,
    *,
    half_width: int = 24,
) -> NDArray[np.floating]:
    """Return the whitening filter at one position.

    Parameters
    ----------
    kernel_image : (k, k) array
    variance_target, variance_reference : float
        Noise variance of the sky in the target and in the reference (before convolution).
    half_width : int
        Of the filter, pixels.

    Returns
    -------
    image : (2 half_width + 1, 2 half_width + 1) array
        Unit sum.
    """
    side = 4 * half_width
    power = np.abs(fft.rfft2(_wrapped(kernel_image, side))) ** 2
    total = kernel_image.sum() ** 2
    ratio = (variance_target + total * variance_reference) / (variance_target + variance_reference * power)
    image = fft.fftshift(fft.irfft2(np.sqrt(ratio), s=(side, side)))
    middle = side // 2
    image = image[
        middle - half_width : middle + half_width + 1, middle - half_width : middle + half_width + 1
    ]
    return image / image.sum()


def correlation_excess(
    kernel_image: NDArray[np.floating],
    variance_target: float,
    variance_reference: float,
    psf_image: NDArray[np.floating],
) -> float:
    """Return the width of the matched-filter S/N on sky when the noise is taken for white.

    Parameters
    ----------
    kernel_image : (k, k) array
    variance_target, variance_reference : float
    psf_image : (m, m) array
        PSF of the difference.

    Returns
    -------
    width : float
        1 for white noise.
    """
    side = 2 * max(kernel_image.shape[0], psf_image.shape[0]) + 1
    power = np.abs(fft.fft2(_wrapped(kernel_image, side))) ** 2
    spectrum = variance_target + variance_reference * power
    filter_power = np.abs(fft.fft2(_wrapped(psf_image, side))) ** 2
    return float(np.sqrt((filter_power * spectrum).sum() / (filter_power.sum() * spectrum.mean())))


def whiten(
    difference: NDArray[np.floating], filters: NDArray[np.floating], *, spacing: int
) -> NDArray[np.floating]:
    """Convolve a difference image with whitening filters given on a grid, blended linearly in between.

    Parameters
    ----------
    difference : (ny, nx) array
        No NaN.
    filters : (node rows, node columns, m, m) array
        At pixels ``0, spacing, 2 spacing, ...`` in both directions, the last at or beyond the edge.
    spacing : int
        Fastest when a multiple of 64.

    Returns
    -------
    whitened : (ny, nx) float32 array
    """
    beyond = [np.concatenate([filters, filters[-1:]]), None]
    beyond[1] = np.concatenate([beyond[0], beyond[0][:, -1:]], axis=1)
    image = np.ascontiguousarray(difference, np.float32)
    return convolve_with_nodes(image, KernelNodes.of_images(beyond[1], spacing, _FACTOR_ERROR))


def _wrapped(image: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    """Return the image zero-padded to ``side`` with its centre at pixel (0, 0)."""
    out = np.zeros((side, side))
    size = image.shape[0]
    out[:size, :size] = image
    return np.roll(out, (-(size // 2), -(size // 2)), (0, 1))


def score_excess(kernel: SpatialKernel, reference: Side, target: Side, box: Box) -> float:
    """Return the width of the S/N on sky at the centre of the field if correlations are neglected.

    Parameters
    ----------
    kernel : SpatialKernel
    reference, target : Side
        The image that was convolved and the other one.
    box : Box
    """
    image = kernel.kernel_at(*box.center)
    return correlation_excess(image, *sky_noise(target, reference), target.seeing.psf_image)


def central_filter(kernel: SpatialKernel, reference: Side, target: Side, box: Box) -> NDArray[np.floating]:
    """Return the whitening filter at the centre of the field, ``(m, m)``; parameters as :func:`score_excess`."""
    half = min(24, min(target.image.shape) // 4)
    image = kernel.kernel_at(*box.center)
    return whitening_filter(image, *sky_noise(target, reference), half_width=half)


def spike_image(
    kernel: SpatialKernel,
    reference: Side,
    target: Side,
    box: Box,
    is_convolved: bool,
    is_white: bool,
    *,
    half_width: int = 7,
) -> NDArray[np.floating]:
    """Return what a single bright pixel of the science image becomes in the difference, ``(k, k)``, any scale.

    Parameters
    ----------
    kernel : SpatialKernel
    reference, target : Side
    box : Box
    is_convolved : bool
        The science image is the one that was convolved.
    is_white : bool
        The difference was whitened.
    half_width : int
        Largest half width of the result.
    """
    image = kernel.kernel_at(*box.center) if is_convolved else np.ones((1, 1))
    if is_white:
        image = fftconvolve(image, central_filter(kernel, reference, target, box))
    middle = image.shape[0] // 2
    half = min(middle, half_width)
    return image[middle - half : middle + half + 1, middle - half : middle + half + 1]


def prefiltered(
    reference: Side, target: Side, fit: KernelFit, box: Box
) -> tuple[tuple[Side, Side], NDArray[np.floating]]:
    """Return both images convolved with the central whitening filter, and the filter.

    Parameters
    ----------
    reference, target : Side
    fit : KernelFit
    box : Box

    Returns
    -------
    sides : (Side, Side)
        Reference and target.
    filter : (m, m) array
    """
    central = central_filter(fit.kernel, reference, target, box)
    spacing = 64 * -(-max(target.image.shape) // 64)
    filters = np.broadcast_to(central, (2, 2, *central.shape))

    def filtered(side: Side) -> Side:
        clean = repair_bad(side.image, side.bad)
        return replace(side, image=whiten(clean, filters, spacing=spacing))

    return (filtered(reference), filtered(target)), central


def whitened(
    difference: NDArray[np.floating],
    bad: NDArray[np.bool_],
    reference: Side,
    target: Side,
    kernel: SpatialKernel,
    box: Box,
    psf: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return the whitened difference, its variance, and its PSF.

    Parameters
    ----------
    difference : (ny, nx) float32 array
    bad : (ny, nx) bool array
    reference, target : Side
    kernel : SpatialKernel
    box : Box
    psf : (m, m) array
        PSF of the target.

    Returns
    -------
    whitened, variance : (ny, nx) float32 arrays
    psf : (m, m) array
    """
    noise = sky_noise(target, reference)
    spacing = 64 * -(-max(difference.shape) // 256)
    columns = np.arange(-(-(box.width - 1) // spacing) + 1)
    rows = np.arange(-(-(box.height - 1) // spacing) + 1)
    half = min(24, min(difference.shape) // 4)
    images = kernel.kernels_at((box.x0 + columns * spacing)[None, :], (box.y0 + rows * spacing)[:, None])
    filters = np.array(
        [[whitening_filter(image, *noise, half_width=half) for image in row] for row in images]
    )
    clean = np.where(bad, 0, difference)
    # both noises pass the filter, the reference's also the kernel: near stars this is not the sum of the variances
    shape = filters.shape[:2]
    both = np.array(
        [[fftconvolve(filters[j, i], images[j, i]) for i in range(shape[1])] for j in range(shape[0])]
    )
    variance = whiten(target.variance, filters**2, spacing=spacing) + whiten(
        reference.variance, both**2, spacing=spacing
    )
    np.maximum(variance, 1e-3 * noise[0], out=variance)
    central = whitening_filter(kernel.kernel_at(*box.center), *noise, half_width=half)
    return whiten(clean, filters, spacing=spacing), variance, _convolved_psf(psf, central)


def _convolved_psf(psf: NDArray[np.floating], filter_image: NDArray[np.floating]) -> NDArray[np.floating]:
    half = psf.shape[0] // 2 + filter_image.shape[0] // 2
    full = fftconvolve(psf, filter_image, mode="full")
    keep = min(25, half)
    cut = full[half - keep : half + keep + 1, half - keep : half + keep + 1]
    return np.asarray(cut)
