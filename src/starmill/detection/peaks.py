"""Peaks of footprints on a smoothed image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starmill.datamodel.footprint import PEAK_DTYPE, FootprintSet
from starmill.datamodel.geometry import Box
from starmill.detection.footprints import label_image, sort_peaks
from starmill.kernels.peaks import footprint_peaks

__all__ = ["find_peaks", "replace_peaks"]


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
