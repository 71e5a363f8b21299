"""What a deblender gives back: children with their own pixels, and why parents were left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet

__all__ = ["REASONS", "Deblended", "ParentChildren", "collect", "runs_of", "usable_parents"]

REASONS = ("parent_too_big", "too_many_peaks", "masked", "failed")
"""Why a parent was skipped or cut short."""


@dataclass(frozen=True)
class ParentChildren:
    """The children of one parent.

    Attributes
    ----------
    spans : (n_spans, 3) int32 array
        Of all children, one after the other; parent frame.
    n_spans, n_pixels : (n,) int64 arrays
        Of each child.
    image, variance : float32 arrays, mask : int32 array
        Pixels in span order.
    peaks : (n,) array of PEAK_DTYPE
        The peak each child was made from.
    values : dict of str to (n,) array
        What the deblender says of each child.
    """

    spans: NDArray[np.int32]
    n_spans: NDArray[np.int64]
    n_pixels: NDArray[np.int64]
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    peaks: NDArray[np.void]
    values: dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Deblended:
    """Children of many parents.

    Attributes
    ----------
    footprints : FootprintSet
        Heavy; one per child, parent by parent, brightest peak first.
    parent : (n,) int64 array
        Index of the parent footprint of each child.
    values : dict of str to (n,) array
        Columns of the children.
    reasons : dict of str to (n_parents,) bool array
        One entry for each of :data:`REASONS`.
    skipped : (n_parents,) bool array
        Parents with several peaks that have no children.
    """

    footprints: FootprintSet
    parent: NDArray[np.int64]
    values: dict[str, NDArray[np.generic]]
    reasons: dict[str, NDArray[np.bool_]]
    skipped: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.parent)


def usable_parents(
    footprints: FootprintSet,
    *,
    max_area: int,
    max_width: int = 0,
    min_axis_ratio: float = 0.0,
    masked_fraction: NDArray[np.float64] | None = None,
    max_masked: float = 1.0,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.bool_]]]:
    """Choose the parents to deblend: several peaks, not too big, not too much masked.

    Parameters
    ----------
    footprints : FootprintSet
    max_area, max_width : int
        Largest area and side of the bounding box, pixels; 0 for no limit.
    min_axis_ratio : float
        Smallest ratio of the sides of the bounding box.
    masked_fraction : (n,) array, optional
        Part of each footprint without data.
    max_masked : float
        Largest such part.

    Returns
    -------
    chosen : (m,) int64 array
        Indices of the footprints to deblend.
    reasons : dict of str to (n,) bool array
        True where a parent with several peaks is left alone for that reason.
    """
    n = len(footprints)
    several = footprints.n_peaks > 1
    boxes = footprints.boxes()
    sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]])
    big = np.zeros(n, bool)
    if max_area:
        big |= footprints.areas > max_area
    if max_width:
        big |= sides.max(0) > max_width
    if min_axis_ratio:
        big |= sides.min(0) < min_axis_ratio * sides.max(0)
    masked = np.zeros(n, bool) if masked_fraction is None else masked_fraction > max_masked
    reasons = {name: np.zeros(n, bool) for name in REASONS}
    reasons["parent_too_big"] = several & big
    reasons["masked"] = several & masked
    reasons["failed"] = several & (footprints.areas == 0)
    return np.flatnonzero(several & ~big & ~masked & ~reasons["failed"]), reasons


def collect(
    n_parents: int,
    parents: Sequence[int],
    parts: Sequence[ParentChildren],
    reasons: dict[str, NDArray[np.bool_]],
    several: NDArray[np.bool_],
    names: dict[str, str],
) -> Deblended:
    """Join the children of many parents.

    Parameters
    ----------
    n_parents : int
    parents : sequence of int
        Footprint index of each part.
    parts : sequence of ParentChildren
    reasons : dict
    several : (n_parents,) bool array
        Parents with several peaks.
    names : dict of str to dtype
        Columns to expect when there are no children at all.

    Returns
    -------
    deblended : Deblended
    """
    counts = np.array([len(p.n_spans) for p in parts], np.int64)
    has_children = np.zeros(n_parents, bool)
    has_children[[i for i, c in zip(parents, counts, strict=True) if c]] = True
    if not counts.sum():
        values = {name: np.zeros(0, kind) for name, kind in names.items()}
        empty = FootprintSet(
            np.zeros((0, 3), np.int32), np.zeros(1), image=np.zeros(0), mask=np.zeros(0), variance=np.zeros(0)
        )
        return Deblended(empty, np.zeros(0, np.int64), values, reasons, several)
    n_spans = np.concatenate([p.n_spans for p in parts])
    peaks = np.concatenate([p.peaks for p in parts])
    footprints = FootprintSet(
        np.concatenate([p.spans for p in parts]),
        np.concatenate([[0], np.cumsum(n_spans)]),
        peaks.astype(PEAK_DTYPE, copy=False),
        np.arange(len(peaks) + 1),
        image=np.concatenate([p.image for p in parts]),
        mask=np.concatenate([p.mask for p in parts]),
        variance=np.concatenate([p.variance for p in parts]),
    )
    values = {name: np.concatenate([p.values[name] for p in parts]) for name in names}
    parent = np.repeat(np.asarray(parents, np.int64), counts)
    return Deblended(footprints, parent, values, reasons, several & ~has_children)


def runs_of(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the runs of a bool image: y, first and last column, in reading order."""
    edges = np.diff(np.pad(inside.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    y, first = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    return np.stack([y, first, stop - 1], axis=1)
