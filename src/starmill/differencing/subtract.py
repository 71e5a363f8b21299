"""The difference image: convolve the reference, subtract it, and carry variance and bad pixels along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.differencing.convolve import BandConvolver, Convolved
from starmill.differencing.flags import FlaggedPixels
from starmill.kernels.kernel_convolution import LONG_RUN, padded_rows
from starmill.kernels.pixel_limits import subtract_rows
from starmill.numerics.memory import release_free_memory
from starmill.numerics.tiles import map_tiles, row_bands

if TYPE_CHECKING:
    from starmill.datamodel.spatial_kernel import SpatialKernel
    from starmill.differencing.convolve import KernelNodes
    from starmill.differencing.noise import PoissonVariance


__all__ = [
    "Subtracted", "convolve_image", "convolve_with_nodes", "subtract_convolved", "subtract_matched",
]  # fmt: skip

BAND = 64  # rows worked at once: image, halo and output of one band stay in the cache


@dataclass(frozen=True)
class Subtracted:
    """A difference image before its background is taken off.

    Attributes
    ----------
    convolved : (ny, nx) float32 array or None
        The convolved reference, when it was kept.
    difference, variance : (ny, nx) float32 arrays
        Target minus it, and the sum of the variances.
    status : (ny, nx) uint16 array
        0 for a clean pixel, 1 when bad pixels touch it, 2 or more when it is unusable.
    """

    convolved: np.ndarray | None
    difference: np.ndarray
    variance: np.ndarray
    status: np.ndarray

    @property
    def bad(self) -> FlaggedPixels:
        """Unusable pixels (`FlaggedPixels`)."""
        return FlaggedPixels(self.status, above=1)


def subtract_matched(
    reference: NDArray[np.floating],
    target: NDArray[np.floating],
    kernel: SpatialKernel,
    *,
    variances: tuple[PoissonVariance | NDArray[np.floating], PoissonVariance | NDArray[np.floating]],
    bad: tuple[FlaggedPixels, FlaggedPixels],
    lost_limit: float,
    origin: tuple[int, int] = (0, 0),
    squared: bool = True,
    threads: int | None = None,
    keep_convolved: bool = True,
    out: NDArray[np.floating] | None = None,
) -> Subtracted:
    """Convolve the reference and subtract it from the target, band by band.

    Parameters
    ----------
    reference, target : (ny, nx) float32 arrays
        NaN only where bad.
    kernel : SpatialKernel
        In the parent frame.
    variances : (array, array)
        Of the reference and of the target, or objects whose slices of rows are arrays.
    bad : (array, array)
        Bad pixels of the reference and of the target, ``(ny, nx)`` bool, or `FlaggedPixels`.
    lost_limit : float
        A pixel with more of its kernel on bad pixels is unusable.
    origin : (int, int)
        Parent position (x, y) of the first pixel.
    squared : bool
        False convolves the variance with the kernel itself.
    threads : int, optional
    keep_convolved : bool
        False saves the memory of that plane.
    out : (ny, nx) float32 array, optional
        Where the difference is written; may be ``target`` itself.

    Returns
    -------
    subtracted : Subtracted
    """
    convolver = BandConvolver(
        reference, kernel, variance=variances[0], bad=bad[0], box=Box.from_shape(reference.shape, origin),
        squared=squared,
    )  # fmt: skip
    release_free_memory()
    convolved = np.empty(reference.shape, np.float32) if keep_convolved else None
    difference = np.empty(reference.shape, np.float32) if out is None else out
    variance = np.empty(reference.shape, np.float32)
    status = np.empty(reference.shape, np.uint16)

    def work(ends: tuple[int, int]) -> None:
        rows = slice(*ends)
        image = np.empty_like(variance[rows]) if convolved is None else convolved[rows]
        band = convolver.rows(*ends, image, variance[rows])
        own = np.asarray(variances[1][rows], np.float32)
        subtract_rows(
            target[rows], own, band.image, band.lost, bad[0][rows], bad[1][rows], np.float32(lost_limit),
            difference[rows], variance[rows], status[rows],
        )  # fmt: skip

    map_tiles(work, row_bands(reference.shape[0], BAND), threads)
    return Subtracted(convolved, difference, variance, status)


def convolve_image(
    image: NDArray[np.floating],
    kernel: SpatialKernel,
    *,
    variance: NDArray[np.floating] | None = None,
    bad: NDArray[np.bool_] | None = None,
    origin: tuple[int, int] = (0, 0),
    squared: bool = True,
    threads: int | None = None,
) -> Convolved:
    """Convolve an image, and its variance with the squared kernel.

    Parameters
    ----------
    image : (ny, nx) array
        NaN only where ``bad``.
    kernel : SpatialKernel
        In the parent frame.
    variance : (ny, nx) array, optional
    bad : (ny, nx) bool array, optional
        Replaced by the mean of their neighbours before convolution.
    origin : (int, int)
        Parent position (x, y) of the first pixel.
    squared : bool
        False convolves the variance with the kernel itself.
    threads : int, optional

    Returns
    -------
    convolved : Convolved
    """
    bad = np.zeros(image.shape, bool) if bad is None else bad
    convolver = BandConvolver(
        image, kernel, variance=variance, bad=bad, box=Box.from_shape(image.shape, origin), squared=squared
    )
    out, lost = np.empty(image.shape, np.float32), np.empty(image.shape, np.float32)
    out_variance = None if variance is None else np.empty(image.shape, np.float32)

    def work(ends: tuple[int, int]) -> None:
        rows = slice(*ends)
        band = convolver.rows(*ends, out[rows], None if out_variance is None else out_variance[rows])
        lost[rows] = band.lost

    map_tiles(work, row_bands(image.shape[0], BAND), threads)
    return Convolved(out, out_variance, lost)


def subtract_convolved(
    convolved: Convolved,
    target: NDArray[np.floating],
    target_variance: NDArray[np.floating],
    background: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return target minus convolved minus background, and the sum of the variances.

    Parameters
    ----------
    convolved : Convolved
    target : (ny, nx) array
    target_variance : (ny, nx) array or None
    background : (ny, nx) array or None

    Returns
    -------
    difference : (ny, nx) float32 array
    variance : (ny, nx) float32 array or None
    """
    difference = np.subtract(target, convolved.image, dtype=np.float32)
    if background is not None:
        difference -= background
    if convolved.variance is None or target_variance is None:
        return difference, None
    return difference, np.add(convolved.variance, target_variance, dtype=np.float32)


def convolve_with_nodes(
    image: NDArray[np.floating], nodes: KernelNodes, threads: int | None = None
) -> NDArray[np.floating]:
    """Convolve an image without bad pixels with tabulated kernels; edges repeat.

    Parameters
    ----------
    image : (ny, nx) float32 array
        No NaN.
    nodes : KernelNodes
    threads : int, optional

    Returns
    -------
    convolved : (ny, nx) float32 array
    """
    ny, nx = image.shape
    out, half = np.empty(image.shape, np.float32), nodes.half_width
    good = np.zeros((1, nx), bool)

    def work(ends: tuple[int, int]) -> None:
        first, last = ends
        low, high = max(first - half, 0), min(last + half, ny)
        padded = np.empty((last - first + 2 * half + 1, nx + 2 * half + LONG_RUN), np.float32)
        flags = np.broadcast_to(good, (high - low, nx))
        padded_rows(image[low:high], flags, first, last, low, half, 0, np.float32(0), padded)
        nodes.convolve(padded, first, out[first:last])

    map_tiles(work, row_bands(ny, BAND), threads)
    return out
