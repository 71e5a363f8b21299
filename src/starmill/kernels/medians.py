"""Running medians of images: separable ones (of rows, then of columns) and those of full square windows.

Whole rows of pixels are compared element by element, as in a sorting network, so that the processor handles many
pixels per instruction. As in the usual cosmic-ray codes, pixels closer to the edge than half the window keep their
value.
"""

# ruff: noqa: FURB136 -- compare and select becomes one vector instruction, min() and max() do not
from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.statistics import quickselect

_LANES = 256  # columns handled together; 25 rows of them stay in the first-level cache


@fast_njit
def _low(a, b):
    """Smaller of two finite values (the form that becomes one vector instruction)."""
    return a if a < b else b


@fast_njit
def _high(a, b):
    """Larger of two finite values."""
    return b if a < b else a


@fast_njit
def _median_of_5_rows(a, b, c, d, e, out):
    """Median of five values for every column: the two middle ones of four, and the fifth."""
    for x in range(out.size):
        low_ab, high_ab = _low(a[x], b[x]), _high(a[x], b[x])
        low_cd, high_cd = _low(c[x], d[x]), _high(c[x], d[x])
        p = _high(low_ab, low_cd)
        q = _low(high_ab, high_cd)
        out[x] = _high(_low(p, q), _low(_high(p, q), e[x]))


@fast_njit
def _median_of_7_rows(a, b, c, d, e, f, g, out):
    """Median of seven values for every column: the two middle ones of two sorted triples, and the seventh."""
    for x in range(out.size):
        low, high = _low(a[x], b[x]), _high(a[x], b[x])
        a0, t = _low(low, c[x]), _high(low, c[x])
        a1, a2 = _low(t, high), _high(t, high)
        low, high = _low(d[x], e[x]), _high(d[x], e[x])
        d0, t = _low(low, f[x]), _high(low, f[x])
        d1, d2 = _low(t, high), _high(t, high)
        third = _high(_high(_low(a2, d0), _low(a1, d1)), _low(a0, d2))
        fourth = _low(_low(_high(a2, d0), _high(a1, d1)), _high(a0, d2))
        out[x] = _high(third, _low(fourth, g[x]))


@njit
def separable_median_5(image, rows, out):
    """Median of five along rows, then of five of these along columns; ``rows`` is work space."""
    ny, nx = image.shape
    out[:] = image
    if ny < 5 or nx < 5:
        return
    a, b = 2, nx - 2
    for y in range(ny):
        r = image[y]
        _median_of_5_rows(
            r[a - 2 : b - 2], r[a - 1 : b - 1], r[a:b], r[a + 1 : b + 1], r[a + 2 :], rows[y, a:b]
        )
    for y in range(2, ny - 2):
        _median_of_5_rows(
            rows[y - 2, a:b], rows[y - 1, a:b], rows[y, a:b], rows[y + 1, a:b], rows[y + 2, a:b], out[y, a:b]
        )


@njit
def separable_median_7(image, rows, out):
    """Median of seven along rows, then of seven of these along columns; ``rows`` is work space."""
    ny, nx = image.shape
    out[:] = image
    if ny < 7 or nx < 7:
        return
    a, b = 3, nx - 3
    for y in range(ny):
        r = image[y]
        _median_of_7_rows(
            r[a - 3 : b - 3], r[a - 2 : b - 2], r[a - 1 : b - 1], r[a:b], r[a + 1 : b + 1], r[a + 2 : b + 2], r[a + 3 :],
            rows[y, a:b],
        )  # fmt: skip
    for y in range(3, ny - 3):
        _median_of_7_rows(
            rows[y - 3, a:b], rows[y - 2, a:b], rows[y - 1, a:b], rows[y, a:b], rows[y + 1, a:b], rows[y + 2, a:b],
            rows[y + 3, a:b], out[y, a:b],
        )  # fmt: skip


@fast_njit
def _exchange(low, high):
    """Put the smaller value of every column in ``low``, the larger in ``high``."""
    for x in range(low.size):
        a = low[x]
        b = high[x]
        low[x] = _low(a, b)
        high[x] = _high(a, b)


@njit
def window_median(image, half, pairs, out):
    """Median of the full square window of side ``2 half + 1`` around every pixel.

    Parameters
    ----------
    image : (ny, nx) float32 array
    half : int
    pairs : (n, 2) int64 array
        Exchanges of a selection network for the window, which leaves the median in its middle place.
    out : (ny, nx) float32 array
    """
    ny, nx = image.shape
    out[:] = image
    side = 2 * half + 1
    if ny < side or nx < side:
        return
    lanes = np.empty((side * side, _LANES), image.dtype)
    for y in range(half, ny - half):
        for x in range(half, nx - half, _LANES):
            width = min(_LANES, nx - half - x)
            for j in range(side):
                row = image[y - half + j]
                for i in range(side):
                    lanes[j * side + i, :width] = row[x - half + i : x - half + i + width]
            for k in range(pairs.shape[0]):
                _exchange(lanes[pairs[k, 0], :width], lanes[pairs[k, 1], :width])
            out[y, x : x + width] = lanes[(side * side) // 2, :width]


@njit
def window_median_at(image, y, x, half, work):
    """Median of the full window around one pixel; the pixel itself near the edge."""
    ny, nx = image.shape
    if y < half or x < half or y >= ny - half or x >= nx - half:
        return image[y, x]
    n = 0
    for j in range(y - half, y + half + 1):
        row = image[j]
        for i in range(x - half, x + half + 1):
            work[n] = row[i]
            n += 1
    return quickselect(work, n, n // 2)


@njit
def separable_median_at(image, y, x, half, work):
    """Median over rows, then over these medians, of the window around one pixel; the pixel itself near the edge."""
    ny, nx = image.shape
    if y < half or x < half or y >= ny - half or x >= nx - half:
        return image[y, x]
    side = 2 * half + 1
    for j in range(side):
        row = image[y - half + j]
        for i in range(side):
            work[side + i] = row[x - half + i]
        work[j] = quickselect(work[side : 2 * side], side, half)
    return quickselect(work, side, half)


@njit
def medians_at(image, pixels, half, separable):
    """Median around every listed pixel (y, x): separable or of the full window."""
    out = np.empty(pixels.shape[0], image.dtype)
    work = np.empty((2 * half + 1) ** 2, image.dtype)
    for k in range(pixels.shape[0]):
        if separable:
            out[k] = separable_median_at(image, pixels[k, 0], pixels[k, 1], half, work)
        else:
            out[k] = window_median_at(image, pixels[k, 0], pixels[k, 1], half, work)
    return out
