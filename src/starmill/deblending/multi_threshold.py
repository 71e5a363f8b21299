"""Deblending with a multi-threshold tree: every pixel goes to one object.

The fast alternative to templates, after Bertin & Arnouts (1996, A&AS 117, 393, section 6): the light of a
footprint is cut at exponentially spaced levels, and branches of the tree of regions that hold enough of the light are
objects. Pixels below a junction go to the object they are joined to on the way down, not by a probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.deblending.children import Deblended, ParentChildren, collect, runs_of, usable_parents
from starmill.errors import InputError
from starmill.kernels.spans import cut_stamp
from starmill.kernels.threshold_tree import split_by_levels
from starmill.numerics.tiles import map_tiles

__all__ = ["deblend_multi_threshold"]

CHILD_VALUES = {"peak": "i4"}


def deblend_multi_threshold(
    image: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[np.int32],
    footprints: FootprintSet,
    *,
    smoothed: NDArray[Any],
    threshold: float,
    smoothed_variance: NDArray[Any] | None = None,
    n_levels: int = 32,
    contrast: float = 0.005,
    min_pixels: int = 3,
    max_area: int = 1_000_000,
    origin: tuple[int, int] = (0, 0),
    threads: int | None = None,
) -> Deblended:
    """Split footprints where their light has several branches; the peaks they came with do not matter.

    Parameters
    ----------
    image, variance : (ny, nx) arrays, mask : (ny, nx) int32 array
        Pixels that the children get.
    footprints : FootprintSet
        Parent frame, inside the image.
    smoothed : (ny, nx) array
        Image on which the tree is built.
    threshold : float
        Lowest level of the tree, unit of ``smoothed``, positive.
    smoothed_variance : (ny, nx) array, optional
        Gives the significance of the peaks.
    n_levels : int
    contrast : float
        Part of the light of a footprint that a branch must hold.
    min_pixels : int
        Fewest pixels of a branch.
    max_area : int
        Larger footprints are skipped.
    origin : (x0, y0)
        Parent-frame position of the first pixel.
    threads : int, optional

    Returns
    -------
    deblended : Deblended
        Children share no pixel and cover their parent. Footprints with one branch have no children.
    """
    if not threshold > 0:
        raise InputError(f"the lowest level of a multi-threshold tree must be positive, it is {threshold}")
    planes = tuple(np.ascontiguousarray(plane, np.float32) for plane in (image, variance, smoothed))
    mask = np.ascontiguousarray(mask, np.int32)
    box = Box.from_shape(mask.shape, origin)
    noise = None if smoothed_variance is None else np.sqrt(smoothed_variance)
    big = footprints.areas > max_area
    jobs = np.flatnonzero((footprints.areas > 0) & ~big)

    def run(parents: NDArray[np.int64]) -> list[ParentChildren | None]:
        return [
            _split(
                planes, mask, noise, footprints[int(i)].spans, box, threshold, n_levels, contrast, min_pixels
            )
            for i in parents
        ]

    chunks = np.array_split(jobs, max(1, len(jobs) // 500))
    answers = [a for part in map_tiles(run, chunks, threads=threads) for a in part]
    done = [int(i) for i, a in zip(jobs, answers, strict=True) if a is not None]
    parts = [a for a in answers if a is not None]
    _, reasons = usable_parents(footprints, max_area=0)
    reasons["parent_too_big"] = big
    return collect(len(footprints), done, parts, reasons, big, CHILD_VALUES)


def _split(
    planes: tuple[NDArray[np.float32], ...],
    mask: NDArray[np.int32],
    noise: NDArray[Any] | None,
    spans: NDArray[np.int32],
    box: Box,
    threshold: float,
    n_levels: int,
    contrast: float,
    min_pixels: int,
) -> ParentChildren | None:
    """Children of one footprint; None when it has one branch only."""
    local = spans - np.array([box.y0, box.x0, box.x0], np.int32)
    y0, x0 = int(local[:, 0].min()), int(local[:, 1].min())
    shape = (int(local[:, 0].max()) + 1 - y0, int(local[:, 2].max()) + 1 - x0)
    if y0 < 0 or x0 < 0 or y0 + shape[0] > box.height or x0 + shape[1] > box.width:
        raise InputError("a footprint reaches outside the image")
    bits, inside, variance = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, np.float32)
    tree_pixels = np.zeros(shape, np.float32)
    cut_stamp(planes[2], planes[1], mask, local, 0, y0, x0, tree_pixels, variance, bits, inside)
    labels, peaks = split_by_levels(tree_pixels, inside, threshold, n_levels, contrast, min_pixels)
    if len(peaks) < 2:
        return None
    where = (slice(y0, y0 + shape[0]), slice(x0, x0 + shape[1]))
    parts = [runs_of(labels == i) for i in range(len(peaks))]
    order = [np.nonzero(labels == i) for i in range(len(peaks))]
    y, x = (np.concatenate([o[axis] for o in order]) for axis in (0, 1))
    found = np.zeros(len(peaks), PEAK_DTYPE)
    found["y"], found["x"] = peaks[:, 0] + y0 + box.y0, peaks[:, 1] + x0 + box.x0
    found["value"] = tree_pixels[peaks[:, 0], peaks[:, 1]]
    if noise is not None:
        found["significance"] = found["value"] / noise[where][peaks[:, 0], peaks[:, 1]]
    return ParentChildren(
        np.concatenate(parts).astype(np.int32) + np.array([y0 + box.y0, x0 + box.x0, x0 + box.x0], np.int32),
        np.array([len(p) for p in parts]),
        np.array([len(o[0]) for o in order]),
        planes[0][where][y, x],
        variance[y, x],
        bits[y, x],
        found,
        {"peak": np.arange(len(peaks), dtype=np.int32)},
    )
