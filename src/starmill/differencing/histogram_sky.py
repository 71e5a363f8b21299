"""The level and width of the sky from a histogram whose bins a hundred random pixels choose, as HOTPANTS measures them.

The program draws the same pixels in every cell of the same size, so that its result can be repeated to the last bin.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["histogram_sky"]

_SAMPLE = 100  # random pixels that set the bins
_BINS = 256
_LARGEST_TRY = 5
_TINY = 1e-10  # values below count as fill

# the three congruential generators (modulus, factor, increment) of the shuffled sequence of Press et al. (1986)
_GENERATORS = (259200, 7141, 54773), (134456, 8121, 28411), (243000, 4561, 51349)
_SEED = -666
_TABLE = 97


def _uniform_numbers() -> Iterator[Any]:
    """Yield the random numbers of the program."""
    (m1, a1, c1), (m2, a2, c2), (m3, a3, c3) = _GENERATORS
    first = (a1 * ((c1 - _SEED) % m1) + c1) % m1
    second = first % m2
    first = (a1 * first + c1) % m1
    third = first % m3

    def fraction() -> float:
        return (first + second * (1.0 / m2)) * (1.0 / m1)

    table = []
    for _ in range(_TABLE):
        first, second = (a1 * first + c1) % m1, (a2 * second + c2) % m2
        table.append(fraction())
    while True:
        first, second = (a1 * first + c1) % m1, (a2 * second + c2) % m2
        third = (a3 * third + c3) % m3
        place = _TABLE * third // m3
        yield table[place]
        table[place] = fraction()


@cache
def _random_pixels(ny: int, nx: int) -> NDArray[np.integer]:
    """Return the flat indices of the pixels that are drawn, in order, as many as there are pixels at most."""
    draws = np.array(list(islice(_uniform_numbers(), 2 * min(ny * nx, 50 * _SAMPLE))))
    return (draws[1::2] * ny).astype(np.int64) * nx + (draws[::2] * nx).astype(np.int64)


def _clipped(values: NDArray[np.floating], clip: float) -> tuple[float, float] | None:
    """Return mean and standard deviation after three clips; squares are rounded as the program rounds them."""
    squares = (values * values).astype(np.float64)
    values = values.astype(np.float64)
    kept, count = np.ones(len(values), bool), -1
    mean = scatter = 0.0
    for _ in range(3):
        before, count = count, int(kept.sum())
        if count == before:
            break
        if count < 2:
            return None
        mean = values[kept].sum() / count
        scatter = np.sqrt(max(squares[kept].sum() - count * mean * mean, 0.0) / (count - 1))
        if scatter == 0:
            return None
        kept &= np.abs(values - mean) / scatter <= clip
    return mean, scatter


def histogram_sky(
    image: NDArray[np.floating], usable: NDArray[np.bool_], clip: float = 3.0
) -> tuple[float, float]:
    """Return the mode of the sky and its width.

    Parameters
    ----------
    image : (ny, nx) array
        Taken as float32.
    usable : (ny, nx) bool array
    clip : float
        Of the values, in standard deviations.

    Returns
    -------
    mode : float
        Middle of the narrowest run of bins that holds a tenth of the pixels.
    width : float
        Interquartile range over 1.35, the standard deviation of a Gaussian; 0 when no bins are fine and wide enough.
    """
    image = np.asarray(image, np.float32)
    usable = usable & np.isfinite(image) & (np.abs(image) > _TINY)
    if image.size < _SAMPLE:
        return 0.0, 0.0
    drawn = _random_pixels(*image.shape)
    drawn = np.sort(image.flat[drawn[usable.flat[drawn]][:_SAMPLE]].astype(np.float64))
    values = image[usable]
    moments = _clipped(values, clip) if len(drawn) else None
    if moments is None:
        return 0.0, 0.0
    high, middle = (drawn[int(np.float32(share) * np.float32(len(drawn)))] for share in (0.9, 0.5))
    size = (high - middle) / _SAMPLE
    first = middle - _BINS / 2 * size
    values = values.astype(np.float64)
    values = values[np.abs(values - moments[0]) / moments[1] <= clip]
    if len(values) == 0 or size == 0:
        return float(middle), 0.0
    mode = float(middle)
    for _ in range(_LARGEST_TRY):
        index = np.clip(np.floor((values - first) / size) + 1, 0, _BINS - 1).astype(np.int64)
        bins = np.bincount(index, minlength=_BINS)
        mode = first + size * (_mode_bin(bins) - 1.0)
        lower, upper = (_percentile_bin(bins, share) for share in (0.25, 0.75))
        if lower < 1 or upper > _BINS - 1:  # bins too narrow
            first -= _BINS / 2 * size
            size *= 2
        elif upper - lower < 40:  # too wide
            size /= 3
            first = mode - _BINS / 2 * size
        else:
            return float(mode), float(size * (upper - lower) / 1.35)  # 1.349 sigma of a Gaussian
    return float(mode), 0.0


def _mode_bin(bins: NDArray[np.integer]) -> float:
    """Return the mean position of the bins from the start of the narrowest run that holds a tenth of the pixels."""
    tenth, counts, last = bins.sum() / 10, bins.tolist(), _BINS - 1
    densest, start, held, end = 0.0, 0, 0, 1
    begin = 1
    while end < last:
        while held < tenth and end < last:
            held += counts[end]
            end += 1
        if held / (end - begin) > densest:
            densest, start = held / (end - begin), begin
        held -= counts[begin]
        begin += 1
    held, moment, at = 0, 0, start
    while held < tenth and at < last:
        held += counts[at]
        moment += at * counts[at]
        at += 1
    return moment / max(held, 1) + 0.5


def _percentile_bin(bins: NDArray[np.integer], share: float) -> float:
    """Return where a share of the pixels is reached, in bins, interpolated."""
    total = np.cumsum(bins)
    wanted = share * total[-1]
    at = int(np.searchsorted(total, wanted, "left"))
    return at + 1 - (total[at] - wanted) / bins[at]
