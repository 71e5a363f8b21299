"""Master frames: the sigma-clipped mean of many frames, made in bands of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError, InputError, NoDataError
from starmill.kernels.combine import combine_rows
from starmill.numerics.tiles import map_tiles, row_bands

__all__ = ["CombinedFrame", "combine_frames", "frame_level", "sorting_network"]


@dataclass(frozen=True)
class CombinedFrame:
    """Result of :func:`combine_frames`; arrays are (ny, nx).

    Attributes
    ----------
    image : float32
        Clipped mean; zero where ``count`` is zero.
    variance : float32
        Variance of the mean.
    count : int16
        How many frames entered each pixel.
    """

    image: np.ndarray
    variance: np.ndarray
    count: np.ndarray


def combine_frames(
    read_rows: Callable[[int, int, int], Any],
    n_frames: int,
    shape: tuple[int, int],
    *,
    scale: ArrayLike | None = None,
    n_sigma: float = 3.0,
    iterations: int = 3,
    minimum_sigma: float = 0.0,
    rows: int = 128,
    threads: int | None = None,
) -> CombinedFrame:
    """Sigma-clipped mean of ``n_frames`` frames, band by band.

    Parameters
    ----------
    read_rows : callable
        ``read_rows(k, y0, y1)`` returns rows y0 to y1 (exclusive) of frame k: an image (float32),
        or a tuple (image, rejected) or (image, rejected, variance), where ``rejected`` (bool) and
        ``variance`` may be None. Only one band of all frames is held in memory.
    n_frames : int
    shape : (int, int)
        ``(ny, nx)`` of a frame.
    scale : (n_frames,) array, optional
        Factor of each frame.
    n_sigma, iterations : float, int
        First clip at median +- n_sigma 0.7413 IQR (with variances: n_sigma times the expected scatter),
        later ones at mean +- n_sigma standard deviations.
    minimum_sigma : float
        The clip never assumes a smaller scatter than this (units of the scaled frames); give the
        known noise, or the few values of a pixel clip each other by chance.
    rows : int
        Height of a band.
    threads : int, optional

    Returns
    -------
    combined : CombinedFrame
        The variance is propagated when the frames bring theirs; otherwise it is the scatter of the
        values over their number.
    """
    if n_frames < 1:
        raise NoDataError("there is no frame to combine")
    factors = np.ones(n_frames, np.float32) if scale is None else np.asarray(scale, np.float32)
    if factors.shape != (n_frames,) or not np.isfinite(factors).all():
        raise InputError(f"{n_frames} frames need as many finite scale factors, not {factors}")
    image, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
    count = np.empty(shape, np.int16)
    network = sorting_network(n_frames)
    clip = (float(n_sigma), int(iterations), float(minimum_sigma))

    def combine(band: tuple[int, int]) -> None:
        y0, y1 = band
        stack, rejected, errors = _read_band(read_rows, n_frames, y0, y1, shape)
        combine_rows(
            stack, rejected, factors, errors, network, clip, image[y0:y1], variance[y0:y1], count[y0:y1]
        )

    map_tiles(combine, row_bands(shape[0], rows), threads)
    return CombinedFrame(image, variance, count)


def frame_level(
    image: NDArray[Any], rejected: NDArray[Any] | None = None, region: Box | None = None
) -> float:
    """Typical level of a frame, by which flats are scaled: the median of the valid pixels of a region.

    Parameters
    ----------
    image : (ny, nx) array
    rejected : (ny, nx) bool array, optional
    region : Box, optional
        The central quarter of the frame when not given, where vignetting is least.
    """
    ny, nx = image.shape
    part = (slice(ny // 4, ny - ny // 4), slice(nx // 4, nx - nx // 4)) if region is None else region.slices()
    values = image[part]
    every = max(1, int(np.sqrt(values.size / 1e6)))  # a million pixels give the level to 1e-4 of the noise
    values = values[::every, ::every]
    good = np.isfinite(values)
    if rejected is not None:
        good &= ~rejected[part][::every, ::every]
    if not good.any():
        raise AlgorithmError(
            "no pixel of the region in which the level is measured is valid",
            numbers={"pixels": values.size, "valid": 0},
        )
    return float(np.median(values[good]))


def sorting_network(n: int) -> NDArray[np.int64]:
    """Return the comparators (m, 2) of Batcher's odd-even merge sort for ``n`` values.

    References
    ----------
    Knuth 1998, *The Art of Computer Programming* vol. 3, section 5.2.2, algorithm M.
    """
    comparators = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                comparators += [
                    (i + j, i + j + k)
                    for i in range(min(k, n - j - k))
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    return np.array(comparators, np.int64).reshape(-1, 2)


def _read_band(
    read_rows: Callable[..., Any], n_frames: int, y0: int, y1: int, shape: tuple[int, int]
) -> tuple[NDArray[np.floating], NDArray[np.bool_], NDArray[np.floating]]:
    stack = np.empty((n_frames, y1 - y0, shape[1]), np.float32)
    rejected = np.empty((0, 0, 0), bool)
    errors = np.empty((0, 0, 0), np.float32)
    for k in range(n_frames):
        answer = read_rows(k, y0, y1)
        parts = answer if isinstance(answer, tuple) else (answer,)
        if parts[0].shape != stack.shape[1:]:
            raise InputError(f"frame {k} has rows of shape {parts[0].shape}, expected {stack.shape[1:]}")
        stack[k] = parts[0]
        if len(parts) > 1 and parts[1] is not None:
            if not rejected.size:
                rejected = np.zeros(stack.shape, bool)
            rejected[k] = parts[1]
        if len(parts) > 2 and parts[2] is not None:
            if not errors.size:
                errors = np.zeros(stack.shape, np.float32)
            errors[k] = parts[2]
    missing = ~np.isfinite(stack)
    if missing.any():
        rejected = missing if not rejected.size else rejected | missing
        stack[missing] = 0
    return stack, rejected, errors
