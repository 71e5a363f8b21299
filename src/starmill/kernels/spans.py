"""Operations on run-length regions: grow, paint, look up, sum."""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit


@njit
def paint_grown(spans, radius, painted, nx):
    """Set to one all pixels within ``radius`` of a span (circle dx^2 + dy^2 <= radius^2).

    Parameters
    ----------
    spans : (n, 3) int32 array
        y, x0, x1 (inclusive), in array coordinates.
    radius : int
        Pixels; 0 paints the spans themselves.
    painted : (ny, >= nx) uint8 array
        Written; pixels outside are cut off.
    nx : int
        Columns that may be painted.
    """
    ny = painted.shape[0]
    reach = np.empty(2 * radius + 1, np.int64)
    for k in range(2 * radius + 1):
        dy = k - radius
        reach[k] = int(np.floor(np.sqrt(radius * radius - dy * dy + 1e-9)))
    for s in range(spans.shape[0]):
        y, x0, x1 = spans[s, 0], spans[s, 1], spans[s, 2]
        for k in range(2 * radius + 1):
            row = y + k - radius
            if row < 0 or row >= ny:
                continue
            a, b = max(0, x0 - reach[k]), min(nx, x1 + reach[k] + 1)
            if b > a:
                painted[row, a:b] = 1


@njit
def paint_labels(spans, offsets, labels):
    """Write footprint number + 1 into an integer image.

    Parameters
    ----------
    spans : (n, 3) int32 array
    offsets : (n_footprints + 1,) int64 array
    labels : (ny, nx) int32 array
        Written.
    """
    for i in range(offsets.shape[0] - 1):
        for s in range(offsets[i], offsets[i + 1]):
            labels[spans[s, 0], spans[s, 1] : spans[s, 2] + 1] = i + 1


@njit
def set_bits(spans, bits, mask):
    """OR ``bits`` into the mask on all pixels of the spans."""
    value = np.int32(bits)
    for s in range(spans.shape[0]):
        row = mask[spans[s, 0], spans[s, 1] : spans[s, 2] + 1]
        for x in range(row.shape[0]):
            row[x] |= value


@njit
def first_span_with(spans, y, x, lo, hi):
    """Index of the span among ``spans[lo:hi]`` (reading order, disjoint) holding a pixel, or -1."""
    while lo < hi:
        middle = (lo + hi) // 2
        row = spans[middle, 0]
        if row < y or (row == y and spans[middle, 2] < x):
            lo = middle + 1
        else:
            hi = middle
    if lo < spans.shape[0] and spans[lo, 0] == y and spans[lo, 1] <= x <= spans[lo, 2]:
        return lo
    return -1


@njit
def spans_holding(spans, ys, xs):
    """Index of the span holding each pixel, or -1; spans in reading order and disjoint."""
    out = np.empty(ys.shape[0], np.int64)
    for i in range(ys.shape[0]):
        out[i] = first_span_with(spans, ys[i], xs[i], 0, spans.shape[0])
    return out


@njit
def span_sums(spans, offsets, image):
    """Sum of finite pixels and their number, for every footprint (float64)."""
    n = offsets.shape[0] - 1
    total, count = np.zeros(n), np.zeros(n, np.int64)
    for i in range(n):
        for s in range(offsets[i], offsets[i + 1]):
            row = image[spans[s, 0], spans[s, 1] : spans[s, 2] + 1]
            for x in range(row.shape[0]):
                if np.isfinite(row[x]):
                    total[i] += row[x]
                    count[i] += 1
    return total, count


@njit
def gather_pixels(spans, image, out):
    """Copy the pixels of the spans, in span order, into a flat array."""
    n = 0
    for s in range(spans.shape[0]):
        for x in range(spans[s, 1], spans[s, 2] + 1):
            out[n] = image[spans[s, 0], x]
            n += 1


@njit
def count_masked(spans, offsets, mask, bits):
    """Count the pixels of every footprint with one of ``bits`` set."""
    n = offsets.shape[0] - 1
    count = np.zeros(n, np.int64)
    for i in range(n):
        for s in range(offsets[i], offsets[i + 1]):
            row = mask[spans[s, 0], spans[s, 1] : spans[s, 2] + 1]
            for x in range(row.shape[0]):
                if row[x] & bits:
                    count[i] += 1
    return count


@njit
def cut_stamp(image, variance, mask, spans, margin, y0, x0, pixels, variances, bits, inside):
    """Cut the pixels of a footprint out of an image.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays, mask : (ny, nx) int32 array
    spans : (n, 3) int32 array
        Inside the image.
    margin : int
        Rows and columns of the stamp that lie outside the box of the footprint; they stay as they are.
    y0, x0 : int
        Image row and column of the first pixel of the stamp; may be negative by ``margin``.
    pixels, variances : float32 arrays, bits : int32 array, inside : bool array
        Stamps, zero on entry. Pixels are written inside the footprint where they are finite, variance and mask in
        the whole box.
    """
    height, width = pixels.shape
    for iy in range(margin, height - margin):
        for ix in range(margin, width - margin):
            variances[iy, ix] = variance[y0 + iy, x0 + ix]
            bits[iy, ix] = mask[y0 + iy, x0 + ix]
    for s in range(spans.shape[0]):
        iy = spans[s, 0] - y0
        for x in range(spans[s, 1], spans[s, 2] + 1):
            value = image[spans[s, 0], x]
            if np.isfinite(value):
                pixels[iy, x - x0] = value
                inside[iy, x - x0] = True
