r"""Adaptive second moments: the Gaussian weight that matches the source best.

With the weight w = exp(-rho**2 / 2), rho**2 = d\ :sup:`T` W\ :sup:`-1` d, the weighted second
moments m of a source give a better weight through W' :sup:`-1` = m\ :sup:`-1` - W\ :sup:`-1`
(for a Gaussian source of covariance C, m\ :sup:`-1` = C\ :sup:`-1` + W\ :sup:`-1`). The centre
of the weight stays fixed. Pixels enter a growing weight one by one, so narrow weights can
swing to and fro for ever: after some rounds each swing makes the steps smaller. Weights are
computed by recurrence, from row to row for sixteen columns at once.

References
----------
Bernstein & Jarvis 2002, AJ 123, 583, section 3 (adaptive moments).
Hirata & Seljak 2003, MNRAS 343, 459 (the variant used by the SDSS).
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source
from starmill.kernels.vector_sums import LANES, weigh_columns

START_SIGMA2 = 1.5  # first weight, pixels**2
EXPONENT_LIMIT = 14.0  # pixels with a larger rho**2 are left out
SUB_EXPONENT_LIMIT = 9.0  # the same for split pixels of very narrow weights
BOX_SIGMAS = 4.0
MAX_RADIUS = 1000.0
SCRATCH_ROWS = 2 * int(MAX_RADIUS) + 8
SMALLEST_LIMIT = 16.0  # a weight may always grow to this sigma, pixels
FOOTPRINT_LIMIT = 2.0  # and to this multiple of the radius of the footprint
ELLIPTICITY_TOLERANCE = 1e-5
SIZE_TOLERANCE = 1e-4
STRONG_TILT = 0.8  # squared correlation above which the weights of a column may underflow on their way
FREE_ROUNDS = 12  # then a weight that swings to and fro makes smaller steps

FLAG_UNWEIGHTED_BAD = 1
FLAG_UNWEIGHTED = 2
FLAG_SHIFT = 4
FLAG_MAX_ITERATIONS = 8
FLAG_BAD_CENTROID = 16


@njit
def _limits(shape, cx, cy, wxx, wyy):
    """Rows and columns that the weight reaches."""
    radius = min(BOX_SIGMAS * np.sqrt(max(wxx, wyy)), MAX_RADIUS)
    x0 = max(int(cx - radius - 0.5), 0)
    y0 = max(int(cy - radius - 0.5), 0)
    x1 = min(int(cx + radius + 0.5), shape[1] - 1)
    y1 = min(int(cy + radius + 0.5), shape[0] - 1)
    return x0, y0, x1, y1


@njit
def weighted_sums(image, cx, cy, wxx, wyy, wxy, sums, rows):
    """Fill ``sums`` with the weighted flux, first and second moments.

    Parameters
    ----------
    image : (ny, nx) array
    cx, cy : float
        Centre of the weight, array index.
    wxx, wyy, wxy : float
        Covariance of the weight, pixels**2; positive definite. Weights narrower than a pixel are
        summed over 4 x 4 parts of every pixel.
    sums : (6,) float64 array
        Receives sum w I, sum w I dx, sum w I dy, sum w I dx**2, sum w I dy**2 and
        sum w I dx dy.
    rows : (4, SCRATCH_ROWS) float64 array
        Scratch.
    """
    for k in range(6):
        sums[k] = 0.0
    det = wxx * wyy - wxy * wxy
    narrow = wxx < 0.25 or wyy < 0.25 or det < 0.0625
    x0, y0, x1, y1 = _limits(image.shape, cx, cy, wxx, wyy)
    limit = SUB_EXPONENT_LIMIT if narrow else EXPONENT_LIMIT
    part = 0.5 if narrow else 0.0
    reach_x = np.sqrt(limit * wxx) + part
    reach_y = np.sqrt(limit * wyy) + part
    x0 = max(x0, int(np.ceil(cx - reach_x)))
    x1 = min(x1, int(np.floor(cx + reach_x)))
    y0 = max(y0, int(np.ceil(cy - reach_y)))
    y1 = min(y1, int(np.floor(cy + reach_y)))
    if x1 < x0 or y1 < y0:
        return
    a = wyy / det
    b = -wxy / det
    c = wxx / det
    end = image.size - LANES - (y1 - y0) * image.shape[1]  # last start of a vector that stays in the image
    if narrow or wxy * wxy > STRONG_TILT * wxx * wyy or end < 0:
        _sums_by_rows(image, cx, cy, a, b, c, x0, y0, x1, y1, 2 if narrow else 0, limit, sums, rows)
    else:
        _sums_by_columns(image, cx, cy, a, b, c, x0, y0, x1, y1, end, sums, rows)


@njit
def _sums_by_columns(image, cx, cy, a, b, c, x0, y0, x1, y1, end, sums, rows):
    """Add to ``sums`` with the weights of many columns at once, from row to row by recurrence.

    Arguments as :func:`weighted_sums`, with the inverse of the covariance, the first and the last pixels, and the
    last index at which a vector may start.
    """
    column = rows[0]
    weight = rows[1]
    ratio = rows[2]
    dy = y0 - cy
    along = np.exp(-a)
    turn = np.exp(-b)
    step = np.exp(-c)
    least = np.exp(-0.5 * EXPONENT_LIMIT)
    x = x0
    while x <= x1:
        place = y0 * image.shape[1] + x
        first = min(place, end)
        skipped = place - first  # columns before x, which a vector before has had
        dx = x - cx
        w = np.exp(-0.5 * (a * dx * dx + (2.0 * b * dx + c * dy) * dy))
        q = np.exp(-a * (dx + 0.5) - b * dy)
        r = np.exp(-b * dx - c * (dy + 0.5))
        n = min(LANES - skipped, x1 - x + 1)
        for k in range(LANES):
            column[k] = 0.0
            weight[k] = 0.0
            ratio[k] = 0.0
        for k in range(skipped, skipped + n):
            column[k] = dx
            weight[k] = w
            ratio[k] = r
            dx += 1.0
            w *= q
            q *= along
            r *= turn
        s, sx, sy, sxx, syy, sxy = weigh_columns(
            image, first, image.shape[1], y1 - y0 + 1, dy, column, weight, ratio, step, least
        )
        sums[0] += s
        sums[1] += sx
        sums[2] += sy
        sums[3] += sxx
        sums[4] += syy
        sums[5] += sxy
        x += LANES - skipped


@njit
def _sums_by_rows(image, cx, cy, a, b, c, x0, y0, x1, y1, shift, limit, sums, rows):
    """Add to ``sums`` pixel by pixel along the rows; with ``shift`` 2 every pixel is split into 4 x 4 parts.

    Arguments as :func:`weighted_sums`, with the inverse of the covariance and the first and last pixels.
    """
    parts = 1 << shift  # the pixel of sample m is m >> shift
    size = 1.0 / parts
    n_rows = (y1 - y0 + 1) << shift
    _weight_rows(cx, cy, a, b, c, limit, x0, y0, (x1 - x0 + 1) << shift, n_rows, size, rows)
    step = np.exp(-a * size * size)
    for j in range(n_rows):
        first = int(rows[0, j])
        last = int(rows[1, j])
        w = rows[2, j] * size * size
        ratio = rows[3, j]
        dy = y0 - 0.5 + (j + 0.5) * size - cy
        dx = x0 - 0.5 + (first + 0.5) * size - cx
        row = image[y0 + (j >> shift), x0:]
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        for m in range(first, last + 1):
            wi = w * row[np.uint64(m >> shift)]
            s0 += wi
            s1 += wi * dx
            s2 += wi * dx * dx
            dx += size
            w *= ratio
            ratio *= step
        sums[0] += s0
        sums[1] += s1
        sums[2] += s0 * dy
        sums[3] += s2
        sums[4] += s0 * dy * dy
        sums[5] += s1 * dy


@njit
def _weight_rows(cx, cy, a, b, c, limit, x0, y0, n_columns, n_rows, size, rows):
    """Fill ``rows`` with first and last sample of each row inside the limit, the first weight and its ratio.

    The weight is exp(-rho**2 / 2) with rho**2 = a dx**2 + 2 b dx dy + c dy**2 <= ``limit``; samples lie
    ``size`` pixels apart, the first at the lower left corner of pixel (x0, y0).
    """
    first = rows[0]
    last = rows[1]
    weight = rows[2]
    ratio = rows[3]
    slope = b / a
    along_y = c - b * slope
    inverse = 1.0 / a
    corner = x0 - 0.5 + 0.5 * size
    for j in range(n_rows):
        dy = y0 - 0.5 + (j + 0.5) * size - cy
        rest = (limit - along_y * dy * dy) * inverse
        half = np.sqrt(max(rest, 0.0))
        middle = cx - slope * dy
        start = np.ceil((middle - half - corner) / size)
        start = max(start, 0.0)
        end = np.floor((middle + half - corner) / size)
        end = min(end, n_columns - 1.0)
        u = corner + start * size - middle
        first[j] = start
        last[j] = end if rest > 0.0 else -1.0
        weight[j] = -0.5 * (a * u * u + along_y * dy * dy)
        ratio[j] = -a * size * (u + 0.5 * size)
    for j in range(n_rows):
        weight[j] = np.exp(weight[j])
    for j in range(n_rows):
        ratio[j] = np.exp(ratio[j])


@njit
def _unweighted(image, cx, cy, out):
    """Moments without weight in the box of the starting weight; returns flags."""
    x0, y0, x1, y1 = _limits(image.shape, cx, cy, START_SIGMA2, START_SIGMA2)
    s0 = 0.0
    sxx = 0.0
    syy = 0.0
    sxy = 0.0
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            value = image[y, x]
            s0 += value
            sxx += value * (x - cx) ** 2
            syy += value * (y - cy) ** 2
            sxy += value * (x - cx) * (y - cy)
    if s0 <= 0.0 or sxx <= 0.0 or syy <= 0.0 or sxx * syy <= sxy * sxy:
        out[:] = np.nan
        return FLAG_UNWEIGHTED | FLAG_UNWEIGHTED_BAD
    out[0] = sxx / s0
    out[1] = syy / s0
    out[2] = sxy / s0
    out[3] = s0 / (2.0 * np.pi * np.sqrt(out[0] * out[1] - out[2] ** 2))
    out[4] = cx
    out[5] = cy
    return FLAG_UNWEIGHTED


@njit
def match_weight(image, cx, cy, max_shift, max_iterations, max_sigma, sums, rows, out):
    """Adaptive moments of one source.

    Parameters
    ----------
    image : (ny, nx) array
    cx, cy : float
        Fixed centre, array index.
    max_shift : float
        Largest offset of the weighted mean position, pixels.
    max_iterations : int
    max_sigma : float
        A weight that grows beyond this has run away, pixels.
    sums : (6,) float64 array
        Scratch.
    rows : (4, SCRATCH_ROWS) float64 array
        Scratch.
    out : (6,) float64 array
        Receives xx, yy, xy (pixels**2), the central amplitude, and the weighted mean x, y.

    Returns
    -------
    flags : int
    """
    wxx = START_SIGMA2
    wyy = START_SIGMA2
    wxy = 0.0
    e1_old = 1e6
    e2_old = 1e6
    size_old = 1e6
    flags = 0
    converged = False
    step = 1.0
    change_old = 0.0
    for k in range(max_iterations):
        weighted_sums(image, cx, cy, wxx, wyy, wxy, sums, rows)
        if not sums[0] > 0.0:
            return _unweighted(image, cx, cy, out)
        mxx = sums[3] / sums[0]
        myy = sums[4] / sums[0]
        mxy = sums[5] / sums[0]
        det = mxx * myy - mxy * mxy
        if not (mxx > 0.0 and myy > 0.0 and det > 0.0):
            return _unweighted(image, cx, cy, out)
        shift_x = sums[1] / sums[0]
        shift_y = sums[2] / sums[0]
        if abs(shift_x) > max_shift or abs(shift_y) > max_shift:
            flags |= FLAG_SHIFT
        e1 = (mxx - myy) / (mxx + myy)
        e2 = 2.0 * mxy / (mxx + myy)
        if (
            abs(e1 - e1_old) < ELLIPTICITY_TOLERANCE
            and abs(e2 - e2_old) < ELLIPTICITY_TOLERANCE
            and abs(mxx / size_old - 1.0) < SIZE_TOLERANCE
        ):
            converged = True
            break
        change = mxx - size_old
        if k >= FREE_ROUNDS and change * change_old < 0.0:
            step *= 0.7
        change_old = change
        e1_old = e1
        e2_old = e2
        size_old = mxx
        wdet = wxx * wyy - wxy * wxy
        ixx = myy / det - wyy / wdet
        iyy = mxx / det - wxx / wdet
        ixy = -mxy / det + wxy / wdet
        idet = ixx * iyy - ixy * ixy
        if not (ixx > 0.0 and iyy > 0.0 and idet > 0.0):
            return _unweighted(image, cx, cy, out)
        if max(ixx, iyy) > idet * max_sigma * max_sigma:
            return _unweighted(image, cx, cy, out) | FLAG_MAX_ITERATIONS
        wxx += step * (iyy / idet - wxx)
        wyy += step * (ixx / idet - wyy)
        wxy += step * (-ixy / idet - wxy)
    if not converged:
        return _unweighted(image, cx, cy, out) | FLAG_MAX_ITERATIONS
    out[0] = wxx
    out[1] = wyy
    out[2] = wxy
    # flux = 2 sum(w I) for a matched Gaussian, amplitude = flux / (2 pi sqrt(det))
    out[3] = sums[0] / (np.pi * np.sqrt(wxx * wyy - wxy * wxy))
    out[4] = cx + shift_x
    out[5] = cy + shift_y
    return flags


@njit
def adaptive_moments(pixels, x, y, max_shift, max_iterations):
    """Adaptive moments of every source.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Centroids, array index.
    max_shift : float
        Pixels.
    max_iterations : int

    Returns
    -------
    out : (n, 6) float64 array
        xx, yy, xy (pixels**2), amplitude, weighted mean x and y; NaN when even the
        unweighted moments are bad.
    variance : (n,) float64 array
        Variance of the pixel at the centroid.
    flags : (n,) int32 array
        Sum of the ``FLAG_*`` values of this module.
    """
    n = x.size
    ny, nx = pixels.mask.shape
    out = np.full((n, 6), np.nan)
    variance = np.full(n, np.nan)
    flags = np.zeros(n, np.int32)
    sums = np.empty(6)
    rows = np.empty((4, SCRATCH_ROWS))
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    for i in pixels.order:
        inside = (
            np.isfinite(x[i]) and np.isfinite(y[i]) and -0.5 <= x[i] < nx - 0.5 and -0.5 <= y[i] < ny - 0.5
        )
        if not inside:
            flags[i] = FLAG_BAD_CENTROID
            continue
        area = pixels.pixel_offsets[i + 1] - pixels.pixel_offsets[i]
        limit = MAX_RADIUS / BOX_SIGMAS
        if area > 0:
            limit = max(SMALLEST_LIMIT, FOOTPRINT_LIMIT * np.sqrt(area / np.pi))
        show_source(pixels, i, saved)
        flags[i] = match_weight(
            pixels.image, x[i], y[i], max_shift, max_iterations, limit, sums, rows, out[i]
        )
        variance[i] = pixels.variance[int(np.floor(y[i] + 0.5)), int(np.floor(x[i] + 0.5))]
        hide_source(pixels, i, saved)
    return out, variance, flags


@njit
def stack_moments(images, max_iterations):
    """Adaptive moments of a stack of PSF images about their central pixel.

    Parameters
    ----------
    images : (n, size, size) float64 array
    max_iterations : int

    Returns
    -------
    moments : (n, 3) float64 array
        xx, yy, xy in pixels**2.
    failed : (n,) bool array
    """
    n = images.shape[0]
    centre = float(images.shape[1] // 2)
    moments = np.full((n, 3), np.nan)
    failed = np.zeros(n, np.bool_)
    sums = np.empty(6)
    rows = np.empty((4, SCRATCH_ROWS))
    one = np.empty(6)
    for i in range(n):
        flags = match_weight(images[i], centre, centre, 2.0, max_iterations, 2.0 * centre, sums, rows, one)
        failed[i] = flags != 0
        moments[i, 0] = one[0]
        moments[i, 1] = one[1]
        moments[i, 2] = one[2]
    return moments, failed


@njit
def gaussian_sums(pixels, x, y, shape):
    """Gaussian-weighted flux of every source with a given shape.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Array index.
    shape : (n, 3) float64 array
        xx, yy, xy of the weight, pixels**2.

    Returns
    -------
    flux : (n,) float64 array
        ``2 sum(w I)``: the flux of a source that is the weight's Gaussian; NaN where
        position or shape are not usable.
    variance : (n,) float64 array
        Of ``flux``, propagated from the variance image.
    """
    n = x.size
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    sums = np.empty(6)
    rows = np.empty((4, SCRATCH_ROWS))
    ny, nx = pixels.mask.shape
    for i in pixels.order:
        wxx = shape[i, 0]
        wyy = shape[i, 1]
        wxy = shape[i, 2]
        det = wxx * wyy - wxy * wxy
        usable = wxx > 0.0 and wyy > 0.0 and det > 0.0
        usable = usable and -0.5 <= x[i] < nx - 0.5 and -0.5 <= y[i] < ny - 0.5
        if not usable:
            continue
        show_source(pixels, i, saved)
        weighted_sums(pixels.image, x[i], y[i], wxx, wyy, wxy, sums, rows)
        flux[i] = 2.0 * sums[0]
        # w**2 is the Gaussian weight of half the covariance
        weighted_sums(pixels.variance, x[i], y[i], 0.5 * wxx, 0.5 * wyy, 0.5 * wxy, sums, rows)
        variance[i] = 4.0 * sums[0]
        hide_source(pixels, i, saved)
    return flux, variance


@njit
def centred_moments(images, x, y, start, max_iterations):
    """Adaptive moments with a free centre and the fourth moment, of a stack of stamps.

    Parameters
    ----------
    images : (n, size, size) array
    x, y : (n,) float64 array
        Starting centres, stamp index.
    start : (n, 3) float64 array
        Starting weight xx, yy, xy, pixels**2.
    max_iterations : int

    Returns
    -------
    out : (n, 7) float64 array
        xx, yy, xy (pixels**2), flux ``2 sum(w I)``, x, y (stamp index), and the weighted mean of
        rho**4, which is 2 for a Gaussian.
    failed : (n,) bool array
    """
    n = images.shape[0]
    out = np.full((n, 7), np.nan)
    failed = np.ones(n, np.bool_)
    sums = np.empty(6)
    rows = np.empty((4, SCRATCH_ROWS))
    for i in range(n):
        wxx, wyy, wxy = start[i, 0], start[i, 1], start[i, 2]
        cx = x[i]
        cy = y[i]
        limit = (0.25 * images.shape[1]) ** 2
        if not (wxx > 0.0 and wyy > 0.0 and wxx * wyy > wxy * wxy and np.isfinite(cx + cy)):
            continue
        for _ in range(max_iterations):
            weighted_sums(images[i], cx, cy, wxx, wyy, wxy, sums, rows)
            if not sums[0] > 0.0:
                break
            sx = sums[1] / sums[0]
            sy = sums[2] / sums[0]
            mxx = sums[3] / sums[0] - sx * sx
            myy = sums[4] / sums[0] - sy * sy
            mxy = sums[5] / sums[0] - sx * sy
            det = mxx * myy - mxy * mxy
            if not (mxx > 0.0 and myy > 0.0 and det > 0.0):
                break
            wdet = wxx * wyy - wxy * wxy
            ixx = myy / det - wyy / wdet
            iyy = mxx / det - wxx / wdet
            ixy = -mxy / det + wxy / wdet
            idet = ixx * iyy - ixy * ixy
            if not (ixx > 0.0 and iyy > 0.0 and idet > 0.0) or max(ixx, iyy) > limit * idet:
                break
            change = abs(iyy / idet - wxx) + abs(ixx / idet - wyy) + abs(-ixy / idet - wxy)
            scale = wxx + wyy
            wxx = iyy / idet
            wyy = ixx / idet
            wxy = -ixy / idet
            cx += 2.0 * sx
            cy += 2.0 * sy
            if abs(cx - x[i]) + abs(cy - y[i]) > 0.25 * images.shape[1]:
                break
            if change < 1e-5 * scale and abs(sx) + abs(sy) < 1e-5:
                failed[i] = False
                break
        if failed[i]:
            continue
        weighted_sums(images[i], cx, cy, wxx, wyy, wxy, sums, rows)
        out[i, 0] = wxx
        out[i, 1] = wyy
        out[i, 2] = wxy
        out[i, 3] = 2.0 * sums[0]
        out[i, 4] = cx
        out[i, 5] = cy
        out[i, 6] = _mean_fourth(images[i], cx, cy, wxx, wyy, wxy)
    return out, failed


@njit
def _mean_fourth(image, cx, cy, wxx, wyy, wxy):
    """Weighted mean of rho**4."""
    det = wxx * wyy - wxy * wxy
    a = wyy / det
    b = -wxy / det
    c = wxx / det
    x0, y0, x1, y1 = _limits(image.shape, cx, cy, wxx, wyy)
    total = 0.0
    fourth = 0.0
    for y in range(y0, y1 + 1):
        dy = y - cy
        for x in range(x0, x1 + 1):
            dx = x - cx
            rho2 = a * dx * dx + 2.0 * b * dx * dy + c * dy * dy
            if rho2 <= EXPONENT_LIMIT:
                w = np.exp(-0.5 * rho2) * image[y, x]
                total += w
                fourth += w * rho2 * rho2
    return fourth / total if total > 0.0 else np.nan
