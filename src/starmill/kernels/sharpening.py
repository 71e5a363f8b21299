"""Peaks of blends that smoothing has merged.

Inside each footprint the image is filtered with a small stencil ``k`` of zero sum (a narrow minus a wide
Gaussian), ``D = k * I``, whose noise is ``sqrt(V sum k^2)``. Local maxima of D are taken from the highest
downwards; one is kept when D falls between it and every kept peak nearby by a significant amount.
"""

from __future__ import annotations

import math

import numpy as np

from starmill.kernels._jit import njit


@njit
def _filtered(image, stencil, y, x):
    """Return the stencil's response at a pixel; missing pixels and the outside count as the centre's value."""
    ny, nx = image.shape
    half = stencil.shape[0] // 2
    centre = image[y, x]
    if not math.isfinite(centre):
        return np.nan
    total = 0.0
    for dy in range(-half, half + 1):
        row = y + dy
        if row < 0 or row >= ny:
            continue
        taps = stencil[half + dy]
        for dx in range(-half, half + 1):
            column = x + dx
            if 0 <= column < nx:
                value = image[row, column] - centre
                if math.isfinite(value):
                    total += taps[half + dx] * value
    return total


@njit
def _fill_stamp(image, stencil, spans, y0, x0, stamp):
    """Response on the pixels of the spans and their neighbours; NaN elsewhere."""
    ny, nx = image.shape
    for y in range(stamp.shape[0]):
        for x in range(stamp.shape[1]):
            stamp[y, x] = np.nan
    for s in range(spans.shape[0]):
        for y in range(max(0, spans[s, 0] - 1), min(ny, spans[s, 0] + 2)):
            for x in range(max(0, spans[s, 1] - 1), min(nx, spans[s, 2] + 2)):
                if math.isnan(stamp[y - y0, x - x0]):
                    stamp[y - y0, x - x0] = _filtered(image, stencil, y, x)


@njit
def _is_maximum(stamp, y, x):
    """Tell whether a pixel exceeds the neighbours before it and is not exceeded by those after it."""
    value = stamp[y, x]
    if not value > 0:
        return False
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            other = stamp[y + dy, x + dx]
            if other > value or (other == value and (dy < 0 or (dy == 0 and dx < 0))):
                return False
    return True


@njit
def _lowest_between(stamp, ya, xa, yb, xb):
    """Lowest response on the straight line between two pixels; NaN ends count as zero."""
    steps = max(abs(yb - ya), abs(xb - xa))
    lowest = min(stamp[ya, xa], stamp[yb, xb])
    for k in range(1, steps):
        y = math.floor(ya + (yb - ya) * k / steps + 0.5)
        x = math.floor(xa + (xb - xa) * k / steps + 0.5)
        value = stamp[y, x]
        lowest = min(lowest, value if math.isfinite(value) else 0.0)
    return lowest


@njit
def lowest_on_lines(image, ya, xa, yb, xb):
    """Lowest value of an image on straight lines between pairs of pixels.

    Parameters
    ----------
    image : (ny, nx) array
        NaN between the ends counts as zero.
    ya, xa, yb, xb : (n,) int64 arrays
        Ends of the lines, array index.

    Returns
    -------
    lowest : (n,) float64 array
    """
    lowest = np.empty(ya.size)
    for i in range(ya.size):
        lowest[i] = _lowest_between(image, ya[i], xa[i], yb[i], xb[i])
    return lowest


@njit
def sharp_peaks(image, variance, spans, offsets, stencil, n_sigma, depth, reach):
    """Peaks of the sharpened image in every footprint.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
        Not smoothed.
    spans : (n_spans, 3) int32 array, offsets : (n + 1,) int64 array
        Footprints, array indices.
    stencil : (size, size) float64 array
        Odd size, sum zero.
    n_sigma : float
        A peak must exceed the saddle to every kept peak by this multiple of the noise of the response.
    depth : float
        And by this part of the response of the kept peak: the model of its light is not perfect.
    reach : float, pixel
        Kept peaks further away are not looked at.

    Returns
    -------
    peaks : (n_peaks, 3) int64 array
        Footprint, y, x.
    """
    power = 0.0
    for y in range(stencil.shape[0]):
        for x in range(stencil.shape[1]):
            power += stencil[y, x] ** 2
    found = np.empty((max(64, 2 * offsets.shape[0]), 3), np.int64)
    n_found = 0
    for i in range(offsets.shape[0] - 1):
        own = spans[offsets[i] : offsets[i + 1]]
        if own.shape[0] == 0:
            continue
        y0, x0, x1 = own[0, 0] - 1, own[0, 1] - 1, own[0, 2] + 1
        for s in range(own.shape[0]):
            x0, x1 = min(x0, own[s, 1] - 1), max(x1, own[s, 2] + 1)
        stamp = np.empty((own[-1, 0] + 2 - y0, x1 + 1 - x0))
        _fill_stamp(image, stencil, own, y0, x0, stamp)
        n_candidates = 0
        for s in range(own.shape[0]):
            for x in range(own[s, 1], own[s, 2] + 1):
                n_candidates += 1 if _is_maximum(stamp, own[s, 0] - y0, x - x0) else 0
        candidates = np.empty((n_candidates, 2), np.int64)
        heights = np.empty(n_candidates)
        k = 0
        for s in range(own.shape[0]):
            for x in range(own[s, 1], own[s, 2] + 1):
                if _is_maximum(stamp, own[s, 0] - y0, x - x0):
                    candidates[k, 0], candidates[k, 1] = own[s, 0] - y0, x - x0
                    heights[k] = -stamp[own[s, 0] - y0, x - x0]
                    k += 1
        first = n_found
        for c in np.argsort(heights):
            cy, cx = candidates[c, 0], candidates[c, 1]
            noise = math.sqrt(max(variance[cy + y0, cx + x0], 0.0) * power)
            ok = -heights[c] >= n_sigma * noise
            for j in range(first, n_found):
                if not ok:
                    break
                qy, qx = found[j, 1] - y0, found[j, 2] - x0
                if math.hypot(qy - cy, qx - cx) > reach:
                    continue
                drop = -heights[c] - _lowest_between(stamp, cy, cx, qy, qx)
                ok = drop >= n_sigma * noise and drop >= depth * stamp[qy, qx]
            if not ok:
                continue
            if n_found == found.shape[0]:
                more = np.empty((2 * found.shape[0], 3), np.int64)
                for a in range(n_found):
                    for b in range(3):
                        more[a, b] = found[a, b]
                found = more
            found[n_found, 0], found[n_found, 1], found[n_found, 2] = i, cy + y0, cx + x0
            n_found += 1
    return found[:n_found].copy()
