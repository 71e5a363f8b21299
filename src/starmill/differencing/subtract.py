"""The difference image: convolve the reference, subtract it, and carry variance and bad pixels along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starmill.datamodel.geometry import Box
from starmill.differencing.convolve import (
    KernelNodes,
    VarianceNodes,
    convolve_rows,
    convolve_variance_rows,
    lost_fraction,
    repair_bad,
)
from starmill.kernels.kernel_convolution import TAPS
from starmill.numerics.tiles import map_tiles, row_bands

__all__ = ["Convolved", "convolve_image", "subtract_convolved"]

BAND = 64  # rows worked at once: image, halo and output of one band stay in the cache


@dataclass(frozen=True)
class Convolved:
    """A convolved image.

    Attributes
    ----------
    image, variance : (ny, nx) float32 arrays
        Variance is None when none was given.
    lost : (ny, nx) float32 array
        Share of the kernel on bad pixels or outside the image.
    """

    image: np.ndarray
    variance: np.ndarray | None
    lost: np.ndarray


def convolve_image(image, kernel, *, variance=None, bad=None, origin=(0, 0), squared=True, threads=None):
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
    box = Box.from_shape(image.shape, origin)
    bad = np.zeros(image.shape, bool) if bad is None else bad
    image = repair_bad(np.asarray(image, np.float32), bad)
    out = np.empty(image.shape, np.float32)
    nodes = KernelNodes.tabulate(kernel, box)
    jobs = [(image, nodes, convolve_rows, out)]
    out_variance = None
    if variance is not None:
        variance = repair_bad(np.asarray(variance, np.float32), bad)
        out_variance = np.empty(image.shape, np.float32)
        jobs.append(
            (
                variance,
                VarianceNodes.tabulate(kernel, box, squared=squared),
                convolve_variance_rows,
                out_variance,
            )
        )

    def work(rows):
        for source, table, function, target in jobs:
            padded = padded_band(source, *rows, kernel.half_width)
            function(padded, table, rows[0], target[rows[0] : rows[1]])

    map_tiles(work, row_bands(image.shape[0], BAND), threads)
    return Convolved(out, out_variance, lost_fraction(bad, kernel, box))


def subtract_convolved(convolved, target, target_variance, background=None):
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


def padded_band(image, first, last, half_width):
    """Return rows ``first`` to ``last`` with a border that repeats the edge pixels.

    Returns
    -------
    padded : (last - first + 2 h, nx + 2 h + TAPS) float32 array
    """
    ny, nx = image.shape
    rows = np.clip(np.arange(first - half_width, last + half_width), 0, ny - 1)
    padded = np.zeros((len(rows), nx + 2 * half_width + TAPS), np.float32)
    low, high = max(first - half_width, 0), min(last + half_width, ny)
    start = low - (first - half_width)
    body = padded[:, half_width : half_width + nx]
    body[start : start + high - low] = image[low:high]
    body[:start], body[start + high - low :] = image[0], image[-1]
    padded[:, :half_width] = body[:, :1]
    padded[:, half_width + nx : 2 * half_width + nx] = body[:, -1:]
    return padded
