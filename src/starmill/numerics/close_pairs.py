"""Pairs of positions that are near each other, without a tree: for one fixed distance a grid is enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.kernels.near_positions import mark_near

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
    order, first, last = _ranges(x, y, other_x, other_y, distance)
    found = []
    for step in range(3):
        start, count = first[step], last[step] - first[step]
        index = np.repeat(np.arange(x.size), count)
        within = np.arange(index.size) - np.repeat(np.cumsum(count) - count, count)
        other = order[np.repeat(start, count) + within]
        dx, dy = x[index] - other_x[other], y[index] - other_y[other]
        near = dx * dx + dy * dy <= distance * distance
        found.append((index[near], other[near]))
    index, other = (np.concatenate([pair[k] for pair in found]) for k in (0, 1))
    order = np.lexsort((other, index))
    return index[order], other[order]


def next_to(
    x: NDArray[Any],
    y: NDArray[Any],
    other_x: NDArray[Any],
    other_y: NDArray[Any],
    distance: float,
    *,
    skip: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Mark the positions that have another one within ``distance``, quickly also where there are very many.

    Parameters
    ----------
    x, y, other_x, other_y, distance
        As for :func:`close_pairs`.
    skip : (n,) int64 array, optional
        Number of an other position that does not count.
    """
    near = np.zeros(x.size, bool)
    if x.size == 0 or other_x.size == 0:
        return near
    places = [np.ascontiguousarray(v, np.float64) for v in (x, y, other_x, other_y)]
    ranges = _ranges(*places, distance)
    mark_near(*places, *ranges, np.full(x.size, -1) if skip is None else skip, float(distance), near)
    return near


def _ranges(
    x: NDArray[Any], y: NDArray[Any], other_x: NDArray[Any], other_y: NDArray[Any], distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Order of the others by cell; ranges of it, (3, n), that hold everything near to each position."""
    x0 = min(float(np.min(x)), float(np.min(other_x)))
    y0 = min(float(np.min(y)), float(np.min(other_y)))
    column, row = _cells(x, x0, distance), _cells(y, y0, distance)
    other_column, other_row = _cells(other_x, x0, distance), _cells(other_y, y0, distance)
    width = int(max(column.max(), other_column.max())) + 3  # an empty cell at both ends keeps rows apart
    key = other_row * width + other_column + 1
    order = np.argsort(key, kind="stable")
    key = key[order]
    middle = np.stack([(row + step) * width + column + 1 for step in (-1, 0, 1)])
    return (
        order,
        np.searchsorted(key, middle - 1, side="left"),
        np.searchsorted(key, middle + 1, side="right"),
    )


def _cells(values: NDArray[Any], first: float, size: float) -> NDArray[np.int64]:
    return np.floor((np.asarray(values, np.float64) - first) / size).astype(np.int64)
