"""Footprints: the pixels that belong to detections, as run-length spans, with their peaks.

All footprints of an image live in one :class:`FootprintSet`, a structure of flat arrays that compiled
kernels can walk; ``footprints[i]`` is a light :class:`Footprint` that points into it. A *heavy* set also
holds the pixel values of every footprint (for deblended children), in the order of the spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.geometry import Box
from starmill.errors import InputError

__all__ = ["PEAK_DTYPE", "Footprint", "FootprintSet"]

PEAK_DTYPE = np.dtype([("x", "i4"), ("y", "i4"), ("value", "f4"), ("significance", "f4")])
"""A peak: pixel (parent frame), height of the smoothed image there, and height over its error."""


class FootprintSet:
    """Many footprints in flat arrays.

    Parameters
    ----------
    spans : (n_spans, 3) int32 array
        ``y, x0, x1`` of each run of pixels, parent frame, ``x1`` inclusive; the spans of a footprint
        follow each other, ordered by y, then x0, and do not overlap.
    span_offsets : (n + 1,) int64 array
        Footprint ``i`` has the spans ``span_offsets[i]:span_offsets[i + 1]``.
    peaks : (n_peaks,) array of :data:`PEAK_DTYPE`
        Brightest first within a footprint.
    peak_offsets : (n + 1,) int64 array
    image, mask, variance : (n_pixels,) arrays, optional
        Pixel values in span order: they make the set heavy. Pixels of footprints that are not heavy
        take no place when ``pixel_offsets`` says so.
    pixel_offsets : (n + 1,) int64 array, optional
        Where the pixels of each footprint start; from the areas when not given.
    """

    def __init__(
        self,
        spans: NDArray[Any],
        span_offsets: NDArray[Any],
        peaks: NDArray[Any] | None = None,
        peak_offsets: NDArray[Any] | None = None,
        *,
        image: NDArray[Any] | None = None,
        mask: NDArray[Any] | None = None,
        variance: NDArray[Any] | None = None,
        pixel_offsets: NDArray[Any] | None = None,
    ) -> None:
        self.spans = np.ascontiguousarray(spans, np.int32).reshape(-1, 3)
        self.span_offsets = np.ascontiguousarray(span_offsets, np.int64)
        n = len(self.span_offsets) - 1
        self.peaks = np.zeros(0, PEAK_DTYPE) if peaks is None else np.asarray(peaks, PEAK_DTYPE)
        if peak_offsets is None:
            peak_offsets = np.zeros(n + 1, np.int64)
        self.peak_offsets = np.ascontiguousarray(peak_offsets, np.int64)
        if n < 0 or len(self.peak_offsets) != n + 1:
            raise InputError(
                f"{len(self.span_offsets)} span offsets and {len(self.peak_offsets)} peak offsets disagree"
            )
        if self.span_offsets[-1] != len(self.spans) or self.peak_offsets[-1] != len(self.peaks):
            raise InputError("the last offsets do not match the numbers of spans and peaks")
        self.image = None if image is None else np.asarray(image, np.float32)
        self.mask = None if mask is None else np.asarray(mask, np.int32)
        self.variance = None if variance is None else np.asarray(variance, np.float32)
        if self.image is not None and pixel_offsets is None:
            pixel_offsets = np.concatenate([[0], np.cumsum(self.areas)])
        self.pixel_offsets = None if pixel_offsets is None else np.asarray(pixel_offsets, np.int64)

    @classmethod
    def empty(cls) -> FootprintSet:
        """Return a set without footprints."""
        return cls(np.zeros((0, 3), np.int32), np.zeros(1, np.int64))

    @classmethod
    def concatenate(cls, sets: Sequence[FootprintSet]) -> FootprintSet:
        """Join sets one after the other; heavy pixels are kept, light sets take no pixels."""
        if not sets:
            return cls.empty()
        spans = np.concatenate([s.spans for s in sets])
        peaks = np.concatenate([s.peaks for s in sets])
        heavy = any(s.image is not None for s in sets)
        pixels: dict[str, Any] = {}
        if heavy:
            offsets = [
                s.pixel_offsets if s.pixel_offsets is not None else np.zeros(len(s) + 1, np.int64)
                for s in sets
            ]
            pixels["pixel_offsets"] = _join_offsets(offsets)
            for name, dtype in (("image", np.float32), ("mask", np.int32), ("variance", np.float32)):
                planes = [getattr(s, name) for s in sets]
                counts = [int(o[-1]) for o in offsets]
                pixels[name] = np.concatenate(
                    [np.zeros(c, dtype) if p is None else p for p, c in zip(planes, counts, strict=True)]
                )
        return cls(
            spans,
            _join_offsets([s.span_offsets for s in sets]),
            peaks,
            _join_offsets([s.peak_offsets for s in sets]),
            **pixels,
        )

    def __len__(self) -> int:
        return len(self.span_offsets) - 1

    def __getitem__(self, index: int) -> Footprint:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"footprint {index} of {n}")
        return Footprint(self, int(index) % n)

    def __iter__(self) -> Iterator[Footprint]:
        return (Footprint(self, i) for i in range(len(self)))

    @property
    def areas(self) -> NDArray[np.int64]:
        """Number of pixels of each footprint."""
        widths = (self.spans[:, 2] - self.spans[:, 1] + 1).astype(np.int64)
        total = np.concatenate([[0], np.cumsum(widths)])
        return np.asarray(total[self.span_offsets[1:]] - total[self.span_offsets[:-1]])

    @property
    def n_peaks(self) -> NDArray[np.int64]:
        """Number of peaks of each footprint."""
        return np.diff(self.peak_offsets)

    @property
    def is_heavy(self) -> bool:
        """True when some footprints hold pixel values."""
        return self.image is not None

    def boxes(self) -> NDArray[np.int64]:
        """Return ``x0, y0, x1, y1`` (the last two exclusive) of each footprint, (n, 4); zeros when empty."""
        out = np.zeros((len(self), 4), np.int64)
        filled = np.flatnonzero(np.diff(self.span_offsets) > 0)
        if len(filled):
            start = self.span_offsets[filled]
            out[filled, 0] = np.minimum.reduceat(self.spans[:, 1], start)
            out[filled, 1] = np.minimum.reduceat(self.spans[:, 0], start)
            out[filled, 2] = np.maximum.reduceat(self.spans[:, 2], start) + 1
            out[filled, 3] = np.maximum.reduceat(self.spans[:, 0], start) + 1
        return out

    def take(self, indices: Any) -> FootprintSet:
        """Return the footprints of these indices (ints or a bool mask), in this order."""
        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        indices = indices.astype(np.int64)
        spans, span_offsets = _take_runs(self.spans, self.span_offsets, indices)
        peaks, peak_offsets = _take_runs(self.peaks, self.peak_offsets, indices)
        pixels: dict[str, Any] = {}
        if self.image is not None and self.pixel_offsets is not None:
            for name in ("image", "mask", "variance"):
                plane = getattr(self, name)
                if plane is not None:
                    pixels[name], pixels["pixel_offsets"] = _take_runs(plane, self.pixel_offsets, indices)
        return FootprintSet(spans, span_offsets, peaks, peak_offsets, **pixels)

    def set_mask(self, array: NDArray[np.int32], bit: int, origin: tuple[int, int] = (0, 0)) -> None:
        """OR ``bit`` (a value such as ``mask.bits('DETECTED')``) into the pixels of all footprints.

        Pixels outside the array are left out.
        """
        value = np.int32(bit)
        ny, nx = array.shape
        for y, x0, x1 in self.spans - np.array([origin[1], origin[0], origin[0]], np.int32):
            if 0 <= y < ny:
                array[y, max(x0, 0) : min(x1 + 1, nx)] |= value

    def pixel_indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return footprint number, y and x of every pixel of the set, in span order."""
        widths = (self.spans[:, 2] - self.spans[:, 1] + 1).astype(np.int64)
        owner = np.repeat(np.arange(len(self)), np.diff(self.span_offsets))
        start = np.concatenate([[0], np.cumsum(widths)])[:-1]
        along = np.arange(int(widths.sum())) - np.repeat(start, widths)
        return (
            np.repeat(owner, widths),
            np.repeat(self.spans[:, 0].astype(np.int64), widths),
            np.repeat(self.spans[:, 1].astype(np.int64), widths) + along,
        )

    def __repr__(self) -> str:
        heavy = ", heavy" if self.is_heavy else ""
        return f"FootprintSet({len(self)} footprints, {len(self.peaks)} peaks, {int(self.areas.sum())} pixels{heavy})"


class Footprint:
    """One footprint of a set: a view, it owns nothing.

    Parameters
    ----------
    parent_set : FootprintSet
    index : int
    """

    __slots__ = ("index", "parent_set")

    def __init__(self, parent_set: FootprintSet, index: int) -> None:
        self.parent_set = parent_set
        self.index = index

    @property
    def spans(self) -> NDArray[np.int32]:
        """``(n, 3)``: y, x0, x1 (inclusive), parent frame."""
        o = self.parent_set.span_offsets
        return self.parent_set.spans[o[self.index] : o[self.index + 1]]

    @property
    def peaks(self) -> NDArray[Any]:
        """The peaks, brightest first: fields x, y, value, significance."""
        o = self.parent_set.peak_offsets
        return self.parent_set.peaks[o[self.index] : o[self.index + 1]]

    @property
    def area(self) -> int:
        """Number of pixels."""
        spans = self.spans
        return int((spans[:, 2].astype(np.int64) - spans[:, 1] + 1).sum())

    @property
    def box(self) -> Box:
        """Smallest box that holds the footprint; empty when the footprint is."""
        spans = self.spans
        if not len(spans):
            return Box(0, 0, 0, 0)
        return Box.from_corners(
            int(spans[:, 1].min()),
            int(spans[:, 0].min()),
            int(spans[:, 2].max()) + 1,
            int(spans[:, 0].max()) + 1,
        )

    @property
    def is_heavy(self) -> bool:
        """True when the footprint holds pixel values."""
        o = self.parent_set.pixel_offsets
        return self.parent_set.image is not None and o is not None and bool(o[self.index + 1] > o[self.index])

    def contains(self, x: float, y: float) -> bool:
        """Return whether the pixel at a position belongs to the footprint."""
        spans = self.spans
        ix, iy = np.floor(x + 0.5), np.floor(y + 0.5)
        return bool(((spans[:, 0] == iy) & (spans[:, 1] <= ix) & (ix <= spans[:, 2])).any())

    def _plane(self, name: str) -> NDArray[Any] | None:
        plane, offsets = getattr(self.parent_set, name), self.parent_set.pixel_offsets
        if plane is None or offsets is None:
            return None
        return np.asarray(plane[offsets[self.index] : offsets[self.index + 1]])

    @property
    def image(self) -> NDArray[np.float32] | None:
        """Pixel values in span order; None when the footprint is not heavy."""
        return self._plane("image")

    @property
    def mask(self) -> NDArray[np.int32] | None:
        """Mask bits in span order; None when the footprint is not heavy."""
        return self._plane("mask")

    @property
    def variance(self) -> NDArray[np.float32] | None:
        """Variances in span order; None when the footprint is not heavy."""
        return self._plane("variance")

    def mask_image(self, box: Box | None = None) -> NDArray[np.bool_]:
        """Return a bool image of a box (the footprint's own by default), True on its pixels."""
        box = box or self.box
        inside = np.zeros(box.shape, bool)
        for y, x0, x1 in self.spans:
            if box.y0 <= y < box.y1:
                inside[y - box.y0, max(x0 - box.x0, 0) : max(x1 + 1 - box.x0, 0)] = True
        return inside

    def insert(self, image: NDArray[Any], origin: tuple[int, int] = (0, 0)) -> None:
        """Write the heavy pixels into an image whose first pixel is ``origin``; outside is left out.

        Raises
        ------
        InputError
            When the footprint holds no pixels.
        """
        pixels = self.image
        if pixels is None or not self.is_heavy:
            raise InputError("this footprint holds no pixels: only deblended children can be inserted")
        start = 0
        ny, nx = image.shape
        for y, x0, x1 in self.spans:
            width = x1 - x0 + 1
            row, left = y - origin[1], x0 - origin[0]
            first, last = max(left, 0), min(left + width, nx)
            if 0 <= row < ny and first < last:
                image[row, first:last] = pixels[start + first - left : start + last - left]
            start += width

    def dot(self, other: Footprint) -> float:
        """Return the sum of products of the heavy pixels that two footprints share."""
        box = self.box.intersection(other.box)
        if box.is_empty:
            return 0.0
        mine, theirs = np.zeros(box.shape), np.zeros(box.shape)
        self.insert(mine, box.origin)
        other.insert(theirs, box.origin)
        return float((mine * theirs).sum())

    def __repr__(self) -> str:
        return f"Footprint({self.area} pixels in {self.box}, {len(self.peaks)} peaks)"


def _join_offsets(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    counts = np.concatenate([np.diff(p) for p in parts]) if parts else np.zeros(0, np.int64)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _take_runs(
    values: NDArray[Any], offsets: NDArray[np.int64], indices: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the runs of ``values`` of these indices joined, with their new offsets."""
    counts = offsets[indices + 1] - offsets[indices]
    new = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    place = np.arange(int(new[-1])) - np.repeat(new[:-1], counts) + np.repeat(offsets[indices], counts)
    return values[place], new
