"""Convolution of image, variance and mask with a spatially varying kernel, without seams, band by band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starmill.differencing.flags import bad_positions
from starmill.kernels.kernel_convolution import (
    LONG_RUN,
    convolve_separable,
    convolve_varying,
    padded_rows,
    repair_pixels,
    spread_bad,
)

if TYPE_CHECKING:
    from starmill.datamodel.geometry import Box
    from starmill.datamodel.spatial_kernel import SpatialKernel
    from starmill.differencing.flags import FlaggedPixels
    from starmill.differencing.noise import PoissonVariance


__all__ = ["BandConvolver", "Convolved", "KernelNodes", "LostShare", "repair_bad"]

INTERPOLATION_ERROR = 5e-5
"""Largest error of the kernel between nodes, relative to the sum of its absolute values.

The error is continuous, so it leaves no seams, and reaches a tenth of the noise on a star of S/N 300."""

VARIANCE_ERROR = 2e-3
"""The same for the square of the kernel: noise needs no more."""

REACH = 3  # pixels: half width of the square from which a bad pixel is filled


@dataclass(frozen=True)
class KernelNodes:
    """A kernel tabulated for convolution.

    Attributes
    ----------
    taps : (node rows, node columns, k, m) float32 array
        In correlation order: the kernels themselves, or their vertical factors when ``horizontal`` is given.
    horizontal : (m, k) float32 array or None
        Horizontal factors of a kernel of rank ``m`` at most, an even number.
    spacing : int
        Pixels between nodes.
    half_width : int
    """

    taps: np.ndarray
    horizontal: np.ndarray | None
    spacing: int
    half_width: int

    @classmethod
    def tabulate(
        cls, kernel: SpatialKernel, box: Box, *, tolerance: float = INTERPOLATION_ERROR, power: int = 1
    ) -> KernelNodes:
        """Tabulate a SpatialKernel, or its square, on the coarsest grid on which linear interpolation is accurate.

        The kernel is factorised when that saves time at half the tolerance.
        """
        spacing, finest = 512, max(2, max(box.shape) // 64)
        while spacing > finest and _interpolation_error(kernel, box, spacing, power) > tolerance:
            spacing //= 2
        if spacing == 512 and _is_constant(kernel, box, tolerance):
            spacing = LONG_RUN * -(-max(box.shape) // LONG_RUN)
        x, y = _node_positions(box, spacing)
        images = kernel.kernels_at(x[None, :], y[:, None])
        if power != 1:
            np.power(images, power, out=images)
        return cls.of_images(images, spacing, tolerance / 2)

    @classmethod
    def of_images(cls, images: NDArray[np.floating], spacing: int, tolerance: float) -> KernelNodes:
        """Tabulate kernels given at pixels ``0, spacing, 2 spacing, ...`` in both directions.

        Parameters
        ----------
        images : (node rows, node columns, k, k) array
            In convolution order. The last node column lies at or beyond the last pixel, the last node row beyond it.
        spacing : int
        tolerance : float
            Error allowed to factors, relative to the absolute sum of a kernel.
        """
        images = images[..., ::-1, ::-1]
        vertical, horizontal = (images, None) if spacing % LONG_RUN else _factors(images, tolerance)
        return cls(_without_tiny(vertical), horizontal, spacing, images.shape[-1] // 2)

    def convolve(self, padded: NDArray[np.floating], first_row: int, out: NDArray[np.floating]) -> None:
        """Convolve a band of rows.

        Parameters
        ----------
        padded : (rows + 2 h + 1, nx + 2 h + LONG_RUN) float32 array
            The band with a border of half a kernel (``h``) on every side.
        first_row : int
            Row of the tabulated box at which the band starts.
        out : (rows, nx) float32 array
            Overwritten.
        """
        at = np.arange(first_row, first_row + len(out))
        fraction = ((at % self.spacing) / self.spacing).astype(np.float32)
        if self.horizontal is None:
            convolve_varying(padded, self.taps, at // self.spacing, fraction, self.spacing, out)
        else:
            convolve_separable(
                padded, self.horizontal, self.taps, at // self.spacing, fraction, self.spacing, out
            )


def _factors(images: NDArray[np.floating], tolerance: float) -> tuple[Any, ...]:
    """Return vertical factors and common horizontal factors of kernels, or the kernels and None.

    ``images`` is (rows, columns, k, k). The error of the product is below ``tolerance`` of the absolute sum of every
    kernel; the sums are exact. Without gain (a rank of half the width) the kernels are returned as they are. One row of
    kernels is worked at a time: the whole table is as large as a quarter of an image.
    """
    size = images.shape[-1]
    scale = np.array([np.abs(row).sum(axis=(1, 2), keepdims=True) for row in images])
    parts = ((row / s).reshape(-1, size) for row, s in zip(images, scale, strict=True))
    right = np.linalg.eigh(sum(part.T @ part for part in parts))[1][:, ::-1]
    # the first factor is flat, so that the sum of a kernel is one number of its vertical factor
    flat = np.full((size, 1), size**-0.5)
    for rank in range(2, size // 2 + 1, 2):
        rows = np.linalg.qr(np.concatenate([flat, right[:, : rank - 1]], axis=1))[0]
        lost = np.eye(size) - rows @ rows.T
        errors = (np.abs(row @ lost / s).max() for row, s in zip(images, scale, strict=True))
        if all(error <= tolerance for error in errors):
            return images @ rows, _without_tiny(rows.T)
    return images, None


def _without_tiny(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return float32 values, those without influence zero: products of denormal size would be slow."""
    limit = 1e-9 * max(np.abs(row).max() for row in values)
    out = np.empty(values.shape, np.float32)
    for row, kept in zip(values, out, strict=True):
        kept[...] = np.where(np.abs(row) < limit, 0, row)
    return out


@dataclass(frozen=True)
class Convolved:
    """An image, or a band of its rows, after convolution.

    Attributes
    ----------
    image, variance : (rows, nx) float32 arrays
        Variance is None when none was given.
    lost : (rows, nx) float32 array
        Share of the kernel on bad pixels or outside the image.
    """

    image: np.ndarray
    variance: np.ndarray | None
    lost: np.ndarray


class BandConvolver:
    """Everything that is tabulated once to convolve an image, its variance and its bad pixels band by band.

    Parameters
    ----------
    image : (ny, nx) float32 array
        NaN only where ``bad``.
    kernel : SpatialKernel
    variance : (ny, nx) array or None
        Or an object whose slices of rows are arrays.
    bad : (ny, nx) bool array or FlaggedPixels
        Replaced by the mean of their neighbours before convolution.
    box : Box
        Of the image, parent frame.
    squared : bool
        False convolves the variance with the kernel itself.
    """

    def __init__(
        self,
        image: NDArray[np.floating],
        kernel: SpatialKernel,
        *,
        variance: NDArray[np.floating] | PoissonVariance | None,
        bad: NDArray[np.bool_] | FlaggedPixels,
        box: Box,
        squared: bool = True,
    ) -> None:
        self.image, self.variance, self.bad, self.box = image, variance, bad, box
        self._nodes = KernelNodes.tabulate(kernel, box)
        self._squared = None
        if variance is not None:
            self._squared = KernelNodes.tabulate(
                kernel, box, tolerance=VARIANCE_ERROR, power=2 if squared else 1
            )
        self._lost = LostShare(bad, kernel, box)
        self._fill = _sparse_median(image, bad)
        self._fill_variance = None if variance is None else _sparse_median(variance, bad)

    def rows(
        self, first: int, last: int, image: NDArray[np.floating], variance: NDArray[np.floating] | None = None
    ) -> Convolved:
        """Convolve rows ``first`` to ``last`` (exclusive) into the given ``(rows, nx)`` float32 arrays.

        Returns
        -------
        rows : Convolved
        """
        half = self._nodes.half_width
        nx = self.box.width
        low, high = max(first - half - REACH, 0), min(last + half + REACH, self.box.height)
        padded = np.empty((last - first + 2 * half + 1, nx + 2 * half + LONG_RUN), np.float32)
        bad = self.bad[low:high]
        for source, nodes, fill, out in (
            (self.image, self._nodes, self._fill, image),
            (self.variance, self._squared, self._fill_variance, variance),
        ):
            if source is not None:
                slab = np.asarray(source[low:high], np.float32)
                padded_rows(slab, bad, first, last, low, half, REACH, fill, padded)
                nodes.convolve(padded, first, out)
        return Convolved(image, variance, self._lost.rows(first, last))


class LostShare:
    """The share of a kernel's absolute sum that falls on bad pixels or outside the image.

    Parameters
    ----------
    bad : (ny, nx) bool array
    kernel : SpatialKernel
    box : Box
        Of the image, parent frame.
    edges : bool
        Count the share outside the image.
    """

    def __init__(
        self, bad: NDArray[np.bool_] | FlaggedPixels, kernel: SpatialKernel, box: Box, *, edges: bool = True
    ) -> None:
        self.shape = bad.shape
        self._spacing = spacing = max(64, max(bad.shape) // 8)
        columns = np.arange(0, bad.shape[1] + spacing, spacing)
        rows = np.arange(0, bad.shape[0] + spacing, spacing)
        images = np.abs(kernel.kernels_at((columns + box.x0)[None, :], (rows + box.y0)[:, None]))
        images /= images.sum(axis=(2, 3), keepdims=True)
        self._kernels = images.astype(np.float32)
        self._y, self._x = bad_positions(bad)
        mean = images.mean(axis=(0, 1))
        self._half = half = mean.shape[0] // 2
        # the share beyond an edge, at distances 0, 1, ... from it
        self._beyond_y = np.cumsum(mean.sum(axis=1))[:half][::-1] * edges
        self._beyond_x = np.cumsum(mean.sum(axis=0))[:half][::-1].astype(np.float32) * edges

    def rows(self, first: int, last: int) -> NDArray[np.floating]:
        """Return the lost share of rows ``first`` to ``last`` (exclusive), ``(rows, nx)`` float32."""
        ny, nx = self.shape
        lost = np.zeros((last - first, nx), np.float32)
        near = slice(*np.searchsorted(self._y, [first - self._half, last + self._half]))
        spread_bad(self._x[near], self._y[near], self._kernels, self._spacing, first, lost)
        deep_y, deep_x = min(self._half, ny), min(self._half, nx)
        for distance in range(deep_y):
            for row in (distance, ny - 1 - distance):
                if first <= row < last:
                    lost[row - first] += np.float32(self._beyond_y[distance])
        lost[:, :deep_x] += self._beyond_x[None, :deep_x]
        lost[:, nx - deep_x :] += self._beyond_x[:deep_x][::-1][None, :]
        return lost


def repair_bad(
    image: NDArray[np.floating], bad: NDArray[np.bool_], *, reach: int = REACH
) -> NDArray[np.floating]:
    """Return the image with bad pixels replaced by the mean of the good pixels near them.

    Parameters
    ----------
    image : (ny, nx) array
        May hold NaN or infinity at bad pixels only.
    bad : (ny, nx) bool array
    reach : int
        Half width of the square of neighbours; without a good one there, the median of the image is taken.
    """
    image = np.asarray(image, np.float32)
    out = np.empty_like(image)
    repair_pixels(image, bad, reach, _sparse_median(image, bad), out)
    return out


def _sparse_median(
    image: NDArray[np.floating] | PoissonVariance, bad: NDArray[np.bool_] | FlaggedPixels
) -> float:
    """Return the median of every seventh good pixel of every seventh row, 0 without any."""
    good = ~bad[::7, ::7]
    thin = np.asarray(image[::7])[:, ::7][good]
    return np.float32(np.median(thin) if len(thin) else 0)


def _node_positions(box: Box, spacing: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    columns = max(2, -(-(box.width - 1) // spacing) + 1)
    rows = max(2, -(-(box.height - 1) // spacing) + 1)
    # the row after the last node row is read with weight 0
    return box.x0 + spacing * np.arange(columns + 1), box.y0 + spacing * np.arange(rows + 1)


def _interpolation_error(kernel: SpatialKernel, box: Box, spacing: int, power: int = 1) -> float:
    """Return the largest error midway between nodes at nine places, relative to the absolute sum."""
    x = np.linspace(box.x0 + spacing / 2, max(box.x1 - spacing / 2, box.x0 + spacing / 2), 3)[None, :]
    y = np.linspace(box.y0 + spacing / 2, max(box.y1 - spacing / 2, box.y0 + spacing / 2), 3)[:, None]
    h = spacing / 2

    def at(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
        return kernel.kernels_at(x, y) ** power

    middle = at(x, y)
    along_x = (at(x - h, y) + at(x + h, y)) / 2
    along_y = (at(x, y - h) + at(x, y + h)) / 2
    error = max(np.abs(along_x - middle).max(), np.abs(along_y - middle).max())
    return float(error / np.abs(middle).sum(axis=(-2, -1)).max())


def _is_constant(kernel: SpatialKernel, box: Box, tolerance: float) -> bool:
    x = np.array([box.x0, box.x1 - 1, box.x0, box.x1 - 1, box.center[0]])
    y = np.array([box.y0, box.y0, box.y1 - 1, box.y1 - 1, box.center[1]])
    images = kernel.kernels_at(x, y)
    return bool(np.abs(images - images[-1]).max() <= tolerance * np.abs(images[-1]).sum())
