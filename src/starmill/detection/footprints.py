"""Growing, merging and intersecting footprints, and marking them in a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import FootprintSet
from starmill.datamodel.geometry import Box
from starmill.kernels.labelling import components_of_runs, group_runs, painted_runs
from starmill.kernels.spans import paint_grown, paint_labels, set_bits, spans_holding

__all__ = [
    "clip_spans",
    "footprint_of_pixels",
    "grow_footprints",
    "growth_radius",
    "label_image",
    "mark_footprints",
    "merge_footprint_sets",
    "reading_order",
    "sort_peaks",
]


def growth_radius(sigma: float, n_sigma: float = 2.4) -> int:
    """Return by how many pixels footprints grow for a point-spread function of this sigma."""
    return int(n_sigma * sigma + 0.5)


def reading_order(spans: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the order that sorts spans by row, then by first column."""
    return np.lexsort((spans[:, 1], spans[:, 0]))


def clip_spans(spans: NDArray[np.int32], box: Box) -> NDArray[np.int32]:
    """Return the parts of spans inside a box, in indices of its array.

    Parameters
    ----------
    spans : (n, 3) int32 array
        y, x0, x1 (inclusive), parent frame.
    box : Box
        Where the array lies in the parent frame.

    Returns
    -------
    clipped : (m, 3) int32 array
    """
    local = spans - np.array([box.y0, box.x0, box.x0], np.int32)
    height, width = box.shape
    inside = (local[:, 0] >= 0) & (local[:, 0] < height) & (local[:, 1] < width) & (local[:, 2] >= 0)
    if not inside.all():
        local = local[inside]
    np.clip(local[:, 1:], 0, width - 1, out=local[:, 1:])
    return np.ascontiguousarray(local)


def sort_peaks(
    owner: NDArray[np.int64], peaks: NDArray[Any], n_footprints: int, sign: float = 1.0
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Order peaks by footprint, then brightest first, then x, then y.

    Parameters
    ----------
    owner : (n,) int array
        Footprint of each peak.
    peaks : (n,) array of PEAK_DTYPE
    n_footprints : int
    sign : float
        -1 when the deepest peak comes first.

    Returns
    -------
    peaks : (n,) array of PEAK_DTYPE
    offsets : (n_footprints + 1,) int64 array
    """
    order = np.lexsort((peaks["y"], peaks["x"], -sign * peaks["value"], owner))
    counts = np.bincount(owner, minlength=n_footprints)
    return peaks[order], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _grown_spans(spans: NDArray[np.int32], radius: int, box: Box) -> NDArray[np.int32]:
    """Merge spans, grown by a circle and cut to a box, into disjoint runs in reading order."""
    height, width = box.shape
    if not len(spans) or box.is_empty:
        return np.zeros((0, 3), np.int32)
    painted = np.zeros((height, (width + 7) // 8 * 8), np.uint8)
    local = spans - np.array([box.y0, box.x0, box.x0], np.int32)
    paint_grown(np.ascontiguousarray(local), radius, painted, width)
    return painted_runs(painted, painted.view(np.uint64)) + np.array([box.y0, box.x0, box.x0], np.int32)


def grow_footprints(
    footprints: FootprintSet, radius: int, box: Box, *, merge: bool = True, sign: float = 1.0
) -> FootprintSet:
    """Grow footprints by a circle; those that then touch become one.

    Parameters
    ----------
    footprints : FootprintSet
    radius : int
        Pixels with dx^2 + dy^2 <= radius^2 from a pixel of the footprint are added; 0 only merges.
    box : Box
        Parent frame; the result is cut to it.
    merge : bool
        Join footprints that touch at a side or corner. When False each grows alone and they may overlap.
    sign : float
        -1 when the deepest peak comes first.

    Returns
    -------
    grown : FootprintSet
        In the order of their first pixels; peaks of merged footprints are joined and sorted.
    """
    if not len(footprints):
        return FootprintSet.empty()
    if not merge:
        return _grow_each(footprints, radius, box)
    runs = _grown_spans(footprints.spans, radius, box)
    labels, n_labels = components_of_runs(runs)
    grouped, offsets = group_runs(runs, labels, n_labels, np.ones(n_labels, bool))
    peaks = footprints.peaks
    if not len(peaks):
        return FootprintSet(grouped, offsets)
    held = spans_holding(runs, peaks["y"].astype(np.int64), peaks["x"].astype(np.int64))
    inside = held >= 0
    sorted_peaks, peak_offsets = sort_peaks(labels[held[inside]], peaks[inside], n_labels, sign)
    return FootprintSet(grouped, offsets, sorted_peaks, peak_offsets)


def _grow_each(footprints: FootprintSet, radius: int, box: Box) -> FootprintSet:
    """Grow every footprint alone."""
    parts, counts = [], [0]
    for footprint in footprints:
        local = footprint.box.grow(radius).intersection(box)
        parts.append(_grown_spans(footprint.spans, radius, local))
        counts.append(len(parts[-1]))
    return FootprintSet(np.concatenate(parts), np.cumsum(counts), footprints.peaks, footprints.peak_offsets)


def merge_footprint_sets(
    first: FootprintSet, second: FootprintSet, box: Box, radius: int = 0
) -> FootprintSet:
    """Join two sets: footprints of either that overlap or touch, after growth, become one.

    Parameters
    ----------
    first, second : FootprintSet
    box : Box
        Parent frame; the result is cut to it.
    radius : int
        Growth in pixels.

    Returns
    -------
    merged : FootprintSet
        With the peaks of both.
    """
    return grow_footprints(FootprintSet.concatenate([first, second]), radius, box)


def mark_footprints(
    mask: NDArray[np.int32], footprints: FootprintSet, bit: int, origin: tuple[int, int]
) -> None:
    """Set a bit on all pixels of the footprints.

    Parameters
    ----------
    mask : (ny, nx) int32 array
        Changed.
    footprints : FootprintSet
        Parts outside the mask are left out.
    bit : int
        Bit value.
    origin : (x0, y0)
        Parent-frame position of the first pixel of the mask.
    """
    set_bits(clip_spans(footprints.spans, Box.from_shape(mask.shape, origin)), bit, mask)


def label_image(footprints: FootprintSet, box: Box) -> NDArray[np.int32]:
    """Return an image with footprint number + 1 on the pixels of each footprint, zero elsewhere.

    Parameters
    ----------
    footprints : FootprintSet
        Where they overlap the later one is seen.
    box : Box
        Parent frame.

    Returns
    -------
    labels : (ny, nx) int32 array
    """
    labels = np.zeros(box.shape, np.int32)
    inside = footprints.spans - np.array([box.y0, box.x0, box.x0], np.int32)
    height, width = box.shape
    owner = np.repeat(np.arange(len(footprints)), np.diff(footprints.span_offsets))
    keep = (inside[:, 0] >= 0) & (inside[:, 0] < height) & (inside[:, 1] < width) & (inside[:, 2] >= 0)
    inside, owner = inside[keep], owner[keep]
    np.clip(inside[:, 1:], 0, width - 1, out=inside[:, 1:])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(footprints)))])
    paint_labels(np.ascontiguousarray(inside), offsets, labels)
    return labels


def footprint_of_pixels(inside: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> FootprintSet:
    """Return the connected regions of a bool image as footprints without peaks.

    Parameters
    ----------
    inside : (ny, nx) bool array
    origin : (x0, y0)
        Parent-frame position of the first pixel.

    Returns
    -------
    footprints : FootprintSet
    """
    height, width = inside.shape
    painted = np.zeros((height, (width + 7) // 8 * 8), np.uint8)
    painted[:, :width] = inside
    runs = painted_runs(painted, painted.view(np.uint64))
    labels, n_labels = components_of_runs(runs)
    spans, offsets = group_runs(runs, labels, n_labels, np.ones(n_labels, bool))
    return FootprintSet(spans + np.array([origin[1], origin[0], origin[0]], np.int32), offsets)
