"""Smoothing an image before its threshold: the filter that makes faint stars stand out best.

For background noise that does not vary within the kernel, convolution with the point-spread function
gives every pixel the signal-to-noise ratio of a star centred there; a Gaussian of the same determinant
radius loses about one per cent of it and is separable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError
from starmill.numerics.convolution import convolve_separable, gaussian_kernel, spread_mask

__all__ = ["Smoothed", "smooth", "smooth_mask"]


@dataclass(frozen=True)
class Smoothed:
    """A smoothed image, ready for thresholds.

    Parameters
    ----------
    image : (ny, nx) float32 array
        NaN where no usable pixel is near.
    variance : (ny, nx) float32 array or None
    sigma : float, pixel
        Of the Gaussian.
    border : int
        Pixels at each side where the kernel reaches outside.
    search_box : Box
        Array indices of the pixels that may be detected.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    sigma: float
    border: int
    search_box: Box


def smooth(
    image: NDArray[Any],
    sigma: float,
    *,
    variance: NDArray[Any] | None = None,
    mask: NDArray[np.int32] | None = None,
    missing_bits: int = 0,
    keep_bits: int = 0,
    n_sigma: float = 7.0,
    search_edge: bool = False,
    threads: int | None = None,
) -> Smoothed:
    """Convolve image and variance with a Gaussian.

    Parameters
    ----------
    image : (ny, nx) array
        Background subtracted.
    sigma : float, pixel
        Determinant radius of the point-spread function.
    variance : (ny, nx) array, optional
    mask : (ny, nx) int32 array, optional
    missing_bits : int
        Pixels with one of these bits and none of ``keep_bits`` are left out of the sums.
    keep_bits : int
    n_sigma : float
        Full width of the kernel in sigma.
    search_edge : bool
        Also search the border where the kernel reaches outside the image.
    threads : int, optional

    Returns
    -------
    smoothed : Smoothed

    Raises
    ------
    AlgorithmError
        When the image is smaller than the kernel, or no pixel is usable.
    """
    kernel = gaussian_kernel(sigma, n_sigma)
    border = kernel.size // 2
    shape = np.shape(image)
    if min(shape) < kernel.size:
        raise AlgorithmError(
            "the image is smaller than the smoothing kernel",
            numbers={"width": shape[1], "height": shape[0], "kernel_size": kernel.size},
        )
    convolved = convolve_separable(
        image,
        kernel,
        variance=variance,
        mask=mask,
        missing_bits=missing_bits,
        keep_bits=keep_bits,
        threads=threads,
    )
    box = Box.from_shape(shape)
    return Smoothed(
        convolved.image, convolved.variance, sigma, border, box if search_edge else box.grow(-border)
    )


def smooth_mask(
    mask: NDArray[np.int32], border: int, edge_bit: int = 0, *, threads: int | None = None
) -> NDArray[np.int32]:
    """Return the mask that belongs to a smoothed image.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    border : int
        Half size of the kernel.
    edge_bit : int
        Set on the border that the kernel cannot reach.
    threads : int, optional

    Returns
    -------
    spread : (ny, nx) int32 array
    """
    spread = spread_mask(mask, border, threads=threads)
    if edge_bit and border:
        mark_border(spread, Box.from_shape(spread.shape).grow(-border), edge_bit)
    return spread


def mark_border(mask: NDArray[np.int32], inside: Box, edge_bit: int) -> None:
    """Set a bit of the mask, in place, outside a box.

    Parameters
    ----------
    mask : (ny, nx) int32 array
    inside : Box
        Array indices.
    edge_bit : int
    """
    edge = np.int32(edge_bit)
    rows, columns = inside.slices()
    mask[: rows.start] |= edge
    mask[rows.stop :] |= edge
    mask[rows, : columns.start] |= edge
    mask[rows, columns.stop :] |= edge
