"""Pairs of positions that are near each other, without a tree: for one fixed distance a grid is enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["close_pairs", "next_to"]


def close_pairs(
    x: NDArray[Any], y: NDArray[Any], other_x: NDArray[Any], other_y: NDArray[Any], distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of a position and another one that are at most ``distance`` apart.

    Parameters
    ----------
    x, y : (n,) arrays, pixel
        Finite.
    other_x, other_y : (m,) arrays, pixel
    distance : float, pixel
        Positive.

    Returns
    -------
    index, other_index : (k,) int64 arrays
        Sorted by ``index``, then by ``other_index``.

    Notes
    -----
    Positions are binned in square cells of the size of the distance, sorted by row and column, so that the three
    cells beside each other in a row are one range. Cost: proportional to n log m and to the pairs in neighbouring cells.
    """
    none = np.zeros(0, np.int64)
    if x.size == 0 or other_x.size == 0:
        return none, none
    x0 = min(float(np.min(x)), float(np.min(other_x)))
    y0 = min(float(np.min(y)), float(np.min(other_y)))
    column, row = _cells(x, x0, distance), _cells(y, y0, distance)
    other_column, other_row = _cells(other_x, x0, distance), _cells(other_y, y0, distance)
    width = int(max(column.max(), other_column.max())) + 3  # an empty cell at both ends keeps rows apart
    key = other_row * width + other_column + 1
    order = np.argsort(key, kind="stable")
    key = key[order]
    found = []
    for step in (-1, 0, 1):
        middle = (row + step) * width + column + 1
        first = np.searchsorted(key, middle - 1, side="left")
        count = np.searchsorted(key, middle + 1, side="right") - first
        index = np.repeat(np.arange(x.size), count)
        within = np.arange(index.size) - np.repeat(np.cumsum(count) - count, count)
        other = order[np.repeat(first, count) + within]
        dx, dy = x[index] - other_x[other], y[index] - other_y[other]
        near = dx * dx + dy * dy <= distance * distance
        found.append((index[near], other[near]))
    index, other = (np.concatenate([pair[k] for pair in found]) for k in (0, 1))
    order = np.lexsort((other, index))
    return index[order], other[order]


def next_to(
    x: NDArray[Any], y: NDArray[Any], other_x: NDArray[Any], other_y: NDArray[Any], distance: float
) -> NDArray[np.bool_]:
    """Mark the positions that have another one within ``distance``; see :func:`close_pairs`."""
    near = np.zeros(x.size, bool)
    near[close_pairs(x, y, other_x, other_y, distance)[0]] = True
    return near


def _cells(values: NDArray[Any], first: float, size: float) -> NDArray[np.int64]:
    return np.floor((np.asarray(values, np.float64) - first) / size).astype(np.int64)
