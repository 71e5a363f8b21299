"""Signal-to-noise image of a difference: the matched filter for point sources."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["matched_filter"]


def matched_filter(
    difference: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf_image: NDArray[np.floating],
    *,
    width: float = 1.0,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    r"""Return flux and signal-to-noise of a point source centred on every pixel.

    Parameters
    ----------
    difference, variance : (ny, nx) arrays
    bad : (ny, nx) bool array
        Pixels that are not used.
    psf_image : (m, m) array
        PSF of the difference, sum 1.
    width : float or (ny, nx) array
        Width of the signal-to-noise on empty sky when correlations are neglected; the result is divided by it.

    Returns
    -------
    flux : (ny, nx) float32 array
        NaN where no pixel is usable.
    signal_to_noise : (ny, nx) float32 array
        :math:`\sum p w d / \sqrt{\sum p^2 w}` with :math:`w = 1 / \sigma^2`, divided by ``width``.
    """
    good = ~bad & (variance > 0)
    weight = np.where(good, 1 / np.where(good, variance, 1), 0).astype(np.float32)
    mirrored = psf_image[::-1, ::-1]
    signal = _same_convolution(np.where(good, difference, 0) * weight, mirrored)
    norm = _same_convolution(weight, mirrored**2)
    usable = norm > 1e-6 * np.max(norm)
    norm = np.where(usable, norm, 1)
    flux = np.where(usable, signal / norm, np.nan).astype(np.float32)
    significance = np.where(usable, signal / np.sqrt(norm) / width, 0).astype(np.float32)
    return flux, significance


def _same_convolution(image: NDArray[np.floating], kernel: NDArray[np.floating]) -> NDArray[np.floating]:
    ny, nx = image.shape
    half = kernel.shape[0] // 2
    shape = [fft.next_fast_len(side + 2 * half, real=True) for side in (ny, nx)]
    product = fft.rfft2(image.astype(np.float32, copy=False), shape)
    product *= fft.rfft2(kernel.astype(np.float32), shape)
    return fft.irfft2(product, shape, overwrite_x=True)[half : half + ny, half : half + nx]
