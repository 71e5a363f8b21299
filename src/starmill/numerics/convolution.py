"""Convolution of images with their variance and mask; missing pixels never spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import InputError
from starmill.kernels.convolution import convolve_separable_band, spread_mask_band
from starmill.numerics.tiles import map_tiles, row_bands

__all__ = ["Convolved", "convolve_separable", "gaussian_kernel", "spread_mask"]

BAND_ROWS = 512  # rows a thread works on; the halo of a kernel is small against it
NO_PLANE_FLOAT = np.zeros((0, 0), np.float32)
NO_PLANE_INT = np.zeros((0, 0), np.int32)


@dataclass(frozen=True)
class Convolved:
    """A convolved image.

    Parameters
    ----------
    image : (ny, nx) float32 array
        NaN where too little of the kernel fell on usable pixels.
    variance : (ny, nx) float32 array or None
        Variance of ``image``, pixels taken as independent; infinite where ``image`` is NaN.
    border_x, border_y : int
        Pixels at each side where the kernel reaches outside the image.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    border_x: int
    border_y: int


def gaussian_kernel(sigma: float, n_sigma: float = 7.0) -> NDArray[np.float32]:
    """Return a Gaussian sampled at pixel centres, with sum one.

    Parameters
    ----------
    sigma : float, pixel
    n_sigma : float
        Full width in units of sigma; the number of pixels is the next odd one.

    Returns
    -------
    kernel : (size,) float32 array
    """
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"the sigma of a Gaussian must be positive, it is {sigma}")
    half = int((n_sigma * sigma + 0.5) / 2)
    offset = np.arange(-half, half + 1)
    values = np.exp(-0.5 * (offset / sigma) ** 2)
    return (values / values.sum()).astype(np.float32)


def convolve_separable(
    image: NDArray[Any],
    kernel_x: NDArray[Any],
    kernel_y: NDArray[Any] | None = None,
    *,
    variance: NDArray[Any] | None = None,
    mask: NDArray[np.int32] | None = None,
    missing_bits: int = 0,
    keep_bits: int = 0,
    min_weight: float = 0.1,
    threads: int | None = None,
) -> Convolved:
    """Convolve with the outer product of two kernels.

    Missing pixels (not finite, or masked with ``missing_bits`` and none of ``keep_bits``) and the
    outside of the image take no part: the sum is divided by the kernel's sum over the others.

    Parameters
    ----------
    image : (ny, nx) array
    kernel_x, kernel_y : (odd,) arrays, sum one
        ``kernel_y`` is ``kernel_x`` when not given.
    variance : (ny, nx) array, optional
        Convolved with the squared kernel.
    mask : (ny, nx) int32 array, optional
        Says which pixels are missing; see :func:`spread_mask` for the mask of the result.
    missing_bits, keep_bits : int
        Bit values of the planes.
    min_weight : float
        A result is NaN (variance infinite) when less than this part of the kernel fell on usable pixels.
    threads : int, optional
        The result does not depend on it.

    Returns
    -------
    convolved : Convolved
    """
    image = np.ascontiguousarray(image, np.float32)
    kernel_x = np.ascontiguousarray(kernel_x, np.float32)
    kernel_y = kernel_x if kernel_y is None else np.ascontiguousarray(kernel_y, np.float32)
    if kernel_x.size % 2 == 0 or kernel_y.size % 2 == 0:
        raise InputError(f"kernels need odd sizes, these have {kernel_x.size} and {kernel_y.size}")
    if image.ndim != 2:
        raise InputError(f"an image has two dimensions, this array has {image.ndim}")
    for name, plane in (("variance", variance), ("mask", mask)):
        if plane is not None and plane.shape != image.shape:
            raise InputError(f"the {name} has shape {plane.shape}, the image {image.shape}")
    variance_in = NO_PLANE_FLOAT if variance is None else np.ascontiguousarray(variance, np.float32)
    mask_in = NO_PLANE_INT if mask is None else np.ascontiguousarray(mask, np.int32)
    out = np.empty_like(image)
    out_variance = np.empty_like(variance_in)

    def run(band: tuple[int, int]) -> None:
        convolve_separable_band(
            image, variance_in, mask_in, np.int32(missing_bits), np.int32(keep_bits),
            kernel_x, kernel_y, np.float32(min_weight), band[0], band[1], out, out_variance,
        )  # fmt: skip

    map_tiles(run, row_bands(image.shape[0], BAND_ROWS), threads=threads)
    return Convolved(out, None if variance is None else out_variance, kernel_x.size // 2, kernel_y.size // 2)


def spread_mask(
    mask: NDArray[np.int32], half_x: int, half_y: int | None = None, *, threads: int | None = None
) -> NDArray[np.int32]:
    """Return the OR of the mask over the box of a kernel.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    half_x, half_y : int
        Half sizes of the box, pixels; ``half_y`` is ``half_x`` when not given.
    threads : int, optional

    Returns
    -------
    spread : (ny, nx) int32 array
    """
    mask = np.ascontiguousarray(mask, np.int32)
    half_y = half_x if half_y is None else half_y
    out = np.zeros_like(mask)

    def run(band: tuple[int, int]) -> None:
        spread_mask_band(mask, half_x, half_y, band[0], band[1], out)

    map_tiles(run, row_bands(mask.shape[0], BAND_ROWS), threads=threads)
    return out
