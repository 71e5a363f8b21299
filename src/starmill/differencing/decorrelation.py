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

import numpy as np
from scipy import fft

__all__ = ["correlation_excess", "whiten", "whitening_filter"]


def whitening_filter(kernel_image, variance_target, variance_reference, *, half_width=24):
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


def correlation_excess(kernel_image, variance_target, variance_reference, psf_image):
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


def whiten(difference, filters, *, spacing):
    """Convolve a difference image with whitening filters given on a grid, blended linearly in between.

    Parameters
    ----------
    difference : (ny, nx) array
        No NaN.
    filters : (node rows, node columns, m, m) array
        At pixels ``0, spacing, 2 spacing, ...`` in both directions, the last at or beyond the edge.
    spacing : int

    Returns
    -------
    whitened : (ny, nx) float32 array
    """
    ny, nx = difference.shape
    half = filters.shape[2] // 2
    padded = np.pad(np.asarray(difference, np.float32), half, mode="reflect")
    out = np.zeros((ny, nx), np.float32)
    for a in range(filters.shape[0]):
        for b in range(filters.shape[1]):
            top, bottom = max((a - 1) * spacing, 0), min((a + 1) * spacing, ny)
            left, right = max((b - 1) * spacing, 0), min((b + 1) * spacing, nx)
            if bottom <= top or right <= left:
                continue
            part = padded[top : bottom + 2 * half, left : right + 2 * half]
            filtered = _valid_convolution(part, filters[a, b])
            weight_y = 1 - np.abs(np.arange(top, bottom) - a * spacing) / spacing
            weight_x = 1 - np.abs(np.arange(left, right) - b * spacing) / spacing
            out[top:bottom, left:right] += filtered * (weight_y[:, None] * weight_x[None, :]).astype(
                np.float32
            )
    return out


def _valid_convolution(image, kernel):
    shape = [fft.next_fast_len(side, real=True) for side in image.shape]
    product = fft.rfft2(image, shape) * fft.rfft2(kernel.astype(np.float32), shape)
    full = fft.irfft2(product, shape)
    m = kernel.shape[0]
    return full[m - 1 : image.shape[0], m - 1 : image.shape[1]]


def _wrapped(image, side):
    """Return the image zero-padded to ``side`` with its centre at pixel (0, 0)."""
    out = np.zeros((side, side))
    size = image.shape[0]
    out[:size, :size] = image
    return np.roll(out, (-(size // 2), -(size // 2)), (0, 1))
