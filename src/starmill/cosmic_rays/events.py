"""Cosmic-ray events: lists of pixels as footprints, and the values that replace them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.cosmic_rays.interpolate import run_weights
from starmill.datamodel.footprint import FootprintSet
from starmill.kernels import cosmic_rays as kernel
from starmill.kernels.labelling import components_of_runs

_LOW_BITS = (1 << 21) - 1  # a row or column number in the key that sorts pixels
_REACH = 6  # pixels to the nearest good neighbour along a line


@dataclass(frozen=True, slots=True)
class CosmicRays:
    """Cosmic rays of an image.

    Attributes
    ----------
    footprints : FootprintSet
        One per event, parent frame.
    pixels : (n, 2) int64 array
        y, x (array indices) of all their pixels, each once, in row order.
    values, variances : (n,) float32 arrays
        What replaces the image and the variance at ``pixels``.
    """

    footprints: FootprintSet
    pixels: NDArray[np.int64]
    values: NDArray[np.float32]
    variances: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.footprints)

    def flag(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Boolean image, True on the pixels."""
        out = np.zeros(shape, bool)
        out[self.pixels[:, 0], self.pixels[:, 1]] = True
        return out


def no_cosmic_rays() -> CosmicRays:
    """Return the result for an image without any."""
    none = np.empty(0, np.float32)
    return CosmicRays(FootprintSet.empty(), np.empty((0, 2), np.int64), none, none)


def spans_of(pixels: NDArray, owners: NDArray | int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return runs of pixels of the same owner and row, sorted by owner, y, x; repeated pixels count once.

    Parameters
    ----------
    pixels : (n, 2) int array
        y, x; both below 2**21.
    owners : (n,) int array or int
        Number of the event of each pixel.

    Returns
    -------
    spans : (m, 3) int32 array
        y, x0, x1 (inclusive).
    owners : (m,) int64 array
    """
    keys = (np.asarray(owners, np.int64) << 42) | (pixels[:, 0].astype(np.int64) << 21) | pixels[:, 1]
    keys = np.unique(keys)
    first = np.flatnonzero(np.diff(keys, prepend=-2) != 1)
    last = np.flatnonzero(np.diff(keys, append=-2) != 1)
    y, x = (keys >> 21) & _LOW_BITS, keys & _LOW_BITS
    return np.column_stack([y[first], x[first], x[last]]).astype(np.int32), keys[first] >> 42


def pixels_of(spans: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pixels (y, x) of spans, and the index of the span of each."""
    lengths = (spans[:, 2] - spans[:, 1] + 1).astype(np.int64)
    index = np.repeat(np.arange(len(spans)), lengths)
    along = np.arange(len(index)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.column_stack([spans[index, 0], spans[index, 1] + along]).astype(np.int64), index


def join_touching(pixels: NDArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Spans of pixels and the number of the event of each: pixels that touch, also by a corner, are one event.

    The spans are sorted by row; see :func:`spans_of` for the arrays.
    """
    spans, _ = spans_of(pixels, 0)
    labels, _ = components_of_runs(spans)
    return spans, labels


def replacement(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    pixels: NDArray,
    background: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Value of bad pixels from linear predictions along the row, the column and the diagonals.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
    bad : (ny, nx) bool array
        Pixels that are not used; all of ``pixels`` among them.
    pixels : (n, 2) int array
        y, x.
    background : float
        Value of pixels that have no good pixel within 6 pixels on both sides of any of the four lines.

    Returns
    -------
    values, variances : (n,) float32 arrays
        The variance is the mean of that of the good pixels around.
    """
    longest = 2 * _REACH - 1
    values, variances = np.empty(len(pixels)), np.empty(len(pixels))
    straight, diagonal = run_weights(1.0, longest), run_weights(1.0, longest, float(np.sqrt(2.0)))
    kernel.predict_pixels(
        image,
        variance,
        bad,
        pixels.astype(np.int32),
        straight,
        diagonal,
        _REACH,
        float(background),
        values,
        variances,
    )
    return values.astype(np.float32), variances.astype(np.float32)


def collect(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    spans: NDArray[np.int32],
    owners: NDArray[np.int64],
    *,
    background: float = 0.0,
    origin: tuple[int, int] = (0, 0),
    random: np.random.Generator | None = None,
) -> CosmicRays:
    """Events with the values that replace their pixels.

    Parameters
    ----------
    image, variance, bad, background
        See :func:`replacement`; the pixels of the events are set in ``bad``.
    spans, owners
        Sorted by owner, see :func:`spans_of`.
    origin : (x0, y0)
        Parent-frame index of the first pixel.
    random : numpy.random.Generator, optional
        Take the background with Gaussian noise instead of predictions.
    """
    offsets = np.concatenate([[0], np.flatnonzero(np.diff(owners)) + 1, [len(owners)]])
    shift = np.array([origin[1], origin[0], origin[0]], np.int32)
    pixels = pixels_of(spans_of(pixels_of(spans)[0], 0)[0])[0]
    bad[pixels[:, 0], pixels[:, 1]] = True
    if random is None:
        values, variances = replacement(image, variance, bad, pixels, background)
    else:
        values, variances = noisy_background(variance, pixels, background, random)
    return CosmicRays(FootprintSet(spans + shift, offsets), pixels, values, variances)


def noisy_background(
    variance: NDArray[np.float32], pixels: NDArray, background: float, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Background with Gaussian noise of the variance of every pixel, and this variance."""
    variances = variance[pixels[:, 0], pixels[:, 1]]
    values = background + np.sqrt(variances) * random.standard_normal(len(pixels))
    return values.astype(np.float32), variances
