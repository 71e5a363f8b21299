"""Local maxima of an image inside footprints.

A pixel is a peak when none of its eight neighbours exceeds it; equal neighbours are allowed, so a flat
top gives several peaks.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.labelling import enlarged


@njit
def _is_peak(image, sign, y, x):
    """Tell whether no neighbour exceeds the pixel (comparisons with NaN are false)."""
    value = sign * image[y, x]
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if sign * image[y + dy, x + dx] > value:
                return False
    return True


@njit
def _beaten_on_plateau(image, sign, y, x):
    """Tell whether an equal neighbour precedes the pixel in reading order."""
    value = sign * image[y, x]
    for dx in range(-1, 2):
        if sign * image[y - 1, x + dx] == value:
            return True
    return sign * image[y, x - 1] == value


@njit
def footprint_peaks(image, sign, spans, offsets, x_lo, x_hi, y_lo, y_hi, thin):
    """Peaks of all footprints; the highest pixel where a footprint has no local maximum.

    Parameters
    ----------
    image : (ny, nx) float32 array
        NaN neighbours are ignored.
    sign : float
        +1 for maxima, -1 for minima.
    spans : (n_spans, 3) int32 array
    offsets : (n + 1,) int64 array
        Spans of footprint i are ``spans[offsets[i]:offsets[i + 1]]``.
    x_lo, x_hi, y_lo, y_hi : int
        Box searched, upper bounds exclusive; pixels on its rim cannot be local maxima.
    thin : bool
        Keep one pixel of touching equal peaks: the first in reading order.

    Returns
    -------
    peaks : (n_peaks, 3) int64 array
        Footprint, y, x, in reading order within a footprint.
    """
    sign32 = np.float32(sign)
    peaks = np.empty((max(2 * offsets.shape[0], 64), 3), np.int64)
    n = 0
    for i in range(offsets.shape[0] - 1):
        first = n
        best = np.float32(-np.inf)
        best_y = best_x = -1
        for s in range(offsets[i], offsets[i + 1]):
            y = spans[s, 0]
            for x in range(spans[s, 1], spans[s, 2] + 1):
                value = sign32 * image[y, x]
                if value > best or best_y < 0:
                    best, best_y, best_x = value, y, x
                if y <= y_lo or y >= y_hi - 1 or x <= x_lo or x >= x_hi - 1:
                    continue
                if not _is_peak(image, sign32, y, x):
                    continue
                if thin and _beaten_on_plateau(image, sign32, y, x):
                    continue
                if n + 2 > peaks.shape[0]:
                    peaks = enlarged(peaks, n, 2 * peaks.shape[0])
                peaks[n, 0], peaks[n, 1], peaks[n, 2] = i, y, x
                n += 1
        if n == first and best_y >= 0:
            if n + 2 > peaks.shape[0]:
                peaks = enlarged(peaks, n, 2 * peaks.shape[0])
            peaks[n, 0], peaks[n, 1], peaks[n, 2] = i, best_y, best_x
            n += 1
    return peaks[:n].copy()
