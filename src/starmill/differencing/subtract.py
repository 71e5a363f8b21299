"""The difference image: convolve the reference, subtract it, and carry variance and bad pixels along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starmill.datamodel.geometry import Box
from starmill.differencing.convolve import BandConvolver
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
    bad = np.zeros(image.shape, bool) if bad is None else bad
    convolver = BandConvolver(
        image, kernel, variance=variance, bad=bad, box=Box.from_shape(image.shape, origin), squared=squared
    )
    out = [np.empty(image.shape, np.float32) for _ in range(3)]

    def work(rows):
        band = convolver.rows(*rows)
        for target, values in zip(out, (band.image, band.variance, band.lost), strict=True):
            if values is not None:
                target[slice(*rows)] = values

    map_tiles(work, row_bands(image.shape[0], BAND), threads)
    return Convolved(out[0], None if variance is None else out[1], out[2])


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
