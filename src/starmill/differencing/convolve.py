"""Convolution of image, variance and mask with a spatially varying kernel, without seams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starmill.kernels.kernel_convolution import (
    TAPS,
    add_columns,
    convolve_constant,
    convolve_varying,
    correlate_rows,
    spread_bad,
)

__all__ = [
    "KernelNodes",
    "VarianceNodes",
    "convolve_rows",
    "convolve_variance_rows",
    "lost_fraction",
    "repair_bad",
]

INTERPOLATION_ERROR = 4e-5
"""Largest error of the kernel between nodes, relative to the sum of its absolute values.

The error is continuous, so it leaves no seams, and below 0.01 of the noise on a star of S/N 1000."""

VARIANCE_ERROR = 1e-2
"""Largest relative error of the squared kernel: noise needs no more."""


@dataclass(frozen=True)
class KernelNodes:
    """A kernel tabulated for convolution.

    Attributes
    ----------
    taps : (node rows, node columns, k, kx) float32 array
        In correlation order, rows padded with zeros; one node when the kernel is constant.
    spacing : int
        Pixels between nodes.
    half_width : int
    origin : (int, int)
        Parent position (x, y) of the first node.
    """

    taps: np.ndarray
    spacing: int
    half_width: int
    origin: tuple

    @classmethod
    def tabulate(cls, kernel, box, *, tolerance=INTERPOLATION_ERROR):
        """Tabulate a SpatialKernel on the coarsest grid on which linear interpolation is accurate."""
        spacing, finest = 512, max(2, max(box.shape) // 64)
        while spacing > finest and _interpolation_error(kernel, box, spacing) > tolerance:
            spacing //= 2
        if _is_constant(kernel, box, tolerance):
            images = kernel.kernels_at(*box.center)[None, None]
        else:
            x, y = _node_positions(box, spacing)
            images = kernel.kernels_at(x[None, :], y[:, None])
        padded = -(-kernel.size // TAPS) * TAPS
        taps = np.zeros((*images.shape[:3], padded), np.float32)
        taps[..., : kernel.size] = images[..., ::-1, ::-1]
        return cls(taps, spacing, kernel.half_width, (box.x0, box.y0))


@dataclass(frozen=True)
class VarianceNodes:
    """The square of a kernel as a sum of separable terms, tabulated.

    Attributes
    ----------
    horizontal : (rank, k) float32 array
        Constant horizontal factors, in correlation order, padded to a multiple of ``TAPS``.
    vertical : (rank, node rows, node columns, k) float32 array
        Vertical factors at the nodes, padded to a multiple of 3.
    spacing : int
    half_width : int
    """

    horizontal: np.ndarray
    vertical: np.ndarray
    spacing: int
    half_width: int

    @classmethod
    def tabulate(cls, kernel, box, *, squared=True, tolerance=VARIANCE_ERROR):
        """Tabulate the square of a kernel (or the kernel, ``squared=False``, for classic behaviour)."""
        spacing = int(min(256, max(16, max(box.width, box.height) // 4)))
        x, y = _node_positions(box, spacing)
        images = kernel.kernels_at(x[None, :], y[:, None])[..., ::-1, ::-1]
        images = images**2 if squared else images
        size = kernel.size
        stacked = images.reshape(-1, size)
        _, values, right = np.linalg.svd(stacked, full_matrices=False)
        power = np.cumsum(values[::-1] ** 2)[::-1]
        rank = int(np.argmax(np.append(power, 0) <= tolerance**2 * power[0]))
        left = np.einsum("abuv,rv->rabu", images, right[:rank])
        fitted = np.einsum("rabu,r->ab", left, right[:rank].sum(axis=1))
        left *= (images.sum(axis=(2, 3)) / fitted)[None, :, :, None]  # the total variance is kept exactly
        horizontal = np.zeros((rank, -(-size // TAPS) * TAPS), np.float32)
        horizontal[:, :size] = right[:rank]
        vertical = np.zeros((*left.shape[:3], -(-size // 3) * 3), np.float32)
        vertical[..., :size] = left
        return cls(horizontal, vertical, spacing, kernel.half_width)


def convolve_rows(padded, nodes, first_row, out):
    """Convolve a band of rows.

    Parameters
    ----------
    padded : (rows + 2 h, nx + 2 h + TAPS) float32 array
        The band with a border of half a kernel (``h``) on every side and zeros on the right.
    nodes : KernelNodes
    first_row : int
        Row of the tabulated box at which the band starts.
    out : (rows, nx) float32 array
        Overwritten.
    """
    if nodes.taps.shape[:2] == (1, 1):
        convolve_constant(padded, nodes.taps[0, 0], out)
        return
    row, fraction = _row_nodes(first_row, len(out), nodes.spacing)
    convolve_varying(padded, nodes.taps, row, fraction, nodes.spacing, out)


def convolve_variance_rows(padded, nodes, first_row, out):
    """Convolve a band of rows of the variance with the squared kernel; parameters as :func:`convolve_rows`."""
    row, fraction = _row_nodes(first_row, len(out), nodes.spacing)
    filtered = np.empty((len(out) + nodes.vertical.shape[-1] - 1, out.shape[1]), np.float32)
    out[:] = 0
    tall = min(len(filtered), len(padded))
    filtered[tall:] = 0
    for horizontal, vertical in zip(nodes.horizontal, nodes.vertical, strict=True):
        correlate_rows(padded[:tall], horizontal, filtered[:tall])
        add_columns(filtered, vertical, row, fraction, nodes.spacing, out)


def lost_fraction(bad, kernel, box, *, edges=True):
    """Return the share of the kernel's absolute sum that falls on bad pixels, for every output pixel.

    Parameters
    ----------
    bad : (ny, nx) bool array
        Bad pixels of the image that is convolved.
    kernel : SpatialKernel
    box : Box
        Of the image.
    edges : bool
        Count pixels outside the image as bad.

    Returns
    -------
    lost : (ny, nx) float32 array
        0 for an output pixel that touches no bad pixel.
    """
    spacing = max(64, max(bad.shape) // 8)
    columns = np.arange(0, bad.shape[1] + spacing, spacing)
    rows = np.arange(0, bad.shape[0] + spacing, spacing)
    images = np.abs(kernel.kernels_at((columns + box.x0)[None, :], (rows + box.y0)[:, None]))
    images /= images.sum(axis=(2, 3), keepdims=True)
    lost = np.zeros(bad.shape, np.float32)
    y, x = np.nonzero(bad)
    spread_bad(x, y, np.ones(len(x), np.float32), images.astype(np.float32), spacing, lost)
    if edges:
        _add_edges(lost, images)
    return lost


def repair_bad(image, bad, *, reach=3):
    """Return the image with bad pixels replaced by the mean of the good pixels near them.

    Parameters
    ----------
    image : (ny, nx) array
        May hold NaN or infinity at bad pixels only.
    bad : (ny, nx) bool array
    reach : int
        Half width of the square of neighbours; without a good one there, the median of the image is taken.
    """
    y, x = np.nonzero(bad)
    out = image.copy()
    if len(y) == 0:
        return out
    thin = image[::7, ::7][~bad[::7, ::7]]
    total = np.zeros(len(y))
    weight = np.zeros(len(y))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            yy = np.clip(y + dy, 0, image.shape[0] - 1)
            xx = np.clip(x + dx, 0, image.shape[1] - 1)
            good = ~bad[yy, xx]
            share = np.where(good, 1 / (1 + dx * dx + dy * dy), 0)
            total += share * np.where(good, image[yy, xx], 0)
            weight += share
    fill = np.median(thin) if len(thin) else 0.0
    out[y, x] = np.where(weight > 0, total / np.where(weight > 0, weight, 1), fill)
    return out


def _add_edges(lost, images):
    """Add the share of the kernel outside the image, for the pixels within half a kernel of an edge."""
    mean = images.mean(axis=(0, 1))
    half = mean.shape[0] // 2
    ny, nx = lost.shape
    beyond_y = np.cumsum(mean.sum(axis=1))[:half][::-1]
    beyond_x = np.cumsum(mean.sum(axis=0))[:half][::-1]
    deep_y, deep_x = min(half, ny), min(half, nx)
    lost[:deep_y] += beyond_y[:deep_y, None]
    lost[ny - deep_y :] += beyond_y[:deep_y][::-1, None]
    lost[:, :deep_x] += beyond_x[None, :deep_x]
    lost[:, nx - deep_x :] += beyond_x[:deep_x][::-1][None, :]


def _node_positions(box, spacing):
    columns = max(2, -(-(box.width - 1) // spacing) + 1)
    rows = max(2, -(-(box.height - 1) // spacing) + 1)
    return box.x0 + spacing * np.arange(columns), box.y0 + spacing * np.arange(rows)


def _row_nodes(first_row, rows, spacing):
    at = np.arange(first_row, first_row + rows)
    return at // spacing, ((at % spacing) / spacing).astype(np.float32)


def _interpolation_error(kernel, box, spacing):
    """Return the largest error midway between nodes at nine places, relative to the absolute sum."""
    x = np.linspace(box.x0 + spacing / 2, max(box.x1 - spacing / 2, box.x0 + spacing / 2), 3)[None, :]
    y = np.linspace(box.y0 + spacing / 2, max(box.y1 - spacing / 2, box.y0 + spacing / 2), 3)[:, None]
    h = spacing / 2
    middle = kernel.kernels_at(x, y)
    along_x = (kernel.kernels_at(x - h, y) + kernel.kernels_at(x + h, y)) / 2
    along_y = (kernel.kernels_at(x, y - h) + kernel.kernels_at(x, y + h)) / 2
    error = max(np.abs(along_x - middle).max(), np.abs(along_y - middle).max())
    return float(error / np.abs(middle).sum(axis=(-2, -1)).max())


def _is_constant(kernel, box, tolerance):
    x = np.array([box.x0, box.x1 - 1, box.x0, box.x1 - 1, box.center[0]])
    y = np.array([box.y0, box.y0, box.y1 - 1, box.y1 - 1, box.center[1]])
    images = kernel.kernels_at(x, y)
    return bool(np.abs(images - images[-1]).max() <= tolerance * np.abs(images[-1]).sum())
