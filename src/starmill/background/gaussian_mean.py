"""Gaussian means of the valid pixels of a map, over the whole map or around some pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.errors import AlgorithmError
from starmill.kernels.map_peaks import means_around
from starmill.numerics.convolution import convolve_separable, gaussian_kernel

__all__ = ["blanked", "mean_around", "smooth_map"]

STRIP = 2**17  # pixels that are worked on at a time, so that no second map is needed


def blanked(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the map with NaN on invalid pixels, in single precision; the map itself when that is what it is.

    Parameters
    ----------
    image : (ny, nx) array
    valid : (ny, nx) bool array
    """
    if image.dtype == np.float32 and np.isnan(image[~valid]).all():
        return image
    return np.where(valid, image, np.float32(np.nan)).astype(np.float32, copy=False)


def smooth_map(
    image: NDArray[Any],
    valid: NDArray[np.bool_],
    sigma: float,
    *,
    wanted: NDArray[np.bool_] | None = None,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Gaussian mean of the valid pixels around every pixel.

    Wide Gaussians are applied to a block-averaged map, so that the cost does not grow with the width.

    Parameters
    ----------
    image : (ny, nx) array
        Values of invalid pixels do not count.
    valid : (ny, nx) bool array
    sigma : float, pixel
    wanted : (ny, nx) bool array, optional
        Pixels whose mean matters; everywhere when not given.
    change : callable, optional
        Applied to the values before they are averaged: the mean of squares, for example.

    Returns
    -------
    smooth : (ny, nx) float32 array
        Defined everywhere: far from valid pixels a wider mean is taken, and where that is not wanted the mean of all.
    """
    if not valid.any():
        raise AlgorithmError("a map without valid pixels has no level", numbers={"valid pixels": 0})
    step = int(sigma / 2.5)
    if step <= 1:
        kernel = gaussian_kernel(max(sigma, 0.3))
        clean = blanked(image, valid)
        level = convolve_separable(clean if change is None else change(clean), kernel, min_weight=1e-3).image
    else:
        total, count = _block_totals(image, valid, step, change)
        kernel = gaussian_kernel(sigma / step)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        near = None if wanted is None else _widened(_block_totals(wanted, wanted, step, None)[1] > 0)
        level = _expand(
            _fill(_weighted_mean(mean, count, kernel), mean, count, kernel, near), step, image.shape
        )
    missing = ~np.isfinite(level)
    if not missing.any():
        return level
    far = missing.copy() if wanted is None else missing & wanted
    if far.any() and sigma <= max(image.shape):
        level[far] = smooth_map(image, valid, max(4.0 * sigma, 6.0), wanted=far, change=change)[far]
        missing &= ~far
    if missing.any():
        total, count = _block_totals(image, valid, 64, change)
        level[missing] = total.sum() / count.sum()
    return level


def mean_around(
    image: NDArray[Any], valid: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64], sigma: float
) -> NDArray[np.float64]:
    """Gaussian mean of the valid pixels around some pixels; as :func:`smooth_map` where few means are needed.

    Parameters
    ----------
    image : (ny, nx) array
    valid : (ny, nx) bool array
    x, y : (n,) int arrays, pixel
    sigma : float, pixel
        Of a wide Gaussian only every second, third ... pixel is looked at.

    Returns
    -------
    mean : (n,) float64 array
        NaN where no pixel near is valid.
    """
    step = max(1, int(sigma / 2.5))
    out = np.empty(x.size)
    means_around(
        np.ascontiguousarray(image, np.float32), np.ascontiguousarray(valid), x.astype(np.int64), y.astype(np.int64),
        gaussian_kernel(max(sigma / step, 0.3)), step, out,
    )  # fmt: skip
    return out


def _widened(marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark also the eight neighbours."""
    out = marks.copy()
    out[1:] |= marks[:-1]
    out[:-1] |= marks[1:]
    rows = out.copy()
    out[:, 1:] |= rows[:, :-1]
    out[:, :-1] |= rows[:, 1:]
    return out


def _weighted_mean(
    mean: NDArray[np.float32], count: NDArray[np.float32], kernel: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Smooth block means with the number of pixels as weight; NaN where nothing is near."""
    half = kernel.size // 2
    pads = [np.pad(plane, half) for plane in (np.where(count > 0, mean, 0) * count, count)]
    total, weight = (convolve_separable(plane, kernel).image[half:-half, half:-half] for plane in pads)
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), np.nan).astype(np.float32)


def _fill(
    level: NDArray[np.float32],
    mean: NDArray[np.float32],
    count: NDArray[np.float32],
    kernel: NDArray[np.float32],
    near: NDArray[np.bool_] | None,
) -> NDArray[np.float32]:
    """Take a wider mean for the blocks in ``near`` (all, when None) that have no level; the others get the mean of all."""
    while not np.isfinite(level if near is None else level[near]).all():
        kernel = gaussian_kernel(2.0 * kernel.size / 7.0)
        wider = _weighted_mean(mean, count, kernel)
        level = np.where(np.isfinite(level), level, wider)
    return np.where(np.isfinite(level), level, np.float32(np.nanmean(mean)))


def _block_totals(
    image: NDArray[Any],
    valid: NDArray[np.bool_],
    step: int,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum and number of the valid values in blocks of step x step pixels; the last blocks may be smaller."""
    shape = tuple(-(-n // step) for n in image.shape)
    total, count = np.empty(shape, np.float32), np.empty(shape, np.float32)
    rows = max(1, STRIP // (step * image.shape[1]))
    for first in range(0, shape[0], rows):
        strip = slice(first * step, min((first + rows) * step, image.shape[0]))
        values = np.where(valid[strip], image[strip], np.float32(0)).astype(np.float32, copy=False)
        if change is not None:
            values = np.where(valid[strip], change(values), np.float32(0))
        total[first : first + rows] = _sum_blocks(values, step)
        count[first : first + rows] = _sum_blocks(valid[strip].astype(np.float32), step)
    return total, count


def _sum_blocks(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Sum blocks of step x step pixels; the last blocks may be smaller."""
    rows = _sum_runs(image, step)
    return np.ascontiguousarray(_sum_runs(np.ascontiguousarray(rows.T), step).T)


def _sum_runs(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Sum every ``step`` rows; whole rows are added, which is several times faster than ``add.reduceat``."""
    full = image.shape[0] // step
    out = np.empty((-(-image.shape[0] // step), image.shape[1]), np.float32)
    np.sum(image[: full * step].reshape(full, step, image.shape[1]), axis=1, out=out[:full])
    if full < out.shape[0]:
        out[full] = image[full * step :].sum(axis=0)
    return out


def _expand(blocks: NDArray[np.float32], step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate block values linearly to pixels, along columns and then, some rows at a time, along rows."""
    low, high, part = _between(blocks.shape[0], step, shape[0])
    tall = blocks[low] + (blocks[high] - blocks[low]) * part[:, None]
    low, high, part = _between(blocks.shape[1], step, shape[1])
    out = np.empty(shape, np.float32)
    rows = max(1, STRIP // shape[1])
    for first in range(0, shape[0], rows):
        strip = slice(first, first + rows)
        left, right = np.take(tall[strip], low, axis=1), np.take(tall[strip], high, axis=1)
        right -= left
        right *= part
        np.add(left, right, out=out[strip])
    return out


def _between(n_blocks: int, step: int, size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    """Blocks before and after each pixel of an axis, and how far it is from the first to the second."""
    last = n_blocks - 1
    position = np.clip((np.arange(size) - 0.5 * (step - 1)) / step, 0, last)
    low = np.minimum(position.astype(np.int64), max(last - 1, 0))
    return low, np.minimum(low + 1, last), (position - low).astype(np.float32)
