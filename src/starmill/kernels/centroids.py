r"""Centroids of many sources: maximum of the PSF-smoothed image, and windowed means.

The smoothed image M = I \* K (K the PSF image, correlation) is needed on a block of
3 x 3 bins around the peak only. With s = (M+ - M-)/2 and d = 2 M0 - M+ - M- the
maximum of the parabola lies at s/d; a quartic term for a Gaussian profile of
amplitude A = M0 changes it to (s/d)(1 + 1.33 s+ s- / (d A)), s+- = M0 - M+-. The
three rows give three centres in x, a parabola through them is evaluated at the
estimate in y, and likewise for the columns; two rounds are enough.

Errors are the linear propagation of the variance image through that estimate,
covariance of the smoothed noise included.

References
----------
Lupton et al. 2001, ASP Conf. Ser. 238, 269 (the SDSS image processing pipeline).
Bertin & Arnouts 1996, A&AS 117, 393 and the SExtractor manual (windowed positions).
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit
from starmill.kernels.source_pixels import hide_source, largest_footprint, show_source

QUARTIC = 1.33  # fourth derivative of a Gaussian over its second, SDSS

ERROR_SIGMAS = 4.5  # errors use the kernel inside this radius: the squared wings beyond add nothing
FLAG_EDGE = 1
FLAG_NO_SECOND_DERIVATIVE = 2
FLAG_ALMOST_NO_SECOND_DERIVATIVE = 4
FLAG_NOT_AT_MAXIMUM = 8
FLAG_NEAR_EDGE = 16
FLAG_BAD_ERROR = 32
FLAG_RESET_TO_PEAK = 64


@njit
def _line_centre(minus, centre, plus):
    """Return the quartic-corrected offset of the maximum along one line (NaN: no maximum)."""
    d = 2.0 * centre - minus - plus
    if d <= 0.0 or centre <= 0.0:
        return np.nan
    s = 0.5 * (plus - minus)
    return s / d * (1.0 + QUARTIC * (centre - plus) * (centre - minus) / (d * centre))


@njit
def _through_three(lower, middle, upper, t):
    """Evaluate at ``t`` the parabola through (-1, lower), (0, middle), (1, upper)."""
    return middle + t * (0.5 * (upper - lower) + t * (0.5 * (upper + lower) - middle))


@njit
def block_maximum(m):
    """Return the maximum of a smoothed 3 x 3 block.

    Parameters
    ----------
    m : (3, 3) float64 array
        Rows in y, columns in x.

    Returns
    -------
    x, y : float
        Offset from the central pixel; NaN when a second derivative is not negative.
    size_x, size_y : float
        Squared widths of the smoothed source, in (binned) pixels**2.
    """
    sx = 0.5 * (m[1, 2] - m[1, 0])
    sy = 0.5 * (m[2, 1] - m[0, 1])
    dx = 2.0 * m[1, 1] - m[1, 0] - m[1, 2]
    dy = 2.0 * m[1, 1] - m[0, 1] - m[2, 1]
    if dx <= 0.0 or dy <= 0.0:
        return np.nan, np.nan, np.nan, np.nan
    x = sx / dx
    y = sy / dy
    peak = max(m[1, 1] + 0.5 * (sx * x + sy * y), 0.0)
    size_x = peak / dx
    size_y = peak / dy
    rx0 = _line_centre(m[0, 0], m[0, 1], m[0, 2])
    rx1 = _line_centre(m[1, 0], m[1, 1], m[1, 2])
    rx2 = _line_centre(m[2, 0], m[2, 1], m[2, 2])
    ry0 = _line_centre(m[0, 0], m[1, 0], m[2, 0])
    ry1 = _line_centre(m[0, 1], m[1, 1], m[2, 1])
    ry2 = _line_centre(m[0, 2], m[1, 2], m[2, 2])
    largest = max(abs(rx0), abs(rx1), abs(rx2), abs(ry0), abs(ry1), abs(ry2))
    if largest < 1.0:
        xq = x
        yq = y
        for _ in range(2):
            xq_next = _through_three(rx0, rx1, rx2, yq)
            yq = _through_three(ry0, ry1, ry2, xq)
            xq = xq_next
        if abs(xq) < 1.0 and abs(yq) < 1.0:
            return xq, yq, size_x, size_y
    return x, y, size_x, size_y


@njit
def bin_stamp(image, variance, x0, y0, bin_x, bin_y, out, out_variance):
    """Average the image in bins, the variance accordingly.

    Parameters
    ----------
    image, variance : (ny, nx) float32 array
    x0, y0 : int
        Lower left pixel of the lower left bin.
    bin_x, bin_y : int
        Size of a bin, pixels.
    out, out_variance : (n, n) float64 array
        Receive the mean of each bin and the variance of that mean.
    """
    n = out.shape[0]
    norm = 1.0 / (bin_x * bin_y)
    flat = image.ravel()
    flat_variance = variance.ravel()
    target = out.ravel()
    target_variance = out_variance.ravel()
    for j in range(n):
        there = np.uint64(j * n)
        for k in range(np.uint64(n)):
            target[there + k] = 0.0
            target_variance[there + k] = 0.0
        for y in range(y0 + j * bin_y, y0 + (j + 1) * bin_y):
            here = np.uint64(y * image.shape[1] + x0)
            if bin_x == 1:
                for k in range(np.uint64(n)):
                    target[there + k] += norm * flat[here + k]
                    target_variance[there + k] += norm * norm * flat_variance[here + k]
            else:
                width = np.uint64(bin_x)
                for k in range(np.uint64(n)):
                    a = 0.0
                    b = 0.0
                    for x in range(here + k * width, here + (k + np.uint64(1)) * width):
                        a += flat[x]
                        b += flat_variance[x]
                    target[there + k] += norm * a
                    target_variance[there + k] += norm * norm * b


@njit
def _pad_rows(kernel, margin, padded):
    """Fill ``padded`` with the central part of ``kernel`` that fits, row by row as a flat array.

    ``margin`` zeros stand before and behind each row, and as many rows of zeros before and behind all. ``padded`` is
    (n + 2 margin, n + 2 margin) with odd n.
    """
    n = padded.shape[0] - 2 * margin
    cut = (kernel.shape[0] - n) // 2
    source = kernel.ravel()
    target = padded.ravel()
    for k in range(np.uint64(target.size)):
        target[k] = 0.0
    for j in range(n):
        here = np.uint64((cut + j) * kernel.shape[1] + cut)
        there = np.uint64((j + margin) * padded.shape[1] + margin)
        for k in range(np.uint64(n)):
            target[there + k] = source[here + k]


@fast_njit
def smooth_block(stamp, padded, out):
    """Correlate a stamp with a kernel at its 3 x 3 central pixels.

    Parameters
    ----------
    stamp : (size + 2, size + 2) float64 array
    padded : (size + 2, size + 2) float64 array
        The kernel with a border of one zero: one run over all its rows does a pixel of the block.
    out : (3, 3) float64 array
    """
    pitch = stamp.shape[1]
    pixels = stamp.ravel()
    taps = padded.ravel()
    first = np.uint64(pitch + 1)  # of the kernel
    n = np.uint64(pitch * (pitch - 2) - 2)
    one = np.uint64(1)
    two = np.uint64(2)
    for by in range(3):
        a = 0.0
        b = 0.0
        c = 0.0
        start = np.uint64(by * pitch)
        for k in range(n):
            w = taps[first + k]
            a += pixels[start + k] * w
            b += pixels[start + k + one] * w
            c += pixels[start + k + two] * w
        out[by, 0] = a
        out[by, 1] = b
        out[by, 2] = c


@fast_njit
def _gradient_sums(taps, spread, pitch, gx, gy):
    """Return the sums of V Wx**2, V Wy**2 and V Wx Wy, W the sums of nine shifted kernels times the derivatives.

    ``taps`` is the flat kernel with a border of two zeros and rows of ``pitch``, ``spread`` the flat variance with the
    same rows, zero in the two columns behind the block that the nine kernels cover.
    """
    vxx = 0.0
    vyy = 0.0
    vxy = 0.0
    x00, x01, x02 = gx[0, 0], gx[0, 1], gx[0, 2]
    x10, x11, x12 = gx[1, 0], gx[1, 1], gx[1, 2]
    x20, x21, x22 = gx[2, 0], gx[2, 1], gx[2, 2]
    y00, y01, y02 = gy[0, 0], gy[0, 1], gy[0, 2]
    y10, y11, y12 = gy[1, 0], gy[1, 1], gy[1, 2]
    y20, y21, y22 = gy[2, 0], gy[2, 1], gy[2, 2]
    one = np.uint64(1)
    two = np.uint64(2)
    row = np.uint64(pitch)
    for k in range(np.uint64(pitch * (pitch - 2) - 2)):
        c2, c1, c0 = taps[k], taps[k + one], taps[k + two]
        b2, b1, b0 = taps[row + k], taps[row + k + one], taps[row + k + two]
        a2, a1, a0 = taps[row + row + k], taps[row + row + k + one], taps[row + row + k + two]
        wx = x00 * a0 + x01 * a1 + x02 * a2 + x10 * b0 + x11 * b1 + x12 * b2
        wy = y00 * a0 + y01 * a1 + y02 * a2 + y10 * b0 + y11 * b1 + y12 * b2
        wx += x20 * c0 + x21 * c1 + x22 * c2
        wy += y20 * c0 + y21 * c1 + y22 * c2
        v = spread[k]
        vxx += v * wx * wx
        vyy += v * wy * wy
        vxy += v * wx * wy
    return vxx, vyy, vxy


@njit
def propagate_block(variance, kernel, grad_x, grad_y, padded, spread):
    """Return the variances of x and y and their covariance.

    Parameters
    ----------
    variance : (size + 2, size + 2) float64 array
        Variance of the (binned) stamp.
    kernel : (size, size) float64 array
    grad_x, grad_y : (3, 3) float64 array
        Derivatives of the position with respect to the smoothed values.
    padded, spread : (n + 4, n + 4) float64 array
        Scratch, odd n <= size; receive the central n x n kernel with a border of two zeros, and its variance.
    """
    n = padded.shape[0] - 4
    cut = (kernel.shape[0] - n) // 2
    _pad_rows(kernel, 2, padded)
    source = variance.ravel()
    target = spread.ravel()
    for j in range(n + 2):
        here = np.uint64((cut + j) * variance.shape[1] + cut)
        there = np.uint64(j * spread.shape[1])
        for k in range(np.uint64(n + 2)):
            target[there + k] = source[here + k]
        target[there + np.uint64(n + 2)] = 0.0
        target[there + np.uint64(n + 3)] = 0.0
    return _gradient_sums(padded.ravel(), target, n + 4, grad_x, grad_y)


@njit
def _block_gradient(m, grad_x, grad_y):
    """Numerical derivatives of the maximum with respect to the nine smoothed values."""
    step = 1e-4 * max(abs(m[1, 1]), 1e-30)
    ok = True
    for j in range(3):
        for i in range(3):
            keep = m[j, i]
            m[j, i] = keep + step
            xp, yp, _, _ = block_maximum(m)
            m[j, i] = keep - step
            xm, ym, _, _ = block_maximum(m)
            m[j, i] = keep
            grad_x[j, i] = (xp - xm) / (2.0 * step)
            grad_y[j, i] = (yp - ym) / (2.0 * step)
            ok = ok and np.isfinite(grad_x[j, i]) and np.isfinite(grad_y[j, i])
    return ok


@njit
def _one_centroid(pixels, kernel, ix, iy, sigma2, max_bin, wide, scratch, padded, m, grads, out):
    """Centroid of the source that is shown; fills ``out`` (x, y, vxx, vyy, vxy), returns flags."""
    flags = 0
    bin_x = 1
    bin_y = 1
    n = kernel.shape[0] + 2
    limit = wide * (1.0 + sigma2)
    ny, nx = pixels.mask.shape
    stamp = scratch[0]
    spread = scratch[1]
    taps = scratch[2]
    _pad_rows(kernel, 1, taps)
    while True:
        x0 = ix - (bin_x - 1) // 2 - (n // 2) * bin_x
        y0 = iy - (bin_y - 1) // 2 - (n // 2) * bin_y
        if x0 < 0 or y0 < 0 or x0 + n * bin_x > nx or y0 + n * bin_y > ny:
            return flags | FLAG_EDGE
        bin_stamp(pixels.image, pixels.variance, x0, y0, bin_x, bin_y, stamp, spread)
        smooth_block(stamp, taps, m)
        dx, dy, size_x, size_y = block_maximum(m)
        if not np.isfinite(dx):
            return flags | FLAG_NO_SECOND_DERIVATIVE
        scale = max(abs(m[1, 1]), 1e-300)
        if min(2 * m[1, 1] - m[1, 0] - m[1, 2], 2 * m[1, 1] - m[0, 1] - m[2, 1]) < 1e-7 * scale:
            return flags | FLAG_ALMOST_NO_SECOND_DERIVATIVE
        if m.max() > m[1, 1] and bin_x == 1 and bin_y == 1:
            flags |= FLAG_NOT_AT_MAXIMUM
        out[0] = x0 + (n // 2) * bin_x + 0.5 * (bin_x - 1) + dx * bin_x
        out[1] = y0 + (n // 2) * bin_y + 0.5 * (bin_y - 1) + dy * bin_y
        wide_x = size_x - sigma2 >= limit or (out[0] - ix) ** 2 >= limit * bin_x * bin_x
        wide_y = size_y - sigma2 >= limit or (out[1] - iy) ** 2 >= limit * bin_y * bin_y
        if not (wide_x or wide_y) or max(bin_x, bin_y) >= max_bin:
            break
        bin_x = bin_x * 2 if wide_x else bin_x
        bin_y = bin_y * 2 if wide_y else bin_y
    if not _block_gradient(m, grads[0], grads[1]):
        return flags | FLAG_BAD_ERROR
    vxx, vyy, vxy = propagate_block(spread, kernel, grads[0], grads[1], padded[0], padded[1])
    out[2] = vxx * bin_x * bin_x
    out[3] = vyy * bin_y * bin_y
    out[4] = vxy * bin_x * bin_y
    if not (vxx > 0.0 and vyy > 0.0):
        flags |= FLAG_BAD_ERROR
    return flags


@njit
def smoothed_centroids(
    pixels, kernels, kernel_index, peak_x, peak_y, sigma2, max_bin, wide, first, typical_sigma2=0.0
):
    """Centroids of a block of sources as the maximum of the PSF-smoothed image.

    Parameters
    ----------
    pixels : SourcePixels
    kernels : (k, size, size) float64 array
        PSF images centred on their central pixel; source ``i`` uses ``kernels[kernel_index[i]]``.
    kernel_index : (n,) int64 array
    peak_x, peak_y : (n,) int64 array
        Array index of the peak of each source.
    sigma2 : (k,) float64 array
        Squared radius of each kernel, pixels**2.
    max_bin : int
        Largest binning for wide sources.
    wide : float
        A source whose own squared width is above ``wide * (1 + sigma2)`` is binned.
    first : int
        Index in ``pixels`` of the first source of the block.
    typical_sigma2 : float
        Squared radius that says how far errors are summed, pixels**2: one for all blocks, so that nothing depends on
        the sources that a block holds; 0 for the largest of ``sigma2``.

    Returns
    -------
    out : (n, 5) float64 array
        x, y (array index), var x, var y, cov xy; NaN where not measured.
    flags : (n,) int32 array
        Sum of the ``FLAG_*`` values of this module.
    """
    n = peak_x.size
    flags = np.zeros(n, np.int32)
    out = np.full((n, 5), np.nan)
    size = kernels.shape[1]
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    m = np.empty((3, 3))
    grads = np.empty((2, 3, 3))
    scratch = np.empty((3, size + 2, size + 2))
    if sigma2.size and not typical_sigma2 > 0.0:
        typical_sigma2 = sigma2.max()
    reach = ERROR_SIGMAS * np.sqrt(typical_sigma2)
    core = (
        2 * int(np.ceil(reach)) + 1 if 2.0 * reach + 1.0 < size else size
    )  # all of it when nobody knows the radius
    core = min(core, size)
    padded = np.empty((2, core + 4, core + 4))
    narrow_scratch = np.empty((3, 7, 7))
    narrow_padded = np.empty((2, 9, 9))
    narrow = np.empty((5, 5))
    for j in range(5):
        for i in range(5):
            narrow[j, i] = np.exp(-((i - 2) ** 2 + (j - 2) ** 2) / (2 * 0.5**2))
    narrow /= narrow.sum()
    for i in range(n):
        show_source(pixels, first + i, saved)
        k = kernel_index[i]
        ix = peak_x[i]
        iy = peak_y[i]
        found = _one_centroid(
            pixels, kernels[k], ix, iy, sigma2[k], max_bin, wide, scratch, padded, m, grads, out[i]
        )
        if found & FLAG_EDGE:
            if not np.isfinite(out[i, 0]):
                again = _one_centroid(
                    pixels, narrow, ix, iy, 0.25, 1, wide, narrow_scratch, narrow_padded, m, grads, out[i]
                )
            else:  # the binned block leaves the image: the finer one must do
                again = _one_centroid(
                    pixels, kernels[k], ix, iy, sigma2[k], 1, wide, scratch, padded, m, grads, out[i]
                )
            found = FLAG_NEAR_EDGE | again
        hide_source(pixels, first + i, saved)
        flags[i] = found
    return out, flags


@njit
def windowed_centroids(pixels, x, y, sigma, max_iterations, tolerance):
    """Measure iterative Gaussian-windowed centroids.

    Each round moves the centre by twice the weighted mean offset, with the weight
    ``exp(-r**2 / (2 sigma**2))`` inside ``r < 4 sigma``.

    Parameters
    ----------
    pixels : SourcePixels
    x, y : (n,) float64 array
        Starting positions, array index.
    sigma : (n,) float64 array
        Radius of the window, pixels.
    max_iterations : int
    tolerance : float
        Stops when the step is smaller, pixels.

    Returns
    -------
    out : (n, 5) float64 array
        x, y, var x, var y, cov xy; NaN where the weighted flux is not positive.
    failed : (n,) bool array
    """
    n = x.size
    out = np.full((n, 5), np.nan)
    failed = np.zeros(n, np.bool_)
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    flat = pixels.image.ravel()
    flat_variance = pixels.variance.ravel()
    weights, offsets = np.empty(pixels.mask.shape[1]), np.empty(pixels.mask.shape[1])
    for i in pixels.order:
        if not (np.isfinite(x[i]) and np.isfinite(y[i]) and sigma[i] > 0.0):
            failed[i] = True
            continue
        show_source(pixels, i, saved)
        cx = x[i]
        cy = y[i]
        converged = False
        for _ in range(max_iterations):
            total, mx, my, _, _, _ = _windowed_sums(
                pixels, flat, flat_variance, cx, cy, sigma[i], weights, offsets, False
            )
            if not total > 0.0:
                break
            cx += 2.0 * mx / total
            cy += 2.0 * my / total
            if (cx - x[i]) ** 2 + (cy - y[i]) ** 2 > (3.0 * sigma[i]) ** 2:
                break
            if (2.0 * mx / total) ** 2 + (2.0 * my / total) ** 2 < tolerance**2:
                converged = True
                break
        if converged:
            total, mx, my, vxx, vyy, vxy = _windowed_sums(
                pixels, flat, flat_variance, cx, cy, sigma[i], weights, offsets, True
            )
            scale = 4.0 / (total * total)
            out[i, 0] = cx
            out[i, 1] = cy
            out[i, 2] = vxx * scale
            out[i, 3] = vyy * scale
            out[i, 4] = vxy * scale
        failed[i] = not converged
        hide_source(pixels, i, saved)
    return out, failed


@fast_njit
def _row_window(flat, start, n, first, weights, offsets):
    """Return the sums of w I and w I dx over ``n`` pixels of a row; ``first`` is the place of the first in the tables."""
    total = 0.0
    moment = 0.0
    a = np.uint64(start)
    b = np.uint64(first)
    for k in range(np.uint64(n)):
        light = weights[b + k] * np.float64(flat[a + k])
        total += light
        moment += light * offsets[b + k]
    return total, moment


@fast_njit
def _row_window_errors(flat_variance, start, n, first, weights, offsets):
    """Return the sums of w**2 V, w**2 V dx and w**2 V dx**2; arguments as :func:`_row_window`."""
    v0 = 0.0
    v1 = 0.0
    v2 = 0.0
    a = np.uint64(start)
    b = np.uint64(first)
    for k in range(np.uint64(n)):
        spread = weights[b + k] * weights[b + k] * np.float64(flat_variance[a + k])
        v0 += spread
        v1 += spread * offsets[b + k]
        v2 += spread * offsets[b + k] * offsets[b + k]
    return v0, v1, v2


@njit
def _windowed_sums(pixels, flat, flat_variance, cx, cy, sigma, weights, offsets, with_errors):
    """Weighted flux and first moments around (cx, cy), and on demand the variances of the moments.

    ``weights`` and ``offsets`` are scratch of as many elements as the image has columns.
    """
    radius = 4.0 * sigma
    ny, nx = pixels.mask.shape
    stride = pixels.image.shape[1]
    y0 = max(int(np.ceil(cy - radius)), 0)
    y1 = min(int(np.floor(cy + radius)), ny - 1)
    x0 = max(int(np.ceil(cx - radius)), 0)
    x1 = min(int(np.floor(cx + radius)), nx - 1)
    a = -0.5 / (sigma * sigma)
    for k in range(x1 - x0 + 1):
        offsets[k] = x0 + k - cx
        weights[k] = np.exp(a * offsets[k] * offsets[k])
    total = 0.0
    mx = 0.0
    my = 0.0
    vxx = 0.0
    vyy = 0.0
    vxy = 0.0
    for y in range(y0, y1 + 1):
        dy = y - cy
        half = np.sqrt(max(radius * radius - dy * dy, 0.0))
        first = max(int(np.ceil(cx - half)), x0)
        last = min(int(np.floor(cx + half)), x1)
        if first > last:
            continue
        w = np.exp(a * dy * dy)
        start = y * stride + first
        light, moment = _row_window(flat, start, last - first + 1, first - x0, weights, offsets)
        total += w * light
        mx += w * moment
        my += w * light * dy
        if with_errors:
            v0, v1, v2 = _row_window_errors(
                flat_variance, start, last - first + 1, first - x0, weights, offsets
            )
            vxx += w * w * v2
            vyy += w * w * v0 * dy * dy
            vxy += w * w * v1 * dy
    return total, mx, my, vxx, vyy, vxy
