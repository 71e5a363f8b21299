"""Deblending with a multi-threshold tree: every pixel goes to one object.

The fast alternative to templates, after Bertin & Arnouts (1996, A&AS 117, 393, section 6): the light of a
footprint is cut at exponentially spaced levels, and branches of the tree of regions that hold enough of the light are
objects. Pixels below a junction go to the object they are joined to on the way down, not by a probability.

Notes
-----
A branch must also stand out of the junction by a multiple of the noise, which Bertin & Arnouts do not ask for: a low
contrast then finds faint companions of bright sources without splitting the noise of faint ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.deblending.children import Deblended, collect, usable_parents
from starmill.errors import InputError
from starmill.kernels.threshold_tree import collect_objects, count_objects, label_footprints
from starmill.numerics.convolution import gaussian_kernel
from starmill.numerics.tiles import map_tiles

__all__ = ["deblend_multi_threshold", "smoothed_noise"]

CHILD_VALUES = {"peak": "i4"}
CHUNK = 1000  # footprints that one thread labels at a time


def deblend_multi_threshold(
    image: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[np.int32],
    footprints: FootprintSet,
    *,
    threshold: float,
    smoothing: float = 0.8,
    n_levels: int = 32,
    contrast: float = 0.001,
    min_pixels: int = 3,
    min_drop: float = 4.0,
    max_area: int = 1_000_000,
    origin: tuple[int, int] = (0, 0),
    threads: int | None = None,
) -> Deblended:
    """Split footprints where their light has several branches; the peaks they came with do not matter.

    Parameters
    ----------
    image, variance : (ny, nx) arrays, mask : (ny, nx) int32 array
        Pixels that the children get; background subtracted.
    footprints : FootprintSet
        Parent frame, inside the image.
    threshold : float
        Lowest level of the tree in the smoothed image, unit of ``image``, positive.
    smoothing : float, pixel
        Sigma of the Gaussian that smooths every footprint before its tree is built; 0 for none.
    n_levels : int
    contrast : float
        Part of the light of a footprint that a branch must hold.
    min_pixels : int
        Fewest pixels of a branch.
    min_drop : float
        Smallest height of a peak over its junction, in units of its noise.
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
    image, variance = (np.ascontiguousarray(plane, np.float32) for plane in (image, variance))
    mask = np.ascontiguousarray(mask, np.int32)
    taps = _taps(smoothing)
    big = footprints.areas > max_area
    jobs = np.flatnonzero(~big)
    chosen = footprints.take(jobs) if big.any() else footprints
    spans = _local_spans(chosen, Box.from_shape(mask.shape, origin))
    offsets = np.concatenate([[0], np.cumsum(chosen.areas)])
    labels, smoothed = np.zeros(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    n_objects = np.ones(len(chosen), np.int64)

    def run(first: int) -> None:
        label_footprints(
            image, variance, spans, chosen.span_offsets, offsets, first, min(first + CHUNK, len(chosen)), taps, threshold,
            n_levels, contrast, min_pixels, min_drop, labels, smoothed, n_objects,
        )  # fmt: skip

    map_tiles(run, list(range(0, len(chosen), CHUNK)), threads=threads)
    _, reasons = usable_parents(footprints, max_area=0)
    reasons["parent_too_big"] = big
    split = np.flatnonzero(n_objects > 1)
    if not len(split):
        return collect(len(footprints), [], [], reasons, big, CHILD_VALUES)
    planes = image, variance, mask
    children, peaks = _children(
        planes, spans, chosen.span_offsets, offsets, labels, smoothed, split, n_objects[split], taps, origin
    )
    values = {"peak": np.concatenate([np.arange(n, dtype=np.int32) for n in n_objects[split]])}
    found = FootprintSet(**children, peaks=peaks, peak_offsets=np.arange(len(peaks) + 1))
    return Deblended(found, np.repeat(jobs[split], n_objects[split]), values, reasons, big)


def smoothed_noise(smoothing: float) -> float:
    """Return the noise of an image after the smoothing of the tree, over the noise before.

    Parameters
    ----------
    smoothing : float, pixel
    """
    return float((_taps(smoothing) ** 2).sum())


def _taps(smoothing: float) -> NDArray[np.float64]:
    """Separable kernel of the smoothing."""
    return np.asarray(gaussian_kernel(smoothing, 6.0), np.float64) if smoothing > 0 else np.ones(1)


def _local_spans(footprints: FootprintSet, box: Box) -> NDArray[np.int32]:
    """Spans as array indices, which must lie inside the image."""
    spans = footprints.spans - np.array([box.y0, box.x0, box.x0], np.int32)
    inside = (spans[:, 0] >= 0) & (spans[:, 0] < box.height) & (spans[:, 1] >= 0) & (spans[:, 2] < box.width)
    if not inside.all():
        raise InputError(
            f"{np.count_nonzero(~inside)} of {len(spans)} spans of footprints reach outside the image"
        )
    return np.ascontiguousarray(spans)


def _children(
    planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]],
    spans: NDArray[np.int32],
    span_offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    labels: NDArray[np.int32],
    smoothed: NDArray[np.float32],
    parents: NDArray[np.int64],
    counts: NDArray[np.int64],
    taps: NDArray[np.float64],
    origin: tuple[int, int],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.void]]:
    """Spans, offsets, pixels and peaks of the children of the split parents."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    n_spans, n_pixels = np.zeros(ends[-1], np.int64), np.zeros(ends[-1], np.int64)
    count_objects(spans, span_offsets, pixel_offsets, labels, parents, ends, n_spans, n_pixels)
    first_span, first_pixel = (np.concatenate([[0], np.cumsum(n)]) for n in (n_spans, n_pixels))
    child_spans, total = np.empty((first_span[-1], 3), np.int32), int(first_pixel[-1])
    pixels = np.empty(total, np.float32), np.empty(total, np.float32), np.empty(total, np.int32)
    tops = np.full((ends[-1], 3), -np.inf)
    collect_objects(
        *planes, spans, span_offsets, pixel_offsets, labels, smoothed, parents, ends, first_span[:-1].copy(),
        first_pixel[:-1].copy(), child_spans, *pixels, tops,
    )  # fmt: skip
    peaks = np.zeros(len(tops), PEAK_DTYPE)
    y, x = tops[:, 0].astype(np.int64), tops[:, 1].astype(np.int64)
    noise = (taps**2).sum() * np.sqrt(planes[1][y, x])
    peaks["x"], peaks["y"], peaks["value"] = x + origin[0], y + origin[1], tops[:, 2]
    peaks["significance"] = np.divide(tops[:, 2], noise, out=np.zeros(len(tops)), where=noise > 0)
    parts = {
        "spans": child_spans + np.array([origin[1], origin[0], origin[0]], np.int32),
        "span_offsets": first_span,
        "image": pixels[0],
        "variance": pixels[1],
        "mask": pixels[2],
    }
    return parts, peaks
