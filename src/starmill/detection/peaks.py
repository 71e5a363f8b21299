"""Peaks of footprints on a smoothed image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.detection.footprints import label_image, sort_peaks
from starmill.kernels.peaks import footprint_peaks
from starmill.kernels.sharpening import lowest_on_lines

__all__ = ["drop_shallow_peaks", "find_peaks", "move_missing_peaks", "replace_peaks"]

_NEIGHBOURS = 8  # to which a peak is compared
_BRIDGED = 5  # of the eight pixels around a missing one that must have data for the smoothing to fill it


def find_peaks(
    image: NDArray[np.float32],
    spans: NDArray[np.int32],
    span_offsets: NDArray[np.int64],
    *,
    variance: NDArray[np.float32] | None = None,
    sign: float = 1.0,
    search_box: Box | None = None,
    noise: float = 1.0,
    thin_plateaus: bool = False,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Find the local maxima of footprints: pixels that none of their eight neighbours exceeds.

    A plateau therefore gives one peak for each of its pixels, unless ``thin_plateaus``. A footprint
    without a local maximum gets its highest pixel.

    Parameters
    ----------
    image : (ny, nx) float32 array
    spans : (n_spans, 3) int32 array
        Array indices.
    span_offsets : (n + 1,) int64 array
    variance : (ny, nx) float32 array, optional
        Gives the significance of a peak: value over its square root.
    sign : float
        -1 for minima.
    search_box : Box, optional
        Array indices; its outermost pixels cannot be local maxima. The whole image by default.
    noise : float
        Divides the value into the significance when there is no variance.
    thin_plateaus : bool
        Keep one pixel of a plateau.

    Returns
    -------
    peaks : (n_peaks,) array of PEAK_DTYPE
        Array indices; brightest first within each footprint, then by x, then by y.
    peak_offsets : (n + 1,) int64 array
    """
    box = search_box or Box.from_shape(image.shape)
    found = footprint_peaks(image, sign, spans, span_offsets, box.x0, box.x1, box.y0, box.y1, thin_plateaus)
    peaks = np.zeros(len(found), PEAK_DTYPE)
    y, x = found[:, 1], found[:, 2]
    peaks["y"], peaks["x"] = y, x
    peaks["value"] = image[y, x]
    error = noise if variance is None else np.sqrt(variance[y, x])
    with np.errstate(divide="ignore", invalid="ignore"):
        peaks["significance"] = peaks["value"] / error
    return sort_peaks(found[:, 0], peaks, len(span_offsets) - 1, sign)


def replace_peaks(
    footprints: FootprintSet,
    corrected: FootprintSet,
    origin: tuple[int, int],
    shape: tuple[int, int],
    *,
    max_simple: int = 1,
    sign: float = 1.0,
) -> FootprintSet:
    """Give footprints with many peaks the peaks found after a local background was subtracted.

    Parameters
    ----------
    footprints : FootprintSet
        As first detected; its spans are kept.
    corrected : FootprintSet
        Detected on the image without the local background.
    origin : (x0, y0)
        Parent-frame position of the image.
    shape : (ny, nx)
        Of the image.
    max_simple : int
        Footprints with at most this number of peaks are left alone.
    sign : float
        -1 when the deepest peak comes first.

    Returns
    -------
    footprints : FootprintSet
        Footprints that keep no corrected peak keep their brightest one.
    """
    many = footprints.n_peaks > max_simple
    if not many.any():
        return footprints
    box = Box.from_shape(shape, origin)
    labels = label_image(footprints, box)
    owner = labels[corrected.peaks["y"] - origin[1], corrected.peaks["x"] - origin[0]].astype(np.int64) - 1
    usable = (owner >= 0) & many[owner]
    kept_peaks, kept_owner = corrected.peaks[usable], owner[usable]
    found = np.bincount(kept_owner, minlength=len(footprints)) > 0
    old_owner = np.repeat(np.arange(len(footprints)), footprints.n_peaks)
    first = np.zeros(len(footprints.peaks), bool)
    first[footprints.peak_offsets[:-1][footprints.n_peaks > 0]] = True
    keep_old = ~many[old_owner] | (first & ~found[old_owner])
    all_owner = np.concatenate([old_owner[keep_old], kept_owner])
    all_peaks = np.concatenate([footprints.peaks[keep_old], kept_peaks])
    peaks, offsets = sort_peaks(all_owner, all_peaks, len(footprints), sign)
    return FootprintSet(footprints.spans, footprints.span_offsets, peaks, offsets)


def move_missing_peaks(
    footprints: FootprintSet,
    smoothed: NDArray[np.float32],
    usable: Callable[[Any, Any], NDArray[np.bool_]],
    *,
    radius: int,
    origin: tuple[int, int] = (0, 0),
    sign: float = 1.0,
) -> FootprintSet:
    """Move peaks that lie inside a hole of the data to the nearest pixel of their footprint that has data.

    The smoothed image goes on into holes, and with it the flank of a source beside one. Single bad pixels and columns,
    which the smoothing bridges, keep their peaks: there the source is where the smoothed image says.

    Parameters
    ----------
    footprints : FootprintSet
    smoothed : (ny, nx) float32 array
    usable : callable
        ``usable(rows, columns)``, array indices or slices: which of these pixels have data.
    radius : int
        How far a peak may move, pixels; those without data so near stay where they are.
    origin : (x0, y0)
        Parent-frame position of the image.
    sign : float
        -1 for footprints below a negative threshold.

    Returns
    -------
    footprints : FootprintSet
        A peak that arrives at the pixel of another is dropped.
    """
    peaks = footprints.peaks
    x, y = (peaks[axis].astype(np.int64) - start for axis, start in zip("xy", origin, strict=True))
    missing = np.flatnonzero(~usable(y, x))
    around = (
        (slice(max(y[i] - 1, 0), y[i] + 2) for i in missing),
        (slice(max(x[i] - 1, 0), x[i] + 2) for i in missing),
    )
    with_data = np.array([usable(*window).sum() for window in zip(*around, strict=True)], np.int64)
    missing = missing[with_data < _BRIDGED]
    if not len(missing):
        return footprints
    labels = label_image(footprints, Box.from_shape(smoothed.shape, origin))
    moved = peaks.copy()
    for i in missing:
        rows, columns = (slice(max(centre - radius, 0), centre + radius + 1) for centre in (y[i], x[i]))
        place = usable(rows, columns) & (labels[rows, columns] == labels[y[i], x[i]])
        py, px = np.nonzero(place & np.isfinite(smoothed[rows, columns]))
        if not len(py):
            continue
        py, px = py + rows.start, px + columns.start
        best = np.lexsort((-sign * smoothed[py, px], (py - y[i]) ** 2 + (px - x[i]) ** 2))[0]
        value = smoothed[py[best], px[best]]
        moved["x"][i], moved["y"][i] = px[best] + origin[0], py[best] + origin[1]
        moved["significance"][i] *= value / peaks["value"][i]
        moved["value"][i] = value
    owner = np.repeat(np.arange(len(footprints)), footprints.n_peaks)
    arrived = np.zeros(len(moved), bool)
    arrived[missing] = True
    order = np.argsort(arrived, kind="stable")  # whoever was there first stays
    _, first = np.unique(_pixel_key(moved)[order], return_index=True)
    kept = np.sort(order[first])
    sorted_peaks, offsets = sort_peaks(owner[kept], moved[kept], len(footprints), sign)
    return FootprintSet(footprints.spans, footprints.span_offsets, sorted_peaks, offsets)


def drop_shallow_peaks(
    footprints: FootprintSet,
    smoothed: NDArray[np.float32],
    variance: NDArray[np.float32],
    *,
    among: NDArray[Any] | None = None,
    min_drop: float = 1.0,
    origin: tuple[int, int] = (0, 0),
    sign: float = 1.0,
) -> FootprintSet:
    """Remove peaks that noise may have made on the side of a brighter one.

    On the way to a brighter peak the smoothed image must fall by some standard deviations of its noise. The way is
    the straight line to each brighter one of the nearest neighbours, so what is removed has no higher saddle either.

    Parameters
    ----------
    footprints : FootprintSet
        Inside the image, best those that have grown together; the highest peak of each stays.
    smoothed, variance : (ny, nx) float32 arrays
        Smoothed image and its variance.
    among : (n,) array of PEAK_DTYPE, optional
        Only peaks at the pixels of these may go; any when not given.
    min_drop : float
        In standard deviations of the smoothed image at the peak.
    origin : (x0, y0)
        Parent-frame position of the image.
    sign : float
        -1 for footprints below a negative threshold.

    Returns
    -------
    footprints : FootprintSet
    """
    peaks, owner = footprints.peaks, np.repeat(np.arange(len(footprints)), footprints.n_peaks)
    several = np.flatnonzero(footprints.n_peaks[owner] > 1)
    if not len(several):
        return footprints
    x, y = (peaks[axis][several].astype(np.int64) - start for axis, start in zip("xy", origin, strict=True))
    height = sign * smoothed[y, x].astype(np.float64)
    layer = float(sum(smoothed.shape)) * owner[several]  # neighbours of other footprints are far away
    count = min(_NEIGHBOURS + 1, len(several))
    _, near = cKDTree(np.c_[x, y, layer]).query(np.c_[x, y, layer], k=count)
    mine, other = np.repeat(np.arange(len(several)), count), near.ravel()
    higher = (height[other] > height[mine]) & (owner[several][other] == owner[several][mine])
    mine, other = mine[higher], other[higher]
    image = smoothed if sign > 0 else -smoothed
    fall = height[mine] - lowest_on_lines(image, y[mine], x[mine], y[other], x[other])
    with np.errstate(invalid="ignore"):
        shallow = fall < min_drop * np.sqrt(variance[y, x])[mine]
    keep = np.ones(len(peaks), bool)
    keep[several[mine[shallow]]] = False
    if among is not None:
        keep |= ~np.isin(_pixel_key(peaks), _pixel_key(among))
    kept, offsets = sort_peaks(owner[keep], peaks[keep], len(footprints), sign)
    return FootprintSet(footprints.spans, footprints.span_offsets, kept, offsets)


def _pixel_key(peaks: NDArray[Any]) -> NDArray[np.int64]:
    """Return one number for the pixel of each peak."""
    return peaks["y"].astype(np.int64) * 2**32 + peaks["x"]
